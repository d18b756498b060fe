//! The VGA's registers: sequencer, graphics controller, CRTC, attribute controller and DAC, as ports.
//!
//! Source: IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem". What a register drives is in
//! `memory.rs` (the CPU's accesses) and in `render/` (the picture). Ports of the other emulation (monochrome at 3Bxh
//! when colour is selected) answer nobody.

use serde::{Deserialize, Serialize};

/// Miscellaneous output: the CRTC is at 3Dxh.
pub const MISC_COLOUR: u8 = 0x01;
/// Miscellaneous output: the CPU reaches video memory.
pub const MISC_RAM: u8 = 0x02;
/// Miscellaneous output: clock select 0; 28.322 MHz instead of 25.175 MHz.
const MISC_CLOCK: u8 = 0x04;
/// Miscellaneous output: the page of odd/even modes.
pub const MISC_PAGE: u8 = 0x20;
/// Attribute index: the palette drives the screen (and cannot be written).
const ATTR_SOURCE: u8 = 0x20;

/// Which bits of each sequencer register there are.
const SEQ_MASK: [u8; 8] = [0x03, 0x2d, 0x0f, 0x3f, 0x0e, 0, 0, 0];
/// Which bits of each graphics register there are.
const GFX_MASK: [u8; 16] = [
    0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0,
];
/// Which bits of each attribute register there are: sixteen palette entries, then mode, overscan, planes, panning, colour.
const ATTR_MASK: [u8; 32] = [
    0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
    0xef, 0xff, 0x3f, 0x0f, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// The CRTC's registers end here.
const CRTC_END: u8 = 0x19;

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regs {
    pub misc: u8,
    pub(super) feature: u8,
    /// Port 3C3h bit 0: the subsystem answers.
    pub enabled: bool,
    pub(super) seq_index: u8,
    pub seq: [u8; 8],
    pub(super) gfx_index: u8,
    pub gfx: [u8; 16],
    pub(super) crtc_index: u8,
    pub crtc: [u8; 32],
    pub(super) attr_index: u8,
    /// The next write to 3C0h is data.
    pub(super) attr_data: bool,
    pub attr: [u8; 32],
    /// Where the DAC is written and read, and how many of a colour's three bytes were.
    pub(super) dac_write: u8,
    pub(super) dac_read: u8,
    pub(super) dac_count: u8,
    /// What port 3C7h tells: 3, the DAC was last set to be read.
    pub(super) dac_state: u8,
    pub(super) dac_bytes: [u8; 3],
    pub dac_mask: u8,
    /// Red, green, blue of 256 colours.
    pub palette: Vec<u8>,
    /// The byte of each plane that was last read; plane 0 lowest.
    pub latch: u32,
}

impl Default for Regs {
    /// After RESET#.
    fn default() -> Self {
        Self {
            misc: 0,
            feature: 0,
            enabled: true,
            seq_index: 0,
            seq: [0; 8],
            gfx_index: 0,
            gfx: [0; 16],
            crtc_index: 0,
            crtc: [0; 32],
            attr_index: 0,
            attr_data: false,
            attr: [0; 32],
            dac_write: 0,
            dac_read: 0,
            dac_count: 0,
            dac_state: 0,
            dac_bytes: [0; 3],
            dac_mask: 0xff,
            palette: vec![0; 768],
            latch: 0,
        }
    }
}

/// Where the beam is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beam {
    /// Inside the displayed part.
    pub visible: bool,
    /// In the vertical retrace.
    pub retrace: bool,
}

impl Regs {
    /// Whether these are values that writes can have given.
    pub(super) fn is_sound(&self) -> bool {
        self.palette.len() == 768
            && self.seq_index < 8
            && self.gfx_index < 16
            && self.attr_index < 0x40
            && self.dac_count < 3
    }

    /// Whether a port is decoded in the present emulation.
    fn decodes(&self, port: u16) -> bool {
        match port {
            0x3b4 | 0x3b5 | 0x3ba => self.misc & MISC_COLOUR == 0,
            0x3d4 | 0x3d5 | 0x3da => self.misc & MISC_COLOUR != 0,
            _ => (0x3c0..=0x3cf).contains(&port),
        }
    }

    /// Reads a port, 3B0h..3DFh. `wide_dac`: colours have 8 bits.
    pub fn read(&mut self, port: u16, wide_dac: bool, now: u64) -> u8 {
        if !self.decodes(port) || !(self.enabled || port == 0x3c3) {
            return 0xff;
        }
        match port {
            0x3c0 => self.attr_index,
            0x3c1 => self.attr[(self.attr_index & 0x1f) as usize],
            // Input status 0: the switch sense tells of a monitor.
            0x3c2 => 0x10,
            0x3c3 => self.enabled as u8,
            0x3c4 => self.seq_index,
            0x3c5 => self.seq[self.seq_index as usize],
            0x3c6 => self.dac_mask,
            0x3c7 => self.dac_state,
            0x3c8 => self.dac_write,
            0x3c9 => self.read_dac(wide_dac),
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.gfx_index,
            0x3cf => self.gfx[self.gfx_index as usize],
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => match self.crtc_index {
                // Not documented by IBM: the latch of the plane selected for reading, and the flip-flop.
                0x22 => self.latch.to_le_bytes()[(self.gfx[4] & 3) as usize],
                0x24 => (self.attr_data as u8) << 7,
                n if n < CRTC_END => self.crtc[n as usize],
                _ => 0,
            },
            0x3ba | 0x3da => {
                self.attr_data = false;
                let beam = self.beam(now);
                !beam.visible as u8 | (beam.retrace as u8) << 3
            }
            _ => 0xff,
        }
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8, wide_dac: bool) {
        if !self.decodes(port) || !(self.enabled || port == 0x3c3) {
            return;
        }
        match port {
            0x3c0 => self.write_attr(value),
            0x3c2 => self.misc = value & 0xef,
            0x3c3 => self.enabled = value & 1 != 0,
            0x3c4 => self.seq_index = value & 7,
            0x3c5 => {
                let n = self.seq_index as usize;
                self.seq[n] = value & SEQ_MASK[n];
            }
            0x3c6 => self.dac_mask = value,
            0x3c7 => {
                self.dac_read = value;
                (self.dac_count, self.dac_state) = (0, 3);
            }
            0x3c8 => {
                self.dac_write = value;
                (self.dac_count, self.dac_state) = (0, 0);
            }
            0x3c9 => self.write_dac(value, wide_dac),
            0x3ce => self.gfx_index = value & 15,
            0x3cf => {
                let n = self.gfx_index as usize;
                self.gfx[n] = value & GFX_MASK[n];
            }
            0x3b4 | 0x3d4 => self.crtc_index = value & 0x3f,
            0x3b5 | 0x3d5 => self.write_crtc(value),
            0x3ba | 0x3da => self.feature = value & 0x0b,
            _ => {}
        }
    }

    fn write_attr(&mut self, value: u8) {
        if !self.attr_data {
            self.attr_index = value & 0x3f;
        } else {
            let n = (self.attr_index & 0x1f) as usize;
            // The palette belongs to the screen while the source bit is set.
            if n >= 16 || self.attr_index & ATTR_SOURCE == 0 {
                self.attr[n] = value & ATTR_MASK[n];
            }
        }
        self.attr_data = !self.attr_data;
    }

    fn write_crtc(&mut self, value: u8) {
        let n = self.crtc_index;
        let protected = self.crtc[0x11] & 0x80 != 0;
        match n {
            // Bit 4, of the line compare, is not protected.
            7 if protected => self.crtc[7] = self.crtc[7] & !0x10 | value & 0x10,
            0..=7 if protected => {}
            n if n < CRTC_END => self.crtc[n as usize] = value,
            _ => {}
        }
    }

    fn read_dac(&mut self, wide: bool) -> u8 {
        let at = self.dac_read as usize * 3 + self.dac_count as usize;
        let value = self.palette[at];
        self.dac_count += 1;
        if self.dac_count == 3 {
            self.dac_count = 0;
            self.dac_read = self.dac_read.wrapping_add(1);
        }
        if wide { value } else { value & 0x3f }
    }

    fn write_dac(&mut self, value: u8, wide: bool) {
        self.dac_bytes[self.dac_count as usize] = if wide { value } else { value & 0x3f };
        self.dac_count += 1;
        if self.dac_count == 3 {
            let at = self.dac_write as usize * 3;
            self.palette[at..at + 3].copy_from_slice(&self.dac_bytes);
            self.dac_count = 0;
            self.dac_write = self.dac_write.wrapping_add(1);
        }
    }

    /// Whether the picture is switched on: no sequencer reset, no screen off, and the palette drives the screen.
    pub fn is_on(&self) -> bool {
        self.enabled
            && self.seq[0] & 3 == 3
            && self.seq[1] & 0x20 == 0
            && self.attr_index & ATTR_SOURCE != 0
    }

    /// Lets the palette drive the screen, as a BIOS does at the end of a mode set.
    pub(super) fn show(&mut self) {
        self.attr_index = ATTR_SOURCE;
    }

    /// A vertical count of 10 bits: eight in register `low`, bits 8 and 9 in the overflow register.
    fn vertical(&self, low: usize, bit_8: u8, bit_9: u8) -> u64 {
        let overflow = self.crtc[7];
        u64::from(self.crtc[low])
            | u64::from(overflow >> bit_8 & 1) << 8
            | u64::from(overflow >> bit_9 & 1) << 9
    }

    /// Scan lines displayed.
    pub fn lines(&self) -> u32 {
        self.vertical(0x12, 1, 6) as u32 + 1
    }

    /// Dots in a character clock.
    pub fn dots(&self) -> u32 {
        9 - u32::from(self.seq[1] & 1)
    }

    /// The scan line after which the address counter begins anew.
    pub fn line_compare(&self) -> u32 {
        u32::from(self.crtc[0x18])
            | u32::from(self.crtc[7] >> 4 & 1) << 8
            | u32::from(self.crtc[9] >> 6 & 1) << 9
    }

    /// Nanoseconds from one character clock to the next, as a fraction: (numerator, denominator).
    fn character_clock(&self) -> (u64, u64) {
        let khz = if self.misc & MISC_CLOCK != 0 {
            28_322
        } else {
            25_175
        };
        let halved = u64::from(self.seq[1] >> 3 & 1);
        ((u64::from(self.dots()) * 1_000_000) << halved, khz)
    }

    /// Where the beam is at a time.
    pub fn beam(&self, now: u64) -> Beam {
        let chars = u64::from(self.crtc[0]) + 5;
        let lines = self.vertical(6, 0, 5) + 2;
        let (ns, per) = self.character_clock();
        let frame = (chars * lines * ns / per).max(1);
        let at = (now % frame) * per / ns;
        let (line, char) = (at / chars, at % chars);
        let start = self.vertical(0x10, 2, 7);
        // The end is compared in its low four bits.
        let length = (u64::from(self.crtc[0x11]).wrapping_sub(start) & 15).max(1);
        Beam {
            visible: line < u64::from(self.lines()) && char <= u64::from(self.crtc[1]),
            retrace: (start..start + length).contains(&line),
        }
    }

    /// How many frames of this mode a time has seen (for what blinks).
    pub fn frames(&self, now: u64) -> u64 {
        let chars = u64::from(self.crtc[0]) + 5;
        let lines = self.vertical(6, 0, 5) + 2;
        let (ns, per) = self.character_clock();
        now / (chars * lines * ns / per).max(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(r: &mut Regs, port: u16, n: u8, value: u8) {
        r.write(port, n, false);
        r.write(port + 1, value, false);
    }

    #[test]
    fn attribute_flip_flop() {
        let mut r = Regs {
            misc: MISC_COLOUR,
            ..Regs::default()
        };
        r.read(0x3da, false, 0);
        r.write(0x3c0, 0x03, false);
        r.write(0x3c0, 0xff, false);
        assert_eq!(r.attr[3], 0x3f);
        r.write(0x3c0, 0x10, false);
        assert_eq!(r.read(0x3d4, false, 0), 0);
        r.write(0x3d4, 0x24, false);
        assert_eq!(r.read(0x3d5, false, 0), 0x80);
        r.read(0x3da, false, 0);
        r.write(0x3c0, 0x11, false);
        r.write(0x3c0, 0x77, false);
        assert_eq!((r.attr[0x10], r.attr[0x11]), (0, 0x77));
        // With the source bit, the palette cannot be written; the mode register can.
        r.write(0x3c0, 0x23, false);
        r.write(0x3c0, 0x01, false);
        r.write(0x3c0, 0x30, false);
        r.write(0x3c0, 0xff, false);
        assert_eq!((r.attr[3], r.attr[0x10]), (0x3f, 0xef));
        r.write(0x3c0, 0x23, false);
        assert_eq!(
            (r.read(0x3c0, false, 0), r.read(0x3c1, false, 0)),
            (0x23, 0x3f)
        );
    }

    #[test]
    fn emulations_have_their_own_ports() {
        let mut r = Regs::default();
        index(&mut r, 0x3d4, 0x0c, 0x55);
        assert_eq!(r.crtc[0x0c], 0, "monochrome: nobody at 3D4h");
        index(&mut r, 0x3b4, 0x0c, 0x55);
        assert_eq!(r.read(0x3b5, false, 0), 0x55);
        r.write(0x3c2, 0x67, false);
        assert_eq!(r.read(0x3cc, false, 0), 0x67);
        assert_eq!(r.read(0x3b5, false, 0), 0xff);
        assert_eq!(r.read(0x3d5, false, 0), 0x55);
    }

    #[test]
    fn timings_are_protected() {
        let mut r = Regs {
            misc: MISC_COLOUR,
            ..Regs::default()
        };
        index(&mut r, 0x3d4, 0x00, 0x5f);
        index(&mut r, 0x3d4, 0x11, 0x8e);
        index(&mut r, 0x3d4, 0x00, 0x11);
        index(&mut r, 0x3d4, 0x07, 0xff);
        index(&mut r, 0x3d4, 0x08, 0x07);
        assert_eq!((r.crtc[0], r.crtc[7], r.crtc[8]), (0x5f, 0x10, 7));
    }

    #[test]
    fn dac_of_six_and_eight_bits() {
        let mut r = Regs::default();
        r.write(0x3c8, 0xff, false);
        for v in [0xff, 0x12, 0x34] {
            r.write(0x3c9, v, false);
        }
        r.write(0x3c9, 0x3f, true);
        assert_eq!(&r.palette[765..], [0x3f, 0x12, 0x34]);
        assert_eq!(r.palette[0], 0, "a colour is taken when it is complete");
        assert_eq!((r.read(0x3c7, false, 0), r.read(0x3c8, false, 0)), (0, 0));
        r.write(0x3c8, 0, true);
        for v in [0x80, 0x90, 0xa0] {
            r.write(0x3c9, v, true);
        }
        r.write(0x3c7, 0, true);
        assert_eq!(r.read(0x3c7, true, 0), 3);
        let rgb: Vec<u8> = (0..4).map(|_| r.read(0x3c9, true, 0)).collect();
        assert_eq!(rgb, [0x80, 0x90, 0xa0, 0]);
    }

    #[test]
    fn a_frame_of_text_has_449_lines_and_two_of_them_are_retrace() {
        let mut r = super::super::preset::text_mode();
        // 900 dots at 28.322 MHz, 449 lines: 70.09 Hz.
        let frame = 900 * 449 * 1_000_000 / 28_322u64;
        let mut retrace = 0;
        let mut visible = 0;
        let samples = 449 * 100;
        for n in 0..samples {
            let beam = r.beam(frame * n / samples);
            retrace += beam.retrace as u64;
            visible += beam.visible as u64;
        }
        assert!((198..=202).contains(&retrace), "{retrace}");
        assert!((31_900..=32_100).contains(&visible), "{visible}");
        assert_eq!(r.read(0x3da, false, 0), 0);
        assert_eq!(r.read(0x3da, false, frame * 413 / 449), 9);
        assert_eq!((r.lines(), r.dots()), (400, 9));
    }

    #[test]
    fn nothing_in_the_registers_stops_the_clock() {
        let mut r = Regs::default();
        for fill in [0, 0xff] {
            r.crtc.fill(fill);
            r.seq.fill(fill);
            for now in [0, 1, u64::MAX / 2, u64::MAX] {
                r.beam(now);
                r.frames(now);
            }
        }
    }
}
