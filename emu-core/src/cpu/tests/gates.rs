//! Call gates, far transfers and interrupt delivery.

use super::*;
use crate::cpu::segment::{CS, SS};
use iced_x86::code_asm::{eax, fword_ptr, rax};

fn far_call(selector: u16) -> Vec<u8> {
    let s = selector.to_le_bytes();
    vec![0x9a, 0, 0, 0, 0, s[0], s[1]]
}

fn far_jump(selector: u16) -> Vec<u8> {
    let s = selector.to_le_bytes();
    vec![0xea, 0, 0, 0, 0, s[0], s[1]]
}

/// A gate's target that only halts.
const TARGET: u32 = 0x3_0000;

#[test]
fn call_gate_to_level_0_switches_stacks_and_copies_parameters() {
    let code = asm(32, |a| {
        a.push(0x1111)?;
        a.push(0x2222)
    });
    let at = code.len() as u64;
    let code = [code, far_call(FREE | 3)].concat();
    let cpu = run32(3, &code, |c| {
        set_gdt(c, FREE, gate(CODE0, TARGET, 0xec, 2));
        poke(c, TARGET.into(), &[0xf4]);
    });
    assert_eq!((cpu.rip, cpu.cpl), (u64::from(TARGET) + 1, 0));
    assert_eq!(cpu.seg[CS as usize].selector, CODE0);
    assert_eq!(cpu.seg[SS as usize].selector, DATA0);
    let sp = STACK0 - 24;
    assert_eq!(cpu.gpr[reg::RSP], sp);
    let words: [u32; 6] = std::array::from_fn(|n| peek_u32(&cpu, sp + 4 * n as u64));
    let back = (CODE + at + 7) as u32;
    let old_sp = STACK as u32 - 8;
    assert_eq!(
        words,
        [back, CODE3.into(), 0x2222, 0x1111, old_sp, DATA3.into()]
    );
}

#[test]
fn sixteen_bit_gate_pushes_words_and_cuts_the_offset() {
    let cpu = run32(3, &far_call(FREE), |c| {
        set_gdt(c, FREE, gate(CODE0, 0x1234_5678, 0xe4, 1));
        poke(c, 0x5678, &[0xf4]);
        poke_u32(c, STACK, 0xabcd_0777);
    });
    assert_eq!(cpu.rip, 0x5679);
    let sp = STACK0 - 10;
    assert_eq!(cpu.gpr[reg::RSP], sp);
    let words: [u16; 5] = std::array::from_fn(|n| peek_u16(&cpu, sp + 2 * n as u64));
    assert_eq!(words, [CODE as u16 + 7, CODE3, 0x777, STACK as u16, DATA3]);
}

#[test]
fn call_gate_on_one_level_keeps_the_stack() {
    let cpu = run32(0, &far_call(FREE), |c| {
        set_gdt(c, FREE, gate(CODE0, TARGET, 0x8c, 3));
        poke(c, TARGET.into(), &[0xf4]);
    });
    assert_eq!(cpu.gpr[reg::RSP], STACK - 8);
    assert_eq!(peek_u32(&cpu, STACK - 8), CODE as u32 + 7);
    assert_eq!(peek_u32(&cpu, STACK - 4), CODE0.into());
}

#[test]
fn conforming_target_keeps_the_level() {
    let conforming = FREE + 8;
    let code = [0x90; 0];
    let cpu = run32(3, &[&code[..], &far_call(FREE)].concat(), |c| {
        set_gdt(c, FREE, gate(conforming, TARGET, 0xec, 0));
        set_gdt(c, conforming, descriptor(0, u32::MAX, 0xc09f));
        // STR AX; HLT is #GP at level 3, which shows the level in the frame.
        poke(c, TARGET.into(), &[0xf4]);
    });
    let t = Trap::taken(&cpu).expect("HLT faults");
    assert_eq!((t.vector, t.rip, t.cs), (13, TARGET.into(), conforming | 3));
}

#[test]
fn jump_through_a_gate_needs_the_same_level() {
    let ok = run32(0, &far_jump(FREE), |c| {
        set_gdt(c, FREE, gate(CODE0, TARGET, 0x8c, 0));
        poke(c, TARGET.into(), &[0xf4]);
    });
    assert_eq!((ok.rip, ok.gpr[reg::RSP]), (u64::from(TARGET) + 1, STACK));
    let inner = run32(3, &far_jump(FREE), |c| {
        set_gdt(c, FREE, gate(CODE0, TARGET, 0xec, 0));
    });
    assert_eq!(trap(&inner), (13, CODE0.into(), CODE));
}

#[test]
fn gate_faults_name_the_selector_that_is_wrong() {
    let try_gate = |gate_word: u64, more: &dyn Fn(&mut Vcpu)| {
        let cpu = run32(3, &far_call(FREE | 3), |c| {
            set_gdt(c, FREE, gate_word);
            more(c);
        });
        assert_eq!(cpu.cpl, 0);
        let t = trap(&cpu);
        assert_eq!(t.2, CODE);
        (t.0, t.1)
    };
    let nothing = |_: &mut Vcpu| {};
    let free = u32::from(FREE);
    // Gate DPL below CPL; absent gate; null and absent code segments; not code.
    assert_eq!(try_gate(gate(CODE0, TARGET, 0x8c, 0), &nothing), (13, free));
    assert_eq!(try_gate(gate(CODE0, TARGET, 0x6c, 0), &nothing), (11, free));
    assert_eq!(try_gate(gate(0, TARGET, 0xec, 0), &nothing), (13, 0));
    assert_eq!(
        try_gate(gate(0x200, TARGET, 0xec, 0), &nothing),
        (13, 0x200)
    );
    assert_eq!(
        try_gate(gate(DATA0, TARGET, 0xec, 0), &nothing),
        (13, DATA0.into())
    );
    let other = FREE + 8;
    let to_other = gate(other, TARGET, 0xec, 0);
    assert_eq!(
        try_gate(to_other, &|c| set_gdt(
            c,
            other,
            descriptor(0, u32::MAX, 0xc01b)
        )),
        (11, other.into())
    );
    // The offset beyond the limit is #GP(0).
    assert_eq!(
        try_gate(to_other, &|c| set_gdt(
            c,
            other,
            descriptor(0, 0xfff, 0x409b)
        )),
        (13, 0)
    );
    // Interrupt gates are no call gates.
    assert_eq!(try_gate(gate(CODE0, TARGET, 0xee, 0), &nothing), (13, free));
}

#[test]
fn bad_stacks_in_the_tss_are_ts_and_ss() {
    // The exception's own gate is a conforming segment, so that it needs no stack of the TSS.
    let conforming = FREE + 16;
    let try_stack = |vector: u8, more: &dyn Fn(&mut Vcpu)| {
        let cpu = run32(3, &far_call(FREE), |c| {
            set_gdt(c, FREE, gate(CODE0, TARGET, 0xec, 0));
            set_gdt(c, conforming, descriptor(0, u32::MAX, 0xc09f));
            let at = 0x3_8000;
            set_idt32(c, vector, gate(conforming, at, 0x8e, 0));
            // It mends SS0:ESP0 and ends by INT 40h, whose handler halts.
            poke(
                c,
                at.into(),
                &[
                    0xc7, 0x05, 8, 0x30, 0, 0, 0x10, 0, 0, 0, 0xc7, 0x05, 4, 0x30, 0, 0, 0, 0x80,
                    0, 0, 0xcd, 0x40,
                ],
            );
            set_idt32(c, 0x40, gate(CODE0, HANDLERS as u32 + 0x400, 0xee, 0));
            more(c);
        });
        assert_eq!(Trap::taken(&cpu).map(|t| t.vector), Some(0x40));
        (
            peek_u32(&cpu, STACK - 16),
            u64::from(peek_u32(&cpu, STACK - 12)),
        )
    };
    assert_eq!(try_stack(10, &|c| poke_u16(c, TSS + 8, 0)), (0, CODE));
    assert_eq!(
        try_stack(10, &|c| poke_u16(c, TSS + 8, 0x208)),
        (0x208, CODE)
    );
    assert_eq!(
        try_stack(10, &|c| poke_u16(c, TSS + 8, DATA3)),
        (0x20, CODE)
    );
    assert_eq!(try_stack(10, &|c| poke_u16(c, TSS + 8, CODE0)), (8, CODE));
    let other = FREE + 8;
    assert_eq!(
        try_stack(12, &|c| {
            poke_u16(c, TSS + 8, other);
            set_gdt(c, other, descriptor(0, u32::MAX, 0xc013));
        }),
        (other.into(), CODE)
    );
    // No room for the frame.
    assert_eq!(
        try_stack(12, &|c| {
            poke_u16(c, TSS + 8, other);
            poke_u32(c, TSS + 4, 8);
            set_gdt(c, other, descriptor(0, 0xfff, 0x4093));
        }),
        (other.into(), CODE)
    );
}

#[test]
fn far_return_to_level_3_drops_parameters_and_hides_inner_segments() {
    let code = asm(32, |a| {
        a.push(i32::from(DATA3))?;
        a.push(0x7000)?;
        a.push(0x5555)?;
        a.push(i32::from(CODE3))?;
        a.push(TARGET as i32)?;
        a.db(&[0xca, 4, 0])
    });
    let cpu = run32(0, &code, |c| {
        poke(c, TARGET.into(), &[0xf4]);
    });
    let t = Trap::taken(&cpu).expect("HLT faults at level 3");
    assert_eq!((t.vector, t.rip, t.cs), (13, TARGET.into(), CODE3));
    // RETF 4 adds its parameters to the outer stack pointer as well.
    assert_eq!(peek_u32(&cpu, STACK0 - 8), 0x7004);
    for n in [0, 3, 4, 5] {
        assert_eq!(cpu.seg[n].selector, 0, "segment {n}");
    }
}

#[test]
fn long_call_gate_pushes_eight_bytes_and_nulls_ss() {
    let mut cpu = vcpu("max", 0x20_0000);
    flat64(&mut cpu, 3);
    poke_u32(&cpu, 0x5000, 0);
    poke_u16(&cpu, 0x5004, FREE);
    let code = asm(64, |a| {
        a.mov(eax, 0x5000)?;
        a.call(fword_ptr(rax))
    });
    poke(&cpu, CODE, &code);
    set_gdt(&cpu, FREE, gate(CODE0, TARGET, 0xec, 0));
    set_gdt(&cpu, FREE + 8, 0);
    poke(&cpu, TARGET.into(), &[0xf4]);
    assert_eq!(run(&mut cpu, 100), Exit::Halt);
    assert_eq!((cpu.rip, cpu.cpl), (u64::from(TARGET) + 1, 0));
    assert_eq!(cpu.seg[SS as usize].selector, 0);
    let sp = STACK0 - 32;
    assert_eq!(cpu.gpr[reg::RSP], sp);
    let words: [u64; 4] = std::array::from_fn(|n| peek_u64(&cpu, sp + 8 * n as u64));
    let back = CODE + code.len() as u64;
    assert_eq!(words, [back, CODE3.into(), STACK, DATA3.into()]);
}

#[test]
fn long_mode_gates_refuse_what_is_not_64_bit() {
    let try_gate = |low: u64, high: u64, limit: u16| {
        let mut cpu = vcpu("max", 0x20_0000);
        flat64(&mut cpu, 3);
        poke_u32(&cpu, 0x5000, 0);
        poke_u16(&cpu, 0x5004, FREE);
        cpu.gpr[0] = 0x5000;
        poke(&cpu, CODE, &asm(64, |a| a.call(fword_ptr(rax))));
        set_gdt(&cpu, FREE, low);
        set_gdt(&cpu, FREE + 8, high);
        cpu.gdtr.limit = limit;
        assert_eq!(run(&mut cpu, 100), Exit::Halt);
        let t = trap(&cpu);
        assert_eq!(t.2, CODE);
        (t.0, t.1)
    };
    let free = u32::from(FREE);
    let good = gate(CODE0, TARGET, 0xec, 0);
    assert_eq!(try_gate(good, 0x1f << 40, 0xff), (13, free));
    assert_eq!(try_gate(good, 0, FREE + 7), (13, free));
    // A non-canonical offset.
    assert_eq!(try_gate(good, 0x8000, 0xff), (13, 0));
    // 16-bit gates and task gates do not exist; 32-bit code is no target.
    assert_eq!(try_gate(gate(CODE0, TARGET, 0xe4, 0), 0, 0xff), (13, free));
    assert_eq!(
        try_gate(gate(TSS_SELECTOR, 0, 0xe5, 0), 0, 0xff),
        (13, free)
    );
    assert_eq!(
        try_gate(gate(OTHER3, TARGET, 0xec, 0), 0, 0xff),
        (13, u32::from(OTHER3 & !3))
    );
}

#[test]
fn interrupts_in_long_mode_align_the_stack_and_take_ist() {
    let mut cpu = vcpu("max", 0x20_0000);
    flat64(&mut cpu, 0);
    cpu.gpr[reg::RSP] = STACK - 3;
    poke(&cpu, CODE, &[0xcd, 0x40]);
    assert_eq!(run(&mut cpu, 100), Exit::Halt);
    let sp = ((STACK - 3) & !15) - 40;
    assert_eq!(cpu.gpr[reg::RSP], sp);
    assert_eq!(peek_u64(&cpu, sp + 24), STACK - 3);
    assert_eq!(peek_u64(&cpu, sp + 32), DATA0.into());

    let mut cpu = vcpu("max", 0x20_0000);
    flat64(&mut cpu, 0);
    poke_u64(&cpu, TSS + 36 + 8, 0x7778);
    poke_u64(
        &cpu,
        IDT + 16 * 0x40,
        gate(CODE0, HANDLERS as u32 + 0x400, 0x8e, 2),
    );
    poke(&cpu, CODE, &[0xcd, 0x40]);
    assert_eq!(run(&mut cpu, 100), Exit::Halt);
    assert_eq!(cpu.gpr[reg::RSP], 0x7770 - 40);
    // On the same level SS stays.
    assert_eq!(cpu.seg[SS as usize].selector, DATA0);
}

#[test]
fn ext_bit_is_for_events_and_not_for_instructions() {
    // An absent gate: INT n, an exception, an external interrupt.
    let absent = |v: u8, code: &[u8]| {
        let cpu = run32(0, code, |c| set_idt32(c, v, gate(CODE0, 0, 0x0e, 0)));
        let t = trap(&cpu);
        (t.0, t.1)
    };
    assert_eq!(absent(0x40, &[0xcd, 0x40]), (11, 0x40 * 8 + 2));
    assert_eq!(absent(6, &[0x0f, 0x0b]), (11, 6 * 8 + 3));
    assert_eq!(absent(1, &[0xf1]), (11, 8 + 3));
    assert_eq!(
        absent(0x40, &[0xb0, 0x40, 0xe6, 0xf0, 0xfb, 0x90, 0x90]),
        (11, 0x40 * 8 + 3)
    );
    // A software interrupt needs the gate's DPL; INT1 does not.
    let cpu = run32(3, &[0xcd, 0x40], |_| {});
    assert_eq!(trap(&cpu), (13, 0x40 * 8 + 2, CODE));
    let cpu = run32(3, &[0xf1], |_| {});
    assert_eq!(trap(&cpu), (1, 0, CODE + 1));
    let cpu = run32(3, &[0xcc], |_| {});
    assert_eq!(trap(&cpu), (13, 3 * 8 + 2, CODE));
}

#[test]
fn two_contributory_exceptions_are_a_double_fault_and_three_a_shutdown() {
    let bad = |c: &mut Vcpu, v: u8| set_idt32(c, v, gate(0x200, 0, 0x8e, 0));
    // #UD is benign, so its bad gate is #GP; #NP's bad gate is a double fault.
    let cpu = run32(0, &[0x0f, 0x0b], |c| bad(c, 6));
    assert_eq!(trap(&cpu), (13, 0x201, CODE));
    let cpu = run32(0, &[0x0f, 0x0b], |c| {
        bad(c, 6);
        bad(c, 13);
    });
    assert_eq!(trap(&cpu), (8, 0, CODE));
    let mut cpu = vcpu("max", 0x20_0000);
    flat32(&mut cpu, 0);
    poke(&cpu, CODE, &[0x0f, 0x0b]);
    for v in [6, 8, 13] {
        bad(&mut cpu, v);
    }
    assert_eq!(run(&mut cpu, 100), Exit::Shutdown);
}

#[test]
fn real_mode_vectors_end_with_the_table() {
    let mut cpu = vcpu("max", 0x20_0000);
    cpu.gpr[reg::RSP] = 0x7000;
    poke_u32(&cpu, 0x40 * 4, 0x0100_0010);
    poke(&cpu, 0x1010, &[0xf4]);
    poke(&cpu, 0x2_0000, &[0xcd, 0x40]);
    cpu.set_segment(
        1,
        crate::cpu::segment::Segment::reset(0x2000, 0x2_0000, true),
    );
    cpu.rip = 0;
    cpu.set_rflags(0x302);
    cpu.set_rflags(0x202);
    cpu.refresh_mode();
    assert_eq!(run(&mut cpu, 100), Exit::Halt);
    assert_eq!((cpu.seg[1].selector, cpu.rip), (0x100, 0x11));
    assert_eq!(cpu.rflags() & 0x300, 0);
    let words: [u16; 3] = std::array::from_fn(|n| peek_u16(&cpu, 0x6ffa + 2 * n as u64));
    assert_eq!(words, [2, 0x2000, 0x202]);

    // A short table: #GP has no vector either, then #DF; shutdown.
    let mut cpu = vcpu("max", 0x20_0000);
    cpu.idtr.limit = 0x1f;
    poke(&cpu, 0x2_0000, &[0xcd, 0x40]);
    cpu.set_segment(
        1,
        crate::cpu::segment::Segment::reset(0x2000, 0x2_0000, true),
    );
    cpu.rip = 0;
    cpu.gpr[reg::RSP] = 0x7000;
    assert_eq!(run(&mut cpu, 100), Exit::Shutdown);
}

/// PUSHA, PUSHAD or another instruction in real mode with this stack pointer: the vector taken, or `None` for shutdown.
fn real_stack(code: &[u8], sp: u64) -> Option<u8> {
    let mut cpu = vcpu("max", 0x20_0000);
    // The vectors lie in memory that the stack does not reach.
    cpu.idtr = TableReg {
        base: IDT,
        limit: 0x3ff,
    };
    for v in 0..=255u16 {
        poke_u16(&cpu, IDT + 4 * u64::from(v), v);
        poke_u16(&cpu, IDT + 4 * u64::from(v) + 2, 0x4000);
    }
    poke(&cpu, HANDLERS, &[0xf4; 256]);
    poke(&cpu, CODE, code);
    cpu.seg[CS as usize].load_real((CODE >> 4) as u16);
    cpu.seg_base[CS as usize] = CODE;
    cpu.refresh_mode();
    cpu.rip = 0;
    cpu.gpr[reg::RSP] = sp;
    let done = run(&mut cpu, 100);
    (done == Exit::Halt).then(|| cpu.rip as u8 - 1)
}

#[test]
fn odd_stacks_in_real_mode_are_gp_or_shutdown() {
    for code in [&[0x60][..], &[0x66, 0x60]] {
        for sp in [1, 3, 5] {
            assert_eq!(real_stack(code, sp), None, "{code:x?} with SP = {sp}");
        }
        for sp in [7, 9, 11, 13, 15] {
            assert_eq!(real_stack(code, sp), Some(13), "{code:x?} with SP = {sp}");
        }
    }
    // PUSHAD needs 32 bytes: an odd stack that has fewer is #SS. PUSHA has enough with 17, and goes on to the HLT behind it.
    assert_eq!(real_stack(&[0x66, 0x60], 17), Some(12));
    assert_eq!(real_stack(&[0x60, 0xcd, 0x21], 32), Some(0x21));
    // PUSH and ENTER across the end of the segment cannot report it either.
    for code in [&[0x50][..], &[0xc8, 0, 0, 0], &[0xc8, 0, 0, 1]] {
        assert_eq!(real_stack(code, 1), None, "{code:x?}");
    }
    // ENTER whose frame ends where its last word would wrap: #SS, and it is delivered on the old stack.
    assert_eq!(real_stack(&[0xc8, 0x08, 0, 0], 9), Some(12));
}

#[test]
fn lar_and_lsl_look_at_both_halves_in_64_bit_code() {
    // lar ebx, cx; setz dl; lsl esi, cx; setz dh; hlt
    let code = [
        0x0f, 0x02, 0xd9, 0x0f, 0x94, 0xc2, 0x0f, 0x03, 0xf1, 0x0f, 0x94, 0xc6, 0xf4,
    ];
    let zf = |selector: u16, low: u64, high: u64, code_selector: u16| {
        let mut cpu = vcpu("max", 0x20_0000);
        flat64(&mut cpu, 3);
        poke(&cpu, CODE, &[&code[..12], &[0xcd, 0x41]].concat());
        set_gdt(&cpu, selector, low);
        if selector < 0xf8 {
            set_gdt(&cpu, selector + 8, high);
        }
        let s = Descriptor::new(peek_u64(&cpu, GDT + u64::from(code_selector & !7)));
        cpu.set_segment(1, s.segment(code_selector));
        cpu.refresh_mode();
        cpu.gpr[1] = selector.into();
        run(&mut cpu, 20);
        (cpu.gpr[2] & 1 != 0, cpu.gpr[2] >> 8 & 1 != 0)
    };
    let ldt = descriptor(0x5000, 0xff, 0xe2);
    let call = gate(CODE0, TARGET, 0xec, 0);
    let typed = 0x0000_0200_0000_0000;
    assert_eq!(zf(FREE, ldt, 0, CODE3), (true, true));
    assert_eq!(zf(FREE, ldt, typed, CODE3), (false, false));
    // The last slot has no room for the upper half.
    assert_eq!(zf(0xf8, ldt, 0, CODE3), (false, false));
    assert_eq!(zf(0xf8, ldt, 0, OTHER3), (true, true));
    // In compatibility mode only call gates are 16 bytes long.
    assert_eq!(zf(FREE, ldt, typed, OTHER3), (true, true));
    assert_eq!(zf(FREE, call, 0, OTHER3), (true, false));
    assert_eq!(zf(FREE, call, typed, OTHER3), (false, false));
    assert_eq!(zf(FREE, call, typed, CODE3), (false, false));
}
