//! A guest that does anything to a board with every device on it: registers, configuration space, rings and tables in memory, time,
//! resets; media are changed and frames come meanwhile.
//!
//! What must hold: no panic, an end to every call, memory that is bounded, and a state that can be saved and taken back at any time.
//! `EMU_SOAK=n` takes n times as many steps, `EMU_SEED` other ones; `--nocapture` shows how many there were.

use emu_core::addr::PhysAddr;
use emu_core::bus::Board;
use emu_core::mem::phys::Ram;
use emu_core::testing::Random;
use emu_devices::audio::Voice;
use emu_devices::audio::ac97::Ac97;
use emu_devices::backend::CharBackend;
use emu_devices::display::vga::{self, Vga};
use emu_devices::input::Model;
use emu_devices::net::e1000::E1000;
use emu_devices::net::rtl8139::Rtl8139;
use emu_devices::net::{End, FIRST_MAC, Frame, Link};
use emu_devices::pc::{Pc, PcConfig, Snapshot};
use emu_devices::pci::chipset::Model as Machine;
use emu_devices::pci::{self, Bar};
use emu_devices::storage::Drive;
use emu_devices::storage::ahci::{self, Ahci};
use emu_devices::storage::ide::{self, Attached, Ide};
use emu_devices::storage::nvme::Nvme;
use emu_devices::usb::hid::{Hid, HidEvents};
use emu_devices::usb::storage::MassStorage;
use emu_devices::usb::xhci::Xhci;
use emu_devices::virtio::VirtioDevice;
use emu_devices::virtio::balloon::Balloon;
use emu_devices::virtio::blk::Blk;
use emu_devices::virtio::console::Console;
use emu_devices::virtio::gpu::Gpu;
use emu_devices::virtio::input::{Input, InputEvents};
use emu_devices::virtio::net::Net;
use emu_devices::virtio::p9::P9;
use emu_devices::virtio::pci::VirtioPci;
use emu_devices::virtio::rng::{Rng, Source};
use emu_devices::virtio::scsi::{Scsi, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RAM: u64 = 16 << 20;
const STEPS: u64 = 60_000;
/// No call may take longer, on a host that does other things too.
const LONGEST: Duration = Duration::from_secs(10);

trait Given {
    fn value(&mut self) -> u64;
}

impl Given for Random {
    /// What a driver may write: little numbers, addresses in memory, single bits, noise.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => 1 << self.below(64),
            2 => self.of(&[0, 0xff, 0xffff, 0xffff_ffff, u64::MAX]),
            3 => RAM - self.below(64),
            4 => 0xfe00_0000 + self.below(0x200_0000),
            5 => self.below(256),
            6 => self.below(16),
            _ => self.below(RAM) & !0xfff,
        }
    }
}

/// A board with everything, and what is outside of it.
struct Rig {
    pc: Pc,
    ram: Arc<Ram>,
    drives: Vec<Arc<Drive>>,
    wires: Vec<End>,
    now: u64,
}

fn drive(id: &str, size: usize) -> Arc<Drive> {
    let image: Vec<u8> = (0..size).map(|n| (n / 512) as u8).collect();
    Drive::new(id, Box::new(image), false)
}

impl Rig {
    fn new(machine: Machine) -> Self {
        let ram = Arc::new(Ram::with(RAM, &[vga::WINDOW], vga::HOLE).unwrap());
        let disks: Vec<Arc<Drive>> = ["a", "b", "c", "d", "e", "f"]
            .map(|id| drive(id, 1 << 20))
            .to_vec();
        let (floppy, disc) = (drive("fd", 1440 << 10), drive("cd", 512 << 10));
        let hd = |n: usize| {
            Some(Attached {
                drive: disks[n].clone(),
                cdrom: false,
            })
        };
        let cd = || {
            Some(Attached {
                drive: disc.clone(),
                cdrom: true,
            })
        };
        let mut config = PcConfig::new(RAM);
        config.machine = machine;
        config.memory = Some(ram.clone());
        config.floppies = [Some(floppy.clone()), None];
        let mut pc = Pc::new(config).unwrap();
        let slot = |pc: &Pc| pc.free_slot().unwrap();
        let (device, function) = match machine {
            Machine::Q35 => ahci::SLOT,
            _ => (slot(&pc), 0),
        };
        let sata = Ahci::new([hd(0), cd(), None, None, None, None], ram.clone());
        pc.plug(device, function, Box::new(sata)).unwrap();
        if machine != Machine::Q35 {
            let ide = Ide::new([hd(1), None, cd(), None], Some(ram.clone()));
            pc.plug(ide::SLOT.0, ide::SLOT.1, Box::new(ide)).unwrap();
        }
        let mut wires = Vec::new();
        let mut wire = || {
            let (nic, host) = Link::pair("n");
            wires.push(host);
            nic
        };
        let target = |drive: &Arc<Drive>, cdrom| Target {
            drive: drive.clone(),
            cdrom,
        };
        let input = |model| Box::new(Input::new(InputEvents::new(model)));
        let virtio: Vec<Box<dyn VirtioDevice>> = vec![
            Box::new(Blk::new(disks[2].clone(), "s")),
            Box::new(Scsi::new(vec![
                target(&disks[3], false),
                target(&disc, true),
            ])),
            Box::new(Net::new(wire(), FIRST_MAC)),
            Box::new(Rng::new(Source::Seeded(1))),
            Box::new(Console::new(CharBackend::null())),
            Box::new(Balloon::new(Arc::default())),
            Box::new(P9::new(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), "t", true).unwrap()),
            input(Model::Keyboard),
            input(Model::Tablet),
            Box::new(Gpu::new()),
        ];
        let mut usb = Xhci::new(ram.clone());
        for model in [Model::Keyboard, Model::Mouse, Model::Tablet] {
            let hid = Hid::new(HidEvents::new(model));
            assert!(usb.attach(Box::new(hid), None).is_ok());
        }
        let stick = MassStorage::new(disks[5].clone(), false, "s");
        assert!(usb.attach(Box::new(stick), None).is_ok());
        let mut plug = |device| {
            let slot = pc.free_slot().unwrap();
            pc.plug(slot, 0, device).unwrap();
        };
        plug(Box::new(Vga::new(ram.clone(), 0, vga::Start::Text)));
        plug(Box::new(Nvme::new(disks[4].clone(), ram.clone())));
        plug(Box::new(E1000::new(FIRST_MAC, wire(), ram.clone())));
        plug(Box::new(Rtl8139::new(FIRST_MAC, wire(), ram.clone())));
        plug(Box::new(usb));
        plug(Box::new(Ac97::new(ram.clone(), Voice::silent())));
        for device in virtio {
            plug(Box::new(VirtioPci::new(device, ram.clone())));
        }
        Self {
            pc,
            ram,
            drives: vec![disc, floppy],
            wires,
            now: 0,
        }
    }

    fn config(&mut self, devfn: u8, at: u64, size: u8, value: u32) {
        let address = 0x8000_0000 | u32::from(devfn) << 8 | at as u32 & 0xfc;
        self.pc.pio_write(0xcf8, 4, address, self.now);
        let port = 0xcfc + (at & 3) as u16;
        self.pc.pio_write(port, size, value, self.now);
    }

    /// Gives every base address register a place, as firmware does, and lets every function do all it can.
    fn set_up(&mut self) {
        let (mut port, mut memory) = (0xc000u32, 0xd000_0000u32);
        for (devfn, f) in self.pc.pci_functions() {
            for n in 0..6 {
                let at = (pci::BAR0 + 4 * n) as u64;
                let place = match f.bar(n) {
                    None => continue,
                    Some(Bar::Io(size)) => {
                        port = port.next_multiple_of(size.max(0x20)) + size;
                        port - size
                    }
                    Some(Bar::Memory32(size)) => {
                        memory = memory.next_multiple_of(size.max(0x1000)) + size;
                        memory - size
                    }
                    Some(Bar::Memory64(size)) => {
                        let size = size as u32;
                        memory = memory.next_multiple_of(size.max(0x1000)) + size;
                        memory - size
                    }
                };
                self.config(devfn, at, 4, place);
            }
            self.config(devfn, pci::COMMAND as u64, 2, 7);
        }
    }

    /// An address that something answers at: is it a port, where, how many bytes.
    fn window(&self, r: &mut Random) -> (bool, u64, u64) {
        let functions = self.pc.pci_functions();
        let windows: Vec<_> = functions
            .iter()
            .flat_map(|(_, f)| (0..6).filter_map(|n| f.window(n)))
            .collect();
        match r.below(8) {
            0 => {
                let list = self.pc.port_list();
                let (_, first, last) = &list[r.below(list.len() as u64) as usize];
                (true, u64::from(*first), u64::from(last - first) + 1)
            }
            1 => (false, r.of(&[0xfec0_0000, 0xfed0_0000, 0xfee0_0000]), 0x400),
            2 => (false, r.next() & 0xf_ffff_ffff, 8),
            _ if windows.is_empty() => (false, 0xa_0000, 0x2_0000),
            _ => r.of(&windows),
        }
    }

    fn step(&mut self, r: &mut Random) {
        match r.below(64) {
            0 => {
                self.now += 1 << r.below(44);
                self.pc.advance(self.now);
            }
            1..8 => {
                let next = self.pc.next_event().unwrap_or(self.now + 1000);
                self.now = next.clamp(self.now, self.now + 1_000_000_000);
                self.pc.advance(self.now);
            }
            8..10 => {
                let functions = self.pc.pci_functions();
                let (devfn, _) = functions[r.below(functions.len() as u64) as usize];
                let (at, value) = (r.below(256), r.value() as u32);
                self.config(devfn, at, 1 << r.below(3), value);
            }
            10 => self.set_up(),
            11 if r.below(40) == 0 => self.pc.reset(self.now),
            12 if r.below(20) == 0 => {
                let drive = &self.drives[r.below(2) as usize];
                match r.below(3) {
                    0 => drop(drive.change(None, true)),
                    1 => drop(drive.change(Some(Box::new(vec![0; 1440 << 10])), false)),
                    _ => {
                        drive.set_tray(r.below(2) == 0);
                    }
                }
                self.pc.input_arrived(self.now);
            }
            13 => {
                let n = r.below(self.wires.len() as u64) as usize;
                let length = 14 + r.below(2000) as usize;
                let mut data = vec![r.next() as u8; length];
                data[..6].copy_from_slice(&FIRST_MAC);
                let _ = self.wires[n].send(Frame::from(data));
                while self.wires[n].receive().is_some() {}
                self.pc.input_arrived(self.now);
            }
            14 => {
                let (key, down) = (r.next() as u16, r.below(2) == 0);
                self.pc.key(key, down, self.now);
                let x = r.next() as u32;
                self.pc.pointer(x, x >> 16, 1, r.next() as u8, self.now);
            }
            15..28 => {
                // Rings and tables: some words, at the beginning of pages mostly.
                let mut at = r.below(RAM - 4096) & !r.of(&[0xfff, 0xf]);
                for _ in 0..1 + r.below(16) {
                    let value = r.value();
                    let size = r.of(&[2, 4, 8]);
                    self.ram
                        .write(PhysAddr(at), &value.to_le_bytes()[..size as usize]);
                    at += size;
                }
            }
            _ => {
                let (io, base, length) = self.window(r);
                let near = r.of(&[length, 0x40, 0x100]).min(length);
                let size = 1u64 << r.below(4);
                let at = base + (r.below(near) & !(size - 1));
                let value = r.value();
                let read = r.below(3) == 0;
                match (io, read) {
                    (true, true) => drop(self.pc.pio_read(at as u16, size.min(4) as u8, self.now)),
                    (true, false) => {
                        let size = size.min(4) as u8;
                        self.pc.pio_write(at as u16, size, value as u32, self.now);
                    }
                    (false, true) => drop(self.pc.mmio_read(PhysAddr(at), size as u8, self.now)),
                    (false, false) => {
                        self.pc
                            .mmio_write(PhysAddr(at), size as u8, value, self.now);
                    }
                }
            }
        }
        if self.pc.interrupt(0).intr {
            self.pc.ack_intr(0, self.now);
        }
        while self.pc.take_request().is_some() {}
    }
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// The lines in which two states differ.
fn differs(a: &Snapshot, b: &Snapshot) -> Vec<String> {
    let text = |state| serde_json::to_string_pretty(state).unwrap();
    let (a, b) = (text(a), text(b));
    let lines = a.lines().zip(b.lines()).enumerate();
    lines
        .filter(|(_, (a, b))| a != b)
        .map(|(n, (a, b))| format!("{n}: {} {}", a.trim(), b.trim()))
        .take(40)
        .collect()
}

fn anything_goes(machine: Machine) {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let mut r = Random(number("EMU_SEED").unwrap_or(0x1234_5678_9abc_def1));
    let steps = STEPS * number("EMU_SOAK").unwrap_or(1);
    let mut rig = Rig::new(machine);
    rig.set_up();
    let (began, before) = (Instant::now(), resident());
    for n in 0..steps {
        let state = r.0;
        let started = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| rig.step(&mut r)));
        assert!(
            done.is_ok(),
            "step {n} of {machine:?}, random state {state:#x}"
        );
        let took = started.elapsed();
        assert!(took < LONGEST, "step {n} of {machine:?} takes {took:?}");
        if n % 4096 == 4095 {
            let saved = rig.pc.save();
            let mut other = Rig::new(machine);
            assert!(other.pc.restore(&saved, rig.now), "step {n}");
            // It asks for TLBs to be flushed.
            while other.pc.take_request().is_some() {}
            assert_eq!(
                differs(&saved, &other.pc.save()),
                [""; 0],
                "step {n} of {machine:?}: another state than was saved"
            );
        }
    }
    let grown = resident().saturating_sub(before) >> 20;
    println!(
        "{machine:?}: {steps} steps in {:?}, {grown} MiB more",
        began.elapsed()
    );
    assert!(grown < 400, "{grown} MiB more than at the beginning");
}

#[test]
fn a_guest_may_do_anything_to_i440fx() {
    anything_goes(Machine::I440fx);
}

#[test]
fn a_guest_may_do_anything_to_q35() {
    anything_goes(Machine::Q35);
}
