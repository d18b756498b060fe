//! Hooked instructions: planted in blocks, judged before they run.

use super::{Cause, Hooks, Space, What};
use crate::addr::PhysAddr;
use crate::cpu::mode::ModeKey;
use crate::decode::block::Block;
use crate::decode::insn::{Flow, Handler, Insn, pfx, stopped};
use crate::fault::Stop;
use crate::vcpu::{Vcpu, reg};

impl Hooks {
    /// Whether any place is planted.
    pub(super) fn has_planted(&self) -> bool {
        !self.planted.is_empty()
    }

    /// Makes a block that was just built end before the next planted place, or, where it begins with one, be that one instruction.
    pub(super) fn trim(&mut self, b: &mut Block) {
        let planted = |i: &Insn| self.planted.contains(&(b.off + u64::from(i.off)));
        let Some(k) = b.insns.iter().position(planted) else {
            return;
        };
        b.cut(k.max(1));
        if k == 0 {
            let first = &mut b.insns[0];
            // A trace may have taken it before.
            if first.pfx & pfx::TOLD == 0 {
                self.originals.insert((b.off, b.key), first.run);
                first.run = hooked;
            }
            first.pfx |= pfx::HOOKED;
        }
    }

    fn run_of(&self, at: (u64, ModeKey)) -> Option<Handler> {
        let traced = || self.trace.as_ref()?.original(at);
        self.originals.get(&at).copied().or_else(traced)
    }

    /// The instruction as it was before it was hooked; not one that a trace is told of, which is not translated.
    pub fn original(&self, b: &Block) -> Option<Insn> {
        let first = *b.insns.first()?;
        let at = (b.off, b.key);
        if let Some(run) = self.originals.get(&at) {
            return Some(Insn { run: *run, ..first });
        }
        let run = self.trace.as_ref()?.done_with(at)?;
        Some(Insn { run, ..first })
    }
}

/// The handler of a hooked instruction: judges it, then runs it.
pub fn hooked(cpu: &mut Vcpu, i: &Insn, rest: &[Insn]) -> Flow {
    let flow = probe(cpu, i, rest);
    if flow != Flow::Done {
        return flow;
    }
    let lin = cpu.code_at(cpu.rip_of(i));
    let off = match cpu.fetch_offset(lin) {
        Ok(off) => off.unwrap_or(u64::MAX),
        // The page went meanwhile, and the TLB forgot it: as a CPU that fetches the instruction now.
        Err(_) => return stopped(cpu, i),
    };
    let key = (off, cpu.key);
    let run = cpu.hooks.as_ref().and_then(|h| h.run_of(key));
    match run {
        Some(run) => cpu.run_told((lin, off), run, i, rest),
        None => {
            // Another page is here now than the block was made from: look it up again.
            cpu.stop = Stop::Retry;
            stopped(cpu, i)
        }
    }
}

/// Judges a hooked instruction and does nothing else; translated code calls it before its own version of the instruction.
pub fn probe(cpu: &mut Vcpu, i: &Insn, _: &[Insn]) -> Flow {
    if cpu.stops_before(i) {
        cpu.stop = Stop::Break;
        return stopped(cpu, i);
    }
    Flow::Done
}

impl Vcpu {
    /// RIP of an instruction of the running block.
    pub(super) fn rip_of(&self, i: &Insn) -> u64 {
        let rip = self.gpr[reg::BLOCK].wrapping_add(u64::from(i.off));
        self.key.cut(rip)
    }

    fn stops_before(&mut self, i: &Insn) -> bool {
        // A repetition is one instruction, stopped before its first iteration.
        if self.in_repeat {
            return false;
        }
        let lin = self.code_at(self.rip_of(i));
        let retired = self.retired + u64::from(i.idx);
        let rsp = self.gpr[reg::RSP];
        let Some(h) = &mut self.hooks else {
            return false;
        };
        if h.judged == Some((retired, lin)) {
            return false;
        }
        if let Some(p) = h.passed
            && p.lin == lin
            && (p.retired == retired || p.interrupted && p.rsp == rsp)
        {
            h.passed = None;
            h.judged = Some((retired, lin));
            return false;
        }
        let phys = self.code_page(lin);
        let Some(h) = &mut self.hooks else {
            return false;
        };
        let here = |w: &What| match *w {
            What::Code { space, at } => match space {
                Space::Linear => at == lin,
                Space::Physical => phys == Some(PhysAddr(at)),
            },
            _ => false,
        };
        let ids: Vec<_> = h.on(here).collect();
        if ids.is_empty() {
            return false;
        }
        // Conditions see the state at the instruction.
        let began = (self.retired, self.rip);
        (self.retired, self.rip) = (retired, self.rip_of(i));
        let stop = self.judge(&ids, Cause::Code);
        (self.retired, self.rip) = began;
        if !stop && let Some(h) = &mut self.hooks {
            h.judged = Some((retired, lin));
        }
        stop
    }

    /// The physical address behind code that is being executed.
    fn code_page(&self, lin: u64) -> Option<PhysAddr> {
        match self.known_fetch_offset(lin) {
            Some(off) => Some(self.machine.ram.phys_of(off)),
            None => self.peek_translate(lin),
        }
    }

    pub(super) fn plant_physical(&mut self) {
        let Some(h) = &self.hooks else { return };
        let at = h.armed.iter().filter_map(|w| match w {
            What::Code {
                space: Space::Physical,
                at,
            } => self.machine.ram.offset_of(PhysAddr(*at)),
            _ => None,
        });
        let offs: Vec<u64> = at.map(|(off, _)| off).collect();
        for off in offs {
            self.plant(off);
        }
    }

    fn plant(&mut self, off: u64) -> bool {
        let new = self.hooks.as_mut().is_some_and(|h| h.planted.insert(off));
        if new {
            self.drop_code(off);
        }
        new
    }

    /// Code may be fetched from the page of `lin` now, which is at this offset in RAM: plants the linear places there. True: some
    /// are new.
    pub fn plant_page(&mut self, lin: u64, off: u64) -> bool {
        let Some(h) = &self.hooks else { return false };
        let page = lin & !0xfff;
        let here = h.armed.iter().filter_map(|w| match *w {
            What::Code {
                space: Space::Linear,
                at,
            } if at & !0xfff == page => Some(off & !0xfff | at & 0xfff),
            _ => None,
        });
        let here: Vec<u64> = here.collect();
        here.into_iter()
            .fold(false, |new, off| self.plant(off) | new)
    }
}
