//! What can be asked of a trace, on the command line and in the debugger.

use super::record::Stream;
use crate::args::{self, Options, number};
use crate::debug::commands::eval;
use crate::debug::session::Ctx;
use clap::{Args, Parser, Subcommand, ValueEnum};
use emu_core::hooks::trace::Filter;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// How entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line each
    Text,
    /// An object each, a line each
    Json,
    /// Compact, for emu trace show
    Binary,
}

/// `emu trace`.
#[derive(Args, Clone)]
#[command(args_conflicts_with_subcommands = true, after_help = crate::status::TABLE)]
pub struct Trace {
    #[command(subcommand)]
    pub command: Option<Sub>,
    #[command(flatten)]
    pub trace: TraceOptions,
    #[command(flatten)]
    pub machine: Options,
}

#[derive(Subcommand, Clone)]
pub enum Sub {
    /// Write out what a trace in the binary format has
    Show(Show),
}

/// Where the guest must be; several of a kind: one of them.
#[derive(Args, Clone, Debug, Default)]
pub struct Where {
    /// Only code at these linear addresses: FROM,TO (TO does not belong to it) or FROM,+LENGTH; numbers or symbols
    #[arg(long, value_name = "FROM,TO", value_parser = range)]
    pub range: Vec<(String, String)>,
    /// Only this function, by its symbol
    #[arg(long, value_name = "NAME")]
    pub function: Vec<String>,
    /// Only this privilege level, 0 to 3
    #[arg(long, value_name = "CPL", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub cpl: Vec<u8>,
    /// Only with this page table: CR3
    #[arg(long, value_name = "CR3", value_parser = number)]
    pub cr3: Vec<u64>,
}

/// What is traced, and where to.
#[derive(Args, Clone, Debug, Default)]
pub struct TraceOptions {
    /// What to write; insn if nothing is said, and neither a coverage nor a profile is wanted
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STREAM,...")]
    pub streams: Vec<Stream>,
    /// Where to: a file, - is standard output; standard error if nothing is said
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How; by default as the file's name has it: .json or .jsonl, .trace (binary), else text
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,
    #[command(flatten)]
    pub filter: Where,
    /// With each instruction the registers that it changed
    #[arg(long)]
    pub registers: bool,
    /// Begin after this many instructions
    #[arg(long, value_name = "N", value_parser = args::count)]
    pub from: Option<u64>,
    /// End after this many entries
    #[arg(long, value_name = "N", value_parser = args::count)]
    pub limit: Option<u64>,
    /// Write the blocks of code that were reached, in DynamoRIO's drcov format, which Lighthouse reads
    #[arg(long, value_name = "FILE")]
    pub coverage: Option<PathBuf>,
    /// Write a profile by calls: a flame graph (.svg), or folded stacks
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Instructions between two samples of the profile
    #[arg(long, value_name = "N", value_parser = args::count, default_value_t = INTERVAL)]
    pub profile_interval: u64,
}

/// Instructions between two samples: a prime, so that a loop is not always met at the same place.
pub const INTERVAL: u64 = 100_003;

/// `emu trace show`.
#[derive(Args, Clone, Debug)]
pub struct Show {
    /// What emu trace has written in its binary format
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only these streams
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STREAM,...")]
    pub streams: Vec<Stream>,
    /// Where to: a file; standard output if nothing is said
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How; by default as the file's name has it
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,
    #[command(flatten)]
    pub filter: Where,
    /// End after this many entries
    #[arg(long, value_name = "N", value_parser = args::count)]
    pub limit: Option<u64>,
}

/// The same in the debugger: `trace on`.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    options: TraceOptions,
}

impl TraceOptions {
    /// From the words of a debugger's line.
    pub fn of_line(line: &str) -> Result<Self, String> {
        match Line::try_parse_from(line.split_whitespace()) {
            Ok(line) => Ok(line.options),
            Err(e) => Err(args::one_line(&e)),
        }
    }
}

/// As GDB's `disassemble` has a range.
fn range(s: &str) -> Result<(String, String), String> {
    match s.split_once(',') {
        Some((from, to)) if !from.trim().is_empty() && !to.trim().is_empty() => {
            Ok((from.trim().into(), to.trim().into()))
        }
        _ => Err("give FROM,TO or FROM,+LENGTH, such as 0x1000,0x2000 or start_kernel,+64".into()),
    }
}

impl TraceOptions {
    /// The streams, as they are by default.
    pub fn streams(&self) -> Vec<Stream> {
        match self.streams.is_empty() && self.coverage.is_none() && self.profile.is_none() {
            true => vec![Stream::Insn],
            false => self.streams.clone(),
        }
    }
}

/// The addresses from `from` to before `to`, or so many as `+LENGTH` says.
pub fn addresses(
    (from, to): &(String, String),
    mut value: impl FnMut(&str) -> Result<u64, String>,
) -> Result<RangeInclusive<u64>, String> {
    let first = value(from)?;
    let end = match to.strip_prefix('+') {
        Some(length) => first.saturating_add(value(length)?),
        None => value(to)?,
    };
    match end.checked_sub(1) {
        Some(last) if last >= first => Ok(first..=last),
        _ => Err(format!("--range {from},{to}: there is nothing in it")),
    }
}

impl Where {
    /// Privilege level and page table; addresses are the caller's to find.
    pub fn spaces(&self) -> Filter {
        Filter {
            ranges: Vec::new(),
            cpl: self.cpl.clone(),
            cr3: self.cr3.clone(),
        }
    }

    /// The filter, by the symbols as they are now.
    pub fn resolve(&self, c: &mut Ctx) -> Result<Filter, String> {
        let mut filter = self.spaces();
        for r in &self.range {
            filter
                .ranges
                .push(addresses(r, |e| Ok(eval(c, e)?.as_u64()))?);
        }
        for name in &self.function {
            let all = c.s.symbols.lookup_all(name, 64);
            if all.is_empty() {
                let hint = c.s.symbols.hint(name);
                return Err(format!(
                    "--function {name}: there is no such symbol{hint}: give --symbols FILE"
                ));
            }
            for at in all {
                let range = c.s.symbols.function_range(at).unwrap_or(at..at + 1);
                filter.ranges.push(range.start..=range.end.max(at + 1) - 1);
            }
        }
        Ok(filter)
    }
}
