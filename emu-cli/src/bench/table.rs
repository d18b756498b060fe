//! The table on standard output: a line per workload and engine.

use super::report::{Measured, Report, Spread, geomean};
use std::io::Write;

/// Writes the table; a reader that has seen enough is no error.
pub fn print(report: &Report) {
    let _ = std::io::stdout().write_all(text(report).as_bytes());
}

/// 0.123, 1.23, 12.3, 123.
pub fn figure(v: f64) -> String {
    match v.abs() {
        a if a >= 99.95 => format!("{v:.0}"),
        a if a >= 9.995 => format!("{v:.1}"),
        a if a >= 0.9995 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

/// Seconds with a unit that suits.
pub fn seconds(s: f64) -> String {
    match s {
        s if s <= 0.0 => "0".into(),
        s if s < 1e-3 => format!("{} us", figure(s * 1e6)),
        s if s < 1.0 => format!("{} ms", figure(s * 1e3)),
        s => format!("{} s", figure(s)),
    }
}

fn spread(s: &Spread) -> String {
    let (median, min, max) = (figure(s.median), figure(s.min), figure(s.max));
    format!("{median} ({min} .. {max})")
}

/// "interpreted 3 %, regions 97 %".
pub fn tiers(m: &Measured) -> String {
    let share = |v: f64| match v * 100.0 {
        p if p > 0.0 && p < 0.1 => "<0.1 %".to_string(),
        p if p > 99.9 && p < 100.0 => ">99.9 %".to_string(),
        p => format!("{} %", (p * 10.0).round() / 10.0),
    };
    let parts = m.tiers.iter().filter(|t| t.value > 0.0);
    let list: Vec<String> = parts
        .map(|t| format!("{} {}", t.name, share(t.value)))
        .collect();
    list.join(", ")
}

pub fn text(report: &Report) -> String {
    let base = report.engines.first().map_or("", |e| e);
    let mut rows = vec![[
        "workload".to_string(),
        "engine".into(),
        "MIPS".into(),
        format!("against {base}"),
        "compiling".into(),
        "instructions by tier".into(),
    ]];
    for w in &report.workloads {
        for (i, m) in w.engines.iter().enumerate() {
            let mut compile = seconds(m.compile_seconds);
            if m.compile_background_seconds > 0.0 {
                compile += &format!(" + {}", seconds(m.compile_background_seconds));
            }
            rows.push([
                if i == 0 {
                    w.name.clone()
                } else {
                    String::new()
                },
                m.engine.clone(),
                figure(m.mips.median),
                m.speedup.as_ref().map_or("1".into(), spread),
                compile,
                tiers(m),
            ]);
        }
        for r in &w.rivals {
            let faster = spread(&r.ours_faster);
            rows.push([
                String::new(),
                r.name.clone(),
                "-".into(),
                format!(
                    "{} is {faster} times as fast",
                    report.engines.last().map_or("", |e| e)
                ),
                "-".into(),
                format!("{}: {}", w.rivals_timed, medians(&r.seconds)),
            ]);
        }
    }
    let mut out = columns(&rows);
    for engine in report.engines.iter().skip(1) {
        if let Some(mean) = mean(report, engine) {
            out += &format!(
                "{engine} against {base}, geometric mean: {}\n",
                figure(mean)
            );
        }
    }
    for a in &report.ablation {
        out += &format!(
            "without {:<16} {} times the time\n",
            a.name,
            figure(a.geomean)
        );
    }
    let h = &report.host;
    out += &format!(
        "{} rounds; {}, {} CPUs; commit {}; {}\n",
        report.rounds, h.cpu, h.cpus, h.commit, h.date
    );
    out
}

fn medians(seconds_of: &[f64]) -> String {
    Spread::of(seconds_of.iter().copied()).map_or("-".into(), |s| seconds(s.median))
}

/// The geometric mean of an engine's speed-ups.
pub fn mean(report: &Report, engine: &str) -> Option<f64> {
    let all = report.workloads.iter().flat_map(|w| &w.engines);
    geomean(
        all.filter(|m| m.engine == engine)
            .filter_map(|m| m.speedup.map(|s| s.median)),
    )
}

/// Columns as wide as their widest cell, but for the last.
fn columns(rows: &[[String; 6]]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, w)| format!("{cell:<w$}"))
            .collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_have_three_digits() {
        for (v, text) in [
            (0.1234, "0.123"),
            (1.0, "1.00"),
            (9.999, "10.0"),
            (42.19, "42.2"),
            (1234.5, "1234"),
        ] {
            assert_eq!(super::figure(v), text);
        }
        assert_eq!(super::seconds(0.0421), "42.1 ms");
        assert_eq!(super::seconds(0.0), "0");
    }
}
