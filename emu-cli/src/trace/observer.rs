//! From what the core tells to entries, on the machine's thread while the guest runs.
//!
//! Entries wait in a buffer that the machine's loop empties between slices ([`Buffer`]); a full one asks for the end of the slice,
//! so it never holds much more than [`FULL`]. What an instruction reads is looked at before it, what it writes behind it.

use super::record::{Entry, Gate, Place, Stream, What};
use super::syscalls;
use crate::debug::disasm::{self, Interest};
use crate::debug::env::Looker;
use emu_core::fault::vector;
use emu_core::hooks::trace::{Event, Observer};
use emu_core::vcpu::{Vcpu, reg};
use iced_x86::Instruction;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

/// Entries in the buffer when it is to be emptied.
const FULL: usize = 16 << 10;
/// Bytes of an operand that are kept.
const LONGEST: usize = 64;
/// Calls that wait for their answer at most: some never have one (exit, execve).
const MOST_CALLS: usize = 4096;
/// Instructions whose decoded form is kept.
const DECODED: usize = 4096;

/// What the core's observer and the machine's loop share.
#[derive(Default)]
pub struct Buffer {
    pub entries: Vec<Entry>,
    /// Decoded blocks that were entered: bytes by linear address.
    pub blocks: FxHashMap<u64, u64>,
    /// Entries that may still come.
    pub left: u64,
}

pub type Shared = Arc<Mutex<Buffer>>;

pub fn lock(shared: &Shared) -> MutexGuard<'_, Buffer> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

/// The instruction that is being executed.
struct Now {
    place: Place,
    retired: u64,
    code: Vec<u8>,
    interest: Interest,
    /// What its operands hold that it reads.
    read: Vec<Option<Vec<u8>>>,
    repeats: bool,
    before: [u64; 23],
}

/// A call that waits for its answer.
struct Waiting {
    gate: Gate,
    number: u64,
    called: u64,
    /// Where the name of a file is that could not be read.
    path: Option<u64>,
}

/// See the module's comment.
pub struct Recorder {
    shared: Shared,
    streams: BTreeSet<Stream>,
    /// Note what registers an instruction changes.
    registers: bool,
    now: Option<Now>,
    decoded: Vec<Option<(Place, Vec<u8>, Instruction)>>,
    /// By page table and stack pointer.
    waiting: FxHashMap<(u64, u64), Waiting>,
}

impl Recorder {
    pub fn new(shared: Shared, streams: BTreeSet<Stream>, registers: bool) -> Self {
        Self {
            shared,
            streams,
            registers,
            now: None,
            decoded: Vec::new(),
            waiting: FxHashMap::default(),
        }
    }

    fn wants(&self, stream: Stream) -> bool {
        self.streams.contains(&stream)
    }

    fn push(&self, retired: u64, at: Place, what: What) {
        let mut buffer = lock(&self.shared);
        if buffer.left > 0 {
            buffer.left -= 1;
            buffer.entries.push(Entry { retired, at, what });
        }
    }

    /// What the instruction is; it was seen before at the same place, most times.
    fn decode(&mut self, at: Place, code: &[u8]) -> Instruction {
        if self.decoded.is_empty() {
            self.decoded.resize_with(DECODED, || None);
        }
        let n = (at.lin ^ at.lin >> 12) as usize % DECODED;
        if let Some((place, bytes, insn)) = &self.decoded[n]
            && (place.lin, place.code_bits) == (at.lin, at.code_bits)
            && bytes == code
        {
            return *insn;
        }
        let ip = at.lin;
        let insn = disasm::decode(code, ip, at.code_bits.into()).unwrap_or_default();
        self.decoded[n] = Some((at, code.to_vec(), insn));
        insn
    }

    /// A program has called its kernel.
    fn call(&mut self, cpu: &Vcpu, gate: Gate) {
        let wide = gate == Gate::Syscall && cpu.code64();
        let mask = if wide { u64::MAX } else { 0xffff_ffff };
        let g = |n: usize| cpu.gpr[n] & mask;
        let number = g(reg::RAX);
        let stacked = |at: u64| {
            let mut bytes = [0; 4];
            let known = cpu.peek(at, &mut bytes);
            if known {
                u32::from_le_bytes(bytes).into()
            } else {
                0
            }
        };
        // Linux: arch/x86/entry/entry_64.S and entry_64_compat.S.
        let args = match gate {
            _ if wide => [g(7), g(6), g(2), g(10), g(8), g(9)],
            Gate::Int(_) => [g(3), g(1), g(2), g(6), g(7), g(5)],
            Gate::Sysenter => [g(3), g(1), g(2), g(6), g(7), stacked(g(5))],
            Gate::Syscall => [g(3), g(5), g(2), g(6), g(7), stacked(g(4))],
        };
        let at = syscalls::path_argument(number, wide).map(|n| args[n]);
        let path = at.and_then(|at| string(cpu, at));
        if self.waiting.len() >= MOST_CALLS {
            self.waiting.clear();
        }
        let waiting = Waiting {
            gate,
            number,
            called: cpu.retired,
            path: at.filter(|_| path.is_none()),
        };
        self.waiting.insert(caller(cpu), waiting);
        let what = What::Call {
            gate,
            number,
            args,
            path,
        };
        self.push(cpu.retired, place(cpu), what);
    }

    fn answered(&mut self, cpu: &Vcpu) {
        let Some(w) = self.waiting.remove(&caller(cpu)) else {
            return;
        };
        let mask = if cpu.code64() { u64::MAX } else { 0xffff_ffff };
        let what = What::Return {
            gate: w.gate,
            number: w.number,
            value: cpu.gpr[reg::RAX] & mask,
            called: w.called,
            path: w.path.and_then(|at| string(cpu, at)),
        };
        self.push(cpu.retired, place(cpu), what);
    }
}

/// A thread of a program, as good as can be told from outside. Page-table isolation has two tables for one program, which
/// differ in bit 12.
fn caller(cpu: &Vcpu) -> (u64, u64) {
    (cpu.cr3 & 0x000f_ffff_ffff_e000, cpu.gpr[reg::RSP])
}

/// A name in a program's memory, as far as it can be shown.
fn string(cpu: &Vcpu, at: u64) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < 256 {
        let mut byte = [0];
        if !cpu.peek(at.wrapping_add(bytes.len() as u64), &mut byte) {
            return None;
        }
        if byte[0] == 0 {
            break;
        }
        bytes.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn place(cpu: &Vcpu) -> Place {
    Place {
        lin: cpu.code_address(),
        cr3: cpu.cr3,
        cpl: cpu.cpl,
        code_bits: cpu.key.code_bits() as u8,
    }
}

fn registers(cpu: &Vcpu) -> [u64; 23] {
    let mut all = [0; 23];
    all[..16].copy_from_slice(&cpu.gpr[..16]);
    all[16] = cpu.rflags();
    for (to, s) in all[17..].iter_mut().zip(&cpu.seg) {
        *to = s.selector.into();
    }
    all
}

fn peek(cpu: &Vcpu, at: u64, size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size.min(LONGEST)];
    (size <= LONGEST && cpu.peek(at, &mut bytes)).then_some(bytes)
}

impl Observer for Recorder {
    fn before(&mut self, cpu: &Vcpu, lin: u64, code: &[u8]) {
        let at = Place { lin, ..place(cpu) };
        let mut now = Now {
            place: at,
            retired: cpu.retired,
            code: code.to_vec(),
            interest: Interest::default(),
            read: Vec::new(),
            repeats: false,
            before: [0; 23],
        };
        if self.registers || self.wants(Stream::Mem) {
            now.before = registers(cpu);
        }
        if self.wants(Stream::Mem) {
            let insn = self.decode(at, code);
            now.interest = disasm::operands_of_interest(&insn, &Looker::new(cpu));
            now.repeats = insn.has_rep_prefix() || insn.has_repne_prefix();
            let value = |m: &disasm::MemoryUse| peek(cpu, m.linear, m.size);
            now.read = now.interest.memory.iter().map(value).collect();
        }
        self.now = Some(now);
    }

    fn after(&mut self, cpu: &Vcpu, done: bool) {
        let Some(now) = self.now.take().filter(|_| done) else {
            return;
        };
        let wanted = self.wants(Stream::Insn);
        let mut changed = Vec::new();
        if self.registers && wanted {
            let after = registers(cpu);
            let pairs = now.before.iter().zip(after).enumerate();
            changed = pairs
                .filter(|(_, (b, a))| **b != *a)
                .map(|(n, (_, a))| (n as u8, a))
                .collect();
        }
        if wanted {
            let code = now.code;
            self.push(now.retired, now.place, What::Insn { code, changed });
        }
        for (m, read) in now.interest.memory.iter().zip(now.read) {
            let (mut at, mut size) = (m.linear, m.size);
            if now.repeats {
                // So far its pointers went.
                let went = |r: usize| cpu.gpr[r].wrapping_sub(now.before[r]) as i64;
                let by = if m.written {
                    went(reg::RDI)
                } else {
                    went(reg::RSI)
                };
                let by = if by == 0 { went(reg::RDI) } else { by };
                size = by.unsigned_abs() as usize;
                if by < 0 {
                    at = at.wrapping_add(m.size as u64).wrapping_sub(size as u64);
                }
                if size == 0 {
                    continue;
                }
            }
            let tell = |write: bool, value: Option<Vec<u8>>| {
                let what = What::Mem {
                    at,
                    size: u32::try_from(size).unwrap_or(u32::MAX),
                    write,
                    value,
                };
                self.push(now.retired, now.place, what);
            };
            if m.read {
                tell(false, read.filter(|b| b.len() == size));
            }
            if m.written {
                tell(true, peek(cpu, at, size));
            }
        }
    }

    fn block(&mut self, _: &Vcpu, lin: u64, _: usize, bytes: u64) {
        let mut buffer = lock(&self.shared);
        let known = buffer.blocks.entry(lin).or_insert(0);
        *known = bytes.max(*known);
    }

    fn event(&mut self, cpu: &Vcpu, event: &Event) {
        let what = match *event {
            Event::Port {
                port,
                size,
                write,
                value,
            } => What::Port {
                port,
                size,
                write,
                value,
            },
            Event::Mmio {
                at,
                size,
                write,
                value,
            } => What::Mmio {
                at: at.0,
                size,
                write,
                value,
            },
            Event::Exception(f) => What::Exception {
                vector: f.vector,
                error: f.error,
                address: if f.vector == vector::PF { f.address } else { 0 },
            },
            Event::Interrupt { vector } => What::Interrupt { vector },
            Event::SoftwareInterrupt { vector } => {
                if cpu.cpl == 3 && vector == 0x80 && self.wants(Stream::Syscall) {
                    self.call(cpu, Gate::Int(vector));
                }
                What::SoftwareInterrupt { vector }
            }
            Event::SystemCall { sysenter } => {
                let gate = match sysenter {
                    true => Gate::Sysenter,
                    false => Gate::Syscall,
                };
                return self.call(cpu, gate);
            }
            Event::Return => return self.answered(cpu),
        };
        if self.wants(what.stream()) {
            self.push(cpu.retired, place(cpu), what);
        }
    }

    fn is_full(&self) -> bool {
        lock(&self.shared).entries.len() >= FULL
    }
}
