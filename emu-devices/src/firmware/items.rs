//! What firmware in the guest is given by fw_cfg: memory, ACPI tables with the script that places them, SMBIOS.
//!
//! Source: QEMU docs/specs/fw_cfg.rst and hw/acpi/bios-linker-loader.c's comments for the names and the script's format; SeaBIOS
//! and OVMF read both. The firmware allocates the blobs, then adds their addresses to the fields that point into them, then
//! corrects the checksums.

use super::acpi::{self, RSDP_SIZE, TABLES_AT};
use super::{E820Kind, Hardware, ram_ranges, smbios};
use crate::chips::fw_cfg::FwCfg;

const TABLES: &str = "etc/acpi/tables";
const RSDP: &str = "etc/acpi/rsdp";
/// Firmware looks at the files' sizes at its start, before it maps what some tables describe: these have always the same.
const TABLES_SIZE: usize = 0x1_0000;
const SCRIPT_SIZE: usize = 0x1000;

/// Where the script wants a blob.
enum Zone {
    High = 1,
    /// E0000h..=FFFFFh, where the RSDP is looked for.
    FSegment = 2,
}

/// The script: commands of 128 bytes.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, number: u32, files: &[&str], numbers: &[u32], last: Option<u8>) {
        let end = self.0.len() + 128;
        self.0.extend(number.to_le_bytes());
        for file in files {
            let at = self.0.len();
            self.0.extend(file.bytes());
            self.0.resize(at + 56, 0);
        }
        for n in numbers {
            self.0.extend(n.to_le_bytes());
        }
        self.0.extend(last);
        self.0.resize(end, 0);
    }
    fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        self.command(1, &[file], &[align], Some(zone as u8));
    }
    fn add_pointer(&mut self, to: &str, from: &str, at: usize, size: u8) {
        self.command(2, &[to, from], &[at as u32], Some(size));
    }
    fn add_checksum(&mut self, file: &str, at: usize, start: usize, length: usize) {
        self.command(3, &[file], &[at as u32, start as u32, length as u32], None);
    }
}

/// Adds all of it. May be called again when something has moved.
pub fn add_items(cfg: &mut FwCfg, hardware: &Hardware) {
    let mut map = Vec::new();
    for range in ram_ranges(hardware) {
        map.extend(range.addr.to_le_bytes());
        map.extend(range.size.to_le_bytes());
        map.extend((E820Kind::Usable as u32).to_le_bytes());
    }
    cfg.add_file("etc/e820", map);

    // Relative to the tables' own blob, which begins behind the RSDP.
    let built = acpi::tables((TABLES_AT as u64).wrapping_neg(), hardware);
    let mut script = Script::default();
    script.allocate(RSDP, 16, Zone::FSegment);
    script.allocate(TABLES, 64, Zone::High);
    for p in &built.pointers {
        match p.at.checked_sub(TABLES_AT) {
            None => script.add_pointer(RSDP, TABLES, p.at, p.size),
            Some(at) => script.add_pointer(TABLES, TABLES, at, p.size),
        }
    }
    for &(start, length) in &built.summed {
        let start = start - TABLES_AT;
        script.add_checksum(TABLES, start + 9, start, length);
    }
    script.add_checksum(RSDP, 8, 0, 20);
    script.add_checksum(RSDP, 32, 0, RSDP_SIZE);
    cfg.add_file(RSDP, built.blob[..RSDP_SIZE].to_vec());
    let padded = |bytes: &[u8], size: usize| {
        let mut file = bytes.to_vec();
        file.resize(size.max(bytes.len()), 0);
        file
    };
    cfg.add_file(TABLES, padded(&built.blob[TABLES_AT..], TABLES_SIZE));
    // Nothing is asked by a command 0.
    cfg.add_file("etc/table-loader", padded(&script.0, SCRIPT_SIZE));

    let table = smbios::table(0, hardware);
    cfg.add_file(
        "etc/smbios/smbios-anchor",
        table[smbios::OLD_ENTRY].to_vec(),
    );
    cfg.add_file(
        "etc/smbios/smbios-tables",
        table[smbios::TABLE_AT..].to_vec(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::chipset::Model;

    fn file(cfg: &mut FwCfg, name: &str) -> Vec<u8> {
        cfg.file(name).expect("there").to_vec()
    }

    fn u32_at(b: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn sizes_stay_when_things_move() {
        for cpus in [1, 255] {
            let mut q35 = Hardware::preset(Model::Q35, 1 << 30, cpus);
            let mut sizes = Vec::new();
            for ecam in [
                None,
                Some((0xe000_0000, 256 << 20)),
                Some((1 << 30, 64 << 20)),
            ] {
                let mut cfg = FwCfg::new(1 << 30, 1);
                q35.ecam = ecam;
                add_items(&mut cfg, &q35);
                sizes.push([TABLES, RSDP, "etc/table-loader"].map(|f| file(&mut cfg, f).len()));
            }
            assert_eq!(sizes, [[TABLES_SIZE, RSDP_SIZE, SCRIPT_SIZE]; 3]);
        }
    }

    /// SeaBIOS takes an entry point of 31 bytes, whose table begins at 0, and moves both.
    #[test]
    fn smbios_comes_with_its_32_bit_entry_point() {
        let mut cfg = FwCfg::new(1 << 30, 1);
        add_items(&mut cfg, &Hardware::preset(Model::I440fx, 1 << 30, 1));
        let anchor = file(&mut cfg, "etc/smbios/smbios-anchor");
        let sum = |b: &[u8]| b.iter().fold(0u8, |s, &b| s.wrapping_add(b));
        assert_eq!((anchor.len(), &anchor[..4]), (31, &b"_SM_"[..]));
        assert_eq!((sum(&anchor), sum(&anchor[16..])), (0, 0));
        let length = u16::from_le_bytes([anchor[22], anchor[23]]);
        let tables = file(&mut cfg, "etc/smbios/smbios-tables");
        assert_eq!(tables.len(), usize::from(length));
    }

    /// Does what firmware does with the script, and finds tables that are right where they ended up.
    #[test]
    fn the_script_moves_the_tables() {
        let mut cfg = FwCfg::new(512 << 20, 1);
        let hardware = Hardware {
            pm: 0xb000,
            ..Hardware::preset(Model::I440fx, 512 << 20, 1)
        };
        add_items(&mut cfg, &hardware);
        let script = file(&mut cfg, "etc/table-loader");
        let mut blobs = [file(&mut cfg, RSDP), file(&mut cfg, TABLES)];
        let bases = [0xf_1230u64, 0x1fe0_0040];
        let which = |name: &[u8]| usize::from(name.starts_with(TABLES.as_bytes()));
        for c in script.chunks(128) {
            let f = which(&c[4..60]);
            match u32_at(c, 0) {
                1 => assert_eq!(bases[f] % u64::from(u32_at(c, 60)), 0),
                2 => {
                    let (at, size) = (u32_at(c, 116) as usize, c[120] as usize);
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(&blobs[f][at..at + size]);
                    let from = which(&c[60..116]);
                    assert!(u64::from_le_bytes(value) < blobs[from].len() as u64);
                    let value = (u64::from_le_bytes(value) + bases[from]).to_le_bytes();
                    blobs[f][at..at + size].copy_from_slice(&value[..size]);
                }
                3 => {
                    let [at, start, n] = [60, 64, 68].map(|i| u32_at(c, i) as usize);
                    let sum = acpi::checksum(&blobs[f][start..start + n]);
                    blobs[f][at] = blobs[f][at].wrapping_add(sum);
                }
                0 => assert_eq!(c, [0; 128]),
                n => panic!("command {n}"),
            }
        }
        assert_eq!(acpi::checksum(&blobs[0]), 0);
        let table = |addr: u32| {
            let t = &blobs[1][(u64::from(addr) - bases[1]) as usize..];
            &t[..u32_at(t, 4) as usize]
        };
        let xsdt = table(u32_at(&blobs[0], 24));
        let fadt = table(u32_at(xsdt, 36));
        let dsdt = table(u32_at(fadt, 140));
        for (t, name) in [(xsdt, b"XSDT"), (fadt, b"FACP"), (dsdt, b"DSDT")] {
            assert_eq!((&t[..4], acpi::checksum(t)), (&name[..], 0));
        }
        assert_eq!(u32_at(fadt, 76), 0xb008, "PM timer block");
        assert_eq!(&table(u32_at(fadt, 36))[..4], b"FACS");
    }
}
