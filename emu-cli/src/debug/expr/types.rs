//! Names of types: C's, the fixed widths', the assembler's.

use super::Base;

/// What `u8[…]` reads.
pub fn element(name: &str) -> Option<Base> {
    Some(match name {
        "u8" => Base::U8,
        "i8" | "s8" => Base::I8,
        "u16" => Base::U16,
        "i16" | "s16" => Base::I16,
        "u32" => Base::U32,
        "i32" | "s32" => Base::I32,
        "u64" => Base::U64,
        "i64" | "s64" => Base::I64,
        "f32" => Base::F32,
        "f64" => Base::F64,
        _ => return None,
    })
}

/// A type's name that is one word.
pub fn single(name: &str) -> Option<Base> {
    element(name).or(match name {
        "uint8_t" | "byte" => Some(Base::U8),
        "int8_t" => Some(Base::I8),
        "uint16_t" => Some(Base::U16),
        "int16_t" => Some(Base::I16),
        "uint32_t" => Some(Base::U32),
        "int32_t" => Some(Base::I32),
        "uint64_t" | "size_t" | "uintptr_t" => Some(Base::U64),
        "int64_t" | "ssize_t" | "intptr_t" => Some(Base::I64),
        _ => None,
    })
}

pub fn assembler_size(name: &str) -> Option<Base> {
    Some(match &*name.to_ascii_lowercase() {
        "byte" => Base::U8,
        "word" => Base::U16,
        "dword" => Base::U32,
        "qword" => Base::U64,
        _ => return None,
    })
}

/// C's words in any order.
pub fn base_of(words: &[&str]) -> Option<Base> {
    if let [word] = words
        && let Some(base) = single(word)
    {
        return Some(base);
    }
    let count = |word| words.iter().filter(|w| **w == word).count();
    let (unsigned, signed, long, int) = (
        count("unsigned"),
        count("signed"),
        count("long"),
        count("int"),
    );
    let (char, short, void) = (count("char"), count("short"), count("void"));
    let (float, double) = (count("float"), count("double"));
    let sum = unsigned + signed + long + int + char + short + void + float + double;
    if sum != words.len() || unsigned + signed > 1 || int > 1 {
        return None;
    }
    let plain = unsigned + signed + int == 0;
    let sign = |u, s| if unsigned == 1 { u } else { s };
    Some(match (char, short, long, float + double + void) {
        (1, 0, 0, 0) if int == 0 => sign(Base::UChar, Base::Char),
        (0, 1, 0, 0) => sign(Base::U16, Base::I16),
        (0, 0, 1 | 2, 0) => sign(Base::U64, Base::I64),
        (0, 0, 0, 0) => sign(Base::U32, Base::I32),
        (0, 0, 0, 1) if plain && float == 1 => Base::F32,
        (0, 0, 0, 1) if plain && double == 1 => Base::F64,
        (0, 0, 0, 1) if plain => Base::Void,
        _ => return None,
    })
}
