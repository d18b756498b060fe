//! One module's symbols: a kernel, a program, a driver; names to addresses and back.
//!
//! A [`Builder`] takes symbols in any order, with the addresses that the file gives; [`Builder::build`] sorts them by address
//! (aliases: the best name first) and indexes the names. From then on only the slide changes: what is added to a
//! file's address to get where the guest has it. All arithmetic wraps at the module's width, so a kernel of 32 bits
//! slides within 32 bits.
//!
//! Two kinds of symbols: those that lie somewhere, and absolute ones (constants, offsets into the per-CPU area), which have a
//! value, do not slide, and never name an address.

use super::dwarf::Lines;
use super::unwind::{Cfi, Orc};
use rustc_hash::FxHashMap;
use std::cell::OnceCell;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::PathBuf;

/// Where nothing ends a symbol of unknown size, it ends by itself.
const LONGEST: u64 = 4 << 20;
/// How many addresses with symbols are looked at, backwards, for one that covers an address.
const WALK: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Function,
    Data,
    Label,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Binding {
    Global,
    Weak,
    Local,
}

/// What a file says of one symbol.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub address: u64,
    /// 0 if the file does not say.
    pub size: u64,
    pub kind: Kind,
    pub binding: Binding,
    /// Has a value, but lies nowhere.
    pub absolute: bool,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    size: u64,
    name: u32,
    length: u16,
    kind: Kind,
    binding: Binding,
    absolute: bool,
}

/// A section that the guest has in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    /// As the file has it.
    pub range: Range<u64>,
    pub code: bool,
}

/// The symbol that covers an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub module: &'a str,
    pub name: &'a str,
    pub kind: Kind,
    /// Where the guest has the symbol.
    pub address: u64,
    pub offset: u64,
}

#[derive(Default)]
pub struct Builder {
    names: String,
    symbols: Vec<Symbol>,
    sections: Vec<Section>,
}

impl Builder {
    /// Takes one symbol. Names without content, mapping symbols (`$x`) and names of impossible length are left out.
    pub fn add(&mut self, e: &Entry) {
        let (Ok(length), Ok(name)) = (u16::try_from(e.name.len()), u32::try_from(self.names.len()))
        else {
            return;
        };
        if length == 0 || e.name.starts_with('$') {
            return;
        }
        self.names.push_str(e.name);
        self.symbols.push(Symbol {
            address: e.address,
            size: e.size,
            name,
            length,
            kind: e.kind,
            binding: e.binding,
            absolute: e.absolute,
        });
    }

    pub fn section(&mut self, section: Section) {
        if !section.range.is_empty() {
            self.sections.push(section);
        }
    }

    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Makes those symbols absolute whose addresses are in here: offsets into an area that each CPU has its own of.
    pub fn absolute_below(&mut self, end: u64) {
        for s in self.symbols.iter_mut().filter(|s| s.address < end) {
            s.absolute = true;
        }
    }

    /// The value of a symbol that has been added: for what a loader decides by names.
    pub fn value(&self, name: &str) -> Option<u64> {
        let text = |s: &Symbol| &self.names[s.name as usize..][..s.length.into()];
        (self.symbols.iter().find(|s| text(s) == name)).map(|s| s.address)
    }

    /// `width`: how many bytes an address has, 4 or 8.
    pub fn build(self, name: &str, width: u8) -> Module {
        let Builder {
            mut names,
            mut symbols,
            mut sections,
        } = self;
        names.shrink_to_fit();
        let text = |s: &Symbol| &names[s.name as usize..][..s.length.into()];
        symbols.sort_unstable_by(|a, b| {
            let place = |s: &Symbol| (s.absolute, s.address, quality(s));
            place(a).cmp(&place(b)).then_with(|| {
                let (a, b) = (text(a), text(b));
                let plain = |s: &str| (s.len() - s.trim_start_matches('_').len(), s.len());
                plain(a).cmp(&plain(b)).then_with(|| a.cmp(b))
            })
        });
        symbols.dedup_by(|a, b| {
            a.address == b.address && a.absolute == b.absolute && text(a) == text(b)
        });
        sections.sort_by_key(|s| (s.range.start, s.range.end));
        let hash = RandomState::new();
        let mut first =
            FxHashMap::with_capacity_and_hasher(symbols.len(), rustc_hash::FxBuildHasher);
        let mut next = vec![u32::MAX; symbols.len()];
        for (i, s) in symbols.iter().enumerate().rev() {
            let before = first.insert(hash.hash_one(text(s)), i as u32);
            next[i] = before.unwrap_or(u32::MAX);
        }
        let located = symbols.partition_point(|s| !s.absolute);
        Module {
            name: name.into(),
            path: None,
            width,
            slide: 0,
            sized: symbols[..located].iter().any(|s| s.size != 0),
            located,
            names,
            symbols,
            sections,
            hash,
            first,
            next,
            source: None,
            lines: OnceCell::new(),
            orc: None,
            cfi: None,
            banner: None,
            btf: None,
        }
    }
}

/// Lower is better, among names of one address.
fn quality(s: &Symbol) -> (u8, Binding) {
    let kind = match s.kind {
        Kind::Function => 0,
        Kind::Data => 1,
        Kind::Label => 2,
    };
    (kind, s.binding)
}

pub struct Module {
    pub name: String,
    pub path: Option<PathBuf>,
    /// Bytes of an address: 4 or 8.
    pub width: u8,
    slide: u64,
    names: String,
    symbols: Vec<Symbol>,
    /// How many symbols lie somewhere; the rest are absolute.
    located: usize,
    sized: bool,
    sections: Vec<Section>,
    hash: RandomState,
    /// By the name's hash, the first symbol of that hash; `next` chains the others.
    first: FxHashMap<u64, u32>,
    next: Vec<u32>,
    /// Where DWARF is read from when it is first asked for.
    pub(super) source: Option<super::dwarf::Source>,
    pub(super) lines: OnceCell<Option<Lines>>,
    pub(super) orc: Option<Orc>,
    pub(super) cfi: Option<Cfi>,
    /// A kernel's "Linux version ", as the file has it, if no symbol says so.
    pub(super) banner: Option<u64>,
    /// A kernel's types.
    pub(super) btf: Option<super::linux::Btf>,
}

impl Module {
    pub fn slide(&self) -> u64 {
        self.slide
    }

    /// What is added to the file's addresses, wrapping.
    pub fn set_slide(&mut self, slide: u64) {
        self.slide = slide & self.mask();
    }

    /// Puts the module's lowest section (or symbol) at an address.
    pub fn set_base(&mut self, base: u64) {
        self.set_slide(base.wrapping_sub(self.lowest()));
    }

    fn lowest(&self) -> u64 {
        let sections = self.sections.first().map(|s| s.range.start);
        let symbols = self.symbols[..self.located].first().map(|s| s.address);
        sections.or(symbols).unwrap_or(0)
    }

    pub(super) fn mask(&self) -> u64 {
        if self.width == 4 {
            u32::MAX.into()
        } else {
            u64::MAX
        }
    }

    /// Where the guest has what the file has at an address.
    pub fn runtime(&self, address: u64) -> u64 {
        address.wrapping_add(self.slide) & self.mask()
    }

    /// The other way round; `None` if it is above what the module's width can reach.
    pub fn linked(&self, runtime: u64) -> Option<u64> {
        (runtime & !self.mask() == 0).then(|| runtime.wrapping_sub(self.slide) & self.mask())
    }

    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    fn text(&self, s: &Symbol) -> &str {
        &self.names[s.name as usize..][..s.length.into()]
    }

    fn value(&self, s: &Symbol) -> u64 {
        if s.absolute {
            s.address
        } else {
            self.runtime(s.address)
        }
    }

    fn named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Symbol> + use<'a> {
        let hash = self.hash.hash_one(name);
        let start = self.first.get(&hash).copied();
        let name = name.to_owned();
        std::iter::successors(start, |i| {
            Some(self.next[*i as usize]).filter(|n| *n != u32::MAX)
        })
        .map(|i| &self.symbols[i as usize])
        .filter(move |s| self.text(s) == name)
    }

    /// The address of a name; of several, a global symbol's, then the lowest.
    pub fn lookup(&self, name: &str) -> Option<u64> {
        let best = self
            .named(name)
            .min_by_key(|s| (s.binding, s.absolute, s.address))?;
        Some(self.value(best))
    }

    /// All addresses of a name: static functions share names. At most `limit`.
    pub fn lookup_all(&self, name: &str, limit: usize) -> Vec<u64> {
        let found = self.named(name).map(|s| self.value(s));
        found.take(limit).collect()
    }

    /// As the file has it.
    pub fn linked_address(&self, name: &str) -> Option<u64> {
        self.named(name)
            .min_by_key(|s| (s.binding, s.absolute, s.address))
            .map(|s| s.address)
    }

    /// Where the guest has the module, as far as its sections or its symbols say.
    pub fn extent(&self) -> Option<Range<u64>> {
        let located = &self.symbols[..self.located];
        let linked = match (self.sections.first(), located.first(), located.last()) {
            (Some(first), ..) => {
                let ends = self.sections.iter().map(|s| s.range.end);
                first.range.start..ends.max().unwrap_or(first.range.end)
            }
            (None, Some(first), Some(last)) => {
                first.address..last.address.checked_add(last.size.max(1))?
            }
            _ => return None,
        };
        let from = self.runtime(linked.start);
        Some(from..from.checked_add(linked.end - linked.start)?)
    }

    /// All names, of what lies somewhere and of what does not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.symbols.iter().map(|s| self.text(s))
    }

    /// All symbols as the file has them: those that lie somewhere by address, then absolute ones.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.symbols.iter().map(|s| Entry {
            name: self.text(s),
            address: s.address,
            size: s.size,
            kind: s.kind,
            binding: s.binding,
            absolute: s.absolute,
        })
    }

    /// The section that has an address; `Err` if the module has sections, and none of them does.
    pub fn section(&self, runtime: u64) -> Result<Option<&Section>, ()> {
        if self.sections.is_empty() {
            return Ok(None);
        }
        let linked = self.linked(runtime).ok_or(())?;
        let behind = self.sections.partition_point(|s| s.range.start <= linked);
        // Few sections lie inside each other (a vmlinux's do not); the nearest is enough.
        match self.sections[..behind]
            .iter()
            .rev()
            .take(4)
            .find(|s| s.range.contains(&linked))
        {
            Some(s) => Ok(Some(s)),
            None => Err(()),
        }
    }

    /// The symbol that covers an address: a sized one that contains it; or else the nearest lower one of unknown size in
    /// the same section, up to the next symbol.
    pub fn find(&self, runtime: u64) -> Option<Found<'_>> {
        let s = self.covering(runtime)?;
        let address = self.value(s);
        Some(Found {
            module: &self.name,
            name: self.text(s),
            kind: s.kind,
            address,
            offset: runtime.wrapping_sub(address) & self.mask(),
        })
    }

    fn covering(&self, runtime: u64) -> Option<&Symbol> {
        let at = self.linked(runtime)?;
        let floor = self.section(runtime).ok()?.map_or(0, |s| s.range.start);
        let located = &self.symbols[..self.located];
        let mut end = located.partition_point(|s| s.address <= at);
        let mut label = None;
        for nearest in [true].into_iter().chain(std::iter::repeat_n(false, WALK)) {
            let Some(address) = end.checked_sub(1).map(|i| located[i].address) else {
                break;
            };
            if address < floor {
                break;
            }
            let start = located[..end].partition_point(|s| s.address < address);
            let group = &located[start..end];
            if let Some(s) = group.iter().find(|s| at - s.address < s.size) {
                return Some(s);
            }
            if nearest && let Some(s) = group.iter().find(|s| s.size == 0) {
                // A file without sizes has nothing better, and an assembler's global label inside a function means that label.
                let alone = at - address >= self.reach(address, end);
                if alone {
                    return None;
                }
                if !self.sized || s.binding != Binding::Local {
                    return Some(s);
                }
                label = Some(s);
            }
            end = start;
        }
        label
    }

    /// How far a symbol of unknown size reaches: to the next one (`next`), within limits.
    fn reach(&self, address: u64, next: usize) -> u64 {
        match self.symbols[..self.located].get(next) {
            Some(n) => (n.address - address).min(LONGEST),
            // The last symbol is as a rule an end (`_end`), with nothing behind it.
            None if self.sections.is_empty() => 0x1000 - (address & 0xfff),
            None => LONGEST,
        }
    }

    /// Whether instructions can be there, for all that the file says.
    pub fn is_code(&self, runtime: u64) -> bool {
        match self.section(runtime) {
            Ok(Some(section)) => section.code,
            Ok(None) => (self.covering(runtime)).is_some_and(|s| s.kind == Kind::Function),
            Err(()) => false,
        }
    }

    /// Where the guest has the function (or whatever it is) that covers an address: from its first byte to behind its last.
    pub fn range(&self, runtime: u64) -> Option<Range<u64>> {
        let s = self.covering(runtime)?;
        let start = self.value(s);
        let size = if s.size != 0 {
            s.size
        } else {
            let next = self.symbols[..self.located].partition_point(|n| n.address <= s.address);
            let section = self.section(runtime).ok()?;
            let section = section.map_or(u64::MAX, |x| x.range.end - s.address);
            self.reach(s.address, next).min(section)
        };
        Some(start..start.checked_add(size)?)
    }
}
