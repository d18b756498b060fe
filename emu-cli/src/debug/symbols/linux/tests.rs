//! Against Debian's kernels, from `images/fetch.sh out` (or the folder that `EMU_GUESTS` names).

use super::*;
use crate::debug::symbols::{Kind, Symbols};
use std::path::PathBuf;
use std::time::Instant;

/// A guest's kernel; `None`, and a line that says so, where nobody fetched it.
pub fn guest(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("EMU_GUESTS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../out")),
        PathBuf::from,
    );
    let path = folder.join(name);
    if !path.exists() {
        eprintln!("{} is missing: nothing was tested", path.display());
        return None;
    }
    Some(path)
}

/// A kernel's symbols, and its ELF file.
fn kernel(name: &str) -> Option<(Symbols, Vec<u8>)> {
    let path = guest(name)?;
    let start = Instant::now();
    let mut symbols = Symbols::default();
    symbols.add_file(&path, &[]).unwrap();
    println!("{name}: {:?}", start.elapsed());
    let vmlinux = extract_vmlinux(&std::fs::read(&path).unwrap()).unwrap();
    Some((symbols, vmlinux))
}

/// Bytes of an ELF file's memory at an address.
fn bytes(vmlinux: &[u8], at: u64, size: u64) -> Vec<u8> {
    use object::read::{File, Object, ObjectSegment};
    let file = File::parse(vmlinux).unwrap();
    let mut found = file
        .segments()
        .filter_map(|s| s.data_range(at, size).ok().flatten());
    found.next().unwrap().to_vec()
}

#[test]
fn a_bzimage_of_64_bits_knows_its_own_names() {
    let Some((symbols, vmlinux)) = kernel("vmlinuz-amd64") else {
        return;
    };
    let m = &symbols.modules()[0];
    assert!(m.len() > 80_000, "{}", m.len());
    assert_eq!(symbols.lookup("_text"), Some(0xffff_ffff_8100_0000));
    assert_eq!(m.sections()[0].name, ".text");
    assert_eq!(m.sections()[0].range.start, 0xffff_ffff_8100_0000);
    let at = |name: &str| symbols.lookup(name).unwrap_or_else(|| panic!("no {name}"));
    assert!(bytes(&vmlinux, at("linux_banner"), 14) == b"Linux version ");
    // entry_SYSCALL_64: [endbr64] swapgs; mov %rsp, gs:...
    let mut code = bytes(&vmlinux, at("entry_SYSCALL_64"), 16);
    if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) {
        code.drain(..4);
    }
    assert_eq!(code[..3], [0x0f, 0x01, 0xf8]);
    // The system calls' table begins with read, write, open, close.
    let table = bytes(&vmlinux, at("sys_call_table"), 32);
    let (table, _) = table.as_chunks::<8>();
    let names: Vec<&str> = (table.iter())
        .map(|p| symbols.find(u64::from_le_bytes(*p)).unwrap())
        .inspect(|f| assert_eq!((f.offset, f.kind), (0, Kind::Function)))
        .map(|f| f.name)
        .collect();
    let calls = [
        "__x64_sys_read",
        "__x64_sys_write",
        "__x64_sys_open",
        "__x64_sys_close",
    ];
    assert_eq!(names, calls);
    // Variables of each CPU are offsets, and no addresses.
    let percpu = at("__per_cpu_end");
    assert!(
        percpu < 0x10_0000 && at("cpu_number") < percpu,
        "{percpu:#x}"
    );
    assert_eq!(symbols.find(at("cpu_number")), None);
    assert_eq!(
        symbols.symbolize(at("start_kernel") + 0x12).as_deref(),
        Some("<start_kernel+0x12>")
    );
    let range = symbols.function_range(at("start_kernel") + 5).unwrap();
    assert!(range.start == at("start_kernel") && range.end > range.start + 100);
    // Each row of ORC begins in code that has a name.
    let orc = m.orc.as_ref().unwrap();
    assert!(orc.len() > 100_000);
    // From other sources: readelf -S says that .init.text begins with this page.
    assert_eq!(at("_sinittext"), 0xffff_ffff_8304_e000);
}

#[test]
fn a_bzimage_of_32_bits_knows_its_own_names() {
    for name in ["vmlinuz-686-pae", "vmlinuz-686"] {
        let Some((symbols, vmlinux)) = kernel(name) else {
            return;
        };
        assert!(symbols.modules()[0].len() > 30_000);
        let at = |name: &str| symbols.lookup(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(at("_text"), 0xc100_0000);
        // Without CONFIG_KALLSYMS_ALL it knows its functions only; the banner is found by its text.
        let m = &symbols.modules()[0];
        assert!(bytes(&vmlinux, m.banner.unwrap(), 14) == b"Linux version ");
        // What the ELF file says by itself: where it begins, and where sections do.
        let file = object::read::File::parse(&vmlinux[..]).unwrap();
        let entry = object::read::Object::entry(&file);
        assert_eq!(at("startup_32"), 0xc000_0000 + entry);
        let section = |name: &str| m.sections().iter().find(|s| s.name == name).unwrap();
        assert_eq!(at("_sinittext"), section(".init.text").range.start);
        assert_eq!(at("_etext"), section(".text").range.end);
        assert_eq!(
            symbols.find(at("start_kernel")).unwrap().name,
            "start_kernel"
        );
    }
}

#[test]
fn btf_says_where_members_are() {
    let Some((symbols, _)) = kernel("vmlinuz-amd64") else {
        return;
    };
    let btf = symbols.modules()[0].btf.as_ref().unwrap();
    assert_eq!(btf.offset("list_head", "next"), Some(0));
    assert_eq!(btf.offset("list_head", "prev"), Some(8));
    assert_eq!(btf.size("list_head"), Some(16));
    assert_eq!(btf.offset("pt_regs", "ip"), Some(16 * 8));
    // Members of anonymous structures, of structures in structures, and what is not there.
    assert!(btf.offset("page", "lru.prev").is_some_and(|o| o == 16));
    assert_eq!(btf.offset("module", "name"), Some(24));
    let core = btf.offset("module", "core_layout").unwrap();
    assert_eq!(btf.offset("module", "core_layout.size"), Some(core + 8));
    assert_eq!(btf.offset("module", "nonsense"), None);
    assert_eq!(btf.offset("nonsense", "name"), None);
}

/// The ELF file alone is as good.
#[test]
fn a_stripped_vmlinux() {
    let Some((symbols, vmlinux)) = kernel("vmlinuz-amd64") else {
        return;
    };
    let folder = crate::debug::symbols::tests::Folder::new();
    let path = folder.file("vmlinux", &vmlinux);
    let mut same = Symbols::default();
    assert_eq!(same.add_file(&path, &[]).unwrap(), ["vmlinux"]);
    assert_eq!(same.lookup("start_kernel"), symbols.lookup("start_kernel"));
    assert_eq!(same.modules()[0].len(), symbols.modules()[0].len());
}

/// Damage is an error, whatever is damaged: never a panic, never a long search.
#[test]
fn a_damaged_kernel_is_an_error() {
    let Some((symbols, vmlinux)) = kernel("vmlinuz-686-pae") else {
        return;
    };
    assert!(load_vmlinux(&vmlinux[..1 << 20], "cut").is_err());
    let names = kallsyms(&vmlinux).unwrap();
    assert!(names.iter().all(|n| !n.name.is_empty()));
    assert!(names.is_sorted_by_key(|n| n.address));
    assert!(names.len() >= symbols.modules()[0].len());
}

mod slide {
    use super::*;
    use crate::debug::symbols::{Binding, Builder, Entry, Module};

    fn module(width: u8, names: &[(&str, u64)]) -> Module {
        let mut b = Builder::default();
        for (name, address) in names {
            b.add(&Entry {
                name,
                address: *address,
                size: 0,
                kind: Kind::Function,
                binding: Binding::Global,
                absolute: false,
            });
        }
        b.build("vmlinux", width)
    }

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const BANNER: u64 = TEXT + 0x123_4560;
    const SYSCALL: u64 = TEXT + 0xa0_0080;
    const DIVIDE: u64 = TEXT + 0xa0_0900;
    const FAULT: u64 = TEXT + 0xa0_0ab0;
    const IDT: u64 = 0xffff_fe00_0000_0000;

    fn kernel() -> Module {
        module(
            8,
            &[
                ("_text", TEXT),
                ("linux_banner", BANNER),
                ("entry_SYSCALL_64", SYSCALL),
                ("asm_exc_divide_error", DIVIDE),
                ("asm_exc_page_fault", FAULT),
            ],
        )
    }

    fn gate64(entry: u64) -> [u8; 16] {
        let e = entry.to_le_bytes();
        let mut gate = [0; 16];
        gate[..8].copy_from_slice(&[e[0], e[1], 0x10, 0, 0, 0x8e, e[2], e[3]]);
        gate[8..12].copy_from_slice(&e[4..]);
        gate
    }

    /// Memory of these pieces; counts the questions.
    fn memory(pieces: Vec<(u64, Vec<u8>)>) -> impl FnMut(u64, &mut [u8]) -> bool {
        move |at, out| {
            pieces.iter().any(|(start, data)| {
                let from = at.wrapping_sub(*start);
                let part = usize::try_from(from)
                    .ok()
                    .and_then(|f| data.get(f..)?.get(..out.len()));
                part.inspect(|p| out.copy_from_slice(p)).is_some()
            })
        }
    }

    fn hints(lstar: u64) -> Hints {
        Hints {
            lstar,
            idt_base: IDT,
            idt_limit: 0xfff,
            long_mode: true,
        }
    }

    fn idt(slide: u64) -> (u64, Vec<u8>) {
        let mut idt = vec![0; 0x1000];
        idt[..16].copy_from_slice(&gate64(DIVIDE.wrapping_add(slide)));
        idt[14 * 16..15 * 16].copy_from_slice(&gate64(FAULT.wrapping_add(slide)));
        (IDT, idt)
    }

    #[test]
    fn from_the_cpu_proved_by_the_banner() {
        let slide = 0x3900_0000;
        let banner = (BANNER + slide, b"Linux version 6.1".to_vec());
        let mut read = memory(vec![banner.clone(), idt(slide)]);
        assert_eq!(
            find_slide(&kernel(), &mut read, hints(SYSCALL + slide)),
            Some(slide)
        );
        assert_eq!(find_slide(&kernel(), &mut read, hints(0)), Some(slide));
        // Another kernel's LSTAR does not fit; the search by the banner is still there.
        assert_eq!(
            find_slide(&kernel(), &mut read, hints(SYSCALL + slide + 64)),
            Some(slide)
        );
        let mut alone = memory(vec![banner]);
        assert_eq!(
            find_slide(&kernel(), &mut alone, Hints::default()),
            Some(slide)
        );
    }

    #[test]
    fn page_tables_without_the_banner() {
        let slide = 0x1a00_0000;
        // Three that agree.
        let mut read = memory(vec![idt(slide)]);
        assert_eq!(
            find_slide(&kernel(), &mut read, hints(SYSCALL + slide)),
            Some(slide)
        );
        // One alone is not believed.
        let mut nothing = memory(vec![]);
        assert_eq!(
            find_slide(&kernel(), &mut nothing, hints(SYSCALL + slide)),
            None
        );
        // Nor are those that agree, where something else is than the banner.
        let mut other = memory(vec![idt(slide), (BANNER + slide, vec![0; 64])]);
        assert_eq!(
            find_slide(&kernel(), &mut other, hints(SYSCALL + slide)),
            None
        );
    }

    #[test]
    fn a_kernel_that_is_not_there_yet() {
        let mut zeros = |_: u64, out: &mut [u8]| {
            out.fill(0);
            true
        };
        assert_eq!(find_slide(&kernel(), &mut zeros, hints(0)), None);
        let mut ready = memory(vec![(BANNER, b"Linux version 5.10".to_vec())]);
        assert_eq!(find_slide(&kernel(), &mut ready, Hints::default()), Some(0));
        // No banner's name, and nothing else.
        let bare = module(8, &[("_text", TEXT)]);
        assert_eq!(find_slide(&bare, &mut ready, hints(0)), None);
        let empty = Builder::default().build("empty", 8);
        assert_eq!(find_slide(&empty, &mut ready, hints(1)), None);
    }

    #[test]
    fn kernels_of_32_bits() {
        let kernel = module(
            4,
            &[
                ("_text", 0xc100_0000),
                ("linux_banner", 0xc190_0040),
                ("asm_exc_divide_error", 0xc180_0100),
            ],
        );
        let slide = 0x0c80_0000;
        let entry = (0xc180_0100u64 + slide).to_le_bytes();
        let gate = [entry[0], entry[1], 0x60, 0, 0, 0x8e, entry[2], entry[3]];
        let h = Hints {
            idt_base: 0xff80_0000,
            idt_limit: 0x7ff,
            ..Hints::default()
        };
        let banner = (0xc190_0040 + slide, b"Linux version ".to_vec());
        let mut read = memory(vec![(0xff80_0000, gate.to_vec()), banner.clone()]);
        assert_eq!(find_slide(&kernel, &mut read, h), Some(slide));
        let mut search = memory(vec![banner]);
        assert_eq!(find_slide(&kernel, &mut search, h), Some(slide));
        // A real-mode IDT at 0 has vectors and no gates.
        let mut bios = memory(vec![(0, vec![0xff; 0x400])]);
        let h = Hints {
            idt_limit: 0x3ff,
            ..Hints::default()
        };
        assert_eq!(find_slide(&kernel, &mut bios, h), None);
    }
}

mod list_of_modules {
    use super::*;
    use crate::debug::symbols::{Binding, Builder, Entry, Module};

    const HEAD: u64 = 0xffff_ffff_82c0_1000;
    /// Two modules; the `struct module` of each lies in its data, three pages from its beginning.
    const BASES: [u64; 2] = [0xffff_ffff_c000_0000, 0xffff_ffff_c001_0000];

    fn kernel() -> Module {
        let mut b = Builder::default();
        b.add(&Entry {
            name: "modules",
            address: HEAD,
            size: 0,
            kind: Kind::Data,
            binding: Binding::Local,
            absolute: false,
        });
        b.build("vmlinux", 8)
    }

    /// Guest memory in which the second module's `next` leads to `last`.
    fn memory(last: u64) -> impl FnMut(u64, &mut [u8]) -> bool {
        let at = BASES.map(|b| b + 0x3040);
        let mut words = std::collections::HashMap::new();
        words.insert(HEAD, at[0] + 8);
        for (i, next) in [(0, at[1] + 8), (1, last)] {
            words.insert(at[i] + 8, next);
            // struct module_layout, in which the name's eighth byte cannot be.
            words.insert(at[i] + 0x140, BASES[i]);
            words.insert(at[i] + 0x148, 0x3000 << 32 | 0x8000);
            words.insert(at[i] + 0x150, 0x4000);
        }
        words.insert(at[0] + 24, u64::from_le_bytes(*b"newest\0\0"));
        words.insert(at[1] + 24, u64::from_le_bytes(*b"oldest\0\0"));
        move |from, out| {
            for (i, b) in (0u64..).zip(out.iter_mut()) {
                let a = from.wrapping_add(i);
                let word = words.get(&(a & !7)).copied().unwrap_or(0);
                *b = word.to_le_bytes()[(a & 7) as usize];
            }
            true
        }
    }

    #[test]
    fn names_and_places_without_types() {
        let found = modules(&kernel(), &mut memory(HEAD));
        let told: Vec<_> = found
            .iter()
            .map(|m| (m.name.as_str(), m.base, m.size))
            .collect();
        assert_eq!(
            told,
            [("newest", BASES[0], 0x8000), ("oldest", BASES[1], 0x8000)]
        );
        // Nothing tells where their symbols are.
        assert!(symbols_of(&kernel(), &mut memory(HEAD), &found[0]).is_none());
    }

    #[test]
    fn a_list_that_makes_no_sense_is_none() {
        // Round without the head, and into nothing.
        for last in [BASES[0] + 0x3048, BASES[1] + 0x3048, 0, 0x1234] {
            assert_eq!(modules(&kernel(), &mut memory(last)), [], "{last:#x}");
        }
        let mut nothing = |_: u64, _: &mut [u8]| false;
        assert_eq!(modules(&kernel(), &mut nothing), []);
        let empty = Builder::default().build("vmlinux", 8);
        assert_eq!(modules(&empty, &mut memory(HEAD)), []);
    }
}
