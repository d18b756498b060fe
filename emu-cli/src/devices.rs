//! `--device`: the registry of what can be plugged in, by QEMU's names.
//!
//! A row of [`KINDS`] reads a device's properties; [`plug`] makes the devices of a command line and puts them on the board. To add one:
//! a variant of [`Kind`], a row, and an arm in [`make`].

use crate::args::CharDev;
use crate::audio::Audio;
use crate::drives::{Attached, Interface};
use crate::error::Error;
use crate::netdev::{self, Networks};
use crate::props::Props;
use crate::usb::{self, Usb};
use crate::virtio::{self, Unit, Virtio};
use emu_core::nearest::hint;
use emu_devices::Memory;
use emu_devices::audio::ac97::Ac97;
use emu_devices::backend::CharBackend;
use emu_devices::input::{InputSink, Model};
use emu_devices::net::Mac;
use emu_devices::net::e1000::E1000;
use emu_devices::net::rtl8139::Rtl8139;
use emu_devices::pc::{DebugExit, Pc};
use emu_devices::pci::PciDevice;
use emu_devices::storage::Drive;
use emu_devices::virtio::balloon::BalloonTarget;
use emu_devices::virtio::scsi::{MAX_TARGETS, Target};
use std::sync::Arc;

/// A device that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub kind: Kind,
    /// `addr=`: PCI device and function; the first free device otherwise.
    pub addr: Option<(u8, u8)>,
    /// `id=`.
    pub id: Option<String>,
}

impl Device {
    pub fn is_balloon(&self) -> bool {
        self.kind == Kind::Virtio(Virtio::Balloon)
    }
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    DebugExit(DebugExit),
    Nic(Nic),
    /// With its `audiodev=`.
    Ac97(String),
    Virtio(Virtio),
    ScsiUnit(Unit),
    Xhci,
    Usb(Usb),
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub model: NicModel,
    /// `netdev=`: the network that it is plugged into.
    pub netdev: String,
    pub mac: Option<Mac>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicModel {
    E1000,
    Rtl8139,
    Virtio,
}

impl NicModel {
    fn name(self) -> &'static str {
        match self {
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
            Self::Virtio => "virtio-net-pci",
        }
    }
}

type Read = fn(&mut Props) -> Result<Kind, String>;

/// Name and reader of each.
const KINDS: &[(&str, Read)] = &[
    ("isa-debug-exit", debug_exit),
    ("e1000", |props| nic(props, NicModel::E1000)),
    ("rtl8139", |props| nic(props, NicModel::Rtl8139)),
    ("AC97", ac97),
    ("virtio-net-pci", |props| nic(props, NicModel::Virtio)),
    ("virtio-balloon-pci", |_| Ok(Kind::Virtio(Virtio::Balloon))),
    ("virtio-blk-pci", |p| virtio::blk(p).map(Kind::Virtio)),
    ("virtio-scsi-pci", |_| Ok(Kind::Virtio(Virtio::Scsi))),
    ("scsi-hd", |p| virtio::unit(p, false).map(Kind::ScsiUnit)),
    ("scsi-cd", |p| virtio::unit(p, true).map(Kind::ScsiUnit)),
    ("virtio-9p-pci", |p| virtio::p9(p).map(Kind::Virtio)),
    ("virtio-keyboard-pci", |_| {
        Ok(Kind::Virtio(Virtio::Input(Model::Keyboard)))
    }),
    ("virtio-mouse-pci", |_| {
        Ok(Kind::Virtio(Virtio::Input(Model::Mouse)))
    }),
    ("virtio-tablet-pci", |_| {
        Ok(Kind::Virtio(Virtio::Input(Model::Tablet)))
    }),
    ("virtio-gpu-pci", |_| Ok(Kind::Virtio(Virtio::Gpu))),
    ("virtio-rng-pci", |_| Ok(Kind::Virtio(Virtio::Rng))),
    ("qemu-xhci", |_| Ok(Kind::Xhci)),
    ("usb-kbd", |p| usb::input(p, Model::Keyboard)),
    ("usb-mouse", |p| usb::input(p, Model::Mouse)),
    ("usb-tablet", |p| usb::input(p, Model::Tablet)),
    ("usb-storage", usb::storage),
    ("virtconsole", |p| virtio::console(p).map(Kind::Virtio)),
];

/// Reads a value of `--device`.
pub fn parse(text: &str) -> Result<Device, String> {
    let mut props = Props::parse(text)?;
    let names = || KINDS.iter().map(|k| k.0);
    let Some((_, read)) = KINDS.iter().find(|k| k.0 == props.name()) else {
        let hint = hint(props.name(), names());
        let known: Vec<&str> = names().collect();
        return Err(format!(
            "unknown device \"{}\"{hint} (known: {})",
            props.name(),
            known.join(", ")
        ));
    };
    let kind = read(&mut props)?;
    let device = Device {
        addr: match kind {
            Kind::DebugExit(_) | Kind::ScsiUnit(_) | Kind::Usb(_) => None,
            _ => props.read("addr", "a PCI device such as 0x4 or 4.1", pci_addr)?,
        },
        id: props.text("id")?,
        kind,
    };
    props.finish()?;
    Ok(device)
}

/// Reads a value of `--virtfs`.
pub fn parse_virtfs(text: &str) -> Result<Device, String> {
    let mut props = Props::parse(text)?;
    if props.name() != "local" {
        return Err("give local,path=FOLDER,mount_tag=TAG".into());
    }
    let device = Device {
        kind: Kind::Virtio(virtio::p9(&mut props)?),
        addr: None,
        id: props.text("id")?,
    };
    props.finish()?;
    Ok(device)
}

/// `DEVICE[.FUNCTION]` in hexadecimal, as in QEMU.
fn pci_addr(text: &str) -> Option<(u8, u8)> {
    let hex = |s: &str| u8::from_str_radix(s.strip_prefix("0x").unwrap_or(s), 16).ok();
    let (device, function) = text.split_once('.').unwrap_or((text, "0"));
    let addr = (hex(device)?, hex(function)?);
    (addr.0 < 32 && addr.1 < 8).then_some(addr)
}

/// What devices are made of.
pub struct Parts<'a> {
    /// Guest RAM, for bus masters.
    pub memory: Memory,
    pub networks: &'a mut Networks,
    pub audio: &'a Audio,
    /// Every drive; a device takes one of `if=none` by its id.
    pub drives: &'a [Attached],
    /// Opens the host side of a character device.
    pub open: &'a dyn Fn(&CharDev) -> Result<CharBackend, Error>,
    /// Whether runs must be alike.
    pub is_virtual: bool,
    /// What the monitor sets.
    pub balloon: Arc<BalloonTarget>,
    /// Drives that have a device.
    pub taken: Vec<String>,
    /// Units that wait for a SCSI host.
    pub units: Vec<Target>,
    /// Keyboards and pointers that were made.
    pub inputs: Vec<(Model, Arc<dyn InputSink>)>,
}

impl Parts<'_> {
    /// Takes a drive by its id.
    pub fn drive(&mut self, id: &str) -> Result<Arc<Drive>, Error> {
        let found = self.drives.iter().find(|d| d.drive.id() == id);
        let free = found.filter(|d| d.interface == Interface::None);
        match (free, found) {
            (Some(d), _) if !self.taken.iter().any(|t| t == id) => {
                self.taken.push(id.into());
                Ok(d.drive.clone())
            }
            (None, None) => {
                let ids = self.drives.iter().map(|d| d.drive.id());
                Err(Error::NoDrive(id.into(), hint(id, ids)))
            }
            _ => Err(Error::DriveTaken(id.into())),
        }
    }
}

/// The PCI device of `device`; `None`: it is none, and [`PcConfig`](emu_devices::pc::PcConfig) has it.
fn make(device: &Device, parts: &mut Parts) -> Result<Option<Box<dyn PciDevice>>, Error> {
    Ok(match &device.kind {
        // A controller is made with what is plugged into it.
        Kind::DebugExit(_) | Kind::ScsiUnit(_) | Kind::Usb(_) | Kind::Xhci => None,
        Kind::Virtio(what) => Some(virtio::make(what, parts)?),
        Kind::Ac97(audiodev) => {
            let voice = parts.audio.voice(audiodev)?;
            Some(Box::new(Ac97::new(parts.memory.clone(), voice)))
        }
        Kind::Nic(nic) => {
            let model = nic.model.name();
            let (end, mac) = parts.networks.take(&nic.netdev, model, nic.mac)?;
            let memory = parts.memory.clone();
            Some(match nic.model {
                NicModel::E1000 => Box::new(E1000::new(mac, end, memory)),
                NicModel::Rtl8139 => Box::new(Rtl8139::new(mac, end, memory)),
                NicModel::Virtio => virtio::nic(mac, end, memory),
            })
        }
    })
}

/// Puts the PCI devices of the command line on the board: those with `addr=` first, the others where there is room.
pub fn plug(devices: &[Device], pc: &mut Pc, parts: &mut Parts) -> Result<(), Error> {
    for d in parts
        .drives
        .iter()
        .filter(|d| d.interface == Interface::Scsi)
    {
        parts.units.push(Target {
            drive: d.drive.clone(),
            cdrom: d.cdrom,
        });
    }
    for device in devices {
        if let Kind::ScsiUnit(unit) = &device.kind {
            let (drive, cdrom) = (parts.drive(&unit.drive)?, unit.cdrom);
            parts.units.push(Target { drive, cdrom });
        }
    }
    if parts.units.len() > MAX_TARGETS {
        return Err(Error::ScsiUnits(parts.units.len()));
    }
    let mut hosts = usb::hosts(devices, parts)?;
    let (placed, free): (Vec<usize>, Vec<usize>) =
        (0..devices.len()).partition(|&n| devices[n].addr.is_some());
    for n in placed.into_iter().chain(free) {
        let device = &devices[n];
        let host = hosts.iter().position(|h| h.0 == n);
        let made = match host {
            Some(at) => Some(Box::new(hosts.swap_remove(at).1) as Box<dyn PciDevice>),
            None => make(device, parts)?,
        };
        let Some(made) = made else {
            continue;
        };
        let (slot, function) = match device.addr {
            Some(addr) => addr,
            None => (pc.free_slot().ok_or(Error::NoSlot)?, 0),
        };
        pc.plug(slot, function, made)?;
    }
    if !parts.units.is_empty() {
        // Nobody has asked for the host that they need.
        let host = virtio::make(&Virtio::Scsi, parts)?;
        pc.plug(pc.free_slot().ok_or(Error::NoSlot)?, 0, host)?;
    }
    for (model, events) in std::mem::take(&mut parts.inputs) {
        pc.attach_input(model, events);
    }
    Ok(())
}

/// Whether one of them is on standard input and output.
pub fn want_stdio(devices: &[Device]) -> bool {
    let to = CharDev::Stdio;
    let console = Kind::Virtio(Virtio::Console { to });
    devices.iter().any(|d| d.kind == console)
}

/// The places that `isa-debug-exit` was given.
pub fn debug_exits(devices: &[Device]) -> Vec<DebugExit> {
    let exits = devices.iter().map(|d| match d.kind {
        Kind::DebugExit(exit) => Some(exit),
        _ => None,
    });
    exits.flatten().collect()
}

fn nic(props: &mut Props, model: NicModel) -> Result<Kind, String> {
    let netdev = props.text("netdev")?;
    let mac = props.read("mac", "an address such as 52:54:00:12:34:56", netdev::mac)?;
    let netdev = netdev.ok_or("it has no network: give netdev=ID, and --netdev user,id=ID")?;
    Ok(Kind::Nic(Nic { model, netdev, mac }))
}

fn ac97(props: &mut Props) -> Result<Kind, String> {
    let audiodev = props.text("audiodev")?;
    let audiodev =
        audiodev.ok_or("it is heard nowhere: give audiodev=ID, and --audiodev none,id=ID")?;
    Ok(Kind::Ac97(audiodev))
}

fn debug_exit(props: &mut Props) -> Result<Kind, String> {
    let mut exit = DebugExit::default();
    let port = |v: &str| crate::args::number(v).ok()?.try_into().ok();
    if let Some(port) = props.read("iobase", "a port, up to 0xffff", port)? {
        exit.iobase = port;
    }
    let size = |v: &str| port(v).filter(|n| [1, 2, 4].contains(n));
    if let Some(size) = props.read("iosize", "1, 2 or 4", size)? {
        exit.iosize = size;
    }
    Ok(Kind::DebugExit(exit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let exit = |text| match parse(text).unwrap().kind {
            Kind::DebugExit(exit) => (exit.iobase, exit.iosize),
            other => panic!("{other:?}"),
        };
        assert_eq!(exit("isa-debug-exit"), (0x501, 2));
        assert_eq!(exit("isa-debug-exit,iobase=0xf4,iosize=4"), (0xf4, 4));
        let nic = parse("e1000,netdev=n0,addr=5.1").unwrap();
        assert_eq!(nic.addr, Some((5, 1)));
        let disk = parse("virtio-blk-pci,drive=d,serial=s,addr=5.1").unwrap();
        let (drive, serial) = ("d".to_string(), Some("s".to_string()));
        assert_eq!(disk.kind, Kind::Virtio(Virtio::Blk { drive, serial }));
        assert_eq!(disk.addr, Some((5, 1)));
        for bad in [
            "vga",
            "e1000",
            "e1000,netdev=n0,mac=x",
            "isa-debug-exit,iobase",
            "isa-debug-exit,iobase=0x10000",
            "isa-debug-exit,iosize=3",
            "isa-debug-exit,addr=4",
            "virtio-blk-pci",
            "AC97",
            "virtio-blk-pci,drive=d,addr=20",
            "virtio-rng-pci,drive=d",
            "virtio-9p-pci,path=/tmp",
            "scsi-hd,drive=d,addr=5",
            "usb-storage",
            "usb-kbd,addr=5",
            "usb-kbd,port=9",
            "virtconsole,chardev=nowhere",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pci_addresses() {
        assert_eq!(pci_addr("0x1f.7"), Some((31, 7)));
        assert_eq!(pci_addr("4"), Some((4, 0)));
        for bad in ["20", "4.8", "", "4.", "x"] {
            assert_eq!(pci_addr(bad), None, "{bad}");
        }
    }
}
