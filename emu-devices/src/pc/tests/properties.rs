//! What holds for any use of the board.

use super::*;
use emu_core::testing::Random;

/// A board that was asked at every event and one that was left alone for seconds are in the same state.
#[test]
fn late_and_early_advances_agree() {
    for (pit_mode, end) in [
        (2, 1_234_567_891),
        (3, 2_000_000_000),
        (0, 1_000_000),
        (4, 500_000_000),
    ] {
        let prepare = || {
            let mut pc = pc();
            init_pics(&mut pc);
            out(&mut pc, 0x21, 0xff, 0);
            out(&mut pc, 0xa1, 0xff, 0);
            out(&mut pc, 0x43, 0x30 | pit_mode << 1, 0);
            out(&mut pc, 0x40, 0x35, 0);
            out(&mut pc, 0x40, 0x04, 0);
            out(&mut pc, 0x70, 0x0b, 0);
            out(&mut pc, 0x71, 0x72, 0);
            pc.pio_write(0x602, 2, 1, 0);
            let mut mmio = |at, value| pc.mmio_write(PhysAddr(at), 4, value, 0);
            mmio(0xfed0_0010, 1);
            mmio(0xfed0_0100, 0x14c);
            mmio(0xfed0_0108, 5000);
            mmio(0xfed0_0108, 777);
            mmio(0xfee0_03e0, 0x3);
            mmio(0xfee0_0320, 0x2_0040);
            mmio(0xfee0_0380, 1001);
            pc
        };
        let (mut late, mut early) = (prepare(), prepare());
        let mut events = 0;
        while let Some(at) = early.next_event().filter(|&at| at <= end) {
            early.advance(at);
            events += 1;
        }
        // Reading a register brings each chip that works things out lazily up to the time.
        for pc in [&mut late, &mut early] {
            pc.advance(end);
            for port in [0x40, 0x71, 0x608] {
                inb(pc, port, end);
            }
        }
        assert!(events > 20, "{events}");
        let text = |pc: &Pc| serde_json::to_string_pretty(&pc.save()).unwrap();
        let (late, early) = (text(&late), text(&early));
        let differs: Vec<_> = late
            .lines()
            .zip(early.lines())
            .filter(|(a, b)| a != b)
            .collect();
        assert!(differs.is_empty(), "8254 mode {pit_mode}: {differs:?}");
    }
}

/// Any access of a guest ends well: random ports, addresses, sizes and times.
#[test]
fn random_accesses_do_no_harm() {
    let mut pc = pc_with(|c| c.cpus = 2);
    let mut source = Random(0x9e37_79b9_7f4a_7c15);
    let mut random = || source.next();
    let mut now = 0u64;
    let list = pc.port_list();
    for _ in 0..300_000 {
        let (r, v) = (random(), random());
        now = now.saturating_add(1 << (r >> 58 & 31));
        let size = 1 << (r >> 40 & 3) as u8;
        let (_, first, last) = &list[r as usize % list.len()];
        let port = first.wrapping_add((r >> 32) as u16 % (last - first + 1));
        let base = [0xfec0_0000, 0xfed0_0000, 0xfee0_0000][(r >> 20) as usize % 3];
        match r >> 16 & 7 {
            0 => drop(pc.pio_read(port, size.min(4), now)),
            1 | 2 => pc.pio_write(port, size.min(4), v as u32, now),
            3 => drop(pc.mmio_read(PhysAddr(base + (v & 0x3ff)), size, now)),
            4 => pc.mmio_write(PhysAddr(base + (v & 0x3f0)), size, random(), now),
            5 => drop(pc.ack_intr((v & 1) as usize, now)),
            6 => drop(pc.x2apic_write(
                (v & 1) as usize,
                0x800 + (v >> 8 & 0xff) as u32,
                random() & 0xfff,
                now,
            )),
            _ => {
                pc.select_cpu((v & 1) as usize);
                pc.set_apic_base((v & 1) as usize, 0xfee0_0000 | v & 0xd00);
                pc.set_tsc_deadline((v & 1) as usize, now.wrapping_add(v & 0xffff), now);
                pc.advance(now);
            }
        }
        while pc.take_request().is_some() {}
    }
}
