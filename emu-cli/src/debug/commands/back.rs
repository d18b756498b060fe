//! Commands that go back in time.

use super::{again, nothing, number, row, text};
use crate::debug::Reason;
use crate::debug::report::{self, Before};
use crate::debug::session::{Answer, Ctx, Outcome, Row};

/// Instructions that `history` shows at most.
const MOST: u64 = 100_000;

pub const TABLE: &[Row] = &[
    again(
        &["reverse-stepi", "rsi", "reverse-step", "rs"],
        "[N]",
        "go back one instruction, or N",
        |c, _, rest| {
            let n = number(c, rest, 1)?;
            moved(c, |c| c.vm.step_back(n))
        },
    ),
    again(
        &["reverse-nexti", "rni", "reverse-next", "rn"],
        "[N]",
        "go back one instruction of this function, or N: over calls and interrupts, whatever is hit in them",
        |c, _, rest| {
            let n = number(c, rest, 1)?;
            moved(c, |c| c.vm.step_back_over(n))
        },
    ),
    row(
        &["history"],
        "[N]",
        "the last N instructions (10), and what each changed",
        history,
    ),
    again(
        &["reverse-continue", "rc"],
        "",
        "go back to the last place where a breakpoint, watchpoint or catchpoint would have stopped the guest",
        |c, _, rest| {
            nothing(rest, "reverse-continue")?;
            let before = Before::of(&c.vm.runner.cpu, None, 0);
            match c.vm.run_back() {
                Ok(hit) => {
                    let why = report::reason_text(c, &Reason::Hit(hit));
                    text(why + &report::moved(c, &before))
                }
                Err(e) => Ok(Outcome::Text(format!("{e}\n{}", report::moved(c, &before)))),
            }
        },
    ),
    row(
        &["goto"],
        "COUNT",
        "go to where so many instructions have retired, forwards or back",
        |c, _, rest| {
            if rest.is_empty() {
                return Err("a count is needed: \"goto COUNT\"".into());
            }
            let n = number(c, rest, 0)?;
            moved(c, |c| c.vm.go_to(n))
        },
    ),
];

/// Goes back, and comes here again step by step.
fn history(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let n = number(c, rest, 10)?.min(MOST);
    let to = c.vm.runner.cpu.retired;
    let mut out = String::new();
    c.vm.go_to(to.saturating_sub(n))?;
    while c.vm.runner.cpu.retired < to {
        let next = c.vm.runner.cpu.retired + 1;
        let insn = super::run::current(c);
        let before = Before::of(&c.vm.runner.cpu, insn.as_ref(), 1);
        out += report::here(c).trim_start_matches("=>");
        c.vm.go_to(next)?;
        out += &report::changes(c, &before);
    }
    text(out)
}

/// Goes somewhere else in time, and says what is other there.
fn moved(c: &mut Ctx, go: impl FnOnce(&mut Ctx) -> Result<(), String>) -> Answer {
    let before = Before::of(&c.vm.runner.cpu, None, 0);
    let done = go(c);
    let said = report::moved(c, &before);
    match done {
        Ok(()) => text(said),
        Err(e) => Ok(Outcome::Text(format!("{e}\n{said}"))),
    }
}
