//! `report.html`: one file with its style and its plots inside, nothing fetched.

use super::plots;
use super::report::{Report, Spread};
use super::svg::escape;
use super::table::{figure, mean, seconds, tiers};

/// The whole document.
pub fn page(report: &Report) -> String {
    let h = &report.host;
    let base = report.engines.first().map_or("", |e| e);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>emu bench, {}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n",
        escape(&h.date),
        include_str!("report.css")
    );
    out += "<header>\n<h1>Translation against interpretation</h1>\n";
    out += &format!(
        "<p class=\"facts\">{} · {} CPUs · {} · commit <code>{}</code> · {} · {} rounds{}</p>\n",
        escape(&h.cpu),
        h.cpus,
        escape(&h.os),
        escape(&h.commit),
        escape(&h.date),
        report.rounds,
        if report.quick { ", --quick" } else { "" }
    );
    out += &cards(report);
    out += "</header>\n";
    if report.engines.len() > 1 {
        out += &section(
            "Speed-up",
            &format!(
                "How many times as fast as <code>{base}</code> each engine runs the same guest to the same final state. \
                 Bars are medians of paired rounds, whiskers the smallest and the largest."
            ),
            &(plots::engine_legend(report, 1) + &plots::speedups(report)),
        );
    }
    out += &section(
        "Figures",
        "MIPS are millions of guest instructions a second. Compilation counts inside the time; what ran beside the guest on \
         a thread of its own is given after the plus sign.",
        &table(report),
    );
    out += &section(
        "Speed over time",
        "The first round, slice by slice: where a line rises, the engine is warming up; a dot marks the guest's end.",
        &(plots::engine_legend(report, 0) + &plots::timelines(report)),
    );
    out += &section(
        "Where time goes",
        &format!(
            "Compiling is measured. Interpreting is estimated from the instructions interpreted and the speed of \
             <code>{base}</code> on the same guest; the rest is translated code with its stubs and slow paths."
        ),
        &plots::stacks(
            report,
            "share of the run's time",
            |m| &m.time,
            |_, m| {
                let median = Spread::of(m.seconds.iter().copied());
                median.map_or(String::new(), |s| seconds(s.median))
            },
        ),
    );
    if report
        .workloads
        .iter()
        .any(|w| w.engines.iter().any(|m| m.tiers.len() > 1))
    {
        out += &section(
            "Where instructions retire",
            "Each tier's share of the guest's instructions.",
            &plots::stacks(
                report,
                "share of retired instructions",
                |m| &m.tiers,
                |w, _| format!("{} M", figure(w.retired as f64 / 1e6)),
            ),
        );
    }
    if let Some(engine) = &report.ablation_of
        && !report.ablation.is_empty()
    {
        out += &ablation(report, engine);
    }
    if report.workloads.iter().any(|w| !w.rivals.is_empty()) {
        out += &rivals(report);
    }
    out += &method(report);
    out + "</main>\n</body>\n</html>\n"
}

fn section(title: &str, lead: &str, body: &str) -> String {
    format!("<section>\n<h2>{title}</h2>\n<p class=\"soft\">{lead}</p>\n{body}</section>\n")
}

/// The figures that somebody in a hurry wants.
fn cards(report: &Report) -> String {
    let base = report.engines.first().map_or("", |e| e);
    let mut cards = Vec::new();
    for engine in report.engines.iter().skip(1) {
        if let Some(m) = mean(report, engine) {
            cards.push((
                format!("{}×", figure(m)),
                format!("{engine} against {base}, geometric mean"),
            ));
        }
    }
    if let Some(last) = report.engines.iter().skip(1).last() {
        let mut all: Vec<(f64, &str)> = report
            .workloads
            .iter()
            .flat_map(|w| w.engines.iter().map(move |m| (m, &w.name)))
            .filter(|(m, _)| m.engine == *last)
            .filter_map(|(m, name)| m.speedup.map(|s| (s.median, &name[..])))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let (Some(low), Some(high)) = (all.first(), all.last())
            && all.len() > 1
        {
            cards.push((
                format!("{}×", figure(high.0)),
                format!("{last}, best: {}", high.1),
            ));
            cards.push((
                format!("{}×", figure(low.0)),
                format!("{last}, least: {}", low.1),
            ));
        }
    }
    let cards: Vec<String> = cards
        .iter()
        .map(|(big, small)| {
            format!(
                "<div class=\"card\"><b>{big}</b><span>{}</span></div>",
                escape(small)
            )
        })
        .collect();
    format!("<div class=\"cards\">{}</div>\n", cards.concat())
}

fn table(report: &Report) -> String {
    let base = report.engines.first().map_or("", |e| e);
    let mut rows = String::new();
    for w in &report.workloads {
        for (i, m) in w.engines.iter().enumerate() {
            let (class, name) = match i {
                0 => (" class=\"first\"", escape(&w.name)),
                _ => ("", String::new()),
            };
            let (speedup, range) = m.speedup.map_or(("1".into(), String::new()), |s| {
                let range = match m.seconds.len() {
                    1 => "one run".into(),
                    _ => format!("{} to {}", figure(s.min), figure(s.max)),
                };
                (figure(s.median), range)
            });
            let background = match m.compile_background_seconds {
                b if b > 0.0 => format!(" + {}", seconds(b)),
                _ => String::new(),
            };
            rows += &format!(
                "<tr{class}><td title=\"{}\"><b>{name}</b></td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{speedup}</td>\
                 <td class=\"n\">{range}</td><td class=\"n\">{}{background}</td><td>{}</td></tr>\n",
                escape(&w.about),
                escape(&m.engine),
                figure(m.mips.median),
                seconds(m.compile_seconds),
                // A figure and its unit stay on one line.
                escape(&tiers(m).replace(" %", "\u{a0}%")),
            );
        }
    }
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>workload</th><th>engine</th><th class=\"n\">MIPS</th>\
         <th class=\"n\">× {base}</th><th class=\"n\">min to max</th><th class=\"n\">compiling</th>\
         <th>instructions by tier</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn ablation(report: &Report, engine: &str) -> String {
    let index = report.engines.iter().position(|e| e == engine);
    let class = plots::engine_class(index.unwrap_or(0));
    let sentences: Vec<String> = report
        .ablation
        .iter()
        .map(|a| {
            format!(
                "<dt>{}</dt><dd>{}</dd>\n",
                escape(&a.name),
                escape(&a.sentence)
            )
        })
        .collect();
    section(
        "What each optimisation contributes",
        &format!(
            "<code>{}</code> with one optimisation off at a time, against everything on; {}. \
             Optimisations overlap, so the factors do not multiply to the whole.",
            escape(engine),
            match report.ablation_rounds {
                1 => "one round, so a fifth more or less says nothing".into(),
                n => format!("{n} paired rounds"),
            }
        ),
        &format!(
            "{}{}<dl>\n{}</dl>\n",
            plots::ablation(&report.ablation, &class),
            slowdowns(report),
            sentences.concat()
        ),
    )
}

/// The figures behind the ablation's dots, shaded by how much time an optimisation saves.
fn slowdowns(report: &Report) -> String {
    let names: Vec<&str> = report.ablation.first().map_or(Vec::new(), |a| {
        a.slowdown.iter().map(|p| &p.name[..]).collect()
    });
    let head: Vec<String> = names
        .iter()
        .map(|n| format!("<th class=\"n\">{}</th>", escape(n)))
        .collect();
    let mut rows = String::new();
    for a in &report.ablation {
        let cells: Vec<String> = names
            .iter()
            .map(|n| match a.slowdown.iter().find(|p| p.name == *n) {
                Some(p) => format!(
                    "<td class=\"n heat\" style=\"--h:{:.0}%\">{}</td>",
                    // Full colour at ten times the time.
                    p.value.max(1.0).log10().min(1.0) * 70.0,
                    figure(p.value)
                ),
                None => "<td></td>".into(),
            })
            .collect();
        rows += &format!(
            "<tr><td><b>{}</b></td>{}</tr>\n",
            escape(&a.name),
            cells.concat()
        );
    }
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>time without</th>{}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n",
        head.concat()
    )
}

fn rivals(report: &Report) -> String {
    let last = report.engines.last().map_or("", |e| e);
    let mut rows = String::new();
    for w in &report.workloads {
        for r in &w.rivals {
            let median =
                |v: &[f64]| Spread::of(v.iter().copied()).map_or("-".into(), |s| seconds(s.median));
            let f = &r.ours_faster;
            rows += &format!(
                "<tr class=\"first\"><td><b>{}</b></td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{} to {}</td></tr>\n",
                escape(&w.name),
                escape(&w.rivals_timed),
                escape(&r.name),
                median(&r.seconds),
                median(&w.marked_seconds),
                figure(f.median),
                figure(f.min),
                figure(f.max)
            );
        }
    }
    // Each rival's command once, as it was for its first workload.
    let mut names: Vec<&str> = Vec::new();
    let mut commands: Vec<String> = Vec::new();
    for r in report.workloads.iter().flat_map(|w| &w.rivals) {
        if !names.contains(&&r.name[..]) {
            names.push(&r.name);
            commands.push(format!("{}: {}", escape(&r.name), escape(&r.command)));
        }
    }
    section(
        "Side by side",
        &format!(
            "The same guest in other emulators, timed by the marker lines it prints; above 1, <code>{}</code> is faster.",
            escape(last)
        ),
        &format!(
            "<div class=\"scroll\"><table>\n<thead><tr><th>workload</th><th>from, to</th><th>emulator</th>\
             <th class=\"n\">its time</th><th class=\"n\">{}</th><th class=\"n\">times as fast</th>\
             <th class=\"n\">min to max</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n<pre><code>{}</code></pre>\n",
            escape(last),
            commands.join("\n")
        ),
    )
}

/// 1 234 567, with thin spaces.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(d);
    }
    out
}

fn method(report: &Report) -> String {
    let mut body = String::from("<dl>\n");
    for w in &report.workloads {
        body += &format!(
            "<dt>{}</dt><dd>{}; {} instructions, final state {}</dd>\n",
            escape(&w.name),
            escape(&w.about),
            grouped(w.retired),
            escape(&w.state_hash)
        );
    }
    for l in &report.left_out {
        body += &format!(
            "<dt>{}</dt><dd>left out: {}</dd>\n",
            escape(&l.name),
            escape(&l.why)
        );
    }
    body += "</dl>\n";
    let mut commands = format!("{}\n\n# one run of each\n", report.host.command);
    for w in &report.workloads {
        if let Some(m) = w.engines.last() {
            commands += &format!("{}\n", m.command);
        }
    }
    body += &format!("<pre><code>{}</code></pre>\n", escape(&commands));
    section(
        "How it was measured",
        "Every round runs every guest under every engine in turn, on the virtual clock, so a run is a function of its \
         inputs; an engine that takes very long on a guest runs it once. Runs count only because instructions retired, final state and output agree. Compilation is part of the \
         time. The figures are this host's at that moment; the commands repeat them.",
        &body,
    )
}
