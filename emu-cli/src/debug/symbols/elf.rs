//! ELF, PE and COFF files: sections, symbol tables, and what unwinding needs.
//!
//! A relocatable file (`*.o`, a kernel's `*.ko`) has no addresses yet: its sections get theirs from a [`Layout`], and its relocations
//! are applied to the debugging sections when these are read.

use super::dwarf::Source;
use super::linux::{self, Btf};
use super::load::Layout;
use super::module::{Binding, Builder, Entry, Kind, Module, Section};
use super::unwind::{Cfi, Orc};
use object::elf;
use object::read::elf::{ElfFile, FileHeader, SectionHeader, Sym};
use object::read::{
    ExportTarget, File as Object, NameOrOrdinal, Object as _, ObjectKind, ObjectSection as _,
    ObjectSymbol as _, ReadCache, ReadRef, RelocationTarget,
};
use object::{RelocationKind, SectionFlags, SectionIndex, SectionKind, SymbolKind};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

/// Of one section, or of its content when unpacked.
const LARGEST: u64 = 2 << 30;

/// Of a kernel without debugging information.
const KERNEL: u64 = 512 << 20;

/// Where the sections of a relocatable file are.
pub type Addresses = HashMap<usize, u64>;

/// Whether a file that is not ELF begins like a PE or a COFF file for x86.
pub fn is_coff(start: &[u8]) -> bool {
    // COFF has no magic: the machine, then a number of sections, and no optional header.
    let coff = start.len() >= 20
        && matches!(start[..2], [0x4c, 0x01] | [0x64, 0x86])
        && start[16..18] == [0, 0];
    start.starts_with(b"MZ") || coff
}

/// What an object file gives to a module before it is built.
pub struct Parts {
    pub builder: Builder,
    pub width: u8,
    pub addresses: Addresses,
    pub dwarf: bool,
    pub orc: Option<Orc>,
    pub cfi: Option<Cfi>,
    pub btf: Option<Btf>,
}

impl Parts {
    pub fn build(self, name: &str) -> Module {
        let mut module = self.builder.build(name, self.width);
        module.orc = self.orc;
        module.cfi = self.cfi;
        module.btf = self.btf;
        module
    }
}

/// Reads what is needed of a file, however large it is.
pub fn load_file(file: File, path: &Path, name: &str, layout: &Layout) -> Result<Module, String> {
    let cache = ReadCache::new(file);
    let parts = parse(&cache, layout)?;
    if parts.builder.len() == 0 && parts.orc.is_some() {
        // A kernel that has been stripped, as a bzImage has it.
        let length = (&cache).len().unwrap_or(0).min(KERNEL);
        let whole = (&cache)
            .read_bytes_at(0, length)
            .map_err(|()| "it cannot be read")?;
        return linux::load_vmlinux(whole, name);
    }
    let source = parts.dwarf.then(|| Source {
        path: path.to_owned(),
        addresses: parts.addresses.clone(),
    });
    let mut module = parts.build(name);
    module.source = source;
    if module.len() == 0 && module.source.is_none() && module.orc.is_none() {
        return Err("it has no symbols: it has been stripped".into());
    }
    Ok(module)
}

pub fn parse<'d, R: ReadRef<'d>>(data: R, layout: &Layout) -> Result<Parts, String> {
    let object = Object::parse(data).map_err(|e| format!("damaged: {e}"))?;
    let width = if object.is_64() { 8 } else { 4 };
    let mut builder = Builder::default();
    let addresses = place(&object, layout)?;
    let address = |i: SectionIndex, own: u64| addresses.get(&i.0).copied().unwrap_or(own);
    for s in object.sections().filter(in_memory) {
        let start = address(s.index(), s.address());
        let name = s.name().unwrap_or("").to_owned();
        if is_percpu(&name, start) {
            continue;
        }
        let code = s.kind() == SectionKind::Text
            || matches!(s.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.contains(elf::SHF_EXECINSTR));
        let range = start..start.saturating_add(s.size());
        builder.section(Section { name, range, code });
    }
    let bad = |e: object::Error| format!("damaged: {e}");
    match &object {
        Object::Elf32(f) => elf_symbols(f, &addresses, &mut builder).map_err(bad)?,
        Object::Elf64(f) => elf_symbols(f, &addresses, &mut builder).map_err(bad)?,
        other => coff_symbols(other, &addresses, &mut builder),
    }
    let section = |name: &str| {
        let s = object.section_by_name(name)?;
        Some((
            address(s.index(), s.address()),
            content(&object, &s, &addresses)?,
        ))
    };
    let orc = match (section(".orc_unwind_ip"), section(".orc_unwind")) {
        (Some((at, ip)), Some((_, entries))) => Orc::new(at, &ip, &entries),
        _ => None,
    };
    let btf = section(".BTF").and_then(|(_, data)| Btf::parse(&data));
    let text = object.section_by_name(".text");
    let cfi = Cfi::new(
        section(".eh_frame"),
        section(".debug_frame"),
        text.map_or(0, |s| address(s.index(), s.address())),
        object.section_by_name(".got").map_or(0, |s| s.address()),
        width,
    );
    let dwarf = object.section_by_name(".debug_info").is_some();
    Ok(Parts {
        builder,
        width,
        addresses,
        dwarf,
        orc,
        cfi,
        btf,
    })
}

/// Gives a relocatable file's sections their addresses; nothing for a file that has addresses of its own.
fn place<'d, R: ReadRef<'d>>(object: &Object<'d, R>, layout: &Layout) -> Result<Addresses, String> {
    let mut addresses = Addresses::new();
    if object.kind() != ObjectKind::Relocatable {
        if let Some((name, _)) = layout.first() {
            return Err(format!(
                "its sections have addresses; one for {name} is for relocatable files (*.o, *.ko)"
            ));
        }
        return Ok(addresses);
    }
    let mut next = 0u64;
    for (name, at) in layout {
        let s = object.section_by_name(name).ok_or_else(|| {
            let known: Vec<&str> = object.sections().filter_map(|s| s.name().ok()).collect();
            let hint = emu_core::nearest::hint(name, known);
            format!("it has no section {name}{hint}")
        })?;
        addresses.insert(s.index().0, *at);
        next = next.max(at.saturating_add(s.size()));
    }
    for s in object.sections().filter(in_memory) {
        addresses.entry(s.index().0).or_insert_with(|| {
            let at = next
                .checked_next_multiple_of(s.align().max(1))
                .unwrap_or(next);
            next = at.saturating_add(s.size());
            at
        });
    }
    Ok(addresses)
}

fn in_memory<'d, 'f, R: ReadRef<'d>>(s: &object::read::Section<'d, 'f, R>) -> bool {
    match s.flags() {
        SectionFlags::Elf { sh_flags, .. } => sh_flags.contains(elf::SHF_ALLOC),
        _ => matches!(
            s.kind(),
            SectionKind::Text
                | SectionKind::Data
                | SectionKind::ReadOnlyData
                | SectionKind::UninitializedData
        ),
    }
}

/// A kernel's per-CPU variables on x86-64: their addresses are offsets into an area that each CPU has its own of.
fn is_percpu(section: &str, address: u64) -> bool {
    section == ".data..percpu" && address == 0
}

fn elf_symbols<'d, Elf: FileHeader, R: ReadRef<'d>>(
    f: &ElfFile<'d, Elf, R>,
    addresses: &Addresses,
    builder: &mut Builder,
) -> Result<(), object::Error> {
    let (endian, data) = (f.endian(), f.data());
    let sections = f.elf_section_table();
    for table in [f.elf_symbol_table(), f.elf_dynamic_symbol_table()] {
        if table.is_empty() {
            continue;
        }
        // As one piece: asked for one by one, each name would be a read of the file.
        let strings = sections
            .section(table.string_section())?
            .data(endian, data)?;
        for (index, s) in table.enumerate() {
            let kind = match s.st_type() {
                elf::STT_FUNC | elf::STT_GNU_IFUNC => Kind::Function,
                elf::STT_OBJECT | elf::STT_COMMON => Kind::Data,
                elf::STT_NOTYPE => Kind::Label,
                _ => continue,
            };
            let shndx = s.st_shndx(endian);
            if shndx == elf::SHN_UNDEF || shndx == elf::SHN_COMMON {
                continue;
            }
            let section = table.symbol_section(endian, s, index)?;
            let value: u64 = s.st_value(endian).into();
            let mut absolute = section.is_none();
            let mut address = value;
            if let Some(i) = section {
                if let Some(base) = addresses.get(&i.0) {
                    address = base.wrapping_add(value);
                } else if let Ok(header) = sections.section(i) {
                    let name = sections.section_name(endian, header).unwrap_or(b"");
                    let start = header.sh_addr(endian).into();
                    absolute = is_percpu(&String::from_utf8_lossy(name), start);
                }
            }
            let Some(name) = strings.get(s.st_name(endian) as usize..) else {
                continue;
            };
            let name = name.split(|b| *b == 0).next().unwrap_or(b"");
            builder.add(&Entry {
                name: &String::from_utf8_lossy(name),
                address,
                size: s.st_size(endian).into(),
                kind,
                binding: match s.st_bind() {
                    elf::STB_LOCAL => Binding::Local,
                    elf::STB_WEAK => Binding::Weak,
                    _ => Binding::Global,
                },
                absolute,
            });
        }
    }
    Ok(())
}

/// A PE's COFF symbols (as mingw leaves them) and its exports.
fn coff_symbols<'d, R: ReadRef<'d>>(
    object: &Object<'d, R>,
    addresses: &Addresses,
    builder: &mut Builder,
) {
    let in_code = |s: &object::read::Symbol<'d, '_, R>| {
        let section = s
            .section_index()
            .and_then(|i| object.section_by_index(i).ok());
        section.is_some_and(|s| s.kind() == SectionKind::Text)
    };
    // An object file's sections have been given other addresses than the file has.
    let moved = |s: &object::read::Symbol<'d, '_, R>| {
        let section = s
            .section_index()
            .and_then(|i| object.section_by_index(i).ok());
        let there = section.and_then(|x| Some((addresses.get(&x.index().0)?, x.address())));
        there.map_or(s.address(), |(to, from)| {
            s.address().wrapping_sub(from).wrapping_add(*to)
        })
    };
    for s in object
        .symbols()
        .filter(|s| s.is_definition() || s.kind() == SymbolKind::Label)
    {
        let kind = match s.kind() {
            SymbolKind::Text => Kind::Function,
            // COFF seldom says that something is a function; its section does.
            SymbolKind::Data | SymbolKind::Unknown if in_code(&s) => Kind::Function,
            SymbolKind::Data => Kind::Data,
            SymbolKind::Label | SymbolKind::Unknown => Kind::Label,
            _ => continue,
        };
        let Ok(name) = s.name_bytes() else { continue };
        builder.add(&Entry {
            name: &String::from_utf8_lossy(name),
            address: moved(&s),
            // object gives COFF symbols no sizes of their own.
            size: 0,
            kind,
            binding: if s.is_local() {
                Binding::Local
            } else {
                Binding::Global
            },
            absolute: s.section_index().is_none(),
        });
    }
    for e in object.exports().into_iter().flatten().flatten() {
        let (NameOrOrdinal::Name(name), ExportTarget::Address { address }) = (e.name(), e.target())
        else {
            continue;
        };
        builder.add(&Entry {
            name: &String::from_utf8_lossy(name),
            address,
            size: 0,
            kind: Kind::Function,
            binding: Binding::Global,
            absolute: false,
        });
    }
}

/// A section's content, unpacked if it is compressed, its relocations applied if it has any.
pub fn content<'d, R: ReadRef<'d>>(
    object: &Object<'d, R>,
    s: &object::read::Section<'d, '_, R>,
    addresses: &Addresses,
) -> Option<Vec<u8>> {
    let packed = s.compressed_data().ok()?;
    if packed.uncompressed_size > LARGEST {
        return None;
    }
    let mut data: Cow<[u8]> = packed.decompress().ok()?;
    if object.kind() == ObjectKind::Relocatable {
        for (offset, r) in s.relocations() {
            if r.kind() != RelocationKind::Absolute {
                continue;
            }
            let target = match r.target() {
                RelocationTarget::Symbol(i) => object.symbol_by_index(i).ok().map(|s| {
                    let base = s.section_index().and_then(|i| addresses.get(&i.0));
                    s.address().wrapping_add(base.copied().unwrap_or(0))
                }),
                RelocationTarget::Section(i) => addresses.get(&i.0).copied(),
                _ => None,
            };
            let size = usize::from(r.size() / 8);
            let Some((target, at)) = target.zip(usize::try_from(offset).ok()) else {
                continue;
            };
            let data = data.to_mut();
            let Some(field) = at.checked_add(size).and_then(|end| data.get_mut(at..end)) else {
                continue;
            };
            let mut old = [0; 8];
            if size > old.len() {
                continue;
            }
            old[..size].copy_from_slice(field);
            let implicit = if r.has_implicit_addend() {
                u64::from_le_bytes(old)
            } else {
                0
            };
            let value = target
                .wrapping_add_signed(r.addend())
                .wrapping_add(implicit);
            field.copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }
    Some(data.into_owned())
}
