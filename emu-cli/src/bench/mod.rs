//! `emu bench`: what translation buys over interpretation, measured on guests of one kind of work each.
//!
//! Every round runs each guest under each engine (and each rival) in turn, on the virtual clock, so all do the same to the
//! instruction; runs that differ in instructions, final state or output are not compared. Data flow: [`plan`] says what to
//! run, [`measure`] and [`rival`] run it, [`report`] sums up, [`table`] and [`html`] show it, `report.json` keeps it.

mod ablation;
mod counters;
mod host;
mod html;
mod measure;
mod plan;
mod plots;
mod report;
mod rival;
mod svg;
mod table;

use crate::console;
use crate::signals::{self, Control};
use crate::status::Status;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use measure::Run;
use plan::{BEGIN, END, Engine, Guest};
use report::{LeftOut, Report, Rival, Spread, WorkloadReport, measured};
use rival::{ImageFile, Vs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What takes longer in its first round is left out of the others, with --quick and without: an engine that translates
/// everything at first sight may take a hundred times as long where code changes all the time.
const ONCE: [Duration; 2] = [Duration::from_millis(1000), Duration::from_secs(60)];

const AFTER: &str = "\
Workloads: integer float memory branches calls syscalls pagefaults selfmod boot
`emu run bench:NAME --append n=COUNT` runs one of them alone (boot: images/fetch.sh makes the guest).

--vs 'NAME=COMMAND' runs COMMAND by sh with {kernel}, {initrd} and {append} filled in; the guest's first serial
port has to be its standard output. Workloads are timed from their @init line to their @done line, boot to @init.

Exit status:
  0  compared; the table is on standard output, report.html and report.json are in DIR
  1  not comparable: instructions, final state or output differ between two engines, or a workload's check failed
  2  bad usage
  4  host error";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct BenchOptions {
    /// Small counts, few rounds: about a minute
    #[arg(long)]
    pub quick: bool,
    /// Only these workloads
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Engines to compare, the first is the measure; all by default
    #[arg(long, value_name = "ENGINE,…", value_delimiter = ',')]
    pub engines: Vec<String>,
    /// How often everything is run (5, with --quick 3)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Where report.html and report.json go
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Leave the ablation out: no runs with one optimisation off
    #[arg(long)]
    pub no_ablation: bool,
    /// A guest of your own instead of the workloads; it has to end by itself or at --max-insns
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<String>,
    /// Its command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true,
        requires = "kernel"
    )]
    pub append: String,
    /// Stop your guest after this many instructions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), requires = "kernel")]
    pub max_insns: Option<u64>,
    /// RAM of boot and of your guest
    #[arg(short, long, value_name = "SIZE", default_value = "512M")]
    pub memory: String,
    /// CPU model, as emu run takes it
    #[arg(long, value_name = "MODEL", default_value = "max")]
    pub cpu: String,
    /// Another emulator's command line, timed side by side; may be given more than once
    #[arg(long, value_name = "COMMAND")]
    pub vs: Vec<String>,
    /// Where images/fetch.sh has put the guest of boot
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub guests: PathBuf,
    /// Measure nothing: show a report.json again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "only", "engines", "rounds", "kernel", "vs"])]
    pub from: Option<PathBuf>,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("--only: unknown workload \"{name}\" (known: {known})")]
    Workload { name: String, known: String },
    #[error("--engines: unknown engine \"{name}\" (known: {known})")]
    Engine { name: String, known: String },
    #[error("nothing to run: {0}")]
    Nothing(String),
    #[error("{0}")]
    Options(String),
    #[error("{0}")]
    Machine(Box<crate::error::Error>),
    #[error("--out {}: cannot be written: {source}", path.display())]
    Out {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("--from {}: {why}", path.display())]
    From { path: PathBuf, why: String },
    #[error("{workload}: {a} and {b} differ, so there is nothing to compare: {what}")]
    Differ {
        workload: String,
        a: String,
        b: String,
        what: String,
    },
    #[error("{workload}: the workload's own check failed under {engine}: {line}")]
    Check {
        workload: String,
        engine: String,
        line: String,
    },
    #[error("--vs '{command}': {why}")]
    Rival { command: String, why: String },
    #[error("{}", stopped(*.0))]
    Stopped(Status),
}

impl BenchError {
    pub fn status(&self) -> Status {
        match self {
            Self::Machine(e) => e.status(),
            Self::Stopped(status) => *status,
            Self::Write { .. } | Self::Rival { .. } => Status::HostError,
            Self::Differ { .. } | Self::Check { .. } => Status::Different,
            _ => Status::Usage,
        }
    }
}

/// Why nothing was finished.
fn stopped(status: Status) -> &'static str {
    match status {
        Status::Signal(n) => signals::message(n),
        _ => "stopped",
    }
}

pub fn run(o: &BenchOptions) -> Result<Status, BenchError> {
    writable(&o.out)?;
    let report = match &o.from {
        Some(path) => load(path)?,
        None => measure_all(o)?,
    };
    table::print(&report);
    let json = serde_json::to_string_pretty(&report).unwrap_or_default();
    for (name, text) in [
        ("report.html", html::page(&report)),
        ("report.json", json + "\n"),
    ] {
        let path = o.out.join(name);
        std::fs::write(&path, text).map_err(|source| BenchError::Write { path, source })?;
    }
    console::say(format_args!(
        "emu: {} and report.json are written",
        o.out.join("report.html").display()
    ));
    Ok(Status::Alike)
}

/// Finds out before anything is measured whether the report can be written.
fn writable(dir: &Path) -> Result<(), BenchError> {
    let probe = dir.join(format!(".emu-bench-{}", std::process::id()));
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&probe, ""))
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|source| BenchError::Out {
            path: dir.into(),
            source,
        })
}

fn load(path: &Path) -> Result<Report, BenchError> {
    let fail = |why: String| BenchError::From {
        path: path.into(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| fail(format!("not a report.json of this version: {e}")))
}

fn measure_all(o: &BenchOptions) -> Result<Report, BenchError> {
    let engines = plan::engines(&o.engines)?;
    let (guests, left_out) = plan::guests(o)?;
    for (name, why) in &left_out {
        console::say(format_args!("emu: {name} is left out: {why}"));
    }
    if guests.is_empty() {
        let why = left_out.into_iter().map(|l| l.1).next().unwrap_or_default();
        return Err(BenchError::Nothing(why));
    }
    // Mistakes in options show before the first minute of measuring.
    for guest in &guests {
        plan::options(guest, &engines[0])?;
    }
    let rivals: Vec<Vs> = o.vs.iter().map(|v| Vs::parse(v)).collect();
    let rounds = o.rounds.map_or(if o.quick { 3 } else { 5 }, |n| n as usize);
    let once = ONCE[usize::from(!o.quick)];
    let ablation = ablation::Plan::new(o, &engines, rounds);
    let mut steps = rounds
        * guests
            .iter()
            .map(|g| engines.len() + timed(g, &rivals))
            .sum::<usize>();
    steps += guests.iter().map(|g| ablation.steps(g)).sum::<usize>();
    let bar = progress(steps as u64);

    let control = Arc::new(Control::default());
    signals::watch(control.clone())
        .map_err(|e| BenchError::Machine(Box::new(crate::error::Error::Signals(e))))?;
    let mut workloads = Vec::new();
    let mut ablated = ablation.start();
    for guest in &guests {
        workloads.push(compare(
            guest, &engines, &rivals, rounds, once, &bar, &control,
        )?);
        ablation.run(guest, &bar, &control, &mut ablated)?;
    }
    bar.finish_and_clear();
    Ok(Report {
        host: host::Host::now(plan::quoted(&std::env::args().collect::<Vec<_>>())),
        quick: o.quick,
        rounds,
        engines: engines.iter().map(|e| e.label.clone()).collect(),
        workloads,
        left_out: left_out
            .into_iter()
            .map(|(name, why)| LeftOut { name, why })
            .collect(),
        ablation_of: ablation.engine().map(String::from),
        ablation_rounds: ablation.rounds(),
        ablation: ablated.finish(),
    })
}

fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style =
        "{bar:32.cyan/blue} {pos}/{len}  {msg}  {elapsed_precise} of about {duration_precise}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

/// How many rivals can run this guest.
fn timed(guest: &Guest, rivals: &[Vs]) -> usize {
    if guest.cut { 0 } else { rivals.len() }
}

/// All rounds of one guest.
fn compare(
    guest: &Guest,
    engines: &[Engine],
    rivals: &[Vs],
    rounds: usize,
    once: Duration,
    bar: &ProgressBar,
    control: &Control,
) -> Result<WorkloadReport, BenchError> {
    let mut runs: Vec<Vec<Run>> = engines.iter().map(|_| Vec::new()).collect();
    let mut rival_seconds: Vec<Vec<f64>> = rivals.iter().map(|_| Vec::new()).collect();
    let rivals = &rivals[..timed(guest, rivals)];
    let image = match guest.ours {
        Some(w) if !rivals.is_empty() => Some(ImageFile::new(w.name, &(w.image)())?),
        _ => None,
    };
    let kernel = match (&image, &guest.kernel) {
        (Some(file), _) => file.0.display().to_string(),
        (None, file) => file.clone().unwrap_or_default(),
    };
    let (from, to) = match guest.ours {
        Some(_) => (Some(BEGIN), END),
        None => (None, BEGIN),
    };
    for round in 0..rounds {
        for (i, engine) in engines.iter().enumerate() {
            bar.set_message(format!("{} {}", guest.name, engine.label));
            if runs[i].first().is_some_and(|r| r.wall > once) {
                bar.inc(1);
                continue;
            }
            let run = measure::run(guest, engine, control)?;
            check(guest, engine, &run)?;
            if let Some(first) = runs[0].first() {
                agree(guest, (&engines[0].label, first), (&engine.label, &run))?;
            }
            runs[i].push(run);
            bar.inc(1);
        }
        for (rival, seconds) in rivals.iter().zip(&mut rival_seconds) {
            bar.set_message(format!(
                "{} {} {}/{rounds}",
                guest.name,
                rival.name,
                round + 1
            ));
            let (time, line) = rival::run(&rival.command(guest, &kernel), from, to, control)?;
            if guest.ours.is_some() && runs[0][0].line(END) != Some(&line) {
                return Err(BenchError::Differ {
                    workload: guest.name.clone(),
                    a: engines[0].label.clone(),
                    b: rival.name.clone(),
                    what: format!("{} and {line}", runs[0][0].line(END).unwrap_or("nothing")),
                });
            }
            seconds.push(time.as_secs_f64());
            bar.inc(1);
        }
    }
    let last: Vec<f64> = runs[engines.len() - 1]
        .iter()
        .filter_map(|r| r.between(from, to))
        .map(|d| d.as_secs_f64())
        .collect();
    let against = |rival: &Vs, seconds: Vec<f64>| {
        Some(Rival {
            name: rival.name.clone(),
            command: rival.command(guest, &kernel),
            ours_faster: Spread::of(seconds.iter().zip(&last).map(|(r, o)| r / o))?,
            seconds,
        })
    };
    let first = &runs[0][0];
    Ok(WorkloadReport {
        name: guest.name.clone(),
        about: guest.about.clone(),
        retired: first.retired,
        state_hash: format!("{:016x}", first.state),
        exit: first.exit.clone(),
        engines: engines
            .iter()
            .zip(&runs)
            .enumerate()
            .filter_map(|(i, (e, rounds))| {
                let mut words = vec!["emu".to_string(), "run".to_string()];
                words.extend(plan::command(guest, e));
                let base = (i > 0).then_some(&runs[0][..]);
                measured(&e.label, plan::quoted(&words), rounds, base)
            })
            .collect(),
        rivals_timed: match from {
            Some(from) => format!("{from} to {to}"),
            None => format!("start to {to}"),
        },
        rivals: rivals
            .iter()
            .zip(rival_seconds)
            .filter_map(|(rival, seconds)| against(rival, seconds))
            .collect(),
        marked_seconds: last,
    })
}

/// Whether the workload itself is content.
fn check(guest: &Guest, engine: &Engine, run: &Run) -> Result<(), BenchError> {
    let bad = match (guest.ours, &run.exit[..]) {
        (Some(_), "debug-exit 0") => return Ok(()),
        (Some(_), exit) => exit,
        (None, exit @ ("triple-fault" | "guest-panic")) => exit,
        (None, _) => return Ok(()),
    };
    let line = run.line("@").unwrap_or("it printed nothing");
    Err(BenchError::Check {
        workload: guest.name.clone(),
        engine: engine.label.clone(),
        line: format!("{line} ({bad})"),
    })
}

/// Whether two runs did the same.
fn agree(guest: &Guest, a: (&str, &Run), b: (&str, &Run)) -> Result<(), BenchError> {
    let lines = |r: &Run| r.marks.iter().map(|m| m.0.clone()).collect::<Vec<_>>();
    let what = if a.1.retired != b.1.retired {
        format!("{} and {} instructions retired", a.1.retired, b.1.retired)
    } else if a.1.exit != b.1.exit {
        format!("they ended by {} and {}", a.1.exit, b.1.exit)
    } else if lines(a.1) != lines(b.1) {
        "their marker lines".into()
    } else if a.1.state != b.1.state {
        format!("final states {:016x} and {:016x}", a.1.state, b.1.state)
    } else {
        return Ok(());
    };
    Err(BenchError::Differ {
        workload: guest.name.clone(),
        a: a.0.into(),
        b: b.0.into(),
        what,
    })
}

#[cfg(test)]
mod tests;
