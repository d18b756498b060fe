//! Against the kernel's own unwinder, and against gdb.

use super::*;
use crate::debug::symbols::linux::tests::guest;
use crate::debug::symbols::tests::{Folder, compile, output};
use crate::debug::symbols::{Binding, Builder, Entry, Kind};
use object::read::ObjectSegment as _;

/// Memory of these pieces.
fn memory(pieces: Vec<(u64, Vec<u8>)>) -> impl FnMut(u64, &mut [u8]) -> bool {
    move |at, out| {
        let part = pieces.iter().find_map(|(start, data)| {
            let from = usize::try_from(at.checked_sub(*start)?).ok()?;
            data.get(from..from.checked_add(out.len())?)
        });
        part.inspect(|p| out.copy_from_slice(p)).is_some()
    }
}

/// A kernel's symbols, if its file is the one of which the panic below was; `version` as its banner has it.
fn debian(name: &str, version: &str, slide: u64) -> Option<Symbols> {
    let path = guest(name)?;
    let mut symbols = Symbols::default();
    symbols.add_file(&path, &[]).unwrap();
    let image = std::fs::read(&path).unwrap();
    let vmlinux = crate::debug::symbols::linux::extract_vmlinux(&image).unwrap();
    if !vmlinux
        .windows(version.len())
        .any(|w| w == version.as_bytes())
    {
        eprintln!("{name} is not {version}: nothing was tested");
        return None;
    }
    symbols.module_mut("vmlinux").unwrap().set_slide(slide);
    Some(symbols)
}

fn told(frames: &[Frame], symbols: &Symbols) -> Vec<String> {
    frames
        .iter()
        .map(|f| symbols.symbolize(f.pc()).unwrap_or_default())
        .collect()
}

/// A panic without a root file system: the kernel printed what it found itself, with ORC.
#[test]
fn orc_as_the_kernel_has_it() {
    let Some(symbols) = debian(
        "vmlinuz-amd64",
        "Debian 6.1.192-2 (2026-11-16)",
        0x3900_0000,
    ) else {
        return;
    };
    let sp = 0xff3e_22d1_4001_3d98;
    let words: Vec<u8> = PANIC_64.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut read = memory(vec![(sp, words)]);
    let mut gpr = [0; 16];
    gpr[RSP] = sp;
    gpr[RBP] = 0xff3e_22d1_4001_3e10;
    let regs = Regs::new(Width::W64, 0xffff_ffff_ba9c_3638, gpr, 0, 0);
    let frames = backtrace(regs.clone(), &symbols, &mut read, DEEPEST);
    // From mount_block_root on these are the kernel's own lines.
    assert_eq!(
        told(&frames, &symbols),
        [
            "<delay_tsc+0x28>",
            "<panic+0x2e9>",
            "<mount_block_root+0x14e>",
            "<prepare_namespace+0x136>",
            "<kernel_init_freeable+0x250>",
            "<kernel_init+0x16>",
            "<ret_from_fork+0x22>",
        ]
    );
    assert!(frames[1..].iter().all(|f| f.how == How::Orc));
    assert_eq!(backtrace(regs.clone(), &symbols, &mut read, 3), frames[..3]);
}

/// The same on 32 bits, whose kernel has frame pointers.
#[test]
fn frame_pointers_as_the_kernel_has_them() {
    let name = "vmlinuz-686-pae";
    let Some(symbols) = debian(name, "Debian 6.1.176-1 (2026-07-02)", 0x300_0000) else {
        return;
    };
    let sp = 0xc111_bec8;
    let words: Vec<u8> = PANIC_32.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut read = memory(vec![(sp, words)]);
    let mut gpr = [0; 16];
    gpr[RSP] = sp;
    gpr[RBP] = 0xc111_bef0;
    let regs = Regs::new(Width::W32, 0xc48e_2733, gpr, 0, 0);
    let frames = backtrace(regs.clone(), &symbols, &mut read, DEEPEST);
    assert_eq!(
        told(&frames, &symbols),
        [
            "<delay_tsc+0x43>",
            "<__const_udelay+0x30>",
            "<panic+0x258>",
            "<mount_block_root+0x19e>",
            "<mount_root+0x120>",
            "<prepare_namespace+0x116>",
            "<kernel_init_freeable+0x1d8>",
            "<kernel_init+0x17>",
            "<ret_from_fork+0x1c>",
        ]
    );
    assert!(frames[1..].iter().all(|f| f.how == How::FramePointer));
}

/// The stack of a panic in Debian's kernel, from RSP on.
const PANIC_64: &[u64] = &[
    0xffffffffba9cd21a,
    0x10,
    0xff3e22d140013e20,
    0xff3e22d140013dc0,
    0x5e16dd8e829bc300,
    0x8,
    0xff3e22d140013e30,
    0x1,
    0xffffffffbb0b2a60,
    0x0,
    0xff3e22d140013cb8,
    0xff2ab257429d0000,
    0xff3e22d140013e30,
    0x8001,
    0xff2ab257429d0000,
    0x3,
    0xffffffffbc04fc4d,
    0xffbb0d6a400a7400,
    0xffffffffbb2cac9b,
    0x2d6e776f6e6b6e75,
    0x2c30286b636f6c62,
    0x2930,
    0x0,
    0x5e16dd8e829bc300,
    0x8,
    0xec,
    0xff2ab257412ab0c0,
    0xffffffffbc2501dc,
    0x0,
    0x0,
    0xffffffffbc04ff70,
    0x8,
    0xffffffffbc04f7df,
    0x1,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x0,
    0x5e16dd8e829bc300,
    0xffffffffbaa07a30,
    0x0,
    0x0,
    0x0,
    0xffffffffbaa07a46,
    0xffffffffba0032f2,
];
const PANIC_32: &[u32] = &[
    0x9edf0dad, 0x6, 0x9eb99463, 0x6, 0x274c04, 0x0, 0x0, 0x5dc, 0x0, 0x640, 0xc111bef8,
    0xc48e26a0, 0xc111bf10, 0xc48eb28e, 0x1, 0xc1cf1000, 0x0, 0x0, 0xc111bf64, 0xc4da56d3,
    0xc4b050a0, 0xc111bf34, 0xc4bb35d2, 0xc1cf1000, 0xc4b051f7, 0x8001, 0xcfda85a8, 0x6e6b6e75,
    0x2d6e776f, 0x636f6c62, 0x2c30286b, 0x2930, 0x0, 0x0, 0x0, 0x3dc92c3f, 0x0, 0xf4, 0xc1139e80,
    0xc111bf84, 0xc4da57fb, 0x68, 0xd8, 0xc4925b10, 0x8, 0xf4, 0xc1139e80, 0xc111bf8c, 0xc4da5919,
    0xc111bfa4, 0xc4da5280, 0xc4e6bba0, 0xc49264f0, 0x0, 0x0, 0xc111bfac, 0xc4926507, 0x4111bfb4,
    0xc4001784,
];

/// ORC's tables in one of the two encodings: from, offsets, bases, and the type (call, registers, IRET).
fn orc(rows: &[(u64, i16, i16, u8, u8, u8)], new: bool) -> (Vec<u8>, Vec<u8>) {
    const AT: u64 = 0x9000;
    let mut ip = Vec::new();
    let mut entries = Vec::new();
    for (i, (from, sp_offset, bp_offset, sp, bp, kind)) in rows.iter().enumerate() {
        ip.extend((*from as i32 - (AT as i32 + 4 * i as i32)).to_le_bytes());
        entries.extend(sp_offset.to_le_bytes());
        entries.extend(bp_offset.to_le_bytes());
        // In the new encoding undefined and outermost come first.
        let kind = if new { kind + 2 } else { *kind };
        entries.extend((u16::from(*sp) | u16::from(*bp) << 4 | u16::from(kind) << 8).to_le_bytes());
    }
    (ip, entries)
}

/// A module of functions at these addresses.
fn functions(names: &[(&str, u64)]) -> crate::debug::symbols::Module {
    let mut b = Builder::default();
    for (name, address) in names {
        b.add(&Entry {
            name,
            address: *address,
            size: 0x100,
            kind: Kind::Function,
            binding: Binding::Global,
            absolute: false,
        });
    }
    b.build("vmlinux", 8)
}

#[test]
fn all_kinds_of_orc_rows() {
    let (sp, bp, prev, sp_indirect, bp_indirect, r10) = (5, 4, 1, 9, 8, 6);
    let rows = [
        (0x1000, 16, -16, sp, prev, 0),
        (0x1100, 16, -16, bp, prev, 0),
        (0x1200, 8, 0, sp_indirect, 0, 0),
        (0x1300, -8, 0, bp_indirect, 0, 0),
        (0x1400, 0, 0, r10, 0, 0),
        (0x1500, 8, 0, sp, 0, 1),
        (0x1600, 24, 0, sp, 0, 2),
        (0x1700, 8, 0, sp, 0, 0),
        (0x1800, 8, 0, sp, 0, 0),
    ];
    for new in [false, true] {
        let (ip, entries) = orc(&rows, new);
        let mut m = functions(&[
            ("by_sp", 0x1000),
            ("by_bp", 0x1100),
            ("by_sp_indirect", 0x1200),
            ("by_bp_indirect", 0x1300),
            ("by_r10", 0x1400),
            ("registers", 0x1500),
            ("iret", 0x1600),
            ("plain", 0x1700),
        ]);
        m.orc = Orc::new(0x9000, &ip, &entries);
        let mut symbols = Symbols::default();
        symbols.add(m);
        // Each word of the stack is its own number, but where something else is said.
        const STACK: u64 = 0x7000;
        let step = |pc: u64, words: &[(u64, u64)]| {
            let mut stack: Vec<u8> = (0..64u64)
                .flat_map(|i| (0x1700 + i).to_le_bytes())
                .collect();
            for (at, word) in words {
                let at = (at - STACK) as usize;
                stack[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            let mut gpr = [0; 16];
            gpr[RSP] = STACK;
            gpr[RBP] = STACK + 0x40;
            gpr[10] = STACK + 0x80;
            let regs = Regs::new(Width::W64, pc, gpr, 0, 0);
            let frame = caller(&regs, &symbols, &mut memory(vec![(STACK, stack)]))?;
            assert_eq!(frame.how, How::Orc);
            Some((
                frame.pc(),
                frame.sp()?,
                frame.regs.gpr[RBP]?,
                frame.regs.exact,
            ))
        };
        let at = |i: u64| 0x1700 + i;
        assert_eq!(step(0x1010, &[]), Some((at(1), STACK + 16, at(0), false)));
        assert_eq!(step(0x1110, &[]), Some((at(9), STACK + 0x50, at(8), false)));
        // The caller's stack pointer is on this stack.
        let kept = STACK + 0x40;
        assert_eq!(
            step(0x1210, &[(STACK, STACK + 0x20)]),
            Some((at(4), STACK + 0x28, kept, false))
        );
        assert_eq!(
            step(0x1310, &[(STACK + 0x38, STACK + 0x60)]),
            Some((at(11), STACK + 0x60, kept, false))
        );
        assert_eq!(step(0x1410, &[]), Some((at(15), STACK + 0x80, kept, false)));
        // struct pt_regs begins at RSP + 8: RBP is its fifth word, RIP its 17th, RSP its 20th.
        assert_eq!(
            step(0x1510, &[(STACK + 8 + 19 * 8, STACK + 0x100)]),
            Some((at(1 + 16), STACK + 0x100, at(1 + 4), true))
        );
        assert_eq!(
            step(0x1610, &[(STACK + 24 + 24, STACK + 0x108)]),
            Some((at(3), STACK + 0x108, kept, true))
        );
        // A return into nothing that is known ends the list, and so does one to nowhere.
        assert_eq!(step(0x1410, &[(STACK + 0x78, 0x5000)]), None);
        assert_eq!(step(0x1710, &[(STACK, 0)]), None);
    }
    // The sections of two files.
    let (ip, entries) = orc(&rows, true);
    assert!(Orc::new(0, &ip[4..], &entries).is_none());
    assert!(Orc::new(0, &ip, &entries[1..]).is_none());
    assert!(Orc::new(0, &[], &[]).is_none());
}

const CALLS: &str = r#"
int depth;
#ifdef BARE
__asm__(".globl _start\n_start: xor %ebp, %ebp\n call main\n hlt");
#endif
__attribute__((noinline)) int leaf(int x)
{
    volatile int a[4] = { x, x + 1, x + 2, x + 3 };
    depth += a[x & 3];
    return a[0] * 3;
}
__attribute__((noinline)) int middle(int x)
{
    volatile char room[200];
    room[x] = x;
    return leaf(x + room[x]) + x;
}
__attribute__((noinline)) int down(int n)
{
    if (n == 0)
        return middle(1);
    return down(n - 1) * 2 + n;
}
int main(void)
{
    return down(5);
}
"#;

/// What gdb sees at each instruction from the leaf on: registers, the stack, and the frames' addresses.
const SCRIPT: &str = r#"
import gdb
names = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
mask = (1 << 64) - 1
if int(gdb.parse_and_eval("sizeof(void*)")) == 4:
    names = "eax ecx edx ebx esp ebp esi edi".split()
    mask = (1 << 32) - 1
for i in range(STEPS):
    pc = int(gdb.parse_and_eval("$pc")) & mask
    regs = [int(gdb.parse_and_eval("$" + n)) & mask for n in names]
    stack = bytes(gdb.selected_inferior().read_memory(regs[4] - 128, 0x480)).hex()
    pcs = []
    f = gdb.newest_frame()
    while f:
        pcs.append("%x" % (f.pc() & mask))
        if f.name() == "main":
            break
        f = f.older()
    print("@", "%x" % pc, ",".join("%x" % r for r in regs), stack, ",".join(pcs))
    gdb.execute("stepi", to_string=True)
"#;

fn as_gdb_says(options: &[&str], steps: usize, how: How) {
    let folder = Folder::new();
    let Some(path) = compile(&folder, CALLS, options) else {
        return;
    };
    let script = folder.file("script.py", SCRIPT.replace("STEPS", &steps.to_string()));
    let (file, script) = (path.to_str().unwrap(), script.to_str().unwrap());
    let args = [
        "-nx",
        "-batch",
        "-ex",
        "break *leaf",
        "-ex",
        "run",
        "-x",
        script,
        file,
    ];
    let Some(said) = output("gdb", &args) else {
        return;
    };
    let mut symbols = Symbols::default();
    symbols.add_file(&path, &[]).unwrap();
    let elf = std::fs::read(&path).unwrap();
    let file = object::read::File::parse(&elf[..]).unwrap();
    let code: Vec<(u64, Vec<u8>)> = object::read::Object::segments(&file)
        .map(|s| (s.address(), s.data().unwrap().to_vec()))
        .collect();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut compared = 0;
    for line in said.lines().filter_map(|l| l.strip_prefix("@ ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let [pc, regs, stack, pcs] = words[..] else {
            panic!("{line}");
        };
        let regs: Vec<u64> = regs.split(',').map(hex).collect();
        let width = if regs.len() == 16 {
            Width::W64
        } else {
            Width::W32
        };
        let mut gpr = [0; 16];
        gpr[..regs.len()].copy_from_slice(&regs);
        let stack = stack.as_bytes().chunks(2);
        let stack = stack
            .map(|b| hex(std::str::from_utf8(b).unwrap()) as u8)
            .collect();
        let mut pieces = code.clone();
        // CFI looks for a popped RBP below the stack pointer.
        pieces.push((gpr[RSP] - 128, stack));
        let regs = Regs::new(width, hex(pc), gpr, 0, 0);
        let frames = backtrace(regs, &symbols, &mut memory(pieces), DEEPEST);
        let theirs: Vec<u64> = pcs.split(',').map(hex).collect();
        let ours: Vec<u64> = frames.iter().map(Frame::pc).take(theirs.len()).collect();
        assert_eq!(
            ours,
            theirs,
            "{options:?} {pc}: {:?}",
            told(&frames, &symbols)
        );
        assert!(
            frames[1..theirs.len()].iter().all(|f| f.how == how),
            "{frames:?}"
        );
        compared += 1;
    }
    assert!(compared == steps, "{said}");
}

#[test]
fn cfi_as_gdb_says() {
    // The last has .debug_frame alone, and ends soon.
    for (steps, options) in [
        (50, &["-O2", "-static", "-fomit-frame-pointer"][..]),
        (50, &["-O1", "-static", "-m32", "-fomit-frame-pointer"]),
        (50, &["-O0", "-static", "-g"]),
        (
            12,
            &[
                "-O2",
                "-g",
                "-static",
                "-nostdlib",
                "-DBARE",
                "-fno-asynchronous-unwind-tables",
                "-fno-stack-protector",
            ],
        ),
    ] {
        as_gdb_says(options, steps, How::Cfi);
    }
}

#[test]
fn frame_pointers_as_gdb_says() {
    let bare = [
        "-O1",
        "-static",
        "-nostdlib",
        "-DBARE",
        "-fno-omit-frame-pointer",
        "-fno-asynchronous-unwind-tables",
        "-fno-stack-protector",
    ];
    as_gdb_says(&bare, 40, How::FramePointer);
    as_gdb_says(&[&bare[..], &["-m32"]].concat(), 40, How::FramePointer);
}

#[test]
fn real_mode() {
    // SS = 0x2000, SP = 0x100, BP = 0x110; CS = 0x1000. No symbols: nothing contradicts.
    let symbols = Symbols::default();
    let mut stack = vec![0u8; 0x200];
    let mut word = |at: usize, value: u16| stack[at..at + 2].copy_from_slice(&value.to_le_bytes());
    word(0x110, 0x120);
    word(0x112, 0x0345);
    word(0x120, 0x130);
    word(0x122, 0x0456);
    // A chain that turns back ends.
    word(0x130, 0x110);
    word(0x132, 0x0567);
    let mut read = memory(vec![(0x2_0000, stack)]);
    let mut gpr = [0; 16];
    gpr[RSP] = 0x100;
    gpr[RBP] = 0x110;
    let regs = Regs::new(Width::W16, 0x1_0123, gpr, 0x1_0000, 0x2_0000);
    let frames = backtrace(regs, &symbols, &mut read, DEEPEST);
    let pcs: Vec<u64> = frames.iter().map(Frame::pc).collect();
    assert_eq!(pcs, [0x1_0123, 0x1_0345, 0x1_0456, 0x1_0567]);
}

/// A stack that says the same for ever, at whatever address.
#[test]
fn endless_stacks_end() {
    let symbols = Symbols::default();
    for width in [Width::W16, Width::W32, Width::W64] {
        let size = width.bytes();
        let mut read = |at: u64, out: &mut [u8]| {
            // Each frame pointer points to the next two words.
            let next = at.wrapping_add(2 * size);
            let word = if (at / size).is_multiple_of(2) {
                next
            } else {
                0x1234
            };
            let n = out.len();
            out.copy_from_slice(&word.to_le_bytes()[..n]);
            true
        };
        for start in [0x1000, 0xfff0, 0xffff_fff0, u64::MAX - 15] {
            let mut gpr = [0; 16];
            gpr[RSP] = start & width.mask();
            gpr[RBP] = start & width.mask();
            let regs = Regs::new(width, 0x5678, gpr, 0, 0);
            let frames = backtrace(regs.clone(), &symbols, &mut read, usize::MAX);
            assert!(frames.len() <= DEEPEST, "{}", frames.len());
            if start == 0x1000 {
                assert_eq!(frames.len(), DEEPEST);
            }
            scan(&regs, &symbols, &mut read, usize::MAX);
        }
    }
}

#[test]
fn calls_of_all_lengths() {
    for (code, call) in [
        (&[0xe8, 1, 2, 3, 4][..], true),
        (&[0xff, 0xd0], true),
        (&[0x41, 0xff, 0xd3], true),
        (&[0xff, 0x50, 8], true),
        (&[0xff, 0x54, 0x24, 8], true),
        (&[0xff, 0x14, 0x24], true),
        (&[0xff, 0x15, 1, 2, 3, 4], true),
        (&[0xff, 0x14, 0xc5, 1, 2, 3, 4], true),
        (&[0xff, 0x94, 0xc8, 1, 2, 3, 4], true),
        (&[0xff, 0xe0], false),
        (&[0xe9, 1, 2, 3, 4], false),
        (&[0x90; 7], false),
    ] {
        let mut all = vec![0x90; 16];
        all.extend(code);
        let end = 0x1000 + all.len() as u64;
        assert_eq!(
            behind_call(end, &mut memory(vec![(0x1000, all)])),
            call,
            "{code:x?}"
        );
        // At a page's beginning.
        let end = 0x1000 + code.len() as u64;
        let alone = behind_call(end, &mut memory(vec![(0x1000, code.to_vec())]));
        assert_eq!(alone, call, "{code:x?}");
    }
}
