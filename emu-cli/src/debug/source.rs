//! Lines of source files, where the host has them.

use std::io::{BufRead, BufReader};

/// Files beyond this are no sources.
const LARGEST: u64 = 64 << 20;

/// One line, counted from 1, without its indentation.
pub fn line(file: &str, line: u32) -> Option<String> {
    let about = std::fs::metadata(file).ok()?;
    if !about.is_file() || about.len() > LARGEST {
        return None;
    }
    let lines = BufReader::new(std::fs::File::open(file).ok()?).lines();
    let text = lines
        .map_while(Result::ok)
        .nth(line.checked_sub(1)? as usize)?;
    Some(text.trim().to_string())
}
