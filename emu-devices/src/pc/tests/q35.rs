//! The Q35's board: configuration space in memory, eight PIRQ lines, what moves.

use super::*;
use crate::pci::VENDOR;
use emu_core::testing::Random;

const ECAM: u64 = 0xb000_0000;
const LPC: u64 = 0xf8;

fn q35() -> Pc {
    pc_with(|c| c.machine = Machine::Q35)
}

fn read(pc: &mut Pc, at: u64, size: u8) -> u64 {
    pc.mmio_read(PhysAddr(at), size, 0)
}

fn write(pc: &mut Pc, at: u64, size: u8, value: u64) {
    pc.mmio_write(PhysAddr(at), size, value, 0);
}

/// By mechanism #1.
fn config(pc: &mut Pc, devfn: u64, at: u64, size: u8) -> u32 {
    pc.pio_write(0xcf8, 4, 0x8000_0000 | (devfn << 8 | at & 0xfc) as u32, 0);
    pc.pio_read(0xcfc + (at & 3) as u16, size, 0)
}

fn set_config(pc: &mut Pc, devfn: u64, at: u64, size: u8, value: u32) {
    pc.pio_write(0xcf8, 4, 0x8000_0000 | (devfn << 8 | at & 0xfc) as u32, 0);
    pc.pio_write(0xcfc + (at & 3) as u16, size, value, 0);
}

fn probe() -> Box<Probe> {
    let mut config = ConfigSpace::new(0x1234, 0x0001, [0xff, 0, 0], 0);
    config.set_bar(0, Bar::Io(4));
    config.set(crate::pci::INTERRUPT_PIN, &[1]);
    Box::new(Probe(config, [0; 4]))
}

#[test]
fn configuration_space_in_memory() {
    let mut pc = q35();
    pc.plug(4, 1, probe()).unwrap();
    let function = ECAM + (0x21 << 12);
    assert_eq!(read(&mut pc, ECAM, 4), 0x29c0_8086);
    assert_eq!(read(&mut pc, ECAM + (LPC << 12) + 2, 2), 0x2918);
    assert_eq!(read(&mut pc, function, 8), 0x0001_1234);
    assert_eq!(read(&mut pc, function + 1, 1), 0x12);
    assert_eq!(read(&mut pc, function + 1, 4), 0x0000_0112, "misaligned");
    assert_eq!(read(&mut pc, function + 0xfe, 4), 0, "the header's end");
    assert_eq!(read(&mut pc, function + 0x100, 4), 0, "no capability there");
    for nobody in [0x22 << 12, (0x22 << 12) + 0x100, 1 << 20, 255 << 20] {
        assert_eq!(read(&mut pc, ECAM + nobody, 4), 0xffff_ffff);
        assert_eq!(read(&mut pc, ECAM + nobody, 1), 0xff);
        write(&mut pc, ECAM + nobody, 4, 0);
    }
    // The end of one function and the begin of the next, where nobody is.
    assert_eq!(read(&mut pc, function + 0xffe, 4), 0xffff_0000);
    // A base address register, and the window that it opens.
    write(&mut pc, function + 0x10, 8, 0xc000);
    write(&mut pc, function + 4, 2, 1);
    out(&mut pc, 0xc002, 0x5a, 0);
    assert_eq!(inb(&mut pc, 0xc002, 0), 0x5a);
    write(&mut pc, function + 0x104, 4, u64::MAX);
    assert_eq!(read(&mut pc, function + 4, 2), 1, "not an alias");
    assert_eq!(pc.counters().unknown_mmio_reads, 0);
}

#[test]
fn configuration_space_moves() {
    let mut pc = q35();
    let saved = pc.save();
    write(&mut pc, ECAM + 0x60, 4, 0xc800_0003);
    assert_eq!(read(&mut pc, ECAM, 4), 0xffff_ffff);
    assert_eq!(read(&mut pc, 0xc800_0000, 4), 0x29c0_8086);
    assert_eq!(read(&mut pc, 0xcfff_f000, 4), 0xffff_ffff, "bus 127");
    assert_eq!(pc.counters().unknown_mmio_reads, 1);
    set_config(&mut pc, 0, 0x60, 1, 0);
    assert_eq!(pc.places().ecam, None);
    assert_eq!(read(&mut pc, 0xc800_0000, 4), 0xffff_ffff);
    assert!(pc.restore(&saved, 0));
    assert_eq!(read(&mut pc, ECAM, 4), 0x29c0_8086);
    pc.reset(0);
    assert_eq!(read(&mut pc, ECAM, 4), 0x29c0_8086, "as a BIOS leaves it");
    assert!(!super::pc().restore(&saved, 0), "another chipset");
}

#[test]
fn power_management_is_the_ich9s() {
    let mut pc = pc_with(|c| {
        c.machine = Machine::Q35;
        c.firmware = true;
    });
    let tables = |pc: &mut Pc| pc.fw_cfg().file("etc/acpi/tables").unwrap().to_vec();
    let has_mcfg = |t: &[u8]| t.windows(4).any(|w| w == b"MCFG");
    assert!(!has_mcfg(&tables(&mut pc)), "there is no such space yet");
    assert_eq!(pc.pio_read(0x608, 4, SECOND), 0xffff_ffff);
    set_config(&mut pc, LPC, 0x40, 4, 0xb001);
    set_config(&mut pc, LPC, 0x44, 1, 0x80);
    assert_eq!(pc.pio_read(0xb008, 4, SECOND), 3_579_545);
    pc.pio_write(0xb028, 4, 1 << 31, 0);
    assert_eq!(pc.pio_read(0xb028, 4, 0), 1 << 31);
    assert_eq!(pc.pio_read(0xb07c, 4, 0), 0, "of 128 ports");
    set_config(&mut pc, 0, 0x60, 4, 0xe000_0001);
    assert!(has_mcfg(&tables(&mut pc)));
    pc.pio_write(0xb004, 2, 0x2000, 0);
    assert_eq!(pc.take_request(), Some(Request::PowerOff));
    pc.reset(SECOND);
    assert!(!has_mcfg(&tables(&mut pc)));
    assert_eq!(pc.places(), Places::default());
}

/// A line has an I/O APIC pin of its own, and the IRQ that it is routed to at the 8259 pair only.
#[test]
fn eight_interrupt_lines() {
    let mut pc = q35();
    pc.plug(3, 0, probe()).unwrap();
    assert!(pc.plug(31, 0, probe()).is_err(), "the LPC bridge");
    set_config(&mut pc, 3 << 3, 0x10, 4, 0xc000);
    set_config(&mut pc, 3 << 3, 4, 1, 1);
    init_pics(&mut pc);
    redirect(&mut pc, 11, 0x8041);
    out(&mut pc, 0xc000, 1, 0);
    // Slot 3's INTA# is PIRQH#: IRQ 11.
    assert_eq!(pc.ack_intr(0, 0), 0x2b);
    assert!(!pc.interrupt(0).intr, "not by I/O APIC pin 11");
    set_config(&mut pc, LPC, 0x6b, 1, 0x80);
    redirect(&mut pc, 23, 0x8057);
    assert_eq!(pc.ack_intr(0, 0), 0x57);
    out(&mut pc, 0xc000, 0, 0);
    write(&mut pc, EOI, 4, 0);
    assert!(!pc.interrupt(0).intr);
}

#[test]
fn chipset_registers_route_the_bridges_devices() {
    let mut pc = q35();
    pc.plug(31, 2, probe()).unwrap();
    set_config(&mut pc, 0xfa, 0x10, 4, 0xc000);
    set_config(&mut pc, 0xfa, 4, 1, 1);
    redirect(&mut pc, 16, 0x8050);
    redirect(&mut pc, 19, 0x8063);
    out(&mut pc, 0xc000, 1, 0);
    assert_eq!(pc.ack_intr(0, 0), 0x50, "PIRQA#");
    write(&mut pc, 0xfed1_f140, 2, 0x3213);
    assert_eq!(read(&mut pc, 0xfed1_f140, 2), 0x3213);
    assert_eq!(pc.ack_intr(0, 0), 0x63, "PIRQD#");
    set_config(&mut pc, LPC, 0xf0, 4, 0);
    assert_eq!(read(&mut pc, 0xfed1_f140, 2), 0xffff);
}

/// Both ways into configuration space show the same, whatever is written by either, and nothing a guest does there harms.
#[test]
fn random_configuration_accesses_agree() {
    let mut pc = q35();
    pc.plug(3, 0, probe()).unwrap();
    pc.plug(31, 2, probe()).unwrap();
    let mut source = Random(0x2545_f491_4f6c_dd1d);
    let mut random = || source.next();
    let mut seen = 0;
    for _ in 0..60_000 {
        let (r, v) = (random(), random());
        let devfn = [0, 0x18, 0xf8, 0xfa, r & 0xff][(r >> 8) as usize % 5];
        let size = 1u8 << (r >> 16 & 3);
        let at = r >> 24 & 0xff;
        let aligned = at & !(u64::from(size.min(4)) - 1);
        let Some((base, span)) = pc.places().ecam else {
            // Back on, anywhere from 2.75 to 4 GiB.
            set_config(&mut pc, 0, 0x64, 4, 0);
            set_config(
                &mut pc,
                0,
                0x60,
                4,
                0xb000_0000 | v as u32 & 0x3fff_ffff | 1,
            );
            continue;
        };
        assert!(base + span > base && base % span == 0);
        let place = base + (devfn << 12);
        match r >> 40 & 3 {
            0 => write(&mut pc, place + at, size, v),
            1 => set_config(&mut pc, devfn, aligned, size.min(4), v as u32),
            2 => write(&mut pc, base + v % span, size, random()),
            _ => {
                // Not where a BAR of a device or another chip lies over it.
                let own = base + span <= 0xfec0_0000;
                let there = config(&mut pc, devfn, VENDOR as u64, 2) != 0xffff;
                let old = config(&mut pc, devfn, aligned, size.min(4));
                if own {
                    let new = read(&mut pc, place + aligned, size.min(4)) as u32;
                    assert_eq!(new, old, "{devfn:x} {aligned:x} {size}");
                    seen += u32::from(there);
                }
            }
        }
        while pc.take_request().is_some() {}
    }
    assert!(seen > 1000, "{seen}");
}

/// What is written by memory is what the ports would have written.
#[test]
fn both_ways_into_configuration_space_write_alike() {
    let board = || {
        let mut pc = q35();
        pc.plug(3, 0, probe()).unwrap();
        pc.plug(31, 2, probe()).unwrap();
        pc
    };
    let (mut by_memory, mut by_ports) = (board(), board());
    let (base, _) = by_memory.places().ecam.unwrap();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut changed = 0;
    for _ in 0..20_000 {
        let devfn = random.of(&[0, 0x18, LPC, 0xfa]);
        let size = random.of(&[1u8, 2, 4]);
        let at = random.below(0x100) & !(u64::from(size) - 1);
        // What says where configuration space is, or puts something over it.
        let moves = match devfn {
            0 => 0x40..0x70,
            LPC => 0xf0..0xf4,
            _ => 0x10..0x28,
        };
        if moves.contains(&at) {
            continue;
        }
        let old = config(&mut by_ports, devfn, at, size);
        let value = random.next() & (u64::MAX >> (64 - 8 * u32::from(size)));
        write(&mut by_memory, base + (devfn << 12) + at, size, value);
        set_config(&mut by_ports, devfn, at, size, value as u32);
        let new = config(&mut by_ports, devfn, at, size);
        let other = config(&mut by_memory, devfn, at, size);
        assert_eq!(other, new, "{devfn:x} {at:x} {size}");
        changed += u32::from(new != old);
    }
    assert!(changed > 500, "{changed}");
}
