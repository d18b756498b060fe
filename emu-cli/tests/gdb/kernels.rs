//! GDB with kernels: Debian's by the symbols that `emu symbols` writes, and an ELF file of our own that it finds by itself.

use super::ENGINES;
use super::client::*;
use super::common::*;
use std::process::Command;

/// A kernel's file from Debian; what to do for one if there is none.
fn debian(name: &str) -> Option<String> {
    let folder = std::env::var("EMU_GUESTS")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../out").into());
    let path = format!("{folder}/{name}");
    let there = std::path::Path::new(&path).exists();
    if !there {
        eprintln!(
            "skipped: {path} is missing: run `sh images/fetch.sh out` in the workspace's root"
        );
    }
    there.then_some(path)
}

#[test]
fn debian_kernels_by_symbol() {
    if !installed("gdb") {
        return;
    }
    for (kernel, initrd, cpu, base) in [
        (
            "vmlinuz-amd64",
            "initramfs-amd64-micro.cpio",
            "max",
            "secondary_startup_64_no_verify",
        ),
        (
            "vmlinuz-686",
            "initramfs-i386-micro.cpio",
            "pentium3",
            "i386_start_kernel",
        ),
    ] {
        let (Some(kernel), Some(initrd)) = (debian(kernel), debian(initrd)) else {
            return;
        };
        let symbols = Temp::new(b"");
        let out = Command::new(env!("CARGO_BIN_EXE_emu"))
            .args(["symbols", &kernel, "-o", symbols.path()])
            .output()
            .unwrap();
        assert_eq!(status(&out), 0, "{}", stderr(&out));
        // GDB reads it, and so does readelf, without a word.
        if installed("readelf") {
            let out = Command::new("readelf")
                .args(["-sSW", symbols.path()])
                .output()
                .unwrap();
            assert_eq!(stderr(&out), "");
            assert!(stdout(&out).contains(" start_kernel\n"));
        }
        for engine in ENGINES {
            let m = Machine::start(&[
                "--kernel",
                &kernel,
                "--initrd",
                &initrd,
                "--append",
                "nokaslr console=ttyS0",
                "--cpu",
                cpu,
                "--engine",
                engine,
                "--paused",
            ]);
            // A kernel for i386 does not name its data; what start_kernel calls next pushes where it returns to.
            let (watched, writer) = match cpu {
                "max" => ("*(long*)&jiffies_64", "do_timer"),
                _ => ("-l *(long*)($sp-4)", "setup_per_cpu_pageset"),
            };
            let text = m.gdb(&[
                &format!("symbol-file {}", symbols.path()),
                "hbreak start_kernel",
                "continue",
                "bt",
                "x/i $pc",
                "tbreak console_init",
                "continue",
                "bt",
                "finish",
                &format!("watch {watched}"),
                "continue",
                "bt 1",
                "delete",
                "monitor bt 1",
                "tbreak kernel_init",
                "continue",
                "detach",
            ]);
            for words in [
                "Breakpoint 1, 0x",
                " in start_kernel ()\n#1",
                base,
                "<start_kernel>:\tcall",
                " in console_init ()\n#1",
                "Hardware watchpoint 3: ",
                "New value = ",
                &format!(" in {writer} ()"),
                &format!("<{writer}"),
                " in kernel_init ()",
            ] {
                assert!(
                    text.contains(words),
                    "{kernel} {engine}: no \"{words}\": {text}"
                );
            }
        }
    }
}

#[test]
fn gdb_finds_the_file_of_an_elf_kernel() {
    if !installed("gdb") {
        return;
    }
    // An ELF file with a PVH note and a symbol, by hand of the assembler and the linker.
    let folder = Temp::new(b"");
    let [source, object, kernel] = ["s", "o", "elf"].map(|e| folder.0.with_extension(e));
    let assembly = ".section .note.Xen,\"a\",@note\n.long 4,4,18\n.asciz \"Xen\"\n.long entry\n\
        .text\n.code32\n.globl entry\n.type entry,@function\nentry: nop\nhere: jmp here\n.size entry,.-entry\n";
    std::fs::write(&source, assembly).unwrap();
    let tool = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .status()
            .is_ok_and(|s| s.success())
    };
    let path = |p: &std::path::Path| p.display().to_string();
    let made = tool("as", &["--32", &path(&source), "-o", &path(&object)])
        && tool(
            "ld",
            &[
                "-m",
                "elf_i386",
                "-Ttext",
                "0x200000",
                "-e",
                "entry",
                &path(&object),
                "-o",
                &path(&kernel),
            ],
        );
    if !made {
        eprintln!("skipped: as and ld (package binutils) are needed");
        return;
    }
    let m = Machine::start(&["--kernel", &path(&kernel), "--paused", "--cpu", "pentium3"]);
    let text = m.gdb(&["info files", "stepi", "info symbol $pc"]);
    let _ = [&source, &object, &kernel].map(std::fs::remove_file);
    assert!(text.contains(&path(&kernel)), "{text}");
    assert!(text.contains("entry + 1 in section .text"), "{text}");
    assert!(!text.contains("No executable"), "{text}");
}
