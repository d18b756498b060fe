//! What a name in an expression stands for: a symbol, a register or a lane of one, a variable, a type.

use super::eval::Op;
use super::lex::Token;
use super::parse::Parser;
use super::register;
use super::types::{base_of, single};
use super::value::MOST_STARS;
use super::{Base, ExprError, Type, Value};
use emu_core::nearest::nearest;

impl Parser<'_> {
    /// A symbol, a register or a variable.
    pub(super) fn resolve(&mut self, name: &str) -> Result<Option<Op>, ExprError> {
        if let Some(own) = name.strip_prefix('$') {
            if let Some(op) = self.register(own)? {
                return Ok(Some(op));
            }
            return variable(own).map(Some);
        }
        if let Some(addr) = self.names.symbol(name) {
            return Ok(Some(Op::Const(Value::address(addr))));
        }
        self.register(name)
    }

    fn register(&mut self, name: &str) -> Result<Option<Op>, ExprError> {
        if let Some(part) = register::named(name) {
            return Ok(Some(Op::Register(part)));
        }
        if name.len() > 20 {
            return Ok(None);
        }
        let name = name.to_ascii_lowercase();
        if let Some((n, ty, count)) = register::lanes(&name) {
            self.expect("[")?;
            let index = match self.token {
                Token::Number(v) => v.as_u64(),
                _ => return Err(self.wrong()),
            };
            if index >= count.into() {
                return Err(ExprError::Other(
                    "the register has no such lane: they count from 0",
                ));
            }
            self.advance()?;
            self.expect("]")?;
            return Ok(Some(Op::Register(register::lane(n, ty, index as u8))));
        }
        match register::vector(&name) {
            Some(_) => Err(ExprError::Other(
                "a vector register is used by lanes: $xmm0.u64[1], $ymm0.f32[7]",
            )),
            None => Ok(None),
        }
    }

    /// A type's name, if one comes next.
    pub(super) fn type_name(&mut self) -> Result<Option<Type>, ExprError> {
        let mut words: [&str; 4] = [""; 4];
        let mut count = 0;
        while let Token::Name(word) = self.token {
            let known = matches!(
                word,
                "char"
                    | "short"
                    | "int"
                    | "long"
                    | "signed"
                    | "unsigned"
                    | "float"
                    | "double"
                    | "void"
            ) || single(word).is_some();
            if !known {
                break;
            }
            if count == words.len() {
                return Err(self.wrong());
            }
            words[count] = word;
            count += 1;
            self.advance()?;
        }
        if count == 0 {
            return Ok(None);
        }
        let base = base_of(&words[..count]).ok_or_else(|| self.wrong())?;
        let mut ty = Type::plain(base);
        while self.accept("*")? {
            if ty.stars == MOST_STARS {
                return Err(self.wrong());
            }
            ty = ty.pointer_to();
        }
        match ty == Type::plain(Base::Void) {
            true => Err(self.wrong()),
            false => Ok(Some(ty)),
        }
    }
}

/// The error of `$name`.
pub fn unknown(name: &str) -> ExprError {
    let hint = nearest(name, register::NAMES.iter().copied());
    ExprError::Name {
        name: name.into(),
        hint: hint.map(Into::into),
    }
}

/// `$name` that is no register.
fn variable(name: &str) -> Result<Op, ExprError> {
    let digits = name.trim_start_matches('$');
    let number = match digits {
        "" => Some(if name.is_empty() { 0 } else { 1 }),
        _ => digits.parse().ok(),
    };
    Ok(match (name.len() - digits.len(), number) {
        (0, Some(n)) if !digits.is_empty() => Op::History(n),
        (0, Some(n)) => Op::FromLast(n),
        (1, Some(n)) => Op::FromLast(n),
        (0, None) if !name.starts_with(|c: char| c.is_ascii_digit()) => Op::Named(name.into()),
        _ => return Err(unknown(name)),
    })
}
