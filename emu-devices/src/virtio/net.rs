//! The network device.
//!
//! Source: virtio 1.2, 5.1. Queues: 0 receives, 1 transmits, 2 controls. Each frame has a header that says what is left to do with
//! it: a checksum to be filled in, or TCP data to be cut ([`Offload`]). What the driver takes of that is told to the link, so that
//! a TCP stream comes and goes in pieces of 64 KiB.
//!
//! Receiving: frames come from the [`End`] one at a time, only when there are buffers. One that does not fit into what is there
//! waits; the driver's next notification, or the link's waker (`poll`), goes on. Sending stops while the link has no room.

use super::*;
use crate::net::offload::{self, Checksum, Segment};
use crate::net::{Accepts, ETHERNET_HEADER, End, Frame, MAX_FRAME, Mac, Offload};
use crate::state;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const F_CSUM: u64 = 1;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const F_CTRL_VQ: u64 = 1 << 17;
const F_CTRL_RX: u64 = 1 << 18;
const F_CTRL_MAC_ADDR: u64 = 1 << 23;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

// Header: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers.
const HEADER: usize = 12;
/// Without num_buffers.
const LEGACY_HEADER: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

const ACK_OK: u8 = 0;
const ACK_ERR: u8 = 1;

/// Addresses in a filter table; a driver that sets more gets everything of that kind.
const MAX_ADDRESSES: usize = 64;

/// What is received.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Filter {
    mac: Mac,
    promiscuous: bool,
    all_multicast: bool,
    all_unicast: bool,
    addresses: Vec<Mac>,
}

impl Filter {
    /// Everything, until the driver says otherwise.
    fn new(mac: Mac) -> Self {
        Self {
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            addresses: Vec::new(),
        }
    }

    fn takes(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk::<6>() else {
            return false;
        };
        let all = match to[0] & 1 {
            0 => self.all_unicast,
            _ => self.all_multicast,
        };
        self.promiscuous
            || all
            || *to == self.mac
            || *to == [0xff; 6]
            || self.addresses.contains(to)
    }
}

/// The device.
pub struct Net {
    end: End,
    hardware_mac: Mac,
    filter: Filter,
    /// Frames that wait for buffers.
    waiting: VecDeque<Frame>,
    /// As the driver and the link have been told.
    up: bool,
    accepts: Accepts,
}

impl Net {
    /// A card at the guest's end of a link, whose waker leads to the board.
    pub fn new(end: End, mac: Mac) -> Self {
        end.set_accepts(Accepts::default());
        Self {
            up: end.is_up(),
            end,
            hardware_mac: mac,
            filter: Filter::new(mac),
            waiting: VecDeque::new(),
            accepts: Accepts::default(),
        }
    }

    fn header_size(x: &Context) -> usize {
        match x.has(F_MRG_RXBUF | F_VERSION_1) {
            true => HEADER,
            false => LEGACY_HEADER,
        }
    }

    /// Tells the link what the driver takes.
    fn agree(&mut self, x: &Context) {
        let checksum = x.has(F_GUEST_CSUM);
        let accepts = Accepts {
            checksum,
            tcp4: checksum && x.has(F_GUEST_TSO4),
            tcp6: checksum && x.has(F_GUEST_TSO6),
            ecn: x.has(F_GUEST_ECN),
        };
        if accepts != self.accepts {
            self.accepts = accepts;
            self.end.set_accepts(accepts);
        }
    }

    fn transmit(&mut self, x: &mut Context) -> Result<(), Broken> {
        let header_size = Self::header_size(x);
        while self.end.has_room()
            && let Some(mut chain) = x.pop(TRANSMIT)?
        {
            let length = chain.readable.left();
            let mut header = [0; HEADER];
            let read = chain.readable.read(&mut header[..header_size], x.memory);
            // A frame that cannot be is lost, as on any wire.
            if read.is_ok() && length <= (MAX_FRAME + header_size) as u64 {
                let mut data = self.end.buffer();
                data.resize(chain.readable.left() as usize, 0);
                x.spend(length);
                let read = chain.readable.read(&mut data, x.memory);
                if let (Ok(()), Some(offload)) = (read, offload_of(&header, x)) {
                    // There is room, and nobody else sends from this end.
                    let _ = self.end.send(Frame { data, offload });
                }
            }
            x.push(TRANSMIT, &chain, 0)?;
        }
        Ok(())
    }

    /// The next frame for the driver.
    fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let mut frame = match self.waiting.pop_front() {
                Some(frame) => return Some(frame),
                None => self.end.receive()?,
            };
            if !self.filter.takes(&frame.data) {
                self.end.recycle(frame.data);
                continue;
            }
            // It may have been sent before the driver's wishes were known.
            let (mut spare, mut pieces) = (Vec::new(), Vec::new());
            offload::reduce(&mut frame, self.accepts, &mut spare, &mut pieces);
            if pieces.is_empty() {
                return Some(frame);
            }
            self.waiting.extend(pieces);
        }
    }

    fn receive(&mut self, x: &mut Context) -> Result<(), Broken> {
        let header_size = Self::header_size(x);
        let most = match x.has(F_MRG_RXBUF) {
            true => usize::MAX,
            false => 1,
        };
        let mut chains: Vec<Chain> = Vec::new();
        if !x.queues[RECEIVE].is_enabled() {
            return Ok(());
        }
        loop {
            if x.queues[RECEIVE].waiting(x.memory)? == 0 {
                // Finding nothing asks for a notification.
                x.queues[RECEIVE].pop(x.memory)?;
                return Ok(());
            }
            if x.is_over(RECEIVE) {
                return Ok(());
            }
            let Some(frame) = self.next_frame() else {
                return Ok(());
            };
            let need = (header_size + frame.data.len()) as u64;
            let mut room = 0;
            while room < need
                && chains.len() < most
                && let Some(chain) = x.queues[RECEIVE].pop(x.memory)?
            {
                room += chain.writable.left();
                chains.push(chain);
            }
            if room < need {
                let held = chains.len() as u16;
                x.queues[RECEIVE].unpop(held);
                chains.clear();
                if most == 1 || held >= x.queues[RECEIVE].size {
                    // It will never fit.
                    self.end.recycle(frame.data);
                    continue;
                }
                self.waiting.push_front(frame);
                return Ok(());
            }
            x.spend(need);
            self.fill(&frame, header_size, &mut chains, x)?;
            self.end.recycle(frame.data);
            chains.clear();
        }
    }

    /// Puts a frame into its buffers. A buffer that is no memory gets nothing.
    fn fill(
        &mut self,
        frame: &Frame,
        header_size: usize,
        chains: &mut [Chain],
        x: &mut Context,
    ) -> Result<(), Broken> {
        let mut header = header_of(frame);
        header[10..].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let mut header = &header[..header_size];
        let mut data = &frame.data[..];
        for (n, chain) in chains.iter_mut().enumerate() {
            let mut written = 0;
            for rest in [&mut header, &mut data] {
                let (now, later) = rest.split_at(rest.len().min(chain.writable.left() as usize));
                if chain.writable.write(now, x.memory).is_ok() {
                    written += now.len() as u32;
                }
                *rest = later;
            }
            x.queues[RECEIVE].put_used(n as u16, chain, written, x.memory)?;
        }
        // All buffers of a frame appear at once.
        x.queues[RECEIVE].publish(chains.len() as u16, x.memory)
    }

    fn control(&mut self, x: &mut Context) -> Result<(), Broken> {
        while let Some(mut chain) = x.pop(CONTROL)? {
            let ack = match self.command(&mut chain.readable, x) {
                Some(()) => ACK_OK,
                None => ACK_ERR,
            };
            let written = chain.writable.write(&[ack], x.memory).is_ok() as u32;
            x.push(CONTROL, &chain, written)?;
        }
        Ok(())
    }

    /// 5.1.6.5: class, command, data.
    fn command(&mut self, data: &mut Buffers, x: &Context) -> Option<()> {
        let [class, command]: [u8; 2] = data.get(x.memory).ok()?;
        match (class, command) {
            (0, 0..=2) if x.has(F_CTRL_RX) => {
                let [on]: [u8; 1] = data.get(x.memory).ok()?;
                let what = match command {
                    0 => &mut self.filter.promiscuous,
                    1 => &mut self.filter.all_multicast,
                    _ => &mut self.filter.all_unicast,
                };
                *what = on != 0;
            }
            (1, 0) if x.has(F_CTRL_RX) => {
                let (unicast, all_unicast) = table(data, x)?;
                let (multicast, all_multicast) = table(data, x)?;
                self.filter.addresses = unicast.into_iter().chain(multicast).collect();
                self.filter.all_unicast = all_unicast;
                self.filter.all_multicast |= all_multicast;
            }
            (1, 1) if x.has(F_CTRL_MAC_ADDR) => self.filter.mac = data.get(x.memory).ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// A table of addresses; true: more than are kept.
fn table(data: &mut Buffers, x: &Context) -> Option<(Vec<Mac>, bool)> {
    let count = u32::from_le_bytes(data.get(x.memory).ok()?) as u64;
    if count * 6 > data.left() {
        return None;
    }
    if count > MAX_ADDRESSES as u64 {
        data.skip(count * 6).ok()?;
        return Some((Vec::new(), true));
    }
    let addresses: Result<_, _> = (0..count).map(|_| data.get(x.memory)).collect();
    Some((addresses.ok()?, false))
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// What a header leaves to do; `None`: something that was not negotiated.
fn offload_of(header: &[u8; HEADER], x: &Context) -> Option<Offload> {
    let checksum = (header[0] & NEEDS_CSUM != 0).then(|| Checksum {
        start: word(header, 6),
        offset: word(header, 8),
    });
    let (feature, v6) = match header[1] & !GSO_ECN {
        0 => (F_CSUM, None),
        GSO_TCPV4 => (F_HOST_TSO4, Some(false)),
        GSO_TCPV6 => (F_HOST_TSO6, Some(true)),
        _ => return None,
    };
    let wanted = match (checksum, v6) {
        (None, None) => 0,
        _ => feature,
    };
    let segment = v6.map(|v6| Segment {
        v6,
        size: word(header, 4),
        ecn: header[1] & GSO_ECN != 0,
    });
    (x.features & wanted == wanted).then_some(Offload { checksum, segment })
}

/// Where the checksum of a TCP frame is.
fn tcp_checksum(frame: &[u8], v6: bool) -> Option<Checksum> {
    let tag = if *frame.get(12..14)? == [0x81, 0] {
        4
    } else {
        0
    };
    let ip = ETHERNET_HEADER + tag;
    let length = match v6 {
        true => 40,
        false => 4 * (*frame.get(ip)? & 15) as usize,
    };
    Some(Checksum {
        start: (ip + length) as u16,
        offset: 16,
    })
}

/// The header of a received frame, without the number of buffers.
fn header_of(frame: &Frame) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    let checksum = match (frame.offload.checksum, frame.offload.segment) {
        // What is to be cut is to be summed too.
        (None, Some(segment)) => tcp_checksum(&frame.data, segment.v6),
        (checksum, _) => checksum,
    };
    if let Some(Checksum { start, offset }) = checksum {
        put(6, start);
        put(8, offset);
    }
    if let Some(segment) = frame.offload.segment {
        // hdr_len is a hint: up to the end of a TCP header without options.
        put(2, checksum.map_or(0, |c| c.start.saturating_add(20)));
        put(4, segment.size);
    }
    header[0] = checksum.map_or(0, |_| NEEDS_CSUM);
    header[1] = match frame.offload.segment {
        None => 0,
        Some(s) => [GSO_TCPV4, GSO_TCPV6][s.v6 as usize] | if s.ecn { GSO_ECN } else { 0 },
    };
    header
}

impl VirtioDevice for Net {
    fn kind(&self) -> Kind {
        Kind {
            id: 1,
            transitional: Some(0x1000),
            class: [2, 0, 0],
        }
    }

    fn features(&self) -> u64 {
        F_CSUM
            | F_GUEST_CSUM
            | F_MAC
            | F_GUEST_TSO4
            | F_GUEST_TSO6
            | F_GUEST_ECN
            | F_HOST_TSO4
            | F_HOST_TSO6
            | F_HOST_ECN
            | F_MRG_RXBUF
            | F_STATUS
            | F_CTRL_VQ
            | F_CTRL_RX
            | F_CTRL_MAC_ADDR
    }

    fn queues(&self) -> Vec<u16> {
        vec![256, 256, 64]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = self.filter.mac.to_vec();
        c.extend((self.up as u16).to_le_bytes());
        c.extend(1u16.to_le_bytes()); // pairs of queues
        c.extend(1500u16.to_le_bytes());
        c
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        // 5.1.4.2: only a legacy driver writes here, its address byte by byte.
        if let Some(place) = self.filter.mac.get_mut(offset..offset + data.len()) {
            place.copy_from_slice(data);
        }
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        self.agree(x);
        match queue {
            RECEIVE => self.receive(x),
            TRANSMIT => self.transmit(x),
            _ => self.control(x),
        }
    }

    fn poll(&mut self, x: &mut Context) -> Result<(), Broken> {
        self.agree(x);
        if self.up != self.end.is_up() {
            self.up = self.end.is_up();
            x.config_changed();
        }
        self.receive(x)?;
        self.transmit(x)
    }

    fn reset(&mut self) {
        self.filter = Filter::new(self.hardware_mac);
        self.accepts = Accepts::default();
        self.end.set_accepts(self.accepts);
        self.waiting.clear();
        self.up = self.end.is_up();
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&(&self.filter, self.up))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((filter, up)) = state::from_bytes(bytes) else {
            return false;
        };
        (self.filter, self.up) = (filter, up);
        // Frames under way are lost; what the driver takes is found out at the next call.
        self.waiting.clear();
        self.accepts = Accepts::default();
        self.end.set_accepts(self.accepts);
        true
    }
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
