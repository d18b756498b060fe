//! `emu trace`: what the guest does, as text, JSON lines or a compact file; which code it reaches; where it spends its instructions.
//!
//! The core tells a [`Recorder`](observer::Recorder) what passes the filter ([`emu_core::hooks::trace`]); between slices the
//! [`Tracer`] takes what was recorded, names it by the debugger's symbols, and writes it. A profile needs no hooks: the machine's loop
//! stops at every so many instructions, and the calls that led there are looked up. The debugger's `trace on` takes the same
//! options.
//!
//! `record` says what an entry is; `text` and `file` are its forms, and `show` goes from one to the other.

mod coverage;
pub mod file;
mod observer;
pub mod options;
mod profile;
mod record;
mod show;
mod syscalls;
pub mod text;

use crate::console;
use crate::debug::session::{Ctx, Session};
use crate::debug::symbols::Symbols;
use crate::debug::unwind;
use crate::vm::Vm;
use clap::ValueEnum;
use emu_core::hooks::trace::{Filter, Streams, Trace};
use emu_core::vcpu::Vcpu;
use observer::{Recorder, Shared, lock};
use options::Format;
pub use options::{Sub, Trace as Command, TraceOptions};
use profile::Profile;
use record::{Name, Stream};
pub use show::show;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where entries go.
enum Sink {
    Text(Box<dyn Write + Send>),
    Json(Box<dyn Write + Send>),
    Binary(Box<file::Writer<Box<dyn Write + Send>>>),
}

/// A trace in force.
pub struct Tracer {
    options: TraceOptions,
    filter: Filter,
    shared: Shared,
    sink: Option<Sink>,
    written: u64,
    coverage: Option<(PathBuf, File)>,
    profile: Option<(PathBuf, File, Profile)>,
    next_sample: u64,
    /// Not before this many instructions.
    from: Option<u64>,
    /// The run is for the trace's sake, and ends with it.
    ends_run: bool,
    /// Writing failed; what comes is dropped.
    failed: Option<io::Error>,
}

/// A file for output, or the one that `-` stands for.
pub fn create(path: &Path) -> Result<Box<dyn Write + Send>, String> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    Ok(Box::new(BufWriter::with_capacity(1 << 16, new_file(path)?)))
}

fn new_file(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|e| format!("{}: cannot be written: {e}", path.display()))
}

/// How entries are written, by the option or by the file's name.
fn format_of(format: Option<Format>, to: Option<&Path>) -> Format {
    let extension = to.and_then(Path::extension).and_then(|e| e.to_str());
    format.unwrap_or(match extension {
        Some("json" | "jsonl") => Format::Json,
        Some("trace") => Format::Binary,
        _ => Format::Text,
    })
}

fn symbol(symbols: &Symbols, at: u64) -> Option<(String, u64)> {
    let found = symbols.find(at)?;
    Some((found.name.to_string(), found.offset))
}

impl Sink {
    fn new(options: &TraceOptions) -> Result<Self, String> {
        let to = options.output.as_deref();
        let out = match to {
            Some(path) => create(path)?,
            None => Box::new(io::stderr()),
        };
        Ok(match format_of(options.format, to) {
            Format::Text => Self::Text(out),
            Format::Json => Self::Json(out),
            Format::Binary if to.is_none() => {
                return Err("--format binary: give -o FILE, which emu trace show reads".into());
            }
            Format::Binary => {
                let writer = file::Writer::new(out).map_err(|e| {
                    let path = to.unwrap_or(Path::new("")).display();
                    format!("{path}: cannot be written: {e}")
                })?;
                Self::Binary(Box::new(writer))
            }
        })
    }

    fn write(&mut self, entries: &[record::Entry], symbols: &Symbols) -> io::Result<()> {
        let name = |at| symbol(symbols, at);
        for e in entries {
            match self {
                Self::Text(out) => writeln!(out, "{}", text::line(e, &name))?,
                Self::Json(out) => writeln!(out, "{}", text::json(e, &name))?,
                Self::Binary(out) => {
                    if out.needs_name(e.at.lin)
                        && let Some(found) = symbols.find(e.at.lin)
                    {
                        let to = symbols.function_range(e.at.lin).map_or(0, |r| r.end);
                        out.name(Name {
                            from: found.address,
                            to: to.max(e.at.lin.saturating_add(1)),
                            name: found.name.into(),
                        })?;
                    }
                    out.entry(e)?;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Text(out) | Self::Json(out) => out.flush(),
            Self::Binary(out) => out.finish(),
        }
    }
}

impl Tracer {
    /// Opens what is written, and begins.
    pub fn begin(options: &TraceOptions, vm: &mut Vm, session: &mut Session) -> Result<(), String> {
        if vm.tracer.is_some() {
            return Err("a trace is in force: \"trace off\" ends it".into());
        }
        let filter = options.filter.resolve(&mut Ctx { vm, s: session })?;
        let file = |path: &PathBuf| Ok::<_, String>((path.clone(), new_file(path)?));
        let sink = match options.streams().is_empty() {
            true => None,
            false => Some(Sink::new(options)?),
        };
        let coverage = options.coverage.as_ref().map(file).transpose()?;
        let profile = options.profile.as_ref().map(file).transpose()?;
        let now = vm.runner.cpu.retired;
        let mut t = Self {
            options: options.clone(),
            filter,
            shared: Shared::default(),
            sink,
            written: 0,
            coverage,
            profile: profile.map(|(path, file)| (path, file, Profile::default())),
            next_sample: options.from.unwrap_or(0).max(now) + options.profile_interval,
            from: options.from.filter(|n| *n > now),
            ends_run: false,
            failed: None,
        };
        lock(&t.shared).left = options.limit.unwrap_or(u64::MAX);
        if t.from.is_none() {
            t.arm(&mut vm.runner.cpu);
        }
        vm.tracer = Some(Box::new(t));
        Ok(())
    }

    /// Has the core tell the recorder.
    fn arm(&mut self, cpu: &mut Vcpu) {
        let wanted: BTreeSet<Stream> = self.options.streams().into_iter().collect();
        let mut streams = Streams::empty();
        for s in &wanted {
            streams |= match s {
                Stream::Insn | Stream::Mem => Streams::INSN,
                Stream::Port => Streams::PORT,
                Stream::Mmio => Streams::MMIO,
                Stream::Int => Streams::INTERRUPT,
                Stream::Syscall => Streams::SYSTEM_CALL,
            };
        }
        if self.coverage.is_some() {
            streams |= Streams::BLOCK;
        }
        if streams.is_empty() {
            return;
        }
        let recorder = Recorder::new(self.shared.clone(), wanted, self.options.registers);
        cpu.set_trace(Some(Trace::new(
            streams,
            self.filter.clone(),
            Box::new(recorder),
        )));
    }

    /// The count of retired instructions at which something is to be done.
    fn limit(&self) -> u64 {
        let sample = match self.profile {
            Some(_) => self.next_sample,
            None => u64::MAX,
        };
        sample.min(self.from.unwrap_or(u64::MAX))
    }

    fn write(&mut self, symbols: &Symbols) {
        let entries = std::mem::take(&mut lock(&self.shared).entries);
        if self.failed.is_some() || entries.is_empty() {
            return;
        }
        self.written += entries.len() as u64;
        if let Some(sink) = &mut self.sink {
            self.failed = sink.write(&entries, symbols).err();
        }
        let mut buffer = lock(&self.shared);
        if buffer.entries.is_empty() {
            // Its room serves again.
            buffer.entries = entries;
            buffer.entries.clear();
        }
    }

    fn sample(&mut self, cpu: &Vcpu, symbols: &Symbols) {
        let Some((.., profile)) = &mut self.profile else {
            return;
        };
        if cpu.retired < self.next_sample {
            return;
        }
        self.next_sample = cpu.retired + self.options.profile_interval;
        if !self.filter.passes(cpu.cpl, cpu.cr3, cpu.code_address()) {
            return;
        }
        let ring = if cpu.cpl == 3 { "user" } else { "kernel" };
        let mut frames: Vec<String> = unwind::frames(cpu, symbols, profile::DEPTH)
            .iter()
            .map(|f| match symbols.find(f.site) {
                Some(found) => found.name.into(),
                None => "[unknown]".into(),
            })
            .collect();
        frames.push(ring.into());
        frames.reverse();
        profile.add(&frames);
    }

    /// What is traced, for the debugger's user.
    pub fn says(&self) -> String {
        let names = self.options.streams().into_iter().filter_map(|s| {
            let value = s.to_possible_value()?;
            Some(value.get_name().to_string())
        });
        let streams: Vec<String> = names.collect();
        let to = match &self.options.output {
            Some(path) => path.display().to_string(),
            None => "standard error".into(),
        };
        format!("{} to {to}: {} entries\n", streams.join(", "), self.written)
    }

    /// Writes what is left; what there is to say.
    fn finish(mut self, symbols: &Symbols) -> Result<String, String> {
        self.write(symbols);
        let mut said = Vec::new();
        let failed = |path: &Path, e: &io::Error| {
            format!("{}: {e}: what is written is not complete", path.display())
        };
        let path = self.options.output.clone().unwrap_or_default();
        if let Some(mut sink) = self.sink.take() {
            let done = match self.failed.take() {
                Some(e) => Err(e),
                None => sink.finish(),
            };
            done.map_err(|e| failed(&path, &e))?;
            let entries = self.written;
            match path.as_os_str().is_empty() {
                true => said.push(format!("{entries} entries")),
                false => said.push(format!("{}: {entries} entries", path.display())),
            }
        }
        if let Some((path, file)) = self.coverage.take() {
            let mut modules = Vec::new();
            for m in symbols.modules() {
                modules.extend(m.extent().map(|r| {
                    coverage::Module {
                        from: r.start,
                        to: r.end,
                        path: m
                            .path
                            .as_ref()
                            .map_or(m.name.clone(), |p| p.display().to_string()),
                    }
                }));
            }
            let blocks = lock(&self.shared).blocks.drain().collect();
            let n = coverage::write(&mut BufWriter::new(file), &modules, &blocks)
                .map_err(|e| failed(&path, &e))?;
            said.push(format!("{}: {n} blocks", path.display()));
        }
        if let Some((path, file, profile)) = self.profile.take() {
            let mut to = BufWriter::new(file);
            let svg = path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("svg"));
            match svg {
                true => profile.write_svg(&mut to, self.options.profile_interval),
                false => profile.write_folded(&mut to),
            }
            .map_err(|e| failed(&path, &e))?;
            said.push(format!("{}: {} samples", path.display(), profile.samples));
        }
        Ok(said.join("; "))
    }
}

impl Vm {
    /// The count of retired instructions at which the trace has something to do.
    pub fn trace_limit(&self) -> u64 {
        self.tracer.as_ref().map_or(u64::MAX, |t| t.limit())
    }

    /// Between slices: writes what was told. True: all that the run was for is there, or no more can be written.
    pub fn traced(&mut self) -> bool {
        let Some(mut t) = self.tracer.take() else {
            return false;
        };
        let cpu = &mut self.runner.cpu;
        if t.from.is_some_and(|n| cpu.retired >= n) {
            t.from = None;
            t.arm(cpu);
        }
        let none = Symbols::default();
        let symbols = self.session.as_ref().map_or(&none, |s| &s.symbols);
        t.sample(cpu, symbols);
        t.write(symbols);
        let enough = lock(&t.shared).left == 0 || t.failed.is_some();
        let ends = enough && t.ends_run;
        self.tracer = Some(t);
        ends
    }

    /// Ends the trace; what there is to say, if there was one.
    pub fn end_trace(&mut self, symbols: &Symbols) -> Option<Result<String, String>> {
        let t = self.tracer.take()?;
        self.runner.cpu.set_trace(None);
        Some(t.finish(symbols))
    }
}

/// Symbols have moved: filters by name go with them.
pub fn resolve_again(c: &mut Ctx) {
    let Some(mut t) = c.vm.tracer.take() else {
        return;
    };
    if let Ok(filter) = t.options.filter.resolve(c)
        && filter != t.filter
    {
        t.filter = filter;
        if c.vm.runner.cpu.set_trace(None).is_some() {
            t.arm(&mut c.vm.runner.cpu);
        }
    }
    c.vm.tracer = Some(t);
}

/// Begins with the machine's first instruction: the run is for this.
pub fn begin(vm: &mut Vm, options: &TraceOptions) -> Result<(), String> {
    let mut session = vm.session.take().unwrap_or_default();
    let done = Tracer::begin(options, vm, &mut session);
    vm.session = Some(session);
    if let Some(t) = &mut vm.tracer {
        t.ends_run = true;
    }
    done
}

/// The run has ended, and the trace with it.
pub fn ended(vm: &mut Vm) {
    let session = vm.session.take().unwrap_or_default();
    match vm.end_trace(&session.symbols) {
        Some(Ok(said)) => console::say(format_args!("emu: {said}")),
        Some(Err(e)) => console::say(format_args!("emu: {e}")),
        None => {}
    }
    vm.session = Some(session);
}
