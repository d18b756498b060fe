//! ACPI tables but for the DSDT: RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET, and MCFG where configuration space is in memory.
//!
//! Source: ACPI specification 6.4, chapter 5. All lie in one blob: the RSDP first, then the FACS at a multiple of 64, then
//! the others at multiples of 16.

use super::{Hardware, dsdt};
use crate::chips::acpi_pm::Layout;
use crate::ibmpc::{self, Window};
use crate::pci::chipset::Model;
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

pub(super) const OEM: [u8; 6] = *b"EMU   ";
pub(super) const TABLE: [u8; 8] = *b"EMUPC   ";
pub(super) const REVISION: u32 = 1;

/// MADT flags of an interrupt: bits 1:0 polarity (1 = high), 3:2 trigger (3 = level).
const LEVEL_HIGH: u16 = 0x0d;

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

/// The FACS, the first table, is this far from the RSDP.
pub(super) const TABLES_AT: usize = 64;
/// Bytes of the RSDP.
pub(super) const RSDP_SIZE: usize = 36;

/// A field that holds an address within the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    /// Its place in the blob.
    pub at: usize,
    /// 4 or 8 bytes.
    pub size: u8,
}

/// The tables, and what has to change when they move.
pub(super) struct Tables {
    pub blob: Vec<u8>,
    pub pointers: Vec<Pointer>,
    /// Begin and length of each table that has pointers and a checksum at byte 9.
    pub summed: Vec<(usize, usize)>,
}

/// The tables for address `base`, which may be relative to anything.
pub(super) fn tables(base: u64, hardware: &Hardware) -> Tables {
    let mut blob = vec![0; RSDP_SIZE];
    let mut place = |table: &[u8], align: usize| -> usize {
        blob.resize(blob.len().next_multiple_of(align), 0);
        let at = blob.len();
        blob.extend_from_slice(table);
        at
    };
    let addr = |at: usize| base.wrapping_add(at as u64);
    let facs = place(&bytes(&FACS::new()), 64);
    debug_assert_eq!(facs, TABLES_AT);
    let dsdt = place(&dsdt::dsdt(hardware), 16);
    let fadt_bytes = fadt(addr(facs), addr(dsdt), hardware);
    let fadt = place(&fadt_bytes, 16);
    let mut listed = vec![fadt, place(&madt(hardware), 16), place(&hpet(), 16)];
    if let Some(window) = hardware.ecam {
        listed.push(place(&mcfg(window), 16));
    }
    // Systems from before ACPI 2.0 know only the 32-bit list.
    let mut rsdt_table = Sdt::new(*b"RSDT", 36, 1, OEM, TABLE, REVISION);
    let mut xsdt_table = XSDT::new(OEM, TABLE, REVISION);
    for &at in &listed {
        rsdt_table.append_slice(&(addr(at) as u32).to_le_bytes());
        xsdt_table.add_entry(addr(at));
    }
    let xsdt_bytes = bytes(&xsdt_table);
    let rsdt = place(rsdt_table.as_slice(), 16);
    let xsdt = place(&xsdt_bytes, 16);
    let mut rsdp = bytes(&Rsdp::new(OEM, addr(xsdt)));
    rsdp[16..20].copy_from_slice(&(addr(rsdt) as u32).to_le_bytes());
    (rsdp[8], rsdp[32]) = (0, 0);
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    blob[..rsdp.len()].copy_from_slice(&rsdp);

    let field = |at, size| Pointer { at, size };
    let mut pointers = vec![field(16, 4), field(24, 8)];
    // ACPI 6.4, table 5.9: FIRMWARE_CTRL, DSDT, X_DSDT.
    pointers.extend([(36, 4), (40, 4), (140, 8)].map(|(at, size)| field(fadt + at, size)));
    for n in 0..listed.len() {
        pointers.extend([field(rsdt + 36 + 4 * n, 4), field(xsdt + 36 + 8 * n, 8)]);
    }
    let summed = vec![
        (fadt, fadt_bytes.len()),
        (rsdt, rsdt_table.as_slice().len()),
        (xsdt, xsdt_bytes.len()),
    ];
    Tables {
        blob,
        pointers,
        summed,
    }
}

/// The byte that makes the sum zero.
pub(super) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, &b| sum.wrapping_sub(b))
}

fn fadt(facs: u64, dsdt: u64, hardware: &Hardware) -> Vec<u8> {
    let pm = hardware.pm;
    let (gpe, gpe_bytes) = match hardware.machine {
        Model::I440fx => Layout::Piix4.gpe(),
        Model::Q35 => Layout::Ich9.gpe(),
    };
    let io = |port: u16, bytes: u8| {
        let access = match bytes {
            1 => AccessSize::ByteAccess,
            2 => AccessSize::WordAccess,
            _ => AccessSize::DwordAccess,
        };
        GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, port as u64)
    };
    let mut t = FADTBuilder::new(OEM, TABLE, REVISION)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton) // no fixed sleep button
        .flag(Flags::FixRtc) // the RTC does not wake
        .flag(Flags::ResetRegSup);
    t.firmware_ctrl = (facs as u32).into();
    t.dsdt = (dsdt as u32).into();
    t.x_dsdt = dsdt.into();
    t.sci_int = (ibmpc::IRQ_SCI as u16).into();
    t.smi_cmd = (ibmpc::SMI.0 as u32).into();
    t.acpi_enable = ibmpc::ACPI_ENABLE;
    t.acpi_disable = ibmpc::ACPI_DISABLE;
    t.pm1a_evt_blk = (pm as u32).into();
    t.pm1a_cnt_blk = (pm as u32 + 4).into();
    t.pm_tmr_blk = (pm as u32 + 8).into();
    t.gpe0_blk = u32::from(pm + gpe).into();
    (t.pm1_evt_len, t.pm1_cnt_len, t.pm_tmr_len) = (4, 2, 4);
    t.gpe0_blk_len = 2 * gpe_bytes as u8;
    t.x_pm1a_evt_blk = io(pm, 4);
    t.x_pm1a_evt_blk.access_size = AccessSize::WordAccess;
    t.x_pm1a_cnt_blk = io(pm + 4, 2);
    t.x_pm_tmr_blk = io(pm + 8, 4);
    t.x_gpe0_blk = io(pm + gpe, 2 * gpe_bytes as u8);
    t.x_gpe0_blk.access_size = AccessSize::ByteAccess;
    // No C2, no C3.
    t.p_lvl2_lat = 0xfff.into();
    t.p_lvl3_lat = 0xfff.into();
    t.century = crate::chips::mc146818::CENTURY;
    t.iapc_boot_arch = 0x3.into(); // legacy devices, 8042
    t.reset_reg = io(ibmpc::PCI_ADDRESS.0 + 1, 1);
    t.reset_value = 0x06;
    bytes(&t.finalize())
}

/// PCI Firmware Specification 3.2, 4.1.2: one segment, from bus 0 on.
fn mcfg((base, size): Window) -> Vec<u8> {
    let mut t = MCFG::new(OEM, TABLE, REVISION);
    t.add_ecam(base, 0, 0, ((size >> 20) - 1) as u8);
    bytes(&t)
}

fn madt(hardware: &Hardware) -> Vec<u8> {
    let mut t = Sdt::new(*b"APIC", 36, 4, OEM, TABLE, REVISION);
    t.append_slice(&(ibmpc::LAPIC.0 as u32).to_le_bytes());
    t.append_slice(&1u32.to_le_bytes()); // a pair of 8259s is there too
    for id in 0..hardware.cpus as u8 {
        t.append_slice(&bytes(&ProcessorLocalApic::new(
            id,
            id,
            EnabledStatus::Enabled,
        )));
    }
    t.append_slice(&bytes(&IoApic::new(0, ibmpc::IOAPIC.0 as u32, 0)));
    let mut source_override = |irq: u8, gsi: u8, flags: u16| {
        t.append_slice(&[2, 10, 0, irq]);
        t.append_slice(&(gsi as u32).to_le_bytes());
        t.append_slice(&flags.to_le_bytes());
    };
    source_override(ibmpc::IRQ_TIMER, ibmpc::GSI_TIMER, 0);
    // The ISA IRQs that are level-triggered.
    let levels: &[u8] = match hardware.machine {
        Model::I440fx => &[5, ibmpc::IRQ_SCI, 10, 11],
        Model::Q35 => &[ibmpc::IRQ_SCI],
    };
    for &irq in levels {
        source_override(irq, irq, LEVEL_HIGH);
    }
    // LINT1 of every processor is NMI.
    t.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    t.as_slice().to_vec()
}

fn hpet() -> Vec<u8> {
    let mut t = Sdt::new(*b"HPET", 36, 1, OEM, TABLE, REVISION);
    // The low half of the capabilities register.
    t.append_slice(&0x8086_a201u32.to_le_bytes());
    t.append_slice(&bytes(&GAS::new(
        AddressSpace::SystemMemory,
        64,
        0,
        AccessSize::Undefined,
        ibmpc::HPET.0,
    )));
    t.append_slice(&[0]); // number
    t.append_slice(&0x80u16.to_le_bytes()); // least ticks in periodic mode
    t.append_slice(&[0]);
    t.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const BASE: u64 = 0xe_0000;

    fn u32_at(b: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
    }

    /// The table at an address.
    fn table(blob: &[u8], addr: u64) -> &[u8] {
        let from = &blob[(addr - BASE) as usize..];
        &from[..u32_at(from, 4) as usize]
    }

    /// Follows RSDP -> XSDT -> all tables, and FADT -> DSDT.
    fn all(blob: &[u8]) -> Vec<&[u8]> {
        let xsdt = table(blob, u64::from_le_bytes(blob[24..32].try_into().unwrap()));
        let mut list: Vec<&[u8]> = xsdt[36..]
            .chunks(8)
            .map(|p| table(blob, u64::from_le_bytes(p.try_into().unwrap())))
            .collect();
        let dsdt = table(blob, u32_at(list[0], 40) as u64);
        list.extend([xsdt, dsdt]);
        list
    }

    fn hardware(machine: Model, cpus: usize) -> Hardware {
        Hardware::preset(machine, 512 << 20, cpus)
    }

    #[test]
    fn checksums_and_pointers() {
        for (machine, names) in [
            (
                Model::I440fx,
                &[b"FACP", b"APIC", b"HPET", b"XSDT", b"DSDT"][..],
            ),
            (
                Model::Q35,
                &[b"FACP", b"APIC", b"HPET", b"MCFG", b"XSDT", b"DSDT"],
            ),
        ] {
            let blob = tables(BASE, &hardware(machine, 3)).blob;
            assert_eq!(&blob[..8], b"RSD PTR ");
            assert_eq!(checksum(&blob[..20]), 0);
            assert_eq!(checksum(&blob[..36]), 0);
            let list = all(&blob);
            let found: Vec<&[u8]> = list.iter().map(|t| &t[..4]).collect();
            assert_eq!(found, names);
            for t in &list {
                assert_eq!(checksum(t), 0, "{:?}", std::str::from_utf8(&t[..4]));
            }
            let rsdt = table(&blob, u32_at(&blob, 16) as u64);
            assert_eq!(
                (&rsdt[..4], checksum(rsdt), rsdt.len()),
                (&b"RSDT"[..], 0, 36 + 4 * (names.len() - 2))
            );
            let facs = u32_at(list[0], 36) as u64;
            assert_eq!(facs % 64, 0);
            assert_eq!(&table(&blob, facs)[..4], b"FACS");
            assert_eq!(u32_at(list[0], 76), 0x608, "PM timer block");
            let (gpe, overrides) = match machine {
                Model::I440fx => ((0x60c, 4), 5),
                Model::Q35 => ((0x620, 16), 2),
            };
            assert_eq!((u32_at(list[0], 80), list[0][92]), gpe);
            assert_eq!(list[1].len(), 44 + 3 * 8 + 12 + overrides * 10 + 6);
        }
    }

    #[test]
    fn configuration_space_where_it_is() {
        let mut q35 = hardware(Model::Q35, 1);
        q35.ecam = Some((0xe_8000_0000, 64 << 20));
        let blob = tables(BASE, &q35).blob;
        let list = all(&blob);
        let allocation = &list[3][44..];
        assert_eq!(u32_at(allocation, 0), 0x8000_0000);
        assert_eq!(u32_at(allocation, 4), 0xe);
        assert_eq!(allocation[8..12], [0, 0, 0, 63]);
        q35.ecam = None;
        assert_eq!(all(&tables(BASE, &q35).blob).len(), 5);
    }

    /// Each table goes through ACPICA's disassembler and compiler without an error or a warning.
    #[test]
    fn iasl_accepts_the_tables() {
        if Command::new("iasl").arg("-v").output().is_err() {
            println!("skipped: iasl (acpica-tools) is not installed");
            return;
        }
        let dir = std::env::temp_dir().join(format!("emu-acpi-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for machine in [Model::I440fx, Model::Q35] {
            let blob = tables(BASE, &hardware(machine, 2)).blob;
            all(&blob).iter().for_each(|t| goes_through_iasl(t, &dir));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn goes_through_iasl(t: &[u8], dir: &std::path::Path) {
        let name = std::str::from_utf8(&t[..4]).unwrap().to_lowercase();
        std::fs::write(dir.join(format!("{name}.dat")), t).unwrap();
        let run = |args: &[&str]| {
            let out = Command::new("iasl")
                .args(args)
                .current_dir(dir)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned()
                + &String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "iasl {args:?}:\n{text}");
            text
        };
        let text = run(&["-d", &format!("{name}.dat")]);
        assert!(
            !text.contains("Error") && !text.contains("Invalid"),
            "{name}:\n{text}"
        );
        let text = run(&[&format!("{name}.dsl")]);
        let clean =
            text.contains("0 Errors, 0 Warnings") || name != "dsdt" && !text.contains("Warning");
        assert!(
            clean,
            "{name}:
{text}"
        );
    }
}
