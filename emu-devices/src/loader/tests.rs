//! Loaders on images made here: where things end up, what is refused, and that no damaged file panics.

use super::*;
use emu_core::cpu::segment::{CS, DS};
use emu_core::vcpu::reg;

const RAM: u64 = 64 << 20;

fn model(name: &str) -> CpuModel {
    CpuModel::parse(name).unwrap()
}

fn file(bytes: &[u8]) -> File<'_> {
    File {
        name: "guest",
        bytes,
    }
}

fn boot(bytes: &[u8]) -> Boot<'_> {
    Boot {
        machine: Model::default(),
        kernel: file(bytes),
        modules: Vec::new(),
        cmdline: "",
        raw: None,
        cpus: 1,
        text_screen: false,
    }
}

fn module(bytes: &[u8]) -> Module<'_> {
    Module {
        file: File {
            name: "initrd",
            bytes,
        },
        cmdline: "one two",
    }
}

fn put16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_le_bytes());
}
fn put32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

/// A bzImage of protocol 2.15 with two sectors of setup and `code` bytes of kernel.
fn bzimage(code: usize, xloadflags: u16) -> Vec<u8> {
    let mut b = vec![0; 3 * 512 + code];
    b[0x1f1] = 2;
    put32(&mut b, 0x1f4, (code as u32).div_ceil(16));
    put16(&mut b, 0x1fe, 0xaa55);
    b[0x201] = 0x6a;
    b[0x202..0x206].copy_from_slice(b"HdrS");
    put16(&mut b, 0x206, 0x20f);
    b[0x211] = 1;
    put32(&mut b, 0x22c, 0x7fff_ffff);
    put16(&mut b, 0x236, xloadflags);
    put32(&mut b, 0x238, 100);
    put32(&mut b, 0x258, 0x100_0000);
    put32(&mut b, 0x260, 0x10_0000);
    for (i, c) in b[3 * 512..].iter_mut().enumerate() {
        *c = i as u8 | 1;
    }
    b
}

/// An ELF32 file with one segment of 64 bytes (4096 in memory) at 2 MiB, linked 3 GiB higher, and a PVH note.
fn elf(pvh: bool) -> Vec<u8> {
    let mut b = vec![0; 0x54 + 32 + 64 + 20];
    b[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    put16(&mut b, 16, 2); // ET_EXEC
    put16(&mut b, 18, 3); // EM_386
    put32(&mut b, 20, 1);
    put32(&mut b, 24, 0xc020_0010); // entry
    put32(&mut b, 28, 0x34); // program headers
    put16(&mut b, 40, 0x34);
    put16(&mut b, 42, 32);
    put16(&mut b, 44, 2);
    let header = |b: &mut [u8], at: usize, words: [u32; 8]| {
        words
            .iter()
            .enumerate()
            .for_each(|(i, w)| put32(b, at + 4 * i, *w));
    };
    let data = 0x34 + 64;
    let load = [1, data as u32, 0xc020_0000, 0x20_0000, 64, 4096, 7, 4];
    header(&mut b, 0x34, load);
    let kind = if pvh { 4 } else { 0x7000_0000 };
    header(&mut b, 0x54, [kind, data as u32 + 64, 0, 0, 20, 20, 4, 4]);
    b[data..data + 64].fill(0x90);
    let note = data + 64;
    put32(&mut b, note, 4);
    put32(&mut b, note + 4, 4);
    put32(&mut b, note + 8, 18);
    b[note + 12..note + 16].copy_from_slice(b"Xen\0");
    put32(&mut b, note + 16, 0x20_0000);
    b
}

/// A flat Multiboot image of `size` bytes for 1 MiB, its header at offset 16.
fn multiboot(size: usize) -> Vec<u8> {
    let mut b = vec![0x90; size];
    let flags = 0x1_0003u32;
    put32(&mut b, 16, 0x1bad_b002);
    put32(&mut b, 20, flags);
    put32(
        &mut b,
        24,
        0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags),
    );
    let fields = [0x10_0010u32, 0x10_0000, 0, 0x10_8000, 0x10_0040];
    for (i, f) in fields.iter().enumerate() {
        put32(&mut b, 28 + 4 * i, *f);
    }
    b
}

fn bytes(ram: &Ram, at: u64, n: usize) -> Vec<u8> {
    let mut b = vec![0; n];
    assert!(ram.read(PhysAddr(at), &mut b));
    b
}
fn word(ram: &Ram, at: u64) -> u64 {
    u64::from(u32::from_le_bytes(bytes(ram, at, 4).try_into().unwrap()))
}
fn text(ram: &Ram, at: u64) -> String {
    let b = bytes(ram, at, 64);
    String::from_utf8_lossy(b.split(|&c| c == 0).next().unwrap()).into_owned()
}

#[test]
fn linux_in_64_bit() {
    let ram = Ram::new(RAM).unwrap();
    let (image, initrd) = (bzimage(5000, 1), vec![7; 10_000]);
    let mut b = boot(&image);
    b.cmdline = "console=ttyS0";
    b.modules.push(module(&initrd));
    let start = load(&ram, &model("max"), &b).unwrap();
    assert_eq!(start.rip, 0x10_0200);
    assert_eq!(
        (start.cr0, start.cr4, start.efer),
        (0x8000_0011, 0x20, 0x500)
    );
    assert_eq!(
        (
            start.seg[CS as usize].selector,
            start.seg[DS as usize].selector
        ),
        (0x10, 0x18)
    );
    // The descriptors that the loaded segments claim to come from.
    let gdt = bytes(&ram, start.gdtr.base, 32);
    assert_eq!(gdt[16..24], 0x00af_9b00_0000_ffffu64.to_le_bytes());
    assert_eq!(bytes(&ram, 0x10_0000, 5000), image[3 * 512..]);
    // The last 2 MiB page below 4 GiB maps itself.
    let entry = |table: u64, n: u64| ram.load_u64(PhysAddr(table + 8 * n)).unwrap();
    let directory = entry(entry(start.cr3, 0) & !0xfff, 3) & !0xfff;
    assert_eq!(entry(directory, 511), 0xffe0_0083);

    let zp = start.gpr[reg::RSI];
    assert_eq!(text(&ram, word(&ram, zp + 0x228)), "console=ttyS0");
    let (at, size) = (word(&ram, zp + 0x218), word(&ram, zp + 0x21c));
    assert_eq!(size, 10_000);
    assert!(at % 4096 == 0 && at + size <= RAM && at > RAM - 16384);
    assert_eq!(bytes(&ram, at, 10_000), initrd);
    assert_eq!(bytes(&ram, zp + 0x202, 4), b"HdrS");
    assert_eq!(bytes(&ram, word(&ram, zp + 0x70), 8), b"RSD PTR ");
    assert_eq!(bytes(&ram, zp + 0x1e8, 1), [4]);
    assert_eq!(word(&ram, zp + 0x2d0 + 20 * 3), 1 << 20);
    assert_eq!(
        bytes(&ram, zp + 0x1ef, 1),
        [0],
        "the sentinel: boot_params was cleared"
    );
}

#[test]
fn linux_is_told_of_a_text_screen() {
    for text_screen in [false, true] {
        let ram = Ram::new(RAM).unwrap();
        let image = bzimage(5000, 1);
        let b = Boot {
            text_screen,
            ..boot(&image)
        };
        let start = load(&ram, &model("max"), &b).unwrap();
        let zp = start.gpr[reg::RSI];
        let [mode, columns] = bytes(&ram, zp + 6, 2)[..] else {
            unreachable!()
        };
        let [lines, is_vga] = bytes(&ram, zp + 14, 2)[..] else {
            unreachable!()
        };
        let want = if text_screen {
            (3, 80, 25, 1)
        } else {
            (0, 0, 0, 0)
        };
        assert_eq!((mode, columns, lines, is_vga), want);
    }
}

#[test]
fn linux_in_32_bit() {
    let ram = Ram::new(RAM).unwrap();
    let image = bzimage(5000, 0);
    let start = load(&ram, &model("max"), &boot(&image)).unwrap();
    assert_eq!((start.rip, start.cr0, start.efer), (0x10_0000, 0x11, 0));
    assert_eq!(
        start.gpr[reg::RBX] | start.gpr[reg::RBP] | start.gpr[reg::RDI],
        0
    );
    assert!(start.seg[CS as usize].big() && start.seg[CS as usize].flat());
}

#[test]
fn linux_refuses() {
    let ram = Ram::new(RAM).unwrap();
    let image = bzimage(5000, 1);
    let try_it = |b: &Boot, cpu: &str| load(&ram, &model(cpu), b).unwrap_err();
    assert!(matches!(
        try_it(&boot(&image), "pentium3"),
        LoadError::NeedsLongMode { .. }
    ));
    let long = "x".repeat(101);
    let mut b = boot(&image);
    b.cmdline = &long;
    assert_eq!(
        try_it(&b, "max"),
        LoadError::CommandLine {
            len: 101,
            limit: 100
        }
    );
    let big = vec![0; 60 << 20];
    let mut b = boot(&image);
    b.modules.push(module(&big));
    assert!(matches!(try_it(&b, "max"), LoadError::ModuleTooBig { .. }));
    let mut huge = bzimage(5000, 1);
    put32(&mut huge, 0x260, 0x7000_0000);
    let e = try_it(&boot(&huge), "max").to_string();
    assert!(e.contains("give more --memory"), "{e}");
    let mut old = bzimage(5000, 1);
    put16(&mut old, 0x206, 0x201);
    let e = try_it(&boot(&old), "max").to_string();
    assert!(e.contains("0x201"), "{e}");
}

#[test]
fn pvh() {
    let ram = Ram::new(RAM).unwrap();
    let (image, initrd) = (elf(true), vec![9; 100]);
    let mut b = boot(&image);
    b.cmdline = "hello";
    b.modules.push(module(&initrd));
    ram.write(PhysAddr(0x20_0ff0), &[0xff; 16]);
    let start = load(&ram, &model("max"), &b).unwrap();
    assert_eq!((start.rip, start.cr0), (0x20_0000, 0x11));
    assert_eq!(bytes(&ram, 0x20_0000, 2), [0x90; 2]);
    assert_eq!(bytes(&ram, 0x20_0ff0, 16), [0; 16], "the bss is cleared");
    let info = start.gpr[reg::RBX];
    assert_eq!((word(&ram, info), word(&ram, info + 12)), (0x336e_c578, 1));
    let list = word(&ram, info + 16);
    assert_eq!(bytes(&ram, word(&ram, list), 100), initrd);
    assert_eq!(text(&ram, word(&ram, list + 16)), "one two");
    assert_eq!(text(&ram, word(&ram, info + 24)), "hello");
    assert_eq!(word(&ram, info + 48), 4);

    let e = load(&ram, &model("max"), &boot(&elf(false))).unwrap_err();
    assert!(e.to_string().contains("PVH"), "{e}");
}

#[test]
fn multiboot_flat() {
    let ram = Ram::new(RAM).unwrap();
    let (image, first) = (multiboot(0x100), vec![5; 5000]);
    let mut b = boot(&image);
    b.cmdline = "-v";
    b.modules.push(module(&first));
    ram.write(PhysAddr(0x10_7ff0), &[0xff; 16]);
    let start = load(&ram, &model("486"), &b).unwrap();
    assert_eq!((start.rip, start.gpr[reg::RAX]), (0x10_0040, 0x2bad_b002));
    assert_eq!(bytes(&ram, 0x10_0000, 0x100), image);
    assert_eq!(bytes(&ram, 0x10_7ff0, 16), [0; 16], "the bss is cleared");
    let info = start.gpr[reg::RBX];
    assert_eq!(word(&ram, info), 0x24d);
    assert_eq!(word(&ram, info + 4), 639);
    assert_eq!(word(&ram, info + 8), (RAM >> 10) - 1024);
    assert_eq!(text(&ram, word(&ram, info + 16)), "guest -v");
    let list = word(&ram, info + 24);
    assert_eq!(word(&ram, list + 4) - word(&ram, list), 5000);
    assert_eq!(text(&ram, word(&ram, list + 8)), "initrd one two");
    let map = word(&ram, info + 48);
    assert_eq!(word(&ram, info + 44), 4 * 24);
    assert_eq!((word(&ram, map), word(&ram, map + 20)), (20, 1));
}

#[test]
fn multiboot_elf() {
    let ram = Ram::new(RAM).unwrap();
    let mut image = elf(false);
    let header = 0x34 + 64;
    put32(&mut image, header, 0x1bad_b002);
    put32(&mut image, header + 4, 0);
    put32(&mut image, header + 8, 0u32.wrapping_sub(0x1bad_b002));
    let start = load(&ram, &model("max"), &boot(&image)).unwrap();
    assert_eq!(start.rip, 0x20_0010, "the entry is a virtual address");
    put32(&mut image, header + 4, 4);
    put32(
        &mut image,
        header + 8,
        0u32.wrapping_sub(0x1bad_b002).wrapping_sub(4),
    );
    let e = load(&ram, &model("max"), &boot(&image)).unwrap_err();
    assert!(e.to_string().contains("video modes"), "{e}");
}

#[test]
fn raw_images() {
    let ram = Ram::new(1 << 20).unwrap();
    let mut sector = vec![0xf4; 512];
    put16(&mut sector, 510, 0xaa55);
    let start = load(&ram, &model("486"), &boot(&sector)).unwrap();
    assert_eq!((start.seg[CS as usize].base, start.rip), (0, 0x7c00));
    assert_eq!(bytes(&ram, 0x7c00, 512), sector);

    let mut b = boot(&sector);
    b.raw = Some(RawPlace {
        addr: 0xf_0000,
        entry: 0xf_0005,
    });
    let start = load(&ram, &model("486"), &b).unwrap();
    assert_eq!((start.seg[CS as usize].selector, start.rip), (0xf000, 5));
    b.raw = Some(RawPlace {
        addr: 0xf_ffff,
        entry: 0,
    });
    assert!(matches!(
        load(&ram, &model("486"), &b),
        Err(LoadError::NoRam { .. })
    ));
    b.raw = Some(RawPlace {
        addr: 0,
        entry: 1 << 20,
    });
    assert!(matches!(
        load(&ram, &model("486"), &b),
        Err(LoadError::Field { .. })
    ));
}

#[test]
fn other_files_get_one_line() {
    let cpio = b"070701000000";
    for (bytes, words) in [
        (&b""[..], "empty"),
        (cpio, "not a guest image"),
        (b"\x7fELF", "class"),
        (b"\x7fELF\x02\x01\x01", "ELF"),
        (&[0; 4096], "not a guest image"),
    ] {
        let e = detect(file(bytes)).unwrap_err().to_string();
        assert!(e.contains(words) && !e.contains('\n'), "{e}");
    }
    let small = Ram::new(1 << 19).unwrap();
    assert!(matches!(
        load(&small, &model("max"), &boot(b"x")),
        Err(LoadError::SmallRam { .. })
    ));
}

/// Every prefix, and every byte of the first 700 spoilt in three ways: an answer, whatever it is.
#[test]
fn damaged_files_do_not_panic() {
    let ram = Ram::new(4 << 20).unwrap();
    let cpu = model("max");
    let initrd = [1; 100];
    let try_it = |bytes: &[u8]| {
        let mut b = boot(bytes);
        b.modules.push(module(&initrd));
        if let Err(e) = load(&ram, &cpu, &b) {
            assert!(!e.to_string().contains('\n'), "{e:?}");
        }
    };
    for image in [
        bzimage(600, 1),
        bzimage(600, 0),
        elf(true),
        elf(false),
        multiboot(300),
    ] {
        for n in 0..image.len() {
            try_it(&image[..n]);
        }
        for at in 0..image.len().min(700) {
            for v in [0x00, 0x7f, 0xff] {
                let mut bad = image.clone();
                bad[at] = v;
                try_it(&bad);
                // A whole field gone wrong reaches further than a byte.
                let end = bad.len().min(at + 8);
                bad[at..end].fill(v);
                try_it(&bad);
            }
        }
    }
}
