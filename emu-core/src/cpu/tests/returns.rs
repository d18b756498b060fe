//! IRET, SYSRET, SYSENTER, and when interrupts and NMIs are let in.

use super::*;
use crate::cpu::flags;
use crate::cpu::segment::{SS, Segment};

const TARGET: u32 = 0x3_0000;

/// Runs `code` in 64-bit mode at `cpl`, after `setup`, until it halts.
fn run64(cpl: u8, code: &[u8], setup: impl FnOnce(&mut Vcpu)) -> Vcpu {
    let mut cpu = vcpu("max", 0x20_0000);
    flat64(&mut cpu, cpl);
    cpu.efer |= 1;
    poke(&cpu, CODE, code);
    setup(&mut cpu);
    assert_eq!(run(&mut cpu, 1000), Exit::Halt);
    cpu
}

fn frame64(cpu: &mut Vcpu, words: [u64; 5]) {
    cpu.gpr[reg::RSP] = STACK - 40;
    for (n, w) in words.into_iter().enumerate() {
        poke_u64(cpu, STACK - 40 + 8 * n as u64, w);
    }
}

#[test]
fn iretq_pops_the_stack_pointer_on_the_same_level_too() {
    let cpu = run64(0, &[0x48, 0xcf], |c| {
        frame64(c, [TARGET.into(), CODE0.into(), 2, 0x7008, DATA0.into()]);
        poke(c, TARGET.into(), &[0xf4]);
    });
    assert_eq!(
        (cpu.rip, cpu.gpr[reg::RSP]),
        (u64::from(TARGET) + 1, 0x7008)
    );
}

#[test]
fn iretq_takes_a_null_ss_below_level_3_only() {
    let cpu = run64(0, &[0x48, 0xcf], |c| {
        frame64(c, [TARGET.into(), CODE0.into(), 2, 0x7008, 0]);
        poke(c, TARGET.into(), &[0xf4]);
    });
    assert_eq!(cpu.seg[SS as usize].selector, 0);
    assert_eq!(cpu.rip, u64::from(TARGET) + 1);
    let cpu = run64(0, &[0x48, 0xcf], |c| {
        frame64(c, [TARGET.into(), CODE3.into(), 2, 0x7008, 3]);
    });
    assert_eq!(trap(&cpu), (13, 0, CODE));
    // IRET with NT is #GP(0) in long mode.
    let cpu = run64(0, &[0x48, 0xcf], |c| c.set_rflags(flags::NT));
    assert_eq!(trap(&cpu), (13, 0, CODE));
}

#[test]
fn iret_to_a_16_bit_stack_keeps_the_upper_half_of_esp() {
    let small = FREE;
    let code = asm(32, |a| {
        a.push(i32::from(small | 3))?;
        a.push(0x7000)?;
        a.push(2)?;
        a.push(i32::from(CODE3))?;
        a.push(TARGET as i32)?;
        a.iretd()
    });
    let cpu = run32(0, &code, |c| {
        set_gdt(c, small, descriptor(0, 0xffff, 0x00f3));
        poke(c, TARGET.into(), &[0xf4]);
        // The stack lies above 64 KiB, so that ESP's upper half is not zero.
        c.gpr[reg::RSP] = 0x3_9000;
    });
    assert_eq!(trap(&cpu).0, 13);
    assert_eq!(peek_u32(&cpu, STACK0 - 8), 0x3_7000);
}

#[test]
fn sysret_by_amd_changes_the_selector_of_ss_alone() {
    let cpu = run64(0, &[0x48, 0x0f, 0x07], |c| {
        c.msr.star = u64::from((DATA0 - 8) | 3) << 48;
        c.gpr[reg::RCX] = TARGET.into();
        c.gpr[11] = 0x3_0202;
        c.set_segment(SS as usize, Segment::null_stack(0));
        poke(c, TARGET.into(), &[0xf4]);
    });
    let t = Trap::taken(&cpu).expect("HLT faults at level 3");
    assert_eq!((t.vector, t.rip, t.cs), (13, TARGET.into(), CODE3));
    // VM and RF are not taken from R11; RF in the image is the fault's.
    assert_eq!(t.flags, 0x1_0202);
    assert_eq!(peek_u64(&cpu, cpu.gpr[reg::RSP] + 40), u64::from(DATA0 | 3));

    // RCX is not looked at: the target's fetch faults, at level 3.
    let cpu = run64(0, &[0x48, 0x0f, 0x07], |c| {
        c.msr.star = u64::from((DATA0 - 8) | 3) << 48;
        c.gpr[reg::RCX] = 1 << 47;
    });
    let t = Trap::taken(&cpu).expect("#GP");
    assert_eq!((t.vector, t.rip, t.cs), (13, 1 << 47, CODE3));
}

#[test]
fn amd_has_no_sysenter_in_long_mode() {
    for code in [[0x0f, 0x34], [0x0f, 0x35]] {
        let cpu = run64(0, &code, |c| c.msr.sysenter_cs = CODE0.into());
        assert_eq!(trap(&cpu), (6, 0, CODE));
    }
}

#[test]
fn single_step_over_syscall_waits_for_sysret() {
    // FMASK clears TF: nothing is stepped in the kernel, and the trap comes behind SYSRET.
    let cpu = run64(3, &[0x0f, 0x05, 0x90], |c| {
        c.msr.star = u64::from(CODE0) << 32 | u64::from((DATA0 - 8) | 3) << 48;
        c.msr.lstar = TARGET.into();
        c.msr.fmask = flags::TF;
        poke(c, TARGET.into(), &[0x90, 0x48, 0x0f, 0x07]);
        c.set_rflags(flags::TF);
    });
    assert_eq!(trap(&cpu), (1, 0, CODE + 2));
    assert_eq!(cpu.dr[6] & 0xe00f, 0x4000);
}

#[test]
fn nmis_wait_for_iret_even_one_that_faults() {
    // The handler of NMI raises another and goes on; its IRET lets that in.
    let code = [0xe6, 0xf1, 0x90, 0xf4];
    let enough = |c: &mut Vcpu| {
        set_idt32(c, 2, gate(CODE0, TARGET, 0x8e, 0));
        // inc ebx; cmp ebx, 3; jae +2; out 0xf1; iretd
        poke(
            c,
            TARGET.into(),
            &[0x43, 0x83, 0xfb, 3, 0x73, 2, 0xe6, 0xf1, 0xcf],
        );
    };
    let cpu = run32(0, &code, enough);
    assert_eq!((cpu.gpr[3], cpu.rip), (3, CODE + 4));
    // Inside the handler nothing comes in: two NMIs are one.
    let cpu = run32(0, &code, |c| {
        set_idt32(c, 2, gate(CODE0, TARGET, 0x8e, 0));
        poke(c, TARGET.into(), &[0x43, 0xe6, 0xf1, 0x90, 0x90, 0xf4]);
    });
    assert_eq!((cpu.gpr[3], cpu.rip), (1, u64::from(TARGET) + 6));
    // A faulting IRET unblocks: #GP's handler is interrupted.
    let cpu = run32(0, &code, |c| {
        set_idt32(c, 2, gate(CODE0, TARGET, 0x8e, 0));
        // inc ebx; cmp ebx, 2; je hlt; out 0xf1; mov word [esp+4], 0; iretd; hlt
        poke(
            c,
            TARGET.into(),
            &[
                0x43, 0x83, 0xfb, 2, 0x74, 10, 0xe6, 0xf1, 0x66, 0xc7, 0x44, 0x24, 4, 0, 0, 0xcf,
                0xf4,
            ],
        );
    });
    assert_eq!((cpu.gpr[3], cpu.rip), (2, u64::from(TARGET) + 17));
}

#[test]
fn sti_holds_interrupts_back_for_one_instruction_and_only_if_if_was_clear() {
    // mov al, 40h; out f0, al; sti; inc ebx; inc ebx
    let code = [0xb0, 0x40, 0xe6, 0xf0, 0xfb, 0x43, 0x43, 0xf4];
    let cpu = run32(0, &code, |_| {});
    assert_eq!(trap(&cpu), (0x40, 0, CODE + 6));
    assert_eq!(cpu.gpr[3], 1);
    // STI; HLT: the interrupt wakes the HLT, and returns behind it.
    let code = [0xb0, 0x40, 0xe6, 0xf0, 0xfb, 0xf4, 0x43];
    let cpu = run32(0, &code, |_| {});
    assert_eq!(trap(&cpu), (0x40, 0, CODE + 6));
}
