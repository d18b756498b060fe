//! The ROM: interrupt stubs with their traps, tables that programs find by address, fonts.
//!
//! Layout of segment F000h from 8000h: fonts, then stubs; at their traditional offsets the entries that programs jump to, the
//! disk parameter tables, and at FFF0h where a CPU starts.

use crate::display::font;
use crate::ibmpc;
use emu_core::addr::PhysAddr;
use emu_core::cpu::segment;
use emu_core::vcpu::Vcpu;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Where the ROM begins.
pub const ADDRESS: PhysAddr = PhysAddr(0xf_8000);
/// The ROM's segment.
pub const SEGMENT: u16 = 0xf000;
const FIRST: usize = 0x8000;

/// Fonts: 16, 14 and 8 scan lines.
pub const FONT_16: u16 = 0x8000;
pub const FONT_14: u16 = 0x9000;
pub const FONT_8: u16 = 0x9e00;
/// The OEM strings of VBE.
pub const VBE_NAME: u16 = 0xa600;
/// Video's save pointer table, static functionality table.
pub const VIDEO_SAVE: u16 = 0xa640;
pub const VIDEO_ABILITIES: u16 = 0xa660;
/// VBE's list of modes.
pub const VBE_MODES: u16 = 0xa680;
const STUBS: usize = 0xb000;
const POST_ENTRY: usize = 0xe05b;
/// What INT 15h AH=C0h points to.
pub const SYSTEM_TABLE: u16 = 0xe6f5;
/// What INT 1Eh points to.
pub const FLOPPY_TABLE: u16 = 0xefc7;
const RESET_ENTRY: usize = 0xfff0;

/// Services that are not an interrupt's of that number.
pub const POST: u8 = 0x80;
pub const TICK: u8 = 0x81;
pub const KEY: u8 = 0x82;
pub const RTC: u8 = 0x83;
pub const MOUSE: u8 = 0x84;
pub const FLOPPY: u8 = 0x85;
pub const EOI_LOW: u8 = 0x86;
pub const EOI_HIGH: u8 = 0x87;

/// The ROM's bytes, and what is where.
pub struct Rom {
    pub bytes: Vec<u8>,
    /// The offset behind each trap.
    services: HashMap<u16, u8>,
    /// What each interrupt's vector is.
    pub vectors: HashMap<u8, u16>,
    /// What the other vectors are.
    pub ignore: u16,
    /// Where a service goes that has to wait and be asked again.
    waits: HashMap<u8, u16>,
    /// Where a mouse handler returns to.
    pub mouse_return: u16,
    /// How INT 09h ends when it calls another interrupt.
    pub call_break: u16,
    pub call_print_screen: u16,
    pub call_system_key: [u16; 2],
    /// How INT 70h ends when it is the alarm.
    pub call_alarm: u16,
    /// INT 19h; INT 18h; a CPU that has nothing to do.
    pub call_boot: u16,
    pub call_no_boot: u16,
    pub idle: u16,
    pub far_jump: u16,
}

struct Assembler {
    bytes: Vec<u8>,
    at: usize,
    services: HashMap<u16, u8>,
}

impl Assembler {
    fn org(&mut self, at: usize) {
        self.at = at;
    }
    fn put(&mut self, bytes: &[u8]) -> u16 {
        let begin = self.at;
        self.bytes[begin - FIRST..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        begin as u16
    }
    /// `out BIOS_TRAP, al`.
    fn trap(&mut self, service: u8) -> u16 {
        let begin = self.put(&[0xe6, ibmpc::BIOS_TRAP.0 as u8]);
        self.services.insert(self.at as u16, service);
        begin
    }
    /// `jmp target`.
    fn jump(&mut self, target: u16) -> u16 {
        let [low, high] = target.wrapping_sub(self.at as u16 + 3).to_le_bytes();
        self.put(&[0xe9, low, high])
    }
}

const IRET: u8 = 0xcf;

/// The ROM, the same for every machine.
pub fn rom() -> &'static Rom {
    static ROM: OnceLock<Rom> = OnceLock::new();
    ROM.get_or_init(build)
}

/// The service whose trap the CPU has just executed.
pub fn service(cpu: &Vcpu) -> Option<u8> {
    let base = cpu.seg_base[segment::CS as usize];
    let sixteen_bit = cpu.real_mode() || cpu.v86();
    let offset = base.wrapping_add(cpu.rip).checked_sub(0xf_0000)?;
    let offset = u16::try_from(offset).ok()?;
    let known = rom().services.get(&offset).copied();
    known.filter(|_| sixteen_bit)
}

impl Rom {
    /// Where a service waits, if it can.
    pub fn wait(&self, service: u8) -> Option<u16> {
        self.waits.get(&service).copied()
    }
}

fn build() -> Rom {
    let mut a = Assembler {
        bytes: vec![0xff; 0x1_0000 - FIRST],
        at: FIRST,
        services: HashMap::new(),
    };
    tables(&mut a);
    a.org(STUBS);
    let ignore = a.put(&[IRET]);
    let mut vectors = HashMap::new();
    let mut waits = HashMap::new();
    for n in 0x10..=0x1a {
        let begin = a.trap(n);
        a.put(&[IRET]);
        vectors.insert(n, begin);
        // sti; hlt; cli
        let wait = a.put(&[0xfb, 0xf4, 0xfa]);
        a.jump(begin);
        waits.insert(n, wait);
    }
    // INT 08h. push ds; push ax; push dx; int 1ch; pop dx; pop ax; pop ds
    vectors.insert(8, a.trap(TICK));
    a.put(&[0x1e, 0x50, 0x52, 0xcd, 0x1c, 0x5a, 0x58, 0x1f]);
    a.trap(EOI_LOW);
    a.put(&[IRET]);
    // INT 09h. push ax; in al, 60h; mov ah, 4fh; stc; int 15h
    vectors.insert(9, a.put(&[0x50, 0xe4, 0x60, 0xb4, 0x4f, 0xf9, 0xcd, 0x15]));
    a.trap(KEY);
    a.put(&[0x58, IRET]);
    let call_break = a.put(&[0x58, 0xcd, 0x1b, IRET]);
    let call_print_screen = a.put(&[0x58, 0xcd, 0x05, IRET]);
    // mov ax, 8500h or 8501h; int 15h
    let call_system_key = [0, 1].map(|up| a.put(&[0xb8, up, 0x85, 0xcd, 0x15, 0x58, IRET]));
    let call_alarm = a.put(&[0xcd, 0x4a, IRET]);
    for n in [0x0a, 0x0b, 0x0c, 0x0d, 0x0f] {
        vectors.insert(n, a.trap(EOI_LOW));
        a.put(&[IRET]);
    }
    for n in [0x71, 0x72, 0x73, 0x76, 0x77] {
        vectors.insert(n, a.trap(EOI_HIGH));
        a.put(&[IRET]);
    }
    for (n, service) in [(0x0e, FLOPPY), (0x70, RTC)] {
        vectors.insert(n, a.trap(service));
        a.put(&[IRET]);
    }
    // INT 74h. pusha; push ds; push es
    vectors.insert(0x74, a.put(&[0x60, 0x1e, 0x06]));
    a.trap(MOUSE);
    a.put(&[0x07, 0x1f, 0x61, IRET]);
    // add sp, 8
    let mouse_return = a.put(&[0x83, 0xc4, 0x08, 0x07, 0x1f, 0x61, IRET]);
    // INT 75h. push ax; xor al, al; out f0h, al; the trap; pop ax; int 2
    vectors.insert(0x75, a.put(&[0x50, 0x30, 0xc0, 0xe6, 0xf0]));
    a.trap(EOI_HIGH);
    a.put(&[0x58, 0xcd, 0x02, IRET]);
    let call_boot = a.put(&[0xcd, 0x19]);
    let call_no_boot = a.put(&[0xcd, 0x18]);
    // sti; hlt; jmp back
    let idle = a.put(&[0xfb, 0xf4, 0xeb, 0xfc]);
    // jmp far [0467h], for a CPU that was reset by a program; DS is 0.
    let far_jump = a.put(&[0xff, 0x2e, 0x67, 0x04]);

    a.org(POST_ENTRY);
    a.trap(POST);
    a.jump(idle);
    // Programs know these by address.
    for (at, n) in [
        (0xe3fe, 0x13),
        (0xe6f2, 0x19),
        (0xe739, 0x14),
        (0xe82e, 0x16),
    ] {
        a.org(at);
        a.jump(vectors[&n]);
    }
    for (at, n) in [
        (0xf065, 0x10),
        (0xf841, 0x12),
        (0xf84d, 0x11),
        (0xf859, 0x15),
        (0xfe6e, 0x1a),
    ] {
        a.org(at);
        a.jump(vectors[&n]);
    }
    a.org(RESET_ENTRY);
    a.put(&[0xea, POST_ENTRY as u8, (POST_ENTRY >> 8) as u8, 0x00, 0xf0]);
    a.put(b"01/01/26");
    a.org(0xfffe);
    a.put(&[0xfc]);
    Rom {
        bytes: a.bytes,
        services: a.services,
        vectors,
        ignore,
        waits,
        mouse_return,
        call_break,
        call_print_screen,
        call_system_key,
        call_alarm,
        call_boot,
        call_no_boot,
        idle,
        far_jump,
    }
}

fn tables(a: &mut Assembler) {
    let glyphs = font::glyphs();
    for glyph in glyphs {
        a.put(glyph);
    }
    a.org(FONT_14 as usize);
    for glyph in glyphs {
        a.put(&glyph[1..15]);
    }
    a.org(FONT_8 as usize);
    for glyph in glyphs {
        a.put(&halved(glyph));
    }
    a.org(VBE_NAME as usize);
    a.put(b"emu VBE\0");
    // The save pointer table has no entries but nulls; then what the adapter can do (INT 10h AH=1Bh).
    a.org(VIDEO_SAVE as usize);
    a.put(&[0; 0x20]);
    a.org(VIDEO_ABILITIES as usize);
    a.put(&[
        0xff, 0xe0, 0x0f, 0, 0, 0, 0, 7, 2, 8, 0xe7, 0x0c, 0, 0, 0, 0,
    ]);
    a.org(VBE_MODES as usize);
    for mode in super::vbe::modes() {
        a.put(&mode.number.to_le_bytes());
    }
    a.put(&[0xff, 0xff]);
    // Model FCh: an AT; two 8259, RTC, INT 15h AH=4Fh, an extended BIOS data area.
    a.org(SYSTEM_TABLE as usize);
    a.put(&[8, 0, 0xfc, 0, 1, 0x74, 0x40, 0, 0, 0]);
    a.org(FLOPPY_TABLE as usize);
    a.put(&super::disk::FLOPPY_PARAMETERS);
}

/// A glyph at half its height: each two lines together.
fn halved(glyph: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|y| glyph[2 * y] | glyph[2 * y + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_each_trap_has_its_service() {
        let rom = rom();
        assert_eq!(rom.bytes.len(), 0x8000);
        let byte = |at: u16| rom.bytes[at as usize - FIRST];
        for (&behind, &service) in &rom.services {
            assert_eq!(
                [byte(behind - 2), byte(behind - 1)],
                [0xe6, ibmpc::BIOS_TRAP.0 as u8],
                "service {service:#x}"
            );
        }
        assert_eq!((byte(0xfff0), byte(0xfffe)), (0xea, 0xfc));
        let last = VBE_MODES as usize + 2 * crate::bios::vbe::modes().len() + 2;
        assert!(last <= STUBS);
        assert!((rom.far_jump as usize) < 0xe000);
        assert_eq!(rom.vectors.len(), 11 + 2 + 5 + 5 + 2 + 1 + 1);
    }
}
