//! ORC: the x86-64 kernel's own unwinding tables, `.orc_unwind_ip` and `.orc_unwind`.
//!
//! Documentation/x86/orc-unwinder.rst, arch/x86/include/asm/orc_types.h: for each range of code, how to get the caller's stack pointer
//! and RBP. A row is 6 bytes: two signed offsets of 16 bits, then from bit 0 the base of each (4 bits each), and the type. Up to
//! 6.3 the type has two bits (call, all registers, IRET's frame), from 6.4 on three (undefined, outermost, and those): which of
//! the two it is, the table's rows tell, nearly all of which are calls. The bit `signal` is not looked at: below the frames of
//! interrupts, which are those with registers, the next instruction is always at the address.

use super::{RBP, RSP, Read, Regs, Step, Width, number};
use crate::debug::symbols::module::Module;

/// Of `orc_types.h`, ORC_REG_*.
const UNDEFINED: u8 = 0;
const PREV_SP: u8 = 1;
const DX: u8 = 2;
const DI: u8 = 3;
const BP: u8 = 4;
const SP: u8 = 5;
const R10: u8 = 6;
const R13: u8 = 7;
const BP_INDIRECT: u8 = 8;
const SP_INDIRECT: u8 = 9;

/// What `struct pt_regs` has, in its order, as encodings: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi.
const PT_REGS: [usize; 15] = [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7];
/// Behind those: orig_rax, then IRET's frame: rip cs rflags rsp ss.
const PT_IRET: u64 = 16 * 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Undefined,
    Outermost,
    Call,
    Regs,
    Iret,
}

#[derive(Clone, Copy)]
struct Row {
    sp_offset: i16,
    bp_offset: i16,
    flags: u16,
}

pub struct Orc {
    /// Where each row begins to hold, as the file has it; sorted.
    from: Vec<u64>,
    rows: Vec<Row>,
    /// The type has three bits.
    new: bool,
}

impl Orc {
    /// `at`: where `.orc_unwind_ip` is, from which its offsets count. `None` if the sections do not fit each other.
    pub fn new(at: u64, ip: &[u8], entries: &[u8]) -> Option<Orc> {
        let (ips, rest) = ip.as_chunks::<4>();
        let (rows, rest2) = entries.as_chunks::<6>();
        if ips.is_empty() || ips.len() != rows.len() || !rest.is_empty() || !rest2.is_empty() {
            return None;
        }
        let from = ips.iter().zip(0u64..).map(|(o, i)| {
            let offset = i32::from_le_bytes(*o);
            at.wrapping_add(4 * i).wrapping_add_signed(offset.into())
        });
        let rows = rows.iter().map(|&[a, b, c, d, e, f]| Row {
            sp_offset: i16::from_le_bytes([a, b]),
            bp_offset: i16::from_le_bytes([c, d]),
            flags: u16::from_le_bytes([e, f]),
        });
        // The build sorts them since 5.6; before, the kernel does when it starts.
        let mut both: Vec<(u64, Row)> = from.zip(rows).collect();
        both.sort_by_key(|x| x.0);
        let (from, rows): (Vec<u64>, Vec<Row>) = both.into_iter().unzip();
        let calls = rows.iter().filter(|r| r.flags >> 8 & 7 == 2).count();
        let new = calls > rows.len() / 2;
        Some(Orc { from, rows, new })
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn row(&self, linked: u64) -> Option<Row> {
        let behind = self.from.partition_point(|a| *a <= linked);
        Some(self.rows[behind.checked_sub(1)?])
    }

    fn kind(&self, row: Row) -> Type {
        let bits = row.flags >> 8;
        if self.new {
            return match bits & 7 {
                1 => Type::Outermost,
                2 => Type::Call,
                3 => Type::Regs,
                4 => Type::Iret,
                _ => Type::Undefined,
            };
        }
        match (row.flags as u8 & 15, bits & 3) {
            (UNDEFINED, _) => Type::Outermost,
            (_, 0) => Type::Call,
            (_, 1) => Type::Regs,
            (_, 2) => Type::Iret,
            _ => Type::Undefined,
        }
    }

    pub(super) fn step(&self, module: &Module, regs: &Regs, read: &mut Read) -> Step {
        let row = (module.linked(regs.site()))
            .filter(|_| module.is_code(regs.site()))
            .and_then(|at| self.row(at));
        let Some(row) = row else {
            return Step::Unknown;
        };
        let kind = self.kind(row);
        match kind {
            Type::Undefined => return Step::Unknown,
            Type::Outermost => return Step::Outermost,
            _ => {}
        }
        match self.caller(row, kind, regs, read) {
            Some(regs) => Step::Caller(Box::new(regs)),
            None => Step::Lost,
        }
    }

    /// As `unwind_next_frame` in arch/x86/kernel/unwind_orc.c has it.
    fn caller(&self, row: Row, kind: Type, regs: &Regs, read: &mut Read) -> Option<Regs> {
        let gpr = |n: usize| regs.gpr[n];
        let offset = |base: u64| base.wrapping_add_signed(row.sp_offset.into());
        let sp = match row.flags as u8 & 15 {
            SP => offset(gpr(RSP)?),
            BP => offset(gpr(RBP)?),
            SP_INDIRECT => offset(number(read, gpr(RSP)?, 8)?),
            BP_INDIRECT => number(read, offset(gpr(RBP)?), 8)?,
            R10 => gpr(10)?,
            R13 => gpr(13)?,
            DI => gpr(7)?,
            DX => gpr(2)?,
            _ => return None,
        };
        let mut next = Regs {
            width: Width::W64,
            pc: 0,
            gpr: [None; 16],
            cs_base: 0,
            ss_base: 0,
            exact: kind != Type::Call,
        };
        match kind {
            Type::Call => {
                next.pc = number(read, sp.wrapping_sub(8), 8)?;
                next.gpr[RSP] = Some(sp);
            }
            Type::Regs => {
                for (i, n) in (0u64..).zip(PT_REGS) {
                    next.gpr[n] = number(read, sp.wrapping_add(8 * i), 8);
                }
                let iret = sp.wrapping_add(PT_IRET);
                next.pc = number(read, iret, 8)?;
                next.gpr[RSP] = Some(number(read, iret.wrapping_add(24), 8)?);
                return Some(next);
            }
            _ => {
                next.pc = number(read, sp, 8)?;
                next.gpr = regs.gpr;
                next.gpr[RSP] = Some(number(read, sp.wrapping_add(24), 8)?);
            }
        }
        let offset = |base: u64| base.wrapping_add_signed(row.bp_offset.into());
        next.gpr[RBP] = match (row.flags >> 4) as u8 & 15 {
            PREV_SP => number(read, offset(sp), 8),
            BP => gpr(RBP).and_then(|bp| number(read, offset(bp), 8)),
            _ => gpr(RBP),
        };
        Some(next)
    }
}
