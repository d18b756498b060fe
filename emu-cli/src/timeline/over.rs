//! Going back over calls: to the instruction before this one in the same frame, as GDB's reverse-nexti.
//!
//! What is one instruction back may be a return into this frame. Then its call is wanted: the last time before that some call
//! that ends here was executed with this frame's stack pointer. And what is one instruction back may have been interrupted: it
//! is then where the handler returned to, and the same place before the interrupt is wanted, which is where going forward with
//! `nexti` had left from. Both are found as [`run_back`](Vm::run_back) finds things: hooks of our own, and the run from the last
//! checkpoint on once more, or from those before it.
//!
//! A return that belongs to no call (a thunk's, which goes where a register says) is an instruction like others. That there is no
//! call is known at a checkpoint where the same page of stack is in use and less of it than the call would have.

use super::back::BEGINNING;
use crate::debug::disasm;
use crate::vm::Vm;
use emu_core::cpu::mode::ModeKey;
use emu_core::cpu::segment::SS;
use emu_core::hooks::{Condition, HookId, Space, What};
use emu_core::vcpu::{Vcpu, reg};
use iced_x86::{Code, FlowControl, Instruction};

/// Each is a run from a checkpoint on.
pub const MOST: u64 = 1000;

/// Where an instruction that returns leads.
struct Return {
    target: u64,
    /// Bytes of parameters that it drops.
    dropped: u64,
    /// From a handler, perhaps of an interrupt.
    handler: bool,
}

/// A place in a frame, and the calls that may have led to it by their return.
struct Here {
    rip: u64,
    lin: u64,
    rsp: u64,
    calls: Vec<u64>,
}

/// What was found on the way back.
enum Past {
    /// The call was executed at this count.
    Call(u64),
    /// An interrupt or exception came at this count.
    Interrupted(u64),
    Nothing,
}

fn instruction(cpu: &Vcpu, at: u64, most: usize) -> Option<Instruction> {
    let mut bytes = [0; disasm::LONGEST];
    let n = (1..=most.min(bytes.len()))
        .rev()
        .find(|&n| cpu.peek(at, &mut bytes[..n]))?;
    disasm::decode(&bytes[..n], at, cpu.key.code_bits())
}

/// Where the instruction leads that is next, if it returns.
fn returns(cpu: &Vcpu, insn: &Instruction) -> Option<Return> {
    use Code::*;
    let (size, handler) = match insn.code() {
        Retnw | Retnw_imm16 | Retfw | Retfw_imm16 => (2, false),
        Retnd | Retnd_imm16 | Retfd | Retfd_imm16 => (4, false),
        Retnq | Retnq_imm16 | Retfq | Retfq_imm16 => (8, false),
        Iretw => (2, true),
        Iretd => (4, true),
        Iretq => (8, true),
        Sysretd | Sysretq | Sysexitd | Sysexitq => (0, true),
        _ => return None,
    };
    let target = match insn.code() {
        Sysretd => cpu.gpr[reg::RCX] & 0xffff_ffff,
        Sysretq => cpu.gpr[reg::RCX],
        Sysexitd => cpu.gpr[reg::RDX] & 0xffff_ffff,
        Sysexitq => cpu.gpr[reg::RDX],
        _ => {
            let sp = cpu.gpr[reg::RSP];
            let lin = match () {
                () if cpu.code64() => sp,
                () if cpu.key.contains(ModeKey::STACK32) => {
                    cpu.seg_base[SS as usize].wrapping_add(sp & 0xffff_ffff)
                }
                () => cpu.seg_base[SS as usize].wrapping_add(sp & 0xffff),
            };
            let mut word = [0; 8];
            if !cpu.peek(cpu.wrap(lin), &mut word[..size]) {
                return None;
            }
            u64::from_le_bytes(word)
        }
    };
    let dropped = match insn.op_count() {
        0 => 0,
        _ => u64::from(insn.immediate16()),
    };
    Some(Return {
        target,
        dropped,
        handler,
    })
}

impl Here {
    fn of(cpu: &Vcpu) -> Self {
        let lin = cpu.code_address();
        let calls = (2..=disasm::LONGEST)
            .map(|len| (len, cpu.wrap(lin.wrapping_sub(len as u64))))
            .filter(|&(len, at)| {
                instruction(cpu, at, len).is_some_and(|i| {
                    let call = matches!(
                        i.flow_control(),
                        FlowControl::Call | FlowControl::IndirectCall | FlowControl::Interrupt
                    );
                    call && !i.is_invalid() && i.len() == len
                })
            });
        Self {
            rip: cpu.rip,
            lin,
            rsp: cpu.gpr[reg::RSP],
            calls: calls.map(|c| c.1).collect(),
        }
    }
}

impl Vm {
    /// The instruction before in this frame, `n` times.
    pub fn step_back_over(&mut self, n: u64) -> Result<(), String> {
        self.has_timeline()?;
        if n > MOST {
            return Err(format!("{n} is too many: at most {MOST} at a time"));
        }
        (0..n).try_for_each(|_| self.next_back())
    }

    fn next_back(&mut self) -> Result<(), String> {
        if self.mid_instruction() {
            // To before its first repetition.
            let at = self.runner.cpu.retired;
            let before = self.look(at)?;
            return self.settle(at, before);
        }
        loop {
            let here = Here::of(&self.runner.cpu);
            let Some(at) = self.runner.cpu.retired.checked_sub(1) else {
                self.go_to(0)?;
                return Err(BEGINNING.into());
            };
            let before = self.look(at)?;
            let cpu = &self.runner.cpu;
            let insn = instruction(cpu, cpu.code_address(), disasm::LONGEST);
            let back = insn.and_then(|i| returns(cpu, &i));
            // Unless an interrupt comes first.
            let Some(back) = back.filter(|b| b.target == here.rip) else {
                return self.settle(at, before);
            };
            match self.what_came(at + 1, &here, back.dropped, back.handler)? {
                Past::Call(to) => {
                    let before = self.look(to)?;
                    return self.settle(to, before);
                }
                // It is here that the handler was called: there is something before it.
                Past::Interrupted(to) => self.go_to(to)?,
                Past::Nothing => {
                    let before = self.look(at)?;
                    return self.settle(at, before);
                }
            }
        }
    }

    /// Goes to a count; the address that the instruction before leads to, if it returns from a handler.
    fn look(&mut self, at: u64) -> Result<Option<u64>, String> {
        let mut target = None;
        if let Some(before) = at.checked_sub(1) {
            self.go_to(before)?;
            let cpu = &self.runner.cpu;
            let insn = instruction(cpu, cpu.code_address(), disasm::LONGEST);
            let back = insn.and_then(|i| returns(cpu, &i));
            target = back.filter(|b| b.handler).map(|b| b.target);
        }
        self.go_to(at)?;
        Ok(target)
    }

    /// At a place that a handler may just have returned to: goes back to before the interrupt.
    fn settle(&mut self, mut at: u64, mut before: Option<u64>) -> Result<(), String> {
        while before == Some(self.runner.cpu.rip) {
            let here = Here {
                calls: Vec::new(),
                ..Here::of(&self.runner.cpu)
            };
            match self.what_came(at, &here, 0, true)? {
                Past::Interrupted(to) => {
                    at = to;
                    before = self.look(at)?;
                }
                _ => return self.go_to(at),
            }
        }
        Ok(())
    }

    /// What came last before a count: one of the calls to here, or (with `handler`) an interrupt of the instruction here.
    fn what_came(
        &mut self,
        to: u64,
        here: &Here,
        dropped: u64,
        handler: bool,
    ) -> Result<Past, String> {
        let rsp = here.rsp.wrapping_sub(dropped);
        let others = self.disable_hooks();
        let counts = self.counts();
        let hooks = self.runner.cpu.hooks();
        let code = |at| What::Code {
            space: Space::Linear,
            at,
        };
        let mut calls = Vec::new();
        for &at in &here.calls {
            let level: Condition = Box::new(move |cpu, _| cpu.gpr[reg::RSP] == rsp);
            calls.push(hooks.add(code(at), Some(level)));
        }
        let mut interrupts = Vec::new();
        let mut own = calls.clone();
        if handler {
            let place = (here.lin, here.rsp);
            let came: Condition = Box::new(move |cpu, _| cpu.interrupted == place);
            interrupts.push(hooks.add(What::Interrupt { vector: None }, Some(came)));
            let raised: Condition =
                Box::new(move |cpu, _| (cpu.code_address(), cpu.gpr[reg::RSP]) == place);
            let any = What::Exception {
                vector: None,
                error: None,
            };
            interrupts.push(hooks.add(any, Some(raised)));
            own.extend(&interrupts);
            // What is executed here was not interrupted.
            let level: Condition = Box::new(move |cpu, _| cpu.gpr[reg::RSP] == place.1);
            own.push(hooks.add(code(here.lin), Some(level)));
        }
        let outside = move |cpu: &Vcpu| {
            let sp = cpu.gpr[reg::RSP];
            sp >= rsp && sp >> 12 == rsp >> 12
        };
        let found = match own.is_empty() {
            true => Ok(None),
            false => self.last_hit(to, &outside),
        };
        let hooks = self.runner.cpu.hooks();
        for id in own {
            hooks.remove(id);
        }
        for id in others {
            hooks.enable(id, true);
        }
        self.put_counts(&counts);
        Ok(match found? {
            Some(f) if calls.contains(&f.hit.id) => Past::Call(f.retired),
            Some(f) if interrupts.contains(&f.hit.id) => Past::Interrupted(f.retired),
            _ => Past::Nothing,
        })
    }

    /// Switches the hooks of others off; which they were.
    fn disable_hooks(&mut self) -> Vec<HookId> {
        let hooks = self.runner.cpu.hooks();
        let on: Vec<HookId> = hooks
            .list()
            .iter()
            .filter(|h| h.enabled)
            .map(|h| h.id)
            .collect();
        for &id in &on {
            hooks.enable(id, false);
        }
        on
    }
}
