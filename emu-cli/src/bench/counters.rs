//! What an engine's counters say about tiers and time: the one place that knows their names.
//!
//! An engine that translates counts the instructions of each tier as `retired_TIER`, and its compilations' host time in
//! nanoseconds as `compile_ns_foreground` (the guest waits) and `compile_ns_background`. What no tier claims was interpreted.

use super::measure::Run;
use super::report::Part;

const TIER: &str = "retired_";
const FOREGROUND: &str = "compile_ns_foreground";
const BACKGROUND: &str = "compile_ns_background";
/// The tier of what no other claims.
const INTERPRETED: &str = "interpreted";

fn count(run: &Run, name: &str) -> u64 {
    let found = run.stats.iter().find(|(k, _)| *k == name);
    found.map_or(0, |(_, v)| *v)
}

/// Each tier's share of the instructions.
pub fn tiers(run: &Run) -> Vec<Part> {
    let all = run.retired.max(1) as f64;
    let mut parts: Vec<Part> = Vec::new();
    let mut claimed = 0;
    for (key, n) in &run.stats {
        if let Some(tier) = key.strip_prefix(TIER)
            && tier != INTERPRETED
            && *n > 0
        {
            claimed += n;
            parts.push(Part {
                name: tier.replace('_', " "),
                value: *n as f64 / all,
            });
        }
    }
    let rest = run.retired.saturating_sub(claimed);
    parts.insert(
        0,
        Part {
            name: INTERPRETED.into(),
            value: rest as f64 / all,
        },
    );
    parts
}

/// Seconds of compilation: in the foreground, in the background.
pub fn compile(run: &Run) -> (f64, f64) {
    let seconds = |name| count(run, name) as f64 / 1e9;
    (seconds(FOREGROUND), seconds(BACKGROUND))
}

/// Where a run's time went. Compilation is measured; interpretation is estimated from its instructions and the rate at
/// which the first engine retires them; the rest ran in translated code, with its stubs and its memory's slow paths.
pub fn time(run: &Run, interpreted_rate: f64) -> Vec<Part> {
    let wall = run.wall.as_secs_f64();
    let compiling = compile(run).0.min(wall);
    let tiers = tiers(run);
    let translates = tiers.len() > 1;
    let interpreted = match translates {
        true => (tiers[0].value * run.retired as f64 / interpreted_rate).min(wall - compiling),
        false => wall - compiling,
    };
    let mut parts = vec![
        ("interpreting", interpreted),
        ("compiling", compiling),
        ("translated code", wall - compiling - interpreted),
    ];
    parts.retain(|p| p.1 > 0.0);
    parts
        .into_iter()
        .map(|(name, value)| Part {
            name: name.into(),
            value,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn run(stats: Vec<(&'static str, u64)>) -> Run {
        Run {
            wall: Duration::from_secs(2),
            retired: 1000,
            state: 0,
            exit: String::new(),
            marks: Vec::new(),
            timeline: Vec::new(),
            stats,
        }
    }

    #[test]
    fn an_interpreter_interprets() {
        let r = run(vec![("blocks_built", 7)]);
        let t = tiers(&r);
        assert_eq!((t.len(), t[0].value), (1, 1.0));
        let where_to = time(&r, 500.0);
        assert_eq!((where_to.len(), where_to[0].value), (1, 2.0));
    }

    #[test]
    fn a_translator_has_parts() {
        let r = run(vec![
            ("retired_blocks", 300),
            ("retired_regions", 600),
            (FOREGROUND, 500_000_000),
        ]);
        let shares: Vec<f64> = tiers(&r).iter().map(|t| t.value).collect();
        assert_eq!(shares, [0.1, 0.3, 0.6]);
        let parts: Vec<f64> = time(&r, 1000.0).iter().map(|t| t.value).collect();
        assert_eq!(parts, [0.1, 0.5, 1.4]);
    }
}
