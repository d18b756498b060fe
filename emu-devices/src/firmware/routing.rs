//! The DSDT's part about PCI interrupts: route control registers, link devices, _PRT.
//!
//! Source: ACPI 6.4, 5.8.1 (_PIC), 6.2.13 (_PRT). A device's pin leads to a PIRQ line ([`Model::pirq`]). A line is a link device whose
//! resource is the ISA IRQ that the bridge routes it to. On the Q35 that is so for a system with 8259s (_PIC 0); with
//! I/O APICs (_PIC 1) each line has a pin of its own, and no link.

use super::dsdt::{Raw, device, join, method, name, template};
use crate::pci::chipset::Model;
use acpi_tables::aml::{
    And, Arg, CreateDWordField, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Local, OpRegion, OpRegionSpace, Or, PackageBuilder, Path, Return, Store,
    ZERO,
};
use acpi_tables::{Aml, AmlSink};

/// An extended interrupt descriptor: level-triggered, active high, shared, one of several (ACPI 6.4, 6.4.3.6).
struct LevelInterrupts<'a>(&'a [u8]);

impl Aml for LevelInterrupts<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x89);
        sink.word(2 + 4 * self.0.len() as u16);
        sink.byte(0x09); // consumer, level, active high, shared
        sink.byte(self.0.len() as u8);
        self.0.iter().for_each(|&irq| sink.dword(irq as u32));
    }
}

/// The choices of an interrupt link.
const LINK_IRQS: [u8; 4] = [5, 9, 10, 11];
/// 1 if the system uses I/O APICs.
const MODE: &str = "PICF";

fn letter(n: u8) -> char {
    (b'A' + n) as char
}

/// The link device of a PIRQ line.
fn link_name(n: u8) -> String {
    format!("LNK{}", letter(n))
}

/// The route control register of a PIRQ line.
fn field(n: u8) -> String {
    format!("PIR{}", letter(n))
}

/// PIRQ route control registers of the ISA bridge: the first four, and the ICH9's others.
pub(super) fn registers(machine: Model) -> Raw {
    let region = |path: &str, at: u8, lines: std::ops::Range<u8>| {
        let entry = |n| {
            let b = field(n).into_bytes();
            FieldEntry::Named([b[0], b[1], b[2], b[3]], 8)
        };
        let fields = Field::new(
            path.into(),
            FieldAccessType::Byte,
            FieldLockRule::NoLock,
            FieldUpdateRule::Preserve,
            lines.map(entry).collect(),
        );
        let region = OpRegion::new(path.into(), OpRegionSpace::PCIConfig, &at, &4u8);
        join(&[&region, &fields])
    };
    let first = region("P40C", 0x60, 0..4);
    match machine {
        Model::I440fx => first,
        Model::Q35 => join(&[&first, &region("P44C", 0x68, 4..8)]),
    }
}

/// What of `_PRT` a system chooses.
pub(super) fn mode(machine: Model) -> Raw {
    let path = Path::new(MODE);
    let store = method("_PIC", 1, false, &[&Store::new(&path, &Arg(0))]);
    match machine {
        Model::I440fx => join(&[]),
        Model::Q35 => join(&[&name(MODE, &ZERO), &store]),
    }
}

/// `_PRT`.
pub(super) fn table(machine: Model) -> Raw {
    // Each line as what `source` gives: a link's name or nothing, and an index or an interrupt.
    let rows = |source: &dyn Fn(u8) -> (Raw, u32)| {
        let mut table = PackageBuilder::new();
        for (slot, pin) in (1..32u8).flat_map(|s| (0..4u8).map(move |p| (s, p))) {
            let (link, number) = source(machine.pirq(slot, pin));
            let mut row = PackageBuilder::new();
            row.add_element(&(u32::from(slot) << 16 | 0xffff));
            row.add_element(&pin);
            row.add_element(&link);
            row.add_element(&number);
            table.add_element(&row);
        }
        table
    };
    let by_link = |n| {
        let path = Path::new(&format!("\\_SB_.{}", link_name(n)));
        (join(&[&path]), 0)
    };
    let links = rows(&by_link);
    if machine.pirq_pin(0).is_none() {
        return join(&[&name("_PRT", &links)]);
    }
    let pins = rows(&|n| (join(&[&ZERO]), machine.pirq_pin(n).map_or(0, u32::from)));
    let chosen = method(
        "_PRT",
        0,
        false,
        &[
            &If::new(&Path::new(MODE), vec![&Return::new(&Path::new("PRTA"))]),
            &Return::new(&Path::new("PRTP")),
        ],
    );
    join(&[&name("PRTP", &links), &name("PRTA", &pins), &chosen])
}

/// The link device of PIRQ line `n`.
pub(super) fn link(n: u8) -> Raw {
    let pirq = Path::new(&format!("\\_SB_.PCI0.ISA_.{}", field(n)));
    let (buffer, number) = (Path::new("BUFF"), Path::new("IRQW"));
    device(
        &link_name(n),
        &[
            &name("_HID", &EISAName::new("PNP0C0F")),
            &name("_UID", &(n + 1)),
            &name("_PRS", &template(&[&LevelInterrupts(&LINK_IRQS)])),
            &name("BUFF", &template(&[&LevelInterrupts(&[0])])),
            &method(
                "_STA",
                0,
                false,
                &[
                    &And::new(&Local(0), &pirq, &0x80u8),
                    &If::new(&Local(0), vec![&Return::new(&0x09u8)]),
                    &Return::new(&0x0bu8),
                ],
            ),
            &method("_DIS", 0, false, &[&Or::new(&pirq, &pirq, &0x80u8)]),
            // The interrupt's number is at byte 5 of the descriptor.
            &method(
                "_CRS",
                0,
                true,
                &[
                    &CreateDWordField::new(&number, &buffer, &5u8),
                    &And::new(&number, &pirq, &0x0fu8),
                    &Return::new(&buffer),
                ],
            ),
            &method(
                "_SRS",
                1,
                true,
                &[
                    &CreateDWordField::new(&number, &Arg(0), &5u8),
                    &Store::new(&pirq, &number),
                ],
            ),
        ],
    )
}
