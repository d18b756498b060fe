//! Symbols: what the guest's addresses are called, and where its names are.
//!
//! [`Symbols`] is a list of [`Module`]s, each from one file (or one column of `/proc/kallsyms`), each at a slide of its own:
//!
//! ```text
//! load      a file -> modules, by its content: ELF, PE, COFF, System.map, nm, kallsyms, bzImage
//!   elf     sections, symbol tables, layout of *.ko       text   System.map and its kin
//!   linux   a kernel's own tables: kallsyms, its slide, its list of modules
//! module    one module: addresses <-> names               dwarf  lines and inlined functions, read when first asked for
//! unwind    who called: ORC, CFI, frame pointers
//! write     symbols as an ELF file, for other debuggers
//! ```
//!
//! Addresses are the guest's linear ones. Nothing here asks a machine for anything: who needs guest memory is given a closure that
//! reads it and says whether it could. Every file is a stranger's: each mistake in it is one line that names the file.

mod dwarf;
mod elf;
pub mod linux;
mod load;
mod module;
mod text;
pub mod unwind;
pub mod write;

pub use dwarf::Place;
pub use load::{Layout, load};
pub use module::{Binding, Found, Module};
#[cfg(test)]
pub use module::{Builder, Entry, Kind};

use emu_core::nearest;
use std::ops::Range;
use std::path::Path;

/// Reads guest memory at a linear address; false if it is not all there.
pub type Read<'a> = dyn FnMut(u64, &mut [u8]) -> bool + 'a;

/// So many names are compared to find what a misspelt one was meant to be.
const COMPARED: usize = 1 << 20;

#[derive(Default)]
pub struct Symbols {
    modules: Vec<Module>,
}

impl Symbols {
    /// Loads a file and adds what is in it; gives the names of the new modules.
    pub fn add_file(&mut self, path: &Path, layout: &Layout) -> Result<Vec<String>, String> {
        let modules = load(path, layout)?;
        Ok(modules.into_iter().map(|m| self.add(m)).collect())
    }

    /// Adds a module; one of the same name goes. Gives the name.
    pub fn add(&mut self, module: Module) -> String {
        let name = module.name.clone();
        self.remove(&name);
        self.modules.push(module);
        name
    }

    /// Whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.modules.len();
        self.modules.retain(|m| m.name != name);
        self.modules.len() != before
    }

    pub fn clear(&mut self) {
        self.modules.clear();
    }

    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    pub fn module_mut(&mut self, name: &str) -> Option<&mut Module> {
        self.modules.iter_mut().find(|m| m.name == name)
    }

    /// The address of a name, or of `module!name` or `module:name`. The first module that has it counts.
    pub fn lookup(&self, name: &str) -> Option<u64> {
        let plain = self.modules.iter().find_map(|m| m.lookup(name));
        plain.or_else(|| {
            let (module, name) = name.split_once(['!', ':'])?;
            let modules = self.modules.iter().filter(|m| m.name == module);
            modules.filter_map(|m| m.lookup(name)).next()
        })
    }

    /// All addresses of a name, in all modules, at most `limit`.
    pub fn lookup_all(&self, name: &str, limit: usize) -> Vec<u64> {
        let all = self.modules.iter();
        let all = all.flat_map(|m| m.lookup_all(name, limit));
        all.take(limit).collect()
    }

    /// What an unknown name was perhaps meant to be: ": did you mean start_kernel?", or nothing.
    pub fn hint(&self, name: &str) -> String {
        // A name that is half as long or twice as long is never near, and costs as much to compare.
        let close = |n: &&str| n.len().abs_diff(name.len()) <= (name.len() / 3).max(1);
        let names = self.modules.iter().flat_map(Module::names);
        nearest::hint(name, names.filter(close).take(COMPARED))
    }

    /// The symbol that covers an address; the nearest, if several modules have one.
    pub fn find(&self, address: u64) -> Option<Found<'_>> {
        let all = self.modules.iter().filter_map(|m| m.find(address));
        all.min_by_key(|f| f.offset)
    }

    /// The module with the nearest symbol, or with a section there.
    pub fn module_at(&self, address: u64) -> Option<&Module> {
        let near = |m: &&Module| m.find(address).map_or(u64::MAX, |f| f.offset);
        let here =
            |m: &&Module| matches!(m.section(address), Ok(Some(_))) || m.find(address).is_some();
        self.modules.iter().filter(here).min_by_key(near)
    }

    /// Whether instructions can be there, for all that is known.
    pub fn is_code(&self, address: u64) -> bool {
        self.modules.iter().any(|m| m.is_code(address))
    }

    /// The function at an address, from its first byte to behind its last.
    pub fn function_range(&self, address: u64) -> Option<Range<u64>> {
        self.module_at(address)?.range(address)
    }

    /// An address as `<start_kernel+0x12>`; in other modules than the first, `<nf_tables:nft_do_chain+0x12>`. Nothing if no symbol
    /// covers it.
    pub fn symbolize(&self, address: u64) -> Option<String> {
        let found = self.find(address)?;
        let first = self.modules.first().is_some_and(|m| m.name == found.module);
        let module = if first {
            String::new()
        } else {
            format!("{}:", found.module)
        };
        Some(match found.offset {
            0 => format!("<{module}{}>", found.name),
            n => format!("<{module}{}+{n:#x}>", found.name),
        })
    }

    /// Names that begin with a prefix, sorted, each once, at most `limit`. Behind `module!` or `module:`, that module's.
    pub fn complete(&self, prefix: &str, limit: usize) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut take = |m: &Module, head: &str, rest: &str| {
            let mut own: Vec<&str> = m.names().filter(|n| n.starts_with(rest)).collect();
            own.sort_unstable();
            own.dedup();
            own.truncate(limit);
            names.extend(own.into_iter().map(|n| format!("{head}{n}")));
        };
        for m in &self.modules {
            take(m, "", prefix);
            if let Some(rest) = prefix.strip_prefix(&m.name)
                && let Some(rest) = rest.strip_prefix(['!', ':'])
            {
                take(m, &prefix[..prefix.len() - rest.len()], rest);
            }
        }
        names.sort_unstable();
        names.dedup();
        names.truncate(limit);
        names
    }

    /// The source line of an address, innermost inlined function first. Empty without DWARF.
    pub fn places(&self, address: u64) -> Vec<Place> {
        let all = self.modules.iter().map(|m| m.places(address));
        all.into_iter().find(|p| !p.is_empty()).unwrap_or_default()
    }

    /// The source line of an address: file, line, column (0: unknown).
    pub fn line(&self, address: u64) -> Option<(String, u32, u32)> {
        let place = self.places(address).into_iter().next()?;
        Some((place.file?, place.line, place.column))
    }

    /// Where the code of a source line begins: one address for each copy (inlined, or in several units), at most 64. `file` may be
    /// the end of a path. If there is no code for this line, the next line that has some counts.
    pub fn address_of_line(&self, file: &str, line: u32) -> Vec<u64> {
        let all = self.modules.iter();
        let all = all.map(|m| m.address_of_line(file, line));
        all.into_iter().find(|a| !a.is_empty()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
