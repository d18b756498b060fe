//! Every line of the catalogue, executed at CPL 3.
//!
//! A privileged instruction must fault. A critical one must not, and must either show system state (the same code on two
//! machines that differ only in such state has different outcomes) or change it. Control flow must do neither.

use super::*;
use crate::cpu::control::{cr0, cr4};
use crate::cpu::segment::Segment;
use crate::cpu::tests::*;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Decoder, DecoderOptions};

fn decode(bits: u32, code: &[u8]) -> Instruction {
    let x = Decoder::with_ip(bits, code, CODE, DecoderOptions::NONE).decode();
    assert_eq!(x.len(), code.len(), "{code:02x?}");
    x
}

/// A user program of one instruction, with what the examples below need around it.
fn user(bits: u32, code: &[u8]) -> Vcpu {
    let mut cpu = vcpu("max", 0x20_0000);
    if bits == 64 {
        flat64(&mut cpu, 3);
    } else {
        flat32(&mut cpu, 3);
    }
    cpu.cr4 |= cr4::FSGSBASE | cr4::OSXSAVE | cr4::OSFXSR;
    cpu.efer |= 1;
    cpu.xcr0 = 7;
    // Selectors that level 3 may use: data, 32-bit code at another base, and 64-bit code.
    set_gdt(&cpu, FREE, descriptor(0x1000, 0xffff, 0x40f3));
    let other = if bits == 64 { 0xa0fb } else { 0x40fb };
    set_gdt(&cpu, FREE + 8, descriptor(0, 0xf_ffff, other));
    // EAX points at a far pointer to the data segment, EDX at one to the code segment.
    poke_u32(&cpu, 0x5000, 0x3_1000);
    poke_u16(&cpu, 0x5004, FREE | 3);
    poke_u32(&cpu, 0x5010, 0x3_1000);
    poke_u16(&cpu, 0x5014, (FREE + 8) | 3);
    cpu.gpr[reg::RAX] = 0x5000;
    cpu.gpr[reg::RDX] = 0x5010;
    cpu.gpr[reg::RBX] = u64::from(FREE | 3);
    cpu.gpr[reg::RDI] = 0x6000;
    cpu.gpr[reg::RSI] = 0x6000;
    cpu.set_segment(
        4,
        Segment {
            base: 0x100,
            ..cpu.seg[3]
        },
    );
    cpu.set_segment(
        5,
        Segment {
            base: 0x200,
            ..cpu.seg[3]
        },
    );
    // A frame for RETF and IRET: offset, CS, flags, SP, SS.
    let frame = [
        0x3_1000,
        u64::from(FREE + 8) | 3,
        0x3202,
        0x8800,
        DATA3.into(),
    ];
    for (n, w) in frame.into_iter().enumerate() {
        let size = u64::from(bits / 8);
        if bits == 64 {
            poke_u64(&cpu, STACK + size * n as u64, w);
        } else {
            poke_u32(&cpu, STACK + size * n as u64, w as u32);
        }
    }
    for v in [1, 3, 4, 0x80u64] {
        let at = IDT + v * if bits == 64 { 16 } else { 8 };
        poke_u64(&cpu, at, peek_u64(&cpu, at) | 0x6000 << 32);
    }
    cpu.msr.star = u64::from(CODE0) << 32;
    (cpu.msr.lstar, cpu.msr.sysenter_eip) = (0x3_2000, 0x3_2000);
    cpu.msr.sysenter_cs = CODE0.into();
    poke(&cpu, CODE, code);
    cpu.refresh_mode();
    cpu
}

fn step(cpu: &mut Vcpu) {
    run(cpu, 1);
}

/// The vector of an exception taken at the instruction itself.
fn faulted(cpu: &Vcpu) -> Option<u8> {
    let off = cpu.rip.checked_sub(HANDLERS)?;
    let at = cpu.gpr[reg::RSP];
    let v = (off / 16) as u8;
    let error = u64::from(matches!(v, 8 | 10..=14 | 17));
    let rip = if cpu.code64() {
        peek_u64(cpu, at + 8 * error)
    } else {
        peek_u32(cpu, at + 4 * error).into()
    };
    (off < 0x1000 && rip == CODE).then_some(v)
}

/// What the program can see: registers, flags, memory, segments as accesses form addresses with them, and where it is.
fn visible(cpu: &Vcpu) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        cpu.gpr[..16].to_vec(),
        cpu.rflags(),
        cpu.rip,
        cpu.seg.map(|s| (s.selector, s.base, s.limit)),
        peek::<0x40>(cpu, STACK - 0x20).to_vec(),
        peek::<0x40>(cpu, 0x6000).to_vec(),
    )
}

/// How a critical example shows that it is one.
enum Proof {
    /// Another value here changes the outcome.
    Shows(fn(&mut Vcpu)),
    /// This part of the system's state is another afterwards.
    Changes(fn(&Vcpu) -> u64),
}
use Proof::{Changes, Shows};

type Critical = (Mnemonic, u32, &'static [u8], Proof);

fn criticals() -> Vec<Critical> {
    use Mnemonic as M;
    fn descriptors(c: &mut Vcpu) {
        set_gdt(c, FREE, descriptor(0x2000, 0xfff, 0x40f1));
        set_gdt(c, FREE + 8, descriptor(0, 0xf_ffff, 0x40f9));
    }
    fn code_level(c: &mut Vcpu) {
        set_gdt(c, FREE + 8, descriptor(0, 0xf_ffff, 0xa09b));
    }
    fn privilege(c: &mut Vcpu) {
        c.cpl = 0;
        c.seg[1].selector = CODE0;
        c.seg[2].selector = DATA0;
        c.refresh_mode();
    }
    fn iopl(c: &mut Vcpu) {
        c.set_rflags(0x3002);
    }
    fn gates(c: &mut Vcpu) {
        for v in [1, 3, 4, 0x80] {
            set_idt32(c, v, gate(CODE0, 0x3_3000, 0xee, 0));
        }
    }
    fn overflow_gates(c: &mut Vcpu) {
        gates(c);
    }
    fn bases(c: &mut Vcpu) {
        c.set_base(4, 0x1234);
        c.set_base(5, 0x1234);
    }
    vec![
        (
            M::Sgdt,
            32,
            &[0x0f, 0x01, 0x07],
            Shows(|c| c.gdtr.limit = 0x77),
        ),
        (
            M::Sidt,
            64,
            &[0x0f, 0x01, 0x0f],
            Shows(|c| c.idtr.limit = 0x777),
        ),
        (
            M::Sldt,
            32,
            &[0x0f, 0x00, 0xc0],
            Shows(|c| c.ldtr.selector = 0x50),
        ),
        (
            M::Smsw,
            32,
            &[0x0f, 0x01, 0xe0],
            Shows(|c| c.cr0 |= cr0::NE),
        ),
        (
            M::Str,
            64,
            &[0x0f, 0x00, 0xc8],
            Shows(|c| c.tr.selector = 0x50),
        ),
        (M::Pushf, 32, &[0x66, 0x9c], Shows(iopl)),
        (M::Pushfd, 32, &[0x9c], Shows(iopl)),
        (M::Pushfq, 64, &[0x9c], Shows(iopl)),
        // IF is taken with IOPL 3, kept with IOPL 0; the visible flags differ by more than IOPL.
        (M::Popf, 32, &[0x66, 0x9d], Shows(iopl)),
        (M::Popfd, 32, &[0x9d], Shows(iopl)),
        (M::Popfq, 64, &[0x9d], Shows(iopl)),
        (M::Lar, 32, &[0x0f, 0x02, 0xcb], Shows(descriptors)),
        (M::Lsl, 64, &[0x0f, 0x03, 0xcb], Shows(descriptors)),
        (
            M::Verr,
            32,
            &[0x0f, 0x00, 0xe3],
            Shows(|c| set_gdt(c, FREE, descriptor(0, 0, 0x4093))),
        ),
        (M::Verw, 32, &[0x0f, 0x00, 0xeb], Shows(descriptors)),
        (M::Push, 32, &[0x0e], Shows(privilege)),
        (M::Push, 32, &[0x16], Shows(privilege)),
        (M::Pop, 32, &[0x1f], Changes(|c| c.seg[3].selector.into())),
        (M::Mov, 32, &[0x8e, 0xdb], Shows(descriptors)),
        (M::Mov, 64, &[0x8c, 0xc9], Shows(privilege)),
        (
            M::Call,
            32,
            &[0x9a, 0, 0x10, 3, 0, 0x4b, 0],
            Shows(code_level),
        ),
        (
            M::Jmp,
            32,
            &[0xea, 0, 0x10, 3, 0, 0x4b, 0],
            Shows(code_level),
        ),
        (M::Call, 64, &[0xff, 0x1a], Shows(code_level)),
        (M::Jmp, 64, &[0xff, 0x2a], Shows(code_level)),
        (M::Retf, 32, &[0xcb], Shows(code_level)),
        (M::Int, 32, &[0xcd, 0x80], Shows(gates)),
        (M::Int3, 32, &[0xcc], Shows(gates)),
        (M::Int1, 32, &[0xf1], Shows(gates)),
        (M::Into, 32, &[0xce], Shows(overflow_gates)),
        (
            M::Iret,
            32,
            &[0x66, 0xcf],
            Shows(|c| set_gdt(c, FREE + 8, 0)),
        ),
        (M::Iretd, 32, &[0xcf], Shows(iopl)),
        (M::Iretq, 64, &[0x48, 0xcf], Shows(iopl)),
        (M::Lds, 32, &[0xc5, 0x08], Shows(descriptors)),
        (M::Les, 32, &[0xc4, 0x08], Shows(descriptors)),
        (M::Lfs, 64, &[0x0f, 0xb4, 0x08], Shows(descriptors)),
        (M::Lgs, 32, &[0x0f, 0xb5, 0x08], Shows(descriptors)),
        (
            M::Lss,
            32,
            &[0x0f, 0xb2, 0x08],
            Shows(|c| set_gdt(c, FREE, descriptor(0x2000, 0xffff, 0x40f3))),
        ),
        (
            M::Syscall,
            64,
            &[0x0f, 0x05],
            Shows(|c| c.msr.lstar = 0x3_3000),
        ),
        (
            M::Sysenter,
            32,
            &[0x0f, 0x34],
            Shows(|c| c.msr.sysenter_eip = 0x3_3000),
        ),
        (
            M::Cpuid,
            64,
            &[0x0f, 0xa2],
            Shows(|c| c.cr4 &= !cr4::OSXSAVE),
        ),
        (
            M::Rdtsc,
            32,
            &[0x0f, 0x31],
            Shows(|c| c.msr.tsc_offset = 5555),
        ),
        (
            M::Rdtscp,
            64,
            &[0x0f, 0x01, 0xf9],
            Shows(|c| c.msr.tsc_aux = 7),
        ),
        (
            M::Rdpid,
            64,
            &[0xf3, 0x0f, 0xc7, 0xf8],
            Shows(|c| c.msr.tsc_aux = 7),
        ),
        (M::Xgetbv, 32, &[0x0f, 0x01, 0xd0], Shows(|c| c.xcr0 = 3)),
        (
            M::Rdfsbase,
            64,
            &[0xf3, 0x48, 0x0f, 0xae, 0xc0],
            Shows(bases),
        ),
        (
            M::Rdgsbase,
            64,
            &[0xf3, 0x48, 0x0f, 0xae, 0xc8],
            Shows(bases),
        ),
        (
            M::Wrfsbase,
            64,
            &[0xf3, 0x48, 0x0f, 0xae, 0xd0],
            Changes(|c| c.seg[4].base),
        ),
        (
            M::Wrgsbase,
            64,
            &[0xf3, 0x48, 0x0f, 0xae, 0xd8],
            Changes(|c| c.seg[5].base),
        ),
    ]
}

/// Privileged examples, each valid in the mode that it is decoded for.
const PRIVILEGED: &[(Mnemonic, u32, &[u8])] = {
    use Mnemonic as M;
    &[
        (M::Mov, 32, &[0x0f, 0x20, 0xc0]),
        (M::Mov, 64, &[0x0f, 0x22, 0xd8]),
        (M::Mov, 64, &[0x44, 0x0f, 0x22, 0xc0]),
        (M::Mov, 32, &[0x0f, 0x21, 0xf8]),
        (M::Mov, 64, &[0x0f, 0x23, 0xf8]),
        (M::Lgdt, 32, &[0x0f, 0x01, 0x10]),
        (M::Lidt, 64, &[0x0f, 0x01, 0x18]),
        (M::Lldt, 32, &[0x0f, 0x00, 0xd0]),
        (M::Ltr, 32, &[0x0f, 0x00, 0xd8]),
        (M::Lmsw, 32, &[0x0f, 0x01, 0xf0]),
        (M::Clts, 64, &[0x0f, 0x06]),
        (M::Hlt, 64, &[0xf4]),
        (M::Invd, 32, &[0x0f, 0x08]),
        (M::Wbinvd, 32, &[0x0f, 0x09]),
        (M::Wbnoinvd, 64, &[0xf3, 0x0f, 0x09]),
        (M::Invlpg, 64, &[0x0f, 0x01, 0x38]),
        (M::Invpcid, 64, &[0x66, 0x0f, 0x38, 0x82, 0x00]),
        (M::Rdmsr, 64, &[0x0f, 0x32]),
        (M::Wrmsr, 32, &[0x0f, 0x30]),
        (M::Rdpmc, 64, &[0x0f, 0x33]),
        (M::Xsetbv, 64, &[0x0f, 0x01, 0xd1]),
        (M::Swapgs, 64, &[0x0f, 0x01, 0xf8]),
        (M::Sysret, 64, &[0x0f, 0x07]),
        (M::Sysretq, 64, &[0x48, 0x0f, 0x07]),
        (M::Sysexit, 32, &[0x0f, 0x35]),
        (M::Sysexitq, 64, &[0x48, 0x0f, 0x35]),
        (M::Stac, 64, &[0x0f, 0x01, 0xcb]),
        (M::Clac, 32, &[0x0f, 0x01, 0xca]),
        (M::Rsm, 32, &[0x0f, 0xaa]),
        (M::Cli, 64, &[0xfa]),
        (M::Sti, 32, &[0xfb]),
        (M::In, 32, &[0xe4, 0x10]),
        (M::Out, 64, &[0xee]),
        (M::Insb, 32, &[0x6c]),
        (M::Insw, 64, &[0x66, 0x6d]),
        (M::Insd, 32, &[0x6d]),
        (M::Outsb, 64, &[0x6e]),
        (M::Outsw, 32, &[0x66, 0x6f]),
        (M::Outsd, 64, &[0x6f]),
    ]
};

#[test]
fn privileged_instructions_fault_at_cpl_3() {
    for &(m, bits, code) in PRIVILEGED {
        let x = decode(bits, code);
        assert_eq!((x.mnemonic(), class_of(&x)), (m, Class::Privileged));
        let mut cpu = user(bits, code);
        step(&mut cpu);
        assert!(
            matches!(faulted(&cpu), Some(6 | 13)),
            "{m:?}: {:?}",
            faulted(&cpu)
        );
    }
}

#[test]
fn critical_instructions_do_not_fault_at_cpl_3_but_see_the_system() {
    for (m, bits, code, proof) in criticals() {
        let x = decode(bits, code);
        assert_eq!((x.mnemonic(), class_of(&x)), (m, Class::Critical));
        let prepare = |c: &mut Vcpu| match m {
            Mnemonic::Into => c.set_rflags(0x802),
            Mnemonic::Pop => {
                poke_u32(c, STACK, (FREE | 3).into());
            }
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => poke_u32(c, STACK, 0x202),
            Mnemonic::Iret => {
                let frame = [0x100, (FREE + 8) | 3, 0x202];
                for (n, w) in frame.into_iter().enumerate() {
                    poke_u16(c, STACK + 2 * n as u64, w);
                }
            }
            Mnemonic::Cpuid => (c.gpr[reg::RAX], c.gpr[reg::RCX]) = (1, 0),
            Mnemonic::Xgetbv => c.gpr[reg::RCX] = 0,
            _ => {}
        };
        let mut cpu = user(bits, code);
        prepare(&mut cpu);
        let before = cpu.seg.map(|s| (s.selector, s.base));
        match proof {
            Shows(differ) => {
                let mut other = user(bits, code);
                prepare(&mut other);
                differ(&mut other);
                let flags = other.rflags();
                step(&mut cpu);
                step(&mut other);
                assert_eq!(faulted(&cpu), None, "{m:?}");
                let same = visible(&cpu) == visible(&other);
                assert!(!same, "{m:?} shows nothing of the system");
                if m == Mnemonic::Popfd {
                    assert_eq!((flags & 0x200, cpu.rflags() & 0x200), (0, 0));
                    assert_eq!(other.rflags() & 0x200, 0x200);
                }
            }
            Changes(what) => {
                let old = what(&cpu);
                step(&mut cpu);
                assert_eq!(faulted(&cpu), None, "{m:?}");
                assert_ne!(what(&cpu), old, "{m:?} changes nothing: {before:?}");
            }
        }
    }
}

#[test]
fn every_line_has_an_example_and_every_known_instruction_its_class() {
    let examples: Vec<Instruction> = PRIVILEGED
        .iter()
        .map(|e| decode(e.1, e.2))
        .chain(criticals().iter().map(|e| decode(e.1, e.2)))
        .collect();
    for e in CATALOGUE.iter().filter(|e| e.class != Class::ControlFlow) {
        let found = examples
            .iter()
            .any(|x| std::ptr::eq(entry_of(x).unwrap(), e));
        assert!(found, "{:?} {:?} has no example", e.mnemonic, e.form);
        assert!(e.reason.contains("SDM Vol."), "{:?}", e.mnemonic);
    }
    // What ends a block does so because it is sensitive, or a control transfer.
    let harmless = [Mnemonic::Rdpid];
    for row in crate::decode::table::rows() {
        let listed = CATALOGUE.iter().any(|e| e.mnemonic == row.mnemonic);
        let plain = row.ends == crate::decode::table::Ends::No;
        assert!(
            listed || plain || harmless.contains(&row.mnemonic),
            "{:?}",
            row.mnemonic
        );
    }
    // Robin and Irvine count PUSHF with PUSHFD and POPF with POPFD.
    let old = CATALOGUE.iter().filter(|e| e.robin_irvine);
    assert_eq!(old.count(), 20);
}

#[test]
fn forms_of_one_mnemonic_differ_in_class() {
    let class = |bits, code: &[u8]| class_of(&decode(bits, code));
    assert_eq!(class(64, &[0x89, 0xc8]), Class::Innocuous);
    assert_eq!(class(64, &[0x8e, 0xd8]), Class::Critical);
    assert_eq!(class(64, &[0x0f, 0x20, 0xc0]), Class::Privileged);
    assert_eq!(class(64, &[0x50]), Class::Innocuous);
    assert_eq!(class(64, &[0x0f, 0xa0]), Class::Critical);
    assert_eq!(class(64, &[0xff, 0xe0]), Class::ControlFlow);
    assert_eq!(class(64, &[0xff, 0x28]), Class::Critical);
    assert_eq!(class(64, &[0xc3]), Class::ControlFlow);
}
