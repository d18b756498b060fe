//! The shadow TLB: what the guest's page tables said, in the form that one compare and one add can use.
//!
//! A [`Set`] is 16384 direct-mapped entries: only pages a multiple of 64 MiB apart evict each other, which text and data of a
//! kernel are not. An address space (a PCID; one when PCIDs are off) owns three sets, by who asks: supervisor, user, and
//! supervisor with EFLAGS.AC = 1, which SMAP lets touch user pages. Switching privilege or address space therefore changes a
//! pointer and empties nothing.
//!
//! An entry's three tags hold the page's address in bits 63:12. Bits 11:0 are all ones when the access may go straight to
//! `lin + addend`; any other pattern never equals `(lin + size - 1) | 0xfff`, so one compare finds the page, the permission,
//! an access over the page's end and the pages that need the slow path ([`MMIO`], [`CODE`], [`WATCH`]) all at once. Zeroed
//! memory is an empty set.
//!
//! *Epochs.* Whatever was true of an address space's translations when a block was linked to its successor stays true while
//! the epoch is the same; each invalidation gives the space a new one. INVLPG of a page that no code was fetched from (as far as
//! a bit for each 16384th page knows) leaves it alone. Global pages have an epoch of their own, over all spaces: what is true
//! of code on them in one space is true in all (SDM Vol. 3A, 4.10.2.4). It has bits of its own too, since it outlives those of a
//! space that a write to CR3 empties.

/// Entries in a set; a power of two.
pub const ENTRIES: usize = 16384;
/// Address spaces kept at once.
pub const SPACES: usize = 8;

/// Low tag bits: straight to RAM.
pub const DIRECT: u64 = 0xfff;
/// Low tag bits: the board answers; `addend` is the physical page.
pub const MMIO: u64 = 0x001;
/// Low tag bits: RAM that holds decoded code (write tags only).
pub const CODE: u64 = 0x002;
/// Low tag bits: a data breakpoint lies on this page.
pub const WATCH: u64 = 0x004;

/// One page as one kind of access sees it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Entry {
    pub read: u64,
    pub write: u64,
    pub exec: u64,
    /// Added to a linear address it gives the host address; the physical page for [`MMIO`].
    pub addend: u64,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    Supervisor = 0,
    User = 1,
    /// Supervisor with EFLAGS.AC set while SMAP is on.
    SupervisorAc = 2,
}

/// Entries of one address space for one kind of asker.
pub struct Set {
    entries: Box<[Entry; ENTRIES]>,
    /// Bit per entry: the page is global.
    global: Box<[u64; ENTRIES / 64]>,
    /// Indices that may hold something, so that a flush need not visit all.
    used: Vec<u16>,
}

/// Entries that the host provides when they are touched.
fn empty() -> Box<[Entry; ENTRIES]> {
    // SAFETY: an Entry is four integers, for which zero is a value.
    unsafe { Box::new_zeroed().assume_init() }
}

impl Set {
    fn new() -> Self {
        Self {
            entries: empty(),
            global: Box::new([0; ENTRIES / 64]),
            used: Vec::new(),
        }
    }

    #[inline(always)]
    pub fn index(lin: u64) -> usize {
        (lin >> 12) as usize & (ENTRIES - 1)
    }

    pub fn entry_mut(&mut self, lin: u64, global: bool) -> &mut Entry {
        let i = Self::index(lin);
        let e = &mut self.entries[i];
        if e.read | e.write | e.exec == 0 {
            self.used.push(i as u16);
        }
        let bit = 1 << (i & 63);
        if global {
            self.global[i / 64] |= bit;
        } else {
            self.global[i / 64] &= !bit;
        }
        e
    }

    fn flush(&mut self, keep_global: bool) {
        let (entries, global) = (&mut self.entries, &mut self.global);
        self.used.retain(|&i| {
            let i = i as usize;
            let keep = keep_global && global[i / 64] >> (i & 63) & 1 != 0;
            if !keep {
                entries[i] = Entry::default();
            }
            keep
        });
    }

    fn flush_page(&mut self, lin: u64) {
        let e = &mut self.entries[Self::index(lin)];
        // The entry stays in `used`, where an empty one does no harm; it must not be listed twice, so a tag that no
        // address has stays behind.
        let page = lin & !0xfff;
        if e.read & !0xfff == page && e.read != 0
            || e.write & !0xfff == page && e.write != 0
            || e.exec & !0xfff == page && e.exec != 0
        {
            *e = Entry {
                read: EMPTY,
                write: 0,
                exec: 0,
                addend: 0,
            };
        }
    }

    /// Makes the write tags that lead to RAM page `host_page` (a host address) slow: in entry `only`, or in all.
    fn protect(&mut self, host_page: u64, only: Option<u16>) {
        let entries = &mut self.entries;
        let mut slow = |i: u16| {
            let e = &mut entries[i as usize];
            if e.write & 0xfff == DIRECT && (e.write & !0xfff).wrapping_add(e.addend) == host_page {
                e.write = e.write & !0xfff | CODE;
            }
        };
        match only {
            Some(i) => slow(i),
            None => self.used.iter().copied().for_each(slow),
        }
    }
}

/// A read tag of an entry that is listed as used but holds nothing (no slow-path bit, never direct).
pub const EMPTY: u64 = 0x800;

/// No write tag leads straight to the page.
const NOBODY: u16 = 0;
/// Several entries' write tags may.
const MANY: u16 = u16::MAX;

/// One address space.
struct Space {
    /// CR3 bits 11:0 with PCIDs on, else 0.
    pcid: u16,
    epoch: u64,
    last_use: u64,
    /// A bit for each index of a page that code was fetched from under this epoch.
    code: [u64; ENTRIES / 64],
    /// Pages larger than 4 KiB whose fragments may be here, by half of the address space: (address, mask) that covers all.
    large: [Option<(u64, u64)>; 2],
    sets: [Set; 3],
}

/// All sets of a vCPU.
pub struct Tlb {
    spaces: Vec<Space>,
    cur: usize,
    who: Who,
    /// The entries in force, for the inline probe. Points into `spaces[cur].sets[who]` or at `blind`.
    live: *mut Entry,
    /// The supervisor set of the space in force, for implicit accesses.
    system: *mut Entry,
    /// Never filled: every access takes the slow path (alignment checks).
    blind: Box<[Entry; ENTRIES]>,
    blinded: bool,
    next_epoch: u64,
    /// The epoch of the space and asker in force.
    epoch: u64,
    /// The supervisor asks, and there are global pages.
    over_spaces: bool,
    /// The epoch of global pages.
    global_epoch: u64,
    /// A bit for each index of a page whose being global something relies on under this epoch.
    global_code: Box<[u64; ENTRIES / 64]>,
    ticks: u64,
    /// By RAM page: the entry, plus one, whose write tag alone may be direct in any set; or [`NOBODY`], [`MANY`].
    writers: Vec<u16>,
    /// Entries filled, sets emptied, single pages dropped.
    pub fills: u64,
    pub flushes: u64,
    pub page_flushes: u64,
}

// SAFETY: the raw pointers point into boxes that the Tlb owns and that move with it.
unsafe impl Send for Tlb {}

impl Default for Tlb {
    fn default() -> Self {
        let mut t = Self {
            spaces: vec![Space {
                pcid: 0,
                epoch: 2,
                last_use: 0,
                code: [0; ENTRIES / 64],
                large: [None; 2],
                sets: [Set::new(), Set::new(), Set::new()],
            }],
            cur: 0,
            who: Who::Supervisor,
            live: std::ptr::null_mut(),
            system: std::ptr::null_mut(),
            blind: empty(),
            blinded: false,
            next_epoch: 6,
            epoch: 2,
            over_spaces: false,
            global_epoch: 4,
            global_code: Box::new([0; ENTRIES / 64]),
            ticks: 0,
            writers: Vec::new(),
            fills: 0,
            flushes: 0,
            page_flushes: 0,
        };
        t.aim();
        t
    }
}

/// Where translated code finds the entries in force, from the [`Tlb`]'s start.
pub const LIVE_OFFSET: usize = std::mem::offset_of!(Tlb, live);

impl Tlb {
    fn aim(&mut self) {
        let space = &mut self.spaces[self.cur];
        self.epoch = space.epoch | u64::from(self.who == Who::User);
        self.system = space.sets[0].entries.as_mut_ptr();
        self.live = if self.blinded {
            self.blind.as_mut_ptr()
        } else {
            space.sets[self.who as usize].entries.as_mut_ptr()
        };
    }

    /// The entry that an access at `lin` must compare with.
    #[inline(always)]
    pub fn probe(&self, lin: u64) -> Entry {
        // SAFETY: `live` points at ENTRIES entries that live as long as self, and the index is masked.
        unsafe { *self.live.add(Set::index(lin)) }
    }

    /// The same for implicit supervisor accesses (descriptor tables, task state segments).
    #[inline(always)]
    pub fn probe_system(&self, lin: u64) -> Entry {
        // SAFETY: as `probe`.
        unsafe { *self.system.add(Set::index(lin)) }
    }

    pub fn who(&self) -> Who {
        self.who
    }

    /// Chooses the set by who asks; `blind` sends every access to the slow path. `global_pages`: CR4.PGE is set.
    #[inline]
    pub fn select(&mut self, who: Who, blind: bool, global_pages: bool) {
        self.who = who;
        self.blinded = blind;
        self.over_spaces = global_pages && who != Who::User;
        self.aim();
    }

    /// What a link between blocks must have seen to be valid now: the epoch of the space and asker in force, or for a supervisor
    /// with global pages theirs ([`over_spaces`](Self::over_spaces)). All epochs differ.
    #[inline(always)]
    pub fn epoch(&self) -> u64 {
        if self.over_spaces {
            self.global_epoch
        } else {
            self.epoch
        }
    }

    /// Whether links hold in every space, and so may lead to global pages alone.
    #[inline(always)]
    pub fn over_spaces(&self) -> bool {
        self.over_spaces
    }

    /// Code was fetched from the page of `lin`: its translation now counts for the epoch.
    #[inline(always)]
    pub fn note_code(&mut self, lin: u64) {
        let i = Set::index(lin);
        self.spaces[self.cur].code[i / 64] |= 1 << (i & 63);
    }

    /// Something relies on the page of `lin`, a global one, in every space.
    pub fn note_global_code(&mut self, lin: u64) {
        let i = Set::index(lin);
        self.global_code[i / 64] |= 1 << (i & 63);
    }

    fn renew_global(&mut self) {
        *self.global_code = [0; ENTRIES / 64];
        self.global_epoch = self.next_epoch;
        self.next_epoch += 2;
    }

    /// Whether INVLPG anywhere in the page of `size` bytes around `lin` is known to concern all of it.
    pub fn knows_large(&self, lin: u64, size: u64) -> bool {
        let cover = self.spaces[self.cur].large[(lin >> 63) as usize];
        cover.is_some_and(|(at, mask)| lin & mask == at && mask & (size - 1) == 0)
    }

    /// Whether the entry that serves `lin` is a global page's.
    pub fn is_global(&self, lin: u64) -> bool {
        let i = Set::index(lin);
        let set = &self.spaces[self.cur].sets[self.who as usize];
        set.global[i / 64] >> (i & 63) & 1 != 0
    }

    fn renew(&mut self, space: usize) {
        self.spaces[space].code = [0; ENTRIES / 64];
        self.spaces[space].epoch = self.next_epoch;
        self.next_epoch += 2;
        if space == self.cur {
            self.aim();
        }
    }

    /// Makes the space of `pcid` the current one, taking the least recently used for a new PCID.
    pub fn switch(&mut self, pcid: u16) {
        self.ticks += 1;
        let found = self.spaces.iter().position(|s| s.pcid == pcid);
        self.cur = found.unwrap_or_else(|| {
            if self.spaces.len() < SPACES {
                self.spaces.push(Space {
                    pcid,
                    epoch: 0,
                    last_use: 0,
                    code: [0; ENTRIES / 64],
                    large: [None; 2],
                    sets: [Set::new(), Set::new(), Set::new()],
                });
                let new = self.spaces.len() - 1;
                self.renew(new);
                return new;
            }
            let (old, _) = self
                .spaces
                .iter()
                .enumerate()
                .min_by_key(|(_, s)| s.last_use)
                .expect("SPACES spaces");
            // Its global translations go with it, but stay true; so what is known of large pages stays.
            self.empty_space(old, false);
            self.spaces[old].pcid = pcid;
            old
        });
        self.spaces[self.cur].last_use = self.ticks;
        self.aim();
    }

    fn flush_space(&mut self, space: usize, keep_global: bool) {
        if !keep_global {
            self.renew_global();
            self.spaces[space].large = [None; 2];
        }
        self.empty_space(space, keep_global);
    }

    fn empty_space(&mut self, space: usize, keep_global: bool) {
        self.flushes += 1;
        self.renew(space);
        let s = &mut self.spaces[space];
        for set in &mut s.sets {
            set.flush(keep_global);
        }
    }

    /// Empties the current space.
    pub fn flush_current(&mut self, keep_global: bool) {
        self.flush_space(self.cur, keep_global);
    }

    /// Empties one PCID's space, if it is kept.
    pub fn flush_pcid(&mut self, pcid: u16, keep_global: bool) {
        if let Some(i) = self.spaces.iter().position(|s| s.pcid == pcid) {
            self.flush_space(i, keep_global);
        }
    }

    /// Empties every space.
    pub fn flush_all(&mut self, keep_global: bool) {
        for i in 0..self.spaces.len() {
            self.flush_space(i, keep_global);
        }
    }

    /// Drops one page in every space (INVLPG drops global translations whatever their PCID; dropping more is allowed).
    pub fn flush_page(&mut self, lin: u64) {
        self.page_flushes += 1;
        for i in 0..self.spaces.len() {
            let half = (lin >> 63) as usize;
            if self.spaces[i].large[half].is_some_and(|(at, mask)| lin & mask == at) {
                self.flush_space(i, false);
                continue;
            }
            let bit = Set::index(lin);
            if self.spaces[i].code[bit / 64] >> (bit & 63) & 1 != 0 {
                self.renew(i);
            }
            for set in &mut self.spaces[i].sets {
                set.flush_page(lin);
            }
        }
        let bit = Set::index(lin);
        if self.global_code[bit / 64] >> (bit & 63) & 1 != 0 {
            self.renew_global();
        }
    }

    /// Writes to this RAM page (a host address, and the offset in RAM) must take the slow path from now on.
    pub fn protect(&mut self, host_page: u64, off: u64) {
        let Some(writer) = self.writers.get_mut((off >> 12) as usize) else {
            return;
        };
        let only = match std::mem::take(writer) {
            NOBODY => return,
            MANY => None,
            n => Some(n - 1),
        };
        for space in &mut self.spaces {
            for set in &mut space.sets {
                set.protect(host_page, only);
            }
        }
    }

    /// Makes the next write to each page of RAM walk again; reading and executing go on as before.
    pub fn forget_writes(&mut self) {
        for set in self.spaces.iter_mut().flat_map(|s| &mut s.sets) {
            for &i in &set.used {
                let e = &mut set.entries[i as usize];
                if matches!(e.write & 0xfff, DIRECT | CODE | WATCH) {
                    e.write = 0;
                }
            }
        }
    }

    /// The entry of `lin` will lead straight to the RAM page at `off` for writing.
    pub fn note_writer(&mut self, lin: u64, off: u64) {
        let page = (off >> 12) as usize;
        if page >= self.writers.len() {
            self.writers.resize((page + 1).next_power_of_two(), NOBODY);
        }
        let entry = Set::index(lin) as u16 + 1;
        let w = &mut self.writers[page];
        *w = if *w == NOBODY || *w == entry {
            entry
        } else {
            MANY
        };
    }

    /// The page at `lin`, RAM page `off`, holds no code any more: its write tag, if it is slow for that reason, becomes
    /// direct.
    pub fn write_directly(&mut self, who: Who, lin: u64, off: u64) {
        let e = &mut self.spaces[self.cur].sets[who as usize].entries[Set::index(lin)];
        if e.write == lin & !0xfff | CODE {
            e.write |= DIRECT;
            self.note_writer(lin, off);
        }
    }

    /// Records a translation; the caller fills the tags. `page_size` is that of the guest's page.
    pub fn fill(&mut self, who: Who, lin: u64, global: bool, page_size: u64) -> &mut Entry {
        self.fills += 1;
        let space = &mut self.spaces[self.cur];
        if page_size > 4096 {
            let cover = &mut space.large[(lin >> 63) as usize];
            let mask = !(page_size - 1);
            *cover = Some(match *cover {
                None => (lin & mask, mask),
                Some((at, m)) => {
                    let mut m = m & mask;
                    while (at ^ lin) & m != 0 {
                        m <<= 1;
                    }
                    (at & m, m)
                }
            });
        }
        space.sets[who as usize].entry_mut(lin, global)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(t: &mut Tlb, lin: u64, global: bool) {
        let who = t.who();
        *t.fill(who, lin, global, 4096) = Entry {
            read: lin | DIRECT,
            write: 0,
            exec: 0,
            addend: 0,
        };
    }
    fn hit(t: &Tlb, lin: u64) -> bool {
        t.probe(lin).read == lin | 0xfff
    }

    #[test]
    fn spaces_keep_their_own_and_global_pages_outlive_a_flush() {
        let mut t = Tlb::default();
        put(&mut t, 0x1000, false);
        put(&mut t, 0x2000, true);
        t.switch(7);
        assert!(!hit(&t, 0x1000));
        put(&mut t, 0x1000, false);
        t.switch(0);
        assert!(hit(&t, 0x1000) && hit(&t, 0x2000));
        let epoch = t.epoch();
        t.flush_current(true);
        assert!(!hit(&t, 0x1000) && hit(&t, 0x2000) && t.epoch() != epoch);
        t.switch(7);
        assert!(hit(&t, 0x1000));
        t.flush_page(0x1000);
        assert!(!hit(&t, 0x1000));
        put(&mut t, 0x1000, false);
        t.flush_all(false);
        assert!(!hit(&t, 0x1000));
    }

    #[test]
    fn pages_less_than_64_mib_apart_do_not_evict_each_other() {
        let mut t = Tlb::default();
        let pages = [0, 16 << 20, 32 << 20, 48 << 20].map(|d| 0xffff_ffff_8100_3000 + d);
        for lin in pages {
            put(&mut t, lin, false);
        }
        assert!(pages.iter().all(|&lin| hit(&t, lin)));
        t.flush_current(true);
        assert!(!pages.iter().any(|&lin| hit(&t, lin)));
    }

    #[test]
    fn a_page_dropped_from_within_a_large_page_takes_its_fragments() {
        let mut t = Tlb::default();
        *t.fill(Who::Supervisor, 0x40_3000, false, 2 << 20) = Entry {
            read: 0x40_3000 | DIRECT,
            ..Entry::default()
        };
        t.flush_page(0x5f_f000);
        assert!(!hit(&t, 0x40_3000));
    }

    #[test]
    fn the_least_recently_used_space_goes_first() {
        let mut t = Tlb::default();
        for pcid in 0..SPACES as u16 {
            t.switch(pcid);
            put(&mut t, 0x1000, true);
        }
        t.switch(0);
        t.switch(100);
        assert!(!hit(&t, 0x1000));
        t.switch(0);
        assert!(hit(&t, 0x1000));
        t.switch(1);
        assert!(!hit(&t, 0x1000));
    }
}
