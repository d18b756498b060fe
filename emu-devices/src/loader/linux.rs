//! Linux bzImage (Documentation/arch/x86/boot.rst, protocol 2.00 on).
//!
//! The protected-mode part goes to 1 MiB; "zero page" (boot_params), command line, GDT and page tables go low, the initrd as
//! high as the kernel allows. A kernel with a 64-bit entry starts there in long mode with the first 4 GiB mapped one to
//! one; any other in flat 32-bit protected mode. The 16-bit part of the file is read, not run.

use super::space::Space;
use super::{
    Boot, CpuStart, File, LoadError, c_string, claim, le16, le32, le64, place_low, place_module,
    put,
};
use crate::firmware::Firmware;
use emu_core::cpu::cpuid::CpuModel;
use emu_core::cpu::segment::TableReg;
use emu_core::mem::phys::Ram;
use emu_core::vcpu::reg;

/// Offsets in the setup header, the same in the file and in boot_params.
mod hdr {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const VID_MODE: usize = 0x1fa;
    pub const BOOT_FLAG: usize = 0x1fe;
    /// The displacement of the jump at 200h: where the header ends.
    pub const JUMP: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    pub const END: usize = 0x290;
}

/// Offsets in boot_params (Documentation/arch/x86/zero-page.rst).
mod params {
    /// screen_info: what the screen was left like.
    pub const VIDEO_MODE: usize = 0x06;
    pub const VIDEO_COLS: usize = 0x07;
    pub const VIDEO_EGA_BX: usize = 0x0a;
    pub const VIDEO_LINES: usize = 0x0e;
    pub const VIDEO_IS_VGA: usize = 0x0f;
    pub const VIDEO_POINTS: usize = 0x10;
    pub const ACPI_RSDP: usize = 0x70;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const E820_TABLE: usize = 0x2d0;
    pub const E820_MOST: usize = 128;
    pub const SIZE: usize = 0x1000;
}

const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;
const XLF_KERNEL_64: u16 = 1;
/// "A loader without an id of its own".
const LOADER_UNDEFINED: u8 = 0xff;
/// Where the protected-mode part is loaded.
const KERNEL: u64 = 0x10_0000;
/// The 64-bit entry lies behind the 32-bit one.
const ENTRY_64: u64 = 0x200;

pub(super) fn is_bzimage(b: &[u8]) -> bool {
    le16(b, hdr::BOOT_FLAG) == Some(0xaa55) && b.get(hdr::MAGIC..hdr::MAGIC + 4) == Some(b"HdrS")
}

/// What the setup header says, checked.
struct Header<'a> {
    version: u16,
    setup: &'a [u8],
    /// The protected-mode part.
    code: &'a [u8],
    entry_64: bool,
    initrd_addr_max: u64,
    cmdline_size: usize,
    /// The end of what the kernel uses before it reads the memory map.
    init_end: u64,
}

impl<'a> Header<'a> {
    fn read(file: File<'a>) -> Result<Self, LoadError> {
        let b = file.bytes;
        let truncated = |what, needs: u64| LoadError::Truncated {
            file: file.name.into(),
            what,
            needs,
            has: b.len() as u64,
        };
        let field = |what, value: u64, why| LoadError::Field {
            file: file.name.into(),
            what,
            value,
            why,
        };
        let short = || truncated("the setup header", hdr::END as u64);
        let version = le16(b, hdr::VERSION).ok_or_else(short)?;
        if version < 0x202 {
            let why = "is not supported (0x202 and later are)";
            return Err(field("the boot protocol", u64::from(version), why));
        }
        // The file has all of the header, even one written when the header was shorter.
        if b.len() < hdr::END {
            return Err(short());
        }
        if b[hdr::LOADFLAGS] & LOADED_HIGH == 0 {
            return Err(LoadError::Unsupported {
                file: file.name.into(),
                why: "a zImage, which loads below 1 MiB, is not supported (a bzImage is)",
            });
        }
        let header_end = hdr::MAGIC + usize::from(b[hdr::JUMP]);
        if !(0x22c..=hdr::END).contains(&header_end) {
            let why = "is not where a setup header can end: the file is damaged";
            return Err(field("the header's end", header_end as u64, why));
        }
        let sectors = match b[hdr::SETUP_SECTS] {
            0 => 4,
            n => usize::from(n),
        };
        let at = (sectors + 1) * 512;
        let size = u64::from(le32(b, hdr::SYSSIZE).ok_or_else(short)?) * 16;
        let code = b.get(at..).unwrap_or_default();
        // The size is rounded up to paragraphs.
        if size == 0 || (code.len() as u64) + 15 < size {
            let end = at as u64 + size;
            return Err(truncated("the kernel", end.max(at as u64 + 1)));
        }
        let since = |v: u16, at: usize| version >= v && at + 4 <= header_end;
        let word = |v, at: usize, or: u32| {
            if since(v, at) {
                le32(b, at).unwrap_or(or)
            } else {
                or
            }
        };
        let payload = u64::from(word(0x208, hdr::PAYLOAD_OFFSET, 0))
            + u64::from(word(0x208, hdr::PAYLOAD_OFFSET + 4, 0));
        if payload > code.len() as u64 {
            return Err(truncated("the compressed kernel", at as u64 + payload));
        }
        let init_size = u64::from(word(0x20a, hdr::INIT_SIZE, 0));
        let pref = match since(0x20a, hdr::PREF_ADDRESS + 4) {
            true => le64(b, hdr::PREF_ADDRESS).unwrap_or(0),
            false => 0,
        };
        let code_end = KERNEL + code.len() as u64;
        Ok(Self {
            version,
            setup: &b[..header_end],
            code,
            entry_64: since(0x20c, hdr::XLOADFLAGS)
                && le16(b, hdr::XLOADFLAGS).unwrap_or(0) & XLF_KERNEL_64 != 0,
            initrd_addr_max: u64::from(word(0x203, hdr::INITRD_ADDR_MAX, 0x37ff_ffff)),
            cmdline_size: word(0x206, hdr::CMDLINE_SIZE, 255) as usize,
            init_end: code_end.max(pref.max(KERNEL).saturating_add(init_size)),
        })
    }
}

pub(super) fn load(
    ram: &Ram,
    model: &CpuModel,
    boot: &Boot,
    firmware: &Firmware,
    mut space: Space,
) -> Result<CpuStart, LoadError> {
    let file = boot.kernel;
    let h = Header::read(file)?;
    if h.entry_64 && !model.long {
        return Err(LoadError::NeedsLongMode {
            file: file.name.into(),
            model: model.name().into(),
        });
    }
    if boot.cmdline.len() > h.cmdline_size {
        return Err(LoadError::CommandLine {
            len: boot.cmdline.len(),
            limit: h.cmdline_size,
        });
    }
    if boot.modules.len() > 1 {
        return Err(LoadError::Unsupported {
            file: file.name.into(),
            why: "a Linux kernel takes one initrd",
        });
    }
    claim(
        &mut space,
        file.name,
        "the kernel",
        KERNEL,
        h.init_end - KERNEL,
    )?;
    put(ram, file.name, "the kernel", KERNEL, h.code)?;

    let mut p = vec![0; params::SIZE];
    p[hdr::SETUP_SECTS..h.setup.len()].copy_from_slice(&h.setup[hdr::SETUP_SECTS..]);
    let mut set = |at: usize, bytes: &[u8]| p[at..at + bytes.len()].copy_from_slice(bytes);
    set(hdr::VID_MODE, &0xffffu16.to_le_bytes()); // "normal"
    set(hdr::TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    set(hdr::LOADFLAGS, &[h.setup[hdr::LOADFLAGS] | CAN_USE_HEAP]);
    set(hdr::HEAP_END, &0xde00u16.to_le_bytes());
    if boot.text_screen {
        set(params::VIDEO_MODE, &[3]);
        set(params::VIDEO_COLS, &[80]);
        // Colour, 256 KiB: as INT 10h, AH = 12h, BL = 10h gives it.
        set(params::VIDEO_EGA_BX, &[3, 0]);
        set(params::VIDEO_LINES, &[25]);
        set(params::VIDEO_IS_VGA, &[1]);
        set(params::VIDEO_POINTS, &[16, 0]);
    }

    if let Some(initrd) = boot.modules.first() {
        if initrd.file.bytes.is_empty() {
            return Err(LoadError::Unsupported {
                file: initrd.file.name.into(),
                why: "the initrd is empty: leave --initrd out",
            });
        }
        let at = place_module(ram, &mut space, initrd, h.initrd_addr_max)?;
        set(hdr::RAMDISK_IMAGE, &(at as u32).to_le_bytes());
        set(
            hdr::RAMDISK_SIZE,
            &(initrd.file.bytes.len() as u32).to_le_bytes(),
        );
    }
    let cmdline = place_low(ram, &mut space, &c_string(boot.cmdline))?;
    set(hdr::CMD_LINE_PTR, &(cmdline as u32).to_le_bytes());
    if h.version >= 0x20e {
        set(params::ACPI_RSDP, &firmware.rsdp.0.to_le_bytes());
    }
    let map = &firmware.e820[..firmware.e820.len().min(params::E820_MOST)];
    set(params::E820_ENTRIES, &[map.len() as u8]);
    for (i, e) in map.iter().enumerate() {
        let at = params::E820_TABLE + 20 * i;
        set(at, &e.addr.to_le_bytes());
        set(at + 8, &e.size.to_le_bytes());
        set(at + 16, &(e.kind as u32).to_le_bytes());
    }
    let zero_page = place_low(ram, &mut space, &p)?;

    let gdt = CpuStart::gdt(h.entry_64);
    let gdtr = TableReg {
        base: place_low(ram, &mut space, &gdt)?,
        limit: gdt.len() as u16 - 1,
    };
    let mut start = if h.entry_64 {
        let cr3 = identity_tables(ram, &mut space)?;
        CpuStart::long(KERNEL + ENTRY_64, gdtr, cr3)
    } else {
        CpuStart::protected(KERNEL, gdtr)
    };
    start.gpr[reg::RSI] = zero_page;
    Ok(start)
}

/// Page tables that map the first 4 GiB one to one by 2 MiB pages; gives CR3.
fn identity_tables(ram: &Ram, space: &mut Space) -> Result<u64, LoadError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 0x80;
    let table = |entries: &mut dyn Iterator<Item = u64>| -> Vec<u8> {
        let mut bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    };
    let pages = table(&mut (0..4 * 512).map(|n| n << 21 | LARGE | PRESENT_WRITABLE));
    let directories = place_low(ram, space, &pages)?;
    let pointers = table(&mut (0..4).map(|n| (directories + n * 4096) | PRESENT_WRITABLE));
    let pointers = place_low(ram, space, &pointers)?;
    let root = table(&mut [pointers | PRESENT_WRITABLE].into_iter());
    place_low(ram, space, &root)
}
