//! Event rings and interrupters.
//!
//! Source: xHCI 1.1, 4.9.4 (event rings), 4.17 (interrupters), 5.5.2 (their registers), 6.5 (segment table).
//!
//! An event goes to [`State::post`]. If its ring is full it waits in [`State::waiting`], and nothing that would make
//! another event is done until the driver has moved the dequeue pointer; so what waits is bounded by one transfer's events.

use super::ring::{TRB, code, kind};
use super::{HostError, State};
use crate::chips::fw_cfg::GuestMemory;
use serde::{Deserialize, Serialize};

pub const INTERRUPTERS: usize = 16;
/// ERST Max: 2^4 segments.
pub const SEGMENTS_EXPONENT: u32 = 4;
/// Events that wait at most: a transfer's, and what ports have to say.
const MAX_WAITING: usize = 4096;

/// IMOD counts in 250 ns.
const MODERATION_UNIT: u64 = 250;

// IMAN.
pub const PENDING: u32 = 1;
pub const ENABLE: u32 = 2;
/// ERDP: event handler busy.
const BUSY: u32 = 8;

/// An event as it goes into a ring, but for the cycle bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub interrupter: u16,
    pub parameter: u64,
    pub status: u32,
    pub control: u32,
    /// It causes no interrupt by itself.
    pub quiet: bool,
}

impl Event {
    pub fn new(kind: u8, parameter: u64, code: u8) -> Self {
        Self {
            interrupter: 0,
            parameter,
            status: u32::from(code) << 24,
            control: u32::from(kind) << 10,
            quiet: false,
        }
    }
}

/// Where the next event goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    segment: u32,
    base: u64,
    /// TRBs of the segment, and which of them.
    size: u32,
    index: u32,
    cycle: bool,
}

impl Place {
    fn address(&self) -> u64 {
        self.base.wrapping_add(TRB * u64::from(self.index))
    }
}

/// An interrupter with its event ring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Interrupter {
    pub management: u32,
    pub moderation: u32,
    pub table_size: u32,
    pub table: u64,
    pub dequeue: u64,
    busy: bool,
    /// The driver has given a table; it is read with the first event.
    place: Option<Place>,
    /// "Ring full" was the last event.
    full: bool,
    /// An event wants an interrupt (IPE), which may come from `ready` on.
    wants: bool,
    ready: u64,
}

impl Interrupter {
    /// A segment of the table.
    fn segment(
        &self,
        segment: u32,
        cycle: bool,
        memory: &dyn GuestMemory,
    ) -> Result<Place, HostError> {
        let mut entry = [0; 16];
        let at = self.table.wrapping_add(16 * u64::from(segment));
        if !memory.read(at, &mut entry) {
            return Err(HostError);
        }
        let base = u64::from_le_bytes(*entry.first_chunk().unwrap_or(&[0; 8])) & !63;
        let size = u32::from(u16::from_le_bytes([entry[8], entry[9]]));
        // 6.5: 16 to 4096 TRBs.
        if !(16..=4096).contains(&size) {
            return Err(HostError);
        }
        Ok(Place {
            segment,
            base,
            size,
            index: 0,
            cycle,
        })
    }

    fn after(&self, place: &Place, memory: &dyn GuestMemory) -> Result<Place, HostError> {
        if place.index + 1 < place.size {
            return Ok(Place {
                index: place.index + 1,
                ..*place
            });
        }
        let last = place.segment + 1 >= self.segments();
        let next = if last { 0 } else { place.segment + 1 };
        self.segment(next, place.cycle ^ last, memory)
    }

    fn segments(&self) -> u32 {
        self.table_size.min(1 << SEGMENTS_EXPONENT)
    }

    /// Writes an event; false: the ring is full.
    fn write(&mut self, event: &Event, memory: &dyn GuestMemory) -> Result<bool, HostError> {
        if self.segments() == 0 {
            // Nobody listens.
            return Ok(true);
        }
        let place = match self.place {
            Some(place) => place,
            None => self.segment(0, true, memory)?,
        };
        self.place = Some(place);
        let next = self.after(&place, memory)?;
        let last = self.after(&next, memory)?.address() == self.dequeue;
        if next.address() == self.dequeue || last && self.full {
            return Ok(false);
        }
        self.full = last;
        let event = match last {
            // 4.9.4: the last place is for saying so, once until there is room again.
            true => &Event::new(kind::HOST_CONTROLLER, 0, code::EVENT_RING_FULL),
            false => event,
        };
        let mut bytes = event.parameter.to_le_bytes().to_vec();
        bytes.extend(event.status.to_le_bytes());
        bytes.extend((event.control | u32::from(place.cycle)).to_le_bytes());
        if !memory.write(place.address(), &bytes) {
            return Err(HostError);
        }
        self.place = Some(next);
        Ok(!last)
    }

    fn is_empty(&self) -> bool {
        self.place.is_none_or(|p| p.address() == self.dequeue)
    }

    /// ERSTBA is written: the ring begins anew.
    pub fn restart(&mut self) {
        (self.place, self.full, self.wants) = (None, false, false);
    }

    /// ERDP's low half as the driver reads it.
    pub fn dequeue_low(&self) -> u32 {
        self.dequeue as u32 | if self.busy { BUSY } else { 0 }
    }

    /// ERDP's low half is written: perhaps the driver is done with an interrupt.
    pub fn set_dequeue_low(&mut self, value: u32) {
        self.dequeue = self.dequeue & !0xffff_ffff | u64::from(value & !15);
        if value & BUSY != 0 {
            self.busy = false;
        }
        self.wants |= !self.busy && !self.is_empty();
    }
}

impl State {
    /// Sends an event to its interrupter's ring.
    pub fn post(&mut self, event: Event, memory: &dyn GuestMemory) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(event);
        }
        self.deliver_events(memory);
    }

    /// Writes the events that wait, in order, as long as there is room.
    pub fn deliver_events(&mut self, memory: &dyn GuestMemory) {
        while self.may_master()
            && let Some(event) = self.waiting.front().copied()
        {
            let n = usize::from(event.interrupter) % INTERRUPTERS;
            let i = &mut self.interrupters[n];
            match i.write(&event, memory) {
                Ok(true) => {
                    self.waiting.pop_front();
                    i.wants |= !event.quiet && i.place.is_some();
                }
                Ok(false) => {
                    i.wants |= i.place.is_some();
                    self.interrupt(n);
                    return;
                }
                Err(HostError) => return self.fail(),
            }
            self.interrupt(n);
        }
    }

    /// Raises what an interrupter has to raise (4.17.2 to 4.17.5).
    pub fn interrupt(&mut self, n: usize) {
        let i = &mut self.interrupters[n];
        if i.wants && !i.busy && self.now >= i.ready {
            (i.wants, i.busy) = (false, true);
            i.management |= PENDING;
            i.ready = self.now + u64::from(i.moderation & 0xffff) * MODERATION_UNIT;
            self.status |= super::registers::EVENT_INTERRUPT;
        }
        let both = PENDING | ENABLE;
        if i.management & both != both || self.command & super::registers::INTERRUPTER_ENABLE == 0 {
            return;
        }
        // 5.5.2.1: a message clears the pending bit.
        if self.msix.is_enabled(&self.config) {
            i.management &= !PENDING;
            self.msix.raise(&self.config, n as u16);
        } else if self.msi.is_enabled(&self.config) {
            i.management &= !PENDING;
            self.msi.raise(&mut self.config, n as u32);
        }
    }

    /// INTA#.
    pub fn line(&self) -> bool {
        let both = PENDING | ENABLE;
        self.command & super::registers::INTERRUPTER_ENABLE != 0
            && !self.msix.is_enabled(&self.config)
            && !self.msi.is_enabled(&self.config)
            && self
                .interrupters
                .iter()
                .any(|i| i.management & both == both)
    }

    /// When moderation lets the next interrupt pass.
    pub fn next_interrupt(&self) -> Option<u64> {
        let held = self.interrupters.iter().filter(|i| i.wants && !i.busy);
        held.map(|i| i.ready).min()
    }
}
