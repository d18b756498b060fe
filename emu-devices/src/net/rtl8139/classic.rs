//! The plain 8139: four transmit descriptors in registers, and one receive buffer as a ring of bytes (data sheet, 5.1 to 5.6).

use super::*;

const TSD_OWN: u32 = 1 << 13;
const TSD_TUN: u32 = 1 << 14;
const TSD_TOK: u32 = 1 << 15;
const RCR_WRAP: u32 = 1 << 7;

// Receive status, at the head of each frame.
const RX_ROK: u16 = 1 << 0;
const RX_BROADCAST: u16 = 1 << 13;
const RX_PHYSICAL: u16 = 1 << 14;
const RX_MULTICAST: u16 = 1 << 15;

/// The registers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rings {
    statuses: [u32; 4],
    addresses: [u32; 4],
    /// The descriptor that is sent next.
    next: u8,
    pub(super) rx_start: u32,
    /// The reader's place less 16, and the writer's.
    pub(super) capr: u16,
    pub(super) cbr: u16,
}

/// The ring's size without the room behind it.
fn size(rcr: u32) -> u32 {
    8192 << (rcr >> 11 & 3)
}

impl Rings {
    pub fn new() -> Self {
        Self {
            statuses: [TSD_OWN; 4],
            addresses: [0; 4],
            next: 0,
            rx_start: 0,
            capr: 0xfff0,
            cbr: 0,
        }
    }

    pub fn status(&self, at: usize) -> u32 {
        self.statuses[at >> 2 & 3]
    }

    pub fn address(&self, at: usize) -> u32 {
        self.addresses[at >> 2 & 3]
    }

    pub fn set_address(&mut self, at: usize, value: u32) {
        self.addresses[at >> 2 & 3] = value;
    }

    pub fn set_start(&mut self, value: u32) {
        self.rx_start = value;
        (self.cbr, self.capr) = (0, 0xfff0);
    }

    fn reader(&self, rcr: u32) -> u32 {
        (self.capr.wrapping_add(16)) as u32 % size(rcr)
    }

    pub fn is_empty(&self, rcr: u32) -> bool {
        self.reader(rcr) == self.cbr as u32 % size(rcr)
    }

    /// TSAD: the four descriptors' OWN, TUN and TOK in one word.
    pub fn summary(&self) -> u16 {
        self.statuses.iter().enumerate().fold(0, |all, (n, s)| {
            let bit = |flag: u32, at: usize| ((s & flag != 0) as u16) << (at + n);
            all | bit(TSD_OWN, 0) | bit(TSD_TUN, 8) | bit(TSD_TOK, 12)
        })
    }
}

impl Rtl8139 {
    /// A write to TSDn: with OWN clear it sends.
    pub(super) fn write_status(&mut self, at: usize, value: u32, now: u64) {
        self.s.classic.statuses[at >> 2 & 3] = value & 0x003f_3fff;
        if value & TSD_OWN == 0 {
            self.transmit_classic(now);
        }
    }

    /// Sends descriptors in their order, as far as they are given.
    pub(super) fn transmit_classic(&mut self, _now: u64) {
        for _ in 0..4 {
            let n = self.s.classic.next as usize & 3;
            let status = self.s.classic.statuses[n];
            if status & TSD_OWN != 0 || self.s.command & CR_TE == 0 || !self.can_master() {
                return;
            }
            if !self.end.has_room() {
                self.held_up = true;
                return;
            }
            let length = (status & 0x1fff) as usize;
            let mut data = self.end.buffer();
            data.resize(length.min(1792), 0);
            let addr = self.s.classic.addresses[n] as u64;
            let sound = length <= 1792 && self.memory.read(addr, &mut data);
            if sound {
                self.emit(data.into());
                self.s.classic.statuses[n] |= TSD_OWN | TSD_TOK;
                self.s.isr |= TOK;
            } else {
                self.s.classic.statuses[n] |= TSD_OWN | TSD_TUN;
                self.s.tally.send_errors += 1;
                self.s.isr |= TER;
            }
            self.s.classic.next = (n as u8 + 1) & 3;
        }
    }

    /// Puts a frame with its header into the ring.
    pub(super) fn receive_classic(&mut self, frame: &[u8], kind: Match) -> Stored {
        let rcr = self.s.rcr;
        let size = size(rcr);
        let (reader, writer) = (self.s.classic.reader(rcr), self.s.classic.cbr as u32 % size);
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(frame);
        bytes.resize(bytes.len().max(64), 0);
        let fcs = crc32fast::hash(&bytes[4..]);
        bytes.extend_from_slice(&fcs.to_le_bytes());
        let length = bytes.len() - 4;
        let status = RX_ROK
            | match kind {
                Match::Physical => RX_PHYSICAL,
                Match::Multicast => RX_MULTICAST,
                Match::Broadcast => RX_BROADCAST,
                Match::Other => 0,
            };
        bytes[..2].copy_from_slice(&status.to_le_bytes());
        bytes[2..4].copy_from_slice(&(length as u16).to_le_bytes());
        let taken = (bytes.len() as u32 + 3) & !3;
        // A full ring would look like an empty one.
        let room = match (writer + size - reader) % size {
            0 => size,
            used => size - used,
        };
        if taken >= size {
            return Stored::Never;
        }
        if taken >= room {
            return Stored::Later(RXOVW);
        }
        let base = self.s.classic.rx_start as u64;
        let straight = rcr & RCR_WRAP != 0 && size < 65536;
        let first = match straight {
            true => bytes.len(),
            false => bytes.len().min((size - writer) as usize),
        };
        // What lies outside RAM is lost.
        self.memory.write(base + writer as u64, &bytes[..first]);
        self.memory.write(base, &bytes[first..]);
        self.s.classic.cbr = ((writer + taken) % size) as u16;
        Stored::Yes
    }
}
