//! A running kernel's loaded modules: names, places, and their symbols, from the guest's memory.
//!
//! `modules` is a list of `struct module`, whose layout each kernel has of its own. The kernel's BTF says where the members are. Without
//! it the name follows the list (as it has since 2.6), and what says where the module lies is known by itself: a page's
//! address and three sizes, one within the other, around the `struct module`, which is a part of the module's data
//! (`struct module_layout`; up to 6.3).

use crate::debug::symbols::Read;
use crate::debug::symbols::module::{Binding, Builder, Entry, Kind, Module};
use crate::debug::symbols::unwind::Orc;

/// Modules of one system, and symbols of one module.
const MODULES: usize = 4096;
const SYMBOLS: u64 = 1 << 18;
/// Of one module's memory, and of its names.
const LARGEST: u64 = 256 << 20;
const NAMES: usize = 16 << 20;
/// Without BTF, the module's place is looked for in so many bytes of `struct module`.
const STRUCT: u64 = 0x400;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub name: String,
    /// Where its code begins, which is `.text` of its file.
    pub base: u64,
    pub size: u64,
    /// Its `struct module`.
    pub at: u64,
}

fn word(kernel: &Module, read: &mut Read, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    let size = usize::from(kernel.width);
    read(at, bytes.get_mut(..size)?).then(|| u64::from_le_bytes(bytes))
}

fn word32(read: &mut Read, at: u64) -> Option<u64> {
    let mut bytes = [0; 4];
    read(at, &mut bytes).then(|| u32::from_le_bytes(bytes).into())
}

/// The modules of a running kernel whose slide is known, the newest first. Empty if there are none, or the list makes no sense.
pub fn modules(kernel: &Module, read: &mut Read) -> Vec<Loaded> {
    let mut found: Vec<Loaded> = Vec::new();
    let Some(head) = kernel.lookup("modules") else {
        return found;
    };
    let width = u64::from(kernel.width);
    let offset = |path: &str| kernel.btf.as_ref().and_then(|b| b.offset("module", path));
    let list = offset("list").unwrap_or(width);
    let name_at = offset("name").unwrap_or(list + 2 * width);
    // MODULE_NAME_LEN.
    let mut name = vec![0; 64 - usize::from(kernel.width)];
    let mut next = word(kernel, read, head);
    while let Some(entry) = next
        && entry != head
        && found.len() < MODULES
    {
        let at = entry.wrapping_sub(list) & kernel.mask();
        // A list that goes round without its head is not one.
        if found.iter().any(|m| m.at == at) || !read(at.wrapping_add(name_at), &mut name) {
            return Vec::new();
        }
        let text = name.split(|b| *b == 0).next().unwrap_or(&[]);
        let fine = |b: &u8| b.is_ascii_graphic();
        if text.is_empty() || !text.iter().all(fine) {
            return Vec::new();
        }
        let Some((base, size)) = place(kernel, read, at) else {
            return Vec::new();
        };
        found.push(Loaded {
            name: String::from_utf8_lossy(text).into_owned(),
            base,
            size,
            at,
        });
        next = word(kernel, read, entry);
    }
    found
}

fn place(kernel: &Module, read: &mut Read, at: u64) -> Option<(u64, u64)> {
    let fine = |base: u64, size: u64| {
        (base != 0 && base.is_multiple_of(0x1000) && size > 0 && size < LARGEST)
            .then_some((base, size))
    };
    if let Some(btf) = &kernel.btf {
        // Since 6.4 there is one for each kind of memory, the first of which is the code's.
        for part in ["core_layout", "mem"] {
            let member = |name: &str| btf.offset("module", &format!("{part}.{name}"));
            if let Some((base, size)) = member("base").zip(member("size")) {
                let base = word(kernel, read, at.wrapping_add(base))?;
                let size = word32(read, at.wrapping_add(size))?;
                return fine(base, size);
            }
        }
        return None;
    }
    let width = u64::from(kernel.width);
    (0..STRUCT / width).find_map(|i| {
        let here = at.wrapping_add(i * width);
        let base = word(kernel, read, here)?;
        let mut size = |n: u64| word32(read, here.wrapping_add(width + 4 * n));
        let (all, text, ro) = (size(0)?, size(1)?, size(2)?);
        let pages = [all, text, ro].iter().all(|s| s.is_multiple_of(0x1000));
        let inside = at.checked_sub(base).is_some_and(|o| o < all);
        fine(base, all).filter(|_| pages && inside && text <= ro && ro <= all && text > 0)
    })
}

/// A loaded module's symbols, as the kernel keeps them for its own messages (CONFIG_KALLSYMS): needs the kernel's BTF.
pub fn symbols_of(kernel: &Module, read: &mut Read, loaded: &Loaded) -> Option<Module> {
    let at = kernel.btf.as_ref()?.offset("module", "kallsyms")?;
    // struct mod_kallsyms: symtab, num_symtab, strtab, typetab.
    let width = u64::from(kernel.width);
    let tables = word(kernel, read, loaded.at.wrapping_add(at))?;
    let symtab = word(kernel, read, tables)?;
    let count = word32(read, tables.wrapping_add(width))?;
    let strtab = word(kernel, read, tables.wrapping_add(2 * width))?;
    if count > SYMBOLS {
        return None;
    }
    let mut builder = Builder::default();
    let mut names = 0;
    for i in 0..count {
        // Elf64_Sym: name, info, other, shndx, value, size. Elf32_Sym: name, value, size, info, other, shndx.
        let mut s = [0; 24];
        let size = if width == 8 { 24 } else { 16 };
        if !read(symtab.wrapping_add(i * size), s.get_mut(..size as usize)?) {
            return None;
        }
        let u32_at = |n: usize| u32::from_le_bytes([s[n], s[n + 1], s[n + 2], s[n + 3]]);
        let (info, section, value, length) = if width == 8 {
            let low = |n: usize| u64::from(u32_at(n)) | u64::from(u32_at(n + 4)) << 32;
            (s[4], u16::from_le_bytes([s[6], s[7]]), low(8), low(16))
        } else {
            let section = u16::from_le_bytes([s[14], s[15]]);
            (s[12], section, u32_at(4).into(), u32_at(8).into())
        };
        // Undefined, or of no section that is in memory.
        let inside = value.wrapping_sub(loaded.base) < loaded.size;
        if section == 0 || !inside {
            continue;
        }
        let name = string(read, strtab.wrapping_add(u32_at(0).into()))?;
        names += name.len();
        if names > NAMES {
            return None;
        }
        builder.add(&Entry {
            name: &name,
            address: value,
            size: length,
            // The kernel's loader puts nm's letter into `info` before 5.2; it is a type of ELF from then on.
            kind: match info & 15 {
                2 => Kind::Function,
                1 => Kind::Data,
                _ => Kind::Label,
            },
            binding: match info >> 4 {
                0 => Binding::Local,
                2 => Binding::Weak,
                _ => Binding::Global,
            },
            absolute: false,
        });
    }
    let mut module = builder.build(&loaded.name, kernel.width);
    module.orc = orc(kernel, read, loaded);
    (module.len() > 0).then_some(module)
}

/// A loaded module's ORC tables, which the kernel has sorted.
fn orc(kernel: &Module, read: &mut Read, loaded: &Loaded) -> Option<Orc> {
    let btf = kernel.btf.as_ref()?;
    let mut field = |name: &str| {
        let at = btf.offset("module", &format!("arch.{name}"))?;
        word(kernel, read, loaded.at.wrapping_add(at))
    };
    let count = field("num_orcs")? & u64::from(u32::MAX);
    let (ip_at, rows_at) = (field("orc_unwind_ip")?, field("orc_unwind")?);
    if count > SYMBOLS {
        return None;
    }
    let mut ip = vec![0; 4 * count as usize];
    let mut rows = vec![0; 6 * count as usize];
    (read(ip_at, &mut ip) && read(rows_at, &mut rows)).then(|| Orc::new(ip_at, &ip, &rows))?
}

/// A text in the guest's memory, of at most KSYM_NAME_LEN.
fn string(read: &mut Read, at: u64) -> Option<String> {
    let mut text = Vec::new();
    let mut piece = [0; 32];
    while text.len() < 512 {
        // The end of the last page of names may be near.
        let from = at.wrapping_add(text.len() as u64);
        let size = piece.len().min((0x1000 - (from & 0xfff)) as usize);
        let piece = piece.get_mut(..size)?;
        if !read(from, piece) {
            return None;
        }
        if let Some(end) = piece.iter().position(|b| *b == 0) {
            text.extend_from_slice(&piece[..end]);
            break;
        }
        text.extend_from_slice(piece);
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}
