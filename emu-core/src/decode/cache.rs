//! The block cache: by physical address and mode key.
//!
//! Blocks live in slots; a slot's number is a block's name. `find` looks in a direct-mapped table in front of a hash map.
//! Each page knows its blocks, so that a write to code drops those that cover the written bytes and no others. When blocks
//! outgrow [`MAX_BYTES`] all go at once: what is hot is decoded again within microseconds.

use super::block::{Block, Link};
use crate::cpu::mode::ModeKey;
use crate::mem::phys::Ram;
use rustc_hash::FxHashMap;

/// Host memory for decoded instructions, about.
pub const MAX_BYTES: usize = 24 << 20;
/// Pages with an index of their own at most (some 12 MiB of indices).
const MAX_PAGES: usize = 8192;
const FAST: usize = 1 << 14;

#[derive(Clone, Copy)]
struct Fast {
    off: u64,
    key: ModeKey,
    block: u32,
}

const EMPTY: Fast = Fast {
    off: u64::MAX,
    key: ModeKey::empty(),
    block: 0,
};

/// The blocks of one page, by the 64-byte chunk that they begin in.
struct PageIndex {
    starts: [Vec<u32>; 64],
    /// Chunks that the longest block so far reaches beyond its first.
    reach: usize,
}

impl Default for PageIndex {
    fn default() -> Self {
        Self {
            starts: [const { Vec::new() }; 64],
            reach: 0,
        }
    }
}

impl PageIndex {
    fn chunk(off: u64) -> usize {
        (off & 0xfff) as usize >> 6
    }

    fn add(&mut self, n: u32, off: u64, bytes: u64) {
        let last = ((off & 0xfff) + bytes).clamp(1, 0x1000) - 1;
        self.reach = self.reach.max((last as usize >> 6) - Self::chunk(off));
        self.starts[Self::chunk(off)].push(n);
    }

    fn remove(&mut self, n: u32, off: u64) {
        self.starts[Self::chunk(off)].retain(|&m| m != n);
    }

    /// Every block that may cover a byte from `first` to `last`, and perhaps a few more.
    fn near(&self, first: u64, last: u64) -> impl Iterator<Item = u32> + '_ {
        let from = Self::chunk(first).saturating_sub(self.reach);
        self.starts[from..=Self::chunk(last)]
            .iter()
            .flatten()
            .copied()
    }
}

/// All blocks of one vCPU.
pub struct Cache {
    blocks: Vec<Block>,
    free: Vec<u32>,
    map: FxHashMap<(u64, ModeKey), u32>,
    pages: FxHashMap<u64, Box<PageIndex>>,
    /// Room for what one invalidation drops.
    dead: Vec<u32>,
    fast: Box<[Fast]>,
    bytes: usize,
    generation: u64,
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
            blocks: Vec::new(),
            free: Vec::new(),
            map: FxHashMap::default(),
            pages: FxHashMap::default(),
            dead: Vec::new(),
            fast: vec![EMPTY; FAST].into_boxed_slice(),
            bytes: 0,
            generation: 0,
            stats: CacheStats::default(),
        }
    }
}

impl Cache {
    #[inline(always)]
    fn slot(off: u64, key: ModeKey) -> usize {
        (off ^ off >> 14 ^ u64::from(key.bits()) << 5) as usize & (FAST - 1)
    }

    /// The block that begins at this RAM offset in this mode.
    #[inline(always)]
    pub fn find(&mut self, off: u64, key: ModeKey) -> Option<u32> {
        let f = self.fast[Self::slot(off, key)];
        if f.off == off && f.key == key {
            Some(f.block)
        } else {
            self.find_slow(off, key)
        }
    }

    fn find_slow(&mut self, off: u64, key: ModeKey) -> Option<u32> {
        let block = *self.map.get(&(off, key))?;
        self.fast[Self::slot(off, key)] = Fast { off, key, block };
        Some(block)
    }

    /// Changes whenever a block dies, in bits that TLB epochs do not reach: a link made before is not followed.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    #[inline(always)]
    pub fn get(&self, n: u32) -> &Block {
        &self.blocks[n as usize]
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
        b.insns.len() * size_of::<super::insn::Insn>() + size_of::<Block>() + 64
    }

    /// Takes a new block in; the caller protects its pages. Returns its name.
    pub fn insert(&mut self, b: Block, ram: &Ram) -> u32 {
        if self.bytes > MAX_BYTES || self.pages.len() > MAX_PAGES {
            self.flush(ram);
        }
        self.stats.blocks_built += 1;
        self.stats.instructions_decoded += b.insns.len() as u64;
        self.bytes += Self::size(&b);
        let (off, key, second) = (b.off, b.key, b.second);
        let n = match self.free.pop() {
            Some(n) => {
                self.blocks[n as usize] = b;
                n
            }
            None => {
                self.blocks.push(b);
                self.blocks.len() as u32 - 1
            }
        };
        self.map.insert((off, key), n);
        self.fast[Self::slot(off, key)] = Fast { off, key, block: n };
        let bytes = self.blocks[n as usize].bytes;
        self.pages
            .entry(off >> 12)
            .or_default()
            .add(n, off, u64::from(bytes));
        if let Some(s) = second {
            self.pages
                .entry(s >> 12)
                .or_default()
                .add(n, s & !0xfff, 15);
        }
        n
    }

    /// Bytes of `b` on the page: (offset, length).
    fn extent(b: &Block, page: u64) -> Option<(u64, u64)> {
        let first = (0x1000 - (b.off & 0xfff)).min(u64::from(b.bytes));
        if b.off >> 12 == page {
            return Some((b.off, first));
        }
        let s = b.second.filter(|s| s >> 12 == page)?;
        Some((s & !0xfff, (u64::from(b.bytes) - first).max(1)))
    }

    /// Drops the blocks that cover any of `len` bytes at RAM offset `off`, within one page.
    pub fn invalidate(&mut self, ram: &Ram, off: u64, len: u64) {
        let page = off >> 12;
        let Some(index) = self.pages.get(&page) else {
            return;
        };
        let mut dead = std::mem::take(&mut self.dead);
        dead.clear();
        let mut hit = (off, off + len);
        for n in index.near(off, off + len - 1) {
            if let Some((o, l)) = Self::extent(&self.blocks[n as usize], page)
                && o < off + len
                && off < o + l
            {
                dead.push(n);
                hit = (hit.0.min(o), hit.1.max(o + l));
            }
        }
        for &n in &dead {
            self.drop_block(n);
        }
        self.stats.blocks_invalidated_by_write += dead.len() as u64;
        self.dead = dead;
        // What the dead blocks covered is code only where another block still covers it (and so is a grain that is left
        // marked from a block across two pages, dropped by a write to its other page).
        let first = hit.0 & !15;
        ram.clear_code(first, ((hit.1 - 1) | 15) + 1 - first);
        if let Some(index) = self.pages.get(&page) {
            for n in index.near(first, (hit.1 - 1) | 15) {
                if let Some((o, l)) = Self::extent(&self.blocks[n as usize], page) {
                    ram.add_code(o, l);
                }
            }
        }
    }

    fn drop_block(&mut self, n: u32) {
        let b = &mut self.blocks[n as usize];
        let (off, key, second) = (b.off, b.key, b.second);
        self.bytes = self.bytes.saturating_sub(Self::size(b));
        b.insns = Box::default();
        b.off = u64::MAX;
        b.links = [Link::NONE; 2];
        self.map.remove(&(off, key));
        let f = &mut self.fast[Self::slot(off, key)];
        if f.off == off && f.key == key {
            *f = EMPTY;
        }
        for at in [Some(off), second.map(|s| s & !0xfff)]
            .into_iter()
            .flatten()
        {
            if let Some(index) = self.pages.get_mut(&(at >> 12)) {
                index.remove(n, at);
            }
        }
        self.generation = self.generation.wrapping_add(1 << 40);
        self.free.push(n);
    }

    /// Drops everything.
    pub fn flush(&mut self, ram: &Ram) {
        self.stats.cache_flushes += 1;
        self.generation = self.generation.wrapping_add(1 << 40);
        for page in self.pages.keys() {
            ram.clear_code(page << 12, 0x1000);
        }
        self.blocks.clear();
        self.free.clear();
        self.map.clear();
        self.pages.clear();
        self.fast.fill(EMPTY);
        self.bytes = 0;
    }
}
