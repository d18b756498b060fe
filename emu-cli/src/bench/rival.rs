//! `--vs`: another emulator's command line on the same guest, timed by what the guest prints.
//!
//! The command's standard output has to be the guest's first serial port. It runs in a process group of its own, which is
//! ended when the last marker has come.

use super::BenchError;
use super::measure::between;
use super::plan::{Guest, quoted};
use crate::signals::Control;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often a signal is looked for: the rival's own process group does not get the terminal's.
const LOOK: Duration = Duration::from_millis(50);
/// How long a rival may take for one run.
const PATIENCE: Duration = Duration::from_secs(600);

/// A rival as the command line gives it.
pub struct Vs {
    pub name: String,
    template: String,
}

impl Vs {
    /// `NAME=COMMAND`, or a command whose first word names it.
    pub fn parse(text: &str) -> Self {
        let (name, template) = match text.split_once('=') {
            Some((name, rest))
                if !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '/') =>
            {
                (name.to_string(), rest)
            }
            _ => {
                let word = text.split_whitespace().next().unwrap_or("rival");
                let file = word.rsplit('/').next().unwrap_or(word);
                (file.to_string(), text)
            }
        };
        Self {
            name,
            template: template.into(),
        }
    }

    /// The command for one guest.
    pub fn command(&self, guest: &Guest, kernel: &str) -> String {
        let word = |w: &str| quoted(&[w.to_string()]);
        self.template
            .replace("{kernel}", &word(kernel))
            .replace("{initrd}", &word(&guest.initrd))
            .replace("{append}", &word(&guest.append))
    }
}

/// A workload's image as a file, for as long as this lives.
pub struct ImageFile(pub PathBuf);

impl ImageFile {
    pub fn new(name: &str, bytes: &[u8]) -> Result<Self, BenchError> {
        let path = std::env::temp_dir().join(format!("emu-bench-{}-{name}", std::process::id()));
        match std::fs::write(&path, bytes) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(BenchError::Write { path, source }),
        }
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A run's time between the markers, and the line that ended it.
pub fn run(
    command: &str,
    from: Option<&str>,
    to: &str,
    control: &Control,
) -> Result<(Duration, String), BenchError> {
    let fail = |why: String| BenchError::Rival {
        command: command.into(),
        why,
    };
    let start = Instant::now();
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| fail(e.to_string()))?;
    let output = child.stdout.take();
    let (send, lines) = mpsc::channel();
    // Ends with the pipe.
    std::thread::spawn(move || {
        let Some(output) = output else { return };
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_string();
            if line.starts_with('@') && send.send((line, start.elapsed())).is_err() {
                return;
            }
        }
    });
    let mut marks: Vec<(String, Duration)> = Vec::new();
    let found = loop {
        match lines.recv_timeout(LOOK) {
            Ok(mark) => {
                let last = mark.0.starts_with(to);
                marks.push(mark);
                if last {
                    break true;
                }
            }
            Err(RecvTimeoutError::Timeout)
                if start.elapsed() < PATIENCE && control.stop().is_none() => {}
            Err(_) => break false,
        }
    };
    let group = rustix::process::Pid::from_child(&child);
    // It may have ended by itself.
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let _ = child.wait();
    if let Some(status) = control.stop() {
        return Err(BenchError::Stopped(status));
    }
    let seen = || match &marks[..] {
        [] => "no marker line on its standard output".to_string(),
        list => format!("it ended after \"{}\"", list[list.len() - 1].0),
    };
    match (found, between(&marks, from, to)) {
        (true, Some(time)) => Ok((time, marks.pop().map(|m| m.0).unwrap_or_default())),
        _ => Err(fail(format!("no \"{to}\" line came: {}", seen()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, name) in [
            ("qemu=qemu-system-x86_64 -x a=b", "qemu"),
            ("/usr/bin/bochs -f x", "bochs"),
            ("bochs --opt=1", "bochs"),
        ] {
            assert_eq!(Vs::parse(text).name, name);
        }
    }

    #[test]
    fn markers_are_timed_and_what_is_missing_is_said() {
        let command = "echo @init x; sleep 0.05; echo @done x 12; sleep 60";
        let (time, line) = run(command, Some("@init"), "@done", &Control::default()).unwrap();
        assert!((50..5000).contains(&time.as_millis()), "{time:?}");
        assert_eq!(line, "@done x 12");
        let error = run("echo @init x", None, "@done", &Control::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("@init x"), "{error}");
    }
}
