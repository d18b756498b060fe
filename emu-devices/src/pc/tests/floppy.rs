//! A diskette through the 8237 and IRQ 6.

use super::*;

#[test]
fn a_diskette_sector_comes_by_dma_and_interrupts() {
    let image: Vec<u8> = (0..1440 * 1024).map(|i| (i / 512) as u8).collect();
    let ram = Arc::new(emu_core::mem::phys::Ram::new(1 << 20).unwrap());
    let mut pc = pc_with(|c| {
        c.floppies[0] = Some(Drive::new("fd0", Box::new(image), false));
        c.memory = Some(ram.clone());
    });
    init_pics(&mut pc);
    out(&mut pc, 0x70, 0x10, 0);
    assert_eq!(inb(&mut pc, 0x71, 0), 0x40, "CMOS: one drive, 1.44 MB");
    // Single mode, to memory, channel 2: 512 bytes at 12300h.
    for (port, value) in [
        (0x0a, 6),
        (0x0b, 0x46),
        (0x0c, 0),
        (0x04, 0x00),
        (0x04, 0x23),
        (0x81, 0x01),
        (0x05, 0xff),
        (0x05, 0x01),
        (0x3f2, 0x1c),
        (0x3f7, 0),
    ] {
        out(&mut pc, port, value, 0);
    }
    let wait = |pc: &mut Pc, mut now: Nanos| {
        while !pc.interrupt(0).intr {
            now = pc.next_event().expect("something is planned");
            pc.advance(now);
        }
        assert_eq!(pc.ack_intr(0, now), 0x26);
        out(pc, 0x20, 0x20, now);
        now
    };
    let mut now = wait(&mut pc, 0);
    out(&mut pc, 0x3f5, 8, now);
    assert_eq!(inb(&mut pc, 0x3f5, now), 0xc0);
    inb(&mut pc, 0x3f5, now);
    for byte in [0xe6, 0, 0, 0, 5, 2, 18, 0x1b, 0xff] {
        out(&mut pc, 0x3f5, byte, now);
    }
    // The channel is masked: the controller waits.
    let later = now + SECOND;
    pc.advance(later);
    assert!(!pc.interrupt(0).intr);
    assert_eq!(inb(&mut pc, 0x08, later), 0x40, "DREQ");
    out(&mut pc, 0x0a, 2, later);
    now = wait(&mut pc, later);
    let result = [0; 7].map(|_| inb(&mut pc, 0x3f5, now));
    assert_eq!(result, [0, 0, 0, 0, 0, 6, 2]);
    let mut data = [0; 513];
    assert!(ram.read(PhysAddr(0x12300), &mut data));
    assert_eq!((data[..512] == [4; 512], data[512]), (true, 0));
}
