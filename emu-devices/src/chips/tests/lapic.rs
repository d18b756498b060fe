//! The local APIC against SDM Vol. 3A chapter 11.

use super::*;

fn fixed(vector: u8) -> Message {
    Message {
        dest: 0,
        logical: false,
        wide: false,
        delivery: Delivery::Fixed,
        vector,
        level: false,
    }
}

fn x2() -> Lapic {
    let mut a = Lapic::new(0);
    assert!(a.set_base(DEFAULT_BASE | BASE_BSP | BASE_ENABLE | BASE_X2APIC));
    a
}

#[test]
fn virtual_wire_after_reset() {
    let a = Lapic::new(0);
    assert!(a.lint0_is_extint());
    assert_eq!(a.base(), 0xfee0_0900);
    let ap = Lapic::new(1);
    assert!(!ap.lint0_is_extint());
    assert_eq!(ap.base(), 0xfee0_0800);
}

#[test]
fn priorities() {
    let mut a = Lapic::new(0);
    a.accept(&fixed(0x31));
    a.accept(&fixed(0x55));
    assert_eq!(a.ack(), Some(0x55));
    assert_eq!(a.pending(), None, "0x31 waits below the vector in service");
    assert_eq!(a.mmio_read(0xa0, 0), 0x50);
    a.accept(&fixed(0x5f));
    assert_eq!(a.pending(), None, "same class");
    a.accept(&fixed(0x60));
    assert_eq!(a.ack(), Some(0x60));
    a.mmio_write(0xb0, 0, 0);
    a.mmio_write(0xb0, 0, 0);
    assert_eq!(a.pending(), Some(0x5f));
    a.set_cr8(5);
    assert_eq!(a.pending(), None);
    assert_eq!(a.mmio_read(0x80, 0), 0x50);
    a.set_cr8(4);
    assert_eq!(a.ack(), Some(0x5f));
    assert_eq!(a.ack(), None);
    assert_eq!(a.spurious(), Some(0xff));
}

#[test]
fn eoi_of_a_level_vector_is_broadcast() {
    let mut a = Lapic::new(0);
    a.accept(&Message {
        level: true,
        ..fixed(0x40)
    });
    assert_eq!(a.mmio_read(0x180 + 0x20, 0), 1);
    a.ack();
    a.mmio_write(0xb0, 0, 0);
    assert_eq!(a.take_eoi(), Some(0x40));
    a.accept(&fixed(0x40));
    a.ack();
    a.mmio_write(0xb0, 0, 0);
    assert_eq!(a.take_eoi(), None);
}

#[test]
fn one_shot_and_divider() {
    let mut a = Lapic::new(0);
    a.mmio_write(0x3e0, 0x3, 0); // 16
    a.mmio_write(0x320, 0x40, 0);
    a.mmio_write(0x380, 100, 1000);
    assert_eq!(a.next_event(), Some(2600));
    assert_eq!(a.mmio_read(0x390, 1800), 50);
    a.mmio_write(0x3e0, 0xb, 1800); // 1
    assert_eq!(a.next_event(), Some(1850));
    assert_eq!(a.mmio_read(0x390, 1810), 40);
    a.advance(1850);
    assert_eq!(a.pending(), Some(0x40));
    assert_eq!(a.next_event(), None);
    assert_eq!(a.mmio_read(0x390, 5000), 0);
}

#[test]
fn periodic_catches_up_at_once() {
    let mut a = Lapic::new(0);
    a.mmio_write(0x3e0, 0xb, 0);
    a.mmio_write(0x320, 0x2_0041, 0);
    a.mmio_write(0x380, 1000, 0);
    a.advance(1_000_000_000_500);
    assert_eq!(a.ack(), Some(0x41));
    assert_eq!(a.next_event(), Some(1_000_000_001_000));
    assert_eq!(a.mmio_read(0x390, 1_000_000_000_600), 400);
}

#[test]
fn tsc_deadline() {
    let mut a = Lapic::new(0);
    a.set_tsc_deadline(500, 0);
    assert_eq!(a.tsc_deadline(), 0, "ignored in other modes");
    a.mmio_write(0x320, 0x4_0042, 0);
    a.set_tsc_deadline(500, 0);
    assert_eq!((a.tsc_deadline(), a.next_event()), (500, Some(500)));
    a.advance(499);
    assert_eq!(a.pending(), None);
    a.advance(500);
    assert_eq!(a.pending(), Some(0x42));
    assert_eq!(a.tsc_deadline(), 0);
    a.set_tsc_deadline(400, 600);
    assert_eq!(a.tsc_deadline(), 0, "a deadline in the past fires at once");
    a.mmio_write(0x380, 77, 600);
    assert_eq!(a.mmio_read(0x380, 600), 0);
}

#[test]
fn masked_timer_keeps_counting_but_loses_its_interrupt() {
    let mut a = Lapic::new(0);
    a.mmio_write(0x3e0, 0xb, 0);
    a.mmio_write(0x320, 0x1_0040, 0);
    a.mmio_write(0x380, 10, 0);
    a.advance(10);
    a.mmio_write(0x320, 0x40, 11);
    assert_eq!(a.pending(), None);
}

#[test]
fn software_disable_masks_the_lvt() {
    let mut a = Lapic::new(0);
    a.mmio_write(0xf0, 0xff, 0);
    assert_eq!(a.mmio_read(0x350, 0), 0x1_0700);
    a.mmio_write(0x350, 0x700, 0);
    assert_eq!(
        a.mmio_read(0x350, 0),
        0x1_0700,
        "stays masked while disabled"
    );
    a.accept(&fixed(0x40));
    assert_eq!(a.pending(), None);
    a.accept(&Message {
        delivery: Delivery::Nmi,
        ..fixed(0)
    });
    assert!(a.nmi(), "NMI is taken even so");
}

#[test]
fn errors() {
    let mut a = Lapic::new(0);
    a.mmio_write(0x370, 0x45, 0);
    a.mmio_write(0x300, 0x4_0005, 0);
    assert_eq!(a.ack(), Some(0x45));
    assert_eq!(
        a.mmio_read(0x280, 0),
        0,
        "ESR shows errors only after a write"
    );
    a.mmio_write(0x280, 0, 0);
    assert_eq!(a.mmio_read(0x280, 0), ESR_SEND_ILLEGAL);
    a.mmio_read(0x3f0, 0);
    a.accept(&fixed(3));
    a.mmio_write(0x280, 0, 0);
    assert_eq!(
        a.mmio_read(0x280, 0),
        ESR_ILLEGAL_REGISTER | ESR_RECEIVE_ILLEGAL
    );
}

#[test]
fn interprocessor_interrupts() {
    let mut a = Lapic::new(0);
    a.mmio_write(0x310, 0x0200_0000, 0);
    a.mmio_write(0x300, 0x0000_0840, 0);
    let (shorthand, m) = a.take_message().unwrap();
    assert_eq!(shorthand, Shorthand::None);
    assert_eq!((m.dest, m.logical, m.vector), (2, true, 0x40));
    a.mmio_write(0x300, 0x000c_4500, 0);
    assert_eq!(a.take_message().unwrap().0, Shorthand::Others);
    a.mmio_write(0x300, 0x0000_8500, 0);
    assert_eq!(a.take_message(), None, "INIT de-assert");
    let mut b = Lapic::new(1);
    b.accept(&Message {
        delivery: Delivery::Init,
        ..fixed(0)
    });
    b.accept(&Message {
        delivery: Delivery::StartUp,
        ..fixed(0x9a)
    });
    assert_eq!(b.take_start_up(), Some(StartUp::Init));
    assert_eq!(b.take_start_up(), Some(StartUp::Sipi(0x9a)));
    assert_eq!(b.take_start_up(), None);
}

#[test]
fn logical_destinations() {
    let mut a = Lapic::new(0);
    let to = |dest| Message {
        dest,
        logical: true,
        ..fixed(0x40)
    };
    a.mmio_write(0xd0, 0x0200_0000, 0);
    assert!(a.matches(&to(0x03)));
    assert!(!a.matches(&to(0x04)));
    a.mmio_write(0xe0, 0x0fff_ffff, 0);
    a.mmio_write(0xd0, 0x3200_0000, 0);
    assert!(a.matches(&to(0x32)));
    assert!(!a.matches(&to(0x22)));
    assert!(a.matches(&to(0xf2)));
    assert!(a.matches(&Message {
        logical: false,
        ..to(0xff)
    }));
    let b = x2();
    assert!(b.matches(&Message {
        wide: true,
        ..to(1)
    }));
    assert!(!b.matches(&Message {
        wide: true,
        ..to(0x1_0001)
    }));
    assert!(b.matches(&Message {
        wide: true,
        ..to(u32::MAX)
    }));
}

#[test]
fn base_transitions() {
    let mut a = Lapic::new(0);
    assert!(
        !a.set_base(DEFAULT_BASE | BASE_X2APIC),
        "x2APIC without enable"
    );
    assert!(!a.set_base(DEFAULT_BASE | BASE_ENABLE | 1), "reserved bit");
    assert!(a.set_base(DEFAULT_BASE | BASE_ENABLE | BASE_X2APIC | BASE_BSP));
    assert_eq!(a.mmio_base(), None);
    assert!(
        !a.set_base(DEFAULT_BASE | BASE_ENABLE | BASE_BSP),
        "x2APIC back to xAPIC"
    );
    assert!(a.set_base(DEFAULT_BASE | BASE_BSP));
    assert!(
        !a.set_base(DEFAULT_BASE | BASE_ENABLE | BASE_X2APIC),
        "disabled to x2APIC"
    );
    assert!(
        a.lint0_is_extint(),
        "disabled: the 8259 is wired to the processor"
    );
    assert!(a.set_base(0xfee1_0000 | BASE_ENABLE));
    assert_eq!(a.mmio_base(), Some(0xfee1_0000));
}

#[test]
fn x2apic_registers() {
    let mut a = x2();
    assert_eq!(a.msr_read(0x802, 0), Some(0));
    assert_eq!(a.msr_read(0x80d, 0), Some(1));
    assert!(!a.msr_write(0x80d, 1, 0), "LDR is read-only");
    assert_eq!(a.msr_read(0x80e, 0), None, "no DFR");
    assert_eq!(a.msr_read(0x831, 0), None, "no ICR high");
    assert_eq!(a.msr_read(0x83f, 0), None, "self IPI is write-only");
    assert_eq!(a.msr_read(0x80b, 0), None, "EOI is write-only");
    assert!(!a.msr_write(0x80b, 1, 0));
    assert!(!a.msr_write(0x808, 0x100, 0));
    assert!(!a.msr_write(0x839, 1, 0));
    assert!(a.msr_write(0x83f, 0x77, 0));
    assert_eq!(a.ack(), Some(0x77));
    assert!(a.msr_write(0x80b, 0, 0));
    assert!(a.msr_write(0x830, 0x0000_0005_0000_0040, 0));
    assert_eq!(a.take_message().unwrap().1.dest, 5);
    assert_eq!(a.msr_read(0x830, 0), Some(0x0000_0005_0000_0040));
    assert_eq!(Lapic::new(0).msr_read(0x802, 0), None, "#GP in xAPIC mode");
}

#[test]
fn lint_pins() {
    let mut a = Lapic::new(0);
    a.pulse_lint1();
    assert!(a.nmi());
    a.ack_nmi();
    assert!(!a.nmi());
    a.mmio_write(0x350, 0x48, 0);
    a.set_lint0(true);
    a.set_lint0(true);
    assert_eq!(a.ack(), Some(0x48));
    assert_eq!(a.pending(), None);
}
