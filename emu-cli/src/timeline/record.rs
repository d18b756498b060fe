//! A record's file: a line of JSON for the machine, one for each input as it comes, one for the state at the end.
//!
//! ```text
//! {"emu-record":1,"version":"0.1.0","arguments":["run","--clock","virtual",…]}
//! {"at":1234567,"input":{"key":{"code":28,"down":true}}}
//! {"end":{"now":…,"retired":…,"cpu":…,"ram":…}}
//! ```
//!
//! Times are guest nanoseconds. A file without its last line is that of a run that was killed: it can be replayed as far as it goes.

use super::{Input, Logged};
use crate::vm::Vm;
use emu_core::bus::Nanos;
use emu_core::state::CpuState;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The format that this program writes.
const FORMAT: u32 = 1;
/// The longest line: an input of a serial port's whole queue.
const LONGEST: u64 = 1 << 20;
/// Inputs in a record at most.
const MOST: usize = 50_000_000;

/// The state at a run's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub now: Nanos,
    pub retired: u64,
    /// Hashes.
    pub cpu: u64,
    pub ram: u64,
}

impl End {
    pub fn of(vm: &Vm) -> Self {
        let cpu = &vm.runner.cpu;
        Self {
            now: cpu.now(),
            retired: cpu.retired,
            cpu: CpuState::of(cpu).hash(),
            ram: vm.runner.machine().ram.hash(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(rename = "emu-record")]
    format: u32,
    version: String,
    arguments: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    Input { at: Nanos, input: Input },
    End { end: End },
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("--record {path}: {error}", path = .path.display())]
    Create {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{path}: {error}", path = .path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{path}: line {line}: {what}; give a file that emu run --record has written", path = .path.display())]
    Format {
        path: PathBuf,
        line: usize,
        what: String,
    },
    #[error("{path}: format {format} is not supported (1 is)", path = .path.display())]
    Version { path: PathBuf, format: u32 },
    #[error(
        "--record needs --clock virtual: with the host's clock a run is not a function of its inputs"
    )]
    Clock,
    #[error(
        "{0}: what a network says is not recorded yet; give --nic none, or --nodefaults with firmware"
    )]
    Network(&'static str),
    #[error(
        "{what}: drive {drive} is written to; give it snapshot=on or readonly=on, so that it is the same at the replay"
    )]
    Drive { what: &'static str, drive: String },
}

/// Writes a record as the run goes.
pub struct Writer {
    to: BufWriter<File>,
    failed: Option<std::io::Error>,
}

impl Writer {
    /// Creates the file. `arguments`: the command line without the program's name and `--record`.
    pub fn create(path: &Path, arguments: Vec<String>) -> Result<Self, RecordError> {
        let failed = |error| RecordError::Create {
            path: path.into(),
            error,
        };
        let mut writer = Self {
            to: BufWriter::new(File::create(path).map_err(failed)?),
            failed: None,
        };
        writer.line(&Head {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            arguments,
        });
        match writer.failed.take() {
            Some(error) => Err(failed(error)),
            None => Ok(writer),
        }
    }

    fn line(&mut self, line: &impl Serialize) {
        if self.failed.is_some() {
            return;
        }
        let done = serde_json::to_writer(&mut self.to, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.to.write_all(b"\n"))
            // A run that is killed leaves what had come.
            .and_then(|()| self.to.flush());
        self.failed = done.err();
    }

    pub fn input(&mut self, at: Nanos, input: &Input) {
        let input = input.clone();
        self.line(&Line::Input { at, input });
    }

    pub fn end(mut self, end: &End) -> Result<(), std::io::Error> {
        self.line(&Line::End { end: end.clone() });
        self.failed.map_or(Ok(()), Err)
    }
}

/// A record that was read.
#[derive(Debug)]
pub struct Record {
    pub arguments: Vec<String>,
    pub log: Vec<Logged>,
    /// `None`: the run was killed.
    pub end: Option<End>,
}

/// Reads a record.
pub fn read(path: &Path) -> Result<Record, RecordError> {
    let failed = |error| RecordError::Read {
        path: path.into(),
        error,
    };
    parse(BufReader::new(File::open(path).map_err(failed)?), path)
}

/// The same from anything that has lines; `path` is for messages.
pub fn parse(mut from: impl BufRead, path: &Path) -> Result<Record, RecordError> {
    let wrong = |line: usize, what: String| RecordError::Format {
        path: path.into(),
        line,
        what,
    };
    let mut buf = Vec::new();
    let mut next = |buf: &mut Vec<u8>| -> Result<bool, String> {
        buf.clear();
        let mut part = (&mut from).take(LONGEST);
        let n = part.read_until(b'\n', buf).map_err(|e| e.to_string())?;
        match buf.last() {
            _ if n == 0 => Ok(false),
            Some(b'\n') => Ok(true),
            _ if n as u64 == LONGEST => Err("it is too long".into()),
            // Cut short in the middle of a line.
            _ => Ok(false),
        }
    };
    match next(&mut buf) {
        Ok(true) => {}
        Ok(false) => return Err(wrong(1, "there is no whole line".into())),
        Err(e) => return Err(wrong(1, e)),
    }
    let head: Head = serde_json::from_slice(&buf).map_err(|e| wrong(1, e.to_string()))?;
    if head.format != FORMAT {
        return Err(RecordError::Version {
            path: path.into(),
            format: head.format,
        });
    }
    let mut record = Record {
        arguments: head.arguments,
        log: Vec::new(),
        end: None,
    };
    let mut n = 1;
    while next(&mut buf).map_err(|e| wrong(n + 1, e))? {
        n += 1;
        if record.end.is_some() {
            return Err(wrong(n, "there is something behind the end".into()));
        }
        match serde_json::from_slice(&buf).map_err(|e| wrong(n, e.to_string()))? {
            Line::End { end } => record.end = Some(end),
            Line::Input { at, input } => {
                if record.log.last().is_some_and(|l| l.at > at) {
                    return Err(wrong(n, "it is earlier than the line before".into()));
                }
                if record.log.len() >= MOST {
                    return Err(wrong(n, format!("more than {MOST} inputs")));
                }
                record.log.push(Logged { at, input });
            }
        }
    }
    Ok(record)
}
