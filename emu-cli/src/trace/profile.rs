//! A profile: every so many instructions the calls that led there, as folded stacks or as a flame graph.
//!
//! Samples count retired instructions and not time, so the same run gives the same profile. The guest runs at full speed between
//! two of them.

use inferno::flamegraph::TextTruncateDirection;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Calls that are followed at most.
pub const DEPTH: usize = 64;
/// Different stacks at most; others count together.
const MOST: usize = 1 << 16;

/// Samples so far.
#[derive(Default)]
pub struct Profile {
    stacks: FxHashMap<String, u64>,
    pub samples: u64,
}

impl Profile {
    /// Counts a stack, the outermost frame first.
    pub fn add(&mut self, frames: &[String]) {
        self.samples += 1;
        // The format has no way to write these in a name.
        let clean = |f: &String| f.replace([';', '\n', '\r'], ":");
        let stack = frames.iter().map(clean).collect::<Vec<_>>().join(";");
        if self.stacks.len() >= MOST && !self.stacks.contains_key(&stack) {
            *self.stacks.entry("[other stacks]".into()).or_insert(0) += 1;
            return;
        }
        *self.stacks.entry(stack).or_insert(0) += 1;
    }

    /// A line for each stack, in order: `a;b;c 12`.
    pub fn folded(&self) -> Vec<String> {
        let sorted: BTreeMap<_, _> = self.stacks.iter().collect();
        sorted.iter().map(|(s, n)| format!("{s} {n}")).collect()
    }

    pub fn write_folded(&self, to: &mut dyn Write) -> io::Result<()> {
        for line in self.folded() {
            writeln!(to, "{line}")?;
        }
        to.flush()
    }

    /// `interval`: instructions between two samples.
    pub fn write_svg(&self, to: &mut dyn Write, interval: u64) -> io::Result<()> {
        let mut options = inferno::flamegraph::Options::default();
        options.title = "Guest instructions".into();
        options.subtitle = Some(format!(
            "{} samples, one every {interval} instructions",
            self.samples
        ));
        options.text_truncate_direction = TextTruncateDirection::Right;
        options.count_name = "samples".into();
        let lines = self.folded();
        inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut *to)?;
        to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let mut p = Profile::default();
        let stack = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        p.add(&stack(&["main", "f;g"]));
        p.add(&stack(&["main", "h"]));
        p.add(&stack(&["main", "h"]));
        p
    }

    #[test]
    fn stacks_are_counted() {
        assert_eq!(profile().folded(), ["main;f:g 1", "main;h 2"]);
    }

    #[test]
    fn a_picture_has_the_names() {
        let mut svg = Vec::new();
        profile().write_svg(&mut svg, 1000).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(
            svg.contains("<title>h (2 samples, 66.67%)</title>"),
            "{svg}"
        );
        assert!(svg.contains("one every 1000 instructions"));
    }
}
