//! The figures, as `report.json` keeps them and the table and the page show them.
//!
//! Speed-ups are paired: each round's time under the first engine by that round's time under another, so that a slow moment
//! of the host meets both. Shares and times come from the engines' counters ([`counters`]).

use super::counters;
use super::host::Host;
use super::measure::Run;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Median with the extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut v: Vec<f64> = values.into_iter().filter(|x| x.is_finite()).collect();
        v.sort_by(f64::total_cmp);
        let n = v.len();
        let median = match n {
            0 => return None,
            n if n % 2 == 1 => v[n / 2],
            n => (v[n / 2 - 1] + v[n / 2]) / 2.0,
        };
        Some(Self {
            median,
            min: v[0],
            max: v[n - 1],
        })
    }
}

/// A named part of a whole: instructions, or seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub value: f64,
}

/// One engine on one workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub engine: String,
    /// What repeats one run.
    pub command: String,
    /// Seconds of each round.
    pub seconds: Vec<f64>,
    /// Guest instructions a second, in millions.
    pub mips: Spread,
    /// Against the first engine; none for itself.
    pub speedup: Option<Spread>,
    /// Shares of the retired instructions by tier, which add up to 1.
    pub tiers: Vec<Part>,
    /// Compilation: in the guest's way, and beside it.
    pub compile_seconds: f64,
    pub compile_background_seconds: f64,
    /// Where the median round's time went, in seconds.
    pub time: Vec<Part>,
    /// (milliseconds, instructions retired until then) of the first round.
    pub timeline: Vec<(f64, u64)>,
    /// The engine's counters after the first round.
    pub counters: BTreeMap<String, u64>,
}

/// Another emulator on the same guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rival {
    pub name: String,
    pub command: String,
    pub seconds: Vec<f64>,
    /// The last engine's time by the rival's, turned round: above 1, ours is faster.
    pub ours_faster: Spread,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadReport {
    pub name: String,
    pub about: String,
    pub retired: u64,
    pub state_hash: String,
    pub exit: String,
    pub engines: Vec<Measured>,
    /// From which marker to which the rivals are timed.
    pub rivals_timed: String,
    /// Seconds of the last engine between the same markers.
    pub marked_seconds: Vec<f64>,
    pub rivals: Vec<Rival>,
}

/// What one optimisation contributes: the time without it by the time with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ablation {
    pub name: String,
    /// What it does.
    pub sentence: String,
    pub slowdown: Vec<Part>,
    pub geomean: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    pub name: String,
    pub why: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub host: Host,
    pub quick: bool,
    pub rounds: usize,
    pub engines: Vec<String>,
    pub workloads: Vec<WorkloadReport>,
    pub left_out: Vec<LeftOut>,
    /// Which engine the ablation is of.
    pub ablation_of: Option<String>,
    pub ablation_rounds: usize,
    pub ablation: Vec<Ablation>,
}

/// The geometric mean.
pub fn geomean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = values.into_iter().map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// Sums up the rounds of one engine; `base` are the first engine's.
pub fn measured(
    engine: &str,
    command: String,
    rounds: &[Run],
    base: Option<&[Run]>,
) -> Option<Measured> {
    let first = rounds.first()?;
    let seconds: Vec<f64> = rounds.iter().map(|r| r.wall.as_secs_f64()).collect();
    let ratios = base.and_then(|base| {
        Spread::of(
            base.iter()
                .zip(rounds)
                .map(|(b, r)| b.wall.as_secs_f64() / r.wall.as_secs_f64()),
        )
    });
    let base_rate = base.unwrap_or(rounds).iter().map(rate);
    let interpreted_rate = Spread::of(base_rate)?.median;
    // The round in the middle stands for all where parts must add up.
    let mut order: Vec<&Run> = rounds.iter().collect();
    order.sort_by_key(|r| r.wall);
    let middle = order[order.len() / 2];
    Some(Measured {
        engine: engine.into(),
        command,
        mips: Spread::of(rounds.iter().map(|r| rate(r) / 1e6))?,
        speedup: ratios,
        tiers: counters::tiers(middle),
        compile_seconds: counters::compile(middle).0,
        compile_background_seconds: counters::compile(middle).1,
        time: counters::time(middle, interpreted_rate),
        timeline: first
            .timeline
            .iter()
            .map(|(t, n)| (t.as_secs_f64() * 1e3, *n))
            .collect(),
        counters: first
            .stats
            .iter()
            .map(|(k, v)| (k.to_string(), *v))
            .collect(),
        seconds,
    })
}

/// Instructions a second.
fn rate(r: &Run) -> f64 {
    r.retired as f64 / r.wall.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let s = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((s.median, s.min, s.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn geometric_means() {
        let mean = geomean([2.0, 8.0]).unwrap();
        assert!((mean - 4.0).abs() < 1e-12);
        assert_eq!(geomean([]), None);
    }
}
