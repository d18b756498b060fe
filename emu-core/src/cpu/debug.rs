//! Debug registers (SDM Vol. 3B, 18.2): instruction, data and I/O breakpoints, and how #DB is reported in DR6.
//!
//! Instruction breakpoints are looked at before each instruction while any is armed ([`Events::BREAKPOINTS`]). Data
//! breakpoints mark their pages in the shadow TLB, so that accesses elsewhere stay on the fast path; a hit is noted in
//! `pending_db` and becomes a trap behind the instruction.

use crate::addr::PhysAddr;
use crate::cpu::control::cr4;
use crate::cpu::flags;
use crate::fault::{Fault, R, vector};
use crate::vcpu::{Events, Vcpu};

/// DR6: single step.
pub const DR6_BS: u64 = 1 << 14;
/// DR6: debug registers were touched with DR7.GD set.
pub const DR6_BD: u64 = 1 << 13;
/// DR6: task switch with the T bit.
pub const DR6_BT: u64 = 1 << 15;
/// DR7: touching the debug registers is #DB.
pub const DR7_GD: u64 = 1 << 13;

/// What a breakpoint watches: DR7's R/W field.
const EXEC: u64 = 0;
const WRITE: u64 = 1;
const IO: u64 = 2;
const ACCESS: u64 = 3;

impl Vcpu {
    /// Enabled breakpoints as (number, kind, address, length).
    fn breakpoints(&self) -> impl Iterator<Item = (usize, u64, u64, u64)> + '_ {
        (0..4).filter(|n| self.dr[7] >> (2 * n) & 3 != 0).map(|n| {
            let kind = self.dr[7] >> (16 + 4 * n) & 3;
            let len = [1, 2, 8, 4][(self.dr[7] >> (18 + 4 * n) & 3) as usize];
            (n, kind, self.dr[n] & !(len - 1), len)
        })
    }

    /// Whether an instruction breakpoint is armed.
    pub fn has_code_breakpoints(&self) -> bool {
        self.dr[7] & 0xff != 0 && self.breakpoints().any(|b| b.1 == EXEC)
    }

    /// Whether a data breakpoint is armed.
    #[inline]
    pub fn watching(&self) -> bool {
        self.dr[7] & 0xff != 0 && self.breakpoints().any(|b| matches!(b.1, WRITE | ACCESS))
    }

    /// Whether accesses to data must be looked at: for the guest's breakpoints or a debugger's.
    #[inline]
    pub fn watches_data(&self) -> bool {
        self.dr[7] & 0xff != 0 || self.has_watchpoints()
    }

    /// Whether a data breakpoint, the guest's or a debugger's, lies on the page of `lin`, which is at `phys`.
    pub fn watched_page(&self, lin: u64, phys: PhysAddr) -> bool {
        let own = |b: (usize, u64, u64, u64)| {
            matches!(b.1, WRITE | ACCESS) && b.2 & !0xfff == lin & !0xfff
        };
        self.dr[7] & 0xff != 0 && self.breakpoints().any(own) || self.hooked_page(lin, phys)
    }

    /// Notes data breakpoints that an access within a page hits; asks to be run alone so that the trap, or the debugger's stop,
    /// comes right behind it.
    #[cold]
    pub fn watch(&mut self, lin: u64, phys: PhysAddr, n: u64, write: bool) -> R {
        self.hook_access(lin, phys, n, write)?;
        let hits = self
            .breakpoints()
            .filter(|&(_, kind, at, len)| {
                (kind == ACCESS || kind == WRITE && write) && lin < at + len && at < lin + n
            })
            .fold(0, |m, b| m | 1 << b.0);
        if hits != 0 {
            self.need_exact()?;
            self.debug_trap_after(hits);
        }
        Ok(())
    }

    /// Notes I/O breakpoints (CR4.DE) that a port access hits.
    pub fn watch_port(&mut self, port: u16, size: u8) {
        if self.dr[7] & 0xff == 0 || self.cr4 & cr4::DE == 0 {
            return;
        }
        let (port, size) = (u64::from(port), u64::from(size));
        let hits = self
            .breakpoints()
            .filter(|&(_, kind, at, len)| kind == IO && port < at + len && at < port + size)
            .fold(0, |m, b| m | 1 << b.0);
        if hits != 0 {
            self.debug_trap_after(hits);
        }
    }

    /// A #DB trap with these DR6 bits follows the running instruction.
    pub fn debug_trap_after(&mut self, bits: u64) {
        self.pending_db |= bits;
        self.events |= Events::DEBUG_TRAP;
    }

    /// Delivers the pending debug trap.
    pub fn deliver_debug_trap(&mut self) {
        if self.stops_before_exception(Fault::plain(vector::DB)) {
            return;
        }
        // It also wakes from HLT.
        self.events.remove(Events::DEBUG_TRAP | Events::HALT);
        let bits = std::mem::take(&mut self.pending_db);
        self.dr[6] |= bits;
        self.debug_exception();
    }

    /// Raises #DB (a fault) if an instruction breakpoint lies at RIP and RF does not hold it back; a string instruction has
    /// it before its first iteration only.
    pub fn code_breakpoint(&mut self) -> bool {
        if self.sys & flags::RF != 0 || self.in_repeat {
            return false;
        }
        let at = self.code_address();
        let hits = self
            .breakpoints()
            .filter(|b| b.1 == EXEC && self.dr[b.0] == at)
            .fold(0, |m, b| m | 1 << b.0);
        if hits == 0 {
            return false;
        }
        if self.stops_before_exception(Fault::plain(vector::DB)) {
            return true;
        }
        self.dr[6] |= hits;
        self.debug_exception();
        true
    }

    /// MOV from or to a debug register: DR4 and DR5 stand for DR6 and DR7 unless CR4.DE makes them #UD.
    pub fn debug_register(&mut self, n: u8) -> R<usize> {
        if matches!(n, 4 | 5) && self.cr4 & cr4::DE != 0 {
            return self.ud();
        }
        self.privileged()?;
        if self.dr[7] & DR7_GD != 0 {
            // SDM Vol. 3B, 18.2.4: a fault; delivery clears GD so that the handler can touch the registers.
            self.dr[6] |= DR6_BD;
            return Err(self.raise(Fault::plain(vector::DB)));
        }
        Ok(match n {
            4 => 6,
            5 => 7,
            n => usize::from(n & 7),
        })
    }

    /// MOV DRn.
    pub fn write_debug_register(&mut self, n: u8, v: u64) -> R {
        let n = self.debug_register(n)?;
        let v = if self.code64() { v } else { v & 0xffff_ffff };
        match n {
            6 | 7 if v >> 32 != 0 => return self.gp(0),
            6 => self.dr[6] = v & 0xe00f | 0xffff_0ff0,
            7 => self.dr[7] = v & 0xffff_23ff | 0x400,
            _ => self.dr[n] = v,
        }
        // Watched pages are marked in the TLB as they are filled.
        self.tlb.flush_all(false);
        self.refresh_events();
        Ok(())
    }
}
