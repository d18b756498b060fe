//! Source lines and inlined functions, from DWARF, read when they are first asked for.

use super::elf::{self, Addresses};
use super::module::Module;
use addr2line::Context;
use gimli::{EndianArcSlice, LittleEndian, Reader as _};
use object::read::{File as Object, Object as _, ReadCache};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

type Bytes = EndianArcSlice<LittleEndian>;

/// Inlined functions inside each other.
const DEEPEST: usize = 64;
/// The copies of one line.
const COPIES: usize = 64;

/// Where a module's debugging sections are.
pub struct Source {
    pub path: PathBuf,
    pub addresses: Addresses,
}

/// One function of those that an address belongs to, by the source: the innermost inlined one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: u32,
    /// 0: unknown.
    pub column: u32,
}

pub struct Lines {
    context: Context<Bytes>,
    dwarf: Arc<gimli::Dwarf<Bytes>>,
}

impl Lines {
    fn open(source: &Source) -> Option<Lines> {
        let cache = ReadCache::new(File::open(&source.path).ok()?);
        let object = Object::parse(&cache).ok()?;
        let load = |id: gimli::SectionId| {
            let section = object.section_by_name(id.name());
            let data = section.and_then(|s| elf::content(&object, &s, &source.addresses));
            let data = Arc::from(data.unwrap_or_default());
            Ok::<_, gimli::Error>(EndianArcSlice::new(data, LittleEndian))
        };
        let dwarf = Arc::new(gimli::Dwarf::load(load).ok()?);
        let context = Context::from_arc_dwarf(dwarf.clone()).ok()?;
        Some(Lines { context, dwarf })
    }

    fn places(&self, at: u64) -> Option<Vec<Place>> {
        let mut found = Vec::new();
        let mut frames = self.context.find_frames(at).skip_all_loads().ok()?;
        while found.len() < DEEPEST
            && let Ok(Some(frame)) = frames.next()
        {
            let location = frame.location.as_ref();
            let function = frame.function.as_ref();
            found.push(Place {
                function: function.and_then(|f| Some(f.raw_name().ok()?.into_owned())),
                file: location.and_then(|l| l.file).map(str::to_owned),
                line: location.and_then(|l| l.line).unwrap_or(0),
                column: location.and_then(|l| l.column).unwrap_or(0),
            });
        }
        // A unit without the address in it still gives one frame, of nothing.
        found.retain(|p| p.file.is_some() || p.function.is_some());
        Some(found)
    }

    /// The nearest line from the wanted one on that has code, and where each copy of it begins.
    fn addresses(&self, file: &str, wanted: u32) -> gimli::Result<Vec<u64>> {
        let mut best = u32::MAX;
        let mut found: Vec<u64> = Vec::new();
        let mut units = self.dwarf.units();
        while let Some(header) = units.next()? {
            // One damaged unit does not hide the others.
            let Ok(unit) = self.dwarf.unit(header) else {
                continue;
            };
            let _ = self.in_unit(&unit, file, wanted, &mut best, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found.truncate(COPIES);
        Ok(found)
    }

    fn in_unit(
        &self,
        unit: &gimli::Unit<Bytes>,
        file: &str,
        wanted: u32,
        best: &mut u32,
        found: &mut Vec<u64>,
    ) -> gimli::Result<()> {
        let Some(program) = unit.line_program.clone() else {
            return Ok(());
        };
        let header = program.header();
        let text = |value| -> gimli::Result<String> {
            let bytes = self.dwarf.attr_string(unit, value)?;
            Ok(bytes.to_string_lossy()?.into_owned())
        };
        let directory = unit.comp_dir.as_ref().map(|d| d.to_string_lossy());
        let directory = directory.transpose()?.unwrap_or_default();
        let mut files = Vec::new();
        // From version 5 on, files count from 0.
        let first = u64::from(header.version() < 5);
        for (i, entry) in header.file_names().iter().enumerate() {
            let mut path = text(entry.path_name())?;
            if !path.starts_with('/') {
                if let Some(d) = entry.directory(header) {
                    path = format!("{}/{path}", text(d)?);
                }
                if !path.starts_with('/') {
                    path = format!("{directory}/{path}");
                }
            }
            if ends_with(&path, file) {
                files.push(first + i as u64);
            }
        }
        if files.is_empty() {
            return Ok(());
        }
        let mut rows = program.rows();
        let mut before = None;
        // The last one that was taken has no instruction yet.
        let mut empty = None;
        while let Some((_, row)) = rows.next_row()? {
            let line = row.line().map_or(0, |l| l.get());
            let line = u32::try_from(line).unwrap_or(u32::MAX);
            let here = Some((row.file_index(), line));
            // A line's rows that follow each other are one place; it begins with the first.
            if empty.take() == Some(row.address()) && found.len() > 1 {
                // Another line's row at the same address takes the instruction, and this line has others.
                found.pop();
            }
            let begins = row.is_stmt() && !row.end_sequence() && here != before;
            before = here.filter(|_| !row.end_sequence());
            if !begins || line < wanted || line > *best || !files.contains(&row.file_index()) {
                continue;
            }
            if line < *best {
                *best = line;
                found.clear();
            }
            if found.len() < COPIES * 16 {
                found.push(row.address());
                empty = Some(row.address());
            }
        }
        Ok(())
    }
}

/// Whether a path is `end`, or ends with it from a component on.
fn ends_with(path: &str, end: &str) -> bool {
    let end = end.trim_start_matches("./");
    path.strip_suffix(end).is_some_and(|p| {
        !end.is_empty() && (p.is_empty() || p.ends_with('/') || end.starts_with('/'))
    })
}

impl Module {
    fn lines(&self) -> Option<&Lines> {
        let read = || self.source.as_ref().and_then(Lines::open);
        self.lines.get_or_init(read).as_ref()
    }

    /// The functions and lines that an address belongs to, innermost first.
    pub fn places(&self, runtime: u64) -> Vec<Place> {
        let found = self.linked(runtime).zip(self.lines());
        found
            .and_then(|(at, lines)| lines.places(at))
            .unwrap_or_default()
    }

    /// Where the code of a line begins, in each of its copies.
    pub fn address_of_line(&self, file: &str, line: u32) -> Vec<u64> {
        let found = self.lines().and_then(|l| l.addresses(file, line).ok());
        let found = found.unwrap_or_default().into_iter();
        found.map(|a| self.runtime(a)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_paths() {
        assert!(ends_with("/src/kernel/fork.c", "fork.c"));
        assert!(ends_with("/src/kernel/fork.c", "kernel/fork.c"));
        assert!(ends_with("/src/kernel/fork.c", "/src/kernel/fork.c"));
        assert!(ends_with("/src/./a.c", "./a.c"));
        assert!(!ends_with("/src/kernel/fork.c", "ork.c"));
        assert!(!ends_with("/src/kernel/fork.c", ""));
    }
}
