//! Reception: from the link into the descriptor ring (SDM, 3.2).

use super::super::offload;
use super::*;

const RCTL_EN: u32 = 1 << 1;
const RCTL_BSEX: u32 = 1 << 25;
const RCTL_SECRC: u32 = 1 << 26;

// Status and errors in a descriptor.
const DD: u8 = 1 << 0;
const EOP: u8 = 1 << 1;
const IXSM: u8 = 1 << 2;
const VP: u8 = 1 << 3;
const TCPCS: u8 = 1 << 5;
const IPCS: u8 = 1 << 6;
const TCPE: u8 = 1 << 5;
const IPE: u8 = 1 << 6;

const IPOFL: u32 = 1 << 8;
const TUOFL: u32 = 1 << 9;

/// How many frames one call takes.
const FRAMES: usize = 2048;

/// What a descriptor says of a frame besides its length.
struct Report {
    checksum: u16,
    status: u8,
    errors: u8,
    special: u16,
}

impl E1000 {
    fn ring(&self) -> Option<(u32, u32, u32)> {
        let n = self.reg(RDLEN) / 16;
        let (head, tail) = (self.reg(RDH), self.reg(RDT));
        (tail < n).then_some((n, if head < n { head } else { 0 }, tail))
    }

    /// Descriptors that the guest has given and nothing is in yet.
    fn free(&self) -> u32 {
        self.ring()
            .map_or(0, |(n, head, tail)| (tail + n - head) % n)
    }

    fn buffer_size(&self) -> usize {
        let rctl = self.reg(RCTL);
        let size = 2048 >> (rctl >> 16 & 3);
        match rctl & RCTL_BSEX {
            0 => size,
            // 16384, 8192, 4096; the fourth code is reserved.
            _ => (size * 16).min(16384),
        }
    }

    /// Takes frames from the link while there are descriptors for them. A receiver that is off loses them.
    pub(super) fn receive_waiting(&mut self, now: u64) {
        let on = self.reg(RCTL) & RCTL_EN != 0 && self.has_link();
        let mut causes = 0;
        for _ in 0..FRAMES {
            if on && (self.free() == 0 || !self.can_master()) {
                break;
            }
            let Some(frame) = self.waiting.take().or_else(|| self.end.receive()) else {
                break;
            };
            if on && self.wants(&frame.data) {
                let most = (frame.data.len().max(60) + 4).div_ceil(self.buffer_size()) as u32;
                if most > self.free() && most < self.reg(RDLEN) / 16 {
                    self.waiting = Some(frame);
                    break;
                }
                causes |= self.receive_frame(&frame.data, now);
            }
            self.end.recycle(frame.data);
        }
        if causes != 0 {
            self.raise(causes, now);
        }
    }

    /// A frame of our own comes back.
    pub(super) fn receive_looped(&mut self, frame: &[u8], now: u64) {
        if self.reg(RCTL) & RCTL_EN != 0 && self.wants(frame) {
            let causes = self.receive_frame(frame, now);
            self.raise(causes, now);
        }
    }

    /// Puts a frame into the ring; gives the causes.
    fn receive_frame(&mut self, frame: &[u8], now: u64) -> u32 {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let mut report = Report {
            checksum: 0,
            status: IXSM,
            errors: 0,
            special: 0,
        };
        match self.tag(frame) {
            Some(tag) if self.reg(CTRL) & CTRL_VME != 0 => {
                bytes.extend_from_slice(&frame[..12]);
                bytes.extend_from_slice(&frame[16..]);
                report.status |= VP;
                report.special = tag;
            }
            _ => bytes.extend_from_slice(frame),
        }
        self.check_sums(&bytes, &mut report);
        if bytes.len() < 60 {
            bytes.resize(60, 0);
        }
        self.count_received(&frame[..6], frame.len().max(60) + 4);
        if self.reg(RCTL) & RCTL_SECRC == 0 {
            let fcs = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&fcs.to_le_bytes());
        }
        let stored = self.store(&bytes, &report);
        self.scratch = bytes;
        if !stored {
            self.count(stats::MPC);
            self.count(stats::RNBC);
            return RXO;
        }
        let (free, n) = (self.free(), self.reg(RDLEN) / 16);
        let low = free <= n >> (1 + (self.reg(RCTL) >> 8 & 3)).min(3);
        self.done_receiving(now) | if low { RXDMT0 } else { 0 }
    }

    /// RXT0 now, or after the delays of RDTR and RADV.
    fn done_receiving(&mut self, now: u64) -> u32 {
        let (delay, most) = (self.reg(RDTR) as u64, self.reg(RADV) as u64);
        if delay == 0 {
            self.s.receive_due = None;
            return RXT0;
        }
        let last = match (self.s.receive_due, most) {
            (Some((_, last)), _) => last,
            (None, 0) => u64::MAX,
            (None, most) => now.saturating_add(most * DELAY_NS),
        };
        self.s.receive_due = Some((now.saturating_add(delay * DELAY_NS), last));
        0
    }

    /// Writes the bytes over as many descriptors as they need; false: there were too few.
    fn store(&mut self, bytes: &[u8], report: &Report) -> bool {
        let Some((n, mut head, tail)) = self.ring() else {
            return false;
        };
        let size = self.buffer_size();
        let mut at = 0;
        while at < bytes.len() {
            if head == tail {
                *self.reg_mut(RDH) = head;
                return false;
            }
            if let Some((addr, d)) = self.descriptor(RDBAL, head) {
                let buffer = u64::from_le_bytes(d[..8].try_into().unwrap_or_default());
                let mut back = [0; 8];
                back[4] = DD;
                // A null address is a descriptor to be passed over (SDM, 3.2.3).
                if buffer != 0 {
                    let part = &bytes[at..bytes.len().min(at + size)];
                    // A buffer outside RAM takes nothing.
                    self.memory.write(buffer, part);
                    at += part.len();
                    back[..2].copy_from_slice(&(part.len() as u16).to_le_bytes());
                    if at == bytes.len() {
                        back[2..4].copy_from_slice(&report.checksum.to_le_bytes());
                        back[4] |= EOP | report.status;
                        back[5] = report.errors;
                        back[6..].copy_from_slice(&report.special.to_le_bytes());
                    }
                }
                self.memory.write(addr + 8, &back);
            }
            head = (head + 1) % n;
        }
        *self.reg_mut(RDH) = head;
        true
    }

    /// The packet checksum from PCSS on, and what RXCSUM asks to be checked of IPv4, TCP and UDP.
    fn check_sums(&self, bytes: &[u8], report: &mut Report) {
        let control = self.reg(RXCSUM);
        let from = (control & 0xff) as usize;
        let Some((l4, sum)) = self.check_ip(bytes, control, report) else {
            report.checksum = offload::fold(offload::sum(bytes.get(from..).unwrap_or(&[])));
            return;
        };
        // The sum of the greater part is known already.
        let head = match from <= l4 && (l4 - from).is_multiple_of(2) {
            true => offload::sum(&bytes[from..l4]) + sum,
            false => offload::sum(bytes.get(from..).unwrap_or(&[])),
        };
        report.checksum = offload::fold(head);
    }

    /// Gives where the transport header is and the sum from there to the end, if it was made.
    fn check_ip(&self, bytes: &[u8], control: u32, report: &mut Report) -> Option<(usize, u64)> {
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let mut ip = 14;
        if word(12)? == 0x8100 {
            ip = 18;
        }
        if control & (IPOFL | TUOFL) == 0 || word(ip - 2)? != 0x0800 || bytes.get(ip)? >> 4 != 4 {
            return None;
        }
        let header = 4 * (bytes[ip] & 15) as usize;
        let (l4, length) = (ip + header, word(ip + 2)? as usize);
        if header < 20 || length < header || ip + length > bytes.len() {
            return None;
        }
        report.status &= !IXSM;
        if control & IPOFL != 0 {
            report.status |= IPCS;
            if offload::fold(offload::sum(&bytes[ip..l4])) != 0xffff {
                report.errors |= IPE;
            }
        }
        let protocol = bytes[ip + 9];
        let fragment = word(ip + 6)? & 0x3fff != 0;
        let checked = match protocol {
            6 => length - header >= 20,
            // A UDP checksum of 0 is none.
            17 => length - header >= 8 && word(l4 + 6)? != 0,
            _ => false,
        };
        if control & TUOFL == 0 || fragment || !checked {
            return None;
        }
        let end = ip + length;
        let sum = offload::sum(&bytes[l4..end]);
        let pseudo = offload::sum(&bytes[ip + 12..ip + 20]) + protocol as u64;
        report.status |= TCPCS;
        if offload::fold(sum + pseudo + (end - l4) as u64) != 0xffff {
            report.errors |= TCPE;
        }
        (end == bytes.len()).then_some((l4, sum))
    }
}
