//! Far transfers: JMP, CALL and RET between segments, IRET, software interrupts, SYSCALL and SYSENTER with their returns.
//! Gates, privilege changes and tasks are in [`cpu::far_transfer`](crate::cpu::far_transfer) and its neighbours.

use crate::cpu::interrupt::Source;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn};
use crate::decode::table::Ctx;
use crate::fault::{R, vector};
use crate::interp::ea;
use crate::op;
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Mnemonic};

/// JMP and CALL far: `r3` is the operand size in bits; the target is in `imm`:`disp` or in memory.
fn far<const CALL: bool, const MEM: bool, W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    let (selector, off) = if MEM {
        let at = ea::lin::<false>(c, i, W::BYTES + 2)?;
        let off: W = c.read(at)?;
        (c.read::<u16>(at.wrapping_add(W::BYTES))?, off.to_u64())
    } else {
        (i.disp as u16, i.imm & W::MASK)
    };
    let next = i.next_rip(c);
    if CALL {
        c.far_call(selector, off, W::BYTES, next)
    } else {
        c.far_jump(selector, off, next)
    }
}

/// JMP and CALL far.
pub fn pick_far(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Code::*;
    Some(match x.code() {
        Jmp_ptr1616 => op!(far::<false, false, u16>),
        Jmp_ptr1632 => op!(far::<false, false, u32>),
        Call_ptr1616 => op!(store far::<true, false, u16>),
        Call_ptr1632 => op!(store far::<true, false, u32>),
        Jmp_m1616 => op!(far::<false, true, u16>),
        Jmp_m1632 => op!(far::<false, true, u32>),
        Jmp_m1664 => op!(far::<false, true, u64>),
        Call_m1616 => op!(store far::<true, true, u16>),
        Call_m1632 => op!(store far::<true, true, u32>),
        _ => op!(store far::<true, true, u64>),
    })
}

/// RETF.
pub fn pick_retf(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Code::*;
    Some(match x.code() {
        Retfw | Retfw_imm16 => op!(|c: &mut Vcpu, i: &Insn| c.far_return(2, i.imm)),
        Retfd | Retfd_imm16 => op!(|c: &mut Vcpu, i: &Insn| c.far_return(4, i.imm)),
        _ => op!(|c: &mut Vcpu, i: &Insn| c.far_return(8, i.imm)),
    })
}

/// IRET, IRETD, IRETQ.
pub fn pick_iret(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match x.code() {
        Code::Iretw => op!(|c: &mut Vcpu, i: &Insn| c.interrupt_return(2, i)),
        Code::Iretd => op!(|c: &mut Vcpu, i: &Insn| c.interrupt_return(4, i)),
        _ => op!(|c: &mut Vcpu, i: &Insn| c.interrupt_return(8, i)),
    })
}

/// INT n, INT3, INTO, INT1.
pub fn pick_int(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn go(c: &mut Vcpu, i: &Insn, v: u8, s: Source) -> R {
        c.hook_software_interrupt(v)?;
        let next = i.next_rip(c);
        let back = c.key.cut(next);
        c.deliver(v, None, s, back)
    }
    Some(match x.mnemonic() {
        Mnemonic::Int3 => {
            op!(store |c: &mut Vcpu, i: &Insn| go(c, i, vector::BP, Source::SoftwareTrap))
        }
        Mnemonic::Int1 => {
            op!(store |c: &mut Vcpu, i: &Insn| go(c, i, vector::DB, Source::Icebp))
        }
        Mnemonic::Into => op!(store |c: &mut Vcpu, i: &Insn| {
            if c.flags.of() {
                return go(c, i, vector::OF, Source::SoftwareTrap);
            }
            c.rip = i.next_rip(c) & 0xffff_ffff;
            Ok(())
        }),
        _ => op!(store |c: &mut Vcpu, i: &Insn| go(c, i, i.imm as u8, Source::Software)),
    })
}

/// SYSCALL, SYSRET, SYSENTER, SYSEXIT.
pub fn pick_syscall(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match x.code() {
        Code::Syscall => op!(|c: &mut Vcpu, i: &Insn| c.syscall(i.next_rip(c))),
        Code::Sysretd => op!(|c: &mut Vcpu, _: &Insn| c.sysret(false)),
        Code::Sysretq => op!(|c: &mut Vcpu, _: &Insn| c.sysret(true)),
        Code::Sysenter => op!(|c: &mut Vcpu, _: &Insn| c.sysenter()),
        Code::Sysexitd => op!(|c: &mut Vcpu, _: &Insn| c.sysexit(false)),
        _ => op!(|c: &mut Vcpu, _: &Insn| c.sysexit(true)),
    })
}
