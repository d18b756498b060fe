//! The engines by the names that `--engine` and `--engines` take, and what `emu lockstep` wraps around one.

use clap::ValueEnum;
use emu_core::engine::{Engine, Exit};
use emu_core::interp::Interp;
use emu_core::vcpu::{Vcpu, reg};

/// How guest code is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// Interpreted
    Interp,
}

impl EngineKind {
    /// The engine that translates everything at first sight as this one does once it is warm, if there is such a one: what
    /// looks for the instruction within a unit that is wrong.
    pub fn eager(self) -> Option<Self> {
        match self {
            Self::Interp => None,
        }
    }
}

/// A new engine.
pub fn make(kind: EngineKind) -> Box<dyn Engine> {
    match kind {
        EngineKind::Interp => Box::new(Interp::default()),
    }
}

/// Runs its engine a few instructions at a time: the same machine must come out.
pub struct Sliced {
    pub inner: Box<dyn Engine>,
    pub slice: u64,
}

impl Engine for Sliced {
    fn run(&mut self, cpu: &mut Vcpu, fuel: u64) -> Exit {
        let end = cpu.retired.saturating_add(fuel);
        loop {
            let piece = self.slice.min(end.saturating_sub(cpu.retired));
            let stop = cpu.retired + piece;
            let exit = self.inner.run(cpu, piece);
            // Fuel that is left says that the board wants its time.
            if exit != Exit::Fuel || cpu.retired < stop || cpu.retired >= end {
                return exit;
            }
        }
    }
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn stats(&self) -> Vec<(&'static str, u64)> {
        self.inner.stats()
    }
    fn recent(&self) -> Vec<(u64, u32)> {
        self.inner.recent()
    }
    fn describe_unit(&mut self, cpu: &mut Vcpu, rip: u64) -> Option<String> {
        self.inner.describe_unit(cpu, rip)
    }
}

/// An engine with a fault, to test what looks for faults: after the `at`-th instruction a bit of RBX is wrong.
pub struct Broken {
    pub inner: Box<dyn Engine>,
    pub at: u64,
}

impl Engine for Broken {
    fn run(&mut self, cpu: &mut Vcpu, fuel: u64) -> Exit {
        let left = self.at.saturating_sub(cpu.retired);
        let exit = self
            .inner
            .run(cpu, if left > 0 { fuel.min(left) } else { fuel });
        if left > 0 && cpu.retired >= self.at {
            cpu.gpr[reg::RBX] ^= 1 << 4;
        }
        exit
    }
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn stats(&self) -> Vec<(&'static str, u64)> {
        self.inner.stats()
    }
    fn recent(&self) -> Vec<(u64, u32)> {
        self.inner.recent()
    }
    fn describe_unit(&mut self, cpu: &mut Vcpu, rip: u64) -> Option<String> {
        self.inner.describe_unit(cpu, rip)
    }
}
