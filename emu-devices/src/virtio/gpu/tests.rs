//! The device as a driver uses it, well and badly.

use super::*;
use crate::display::Frame;
use crate::pci::PciDevice;
use crate::virtio::pci::NEEDS_RESET;
use crate::virtio::testing::*;
use emu_core::testing::Random;

const PAGE: u64 = BUFFERS + 0x10_0000;

struct Card(Driver);

/// A request: type, and what follows the header.
fn command(kind: u32, words: &[u32]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.resize(HEADER, 0);
    bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    bytes
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
        .collect()
}

impl Card {
    fn new() -> Self {
        Self(Driver::ready(Box::new(Gpu::new())))
    }

    /// The response's words.
    fn ask(&mut self, kind: u32, body: &[u32]) -> Vec<u32> {
        words(&self.0.request(0, &command(kind, body), 2048).unwrap())
    }

    /// The response's type; it has nothing else.
    fn tell(&mut self, kind: u32, body: &[u32]) -> u32 {
        let response = self.ask(kind, body);
        assert_eq!(response.len(), HEADER / 4);
        response[0]
    }

    fn fine(&mut self, kind: u32, body: &[u32]) {
        assert_eq!(self.tell(kind, body), OK_NODATA, "{kind:#x} {body:?}");
    }

    fn refused(&mut self, kind: u32, body: &[u32], why: Refusal) {
        assert_eq!(self.tell(kind, body), why as u32, "{kind:#x} {body:?}");
    }

    /// A resource of B8G8R8X8 with one piece of memory behind it.
    fn resource(&mut self, id: u32, width: u32, height: u32) {
        self.fine(RESOURCE_CREATE_2D, &[id, 2, width, height]);
        let length = 4 * width * height;
        self.fine(RESOURCE_ATTACH_BACKING, &[id, 1, PAGE as u32, 0, length, 0]);
    }

    fn cursor(&mut self, kind: u32, body: &[u32]) {
        assert_eq!(self.0.request(1, &command(kind, body), 0), Some(Vec::new()));
    }

    fn screen(&self) -> Screen {
        self.0.dev.screen(0).unwrap()
    }

    fn frame(&self) -> Frame {
        self.screen().frame()
    }
}

#[test]
fn a_picture_goes_all_the_way() {
    let mut c = Card::new();
    assert!(!c.screen().is_set_up());
    let info = c.ask(GET_DISPLAY_INFO, &[]);
    assert_eq!(info.len(), 102);
    assert_eq!(info[..1], [OK_DISPLAY_INFO]);
    assert_eq!(info[6..13], [0, 0, 1024, 768, 1, 0, 0]);
    let edid = c.ask(GET_EDID, &[0, 0]);
    assert_eq!((edid[0], edid[6], edid.len()), (OK_EDID, 128, 264));
    let block: Vec<u8> = edid[8..40].iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!(block, edid::block());
    // A resource in three pieces, which split a line.
    c.fine(RESOURCE_CREATE_2D, &[7, 2, 32, 16]);
    let at = PAGE as u32;
    let pieces = [at + 4096, 0, 100, 0, at, 0, 0, 0, at + 8192, 0, 2000, 0];
    c.fine(RESOURCE_ATTACH_BACKING, &[&[7, 3][..], &pieces].concat());
    let pixel = |n: u32| (n * 0x01_0203) & 0xff_ffff;
    let bytes: Vec<u8> = (0..512).flat_map(|n| pixel(n).to_le_bytes()).collect();
    c.0.write(PAGE + 4096, &bytes[..100]);
    c.0.write(PAGE + 8192, &bytes[100..]);
    c.fine(SET_SCANOUT, &[0, 0, 32, 16, 0, 7]);
    assert_eq!(c.frame(), Frame::black(32, 16), "nothing was transferred");
    c.fine(TRANSFER_TO_HOST_2D, &[2, 1, 20, 10, 4 * 34, 0, 7, 0]);
    let before = c.screen().changes;
    c.fine(RESOURCE_FLUSH, &[0, 0, 32, 16, 7, 0]);
    assert_ne!(c.screen().changes, before);
    let f = c.frame();
    for (n, got) in f.pixels.iter().enumerate() {
        let (x, y) = (n % 32, n / 32);
        let inside = (2..22).contains(&x) && (1..11).contains(&y);
        assert_eq!(*got, if inside { pixel(n as u32) } else { 0 }, "{x} {y}");
    }
    // What is detached is still shown; what is gone is not.
    c.fine(RESOURCE_DETACH_BACKING, &[7, 0]);
    c.fine(SET_SCANOUT, &[2, 0, 20, 16, 0, 7]);
    assert_eq!((c.frame().width, c.frame().pixels[20]), (20, pixel(34)));
    c.fine(RESOURCE_UNREF, &[7, 0]);
    assert!(!c.screen().is_set_up());
    assert_eq!(c.frame(), Frame::black(640, 480));
}

#[test]
fn every_format_by_its_bytes() {
    let mut c = Card::new();
    for (format, rgb) in [
        (1, 0x33_2211),
        (2, 0x33_2211),
        (3, 0x22_3344),
        (4, 0x22_3344),
        (67, 0x11_2233),
        (68, 0x44_3322),
        (121, 0x44_3322),
        (134, 0x11_2233),
    ] {
        c.fine(RESOURCE_CREATE_2D, &[1, format, 16, 16]);
        c.fine(RESOURCE_ATTACH_BACKING, &[1, 1, PAGE as u32, 0, 1024, 0]);
        c.0.write(PAGE, &[0x11, 0x22, 0x33, 0x44].repeat(256));
        c.fine(TRANSFER_TO_HOST_2D, &[0, 0, 16, 16, 0, 0, 1, 0]);
        c.fine(SET_SCANOUT, &[0, 0, 16, 16, 0, 1]);
        assert!(c.frame().pixels.iter().all(|p| *p == rgb), "{format}");
        c.fine(RESOURCE_UNREF, &[1, 0]);
    }
    for format in [0, 5, 66, 135, u32::MAX] {
        c.refused(
            RESOURCE_CREATE_2D,
            &[1, format, 16, 16],
            Refusal::InvalidParameter,
        );
    }
}

#[test]
fn wrong_commands_have_their_errors() {
    use Refusal::*;
    let mut c = Card::new();
    c.resource(1, 64, 64);
    for (kind, body, why) in [
        (RESOURCE_CREATE_2D, &[0, 2, 16, 16][..], InvalidResourceId),
        (RESOURCE_CREATE_2D, &[1, 2, 16, 16], InvalidResourceId),
        (RESOURCE_CREATE_2D, &[2, 2, 0, 16], InvalidParameter),
        (RESOURCE_CREATE_2D, &[2, 2, u32::MAX, u32::MAX], OutOfMemory),
        (RESOURCE_CREATE_2D, &[2, 2, 8192, 8192], OutOfMemory),
        (RESOURCE_CREATE_2D, &[2, 2, 16], InvalidParameter),
        (RESOURCE_UNREF, &[9, 0], InvalidResourceId),
        (SET_SCANOUT, &[0, 0, 64, 64, 1, 1], InvalidScanoutId),
        (SET_SCANOUT, &[0, 0, 64, 64, 0, 9], InvalidResourceId),
        (SET_SCANOUT, &[0, 0, 65, 64, 0, 1], InvalidParameter),
        (SET_SCANOUT, &[0, 0, 15, 64, 0, 1], InvalidParameter),
        (SET_SCANOUT, &[u32::MAX, 0, 64, 64, 0, 1], InvalidParameter),
        (RESOURCE_FLUSH, &[0, 0, 64, 64, 9, 0], InvalidResourceId),
        (RESOURCE_FLUSH, &[0, 1, 64, 64, 1, 0], InvalidParameter),
        (RESOURCE_FLUSH, &[0, 0, 0, 0, 1, 0], InvalidParameter),
        (
            TRANSFER_TO_HOST_2D,
            &[0, 0, 64, 64, 0, 0, 9, 0],
            InvalidResourceId,
        ),
        (
            TRANSFER_TO_HOST_2D,
            &[1, 0, 64, 64, 0, 0, 1, 0],
            InvalidParameter,
        ),
        (
            TRANSFER_TO_HOST_2D,
            &[0, 0, 64, 64, 4, 0, 1, 0],
            InvalidParameter,
        ),
        (
            TRANSFER_TO_HOST_2D,
            &[0, 0, 64, 64, u32::MAX, u32::MAX, 1, 0],
            InvalidParameter,
        ),
        (RESOURCE_ATTACH_BACKING, &[9, 0], InvalidResourceId),
        (RESOURCE_ATTACH_BACKING, &[1, 0], Unspec),
        (RESOURCE_DETACH_BACKING, &[9, 0], InvalidResourceId),
        (GET_EDID, &[1, 0], InvalidScanoutId),
        (GET_EDID, &[], InvalidParameter),
        (0x108, &[0, 0], Unspec),
        (0x10c, &[3, 0, 0, 0, 0, 0, 0, 0], Unspec),
        (0, &[], Unspec),
        (u32::MAX, &[0; 16], Unspec),
    ] {
        c.refused(kind, body, why);
    }
    c.fine(RESOURCE_DETACH_BACKING, &[1, 0]);
    c.refused(RESOURCE_DETACH_BACKING, &[1, 0], Unspec);
    c.refused(TRANSFER_TO_HOST_2D, &[0, 0, 64, 64, 0, 0, 1, 0], Unspec);
    c.refused(
        RESOURCE_ATTACH_BACKING,
        &[1, 2, PAGE as u32, 0, 64, 0],
        InvalidParameter,
    );
    c.refused(RESOURCE_ATTACH_BACKING, &[1, MAX_PIECES + 1], Unspec);
    // Behind the resource is no RAM.
    for high in [0, u32::MAX] {
        let piece = [1, 1, 0xfec0_0000, high, 64 * 64 * 4, 0];
        c.fine(RESOURCE_ATTACH_BACKING, &piece);
        c.refused(TRANSFER_TO_HOST_2D, &[0, 0, 64, 64, 0, 0, 1, 0], Unspec);
        c.fine(RESOURCE_DETACH_BACKING, &[1, 0]);
    }
    // A header that is cut off, and a response that does not fit.
    let short = c.0.request(0, &[0; 20], 2048).unwrap();
    assert_eq!(words(&short)[0], InvalidParameter as u32);
    let none = c.0.request(0, &command(GET_DISPLAY_INFO, &[]), 407);
    assert_eq!(none, Some(Vec::new()));
    assert_eq!(c.0.read_status() & NEEDS_RESET, 0);
}

#[test]
fn a_fence_comes_back() {
    let mut c = Card::new();
    let mut request = command(RESOURCE_UNREF, &[1, 0]);
    request[4..20].copy_from_slice(&[1, 0, 0, 0, 9, 8, 7, 6, 5, 4, 3, 2, 0xc, 0, 0, 0]);
    let response = c.0.request(0, &request, 24).unwrap();
    assert_eq!(words(&response)[0], Refusal::InvalidResourceId as u32);
    assert_eq!(response[4..20], request[4..20]);
    request[4] = 0;
    let response = c.0.request(0, &request, 24).unwrap();
    assert_eq!(response[4..], [0; 20]);
}

#[test]
fn host_memory_is_bounded_and_comes_back() {
    let mut c = Card::new();
    let full = |c: &mut Card| {
        let mut n = 0;
        while c.tell(RESOURCE_CREATE_2D, &[n + 1, 2, 2048, 2048]) == OK_NODATA {
            n += 1;
        }
        n
    };
    let n = full(&mut c);
    assert_eq!(n, 15, "16 MiB each, and a little");
    // Many small ones are bounded too, and so is what is behind them.
    let mut small = 100;
    while c.tell(RESOURCE_CREATE_2D, &[small, 2, 1, 1]) == OK_NODATA {
        small += 1;
    }
    assert!((100..5000).contains(&small));
    c.refused(
        RESOURCE_ATTACH_BACKING,
        &[[1, 84].to_vec(), vec![0; 84 * 4]].concat(),
        Refusal::OutOfMemory,
    );
    for id in (1..=n).chain(100..small) {
        c.fine(RESOURCE_UNREF, &[id, 0]);
    }
    assert_eq!(full(&mut c), n);
    c.0.status(0);
    let mut c = Card(c.0);
    c.0.negotiate(F_VERSION_1);
    assert!(!c.screen().is_set_up());
}

#[test]
fn a_long_transfer_is_done_in_parts() {
    let mut c = Card::new();
    // 16 MiB, twice what a call may move, from one piece that all lines share.
    c.fine(RESOURCE_CREATE_2D, &[1, 2, 4096, 1024]);
    let pieces: Vec<u32> = (0..1024)
        .flat_map(|_| [PAGE as u32, 0, 16_384, 0])
        .collect();
    let request = command(RESOURCE_ATTACH_BACKING, &[&[1, 1024][..], &pieces].concat());
    let place = BUFFERS + 0x18_0000;
    c.0.write(place, &request);
    let out = BUFFERS;
    c.0.add(0, &[(place, request.len() as u32, false), (out, 24, true)]);
    c.0.kick(0);
    assert!(c.0.used(0).is_some());
    c.0.write(PAGE, &[0x5a; 16_384]);
    let request = command(TRANSFER_TO_HOST_2D, &[0, 0, 4096, 1024, 0, 0, 1, 0]);
    c.0.write(place, &request);
    c.0.add(0, &[(place, request.len() as u32, false), (out, 24, true)]);
    c.0.kick(0);
    let mut calls = 0;
    while c.0.used(0).is_none() {
        let due = c.0.dev.next_event().expect("it goes on");
        let state = c.0.dev.save();
        assert!(c.0.dev.restore(&state));
        c.0.dev.advance(due);
        calls += 1;
    }
    assert!((1..=3).contains(&calls), "{calls}");
    c.fine(SET_SCANOUT, &[0, 0, 4096, 1024, 0, 1]);
    assert!(c.frame().pixels.iter().all(|p| *p == 0x5a_5a5a));
}

#[test]
fn the_pointer() {
    let mut c = Card::new();
    c.resource(1, 100, 100);
    c.fine(RESOURCE_CREATE_2D, &[2, 1, 64, 64]);
    c.fine(RESOURCE_ATTACH_BACKING, &[2, 1, PAGE as u32, 0, 1 << 14, 0]);
    c.0.write(PAGE, &[0x10, 0x20, 0x30, 0xff].repeat(4096));
    c.fine(TRANSFER_TO_HOST_2D, &[0, 0, 64, 64, 0, 0, 2, 0]);
    c.fine(SET_SCANOUT, &[0, 0, 100, 100, 0, 1]);
    c.cursor(UPDATE_CURSOR, &[0, 50, 60, 0, 2, 5, 10, 0]);
    let at = |c: &Card| {
        let f = c.frame();
        let first = f.pixels.iter().position(|p| *p == 0x30_2010);
        first.map(|n| (n % 100, n / 100))
    };
    assert_eq!(at(&c), Some((45, 50)));
    // Its image is its own from now on.
    c.fine(RESOURCE_UNREF, &[2, 0]);
    c.cursor(MOVE_CURSOR, &[0, 20, 30, 0, 0, 0, 0, 0]);
    assert_eq!(at(&c), Some((15, 20)));
    for (kind, body) in [
        (MOVE_CURSOR, &[1, 1, 1, 0, 0, 0, 0, 0][..]),
        (UPDATE_CURSOR, &[0, 1, 1, 0, 2, 0, 0, 0]),
        (UPDATE_CURSOR, &[0, 1, 1, 0, 1, 0, 0, 0]),
        (UPDATE_CURSOR, &[0, 1, 1]),
        (RESOURCE_UNREF, &[1, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        c.cursor(kind, body);
        assert_eq!(at(&c), Some((15, 20)), "{kind:#x} {body:?}");
    }
    c.cursor(UPDATE_CURSOR, &[0, 20, 30, 0, 0, 0, 0, 0]);
    assert_eq!(at(&c), None);
}

#[test]
fn a_snapshot_shows_the_same() {
    let mut c = Card::new();
    c.resource(3, 20, 20);
    c.0.write(PAGE, &(0..1600u32).map(|n| n as u8).collect::<Vec<u8>>());
    c.fine(TRANSFER_TO_HOST_2D, &[0, 0, 20, 20, 0, 0, 3, 0]);
    c.fine(SET_SCANOUT, &[0, 0, 20, 20, 0, 3]);
    let (state, frame) = (c.0.dev.save(), c.frame());
    let mut other = Card::new();
    assert!(other.0.dev.restore(&state));
    assert_eq!(other.frame(), frame);
    // The backing is there too.
    let ram = other.0.ram.clone();
    assert!(ram.write(emu_core::addr::PhysAddr(PAGE), &[0x77; 1600]));
    let mut gpu = Gpu::new();
    assert!(!gpu.restore(&[1, 2, 3]));
    let broken = (
        Vec::<Saved>::new(),
        Some((3u32, Area::default())),
        Cursor::default(),
        None::<(Transfer, u32)>,
    );
    assert!(!gpu.restore(&state::to_bytes(&broken)));
    assert!(!gpu.screen(0).unwrap().is_set_up());
}

#[test]
fn drivers_may_send_anything() {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let mut source = Random(number("EMU_SEED").unwrap_or(0xfeed) | 1);
    let mut random = |below: u64| source.below(below);
    let mut c = Card::new();
    let kinds = [
        GET_DISPLAY_INFO,
        RESOURCE_CREATE_2D,
        RESOURCE_CREATE_2D,
        RESOURCE_UNREF,
        SET_SCANOUT,
        RESOURCE_FLUSH,
        TRANSFER_TO_HOST_2D,
        TRANSFER_TO_HOST_2D,
        RESOURCE_ATTACH_BACKING,
        RESOURCE_ATTACH_BACKING,
        RESOURCE_DETACH_BACKING,
        GET_EDID,
        UPDATE_CURSOR,
        MOVE_CURSOR,
    ];
    let mut kinds_of_answers = std::collections::BTreeSet::<u32>::new();
    for _ in 0..6000 * number("EMU_SOAK").unwrap_or(1) {
        let kind = kinds[random(kinds.len() as u64) as usize];
        let mut body: Vec<u32> = (0..random(14))
            .map(|_| match random(10) {
                0 => random(1 << 32) as u32,
                1 => PAGE as u32,
                2 => [16, 64, 100, 300][random(4) as usize],
                _ => random(5) as u32,
            })
            .collect();
        // Often something that could be meant.
        match kind {
            RESOURCE_CREATE_2D if random(2) == 0 => {
                body = vec![1 + random(6) as u32, 1 + random(4) as u32, 64, 64]
            }
            RESOURCE_ATTACH_BACKING if random(2) == 0 => {
                body = vec![1 + random(6) as u32, 1, PAGE as u32, 0, 1 << random(15), 0]
            }
            TRANSFER_TO_HOST_2D | SET_SCANOUT | RESOURCE_FLUSH if random(2) == 0 => {
                let mut area = [random(3), random(3), random(66), random(66)].to_vec();
                let id = 1 + random(6);
                area.extend(match kind {
                    TRANSFER_TO_HOST_2D => vec![random(64), 0, id, 0],
                    SET_SCANOUT => vec![0, id],
                    _ => vec![id, 0],
                });
                body = area.into_iter().map(|w| w as u32).collect();
            }
            _ => {}
        }
        let mut bytes = command(kind, &body);
        if random(20) == 0 {
            bytes.truncate(random(bytes.len() as u64) as usize + 1);
        }
        match random(40) {
            0 => {
                c.0.status(0);
                c.0 = Driver::ready(Box::new(Gpu::new()));
            }
            1 => {
                let state = c.0.dev.save();
                assert!(c.0.dev.restore(&state));
            }
            2 | 3 => {
                let f = c.frame();
                assert_eq!(f.pixels.len(), f.width * f.height);
            }
            n => {
                let queue = usize::from(n < 10);
                let room = [0, 23, 24, 600, 2048][random(5) as usize];
                if let Some(a) = c.0.request(queue, &bytes, room) {
                    assert!(a.len() <= room as usize);
                    kinds_of_answers.extend(words(&a).first());
                }
                assert_eq!(c.0.read_status() & NEEDS_RESET, 0);
            }
        }
    }
    assert!(kinds_of_answers.len() >= 7, "{kinds_of_answers:x?}");
}
