//! The PC speaker through ports 43h, 42h and 61h.

use super::*;
use crate::audio::Desk;

#[test]
fn a_beep_is_heard_at_its_pitch_for_its_time() {
    let (desk, tape) = Desk::new(48_000);
    let mut pc = pc_with(|c| c.speaker = Some(desk.voice()));
    let mut now = 3 * SECOND;
    assert_eq!(pc.next_event(), None);
    // 750 Hz, as Linux's console bell.
    for (port, value) in [(0x43, 0xb6), (0x42, 0x37), (0x42, 0x06), (0x61, 0x03)] {
        out(&mut pc, port, value, now);
    }
    let end = now + SECOND / 8;
    while let Some(next) = pc.next_event().filter(|t| *t < end) {
        assert!(next > now);
        now = next;
        pc.advance(now);
    }
    out(&mut pc, 0x61, 0, end);
    while let Some(next) = pc.next_event() {
        pc.advance(next);
        now = next;
    }
    assert!(now < end + SECOND / 4, "silence plans nothing");
    desk.close();
    let heard: Vec<i16> = tape
        .into_inner()
        .into_iter()
        .flatten()
        .map(|f| f[0])
        .collect();
    let rises = |part: &[i16]| part.windows(2).filter(|w| w[0] < 0 && w[1] >= 0).count();
    assert!(rises(&heard[..6000]).abs_diff(94) <= 1);
    // What follows is the cone's way back.
    assert!(rises(&heard[6001..]) <= 1);
    assert!(heard[9000..].iter().all(|s| *s == 0));
}
