//! Commands that let the guest go: steps, continuing, running to a place.

use super::{again, eval, location, nothing, number, row, text, with_view};
use crate::debug::control::{StepInterrupts, Want};
use crate::debug::disasm;
use crate::debug::expr::Space;
use crate::debug::report::Before;
use crate::debug::session::{Answer, Ctx, Outcome, Row, go};
use crate::debug::unwind;
use emu_core::vcpu::reg;
use iced_x86::{FlowControl, Instruction};

pub const TABLE: &[Row] = &[
    again(
        &["stepi", "si", "step", "s"],
        "[N]",
        "execute one instruction (one iteration of a rep), or N",
        stepi,
    ),
    again(
        &["nexti", "ni", "next", "n"],
        "",
        "execute one instruction, but go through calls, interrupts and repetitions",
        nexti,
    ),
    again(
        &["continue", "c", "fg"],
        "[N]",
        "let the guest run; with N, pass the breakpoint where it is N-1 times",
        cont,
    ),
    row(
        &["finish", "fin"],
        "",
        "run until the current function returns",
        finish,
    ),
    again(
        &["until", "u", "advance"],
        "[LOCATION]",
        "run to a location; without one, behind the current instruction (out of a loop)",
        until,
    ),
    row(
        &["insns"],
        "COUNT",
        "run until so many instructions have retired in all",
        insns,
    ),
    row(
        &["reset"],
        "",
        "reset the machine, as its button would",
        reset,
    ),
    row(
        &["detach"],
        "",
        "let the guest run without a debugger; its breakpoints go",
        detach,
    ),
    row(
        &["quit", "q", "kill", "exit"],
        "",
        "end the guest and emu",
        |_, _, _| Ok(Outcome::Quit),
    ),
];

/// The instruction at RIP.
pub fn current(c: &Ctx) -> Option<Instruction> {
    with_view(c, Space::Linear, |view| {
        let mut bytes = [0; 15];
        let at = view.pc?;
        let n = view.read_some(at, &mut bytes);
        disasm::decode(&bytes[..n], at, view.code_bits)
    })
}

fn stepi(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let n = number(c, rest, 1)?;
    if n == 0 {
        return text("");
    }
    c.s.before = Some(Before::of(&c.vm.runner.cpu, current(c).as_ref(), n));
    go(c, Want::Steps(n), String::new())
}

/// Runs behind the instruction at RIP, in this frame.
fn behind(c: &mut Ctx, insn: &Instruction) -> Answer {
    let cpu = &c.vm.runner.cpu;
    let to = cpu.wrap(cpu.code_address().wrapping_add(disasm::length(insn) as u64));
    let rsp = cpu.gpr[reg::RSP];
    go(c, Want::Return { to, rsp }, String::new())
}

fn nexti(c: &mut Ctx, format: &str, rest: &str) -> Answer {
    nothing(rest, "nexti")?;
    let insn = current(c);
    let over = insn.filter(|i| {
        matches!(
            i.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall | FlowControl::Interrupt
        ) || i.has_rep_prefix() && i.is_string_instruction()
            || i.has_repne_prefix() && i.is_string_instruction()
    });
    let Some(insn) = over else {
        return stepi(c, format, "");
    };
    c.s.before = Some(Before::of(&c.vm.runner.cpu, None, 1));
    behind(c, &insn)
}

fn cont(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    if !rest.is_empty() {
        let passes = number(c, rest, 1)?.saturating_sub(1);
        let at = c.vm.runner.cpu.code_address();
        let hooks = c.vm.runner.cpu.hooks();
        let here: Vec<_> =
            c.s.points
                .list()
                .iter()
                .filter(|p| p.is_at(at))
                .flat_map(|p| p.hooks.iter().copied())
                .collect();
        if here.is_empty() {
            return Err("there is no breakpoint here to be passed".into());
        }
        for id in here {
            if let Some(hook) = hooks.get_mut(id) {
                hook.ignore = passes;
            }
        }
    }
    go(c, Want::Run, "Continuing.\n".into())
}

fn finish(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    nothing(rest, "finish")?;
    let frames = unwind::frames(&c.vm.runner.cpu, &c.s.symbols, 2);
    let Some(caller) = frames.get(1) else {
        return Err(
            "\"finish\" not meaningful in the outermost frame, or its caller cannot be found."
                .into(),
        );
    };
    let name = with_view(c, Space::Linear, |v| {
        crate::debug::format::address(caller.pc, v.symbol)
    });
    let want = Want::Return {
        to: caller.pc,
        rsp: caller.sp,
    };
    go(c, want, format!("Run till exit to {name}\n"))
}

fn until(c: &mut Ctx, format: &str, rest: &str) -> Answer {
    if rest.is_empty() {
        let Some(insn) = current(c) else {
            return stepi(c, format, "");
        };
        // A jump back ends the loop when it is not taken; everything else is a step.
        return match insn.flow_control() {
            FlowControl::Next => nexti(c, format, ""),
            FlowControl::ConditionalBranch | FlowControl::Call | FlowControl::IndirectCall => {
                behind(c, &insn)
            }
            _ => stepi(c, format, ""),
        };
    }
    match location(c, rest)?[..] {
        [(Space::Linear, to), ..] => go(c, Want::Return { to, rsp: 0 }, String::new()),
        _ => Err(
            "a linear address is needed; for a physical one, use \"tbreak\" and \"continue\""
                .into(),
        ),
    }
}

fn insns(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let n = eval(c, rest)?.as_u64();
    let now = c.vm.runner.cpu.retired;
    if n <= now {
        return Err(format!("{now} instructions have retired already"));
    }
    go(c, Want::Count(n), String::new())
}

fn reset(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    nothing(rest, "reset")?;
    c.vm.reset().map_err(|e| e.to_string())?;
    c.vm.runner.cpu.forget_stops();
    c.vm.was_reset(crate::state::Cause::MonitorReset);
    text("The machine is as after power-on, but for its memory.\n")
}

fn detach(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    nothing(rest, "detach")?;
    let hooks = c.vm.runner.cpu.hooks();
    let numbers: Vec<usize> = c.s.points.list().iter().map(|p| p.number).collect();
    for n in numbers {
        c.s.points.remove(hooks, n);
    }
    c.vm.go(Want::Run);
    Ok(Outcome::Detached("Detached; the guest runs on.\n".into()))
}

/// `set step-interrupts`.
pub fn set_step_interrupts(c: &mut Ctx, value: &str) -> Result<(), String> {
    c.vm.debug.step_interrupts = match value {
        "over" => StepInterrupts::Over,
        "into" => StepInterrupts::Into,
        _ => return Err(format!("\"{value}\": over or into is needed")),
    };
    Ok(())
}
