//! Assignments: `set $rax = 5`, `set *(int*)0x1000 = 7`, `set {int}sym += 1`, `set $name = …`.
//!
//! The left side is read as an expression whose last operation, a look at a register, a variable or memory, is taken back.
//! A part of a register is written as GDB does: the other bits stay.

use super::eval::{self, Expr, Op};
use super::lex::Token;
use super::parse::Parser;
use super::register::Part;
use super::value::Binary;
use super::{Env, ExprError, Names, Reg, Space, Type, Value};

/// What can be assigned to.
#[derive(Clone, Debug, PartialEq)]
pub enum LValue {
    Register(Part),
    /// A model-specific register of a computed number.
    Msr(Expr),
    Memory {
        address: Expr,
        /// `None`: what the address points to.
        ty: Option<Type>,
    },
    Variable(Box<str>),
}

/// An [`LValue`] with its address worked out.
#[derive(Clone, Debug, PartialEq)]
pub enum Place<'a> {
    Register(Part),
    Memory {
        space: Space,
        addr: u64,
        ty: Type,
        size: u8,
    },
    Variable(&'a str),
}

/// What an assignment changes; an error is one line.
pub trait Store: Env {
    /// All of a register.
    fn set_register(&mut self, r: Reg, value: u64) -> Result<(), String>;
    /// Writes all of it or says that it cannot.
    fn write(&mut self, space: Space, addr: u64, bytes: &[u8]) -> bool;
    fn set_variable(&mut self, name: &str, value: Value);
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub to: LValue,
    pub value: Expr,
}

const COMPOUND: [(&str, Binary); 10] = [
    ("+=", Binary::Add),
    ("-=", Binary::Sub),
    ("*=", Binary::Mul),
    ("/=", Binary::Div),
    ("%=", Binary::Rem),
    ("&=", Binary::And),
    ("|=", Binary::Or),
    ("^=", Binary::Xor),
    ("<<=", Binary::Shl),
    (">>=", Binary::Shr),
];

impl LValue {
    pub fn place<'a>(&'a self, env: &dyn Env) -> Result<Place<'a>, ExprError> {
        Ok(match self {
            Self::Register(part) => Place::Register(*part),
            Self::Msr(number) => {
                let number = number.eval(env)?.as_u64();
                let wrong = ExprError::Other("an MSR's number has 32 bits");
                Place::Register(Part {
                    reg: Reg::Msr(u32::try_from(number).map_err(|_| wrong)?),
                    shift: 0,
                    bits: 64,
                    ty: Type::ULONG,
                })
            }
            Self::Memory { address, ty } => {
                let at = address.eval(env)?;
                let (ty, size) = eval::target(at, *ty, env);
                Place::Memory {
                    space: at.space,
                    addr: eval::address(at, env)?,
                    ty,
                    size,
                }
            }
            Self::Variable(name) => Place::Variable(name),
        })
    }
}

impl Assignment {
    /// Reads `LVALUE = EXPRESSION`, or with `+=` and its like. A leading `var` or `variable` is GDB's.
    pub fn parse(text: &str, names: &dyn Names) -> Result<Self, ExprError> {
        let trimmed = text.trim_start();
        let own = ["var", "variable"].iter().find_map(|word| {
            let rest = trimmed.strip_prefix(word)?;
            rest.starts_with(char::is_whitespace).then_some(rest)
        });
        let text = own.unwrap_or(trimmed);
        let mut p = Parser::new(text, names)?;
        p.unary()?;
        let target = &text[..p.position()];
        let Token::Op(word) = p.token else {
            return Err(p.wrong());
        };
        let compound = COMPOUND.iter().find(|c| c.0 == word).map(|c| c.1);
        if compound.is_none() && word != "=" {
            return Err(p.wrong());
        }
        let whole = p.take(target);
        p.advance()?;
        if let Some(op) = compound {
            p.again(&whole)?;
            p.ternary()?;
            p.end()?;
            p.combine(op);
        } else {
            p.ternary()?;
            p.end()?;
        }
        let to = lvalue(whole)?;
        let value = p.finish(text);
        Ok(Self { to, value })
    }

    pub fn perform(&self, store: &mut dyn Store) -> Result<Value, String> {
        let line = |e: ExprError| e.to_string();
        let value = self.value.eval(&*store).map_err(line)?;
        match self.to.place(&*store).map_err(line)? {
            Place::Variable(name) => {
                store.set_variable(name, value);
                Ok(value)
            }
            Place::Memory {
                space,
                addr,
                ty,
                size,
            } => {
                let bytes = value.to_bytes(ty);
                match store.write(space, addr, &bytes[..usize::from(size)]) {
                    true => Ok(value.cast(ty)),
                    false => Err(line(ExprError::Memory { space, addr })),
                }
            }
            Place::Register(part) => {
                let bits = u64::from_le_bytes(value.to_bytes(part.ty)) & part.mask();
                let mut whole = bits;
                if part.bits < 64 {
                    let old = store.register(part.reg);
                    let old = old.ok_or_else(|| line(ExprError::Register(part.reg)))?;
                    whole = old & !(part.mask() << part.shift) | bits << part.shift;
                }
                store.set_register(part.reg, whole)?;
                Ok(Value::from_bytes(&bits.to_le_bytes(), part.ty))
            }
        }
    }
}

/// What the last operation looks at.
fn lvalue(whole: Expr) -> Result<LValue, ExprError> {
    let wrong = ExprError::Other("Left operand of assignment is not an lvalue.");
    let (text, depth) = (whole.text().to_string(), whole.depth);
    let mut ops = whole.ops.into_vec();
    // A jump leads to the end only if what is last there is one of two.
    let end = ops.len();
    let jumped = ops.iter().any(|op| match op {
        Op::Jump(to) | Op::JumpIfFalse(to) | Op::AndThen(to) | Op::OrElse(to) => {
            usize::from(*to) == end
        }
        _ => false,
    });
    let last = ops.pop().filter(|_| !jumped);
    let rest = Expr::new(ops, depth, &text);
    Ok(match last {
        Some(Op::Register(part)) if rest.ops.is_empty() => LValue::Register(part),
        Some(Op::Named(name)) if rest.ops.is_empty() => LValue::Variable(name),
        Some(Op::Load(ty)) => LValue::Memory { address: rest, ty },
        Some(Op::Msr) => LValue::Msr(rest),
        _ => return Err(wrong),
    })
}
