//! The DSDT: the devices that cannot be found by looking.
//!
//! Source: ACPI 6.4, chapters 5, 6 and 19. The tree:
//!
//! ```text
//! \_S5                        soft off
//! \_SB.C000..                 processors
//! \_SB.PCI0                   host bridge: _CRS, _PRT
//! \_SB.PCI0.ISA_              bridge at 1.0: PIRQ registers; timer, RTC, keyboard, mouse, COM1, COM2, HPET,
//!                             fw_cfg, pvpanic, motherboard resources
//! \_SB.LNKA..LNKD             interrupt links: PIRQ route control, choices 5, 9, 10, 11
//! ```

use super::acpi::{OEM, REVISION, TABLE};
use crate::ibmpc::{self, Ports};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local,
    Memory32Fixed, Method, Name, OpRegion, OpRegionSpace, Or, PackageBuilder, Path,
    ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

/// AML that is already bytes.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// Any number of parts in a row.
fn join(parts: &[&dyn Aml]) -> Raw {
    let mut out = Vec::new();
    parts.iter().for_each(|p| p.to_aml_bytes(&mut out));
    Raw(out)
}

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
const LINKS: [&str; 4] = ["LNKA", "LNKB", "LNKC", "LNKD"];
const PIRQ_FIELDS: [&str; 4] = ["PIRA", "PIRB", "PIRC", "PIRD"];

fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(path.into(), value)
}

fn io((first, count): Ports) -> IO {
    IO::new(first, first, 1, count as u8)
}

fn irq(n: u8) -> Interrupt {
    Interrupt::new(true, true, false, false, n as u32)
}

fn device(path: &str, children: &[&dyn Aml]) -> Raw {
    join(&[&Device::new(path.into(), children.to_vec())])
}

fn method(path: &str, args: u8, serialized: bool, body: &[&dyn Aml]) -> Raw {
    join(&[&Method::new(path.into(), args, serialized, body.to_vec())])
}

fn template(resources: &[&dyn Aml]) -> Raw {
    join(&[&ResourceTemplate::new(resources.to_vec())])
}

/// The whole table; the power management block is at port `pm`.
pub(super) fn dsdt(cpus: usize, pm: u16) -> Vec<u8> {
    let mut sleep = PackageBuilder::new();
    (0..4).for_each(|_| sleep.add_element(&ZERO));
    let s5 = name("_S5_", &sleep);

    let mut children: Vec<Raw> = (0..cpus).map(processor).collect();
    children.push(pci_host(pm));
    children.extend((0..4).map(link));
    let children: Vec<&dyn Aml> = children.iter().map(|c| c as &dyn Aml).collect();
    let body = join(&[&s5, &Scope::new("\\_SB_".into(), children)]);

    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&body.0);
    table.as_slice().to_vec()
}

fn processor(n: usize) -> Raw {
    device(
        &format!("C{n:03X}"),
        &[&name("_HID", &"ACPI0007"), &name("_UID", &(n as u32))],
    )
}

fn pci_host(pm: u16) -> Raw {
    let uncached = AddressSpaceCacheable::NotCacheable;
    let memory = |first: u64, last: u64| {
        AddressSpace::new_memory(uncached, true, first as u32, last as u32, None)
    };
    let resources = template(&[
        &AddressSpace::<u16>::new_bus_number(0, 0xff),
        &io((ibmpc::PCI_ADDRESS.0, 8)),
        &AddressSpace::new_io(0u16, ibmpc::PCI_ADDRESS.0 - 1, None),
        &AddressSpace::new_io(ibmpc::PCI_DATA.0 + 4, 0xffff, None),
        &memory(ibmpc::VGA.0, ibmpc::VGA.0 + ibmpc::VGA.1 - 1),
        &memory(ibmpc::PCI_HOLE, ibmpc::IOAPIC.0 - 1),
    ]);
    device(
        "PCI0",
        &[
            &name("_HID", &EISAName::new("PNP0A03")),
            &name("_UID", &ZERO),
            &name("_BBN", &ZERO),
            &name("_CRS", &resources),
            &name("_PRT", &routing()),
            &isa_bridge(pm),
        ],
    )
}

/// INTx# of slot d is PIRQ (d + x - 1) mod 4, as `PciSlots::pirqs` has it.
fn routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 1..32u32 {
        for pin in 0..4u32 {
            let link = LINKS[((slot + pin + 3) % 4) as usize];
            let mut row = PackageBuilder::new();
            row.add_element(&(slot << 16 | 0xffff));
            row.add_element(&pin);
            row.add_element(&Path::new(&format!("\\_SB_.{link}")));
            row.add_element(&ZERO);
            table.add_element(&row);
        }
    }
    table
}

/// A device with fixed resources. `hidden`: there, but not shown to the user.
fn fixed(path: &str, hid: &dyn Aml, uid: u8, hidden: bool, resources: &[&dyn Aml]) -> Raw {
    let status = if hidden {
        join(&[&name("_STA", &0x0bu8)])
    } else {
        Raw(Vec::new())
    };
    device(
        path,
        &[
            &name("_HID", hid),
            &name("_UID", &uid),
            &status,
            &name("_CRS", &template(resources)),
        ],
    )
}

fn isa_bridge(pm: u16) -> Raw {
    use ibmpc::*;
    let pirq = |n: &str| {
        let b = n.as_bytes();
        FieldEntry::Named([b[0], b[1], b[2], b[3]], 8)
    };
    let field = Field::new(
        "P40C".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        PIRQ_FIELDS.iter().map(|n| pirq(n)).collect(),
    );
    let pnp = EISAName::new;
    let hpet = Memory32Fixed::new(false, HPET.0 as u32, HPET.1 as u32);
    device(
        "ISA_",
        &[
            &name("_ADR", &0x0001_0000u32),
            &OpRegion::new("P40C".into(), OpRegionSpace::PCIConfig, &0x60u8, &4u8),
            &field,
            &fixed(
                "TIMR",
                &pnp("PNP0100"),
                0,
                false,
                &[&io(PIT), &irq(IRQ_TIMER)],
            ),
            &fixed(
                "DMAC",
                &pnp("PNP0200"),
                0,
                false,
                &[&io(DMA_SLAVE), &io(DMA_PAGES), &io(DMA_MASTER)],
            ),
            &fixed(
                "RTC_",
                &pnp("PNP0B00"),
                0,
                false,
                &[&io(RTC), &irq(IRQ_RTC)],
            ),
            &fixed(
                "KBD_",
                &pnp("PNP0303"),
                0,
                false,
                &[&io(KBC_DATA), &io(KBC_STATUS), &irq(IRQ_KEYBOARD)],
            ),
            &fixed("MOU_", &pnp("PNP0F13"), 0, false, &[&irq(IRQ_MOUSE)]),
            &fixed(
                "COM1",
                &pnp("PNP0501"),
                1,
                false,
                &[&io(COM1), &irq(IRQ_COM1)],
            ),
            &fixed(
                "COM2",
                &pnp("PNP0501"),
                2,
                false,
                &[&io(COM2), &irq(IRQ_COM2)],
            ),
            &fixed("HPET", &pnp("PNP0103"), 0, false, &[&hpet]),
            &fixed("FWCF", &"QEMU0002", 0, true, &[&io((FW_CFG.0, 12))]),
            &fixed("PEVT", &"QEMU0001", 0, true, &[&io(PVPANIC)]),
            &fixed(
                "MBRD",
                &pnp("PNP0C02"),
                0,
                false,
                &[
                    &io(PORT_61),
                    &io(PORT_92),
                    &io(SMI),
                    &io(PIC_ELCR),
                    &io((pm, ACPI_PM.1)),
                ],
            ),
        ],
    )
}

fn link(n: usize) -> Raw {
    let pirq = Path::new(&format!("\\_SB_.PCI0.ISA_.{}", PIRQ_FIELDS[n]));
    let (buffer, number) = (Path::new("BUFF"), Path::new("IRQW"));
    device(
        LINKS[n],
        &[
            &name("_HID", &EISAName::new("PNP0C0F")),
            &name("_UID", &(n as u8 + 1)),
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
