//! Run control: lets the guest run for a purpose, and tells the listeners when that is fulfilled or something else stops it.
//!
//! What a debugger's user calls one thing may be several stops of the machine: a step before which an interrupt comes first runs
//! the interrupt's handler to its return (unless the user wants to step into it), a step over a call runs to a place that only
//! this frame reaches, a range is stepped until it is left. All that is done here, between slices; only the last stop is told.
//!
//! Invariant: while the guest is stopped no temporary place of ours is among the hooks.

use super::session;
use crate::state::RunState;
use crate::vm::Vm;
use emu_core::hooks::{Cause, Hit, HookId, NOBODY, Space, What};
use emu_core::vcpu::{Vcpu, reg};
use std::sync::mpsc::{Receiver, channel};

/// What the guest runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Until something stops it.
    Run,
    /// So many instructions, at least 1.
    Steps(u64),
    /// Until the instruction at RIP is outside this range of linear addresses; one instruction at least.
    Range { from: u64, to: u64 },
    /// To a linear address, by who has not less stack than given: behind a call, or in the caller.
    Return { to: u64, rsp: u64 },
    /// To this count of retired instructions.
    Count(u64),
}

/// Why the guest stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A hook.
    Hit(Hit),
    /// What it ran for is done.
    Done,
    /// A step came into an interrupt's handler.
    Interrupt { vector: u8 },
    /// Somebody wants it to stand still.
    Paused,
    /// The vCPU is in shutdown; when the guest goes on the machine is reset.
    TripleFault,
    /// It has powered off, or crashed, and `--no-shutdown` keeps it.
    Ended,
    /// It went back to its first instruction.
    Beginning,
    /// It has halted with interrupts off, and nothing can wake it.
    Halted,
}

/// A stop, as listeners hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub reasons: Vec<Reason>,
    pub retired: u64,
}

/// What an interrupt does that comes before an instruction that is stepped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepInterrupts {
    /// Its handler runs to its return, then the instruction is stepped.
    #[default]
    Over,
    /// The step ends at the handler's first instruction.
    Into,
}

/// A place that only control knows of.
#[derive(Clone, Copy, Debug)]
struct Temporary {
    id: HookId,
    /// It is where an interrupt returns to: then the step goes on.
    step: bool,
}

/// Hears of a stop on the machine's thread; false: it hears no more.
pub type Listener = Box<dyn Fn(&Stop) -> bool + Send>;

/// See the module's comment.
#[derive(Default)]
pub struct Debug {
    listeners: Vec<Listener>,
    /// Debuggers that are there: they are asked before the machine is reset by a triple fault.
    pub attached: usize,
    want: Option<Want>,
    temporary: Option<Temporary>,
    /// Where the last step ended.
    stepped_to: u64,
    pub step_interrupts: StepInterrupts,
    /// The last stop that was told.
    pub last: Option<Stop>,
    /// The vCPU is in shutdown, seen by the user: going on is a reset.
    reset_on_going: bool,
}

impl Debug {
    /// Another listener to stops.
    pub fn listen(&mut self) -> Receiver<Stop> {
        let (to, from) = channel();
        self.listen_by(Box::new(move |stop| to.send(stop.clone()).is_ok()));
        from
    }

    /// Another listener to stops, who is called.
    pub fn listen_by(&mut self, listener: Listener) {
        self.listeners.push(listener);
    }

    /// The count of retired instructions at which control wants to look.
    pub fn limit(&self) -> u64 {
        match self.want {
            Some(Want::Count(n)) => n,
            _ => u64::MAX,
        }
    }

    /// Nobody hears of anything any more: the run has ended.
    pub fn close(&mut self) {
        self.listeners.clear();
    }
}

impl Vm {
    /// Lets the guest run for a purpose; false: it has ended, and has to be reset first.
    pub fn go(&mut self, want: Want) -> bool {
        if self.state() == RunState::Running {
            return true;
        }
        if std::mem::take(&mut self.debug.reset_on_going) {
            self.reset_wanted = true;
        }
        self.debug.want = Some(want);
        self.debug.stepped_to = self.runner.cpu.code_address();
        match want {
            Want::Steps(_) | Want::Range { .. } => self.runner.cpu.hooks().step(),
            Want::Return { to, rsp } => self.place(to, rsp, false),
            Want::Run | Want::Count(_) => {}
        }
        if self.runner.cpu.hooks.is_some() {
            self.runner.cpu.pass_here();
        }
        let going = self.cont();
        if !going {
            self.debug.want = None;
            self.remove_temporary();
        }
        going
    }

    /// A hook stopped the machine.
    pub fn hooked(&mut self) {
        let mut hits = self.runner.cpu.take_stops();
        let kernel = self.session.as_ref().and_then(|s| s.kernel.hook());
        let before = hits.len();
        hits.retain(|h| Some(h.id) != kernel);
        if hits.len() != before {
            session::own_hook(self);
            if hits.is_empty()
                && matches!(self.debug.want, Some(Want::Steps(_) | Want::Range { .. }))
            {
                // The step's own stop gave way to it.
                return self.stepped();
            }
        }
        let temporary = self.debug.temporary.map(|t| t.id);
        let (own, mut others): (Vec<Hit>, Vec<Hit>) = hits
            .into_iter()
            .partition(|h| h.id == NOBODY || Some(h.id) == temporary);
        let steps_on = own.iter().any(|h| h.cause == Cause::Code)
            && self.debug.temporary.is_some_and(|t| t.step);
        // Back behind an interrupt, the instruction that is to be stepped has been seen already.
        others.retain(|h| !(steps_on && h.cause == Cause::Code));
        if !others.is_empty() {
            return self.tell(others.into_iter().map(Reason::Hit).collect());
        }
        let into = self.debug.step_interrupts == StepInterrupts::Into;
        // Reasons of our own come one at a time.
        if let Some(hit) = own.into_iter().next() {
            match hit.cause {
                Cause::SteppedIntoInterrupt { vector, .. } if into => {
                    self.tell(vec![Reason::Interrupt { vector }]);
                }
                // Its handler runs until it is back there.
                Cause::SteppedIntoInterrupt { lin, rsp, .. } => self.place(lin, rsp, true),
                Cause::Step => self.stepped(),
                _ => self.at_place(),
            }
        }
    }

    /// One instruction is done.
    fn stepped(&mut self) {
        let more = match &mut self.debug.want {
            Some(Want::Steps(left)) => {
                *left = left.saturating_sub(1);
                *left > 0
            }
            Some(Want::Range { from, to }) => {
                (*from..*to).contains(&self.runner.cpu.code_address())
            }
            _ => false,
        };
        if !more {
            return self.tell(vec![Reason::Done]);
        }
        let here = self.runner.cpu.code_address();
        if std::mem::replace(&mut self.debug.stepped_to, here) != here {
            // A breakpoint on the way ends the steps, but not one at an instruction that repeats.
            self.runner.cpu.stop_here();
        }
        self.runner.cpu.hooks().step();
    }

    /// The guest is at our place.
    fn at_place(&mut self) {
        let step = self.debug.temporary.is_some_and(|t| t.step);
        self.remove_temporary();
        match step {
            true => self.runner.cpu.hooks().step(),
            false => self.tell(vec![Reason::Done]),
        }
    }

    /// Sets our place: a linear address, with at least so much of the stack taken back.
    fn place(&mut self, at: u64, rsp: u64, step: bool) {
        self.remove_temporary();
        let what = What::Code {
            space: Space::Linear,
            at,
        };
        let back = move |cpu: &mut Vcpu, _: &Cause| match step {
            true => cpu.gpr[reg::RSP] == rsp,
            false => cpu.gpr[reg::RSP] >= rsp,
        };
        let id = self.runner.cpu.hooks().add(what, Some(Box::new(back)));
        self.debug.temporary = Some(Temporary { id, step });
    }

    fn remove_temporary(&mut self) {
        if let Some(t) = self.debug.temporary.take() {
            self.runner.cpu.hooks().remove(t.id);
        }
    }

    /// Between slices: whether what the guest runs for is done.
    pub fn check_count(&mut self) {
        if let Some(Want::Count(n)) = self.debug.want
            && self.runner.cpu.retired >= n
        {
            self.tell(vec![Reason::Done]);
        }
    }

    /// The vCPU is in shutdown. True: a debugger is there, and the machine stands still for it.
    pub fn triple_fault(&mut self) -> bool {
        if self.debug.attached == 0 {
            return false;
        }
        self.debug.reset_on_going = true;
        self.tell(vec![Reason::TripleFault]);
        true
    }

    /// The guest has halted for good. True: a debugger is there to see it.
    pub fn halted(&mut self) -> bool {
        let seen = self.debug.attached > 0;
        if seen {
            self.tell(vec![Reason::Halted]);
        }
        seen
    }

    /// Stops the guest and tells why.
    fn tell(&mut self, reasons: Vec<Reason>) {
        self.stop(RunState::Debug);
        self.told(reasons);
    }

    /// The guest has stopped: all who listen hear of it.
    pub fn told(&mut self, reasons: Vec<Reason>) {
        self.remove_temporary();
        self.debug.want = None;
        if self.runner.cpu.hooks.is_some() {
            // A step that was to come is none any more.
            self.runner.cpu.take_stops();
        }
        let stop = Stop {
            reasons,
            retired: self.runner.cpu.retired,
        };
        self.debug.last = Some(stop.clone());
        self.debug.listeners.retain(|tell| tell(&stop));
    }
}
