//! INT 10h AH=4Fh: VBE on the Bochs dispi interface of the screen adapter.
//!
//! Source: VESA BIOS Extension Core Functions Standard 3.0; Bochs' VBE display interface (ports 1CEh and 1CFh); VBE/DDC 1.1.

use super::call::Call;
use super::post::{EBDA_FRAME_BUFFER, EBDA_VBE_MODE};
use super::rom;

const INDEX: u16 = 0x1ce;
const DATA: u16 = 0x1cf;
const ID: u16 = 0;
const WIDTH: u16 = 1;
const HEIGHT: u16 = 2;
const DEPTH: u16 = 3;
const ENABLE: u16 = 4;
const BANK: u16 = 5;
const VIRTUAL_WIDTH: u16 = 6;
const X_OFFSET: u16 = 8;
const Y_OFFSET: u16 = 9;
/// Video memory in 64-KiB units.
const MEMORY: u16 = 10;
const ENABLED: u16 = 1;
const WIDE_DAC: u16 = 0x20;
const LINEAR: u16 = 0x40;
const KEEP: u16 = 0x80;

const WELL: u16 = 0x004f;
const FAILED: u16 = 0x014f;

/// Sizes; 8, 16, 24 and 32 bits each.
const SIZES: [(u16, u16); 14] = [
    (320, 200),
    (640, 400),
    (640, 480),
    (800, 600),
    (1024, 768),
    (1152, 864),
    (1280, 720),
    (1280, 768),
    (1280, 800),
    (1280, 1024),
    (1440, 900),
    (1600, 1200),
    (1920, 1080),
    (1920, 1200),
];
/// Modes with numbers of VESA's own.
const VESA: [(u16, u16, u16, u16); 20] = [
    (0x100, 640, 400, 8),
    (0x101, 640, 480, 8),
    (0x103, 800, 600, 8),
    (0x105, 1024, 768, 8),
    (0x107, 1280, 1024, 8),
    (0x10d, 320, 200, 15),
    (0x10e, 320, 200, 16),
    (0x10f, 320, 200, 24),
    (0x110, 640, 480, 15),
    (0x111, 640, 480, 16),
    (0x112, 640, 480, 24),
    (0x113, 800, 600, 15),
    (0x114, 800, 600, 16),
    (0x115, 800, 600, 24),
    (0x116, 1024, 768, 15),
    (0x117, 1024, 768, 16),
    (0x118, 1024, 768, 24),
    (0x119, 1280, 1024, 15),
    (0x11a, 1280, 1024, 16),
    (0x11b, 1280, 1024, 24),
];
const FIRST_OWN: u16 = 0x140;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VbeMode {
    pub number: u16,
    pub width: u16,
    pub height: u16,
    pub depth: u16,
}

impl VbeMode {
    fn line(self) -> u32 {
        self.width as u32 * (self.depth as u32).div_ceil(8)
    }
    fn size(self) -> u32 {
        self.line() * self.height as u32
    }
    fn linear_attributes() -> u16 {
        // Supported, with information, colour, graphics, not VGA's, linear.
        0x00bb
    }
}

/// Every mode: VESA's, then the sizes in the depths that those do not have.
pub fn modes() -> Vec<VbeMode> {
    let mut modes: Vec<VbeMode> = VESA
        .into_iter()
        .map(|(number, width, height, depth)| VbeMode {
            number,
            width,
            height,
            depth,
        })
        .collect();
    let sizes = SIZES.into_iter().enumerate();
    for (n, (width, height)) in sizes {
        for (k, depth) in [8, 16, 24, 32].into_iter().enumerate() {
            let known = VESA
                .iter()
                .any(|v| (v.1, v.2, v.3) == (width, height, depth));
            if !known {
                modes.push(VbeMode {
                    number: FIRST_OWN + 4 * n as u16 + k as u16,
                    width,
                    height,
                    depth,
                });
            }
        }
    }
    modes
}

fn find(number: u16) -> Option<VbeMode> {
    modes().into_iter().find(|m| m.number == number)
}

impl Call<'_> {
    fn dispi(&mut self, register: u16) -> u16 {
        self.output(INDEX, 2, register as u32);
        self.input(DATA, 2) as u16
    }

    fn set_dispi(&mut self, register: u16, value: u16) {
        self.output(INDEX, 2, register as u32);
        self.output(DATA, 2, value as u32);
    }

    /// Whether the adapter has the interface.
    fn has_vbe(&mut self) -> bool {
        self.dispi(ID) & 0xfff0 == 0xb0c0
    }

    /// Bytes of video memory.
    fn video_memory(&mut self) -> u32 {
        match self.dispi(MEMORY) {
            0 | 0xffff => 4 << 20,
            units => (units as u32) << 16,
        }
    }

    /// Back to the VGA's own modes.
    pub fn vbe_off(&mut self) {
        if self.has_vbe() {
            self.set_dispi(ENABLE, 0);
        }
        self.write8(EBDA_VBE_MODE, 0);
        self.write8(EBDA_VBE_MODE + 1, 0);
    }

    fn vbe_mode(&mut self) -> u16 {
        self.read16(EBDA_VBE_MODE)
    }

    /// Whether a VBE mode is on, where text is drawn by nobody.
    pub fn in_vbe_mode(&mut self) -> bool {
        self.vbe_mode() & 0x100 != 0
    }

    /// INT 10h AH=4Fh.
    pub fn vbe(&mut self) {
        if !self.has_vbe() {
            return;
        }
        let status = match self.al() {
            0x00 => self.vbe_info(),
            0x01 => self.vbe_mode_info(),
            0x02 => self.set_vbe_mode(),
            0x03 => {
                let mode = match self.vbe_mode() {
                    0 => self.bda8(0x49) as u16,
                    mode => mode,
                };
                self.set_bx(mode);
                WELL
            }
            0x04 => self.vbe_state(),
            0x05 => self.vbe_bank(),
            0x06 => self.scan_line(),
            0x07 => self.display_start(),
            0x08 => self.dac_width(),
            0x09 => self.vbe_palette(),
            // Power management: all states are the same to this screen.
            0x10 => match self.bl() {
                0 => {
                    self.set_bx(0x0f20);
                    WELL
                }
                1 => WELL,
                2 => {
                    self.set_bh(0);
                    WELL
                }
                _ => FAILED,
            },
            0x15 => self.edid(),
            _ => 0x0100,
        };
        self.set_ax(status);
    }

    fn vbe_info(&mut self) -> u16 {
        let at = self.es(self.di());
        let two = {
            let mut signature = [0; 4];
            self.read(at, &mut signature);
            signature == *b"VBE2"
        };
        let memory = self.video_memory();
        let far = |offset: u16| [offset.to_le_bytes(), rom::SEGMENT.to_le_bytes()].concat();
        let mut info = Vec::new();
        info.extend(b"VESA");
        info.extend([0x00, 0x03]);
        info.extend(far(rom::VBE_NAME));
        // The DAC can be 8 bits wide.
        info.extend([1, 0, 0, 0]);
        info.extend(far(rom::VBE_MODES));
        info.extend(((memory >> 16) as u16).to_le_bytes());
        info.extend([0x00, 0x01]);
        for _ in 0..3 {
            info.extend(far(rom::VBE_NAME));
        }
        info.resize(if two { 512 } else { 256 }, 0);
        self.write(at, &info);
        WELL
    }

    fn vbe_mode_info(&mut self) -> u16 {
        let Some(mode) = find(self.cx() & 0x3fff) else {
            return FAILED;
        };
        let memory = self.video_memory();
        if mode.size() > memory {
            return FAILED;
        }
        let at = self.es(self.di());
        let frame_buffer = self.read32(EBDA_FRAME_BUFFER);
        let mut info = vec![0u8; 256];
        let mut word =
            |at: usize, value: u16| info[at..at + 2].copy_from_slice(&value.to_le_bytes());
        word(0x00, VbeMode::linear_attributes());
        // Window A: there, readable, writable; 64 KiB in steps of 64.
        word(0x02, 0x0007);
        word(0x04, 64);
        word(0x06, 64);
        word(0x08, 0xa000);
        word(0x10, mode.line() as u16);
        word(0x12, mode.width);
        word(0x14, mode.height);
        word(0x32, mode.line() as u16);
        word(0x28, frame_buffer as u16);
        word(0x2a, (frame_buffer >> 16) as u16);
        (info[0x16], info[0x17], info[0x18]) = (8, 16, 1);
        info[0x19] = mode.depth as u8;
        info[0x1a] = 1;
        // Packed or direct colour.
        info[0x1b] = if mode.depth == 8 { 4 } else { 6 };
        let pages = (memory / mode.size().max(1)).clamp(1, 256) as u8;
        (info[0x1d], info[0x1e]) = (pages.wrapping_sub(1), 1);
        let masks: [u8; 8] = match mode.depth {
            15 => [5, 10, 5, 5, 5, 0, 1, 15],
            16 => [5, 11, 6, 5, 5, 0, 0, 0],
            24 => [8, 16, 8, 8, 8, 0, 0, 0],
            32 => [8, 16, 8, 8, 8, 0, 8, 24],
            _ => [0; 8],
        };
        info[0x1f..0x27].copy_from_slice(&masks);
        info[0x34] = pages.wrapping_sub(1);
        info[0x35] = pages.wrapping_sub(1);
        info[0x36..0x3e].copy_from_slice(&masks);
        self.write(at, &info);
        WELL
    }

    fn set_vbe_mode(&mut self) -> u16 {
        let bx = self.bx();
        if bx & 0x1ff < 0x100 {
            self.set_mode(bx as u8 & 0x7f | (bx >> 8 & 0x80) as u8);
            return WELL;
        }
        let Some(mode) = find(bx & 0x3fff) else {
            return FAILED;
        };
        if mode.size() > self.video_memory() {
            return FAILED;
        }
        // The VGA's part is as in mode 13h, so that memory is not planes.
        self.set_mode(0x13 | 0x80);
        self.set_dispi(ENABLE, 0);
        self.set_dispi(WIDTH, mode.width);
        self.set_dispi(HEIGHT, mode.height);
        self.set_dispi(DEPTH, mode.depth);
        self.set_dispi(X_OFFSET, 0);
        self.set_dispi(Y_OFFSET, 0);
        self.set_dispi(BANK, 0);
        let linear = if bx & 0x4000 != 0 { LINEAR } else { 0 };
        let keep = if bx & 0x8000 != 0 { KEEP } else { 0 };
        self.set_dispi(ENABLE, ENABLED | linear | keep);
        self.write(EBDA_VBE_MODE, &(bx & 0x41ff).to_le_bytes());
        WELL
    }

    /// AL=04h: saves and restores the mode only; 64 bytes.
    fn vbe_state(&mut self) -> u16 {
        let at = self.es(self.bx());
        match self.dl() {
            0 => self.set_bx(1),
            1 => {
                let mut state = Vec::new();
                for register in [
                    WIDTH,
                    HEIGHT,
                    DEPTH,
                    ENABLE,
                    BANK,
                    VIRTUAL_WIDTH,
                    X_OFFSET,
                    Y_OFFSET,
                ] {
                    state.extend(self.dispi(register).to_le_bytes());
                }
                state.extend(self.vbe_mode().to_le_bytes());
                self.write(at, &state);
            }
            2 => {
                let words: [u16; 9] =
                    std::array::from_fn(|n| self.read16(at.wrapping_add(2 * n as u32)));
                self.set_dispi(ENABLE, 0);
                for (register, value) in [WIDTH, HEIGHT, DEPTH].into_iter().zip(words) {
                    self.set_dispi(register, value);
                }
                self.set_dispi(ENABLE, words[3] | KEEP);
                for (register, value) in [BANK, VIRTUAL_WIDTH, X_OFFSET, Y_OFFSET]
                    .into_iter()
                    .zip(&words[4..])
                {
                    self.set_dispi(register, *value);
                }
                self.write(EBDA_VBE_MODE, &words[8].to_le_bytes());
            }
            _ => return FAILED,
        }
        WELL
    }

    /// AL=05h: window A.
    fn vbe_bank(&mut self) -> u16 {
        if self.bl() != 0 {
            return FAILED;
        }
        match self.bh() {
            0 => {
                let bank = self.dx();
                self.set_dispi(BANK, bank);
            }
            1 => {
                let bank = self.dispi(BANK);
                self.set_dx(bank);
            }
            _ => return FAILED,
        }
        WELL
    }

    /// AL=06h: the length of a line in memory.
    fn scan_line(&mut self) -> u16 {
        let Some(mode) = find(self.vbe_mode() & 0x1ff) else {
            return FAILED;
        };
        let bytes = (mode.depth as u32).div_ceil(8);
        match self.bl() {
            0 => {
                let width = self.cx();
                self.set_dispi(VIRTUAL_WIDTH, width);
            }
            2 => {
                let width = self.cx() as u32 / bytes;
                self.set_dispi(VIRTUAL_WIDTH, width as u16);
            }
            1 | 3 => {}
            _ => return FAILED,
        }
        let width = self.dispi(VIRTUAL_WIDTH).max(1);
        let line = width as u32 * bytes;
        self.set_bx(line as u16);
        self.set_cx(width);
        let lines = self.video_memory() / line;
        self.set_dx(lines.min(0xffff) as u16);
        WELL
    }

    /// AL=07h.
    fn display_start(&mut self) -> u16 {
        match self.bl() {
            0 | 0x80 => {
                let (x, y) = (self.cx(), self.dx());
                self.set_dispi(X_OFFSET, x);
                self.set_dispi(Y_OFFSET, y);
            }
            1 => {
                let (x, y) = (self.dispi(X_OFFSET), self.dispi(Y_OFFSET));
                self.set_bh(0);
                self.set_cx(x);
                self.set_dx(y);
            }
            _ => return FAILED,
        }
        WELL
    }

    /// AL=08h.
    fn dac_width(&mut self) -> u16 {
        let enable = self.dispi(ENABLE);
        match self.bl() {
            0 => {
                let wide = self.bh() >= 8;
                let new = if wide {
                    enable | WIDE_DAC
                } else {
                    enable & !WIDE_DAC
                };
                self.set_dispi(ENABLE, new | KEEP);
                self.set_bh(if wide { 8 } else { 6 });
            }
            1 => self.set_bh(if enable & WIDE_DAC != 0 { 8 } else { 6 }),
            _ => return FAILED,
        }
        WELL
    }

    /// AL=09h: entries of blue, green, red and a byte of nothing.
    fn vbe_palette(&mut self) -> u16 {
        let (at, first, count) = (self.es(self.di()), self.dx(), self.cx().min(256));
        if first > 255 {
            return FAILED;
        }
        let mut entries = vec![0; count as usize * 4];
        match self.bl() {
            0 | 0x80 => {
                self.read(at, &mut entries);
                self.outb(0x3c8, first as u8);
                for entry in entries.chunks_exact(4) {
                    for n in [2, 1, 0] {
                        self.outb(0x3c9, entry[n]);
                    }
                }
            }
            1 => {
                self.outb(0x3c7, first as u8);
                for entry in entries.chunks_exact_mut(4) {
                    for n in [2, 1, 0] {
                        entry[n] = self.inb(0x3c9);
                    }
                }
                self.write(at, &entries);
            }
            _ => return FAILED,
        }
        WELL
    }

    /// AL=15h: the monitor's description, which the adapter has at the begin of its base address 2.
    fn edid(&mut self) -> u16 {
        match self.bl() {
            0 => {
                // One second for a block at most; DDC2.
                self.set_bx(0x0102);
                WELL
            }
            1 if self.dx() == 0 => {
                let at = self.es(self.di());
                let Some(edid) = self.adapter_edid() else {
                    return FAILED;
                };
                self.write(at, &edid);
                WELL
            }
            _ => FAILED,
        }
    }

    fn adapter_edid(&mut self) -> Option<[u8; 128]> {
        let devfn = (0..=0xff).find(|&d| self.config_read(d, 8, 4) >> 16 == 0x0300)?;
        let bar = self.config_read(devfn, 0x18, 4) & !15;
        if bar == 0 || bar == !15 {
            return None;
        }
        let mut edid = [0; 128];
        self.read(bar, &mut edid);
        (edid[..2] == [0x00, 0xff]).then_some(edid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_numbers_are_unique_and_found() {
        let all = modes();
        for (n, mode) in all.iter().enumerate() {
            assert!(all[..n].iter().all(|m| m.number != mode.number));
            assert_eq!(find(mode.number), Some(*mode));
        }
        assert_eq!(find(0x118).map(|m| (m.line(), m.depth)), Some((3072, 24)));
        assert!(
            all.iter()
                .any(|m| (m.width, m.height, m.depth) == (1024, 768, 32))
        );
        assert!(all.iter().all(|m| m.number < 0x200));
    }
}
