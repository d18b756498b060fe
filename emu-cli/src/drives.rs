//! Drives on the command line: `--drive`, its short forms, and what is opened for them.
//!
//! Each option becomes a [`Spec`] when the command line is read; [`open`] gives every one its place (QEMU's rules: IDE drives
//! take the first free of two channels with two devices, a CD-ROM by default the second channel's first; the Q35 has a SATA port for
//! each instead), opens the images and gives [`Attached`] drives, of which each controller takes those of its interface.

#![allow(
    dead_code,
    reason = "the controllers that read some of it are being built"
)]

use clap::Args;
use emu_core::nearest::hint;
use emu_devices::chips::i82077::{Geometry, media::MAX_SIZE};
use emu_devices::chips::mc146818::BOOT_ORDER;
use emu_devices::pci::chipset::Model;
use emu_devices::storage::Drive;
use emu_devices::storage::ide;
use emu_devices::storage::image::{self, Cache, Format, ImageError};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args, Clone, Debug, Default)]
pub struct DriveOptions {
    /// A drive: file=FILE[,if=ide][,media=disk|cdrom][,format=raw][,readonly=on][,snapshot=on]
    /// [,cache=writeback|none|writethrough|unsafe][,id=ID][,index=N][,serial=TEXT][,backing=FILE]
    #[arg(long, value_name = "file=FILE,...", value_parser = spec)]
    pub drive: Vec<Spec>,
    /// A CD-ROM image in the second IDE channel's drive
    #[arg(long, value_name = "FILE")]
    pub cdrom: Option<PathBuf>,
    /// A diskette image in drive A:; --fdb in drive B:
    #[arg(long, value_name = "FILE")]
    pub fda: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub fdb: Option<PathBuf>,
    /// A disk image as the first IDE disk; --hdb, --hdc and --hdd the others
    #[arg(long, value_name = "FILE")]
    pub hda: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub hdb: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub hdc: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub hdd: Option<PathBuf>,
    /// What is written to any drive goes to temporary files
    #[arg(long)]
    pub snapshot: bool,
    /// What firmware boots from, in order (a: floppy, c: disk, d: CD-ROM, n: network): [order=]cdn[,once=d][,menu=on]
    #[arg(long, value_name = "ORDER", value_parser = boot)]
    pub boot: Option<BootOrder>,
}

/// What a drive is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Ide,
    Ahci,
    Nvme,
    Virtio,
    Scsi,
    Floppy,
    /// Nothing; something else refers to it by its id.
    None,
}

const INTERFACES: [(&str, Interface); 7] = [
    ("ide", Interface::Ide),
    ("ahci", Interface::Ahci),
    ("nvme", Interface::Nvme),
    ("virtio", Interface::Virtio),
    ("scsi", Interface::Scsi),
    ("floppy", Interface::Floppy),
    ("none", Interface::None),
];

impl Interface {
    /// How many drives it takes.
    fn places(self) -> usize {
        match self {
            Self::Ide => 4,
            Self::Floppy => 2,
            Self::Ahci => 6,
            Self::Scsi => 7,
            Self::Nvme | Self::Virtio => 16,
            Self::None => usize::MAX,
        }
    }

    /// A drive's id if it is given none, as QEMU makes it.
    fn id(self, index: usize, cdrom: bool, machine: Model) -> String {
        let kind = if cdrom { "cd" } else { "hd" };
        match self {
            Self::Ide => format!("ide{}-{kind}{}", index / 2, index % 2),
            Self::Ahci if machine == Model::Q35 => format!("ide{index}-{kind}0"),
            Self::Ahci => format!("ahci0-{kind}{index}"),
            Self::Scsi => format!("scsi0-{kind}{index}"),
            Self::Nvme => format!("nvme{index}"),
            Self::Virtio => format!("virtio{index}"),
            Self::Floppy => format!("floppy{index}"),
            Self::None => format!("none{index}"),
        }
    }
}

/// One drive as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub file: Option<PathBuf>,
    pub interface: Interface,
    pub cdrom: bool,
    pub format: Option<Format>,
    pub read_only: bool,
    pub snapshot: bool,
    pub cache: Cache,
    pub id: Option<String>,
    pub index: Option<usize>,
    pub serial: Option<String>,
    pub backing: Option<PathBuf>,
}

impl Spec {
    pub fn new(file: Option<PathBuf>, interface: Interface) -> Self {
        Self {
            file,
            interface,
            cdrom: false,
            format: None,
            read_only: false,
            snapshot: false,
            cache: Cache::default(),
            id: None,
            index: None,
            serial: None,
            backing: None,
        }
    }

    /// A CD-ROM.
    pub fn cdrom(file: Option<PathBuf>) -> Self {
        Self {
            cdrom: true,
            ..Self::new(file, Interface::Ide)
        }
    }

    fn at(mut self, index: usize) -> Self {
        self.index = Some(index);
        self
    }
}

/// Splits at commas; two of them are one in a value.
fn split(s: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = s.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                parts.last_mut().unwrap_or(&mut String::new()).push(',');
            }
            ',' => parts.push(String::new()),
            c => parts.last_mut().unwrap_or(&mut String::new()).push(c),
        }
    }
    parts
}

fn choice<T: Copy>(key: &str, value: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|k| k.0 == value);
    found.map(|k| k.1).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|k| k.0).collect();
        let hint = hint(value, names.iter().copied());
        format!(
            "{key}={value} is unknown{hint} (known: {})",
            names.join(", ")
        )
    })
}

const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];
const CACHES: [(&str, Cache); 4] = [
    ("writeback", Cache::Writeback),
    ("none", Cache::None),
    ("writethrough", Cache::Writethrough),
    ("unsafe", Cache::Unsafe),
];
const KEYS: [&str; 11] = [
    "file", "if", "media", "format", "readonly", "snapshot", "cache", "id", "index", "serial",
    "backing",
];

/// Reads `--drive`'s value.
pub fn spec(s: &str) -> Result<Spec, String> {
    let mut spec = Spec::new(None, Interface::Ide);
    let mut seen = Vec::new();
    for part in split(s) {
        let (key, value) = match part.split_once('=') {
            Some(pair) => pair,
            // As QEMU: a switch without a value is on.
            None if matches!(part.as_str(), "readonly" | "snapshot") => (part.as_str(), "on"),
            None => return Err(format!("\"{part}\" is no KEY=VALUE (file={part}?)")),
        };
        if seen.iter().any(|s| s == key) {
            return Err(format!("{key}= is given twice"));
        }
        seen.push(key.to_string());
        if value.is_empty() && key != "file" {
            return Err(format!("{key}= has no value"));
        }
        match key {
            "file" => spec.file = (!value.is_empty()).then(|| value.into()),
            "if" => spec.interface = choice(key, value, &INTERFACES)?,
            "media" => spec.cdrom = choice(key, value, &[("disk", false), ("cdrom", true)])?,
            "format" => {
                let wrong = |e| format!("format={value} is unknown: {e}");
                spec.format = Some(value.parse().map_err(wrong)?);
            }
            "readonly" => spec.read_only = choice(key, value, &SWITCH)?,
            "snapshot" => spec.snapshot = choice(key, value, &SWITCH)?,
            "cache" => spec.cache = choice(key, value, &CACHES)?,
            "id" => spec.id = Some(value.into()),
            "index" => {
                let wrong = |_| format!("index={value} is no number");
                spec.index = Some(value.parse().map_err(wrong)?);
            }
            "serial" if value.len() <= 20 && value.is_ascii() => spec.serial = Some(value.into()),
            "serial" => return Err("serial= takes at most 20 ASCII characters".into()),
            "backing" => spec.backing = Some(value.into()),
            _ => {
                let hint = hint(key, KEYS);
                return Err(format!(
                    "unknown key \"{key}\"{hint} (known: {})",
                    KEYS.join(", ")
                ));
            }
        }
    }
    if spec.file.is_none() && !spec.cdrom && spec.interface != Interface::Floppy {
        return Err("give file=FILE (only CD-ROM and floppy drives can be empty)".into());
    }
    if spec.cdrom
        && !matches!(
            spec.interface,
            Interface::Ide | Interface::Ahci | Interface::Scsi | Interface::None
        )
    {
        return Err("media=cdrom is for if=ide, ahci or scsi".into());
    }
    Ok(spec)
}

/// What firmware tries, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootOrder {
    /// Letters of `acdn`.
    pub order: String,
    /// The order for the first start.
    pub once: Option<String>,
    /// Firmware offers a menu.
    pub menu: bool,
}

impl BootOrder {
    /// The order for later starts.
    pub fn later(&self) -> &str {
        match &self.order[..] {
            "" => BOOT_ORDER,
            order => order,
        }
    }

    /// The order for the first start.
    pub fn first(&self) -> &str {
        self.once.as_deref().unwrap_or(self.later())
    }
}

fn boot(s: &str) -> Result<BootOrder, String> {
    let mut boot = BootOrder::default();
    let letters = |v: &str| match v.chars().find(|c| !"abcdn".contains(*c)) {
        Some(c) => Err(format!(
            "'{c}' is no boot device (a, b: floppy, c: disk, d: CD-ROM, n: network)"
        )),
        None => Ok(v.to_string()),
    };
    for (n, part) in s.split(',').enumerate() {
        match part.split_once('=') {
            None if n == 0 => boot.order = letters(part)?,
            Some(("order", v)) => boot.order = letters(v)?,
            Some(("once", v)) => boot.once = Some(letters(v)?),
            Some(("menu", v)) => boot.menu = choice("menu", v, &SWITCH)?,
            _ => {
                let key = part.split('=').next().unwrap_or(part);
                let hint = hint(key, ["order", "once", "menu"]);
                return Err(format!(
                    "unknown key \"{key}\"{hint} (known: order, once, menu)"
                ));
            }
        }
    }
    Ok(boot)
}

/// A drive in its place.
#[derive(Clone)]
pub struct Attached {
    pub drive: Arc<Drive>,
    pub interface: Interface,
    /// The place among the drives of its interface.
    pub index: usize,
    pub cdrom: bool,
    pub spec: Spec,
    /// What its image is.
    pub format: Option<Format>,
}

impl Attached {
    /// The drive as an IDE or SATA cable's end has it.
    pub fn on_cable(&self) -> ide::Attached {
        ide::Attached {
            drive: self.drive.clone(),
            cdrom: self.cdrom,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error("drive {name}: {source}")]
    Image { name: String, source: ImageError },
    #[error("drive {name}: index {index} is taken: give another index=")]
    Taken { name: String, index: usize },
    #[error("drive {name}: no place is left on if={interface} ({places} drives)")]
    Full {
        name: String,
        interface: &'static str,
        places: usize,
    },
    #[error("drive {0}: another drive has this id: give another id=")]
    Id(String),
    #[error("drive {name}: {size} bytes are no diskette (160 KiB to {max} are): give another if=")]
    NoDiskette { name: String, size: u64, max: u64 },
    #[error("drive {name}: {size} bytes are no disk: at least one sector of 512 bytes is needed")]
    Empty { name: String, size: u64 },
}

/// All drives that the options ask for, opened.
pub fn open(options: &DriveOptions, machine: Model) -> Result<Vec<Attached>, DriveError> {
    // The Q35's chipset has SATA where the other has IDE.
    let cable = match machine {
        Model::I440fx => Interface::Ide,
        Model::Q35 => Interface::Ahci,
    };
    let mut specs = Vec::new();
    let hds = [&options.hda, &options.hdb, &options.hdc, &options.hdd];
    for (index, file) in hds.into_iter().enumerate() {
        if file.is_some() {
            specs.push(Spec::new(file.clone(), Interface::Ide).at(index));
        }
    }
    for (index, file) in [&options.fda, &options.fdb].into_iter().enumerate() {
        if file.is_some() {
            specs.push(Spec::new(file.clone(), Interface::Floppy).at(index));
        }
    }
    if options.cdrom.is_some() {
        specs.push(Spec::cdrom(options.cdrom.clone()).at(2));
    }
    specs.extend(options.drive.iter().cloned());
    for spec in specs.iter_mut().filter(|s| s.interface == Interface::Ide) {
        spec.interface = cable;
    }
    // Those that say where they go come first.
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by_key(|&n| specs[n].index.is_none());
    let mut taken: Vec<(Interface, usize)> = Vec::new();
    let mut places = vec![0; specs.len()];
    for n in order {
        places[n] = place(&specs[n], &taken, cable)?;
        taken.push((specs[n].interface, places[n]));
    }
    let mut drives: Vec<Attached> = Vec::new();
    for (mut spec, index) in specs.into_iter().zip(places) {
        spec.snapshot |= options.snapshot;
        let id = match &spec.id {
            Some(id) => id.clone(),
            None => spec.interface.id(index, spec.cdrom, machine),
        };
        if drives.iter().any(|d| d.drive.id() == id) {
            return Err(DriveError::Id(id));
        }
        let (drive, format) = open_one(&id, &spec)?;
        drives.push(Attached {
            drive,
            format,
            interface: spec.interface,
            index,
            cdrom: spec.cdrom,
            spec,
        });
    }
    // The PC has a CD-ROM drive, if nothing else is in its place.
    if !taken.contains(&(cable, 2)) {
        let spec = Spec::cdrom(None);
        drives.push(Attached {
            drive: Drive::empty(&cable.id(2, true, machine)),
            interface: cable,
            index: 2,
            cdrom: true,
            spec,
            format: None,
        });
    }
    Ok(drives)
}

/// Where a drive goes; `cable`: what the chipset's own controller has.
fn place(spec: &Spec, taken: &[(Interface, usize)], cable: Interface) -> Result<usize, DriveError> {
    let interface = spec.interface;
    let free = |n: &usize| !taken.contains(&(interface, *n));
    let name = || match (&spec.id, &spec.file) {
        (Some(id), _) => id.clone(),
        (None, Some(file)) => file.display().to_string(),
        (None, None) => "without a file".into(),
    };
    let full = || DriveError::Full {
        name: name(),
        interface: INTERFACES
            .iter()
            .find(|i| i.1 == interface)
            .map_or("", |i| i.0),
        places: interface.places(),
    };
    match spec.index {
        Some(n) if n >= interface.places() => Err(full()),
        Some(index) if !free(&index) => Err(DriveError::Taken {
            name: name(),
            index,
        }),
        Some(n) => Ok(n),
        None => {
            let first = if spec.cdrom && interface == cable {
                2
            } else {
                0
            };
            let all = (first..interface.places()).chain(0..first);
            all.into_iter().find(free).ok_or_else(full)
        }
    }
}

fn open_one(id: &str, spec: &Spec) -> Result<(Arc<Drive>, Option<Format>), DriveError> {
    let Some(file) = &spec.file else {
        return Ok((Drive::empty(id), None));
    };
    let image = open_image(spec)?;
    let name = || file.display().to_string();
    let size = image.medium.size();
    if spec.interface == Interface::Floppy && Geometry::of(size).is_none() {
        return Err(DriveError::NoDiskette {
            name: name(),
            size,
            max: MAX_SIZE,
        });
    }
    if size < 512 {
        return Err(DriveError::Empty { name: name(), size });
    }
    let (serial, medium) = (spec.serial.as_deref(), Some(image.medium));
    let drive = Drive::with_serial(id, serial, medium, image.read_only);
    Ok((drive, Some(image.format)))
}

/// Opens a drive's image.
pub fn open_image(spec: &Spec) -> Result<image::Image, DriveError> {
    let path = spec.file.clone().unwrap_or_default();
    let options = image::Options {
        format: spec.format,
        read_only: spec.read_only || spec.cdrom,
        snapshot: spec.snapshot,
        cache: spec.cache,
        backing: spec.backing.clone(),
    };
    image::open(&path, &options).map_err(|source| DriveError::Image {
        name: path.display().to_string(),
        source,
    })
}

/// The drives of one interface by index.
pub fn of<const N: usize>(drives: &[Attached], interface: Interface) -> [Option<&Attached>; N] {
    std::array::from_fn(|n| {
        drives
            .iter()
            .find(|d| d.interface == interface && d.index == n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_read() {
        let d =
            spec("file=a,,b.img,if=ide,media=cdrom,readonly,cache=unsafe,index=3,id=x").unwrap();
        assert_eq!(d.file, Some("a,b.img".into()));
        assert!(d.cdrom && d.read_only && d.cache == Cache::Unsafe);
        assert_eq!((d.index, d.id.as_deref()), (Some(3), Some("x")));
        for (bad, word) in [
            ("disk.img", "file=disk.img?"),
            ("file=a,if=idee", "ide"),
            ("file=a,formt=raw", "format"),
            ("file=a,format=", "no value"),
            ("file=a,file=b", "twice"),
            ("if=ide", "file=FILE"),
            ("file=a,index=x", "no number"),
            ("file=a,if=nvme,media=cdrom", "media=cdrom"),
            ("file=a,serial=123456789012345678901", "20"),
        ] {
            let e = spec(bad).unwrap_err();
            assert!(e.contains(word), "{bad}: {e}");
        }
    }

    #[test]
    fn places() {
        let ide = |index| Spec {
            index,
            ..Spec::new(Some("f".into()), Interface::Ide)
        };
        let place = |spec: &Spec, taken: &[_]| place(spec, taken, Interface::Ide);
        assert_eq!(place(&ide(None), &[(Interface::Ide, 0)]).ok(), Some(1));
        assert_eq!(place(&Spec::cdrom(None), &[]).ok(), Some(2));
        let cd = [(Interface::Ide, 2), (Interface::Ide, 3)];
        assert_eq!(place(&Spec::cdrom(None), &cd).ok(), Some(0));
        assert!(matches!(
            place(&ide(Some(2)), &cd),
            Err(DriveError::Taken { .. })
        ));
        assert!(matches!(
            place(&ide(Some(4)), &[]),
            Err(DriveError::Full { .. })
        ));
    }

    #[test]
    fn the_q35_has_sata() {
        let options = DriveOptions {
            drive: vec![spec("file=,media=cdrom,id=x").unwrap()],
            ..DriveOptions::default()
        };
        let places = |machine| -> Vec<_> {
            let drives = open(&options, machine).unwrap();
            let place = |d: &Attached| (d.drive.id().to_string(), d.interface, d.index);
            drives.iter().map(place).collect()
        };
        assert_eq!(places(Model::I440fx), [("x".into(), Interface::Ide, 2)]);
        assert_eq!(places(Model::Q35), [("x".into(), Interface::Ahci, 2)]);
        let id = |index| Interface::Ahci.id(index, false, Model::Q35);
        assert_eq!((id(0), id(5)), ("ide0-hd0".into(), "ide5-hd0".into()));
    }

    #[test]
    fn boot_orders() {
        assert_eq!(boot("dc").unwrap().order, "dc");
        let b = boot("order=c,once=d,menu=on").unwrap();
        assert_eq!(
            (b.order.as_str(), b.once.as_deref(), b.menu),
            ("c", Some("d"), true)
        );
        assert!(boot("x").is_err() && boot("order=c,twice=d").is_err());
    }
}
