//! PCI: `query-pci`, `info pci` and `info qtree`.

use super::Context;
use super::human::Text;
use super::qmp::{Answer, Refusal};
use emu_devices::pci::{self, Bar, ConfigSpace};
use serde_json::{Value, json};
use std::fmt::Write;

/// Base class and subclass (PCI Code and ID Assignment Specification), as QEMU words them.
const CLASSES: [(u16, &str); 17] = [
    (0x0001, "VGA controller"),
    (0x0100, "SCSI controller"),
    (0x0101, "IDE controller"),
    (0x0106, "SATA controller"),
    (0x0108, "NVMe controller"),
    (0x0200, "Ethernet controller"),
    (0x0300, "VGA controller"),
    (0x0380, "Display controller"),
    (0x0401, "Audio controller"),
    (0x0403, "Audio controller"),
    (0x0500, "RAM controller"),
    (0x0600, "Host bridge"),
    (0x0601, "ISA bridge"),
    (0x0680, "Bridge"),
    (0x0780, "Communication controller"),
    (0x0c03, "USB controller"),
    (0x0c05, "SMBus"),
];

fn functions(c: &Context) -> Result<Vec<(u8, ConfigSpace)>, Refusal> {
    Ok(c.call(|vm| vm.with_pc(|pc| pc.pci_functions()))?
        .unwrap_or_default())
}

fn word(f: &ConfigSpace, at: usize) -> u16 {
    f.read(at, 2) as u16
}

fn class_name(class: u16) -> String {
    match CLASSES.iter().find(|c| c.0 == class) {
        Some((_, name)) => (*name).into(),
        None => format!("Class {class:04x}"),
    }
}

/// A base address: number, kind, place, size; as the guest has set it, decoded or not.
fn bars(f: &ConfigSpace) -> impl Iterator<Item = (usize, Bar, u64, u64)> {
    (0..6).filter_map(|n| {
        let low = u64::from(f.dword(pci::BAR0 + 4 * n));
        let bar = f.bar(n)?;
        let (base, size) = match bar {
            Bar::Io(size) => (low & !3, size.into()),
            Bar::Memory32(size) => (low & !15, size.into()),
            Bar::Memory64(size) => {
                let high = u64::from(f.dword(pci::BAR0 + 4 * n + 4));
                (low & !15 | high << 32, size)
            }
        };
        Some((n, bar, base, size))
    })
}

fn region((n, bar, base, size): (usize, Bar, u64, u64), f: &ConfigSpace) -> Value {
    let mut region = json!({ "bar": n, "address": base, "size": size });
    match bar {
        Bar::Io(_) => region["type"] = "io".into(),
        _ => {
            region["type"] = "memory".into();
            region["mem_type_64"] = matches!(bar, Bar::Memory64(_)).into();
            region["prefetch"] = (f.byte(pci::BAR0 + 4 * n) & 8 != 0).into();
        }
    }
    region
}

pub fn query(c: &Context) -> Answer {
    let list = functions(c)?.into_iter().map(|(devfn, f)| {
        let class = word(&f, pci::REVISION + 2);
        let pin = f.byte(pci::INTERRUPT_PIN);
        let mut device = json!({
            "bus": 0,
            "slot": devfn >> 3,
            "function": devfn & 7,
            "class_info": { "class": class, "desc": class_name(class) },
            "id": {
                "vendor": word(&f, pci::VENDOR),
                "device": word(&f, pci::VENDOR + 2),
                "subsystem-vendor": word(&f, pci::SUBSYSTEM),
                "subsystem": word(&f, pci::SUBSYSTEM + 2),
            },
            "qdev_id": "",
            "irq_pin": pin,
            "regions": bars(&f).map(|b| region(b, &f)).collect::<Vec<_>>(),
        });
        if pin != 0 {
            device["irq"] = f.byte(pci::INTERRUPT_LINE).into();
        }
        device
    });
    let devices: Vec<Value> = list.collect();
    Ok(json!([{ "bus": 0, "devices": devices }]))
}

/// `info qtree`: what hangs on which bus; PCI functions by class, drives by name.
pub fn tree(c: &Context) -> Text {
    let drives = c.call(|vm| vm.drives.clone())?;
    let ports = c.call(|vm| vm.with_pc(|pc| pc.port_list()))?;
    let mut out = String::from("bus: main-system-bus\n  dev: pcihost\n    bus: pci.0\n");
    for (devfn, f) in functions(c)? {
        let class = class_name(word(&f, pci::REVISION + 2));
        let (vendor, device) = (word(&f, pci::VENDOR), word(&f, pci::VENDOR + 2));
        let _ = writeln!(out, "      dev: {class}, {vendor:04x}:{device:04x}");
        let _ = writeln!(out, "        addr = {:02x}.{:x}", devfn >> 3, devfn & 7);
        for (n, _, base, size) in bars(&f) {
            let _ = writeln!(out, "        bar {n}: {size:#x} bytes at {base:#x}");
        }
    }
    out += "  bus: isa.0\n";
    for (name, first, last) in ports.unwrap_or_default() {
        let _ = writeln!(out, "    dev: {name}, ports {first:#06x}-{last:#06x}");
    }
    out += "  drives\n";
    for drive in &drives {
        let kind = if drive.cdrom { "cdrom" } else { "disk" };
        let (id, size) = (drive.drive.id(), drive.drive.size());
        let _ = writeln!(out, "    dev: {kind}, id \"{id}\", {size} bytes");
    }
    Ok(out)
}

pub fn info(c: &Context) -> Text {
    let mut out = String::new();
    for (devfn, f) in functions(c)? {
        let class = class_name(word(&f, pci::REVISION + 2));
        let (vendor, device) = (word(&f, pci::VENDOR), word(&f, pci::VENDOR + 2));
        let _ = writeln!(
            out,
            "  Bus  0, device {:3}, function {}:",
            devfn >> 3,
            devfn & 7
        );
        let _ = writeln!(out, "    {class}: PCI device {vendor:04x}:{device:04x}");
        let (of, subsystem) = (word(&f, pci::SUBSYSTEM), word(&f, pci::SUBSYSTEM + 2));
        if of != 0 {
            let _ = writeln!(out, "      PCI subsystem {of:04x}:{subsystem:04x}");
        }
        let pin = f.byte(pci::INTERRUPT_PIN);
        if pin != 0 {
            let line = f.byte(pci::INTERRUPT_LINE);
            let letter = char::from(b'A' + (pin - 1) % 4);
            let _ = writeln!(out, "      IRQ {line}, pin {letter}");
        }
        for (n, bar, base, size) in bars(&f) {
            let end = base.wrapping_add(size - 1);
            let _ = match bar {
                Bar::Io(_) => writeln!(out, "      BAR{n}: I/O at {base:#06x} [{end:#06x}]."),
                _ => {
                    let bits = if matches!(bar, Bar::Memory64(_)) {
                        64
                    } else {
                        32
                    };
                    let prefetchable = match f.byte(pci::BAR0 + 4 * n) & 8 {
                        0 => "",
                        _ => " prefetchable",
                    };
                    writeln!(
                        out,
                        "      BAR{n}: {bits} bit{prefetchable} memory at {base:#010x} [{end:#010x}]."
                    )
                }
            };
        }
    }
    Ok(out)
}
