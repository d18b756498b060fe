//! Where KASLR has put a kernel.
//!
//! The CPU knows some of the kernel's addresses: LSTAR is `entry_SYSCALL_64`, gates of the IDT are the exceptions' entries. One of them
//! less the symbol's address is the slide, if its low bits are 0; a second anchor proves it: `linux_banner` is a text that begins
//! with "Linux version ". Where the CPU gives nothing (another system, or too early), the places where
//! KASLR can put a kernel are searched for the banner.

use crate::debug::symbols::Read;
use crate::debug::symbols::module::Module;

/// CONFIG_PHYSICAL_ALIGN is 2 MiB or more on x86-64, and on 32 bits 8 KiB or more.
const ALIGN_64: u64 = 2 << 20;
const ALIGN_32: u64 = 8 << 10;
/// x86-64: KERNEL_IMAGE_SIZE below 0xffffffffc0000000. 32 bits: 512 MiB, the most that KASLR uses there.
const SPAN_64: u64 = 1 << 30;
const SPAN_32: u64 = 512 << 20;

const BANNER: &[u8] = b"Linux version ";

/// The names of a gate's entry: what it is called since 5.8, and before.
const GATES: [(u8, &[&str]); 4] = [
    (
        14,
        &["asm_exc_page_fault", "page_fault", "async_page_fault"],
    ),
    (0, &["asm_exc_divide_error", "divide_error"]),
    (3, &["asm_exc_int3", "int3"]),
    (13, &["asm_exc_general_protection", "general_protection"]),
];
const SYSCALL: [&str; 2] = ["entry_SYSCALL_64", "entry_SYSCALL_64_trampoline"];

/// What the CPU knows of the system that it runs. What is not known is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The MSR LSTAR.
    pub lstar: u64,
    pub idt_base: u64,
    pub idt_limit: u16,
    /// Gates have 16 bytes (EFER.LMA).
    pub long_mode: bool,
}

/// The slide of a kernel that is in memory; `None` if it is not there, or not yet.
pub fn find_slide(kernel: &Module, read: &mut Read, hints: Hints) -> Option<u64> {
    let wide = kernel.width == 8;
    let (align, mask) = if wide {
        (ALIGN_64, u64::MAX)
    } else {
        (ALIGN_32, u32::MAX.into())
    };
    // Each slide that something speaks for, and how many things do.
    let mut candidates: Vec<(u64, u32)> = Vec::new();
    let mut candidate = |there: u64, names: &[&str]| {
        for linked in names.iter().filter_map(|n| kernel.linked_address(n)) {
            let slide = there.wrapping_sub(linked) & mask;
            match candidates.iter_mut().find(|c| c.0 == slide) {
                Some(known) => known.1 += 1,
                None if slide.is_multiple_of(align) => candidates.push((slide, 1)),
                None => {}
            }
        }
    };
    if wide && hints.long_mode && hints.lstar != 0 {
        candidate(hints.lstar, &SYSCALL);
    }
    if hints.long_mode == wide {
        for (vector, names) in GATES {
            if let Some(entry) = gate(hints, vector, read) {
                candidate(entry, names);
            }
        }
    }
    candidates.push((0, 0));
    let mut judged = candidates
        .iter()
        .map(|c| (*c, proved(kernel, c.0, mask, read)));
    // With page-table isolation a program's page tables have the gates and the entries, but not the banner: then two that agree
    // are enough.
    let fits = |((_, votes), banner): &((u64, u32), Option<bool>)| banner.unwrap_or(*votes >= 2);
    if let Some(((slide, _), _)) = judged.find(fits) {
        return Some(slide);
    }
    let banner = banner(kernel)?;
    let text = kernel.linked_address("_text").unwrap_or(banner);
    let (floor, span) = if wide {
        (0xffff_ffff_8000_0000, SPAN_64)
    } else {
        // The kernel's half begins where it is linked, at CONFIG_PAGE_OFFSET.
        (text & !(SPAN_32 - 1), SPAN_32)
    };
    // 32 bits align by CONFIG_PHYSICAL_ALIGN, which nothing here tells; 2 MiB is its default (and what hugepages want).
    let step = ALIGN_64;
    (0..span / step)
        .map(|i| floor + i * step)
        .map(|at| at.wrapping_sub(text & !(step - 1)) & mask)
        .find(|slide| proved(kernel, *slide, mask, read) == Some(true))
}

/// Whether a module is a kernel that can be looked for.
pub fn is_kernel(m: &Module) -> bool {
    banner(m).is_some() && m.linked_address("start_kernel").is_some()
}

fn banner(kernel: &Module) -> Option<u64> {
    kernel.linked_address("linux_banner").or(kernel.banner)
}

/// Whether the banner is where this slide puts it; `None` if that cannot be read.
fn proved(kernel: &Module, slide: u64, mask: u64, read: &mut Read) -> Option<bool> {
    let banner = banner(kernel)?;
    let mut text = [0; BANNER.len()];
    read(banner.wrapping_add(slide) & mask, &mut text).then(|| text == *BANNER)
}

/// SDM Vol. 3A, 6.11 and 6.14.1: where a gate leads; `None` if it is not there.
fn gate(hints: Hints, vector: u8, read: &mut Read) -> Option<u64> {
    let size = if hints.long_mode { 16 } else { 8 };
    let offset = u64::from(vector) * size;
    if hints.idt_base == 0 || u64::from(hints.idt_limit) < offset + size - 1 {
        return None;
    }
    let mut gate = [0; 16];
    let gate_bytes = gate.get_mut(..size as usize)?;
    if !read(hints.idt_base.wrapping_add(offset), gate_bytes) {
        return None;
    }
    let present = gate[5] & 0x80 != 0;
    let interrupt = matches!(gate[5] & 0x1f, 0x0e | 0x0f);
    let low = u64::from(u16::from_le_bytes([gate[0], gate[1]]));
    let middle = u64::from(u16::from_le_bytes([gate[6], gate[7]]));
    let high = u64::from(u32::from_le_bytes([gate[8], gate[9], gate[10], gate[11]]));
    (present && interrupt).then_some(low | middle << 16 | high << 32)
}
