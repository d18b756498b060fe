//! The BIOS with a vCPU, a board and drives in memory: services are called as programs call them, by INT.

use super::*;
use crate::display::vga;
use crate::firmware::Hardware;
use crate::loader::CpuStart;
use crate::pc::{Pc, PcConfig};
use crate::pci::chipset::Model;
use emu_core::addr::PhysAddr;
use emu_core::cpu::cpuid::CpuModel;
use emu_core::cpu::segment;
use emu_core::interp::Interp;
use emu_core::machine::{Clock, Machine};
use emu_core::runner::Runner;
use emu_core::testing::Random;
use emu_core::vcpu::{Vcpu, reg};

/// Where a test's code, data and buffers are.
const CODE: u64 = 0x1000;
const DATA: u32 = 0x2000;

struct Rig {
    runner: Runner,
    ram: Arc<Ram>,
}

/// A boot sector that does nothing: cli; hlt; jmp back.
fn idle_sector(size: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..size).map(|i| (i / 512) as u8).collect();
    image[..4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

fn drive(image: Vec<u8>) -> Arc<Drive> {
    Drive::new("d", Box::new(image), false)
}

fn floppy() -> Arc<Drive> {
    drive(idle_sector(1440 << 10))
}

fn config() -> BiosConfig {
    BiosConfig {
        machine: Model::I440fx,
        ram_size: 64 << 20,
        cpus: 1,
        floppies: [None, None],
        disks: Vec::new(),
        cdroms: Vec::new(),
    }
}

impl Rig {
    fn new(config: BiosConfig) -> Self {
        let ram = Arc::new(Ram::with(config.ram_size, &[vga::WINDOW], vga::HOLE).unwrap());
        let mut board = PcConfig::new(config.ram_size);
        board.bios = true;
        board.floppies = config.floppies.clone();
        board.memory = Some(ram.clone());
        let mut pc = Pc::new(board).unwrap();
        let adapter = vga::Vga::new(ram.clone(), 0, vga::Start::Text);
        pc.plug(2, 0, Box::new(adapter)).unwrap();
        let machine = Arc::new(Machine::new(
            ram.clone(),
            Clock::new_virtual(),
            Box::new(pc),
        ));
        let mut cpu = Vcpu::new(machine, Arc::new(CpuModel::parse("max").unwrap()), 0);
        let bios = Bios::new(config).unwrap();
        bios.load(&ram);
        CpuStart::bios().apply(&mut cpu);
        let mut runner = Runner::new(cpu, Box::new(Interp::default()));
        runner.firmware = Some(Arc::new(bios));
        Self { runner, ram }
    }

    /// Runs to the boot sector's HLT.
    fn booted(config: BiosConfig) -> Self {
        Self::booted_from("acd", config)
    }

    fn booted_from(order: &str, config: BiosConfig) -> Self {
        let mut rig = Self::new(config);
        rig.board(|pc, _| pc.set_boot_order(order));
        rig.run_to(0x7c02);
        rig
    }

    fn cpu(&mut self) -> &mut Vcpu {
        &mut self.runner.cpu
    }

    fn run_to(&mut self, address: u64) {
        for _ in 0..200_000 {
            let cpu = &self.runner.cpu;
            if cpu.seg_base[segment::CS as usize] + cpu.rip == address {
                return;
            }
            let limit = cpu.retired + 50;
            self.runner.step(limit);
        }
        panic!("{address:#x} is not reached; at {:#x}", self.runner.cpu.rip);
    }

    fn set(&mut self, registers: &[(usize, u64)]) {
        for &(n, value) in registers {
            self.cpu().gpr[n] = value;
        }
    }

    /// Calls an interrupt with segments 0 and gives whether carry was set.
    fn int(&mut self, n: u8, registers: &[(usize, u64)]) -> bool {
        // sti; int n; cli; hlt; jmp back
        self.write(CODE as u32, &[0xfb, 0xcd, n, 0xfa, 0xf4, 0xeb, 0xfd]);
        let mut start = CpuStart::bios();
        start.rip = CODE;
        start.seg[segment::CS as usize] = segment::Segment::reset(0, 0, true);
        start.gpr[reg::RSP] = 0x7000;
        start.apply(self.cpu());
        self.set(registers);
        self.cpu().events.remove(emu_core::vcpu::Events::HALT);
        self.run_to(CODE + 5);
        self.cpu().rflags() & 1 != 0
    }

    fn r(&self, n: usize) -> u16 {
        self.runner.cpu.gpr[n] as u16
    }

    fn write(&mut self, at: u32, data: &[u8]) {
        assert!(self.ram.write(PhysAddr(at as u64), data));
        self.cpu().collect_device_hits();
    }

    fn read(&self, at: u32, n: usize) -> Vec<u8> {
        let mut data = vec![0; n];
        assert!(self.ram.read(PhysAddr(at as u64), &mut data));
        data
    }

    fn read16(&self, at: u32) -> u16 {
        u16::from_le_bytes([self.read(at, 1)[0], self.read(at + 1, 1)[0]])
    }

    fn board<T>(&mut self, f: impl FnOnce(&mut Pc, u64) -> T) -> T {
        let now = self.runner.cpu.now();
        let machine = self.runner.machine().clone();
        let mut board = machine.board();
        let board: &mut dyn std::any::Any = &mut **board;
        f(board.downcast_mut().unwrap(), now)
    }

    /// The text on the screen.
    fn screen(&mut self) -> Vec<String> {
        use emu_core::bus::Board;
        (0..25)
            .map(|row| {
                let line: String = (0..80)
                    .map(|column| {
                        let at = PhysAddr(0xb8000 + 160 * row + 2 * column);
                        let byte = self.board(|pc, now| pc.mmio_read(at, 1, now));
                        byte as u8 as char
                    })
                    .collect();
                line.trim_end().to_string()
            })
            .collect()
    }

    fn press(&mut self, key: u16) {
        for down in [true, false] {
            self.board(|pc, now| pc.key(key, down, now));
            self.cpu().poll_lines();
            for _ in 0..100 {
                let limit = self.cpu().retired + 2_000_000;
                self.runner.step(limit);
            }
        }
    }
}

const AX: usize = reg::RAX;
const BX: usize = reg::RBX;
const CX: usize = reg::RCX;
const DX: usize = reg::RDX;
const SI: usize = reg::RSI;
const DI: usize = reg::RDI;
const BP: usize = reg::RBP;

#[test]
fn a_floppy_is_booted() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    assert_eq!((rig.r(DX), rig.r(AX)), (0, 0xaa55));
    assert_eq!(rig.read16(0x7dfe), 0xaa55);
    assert_eq!(rig.screen()[0], "Booting from Floppy...");
    assert_eq!(rig.read16(0x410) & 0x00c1, 1, "one diskette drive");
}

#[test]
fn the_order_is_followed_and_nothing_is_said_to_be_nothing() {
    let mut rig = Rig::new(BiosConfig {
        floppies: [Some(drive(vec![0; 1440 << 10])), None],
        ..config()
    });
    for _ in 0..2000 {
        let limit = rig.cpu().retired + 1000;
        rig.runner.step(limit);
    }
    let screen = rig.screen();
    assert_eq!(
        screen[..4],
        [
            "Booting from Floppy...",
            "Boot failed: not a bootable disk",
            "",
            "No bootable device."
        ]
    );
    // Perhaps it serves the timer right now.
    let idle = u64::from(rom::rom().idle);
    let idles = (0..1000).any(|_| {
        let limit = rig.cpu().retired + 1;
        rig.runner.step(limit);
        (idle..idle + 4).contains(&rig.cpu().rip)
    });
    assert!(idles, "it waits for good");
}

#[test]
fn floppies_by_chs() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    // Two sectors over the end of side 0 of cylinder 1: 53 and 54.
    assert!(!rig.int(
        0x13,
        &[(AX, 0x0202), (CX, 0x0112), (DX, 0), (BX, DATA as u64)]
    ));
    assert_eq!(
        (rig.r(AX), rig.read(DATA, 1024)[511..513].to_vec()),
        (2, vec![53, 54])
    );
    assert!(rig.int(
        0x13,
        &[(AX, 0x0201), (CX, 0x0113), (DX, 0), (BX, DATA as u64)]
    ));
    assert_eq!(rig.r(AX), 0x0400, "no such sector");
    assert!(!rig.int(0x13, &[(AX, 0x0800), (DX, 0)]));
    assert_eq!([rig.r(BX), rig.r(CX), rig.r(DX)], [4, 0x4f12, 0x0101]);
    assert!(
        rig.int(0x13, &[(AX, 0x0201), (DX, 1), (CX, 1)]),
        "no drive B:"
    );
    assert!(!rig.int(
        0x13,
        &[(AX, 0x0301), (CX, 0x0002), (DX, 0x0100), (BX, DATA as u64)]
    ));
    assert!(!rig.int(
        0x13,
        &[(AX, 0x0201), (CX, 0x0002), (DX, 0x0100), (BX, 0x3000)]
    ));
    assert_eq!(rig.read(0x3000, 512), rig.read(DATA, 512));
    assert!(
        rig.int(0x13, &[(AX, 0x4100), (BX, 0x55aa), (DX, 0)]),
        "no EDD"
    );
    assert!(!rig.int(0x13, &[(AX, 0x1500), (DX, 0)]));
    assert_eq!(rig.r(AX) >> 8, 2);
}

#[test]
fn disks_by_chs_and_by_packets() {
    let mut rig = Rig::booted(BiosConfig {
        disks: vec![drive(idle_sector(8 << 20)), drive(vec![0; 1 << 20])],
        ..config()
    });
    assert_eq!(rig.r(DX), 0x80);
    assert!(!rig.int(0x13, &[(AX, 0x0800), (DX, 0x80)]));
    assert_eq!(
        [rig.r(CX), rig.r(DX)],
        [0x0f3f, 0x0f02],
        "16 cylinders, 16 heads, 63 sectors"
    );
    assert!(!rig.int(0x13, &[(AX, 0x4100), (BX, 0x55aa), (DX, 0x80)]));
    assert_eq!([rig.r(AX), rig.r(BX), rig.r(CX)], [0x3000, 0xaa55, 7]);
    let packet = |count: u16, block: u64| {
        let mut p = vec![16, 0];
        p.extend(count.to_le_bytes());
        p.extend(DATA.to_le_bytes());
        p.extend(block.to_le_bytes());
        p
    };
    rig.write(0x1800, &packet(3, 100));
    assert!(!rig.int(0x13, &[(AX, 0x4200), (SI, 0x1800), (DX, 0x80)]));
    let data = rig.read(DATA, 1536);
    assert_eq!([data[0], data[512], data[1535]], [100, 101, 102]);
    // Past the end, and an address that wraps.
    for block in [16384, u64::MAX] {
        rig.write(0x1800, &packet(1, block));
        assert!(rig.int(0x13, &[(AX, 0x4200), (SI, 0x1800), (DX, 0x80)]));
        assert_eq!((rig.r(AX) >> 8, rig.read16(0x1802)), (1, 0));
    }
    rig.write(0x1800, &packet(3, 5));
    assert!(!rig.int(0x13, &[(AX, 0x4300), (SI, 0x1800), (DX, 0x81)]));
    assert!(!rig.int(0x13, &[(AX, 0x0201), (BX, 0x3000), (CX, 6), (DX, 0x81)]));
    assert_eq!(rig.read(0x3000, 512), vec![100; 512]);
    rig.write(0x1800, &30u16.to_le_bytes());
    assert!(!rig.int(0x13, &[(AX, 0x4800), (SI, 0x1800), (DX, 0x80)]));
    let p = rig.read(0x1800, 30);
    assert_eq!(p[16..26], [0, 64, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert!(!rig.int(0x13, &[(AX, 0x1500), (DX, 0x80)]));
    assert_eq!([rig.r(AX) >> 8, rig.r(CX), rig.r(DX)], [3, 0, 16384]);
    assert!(rig.int(0x13, &[(AX, 0x4200), (SI, 0x1800), (DX, 0x82)]));
}

/// A disc with a boot catalogue whose image, at block 30, has this kind.
fn disc(media: u8) -> Arc<Drive> {
    let mut image = vec![0; 2048 * 2048];
    let at = |n: usize| n * 2048;
    image[at(17)..][..30].copy_from_slice(b"\0CD001\x01EL TORITO SPECIFICATION");
    image[at(17) + 0x47..][..4].copy_from_slice(&20u32.to_le_bytes());
    image[at(20)..][..4].copy_from_slice(&[1, 0, 0, 0]);
    image[at(20) + 0x1e..][..2].copy_from_slice(&[0x55, 0xaa]);
    image[at(20) + 0x20..][..12].copy_from_slice(&[0x88, media, 0, 0, 0, 0, 4, 0, 30, 0, 0, 0]);
    let boot = idle_sector(1440 << 10);
    image[at(30)..][..boot.len()].copy_from_slice(&boot);
    drive(image)
}

#[test]
fn a_disc_without_emulation() {
    let mut rig = Rig::booted(BiosConfig {
        cdroms: vec![disc(0)],
        ..config()
    });
    assert_eq!(rig.r(DX), 0xe0);
    assert_eq!(
        rig.read(0x7c00 + 1024, 2),
        [2, 2],
        "four sectors were loaded"
    );
    assert!(!rig.int(0x13, &[(AX, 0x4b01), (SI, 0x1800), (DX, 0xe0)]));
    let spec = rig.read(0x1800, 0x13);
    assert_eq!([spec[0], spec[1], spec[2], spec[4]], [0x13, 0, 0xe0, 30]);
    rig.write(
        0x1800,
        &[16, 0, 1, 0, 0, 0x20, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0],
    );
    assert!(!rig.int(0x13, &[(AX, 0x4200), (SI, 0x1800), (DX, 0xe0)]));
    assert_eq!(rig.read(DATA, 6), b"\0CD001");
    assert!(rig.int(0x13, &[(AX, 0x4300), (SI, 0x1800), (DX, 0xe0)]));
    assert_eq!(rig.r(AX) >> 8, 3, "write protected");
}

#[test]
fn a_disc_with_a_floppys_image() {
    let real = floppy();
    let mut rig = Rig::booted_from(
        "d",
        BiosConfig {
            cdroms: vec![disc(2)],
            floppies: [Some(real.clone()), None],
            ..config()
        },
    );
    assert_eq!(rig.r(DX), 0);
    real.write(512, &[0xee; 512]).unwrap();
    assert!(!rig.int(0x13, &[(AX, 0x0201), (CX, 2), (DX, 0), (BX, DATA as u64)]));
    assert_eq!(rig.read(DATA, 1), [1], "the image");
    assert!(!rig.int(0x13, &[(AX, 0x0201), (CX, 2), (DX, 1), (BX, DATA as u64)]));
    assert_eq!(rig.read(DATA, 1), [0xee], "A: has become B:");
    assert!(rig.int(0x13, &[(AX, 0x0301), (CX, 2), (DX, 0), (BX, DATA as u64)]));
    assert!(!rig.int(0x13, &[(AX, 0x4b00), (SI, 0x1800), (DX, 0x7f)]));
    assert!(!rig.int(0x13, &[(AX, 0x0201), (CX, 2), (DX, 0), (BX, DATA as u64)]));
    assert_eq!(rig.read(DATA, 1), [0xee], "emulation has ended");
}

#[test]
fn text_scrolls_and_strings_are_written() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    rig.int(0x10, &[(AX, 0x0003)]);
    rig.int(0x10, &[(AX, 0x0200), (DX, 0x184e)]);
    for c in b"abc" {
        rig.int(0x10, &[(AX, 0x0e00 | *c as u64), (BX, 7)]);
    }
    let screen = rig.screen();
    assert_eq!((&screen[23][78..], &screen[24][..]), ("ab", "c"));
    rig.write(DATA, b"Hi\r\nx");
    rig.int(
        0x10,
        &[
            (AX, 0x1301),
            (BX, 0x1f),
            (CX, 5),
            (DX, 0x0203),
            (BP, DATA as u64),
        ],
    );
    assert_eq!(rig.screen()[2..4], ["   Hi", "x"]);
    rig.int(0x10, &[(AX, 0x0300)]);
    assert_eq!(rig.r(DX), 0x0301);
    rig.int(0x10, &[(AX, 0x0200), (DX, 0x0203)]);
    rig.int(0x10, &[(AX, 0x0800)]);
    assert_eq!(rig.r(AX), 0x1f48);
    rig.int(
        0x10,
        &[(AX, 0x0601), (BX, 0x0700), (CX, 0x0200), (DX, 0x034f)],
    );
    assert_eq!(rig.screen()[2..4], ["x", ""]);
    rig.int(0x10, &[(AX, 0x0950), (BX, 0x70), (CX, 0xffff)]);
    rig.int(0x10, &[(AX, 0x0f00)]);
    assert_eq!(rig.r(AX), 0x5003);
}

#[test]
fn graphics_modes_have_dots_and_characters() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    for (mode, colour) in [(0x04, 3), (0x06, 1), (0x0d, 9), (0x12, 10), (0x13, 200)] {
        rig.int(0x10, &[(AX, mode)]);
        rig.int(0x10, &[(AX, 0x0c00 | colour), (CX, 100), (DX, 77)]);
        rig.int(0x10, &[(AX, 0x0d00), (CX, 100), (DX, 77)]);
        assert_eq!(rig.r(AX) as u64 & 0xff, colour, "mode {mode:#x}");
        rig.int(0x10, &[(AX, 0x0e48), (BX, 1)]);
        let mut dots = 0;
        for y in 0..8 {
            for x in 0..8 {
                rig.int(0x10, &[(AX, 0x0d00), (CX, x), (DX, y)]);
                dots += (rig.r(AX) & 0xff != 0) as u32;
            }
        }
        assert!((8..40).contains(&dots), "mode {mode:#x}: {dots} dots of H");
    }
}

#[test]
fn vbe_tells_and_sets_modes() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    rig.write(DATA, b"VBE2");
    rig.int(0x10, &[(AX, 0x4f00), (DI, DATA as u64)]);
    assert_eq!(rig.r(AX), 0x004f);
    let info = rig.read(DATA, 20);
    assert_eq!((&info[..4], info[18]), (&b"VESA"[..], 0), "16 MiB");
    rig.int(0x10, &[(AX, 0x4f01), (CX, 0x118), (DI, DATA as u64)]);
    let mode = rig.read(DATA, 256);
    assert_eq!(mode[0x12..0x16], [0, 4, 0, 3]);
    assert_eq!(mode[0x2b], 0xe0, "the frame buffer is where PCI was told");
    rig.int(0x10, &[(AX, 0x4f02), (BX, 0x4118)]);
    assert_eq!(rig.r(AX), 0x004f);
    rig.int(0x10, &[(AX, 0x4f03)]);
    assert_eq!(rig.r(BX), 0x4118);
    let at = u32::from_le_bytes([mode[0x28], mode[0x29], mode[0x2a], mode[0x2b]]);
    rig.write(at, &[1, 2, 3]);
    rig.int(0x10, &[(AX, 0x4f15), (BX, 1), (DI, DATA as u64)]);
    assert_eq!((rig.r(AX), rig.read(DATA, 2)), (0x004f, vec![0, 0xff]));
    rig.int(0x10, &[(AX, 0x4f02), (BX, 3)]);
    rig.int(0x10, &[(AX, 0x0f00)]);
    assert_eq!(rig.r(AX), 0x5003);
}

#[test]
fn keys_come_through_the_controller() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    rig.int(0x16, &[(AX, 0x0100)]);
    assert!(rig.cpu().rflags() & 0x40 != 0, "no key");
    // sti; hlt; jmp back
    rig.write(0x1100, &[0xfb, 0xf4, 0xeb, 0xfc]);
    rig.cpu().rip = 0x1100;
    rig.cpu().events.remove(emu_core::vcpu::Events::HALT);
    rig.press(0x1e);
    rig.int(0x16, &[(AX, 0x0100)]);
    assert_eq!((rig.r(AX), rig.cpu().rflags() & 0x40), (0x1e61, 0));
    rig.int(0x16, &[(AX, 0)]);
    assert_eq!(rig.r(AX), 0x1e61);
}

#[test]
fn memory_is_told_in_every_way() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    assert!(!rig.int(0x15, &[(AX, 0x8800)]));
    assert_eq!(rig.r(AX), 0xfc00);
    assert!(!rig.int(0x15, &[(AX, 0xe801)]));
    assert_eq!([rig.r(AX), rig.r(BX)], [0x3c00, 48 * 16]);
    rig.int(0x12, &[]);
    assert_eq!(rig.r(AX), 639);
    let mut next = 0;
    let mut map = Vec::new();
    loop {
        let registers = [
            (AX, 0xe820),
            (BX, next),
            (CX, 20),
            (DX, 0x534d_4150),
            (DI, DATA as u64),
        ];
        assert!(!rig.int(0x15, &registers));
        assert_eq!(rig.cpu().gpr[AX], 0x534d_4150);
        map.push(rig.read(DATA, 20));
        next = rig.cpu().gpr[BX];
        if next == 0 {
            break;
        }
    }
    assert_eq!(
        map.len(),
        crate::firmware::e820(&Hardware::preset(Model::I440fx, 64 << 20, 1)).len()
    );
    assert_eq!(map[0][8..12], 0x9fc00u32.to_le_bytes());
    assert!(rig.int(0x15, &[(AX, 0xe820), (BX, 99), (CX, 20), (DX, 0x534d_4150)]));
    // A block of 16 bytes to 2 MiB.
    let mut table = vec![0; 0x30];
    table[0x12..0x15].copy_from_slice(&DATA.to_le_bytes()[..3]);
    table[0x1a..0x1d].copy_from_slice(&(2u32 << 20).to_le_bytes()[..3]);
    rig.write(0x1800, &table);
    assert!(!rig.int(0x15, &[(AX, 0x8700), (CX, 8), (SI, 0x1800)]));
    assert_eq!(rig.read(2 << 20, 16), rig.read(DATA, 16));
    assert!(!rig.int(0x15, &[(AX, 0x2402)]));
    assert_eq!(rig.r(AX), 1);
    assert!(!rig.int(0x15, &[(AX, 0x2400)]));
    assert_eq!(rig.cpu().a20, !(1 << 20));
    assert!(rig.int(0x15, &[(AX, 0x5300)]), "no APM");
}

#[test]
fn time_passes_and_sleep_lasts_as_long_as_it_is_to() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    let before = rig.cpu().now();
    // 200 ms: CX:DX = 30D40h microseconds.
    assert!(!rig.int(0x15, &[(AX, 0x8600), (CX, 3), (DX, 0x0d40)]));
    let slept = rig.cpu().now() - before;
    // The clock's interrupts end it, and then the machine idles to the next of the timer's.
    assert!((200_000_000..260_000_000).contains(&slept), "{slept} ns");
    let periodic = rig.board(|pc, _| pc.counters().pic_delivered[8]);
    assert!((204..=209).contains(&periodic), "{periodic} interrupts");
    rig.int(0x1a, &[(AX, 0)]);
    let ticks = rig.r(DX);
    assert!(
        (3..8).contains(&ticks),
        "{ticks} ticks since midnight, which was at power-on"
    );
    assert!(!rig.int(0x1a, &[(AX, 0x0400)]));
    assert_eq!([rig.r(CX), rig.r(DX)], [0x2000, 0x0101]);
}

#[test]
fn pci_is_found_and_set_up() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        ..config()
    });
    assert!(!rig.int(0x1a, &[(AX, 0xb101)]));
    assert_eq!((rig.cpu().gpr[DX], rig.r(AX)), (0x2049_4350, 1));
    assert!(!rig.int(0x1a, &[(AX, 0xb103), (CX, 0x03_0000), (SI, 0)]));
    assert_eq!(rig.r(BX), 2 << 3);
    assert!(!rig.int(0x1a, &[(AX, 0xb10a), (BX, 0x10), (DI, 0x10)]));
    assert_eq!(rig.cpu().gpr[CX] & !15, 0xe000_0000);
    assert!(!rig.int(0x1a, &[(AX, 0xb109), (BX, 0x10), (DI, 4)]));
    assert_eq!(rig.r(CX) & 3, 3);
    assert!(rig.int(0x1a, &[(AX, 0xb10a), (BX, 0x10), (DI, 0x11)]));
    assert_eq!(rig.r(AX) >> 8, 0x87);
    assert!(rig.int(0x1a, &[(AX, 0xb102), (CX, 0xdead), (DX, 0x8086)]));
}

#[test]
fn calls_with_any_registers_come_back() {
    let mut rig = Rig::booted(BiosConfig {
        floppies: [Some(floppy()), None],
        disks: vec![drive(idle_sector(1 << 20))],
        cdroms: vec![disc(4)],
        ..config()
    });
    let mut source = Random(0x1234_5678_9abc_def1);
    let mut random = || source.next();
    for _ in 0..3000 {
        let n = [0x10, 0x13, 0x15, 0x1a, 0x14, 0x11][random() as usize % 6];
        let mut registers: Vec<(usize, u64)> = (0..16)
            .filter(|&r| r != reg::RSP)
            .map(|r| {
                (
                    r,
                    random() & if random() & 1 == 0 { 0xff } else { u64::MAX },
                )
            })
            .collect();
        // Sleeping (86h) may take an hour, and is no service that returns at once.
        let ah = match (random() >> 7) as u8 {
            0x86 | 0x83 if n == 0x15 => 0x87,
            ah => ah & if random() & 3 == 0 { 0xff } else { 0x4f },
        };
        registers[0].1 = (ah as u64) << 8 | random() & if random() & 1 == 0 { 3 } else { 0xff };
        // Memory may be overwritten by what is read: the code too.
        let mut start = CpuStart::bios();
        let segments = [random() as u16, random() as u16];
        rig.write(CODE as u32, &[0xcd, n, 0xfa, 0xf4, 0xeb, 0xfd]);
        start.rip = CODE;
        start.seg[segment::CS as usize] = segment::Segment::reset(0, 0, true);
        for (r, s) in [segment::ES, segment::DS].into_iter().zip(segments) {
            start.seg[r as usize] = segment::Segment::reset(s, (s as u64) << 4, false);
        }
        start.gpr[reg::RSP] = 0x7000;
        start.apply(rig.cpu());
        rig.set(&registers);
        rig.cpu().events.remove(emu_core::vcpu::Events::HALT);
        for _ in 0..4 {
            let limit = rig.cpu().retired + 8;
            rig.runner.step(limit);
        }
    }
}
