//! The board as the CPU sees it: routing of ports and interrupts, requests, host side.

mod floppy;
mod properties;
mod q35;
mod speaker;

use super::*;
use crate::backend::{InputQueue, MemoryOutput};
use crate::pci::{Bar, ConfigSpace};
use crate::storage::Drive;
use emu_core::addr::PhysAddr;

const SECOND: Nanos = 1_000_000_000;
const EOI: u64 = 0xfee0_00b0;

fn pc_with(f: impl FnOnce(&mut PcConfig)) -> Pc {
    let mut config = PcConfig::new(512 << 20);
    f(&mut config);
    Pc::new(config).unwrap()
}

fn pc() -> Pc {
    pc_with(|_| {})
}

fn out(pc: &mut Pc, port: u16, value: u8, now: Nanos) {
    pc.pio_write(port, 1, value as u32, now);
}

fn inb(pc: &mut Pc, port: u16, now: Nanos) -> u8 {
    pc.pio_read(port, 1, now) as u8
}

fn init_pics(pc: &mut Pc) {
    for (port, base, icw3) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        out(pc, port, 0x11, 0);
        out(pc, port + 1, base, 0);
        out(pc, port + 1, icw3, 0);
        out(pc, port + 1, 1, 0);
        out(pc, port + 1, 0, 0);
    }
}

fn redirect(pc: &mut Pc, pin: u32, entry: u64) {
    for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
        pc.mmio_write(PhysAddr(0xfec0_0000), 4, 0x10 + 2 * pin as u64 + half, 0);
        pc.mmio_write(PhysAddr(0xfec0_0010), 4, value, 0);
    }
}

/// 8254 counter 0 in mode 2 with `n`.
fn start_timer(pc: &mut Pc, n: u16, now: Nanos) {
    out(pc, 0x43, 0x34, now);
    out(pc, 0x40, n as u8, now);
    out(pc, 0x40, (n >> 8) as u8, now);
}

#[test]
fn overlaps_are_errors_that_name_both() {
    let mut config = PcConfig::new(1 << 20);
    config.debug_exit = Some(DebugExit {
        iobase: 0x3fc,
        iosize: 4,
    });
    let error = Pc::new(config).err().unwrap().to_string();
    assert!(
        error.contains("isa-debug-exit") && error.contains("com1"),
        "{error}"
    );
    let mut config = PcConfig::new(1 << 20);
    config.cpus = 0;
    assert_eq!(Pc::new(config).err(), Some(BoardError::Cpus(0)));
}

#[test]
fn unknown_places_read_ones_and_are_counted() {
    let mut pc = pc();
    assert_eq!(pc.pio_read(0x1234, 4, 0), 0xffff_ffff);
    pc.pio_write(0xffff, 4, 0, 0);
    assert_eq!(pc.mmio_read(PhysAddr(0xf000_0000), 8, 0), u64::MAX);
    assert_eq!(pc.mmio_read(PhysAddr(0xf000_0000), 2, 0), 0xffff);
    pc.mmio_write(PhysAddr(u64::MAX), 1, 0, 0);
    let c = pc.counters();
    assert_eq!(
        (c.unknown_port_writes, c.last_unknown_port),
        (1, Some(0xffff))
    );
    assert_eq!(
        (
            c.unknown_mmio_reads,
            c.unknown_mmio_writes,
            c.last_unknown_mmio
        ),
        (2, 1, Some(u64::MAX))
    );
}

#[test]
fn timer_through_the_8259_in_virtual_wire_mode() {
    let mut pc = pc();
    init_pics(&mut pc);
    start_timer(&mut pc, 1000, 0);
    // OUT goes high as mode 2 is set: one request at once.
    assert_eq!(pc.ack_intr(0, 0), 0x20);
    out(&mut pc, 0x20, 0x20, 0);
    assert!(!pc.interrupt(0).intr);
    let at = pc.next_event().unwrap();
    pc.advance(at - 1);
    assert!(!pc.interrupt(0).intr);
    pc.advance(at);
    assert!(pc.interrupt(0).intr);
    assert_eq!(pc.ack_intr(0, at), 0x20);
    assert_eq!(pc.counters().pic_delivered[0], 2);
    // A whole second missed: one interrupt, and the next event is in the future.
    out(&mut pc, 0x20, 0x20, at);
    pc.advance(SECOND);
    assert_eq!(pc.ack_intr(0, SECOND), 0x20);
    out(&mut pc, 0x20, 0x20, SECOND);
    assert!(!pc.interrupt(0).intr);
    assert!(pc.next_event().unwrap() > SECOND);
}

#[test]
fn timer_through_ioapic_pin_2() {
    let mut pc = pc();
    redirect(&mut pc, 2, 0x30);
    start_timer(&mut pc, 1000, 0);
    assert_eq!(pc.ack_intr(0, 0), 0x30);
    pc.mmio_write(PhysAddr(EOI), 4, 0, 0);
    let at = pc.next_event().unwrap();
    pc.advance(at);
    assert!(pc.interrupt(0).intr);
    pc.set_tpr(0, 3);
    assert!(!pc.interrupt(0).intr);
    pc.set_tpr(0, 0);
    assert_eq!(pc.ack_intr(0, at), 0x30);
    assert_eq!(pc.counters().ioapic_delivered[2], 2);
    assert_eq!(
        pc.ack_intr(0, at),
        0x0f,
        "nothing there: the 8259's spurious vector"
    );
}

#[test]
fn serial_output_and_interrupt_on_both_controllers() {
    let mut memory = MemoryOutput::default();
    let mut pc = pc_with(|c| (c.com[0], memory) = CharBackend::memory());
    b"hello\nx".iter().for_each(|&b| out(&mut pc, 0x3f8, b, 0));
    assert_eq!(memory.bytes(), b"hello\n");
    assert_eq!(pc.next_event(), None, "the host's loop flushes");
    assert!(pc.flush().is_none());
    assert_eq!(memory.bytes(), b"hello\nx");
    let at = 1000;
    out(&mut pc, 0x3f8, b'y', at);
    init_pics(&mut pc);
    redirect(&mut pc, 4, 0x44);
    out(&mut pc, 0x3fc, 0x08, at);
    out(&mut pc, 0x3f9, 0x02, at);
    assert_eq!(pc.ack_intr(0, at), 0x44);
    assert_eq!(pc.ack_intr(0, at), 0x24);
    assert_eq!(inb(&mut pc, 0x3fa, at), 0x02);
    drop(pc);
    assert_eq!(memory.bytes(), b"hello\nxy");
}

#[test]
fn serial_input_is_polled_and_paced() {
    let queue = Arc::new(InputQueue::default());
    let q = queue.clone();
    let mut pc = pc_with(|c| c.com[0] = CharBackend::null().with_input(q));
    out(&mut pc, 0x3fa, 0x01, 0);
    queue.push(&[b'a'; 20]);
    let at = pc.next_event().unwrap();
    assert!(at <= 1_000_000);
    pc.advance(at);
    let mut got = 0;
    while inb(&mut pc, 0x3fd, at) & 1 != 0 {
        assert_eq!(inb(&mut pc, 0x3f8, at), b'a');
        got += 1;
    }
    assert_eq!(got, 16);
    queue.close();
    pc.advance(at + 1_000_000);
    (0..4).for_each(|_| assert_eq!(inb(&mut pc, 0x3f8, at + 1_000_000), b'a'));
    pc.advance(at + 2_000_000);
    assert_eq!(pc.next_event(), None, "no polling after the end of input");
    assert_eq!(pc.counters().input_bytes, 20);
    assert_eq!(
        inb(&mut pc, 0x3fe, 0),
        0xb0,
        "connected, and no change to report"
    );
    assert_eq!(inb(&mut pc, 0x2fe, 0) & 0xf0, 0, "nothing on com2");
}

#[test]
fn keyboard_interrupt_and_reset_request() {
    let mut pc = pc();
    init_pics(&mut pc);
    pc.key(0x1e, true, 0);
    assert_eq!(pc.ack_intr(0, 0), 0x21);
    assert_eq!(inb(&mut pc, 0x60, 0), 0x1e);
    out(&mut pc, 0x64, 0xfe, 0);
    assert_eq!(pc.take_request(), Some(Request::Reset));
    assert_eq!(pc.take_request(), None);
}

#[test]
fn requests_of_all_kinds() {
    let mut pc = pc_with(|c| {
        c.debug_exit = Some(DebugExit {
            iobase: 0xf4,
            iosize: 4,
        })
    });
    pc.pio_write(0xf4, 4, 0x12345, 0);
    assert_eq!(pc.take_request(), Some(Request::DebugExit(0x12345)));
    pc.pio_write(0xf4, 1, 0x10, 0);
    assert_eq!(pc.take_request(), Some(Request::DebugExit(0x10)));
    pc.pio_write(0x604, 2, 0x2000, 0);
    assert_eq!(pc.take_request(), Some(Request::PowerOff));
    out(&mut pc, 0xcf9, 0x02, 0);
    assert_eq!(pc.take_request(), None);
    out(&mut pc, 0xcf9, 0x06, 0);
    assert_eq!(pc.take_request(), Some(Request::Reset));
    assert_eq!(inb(&mut pc, 0x505, 0), 3);
    out(&mut pc, 0x505, 1, 0);
    assert_eq!(pc.take_request(), Some(Request::GuestPanic(1)));
    assert_eq!(inb(&mut pc, 0x92, 0), 2);
    out(&mut pc, 0x92, 0, 0);
    assert_eq!(pc.take_request(), Some(Request::A20(false)));
    out(&mut pc, 0x64, 0xdf, 0);
    assert_eq!(pc.take_request(), Some(Request::A20(true)));
    out(&mut pc, 0x92, 3, 0);
    assert_eq!(pc.take_request(), Some(Request::Init));
    (0..1000).for_each(|_| out(&mut pc, 0x505, 1, 0));
    assert_eq!(
        std::iter::from_fn(|| pc.take_request()).count(),
        MAX_REQUESTS
    );
}

#[test]
fn pci_configuration_in_all_sizes() {
    let mut pc = pc();
    pc.pio_write(0xcf8, 4, 0x8000_0800, 0);
    assert_eq!(pc.pio_read(0xcf8, 4, 0), 0x8000_0800);
    assert_eq!(pc.pio_read(0xcfc, 4, 0), 0x7000_8086);
    assert_eq!(pc.pio_read(0xcfe, 2, 0), 0x7000);
    assert_eq!(pc.pio_read(0xcfd, 1, 0), 0x80);
    pc.pio_write(0xcf8, 4, 0x8000_2000, 0);
    assert_eq!(pc.pio_read(0xcfc, 4, 0), 0xffff_ffff, "an empty slot");
    assert_eq!(pc.pio_read(0xcfc, 2, 0), 0xffff);
}

#[test]
fn debug_console() {
    let mut pc = pc();
    assert_eq!(inb(&mut pc, 0xe9, 0), 0xff);
    let (backend, memory) = CharBackend::memory();
    let mut pc = pc_with(|c| c.debugcon = Some(backend));
    assert_eq!(inb(&mut pc, 0xe9, 0), 0xe9);
    b"hi".iter().for_each(|&b| out(&mut pc, 0xe9, b, 0));
    assert!(pc.flush().is_none());
    assert_eq!(memory.bytes(), b"hi");
}

#[test]
fn port_61_gates_counter_2() {
    let mut pc = pc();
    out(&mut pc, 0x61, 0, 0);
    out(&mut pc, 0x43, 0xb0, 0);
    out(&mut pc, 0x42, 0x10, 0);
    out(&mut pc, 0x42, 0, 0);
    out(&mut pc, 0x61, 1, 0);
    assert_eq!(inb(&mut pc, 0x61, 1000) & 0x21, 0x01);
    assert_eq!(inb(&mut pc, 0x61, 100_000) & 0x21, 0x21);
    let a = inb(&mut pc, 0x61, 0) & 0x10;
    assert_ne!(a, inb(&mut pc, 0x61, 15_085) & 0x10, "refresh toggles");
}

#[test]
fn hpet_legacy_replacement_takes_irq_0() {
    let mut pc = pc();
    init_pics(&mut pc);
    let hpet = |pc: &mut Pc, at: u64, value: u64, now| {
        pc.mmio_write(PhysAddr(0xfed0_0000 + at), 8, value, now)
    };
    hpet(&mut pc, 0x10, 3, 0);
    hpet(&mut pc, 0x100, 0x4c, 0);
    hpet(&mut pc, 0x108, 1000, 0);
    start_timer(&mut pc, 100, 0);
    assert!(!pc.interrupt(0).intr, "the 8254 is disconnected");
    assert_eq!(pc.mmio_read(PhysAddr(0xfed0_00f0), 8, 5_000), 500);
    pc.advance(10_000);
    assert!(pc.interrupt(0).intr);
    pc.pio_read(0x80, 1, 10_010);
    assert_eq!(
        pc.ack_intr(0, 10_020),
        0x20,
        "the request is held until the acknowledge"
    );
    out(&mut pc, 0x20, 0x20, 10_020);
    pc.advance(20_000);
    assert_eq!(pc.ack_intr(0, 20_000), 0x20);
}

#[test]
fn sci_is_level_triggered_through_ioapic_pin_9() {
    let mut pc = pc();
    redirect(&mut pc, 9, 0x8051);
    pc.pio_write(0x602, 2, 0x100, 0);
    pc.press_power_button();
    assert_eq!(pc.ack_intr(0, 0), 0x51);
    pc.mmio_write(PhysAddr(EOI), 4, 0, 0);
    assert_eq!(pc.ack_intr(0, 0), 0x51, "still asserted: sent again");
    pc.pio_write(0x600, 2, 0x100, 0);
    pc.mmio_write(PhysAddr(EOI), 4, 0, 0);
    assert!(!pc.interrupt(0).intr);
}

#[test]
fn interprocessor_interrupts_between_two() {
    let mut pc = pc_with(|c| c.cpus = 2);
    pc.select_cpu(1);
    assert_eq!(pc.mmio_read(PhysAddr(0xfee0_0020), 4, 0), 0x0100_0000);
    pc.mmio_write(PhysAddr(0xfee0_00f0), 4, 0x1ff, 0);
    pc.select_cpu(0);
    pc.mmio_write(PhysAddr(0xfee0_0300), 4, 0xc_4077, 0);
    assert!(!pc.interrupt(0).intr && pc.interrupt(1).intr);
    assert_eq!(pc.ack_intr(1, 0), 0x77);
    pc.mmio_write(PhysAddr(0xfee0_0310), 4, 0x0100_0000, 0);
    pc.mmio_write(PhysAddr(0xfee0_0300), 4, 0x4400, 0);
    assert!(pc.interrupt(1).nmi);
    pc.ack_nmi(1);
    assert!(!pc.interrupt(1).nmi);
    pc.mmio_write(PhysAddr(0xfee0_0300), 4, 0x4500, 0);
    pc.mmio_write(PhysAddr(0xfee0_0300), 4, 0x4608, 0);
    assert_eq!(pc.take_start_up(1), Some(StartUp::Init));
    assert_eq!(pc.take_start_up(1), Some(StartUp::Sipi(8)));
}

#[test]
fn nmi_button_and_its_mask() {
    let mut pc = pc();
    out(&mut pc, 0x70, 0x8d, 0);
    pc.nmi();
    assert!(!pc.interrupt(0).nmi);
    out(&mut pc, 0x70, 0x0d, 0);
    pc.nmi();
    assert!(pc.interrupt(0).nmi);
}

#[test]
fn x2apic_timer_and_deadline() {
    let mut pc = pc();
    assert_eq!(pc.x2apic_read(0, 0x802, 0), None);
    assert!(pc.set_apic_base(0, 0xfee0_0d00));
    assert!(pc.x2apic_write(0, 0x832, 0x4_00ec, 0));
    pc.set_tsc_deadline(0, 12_345, 0);
    assert_eq!(
        (pc.tsc_deadline(0), pc.next_event()),
        (12_345, Some(12_345))
    );
    pc.advance(12_345);
    assert_eq!(pc.ack_intr(0, 12_345), 0xec);
    assert_eq!(pc.tsc_deadline(0), 0);
    assert_eq!(
        pc.mmio_read(PhysAddr(0xfee0_0020), 4, 0),
        0xffff_ffff,
        "no page in x2APIC mode"
    );
}

#[test]
fn state_survives_a_round_trip() {
    let mut a = pc();
    init_pics(&mut a);
    start_timer(&mut a, 5000, 0);
    out(&mut a, 0x3ff, 0x5a, 0);
    let saved = a.save();
    let mut b = pc();
    assert!(b.restore(&saved, 0));
    assert_eq!(b.next_event(), a.next_event());
    assert_eq!(b.interrupt(0), a.interrupt(0));
    assert_eq!(inb(&mut b, 0x3ff, 0), 0x5a);
    let text = serde_json::to_string(&saved).unwrap();
    let mut c = pc();
    assert!(c.restore(&serde_json::from_str(&text).unwrap(), 0));
    assert_eq!(
        serde_json::to_string(&c.save()).unwrap(),
        text,
        "all of the state is plain data"
    );
    let mut two = pc_with(|c| c.cpus = 2);
    assert!(!two.restore(&saved, 0));
}

#[test]
fn reset_keeps_time_and_cmos() {
    let mut pc = pc();
    init_pics(&mut pc);
    out(&mut pc, 0x70, 0x50, 0);
    out(&mut pc, 0x71, 0x77, 0);
    start_timer(&mut pc, 100, 0);
    pc.set_tpr(0, 5);
    pc.reset(1000);
    assert_eq!(pc.tpr(0), 0);
    assert_eq!(pc.next_event(), None);
    out(&mut pc, 0x70, 0x50, 1000);
    assert_eq!(inb(&mut pc, 0x71, 1000), 0x77);
    assert_eq!(inb(&mut pc, 0x21, 1000), 0xff);
}

/// A device with four ports, whose INTA# is bit 0 of the first.
struct Probe(ConfigSpace, [u8; 4]);

impl PciDevice for Probe {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
    fn bar_read(&mut self, _: usize, offset: u64, _: u8, _: u64) -> u64 {
        self.1[offset as usize] as u64
    }
    fn bar_write(&mut self, _: usize, offset: u64, _: u8, value: u64, _: u64) {
        self.1[offset as usize] = value as u8;
    }
    fn intx(&self) -> bool {
        self.1[0] & 1 != 0
    }
    /// A byte in port 1 is sent once as an MSI with that vector.
    fn take_msi(&mut self) -> Option<(u64, u32)> {
        let vector = std::mem::take(&mut self.1[1]);
        (vector != 0).then_some((0xfee0_0000, vector as u32))
    }
    fn reset(&mut self) {
        self.1 = [0; 4];
    }
    fn save(&self) -> Vec<u8> {
        self.1.to_vec()
    }
    fn restore(&mut self, state: &[u8]) -> bool {
        state.try_into().map(|s| self.1 = s).is_ok()
    }
}

#[test]
fn pci_device_has_ports_and_an_interrupt() {
    let mut pc = pc();
    let mut config = ConfigSpace::new(0x1234, 0x0001, [0xff, 0, 0], 0);
    config
        .set_bar(0, Bar::Io(4))
        .set(crate::pci::INTERRUPT_PIN, &[1]);
    let probe = || Box::new(Probe(config.clone(), [0; 4]));
    pc.plug(3, 0, probe()).unwrap();
    assert_eq!(
        pc.plug(3, 0, probe()),
        Err(BoardError::PciSlot {
            device: 3,
            function: 0
        })
    );
    assert!(pc.plug(1, 0, probe()).is_err(), "the ISA bridge is there");
    for (reg, value) in [(0x10, 0xc000), (4, 1)] {
        pc.pio_write(0xcf8, 4, 0x8000_1800 | reg, 0);
        pc.pio_write(0xcfc, 4, value, 0);
    }
    init_pics(&mut pc);
    out(&mut pc, 0xc003, 0x77, 0);
    assert_eq!(inb(&mut pc, 0xc003, 0), 0x77);
    assert_eq!(pc.counters().unknown_port_writes, 0);
    // INTA# of slot 3 is PIRQC#, which the firmware has routed to IRQ 11, level-triggered.
    out(&mut pc, 0xc000, 1, 0);
    assert_eq!(pc.ack_intr(0, 0), 0x2b);
    pc.pio_write(0xcf8, 4, 0x8000_0860, 0);
    out(&mut pc, 0xcfe, 5, 0);
    out(&mut pc, 0x4d0, 0x20, 0);
    out(&mut pc, 0xa0, 0x20, 0);
    out(&mut pc, 0x20, 0x20, 0);
    assert_eq!(pc.ack_intr(0, 0), 0x25, "routed anew");
    out(&mut pc, 0xc000, 0, 0);
    out(&mut pc, 0x20, 0x20, 0);
    assert!(!pc.interrupt(0).intr);
    out(&mut pc, 0xc001, 0x99, 0);
    assert_eq!(pc.ack_intr(0, 0), 0x99, "MSI");
    let saved = pc.save();
    out(&mut pc, 0xc003, 0, 0);
    assert!(pc.restore(&saved, 0));
    assert_eq!(inb(&mut pc, 0xc003, 0), 0x77);
}

struct Ram(std::sync::Mutex<Vec<u8>>);

impl GuestMemory for Ram {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        buf.copy_from_slice(&self.0.lock().unwrap()[addr as usize..][..buf.len()]);
        true
    }
    fn write(&self, addr: u64, buf: &[u8]) -> bool {
        self.0.lock().unwrap()[addr as usize..][..buf.len()].copy_from_slice(buf);
        true
    }
}

#[test]
fn fw_cfg_dma_reaches_guest_ram() {
    let ram = Arc::new(Ram(std::sync::Mutex::new(vec![0; 4096])));
    let memory = ram.clone();
    let mut pc = pc_with(|c| c.memory = Some(memory));
    pc.fw_cfg().add_file("opt/x", b"payload".to_vec());
    // Select item 20h and read 7 bytes to 200h.
    ram.write(
        0x100,
        &[0, 0x20, 0, 0x0a, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 2, 0],
    );
    pc.pio_write(0x514, 4, 0, 0);
    pc.pio_write(0x518, 4, 0x100u32.swap_bytes(), 0);
    let got = ram.0.lock().unwrap().clone();
    assert_eq!(&got[0x200..0x208], b"payload\0");
    assert_eq!(got[0x100..0x104], [0; 4], "done, no error");
    pc.pio_write(0x510, 2, 0, 0);
    assert_eq!([0; 4].map(|_| inb(&mut pc, 0x511, 0)), *b"QEMU");
    assert_eq!(pc.pio_read(0x514, 4, 0).to_le_bytes(), *b"QEMU");
}

#[test]
fn lowest_priority_goes_to_the_idler_vcpu() {
    let mut pc = pc_with(|c| c.cpus = 2);
    pc.select_cpu(1);
    pc.mmio_write(PhysAddr(0xfee0_00f0), 4, 0x1ff, 0);
    pc.mmio_write(PhysAddr(0xfee0_00d0), 4, 0x0200_0000, 0);
    pc.select_cpu(0);
    pc.mmio_write(PhysAddr(0xfee0_00d0), 4, 0x0100_0000, 0);
    pc.set_tpr(0, 4);
    redirect(&mut pc, 4, 0x0300_0000_0000_0961);
    out(&mut pc, 0x3fc, 8, 0);
    out(&mut pc, 0x3f9, 2, 0);
    assert!(!pc.interrupt(0).intr);
    assert_eq!(pc.ack_intr(1, 0), 0x61);
}

#[test]
fn the_8259_through_ioapic_pin_0() {
    let mut pc = pc();
    init_pics(&mut pc);
    pc.mmio_write(PhysAddr(0xfee0_0350), 4, 0x1_0000, 0);
    pc.key(0x1e, true, 0);
    assert!(!pc.interrupt(0).intr, "LINT0 is masked");
    redirect(&mut pc, 0, 0x700);
    assert_eq!(pc.ack_intr(0, 0), 0x21);
}

#[test]
fn what_a_bios_shadows_is_protected() {
    let ram = Arc::new(emu_core::mem::phys::Ram::new(1 << 20).unwrap());
    let mut pc = pc_with(|c| c.memory = Some(ram.clone()));
    let writes = || [0xc_0000, 0xe_8000, 0xf_0000].map(|at| ram.write(PhysAddr(at), b"x"));
    assert_eq!(writes(), [true; 3]);
    assert_eq!(pc.take_request(), None);
    let saved = pc.save();
    pc.pio_write(0xcf8, 4, 0x8000_0058, 0);
    out(&mut pc, 0xcfd, 0x10, 0);
    assert_eq!(pc.take_request(), Some(Request::MemoryMap));
    assert_eq!(writes(), [true, true, false]);
    out(&mut pc, 0xcfd, 0x10, 0);
    assert_eq!(pc.take_request(), None, "nothing has changed");
    assert!(pc.restore(&saved, 0));
    assert_eq!(pc.take_request(), Some(Request::MemoryMap));
    assert_eq!(writes(), [true; 3]);
    // With firmware in the guest everything is protected at first, after a reset too.
    let mut pc = pc_with(|c| {
        c.memory = Some(ram.clone());
        c.firmware = true;
    });
    assert_eq!(writes(), [false; 3]);
    pc.pio_write(0xcf8, 4, 0x8000_005c, 0);
    out(&mut pc, 0xcff, 0x33, 0);
    assert_eq!(writes(), [false, true, false]);
    pc.reset(0);
    assert_eq!(writes(), [false; 3]);
}

/// A keyboard or pointer that keeps what it is told.
#[derive(Default)]
struct Told {
    used: std::sync::atomic::AtomicBool,
    list: std::sync::Mutex<Vec<String>>,
}

impl crate::input::InputSink for Told {
    fn is_used(&self) -> bool {
        self.used.load(std::sync::atomic::Ordering::SeqCst)
    }
    fn has_room(&self) -> bool {
        false
    }
    fn key(&self, key: u16, down: bool) {
        self.list.lock().unwrap().push(format!("{key:x} {down}"));
    }
    fn moved(&self, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        let text = format!("by {dx} {dy} {wheel} {buttons}");
        self.list.lock().unwrap().push(text);
    }
    fn placed(&self, x: u32, y: u32, wheel: i32, buttons: u8) {
        let text = format!("at {x} {y} {wheel} {buttons}");
        self.list.lock().unwrap().push(text);
    }
    fn leds(&self) -> u8 {
        4
    }
    fn name(&self) -> &'static str {
        "told"
    }
}

#[test]
fn the_newest_that_is_used_gets_keys_and_pointers() {
    use crate::input::Model;
    let mut pc = Pc::new(PcConfig::new(1 << 20)).unwrap();
    let told: [Arc<Told>; 4] = Default::default();
    let models = [
        Model::Keyboard,
        Model::Keyboard,
        Model::Tablet,
        Model::Mouse,
    ];
    for (model, t) in models.into_iter().zip(&told) {
        pc.attach_input(model, t.clone());
    }
    let take = |n: usize| std::mem::take(&mut *told[n].list.lock().unwrap());
    let use_it = |n: usize| {
        told[n]
            .used
            .store(true, std::sync::atomic::Ordering::SeqCst)
    };
    pc.key(0x1e, true, 0);
    pc.mouse(1, 2, 3, 4, 0);
    assert!(!pc.pointer(1, 2, 3, 4, 0) && !pc.has_tablet());
    assert!(told.iter().all(|t| t.list.lock().unwrap().is_empty()));
    assert_eq!(
        (pc.leds(), pc.keyboard_has_room(), pc.pointers().1),
        (0, true, 0)
    );
    use_it(0);
    pc.key(0x1e, true, 0);
    assert_eq!(take(0), ["1e true"]);
    (1..4).for_each(use_it);
    pc.key(0xe048, false, 0);
    assert_eq!((take(0), take(1)), (vec![], vec!["e048 false".to_string()]));
    assert_eq!((pc.leds(), pc.keyboard_has_room()), (4, false));
    assert!(pc.pointer(1, 2, 3, 4, 0));
    pc.mouse(1, 2, 3, 4, 0);
    assert_eq!(take(2), ["at 1 2 3 4"]);
    assert_eq!(
        take(3),
        ["by 1 -2 3 4"],
        "down is positive there, up with the wheel"
    );
    let (list, current) = pc.pointers();
    assert_eq!((list.len(), list[1], current), (3, ("told", true), 1));
}
