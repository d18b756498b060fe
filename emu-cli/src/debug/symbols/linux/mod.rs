//! Linux kernels: symbols from a kernel's own tables, where KASLR has put it, and its modules.
//!
//! A distribution's kernel has no symbol table and no frame pointers, and its debugging information is a gigabyte that nobody has at
//! hand. But the bzImage has all that is needed: unpacked ([`bzimage`]) it is an ELF file with the names that the
//! kernel itself prints ([`kallsyms`](mod@kallsyms)), its unwinder's tables ([`Orc`](super::unwind::Orc)) and its
//! types ([`Btf`]).

mod btf;
mod bzimage;
mod kallsyms;
mod modules;
mod slide;

pub use btf::Btf;
pub use bzimage::{extract_vmlinux, is_bzimage};
pub use kallsyms::{Known, kallsyms};
pub use modules::{Loaded, modules, symbols_of};
pub use slide::{Hints, find_slide, is_kernel};

use super::elf;
use super::module::{Builder, Entry, Module};
use super::text;
use object::read::{Object as _, ObjectSection as _};

/// The module of a compressed kernel.
pub fn load_bzimage(image: &[u8], name: &str) -> Result<Module, String> {
    load_vmlinux(&extract_vmlinux(image)?, name)
}

/// The module of a kernel that has been stripped, from its kallsyms; sections and unwinding tables as the ELF file has them.
pub fn load_vmlinux(vmlinux: &[u8], name: &str) -> Result<Module, String> {
    let mut parts = elf::parse(vmlinux, &[])?;
    add_kallsyms(&mut parts.builder, vmlinux)?;
    let mut module = parts.build(name);
    module.banner = banner(vmlinux);
    Ok(module)
}

/// Where the kernel's banner is: without CONFIG_KALLSYMS_ALL no symbol says so.
fn banner(vmlinux: &[u8]) -> Option<u64> {
    let object = object::read::File::parse(vmlinux).ok()?;
    let rodata = object.section_by_name(".rodata")?;
    let text = b"Linux version ";
    let data = rodata.data().ok()?;
    let fits = |w: &[u8]| w.starts_with(text) && w[text.len()].is_ascii_digit();
    let at = data.windows(text.len() + 1).position(fits)?;
    Some(rodata.address().wrapping_add(at as u64))
}

fn add_kallsyms(builder: &mut Builder, vmlinux: &[u8]) -> Result<(), String> {
    for known in kallsyms(vmlinux)? {
        let (kind, binding, absolute) = text::meaning(known.letter);
        builder.add(&Entry {
            name: &known.name,
            address: known.address,
            size: 0,
            kind,
            binding,
            absolute,
        });
    }
    text::percpu(builder);
    Ok(())
}

/// Whether a list of symbols is a kernel's.
pub fn is_kernel_list(list: &str) -> bool {
    let has = |name: &str| {
        list.lines()
            .any(|l| l.split_ascii_whitespace().nth(2) == Some(name))
    };
    has("_text") && has("start_kernel")
}

#[cfg(test)]
pub(super) mod tests;
