//! Drives: what is in them, and other media into them.
//!
//! A drive is called by its id (`ide1-cd0`, or `id=` of `--drive`). Only CD-ROM and floppy drives can be changed; a door that
//! the guest has locked opens for `force` only, and the guest is told that somebody wants it open.

use super::Context;
use super::events::Events;
use super::human::{Text, Words};
use super::qmp::{Answer, Refusal};
use crate::drives::{self, Attached, Interface};
use crate::vm::Vm;
use emu_core::nearest::hint;
use emu_devices::storage::image::Cache;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// Which drive a command means; QMP has two names for the same here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Which {
    device: Option<String>,
    id: Option<String>,
    #[serde(default)]
    force: bool,
}

impl Which {
    pub fn named(device: &str, force: bool) -> Self {
        Self {
            device: Some(device.into()),
            id: None,
            force,
        }
    }

    fn name(&self) -> Result<String, Refusal> {
        match (&self.device, &self.id) {
            (Some(name), None) | (None, Some(name)) => Ok(name.clone()),
            _ => Err("Need exactly one of 'device' and 'id'".into()),
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Access {
    #[default]
    Retain,
    ReadOnly,
    ReadWrite,
}

/// What `blockdev-change-medium` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Change {
    device: Option<String>,
    id: Option<String>,
    filename: PathBuf,
    format: Option<String>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    read_only_mode: Access,
}

fn removable(a: &Attached) -> bool {
    a.cdrom || a.interface == Interface::Floppy
}

/// The drive of this name, which must be one that can be changed.
fn find<'a>(vm: &'a mut Vm, name: &str) -> Result<&'a mut Attached, Refusal> {
    let Some(n) = vm.drives.iter().position(|a| a.drive.id() == name) else {
        let names: Vec<&str> = vm.drives.iter().map(|a| a.drive.id()).collect();
        let hint = hint(name, names.iter().copied());
        let known = names.join(", ");
        return Err(format!("Device '{name}' not found{hint} (known: {known})").into());
    };
    match removable(&vm.drives[n]) {
        true => Ok(&mut vm.drives[n]),
        false => Err(format!("Device '{name}' is not removable").into()),
    }
}

fn tell(events: &Events, name: &str, open: bool) {
    let data = json!({ "device": name, "id": name, "tray-open": open });
    events.emit("DEVICE_TRAY_MOVED", Some(data));
}

/// What the guest itself does to trays is told too.
pub fn watch_trays(vm: &Vm) {
    for a in vm.drives.iter().filter(|a| a.cdrom) {
        let (events, name) = (vm.events.clone(), a.drive.id().to_string());
        a.drive.watch_tray(move |open| tell(&events, &name, open));
    }
}

/// Tells of a tray, and has the controllers look.
fn moved(vm: &mut Vm, name: &str, cdrom: bool, open: bool) {
    if cdrom {
        tell(&vm.events, name, open);
    }
    let now = vm.runner.cpu.now();
    vm.with_pc(|pc| pc.input_arrived(now));
}

/// Opens a drive's tray; false: the guest has been asked to.
fn open(vm: &mut Vm, name: &str, force: bool) -> Result<bool, Refusal> {
    let a = find(vm, name)?;
    if a.drive.is_tray_open() {
        return Ok(true);
    }
    if a.drive.is_locked() {
        a.drive.ask_eject();
        if !force {
            moved(vm, name, false, false);
            return Ok(false);
        }
        // As in QEMU, force opens the lock too.
        a.drive.set_locked(false);
    }
    let (drive, cdrom) = (a.drive.clone(), a.cdrom);
    if cdrom {
        drive.set_tray(true);
    }
    moved(vm, name, cdrom, true);
    Ok(true)
}

fn close(vm: &mut Vm, name: &str) -> Result<(), Refusal> {
    let a = find(vm, name)?;
    let (drive, cdrom) = (a.drive.clone(), a.cdrom);
    if drive.is_tray_open() {
        drive.set_tray(false);
        moved(vm, name, cdrom, false);
    }
    Ok(())
}

fn act(c: &Context, f: impl FnOnce(&mut Vm) -> Result<(), Refusal> + Send + 'static) -> Answer {
    c.call(f)??;
    Ok(json!({}))
}

pub fn open_tray(c: &Context, a: Which) -> Answer {
    let name = a.name()?;
    act(c, move |vm| open(vm, &name, a.force).map(drop))
}

pub fn close_tray(c: &Context, a: Which) -> Answer {
    let name = a.name()?;
    act(c, move |vm| close(vm, &name))
}

pub fn eject(c: &Context, a: Which) -> Answer {
    let name = a.name()?;
    let old = c.call(move |vm| {
        if !open(vm, &name, a.force)? {
            let text = format!(
                "Device '{name}' is locked and force was not specified, wait for tray to open and try again"
            );
            return Err(Refusal::from(text));
        }
        let a = find(vm, &name)?;
        let old = a.drive.change(None, true);
        if a.cdrom {
            a.drive.set_tray(true);
        }
        a.spec.file = None;
        Ok(old)
    })?;
    // Writing out what a floppy's image still holds need not stop the guest.
    drop(old?);
    Ok(json!({}))
}

pub fn change_medium(c: &Context, a: Change) -> Answer {
    let which = Which {
        device: a.device,
        id: a.id,
        force: a.force,
    };
    let name = which.name()?;
    let format = match &a.format {
        None => None,
        Some(format) => {
            let wrong = |e| format!("Unknown driver '{format}': {e}");
            Some(format.parse().map_err(wrong)?)
        }
    };
    // The image is opened here, on the monitor's thread; the guest runs on meanwhile.
    let of_drive = name.clone();
    let mut spec = c.call(move |vm| find(vm, &of_drive).map(|a| a.spec.clone()))??;
    spec.file = Some(a.filename);
    spec.format = format;
    match a.read_only_mode {
        Access::Retain => {}
        Access::ReadOnly => spec.read_only = true,
        Access::ReadWrite => spec.read_only = false,
    }
    let image = drives::open_image(&spec).map_err(|e| e.to_string())?;
    let old = c.call(move |vm| {
        if !open(vm, &name, which.force)? {
            let text = format!(
                "Device '{name}' is locked and force was not specified, wait for tray to open and try again"
            );
            return Err(Refusal::from(text));
        }
        let a = find(vm, &name)?;
        let old = a.drive.change(Some(image.medium), image.read_only);
        a.spec = spec;
        a.format = Some(image.format);
        let cdrom = a.cdrom;
        moved(vm, &name, cdrom, false);
        Ok(old)
    })?;
    drop(old?);
    Ok(json!({}))
}

/// What a drive's image is, as QAPI's BlockDeviceInfo.
fn inserted(a: &Attached) -> Value {
    let file = a.spec.file.as_deref().map(|f| f.display().to_string());
    let file = file.unwrap_or_default();
    let format = a.format.map_or("raw".into(), |f| f.to_string());
    let mut cache = json!({ "writeback": true, "direct": false, "no-flush": false });
    match a.spec.cache {
        Cache::Writeback => {}
        Cache::None => cache["direct"] = true.into(),
        Cache::Writethrough => cache["writeback"] = false.into(),
        Cache::Unsafe => cache["no-flush"] = true.into(),
    }
    let actual = std::fs::metadata(&file).map_or(0, |m| {
        use std::os::unix::fs::MetadataExt;
        m.blocks() * 512
    });
    json!({
        "file": file,
        "node-name": format!("#{}", a.drive.id()),
        "ro": a.drive.is_read_only(),
        "drv": format,
        "backing_file_depth": u8::from(a.spec.backing.is_some() || a.spec.snapshot),
        "encrypted": false,
        "detect_zeroes": "off",
        "bps": 0, "bps_rd": 0, "bps_wr": 0,
        "iops": 0, "iops_rd": 0, "iops_wr": 0,
        "write_threshold": 0,
        "cache": cache,
        "image": {
            "filename": file,
            "format": format,
            "virtual-size": a.drive.size(),
            "actual-size": actual,
        },
    })
}

pub fn query(c: &Context) -> Answer {
    let drives = c.call(|vm| vm.drives.clone())?;
    let list = drives.iter().map(|a| {
        let mut device = json!({
            "device": a.drive.id(),
            "qdev": a.drive.id(),
            "type": "unknown",
            "removable": removable(a),
            "locked": a.drive.is_locked(),
        });
        if a.cdrom {
            device["tray_open"] = a.drive.is_tray_open().into();
        }
        if a.spec.file.is_some() {
            device["inserted"] = inserted(a);
            device["io-status"] = "ok".into();
        }
        device
    });
    Ok(list.collect())
}

/// `query-blockstats`.
pub fn stats(c: &Context) -> Answer {
    let drives = c.call(|vm| vm.drives.clone())?;
    let list = drives.iter().map(|a| {
        let n = a.drive.counts();
        json!({
            "device": a.drive.id(),
            "qdev": a.drive.id(),
            "stats": {
                "rd_operations": n.reads, "rd_bytes": n.bytes_read,
                "wr_operations": n.writes, "wr_bytes": n.bytes_written,
                "flush_operations": n.flushes,
            },
        })
    });
    Ok(list.collect())
}

/// `info blockstats`.
pub fn info_stats(c: &Context) -> Text {
    let drives = c.call(|vm| vm.drives.clone())?;
    let mut out = String::new();
    for a in &drives {
        let n = a.drive.counts();
        let _ = writeln!(
            out,
            "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} failed={}",
            a.drive.id(),
            n.bytes_read,
            n.bytes_written,
            n.reads,
            n.writes,
            n.flushes,
            n.failed
        );
    }
    Ok(out)
}

/// `info block`.
pub fn info(c: &Context) -> Text {
    let drives = c.call(|vm| vm.drives.clone())?;
    let mut out = String::new();
    for a in drives {
        let id = a.drive.id();
        let about = match &a.spec.file {
            None => "[not inserted]".into(),
            Some(file) => {
                let format = a.format.map_or("raw".into(), |f| f.to_string());
                let ro = if a.drive.is_read_only() {
                    ", read-only"
                } else {
                    ""
                };
                format!("{} ({format}{ro})", file.display())
            }
        };
        let _ = writeln!(out, "{id}: {about}");
        if removable(&a) {
            let not = if a.drive.is_locked() { "" } else { "not " };
            let tray = match (a.cdrom, a.drive.is_tray_open()) {
                (false, _) => "",
                (_, true) => ", tray open",
                (_, false) => ", tray closed",
            };
            let _ = writeln!(out, "    Removable device: {not}locked{tray}");
        }
        if a.spec.file.is_some() {
            let _ = writeln!(out, "    Cache mode:       {}", cache_name(a.spec.cache));
        }
    }
    Ok(out)
}

fn cache_name(cache: Cache) -> &'static str {
    match cache {
        Cache::Writeback => "writeback",
        Cache::None => "none",
        Cache::Writethrough => "writethrough",
        Cache::Unsafe => "unsafe",
    }
}

/// `eject [-f] device`.
pub fn eject_by_hand(c: &Context, w: &Words) -> Text {
    let force = w.list.first() == Some(&"-f");
    let n = usize::from(force);
    w.most(n + 1)?;
    let which = Which::named(w.need(n, "the device")?, force);
    eject(c, which).map(|_| String::new())
}

/// `change device file [format]`.
pub fn change_by_hand(c: &Context, w: &Words) -> Text {
    w.most(3)?;
    let change = Change {
        device: Some(w.need(0, "the device")?.into()),
        id: None,
        filename: w.need(1, "the file")?.into(),
        format: w.list.get(2).map(|f| f.to_string()),
        force: false,
        read_only_mode: Access::Retain,
    };
    change_medium(c, change).map(|_| String::new())
}
