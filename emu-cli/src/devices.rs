//! `--device`: the registry of what can be plugged in, by QEMU's names.
//!
//! A row of [`KINDS`] reads a device's properties; [`plug`] makes the devices of a command line and puts them on the board. To add one:
//! a variant of [`Kind`], a row, and an arm in [`make`].

use crate::props::Props;
use crate::vm::Error;
use emu_core::nearest::hint;
use emu_devices::Memory;
use emu_devices::pc::{DebugExit, Pc};
use emu_devices::pci::PciDevice;

/// A device that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub kind: Kind,
    /// `addr=`: PCI device and function; the first free device otherwise.
    pub addr: Option<(u8, u8)>,
    /// `id=`.
    pub id: Option<String>,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    DebugExit(DebugExit),
}

type Read = fn(&mut Props) -> Result<Kind, String>;

/// Name and reader of each.
const KINDS: &[(&str, Read)] = &[("isa-debug-exit", debug_exit)];

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
            Kind::DebugExit(_) => None,
            #[allow(unreachable_patterns, reason = "the PCI devices are being built")]
            _ => props.read("addr", "a PCI device such as 0x4 or 4.1", pci_addr)?,
        },
        id: props.text("id")?,
        kind,
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
#[allow(dead_code, reason = "the PCI devices are being built")]
pub struct Parts {
    /// Guest RAM, for bus masters.
    pub memory: Memory,
}

/// The PCI device of `device`; `None`: it is none, and [`PcConfig`](emu_devices::pc::PcConfig) has it.
fn make(device: &Device, _parts: &mut Parts) -> Result<Option<Box<dyn PciDevice>>, Error> {
    Ok(match &device.kind {
        Kind::DebugExit(_) => None,
    })
}

/// Puts the PCI devices of the command line on the board: those with `addr=` first, the others where there is room.
pub fn plug(devices: &[Device], pc: &mut Pc, parts: &mut Parts) -> Result<(), Error> {
    let (placed, free): (Vec<&Device>, Vec<&Device>) =
        devices.iter().partition(|d| d.addr.is_some());
    for device in placed.into_iter().chain(free) {
        let Some(made) = make(device, parts)? else {
            continue;
        };
        let (slot, function) = match device.addr {
            Some(addr) => addr,
            None => (pc.free_slot().ok_or(Error::NoSlot)?, 0),
        };
        pc.plug(slot, function, made)?;
    }
    Ok(())
}

/// The places that `isa-debug-exit` was given.
pub fn debug_exits(devices: &[Device]) -> Vec<DebugExit> {
    let exits = devices.iter().map(|d| match d.kind {
        Kind::DebugExit(exit) => Some(exit),
        #[allow(unreachable_patterns, reason = "the PCI devices are being built")]
        _ => None,
    });
    exits.flatten().collect()
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
        };
        assert_eq!(exit("isa-debug-exit"), (0x501, 2));
        assert_eq!(exit("isa-debug-exit,iobase=0xf4,iosize=4"), (0xf4, 4));
        for bad in [
            "vga",
            "isa-debug-exit,iobase",
            "isa-debug-exit,iobase=0x10000",
            "isa-debug-exit,iosize=3",
            "isa-debug-exit,addr=4",
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
