//! Values of expressions and the arithmetic on them.
//!
//! C's rules where `int` has 32 bits and `long` 64, as in GDB: narrow integers become `int`, then the wider and the unsigned
//! one of two types wins. What C leaves undefined is defined here: a signed 32-bit result that overflows becomes a 64-bit
//! one (`1 << 31`, `1 << 40` and `0x7fffffff + 1` are what they look like), 64 bits wrap, and a shift by more than the
//! width leaves zeros or signs. A pointer steps by what it points to; an address without a type steps by bytes.

use super::ExprError;

/// Where an address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Behind segmentation, before paging.
    Linear,
    Physical,
}

/// What a value is made of, or what a pointer leads to in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    /// Signed as x86's, printed as a character.
    Char,
    UChar,
    F32,
    F64,
    /// Behind a pointer only: of no known type.
    Void,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    pub base: Base,
    /// How many `*` stand behind the base.
    pub stars: u8,
}

/// `*` behind a type's name.
pub const MOST_STARS: u8 = 8;

impl Type {
    pub const INT: Self = Self::plain(Base::I32);
    pub const LONG: Self = Self::plain(Base::I64);
    pub const ULONG: Self = Self::plain(Base::U64);
    /// An address without a type: symbols, RIP, RSP, `seg:off`.
    pub const ADDRESS: Self = Self {
        base: Base::Void,
        stars: 1,
    };

    pub const fn plain(base: Base) -> Self {
        Self { base, stars: 0 }
    }

    pub fn is_pointer(self) -> bool {
        self.stars > 0
    }

    pub fn is_float(self) -> bool {
        !self.is_pointer() && matches!(self.base, Base::F32 | Base::F64)
    }

    #[cfg(test)]
    pub fn is_char(self) -> bool {
        !self.is_pointer() && matches!(self.base, Base::Char | Base::UChar)
    }

    pub fn is_signed(self) -> bool {
        let b = self.base;
        let signed = matches!(b, Base::I8 | Base::I16 | Base::I32 | Base::I64 | Base::Char);
        signed && !self.is_pointer()
    }

    /// Bytes; `pointer`: bytes of a pointer.
    pub fn size(self, pointer: u8) -> u8 {
        match self.base {
            _ if self.is_pointer() => pointer,
            Base::I8 | Base::U8 | Base::Char | Base::UChar | Base::Void => 1,
            Base::I16 | Base::U16 => 2,
            Base::I32 | Base::U32 | Base::F32 => 4,
            Base::I64 | Base::U64 | Base::F64 => 8,
        }
    }

    /// A pointer to it.
    pub fn pointer_to(self) -> Self {
        Self {
            stars: self.stars.saturating_add(1),
            ..self
        }
    }

    /// What it points to; `None`: nobody knows.
    pub fn target(self) -> Option<Self> {
        let stars = self.stars.checked_sub(1)?;
        let target = Self { stars, ..self };
        (target != Self::plain(Base::Void)).then_some(target)
    }

    /// An unsigned integer of 1, 2, 4 or 8 bytes.
    pub fn unsigned(size: u8) -> Self {
        Self::plain(match size {
            1 => Base::U8,
            2 => Base::U16,
            4 => Base::U32,
            _ => Base::U64,
        })
    }
}

/// A number, a pointer or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// An integer extended by its own sign or by zeros; a float, `float` too, as an f64's bits.
    bits: u64,
    pub ty: Type,
    pub space: Space,
}

impl Value {
    pub const ZERO: Self = Self {
        bits: 0,
        ty: Type::INT,
        space: Space::Linear,
    };

    /// The low bits as a value of a type that is no float.
    pub fn new(bits: u64, ty: Type) -> Self {
        let bits = match ty.base {
            _ if ty.is_pointer() => bits,
            Base::I8 | Base::Char => bits as i8 as u64,
            Base::U8 | Base::UChar => bits as u8 as u64,
            Base::I16 => bits as i16 as u64,
            Base::U16 => bits as u16 as u64,
            Base::I32 => bits as i32 as u64,
            Base::U32 => bits as u32 as u64,
            Base::I64 | Base::U64 | Base::F32 | Base::F64 | Base::Void => bits,
        };
        Self {
            bits,
            ty,
            space: Space::Linear,
        }
    }

    pub fn int(v: i64) -> Self {
        Self::new(v as u64, Type::LONG)
    }

    pub fn unsigned(v: u64) -> Self {
        Self::new(v, Type::ULONG)
    }

    /// An address of no type.
    pub fn address(v: u64) -> Self {
        Self::new(v, Type::ADDRESS)
    }

    pub fn float(v: f64) -> Self {
        Self::new(v.to_bits(), Type::plain(Base::F64))
    }

    pub fn truth(v: bool) -> Self {
        Self::new(v.into(), Type::INT)
    }

    pub fn in_space(self, space: Space) -> Self {
        Self { space, ..self }
    }

    pub fn is_true(self) -> bool {
        match self.ty.is_float() {
            true => f64::from_bits(self.bits) != 0.0,
            false => self.bits != 0,
        }
    }

    /// As an integer of 64 bits; a float loses its fraction.
    pub fn as_u64(self) -> u64 {
        if !self.ty.is_float() {
            return self.bits;
        }
        let v = f64::from_bits(self.bits);
        match v < 0.0 {
            true => v as i64 as u64,
            false => v as u64,
        }
    }

    pub fn as_f64(self) -> f64 {
        if self.ty.is_float() {
            f64::from_bits(self.bits)
        } else if self.ty.is_signed() {
            self.bits as i64 as f64
        } else {
            self.bits as f64
        }
    }

    /// C's conversion; an address keeps its space.
    pub fn cast(self, ty: Type) -> Self {
        if ty.is_float() {
            let v = self.as_f64();
            let v = match ty.base {
                Base::F32 => f64::from(v as f32),
                _ => v,
            };
            return Self::new(v.to_bits(), ty);
        }
        Self::new(self.as_u64(), ty).in_space(self.space)
    }

    /// A value as memory holds it: up to 8 bytes.
    pub fn from_bytes(bytes: &[u8], ty: Type) -> Self {
        let mut word = [0; 8];
        let n = bytes.len().min(8);
        word[..n].copy_from_slice(&bytes[..n]);
        let bits = u64::from_le_bytes(word);
        if ty == Type::plain(Base::F32) {
            return Self::new(f64::from(f32::from_bits(bits as u32)).to_bits(), ty);
        }
        Self::new(bits, ty)
    }

    /// The bits as memory holds them, after a conversion to `ty`: the first [`Type::size`] bytes count.
    pub fn to_bytes(self, ty: Type) -> [u8; 8] {
        self.cast(ty).raw().to_le_bytes()
    }

    /// The bits as memory holds them.
    pub fn raw(self) -> u64 {
        match self.ty == Type::plain(Base::F32) {
            true => (f64::from_bits(self.bits) as f32).to_bits().into(),
            false => self.bits,
        }
    }
}

/// Operators with two operands, but for `&&` and `||`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Mul,
    Div,
    Rem,
    Add,
    Sub,
    Shl,
    Shr,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    And,
    Xor,
    Or,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    Plus,
    Minus,
    Complement,
    Not,
}

/// A type after C's integer promotions.
fn promoted(ty: Type) -> Type {
    match ty.base {
        _ if ty.is_pointer() => Type::ULONG,
        Base::U32 | Base::I64 | Base::U64 => ty,
        _ => Type::INT,
    }
}

/// C's common type of two integers.
fn common(a: Type, b: Type) -> Type {
    let (a, b) = (promoted(a), promoted(b));
    let has = |base| a.base == base || b.base == base;
    Type::plain(match () {
        () if has(Base::U64) => Base::U64,
        () if has(Base::I64) => Base::I64,
        () if has(Base::U32) => Base::U32,
        () => Base::I32,
    })
}

/// The result of an operation of `int`, which has room for what overflows.
fn int(v: i64) -> Value {
    match i32::try_from(v) {
        Ok(_) => Value::new(v as u64, Type::INT),
        Err(_) => Value::int(v),
    }
}

fn compare<T: PartialOrd>(op: Binary, a: T, b: T) -> Option<Value> {
    Some(Value::truth(match op {
        Binary::Lt => a < b,
        Binary::Le => a <= b,
        Binary::Gt => a > b,
        Binary::Ge => a >= b,
        Binary::Eq => a == b,
        Binary::Ne => a != b,
        _ => return None,
    }))
}

pub fn unary(op: Unary, v: Value) -> Result<Value, ExprError> {
    if op == Unary::Not {
        return Ok(Value::truth(!v.is_true()));
    }
    if v.ty.is_float() {
        return match op {
            Unary::Plus => Ok(v),
            Unary::Minus => Ok(Value::new((-v.as_f64()).to_bits(), v.ty)),
            _ => Err(ExprError::Float("~")),
        };
    }
    let ty = promoted(v.ty);
    let bits = match op {
        Unary::Plus => v.bits,
        Unary::Minus if ty == Type::INT => return Ok(int(-(v.bits as i64))),
        Unary::Minus => v.bits.wrapping_neg(),
        _ => !v.bits,
    };
    Ok(Value::new(bits, ty))
}

/// `pointer`: bytes of a pointer, by which a pointer to a pointer steps.
pub fn binary(op: Binary, a: Value, b: Value, pointer: u8) -> Result<Value, ExprError> {
    if a.ty.is_float() || b.ty.is_float() {
        let single = |v: Value| !v.ty.is_float() || v.ty.base == Base::F32;
        let ty = match single(a) && single(b) {
            true => Type::plain(Base::F32),
            false => Type::plain(Base::F64),
        };
        return Ok(match float(op, a.cast(ty).as_f64(), b.cast(ty).as_f64())? {
            v if v.ty.is_float() => v.cast(ty),
            truth => truth,
        });
    }
    if matches!(op, Binary::Shl | Binary::Shr) {
        return shift(op, a, b);
    }
    if a.ty.is_pointer() || b.ty.is_pointer() {
        return with_pointer(op, a, b, pointer);
    }
    let space = match (a.space, b.space) {
        (Space::Linear, Space::Linear) => Space::Linear,
        _ => Space::Physical,
    };
    let ty = common(a.ty, b.ty);
    let (x, y) = (Value::new(a.bits, ty).bits, Value::new(b.bits, ty).bits);
    let (sx, sy) = (x as i64, y as i64);
    let compared = match ty.is_signed() {
        true => compare(op, sx, sy),
        false => compare(op, x, y),
    };
    if let Some(truth) = compared {
        return Ok(truth);
    }
    if matches!(op, Binary::Div | Binary::Rem) && y == 0 {
        return Err(ExprError::DivisionByZero);
    }
    let bits = match (op, ty.is_signed()) {
        (Binary::Add, _) => x.wrapping_add(y),
        (Binary::Sub, _) => x.wrapping_sub(y),
        (Binary::Mul, _) => x.wrapping_mul(y),
        (Binary::Div, true) => sx.wrapping_div(sy) as u64,
        (Binary::Div, false) => x / y,
        (Binary::Rem, true) => sx.wrapping_rem(sy) as u64,
        (Binary::Rem, false) => x % y,
        (Binary::And, _) => x & y,
        (Binary::Xor, _) => x ^ y,
        _ => x | y,
    };
    let result = match ty == Type::INT {
        true => int(bits as i64),
        false => Value::new(bits, ty),
    };
    Ok(result.in_space(space))
}

fn float(op: Binary, a: f64, b: f64) -> Result<Value, ExprError> {
    if let Some(truth) = compare(op, a, b) {
        return Ok(truth);
    }
    Ok(Value::float(match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        _ => return Err(ExprError::Float("% << >> & ^ |")),
    }))
}

/// The count's type has no say in the result's.
fn shift(op: Binary, a: Value, b: Value) -> Result<Value, ExprError> {
    if b.ty.is_signed() && (b.bits as i64) < 0 {
        return Err(ExprError::NegativeShift(b.bits as i64));
    }
    let (count, ty) = (b.bits, promoted(a.ty));
    let by = count.min(63) as u32;
    let result = match op {
        Binary::Shr if ty.is_signed() => Value::new((a.bits as i64 >> by) as u64, ty),
        Binary::Shr => Value::new(if count > 63 { 0 } else { a.bits >> by }, ty),
        _ if count > 63 => Value::new(0, ty),
        _ if ty == Type::INT => {
            // A shift by less than 64 leaves its mark in 96 bits.
            let wide = i128::from(a.bits as i64) << by;
            int(wide as i64)
        }
        _ if count > 31 => Value::new(a.bits << by, Type::plain(wide_of(ty.base))),
        _ => Value::new(a.bits << by, ty),
    };
    Ok(result.in_space(a.space))
}

fn wide_of(base: Base) -> Base {
    match base {
        Base::U32 => Base::U64,
        other => other,
    }
}

fn with_pointer(op: Binary, a: Value, b: Value, pointer: u8) -> Result<Value, ExprError> {
    if let Some(truth) = compare(op, a.bits, b.bits) {
        return Ok(truth);
    }
    let step = |v: Value| v.ty.target().map_or(1, |t| u64::from(t.size(pointer)));
    let both = a.ty.is_pointer() && b.ty.is_pointer();
    let space = match (a.space, b.space) {
        (Space::Linear, Space::Linear) => Space::Linear,
        _ => Space::Physical,
    };
    let result = match op {
        Binary::Sub if both => {
            let bytes = a.bits.wrapping_sub(b.bits) as i64;
            return Ok(Value::int(bytes / step(a) as i64));
        }
        Binary::Add if a.ty.is_pointer() => {
            let by = b.bits.wrapping_mul(step(a));
            Value::new(a.bits.wrapping_add(by), a.ty)
        }
        Binary::Add => {
            let by = a.bits.wrapping_mul(step(b));
            Value::new(b.bits.wrapping_add(by), b.ty)
        }
        Binary::Sub if a.ty.is_pointer() => {
            let by = b.bits.wrapping_mul(step(a));
            Value::new(a.bits.wrapping_sub(by), a.ty)
        }
        // Masks make addresses of addresses; what the others make is a number.
        Binary::And => Value::address(a.bits & b.bits),
        Binary::Or => Value::address(a.bits | b.bits),
        Binary::Xor => Value::address(a.bits ^ b.bits),
        _ => {
            let (a, b) = (a.cast(Type::ULONG), b.cast(Type::ULONG));
            return binary(op, a, b, pointer);
        }
    };
    Ok(result.in_space(space))
}
