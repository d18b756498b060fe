//! Symbols as an ELF file, for debuggers that cannot read them where they are: a compressed kernel's `kallsyms`, a `System.map`.
//!
//! The file has a symbol table and sections without contents. A debugger tells code from data by the section that a symbol is in,
//! so a section is a run of neighbouring symbols of one sort, and reaches to the next run. (ELF-64 Object File Format, version 1.5;
//! ELF-32 differs by the width of its fields.)

use super::module::{Entry, Kind, Module};
use super::{Binding, load};
use std::path::Path;

const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOBITS: u32 = 8;
const SHF_WRITE: u64 = 1;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const SHN_ABS: u16 = 0xfff1;
/// Section indices from here on mean something else (SHN_LORESERVE); some are our tables'.
const MOST_SECTIONS: usize = 0xff00 - 8;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Neighbouring symbols of one sort.
struct Run {
    code: bool,
    start: u64,
    end: u64,
}

/// A growing file; `wide`: ELF-64.
struct Writer {
    bytes: Vec<u8>,
    wide: bool,
}

impl Writer {
    fn half(&mut self, v: u16) {
        self.bytes.extend(v.to_le_bytes());
    }
    fn word(&mut self, v: u32) {
        self.bytes.extend(v.to_le_bytes());
    }
    /// An address, an offset or a size.
    fn natural(&mut self, v: u64) {
        match self.wide {
            true => self.bytes.extend(v.to_le_bytes()),
            false => self.word(v as u32),
        }
    }

    fn symbol(&mut self, name: u32, info: u8, section: u16, value: u64, size: u64) {
        self.word(name);
        if self.wide {
            self.bytes.extend([info, 0]);
            self.half(section);
            self.natural(value);
            self.natural(size);
        } else {
            self.natural(value);
            self.natural(size);
            self.bytes.extend([info, 0]);
            self.half(section);
        }
    }

    fn section(&mut self, s: Section) {
        self.word(s.name);
        self.word(s.kind);
        self.natural(s.flags);
        self.natural(s.address);
        self.natural(s.offset);
        self.natural(s.size);
        self.word(s.link);
        self.word(s.info);
        self.natural(s.align);
        self.natural(s.entry);
    }
}

#[derive(Default)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    align: u64,
    entry: u64,
}

/// Strings, each behind the one before.
struct Strings(Vec<u8>);

impl Strings {
    fn new() -> Self {
        Self(vec![0])
    }
    fn add(&mut self, text: &str) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend(text.bytes().filter(|b| *b != 0));
        self.0.push(0);
        at
    }
}

/// The runs of located symbols, which are in the order of their addresses; and for each symbol its run.
fn runs(symbols: &[Entry]) -> (Vec<Run>, Vec<Option<usize>>) {
    let mut runs: Vec<Run> = Vec::new();
    let mut of = Vec::new();
    for s in symbols {
        if s.absolute {
            of.push(None);
            continue;
        }
        // A label belongs to what it stands in.
        let code = match s.kind {
            Kind::Function => true,
            Kind::Data => false,
            Kind::Label => runs.last().is_some_and(|r| r.code),
        };
        if runs.last().is_none_or(|r| r.code != code) && runs.len() < MOST_SECTIONS {
            if let Some(last) = runs.last_mut() {
                last.end = s.address;
            }
            runs.push(Run {
                code,
                start: s.address,
                end: s.address,
            });
        }
        if let Some(last) = runs.last_mut() {
            last.end = last.end.max(s.address.saturating_add(s.size.max(1)));
        }
        of.push(runs.len().checked_sub(1));
    }
    (runs, of)
}

/// A module's symbols as an ELF file, at the addresses that its own file has.
pub fn elf(module: &Module) -> Vec<u8> {
    let wide = module.width == 8;
    let symbols: Vec<Entry> = module.entries().collect();
    let (runs, of) = runs(&symbols);
    let mut names = Strings::new();
    let mut table = Writer {
        bytes: Vec::new(),
        wide,
    };
    table.symbol(0, 0, 0, 0, 0);
    let mut locals = 1;
    // Local symbols come first.
    for local in [true, false] {
        for (s, run) in symbols.iter().zip(&of) {
            if (s.binding == Binding::Local) != local {
                continue;
            }
            locals += u32::from(local);
            let binding = match s.binding {
                Binding::Local => 0,
                Binding::Global => 1,
                Binding::Weak => 2,
            };
            let kind = match (s.kind, run) {
                (Kind::Function, _) => 2,
                (Kind::Data, Some(_)) => 1,
                _ => 0,
            };
            let section = run.map_or(SHN_ABS, |n| n as u16 + 1);
            let name = names.add(s.name);
            table.symbol(name, binding << 4 | kind, section, s.address, s.size);
        }
    }
    let (head, entry) = if wide { (64, 24) } else { (52, 16) };
    let mut section_names = Strings::new();
    let (text, data) = (section_names.add(".text"), section_names.add(".data"));
    let [symtab, strtab, shstrtab] =
        [".symtab", ".strtab", ".shstrtab"].map(|n| section_names.add(n));
    let mut sections = vec![Section::default()];
    for r in &runs {
        let (name, flags) = match r.code {
            true => (text, SHF_EXECINSTR),
            false => (data, SHF_WRITE),
        };
        sections.push(Section {
            name,
            kind: SHT_NOBITS,
            flags: SHF_ALLOC | flags,
            address: r.start,
            offset: head,
            size: r.end - r.start,
            align: 1,
            ..Section::default()
        });
    }
    let mut offset = head;
    let count = sections.len() as u32;
    let tables = [
        (symtab, SHT_SYMTAB, &table.bytes),
        (strtab, SHT_STRTAB, &names.0),
        (shstrtab, SHT_STRTAB, &section_names.0),
    ];
    for (name, kind, bytes) in tables {
        let is_table = kind == SHT_SYMTAB;
        sections.push(Section {
            name,
            kind,
            offset,
            size: bytes.len() as u64,
            link: if is_table { count + 1 } else { 0 },
            info: if is_table { locals } else { 0 },
            align: 1,
            entry: if is_table { entry } else { 0 },
            ..Section::default()
        });
        offset += bytes.len() as u64;
    }
    let mut out = Writer {
        bytes: Vec::new(),
        wide,
    };
    let (class, machine) = if wide { (2, EM_X86_64) } else { (1, EM_386) };
    out.bytes.extend([0x7f, b'E', b'L', b'F', class, 1, 1, 0]);
    out.bytes.extend([0; 8]);
    // ET_EXEC, version, no entry, no program headers.
    out.half(2);
    out.half(machine);
    out.word(1);
    out.natural(0);
    out.natural(0);
    out.natural(offset);
    out.word(0);
    out.half(head as u16);
    out.half(0);
    out.half(0);
    out.half(if wide { 64 } else { 40 });
    out.half(sections.len() as u16);
    out.half(count as u16 + 2);
    for (_, _, bytes) in tables {
        out.bytes.extend(bytes);
    }
    sections.into_iter().for_each(|s| out.section(s));
    out.bytes
}

/// Reads a file's symbols and writes them as an ELF file; how many there were.
pub fn convert(from: &Path, to: &Path) -> Result<usize, String> {
    let modules = load(from, &[])?;
    let module = modules
        .iter()
        .max_by_key(|m| m.len())
        .filter(|m| m.len() > 0)
        .ok_or_else(|| format!("{}: it has no symbols", from.display()))?;
    std::fs::write(to, elf(module)).map_err(|e| format!("{}: {e}", to.display()))?;
    Ok(module.len())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Folder;
    use super::super::{Builder, Module};
    use super::*;

    fn entry(name: &str, address: u64, size: u64, kind: Kind, binding: Binding) -> Entry<'_> {
        Entry {
            name,
            address,
            size,
            kind,
            binding,
            absolute: false,
        }
    }

    /// Symbols of two runs of code with data between them.
    fn module(width: u8, base: u64) -> Module {
        let mut b = Builder::default();
        b.add(&entry("start", base, 0x10, Kind::Function, Binding::Global));
        b.add(&entry(
            "helper",
            base + 0x10,
            4,
            Kind::Function,
            Binding::Local,
        ));
        b.add(&entry("table", base + 0x1000, 8, Kind::Data, Binding::Weak));
        b.add(&entry(
            "late",
            base + 0x2000,
            2,
            Kind::Function,
            Binding::Global,
        ));
        b.add(&Entry {
            absolute: true,
            ..entry("offset", 0x40, 0, Kind::Data, Binding::Global)
        });
        b.build("m", width)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = Folder::new();
        for (width, base) in [(8, 0xffff_ffff_8100_0000), (4, 0xc100_0000)] {
            let written = module(width, base);
            let path = folder.file("symbols.elf", elf(&written));
            let read = &load(&path, &[]).unwrap()[0];
            assert_eq!(read.width, width);
            assert_eq!(read.len(), 5);
            for (name, address) in [("start", base), ("table", base + 0x1000), ("offset", 0x40)] {
                assert_eq!(read.lookup(name), Some(address), "{name}");
            }
            let found = read.find(base + 0x12).unwrap();
            assert_eq!((found.name, found.offset), ("helper", 2));
            // Code is code up to the data, and behind it.
            for (at, code) in [
                (0xfff, true),
                (0x1000, false),
                (0x1fff, false),
                (0x2001, true),
            ] {
                assert_eq!(read.is_code(base + at), code, "{at:#x}");
            }
        }
    }

    #[test]
    fn files_without_symbols_are_refused() {
        let folder = Folder::new();
        let empty = folder.file("empty.elf", elf(&Builder::default().build("m", 8)));
        let to = folder.file("out", "");
        assert!(convert(&empty, &to).unwrap_err().contains("empty.elf"));
        let missing = empty.with_file_name("missing");
        assert!(convert(&missing, &to).unwrap_err().contains("missing"));
        let list = folder.file(
            "System.map",
            "c1000000 T _text\nc1000010 T start_kernel\nc1000020 D data\n",
        );
        assert_eq!(convert(&list, &to), Ok(3));
        let nowhere = empty.with_file_name("no/where");
        assert!(convert(&list, &nowhere).unwrap_err().contains("no/where"));
    }
}
