//! Coverage as DynamoRIO's drcov writes it, version 2, which Lighthouse and its kin read: the modules, and the blocks of code that were
//! entered in each.
//!
//! Code in no module that is known goes by pieces of the address space: a module takes offsets of 32 bits.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// Code that lies together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub from: u64,
    /// Behind its last byte.
    pub to: u64,
    pub path: String,
}

/// Blocks farther apart belong to different pieces.
const GAP: u64 = 16 << 20;

/// Writes the blocks, by address and with their bytes.
pub fn write(
    to: &mut dyn Write,
    known: &[Module],
    blocks: &BTreeMap<u64, u64>,
) -> io::Result<usize> {
    let mut modules: Vec<Module> = Vec::new();
    let mut table = Vec::new();
    for (&at, &bytes) in blocks {
        let end = at.saturating_add(bytes);
        let home = |m: &Module| (m.from..m.to).contains(&at);
        let n = match modules.iter().position(home) {
            Some(n) => n,
            None => {
                if let Some(m) = known.iter().find(|m| home(m) && m.to - m.from <= 1 << 32) {
                    modules.push(m.clone());
                } else if let Some(last) = modules.last_mut().filter(|m| {
                    m.path.starts_with('[')
                        && at.wrapping_sub(m.to) < GAP
                        && end - m.from < 1 << 32
                        && !known.iter().any(|k| k.from < end && m.to < k.to)
                }) {
                    last.to = end.next_multiple_of(4096).max(end);
                } else {
                    let from = at & !0xfff;
                    modules.push(Module {
                        from,
                        to: end.checked_next_multiple_of(4096).unwrap_or(u64::MAX),
                        path: format!("[{from:#x}]"),
                    });
                }
                modules.len() - 1
            }
        };
        let offset = (at - modules[n].from) as u32;
        table.extend(offset.to_le_bytes());
        table.extend((bytes.min(0xffff) as u16).to_le_bytes());
        table.extend((n as u16).to_le_bytes());
    }
    writeln!(to, "DRCOV VERSION: 2\nDRCOV FLAVOR: emu")?;
    writeln!(to, "Module Table: version 2, count {}", modules.len())?;
    writeln!(
        to,
        "Columns: id, base, end, entry, checksum, timestamp, path"
    )?;
    for (n, m) in modules.iter().enumerate() {
        writeln!(
            to,
            "{n:3}, {:#018x}, {:#018x}, {:#018x}, 0x00000000, 0x00000000, {}",
            m.from, m.to, 0, m.path
        )?;
    }
    writeln!(to, "BB Table: {} bbs", blocks.len())?;
    to.write_all(&table)?;
    to.flush()?;
    Ok(blocks.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format as DynamoRIO's documentation of drcov has it: a text header, then start, size and module of each block.
    #[test]
    fn blocks_of_modules_and_of_none() {
        let known = [Module {
            from: 0xffff_ffff_8100_0000,
            to: 0xffff_ffff_8200_0000,
            path: "vmlinux".into(),
        }];
        let blocks = BTreeMap::from([
            (0x1000, 5),
            (0x1100, 7),
            (0x7f00_0000_0010, 3),
            (0xffff_ffff_8100_0123, 9),
        ]);
        let mut out = Vec::new();
        assert_eq!(write(&mut out, &known, &blocks).unwrap(), 4);
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<&str> = text.lines().take(8).collect();
        assert_eq!(lines[2], "Module Table: version 2, count 3");
        assert_eq!(
            lines[4],
            "  0, 0x0000000000001000, 0x0000000000002000, 0x0000000000000000, 0x00000000, 0x00000000, [0x1000]"
        );
        assert!(lines[5].ends_with("[0x7f0000000000]"));
        assert!(lines[6].ends_with("vmlinux"));
        assert_eq!(lines[7], "BB Table: 4 bbs");
        let table = &out[out.len() - 32..];
        assert_eq!(&table[..8], [0, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(&table[8..16], [0, 1, 0, 0, 7, 0, 0, 0]);
        assert_eq!(&table[16..24], [0x10, 0, 0, 0, 3, 0, 1, 0]);
        assert_eq!(&table[24..], [0x23, 1, 0, 0, 9, 0, 2, 0]);
    }
}
