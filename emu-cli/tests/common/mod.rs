//! What the tests of the program share: running it, and guests of a few instructions.
#![allow(dead_code)] // each test program uses its own part

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The program with `run` and these arguments; no input; a guest that hangs is ended.
pub fn emu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emu"));
    command.arg("run").args(args).stdin(Stdio::null());
    if !args.contains(&"--timeout") {
        command.args(["--timeout", "60"]);
    }
    command
}

pub fn run(args: &[&str]) -> Output {
    emu(args).output().unwrap()
}

pub fn status(out: &Output) -> i32 {
    out.status.code().unwrap_or(-1)
}

pub fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A file that is removed when the test is over.
pub struct Temp(pub PathBuf);

impl Temp {
    pub fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("emu-test-{}-{n}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A boot sector, entered in real mode at 7C00h.
pub fn sector(f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Temp {
    let mut a = CodeAssembler::new(16).unwrap();
    f(&mut a).unwrap();
    let mut bytes = a.assemble(0x7c00).unwrap();
    assert!(bytes.len() <= 510);
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    Temp::new(&bytes)
}

/// Where [`multiboot`] kernels are loaded, and where they begin.
pub const KERNEL: u64 = 0x10_0000;
pub const KERNEL_ENTRY: u64 = KERNEL + 0x20;

/// A Multiboot kernel: 32-bit code, entered in protected mode at [`KERNEL_ENTRY`].
pub fn multiboot(f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    const FLAGS: u32 = 1 << 16;
    let (base, entry) = (KERNEL as u32, KERNEL_ENTRY as u32);
    let magic = 0x1bad_b002u32;
    let check = 0u32.wrapping_sub(magic).wrapping_sub(FLAGS);
    let header = [magic, FLAGS, check, base, base, 0, 0, entry];
    let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    let mut a = CodeAssembler::new(32).unwrap();
    f(&mut a).unwrap();
    bytes.extend(a.assemble(KERNEL_ENTRY).unwrap());
    bytes
}

/// Writes `value` to isa-debug-exit at F4h.
pub fn exit_with(value: u32) -> Temp {
    sector(|a| {
        a.mov(eax, value)?;
        a.out(0xf4, eax)?;
        a.hlt()
    })
}

/// Runs forever.
pub fn spinning() -> Temp {
    sector(|a| {
        let mut here = a.create_label();
        a.set_label(&mut here)?;
        a.jmp(here)
    })
}

/// Sends back each byte that comes to COM1; powers off after "q".
pub fn echo() -> Temp {
    sector(|a| {
        let (mut wait, mut out, mut off) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(dx, 0x3fd)?;
        a.set_label(&mut wait)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.jz(wait)?;
        a.mov(dx, 0x3f8)?;
        a.in_(al, dx)?;
        a.mov(bl, al)?;
        a.mov(dx, 0x3fd)?;
        a.set_label(&mut out)?;
        a.in_(al, dx)?;
        a.test(al, 0x20)?;
        a.jz(out)?;
        a.mov(dx, 0x3f8)?;
        a.mov(al, bl)?;
        a.out(dx, al)?;
        a.mov(dx, 0x3fd)?;
        a.cmp(bl, i32::from(b'q'))?;
        a.jnz(wait)?;
        a.set_label(&mut off)?;
        power_off(a)
    })
}

/// ACPI S5.
pub fn power_off(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dx, 0x604)?;
    a.mov(ax, 0x2000)?;
    a.out(dx, ax)?;
    a.hlt()
}

/// Sets a mode of 32 bits per pixel by the Bochs VBE ports.
pub fn vbe_mode(a: &mut CodeAssembler, width: i32, height: i32) -> Result<(), IcedError> {
    for (index, value) in [(1, width), (2, height), (3, 32), (4, 0x41)] {
        a.mov(dx, 0x1ce)?;
        a.mov(ax, index)?;
        a.out(dx, ax)?;
        a.inc(dx)?;
        a.mov(ax, value)?;
        a.out(dx, ax)?;
    }
    Ok(())
}

/// 640x480 with four lines of this colour at the top.
pub fn vbe_picture(a: &mut CodeAssembler, colour: u32) -> Result<(), IcedError> {
    vbe_mode(a, 640, 480)?;
    a.mov(ax, 0xa000)?;
    a.mov(es, ax)?;
    a.xor(di, di)?;
    a.mov(eax, colour)?;
    a.mov(cx, 640 * 4)?;
    a.rep().stosd()
}

/// The first line of the text screen with all characters in all colours; ES:DI is behind it.
pub fn all_characters(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut fill = a.create_label();
    a.cld()?;
    a.mov(ax, 0xb800)?;
    a.mov(es, ax)?;
    a.xor(di, di)?;
    a.mov(ax, 0x0121)?;
    a.mov(cx, 80)?;
    a.set_label(&mut fill)?;
    a.stosw()?;
    a.add(ax, 0x0101)?;
    a.and(ah, 0x7f)?;
    a.loop_(fill)
}

/// The keyboard's codes are translated to set 1, and raise no interrupt.
pub fn poll_keyboard(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(al, 0x60)?;
    a.out(0x64, al)?;
    a.mov(al, 0x40)?;
    a.out(0x60, al)
}

/// Waits at a label for a key that is pressed; its scan code is in AL.
pub fn wait_key(a: &mut CodeAssembler, wait: &mut CodeLabel) -> Result<(), IcedError> {
    a.set_label(wait)?;
    a.in_(al, 0x64)?;
    a.test(al, 1)?;
    a.jz(*wait)?;
    a.in_(al, 0x60)?;
    a.test(al, 0x80)?;
    a.jnz(*wait)
}

/// A port that nobody has now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Connects as soon as somebody listens.
pub fn connect(port: u16) -> TcpStream {
    const LONG: Duration = Duration::from_secs(120);
    let began = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(LONG)).unwrap();
                return stream;
            }
            Err(e) => assert!(began.elapsed() < LONG, "port {port}: {e}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
