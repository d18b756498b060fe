//! Going to any instruction of the run, and back to where a hook was hit.

use super::Timeline;
use crate::vm::Vm;
use emu_core::hooks::{Cause, Hit, HookId};
use emu_core::runner::Step;
use emu_core::vcpu::Vcpu;

/// Why a run to somewhere did not get there.
const ENDED: &str = "the guest ends before that";
const WAITS: &str = "the guest waits there for something from outside";
const NO_TIMELINE: &str = "going back needs --clock virtual, and a machine without drives that are written to (snapshot=on does not help)";
/// Instructions after which networks are looked at.
const PIECE: u64 = 1_000_000;
/// GDB's words.
pub(super) const BEGINNING: &str = "No more reverse-execution history.";

/// A place where a hook was hit.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) retired: u64,
    pub(super) hit: Hit,
    /// The vCPU is before the instruction, and perhaps behind an interrupt that came at the same count.
    before: bool,
}

/// Counts of the hooks, to be put back.
pub(super) type Counts = Vec<(HookId, u64, u64)>;

impl Vm {
    /// Whether there is a way back.
    pub fn can_go_back(&self) -> bool {
        self.has_timeline().is_ok()
    }

    pub(super) fn has_timeline(&self) -> Result<(), String> {
        match &self.timeline {
            Some(t) if t.interval > 0 => Ok(()),
            _ => Err(NO_TIMELINE.into()),
        }
    }

    /// Goes to where so many instructions have retired, forwards or back.
    pub fn go_to(&mut self, retired: u64) -> Result<(), String> {
        self.has_timeline()?;
        if retired < self.runner.cpu.retired || self.mid_instruction() {
            self.restore_before(retired)?;
        }
        let seen = self.timeline.as_ref().map_or(0, |t| t.seen);
        let known = retired.min(seen.max(self.runner.cpu.retired));
        self.quietly(|vm| vm.run_to(known, &mut |_| ()))?;
        let done = match known < retired {
            true => self.run_on_to(retired),
            false => Ok(()),
        };
        self.runner.cpu.forget_stops();
        done
    }

    /// Goes where nobody has been yet: the guest is heard, and its networks too, but it does not wait for them.
    fn run_on_to(&mut self, retired: u64) -> Result<(), String> {
        self.runner.cpu.hooks().suspend(true);
        let mut done = Ok(());
        while done.is_ok() && self.runner.cpu.retired < retired {
            self.feed_networks();
            self.runner.waits = false;
            let next = retired.min(self.runner.cpu.retired + PIECE);
            done = self.run_to(next, &mut |_| ());
        }
        self.runner.cpu.hooks().suspend(false);
        done
    }

    /// The instruction before.
    pub fn step_back(&mut self, n: u64) -> Result<(), String> {
        self.has_timeline()?;
        let now = self.runner.cpu.retired;
        let partly = u64::from(self.mid_instruction());
        match (now + partly).checked_sub(n) {
            Some(to) => self.go_to(to),
            None => {
                self.go_to(0)?;
                Err(BEGINNING.into())
            }
        }
    }

    /// Some iterations of a repetition are done that do not count yet.
    pub(super) fn mid_instruction(&self) -> bool {
        self.runner.cpu.in_repeat
    }

    /// Goes back to the last place before here where a hook would have stopped the guest.
    pub fn run_back(&mut self) -> Result<Hit, String> {
        self.has_timeline()?;
        let counts = self.counts();
        let done = match self.last_hit(self.runner.cpu.retired, &|_| false)? {
            Some(f) => self.arrive(f).map(|()| f.hit),
            None => self.go_to(0).and(Err(BEGINNING.into())),
        };
        self.put_counts(&counts);
        done
    }

    /// Where a hook was hit last before a count; `enough`: at a checkpoint, that there is no need to look farther back.
    pub(super) fn last_hit(
        &mut self,
        mut to: u64,
        enough: &dyn Fn(&Vcpu) -> bool,
    ) -> Result<Option<Found>, String> {
        loop {
            let Some(point) = to.checked_sub(1) else {
                return Ok(None);
            };
            let from = self.restore_before(point)?;
            let enough = enough(&self.runner.cpu);
            let mut last = None;
            self.aloud(|vm| {
                vm.run_to(to, &mut |f| {
                    if f.retired < to {
                        last = Some(f);
                    }
                })
            })?;
            if last.is_some() || enough {
                return Ok(last);
            }
            to = from;
        }
    }

    fn arrive(&mut self, f: Found) -> Result<(), String> {
        self.go_to(f.retired)?;
        if f.before {
            // Interrupts at the same count come before the place.
            self.runner.cpu.forget_stops();
            self.aloud(|vm| {
                vm.runner.cpu.arm_hooks();
                vm.step_until_stop(f.retired + 1)
            })?;
        }
        self.runner.cpu.take_stops();
        Ok(())
    }

    fn step_until_stop(&mut self, limit: u64) -> Result<(), String> {
        while self.runner.cpu.retired < limit {
            self.tick();
            let limit = limit.min(self.timeline_limit());
            if self.runner.step(limit) == Step::Debug {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Restores the last checkpoint at or before this count; its count.
    fn restore_before(&mut self, retired: u64) -> Result<u64, String> {
        let mut t: Box<Timeline> = self.timeline.take().ok_or(NO_TIMELINE)?;
        t.seen = t.seen.max(self.runner.cpu.retired);
        let n = t.points.partition_point(|p| p.at.retired <= retired);
        let Some(n) = n.checked_sub(1) else {
            self.timeline = Some(t);
            return Err(BEGINNING.into());
        };
        self.with_pc(|pc| pc.flush());
        t.restore(self, n);
        self.timeline = Some(t);
        Ok(self.runner.cpu.retired)
    }

    /// Without hooks, and without a word from the guest.
    fn quietly<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> T {
        self.runner.cpu.hooks().suspend(true);
        let done = self.aloud(f);
        self.runner.cpu.hooks().suspend(false);
        done
    }

    /// With hooks, but without a word from the guest.
    fn aloud<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> T {
        self.mute(true);
        let done = f(self);
        self.mute(false);
        done
    }

    /// Runs until so many instructions have retired; `hit` hears of hooks.
    fn run_to(&mut self, retired: u64, hit: &mut dyn FnMut(Found)) -> Result<(), String> {
        while self.runner.cpu.retired < retired {
            self.tick();
            if std::mem::take(&mut self.reset_wanted) {
                self.reset().map_err(|e| e.to_string())?;
            }
            let fed = self.timeline_limit();
            match self.runner.step(retired.min(fed)) {
                Step::Ran | Step::GuestPanic(_) => {}
                Step::Debug => {
                    let retired = self.runner.cpu.retired;
                    for h in self.runner.cpu.take_stops() {
                        let before = matches!(
                            h.cause,
                            Cause::Code | Cause::Exception(_) | Cause::Interrupt { .. }
                        );
                        hit(Found {
                            retired,
                            hit: h,
                            before,
                        });
                    }
                }
                Step::Reset | Step::TripleFault if self.ends_at_reset() => {
                    return Err(ENDED.into());
                }
                Step::Init => self.init().map_err(|e| e.to_string())?,
                Step::Reset | Step::TripleFault => self.reset().map_err(|e| e.to_string())?,
                // The next input comes at this very time.
                Step::Idle(_) if self.input_is_due() => {}
                Step::Idle(_) => return Err(WAITS.into()),
                Step::Halted | Step::PowerOff | Step::DebugExit(_) => return Err(ENDED.into()),
            }
        }
        Ok(())
    }

    fn ends_at_reset(&self) -> bool {
        self.timeline.as_ref().is_some_and(|t| t.no_reboot)
    }

    fn input_is_due(&self) -> bool {
        let now = self.runner.cpu.now();
        let next = self.timeline.as_ref().and_then(|t| t.log.get(t.next));
        next.is_some_and(|l| l.at <= now)
    }

    pub(super) fn counts(&mut self) -> Counts {
        let list = self.runner.cpu.hooks().list().iter();
        list.map(|h| (h.id, h.hits, h.ignore)).collect()
    }

    pub(super) fn put_counts(&mut self, counts: &Counts) {
        for &(id, hits, ignore) in counts {
            if let Some(h) = self.runner.cpu.hooks().get_mut(id) {
                (h.hits, h.ignore) = (hits, ignore);
            }
        }
    }
}
