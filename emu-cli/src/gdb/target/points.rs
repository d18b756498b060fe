//! A client's breakpoints and watchpoints: hooks of its own.

use super::{EINVAL, ENOSPC, Kind, MOST_POINTS, Machine, Point, WIDEST};
use emu_core::hooks::What;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::{TargetError, TargetResult};

impl Machine {
    fn add(&mut self, kind: Kind, at: u64, len: u64) -> TargetResult<bool, Self> {
        let same = |p: &&Point| p.kind == kind && p.at == at && p.len == len;
        if self.points.iter().any(|p| same(&p)) {
            return Ok(true);
        }
        if self.points.len() >= MOST_POINTS {
            return Err(TargetError::Errno(ENOSPC));
        }
        if !(1..=WIDEST).contains(&len) {
            return Err(TargetError::Errno(EINVAL));
        }
        let space = self.place();
        let what = match kind {
            Kind::Software | Kind::Hardware => What::Code { space, at },
            Kind::Watch(k) => What::Data {
                space,
                at,
                len,
                read: k != WatchKind::Write,
                write: k != WatchKind::Read,
                changed: false,
            },
        };
        let hook = self
            .visit(move |vm| vm.runner.cpu.hooks().add(what, None))
            .map_err(TargetError::Fatal)?;
        self.points.push(Point {
            kind,
            at,
            len,
            hook,
        });
        Ok(true)
    }

    fn remove(&mut self, kind: Kind, at: u64, len: u64) -> TargetResult<bool, Self> {
        let same = |p: &Point| p.kind == kind && p.at == at && p.len == len;
        let Some(n) = self.points.iter().position(same) else {
            // Removal is to be done as often as it is asked for.
            return Ok(true);
        };
        let hook = self.points.swap_remove(n).hook;
        self.visit(move |vm| vm.runner.cpu.hooks().remove(hook))
            .map_err(TargetError::Fatal)?;
        Ok(true)
    }
}

impl Breakpoints for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Machine {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.add(Kind::Software, at, 1)
    }
    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.remove(Kind::Software, at, 1)
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.add(Kind::Hardware, at, 1)
    }
    fn remove_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.remove(Kind::Hardware, at, 1)
    }
}

impl HwWatchpoint for Machine {
    fn add_hw_watchpoint(&mut self, at: u64, len: u64, k: WatchKind) -> TargetResult<bool, Self> {
        self.add(Kind::Watch(k), at, len)
    }
    fn remove_hw_watchpoint(
        &mut self,
        at: u64,
        len: u64,
        k: WatchKind,
    ) -> TargetResult<bool, Self> {
        self.remove(Kind::Watch(k), at, len)
    }
}
