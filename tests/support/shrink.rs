//! Makes a failing case simpler: sets one part of the state after another to zero while it still fails.

use crate::state::{Case, DATA_BYTES, State};

/// The simplest case that `fails` found from `case`.
pub fn shrink(case: &Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let zero = State::default();
    let mut best = case.clone();
    let mut attempt = |best: &mut Case, change: &dyn Fn(&mut State)| {
        let mut c = best.clone();
        change(&mut c.before);
        if c.before != best.before && fails(&c) {
            *best = c;
        }
    };
    for _ in 0..2 {
        let mut size = DATA_BYTES;
        while size >= 8 {
            for at in (0..DATA_BYTES).step_by(size) {
                attempt(&mut best, &|s| s.mem[at..at + size].fill(0));
            }
            size /= 4;
        }
        for n in 0..16 {
            attempt(&mut best, &|s| s.vec[n] = [0; 4]);
            for lane in 0..4 {
                attempt(&mut best, &|s| s.vec[n][lane] = 0);
                attempt(&mut best, &|s| s.vec[n][lane] &= 0xffff_ffff);
                attempt(&mut best, &|s| s.vec[n][lane] &= !0xffff_ffff);
            }
            if n != 4 {
                attempt(&mut best, &|s| s.gpr[n] = 0);
                attempt(&mut best, &|s| s.gpr[n] &= 0xffff_ffff);
                attempt(&mut best, &|s| s.gpr[n] &= 0xffff);
            }
        }
        for n in 0..8 {
            attempt(&mut best, &|s| (s.st[n], s.st_exp[n]) = (0, 0));
        }
        for bit in 0..12 {
            attempt(&mut best, &|s| s.flags &= !(1 << bit));
        }
        for bit in 0..16 {
            attempt(&mut best, &|s| s.fsw &= !(1 << bit));
        }
        attempt(&mut best, &|s| s.mxcsr = zero.mxcsr);
        attempt(&mut best, &|s| s.fcw = zero.fcw);
        attempt(&mut best, &|s| s.ftw = 0);
    }
    best
}
