//! Where RAM and windows are, what is protected, given back, hashed and known as code.

use super::*;

#[test]
fn ram_ends_where_it_should() {
    let ram = Ram::new(2 << 20).unwrap();
    assert!(ram.write(PhysAddr((2 << 20) - 4), b"abcd"));
    assert!(!ram.write(PhysAddr((2 << 20) - 3), b"abcd"));
    assert!(!ram.read(PhysAddr(HIGH_BASE), &mut [0]));
    let mut b = [0; 4];
    assert!(ram.read(PhysAddr((2 << 20) - 4), &mut b));
    assert_eq!(&b, b"abcd");
    assert!(ram.is_dirty((2 << 20) - 1) && !ram.is_dirty(0));
}

#[test]
fn shadowed_roms_are_protected() {
    let ram = Ram::new(1 << 20).unwrap();
    assert!(ram.protect(0x8001) && !ram.protect(0x8001));
    for (at, len, well) in [
        (0xb_ffff, 1, true),
        (0xb_ffff, 2, false),
        (0xc_3fff, 1, false),
        (0xc_4000, 0x3_8000, true),
        (0xc_4000, 0x3_8001, false),
        (0xf_ffff, 1, false),
        (0xb_0000, 0x2_0000, false),
    ] {
        let data = vec![1; len];
        assert_eq!(ram.write(PhysAddr(at), &data), well, "{at:x} {len:x}");
        assert_eq!(ram.is_rom(at), at >= 0xf_c000 || at >> 14 == 0x30);
    }
    let mut b = [0; 2];
    assert!(ram.update_u32(PhysAddr(0xf_c000), 0, 2) && ram.read(PhysAddr(0xf_c000), &mut b));
    assert_eq!(b, [0, 0], "the bit got lost");
    assert!(ram.load(PhysAddr(0xf_ffff), b"R") && !ram.load(PhysAddr(0xf_ffff), b"RR"));
    assert!(ram.protect(0) && ram.write(PhysAddr(0xf_ffff), b"x"));
}

#[test]
fn windows_are_where_they_are_placed() {
    let kinds = [false, true].map(|rom| WindowKind { size: 0x2000, rom });
    let ram = Ram::with(1 << 20, &kinds, 0xa0000..0xc0000).unwrap();
    let (screen, rom) = (PhysAddr(0xfd00_0000), PhysAddr(0xffff_e000));
    assert!(!ram.write(screen, b"a"), "nowhere yet");
    assert!(ram.place(0, Some(screen)) && !ram.place(0, Some(screen)));
    assert!(ram.write(screen.add(0x1fff), b"a") && !ram.write(screen.add(0x1fff), b"ab"));
    let mut b = [0];
    assert!(ram.read_window(0, 0x1fff, &mut b) && b == *b"a");
    assert!(!ram.read_window(0, 0x2000, &mut b) && !ram.write_window(0, u64::MAX, b"x"));
    let (off, left) = ram.offset_of(screen.add(0x10)).unwrap();
    assert_eq!((ram.phys_of(off), left), (screen.add(0x10), 0x1ff0));
    // A ROM is written by its device alone.
    ram.place(1, Some(rom));
    assert!(ram.write_window(1, 0, b"R") && !ram.write(rom, b"x"));
    assert!(
        ram.update_u64(rom, 0, 1),
        "lost, and no reason to walk again"
    );
    assert!(ram.read(rom, &mut b) && b == *b"R");
    let (off, _) = ram.offset_of(rom).unwrap();
    assert!(ram.is_rom(off) && !ram.is_rom(0));
    // The hole hides RAM.
    assert!(ram.write(PhysAddr(0x9_ffff), b"x") && !ram.write(PhysAddr(0x9_ffff), b"xy"));
    assert!(ram.write(PhysAddr(0xc_0000), b"x") && !ram.write(PhysAddr(0xb_ffff), b"x"));
    ram.place(0, None);
    assert!(!ram.read(screen, &mut b));
}

#[test]
#[cfg(target_os = "linux")]
fn discarded_pages_are_zero_and_the_host_has_them_back() {
    let ram = Ram::new(4 << 20).unwrap();
    let resident = || {
        let mut pages = vec![0u8; 1024];
        // SAFETY: one byte for each page of the mapping.
        unsafe { libc::mincore(ram.base().cast(), 4 << 20, pages.as_mut_ptr()) };
        pages.iter().filter(|&&p| p & 1 != 0).count()
    };
    ram.write(PhysAddr(0), &vec![7; 2 << 20]);
    assert_eq!(resident(), 512);
    ram.add_code(0x3010, 8);
    assert!(ram.discard(PhysAddr(0x1800), 0x3000));
    let mut bytes = [0; 0x5000];
    ram.read(PhysAddr(0), &mut bytes);
    let zeros = bytes.iter().position(|&b| b == 0).unwrap();
    assert_eq!(
        (zeros, bytes.iter().filter(|&&b| b == 0).count()),
        (0x2000, 0x2000)
    );
    assert_eq!(
        ram.take_device_hits(),
        [(0x3000, 0x1000)],
        "code is gone too"
    );
    assert!(ram.discard(PhysAddr(0), 2 << 20) && resident() == 0);
    for (at, length) in [
        (4 << 20, 1),
        (0, (4 << 20) + 1),
        (u64::MAX, 4096),
        (0x1000, u64::MAX),
    ] {
        assert!(!ram.discard(PhysAddr(at), length), "{at:#x}");
    }
}

#[test]
fn the_hash_is_of_what_was_written() {
    let (a, b) = (Ram::new(1 << 20).unwrap(), Ram::new(1 << 20).unwrap());
    assert_eq!(a.hash(), b.hash());
    a.write(PhysAddr(0x5000), b"x");
    let with = a.hash();
    assert_ne!(with, b.hash());
    a.take_dirty();
    assert_eq!(a.hash(), with, "also after the dirty bits were taken");
    a.write(PhysAddr(0x5000), b"\0");
    assert_eq!(a.hash(), b.hash(), "a page of zeros is as if never written");
}

#[test]
fn code_is_known_by_chunks_and_cools_down() {
    let ram = Ram::new(1 << 20).unwrap();
    assert!(ram.add_code(0x1010, 8));
    assert!(!ram.add_code(0x1020, 8));
    assert!(ram.has_code(0x102f, 1) && !ram.has_code(0x1030, 1) && ram.is_code_page(0x1fff));
    ram.clear_code(0x1010, 0x20);
    assert!(!ram.has_code(0x1010, 8));
    assert_eq!(
        (0..100).filter(|_| ram.code_heat(0x1000)).count(),
        HEAT as usize - 1
    );
    assert!(!ram.is_code_page(0x1000));
}
