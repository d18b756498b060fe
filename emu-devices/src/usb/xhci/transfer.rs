//! Device slots, their endpoints, and transfers.
//!
//! Source: xHCI 1.1, 4.5.3 (slot states), 4.8.3 (endpoint states), 4.10 (completion, short packets), 4.11 (transfer descriptors), 4.12
//! (doorbells). A transfer descriptor (TD) is taken whole, from its first TRB to the last that is not chained: a driver that
//! is still writing one is not disturbed. A control transfer is three of them, with its request kept between.

use super::event::Event;
use super::ring::{Next, Ring, Trb, code, kind};
use super::{HostError, PORTS, SLOTS, Xhci};
use crate::chips::fw_cfg::GuestMemory;
use crate::usb::{Data, IN, Outcome, Setup};
use serde::{Deserialize, Serialize};

/// TRBs of a transfer, and its bytes.
const MAX_TRBS: usize = 4096;
const MAX_BYTES: u64 = 64 << 20;
/// A TRB's buffer (6.4.1.1).
const MAX_BUFFER: u32 = 0x1_0000;
/// A transfer event's parameter is an event data TRB's.
const EVENT_DATA: u32 = 1 << 2;

/// Endpoint states (6.2.3).
pub mod ep {
    pub const DISABLED: u32 = 0;
    pub const RUNNING: u32 = 1;
    pub const HALTED: u32 = 2;
    pub const STOPPED: u32 = 3;
    pub const ERROR: u32 = 4;
}

/// What one call of `work` may still do; the last transfer may pass it.
pub struct Budget {
    trbs: usize,
    bytes: u64,
}

impl Budget {
    pub fn new() -> Self {
        Self {
            trbs: 512,
            bytes: 8 << 20,
        }
    }

    pub fn is_spent(&self) -> bool {
        self.trbs == 0 || self.bytes == 0
    }

    pub fn spend(&mut self, trbs: usize, bytes: u64) {
        self.trbs = self.trbs.saturating_sub(trbs);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// An endpoint that is configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    pub state: u32,
    pub ring: Ring,
    /// The device had nothing for the transfer that is at the ring's head.
    waiting: bool,
    /// Bytes since the last event data TRB.
    moved: u32,
}

impl Endpoint {
    pub fn new(ring: Ring) -> Self {
        Self {
            state: ep::RUNNING,
            ring,
            waiting: false,
            moved: 0,
        }
    }
}

/// The control transfer that is under way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Control {
    setup: Option<Setup>,
    /// For the host, or from it.
    data: Vec<u8>,
    failed: bool,
}

/// Slot states (6.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SlotState {
    #[default]
    Disabled,
    Enabled,
    Default,
    Addressed,
    Configured,
}

/// A device slot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Slot {
    pub state: SlotState,
    /// Where the driver looks at its contexts.
    pub context: u64,
    pub port: usize,
    /// By device context index.
    pub endpoints: Vec<Option<Endpoint>>,
    /// Endpoints to work on: a bit each.
    marked: u32,
    control: Control,
}

impl Slot {
    /// After the enable slot command.
    pub fn enabled() -> Self {
        Self {
            state: SlotState::Enabled,
            endpoints: vec![None; 32],
            ..Self::default()
        }
    }

    pub fn endpoint(&mut self, dci: usize) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(dci)?.as_mut()
    }

    /// Whether a device has said NAK.
    pub fn is_waiting(&self) -> bool {
        self.endpoints.iter().flatten().any(|e| e.waiting)
    }

    /// Whether it is as this controller makes them.
    pub fn is_sound(&self) -> bool {
        match self.state {
            SlotState::Disabled => self.endpoints.is_empty(),
            _ => self.endpoints.len() == 32,
        }
    }

    fn mark_waiting(&mut self) {
        for (dci, e) in self.endpoints.iter_mut().enumerate() {
            if let Some(e) = e
                && std::mem::take(&mut e.waiting)
            {
                self.marked |= 1 << dci;
            }
        }
    }
}

/// A transfer descriptor.
enum Td {
    Whole(Vec<Trb>),
    Empty,
    /// There is no sense in it.
    Bad,
}

/// Takes the TRBs up to the first that is not chained.
fn gather(ring: &mut Ring, memory: &dyn GuestMemory) -> Result<Td, HostError> {
    let mut td = Vec::new();
    let mut bytes = 0;
    loop {
        match ring.take(memory)? {
            Next::Empty => return Ok(Td::Empty),
            Next::Endless => return Ok(Td::Bad),
            Next::Trb(trb) => {
                td.push(trb);
                bytes += u64::from(trb.length());
                if td.len() > MAX_TRBS || bytes > MAX_BYTES {
                    return Ok(Td::Bad);
                }
                if !trb.is_chained() {
                    return Ok(Td::Whole(td));
                }
            }
        }
    }
}

fn has_buffer(trb: &Trb) -> bool {
    matches!(trb.kind(), kind::NORMAL | kind::DATA)
}

/// The buffers of a transfer; `None`: a TRB does not belong there.
fn buffers(td: &[Trb], to_host: bool) -> Option<Vec<(u64, u32)>> {
    let mut pieces = Vec::new();
    for (n, trb) in td.iter().enumerate() {
        match trb.kind() {
            kind::DATA if n > 0 => return None,
            kind::NORMAL | kind::DATA => match (trb.is_immediate(), trb.length()) {
                // 6.4.1.1: up to eight bytes, from the host.
                (true, 0..=8) if !to_host => pieces.push((trb.at, trb.length())),
                (false, 0..=MAX_BUFFER) => pieces.push((trb.parameter, trb.length())),
                _ => return None,
            },
            kind::EVENT_DATA | kind::NO_OP => {}
            _ => return None,
        }
    }
    Some(pieces)
}

/// How a transfer has gone.
enum Done {
    Code(u8, u64),
    Wait,
}

impl Xhci {
    /// An endpoint's doorbell.
    pub(super) fn ring_endpoint(&mut self, slot: usize, dci: u8) {
        let dci = usize::from(dci);
        if slot > SLOTS || !(1..32).contains(&dci) {
            return;
        }
        let s = &mut self.s.slots[slot - 1];
        let Some(e) = s.endpoint(dci) else { return };
        // 4.8.3: the doorbell starts a stopped endpoint; one that is halted or in error stays so.
        if !matches!(e.state, ep::RUNNING | ep::STOPPED) {
            return;
        }
        e.waiting = false;
        let started = e.state == ep::STOPPED;
        e.state = ep::RUNNING;
        s.marked |= 1 << dci;
        if started && self.write_endpoint(slot - 1, dci).is_err() {
            self.s.fail();
        }
    }

    /// Devices may have something now.
    pub(super) fn ask_again(&mut self) {
        let mut any = false;
        for slot in &mut self.s.slots {
            if slot.is_waiting() {
                slot.mark_waiting();
                any = true;
            }
        }
        if any {
            self.work();
        }
    }

    /// Works on the endpoints that are marked.
    pub(super) fn transfers(&mut self, budget: &mut Budget) {
        for n in 0..SLOTS {
            while self.s.slots[n].marked != 0 && self.s.is_running() {
                if !self.s.waiting.is_empty() || budget.is_spent() {
                    return;
                }
                let dci = self.s.slots[n].marked.trailing_zeros() as usize;
                if self.transfer(n, dci, budget).is_err() {
                    self.s.fail();
                }
            }
        }
    }

    /// Takes one transfer from an endpoint's ring.
    fn transfer(&mut self, n: usize, dci: usize, budget: &mut Budget) -> Result<(), HostError> {
        let slot = &mut self.s.slots[n];
        let memory = self.memory.clone();
        let running = slot.endpoint(dci).filter(|e| e.state == ep::RUNNING);
        let Some(e) = running else {
            slot.marked &= !(1 << dci);
            return Ok(());
        };
        let head = e.ring;
        let mut ring = head;
        let td = match gather(&mut ring, &*memory)? {
            Td::Whole(td) => td,
            Td::Empty => {
                slot.marked &= !(1 << dci);
                return Ok(());
            }
            Td::Bad => {
                budget.spend(MAX_TRBS, 0);
                return self.stop_at(n, dci, head.dequeue, code::TRB_ERROR);
            }
        };
        let done = match dci {
            1 => self.control(n, &td),
            _ => self.data(n, dci, &td),
        };
        match done? {
            Done::Wait => {
                budget.spend(1, 0);
                let slot = &mut self.s.slots[n];
                slot.marked &= !(1 << dci);
                if let Some(e) = slot.endpoint(dci) {
                    e.waiting = true;
                }
                Ok(())
            }
            Done::Code(result, moved) => {
                budget.spend(td.len(), moved);
                // What one endpoint has done, another may have waited for.
                let slot = &mut self.s.slots[n];
                slot.mark_waiting();
                match result {
                    code::SUCCESS => {
                        if let Some(e) = slot.endpoint(dci) {
                            e.ring = ring;
                        }
                    }
                    _ => self.halt(n, dci, result)?,
                }
                self.tell(n, dci, &td, moved, result);
                Ok(())
            }
        }
    }

    /// An endpoint stops at a TRB that makes no sense.
    fn stop_at(&mut self, n: usize, dci: usize, at: u64, result: u8) -> Result<(), HostError> {
        self.halt(n, dci, result)?;
        let event = self.event(n, dci, at, result, 0);
        self.s.post(event, &*self.memory);
        Ok(())
    }

    /// 4.8.3: what makes no sense is an error; what the device did halts.
    fn halt(&mut self, n: usize, dci: usize, result: u8) -> Result<(), HostError> {
        let slot = &mut self.s.slots[n];
        slot.marked &= !(1 << dci);
        if let Some(e) = slot.endpoint(dci) {
            e.state = match result {
                code::TRB_ERROR => ep::ERROR,
                _ => ep::HALTED,
            };
        }
        self.write_endpoint(n, dci)
    }

    fn event(&self, n: usize, dci: usize, at: u64, result: u8, residue: u32) -> Event {
        let mut event = Event::new(kind::TRANSFER_EVENT, at, result);
        event.status |= residue & 0xff_ffff;
        event.control |= (n as u32 + 1) << 24 | (dci as u32) << 16;
        event
    }

    /// The events of a transfer of which so many bytes were moved (4.10.1).
    fn tell(&mut self, n: usize, dci: usize, td: &[Trb], moved: u64, result: u8) {
        let mut left = moved;
        let (mut short, mut told) = (false, false);
        for (i, trb) in td.iter().enumerate() {
            let length = if has_buffer(trb) { trb.length() } else { 0 };
            let part = left.min(u64::from(length)) as u32;
            left -= u64::from(part);
            let mut total = 0;
            if let Some(e) = self.s.slots[n].endpoint(dci) {
                e.moved = e.moved.wrapping_add(part) & 0xff_ffff;
                total = e.moved;
            }
            let ends_here = part < length && !short;
            let failed = result != code::SUCCESS && (ends_here || i + 1 == td.len());
            short |= ends_here;
            let is_event_data = trb.kind() == kind::EVENT_DATA;
            // After the event of a short packet only event data TRBs are executed.
            let wanted = trb.ioc() && (!told || is_event_data) || ends_here && trb.isp();
            let told_now = failed || wanted && result == code::SUCCESS;
            if !told_now {
                continue;
            }
            told |= short;
            let result = match result {
                code::SUCCESS if short => code::SHORT_PACKET,
                result => result,
            };
            let mut event = match is_event_data {
                true => {
                    if let Some(e) = self.s.slots[n].endpoint(dci) {
                        e.moved = 0;
                    }
                    let mut event = self.event(n, dci, trb.parameter, result, total);
                    event.control |= EVENT_DATA;
                    event
                }
                false => self.event(n, dci, trb.at, result, length - part),
            };
            event.interrupter = trb.target();
            event.quiet = trb.bei();
            self.s.post(event, &*self.memory);
            if failed {
                return;
            }
        }
    }

    /// The stop endpoint command leaves a transfer that the device has not answered: the driver is told of it (4.6.9).
    pub(super) fn tell_stopped(&mut self, n: usize, dci: usize) -> Result<(), HostError> {
        let slot = &mut self.s.slots[n];
        slot.marked &= !(1 << dci);
        let Some(e) = slot.endpoint(dci) else {
            return Ok(());
        };
        if !std::mem::take(&mut e.waiting) {
            return Ok(());
        }
        let mut ring = e.ring;
        if let Next::Trb(trb) = ring.take(&*self.memory)? {
            let mut event = self.event(n, dci, trb.at, code::STOPPED, trb.length());
            event.interrupter = trb.target();
            self.s.post(event, &*self.memory);
        }
        Ok(())
    }

    /// A transfer on an endpoint that is not 0.
    fn data(&mut self, n: usize, dci: usize, td: &[Trb]) -> Result<Done, HostError> {
        let to_host = dci & 1 != 0;
        let Some(pieces) =
            buffers(td, to_host).filter(|_| !td.iter().any(|t| t.kind() == kind::DATA))
        else {
            return Ok(Done::Code(code::TRB_ERROR, 0));
        };
        if !td.iter().any(has_buffer) {
            return Ok(Done::Code(code::SUCCESS, 0));
        }
        let address = (dci / 2) as u8 | if to_host { IN } else { 0 };
        let memory = self.memory.clone();
        let mut data = Data::new(&pieces, &*memory);
        let now = self.s.now;
        let port = self.s.slots[n].port % PORTS;
        let enabled = self.s.ports[port].is_enabled();
        let function = self.functions[port].as_mut().filter(|_| enabled);
        let outcome = function.and_then(|f| f.transfer(address, &mut data, now));
        if data.is_bad() {
            return Err(HostError);
        }
        Ok(match outcome {
            Some(Outcome::Nak) => Done::Wait,
            Some(Outcome::Done) => Done::Code(code::SUCCESS, data.moved()),
            Some(Outcome::Stall) => Done::Code(code::STALL, data.moved()),
            Some(Outcome::Babble) => Done::Code(code::BABBLE, data.moved()),
            None => Done::Code(code::TRANSACTION_ERROR, 0),
        })
    }

    /// A stage of a control transfer (4.11.2.2).
    fn control(&mut self, n: usize, td: &[Trb]) -> Result<Done, HostError> {
        let memory = self.memory.clone();
        let now = self.s.now;
        let slot = &mut self.s.slots[n];
        let port = slot.port % PORTS;
        let enabled = self.s.ports[port].is_enabled();
        let Some(function) = self.functions[port].as_mut().filter(|_| enabled) else {
            return Ok(Done::Code(code::TRANSACTION_ERROR, 0));
        };
        let (first, control) = (&td[0], &mut slot.control);
        let stall = Ok(Done::Code(code::STALL, 0));
        match first.kind() {
            kind::SETUP => {
                if !first.is_immediate() || first.length() != 8 || td.len() > 1 {
                    return Ok(Done::Code(code::TRB_ERROR, 0));
                }
                let setup = Setup::new(first.parameter.to_le_bytes());
                *control = Control {
                    setup: Some(setup),
                    ..Control::default()
                };
                if setup.is_in() {
                    let answer = function.control(&setup, &[], now);
                    control.failed = answer.is_none();
                    control.data = answer.unwrap_or_default();
                }
                Ok(Done::Code(code::SUCCESS, 0))
            }
            kind::DATA => {
                let Some(pieces) = buffers(td, first.is_in()) else {
                    return Ok(Done::Code(code::TRB_ERROR, 0));
                };
                let setup = control.setup.unwrap_or_default();
                if control.failed || (setup.kind & IN != 0) != first.is_in() {
                    return stall;
                }
                let mut data = Data::new(&pieces, &*memory);
                if first.is_in() {
                    let most = control.data.len().min(data.left() as usize);
                    data.send(&control.data[..most]);
                } else if data.left() <= u64::from(setup.length) {
                    control.data.resize(data.left() as usize, 0);
                    data.take(&mut control.data);
                } else {
                    return stall;
                }
                match data.is_bad() {
                    true => Err(HostError),
                    false => Ok(Done::Code(code::SUCCESS, data.moved())),
                }
            }
            kind::STATUS => {
                let Control {
                    setup,
                    data,
                    failed,
                } = std::mem::take(control);
                let Some(setup) = setup.filter(|_| !failed) else {
                    return stall;
                };
                if !setup.is_in() && function.control(&setup, &data, now).is_none() {
                    return stall;
                }
                Ok(Done::Code(code::SUCCESS, 0))
            }
            kind::NO_OP | kind::EVENT_DATA => Ok(Done::Code(code::SUCCESS, 0)),
            _ => Ok(Done::Code(code::TRB_ERROR, 0)),
        }
    }
}
