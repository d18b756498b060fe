//! The debugger's expressions: GDB's language for a machine without a debugged program.
//!
//! `lex` makes words of a text, `parse` makes operations of the words, in the order of their execution, and `eval` executes
//! them on a small stack of values: a breakpoint's condition is read once and evaluated often, without a copy of anything.
//! Names of symbols become numbers when the text is read. What the machine holds comes through [`Env`].
//!
//! The language:
//! - C's operators with C's precedence and, for integers, C's types; see `value` for what differs. No assignments inside
//!   an expression: those are [`Assignment`]s.
//! - Numbers `10`, `0x1f`, `0b101`, `0o17`, `017`, `1.5`, with C's suffixes; characters `'a'`.
//! - A symbol is its address, as GDB has it for symbols without debug information: `start_kernel`, `module!name`. `&name`
//!   is the same, `*name` reads there.
//! - Registers `$rax`, or `rax` if no symbol has that name; flags `$zf`; `$cs.base`, `$gdtr.limit`; `msr(0xc0000080)` or
//!   `$msr[0xc0000080]`; `$xmm0.u32[1]`, `$st0`. `$pc` is the linear address of the next instruction, `$rip` the
//!   register; `$sp` and `$fp` are RSP and RBP, and `ss:sp` is where the stack is.
//! - `$1`, `$$2`, `$`: the history's values; other names behind `$` are the user's.
//! - Memory: `*ADDR`, of the code's width unless the pointer has a type; `u8[ADDR]` to `u64[ADDR]`, `i8` to `i64`, `f32`,
//!   `f64`; `*(int*)ADDR`, `((short*)ADDR)[2]`, `{int}ADDR`; `dword ptr [ADDR]`, `word ptr es:[di]`.
//! - An address is linear; `phys:ADDR` is physical, `SELECTOR:OFFSET` and `ds:OFFSET` go through a segment. Between `?` and
//!   `:` such an address stands in brackets.

mod assign;
mod eval;
mod lex;
mod names;
mod parse;
pub mod register;
#[cfg(test)]
mod tests;
mod types;
pub mod value;

pub use assign::{Assignment, Place, Store};
pub use eval::Expr;
pub use register::Reg;
pub use value::{Base, Space, Type, Value};

use std::fmt;

/// The values that the debugger itself keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable<'a> {
    /// `$name`, without the `$`.
    Named(&'a str),
    /// `$3`.
    History(u32),
    /// `$` is 0, `$$` is 1, `$$3` is 3.
    FromLast(u32),
}

/// What an expression asks while it is evaluated.
pub trait Env {
    /// A whole register; `None`: this CPU has none.
    fn register(&self, r: Reg) -> Option<u64>;
    /// Fills `buf`, or says that not all of it can be read.
    fn read(&self, space: Space, addr: u64, buf: &mut [u8]) -> bool;
    /// The base of the segment that a selector names: 16 times it in real mode, else by the descriptor tables.
    fn segment_base(&self, selector: u16) -> Option<u64>;
    /// 16, 32 or 64.
    fn code_bits(&self) -> u32;
    fn variable(&self, v: Variable) -> Option<Value>;
}

/// What an expression asks while it is read.
pub trait Names {
    /// The address of `name` or `module!name`.
    fn symbol(&self, name: &str) -> Option<u64>;
    /// A known name that this one may have been meant to be.
    fn nearest(&self, _name: &str) -> Option<String> {
        None
    }
}

/// What is wrong with an expression, as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExprError {
    /// What stands where something else should, and the column from 1.
    Syntax {
        near: String,
        column: usize,
    },
    Number(String),
    Character(char),
    Symbol {
        name: String,
        hint: Option<String>,
    },
    /// `$name` is neither a register nor a variable.
    Name {
        name: String,
        hint: Option<String>,
    },
    Memory {
        space: Space,
        addr: u64,
    },
    DivisionByZero,
    NegativeShift(i64),
    /// An operator that floats do not have.
    Float(&'static str),
    Register(Reg),
    History(Variable<'static>),
    Selector(u64),
    /// A limit of the reader.
    TooLong,
    TooDeep,
    Other(&'static str),
}

impl std::error::Error for ExprError {}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { near, column } => write!(
                f,
                "A syntax error in expression, near `{near}' (column {column})."
            ),
            Self::Number(word) => write!(f, "Invalid number \"{word}\"."),
            Self::Character(c) => {
                write!(f, "Invalid character '{}' in expression.", c.escape_debug())
            }
            Self::Symbol { name, hint } => {
                write!(f, "No symbol \"{name}\" in current context.")?;
                suggest(f, "", hint)
            }
            Self::Name { name, hint } => {
                write!(
                    f,
                    "${name} is neither a register nor a variable that has been set."
                )?;
                suggest(f, "$", hint)
            }
            Self::Memory { space, addr } => {
                let physical = match space {
                    Space::Linear => "",
                    Space::Physical => "physical ",
                };
                write!(f, "Cannot access memory at {physical}address {addr:#x}")
            }
            Self::DivisionByZero => write!(f, "Division by zero"),
            Self::NegativeShift(n) => write!(f, "a shift by {n}: the count must not be negative"),
            Self::Float(op) => write!(
                f,
                "{op}: not for floats; cast to an integer, as in (long)$st0"
            ),
            Self::Register(r) => write!(f, "this CPU has no {r}"),
            Self::History(v) => match v {
                Variable::History(n) => write!(f, "History has not yet reached ${n}."),
                _ => write!(f, "History is empty or not that long."),
            },
            Self::Selector(s) if *s > 0xffff => {
                write!(f, "{s:#x} is no selector: they end at 0xffff")
            }
            Self::Selector(s) => {
                write!(f, "selector {s:#x} has no segment in the descriptor tables")
            }
            Self::TooLong => write!(f, "an expression has at most {} bytes", parse::LONGEST),
            Self::TooDeep => write!(
                f,
                "more than {} levels of brackets and operators",
                parse::DEEPEST
            ),
            Self::Other(text) => f.write_str(text),
        }
    }
}

fn suggest(f: &mut fmt::Formatter<'_>, sigil: &str, hint: &Option<String>) -> fmt::Result {
    match hint {
        Some(name) => write!(f, " Did you mean {sigil}{name}?"),
        None => Ok(()),
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |list: &[&'static str], n: u8| list.get(usize::from(n)).copied().unwrap_or("?");
        match *self {
            Self::Gpr(n) => f.write_str(of(&register::GPR64, n)),
            Self::Rip => f.write_str("rip"),
            Self::Pc => f.write_str("pc"),
            Self::Rflags => f.write_str("rflags"),
            Self::Segment(n) => f.write_str(of(&register::SEGMENT, n)),
            Self::SegmentBase(n) => write!(f, "{}.base", of(&register::SEGMENT, n)),
            Self::SegmentLimit(n) => write!(f, "{}.limit", of(&register::SEGMENT, n)),
            Self::GdtrBase => f.write_str("gdtr.base"),
            Self::GdtrLimit => f.write_str("gdtr.limit"),
            Self::IdtrBase => f.write_str("idtr.base"),
            Self::IdtrLimit => f.write_str("idtr.limit"),
            Self::Cr(n) => write!(f, "cr{n}"),
            Self::Dr(n) => write!(f, "dr{n}"),
            Self::Efer => f.write_str("efer"),
            Self::Xcr0 => f.write_str("xcr0"),
            Self::Mxcsr => f.write_str("mxcsr"),
            Self::Cpl => f.write_str("cpl"),
            Self::Retired => f.write_str("retired"),
            Self::Msr(n) => write!(f, "msr {n:#x}"),
            Self::Vector(n, quarter) => write!(f, "ymm{n}.u64[{quarter}]"),
            Self::St(n) => write!(f, "st{n}"),
            Self::FpuControl => f.write_str("fctrl"),
            Self::FpuStatus => f.write_str("fstat"),
        }
    }
}
