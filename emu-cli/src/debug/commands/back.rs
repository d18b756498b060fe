//! Commands that go back in time.

use super::{again, nothing, number, row, text};
use crate::debug::report::{self, Before};
use crate::debug::session::{Answer, Ctx, Outcome, Row};

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
        &["reverse-continue", "rc"],
        "",
        "go back to the last place where a breakpoint, watchpoint or catchpoint would have stopped the guest",
        |c, _, rest| {
            nothing(rest, "reverse-continue")?;
            moved(c, |c| c.vm.run_back())
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
