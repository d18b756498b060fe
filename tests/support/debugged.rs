//! A debugger that plays: random hooks at places where the guest is or will be, random stops and steps.
//!
//! Nothing of it may show in the guest; and with the same dice it stops at the same places under every engine.

use crate::machines::Noise;
use emu_core::hooks::{Cause, Condition, Hit, Space, What};
use emu_core::vcpu::Vcpu;

/// Hooks at a time.
const HOOKS: usize = 6;
/// Stops after which it lets the guest run: each costs more than many instructions.
const STOPS: usize = 400;

/// See the module's comment.
pub struct Debugger {
    dice: Noise,
    /// Where it stopped: retired count, RIP, why.
    pub log: Vec<(u64, u64, Hit)>,
    /// Addresses where the guest has been.
    places: Vec<u64>,
}

impl Debugger {
    pub fn new(dice: Noise) -> Self {
        Self {
            dice,
            log: Vec::new(),
            places: Vec::new(),
        }
    }

    fn pick(&mut self, n: usize) -> usize {
        (self.dice.next() % n as u64) as usize
    }

    /// At a point that is the same for every engine: other hooks.
    pub fn begin(&mut self, cpu: &mut Vcpu) {
        self.note_place(cpu);
        let ids: Vec<_> = cpu.hooks().list().iter().map(|h| h.id).collect();
        for id in ids {
            if self.log.len() >= STOPS || self.pick(3) == 0 {
                cpu.hooks().remove(id);
            }
        }
        while cpu.hooks().list().len() < HOOKS && self.log.len() < STOPS && self.pick(4) != 0 {
            let what = self.what(cpu);
            let condition = self.condition();
            let id = cpu.hooks().add(what, condition);
            let ignore = self.pick(3) as u64;
            if let Some(hook) = cpu.hooks().get_mut(id) {
                hook.ignore = ignore;
            }
        }
        if self.log.len() < STOPS && self.pick(4) == 0 {
            cpu.hooks().step();
        }
    }

    /// After a stop: perhaps steps on.
    pub fn stopped(&mut self, cpu: &mut Vcpu) {
        let stops = cpu.take_stops();
        assert!(!stops.is_empty(), "a stop has a reason");
        let at = (cpu.retired, cpu.rip);
        for &hit in &stops {
            self.check(cpu, hit);
        }
        self.log.extend(stops.iter().map(|&hit| (at.0, at.1, hit)));
        self.note_place(cpu);
        if self.log.len() < STOPS && self.pick(3) == 0 {
            cpu.hooks().step();
        } else if self.log.len() >= STOPS {
            let ids: Vec<_> = cpu.hooks().list().iter().map(|h| h.id).collect();
            for id in ids {
                cpu.hooks().remove(id);
            }
        }
    }

    /// A stop is where and for what its hook is.
    fn check(&self, cpu: &mut Vcpu, hit: Hit) {
        let place = cpu.code_address();
        let what = cpu.hooks().get_mut(hit.id).map(|h| h.what);
        match (what, hit.cause) {
            (
                Some(What::Code {
                    space: Space::Linear,
                    at,
                }),
                Cause::Code,
            ) => assert_eq!(at, place),
            (Some(What::Code { at, .. }), Cause::Code) => {
                assert_eq!(cpu.peek_translate(place).map(|p| p.0), Some(at));
            }
            (
                Some(What::Data {
                    changed,
                    write,
                    read,
                    ..
                }),
                Cause::Data {
                    write: w,
                    old,
                    new,
                    size,
                    ..
                },
            ) => {
                assert!(if w { write } else { read });
                assert!(!(w && changed && size <= 8) || old != new);
            }
            (Some(What::Port { .. }), Cause::Port { .. })
            | (Some(What::Exception { .. }), Cause::Exception(_))
            | (Some(What::Interrupt { .. }), Cause::Interrupt { .. })
            | (Some(What::SoftwareInterrupt { .. }), Cause::SoftwareInterrupt { .. })
            | (Some(What::ModeChange), Cause::ModeChange { .. })
            | (Some(What::Cr3 { .. }), Cause::Cr3 { .. })
            | (Some(What::Msr { .. }), Cause::Msr { .. })
            | (None, Cause::Step | Cause::SteppedIntoInterrupt { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    fn note_place(&mut self, cpu: &Vcpu) {
        if self.places.len() < 64 {
            self.places.push(cpu.code_address());
        }
    }

    fn condition(&mut self) -> Option<Condition> {
        match self.pick(4) {
            0 => Some(Box::new(|_, _| false)),
            1 => Some(Box::new(|cpu, _| cpu.gpr[0] & 1 != 0)),
            2 => Some(Box::new(|cpu, _| {
                cpu.retired & 3 == 0 && cpu.rflags() & 0x41 != 0
            })),
            _ => None,
        }
    }

    fn what(&mut self, cpu: &Vcpu) -> What {
        let both = self.pick(3);
        let (read, write) = (both != 0, both != 1);
        match self.pick(12) {
            0..=4 => {
                let n = self.pick(self.places.len());
                let known = self.places[n];
                let at = cpu.wrap(known.wrapping_add(self.pick(24) as u64));
                match cpu.peek_translate(at) {
                    Some(phys) if self.pick(3) == 0 => What::Code {
                        space: Space::Physical,
                        at: phys.0,
                    },
                    _ => What::Code {
                        space: Space::Linear,
                        at,
                    },
                }
            }
            5..=7 => {
                let r = self.pick(16);
                let at = cpu.wrap(
                    cpu.gpr[r]
                        .wrapping_add(self.pick(32) as u64)
                        .wrapping_sub(16),
                );
                let len = [1, 2, 4, 8, 24, 5000][self.pick(6)];
                let changed = self.pick(2) == 0;
                let phys = cpu.peek_translate(at).filter(|_| self.pick(3) == 0);
                What::Data {
                    space: if phys.is_some() {
                        Space::Physical
                    } else {
                        Space::Linear
                    },
                    at: phys.map_or(at, |p| p.0),
                    len,
                    read,
                    write,
                    changed,
                }
            }
            8 => What::Port {
                first: 0,
                last: self.dice.next() as u16,
                read,
                write,
            },
            9 => What::Exception {
                vector: [None, Some(6), Some(13), Some(14)][self.pick(4)],
                error: [None, Some(0)][self.pick(2)],
            },
            10 => match self.pick(3) {
                0 => What::Interrupt { vector: None },
                1 => What::SoftwareInterrupt { vector: None },
                _ => What::ModeChange,
            },
            _ => match self.pick(2) {
                0 => What::Cr3 { value: None },
                _ => What::Msr {
                    number: None,
                    read,
                    write,
                },
            },
        }
    }
}
