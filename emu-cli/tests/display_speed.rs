//! What showing the screen costs the guest: `cargo test --release --test display_speed -- --ignored --nocapture`.
//!
//! The guest scrolls text, or fills a screen of 1024x768 again and again; it is run without a display and with a VNC client that
//! takes every picture it can get, in turns, and the medians are compared.

mod common;

use common::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Instant;

const ROUNDS: usize = 5;

fn code(
    bits: u32,
    at: u64,
    f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    f(&mut a).unwrap();
    a.assemble(at).unwrap()
}

/// Scrolls 80x25 characters `n` times, by string instructions and by single stores.
fn scrolling(n: u32) -> Temp {
    sector(|a| {
        let (mut again, mut store) = (a.create_label(), a.create_label());
        a.cld()?;
        a.mov(ax, 0xb800)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(ebx, n)?;
        a.set_label(&mut again)?;
        a.mov(si, 160)?;
        a.xor(di, di)?;
        a.mov(cx, 24 * 80)?;
        a.rep().movsw()?;
        a.mov(cx, 80)?;
        a.mov(ax, bx)?;
        a.set_label(&mut store)?;
        a.mov(word_ptr(di), ax)?;
        a.add(di, 2)?;
        a.dec(cx)?;
        a.jnz(store)?;
        a.dec(ebx)?;
        a.jnz(again)?;
        a.xor(eax, eax)?;
        a.out(0xf4, eax)?;
        a.hlt()
    })
}

/// Fills the linear frame buffer of 1024x768 with 32 bits `n` times, in protected mode.
fn blitting(n: u32) -> Temp {
    const FLAT: u64 = 0x7d00;
    const GDT: u64 = 0x7dc0;
    const GDTR: u64 = 0x7de0;
    let real = code(16, 0x7c00, |a| {
        vbe_mode(a, 1024, 768)?;
        a.cli()?;
        // LGDT [GDTR]
        a.db(&[0x0f, 0x01, 0x16, GDTR as u8, (GDTR >> 8) as u8])?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        // JMP 8:FLAT
        a.db(&[0xea, FLAT as u8, (FLAT >> 8) as u8, 8, 0])
    });
    let flat = code(32, FLAT, |a| {
        let mut again = a.create_label();
        a.mov(eax, 0x10)?;
        a.mov(es, ax)?;
        a.cld()?;
        a.mov(ebx, n)?;
        a.set_label(&mut again)?;
        a.mov(edi, 0xfd00_0000u32)?;
        a.mov(ecx, 1024 * 768)?;
        a.mov(eax, ebx)?;
        a.rep().stosd()?;
        a.dec(ebx)?;
        a.jnz(again)?;
        a.xor(eax, eax)?;
        a.out(0xf4, eax)?;
        a.hlt()
    });
    let mut image = vec![0; 512];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = (at - 0x7c00) as usize;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0x7c00, &real);
    put(FLAT, &flat);
    for (n, descriptor) in [0u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
        .into_iter()
        .enumerate()
    {
        put(GDT + 8 * n as u64, &descriptor.to_le_bytes());
    }
    put(GDTR, &[23, 0]);
    put(GDTR + 2, &(GDT as u32).to_le_bytes());
    put(0x7dfe, &[0x55, 0xaa]);
    Temp::new(&image)
}

/// Takes pictures as fast as they come (RFB 3.8, raw) until the server goes; how many.
fn watch(port: u16) -> usize {
    let mut stream = connect(port);
    let mut count = 0;
    let mut talk = || -> std::io::Result<()> {
        let skip = |stream: &mut TcpStream, n: usize| stream.read_exact(&mut vec![0; n]);
        skip(&mut stream, 12)?;
        stream.write_all(b"RFB 003.008\n")?;
        skip(&mut stream, 2)?;
        stream.write_all(&[1])?;
        skip(&mut stream, 4)?;
        stream.write_all(&[1])?;
        skip(&mut stream, 27)?;
        // DesktopSize, so that the whole picture is sent.
        stream.write_all(&[2, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21])?;
        loop {
            stream.write_all(&[3, (count > 0) as u8, 0, 0, 0, 0, 0x10, 0, 0x10, 0])?;
            let mut head = [0; 4];
            stream.read_exact(&mut head)?;
            for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
                let mut r = [0; 12];
                stream.read_exact(&mut r)?;
                let size = |n: usize| usize::from(u16::from_be_bytes([r[n], r[n + 1]]));
                if r[8..] == [0; 4] {
                    skip(&mut stream, 4 * size(4) * size(6))?;
                }
            }
            count += 1;
        }
    };
    let _ = talk();
    count
}

/// Seconds that the guest takes, and how many pictures were seen.
fn time(image: &Temp, watched: bool) -> (f64, usize) {
    let port = free_port();
    let display = match watched {
        true => format!("vnc=:{}", port - 5900),
        false => "none".into(),
    };
    let exit = "isa-debug-exit,iobase=0xf4,iosize=4";
    let args = [
        "--kernel",
        image.path(),
        "--serial",
        "null",
        "--display",
        &display,
    ];
    let began = Instant::now();
    let mut child = emu(&[&args[..], &["--device", exit]].concat())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let pictures = if watched { watch(port) } else { 0 };
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    (began.elapsed().as_secs_f64(), pictures)
}

#[test]
#[ignore = "measures; needs a quiet host"]
fn a_watched_guest_is_at_most_a_quarter_slower() {
    for (name, image) in [("scroll", scrolling(8000)), ("blit", blitting(20_000))] {
        let mut times = [Vec::new(), Vec::new()];
        let mut seen = 0;
        for _ in 0..ROUNDS {
            for (watched, list) in times.iter_mut().enumerate() {
                let (seconds, pictures) = time(&image, watched != 0);
                list.push(seconds);
                seen += pictures;
            }
        }
        let [alone, watched] = times.map(|mut list| {
            list.sort_by(f64::total_cmp);
            (list[ROUNDS / 2], list[0], list[ROUNDS - 1])
        });
        println!(
            "{name}: alone {alone:.3?} s, watched {watched:.3?} s (median, least, most), ratio {:.2}, {} pictures a run",
            watched.0 / alone.0,
            seen / ROUNDS
        );
        assert!(watched.0 / alone.0 <= 1.25, "{name}");
    }
}
