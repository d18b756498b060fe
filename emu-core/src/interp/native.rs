//! For tests on x86-64 hosts: the same instruction on the host's CPU and in the interpreter, from the same state.
//!
//! The state is an XSAVE area (x87, SSE, AVX), four general registers and the flags. The instruction's memory operand must be
//! addressed by RBX, which points to [`DATA_BYTES`] bytes. Everything that XSAVE shows afterwards must agree, up to what a
//! test masks. Instructions that fault natively must not be given: there is no signal handler.
#![allow(unsafe_code)]

use super::probe::{AREA, CODE, DATA, Probe};
use crate::vcpu::reg;
use iced_x86::code_asm::*;

pub const AREA_BYTES: usize = 832;
pub const DATA_BYTES: usize = 128;
/// Space for the instruction under test.
const SLOT: usize = 16;
/// The arithmetic flags.
const FLAGS: u64 = 0x8d5;

/// What an instruction sees and leaves.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct State {
    pub area: [u8; AREA_BYTES],
    pub data: [u8; DATA_BYTES],
    /// RAX, RCX, RDX, RBX (set by the runner), flags.
    pub regs: [u64; 5],
}

impl Default for State {
    fn default() -> Self {
        let mut s = State {
            area: [0; AREA_BYTES],
            data: [0; DATA_BYTES],
            regs: [0; 5],
        };
        s.put16(0, 0x37f);
        s.put32(24, 0x1f80);
        s.area[512] = 7;
        s
    }
}

impl State {
    pub fn put16(&mut self, at: usize, v: u16) {
        self.area[at..at + 2].copy_from_slice(&v.to_le_bytes());
    }
    pub fn put32(&mut self, at: usize, v: u32) {
        self.area[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }
    pub fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.area[at..at + 2].try_into().unwrap())
    }
    pub fn get32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.area[at..at + 4].try_into().unwrap())
    }
    pub fn get64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.area[at..at + 8].try_into().unwrap())
    }
    /// ST(i) counted from TOP.
    pub fn put_st(&mut self, i: usize, se: u16, mant: u64) {
        self.area[32 + 16 * i..40 + 16 * i].copy_from_slice(&mant.to_le_bytes());
        self.area[40 + 16 * i..42 + 16 * i].copy_from_slice(&se.to_le_bytes());
    }
    pub fn put_ymm(&mut self, r: usize, v: [u64; 4]) {
        for (k, w) in v.into_iter().enumerate() {
            let at = if k < 2 { 160 } else { 576 - 16 } + 16 * r + 8 * k;
            self.area[at..at + 8].copy_from_slice(&w.to_le_bytes());
        }
    }
    pub fn ymm(&self, r: usize) -> [u64; 4] {
        std::array::from_fn(|k| self.get64(if k < 2 { 160 } else { 576 - 16 } + 16 * r + 8 * k))
    }
    pub fn put_data(&mut self, v: &[u64]) {
        for (k, w) in v.iter().enumerate() {
            self.data[8 * k..8 * k + 8].copy_from_slice(&w.to_le_bytes());
        }
    }
}

/// Runs instructions on the host.
pub struct Native {
    page: *mut u8,
    slot: usize,
}

impl Native {
    pub fn new() -> Self {
        // rdi: the state. r8 and r9 hold it and its registers over the instruction.
        let mut a = CodeAssembler::new(64).unwrap();
        let build = |a: &mut CodeAssembler| -> Result<usize, iced_x86::IcedError> {
            a.push(rbx)?;
            a.mov(r8, rdi)?;
            a.lea(r9, ptr(rdi) + std::mem::offset_of!(State, regs) as i32)?;
            a.mov(eax, 7)?;
            a.xor(edx, edx)?;
            a.xrstor64(ptr(r8))?;
            a.push(qword_ptr(r9) + 32)?;
            a.popfq()?;
            a.mov(rax, qword_ptr(r9))?;
            a.mov(rcx, qword_ptr(r9) + 8)?;
            a.mov(rdx, qword_ptr(r9) + 16)?;
            a.mov(rbx, qword_ptr(r9) + 24)?;
            let mut slot = a.create_label();
            a.set_label(&mut slot)?;
            a.db(&[0x90; SLOT])?;
            a.pushfq()?;
            a.pop(qword_ptr(r9) + 32)?;
            a.mov(qword_ptr(r9), rax)?;
            a.mov(qword_ptr(r9) + 8, rcx)?;
            a.mov(qword_ptr(r9) + 16, rdx)?;
            a.mov(qword_ptr(r9) + 24, rbx)?;
            a.mov(eax, 7)?;
            a.xor(edx, edx)?;
            a.xsave64(ptr(r8))?;
            a.fninit()?;
            a.push(0x1f80)?;
            a.ldmxcsr(dword_ptr(rsp))?;
            a.pop(rax)?;
            a.vzeroupper()?;
            a.cld()?;
            a.pop(rbx)?;
            a.ret()?;
            let out = a.assemble_options(
                0,
                iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS,
            )?;
            let _ = out;
            Ok(out.label_ip(&slot)? as usize)
        };
        let slot = build(&mut a).unwrap();
        let code = a.assemble(0).unwrap();
        // SAFETY: a fresh private mapping, filled within its length; the code keeps the SysV ABI.
        let page = unsafe {
            let p = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(p, libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(code.as_ptr(), p.cast(), code.len());
            p.cast::<u8>()
        };
        Self { page, slot }
    }

    /// Runs one instruction on the host; FIP and FDP become relative to the instruction and to the data.
    pub fn exec(&mut self, bytes: &[u8], s: &mut State) {
        assert!(bytes.len() <= SLOT);
        let data = &raw mut s.data as u64;
        s.regs[3] = data;
        s.regs[4] = s.regs[4] & FLAGS | 0x202;
        // SAFETY: the slot lies within the mapping; the instruction is a test's own and only touches `s` and the registers
        // that the wrapper saves.
        unsafe {
            let at = self.page.add(self.slot);
            std::ptr::write_bytes(at, 0x90, SLOT);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
            let f: extern "sysv64" fn(*mut State) = std::mem::transmute(self.page);
            f(s);
            s.relate(at as u64, data);
        }
        s.regs[3] = 0;
        s.regs[4] &= FLAGS;
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.page.cast(), 4096) };
    }
}

impl State {
    /// FIP and FDP relative to the instruction's and the data's address; pointers that were not set stay zero.
    fn relate(&mut self, code: u64, data: u64) {
        for (at, base, span) in [(8, code, 16), (16, data, 128)] {
            let d = self.get64(at).wrapping_sub(base);
            if d < span {
                self.area[at..at + 8].copy_from_slice(&(d + 0x1000).to_le_bytes());
            }
        }
    }
}

/// Runs one instruction in the interpreter.
pub fn interpret(p: &mut Probe, bytes: &[u8], s: &mut State) {
    p.poke(AREA, &s.area);
    p.poke(DATA, &s.data);
    p.cpu.gpr[reg::RDI] = AREA;
    let whole = |p: &mut Probe| (p.cpu.gpr[reg::RAX], p.cpu.gpr[reg::RDX]) = (7, 0);
    whole(p);
    // xrstor64 [rdi]
    p.exec(&[0x48, 0x0f, 0xae, 0x2f]).unwrap();
    p.cpu.gpr[..4].copy_from_slice(&[s.regs[0], s.regs[1], s.regs[2], DATA]);
    p.cpu.set_rflags(s.regs[4] & FLAGS | 2);
    if let Err(f) = p.exec(bytes) {
        panic!("{bytes:02x?}: {f:?}");
    }
    s.regs = [
        p.cpu.gpr[0],
        p.cpu.gpr[1],
        p.cpu.gpr[2],
        p.cpu.gpr[3] - DATA,
        p.cpu.rflags() & FLAGS,
    ];
    whole(p);
    // xsave64 [rdi]
    p.exec(&[0x48, 0x0f, 0xae, 0x27]).unwrap();
    s.area = p.peek(AREA);
    s.data = p.peek(DATA);
    s.relate(CODE, DATA);
}

/// Runs `bytes` on both and reports the first difference, if any. `ignore` clears what may differ.
pub fn differs(
    n: &mut Native,
    p: &mut Probe,
    bytes: &[u8],
    start: &State,
    ignore: impl Fn(&mut State),
) -> Option<String> {
    let (mut host, mut ours) = (start.clone(), start.clone());
    n.exec(bytes, &mut host);
    interpret(p, bytes, &mut ours);
    for s in [&mut host, &mut ours] {
        // XSTATE_BV: x87 and SSE always count as in use here, on the host they need not.
        s.area[512] = 0;
        s.put32(28, 0);
        if s.get16(2) & 0x80 == 0 {
            // AMD CPUs show the last instruction's address only while an unmasked exception waits.
            s.put16(6, 0);
            s.area[8..24].fill(0);
        }
        ignore(s);
    }
    if host.area == ours.area && host.data == ours.data && host.regs == ours.regs {
        return None;
    }
    let mut text = String::new();
    let mut line = |what: &str, at: usize, before: &[u8], h: &[u8], o: &[u8]| {
        for k in (0..h.len()).step_by(8) {
            if h[k..k + 8] != o[k..k + 8] {
                let w = |b: &[u8]| u64::from_le_bytes(b[k..k + 8].try_into().unwrap());
                text += &format!(
                    "  {what}+{}: before {:016x} host {:016x} ours {:016x}\n",
                    at + k,
                    w(before),
                    w(h),
                    w(o)
                );
            }
        }
    };
    line("area", 0, &start.area, &host.area, &ours.area);
    line("data", 0, &start.data, &host.data, &ours.data);
    for k in 0..5 {
        if host.regs[k] != ours.regs[k] {
            text += &format!(
                "  reg{k}: before {:x} host {:x} ours {:x}\n",
                start.regs[k], host.regs[k], ours.regs[k]
            );
        }
    }
    let x = iced_x86::Decoder::with_ip(64, bytes, 0, 0).decode();
    text += &format!(
        "  {x}: FCW {:04x} FSW {:04x} tags {:02x} MXCSR {:08x}\n",
        start.get16(0),
        start.get16(2),
        start.area[4],
        start.get32(24)
    );
    for k in 0..4 {
        text += &format!(
            "  st{k} {:04x}:{:016x} ymm{k} {:016x?}\n",
            start.get16(40 + 16 * k),
            start.get64(32 + 16 * k),
            start.ymm(k)
        );
    }
    text += &format!("  data {:02x?}", &start.data[..32]);
    Some(text)
}
