//! From a text to operations: precedence climbing, one word ahead.
//!
//! An operation is appended when its operands have been; operations on constants are executed at once. `barrier` is where
//! the last jump leads: what stands before it is not what always comes before the end, so nothing is folded or taken
//! back across it. Nesting, the text's length and the stack are bounded, and with them time and memory.

use super::eval::{Expr, Op};
use super::lex::{Lexer, Token};
use super::register;
use super::types::{assembler_size, element};
use super::value::{self, Binary, Unary};
use super::{ExprError, Names, Reg, Space, Type, Value};
use emu_core::nearest::nearest;

/// Brackets, signs and conditions inside each other.
pub const DEEPEST: usize = 64;
/// Bytes of a text.
pub const LONGEST: usize = 4096;
/// Values on the stack.
pub const STACK: usize = 64;

impl Expr {
    /// Reads a whole text.
    pub fn parse(text: &str, names: &dyn Names) -> Result<Self, ExprError> {
        let mut p = Parser::new(text, names)?;
        p.ternary()?;
        p.end()?;
        Ok(p.finish(text))
    }

    /// Reads an expression from the beginning of a text up to a comma or the end; gives the text from there on.
    pub fn parse_first<'a>(text: &'a str, names: &dyn Names) -> Result<(Self, &'a str), ExprError> {
        let mut p = Parser::new(text, names)?;
        p.ternary()?;
        if p.token != Token::Op(",") {
            p.end()?;
        }
        let (own, rest) = text.split_at(p.at);
        Ok((p.finish(own), rest))
    }
}

pub struct Parser<'a> {
    lexer: Lexer<'a>,
    text: &'a str,
    pub(super) names: &'a dyn Names,
    /// The next word and where it begins.
    pub token: Token<'a>,
    at: usize,
    pub ops: Vec<Op>,
    /// Values on the stack now, and at most.
    height: usize,
    depth: usize,
    nested: usize,
    barrier: usize,
    /// A `:` belongs to a `?`.
    no_colon: bool,
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a str, names: &'a dyn Names) -> Result<Self, ExprError> {
        if text.len() > LONGEST {
            return Err(ExprError::TooLong);
        }
        let mut p = Self {
            lexer: Lexer::new(text),
            text,
            names,
            token: Token::End,
            at: 0,
            ops: Vec::new(),
            height: 0,
            depth: 0,
            nested: 0,
            barrier: 0,
            no_colon: false,
        };
        p.advance()?;
        Ok(p)
    }

    pub fn finish(self, text: &str) -> Expr {
        Expr::new(self.ops, self.depth, text)
    }

    /// The operations so far are an expression of their own; what follows begins anew.
    pub fn take(&mut self, text: &str) -> Expr {
        let depth = std::mem::take(&mut self.depth);
        (self.height, self.barrier) = (0, 0);
        Expr::new(std::mem::take(&mut self.ops), depth, text)
    }

    /// An expression that has been read, once more: the first operand of `+=`.
    pub fn again(&mut self, e: &Expr) -> Result<(), ExprError> {
        // Its jumps count from its own beginning.
        debug_assert!(self.ops.is_empty());
        self.ops.extend_from_slice(&e.ops);
        self.barrier = self.ops.len();
        (self.height, self.depth) = (1, e.depth.max(1));
        Ok(())
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn advance(&mut self) -> Result<(), ExprError> {
        (self.token, self.at) = self.lexer.next()?;
        Ok(())
    }

    pub fn wrong(&self) -> ExprError {
        let rest = self.text[self.at..].trim_end();
        let mut near: String = rest.chars().take(40).collect();
        if near.len() < rest.len() {
            near.push('…');
        }
        let near = near
            .escape_debug()
            .to_string()
            .replace("\\\"", "\"")
            .replace("\\'", "'");
        let column = self.text[..self.at].chars().count() + 1;
        ExprError::Syntax { near, column }
    }

    pub fn end(&self) -> Result<(), ExprError> {
        match self.token {
            Token::End => Ok(()),
            _ => Err(self.wrong()),
        }
    }

    /// Takes an operator if it is the next word.
    pub fn accept(&mut self, op: &str) -> Result<bool, ExprError> {
        let is = matches!(self.token, Token::Op(t) if t == op);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    pub(super) fn expect(&mut self, op: &str) -> Result<(), ExprError> {
        match self.accept(op)? {
            true => Ok(()),
            false => Err(self.wrong()),
        }
    }

    fn push(&mut self, op: Op) -> Result<(), ExprError> {
        self.height += 1;
        self.depth = self.depth.max(self.height);
        if self.depth > STACK {
            return Err(ExprError::TooDeep);
        }
        self.ops.push(op);
        Ok(())
    }

    /// The constants at the end, if so many are there whatever was jumped over.
    fn constants<const N: usize>(&self) -> Option<[Value; N]> {
        let from = self.ops.len().checked_sub(N)?;
        let mut list = [Value::ZERO; N];
        for (v, op) in list.iter_mut().zip(&self.ops[from..]) {
            match op {
                Op::Const(c) if from >= self.barrier && c.ty.stars < 2 => *v = *c,
                _ => return None,
            }
        }
        Some(list)
    }

    /// An operation on what is on top.
    fn apply(&mut self, op: Op) {
        if let Some([v]) = self.constants() {
            let folded = match &op {
                Op::Unary(op) => value::unary(*op, v).ok(),
                Op::Cast(ty) => Some(v.cast(*ty)),
                Op::Truth => Some(Value::truth(v.is_true())),
                Op::Physical => Some(v.in_space(Space::Physical)),
                _ => None,
            };
            if let (Some(folded), Some(last)) = (folded, self.ops.last_mut()) {
                *last = Op::Const(folded);
                return;
            }
        }
        self.ops.push(op);
    }

    pub fn combine(&mut self, op: Binary) {
        self.height -= 1;
        if let Some([a, b]) = self.constants()
            && let Ok(v) = value::binary(op, a, b, 8)
        {
            self.ops.truncate(self.ops.len() - 2);
            self.ops.push(Op::Const(v));
            return;
        }
        self.ops.push(Op::Binary(op));
    }

    /// A jump whose end is not known yet.
    fn jump(&mut self, op: Op) -> usize {
        self.ops.push(op);
        self.ops.len() - 1
    }

    /// The jump leads here.
    fn land(&mut self, jump: usize) {
        // LONGEST bytes make no 65536 operations.
        let here = self.ops.len() as u16;
        match &mut self.ops[jump] {
            Op::Jump(to) | Op::JumpIfFalse(to) | Op::AndThen(to) | Op::OrElse(to) => *to = here,
            _ => {}
        }
        self.barrier = self.ops.len();
    }

    fn deeper(&mut self) -> Result<(), ExprError> {
        self.nested += 1;
        match self.nested > DEEPEST {
            true => Err(ExprError::TooDeep),
            false => Ok(()),
        }
    }

    pub fn ternary(&mut self) -> Result<(), ExprError> {
        self.deeper()?;
        self.binary(0)?;
        if self.accept("?")? {
            let otherwise = self.jump(Op::JumpIfFalse(0));
            self.height -= 1;
            let outer = std::mem::replace(&mut self.no_colon, true);
            self.ternary()?;
            self.no_colon = outer;
            self.expect(":")?;
            let end = self.jump(Op::Jump(0));
            self.height -= 1;
            self.land(otherwise);
            self.ternary()?;
            self.land(end);
        }
        self.nested -= 1;
        Ok(())
    }

    fn binary(&mut self, least: u8) -> Result<(), ExprError> {
        self.unary()?;
        loop {
            let Token::Op(word) = self.token else {
                return Ok(());
            };
            let Some((level, op)) = operator(word).filter(|o| o.0 >= least) else {
                return Ok(());
            };
            self.advance()?;
            if let Some(op) = op {
                self.binary(level + 1)?;
                self.combine(op);
                continue;
            }
            let jump = self.jump(match word {
                "&&" => Op::AndThen(0),
                _ => Op::OrElse(0),
            });
            self.height -= 1;
            self.binary(level + 1)?;
            self.land(jump);
            self.apply(Op::Truth);
        }
    }

    pub fn unary(&mut self) -> Result<(), ExprError> {
        self.deeper()?;
        let Token::Op(word) = self.token else {
            self.postfix()?;
            self.nested -= 1;
            return Ok(());
        };
        match word {
            "+" | "-" | "~" | "!" => {
                self.advance()?;
                self.unary()?;
                self.apply(Op::Unary(match word {
                    "+" => Unary::Plus,
                    "-" => Unary::Minus,
                    "~" => Unary::Complement,
                    _ => Unary::Not,
                }));
            }
            "*" => {
                self.advance()?;
                self.unary()?;
                self.apply(Op::Load(None));
            }
            "&" => {
                self.advance()?;
                self.unary()?;
                self.address_of()?;
            }
            "{" => {
                self.advance()?;
                let ty = self.type_name()?.ok_or_else(|| self.wrong())?;
                self.expect("}")?;
                self.unary()?;
                self.apply(Op::Load(Some(ty)));
            }
            "(" => {
                let before = (self.lexer, self.token, self.at);
                self.advance()?;
                match self.type_name()? {
                    Some(ty) => {
                        self.expect(")")?;
                        self.unary()?;
                        self.apply(Op::Cast(ty));
                    }
                    None => {
                        (self.lexer, self.token, self.at) = before;
                        self.postfix()?;
                    }
                }
            }
            _ => return Err(self.wrong()),
        }
        self.nested -= 1;
        Ok(())
    }

    /// `&` of what has just been read.
    fn address_of(&mut self) -> Result<(), ExprError> {
        if self.barrier < self.ops.len() {
            match self.ops.last() {
                Some(Op::Load(ty)) => {
                    let ty = *ty;
                    self.ops.pop();
                    if let Some(ty) = ty {
                        self.apply(Op::Cast(ty.pointer_to()));
                    }
                    return Ok(());
                }
                Some(Op::Const(v)) if v.ty == Type::ADDRESS => return Ok(()),
                _ => {}
            }
        }
        Err(ExprError::Other(
            "Attempt to take address of value not located in memory.",
        ))
    }

    fn postfix(&mut self) -> Result<(), ExprError> {
        self.primary()?;
        self.segmented()?;
        while self.accept("[")? {
            self.inside("]")?;
            self.combine(Binary::Add);
            self.apply(Op::Load(None));
        }
        Ok(())
    }

    /// What brackets hold, and the closing one.
    fn inside(&mut self, close: &str) -> Result<(), ExprError> {
        let outer = std::mem::replace(&mut self.no_colon, false);
        self.ternary()?;
        self.expect(close)?;
        self.no_colon = outer;
        Ok(())
    }

    /// The offset behind a selector, if there is one.
    fn segmented(&mut self) -> Result<(), ExprError> {
        if self.no_colon || self.token != Token::Op(":") {
            return Ok(());
        }
        let loaded = match self.ops.last() {
            Some(Op::Register(p)) if self.barrier < self.ops.len() => match p.reg {
                Reg::Segment(n) if n < 6 => Some(n),
                _ => None,
            },
            Some(Op::Const(v)) if v.ty == Type::ADDRESS => return Err(self.wrong()),
            _ => None,
        };
        self.advance()?;
        if loaded.is_some() {
            self.ops.pop();
            self.height -= 1;
        }
        self.offset()?;
        match loaded {
            Some(n) => self.apply(Op::InSegment(n)),
            None => {
                self.height -= 1;
                self.ops.push(Op::BySelector);
            }
        }
        Ok(())
    }

    fn primary(&mut self) -> Result<(), ExprError> {
        match self.token {
            Token::Number(v) => {
                self.advance()?;
                self.push(Op::Const(v))
            }
            Token::Op("(") => {
                self.advance()?;
                self.deeper()?;
                self.inside(")")?;
                self.nested -= 1;
                Ok(())
            }
            Token::Name(name) => self.name(name),
            _ => Err(self.wrong()),
        }
    }

    fn name(&mut self, name: &'a str) -> Result<(), ExprError> {
        self.advance()?;
        match (name, self.token) {
            (_, Token::Op("[")) => {
                let size = element(name.strip_prefix('$').unwrap_or(name));
                if let Some(ty) = size {
                    self.advance()?;
                    self.inside("]")?;
                    self.apply(Op::Load(Some(Type::plain(ty))));
                    return Ok(());
                }
                if matches!(name, "$msr" | "msr") {
                    self.advance()?;
                    self.inside("]")?;
                    self.apply(Op::Msr);
                    return Ok(());
                }
            }
            ("msr" | "$msr", Token::Op("(")) => {
                self.advance()?;
                self.inside(")")?;
                self.apply(Op::Msr);
                return Ok(());
            }
            ("sizeof", Token::Op("(")) => {
                self.advance()?;
                let ty = self.type_name()?.ok_or_else(|| self.wrong())?;
                self.expect(")")?;
                return self.push(Op::Const(Value::unsigned(ty.size(8).into())));
            }
            ("phys", Token::Op(":")) => {
                self.advance()?;
                self.offset()?;
                self.apply(Op::Physical);
                return Ok(());
            }
            (_, Token::Name("ptr" | "PTR")) => {
                if let Some(ty) = assembler_size(name) {
                    self.advance()?;
                    self.offset()?;
                    self.segmented()?;
                    self.apply(Op::Load(Some(Type::plain(ty))));
                    return Ok(());
                }
            }
            _ => {}
        }
        let found = self.resolve(name)?;
        match found {
            Some(op) => self.push(op),
            None => Err(ExprError::Symbol {
                name: name.into(),
                hint: self.names.nearest(name).or_else(|| {
                    let near = nearest(name, register::NAMES.iter().copied());
                    near.map(|n| format!("${n}"))
                }),
            }),
        }
    }

    /// What may stand behind `phys:`, `ds:` and `ptr`: an address, also in square brackets.
    fn offset(&mut self) -> Result<(), ExprError> {
        self.deeper()?;
        match self.accept("[")? {
            true => self.inside("]")?,
            false => self.primary()?,
        }
        self.nested -= 1;
        Ok(())
    }
}

/// How tightly an operator binds; `&&` and `||` are no [`Binary`].
fn operator(word: &str) -> Option<(u8, Option<Binary>)> {
    Some(match word {
        "||" => (1, None),
        "&&" => (2, None),
        "|" => (3, Some(Binary::Or)),
        "^" => (4, Some(Binary::Xor)),
        "&" => (5, Some(Binary::And)),
        "==" => (6, Some(Binary::Eq)),
        "!=" => (6, Some(Binary::Ne)),
        "<" => (7, Some(Binary::Lt)),
        "<=" => (7, Some(Binary::Le)),
        ">" => (7, Some(Binary::Gt)),
        ">=" => (7, Some(Binary::Ge)),
        "<<" => (8, Some(Binary::Shl)),
        ">>" => (8, Some(Binary::Shr)),
        "+" => (9, Some(Binary::Add)),
        "-" => (9, Some(Binary::Sub)),
        "*" => (10, Some(Binary::Mul)),
        "/" => (10, Some(Binary::Div)),
        "%" => (10, Some(Binary::Rem)),
        _ => return None,
    })
}
