//! Transmission: the descriptor ring, checksums, VLAN tags, TCP segmentation (SDM, 3.3 to 3.5).
//!
//! A packet is gathered until its end-of-packet descriptor. A packet to be segmented goes to the link whole if the other end takes it
//! and its headers are plain TCP; else it is cut here as the hardware does it, by the context's offsets.

use super::super::offload::{self, Accepts, Checksum, Offload};
use super::super::{Frame, MAX_FRAME};
use super::*;

const TCTL_EN: u32 = 1 << 1;
const TCTL_PSP: u32 = 1 << 3;

// The command byte, and for extended descriptors the options byte.
const EOP: u8 = 1 << 0;
const IFCS: u8 = 1 << 1;
const IC: u8 = 1 << 2;
const TSE: u8 = 1 << 2;
const RS: u8 = 1 << 3;
const DEXT: u8 = 1 << 5;
const VLE: u8 = 1 << 6;
const IDE: u8 = 1 << 7;
const IXSM: u8 = 1 << 0;
const TXSM: u8 = 1 << 1;

/// The longest packet that is not segmented.
const LONGEST: usize = 16288;
/// How much one call does before it lets the guest go on.
const DESCRIPTORS: usize = 4096;
const BYTES: usize = 4 << 20;
const RESUME_NS: u64 = 10_000;

/// A context descriptor: where the headers are and how to cut.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Context {
    ip_start: u8,
    ip_offset: u8,
    ip_end: u16,
    l4_start: u8,
    l4_offset: u8,
    l4_end: u16,
    payload: u32,
    header: u8,
    mss: u16,
    tcp: bool,
    ipv4: bool,
}

impl Context {
    fn from(d: &[u8; 16]) -> Self {
        let word = |at: usize| u16::from_le_bytes([d[at], d[at + 1]]);
        Self {
            ip_start: d[0],
            ip_offset: d[1],
            ip_end: word(2),
            l4_start: d[4],
            l4_offset: d[5],
            l4_end: word(6),
            payload: u32::from_le_bytes([d[8], d[9], d[10] & 15, 0]),
            header: d[13],
            mss: word(14),
            tcp: d[11] & 1 != 0,
            ipv4: d[11] & 2 != 0,
        }
    }

    /// The bytes of a packet to be segmented, if it can be at all.
    fn length(&self) -> Option<usize> {
        let all = self.header as usize + self.payload as usize;
        (self.mss > 0 && self.header as usize > super::super::ETHERNET_HEADER).then_some(all)
    }
}

/// The packet that is being gathered, and the contexts for those to come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Transmit {
    plain: Context,
    segmented: Context,
    data: Vec<u8>,
    /// It has begun; the options are those of the first descriptor.
    begun: bool,
    extended: bool,
    segment: bool,
    options: u8,
    /// It is too long, lies outside RAM, or cannot be cut.
    bad: bool,
    /// More of the ring is to be done then.
    pub(super) resume_at: Option<u64>,
}

#[cfg(test)]
impl Transmit {
    pub(super) fn gathered(&self) -> usize {
        self.data.len()
    }
}

/// Puts the checksum over `start..=end` (an `end` of 0: all) at `at`, if these are inside.
fn put_sum(data: &mut [u8], start: usize, end: usize, at: usize) {
    let end = match end {
        0 => data.len(),
        end => (end + 1).min(data.len()),
    };
    if start < end && at + 2 <= data.len() {
        let sum = !offload::fold(offload::sum(&data[start..end]));
        data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

fn add_word(data: &mut [u8], at: usize, n: u16) {
    if let Some(field) = data.get_mut(at..at + 2) {
        let sum = u16::from_be_bytes([field[0], field[1]]).wrapping_add(n);
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

fn put_word(data: &mut [u8], at: usize, n: usize) {
    if let Some(field) = data.get_mut(at..at + 2) {
        field.copy_from_slice(&(n as u16).to_be_bytes());
    }
}

impl E1000 {
    /// Sends what is between head and tail, as far as the link has room.
    pub(super) fn transmit_ring(&mut self, now: u64) {
        self.held_up = false;
        self.s.transmit.resume_at = None;
        let n = self.reg(TDLEN) / 16;
        let tail = self.reg(TDT);
        let mut head = self.reg(TDH);
        if self.reg(TCTL) & TCTL_EN == 0 || !self.can_master() || !self.has_link() || tail >= n {
            return;
        }
        if head >= n {
            head = 0;
        }
        let (mut causes, mut bytes) = (0, 0);
        for done in 0.. {
            if head == tail {
                causes |= if done > 0 { TXQE } else { 0 };
                break;
            }
            if done == DESCRIPTORS || bytes > BYTES {
                self.s.transmit.resume_at = Some(now.saturating_add(RESUME_NS));
                break;
            }
            if !self.end.has_room() {
                self.held_up = true;
                break;
            }
            if let Some((addr, d)) = self.descriptor(TDBAL, head) {
                bytes += self.transmit_descriptor(&d, now);
                if d[11] & RS != 0 {
                    self.memory.write(addr + 12, &[d[12] | 1]);
                    causes |= self.done_cause(d[11] & IDE != 0, now);
                }
            }
            head = (head + 1) % n;
            *self.reg_mut(TDH) = head;
        }
        if causes != 0 {
            self.raise(causes, now);
        }
    }

    /// TXDW now, or after the delays of TIDV and TADV.
    fn done_cause(&mut self, delayed: bool, now: u64) -> u32 {
        let (delay, most) = (self.reg(TIDV) as u64, self.reg(TADV) as u64);
        if !delayed || delay == 0 {
            self.s.transmit_due = None;
            return TXDW;
        }
        let last = match (self.s.transmit_due, most) {
            (Some((_, last)), _) => last,
            (None, 0) => u64::MAX,
            (None, most) => now.saturating_add(most * DELAY_NS),
        };
        self.s.transmit_due = Some((now.saturating_add(delay * DELAY_NS), last));
        0
    }

    /// One descriptor; gives how many bytes it moved.
    fn transmit_descriptor(&mut self, d: &[u8; 16], now: u64) -> usize {
        let command = d[11];
        let extended = command & DEXT != 0;
        let t = &mut self.s.transmit;
        let length = match (extended, d[10] >> 4) {
            (false, _) => u16::from_le_bytes([d[8], d[9]]) as usize,
            (true, 0) => {
                let context = Context::from(d);
                match command & TSE != 0 {
                    true => t.segmented = context,
                    false => t.plain = context,
                }
                return 0;
            }
            (true, 1) => u32::from_le_bytes([d[8], d[9], d[10] & 15, 0]) as usize,
            _ => return 0,
        };
        if !t.begun {
            t.begun = true;
            t.bad = false;
            t.extended = extended;
            t.segment = extended && command & TSE != 0;
            t.options = d[13];
            t.data.clear();
        }
        let limit = match t.segment {
            true => t.segmented.length().unwrap_or(0),
            false => LONGEST,
        };
        let old = t.data.len();
        if t.bad || length > limit - old.min(limit) {
            t.bad = true;
        } else {
            t.data.resize(old + length, 0);
            let addr = u64::from_le_bytes(d[..8].try_into().unwrap_or_default());
            t.bad = length > 0 && !self.memory.read(addr, &mut t.data[old..]);
        }
        if command & EOP != 0 {
            let t = &mut self.s.transmit;
            t.begun = false;
            let data = std::mem::take(&mut t.data);
            if !t.bad {
                let tag = (command & VLE != 0 && self.reg(CTRL) & CTRL_VME != 0)
                    .then(|| [d[14], d[15]])
                    .map(u16::from_le_bytes);
                self.packet(data, d, tag, now);
            }
        }
        length
    }

    /// A whole packet; `d` is its last descriptor.
    fn packet(&mut self, mut data: Vec<u8>, d: &[u8; 16], tag: Option<u16>, now: u64) {
        let t = &self.s.transmit;
        let options = t.options;
        let mut work = Offload::default();
        if t.segment {
            self.segments(data, tag, now);
            return;
        } else if t.extended {
            let c = t.plain;
            if options & IXSM != 0 {
                let at = c.ip_offset as usize;
                put_sum(&mut data, c.ip_start as usize, c.ip_end as usize, at);
            }
            if options & TXSM != 0 {
                let (start, at) = (c.l4_start as usize, c.l4_offset as usize);
                let plain = c.l4_end == 0 && start <= at && at + 2 <= data.len();
                if plain && self.accepts().checksum {
                    work.checksum = Some(Checksum {
                        start: start as u16,
                        offset: (at - start) as u16,
                    });
                } else {
                    put_sum(&mut data, start, c.l4_end as usize, at);
                }
            }
        } else if d[11] & IC != 0 {
            put_sum(&mut data, d[13] as usize, 0, d[10] as usize);
        }
        if d[11] & IFCS == 0 {
            // The driver has put the FCS there itself; a wrong one is a frame that nobody receives.
            let Some(split) = data.len().checked_sub(4) else {
                return;
            };
            if crc32fast::hash(&data[..split]).to_le_bytes() != data[split..] {
                return;
            }
            data.truncate(split);
        }
        self.emit(data, work, tag, now);
    }

    /// Whether frames come straight back.
    fn is_looped(&self) -> bool {
        self.reg(RCTL) >> 6 & 3 == 1 || self.s.phy.is_looped()
    }

    fn accepts(&self) -> Accepts {
        match self.is_looped() {
            true => Accepts::default(),
            false => self.end.peer_accepts(),
        }
    }

    /// TCP (or UDP) segmentation.
    fn segments(&mut self, mut data: Vec<u8>, tag: Option<u16>, now: u64) {
        let c = self.s.transmit.segmented;
        let options = self.s.transmit.options;
        let header = c.header as usize;
        if data.len() < header {
            return;
        }
        self.count(stats::TSCTC);
        let accepts = self.accepts();
        let takes = accepts.checksum && if c.ipv4 { accepts.tcp4 } else { accepts.tcp6 };
        let summed = options & TXSM != 0 && (!c.ipv4 || options & IXSM != 0);
        if takes && c.tcp && summed && data.len() <= MAX_FRAME {
            let place = (c.ip_start as usize, c.l4_start as usize, header);
            let fields = c.l4_offset as usize == place.1 + 16
                && (!c.ipv4 || c.ip_offset as usize == place.0 + 10);
            if fields && let Some(work) = offload::prepare(&mut data, !c.ipv4, c.mss, Some(place)) {
                self.emit(data, work, tag, now);
                return;
            }
        }
        let payload = data.split_off(header);
        let mss = c.mss as usize;
        let count = payload.len().div_ceil(mss).max(1);
        for n in 0..count {
            let last = n + 1 == count;
            let mut piece = self.end.buffer();
            piece.clear();
            piece.extend_from_slice(&data);
            piece.extend_from_slice(&payload[n * mss..payload.len().min((n + 1) * mss)]);
            let (ip, l4) = (c.ip_start as usize, c.l4_start as usize);
            let behind = |start: usize| piece.len().saturating_sub(start);
            let (ip_length, l4_length) = (behind(ip), behind(l4));
            if c.ipv4 {
                put_word(&mut piece, ip + 2, ip_length);
                add_word(&mut piece, ip + 4, n as u16);
            } else {
                put_word(&mut piece, ip + 4, ip_length.saturating_sub(40));
            }
            if c.tcp {
                let sequence = piece.get_mut(l4 + 4..l4 + 8);
                if let Some(field) = sequence {
                    let old = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
                    let new = old.wrapping_add((n * mss) as u32);
                    field.copy_from_slice(&new.to_be_bytes());
                }
                // FIN and PSH are for the last segment.
                if !last && let Some(flags) = piece.get_mut(l4 + 13) {
                    *flags &= !0x09;
                }
            } else {
                put_word(&mut piece, l4 + 4, l4_length);
            }
            if options & IXSM != 0 {
                put_sum(&mut piece, ip, c.ip_end as usize, c.ip_offset as usize);
            }
            if options & TXSM != 0 {
                // The driver's sum of the pseudo header has no length yet (SDM, 3.5.7).
                let at = c.l4_offset as usize;
                if let Some(field) = piece.get_mut(at..at + 2) {
                    let old = u16::from_be_bytes([field[0], field[1]]) as u64;
                    let sum = offload::fold(old + l4_length as u64);
                    field.copy_from_slice(&sum.to_be_bytes());
                }
                put_sum(&mut piece, l4, c.l4_end as usize, at);
            }
            // What a full link does not take is lost, as on a wire; so this ends with the queue's bound.
            if !self.emit(piece, Offload::default(), tag, now) {
                break;
            }
        }
    }

    /// A frame goes out: tag, padding, counters. False: the link had no room.
    fn emit(&mut self, mut data: Vec<u8>, mut work: Offload, tag: Option<u16>, now: u64) -> bool {
        if data.len() < super::super::ETHERNET_HEADER {
            return true;
        }
        if let Some(tag) = tag {
            let kind = (self.reg(VET) as u16).to_be_bytes();
            let tag = tag.to_be_bytes();
            data.splice(12..12, [kind[0], kind[1], tag[0], tag[1]]);
            if let Some(checksum) = &mut work.checksum {
                checksum.start += 4;
            }
        }
        if self.reg(TCTL) & TCTL_PSP != 0 && data.len() < 60 {
            data.resize(60, 0);
        }
        let to: [u8; 6] = std::array::from_fn(|i| data[i]);
        match work.segment {
            None => self.count_sent(&to, data.len() + 4),
            Some(segment) => {
                let header = self.s.transmit.segmented.header as usize;
                let mut left = data.len().saturating_sub(header);
                while left > 0 {
                    let part = left.min(segment.size.max(1) as usize);
                    self.count_sent(&to, header + part + 4);
                    left -= part;
                }
            }
        }
        if self.is_looped() {
            self.receive_looped(&data, now);
            self.end.recycle(data);
            return true;
        }
        let frame = Frame {
            data,
            offload: work,
        };
        self.end.send(frame).is_ok()
    }
}
