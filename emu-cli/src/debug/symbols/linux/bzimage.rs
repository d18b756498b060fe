//! A bzImage's payload: the kernel proper, as the ELF file that its boot stub would unpack.
//!
//! Documentation/x86/boot.rst: `payload_offset` and `payload_length` count from the protected-mode code, which follows the setup
//! sectors. The payload is compressed in one of seven ways; we know all but bzip2 and LZO, which no distribution chooses.
//! Behind the ELF file there may be relocations; they are left.

use std::io::Read;

/// An unpacked kernel. The largest of a distribution have 100 MiB.
const LARGEST: usize = 512 << 20;
/// What xz and LZMA may take to unpack.
const MEMORY_KIB: u32 = 512 << 10;

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Whether a file that begins so is a bzImage.
pub fn is_bzimage(start: &[u8]) -> bool {
    start.get(0x202..0x206) == Some(b"HdrS") && start.get(0x1fe..0x200) == Some(&[0x55, 0xaa])
}

/// The ELF file in a bzImage.
pub fn extract_vmlinux(image: &[u8]) -> Result<Vec<u8>, String> {
    if !is_bzimage(image) {
        return Err("no bzImage: it has no HdrS at 0x202".into());
    }
    let cut = || "a bzImage that has been cut short".to_string();
    let version = image.get(0x206..0x208).ok_or_else(cut)?;
    let version = u16::from_le_bytes([version[0], version[1]]);
    if version < 0x208 {
        return Err(format!(
            "a bzImage of boot protocol {}.{:02}: it does not say where its payload is (from 2.08 on it does)",
            version >> 8,
            version & 0xff
        ));
    }
    // boot.rst: 0 means 4.
    let sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let (offset, length) = word(image, 0x248).zip(word(image, 0x24c)).ok_or_else(cut)?;
    let start = ((sectors + 1) * 512)
        .checked_add(offset as usize)
        .ok_or_else(cut)?;
    let end = start.checked_add(length as usize).ok_or_else(cut)?;
    let payload = image.get(start..end).ok_or_else(cut)?;
    let unpacked = unpack(payload)?;
    if !unpacked.starts_with(b"\x7fELF") {
        return Err("a bzImage whose payload is no ELF file".into());
    }
    Ok(unpacked)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |how: &str, e: String| format!("its {how} payload does not unpack: {e}");
    let read = |how: &str, from: &mut dyn Read| {
        let mut all = Vec::new();
        let done = from.take(LARGEST as u64 + 1).read_to_end(&mut all);
        // What follows the stream (the size, which the build appends) may upset a decoder that has given everything.
        match done {
            Err(e) if !all.starts_with(b"\x7fELF") => return Err(failed(how, e.to_string())),
            _ if all.len() > LARGEST => return Err(failed(how, "too large".into())),
            _ => {}
        }
        Ok(all)
    };
    match payload {
        [0x1f, 0x8b, ..] => read("gzip", &mut flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(
            "xz",
            &mut lzma_rust2::XzReader::new_mem_limit(payload, false, MEMORY_KIB),
        ),
        [0x5d, 0, 0, ..] => {
            let lzma = lzma_rust2::LzmaReader::new_mem_limit(payload, MEMORY_KIB, None);
            read(
                "LZMA",
                &mut lzma.map_err(|e| failed("LZMA", e.to_string()))?,
            )
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let zstd = ruzstd::decoding::StreamingDecoder::new(payload);
            read(
                "zstd",
                &mut zstd.map_err(|e| failed("zstd", e.to_string()))?,
            )
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4(payload).map_err(|e| failed("LZ4", e.into())),
        [b'B', b'Z', b'h', ..] => Err("its payload is bzip2, which is not supported".into()),
        [0x89, b'L', b'Z', b'O', ..] => Err("its payload is LZO, which is not supported".into()),
        [0x7f, b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        _ => Err("its payload is of an unknown kind".into()),
    }
}

/// The "legacy" frame of lz4(1), which is what `lz4 -l` in the kernel's build makes: a magic, then blocks with their lengths. The last
/// word is the unpacked size.
fn lz4(payload: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    let mut at = 4;
    let end = payload.len().saturating_sub(4);
    while at < end {
        let length = word(payload, at).ok_or("cut short")? as usize;
        at += 4;
        if length == 0x184c_2102 {
            continue;
        }
        let block = at.checked_add(length).and_then(|to| payload.get(at..to));
        at += length;
        lz4_block(block.ok_or("cut short")?, &mut out)?;
    }
    Ok(out)
}

/// lz4_Block_format.md: literals and matches. Matches reach back within the block.
fn lz4_block(block: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let cut = "cut short";
    let start = out.len();
    let mut input = block.iter();
    while let Some(&token) = input.next() {
        let mut length = |nibble: u8| {
            let mut n = usize::from(nibble);
            if nibble == 15 {
                loop {
                    let more = *input.next().ok_or(cut)?;
                    n += usize::from(more);
                    if more != 255 {
                        break;
                    }
                }
            }
            Ok::<usize, &'static str>(n)
        };
        let literals = length(token >> 4)?;
        let rest = input.as_slice();
        let (now, rest) = rest.split_at_checked(literals).ok_or(cut)?;
        out.extend_from_slice(now);
        // The last sequence ends with its literals.
        let [low, high, rest @ ..] = rest else {
            return if rest.is_empty() { Ok(()) } else { Err(cut) };
        };
        input = rest.iter();
        let back = usize::from(u16::from_le_bytes([*low, *high]));
        let mut length = |nibble: u8| {
            let mut n = usize::from(nibble);
            if nibble == 15 {
                loop {
                    let more = *input.next().ok_or(cut)?;
                    n += usize::from(more);
                    if more != 255 {
                        break;
                    }
                }
            }
            Ok::<usize, &'static str>(n)
        };
        let mut left = length(token & 15)? + 4;
        let from = out
            .len()
            .checked_sub(back)
            .filter(|f| *f >= start && back != 0);
        let from = from.ok_or("a match from before the block")?;
        if out.len() + left > LARGEST {
            return Err("too large");
        }
        // A match may overlap what it makes: it repeats.
        while left > 0 {
            let now = left.min(out.len() - from);
            out.extend_from_within(from..from + now);
            left -= now;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_literals_matches_and_damage() {
        let mut out = Vec::new();
        // 2 literals, a match of 4+2 from 2 back, 1 literal.
        lz4_block(&[0x22, b'a', b'b', 2, 0, 0x10, b'!'], &mut out).unwrap();
        assert_eq!(out, b"abababab!");
        // 15+3 literals, a match of 19+1 one back.
        let mut block = vec![0xff, 3];
        block.extend([b'x'; 18]);
        block.extend([1, 0, 1, 0]);
        let mut out = Vec::new();
        lz4_block(&block, &mut out).unwrap();
        assert_eq!(out, vec![b'x'; 38]);
        for bad in [
            &[0x10][..],
            &[0xf0, 255],
            &[0x10, b'a', 1],
            &[0x10, b'a', 2, 0],
            &[0x10, b'a', 0, 0],
            &[0x1f, b'a', 1, 0],
        ] {
            assert!(lz4_block(bad, &mut Vec::new()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_said() {
        let mut image = vec![0; 0x400];
        assert!(extract_vmlinux(&image).is_err_and(|e| e.contains("HdrS")));
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206] = 7;
        image[0x207] = 2;
        assert!(extract_vmlinux(&image).is_err_and(|e| e.contains("protocol 2.07")));
        image[0x206] = 8;
        image[0x248..0x250].fill(0xff);
        assert!(extract_vmlinux(&image).is_err_and(|e| e.contains("cut short")));
        assert!(extract_vmlinux(&image[..0x206]).is_err());
        image[0x248..0x250].fill(0);
        image[0x1f1] = 1;
        assert!(extract_vmlinux(&image).is_err_and(|e| e.contains("unknown kind")));
        for (magic, said) in [
            (&b"BZh9"[..], "bzip2"),
            (b"\x89LZO", "LZO"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\x5d\0\0\0", "LZMA"),
            (b"\x02\x21\x4c\x18\xff\0\0\0\0\0\0\0", "LZ4"),
        ] {
            let e = unpack(magic).unwrap_err();
            assert!(e.contains(said), "{e}");
        }
    }
}
