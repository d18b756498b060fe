//! C+ mode: descriptor rings in memory, checksums, TCP segmentation, VLAN tags, the tally counters (data sheet, 9).

use super::super::MAX_FRAME;
use super::super::offload::{self, Checksum, Offload};
use super::*;

pub(super) const OWN: u32 = 1 << 31;
pub(super) const END_OF_RING: u32 = 1 << 30;
pub(super) const FIRST: u32 = 1 << 29;
pub(super) const LAST: u32 = 1 << 28;
const SEGMENT: u32 = 1 << 27;
pub(super) const TX_IP: u32 = 1 << 18;
const TX_UDP: u32 = 1 << 17;
pub(super) const TX_TCP: u32 = 1 << 16;
const TX_TAG: u32 = 1 << 17;

const RX_MULTICAST: u32 = 1 << 26;
pub(super) const RX_PHYSICAL: u32 = 1 << 25;
const RX_BROADCAST: u32 = 1 << 24;
const RX_TAG: u32 = 1 << 16;

/// A ring has 64 descriptors at most.
const DESCRIPTORS: u8 = 64;
/// How much one doorbell does.
const WORK: usize = 256;
const RESUME_NS: u64 = 10_000;
const LOW_PRIORITY: u8 = 1 << 6;
const HIGH_PRIORITY: u8 = 1 << 7;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rings {
    /// CpCmd.
    pub(super) command: u16,
    pub(super) tx_ring: u64,
    pub(super) tx_high_ring: u64,
    pub(super) rx_ring: u64,
    pub(super) tally: u64,
    tx_at: u8,
    tx_high_at: u8,
    pub(super) rx_at: u8,
    /// The packet that is being gathered, with its first descriptor; too long or outside RAM.
    data: Vec<u8>,
    bad: bool,
    pub(super) resume_at: Option<u64>,
}

/// Sets a half of a 64-bit register; bit 2 of `at` says which.
pub fn set_half(register: &mut u64, at: usize, value: u32) {
    *register = match at & 4 {
        0 => *register & !0xffff_ffff | value as u64,
        _ => *register & 0xffff_ffff | (value as u64) << 32,
    };
}

struct Descriptor {
    addr: u64,
    options: u32,
    tag: u32,
    buffer: u64,
}

impl Rtl8139 {
    fn descriptor(&self, ring: u64, at: u8) -> Option<Descriptor> {
        let addr = (ring & !0xff).checked_add(16 * at as u64)?;
        let mut d = [0; 16];
        self.memory.read(addr, &mut d).then_some(())?;
        let word = |n: usize| u32::from_le_bytes([d[n], d[n + 1], d[n + 2], d[n + 3]]);
        Some(Descriptor {
            addr,
            options: word(0),
            tag: word(4),
            buffer: word(8) as u64 | (word(12) as u64) << 32,
        })
    }

    /// TxPoll.
    pub(super) fn poll_transmit(&mut self, value: u8, now: u64) {
        if value & (LOW_PRIORITY | HIGH_PRIORITY) != 0 && self.is_plus(PLUS_TX) {
            self.transmit_plus(now);
        }
        if value & 1 != 0 {
            self.s.isr |= SW_INT;
        }
    }

    pub(super) fn transmit_plus(&mut self, now: u64) {
        self.s.plus.resume_at = None;
        if self.s.command & CR_TE == 0 || !self.can_master() {
            return;
        }
        let mut sent = false;
        for high in [true, false] {
            for done in 0.. {
                let (ring, at) = match high {
                    true => (self.s.plus.tx_high_ring, self.s.plus.tx_high_at),
                    false => (self.s.plus.tx_ring, self.s.plus.tx_at),
                };
                if ring & !0xff == 0 {
                    break;
                }
                if done == WORK {
                    self.s.plus.resume_at = Some(now.saturating_add(RESUME_NS));
                    break;
                }
                if !self.end.has_room() {
                    self.held_up = true;
                    break;
                }
                let Some(d) = self.descriptor(ring, at % DESCRIPTORS) else {
                    break;
                };
                if d.options & OWN == 0 {
                    break;
                }
                self.gather(&d);
                let back = d.options & !OWN;
                self.memory.write(d.addr, &back.to_le_bytes());
                sent = true;
                let next = match d.options & END_OF_RING {
                    0 => (at + 1) % DESCRIPTORS,
                    _ => 0,
                };
                match high {
                    true => self.s.plus.tx_high_at = next,
                    false => self.s.plus.tx_at = next,
                }
            }
        }
        if sent {
            self.s.isr |= TOK | TDU;
        }
    }

    /// One transmit descriptor; with the last one the packet goes.
    fn gather(&mut self, d: &Descriptor) {
        let p = &mut self.s.plus;
        if d.options & FIRST != 0 {
            p.data.clear();
            p.bad = false;
        }
        let old = p.data.len();
        let length = (d.options & 0xffff) as usize;
        if p.bad || old + length > MAX_FRAME {
            p.bad = true;
        } else {
            p.data.resize(old + length, 0);
            p.bad = !self.memory.read(d.buffer, &mut p.data[old..]);
        }
        if d.options & LAST == 0 {
            return;
        }
        let data = std::mem::take(&mut p.data);
        if p.bad || data.len() < 14 {
            self.s.tally.send_errors += 1;
            self.s.isr |= TER;
            return;
        }
        self.packet(data, d);
    }

    fn packet(&mut self, mut data: Vec<u8>, d: &Descriptor) {
        let mut work = Offload::default();
        if d.options & SEGMENT != 0 {
            let mss = (d.options >> 16 & 0x7ff) as u16;
            // What cannot be cut goes as it is, if it is short enough.
            work = offload::prepare(&mut data, false, mss.max(32), None).unwrap_or_default();
        } else {
            let header = 4 * (data.get(14).copied().unwrap_or(0) & 15) as usize;
            let is_ip = data.len() >= 34 && data[12..14] == [8, 0] && header >= 20;
            if is_ip && d.options & TX_IP != 0 && data.len() >= 14 + header {
                data[24..26].fill(0);
                let sum = !offload::fold(offload::sum(&data[14..14 + header]));
                data[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            let place = match d.options & (TX_UDP | TX_TCP) {
                TX_UDP => Some(6),
                TX_TCP => Some(16),
                _ => None,
            };
            if is_ip && let Some(offset) = place {
                // The driver leaves the pseudo header to the adapter.
                let start = 14 + header;
                let total = u16::from_be_bytes([data[16], data[17]]) as usize;
                let length = total.saturating_sub(header);
                if start + offset + 2 <= data.len() && start + length <= data.len() {
                    data.truncate(start + length.max(offset + 2));
                    let pseudo = offload::sum(&data[26..34]) + data[23] as u64 + length as u64;
                    let at = start + offset;
                    data[at..at + 2].copy_from_slice(&offload::fold(pseudo).to_be_bytes());
                    work.checksum = Some(Checksum {
                        start: start as u16,
                        offset: offset as u16,
                    });
                }
            }
        }
        if d.tag & TX_TAG != 0 {
            let tag = (d.tag as u16).to_le_bytes();
            data.splice(12..12, [0x81, 0x00, tag[0], tag[1]]);
            if let Some(checksum) = &mut work.checksum {
                checksum.start += 4;
            }
        }
        self.emit(Frame {
            data,
            offload: work,
        });
    }

    pub(super) fn receive_plus(&mut self, frame: &[u8], kind: Match) -> Stored {
        let at = self.s.plus.rx_at % DESCRIPTORS;
        let Some(d) = self.descriptor(self.s.plus.rx_ring, at) else {
            return Stored::Later(FOVW);
        };
        if d.options & OWN == 0 {
            return Stored::Later(FOVW);
        }
        let tagged = frame.len() >= 18 && frame[12..14] == [0x81, 0];
        let mut bytes = Vec::with_capacity(frame.len() + 8);
        let mut tag = d.tag & !0x1_ffff;
        if tagged && self.is_plus(PLUS_RX_VLAN) {
            bytes.extend_from_slice(&frame[..12]);
            bytes.extend_from_slice(&frame[16..]);
            tag |= RX_TAG | u16::from_le_bytes([frame[14], frame[15]]) as u32;
        } else {
            bytes.extend_from_slice(frame);
        }
        bytes.resize(bytes.len().max(60), 0);
        let mut status = d.options & END_OF_RING | FIRST | LAST;
        status |= match kind {
            Match::Physical => RX_PHYSICAL,
            Match::Multicast => RX_MULTICAST,
            Match::Broadcast => RX_BROADCAST,
            Match::Other => 0,
        };
        if self.is_plus(PLUS_RX_CHECKSUM) {
            status |= checked(&bytes);
        }
        let fcs = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&fcs.to_le_bytes());
        if bytes.len() > (d.options & 0x1fff) as usize {
            return Stored::Never;
        }
        self.memory.write(d.buffer, &bytes);
        status |= bytes.len() as u32;
        let mut back = [0; 8];
        back[..4].copy_from_slice(&status.to_le_bytes());
        back[4..].copy_from_slice(&tag.to_le_bytes());
        self.memory.write(d.addr, &back);
        self.s.plus.rx_at = match d.options & END_OF_RING {
            0 => (at + 1) % DESCRIPTORS,
            _ => 0,
        };
        Stored::Yes
    }

    /// The dump of the tally counters: bit 3 of the address starts it, and is clear when it is done.
    pub(super) fn write_tally(&mut self, at: usize, value: u32) {
        set_half(&mut self.s.plus.tally, at, value);
        if at & 4 != 0 || value & 8 == 0 || !self.can_master() {
            return;
        }
        let t = &self.s.tally;
        let mut dump = [0; 64];
        dump[..8].copy_from_slice(&t.sent.to_le_bytes());
        dump[8..16].copy_from_slice(&t.received.to_le_bytes());
        dump[16..24].copy_from_slice(&t.send_errors.to_le_bytes());
        dump[28..30].copy_from_slice(&t.missed.to_le_bytes());
        dump[40..48].copy_from_slice(&t.received_physical.to_le_bytes());
        dump[48..56].copy_from_slice(&t.received_broadcast.to_le_bytes());
        dump[56..60].copy_from_slice(&t.received_multicast.to_le_bytes());
        self.memory.write(self.s.plus.tally & !63, &dump);
        self.s.plus.tally &= !8;
    }
}

/// Protocol and failures of a received packet, as status bits.
fn checked(bytes: &[u8]) -> u32 {
    const IP: u32 = 3 << 16;
    const UDP: u32 = 2 << 16;
    const TCP: u32 = 1 << 16;
    let Some(ip) = bytes.get(14..).filter(|_| bytes[12..14] == [8, 0]) else {
        return 0;
    };
    let header = 4 * (ip[0] & 15) as usize;
    let length = u16::from_be_bytes([ip[2], ip[3]]) as usize;
    if ip[0] >> 4 != 4 || header < 20 || length < header || ip.len() < length {
        return 0;
    }
    let bad_ip = offload::fold(offload::sum(&ip[..header])) != 0xffff;
    let failed = if bad_ip { 1 << 15 } else { 0 };
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let (kind, fail) = match ip[9] {
        6 if length - header >= 20 => (TCP, 1 << 13),
        17 if length - header >= 8 => (UDP, 1 << 14),
        _ => return IP | failed,
    };
    if fragment {
        return IP | failed;
    }
    let l4 = &ip[header..length];
    let none = ip[9] == 17 && l4[6..8] == [0, 0];
    let pseudo = offload::sum(&ip[12..20]) + ip[9] as u64 + l4.len() as u64;
    let bad = !none && offload::fold(pseudo + offload::sum(l4)) != 0xffff;
    kind | failed | if bad { fail } else { 0 }
}
