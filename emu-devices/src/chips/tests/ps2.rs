//! Keyboard and mouse against the PS/2 reference and the IntelliMouse extension.

use super::*;

fn keyboard(k: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().for_each(|&b| k.write(b));
    std::iter::from_fn(|| k.pop()).collect()
}

fn mouse(m: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for &b in bytes {
        m.write(b);
        all.extend(std::iter::from_fn(|| m.pop()));
    }
    all
}

#[test]
fn keyboard_commands() {
    let mut k = Keyboard::new();
    assert_eq!(keyboard(&mut k, &[0xff]), [0xfa, 0xaa]);
    assert_eq!(keyboard(&mut k, &[0xf2]), [0xfa, 0xab, 0x83]);
    assert_eq!(keyboard(&mut k, &[0xee]), [0xee]);
    assert_eq!(keyboard(&mut k, &[0xed, 0x02]), [0xfa, 0xfa]);
    assert_eq!(k.leds(), 2);
    assert_eq!(keyboard(&mut k, &[0xf0, 0]), [0xfa, 0xfa, 2]);
    assert_eq!(keyboard(&mut k, &[0xf3, 0x20]), [0xfa, 0xfa]);
    assert_eq!(keyboard(&mut k, &[0x12]), [0xfe]);
    // A command in place of a parameter is a command.
    assert_eq!(keyboard(&mut k, &[0xed, 0xf4]), [0xfa, 0xfa]);
    assert_eq!(k.leds(), 2);
    keyboard(&mut k, &[0xf5]);
    k.key(0x1e, true);
    assert!(!k.has_data());
}

#[test]
fn keys_in_all_sets() {
    let mut k = Keyboard::new();
    let press = |k: &mut Keyboard, key| {
        k.key(key, true);
        k.key(key, false);
        std::iter::from_fn(|| k.pop()).collect::<Vec<_>>()
    };
    assert_eq!(press(&mut k, 0x1e), [0x1c, 0xf0, 0x1c]);
    assert_eq!(press(&mut k, 0xe048), [0xe0, 0x75, 0xe0, 0xf0, 0x75]);
    assert_eq!(press(&mut k, 0x41), [0x83, 0xf0, 0x83]);
    assert_eq!(
        press(&mut k, KEY_PAUSE),
        [0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]
    );
    keyboard(&mut k, &[0xf0, 1]);
    assert_eq!(press(&mut k, 0x1e), [0x1e, 0x9e]);
    assert_eq!(press(&mut k, 0xe048), [0xe0, 0x48, 0xe0, 0xc8]);
    keyboard(&mut k, &[0xf0, 3]);
    assert_eq!(press(&mut k, 0x1e), [0x1c], "no break code by default");
    keyboard(&mut k, &[0xf8]);
    assert_eq!(press(&mut k, 0xe048), [0x63, 0xf0, 0x63]);
    keyboard(&mut k, &[0xfd, 0x63, 0xf4]);
    assert_eq!(press(&mut k, 0xe048), [0x63]);
}

#[test]
fn set_2_translates_to_set_1() {
    for code in 1..=0x58u8 {
        let two = set2(code);
        if two != 0 {
            assert_eq!(translate(two), code, "{code:#x}");
        }
    }
}

#[test]
fn keyboard_queue_is_bounded() {
    let mut k = Keyboard::new();
    (0..100).for_each(|_| k.key(0x1e, true));
    let all: Vec<u8> = std::iter::from_fn(|| k.pop()).collect();
    assert_eq!(all.len(), QUEUE + 1);
    assert_eq!(all.last(), Some(&0));
}

#[test]
fn mouse_reset_status_and_packets() {
    let mut m = Mouse::new();
    assert_eq!(mouse(&mut m, &[0xff]), [0xfa, 0xaa, 0]);
    assert_eq!(mouse(&mut m, &[0xf2]), [0xfa, 0]);
    m.event(1, 1, 0, 0);
    assert!(!m.has_data());
    assert_eq!(mouse(&mut m, &[0xf4]), [0xfa]);
    assert_eq!(mouse(&mut m, &[0xe9]), [0xfa, 0x20, 2, 100]);
    m.event(5, -3, 0, 1);
    let packet: Vec<u8> = std::iter::from_fn(|| m.pop()).collect();
    assert_eq!(packet, [0x29, 5, 0xfd]);
    m.event(300, 0, 0, 0);
    let packets: Vec<u8> = std::iter::from_fn(|| m.pop()).collect();
    assert_eq!(packets, [0x08, 255, 0, 0x08, 45, 0]);
}

#[test]
fn intellimouse_knock() {
    let mut m = Mouse::new();
    mouse(&mut m, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
    assert_eq!(mouse(&mut m, &[0xf2]), [0xfa, 3]);
    mouse(&mut m, &[0xf4]);
    m.event(0, 0, 1, 0);
    let packet: Vec<u8> = std::iter::from_fn(|| m.pop()).collect();
    assert_eq!(packet, [0x08, 0, 0, 0xff]);
    mouse(&mut m, &[0xf3, 200, 0xf3, 200, 0xf3, 80]);
    assert_eq!(mouse(&mut m, &[0xf2]), [0xfa, 4]);
    m.event(0, 0, 0, 0x10);
    let packet: Vec<u8> = std::iter::from_fn(|| m.pop()).collect();
    assert_eq!(packet, [0x08, 0, 0, 0x20]);
}

#[test]
fn mouse_remote_and_wrap() {
    let mut m = Mouse::new();
    mouse(&mut m, &[0xf4, 0xf0]);
    m.event(2, 2, 0, 0);
    assert!(!m.has_data());
    assert_eq!(mouse(&mut m, &[0xeb]), [0xfa, 0x08, 2, 2]);
    assert_eq!(mouse(&mut m, &[0xee, 0x55, 0xec]), [0xfa, 0x55, 0xfa]);
    assert_eq!(mouse(&mut m, &[0xe8, 9]), [0xfa, 0xfe]);
}
