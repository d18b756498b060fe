//! `emu trace show`: a binary trace as text or JSON, or what passes a filter as another binary trace.

use super::file::{Next, Reader, Writer};
use super::options::{Format, Show, addresses};
use super::record::{Entry, Name};
use super::{create, format_of, text};
use crate::args::number;
use crate::error::Error;
use crate::status::Status;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Write};
use std::path::Path;

/// What code is called, by where that begins.
#[derive(Default)]
struct Names(BTreeMap<u64, Name>);

impl Names {
    fn add(&mut self, name: Name) {
        let known = self.0.entry(name.from).or_insert_with(|| name.clone());
        known.to = known.to.max(name.to);
        known.name = name.name;
    }

    fn of(&self, at: u64) -> Option<&Name> {
        let (_, n) = self.0.range(..=at).next_back()?;
        (at < n.to).then_some(n)
    }

    fn find(&self, at: u64) -> Option<(String, u64)> {
        let n = self.of(at)?;
        Some((n.name.clone(), at - n.from))
    }
}

enum To {
    Text(Box<dyn Write>),
    Json(Box<dyn Write>),
    Binary(Box<Writer<Box<dyn Write>>>),
}

impl To {
    fn entry(&mut self, e: &Entry, names: &Names) -> io::Result<()> {
        let name = |at| names.find(at);
        match self {
            Self::Text(out) => writeln!(out, "{}", text::line(e, &name)),
            Self::Json(out) => writeln!(out, "{}", text::json(e, &name)),
            Self::Binary(out) => {
                if out.needs_name(e.at.lin)
                    && let Some(n) = names.of(e.at.lin)
                {
                    out.name(n.clone())?;
                }
                out.entry(e)
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Text(out) | Self::Json(out) => out.flush(),
            Self::Binary(out) => out.finish(),
        }
    }
}

/// Shows a trace.
pub fn show(asked: &Show) -> Result<Status, Error> {
    let wrong = |e: String| Error::Trace(e);
    let file = asked.file.display();
    let from = File::open(&asked.file).map_err(|source| Error::Read {
        name: file.to_string(),
        source,
    })?;
    let mut reader =
        Reader::new(BufReader::new(from)).map_err(|e| wrong(format!("{file}: {e}")))?;
    let spaces = asked.filter.spaces();
    let value = |s: &str| number(s).map_err(|e| format!("--range {s}: {e}"));
    let ranges = asked.filter.range.iter().map(|r| addresses(r, value));
    let ranges: Vec<_> = ranges.collect::<Result<_, _>>().map_err(wrong)?;
    let to = asked.output.as_deref().unwrap_or(Path::new("-"));
    let format = format_of(asked.format, Some(to));
    if to != Path::new("-") && same_file(&asked.file, to) {
        return Err(wrong(format!(
            "-o {}: that is the trace itself",
            to.display()
        )));
    }
    let out: Box<dyn Write> = create(to).map_err(|e| wrong(format!("-o {e}")))?;
    let written = |source| Error::Write {
        name: to.display().to_string(),
        source,
    };
    let mut to = match format {
        Format::Text => To::Text(out),
        Format::Json => To::Json(out),
        Format::Binary => To::Binary(Box::new(Writer::new(out).map_err(written)?)),
    };
    let functions = &asked.filter.function;
    let mut names = Names::default();
    let mut left = asked.limit.unwrap_or(u64::MAX);
    let mut bad = None;
    while left > 0 {
        let e = match reader.next() {
            Ok(Some(Next::Entry(e))) => e,
            Ok(Some(Next::Name(name))) => {
                names.add(name);
                continue;
            }
            Ok(None) => break,
            Err(e) => {
                bad = Some(e);
                break;
            }
        };
        let stream = asked.streams.is_empty() || asked.streams.contains(&e.what.stream());
        let function = names.of(e.at.lin).map(|n| &n.name);
        let at = e.at;
        let space = spaces.passes(at.cpl, at.cr3, at.lin);
        // Ranges and functions: one of them all.
        let ranged = ranges.iter().any(|r| r.contains(&at.lin));
        let anywhere = ranges.is_empty() && functions.is_empty();
        let address = anywhere || ranged || function.is_some_and(|f| functions.contains(f));
        if !(stream && space && address) {
            continue;
        }
        left -= 1;
        match to.entry(&e, &names) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(Status::Listed),
            done => done.map_err(written)?,
        }
    }
    match to.finish() {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        done => done.map_err(written)?,
    }
    match bad {
        Some(e) => Err(wrong(format!("{file}: {e}"))),
        None => Ok(Status::Listed),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
