//! `--perf-map`: the file in which Linux perf looks up the names of code that no file on disk holds.
//!
//! One line per unit, `ADDRESS SIZE NAME` in hexadecimal, in /tmp/perf-PID.map (tools/perf/Documentation/jit-interface.txt in
//! Linux). Lines are only added: where a unit takes a dead one's place, perf believes the last line.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

/// The open file.
pub struct PerfMap(File);

impl PerfMap {
    /// Where perf looks for this process's names.
    pub fn path() -> PathBuf {
        PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()))
    }

    /// Makes the file anew.
    pub fn create() -> io::Result<Self> {
        File::create(Self::path()).map(Self)
    }

    /// Names the host code of the unit whose root is at `rip`. A full disk costs names only.
    pub fn add(&mut self, code: u64, size: usize, rip: u64) {
        let _ = writeln!(self.0, "{code:x} {size:x} guest_{rip:x}");
    }
}
