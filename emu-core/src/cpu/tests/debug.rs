//! Debug exceptions: steps, breakpoints, RF, GD, and what holds them back.

use super::*;
use crate::cpu::flags;
use crate::mem::phys::Ram;

/// DR7 that watches DR0 for writes of four bytes.
const WRITES: u64 = 0xd_0402;
/// DR7 that breaks on executing DR0.
const EXECUTES: u64 = 0x402;

fn bits(cpu: &Vcpu) -> u64 {
    cpu.dr[6] & 0xe00f
}

fn set_dr(cpu: &mut Vcpu, dr0: u64, dr7: u64) {
    cpu.dr[0] = dr0;
    cpu.dr[7] = dr7;
    cpu.tlb.flush_all(false);
    cpu.refresh_events();
}

#[test]
fn a_step_ends_hlt() {
    let cpu = run32(0, &[0xf4, 0x43], |c| c.set_rflags(flags::TF));
    // The machine would wait for ever if HLT were still in force in the handler: it halts there by its own.
    assert_eq!(trap(&cpu), (1, 0, CODE + 1));
    assert_eq!(bits(&cpu), 0x4000);
    assert_eq!(cpu.stats.halts, 2);
}

#[test]
fn an_instruction_breakpoint_is_a_fault_and_rf_passes_it() {
    let code = [0x90, 0x43, 0xf4];
    let cpu = run32(0, &code, |c| set_dr(c, CODE + 1, EXECUTES));
    let t = Trap::taken(&cpu).expect("#DB");
    assert_eq!((t.vector, t.rip, t.flags & flags::RF), (1, CODE + 1, 0));
    assert_eq!((bits(&cpu), cpu.gpr[3]), (1, 0));
    // IRET with RF set in the image: the instruction runs, once, and RF is gone behind it.
    let handler = asm(32, |a| {
        a.or(
            iced_x86::code_asm::dword_ptr(iced_x86::code_asm::esp + 8),
            0x1_0000,
        )?;
        a.iretd()
    });
    let code = [0x90, 0x43, 0xeb, 0xfd];
    let mut cpu = vcpu("max", 0x20_0000);
    flat32(&mut cpu, 0);
    poke(&cpu, CODE, &code);
    poke(&cpu, 0x3_0000, &handler);
    set_idt32(&cpu, 1, gate(CODE0, 0x3_0000, 0x8e, 0));
    set_dr(&mut cpu, CODE + 1, EXECUTES);
    run(&mut cpu, 100);
    assert!(cpu.gpr[3] > 5);
    assert_eq!(
        cpu.stats.exceptions[1],
        cpu.gpr[3] + u64::from(cpu.rip != CODE + 2)
    );
}

#[test]
fn a_data_breakpoint_is_a_trap_behind_the_store() {
    // mov [5000], eax; inc ebx
    let code = [0xa3, 0, 0x50, 0, 0, 0x43];
    let cpu = run32(0, &code, |c| set_dr(c, 0x5000, WRITES));
    assert_eq!(trap(&cpu), (1, 0, CODE + 5));
    assert_eq!((bits(&cpu), cpu.gpr[3]), (1, 0));
}

#[test]
fn a_watched_stack_does_not_disturb_the_interrupt_that_pushes_there() {
    // The trap comes when the frame is pushed, at the handler's first instruction.
    for code in [&[0xcd, 0x40][..], &[0x0f, 0x0b]] {
        let cpu = run32(0, code, |c| set_dr(c, STACK - 8, WRITES));
        let v = if code[0] == 0xcd { 0x40 } else { 6 };
        assert_eq!(trap(&cpu), (1, 0, HANDLERS + 16 * v));
        assert_eq!(bits(&cpu), 1);
    }
}

#[test]
fn a_faulting_instruction_reports_no_data_breakpoint() {
    // movs reads the watched dword and then faults at its destination, beyond DS's limit.
    let code = [0xa5];
    let cpu = run32(0, &code, |c| {
        set_dr(c, 0x5000, WRITES | 0x3_0000);
        c.gpr[reg::RSI] = 0x5000;
        c.gpr[reg::RDI] = 0x5000;
        set_gdt(c, FREE, descriptor(0, 0xfff, 0x4093));
        let small = Descriptor::new(peek_u64(c, GDT + u64::from(FREE)));
        c.set_segment(0, small.segment(FREE));
        c.refresh_mode();
    });
    assert_eq!(trap(&cpu), (13, 0, CODE));
    assert_eq!(bits(&cpu), 0);
}

#[test]
fn mov_ss_carries_its_data_breakpoint_into_the_next_instruction() {
    // mov ss, [5000]; int 40h: the trap is taken at the handler (the case of CVE-2018-8897).
    let code = [0x8e, 0x15, 0, 0x50, 0, 0, 0xcd, 0x40];
    let cpu = run32(0, &code, |c| {
        poke_u16(c, 0x5000, DATA0);
        set_dr(c, 0x5000, WRITES | 0x3_0000);
    });
    assert_eq!(trap(&cpu), (1, 0, HANDLERS + 0x400));
}

#[test]
fn general_detect_is_a_fault_and_delivery_clears_it() {
    // mov eax, dr6
    let cpu = run32(0, &[0x0f, 0x21, 0xf0], |c| c.dr[7] |= 1 << 13);
    let t = Trap::taken(&cpu).expect("#DB");
    assert_eq!((t.vector, t.rip, t.flags & flags::RF), (1, CODE, flags::RF));
    assert_eq!(bits(&cpu), 1 << 13);
    assert_eq!(cpu.dr[7], 0x400);
}

/// REP MOVSB of three bytes; the iterations are cut by single steps, by an interrupt, and by nothing.
const COPY: [u8; 3] = [0xf3, 0xa4, 0xf4];

fn copying(c: &mut Vcpu, count: u64) {
    (c.gpr[1], c.gpr[6], c.gpr[7]) = (count, 0x5000, 0x6000);
}

#[test]
fn a_trap_between_iterations_pushes_rf_and_one_behind_the_last_does_not() {
    for (count, rip, rf) in [(3, CODE, flags::RF), (1, CODE + 2, 0)] {
        let cpu = run32(0, &COPY, |c| {
            copying(c, count);
            c.set_rflags(flags::TF);
        });
        let t = Trap::taken(&cpu).expect("#DB");
        assert_eq!((t.vector, t.rip, t.flags & flags::RF), (1, rip, rf));
    }
}

#[test]
fn an_interrupt_between_iterations_pushes_rf() {
    // REP OUTSB to the port that raises INTR with the byte as vector: after the first iteration it comes.
    let code = [0xba, 0xf0, 0, 0, 0, 0xf3, 0x6e, 0xf4];
    for (count, rip, rf) in [(3, CODE + 5, flags::RF), (1, CODE + 7, 0)] {
        let cpu = run32(0, &code, |c| {
            copying(c, count);
            poke(c, 0x5000, &[0x40; 3]);
            c.set_rflags(flags::IF);
        });
        let t = Trap::taken(&cpu).expect("the interrupt");
        assert_eq!((t.vector, t.rip, t.flags & flags::RF), (0x40, rip, rf));
        assert_eq!(cpu.gpr[1], count - 1);
    }
    // The same between the chunks of a long copy: an NMI that waits in the interrupt's shadow of nothing.
    let mut cpu = vcpu("max", 0x20_0000);
    flat32(&mut cpu, 0);
    poke(&cpu, CODE, &COPY);
    copying(&mut cpu, 0x1800);
    assert_eq!(run(&mut cpu, 1), Exit::Fuel);
    assert_eq!((cpu.rip, cpu.gpr[1]), (CODE, 0x800));
    cpu.machine.board().pio_write(RAISE_NMI, 1, 0, 0);
    cpu.poll_lines();
    run(&mut cpu, 100);
    let t = Trap::taken(&cpu).expect("NMI");
    assert_eq!((t.vector, t.rip, t.flags & flags::RF), (2, CODE, flags::RF));
}

#[test]
fn a_breakpoint_on_a_string_instruction_comes_once() {
    // The handler sets RF in its frame and counts in EBX.
    let handler = asm(32, |a| {
        use iced_x86::code_asm::{dword_ptr, ebx, esp};
        a.or(dword_ptr(esp + 8), 0x1_0000)?;
        a.inc(ebx)?;
        a.iretd()
    });
    let cpu = run32(0, &COPY, |c| {
        copying(c, 0x1800);
        poke(c, 0x3_0000, &handler);
        set_idt32(c, 1, gate(CODE0, 0x3_0000, 0x8e, 0));
        set_dr(c, CODE, EXECUTES);
    });
    assert_eq!((cpu.rip, cpu.gpr[1], cpu.gpr[3]), (CODE + 3, 0, 1));
    assert_eq!(cpu.sys & flags::RF, 0);
}

#[test]
fn an_iteration_that_reaches_a_device_is_a_chunk_of_its_own() {
    // 16 bytes of RAM and then what is behind it: the chunk ends with the first byte there.
    let mut cpu = vcpu("max", 0x20_0000);
    flat32(&mut cpu, 0);
    poke(&cpu, CODE, &COPY);
    copying(&mut cpu, 0x100);
    cpu.gpr[7] = 0x20_0000 - 16;
    let mut counts = Vec::new();
    for _ in 0..4 {
        assert_eq!(run(&mut cpu, 1), Exit::Fuel);
        counts.push(cpu.gpr[1]);
    }
    assert_eq!(counts, [0xf0, 0xef, 0xee, 0xed]);
    assert_eq!((cpu.retired, cpu.stats.mmio_accesses), (4, 3));
}

#[test]
fn iterations_in_the_hole_are_one_chunk_like_those_in_ram() {
    let ram = Ram::with(0x20_0000, &[], 0xa_0000..0xc_0000).unwrap();
    let mut cpu = vcpu_with("max", ram);
    flat32(&mut cpu, 0);
    poke(&cpu, CODE, &COPY);
    copying(&mut cpu, 0x1010);
    cpu.gpr[7] = 0xb_8000;
    assert_eq!(run(&mut cpu, 1), Exit::Fuel);
    assert_eq!((cpu.gpr[1], cpu.retired), (0x10, 1));
    assert_eq!(
        (cpu.stats.mmio_accesses, cpu.stats.screen_accesses),
        (0, 0x1000)
    );
    assert_eq!(cpu.stats.instructions_retried_alone, 0);
}
