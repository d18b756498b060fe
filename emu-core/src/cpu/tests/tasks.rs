//! Task switches: what is saved, what is loaded, who is busy, and whose fault a bad TSS is.

use super::*;
use crate::cpu::flags;

/// The other task's TSS, its stack top, its stack at level 0, and its code.
const TSS_B: u64 = 0x3800;
const STACK_B: u32 = 0xa000;
const STACK0_B: u32 = 0xb000;
const CODE_B: u32 = 0x3_0000;
const B: u16 = FREE;
const GATE_B: u16 = FREE + 8;
const LDT_B: u16 = FREE + 16;

fn far(op: u8, selector: u16) -> Vec<u8> {
    let s = selector.to_le_bytes();
    vec![op, 0, 0, 0, 0, s[0], s[1]]
}
const JMP: u8 = 0xea;
const CALL: u8 = 0x9a;

/// A 32-bit TSS for a task at level 0 or 3 whose registers are 0x101, 0x202, ….
fn task_b(c: &Vcpu, cpl: u8) {
    poke(c, TSS_B, &[0; 104]);
    let at = |off: u64| TSS_B + off;
    poke_u32(c, at(4), STACK0_B);
    poke_u32(c, at(8), DATA0.into());
    poke_u32(c, at(32), CODE_B);
    poke_u32(c, at(36), 0x3003);
    for n in 0..8u32 {
        poke_u32(c, at(40 + 4 * u64::from(n)), (n + 1) * 0x101);
    }
    poke_u32(c, at(56), STACK_B);
    let (code, data) = if cpl == 3 {
        (CODE3, DATA3)
    } else {
        (CODE0, DATA0)
    };
    for (n, s) in [data, code, data, data, 0, data].into_iter().enumerate() {
        poke_u32(c, at(72 + 4 * n as u64), s.into());
    }
    poke_u16(c, at(102), 0xffff);
    set_gdt(c, B, descriptor(TSS_B as u32, 0x67, 0xe9));
    set_gdt(c, GATE_B, gate(B, 0, 0xe5, 0));
    poke(c, CODE_B.into(), &[0xf4]);
}

fn busy(c: &Vcpu, selector: u16) -> bool {
    peek::<8>(c, GDT + u64::from(selector))[5] & 2 != 0
}

#[test]
fn jump_saves_one_task_and_loads_the_other() {
    for target in [B, GATE_B] {
        let cpu = run32(0, &far(JMP, target), |c| {
            task_b(c, 0);
            c.gpr[3] = 0x1234_5678;
            c.dr[7] = 0x7ff;
            c.cr0 &= !8;
        });
        assert_eq!(cpu.rip, u64::from(CODE_B) + 1);
        assert_eq!(cpu.gpr[..4], [0x101, 0x202, 0x303, 0x404]);
        assert_eq!(cpu.gpr[4..8], [u64::from(STACK_B), 0x606, 0x707, 0x808]);
        let selectors: Vec<u16> = cpu.seg.iter().map(|s| s.selector).collect();
        assert_eq!(selectors, [DATA0, CODE0, DATA0, DATA0, 0, DATA0]);
        assert!(!cpu.seg[4].present() && cpu.seg[5].present());
        assert_eq!(cpu.rflags(), 0x3003);
        assert_eq!((cpu.tr.selector, cpu.tr.base), (B, TSS_B));
        assert!(!busy(&cpu, TSS_SELECTOR) && busy(&cpu, B));
        // TS is set, the local breakpoint enables are gone, the global ones stay.
        assert_eq!(cpu.cr0 & 8, 8);
        assert_eq!(cpu.dr[7], 0x6aa);
        assert_eq!(peek_u32(&cpu, TSS + 32), CODE as u32 + 7);
        assert_eq!(peek_u32(&cpu, TSS + 36), 2);
        assert_eq!(peek_u32(&cpu, TSS + 52), 0x1234_5678);
        assert_eq!(peek_u32(&cpu, TSS + 56), STACK as u32);
        assert_eq!(peek_u32(&cpu, TSS + 76), CODE0.into());
        assert_eq!(peek_u16(&cpu, TSS_B), 0, "no back link");
    }
}

#[test]
fn call_nests_and_iret_comes_back() {
    let code = [far(CALL, B), vec![0xf4]].concat();
    let cpu = run32(0, &code, |c| {
        task_b(c, 0);
        poke(c, CODE_B.into(), &[0x40, 0xcf]);
        c.gpr[0] = 77;
    });
    assert_eq!((cpu.rip, cpu.gpr[0]), (CODE + 8, 77));
    assert_eq!(cpu.tr.selector, TSS_SELECTOR);
    assert_eq!(cpu.gpr[reg::RSP], STACK);
    assert_eq!(peek_u16(&cpu, TSS_B), TSS_SELECTOR);
    assert!(busy(&cpu, TSS_SELECTOR) && !busy(&cpu, B));
    // B was left with NT clear, behind its IRET, and with what it computed.
    assert_eq!(u64::from(peek_u32(&cpu, TSS_B + 36)) & flags::NT, 0);
    assert_eq!(peek_u32(&cpu, TSS_B + 32), CODE_B + 2);
    assert_eq!(peek_u32(&cpu, TSS_B + 40), 0x102);
    // While B ran, A was busy: another JMP to it would have been #GP.
    let cpu = run32(0, &far(CALL, B), |c| {
        task_b(c, 0);
        poke(c, CODE_B.into(), &far(JMP, TSS_SELECTOR));
    });
    assert_eq!(trap(&cpu), (13, TSS_SELECTOR.into(), CODE_B.into()));
    assert!(busy(&cpu, TSS_SELECTOR) && busy(&cpu, B));
}

#[test]
fn nested_task_has_nt_and_an_interrupt_gate_clears_it() {
    let cpu = run32(0, &far(CALL, B), |c| {
        task_b(c, 0);
        poke(c, CODE_B.into(), &[0xcd, 0x40]);
    });
    let t = Trap::taken(&cpu).expect("INT 40h");
    assert_eq!(t.flags & flags::NT, flags::NT);
    assert_eq!(cpu.rflags() & flags::NT, 0);
}

#[test]
fn exception_through_a_task_gate_brings_its_error_code() {
    // mov ax, 0x208; mov ds, ax
    let code = [0x66, 0xb8, 0x08, 0x02, 0x8e, 0xd8];
    let cpu = run32(3, &code, |c| {
        task_b(c, 0);
        set_idt32(c, 13, gate(B, 0, 0x85, 0));
    });
    assert_eq!(cpu.rip, u64::from(CODE_B) + 1);
    assert_eq!(cpu.gpr[reg::RSP], u64::from(STACK_B) - 4);
    assert_eq!(peek_u32(&cpu, u64::from(STACK_B) - 4), 0x208);
    assert_eq!(peek_u32(&cpu, TSS + 32), CODE as u32 + 4);
    assert_eq!(u64::from(peek_u32(&cpu, TSS + 36)) & flags::RF, flags::RF);
    assert_eq!(cpu.rflags() & flags::NT, flags::NT);
    assert_eq!((cpu.cpl, peek_u16(&cpu, TSS_B)), (0, TSS_SELECTOR));
}

#[test]
fn software_interrupt_through_a_task_gate_returns_behind_itself() {
    let cpu = run32(0, &[0xcd, 0x40, 0xf4], |c| {
        task_b(c, 0);
        poke(c, CODE_B.into(), &[0xcf]);
        set_idt32(c, 0x40, gate(B, 0, 0x85, 0));
    });
    assert_eq!((cpu.rip, cpu.tr.selector), (CODE + 3, TSS_SELECTOR));
}

#[test]
fn sixteen_bit_tss_holds_words() {
    let cpu = run32(0, &far(JMP, B), |c| {
        poke(c, TSS_B, &[0; 44]);
        let words = [
            0x5678, 0x0002, 1, 2, 3, 4, 0xa000, 6, 7, 8, DATA0, CODE0, DATA0, 0, 0,
        ];
        for (n, w) in words.into_iter().enumerate() {
            poke_u16(c, TSS_B + 14 + 2 * n as u64, w);
        }
        set_gdt(c, B, descriptor(TSS_B as u32, 0x2b, 0x81));
        poke(c, 0x5678, &[0xf4]);
    });
    assert_eq!(cpu.rip, 0x5679);
    assert_eq!(cpu.gpr[..3], [0xffff_0001, 0xffff_0002, 0xffff_0003]);
    assert_eq!(cpu.gpr[reg::RSP], 0xffff_a000);
    assert!(!cpu.seg[3].present() && !cpu.seg[4].present());
    assert_eq!(cpu.tr.attr & 0xf, 3);
}

#[test]
fn faults_before_the_commit_point_are_the_old_tasks() {
    let refused = |code: &[u8], more: &dyn Fn(&mut Vcpu)| {
        let cpu = run32(0, code, |c| {
            task_b(c, 0);
            more(c);
        });
        assert_eq!(cpu.tr.selector, TSS_SELECTOR);
        assert!(busy(&cpu, TSS_SELECTOR));
        let t = trap(&cpu);
        assert_eq!(t.2, CODE);
        (t.0, t.1)
    };
    let b = u32::from(B);
    let jump = far(JMP, B);
    let set = |attr: u16, limit: u32| {
        move |c: &mut Vcpu| set_gdt(c, B, descriptor(TSS_B as u32, limit, attr))
    };
    assert_eq!(refused(&jump, &set(0x8b, 0x67)), (13, b));
    assert_eq!(refused(&jump, &set(0x09, 0x67)), (11, b));
    assert_eq!(refused(&jump, &set(0x89, 0x66)), (10, b));
    assert_eq!(refused(&far(JMP, B | 3), &set(0x89, 0x67)), (13, b));
    let by_gate = far(JMP, GATE_B);
    assert_eq!(refused(&by_gate, &set(0x8b, 0x67)), (13, b));
    let gate_b = u32::from(GATE_B);
    assert_eq!(
        refused(&by_gate, &|c| set_gdt(c, GATE_B, gate(B, 0, 0x65, 0))),
        (11, gate_b)
    );
    assert_eq!(
        refused(&by_gate, &|c| set_gdt(c, GATE_B, gate(B | 4, 0, 0xe5, 0))),
        (13, b | 4)
    );
    // IRET goes back to a busy TSS only, and a bad link is #TS.
    let iret = |link: u16| {
        refused(&[0xcf], &|c| {
            poke_u16(c, TSS, link);
            c.set_rflags(flags::NT);
        })
    };
    assert_eq!(iret(B), (10, b));
    assert_eq!(iret(0x200), (10, 0x200));
}

#[test]
fn faults_behind_the_commit_point_are_the_new_tasks() {
    // B runs at level 3, so that its handlers have the stack of its own TSS whatever became of SS.
    let enter = |more: &dyn Fn(&mut Vcpu)| {
        let cpu = run32(0, &far(JMP, B), |c| {
            task_b(c, 3);
            set_gdt(c, LDT_B, descriptor(0x3c00, 0xff, 0x82));
            more(c);
        });
        assert_eq!(cpu.tr.selector, B);
        assert!(!busy(&cpu, TSS_SELECTOR) && busy(&cpu, B));
        assert_eq!(cpu.gpr[reg::RSP] & 0xff00, 0xaf00);
        trap(&cpu)
    };
    let selector = |off: u64, s: u16| move |c: &mut Vcpu| poke_u16(c, TSS_B + off, s);
    let rip = u64::from(CODE_B);
    // HLT at level 3, with everything in order.
    assert_eq!(enter(&|_| {}), (13, 0, rip));
    assert_eq!(enter(&selector(96, LDT_B)), (13, 0, rip));
    // LDT: not one, in the LDT, absent.
    assert_eq!(enter(&selector(96, DATA0)), (10, DATA0.into(), rip));
    assert_eq!(
        enter(&selector(96, LDT_B | 4)),
        (10, u32::from(LDT_B) | 4, rip)
    );
    assert_eq!(
        enter(&|c| {
            set_gdt(c, LDT_B, descriptor(0x3c00, 0xff, 0x02));
            poke_u16(c, TSS_B + 96, LDT_B);
        }),
        (10, LDT_B.into(), rip)
    );
    // CS: data, level; SS: null, level, code; DS: level, beyond the table; then absent ones.
    assert_eq!(enter(&selector(76, DATA3)), (10, 0x20, rip));
    assert_eq!(enter(&selector(76, CODE0 | 3)), (10, CODE0.into(), rip));
    assert_eq!(enter(&selector(80, 0)), (10, 0, rip));
    assert_eq!(enter(&selector(80, DATA0)), (10, DATA0.into(), rip));
    assert_eq!(enter(&selector(80, CODE3)), (10, 0x18, rip));
    assert_eq!(enter(&selector(84, DATA0)), (10, DATA0.into(), rip));
    assert_eq!(enter(&selector(72, 0x208)), (10, 0x208, rip));
    let other = FREE + 24;
    let absent = |off: u64, attr: u16| {
        enter(&move |c| {
            set_gdt(c, other, descriptor(0, u32::MAX, attr));
            poke_u16(c, TSS_B + off, other | 3);
        })
    };
    assert_eq!(absent(76, 0xc07b), (11, other.into(), rip));
    assert_eq!(absent(80, 0xc073), (12, other.into(), rip));
    assert_eq!(absent(88, 0xc073), (11, other.into(), rip));
    // EIP beyond the limit.
    assert_eq!(
        enter(&|c| {
            set_gdt(c, other, descriptor(0, 0xfff, 0x40fb));
            poke_u16(c, TSS_B + 76, other | 3);
        }),
        (13, 0, rip)
    );
}

#[test]
fn the_t_bit_traps_before_the_tasks_first_instruction() {
    let cpu = run32(0, &far(JMP, B), |c| {
        task_b(c, 0);
        poke_u16(c, TSS_B + 100, 1);
    });
    assert_eq!(trap(&cpu), (1, 0, CODE_B.into()));
    assert_eq!(cpu.dr[6] & 0xe00f, 1 << 15);
}

#[test]
fn task_of_virtual_8086_mode_loads_selectors_as_paragraphs() {
    let cpu = run32(0, &far(JMP, B), |c| {
        task_b(c, 0);
        poke_u32(c, TSS_B + 36, 0x2_3002);
        poke_u32(c, TSS_B + 32, 0x10);
        for (n, s) in [0x1111u16, 0x3000, 0x0a00, 0x2222, 0x3333, 0x4444]
            .into_iter()
            .enumerate()
        {
            poke_u16(c, TSS_B + 72 + 4 * n as u64, s);
        }
        // HLT is #GP at level 3; DS shows in the frame.
        poke(c, 0x3_0010, &[0xf4]);
    });
    let t = Trap::taken(&cpu).expect("HLT faults");
    assert_eq!((t.vector, t.rip, t.cs), (13, 0x10, 0x3000));
    assert_eq!(t.flags & flags::VM, flags::VM);
    let at = u64::from(STACK0_B) - 16;
    let pushed: [u32; 4] = std::array::from_fn(|n| peek_u32(&cpu, at + 4 * n as u64));
    assert_eq!(pushed, [0x1111, 0x2222, 0x3333, 0x4444]);
}

#[test]
fn task_switch_loads_cr3_when_paging_is_on() {
    let cpu = run32(0, &far(JMP, B), |c| {
        task_b(c, 0);
        for dir in [0x11_0000, 0x11_1000] {
            poke_u32(c, dir, 0x87);
        }
        poke_u32(c, TSS_B + 28, 0x11_1000);
        c.cr4 = 0x10;
        c.cr3 = 0x11_0000;
        c.cr0 |= 1 << 31;
        c.tlb.flush_all(false);
        c.refresh_mode();
    });
    assert_eq!(cpu.cr3, 0x11_1000);
    assert_eq!(peek_u32(&cpu, TSS + 28), 0, "the old CR3 is not saved");
}
