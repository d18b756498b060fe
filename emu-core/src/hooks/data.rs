//! Watchpoints: accesses are noted while their instruction runs alone, and judged behind it.

use super::{Access, Cause, MOST, Space, What};
use crate::addr::PhysAddr;
use crate::fault::R;
use crate::vcpu::{Events, Vcpu};

/// Whether two ranges, the second one not empty, have bytes in common; addresses do not wrap.
fn meet(at: u64, len: u64, from: u64, n: u64) -> bool {
    at.wrapping_sub(from) < n || from.wrapping_sub(at) < len
}

impl Vcpu {
    /// Whether a debugger watches memory at all.
    #[inline]
    pub fn has_watchpoints(&self) -> bool {
        self.hooks.as_ref().is_some_and(|h| h.watches)
    }

    /// Whether a debugger watches something on this page of RAM, which is at the page of `lin` here.
    pub(crate) fn hooked_page(&self, lin: u64, phys: PhysAddr) -> bool {
        let Some(h) = &self.hooks else { return false };
        h.armed.iter().any(|w| match *w {
            What::Data { space, at, len, .. } => {
                let page = match space {
                    Space::Linear => lin,
                    Space::Physical => phys.0,
                };
                meet(at, len, page & !0xfff, 0x1000)
            }
            _ => false,
        })
    }

    /// Notes an access to watched bytes, which lie at `phys`; asks to be run alone, so that the stop comes right behind it.
    #[cold]
    pub(crate) fn hook_access(&mut self, lin: u64, phys: PhysAddr, n: u64, store: bool) -> R {
        let Some(h) = &self.hooks else { return Ok(()) };
        let hits = |w: &What| match *w {
            What::Data {
                space,
                at,
                len,
                read,
                write,
                ..
            } => {
                let here = match space {
                    Space::Linear => lin,
                    Space::Physical => phys.0,
                };
                (if store { write } else { read }) && meet(at, len, here, n)
            }
            _ => false,
        };
        let ids: Vec<_> = h.on(hits).collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.need_exact()?;
        let mut old = [0; MOST];
        let size = (n as usize).min(MOST);
        self.machine.ram.read(phys, &mut old[..size]);
        let Some(h) = &mut self.hooks else {
            return Ok(());
        };
        for id in ids {
            let known = |a: &&Access| a.id == id && a.lin == lin && a.write == store;
            if h.accesses.iter().any(|a| known(&a)) {
                continue;
            }
            h.accesses.push(Access {
                id,
                lin,
                size: size as u8,
                write: store,
                old,
            });
        }
        self.events |= Events::DEBUGGER;
        Ok(())
    }

    /// Behind the instruction: what its accesses have changed.
    pub(super) fn judge_accesses(&mut self) {
        let Some(h) = &mut self.hooks else { return };
        for a in std::mem::take(&mut h.accesses) {
            let size = usize::from(a.size);
            let mut new = a.old;
            self.peek(a.lin, &mut new[..size]);
            let Some(h) = &self.hooks else { return };
            let Some(hook) = h.list.iter().find(|h| h.id == a.id) else {
                continue;
            };
            if let What::Data { changed: true, .. } = hook.what
                && a.write
                && new == a.old
            {
                continue;
            }
            let word = |b: &[u8; MOST]| {
                b.iter()
                    .take(size.min(8))
                    .rev()
                    .fold(0, |v, b| v << 8 | u64::from(*b))
            };
            let cause = Cause::Data {
                lin: a.lin,
                size: a.size,
                write: a.write,
                old: word(&a.old),
                new: word(&new),
            };
            self.judge(&[a.id], cause);
        }
    }

    /// The instruction did not complete: what it would have accessed does not count.
    pub(crate) fn forget_accesses(&mut self) {
        if let Some(h) = &mut self.hooks {
            h.accesses.clear();
        }
    }
}
