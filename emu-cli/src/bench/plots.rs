//! The plots of the report: speed-ups, parts of a whole, speed over time, ablation.
//!
//! All take the report as it is; sizes are in CSS pixels of a page 860 wide. Colours are classes: `e0` on for engines, `p0`
//! on for parts, each from a palette that people who see few colours can tell apart; shape or label says the same again.

use super::report::{Ablation, Measured, Part, Report, WorkloadReport};
use super::svg::{Anchor, Axis, Svg};
use super::table::{figure, seconds};

const WIDTH: f64 = 860.0;
/// Where names end and bars begin.
const LEFT: f64 = 128.0;
const BAR: f64 = 15.0;
const GAP: f64 = 3.0;

/// Colour class of engine `i`.
pub fn engine_class(i: usize) -> String {
    format!("e{}", i % 6)
}

/// Colour class of a part: the uses of time have their own, and interpreting is the same thing as a tier; the other tiers
/// follow in the order of their coming.
fn part_class(names: &[String], name: &str) -> String {
    let i = match name {
        "interpreting" | "interpreted" => 0,
        "compiling" => 1,
        "translated code" | "translated" => 2,
        _ => {
            let others = names.iter().filter(|n| *n != "interpreted");
            [3, 2, 4, 5][others.take_while(|n| *n != name).count() % 4]
        }
    };
    format!("p{i}")
}

/// A row of coloured squares with names.
pub fn legend(items: &[(String, String)]) -> String {
    let spans: Vec<String> = items
        .iter()
        .map(|(class, name)| {
            format!(
                "<span><svg width=\"12\" height=\"12\" aria-hidden=\"true\"><rect width=\"12\" height=\"12\" rx=\"2\" class=\"{class}\"/></svg>{}</span>",
                super::svg::escape(name)
            )
        })
        .collect();
    format!("<div class=\"legend\">{}</div>\n", spans.concat())
}

pub fn engine_legend(report: &Report, from: usize) -> String {
    let items: Vec<(String, String)> = report
        .engines
        .iter()
        .enumerate()
        .skip(from)
        .map(|(i, e)| (engine_class(i), e.clone()))
        .collect();
    legend(&items)
}

/// Vertical grid lines with their values below.
fn grid(
    s: &mut Svg,
    axis: &Axis,
    top: f64,
    bottom: f64,
    about: usize,
    label: impl Fn(f64) -> String,
) {
    for tick in axis.ticks(about) {
        let x = axis.at(tick);
        s.line((x, top), (x, bottom), "grid");
        s.text((x, bottom + 16.0), Anchor::Middle, "tick", &label(tick));
    }
}

fn times(v: f64) -> String {
    let text = format!("{v:.2}");
    format!("{}×", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Bars of speed-up by workload, with the spread over the rounds, on a logarithmic axis.
pub fn speedups(report: &Report) -> String {
    let others = report.engines.len() - 1;
    let all = || report.workloads.iter().flat_map(|w| &w.engines);
    let spreads = || all().filter_map(|m| m.speedup);
    let low = spreads().map(|s| s.min).fold(1.0, f64::min);
    let high = spreads().map(|s| s.max).fold(1.0, f64::max);
    let group = others as f64 * (BAR + GAP) + 14.0;
    let top = 8.0;
    let bottom = top + group * report.workloads.len() as f64;
    let mut s = Svg::new(WIDTH, bottom + 44.0, "Speed-up by workload and engine");
    let axis = Axis::log(low / 1.15, high * 1.12, LEFT, WIDTH - 64.0);
    grid(&mut s, &axis, top, bottom, 9, times);
    for (i, w) in report.workloads.iter().enumerate() {
        let y = top + group * i as f64 + 7.0;
        let middle = y + (group - 14.0) / 2.0 + 4.0;
        s.text((LEFT - 12.0, middle), Anchor::End, "name", &w.name);
        for (k, m) in w.engines.iter().enumerate().skip(1) {
            let Some(sp) = m.speedup else { continue };
            let y = y + (k - 1) as f64 * (BAR + GAP);
            let (one, x) = (axis.at(1.0), axis.at(sp.median));
            let title = format!(
                "{} under {}: {} ({} to {}), {} MIPS",
                w.name,
                m.engine,
                times(sp.median),
                times(sp.min),
                times(sp.max),
                figure(m.mips.median)
            );
            let size = ((x - one).abs().max(1.0), BAR);
            s.rect((one.min(x), y), size, &engine_class(k), &title);
            let (a, b, mid) = (axis.at(sp.min), axis.at(sp.max), y + BAR / 2.0);
            s.line((a, mid), (b, mid), "whisker");
            s.line((a, mid - 4.0), (a, mid + 4.0), "whisker");
            s.line((b, mid - 4.0), (b, mid + 4.0), "whisker");
            let end = b.max(x).max(one) + 6.0;
            let value = format!("{}×", figure(sp.median));
            s.text((end, mid + 4.0), Anchor::Start, "value", &value);
        }
    }
    let one = axis.at(1.0);
    s.line((one, top), (one, bottom), "base");
    let title = format!(
        "speed-up against {} (times, logarithmic)",
        report.engines[0]
    );
    s.text(
        ((LEFT + WIDTH) / 2.0, bottom + 38.0),
        Anchor::Middle,
        "axis",
        &title,
    );
    s.finish()
}

/// Stacked bars: the parts of each run as shares of the whole. `parts` gives them, `total` the label at the end.
pub fn stacks(
    report: &Report,
    title: &str,
    parts: impl Fn(&Measured) -> &[Part],
    total: impl Fn(&WorkloadReport, &Measured) -> String,
) -> String {
    let mut names: Vec<String> = Vec::new();
    for m in report.workloads.iter().flat_map(|w| &w.engines) {
        for p in parts(m) {
            if !names.contains(&p.name) {
                names.push(p.name.clone());
            }
        }
    }
    let left = LEFT + 62.0;
    let group = report.engines.len() as f64 * (BAR + GAP) + 12.0;
    let top = 4.0;
    let bottom = top + group * report.workloads.len() as f64;
    let mut s = Svg::new(WIDTH, bottom + 42.0, title);
    let axis = Axis::linear(0.0, 100.0, left, WIDTH - 84.0);
    grid(&mut s, &axis, top, bottom, 5, |v| format!("{v:.0} %"));
    for (i, w) in report.workloads.iter().enumerate() {
        let y = top + group * i as f64 + 6.0;
        s.text((LEFT - 12.0, y + 12.0), Anchor::End, "name", &w.name);
        for (k, m) in w.engines.iter().enumerate() {
            let y = y + k as f64 * (BAR + GAP);
            s.text((left - 8.0, y + 12.0), Anchor::End, "tick", &m.engine);
            let whole: f64 = parts(m).iter().map(|p| p.value).sum();
            let mut done = 0.0;
            for p in parts(m) {
                let share = p.value / whole.max(1e-300) * 100.0;
                let (a, b) = (axis.at(done), axis.at(done + share));
                let title = format!(
                    "{} under {}: {} {} %",
                    w.name,
                    m.engine,
                    p.name,
                    figure(share)
                );
                let class = part_class(&names, &p.name);
                s.rect((a, y), (b - a, BAR), &class, &title);
                done += share;
            }
            s.text(
                (WIDTH - 76.0, y + 12.0),
                Anchor::Start,
                "tick",
                &total(w, m),
            );
        }
    }
    s.text(
        ((left + WIDTH - 84.0) / 2.0, bottom + 36.0),
        Anchor::Middle,
        "axis",
        title,
    );
    let items: Vec<(String, String)> = names
        .iter()
        .map(|n| (part_class(&names, n), n.clone()))
        .collect();
    legend(&items) + &s.finish()
}

/// Speed over time, a panel per workload: millions of guest instructions a second in each slice of the first round.
pub fn timelines(report: &Report) -> String {
    let panels: Vec<String> = report
        .workloads
        .iter()
        .map(|w| format!("<figure>{}</figure>\n", timeline(w)))
        .collect();
    format!("<div class=\"panels\">\n{}</div>\n", panels.concat())
}

/// The speed in each slice, as (from, to, MIPS), times in milliseconds. What is left at the end joins the slice before.
fn rates(m: &Measured) -> Vec<(f64, f64, f64)> {
    let mut ends = m.timeline.clone();
    if let [.., a, b, c] = ends[..]
        && c.0 - b.0 < (b.0 - a.0) / 2.0
    {
        ends.remove(ends.len() - 2);
    }
    let mut before = (0.0, 0);
    let mut out = Vec::new();
    for (t, n) in ends {
        if t > before.0 {
            out.push((
                before.0,
                t,
                n.saturating_sub(before.1) as f64 / (t - before.0) / 1e3,
            ));
            before = (t, n);
        }
    }
    out
}

fn timeline(w: &WorkloadReport) -> String {
    const W: f64 = 420.0;
    const H: f64 = 228.0;
    let (left, right, top, bottom) = (58.0, W - 10.0, 30.0, H - 42.0);
    let mut s = Svg::new(W, H, &format!("Speed over time: {}", w.name));
    s.text((left, 16.0), Anchor::Start, "name", &w.name);
    let all: Vec<Vec<(f64, f64, f64)>> = w.engines.iter().map(rates).collect();
    let slices = || all.iter().flatten();
    let end = slices().map(|r| r.1).fold(2.0, f64::max);
    let peak = slices().map(|r| r.2).fold(1.0, f64::max);
    let x = Axis::log(1.0, end * 1.05, left, right);
    let y = Axis::linear(0.0, peak * 1.06, bottom, top);
    for tick in y.ticks(4) {
        s.line((left, y.at(tick)), (right, y.at(tick)), "grid");
        s.text(
            (left - 6.0, y.at(tick) + 4.0),
            Anchor::End,
            "tick",
            &format!("{tick:.0}"),
        );
    }
    grid(&mut s, &x, top, bottom, 6, |ms| match ms {
        ms if ms >= 1000.0 => format!("{} s", ms / 1000.0),
        ms => format!("{ms}"),
    });
    for (k, (m, rates)) in w.engines.iter().zip(&all).enumerate() {
        let mut points = Vec::new();
        for &(from, to, rate) in rates {
            points.push((x.at(from.max(1.0)), y.at(rate)));
            points.push((x.at(to.max(1.0)), y.at(rate)));
        }
        let done = seconds(m.timeline.last().map_or(0.0, |t| t.0 / 1e3));
        let title = format!(
            "{}: {} MIPS, done after {done}",
            m.engine,
            figure(m.mips.median)
        );
        let class = engine_class(k);
        s.path(&points, &format!("trace {class}"), &title);
        if let Some(&last) = points.last() {
            s.circle(last, 3.5, &class, &title);
        }
    }
    s.text(
        ((left + right) / 2.0, H - 8.0),
        Anchor::Middle,
        "axis",
        "host time (ms, logarithmic)",
    );
    s.text_up((13.0, (top + bottom) / 2.0), "axis", "guest MIPS");
    s.finish()
}

/// What the time becomes without each optimisation: the mean as a bar, workloads as dots, the one that loses most by name.
pub fn ablation(list: &[Ablation], class: &str) -> String {
    let row = 30.0;
    let left = LEFT + 20.0;
    let top = 8.0;
    let bottom = top + row * list.len() as f64;
    let values = || list.iter().flat_map(|a| &a.slowdown).map(|p| p.value);
    let low = values().fold(1.0, f64::min);
    let high = values().fold(1.0, f64::max);
    let mut s = Svg::new(WIDTH, bottom + 44.0, "What each optimisation contributes");
    let axis = Axis::log(low / 1.05, high * 1.08, left, WIDTH - 130.0);
    grid(&mut s, &axis, top, bottom, 9, times);
    let one = axis.at(1.0);
    for (i, a) in list.iter().enumerate() {
        let y = top + row * i as f64 + row / 2.0;
        s.text((left - 12.0, y + 4.0), Anchor::End, "name", &a.name);
        let x = axis.at(a.geomean);
        let mean = times(a.geomean);
        let title = format!("without {}: {mean} the time. {}", a.name, a.sentence);
        let size = ((x - one).abs().max(1.0), BAR);
        s.rect((one.min(x), y - BAR / 2.0), size, class, &title);
        for p in &a.slowdown {
            let title = format!("{} without {}: {} the time", p.name, a.name, times(p.value));
            s.circle((axis.at(p.value), y), 3.5, "dot", &title);
        }
        let most = a.slowdown.iter().max_by(|p, q| p.value.total_cmp(&q.value));
        if let Some(p) = most {
            let at = (axis.at(p.value).max(x) + 8.0, y + 4.0);
            s.text(at, Anchor::Start, "tick", &p.name);
        }
        let value = format!("{}×", figure(a.geomean));
        s.text((WIDTH, y + 4.0), Anchor::End, "value", &value);
    }
    s.line((one, top), (one, bottom), "base");
    s.text(
        ((left + WIDTH - 130.0) / 2.0, bottom + 38.0),
        Anchor::Middle,
        "axis",
        "time without it (times, logarithmic): bar = geometric mean, dots = workloads",
    );
    s.finish()
}
