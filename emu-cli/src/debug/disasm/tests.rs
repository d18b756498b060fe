//! Text against binutils', and what instructions touch.

use super::*;
use crate::debug::expr::{Value, Variable};
use std::collections::HashMap;

struct Cpu {
    bits: u32,
    registers: HashMap<Reg, u64>,
}

impl Env for Cpu {
    fn register(&self, r: Reg) -> Option<u64> {
        Some(self.registers.get(&r).copied().unwrap_or(0))
    }
    fn read(&self, _: crate::debug::expr::Space, _: u64, _: &mut [u8]) -> bool {
        false
    }
    fn segment_base(&self, _: u16) -> Option<u64> {
        None
    }
    fn code_bits(&self) -> u32 {
        self.bits
    }
    fn variable(&self, _: Variable) -> Option<Value> {
        None
    }
}

fn interest(bits: u32, bytes: &[u8], registers: &[(Reg, u64)]) -> Interest {
    let cpu = Cpu {
        bits,
        registers: registers.iter().copied().collect(),
    };
    operands_of_interest(
        &decode(bytes, 0x1000, bits).unwrap_or_else(|| panic!("{bytes:x?}")),
        &cpu,
    )
}

#[test]
fn what_instructions_touch() {
    let at = |linear, size, read, written| MemoryUse {
        linear,
        size,
        read,
        written,
    };
    // add [rbx+rcx*4+8], eax
    let i = interest(
        64,
        &[0x01, 0x44, 0x8b, 0x08],
        &[
            (Reg::Gpr(3), 0x1000),
            (Reg::Gpr(1), 2),
            (Reg::SegmentBase(3), 7),
        ],
    );
    assert_eq!(i.memory, [at(0x1010, 4, true, true)]);
    assert!([0, 1, 3].iter().all(|n| i.read.contains(&Reg::Gpr(*n))));
    assert_eq!(i.written, [Reg::Rflags]);
    // push rax; pop rbx
    let rsp = [(Reg::Gpr(4), 0x2000)];
    let i = interest(64, &[0x50], &rsp);
    assert_eq!(
        (i.memory, i.written),
        (vec![at(0x1ff8, 8, false, true)], vec![Reg::Gpr(4)])
    );
    assert_eq!(
        interest(64, &[0x5b], &rsp).memory,
        [at(0x2000, 8, true, false)]
    );
    // mov rax, gs:[0x28]: FS and GS have bases in 64-bit mode.
    let i = interest(
        64,
        &[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0],
        &[(Reg::SegmentBase(5), 0x5000)],
    );
    assert_eq!(
        (i.memory, i.written),
        (vec![at(0x5028, 8, true, false)], vec![Reg::Gpr(0)])
    );
    // mov ax, [bx+si] in real mode wraps at 64 KiB within the segment.
    let i = interest(
        16,
        &[0x8b, 0x00],
        &[
            (Reg::Gpr(3), 0xfff0),
            (Reg::Gpr(6), 0x20),
            (Reg::SegmentBase(3), 0x12340),
        ],
    );
    assert_eq!(i.memory, [at(0x12350, 2, true, false)]);
    // mov [rip+0x10], ah
    let i = interest(64, &[0x88, 0x25, 0x10, 0, 0, 0], &[]);
    assert_eq!(
        (i.memory, i.read),
        (vec![at(0x1016, 1, false, true)], vec![Reg::Gpr(0)])
    );
    // lea touches no memory, nop nothing at all.
    assert_eq!(interest(64, &[0x48, 0x8d, 0x03], &[]).memory, []);
    assert_eq!(interest(64, &[0x90], &[]), Interest::default());
    // movsb: from DS:RSI to ES:RDI.
    let i = interest(64, &[0xa4], &[(Reg::Gpr(6), 0x100), (Reg::Gpr(7), 0x200)]);
    assert_eq!(
        i.memory,
        [at(0x200, 1, false, true), at(0x100, 1, true, false)]
    );
    // vpgatherdd xmm0, [rax+xmm1*4], xmm2
    let i = interest(
        64,
        &[0xc4, 0xe2, 0x69, 0x90, 0x04, 0x88],
        &[
            (Reg::Gpr(0), 0x1000),
            (Reg::Vector(1, 0), 0x0000_0001_0000_0000),
            (Reg::Vector(1, 1), 0xffff_ffff_0000_0003),
        ],
    );
    let places: Vec<u64> = i.memory.iter().map(|m| m.linear).collect();
    assert_eq!(places, [0x1000, 0x1004, 0x100c, 0xffc]);
    // mov cr3, rax; the invalid.
    assert!(
        interest(64, &[0x0f, 0x22, 0xd8], &[])
            .written
            .contains(&Reg::Cr(3))
    );
    assert_eq!(interest(64, &[0x06], &[]), Interest::default());
}

/// Expected: `objdump -d` of the same bytes, in both syntaxes; idle prefixes, which it names, are not.
#[test]
fn both_syntaxes() {
    let symbol = |addr: u64| match addr {
        0x1100..0x1200 => Some(("f".to_string(), addr - 0x1100)),
        0xc010_0000..0xc010_0100 => Some(("jiffies".to_string(), addr - 0xc010_0000)),
        _ => None,
    };
    for (bits, bytes, intel, att) in [
        (
            64,
            &[0x0f, 0x20, 0xd8][..],
            "mov    rax,cr3",
            "mov    %cr3,%rax",
        ),
        (
            64,
            &[0xe8, 0xfb, 0, 0, 0],
            "call   0x1100 <f>",
            "call   0x1100 <f>",
        ),
        (64, &[0x75, 0x10], "jne    0x1012", "jne    0x1012"),
        (
            64,
            &[0x8b, 0x05, 0xfe, 0, 0, 0],
            "mov    eax,DWORD PTR [rip+0xfe]        # 0x1104 <f+4>",
            "mov    0xfe(%rip),%eax        # 0x1104 <f+4>",
        ),
        (
            64,
            &[0xc7, 0x00, 1, 0, 0, 0],
            "mov    DWORD PTR [rax],0x1",
            "movl   $0x1,(%rax)",
        ),
        (
            32,
            &[0xa1, 0x04, 0x00, 0x10, 0xc0],
            "mov    eax,ds:0xc0100004        # 0xc0100004 <jiffies+4>",
            "mov    0xc0100004,%eax        # 0xc0100004 <jiffies+4>",
        ),
        (
            16,
            &[0x8b, 0x47, 0xfe],
            "mov    ax,WORD PTR [bx-0x2]",
            "mov    -0x2(%bx),%ax",
        ),
        (16, &[0xcd, 0x10], "int    0x10", "int    $0x10"),
        // XCHG with R8, which is no PAUSE (SDM Vol. 2B, NOP).
        (
            64,
            &[0xf3, 0x41, 0x90],
            "xchg   r8d,eax",
            "xchg   %eax,%r8d",
        ),
        (64, &[0x06], "(bad)", "(bad)"),
    ] {
        let insn = decode(bytes, 0x1000, bits).unwrap();
        let got = [Flavor::Intel, Flavor::Att].map(|f| text(&insn, f, &symbol));
        assert_eq!(got, [intel, att]);
    }
    assert_eq!(decode(&[0x0f], 0, 64), None);
    assert_eq!(decode(&[], 0, 64), None);
    assert!(decode(&[0x66; 15], 0, 64).is_some_and(|i| i.is_invalid()));
    assert!(Flavor::named("masm").is_err());
}

/// From wherever it is asked, `before` finds what decoding from the begin of the code finds.
#[test]
fn backwards_finds_the_same_instructions() {
    // push rbp; mov rbp,rsp; sub rsp,0x10; mov dword ptr [rbp-4],0; nop word ptr [rax+rax]; call; add rsp,0x10; pop; ret
    let once = [
        0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0xc7, 0x45, 0xfc, 0, 0, 0, 0, 0x66, 0x0f,
        0x1f, 0x44, 0, 0, 0xe8, 0x12, 0x34, 0, 0, 0x48, 0x83, 0xc4, 0x10, 0x5d, 0xc3,
    ];
    let code = once.repeat(40);
    let mut begins = Vec::new();
    let mut at = 0;
    while at < code.len() {
        begins.push(0x1000 + at as u64);
        at += decode(&code[at..], 0, 64).unwrap().len();
    }
    let read = |addr: u64, buf: &mut [u8]| {
        let from = addr.wrapping_sub(0x1000) as usize;
        let found = from
            .checked_add(buf.len())
            .and_then(|to| code.get(from..to));
        found.inspect(|b| buf.copy_from_slice(b)).is_some()
    };
    let view = |symbols: bool| View {
        read: &read,
        symbol: if symbols {
            &|a| Some(("f".into(), (a - 0x1000) % 32))
        } else {
            &|_| None
        },
        space: crate::debug::expr::Space::Linear,
        code_bits: 64,
        pc: None,
        flavor: Flavor::Intel,
    };
    for symbols in [false, true] {
        for (n, at) in begins.iter().enumerate().skip(1) {
            // Where memory begins, less than was asked for may be more than was meant.
            for count in [1, 3, 7, 100].into_iter().filter(|c| *c <= n) {
                let want = begins[n.saturating_sub(count)];
                let got = before(&view(symbols), *at, count as u64);
                assert_eq!(got, want, "{count} before {at:#x}");
            }
        }
    }
    assert_eq!(before(&view(false), 0x1000, 5), 0x1000);
}

/// Random bytes in every mode, and both syntaxes' names for string and far instructions.
#[test]
fn any_bytes() {
    let mut random = emu_core::testing::Random(0xd15a);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.below(16)).map(|_| random.next() as u8).collect();
        let bits = random.of(&[16, 32, 64]);
        let ip = random.next();
        if let Some(insn) = decode(&bytes, ip, bits) {
            assert!((1..=bytes.len()).contains(&length(&insn)), "{bytes:x?}");
            for flavor in [Flavor::Intel, Flavor::Att] {
                assert!(!text(&insn, flavor, &|a| Some(("x".into(), a))).is_empty());
            }
            interest(
                bits,
                &bytes,
                &[(Reg::Gpr(0), u64::MAX), (Reg::SegmentBase(3), u64::MAX)],
            );
        }
    }
    for (bits, bytes, want) in [
        (
            32,
            &[0xea, 0x42, 0x86, 0x23, 0x1c, 0x69, 0x30][..],
            "jmp    0x3069:0x1c238642",
        ),
        (16, &[0x9a, 0x7b, 0x37, 0x6c, 0x96], "call   0x966c:0x377b"),
        (16, &[0xcb], "retf"),
        (64, &[0x48, 0xcb], "retfq"),
        (64, &[0xaa], "stos   BYTE PTR es:[rdi],al"),
        (64, &[0xf3, 0x48, 0xab], "rep stos QWORD PTR es:[rdi],rax"),
        (32, &[0xac], "lods   al,BYTE PTR ds:[esi]"),
        (16, &[0x6f], "outs   dx,WORD PTR ds:[si]"),
        (64, &[0xd1, 0xe8], "shr    eax,1"),
        (64, &[0xdb, 0x28], "fld    TBYTE PTR [rax]"),
        (
            64,
            &[0x65, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0],
            "mov    eax,DWORD PTR gs:0x28",
        ),
    ] {
        let insn = decode(bytes, 0x1000, bits).unwrap();
        assert_eq!(text(&insn, Flavor::Intel, &|_| None), want);
    }
}
