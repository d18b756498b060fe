//! Evaluation: operations in the order of execution on a stack of values.
//!
//! Invariants that `parse` keeps: a jump leads forward and to the end at most; before every operation the stack holds its
//! operands; the stack never holds more than `depth` values. A breach of them is an error and no panic.

use super::register::Part;
use super::value::{self, Binary, Unary};
use super::{Env, ExprError, Reg, Space, Type, Value, Variable, names, parse};

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Const(Value),
    Register(Part),
    /// A user's variable.
    Named(Box<str>),
    History(u32),
    FromLast(u32),
    Unary(Unary),
    Binary(Binary),
    Cast(Type),
    /// Reads memory; `None`: what the pointer points to.
    Load(Option<Type>),
    /// The address is a physical one.
    Physical,
    /// The offset on top gets a loaded segment's base.
    InSegment(u8),
    /// The offset on top gets the base of what the selector below it names.
    BySelector,
    Msr,
    /// To 0 or 1.
    Truth,
    Jump(u16),
    /// Takes the condition.
    JumpIfFalse(u16),
    /// `&&`: a false left operand is the result, else it is taken; `||`: a true one.
    OrElse(u16),
    AndThen(u16),
}

/// An expression that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub(super) ops: Box<[Op]>,
    /// Values on the stack at once.
    pub(super) depth: usize,
    text: Box<str>,
}

/// Stacks of most conditions: one this small costs nothing to set up.
const SHALLOW: usize = 6;

const BROKEN: ExprError = ExprError::Other("the expression is broken");

/// A linear address has 32 bits outside 64-bit mode.
pub fn linear(addr: u64, env: &dyn Env) -> u64 {
    match env.code_bits() {
        64 => addr,
        _ => addr & 0xffff_ffff,
    }
}

fn pointer(env: &dyn Env) -> u8 {
    match env.code_bits() {
        64 => 8,
        32 => 4,
        _ => 2,
    }
}

/// What `*` reads there and how: `None` is by the address's own type, and of the code's width if it has none.
pub fn target(at: Value, ty: Option<Type>, env: &dyn Env) -> (Type, u8) {
    let pointer = pointer(env);
    let ty = ty.or_else(|| at.ty.target());
    let ty = ty.unwrap_or_else(|| Type::unsigned(pointer));
    (ty, ty.size(pointer))
}

/// An address as memory knows it.
pub fn address(at: Value, env: &dyn Env) -> Result<u64, ExprError> {
    if at.ty.is_float() {
        return Err(ExprError::Float("*"));
    }
    Ok(match at.space {
        Space::Linear => linear(at.as_u64(), env),
        Space::Physical => at.as_u64(),
    })
}

pub fn load(at: Value, ty: Option<Type>, env: &dyn Env) -> Result<Value, ExprError> {
    let (ty, size) = target(at, ty, env);
    let addr = address(at, env)?;
    let mut bytes = [0; 8];
    let bytes = &mut bytes[..usize::from(size)];
    if !env.read(at.space, addr, bytes) {
        let space = at.space;
        return Err(ExprError::Memory { space, addr });
    }
    Ok(Value::from_bytes(bytes, ty))
}

pub fn part(p: Part, env: &dyn Env) -> Result<Value, ExprError> {
    let whole = env.register(p.reg).ok_or(ExprError::Register(p.reg))?;
    let bits = whole >> p.shift & p.mask();
    Ok(Value::from_bytes(&bits.to_le_bytes(), p.ty))
}

/// A loaded segment's base; in 64-bit mode only FS and GS have one.
pub fn base_of(segment: u8, env: &dyn Env) -> Result<u64, ExprError> {
    if env.code_bits() == 64 && segment < 4 {
        return Ok(0);
    }
    let r = Reg::SegmentBase(segment);
    env.register(r).ok_or(ExprError::Register(r))
}

fn by_selector(selector: Value, env: &dyn Env) -> Result<u64, ExprError> {
    let number = selector.as_u64();
    let wrong = ExprError::Selector(number);
    let Ok(selector) = u16::try_from(number) else {
        return Err(wrong);
    };
    env.segment_base(selector).ok_or(wrong)
}

impl Expr {
    pub(super) fn new(ops: Vec<Op>, depth: usize, text: &str) -> Self {
        Self {
            ops: ops.into(),
            depth,
            text: text.trim().into(),
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn eval(&self, env: &dyn Env) -> Result<Value, ExprError> {
        match self.depth <= SHALLOW {
            true => self.run::<SHALLOW>(env),
            false => self.run::<{ parse::STACK }>(env),
        }
    }

    fn run<const N: usize>(&self, env: &dyn Env) -> Result<Value, ExprError> {
        let mut stack = [const { Value::ZERO }; N];
        // The number of values; the last one is below it.
        let (mut n, mut at) = (0, 0);
        while let Some(op) = self.ops.get(at) {
            at += 1;
            let pushed = match op {
                Op::Const(v) => Some(*v),
                Op::Register(p) => Some(part(*p, env)?),
                Op::Named(name) => {
                    let unknown = || names::unknown(name);
                    Some(env.variable(Variable::Named(name)).ok_or_else(unknown)?)
                }
                Op::History(i) => Some(history(Variable::History(*i), env)?),
                Op::FromLast(i) => Some(history(Variable::FromLast(*i), env)?),
                _ => None,
            };
            if let Some(v) = pushed {
                *stack.get_mut(n).ok_or(BROKEN)? = v;
                n += 1;
                continue;
            }
            let top = stack.get_mut(..n).and_then(<[_]>::last_mut).ok_or(BROKEN)?;
            match op {
                Op::Unary(op) => *top = value::unary(*op, *top)?,
                Op::Cast(ty) => *top = top.cast(*ty),
                Op::Load(ty) => *top = load(*top, *ty, env)?,
                Op::Physical => top.space = Space::Physical,
                Op::InSegment(s) => {
                    let at = base_of(*s, env)?.wrapping_add(top.as_u64());
                    *top = Value::address(linear(at, env));
                }
                Op::Msr => {
                    let number = top.as_u64();
                    let wrong = ExprError::Other("an MSR's number has 32 bits");
                    let r = Reg::Msr(u32::try_from(number).map_err(|_| wrong)?);
                    let v = env.register(r).ok_or(ExprError::Register(r))?;
                    *top = Value::unsigned(v);
                }
                Op::Truth => *top = Value::truth(top.is_true()),
                Op::Jump(to) => at = usize::from(*to),
                Op::JumpIfFalse(to) => {
                    if !top.is_true() {
                        at = usize::from(*to);
                    }
                    n -= 1;
                }
                Op::AndThen(to) | Op::OrElse(to) => {
                    if top.is_true() == matches!(op, Op::OrElse(_)) {
                        at = usize::from(*to);
                    } else {
                        n -= 1;
                    }
                }
                _ => {
                    let b = *top;
                    let a = stack.get_mut(..n - 1).and_then(<[_]>::last_mut);
                    let a = a.ok_or(BROKEN)?;
                    *a = match op {
                        Op::Binary(op) => value::binary(*op, *a, b, pointer(env))?,
                        _ => {
                            let base = by_selector(*a, env)?;
                            Value::address(linear(base.wrapping_add(b.as_u64()), env))
                        }
                    };
                    n -= 1;
                }
            }
        }
        stack[..n].last().copied().ok_or(BROKEN)
    }
}

fn history(v: Variable<'static>, env: &dyn Env) -> Result<Value, ExprError> {
    env.variable(v).ok_or(ExprError::History(v))
}
