//! The block cache: by physical address and mode key.
//!
//! Blocks live in slots; a slot's number is a block's name. Each page with code has an index, a list of blocks for every 64
//! bytes, so that a write to code drops the blocks that cover the written bytes and no others; `find` looks in a
//! direct-mapped table in front of it.
//!
//! A dropped block is only dead: it keeps its slot and its place in the lists, and when code is decoded there again, in the
//! same mode, it takes the same name. So links to it stay true (they lead to whatever is decoded at that address), and
//! patching code over and over moves no memory. A page whose code is overwritten several times with nothing decoded between is
//! being written as data: all its blocks die at once, and writes to it become direct.
//!
//! When blocks outgrow [`MAX_BYTES`] all go but those that some translation holds: the others, if they are hot, are decoded again
//! within microseconds, but a translation costs milliseconds.

use super::block::{Block, Builder, Link};
use crate::cpu::mode::ModeKey;
use crate::mem::phys::Ram;
use iced_x86::{Code, FlowControl};
use rustc_hash::{FxHashMap, FxHashSet};

/// Host memory for decoded instructions, about.
pub const MAX_BYTES: usize = 48 << 20;
/// Pages with an index of their own at most (some 5 MiB of indices).
const MAX_PAGES: usize = 16384;
/// log2 of the entries in front of the index.
const FAST_BITS: u32 = 16;
/// Writes that hit a page's code, with nothing decoded between, until the page counts as data.
const PATIENCE: u32 = 4;
/// Targets of one indirect branch that are remembered.
const MAX_TARGETS: usize = 16;
/// The end of a list of blocks.
const NONE: u32 = u32::MAX;

/// The blocks of one page, dead ones too.
struct PageIndex {
    /// By the 64-byte chunk that a block begins in, linked through [`Block::next`].
    starts: [u32; 64],
    /// Blocks that begin on another page and end on this one.
    guests: Vec<u32>,
    /// Chunks that the longest block so far reaches beyond its first.
    reach: usize,
    /// Writes that hit code since a block was last decoded.
    hits: u32,
}

impl Default for PageIndex {
    fn default() -> Self {
        Self {
            starts: [NONE; 64],
            guests: Vec::new(),
            reach: 0,
            hits: 0,
        }
    }
}

impl PageIndex {
    fn chunk(off: u64) -> usize {
        (off & 0xfff) as usize >> 6
    }

    /// Calls `f` with the name of every block that may cover a byte from `first` to `last`, and perhaps of a few more.
    fn near(&self, blocks: &mut [Block], first: u64, last: u64, mut f: impl FnMut(&mut Block)) {
        let from = Self::chunk(first).saturating_sub(self.reach);
        for &start in &self.starts[from..=Self::chunk(last)] {
            let mut n = start;
            while let Some(b) = blocks.get_mut(n as usize) {
                n = b.next;
                f(b);
            }
        }
        for &n in &self.guests {
            f(&mut blocks[n as usize]);
        }
    }
}

/// All blocks of one vCPU.
pub struct Cache {
    pub builder: Builder,
    blocks: Vec<Block>,
    pages: FxHashMap<u64, Box<PageIndex>>,
    /// Names of blocks, checked against the block itself.
    fast: Box<[u32]>,
    bytes: usize,
    /// What `bytes` may grow to: [`MAX_BYTES`], in tests less.
    pub most_bytes: usize,
    generation: u64,
    /// Where indirect branches went, by block.
    targets: FxHashMap<u32, Vec<u64>>,
    /// Executions of a new block until a translating engine hears of it.
    pub threshold: u32,
    /// Translated blocks that died since the engine looked: (RAM offset, mode).
    pub untranslate: Vec<(u64, ModeKey)>,
    pub stats: CacheStats,
}

/// What the cache did.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct CacheStats {
    pub blocks_built: u64,
    pub instructions_decoded: u64,
    pub blocks_invalidated_by_write: u64,
    pub cache_flushes: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            builder: Builder::default(),
            blocks: Vec::new(),
            pages: FxHashMap::default(),
            fast: vec![NONE; 1 << FAST_BITS].into_boxed_slice(),
            bytes: 0,
            most_bytes: MAX_BYTES,
            generation: 0,
            targets: FxHashMap::default(),
            threshold: u32::MAX,
            untranslate: Vec::new(),
            stats: CacheStats::default(),
        }
    }
}

impl Cache {
    #[inline(always)]
    fn slot(off: u64, key: ModeKey) -> usize {
        let x = (off ^ u64::from(key.bits()) << 20) as u32;
        x.wrapping_mul(0x9e37_79b1) as usize >> (32 - FAST_BITS)
    }

    /// The block that begins at this RAM offset in this mode.
    #[inline(always)]
    pub fn find(&mut self, off: u64, key: ModeKey) -> Option<u32> {
        let n = self.fast[Self::slot(off, key)];
        match self.blocks.get(n as usize) {
            Some(b) if b.off == off && b.key == key && !b.insns.is_empty() => Some(n),
            _ => self.find_slow(off, key),
        }
    }

    /// The same, changing nothing.
    pub fn peek(&self, off: u64, key: ModeKey) -> Option<u32> {
        self.name(off, key).filter(|&n| self.alive(n))
    }

    fn find_slow(&mut self, off: u64, key: ModeKey) -> Option<u32> {
        let n = self.name(off, key)?;
        self.fast[Self::slot(off, key)] = n;
        self.alive(n).then_some(n)
    }

    /// The name of the block that begins here, dead or alive.
    fn name(&self, off: u64, key: ModeKey) -> Option<u32> {
        let mut n = self.pages.get(&(off >> 12))?.starts[PageIndex::chunk(off)];
        while let Some(b) = self.blocks.get(n as usize) {
            if b.off == off && b.key == key {
                return Some(n);
            }
            n = b.next;
        }
        None
    }

    /// Whether the block can run; a link may lead to one that was dropped.
    #[inline(always)]
    pub fn alive(&self, n: u32) -> bool {
        !self.blocks[n as usize].insns.is_empty()
    }

    /// Changes whenever names lose their meaning, in bits that TLB epochs do not reach: a link made before is not followed.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    #[inline(always)]
    pub fn get(&self, n: u32) -> &Block {
        &self.blocks[n as usize]
    }

    /// How often a block ran in profiled runs.
    pub fn executions(&self, n: u32) -> u32 {
        self.get(n).profile.executions()
    }

    /// Remembers in a profiled run that the indirect branch or the return at the end of block `from` led to `rip`.
    pub fn note_target(&mut self, from: u32, rip: u64) {
        let b = &self.blocks[from as usize];
        let code = b.insns.last().map(|i| Code::try_from(usize::from(i.code)));
        let Some(Ok(code)) = code else { return };
        let (FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return) =
            code.flow_control()
        else {
            return;
        };
        let targets = self.targets.entry(from).or_default();
        if targets.len() < MAX_TARGETS && !targets.contains(&rip) {
            targets.push(rip);
        }
    }

    /// Where the indirect branch at the end of a block has led: the first so many targets, of any time and address space.
    pub fn targets(&self, from: u32) -> &[u64] {
        self.targets.get(&from).map_or(&[], Vec::as_slice)
    }

    /// Remembers that `from` was followed by `to`.
    pub fn link(&mut self, from: u32, link: Link) {
        let links = &mut self.blocks[from as usize].links;
        if links[0].rip != link.rip {
            links[1] = links[0];
        }
        links[0] = link;
    }

    fn size(b: &Block) -> usize {
        b.insns.capacity() * size_of::<super::insn::Insn>() + size_of::<Block>() + 16
    }

    /// Takes a new block in; the caller protects its pages. Returns its name.
    pub fn insert(&mut self, mut b: Block, ram: &Ram) -> u32 {
        if self.bytes > self.most_bytes || self.pages.len() > MAX_PAGES {
            self.make_room(ram);
        }
        self.stats.blocks_built += 1;
        self.stats.instructions_decoded += b.insns.len() as u64;
        let (off, key) = (b.off, b.key);
        b.profile.again(self.threshold);
        let known = self.fast[Self::slot(off, key)];
        let known = match self.blocks.get(known as usize) {
            Some(old) if old.off == off && old.key == key => Some(known),
            _ => self.name(off, key),
        };
        let n = match known {
            Some(n) => {
                let old = &mut self.blocks[n as usize];
                if old.profile.translated.get() {
                    self.untranslate.push((off, key));
                }
                self.bytes -= Self::size(old);
                let mut insns = std::mem::take(&mut old.insns);
                insns.clear();
                insns.reserve_exact(b.insns.len());
                insns.extend_from_slice(&b.insns);
                self.builder.spare = std::mem::replace(&mut b.insns, insns);
                b.next = old.next;
                b.profile.deaths.set(old.profile.deaths.get());
                let rewritten = old.profile.rewritten.get().saturating_add(1);
                b.profile.rewritten.set(rewritten);
                b.profile.again(b.profile.worth(self.threshold));
                *old = b;
                n
            }
            None => {
                let insns = b.insns.as_slice().to_vec();
                self.builder.spare = std::mem::replace(&mut b.insns, insns);
                self.name_new(b)
            }
        };
        self.fast[Self::slot(off, key)] = n;
        self.note_extent(n);
        n
    }

    /// Gives a block that has no name yet one.
    fn name_new(&mut self, mut b: Block) -> u32 {
        let n = self.blocks.len() as u32;
        let index = self.pages.entry(b.off >> 12).or_default();
        b.next = std::mem::replace(&mut index.starts[PageIndex::chunk(b.off)], n);
        self.blocks.push(b);
        n
    }

    /// Counts a block's memory, and its bytes in the indices of its pages.
    fn note_extent(&mut self, n: u32) {
        let b = &self.blocks[n as usize];
        self.bytes += Self::size(b);
        let last = ((b.off & 0xfff) + u64::from(b.bytes)).clamp(1, 0x1000) - 1;
        let index = self.pages.entry(b.off >> 12).or_default();
        index.reach = index
            .reach
            .max((last as usize >> 6) - PageIndex::chunk(b.off));
        index.hits = 0;
        if let Some(s) = b.second {
            // Links do not look at second pages: none may lead here.
            self.generation = self.generation.wrapping_add(1 << 40);
            let index = self.pages.entry(s >> 12).or_default();
            index.hits = 0;
            let blocks = &self.blocks;
            let ends_here = |m: u32| {
                blocks[m as usize]
                    .second
                    .is_some_and(|t| t >> 12 == s >> 12)
            };
            index.guests.retain(|&m| m != n && ends_here(m));
            index.guests.push(n);
        }
    }

    /// Bytes of `b` on the page: (offset, length); `None`: it is dead or has none.
    fn extent(b: &Block, page: u64) -> Option<(u64, u64)> {
        if b.insns.is_empty() {
            return None;
        }
        let first = (0x1000 - (b.off & 0xfff)).min(u64::from(b.bytes));
        if b.off >> 12 == page {
            return Some((b.off, first));
        }
        let s = b.second.filter(|s| s >> 12 == page)?;
        Some((s & !0xfff, (u64::from(b.bytes) - first).max(1)))
    }

    fn kill(b: &mut Block, untranslate: &mut Vec<(u64, ModeKey)>) {
        if b.profile.translated.replace(false) {
            b.profile
                .deaths
                .set(b.profile.deaths.get().saturating_add(1));
            b.profile.unit.set(0);
            untranslate.push((b.off, b.key));
        }
        b.insns.clear();
        b.links = [Link::NONE; 2];
    }

    /// Drops the blocks that cover any of `len` bytes at RAM offset `off`, within one page.
    pub fn invalidate(&mut self, ram: &Ram, off: u64, len: u64) {
        let page = off >> 12;
        let Some(index) = self.pages.get_mut(&page) else {
            return;
        };
        let (blocks, untranslate) = (&mut self.blocks, &mut self.untranslate);
        let mut dead = 0;
        index.hits += 1;
        if index.hits >= PATIENCE {
            index.near(blocks, page << 12, page << 12 | 0xfff, |b| {
                if Self::extent(b, page).is_some() {
                    Self::kill(b, untranslate);
                    dead += 1;
                }
            });
            index.hits = 0;
            ram.clear_code_page(off);
            self.stats.blocks_invalidated_by_write += dead;
            return;
        }
        let mut hit = (off, off + len);
        index.near(blocks, off, off + len - 1, |b| {
            if let Some((o, l)) = Self::extent(b, page)
                && o < off + len
                && off < o + l
            {
                Self::kill(b, untranslate);
                dead += 1;
                hit = (hit.0.min(o), hit.1.max(o + l));
            }
        });
        self.stats.blocks_invalidated_by_write += dead;
        // What the dead blocks covered is code only where another block still covers it (and so is a grain that is left
        // marked from a block across two pages, dropped by a write to its other page).
        let first = hit.0 & !15;
        ram.clear_code(first, ((hit.1 - 1) | 15) + 1 - first);
        index.near(blocks, first, (hit.1 - 1) | 15, |b| {
            if let Some((o, l)) = Self::extent(b, page) {
                ram.add_code(o, l);
            }
        });
    }

    /// Drops all but what translations hold; everything, where that would not be enough.
    fn make_room(&mut self, ram: &Ram) {
        let held = |b: &Block| b.profile.translated.get() && !b.insns.is_empty();
        let kept = || self.blocks.iter().filter(|b| held(b));
        let size: usize = kept().map(Self::size).sum();
        let pages: FxHashSet<u64> = kept().map(|b| b.off >> 12).collect();
        if size > self.most_bytes / 2 || pages.len() > MAX_PAGES / 4 {
            return self.flush(ram);
        }
        let blocks = std::mem::take(&mut self.blocks);
        let mut targets = std::mem::take(&mut self.targets);
        self.clear(ram);
        for (old, mut b) in blocks.into_iter().enumerate() {
            if !held(&b) {
                continue;
            }
            b.links = [Link::NONE; 2];
            let pages = [Some(b.off >> 12), b.second.map(|s| s >> 12)];
            for (o, l) in pages.iter().flatten().filter_map(|&p| Self::extent(&b, p)) {
                ram.add_code(o, l);
            }
            let n = self.name_new(b);
            self.note_extent(n);
            if let Some(t) = targets.remove(&(old as u32)) {
                self.targets.insert(n, t);
            }
        }
    }

    /// Drops everything.
    pub fn flush(&mut self, ram: &Ram) {
        for b in &self.blocks {
            if b.profile.translated.get() {
                self.untranslate.push((b.off, b.key));
            }
        }
        self.clear(ram);
    }

    /// Leaves no block; the translations of those that there were are the caller's business.
    fn clear(&mut self, ram: &Ram) {
        self.stats.cache_flushes += 1;
        self.generation = self.generation.wrapping_add(1 << 40);
        for page in self.pages.keys() {
            ram.clear_code(page << 12, 0x1000);
        }
        self.blocks.clear();
        self.pages.clear();
        self.targets.clear();
        self.fast.fill(NONE);
        self.bytes = 0;
        self.builder.forget();
    }
}
