//! What `emu lockstep` tells about the first instruction that differs.

use super::pair::{Difference, Pair, Stopped};
use crate::error::Error;
use crate::report::listing;
use emu_core::state::CpuState;
use std::fmt::Write;

/// Instructions listed where no block is known.
const AROUND: u32 = 8;

/// A line for each machine and field, `*` before what differs.
pub fn list(names: &[String; 2], found: &[Difference]) -> String {
    let mut out = String::new();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    for d in found {
        let _ = writeln!(
            out,
            "* {:<14} {:<width$}  {}\n  {:<14} {:<width$}  {}",
            d.field, names[0], d.values[0], "", names[1], d.values[1]
        );
    }
    out
}

/// The whole story: `before` instructions leave the machines alike, the next is wrong, and that shows after `end + 1`.
pub fn tell(pair: &mut Pair, before: u64, end: u64) -> Result<String, Error> {
    let failed = |s| match s {
        Stopped::Failed(e) => Err(e),
        // Ended by the user: what is known is told.
        _ => Ok(Vec::new()),
    };
    let names = pair.names();
    // The state before, from the first machine; then after, from both.
    pair.probe(before).or_else(failed)?;
    let runner = &mut pair.vms[0].runner;
    let state = CpuState::of(&runner.cpu);
    let rip = state.rip;
    let mut story = format!(
        "emu: lockstep: {} and {} differ after instruction {} (alike after {before})\n",
        names[0],
        names[1],
        before + 1
    );
    let mut code = String::new();
    listing(runner, &state, rip, 1, None, &mut code);
    let delivered: u64 = runner.cpu.stats.exceptions.iter().sum();
    let found = pair.probe(end + 1).or_else(failed)?;
    story += code.trim_end();
    story.push('\n');
    if before == end && pair.vms[0].runner.cpu.stats.exceptions.iter().sum::<u64>() > delivered {
        story += "  (an exception is delivered here)\n";
    }
    if before != end {
        let _ = writeln!(
            story,
            "  (in a unit whose end is instruction {}: the states after it are compared)",
            end + 1
        );
    }
    let recent = pair.vms[1].runner.engine.recent();
    let around = recent
        .last()
        .copied()
        .filter(|&(at, n)| rip.wrapping_sub(at) <= 15 * u64::from(n));
    let (at, count) = around.unwrap_or((rip, AROUND));
    let mut block = String::new();
    let runner = &mut pair.vms[0].runner;
    listing(runner, &state, at, count, Some(rip), &mut block);
    let _ = write!(
        story,
        "\nthe block around it:\n{block}\nstate before, in both:\n{state}\n\ndifferences after:\n{}",
        list(&names, &found)
    );
    let second = &mut pair.vms[1].runner;
    for at in [at, rip] {
        if let Some(unit) = second.engine.describe_unit(&mut second.cpu, at) {
            let _ = write!(
                story,
                "\ntranslation unit at {at:#x} ({}):\n{unit}\n",
                names[1]
            );
            break;
        }
    }
    Ok(story)
}
