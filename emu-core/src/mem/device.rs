//! The way from an access to the board: devices in memory, and what a call of the board may change for the vCPU.

use crate::addr::PhysAddr;
use crate::bus::Nanos;
use crate::vcpu::{Events, Vcpu};

impl Vcpu {
    /// Calls the board and looks at what it changed.
    pub fn with_board<T>(&mut self, f: impl FnOnce(&mut dyn crate::bus::Board, Nanos) -> T) -> T {
        let now = self.now();
        let machine = self.machine.clone();
        let mut board = machine.board();
        let t = f(&mut **board, now);
        let i = board.interrupt(self.index);
        while let Some(r) = board.take_request() {
            self.requests.push_back(r);
            self.events |= Events::REQUEST;
        }
        if board.next_event().is_some_and(|t| t < self.slice_end) {
            self.events |= Events::RESCHEDULE;
        }
        drop(board);
        (self.intr_line, self.nmi_line) = (i.intr, i.nmi);
        self.refresh_events();
        self.collect_device_hits();
        self.leave |= !self.events.is_empty();
        t
    }

    pub(super) fn mmio_read(&mut self, at: PhysAddr, buf: &mut [u8]) {
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let n = natural(at.0, rest.len());
            let v = self.with_device(at, |b, now| b.mmio_read(at, n as u8, now));
            let (part, after) = rest.split_at_mut(n);
            part.copy_from_slice(&v.to_le_bytes()[..n]);
            if self.hooks.is_some() {
                self.trace_mmio(at, n as u8, false, v);
            }
            (at, rest) = (at.add(n as u64), after);
        }
    }

    pub(super) fn mmio_write(&mut self, at: PhysAddr, data: &[u8]) {
        let mut at = at;
        let mut rest = data;
        while !rest.is_empty() {
            let n = natural(at.0, rest.len());
            let mut b = [0; 8];
            b[..n].copy_from_slice(&rest[..n]);
            let v = u64::from_le_bytes(b);
            self.with_device(at, |bus, now| bus.mmio_write(at, n as u8, v, now));
            if self.hooks.is_some() {
                self.trace_mmio(at, n as u8, true, v);
            }
            (at, rest) = (at.add(n as u64), &rest[n..]);
        }
    }

    /// Calls the board for an access to memory. The hole is a screen's: slow memory, that is, without time and interrupts.
    fn with_device<T>(
        &mut self,
        at: PhysAddr,
        f: impl FnOnce(&mut dyn crate::bus::Board, Nanos) -> T,
    ) -> T {
        if !self.machine.ram.is_hole(at) {
            self.stats.mmio_accesses += 1;
            return self.with_board(f);
        }
        self.stats.screen_accesses += 1;
        let now = self.now();
        f(&mut **self.machine.board(), now)
    }
}

/// The largest naturally aligned access at `at` of at most `len` bytes.
fn natural(at: u64, len: usize) -> usize {
    [8, 4, 2]
        .into_iter()
        .find(|&n| len >= n && at.is_multiple_of(n as u64))
        .unwrap_or(1)
}
