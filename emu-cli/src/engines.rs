//! The engines by the names that `--engine` and `--engines` take, and what `emu lockstep` wraps around one.

use clap::ValueEnum;
use emu_core::engine::{Engine, Exit};
use emu_core::interp::Interp;
use emu_core::mem::tlb::Who;
use emu_core::state::CpuState;
use emu_core::vcpu::{Vcpu, reg};
use iced_x86::{Decoder, DecoderOptions, FlowControl};

/// How guest code is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// Interpreted
    Interp,
    /// Everything is translated at first sight (slow to start; for tests)
    Dbt,
    /// Interpreted while cold, translated where hot
    Tiered,
}

/// What the translating engines may do.
#[derive(Clone, Debug, clap::Args)]
pub struct Translator {
    /// Translator: switch these optimisations off (`help` lists them)
    #[arg(long, value_name = "SWITCH,…", value_delimiter = ',')]
    pub dbt_off: Vec<String>,
    /// Translator: leave only these optimisations on
    #[arg(long, value_name = "SWITCH,…", value_delimiter = ',')]
    pub dbt_only: Vec<String>,
    /// Translator: host memory for translated code: bytes, or with K, M, G
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = crate::args::code_size)]
    pub code_cache: u64,
    /// Translator: name units for Linux perf in /tmp/perf-PID.map
    #[arg(long)]
    pub perf_map: bool,
    /// Translator: executions of a block until it counts as hot
    #[arg(long, value_name = "N", hide = true)]
    pub dbt_threshold: Option<u32>,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Switch(#[from] emu_dbt::options::UnknownSwitch),
    #[error(transparent)]
    Translator(#[from] emu_dbt::engine::DbtError),
}

impl Translator {
    fn options(&self, mut o: emu_dbt::Options) -> Result<emu_dbt::Options, EngineError> {
        if !self.dbt_only.is_empty() {
            o.only(self.dbt_only.iter().map(String::as_str))?;
        }
        o.off(self.dbt_off.iter().map(String::as_str))?;
        o.code_cache = self.code_cache as usize;
        o.threshold = self.dbt_threshold.unwrap_or(o.threshold);
        Ok(o)
    }
}

impl EngineKind {
    /// The engine that translates everything at first sight as this one does once it is warm, if there is such a one: what
    /// looks for the instruction within a unit that is wrong.
    pub fn eager(self) -> Option<Self> {
        match self {
            Self::Interp | Self::Dbt => None,
            Self::Tiered => Some(Self::Dbt),
        }
    }
}

/// A new engine.
pub fn make(kind: EngineKind, t: &Translator) -> Result<Box<dyn Engine>, EngineError> {
    Ok(match kind {
        EngineKind::Interp => Box::new(Interp::default()),
        _ => Box::new(translator(kind, t)?),
    })
}

/// A new translating engine.
pub fn translator(kind: EngineKind, t: &Translator) -> Result<emu_dbt::Dbt, EngineError> {
    let options = match kind {
        EngineKind::Dbt => emu_dbt::Options::everything(),
        _ => emu_dbt::Options::tiered(),
    };
    let mut dbt = emu_dbt::Dbt::new(t.options(options)?)?;
    if t.perf_map {
        dbt.write_perf_map()?;
    }
    Ok(dbt)
}

/// An engine that does not run as it would by itself: what `emu lockstep` puts in its place.
pub struct Altered {
    pub inner: Box<dyn Engine>,
    pub how: How,
}

/// What is different.
pub enum How {
    /// So many instructions at a time: the same machine must come out.
    Sliced(u64),
    /// A fault, to test what looks for faults: after so many instructions a bit of RBX is flipped.
    BrokenAt(u64),
    /// A translator's fault: a unit (up to a branch, whole) with this instruction in it leaves a bit of RBX set; a unit that the
    /// fuel cuts is right.
    BrokenUnit(Vec<u8>),
}

/// The bit of RBX.
const WRONG: u64 = 1 << 4;

impl Altered {
    /// How many instructions to run at once, and whether RBX is to be wrong behind them.
    fn piece(&self, cpu: &mut Vcpu, left: u64) -> (u64, bool) {
        match &self.how {
            How::Sliced(n) => (left.min(*n), false),
            How::BrokenAt(at) => match at.saturating_sub(cpu.retired) {
                0 => (left, false),
                n => (left.min(n), n <= left),
            },
            How::BrokenUnit(insn) => {
                let (count, wrong) = unit(cpu, insn);
                (left.min(count), wrong && count <= left)
            }
        }
    }
}

/// How many instructions the unit at RIP has, and whether this one is among them.
fn unit(cpu: &mut Vcpu, wanted: &[u8]) -> (u64, bool) {
    let state = CpuState::of(cpu);
    let mut bytes = [0; 128];
    if cpu
        .read_bytes(state.code_address(state.rip), &mut bytes, Who::Supervisor)
        .is_err()
    {
        cpu.stop = Default::default();
        return (1, false);
    }
    let mut decoder = Decoder::with_ip(state.code_bits(), &bytes, state.rip, DecoderOptions::NONE);
    let (mut count, mut found) = (0, false);
    while decoder.position() < 112 {
        let from = decoder.position();
        let insn = decoder.decode();
        count += 1;
        found |= &bytes[from..decoder.position()] == wanted;
        if insn.flow_control() != FlowControl::Next {
            break;
        }
    }
    (count, found)
}

impl Engine for Altered {
    fn run(&mut self, cpu: &mut Vcpu, fuel: u64) -> Exit {
        let end = cpu.retired.saturating_add(fuel);
        loop {
            let (n, wrong) = self.piece(cpu, end.saturating_sub(cpu.retired));
            let stop = cpu.retired + n;
            let exit = self.inner.run(cpu, n);
            if wrong && cpu.retired == stop {
                cpu.gpr[reg::RBX] = match self.how {
                    How::BrokenUnit(_) => cpu.gpr[reg::RBX] | WRONG,
                    _ => cpu.gpr[reg::RBX] ^ WRONG,
                };
            }
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
    fn tables(&self) -> Vec<(&'static str, Vec<(String, u64)>)> {
        self.inner.tables()
    }
    fn recent(&self) -> Vec<(u64, u32)> {
        self.inner.recent()
    }
    fn units_at(&self, cpu: &Vcpu, range: std::ops::Range<u64>) -> Vec<u64> {
        self.inner.units_at(cpu, range)
    }
    fn describe_unit(&mut self, cpu: &mut Vcpu, rip: u64) -> Option<String> {
        match self.how {
            How::BrokenUnit(_) => Some(format!("wrong on purpose, at {rip:#x}")),
            _ => self.inner.describe_unit(cpu, rip),
        }
    }
}
