//! What compiled code leaves to handlers, counted: calls by instruction, and among them the emulation stubs.
//!
//! An instruction that emu-core's catalogue ([`emu_core::sensitive`]) calls privileged or critical is a *stub* wherever it is not
//! lowered: compiled code calls its handler, which checks and does what the CPU would. Compiled code counts each call in a table
//! with a word per iced-x86 code; classes and names are looked up when somebody asks.

use emu_core::sensitive::{self, Class};
use iced_x86::{Code, Instruction, OpCodeOperandKind, OpKind, Register};

/// How many of the handlers are listed.
const HOTTEST: usize = 10;

/// Calls of handlers from compiled code.
pub struct Calls(Box<[u64]>);

impl Default for Calls {
    fn default() -> Self {
        Self(vec![0; Code::values().len()].into_boxed_slice())
    }
}

impl Calls {
    /// Where compiled code's helper finds the table.
    pub fn address(&mut self) -> u64 {
        self.0.as_mut_ptr() as u64
    }

    /// The hottest handlers, and the stubs by class and by mnemonic.
    pub fn tables(&self) -> Vec<(&'static str, Vec<(String, u64)>)> {
        let mut calls: Vec<(Code, u64)> = Code::values().zip(self.0.iter().copied()).collect();
        calls.retain(|c| c.1 != 0);
        calls.sort_by_key(|c| std::cmp::Reverse(c.1));
        let hottest = calls.iter().take(HOTTEST).map(|&(c, n)| (name(c), n));
        let mut classes = vec![("privileged".to_owned(), 0), ("critical".to_owned(), 0)];
        let mut names: Vec<(String, u64)> = Vec::new();
        for &(code, n) in &calls {
            match sensitive::class_of(&example(code)) {
                Class::Privileged => classes[0].1 += n,
                Class::Critical => classes[1].1 += n,
                _ => continue,
            }
            let name = format!("{:?}", code.mnemonic()).to_lowercase();
            match names.iter_mut().find(|r| r.0 == name) {
                Some(row) => row.1 += n,
                None => names.push((name, n)),
            }
        }
        names.sort_by_key(|r| std::cmp::Reverse(r.1));
        vec![
            ("handlers_called", hottest.collect()),
            ("stubs", classes.into_iter().chain(names).collect()),
        ]
    }
}

/// An instruction form as the manual's opcode table writes it.
fn name(code: Code) -> String {
    match code {
        Code::INVALID => "refused".to_owned(),
        c => c.op_code().instruction_string().to_owned(),
    }
}

/// An instruction of this code, with what the catalogue asks about: special registers as operands.
fn example(code: Code) -> Instruction {
    let mut x = Instruction::default();
    x.set_code(code);
    for n in 0..x.op_count() {
        let r = match code.op_code().op_kind(n) {
            OpCodeOperandKind::seg_reg
            | OpCodeOperandKind::es
            | OpCodeOperandKind::cs
            | OpCodeOperandKind::ss
            | OpCodeOperandKind::ds
            | OpCodeOperandKind::fs
            | OpCodeOperandKind::gs => Register::DS,
            OpCodeOperandKind::cr_reg => Register::CR0,
            OpCodeOperandKind::dr_reg => Register::DR0,
            _ => continue,
        };
        x.set_op_kind(n, OpKind::Register);
        x.set_op_register(n, r);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_name_and_stubs_by_class() {
        let mut c = Calls::default();
        for (code, n) in [
            (Code::Mov_cr_r64, 3),
            (Code::Mov_r64_cr, 1),
            (Code::Pushq_FS, 5),
            (Code::Popfq, 7),
            (Code::Fadd_m32fp, 9),
            (Code::Mov_rm32_r32, 2),
        ] {
            c.0[code as usize] = n;
        }
        let tables = c.tables();
        let rows = |t: usize| -> Vec<(&str, u64)> {
            tables[t].1.iter().map(|(k, n)| (&**k, *n)).collect()
        };
        assert_eq!(rows(0)[..2], [("FADD m32fp", 9), ("POPFQ", 7)]);
        assert_eq!(
            rows(1),
            [
                ("privileged", 4),
                ("critical", 12),
                ("popfq", 7),
                ("push", 5),
                ("mov", 4)
            ]
        );
    }
}
