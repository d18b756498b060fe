//! Which pages were written, taken while the vCPU keeps its TLB; and pages of two machines side by side.
//!
//! A TLB entry marks its page dirty once, when it is filled. Whoever takes the dirty bits has to empty the TLB, or to make
//! every first write walk again: [`Vcpu::take_dirty`] does the second, and so leaves translations for reading and executing, the
//! epochs and what is linked by them as they are.

use super::phys::Ram;
use crate::vcpu::Vcpu;

const WORDS: usize = 4096 / 8;

impl Vcpu {
    /// Calls `f` with the RAM offset of each page that was written since the last call (by this, the only vCPU, or by a
    /// device), and perhaps a few more.
    pub fn take_dirty(&mut self, mut f: impl FnMut(u64)) {
        for (n, mut word) in self.machine.ram.take_dirty().into_iter().enumerate() {
            while word != 0 {
                f((n as u64 * 64 + u64::from(word.trailing_zeros())) << 12);
                word &= word - 1;
            }
        }
        self.tlb.forget_writes();
    }
}

impl Ram {
    fn page(&self, off: u64) -> *mut u64 {
        assert!(off.is_multiple_of(4096) && off < self.mapped());
        // SAFETY: the page is inside the mapping, whose size is a multiple of a page's.
        unsafe { self.base().add(off as usize).cast() }
    }

    /// Whether the page at this offset is the same in both.
    pub fn same_page(&self, other: &Ram, off: u64) -> bool {
        let (a, b) = (self.page(off), other.page(off));
        // SAFETY: both point at WORDS words, aligned as pages are; no reference to guest RAM is made.
        (0..WORDS).fold(0, |d, i| d | unsafe { *a.add(i) ^ *b.add(i) }) == 0
    }

    /// Gives the page at this offset a content, as a device's write does; nothing is done where it has it already.
    pub fn put_page(&self, off: u64, content: &[u8; 4096]) {
        let mut page = [0; 4096];
        self.read_page(off, &mut page);
        if page != *content {
            self.copy_in(off, content);
        }
    }

    /// Makes the page at this offset what it is in `from`, as a device's write does; nothing is done where it is already.
    pub fn take_page(&self, from: &Ram, off: u64) {
        if !self.same_page(from, off) {
            let mut page = [0; 4096];
            from.read_page(off, &mut page);
            self.copy_in(off, &page);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Page, UserBench};

    #[test]
    fn each_interval_has_its_own_writes() {
        const AT: u64 = 0x10_0000;
        let mut bench = UserBench::new("max");
        bench.map(AT, Page::ReadWrite);
        bench.map(AT + 0x1000, Page::ReadWrite);
        bench.enter(64);
        let taken = |bench: &mut UserBench| {
            let mut all = Vec::new();
            bench.cpu.take_dirty(|off| all.push(off));
            all
        };
        taken(&mut bench);
        bench.cpu.write::<u32>(AT, 1).expect("mapped");
        assert_eq!(taken(&mut bench), [AT]);
        assert!(taken(&mut bench).is_empty());
        // The entry is there, and still the write is seen.
        bench.cpu.write::<u32>(AT, 2).expect("mapped");
        assert_eq!(taken(&mut bench), [AT]);
        // Another machine's page.
        let other = UserBench::new("max");
        let (a, b) = (&bench.cpu.machine.ram, &other.cpu.machine.ram);
        assert!(!a.same_page(b, AT));
        b.take_page(a, AT);
        assert!(a.same_page(b, AT) && b.is_dirty(AT));
    }
}
