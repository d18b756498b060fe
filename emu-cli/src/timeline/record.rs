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

/// What is wrong, as part of a line: it may hold what the file held.
fn one_line(what: &str) -> String {
    const MOST: usize = 200;
    let mut out: String = what
        .chars()
        .take(MOST)
        .flat_map(|c| match c.is_control() {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect();
    if what.chars().nth(MOST).is_some() {
        out += "...";
    }
    out
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
        what: one_line(&what),
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
            Line::End { end } => {
                if end.retired > end.now {
                    return Err(wrong(n, "more instructions than nanoseconds".into()));
                }
                if record.log.last().is_some_and(|l| l.at > end.now) {
                    return Err(wrong(n, "the end is earlier than the line before".into()));
                }
                record.end = Some(end);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use emu_core::testing::Random;

    const GOOD: &str = r#"{"emu-record":1,"version":"0.1.0","arguments":["run","x.img","--clock","virtual"]}
{"at":1000,"input":{"serial":[104,101,108,108,111]}}
{"at":2000,"input":{"key":{"code":28,"down":true}}}
{"at":2000,"input":{"mouse":{"dx":-5,"dy":7,"dz":0,"buttons":1}}}
{"at":3000,"input":{"pointer":{"x":100,"y":200,"dz":0,"buttons":0}}}
{"at":4000,"input":"nmi"}
{"at":5000,"input":"power-button"}
{"end":{"now":6000,"retired":5500,"cpu":123,"ram":456}}
"#;

    fn parsed(text: &[u8]) -> Result<Record, String> {
        parse(text, Path::new("f")).map_err(|e| e.to_string())
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(parsed(GOOD.as_bytes()).unwrap().log.len(), 6);
        for (from, to, message) in [
            (
                "\"retired\":5500",
                "\"retired\":6001",
                "line 8: more instructions than nanoseconds",
            ),
            ("\"now\":6000", "\"now\":4999", "line 8: more instructions"),
            (
                "\"now\":6000,\"retired\":5500",
                "\"now\":4999,\"retired\":1",
                "line 8: the end is earlier",
            ),
            ("\"at\":2000", "\"at\":99999999999999999999", "line 3: "),
            ("\"at\":2000", "\"at\":-1", "line 3: "),
            ("104", "256", "line 2: "),
            ("\"dx\":-5", "\"dx\":-2147483649", "line 4: "),
            ("\"nmi\"", "\"nothing\"", "line 6: "),
            (
                "\"version\"",
                "\"v\\nn\\u001b[2J\"",
                "line 1: unknown field `v\\nn\\u{1b}[2J`",
            ),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let said = parsed(text.as_bytes()).unwrap_err();
            assert!(
                said.contains(message) && said.lines().count() == 1,
                "{said}"
            );
        }
        let long = GOOD.replace("version", &"v".repeat(100_000));
        assert!(parsed(long.as_bytes()).unwrap_err().len() < 400);
        let endless = "[".repeat(2 << 20);
        assert!(
            parsed(endless.as_bytes())
                .unwrap_err()
                .contains("line 1: it is too long")
        );
        // Nested as deep as a line is long: no stack is used up.
        let deep = format!("{GOOD}{}\n", "[".repeat(500_000)).replace(r#"{"end""#, r#"{"at""#);
        assert!(parsed(deep.as_bytes()).is_err());
    }

    /// `EMU_FUZZ_SECONDS` is for how long.
    #[test]
    fn damaged_records_are_refused_in_one_line_or_read() {
        let seconds = std::env::var("EMU_FUZZ_SECONDS")
            .ok()
            .and_then(|s| s.parse().ok());
        let until =
            std::time::Instant::now() + std::time::Duration::from_secs(seconds.unwrap_or(2));
        let mut dice = Random(0x9e37_79b9_7f4a_7c15);
        let (mut read, mut refused) = (0u32, 0u32);
        while std::time::Instant::now() < until {
            for _ in 0..100 {
                let text = damage(&mut dice, GOOD.as_bytes());
                match parsed(&text) {
                    Ok(record) => {
                        read += 1;
                        assert!(record.log.is_sorted_by_key(|l| l.at));
                        let last = record.log.last().map_or(0, |l| l.at);
                        assert!(
                            record
                                .end
                                .is_none_or(|e| e.now >= last && e.now >= e.retired)
                        );
                    }
                    Err(said) => {
                        refused += 1;
                        assert!(said.lines().count() == 1 && said.len() < 600, "{said}");
                        assert!(said.starts_with("f: "), "{said}");
                    }
                }
            }
        }
        assert!(
            read > 0 && refused > read / 10,
            "{read} read, {refused} refused"
        );
    }

    /// Bits are other, something is cut out or cut off, lines are doubled, moved or put in, numbers are huge.
    fn damage(dice: &mut Random, good: &[u8]) -> Vec<u8> {
        let mut text = good.to_vec();
        for _ in 0..1 + dice.below(3) {
            let len = text.len().max(1) as u64;
            let at = dice.below(len) as usize;
            let lines: Vec<Vec<u8>> = text
                .split_inclusive(|b| *b == b'\n')
                .map(Into::into)
                .collect();
            let line = dice.below(lines.len().max(1) as u64) as usize;
            match dice.below(7) {
                0 if at < text.len() => text[at] ^= 1 << dice.below(8),
                1 => text.truncate(at),
                2 => {
                    let to = (at + dice.below(40) as usize).min(text.len());
                    text.drain(at.min(to)..to);
                }
                3 if line < lines.len() => {
                    let mut more = lines.clone();
                    let to = dice.below(lines.len() as u64 + 1) as usize;
                    more.insert(to, lines[line].clone());
                    text = more.concat();
                }
                4 if line < lines.len() => {
                    let mut fewer = lines.clone();
                    fewer.remove(line);
                    text = fewer.concat();
                }
                5 => {
                    let numbers = [
                        "18446744073709551615",
                        "9223372036854775808",
                        "-2147483648",
                        "1e308",
                        "4294967295",
                        "0",
                    ];
                    let digits: Vec<usize> = (0..text.len())
                        .filter(|&n| text[n].is_ascii_digit())
                        .collect();
                    if !digits.is_empty() {
                        let from = dice.of(&digits);
                        let to = from
                            + text[from..]
                                .iter()
                                .take_while(|b| b.is_ascii_digit())
                                .count();
                        text.splice(from..to, dice.of(&numbers).bytes());
                    }
                }
                _ => {
                    let noise: Vec<u8> = (0..dice.below(20)).map(|_| dice.next() as u8).collect();
                    text.splice(at.min(text.len())..at.min(text.len()), noise);
                }
            }
        }
        text
    }
}
