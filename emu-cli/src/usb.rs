//! The USB devices of the command line: `--device qemu-xhci`, and what is plugged into it.

use crate::devices::{Device, Kind, Parts};
use crate::error::Error;
use crate::props::Props;
use emu_core::nearest::hint;
use emu_devices::input::{InputSink, Model};
use emu_devices::usb::UsbDevice;
use emu_devices::usb::hid::{Hid, HidEvents};
use emu_devices::usb::storage::MassStorage;
use emu_devices::usb::xhci::{USB2_PORTS, Xhci};
use std::sync::Arc;

/// A device for a controller's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usb {
    pub what: What,
    /// `bus=`: the controller, by its id; the first with a free port otherwise.
    bus: Option<String>,
    /// `port=`: from 1 on.
    port: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Input(Model),
    Storage {
        drive: String,
        serial: Option<String>,
    },
}

impl Usb {
    fn name(&self) -> &'static str {
        match self.what {
            What::Input(Model::Keyboard) => "usb-kbd",
            What::Input(Model::Mouse) => "usb-mouse",
            What::Input(Model::Tablet) => "usb-tablet",
            What::Storage { .. } => "usb-storage",
        }
    }
}

fn on_port(props: &mut Props, what: What) -> Result<Kind, String> {
    let port = |v: &str| v.parse().ok().filter(|n| (1..=USB2_PORTS).contains(n));
    Ok(Kind::Usb(Usb {
        what,
        bus: props.text("bus")?,
        port: props.read("port", "a port, 1 to 8", port)?,
    }))
}

pub fn input(props: &mut Props, model: Model) -> Result<Kind, String> {
    on_port(props, What::Input(model))
}

pub fn storage(props: &mut Props) -> Result<Kind, String> {
    let drive = props.text("drive")?;
    let drive = drive.ok_or("it has no drive: give drive=ID, and --drive if=none,id=ID,...")?;
    let serial = props.text("serial")?;
    on_port(props, What::Storage { drive, serial })
}

/// The controllers of the command line, by their places in it, with everything plugged in.
pub fn hosts(devices: &[Device], parts: &mut Parts) -> Result<Vec<(usize, Xhci)>, Error> {
    let mut hosts = Vec::new();
    for (n, device) in devices.iter().enumerate() {
        if device.kind == Kind::Xhci {
            hosts.push((n, Xhci::new(parts.memory.clone())));
        }
    }
    for device in devices {
        let Kind::Usb(usb) = &device.kind else {
            continue;
        };
        let id = |n: usize| devices[n].id.as_deref().unwrap_or("xhci");
        // QEMU names a controller's bus after it: ID.0.
        let on_bus = |n: usize| match &usb.bus {
            Some(bus) => bus.strip_suffix(".0").unwrap_or(bus) == id(n),
            None => true,
        };
        if let Some(bus) = &usb.bus
            && !hosts.is_empty()
            && !hosts.iter().any(|h| on_bus(h.0))
        {
            let names: Vec<String> = hosts.iter().map(|h| format!("{}.0", id(h.0))).collect();
            let hint = hint(bus, names.iter().map(String::as_str));
            return Err(Error::UsbBus(bus.clone(), hint));
        }
        if hosts.is_empty() {
            return Err(Error::NoUsb(usb.name()));
        }
        let mut made = Some(make(usb, parts)?);
        for (n, host) in &mut hosts {
            if on_bus(*n)
                && let Some(device) = made.take()
            {
                made = host.attach(device, usb.port).err();
            }
        }
        if made.is_some() {
            return Err(Error::UsbPort(usb.name()));
        }
    }
    Ok(hosts)
}

/// The device itself.
fn make(usb: &Usb, parts: &mut Parts) -> Result<Box<dyn UsbDevice>, Error> {
    Ok(match &usb.what {
        What::Input(model) => {
            let events = HidEvents::new(*model);
            parts
                .inputs
                .push((*model, events.clone() as Arc<dyn InputSink>));
            Box::new(Hid::new(events))
        }
        What::Storage { drive, serial } => {
            let cdrom = parts
                .drives
                .iter()
                .any(|d| d.drive.id() == drive && d.cdrom);
            let drive = parts.drive(drive)?;
            let serial = serial.as_deref().unwrap_or(drive.serial()).to_string();
            Box::new(MassStorage::new(drive, cdrom, &serial))
        }
    })
}
