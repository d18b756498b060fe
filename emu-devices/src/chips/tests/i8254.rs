//! The 8254 against its data sheet.

use super::*;

/// The time at which `n` ticks have passed.
fn t(n: u64) -> u64 {
    time_of(n, HZ)
}

fn count(p: &mut I8254, n: u8, now: u64) -> u16 {
    p.write(3, n << 6, now);
    u16::from_le_bytes([p.read(n, now), p.read(n, now)])
}

fn program(p: &mut I8254, control: u8, n: u16, now: u64) {
    p.write(3, control, now);
    let counter = control >> 6;
    p.write(counter, n as u8, now);
    p.write(counter, (n >> 8) as u8, now);
}

#[test]
fn mode_2_counts_down_and_gives_an_edge_per_period() {
    let mut p = I8254::new();
    program(&mut p, 0x34, 1000, t(10));
    assert_eq!(count(&mut p, 0, t(11)), 1000);
    assert_eq!(count(&mut p, 0, t(12)), 999);
    assert_eq!(count(&mut p, 0, t(1010)), 1);
    assert!(!p.out(0, t(1010)));
    assert!(!p.take_edge());
    assert_eq!(p.next_event(), Some(t(1011)));
    assert_eq!(count(&mut p, 0, t(1011)), 1000);
    assert!(p.take_edge());
    // A million periods later: one edge, the right phase.
    p.advance(t(11 + 1000 * 1_000_000 + 7));
    assert!(p.take_edge());
    assert_eq!(count(&mut p, 0, t(11 + 1000 * 1_000_000 + 7)), 993);
}

#[test]
fn mode_2_new_count_waits_for_the_period() {
    let mut p = I8254::new();
    program(&mut p, 0x34, 100, 0);
    p.write(0, 50, t(20));
    p.write(0, 0, t(20));
    assert_eq!(count(&mut p, 0, t(21)), 80);
    assert_eq!(count(&mut p, 0, t(101)), 50);
    assert_eq!(p.next_event(), Some(t(151)));
}

#[test]
fn mode_0_rises_once_and_wraps() {
    let mut p = I8254::new();
    program(&mut p, 0x30, 5, 0);
    assert!(!p.out(0, t(5)));
    assert_eq!(p.next_event(), Some(t(6)));
    assert!(p.out(0, t(6)));
    assert!(p.take_edge());
    assert_eq!(count(&mut p, 0, t(7)), 0xffff);
    assert_eq!(p.next_event(), None);
    // The first byte of a new count stops it.
    p.write(0, 9, t(8));
    assert!(!p.out(0, t(8)));
}

#[test]
fn mode_0_gate_pauses() {
    let mut p = I8254::new();
    program(&mut p, 0xb0, 100, 0);
    assert_eq!(count(&mut p, 2, t(50)), 100, "gate 2 is low");
    p.set_gate2(true, t(50));
    assert_eq!(count(&mut p, 2, t(60)), 90);
    p.set_gate2(false, t(60));
    assert_eq!(count(&mut p, 2, t(90)), 90);
    p.set_gate2(true, t(90));
    assert!(!p.out(2, t(179)));
    assert!(p.out(2, t(180)));
}

#[test]
fn mode_1_is_retriggered_by_gate() {
    let mut p = I8254::new();
    program(&mut p, 0xb2, 10, 0);
    assert!(p.out(2, t(5)));
    p.set_gate2(true, t(20));
    assert!(!p.out(2, t(21)));
    p.set_gate2(false, t(25));
    assert!(!p.out(2, t(26)), "gate low does not stop mode 1");
    p.set_gate2(true, t(27));
    assert!(!p.out(2, t(36)));
    assert!(p.out(2, t(38)));
}

#[test]
fn mode_3_square_wave_even_and_odd() {
    let mut p = I8254::new();
    program(&mut p, 0x36, 10, 0);
    let wave: Vec<bool> = (1..=20).map(|i| p.out(0, t(i))).collect();
    let expected: Vec<bool> = (0..20).map(|i| i % 10 < 5).collect();
    assert_eq!(wave, expected);
    let mut p = I8254::new();
    program(&mut p, 0x36, 5, 0);
    let wave: Vec<bool> = (1..=10).map(|i| p.out(0, t(i))).collect();
    assert_eq!(
        wave,
        [
            true, true, true, false, false, true, true, true, false, false
        ]
    );
    assert!(p.take_edge());
    let counts: Vec<u16> = (11..=15).map(|i| count(&mut p, 0, t(i))).collect();
    assert_eq!(counts, [4, 2, 0, 4, 2]);
}

#[test]
fn mode_4_and_5_strobe_for_one_tick() {
    let mut p = I8254::new();
    program(&mut p, 0x38, 4, 0);
    let wave: Vec<bool> = (1..=7).map(|i| p.out(0, t(i))).collect();
    assert_eq!(wave, [true, true, true, true, false, true, true]);
    assert!(p.take_edge());
    program(&mut p, 0xba, 4, 0);
    assert!(p.out(2, t(100)));
    p.set_gate2(true, t(100));
    assert!(!p.out(2, t(105)));
    assert!(p.out(2, t(106)));
}

#[test]
fn bcd_counts_in_decimal() {
    let mut p = I8254::new();
    program(&mut p, 0x35, 0x1000, 0);
    assert_eq!(count(&mut p, 0, t(2)), 0x0999);
    program(&mut p, 0x31, 0, 0);
    assert_eq!(count(&mut p, 0, t(2)), 0x9999);
}

#[test]
fn read_back_latches_status_and_count() {
    let mut p = I8254::new();
    program(&mut p, 0x34, 1000, 0);
    p.write(3, 0xc2, t(101));
    assert_eq!(
        p.read(0, t(500)),
        0x80 | 0x34,
        "OUT high, count loaded, mode word"
    );
    assert_eq!(
        u16::from_le_bytes([p.read(0, t(500)), p.read(0, t(500))]),
        900
    );
    p.write(3, 0x34, t(600));
    p.write(3, 0xe2, t(600));
    assert_eq!(
        p.read(0, t(600)),
        0xc0 | 0x34,
        "null count until one is written"
    );
}

#[test]
fn single_byte_access() {
    let mut p = I8254::new();
    p.write(3, 0x14, 0);
    p.write(0, 200, 0);
    assert_eq!(p.read(0, t(1)), 200);
    p.write(3, 0x24, 0);
    p.write(0, 2, 0);
    assert_eq!(p.read(0, t(1)), 2);
    assert_eq!(p.read(0, t(2)), 1);
}

#[test]
fn counters_count_as_loaded_until_a_control_word_says_otherwise() {
    let mut p = I8254::new();
    let null = |p: &mut I8254, now| {
        // Read-back of counter 0: status, then the count.
        p.write(3, 0xc2, now);
        let status = p.read(0, now);
        for _ in 0..2 {
            p.read(0, now);
        }
        status & 0x40 != 0
    };
    assert!(!null(&mut p, t(1)));
    p.write(3, 0x34, t(2));
    assert!(null(&mut p, t(3)));
    program(&mut p, 0x34, 1000, t(4));
    assert!(!null(&mut p, t(6)));
}

#[test]
fn high_ticks_are_what_out_shows_tick_by_tick() {
    for mode in 0..6u8 {
        for (count, gate, reload) in [(7u8, true, None), (10, true, Some(5u8)), (9, false, None)] {
            let mut pit = I8254::new();
            pit.set_gate2(true, 0);
            pit.write(3, 0x90 | mode << 1, time_of(3, HZ));
            pit.write(2, count, time_of(5, HZ));
            pit.set_gate2(false, time_of(8, HZ));
            pit.set_gate2(gate, time_of(9, HZ));
            if let Some(count) = reload {
                pit.write(2, count, time_of(12, HZ));
            }
            let mut wave = pit.output_of_counter_2();
            let mut looked_at = pit.clone();
            for (from, to) in [(12, 13), (13, 20), (20, 20), (20, 61), (61, 200)] {
                let out = (from..to).filter(|t| looked_at.out(2, time_of(*t, HZ)));
                let want = out.count() as u64;
                let got = wave.high_ticks(from, to);
                assert_eq!(got, want, "mode {mode}, count {count}, {from}..{to}");
            }
        }
    }
}
