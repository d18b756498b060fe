//! Letting the guest go for a client, forwards and back.

use super::{Ended, Machine};
use crate::debug::control::{Reason, Stop, Want};
use crate::vm::Vm;
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{
    ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};

impl MultiThreadResume for Machine {
    fn resume(&mut self) -> Result<(), Ended> {
        let (want, bell) = (self.want, self.bell.clone());
        let moved = std::mem::take(&mut self.moved);
        self.visit(move |vm| {
            bell.clear();
            let going = vm.go(want);
            if moved {
                vm.runner.cpu.forget_stops();
            }
            if !going {
                bell.stopped(Stop {
                    reasons: vec![Reason::Ended],
                    retired: vm.runner.cpu.retired,
                });
            }
        })
    }

    fn clear_resume_actions(&mut self) -> Result<(), Ended> {
        self.want = Want::Run;
        Ok(())
    }

    // A signal means nothing to a machine.
    fn set_resume_action_continue(&mut self, _: Tid, _: Option<Signal>) -> Result<(), Ended> {
        self.want = Want::Run;
        Ok(())
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        self.goes_back().then_some(self)
    }
    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        self.goes_back().then_some(self)
    }
    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }
    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl Machine {
    /// Whether the machine has a way back; what has ended has none.
    fn goes_back(&mut self) -> bool {
        self.visit(|vm| vm.can_go_back()).unwrap_or(false)
    }

    /// Goes back, and stops there.
    fn back(
        &mut self,
        go: impl FnOnce(&mut Vm) -> Result<Reason, String> + Send + 'static,
    ) -> Result<(), Ended> {
        let bell = self.bell.clone();
        self.visit(move |vm| {
            bell.clear();
            let reason = go(vm).unwrap_or(Reason::Beginning);
            bell.stopped(Stop {
                reasons: vec![reason],
                retired: vm.runner.cpu.retired,
            });
        })
    }
}

impl ReverseStep<Tid> for Machine {
    fn reverse_step(&mut self, _: Tid) -> Result<(), Ended> {
        self.back(|vm| vm.step_back(1).map(|()| Reason::Done))
    }
}

impl ReverseCont<Tid> for Machine {
    fn reverse_cont(&mut self) -> Result<(), Ended> {
        self.back(|vm| vm.run_back().map(Reason::Hit))
    }
}

impl MultiThreadSingleStep for Machine {
    fn set_resume_action_step(&mut self, _: Tid, _: Option<Signal>) -> Result<(), Ended> {
        self.want = Want::Steps(1);
        Ok(())
    }
}

impl MultiThreadRangeStepping for Machine {
    fn set_resume_action_range_step(&mut self, _: Tid, from: u64, to: u64) -> Result<(), Ended> {
        self.want = Want::Range { from, to };
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Ended> {
        Ok(())
    }
}
