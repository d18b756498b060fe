//! The command ring, and the contexts that commands read and write.
//!
//! Source: xHCI 1.1, 4.6 (commands), 6.2 (contexts, of 32 bytes here). The driver gives an input context, which says what is added and
//! dropped, and looks at the output context, which the controller alone writes.

use super::event::Event;
use super::ring::{Next, Ring, Trb, code, kind};
use super::transfer::{Budget, Endpoint, Slot, SlotState, ep};
use super::{HostError, PORTS, SLOTS, Xhci, registers};

/// Bytes of a context.
const CONTEXT: u64 = 32;
type Context = [u32; 8];

// Endpoint types (6.2.3).
const CONTROL: u32 = 4;

/// The slot state's number in the context.
fn number(state: SlotState) -> u32 {
    match state {
        SlotState::Disabled | SlotState::Enabled => 0,
        SlotState::Default => 1,
        SlotState::Addressed => 2,
        SlotState::Configured => 3,
    }
}

/// A command's result, unless memory is not there.
type Result<T> = std::result::Result<T, Stop>;

/// Why a command ends early.
enum Stop {
    Code(u8),
    Host,
}

impl From<HostError> for Stop {
    fn from(_: HostError) -> Self {
        Self::Host
    }
}

fn refuse<T>(code: u8) -> Result<T> {
    Err(Stop::Code(code))
}

/// The ring and type that an endpoint's context asks for.
fn endpoint(context: &Context, dci: usize) -> Result<Endpoint> {
    let kind = context[1] >> 3 & 7;
    let packet = context[1] >> 16;
    let streams = context[0] >> 10 & 31;
    // 6.2.3: types 1 to 3 are OUT, 5 to 7 IN; the index has the direction in bit 0.
    let fits = match dci {
        1 => kind == CONTROL,
        _ => kind == CONTROL || kind != 0 && (kind > CONTROL) == (dci & 1 != 0),
    };
    if !fits || packet == 0 || streams != 0 {
        return refuse(code::PARAMETER_ERROR);
    }
    let pointer = u64::from(context[2]) | u64::from(context[3]) << 32;
    Ok(Endpoint::new(Ring::new(pointer)))
}

impl Xhci {
    fn read_context(&self, at: u64) -> std::result::Result<Context, HostError> {
        let mut bytes = [0; CONTEXT as usize];
        if !self.memory.read(at, &mut bytes) {
            return Err(HostError);
        }
        let dword =
            |n: usize| u32::from_le_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
        Ok(std::array::from_fn(|n| dword(4 * n)))
    }

    fn write_context(&self, at: u64, context: &Context) -> std::result::Result<(), HostError> {
        let bytes: Vec<u8> = context.iter().flat_map(|d| d.to_le_bytes()).collect();
        match self.memory.write(at, &bytes) {
            true => Ok(()),
            false => Err(HostError),
        }
    }

    /// Shows an endpoint's state and place in the output context.
    pub(super) fn write_endpoint(
        &mut self,
        n: usize,
        dci: usize,
    ) -> std::result::Result<(), HostError> {
        let slot = &mut self.s.slots[n];
        let at = slot.context.wrapping_add(CONTEXT * dci as u64);
        let shown = slot.endpoint(dci).map(|e| (e.state, e.ring.pointer()));
        let (state, pointer) = shown.unwrap_or((ep::DISABLED, 0));
        let mut context = self.read_context(at)?;
        context[0] = context[0] & !7 | state;
        if state != ep::DISABLED {
            (context[2], context[3]) = (pointer as u32, (pointer >> 32) as u32);
        }
        self.write_context(at, &context)
    }

    /// Shows the slot's state; `change` has the rest of its context.
    fn write_slot(&self, n: usize, change: impl FnOnce(&mut Context)) -> Result<()> {
        let slot = &self.s.slots[n];
        let mut context = self.read_context(slot.context)?;
        change(&mut context);
        let address = match slot.state {
            SlotState::Addressed | SlotState::Configured => n as u32 + 1,
            _ => 0,
        };
        context[3] = number(slot.state) << 27 | address;
        Ok(self.write_context(slot.context, &context)?)
    }

    /// Takes commands from the ring.
    pub(super) fn commands(&mut self, budget: &mut Budget) {
        while self.s.ring_runs && self.s.waiting.is_empty() && self.s.is_running() {
            if budget.is_spent() {
                return;
            }
            budget.spend(1, 0);
            let trb = match self.s.ring.take(&*self.memory) {
                Ok(Next::Trb(trb)) => trb,
                Ok(Next::Empty) => return,
                Ok(Next::Endless) => {
                    // Nothing that a driver could be told of.
                    self.s.status |= registers::HOST_CONTROLLER_ERROR;
                    return self.s.fail();
                }
                Err(HostError) => return self.s.fail(),
            };
            let mut slot = trb.slot();
            let result = match self.execute(&trb, &mut slot) {
                Ok(()) => code::SUCCESS,
                Err(Stop::Code(result)) => result,
                Err(Stop::Host) => return self.s.fail(),
            };
            let mut event = Event::new(kind::COMMAND_COMPLETION, trb.at, result);
            event.control |= u32::from(slot) << 24;
            self.s.post(event, &*self.memory);
        }
    }

    fn execute(&mut self, trb: &Trb, slot: &mut u8) -> Result<()> {
        match trb.kind() {
            kind::NO_OP_COMMAND => return Ok(()),
            kind::ENABLE_SLOT => {
                *slot = self.enable_slot()?;
                return Ok(());
            }
            kind::DISABLE_SLOT..=kind::RESET_DEVICE => {}
            _ => return refuse(code::TRB_ERROR),
        }
        let n = usize::from(*slot).wrapping_sub(1);
        let enabled = self
            .s
            .slots
            .get(n)
            .is_some_and(|s| s.state != SlotState::Disabled);
        if !enabled {
            return refuse(code::SLOT_NOT_ENABLED);
        }
        let dci = usize::from(trb.endpoint());
        let input = trb.parameter & !15;
        // Block set address, deconfigure.
        let flag = trb.control & 1 << 9 != 0;
        match trb.kind() {
            kind::DISABLE_SLOT => self.disable_slot(n),
            kind::ADDRESS_DEVICE => self.address_device(n, input, flag),
            kind::CONFIGURE_ENDPOINT => self.configure_endpoint(n, input, flag),
            kind::EVALUATE_CONTEXT => self.evaluate_context(n, input),
            kind::RESET_ENDPOINT => self.reset_endpoint(n, dci),
            kind::STOP_ENDPOINT => self.stop_endpoint(n, dci),
            kind::SET_TR_DEQUEUE => self.set_dequeue(n, dci, trb),
            _ => self.reset_device(n),
        }
    }

    fn enable_slot(&mut self) -> Result<u8> {
        let most = (self.s.configure as usize & 0xff).min(SLOTS);
        let mut slots = self.s.slots[..most].iter();
        match slots.position(|s| s.state == SlotState::Disabled) {
            Some(n) => {
                self.s.slots[n] = Slot::enabled();
                Ok(n as u8 + 1)
            }
            None => refuse(code::NO_SLOTS),
        }
    }

    fn disable_slot(&mut self, n: usize) -> Result<()> {
        let was = self.s.slots[n].state;
        self.s.slots[n].state = SlotState::Disabled;
        if was != SlotState::Enabled {
            self.write_slot(n, |_| ())?;
        }
        self.s.slots[n] = Slot::default();
        Ok(())
    }

    /// The input control context: what is dropped, what is added.
    fn input(&self, at: u64) -> Result<(u32, u32)> {
        let context = self.read_context(at)?;
        Ok((context[0], context[1]))
    }

    /// 4.6.5.
    fn address_device(&mut self, n: usize, input: u64, block: bool) -> Result<()> {
        let (drop, add) = self.input(input)?;
        if drop != 0 || add != 3 {
            return refuse(code::TRB_ERROR);
        }
        match self.s.slots[n].state {
            SlotState::Enabled => {}
            SlotState::Default if !block => {}
            _ => return refuse(code::CONTEXT_STATE_ERROR),
        }
        let mut context = self.read_context(input.wrapping_add(CONTEXT))?;
        let control = self.read_context(input.wrapping_add(2 * CONTEXT))?;
        let port = (context[1] >> 16 & 0xff) as usize;
        // There are no hubs to route through.
        if context[0] & 0xf_ffff != 0 || !(1..=PORTS).contains(&port) {
            return refuse(code::PARAMETER_ERROR);
        }
        let port = port - 1;
        let mut others = self.s.slots.iter().enumerate();
        if others.any(|(m, s)| m != n && s.state > SlotState::Enabled && s.port == port) {
            return refuse(code::PARAMETER_ERROR);
        }
        let e = endpoint(&control, 1)?;
        let mut pointer = [0; 8];
        let entry = self.s.contexts.wrapping_add(8 * (n as u64 + 1));
        if !self.memory.read(entry, &mut pointer) {
            return Err(Stop::Host);
        }
        if !self.s.ports[port].is_enabled() {
            // Nobody answers SET_ADDRESS.
            return refuse(code::TRANSACTION_ERROR);
        }
        let slot = &mut self.s.slots[n];
        slot.context = u64::from_le_bytes(pointer) & !63;
        slot.port = port;
        slot.endpoints = vec![None; 32];
        slot.endpoints[1] = Some(e);
        slot.state = match block {
            true => SlotState::Default,
            false => SlotState::Addressed,
        };
        // One entry: endpoint 0.
        context[0] = context[0] & 0x07ff_ffff | 1 << 27;
        self.write_slot(n, |c| *c = context)?;
        let at = self.s.slots[n].context.wrapping_add(CONTEXT);
        self.write_context(at, &control)?;
        Ok(self.write_endpoint(n, 1)?)
    }

    /// 4.6.6.
    fn configure_endpoint(&mut self, n: usize, input: u64, deconfigure: bool) -> Result<()> {
        let state = self.s.slots[n].state;
        if !matches!(state, SlotState::Addressed | SlotState::Configured) {
            return refuse(code::CONTEXT_STATE_ERROR);
        }
        let (drop, add) = match deconfigure {
            true => (!3, 1),
            false => self.input(input)?,
        };
        if drop & 3 != 0 || add & 3 != 1 {
            return refuse(code::TRB_ERROR);
        }
        // All is read before anything changes.
        let mut added = Vec::new();
        for dci in (2..32).filter(|dci| add >> dci & 1 != 0) {
            let at = input.wrapping_add(CONTEXT * (dci as u64 + 1));
            let context = self.read_context(at)?;
            added.push((dci, context, endpoint(&context, dci)?));
        }
        for dci in (2..32).filter(|dci| drop >> dci & 1 != 0) {
            let slot = &mut self.s.slots[n];
            if slot.endpoints[dci].take().is_some() {
                self.write_endpoint(n, dci)?;
            }
        }
        for (dci, context, e) in added {
            let slot = &mut self.s.slots[n];
            slot.endpoints[dci] = Some(e);
            let at = slot.context.wrapping_add(CONTEXT * dci as u64);
            self.write_context(at, &context)?;
            self.write_endpoint(n, dci)?;
        }
        let slot = &mut self.s.slots[n];
        let last = slot
            .endpoints
            .iter()
            .rposition(Option::is_some)
            .unwrap_or(1) as u32;
        slot.state = match last {
            0 | 1 => SlotState::Addressed,
            _ => SlotState::Configured,
        };
        self.write_slot(n, |c| c[0] = c[0] & 0x07ff_ffff | last << 27)
    }

    /// 4.6.7: the slot's interrupter and exit latency, endpoint 0's packet size.
    fn evaluate_context(&mut self, n: usize, input: u64) -> Result<()> {
        if self.s.slots[n].state == SlotState::Enabled {
            return refuse(code::CONTEXT_STATE_ERROR);
        }
        let (drop, add) = self.input(input)?;
        if drop != 0 || add & !3 != 0 {
            return refuse(code::TRB_ERROR);
        }
        if add & 1 != 0 {
            let new = self.read_context(input.wrapping_add(CONTEXT))?;
            self.write_slot(n, |c| {
                c[1] = c[1] & !0xffff | new[1] & 0xffff;
                c[2] = c[2] & !0xffc0_0000 | new[2] & 0xffc0_0000;
            })?;
        }
        if add & 2 != 0 {
            let new = self.read_context(input.wrapping_add(2 * CONTEXT))?;
            let at = self.s.slots[n].context.wrapping_add(CONTEXT);
            let mut context = self.read_context(at)?;
            context[1] = context[1] & 0xffff | new[1] & !0xffff;
            self.write_context(at, &context)?;
        }
        Ok(())
    }

    /// An endpoint in one of these states.
    fn in_state(&mut self, n: usize, dci: usize, states: &[u32]) -> Result<&mut Endpoint> {
        if dci == 0 {
            return refuse(code::TRB_ERROR);
        }
        let e = self.s.slots[n].endpoint(dci);
        match e.filter(|e| states.contains(&e.state)) {
            Some(e) => Ok(e),
            None => refuse(code::CONTEXT_STATE_ERROR),
        }
    }

    /// 4.6.8.
    fn reset_endpoint(&mut self, n: usize, dci: usize) -> Result<()> {
        self.in_state(n, dci, &[ep::HALTED])?.state = ep::STOPPED;
        Ok(self.write_endpoint(n, dci)?)
    }

    /// 4.6.9.
    fn stop_endpoint(&mut self, n: usize, dci: usize) -> Result<()> {
        self.in_state(n, dci, &[ep::RUNNING])?.state = ep::STOPPED;
        self.tell_stopped(n, dci)?;
        Ok(self.write_endpoint(n, dci)?)
    }

    /// 4.6.10.
    fn set_dequeue(&mut self, n: usize, dci: usize, trb: &Trb) -> Result<()> {
        let e = self.in_state(n, dci, &[ep::STOPPED, ep::ERROR])?;
        e.ring = Ring::new(trb.parameter);
        e.state = ep::STOPPED;
        Ok(self.write_endpoint(n, dci)?)
    }

    /// 4.6.11.
    fn reset_device(&mut self, n: usize) -> Result<()> {
        let slot = &mut self.s.slots[n];
        if !matches!(slot.state, SlotState::Addressed | SlotState::Configured) {
            return refuse(code::CONTEXT_STATE_ERROR);
        }
        slot.state = SlotState::Default;
        for dci in 2..32 {
            let slot = &mut self.s.slots[n];
            if slot.endpoints[dci].take().is_some() {
                self.write_endpoint(n, dci)?;
            }
        }
        self.write_slot(n, |c| c[0] = c[0] & 0x07ff_ffff | 1 << 27)
    }
}
