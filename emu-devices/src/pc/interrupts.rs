//! From the chips' outputs to the vCPUs' INTR.
//!
//! ISA IRQ n goes to the 8259 pair's input n and to I/O APIC pin n, but for IRQ 0, which is pin 2 (MADT says so), and IRQ 2,
//! the cascade. Pin 0 is the pair's INT. Chips give levels; sources that pulse (8254, HPET edges) are taken low and high,
//! and stay high until the next pulse, because the 8259 forgets a request whose line falls before the acknowledge.
//! PIRQ lines become the ISA IRQs that the ISA bridge routes them to; those of the ICH9 only at the 8259 pair (82801I data sheet,
//! 5.9), since each has an I/O APIC pin of its own, always.

use super::*;
use crate::chips::earlier;
use crate::chips::lapic::{Delivery, Message, Shorthand};

/// What the chips assert: levels and edges by ISA IRQ, and by I/O APIC pin.
struct Lines {
    isa: u32,
    /// Levels that the 8259 pair alone sees.
    pic_only: u32,
    gsi: u32,
    isa_edges: u32,
    gsi_edges: u32,
}

impl Pc {
    /// Collects lines and messages, then works out the cached answers. To be called after anything that can change
    /// a chip's outputs.
    pub(super) fn settle(&mut self) {
        if self.slots.refresh() {
            self.request(Request::MemoryMap);
        }
        let lines = self.collect();
        self.drive(lines);
        let s = &mut self.s;
        let int = s.pic.int();
        s.lapics.iter_mut().for_each(|lapic| lapic.set_lint0(int));
        s.ioapic.set_line(0, int);
        self.route();
        (0..self.inputs.len()).for_each(|cpu| self.refresh_cpu(cpu));
        self.next = self.first_event();
    }

    /// All lines now.
    fn collect(&mut self) -> Lines {
        let s = &mut self.s;
        let bit = |on: bool, irq: u8| (on as u32) << irq;
        let legacy = s.hpet.legacy();
        let mut isa = bit(s.kbc.kbd_irq(), ibmpc::IRQ_KEYBOARD)
            | bit(s.kbc.aux_irq(), ibmpc::IRQ_MOUSE)
            | bit(s.com[0].irq_level(), ibmpc::IRQ_COM1)
            | bit(s.com[1].irq_level(), ibmpc::IRQ_COM2)
            | bit(s.floppy.irq(), ibmpc::IRQ_FLOPPY)
            | bit(s.fpu_error, ibmpc::IRQ_FPU)
            | bit(s.pm.sci_level(), ibmpc::IRQ_SCI);
        let mut isa_edges = 0;
        let timer_edge = s.pit.take_edge();
        if !legacy {
            isa |=
                bit(s.pit.irq_level(), ibmpc::IRQ_TIMER) | bit(s.rtc.irq_level(), ibmpc::IRQ_RTC);
            isa_edges |= bit(timer_edge, ibmpc::IRQ_TIMER);
        }
        isa |= u32::from(self.slots.isa_irqs());
        let mut pic_only = 0;
        let mut pins = 0;
        let chipset = &s.chipset;
        let pirqs = self.slots.pirqs(|device, pin| chipset.pirq(device, pin));
        for n in bits(u32::from(pirqs)) {
            let irq = chipset.pirq_irq(n).map_or(0, |irq| 1 << irq);
            match chipset.model().pirq_pin(n) {
                Some(pin) => {
                    pins |= 1 << pin;
                    pic_only |= irq;
                }
                None => isa |= irq,
            }
        }
        // With legacy replacement the HPET's pins 2 and 8 stand for ISA IRQs 0 and 8.
        let (mut gsi, mut gsi_edges) = (s.hpet.levels(), s.hpet.take_edges());
        if legacy {
            let to_isa = |pins: u32| pins >> 2 & 1 | pins & 0x100;
            isa_edges |= to_isa(gsi_edges);
            s.hpet_held |= isa_edges;
            isa |= to_isa(gsi) | s.hpet_held;
            gsi &= !0x104;
            gsi_edges &= !0x104;
        } else {
            s.hpet_held = 0;
        }
        Lines {
            isa,
            pic_only,
            gsi: gsi | pins,
            isa_edges,
            gsi_edges,
        }
    }

    /// Gives the controllers what has changed.
    fn drive(&mut self, lines: Lines) {
        let s = &mut self.s;
        let isa_edges = lines.isa_edges;
        // Pins by I/O APIC number: IRQ 0 is pin 2.
        let to_pins = |isa: u32| isa & !5 | (isa & 1) << 2;
        let pins = to_pins(lines.isa) | lines.gsi;
        let pin_edges = to_pins(isa_edges) | lines.gsi_edges;
        let isa = lines.isa | lines.pic_only;
        for irq in bits((isa ^ s.isa_lines) | isa_edges) {
            if isa_edges & (1 << irq) != 0 {
                s.pic.set_line(irq, false);
                s.pic.set_line(irq, true);
            }
            s.pic.set_line(irq, isa & (1 << irq) != 0);
        }
        for pin in bits((pins ^ s.gsi_lines) | pin_edges) {
            if pin_edges & (1 << pin) != 0 {
                s.ioapic.set_line(pin as usize, false);
                s.ioapic.set_line(pin as usize, true);
            }
            s.ioapic.set_line(pin as usize, pins & (1 << pin) != 0);
        }
        s.isa_lines = isa;
        s.gsi_lines = pins;
    }

    /// Carries APIC messages until none is left. EOIs can make the I/O APIC send again; nothing answers an
    /// interprocessor interrupt, so this ends.
    fn route(&mut self) {
        while let Some((address, data)) = self.slots.take_msi() {
            match Message::from_msi(address, data) {
                Some(message) => self.deliver(&message, None),
                None => self.s.counters.unknown_mmio_writes += 1,
            }
        }
        loop {
            let mut quiet = true;
            while let Some(message) = self.s.ioapic.take_message() {
                self.deliver(&message, None);
                quiet = false;
            }
            for cpu in 0..self.s.lapics.len() {
                while let Some(vector) = self.s.lapics[cpu].take_eoi() {
                    self.s.ioapic.eoi(vector);
                    quiet = false;
                }
                while let Some((shorthand, message)) = self.s.lapics[cpu].take_message() {
                    self.deliver(&message, Some((shorthand, cpu)));
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn deliver(&mut self, message: &Message, from: Option<(Shorthand, usize)>) {
        let is_target = |cpu: usize, lapic: &Lapic| match from {
            Some((Shorthand::Own, sender)) => cpu == sender,
            Some((Shorthand::All, _)) => true,
            Some((Shorthand::Others, sender)) => cpu != sender,
            _ => lapic.matches(message),
        };
        let targets = self
            .s
            .lapics
            .iter_mut()
            .enumerate()
            .filter(|(cpu, lapic)| is_target(*cpu, lapic));
        if message.delivery == Delivery::LowestPriority {
            if let Some((_, lapic)) = targets.min_by_key(|(_, lapic)| lapic.arbitration()) {
                lapic.accept(message);
            }
        } else {
            targets.for_each(|(_, lapic)| lapic.accept(message));
        }
    }

    /// Whether the 8259's INT reaches this vCPU, by LINT0 or by I/O APIC pin 0 in ExtINT mode.
    pub(super) fn takes_extint(&self, cpu: usize) -> bool {
        let lapic = &self.s.lapics[cpu];
        lapic.lint0_is_extint()
            || self
                .s
                .ioapic
                .extint()
                .is_some_and(|dest| dest == 0xff || dest as u32 == lapic.id())
    }

    /// Works out the cached inputs of a vCPU.
    pub(super) fn refresh_cpu(&mut self, cpu: usize) {
        let lapic = &self.s.lapics[cpu];
        let intr = lapic.pending().is_some() || (self.s.pic.int() && self.takes_extint(cpu));
        self.inputs[cpu] = Interrupt {
            intr,
            nmi: lapic.nmi(),
        };
    }

    /// When `advance` is due; `Nanos::MAX`: never.
    fn first_event(&self) -> Nanos {
        let s = &self.s;
        let lapics = s
            .lapics
            .iter()
            .fold(None, |next, lapic| earlier(next, lapic.next_event()));
        let planned = [
            s.pit.next_event(),
            s.rtc.next_event(),
            s.kbc.next_event(),
            s.floppy.next_event(),
            s.com[0].next_event(),
            s.com[1].next_event(),
            s.hpet.next_event(),
            s.pm.next_event(),
            self.slots.next_event(),
            self.speaker.as_ref().and_then(Speaker::next_event),
            lapics,
        ];
        planned.into_iter().flatten().fold(self.poll_at, Nanos::min)
    }
}

/// The numbers of the set bits.
fn bits(mut set: u32) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let n = set.trailing_zeros() as u8;
        set &= set.wrapping_sub(1);
        (n < 32).then_some(n)
    })
}
