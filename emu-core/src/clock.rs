//! The host's monotonic clock, read by its time-stamp counter where that counts at a constant rate.
//!
//! Asking the operating system costs several times RDTSC itself, and guests ask for the time at every turn. So the system's clock is
//! read once in a [`HORIZON`]; between two readings time is a straight line over the counter. The line's slope is the mean rate,
//! corrected so that it meets the system's clock at its end. Time never goes back: a new line begins where the old one is.
//!
//! `unsafe`: RDTSC, which touches no memory.
#![allow(unsafe_code)]

use crate::bus::Nanos;
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence,
};
use std::time::Instant;

/// Ticks for which a line is good (about 1 to 4 ms); also how long the rate is measured before there is a line.
const HORIZON: u64 = 1 << 22;
/// A mean rate that differs from the line's by more than one part in so many was measured over a counter that stood still or was set
/// (a host that slept): it is measured anew.
const STEADY: u64 = 100;

/// [`HostClock::held`] while the clock runs.
const RUNNING: Nanos = Nanos::MAX;

/// Time since power-on, less the time for which the clock was stopped.
#[derive(Debug)]
pub struct HostClock {
    start: Instant,
    counter: Option<Counter>,
    /// The time that a stopped clock shows.
    held: AtomicU64,
    /// How long the clock was stopped in all.
    lost: AtomicU64,
}

/// A line through the counter's values, written under `since`'s lock and read without a lock: `version` is odd while it changes.
#[derive(Debug)]
struct Counter {
    /// Counter and time since when the rate is measured; the writer's.
    since: Mutex<(u64, Nanos)>,
    version: AtomicU64,
    from: AtomicU64,
    ns: AtomicU64,
    /// Nanoseconds a tick, 32 bits before the point and 32 after; 0: there is no line.
    rate: AtomicU64,
}

impl HostClock {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            counter: constant_rate().then(|| Counter::new(ticks())),
            held: AtomicU64::new(RUNNING),
            lost: AtomicU64::new(0),
        }
    }

    #[inline]
    pub fn now(&self) -> Nanos {
        match self.held.load(Relaxed) {
            RUNNING => self.elapsed().saturating_sub(self.lost.load(Relaxed)),
            held => held,
        }
    }

    /// Lets time stand still until [`go`](Self::go). Both are for the thread that runs the guest.
    pub fn stop(&self) {
        self.held.store(self.now(), Relaxed);
    }

    /// Lets time go on from where it was stopped.
    pub fn go(&self) {
        let held = self.held.load(Relaxed);
        if held != RUNNING {
            self.lost
                .store(self.elapsed().saturating_sub(held), Relaxed);
            self.held.store(RUNNING, Relaxed);
        }
    }

    #[inline]
    fn elapsed(&self) -> Nanos {
        match &self.counter {
            None => self.start.elapsed().as_nanos() as Nanos,
            Some(c) => c
                .at(ticks())
                .unwrap_or_else(|| c.renew(ticks, || self.start.elapsed().as_nanos() as Nanos)),
        }
    }
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Counter {
    fn new(first: u64) -> Self {
        Self {
            since: Mutex::new((first, 0)),
            version: AtomicU64::new(0),
            from: AtomicU64::new(0),
            ns: AtomicU64::new(0),
            rate: AtomicU64::new(0),
        }
    }

    /// The time on the line; `None`: beyond it, or it is being changed.
    #[inline]
    fn at(&self, now: u64) -> Option<Nanos> {
        let version = self.version.load(Acquire);
        let since = now.wrapping_sub(self.from.load(Relaxed));
        let (ns, rate) = (self.ns.load(Relaxed), self.rate.load(Relaxed));
        fence(Acquire);
        let whole = version & 1 == 0 && self.version.load(Relaxed) == version;
        (whole && since < HORIZON && rate != 0).then(|| ns + scaled(since, rate))
    }

    /// Begins a new line; the time at its beginning.
    #[cold]
    fn renew(&self, ticks: impl Fn() -> u64, system: impl Fn() -> Nanos) -> Nanos {
        let mut since = self.since.lock().unwrap_or_else(|e| e.into_inner());
        let (now, truth) = (ticks(), system());
        if let Some(ns) = self.at(now) {
            return ns;
        }
        let rate = self.rate.load(Relaxed);
        // Nobody was told a later time than the old line's end.
        let ns = truth.max(self.ns.load(Relaxed) + scaled(HORIZON, rate));
        let total = now.wrapping_sub(since.0);
        if total < HORIZON {
            return ns;
        }
        let mean = ((u128::from(truth - since.1) << 32) / u128::from(total)) as u64;
        let slope = if rate != 0 && mean.abs_diff(rate) > rate / STEADY && ns == truth {
            *since = (now, truth);
            0
        } else {
            let ahead = u128::from(ns - truth) << 32;
            let less = (ahead / u128::from(HORIZON)).min(u128::from(mean / 2));
            (mean - less as u64).max(1)
        };
        self.version.fetch_add(1, Relaxed);
        fence(Release);
        self.from.store(now, Relaxed);
        self.ns.store(ns, Relaxed);
        self.rate.store(slope, Relaxed);
        self.version.fetch_add(1, Release);
        ns
    }
}

/// `ticks`, at most [`HORIZON`], in nanoseconds.
fn scaled(ticks: u64, rate: u64) -> Nanos {
    ((u128::from(ticks) * u128::from(rate)) >> 32) as Nanos
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC, and Linux, macOS and Windows let programs use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    0
}

/// Whether the host says that its counter's rate is constant (AMD APM Vol. 3, E.4.7; SDM Vol. 3B, 19.17.1: Fn8000_0007_EDX[8]).
fn constant_rate() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::__cpuid;
        __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx >> 8 & 1 != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Walks through `steps` of ticks and what the system's clock says after them; the largest distance to it from the third on.
    fn walk(steps: &[(u64, Nanos)]) -> Nanos {
        let c = Counter::new(1000);
        let (mut t, mut truth, mut last, mut worst) = (1000, 0, 0, 0);
        for (k, &(ticks, ns)) in steps.iter().enumerate() {
            let from = Cell::new(t);
            t += ticks;
            truth += ns;
            // Readings on the way never go back.
            for _ in 0..8 {
                from.set(from.get() + ticks / 8);
                if let Some(v) = c.at(from.get()) {
                    assert!(v >= last, "{v} after {last}");
                    last = v;
                }
            }
            let v = c.at(t).unwrap_or_else(|| c.renew(|| t, || truth));
            assert!(v >= last, "{v} after {last}");
            last = v;
            if k > 2 {
                worst = worst.max(v.abs_diff(truth));
            }
        }
        worst
    }

    #[test]
    fn the_line_follows_the_system_clock() {
        // 2 GHz, in steps of a quarter of the horizon.
        let steady = [(HORIZON / 4, HORIZON / 8); 200];
        assert!(walk(&steady) <= 2);
        // The system's clock is slewed by 500 ppm for a while.
        let mut slewed = steady;
        for s in &mut slewed[100..150] {
            s.1 += s.1 / 2000;
        }
        assert!(walk(&slewed) < 4000);
    }

    #[test]
    fn after_a_sleep_time_is_the_systems() {
        // The counter ran on; and it stood still, after which the line is a horizon behind at most, and the rate soon right again.
        let long = [(HORIZON * 1000, HORIZON * 500); 10];
        assert!(walk(&long) <= 2);
        let mut steps = [(HORIZON / 4, HORIZON / 8); 400];
        steps[20] = (HORIZON, 10_000_000_000);
        assert!(walk(&steps) <= 4);
    }

    #[test]
    fn a_stopped_clock_loses_no_time() {
        let c = HostClock::new();
        let began = Instant::now();
        for _ in 0..3 {
            c.stop();
            let at = c.now();
            std::thread::sleep(std::time::Duration::from_millis(40));
            assert_eq!(c.now(), at);
            c.go();
            assert!(c.now() >= at && c.now() - at < 30_000_000);
        }
        let all = began.elapsed().as_nanos() as Nanos;
        assert!(c.now() + 115_000_000 < all, "{} of {all}", c.now());
        c.go();
        assert!(c.now() + 115_000_000 < all + 30_000_000);
    }

    #[test]
    fn it_runs_with_the_systems_clock() {
        let c = HostClock::new();
        let mut last = 0;
        for _ in 0..200_000 {
            let (before, v) = (c.start.elapsed().as_nanos() as Nanos, c.now());
            assert!(v >= last);
            last = v;
            assert!(v + 1_000_000 > before, "{v} at {before}");
        }
        assert!(last < c.start.elapsed().as_nanos() as Nanos + 1_000_000);
    }
}
