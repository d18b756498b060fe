//! The virtio devices of the command line: `--device virtio-…-pci`, `--virtfs`, `--drive if=virtio` and `if=scsi`.

use crate::args::CharDev;
use crate::devices::Parts;
use crate::drives::Attached;
use crate::error::Error;
use crate::props::Props;
use emu_devices::Memory;
use emu_devices::input::Model;
use emu_devices::net::{End, Mac};
use emu_devices::pci::PciDevice;
use emu_devices::storage::Drive;
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
use emu_devices::virtio::scsi::Scsi;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Virtio {
    Balloon,
    Blk {
        drive: String,
        serial: Option<String>,
    },
    Console {
        to: CharDev,
    },
    Rng,
    Scsi,
    P9 {
        path: PathBuf,
        tag: String,
        read_only: bool,
    },
    Input(Model),
    Gpu,
}

/// A unit of the SCSI host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub drive: String,
    pub cdrom: bool,
}

pub fn unit(props: &mut Props, cdrom: bool) -> Result<Unit, String> {
    let drive = props.text("drive")?;
    let drive = drive.ok_or("it has no drive: give drive=ID, and --drive if=none,id=ID,...")?;
    Ok(Unit { drive, cdrom })
}

pub fn p9(props: &mut Props) -> Result<Virtio, String> {
    let path = props.text("path")?;
    let path = path.ok_or("give path=FOLDER, the folder to share")?;
    let tag = props.text("mount_tag")?;
    let tag = tag.ok_or("give mount_tag=TAG, the name that the guest mounts")?;
    if tag.is_empty() || tag.len() > 31 {
        return Err(format!("mount_tag={tag} is not 1 to 31 bytes long"));
    }
    // QEMU's word for files that belong to the user; there is no other way here.
    let none = |v: &str| (v == "none").then_some(());
    props.read("security_model", "none", none)?;
    Ok(Virtio::P9 {
        path: path.into(),
        tag,
        read_only: props.switch("readonly")?.unwrap_or(false),
    })
}

pub fn blk(props: &mut Props) -> Result<Virtio, String> {
    let drive = props.text("drive")?;
    Ok(Virtio::Blk {
        drive: drive.ok_or("it has no disk: give drive=ID, and --drive if=none,id=ID,file=FILE")?,
        serial: props.text("serial")?,
    })
}

pub fn console(props: &mut Props) -> Result<Virtio, String> {
    let to = props.text("chardev")?;
    let to = to.ok_or("it leads nowhere: give chardev=stdio, null or file:PATH")?;
    Ok(Virtio::Console {
        to: crate::args::chardev(&to)?,
    })
}

/// The device that was asked for.
pub fn make(what: &Virtio, parts: &mut Parts) -> Result<Box<dyn PciDevice>, Error> {
    let device: Box<dyn VirtioDevice> = match what {
        Virtio::Balloon => Box::new(Balloon::new(parts.balloon.clone())),
        Virtio::Blk { drive, serial } => {
            let drive = parts.drive(drive)?;
            let serial = serial.as_deref().unwrap_or(drive.serial()).to_string();
            return Ok(disk(drive, &serial, parts));
        }
        Virtio::Console { to } => Box::new(Console::new((parts.open)(to)?)),
        Virtio::Scsi => Box::new(Scsi::new(std::mem::take(&mut parts.units))),
        Virtio::P9 {
            path,
            tag,
            read_only,
        } => {
            let device = P9::new(path, tag, *read_only).map_err(|source| Error::Read {
                name: path.display().to_string(),
                source,
            })?;
            Box::new(device)
        }
        Virtio::Input(model) => {
            let events = InputEvents::new(*model);
            parts.inputs.push((*model, events.clone()));
            Box::new(Input::new(events))
        }
        Virtio::Gpu => Box::new(Gpu::new()),
        Virtio::Rng => Box::new(Rng::new(entropy(parts.is_virtual)?)),
    };
    Ok(Box::new(VirtioPci::new(device, parts.memory.clone())))
}

fn disk(drive: Arc<Drive>, serial: &str, parts: &Parts) -> Box<dyn PciDevice> {
    let device = Box::new(Blk::new(drive, serial));
    Box::new(VirtioPci::new(device, parts.memory.clone()))
}

/// The device of a `--drive if=virtio`.
pub fn drive(d: &Attached, parts: &Parts) -> Box<dyn PciDevice> {
    disk(d.drive.clone(), d.drive.serial(), parts)
}

/// A network card.
pub fn nic(mac: Mac, end: End, memory: Memory) -> Box<dyn PciDevice> {
    Box::new(VirtioPci::new(Box::new(Net::new(end, mac)), memory))
}

/// The host's random numbers; with the virtual clock always the same, so that runs are alike.
fn entropy(is_virtual: bool) -> Result<Source, Error> {
    const DEVICE: &str = "/dev/urandom";
    if is_virtual {
        return Ok(Source::Seeded(0));
    }
    let mut file = std::fs::File::open(DEVICE).map_err(|source| Error::Read {
        name: DEVICE.into(),
        source,
    })?;
    Ok(Source::Host(Box::new(move |bytes| {
        file.read_exact(bytes).is_ok()
    })))
}
