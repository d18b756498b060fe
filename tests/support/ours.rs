//! Our CPU executes a case: a [`UserBench`] with the arena of [`state`](crate::state), and an engine.

use crate::state::{
    Bits, CODE, CODE_BYTES, CONST, CONST_BYTES, Case, DATA, DATA_BYTES, FLAGS, Fault, INT3,
    Outcome, State, const_byte,
};
use emu_core::cpu::flags;
use emu_core::engine::Engine;
use emu_core::interp::Interp;
use emu_core::testing::{Page, Trap, UserBench};

/// Chunks of one repeated string instruction at most.
const CHUNKS: u32 = 10_000;

/// A machine that executes cases.
pub struct Ours {
    pub bench: UserBench,
    engine: Box<dyn Engine>,
    /// Runs on into the filler behind the instruction, so that an engine sees more than one instruction at a time; where
    /// something else comes next, the case is run again without.
    pub ahead: bool,
    /// What the code pages hold besides filler; `None`: they are to be filled anew. Code that stays where it is lets an
    /// engine keep what it has made of it.
    held: Option<(u64, Vec<u8>)>,
}

impl Ours {
    /// With the interpreter and this CPU model.
    pub fn interp(model: &str) -> Self {
        Self::new(model, Box::new(Interp::default()))
    }

    pub fn new(model: &str, engine: Box<dyn Engine>) -> Self {
        let mut bench = UserBench::new(model);
        for at in (0..CODE_BYTES as u64).step_by(4096) {
            bench.map(CODE + at, Page::Code);
        }
        for at in (0..DATA_BYTES as u64).step_by(4096) {
            bench.map(DATA + at, Page::ReadWrite);
        }
        bench.map(CONST, Page::ReadOnly);
        let constant: Vec<u8> = (0..CONST_BYTES).map(const_byte).collect();
        bench.write(CONST, &constant);
        bench.write(CODE, &[INT3; CODE_BYTES]);
        bench.gs_base = DATA;
        Self {
            bench,
            engine,
            ahead: false,
            held: Some((CODE, Vec::new())),
        }
    }

    /// Executes the case once.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let ended = if self.ahead { self.run_on(case) } else { None };
        let trap = match ended {
            Some(trap) => trap,
            None => {
                self.look_at_code();
                self.run_alone(case)
            }
        };
        let cpu = &mut self.bench.cpu;
        let mut after = Box::new(State {
            rip: cpu.rip,
            flags: cpu.rflags() & FLAGS,
            ..State::default()
        });
        after.gpr.copy_from_slice(&cpu.gpr[..16]);
        let mut fault = None;
        if let Some(t) = trap {
            after.rip = t.rip;
            after.flags = t.rflags & FLAGS;
            after.gpr[4] = t.rsp;
            fault = Some(Fault {
                vector: t.vector,
                error: t.error,
                address: if t.vector == 14 { t.address } else { 0 },
            });
        }
        after.vec = cpu.vec;
        after.mxcsr = cpu.mxcsr;
        let f = &cpu.fpu;
        for i in 0..8 {
            let r = (i + usize::from(f.top)) & 7;
            (after.st[i], after.st_exp[i]) = (f.r[r].mant, f.r[r].se);
        }
        after.fcw = f.cw;
        after.fsw = f.sw | u16::from(f.top) << 11;
        after.ftw = f.valid;
        self.bench.read(DATA, &mut after.mem);
        self.look_at_code();
        Outcome { after, fault }
    }

    /// Executes the case's code, several instructions, with this much fuel. What came out stands in the bench.
    pub fn run_through(&mut self, case: &Case, fuel: u64) -> Option<Trap> {
        self.load(case);
        self.bench.run(&mut *self.engine, fuel)
    }

    fn run_alone(&mut self, case: &Case) -> Option<Trap> {
        self.load(case);
        let mut trap = self.bench.run(&mut *self.engine, 1);
        // A repeated string instruction retires once per chunk.
        let mut chunks = 0;
        while trap.is_none()
            && self.bench.cpu.rip == case.before.rip
            && chunks < CHUNKS
            && repeats(case)
        {
            trap = self.bench.run(&mut *self.engine, 1);
            chunks += 1;
        }
        trap
    }

    /// The instruction and the filler's INT3; `None`: something else came after it.
    fn run_on(&mut self, case: &Case) -> Option<Option<Trap>> {
        let start = case.before.rip;
        let end = start + case.code.len() as u64;
        self.load(case);
        let mut trap = self.bench.run(&mut *self.engine, 2);
        let mut chunks = 0;
        while trap.is_none() && self.bench.cpu.rip == start && chunks < CHUNKS && repeats(case) {
            trap = self.bench.run(&mut *self.engine, 2);
            chunks += 1;
        }
        let t = trap?;
        // The filler right before it ends here too.
        if t.rip == start && t.vector != 3 {
            return Some(Some(t));
        }
        let at = t.rip.wrapping_sub(1);
        let mut byte = [0];
        let filler = t.vector == 3
            && (CODE..CODE + CODE_BYTES as u64).contains(&at)
            && !(start..end).contains(&at);
        if filler {
            self.bench.read(at, &mut byte);
        }
        // INT 3 by its two-byte form ends where a byte of filler would.
        if byte != [INT3] || case.code.contains(&0xcd) {
            return None;
        }
        // As if the filler had not run.
        let cpu = &mut self.bench.cpu;
        cpu.rip = at;
        cpu.set_rflags(t.rflags);
        cpu.gpr[4] = t.rsp;
        Some(None)
    }

    fn load(&mut self, case: &Case) {
        let s = &case.before;
        match self.held.take() {
            Some((at, code)) if at == s.rip && code == case.code => {}
            Some((at, code)) => {
                self.bench.write(at, &vec![INT3; code.len()]);
                self.bench.write(s.rip, &case.code);
            }
            None => {
                self.bench.write(CODE, &[INT3; CODE_BYTES]);
                self.bench.write(s.rip, &case.code);
            }
        }
        self.held = Some((s.rip, case.code.clone()));
        self.bench.write(DATA, &s.mem);
        self.bench.enter(case.bits.count());
        let cpu = &mut self.bench.cpu;
        cpu.gpr[..16].copy_from_slice(&s.gpr);
        if case.bits == Bits::B32 {
            // What a return to 32-bit code leaves.
            for r in &mut cpu.gpr[..8] {
                *r &= 0xffff_ffff;
            }
        }
        cpu.rip = s.rip;
        cpu.set_rflags(s.flags & FLAGS | flags::IF | 2);
        cpu.vec = s.vec;
        cpu.mxcsr = s.mxcsr & 0xffff;
        let top = s.fsw >> 11 & 7;
        for i in 0..8 {
            let r = (i + usize::from(top)) & 7;
            (cpu.fpu.r[r].mant, cpu.fpu.r[r].se) = (s.st[i], s.st_exp[i]);
        }
        cpu.fpu.cw = s.fcw;
        cpu.fpu.sw = s.fsw & !0x3800;
        cpu.fpu.top = top as u8;
        cpu.fpu.valid = s.ftw;
        cpu.cr2 = 0;
    }

    /// The instruction may have stored over the code pages: if it has, they will be filled anew.
    pub fn look_at_code(&mut self) {
        let Some((at, code)) = &self.held else { return };
        let mut seen = [0; CODE_BYTES];
        self.bench.read(CODE, &mut seen);
        let from = (at - CODE) as usize;
        let own = from..from + code.len();
        let filler = |b: &[u8]| b.iter().all(|b| *b == INT3);
        if seen[own.clone()] != code[..] || !filler(&seen[..own.start]) || !filler(&seen[own.end..])
        {
            self.held = None;
        }
    }

    /// One of the engine's counters.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let stats = self.engine.stats();
        stats.into_iter().find(|s| s.0 == name).map(|s| s.1)
    }

    /// Forgets translations, so that the next accesses take the slow path.
    pub fn flush_tlb(&mut self) {
        self.bench.cpu.tlb.flush_all(false);
    }
}

/// Whether the case is a repeated string instruction.
fn repeats(case: &Case) -> bool {
    let x = iced_x86::Decoder::with_ip(
        case.bits.count(),
        &case.code,
        case.before.rip,
        iced_x86::DecoderOptions::NONE,
    )
    .decode();
    x.is_string_instruction() && (x.has_rep_prefix() || x.has_repne_prefix())
}
