//! The DSDT: the devices that cannot be found by looking.
//!
//! Source: ACPI 6.4, chapters 5, 6 and 19. The tree:
//!
//! ```text
//! \_S5                        soft off
//! \_SB.C000..                 processors
//! \_SB.PCI0                   host bridge: _CRS, _PRT; on the Q35 _OSC
//! \_SB.PCI0.ISA_              ISA bridge: PIRQ registers; timer, RTC, keyboard, mouse, COM1, COM2, HPET,
//!                             fw_cfg, pvpanic, motherboard resources
//! \_SB.LNKA..LNKD, ..LNKH     interrupt links (`routing.rs`)
//! \_PIC, \PICF                which interrupt controllers are used (Q35)
//! ```

use super::acpi::{OEM, REVISION, TABLE};
use super::{Hardware, routing};
use crate::ibmpc::{self, Ports};
use crate::pci::chipset::Model;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO,
    If, Interrupt, Memory32Fixed, Method, Name, Or, PackageBuilder, Path, ResourceTemplate, Return,
    Scope, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

/// The PCI devices' memory begins at a multiple of this behind RAM.
const HOLE_UNIT: u64 = 1 << 20;

/// AML that is already bytes.
pub(super) struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// Any number of parts in a row.
pub(super) fn join(parts: &[&dyn Aml]) -> Raw {
    let mut out = Vec::new();
    parts.iter().for_each(|p| p.to_aml_bytes(&mut out));
    Raw(out)
}

pub(super) fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(path.into(), value)
}

fn io((first, count): Ports) -> IO {
    IO::new(first, first, 1, count as u8)
}

fn irq(n: u8) -> Interrupt {
    Interrupt::new(true, true, false, false, n as u32)
}

pub(super) fn device(path: &str, children: &[&dyn Aml]) -> Raw {
    join(&[&Device::new(path.into(), children.to_vec())])
}

pub(super) fn method(path: &str, args: u8, serialized: bool, body: &[&dyn Aml]) -> Raw {
    join(&[&Method::new(path.into(), args, serialized, body.to_vec())])
}

pub(super) fn template(resources: &[&dyn Aml]) -> Raw {
    join(&[&ResourceTemplate::new(resources.to_vec())])
}

/// The whole table.
pub(super) fn dsdt(hardware: &Hardware) -> Vec<u8> {
    let mut sleep = PackageBuilder::new();
    (0..4).for_each(|_| sleep.add_element(&ZERO));
    let s5 = name("_S5_", &sleep);

    let mut children: Vec<Raw> = (0..hardware.cpus).map(processor).collect();
    children.push(pci_host(hardware));
    children.extend((0..hardware.machine.pirqs()).map(routing::link));
    let children: Vec<&dyn Aml> = children.iter().map(|c| c as &dyn Aml).collect();
    let mode = routing::mode(hardware.machine);
    let body = join(&[&s5, &mode, &Scope::new("\\_SB_".into(), children)]);

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

fn pci_host(hardware: &Hardware) -> Raw {
    let uncached = AddressSpaceCacheable::NotCacheable;
    let memory = |first: u64, end: u64| {
        AddressSpace::new_memory(uncached, true, first as u32, (end - 1) as u32, None)
    };
    // What is neither RAM nor the APICs' and the firmware's, around configuration space.
    let hole = match hardware.machine {
        Model::I440fx => ibmpc::PCI_HOLE,
        Model::Q35 => hardware.low_ram().next_multiple_of(HOLE_UNIT),
    };
    let taken = hardware
        .ecam
        .filter(|e| (hole..ibmpc::IOAPIC.0).contains(&e.0));
    let (first, size) = taken.unwrap_or((ibmpc::IOAPIC.0, 0));
    let parts = [(hole, first), (first + size, ibmpc::IOAPIC.0)];
    let windows: Vec<_> = parts.iter().filter(|p| p.0 < p.1).collect();
    let windows: Vec<_> = windows.iter().map(|p| memory(p.0, p.1)).collect();
    let windows: Vec<&dyn Aml> = windows.iter().map(|w| w as &dyn Aml).collect();
    let resources = template(&[
        &AddressSpace::<u16>::new_bus_number(0, last_bus(hardware)),
        &io((ibmpc::PCI_ADDRESS.0, 8)),
        &AddressSpace::new_io(0u16, ibmpc::PCI_ADDRESS.0 - 1, None),
        &AddressSpace::new_io(ibmpc::PCI_DATA.0 + 4, 0xffff, None),
        &memory(ibmpc::VGA.0, ibmpc::VGA.0 + ibmpc::VGA.1),
        &join(&windows),
    ]);
    let pci = name("_HID", &EISAName::new("PNP0A03"));
    let identity = match hardware.machine {
        Model::I440fx => join(&[&pci]),
        Model::Q35 => join(&[
            &name("_HID", &EISAName::new("PNP0A08")),
            &name("_CID", &EISAName::new("PNP0A03")),
            &capabilities(),
        ]),
    };
    device(
        "PCI0",
        &[
            &identity,
            &name("_UID", &ZERO),
            &name("_BBN", &ZERO),
            &name("_CRS", &resources),
            &routing::table(hardware.machine),
            &isa_bridge(hardware),
        ],
    )
}

/// The last bus that configuration space in memory covers.
fn last_bus(hardware: &Hardware) -> u16 {
    hardware
        .ecam
        .map_or(0xff, |(_, size)| (size >> 20) as u16 - 1)
}

/// _OSC (ACPI 6.4, 6.2.11; PCI Firmware Specification 3.2, 4.5.1): whatever of PCI Express the system wants to control is its own.
fn capabilities() -> Raw {
    let (status, bits) = (Path::new("STAT"), Arg(3));
    // Bit 2: not this interface. Bit 3: not this revision.
    let wrong = |bit: &dyn Aml| join(&[&Or::new(&status, &status, bit)]);
    let (no_interface, no_revision) = (wrong(&4u8), wrong(&8u8));
    let interface = Uuid::new("33db4d5b-1ff7-401c-9657-7441c03dd766");
    let known = Equal::new(&Arg(0), &interface);
    let first = Equal::new(&Arg(1), &1u8);
    method(
        "_OSC",
        4,
        true,
        &[
            &CreateDWordField::new(&status, &bits, &ZERO),
            &If::new(
                &known,
                vec![&If::new(&first, vec![&Return::new(&bits)]), &no_revision],
            ),
            &Else::new(vec![&no_interface]),
            &Return::new(&bits),
        ],
    )
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

fn isa_bridge(hardware: &Hardware) -> Raw {
    use ibmpc::*;
    let pm = (hardware.pm, hardware.machine.pm_ports());
    let address = u32::from(hardware.machine.isa_device()) << 16;
    let pnp = EISAName::new;
    let hpet = Memory32Fixed::new(false, HPET.0 as u32, HPET.1 as u32);
    device(
        "ISA_",
        &[
            &name("_ADR", &address),
            &routing::registers(hardware.machine),
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
                &[&io(PORT_61), &io(PORT_92), &io(SMI), &io(PIC_ELCR), &io(pm)],
            ),
        ],
    )
}
