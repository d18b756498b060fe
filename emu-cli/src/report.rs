//! The crash report: registers and the last blocks, for a guest that has triple-faulted.

use emu_core::mem::tlb::Who;
use emu_core::runner::Runner;
use emu_core::state::CpuState;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How many of the last blocks are shown, and how many instructions of each.
const BLOCKS: usize = 8;
const INSNS: u32 = 12;
/// A guest may fault, start anew and fault again without end: it is reported once in this time.
const QUIET: Duration = Duration::from_secs(10);

/// The triple faults of a run.
#[derive(Default)]
pub struct Crashes {
    told: Option<Instant>,
    left_out: u64,
}

impl Crashes {
    /// What is to be said of one more.
    pub fn next(&mut self, runner: &mut Runner) -> String {
        if self.told.is_some_and(|at| at.elapsed() < QUIET) {
            self.left_out += 1;
            return match self.left_out {
                1 => format!(
                    "emu: a triple fault again: from now on one report in {} s (--no-reboot ends the run at the first)\n",
                    QUIET.as_secs()
                ),
                _ => String::new(),
            };
        }
        self.told = Some(Instant::now());
        let mut text = match std::mem::take(&mut self.left_out) {
            0 => String::new(),
            n => format!("emu: {n} triple faults were not reported\n"),
        };
        text.push_str(&crash(runner));
        text
    }
}

/// The report's text.
fn crash(runner: &mut Runner) -> String {
    let state = CpuState::of(&runner.cpu);
    let mut out = format!(
        "emu: triple fault after {} instructions\n{state}\n",
        runner.cpu.retired
    );
    let counts: Vec<String> = runner
        .cpu
        .stats
        .exceptions
        .iter()
        .enumerate()
        .filter(|(_, n)| **n > 0)
        .map(|(vector, n)| format!("{vector}: {n}"))
        .collect();
    let _ = writeln!(out, "exceptions so far by vector: {}", counts.join(", "));
    let mut recent = runner.engine.recent();
    recent.dedup();
    let last = &recent[recent.len().saturating_sub(BLOCKS)..];
    if !last.is_empty() {
        out.push_str("last blocks, oldest first (as memory and mode are now):\n");
    }
    for &(rip, count) in last {
        listing(runner, &state, rip, count.min(INSNS), None, &mut out);
        if count > INSNS {
            let _ = writeln!(out, "  … {} more", count - INSNS);
        }
        out.push('\n');
    }
    out
}

/// Address, bytes and text of `count` instructions from `rip` on, with `>` before the one at `mark`.
pub fn listing(
    runner: &mut Runner,
    state: &CpuState,
    rip: u64,
    count: u32,
    mark: Option<u64>,
    out: &mut String,
) {
    let mut bytes = Vec::new();
    let mut at = state.code_address(rip);
    // A piece at a time: what follows the block may not be mapped.
    while bytes.len() < 15 * count as usize {
        let mut piece = [0; 16];
        let n = 16 - (at & 15) as usize;
        if runner
            .cpu
            .read_bytes(at, &mut piece[..n], Who::Supervisor)
            .is_err()
        {
            runner.cpu.stop = Default::default();
            break;
        }
        bytes.extend(&piece[..n]);
        at = at.wrapping_add(n as u64);
    }
    let mut decoder = Decoder::with_ip(state.code_bits(), &bytes, rip, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    for _ in 0..count {
        if !decoder.can_decode() {
            let _ = writeln!(out, "  {:016x}  (not readable)", decoder.ip());
            break;
        }
        let insn = decoder.decode();
        text.clear();
        formatter.format(&insn, &mut text);
        let start = (insn.ip() - rip) as usize;
        let hex: String = bytes[start..(start + insn.len()).min(bytes.len())]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let sign = if mark == Some(insn.ip()) { '>' } else { ' ' };
        let _ = writeln!(out, "{sign} {:016x}  {hex:<20}  {text}", insn.ip());
    }
}
