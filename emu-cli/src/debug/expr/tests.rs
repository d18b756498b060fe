//! Expressions against C, errors, and texts that nobody would write.

use super::*;
use emu_core::testing::Random;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

/// A machine of 4 KiB at linear 0x1000, which is at physical 0x100000.
struct Bench {
    bits: u32,
    registers: BTreeMap<String, u64>,
    variables: BTreeMap<String, Value>,
    memory: Vec<u8>,
    reads: Cell<u32>,
}

fn bench(bits: u32) -> Bench {
    let mut memory = vec![0; 4096];
    for (i, b) in memory.iter_mut().enumerate() {
        *b = (i as u8).wrapping_mul(17) ^ 0x80;
    }
    // A pointer to a pointer to an int.
    memory[0x100..0x108].copy_from_slice(&0x1108u64.to_le_bytes());
    memory[0x108..0x110].copy_from_slice(&0x1110u64.to_le_bytes());
    memory[0x110..0x114].copy_from_slice(&(-5i32).to_le_bytes());
    memory[0x118..0x11c].copy_from_slice(&1.5f32.to_le_bytes());
    memory[0x120..0x128].copy_from_slice(&(-0.1f64).to_le_bytes());
    let registers = [
        ("rax", 0xffff_ffff_ffff_fff0),
        ("rbx", 0x1122_3344_5566_7788),
        ("rcx", 0x1000),
        ("rsp", 0x1100),
        ("r9", 0x8000_0000_1234_80ff),
        ("rip", 0x1010),
        ("pc", 0x1010),
        ("rflags", 0x3246),
        ("cs", 0x10),
        ("ds", 0x18),
        ("cs.base", 0x1000),
        ("ds.base", 0x1010),
        ("fs.base", 0x1020),
        ("gdtr.limit", 0x7f),
        ("cr3", 0x1000),
        ("msr 0xc0000080", 0xd01),
        ("ymm0.u64[0]", 0x3f80_0000_1111_2222),
        ("ymm0.u64[3]", 0x8877_6655_4433_2211),
        ("st0", 2.5f64.to_bits()),
        ("retired", 1000),
    ];
    Bench {
        bits,
        registers: registers.map(|(n, v)| (n.to_string(), v)).into(),
        variables: BTreeMap::new(),
        memory,
        reads: Cell::new(0),
    }
}

impl Env for Bench {
    fn register(&self, r: Reg) -> Option<u64> {
        self.registers.get(&r.to_string()).copied()
    }
    fn read(&self, space: Space, addr: u64, buf: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        let base = match space {
            Space::Linear => 0x1000,
            Space::Physical => 0x10_0000,
        };
        let from = addr.checked_sub(base).and_then(|o| usize::try_from(o).ok());
        let bytes = from.and_then(|o| self.memory.get(o..o.checked_add(buf.len())?));
        bytes.inspect(|b| buf.copy_from_slice(b)).is_some()
    }
    fn segment_base(&self, selector: u16) -> Option<u64> {
        match self.bits {
            16 => Some(u64::from(selector) << 4),
            _ => (selector == 0x18).then_some(0x1010),
        }
    }
    fn code_bits(&self) -> u32 {
        self.bits
    }
    fn variable(&self, v: Variable) -> Option<Value> {
        match v {
            Variable::Named(name) => self.variables.get(name).copied(),
            Variable::History(n) => (n == 1).then(|| Value::int(11)),
            Variable::FromLast(n) => (n < 2).then(|| Value::int(20 - i64::from(n))),
        }
    }
}

impl Store for Bench {
    fn set_register(&mut self, r: Reg, value: u64) -> Result<(), String> {
        self.registers.insert(r.to_string(), value);
        Ok(())
    }
    fn write(&mut self, space: Space, addr: u64, bytes: &[u8]) -> bool {
        let base = match space {
            Space::Linear => 0x1000,
            Space::Physical => 0x10_0000,
        };
        let Some(from) = addr.checked_sub(base) else {
            return false;
        };
        let to = self
            .memory
            .get_mut(from as usize..from as usize + bytes.len());
        to.map(|m| m.copy_from_slice(bytes)).is_some()
    }
    fn set_variable(&mut self, name: &str, value: Value) {
        self.variables.insert(name.into(), value);
    }
}

struct Symbols;

impl Names for Symbols {
    fn symbol(&self, name: &str) -> Option<u64> {
        Some(match name {
            "start_kernel" => 0x1100,
            "foo.cold" => 0x1200,
            "ext4!init" => 0x1300,
            "cx" => 0x1400,
            _ => return None,
        })
    }
    fn nearest(&self, name: &str) -> Option<String> {
        (name == "start_kernle").then(|| "start_kernel".into())
    }
}

fn eval(text: &str, env: &Bench) -> Result<Value, String> {
    let e = Expr::parse(text, &Symbols).map_err(|e| e.to_string())?;
    e.eval(env).map_err(|e| e.to_string())
}

fn of_c(name: &str) -> Base {
    match name {
        "i32" => Base::I32,
        "u32" => Base::U32,
        "i64" => Base::I64,
        "u64" => Base::U64,
        "char" => Base::Char,
        "i8" => Base::I8,
        "u8" => Base::U8,
        "i16" => Base::I16,
        "u16" => Base::U16,
        _ => Base::Void,
    }
}

/// `c_table.txt`: random expressions, and what GCC on x86-64 makes of them: the type, and the value as unsigned long.
/// Those that C leaves undefined are not among them.
#[test]
fn agrees_with_c() {
    let env = bench(64);
    let mut count = 0;
    for line in include_str!("c_table.txt").lines() {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or("");
        let (text, ty, value) = (next(), next(), next());
        let got = eval(text, &env).unwrap_or_else(|e| panic!("{text}: {e}"));
        let mut want = of_c(ty);
        // GDB's 'a' is a char, and its chars are printed as such; C's type is the integer.
        let quoted = text.contains('\'') && ty == "i32";
        if got.ty.is_char() && (matches!(want, Base::I8 | Base::U8) || quoted) {
            want = got.ty.base;
        }
        assert_eq!(
            (got.as_u64().to_string().as_str(), got.ty.base),
            (value, want),
            "{text}"
        );
        count += 1;
    }
    assert!(count > 200, "{count}");
}

#[test]
fn undefined_in_c() {
    let env = bench(64);
    for (text, want) in [
        ("1 << 31", "2147483648"),
        ("1 << 40", "1099511627776"),
        ("1 << 64", "0"),
        ("1u << 36", "68719476736"),
        ("-1 << 4", "-16"),
        ("-1 >> 70", "-1"),
        ("0xffffffffffffffff >> 64", "0"),
        ("0x7fffffff + 1", "2147483648"),
        ("-0x7fffffff - 3", "-2147483650"),
        ("2000000000 * 4", "8000000000"),
        ("0x7fffffffffffffff + 1", "-9223372036854775808"),
        ("(-0x7fffffffffffffff - 1) / -1", "-9223372036854775808"),
        ("(-0x7fffffffffffffff - 1) % -1", "0"),
        ("(int)(1 << 31) / -1", "2147483648"),
    ] {
        let v = eval(text, &env).unwrap_or_else(|e| panic!("{text}: {e}"));
        let got = match v.ty.is_signed() {
            true => (v.as_u64() as i64).to_string(),
            false => v.as_u64().to_string(),
        };
        assert_eq!(got, want, "{text}");
    }
}

#[test]
fn registers_and_memory() {
    let mut env = bench(64);
    env.set_variable("me", Value::int(-7));
    let m = |at: u64, n: usize| {
        let mut word = [0; 8];
        word[..n].copy_from_slice(&env.memory[at as usize - 0x1000..][..n]);
        u64::from_le_bytes(word)
    };
    for (text, want) in [
        ("$rax", -16i64 as u64),
        ("rax == -16", 1),
        ("$eax == -16 && eax == 0xfffffff0", 1),
        ("$rax < 0", 1),
        ("$rax > 0xffffffff80000000", 1),
        ("$ah", -1i64 as u64),
        ("al", -16i64 as u64),
        ("$bl", -0x78i64 as u64),
        ("(u8)bh", 0x77),
        ("$r9d", 0x1234_80ff),
        ("$r9w", 0x80ffu16 as i16 as u64),
        ("r9b", -1i64 as u64),
        ("r9l", -1i64 as u64),
        ("$cx", 0x1000),
        ("cx", 0x1400),
        ("$zf + $if * 2 + $cf * 4", 3),
        ("$iopl", 3),
        ("flags", 0x3246),
        ("$cs.base + ds_base", 0x2010),
        ("gdtr.limit", 0x7f),
        ("$cr3", 0x1000),
        ("msr(0xc0000000 + 0x80) == $msr[0xc0000080]", 1),
        ("$msr[0xc0000080]", 0xd01),
        ("$xmm0.u32[0]", 0x1111_2222),
        ("$ymm0.v32_int8[31]", -0x78i64 as u64),
        ("ymm0.u16[13]", 0x4433),
        ("$retired % 7", 1000 % 7),
        ("$insns", 1000),
        ("$sp", 0x1100),
        ("$1 + $ * 100 + $$ + $$0", 11 + 2000 + 19 + 20),
        ("$me", -7i64 as u64),
        ("start_kernel", 0x1100),
        ("&start_kernel", 0x1100),
        ("foo.cold - start_kernel", 0x100),
        ("ext4!init + 1", 0x1301),
        ("*start_kernel", 0x1108),
        ("**start_kernel", 0x1110),
        ("*(int*)**start_kernel", -5i64 as u64),
        ("***(int***)start_kernel", -5i64 as u64),
        ("*$sp", 0x1108),
        ("**(int**)0x1108", -5i64 as u64),
        ("{int}0x1110 + 1", -4i64 as u64),
        ("{unsigned char}0x1110", 0xfb),
        ("u8[0x1110]", 0xfb),
        ("i16[rcx + 0x110]", -5i64 as u64),
        ("u32[0x1110]", 0xffff_fffb),
        ("u64[0x1100] == 0x1108", 1),
        ("((int*)0x1100)[4]", -5i64 as u64),
        ("(int*)0x1100 + 4", 0x1110),
        ("(int*)0x1110 - (int*)0x1100", 4),
        ("&*(int*)0x1110 + 1", 0x1114),
        ("&u16[0x1110] + 1", 0x1112),
        ("phys:0x100110", 0x10_0110),
        ("u32[phys:0x100110]", 0xffff_fffb),
        ("i8[phys:(0x100000 + 0x110)]", -5i64 as u64),
        ("*(int*)phys:0x100110", -5i64 as u64),
        ("*(int*)(phys:0x100100 + 0x10)", -5i64 as u64),
        ("dword ptr [0x1110]", 0xffff_fffb),
        ("byte ptr fs:[0xf0]", 0xfb),
        ("fs:0xf0", 0x1110),
        ("cs:ip", 0x1010),
        ("1 ? (fs:1) : 2", 0x1021),
        ("0 ? 1 : fs:1", 0x1021),
        ("0x18:1", 0x1011),
        ("1 ? 2 : 3 ? 4 : 5", 2),
        ("0 ? 2 : 0 ? 4 : 5", 5),
        ("(0 ? 1 : 2) + 3", 5),
        ("-(1 ? 2 : 3)", -2i64 as u64),
        ("0 && u8[0]", 0),
        ("1 || 1 / 0", 1),
        ("1 ? 2 : u8[0]", 2),
        ("sizeof(int) + sizeof(char*)", 12),
        ("'a' + '\\n' + '\\x41' + '\\101' + '\\0'", 97 + 10 + 65 + 65),
        ("$st0 * 2 == 5", 1),
        ("f32[0x1118] == 1.5 && f64[0x1120] == -0.1", 1),
        ("(long)1e3 + (int)-2.9", 998),
        ("$xmm0.f32[1] == 1.0f", 1),
    ] {
        let got = eval(text, &env).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(got.as_u64(), want, "{text}");
    }
    assert_eq!(eval("*0x1118", &env).map(|v| v.as_u64()), Ok(m(0x1118, 8)));
    assert_eq!(eval("phys:5", &env).map(|v| v.space), Ok(Space::Physical));
    assert_eq!(eval("$rip & ~0xf", &env).map(|v| v.ty), Ok(Type::ADDRESS));
    for (bits, size) in [(32, 4), (16, 2)] {
        let env = bench(bits);
        assert_eq!(
            eval("*0x1118", &env).map(|v| v.as_u64()),
            Ok(m(0x1118, size))
        );
        // Outside 64-bit mode an address has 32 bits, and CS has a base.
        assert_eq!(eval("u8[0xf00001110]", &env).map(|v| v.as_u64()), Ok(0xfb));
        assert_eq!(eval("cs:ip", &env).map(|v| v.as_u64()), Ok(0x2010));
    }
    assert_eq!(
        eval("0xf000:0xfff0", &bench(16)).map(|v| v.as_u64()),
        Ok(0xffff0)
    );
    assert!(eval("0xf000:-1", &bench(16)).is_err());
}

#[test]
fn a_false_left_side_reads_nothing() {
    let env = bench(64);
    let e = Expr::parse("$rcx == 1 && u8[0x1000] == 3", &Symbols).unwrap();
    assert_eq!(e.eval(&env).map(|v| v.as_u64()), Ok(0));
    assert_eq!(env.reads.get(), 0);
}

#[test]
fn errors() {
    let env = bench(64);
    for (text, want) in [
        ("1/0", "Division by zero"),
        ("5 % ($rcx - 0x1000)", "Division by zero"),
        ("*(int*)0", "Cannot access memory at address 0x0"),
        ("u32[0x1ffd]", "Cannot access memory at address 0x1ffd"),
        (
            "u8[phys:0x1000]",
            "Cannot access memory at physical address 0x1000",
        ),
        ("nosuch", "No symbol \"nosuch\" in current context."),
        (
            "start_kernle",
            "No symbol \"start_kernle\" in current context. Did you mean start_kernel?",
        ),
        (
            "rxx",
            "No symbol \"rxx\" in current context. Did you mean $rax?",
        ),
        (
            "$raxx",
            "$raxx is neither a register nor a variable that has been set. Did you mean $rax?",
        ),
        ("$3", "History has not yet reached $3."),
        ("$$5", "History is empty or not that long."),
        ("1 +", "A syntax error in expression, near `' (column 4)."),
        (
            "10 20",
            "A syntax error in expression, near `20' (column 4).",
        ),
        ("(1", "A syntax error in expression, near `' (column 3)."),
        ("1)", "A syntax error in expression, near `)' (column 2)."),
        ("", "A syntax error in expression, near `' (column 1)."),
        ("é + )", "No symbol \"é\" in current context."),
        ("1 + \"", "Invalid character '\\\"' in expression."),
        ("08", "Invalid number \"08\"."),
        ("0xg", "Invalid number \"0xg\"."),
        ("0x", "Invalid number \"0x\"."),
        ("0x-1", "Invalid number \"0x\"."),
        (
            "18446744073709551616",
            "Invalid number \"18446744073709551616\".",
        ),
        ("1 << -1", "a shift by -1: the count must not be negative"),
        (
            "1.5 % 2",
            "% << >> & ^ |: not for floats; cast to an integer, as in (long)$st0",
        ),
        ("$cr2", "this CPU has no cr2"),
        ("msr(1 << 32)", "an MSR's number has 32 bits"),
        (
            "$xmm0",
            "a vector register is used by lanes: $xmm0.u64[1], $ymm0.f32[7]",
        ),
        (
            "$xmm0.u64[2]",
            "the register has no such lane: they count from 0",
        ),
        (
            "0x20:0",
            "selector 0x20 has no segment in the descriptor tables",
        ),
        ("0x10000:0", "0x10000 is no selector: they end at 0xffff"),
        (
            "&5",
            "Attempt to take address of value not located in memory.",
        ),
        (
            "&(1 ? *0x1000 : 2)",
            "Attempt to take address of value not located in memory.",
        ),
        (
            "(unsigned float)1",
            "A syntax error in expression, near `)1' (column 16).",
        ),
        (
            "(void)1",
            "A syntax error in expression, near `)1' (column 6).",
        ),
        (
            "'ab'",
            "a character is one between ' and ', as in 'a' or '\\n'",
        ),
        (
            "1 = 2",
            "A syntax error in expression, near `= 2' (column 3).",
        ),
    ] {
        let got = eval(text, &env).map(|v| v.as_u64());
        assert_eq!(got, Err(want.to_string()), "{text}");
    }
    let deep = |open: &str, n: usize| eval(&format!("{}1", open.repeat(n)), &env);
    for open in [
        "(", "-", "*", "u8[", "{int}", "(int)", "1?", "1?1:", "phys:", "& ", "msr(", "~!",
    ] {
        let deep = deep(open, 500).map_err(|e| e.contains("more than 64 levels"));
        assert_eq!(deep.map(|v| v.as_u64()), Err(true), "{open}");
    }
    assert!(deep("- ", 50).is_ok());
    let long = format!("1{}", "+1".repeat(2000));
    assert_eq!(eval(&long, &env).map(|v| v.as_u64()), Ok(2001));
    let long = format!("$rcx{}", "+$rcx".repeat(800));
    assert_eq!(eval(&long, &env).map(|v| v.as_u64()), Ok(801 * 0x1000));
    assert!(eval(&"1+".repeat(3000), &env).is_err_and(|e| e.contains("4096")));
}

#[test]
fn assignments() {
    let mut env = bench(64);
    let set = |env: &mut Bench, text: &str| -> Result<u64, String> {
        let a = Assignment::parse(text, &Symbols).map_err(|e| e.to_string())?;
        a.perform(env).map(Value::as_u64)
    };
    for (text, then, want) in [
        ("$rax = 5", "$rax", 5),
        ("var $eax = -1", "$rax", 0xffff_ffff),
        ("rbx = 0", "$rbx", 0),
        ("$bh = 0x1ff", "$rbx", 0xff00),
        ("$zf = 0", "$eflags", 0x3206),
        ("$zf |= 1", "$eflags", 0x3246),
        ("$x = 7", "$x", 7),
        ("$x += 1 ? 3 : 4", "$x * 2", 20),
        ("$x <<= 2", "$x", 40),
        ("var *(int*)0x1000 = 0x12345678", "u16[0x1000]", 0x5678),
        ("{char}0x1001 = 'a'", "u32[0x1000]", 0x1234_6178),
        ("u8[0x1000] -= 8", "u32[0x1000]", 0x1234_6170),
        ("*start_kernel = 0", "u64[0x1100]", 0),
        ("f32[0x1100] = 1.5", "u32[0x1100]", 0x3fc0_0000),
        ("u16[phys:0x100002] = 0xbeef", "u32[0x1000]", 0xbeef_6170),
        ("((u8*)0x1000)[3] = $x == 40 ? 1 : 2", "u8[0x1003]", 1),
        ("msr(0x10) = 3", "$msr[16]", 3),
        ("$xmm0.u32[1] = 9", "$xmm0.u64[0]", 0x9_1111_2222),
        ("cs.base = 0x2000", "$cs.base", 0x2000),
    ] {
        set(&mut env, text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(eval(then, &env).map(|v| v.as_u64()), Ok(want), "{text}");
    }
    for (text, want) in [
        ("5 = 6", "Left operand of assignment is not an lvalue."),
        (
            "start_kernel = 6",
            "Left operand of assignment is not an lvalue.",
        ),
        ("-$rax = 6", "Left operand of assignment is not an lvalue."),
        (
            "(1 ? *0x1000 : *0x1008) = 6",
            "Left operand of assignment is not an lvalue.",
        ),
        ("$1 = 6", "Left operand of assignment is not an lvalue."),
        ("$rax", "A syntax error in expression, near `' (column 5)."),
        (
            "$rax = 1 2",
            "A syntax error in expression, near `2' (column 10).",
        ),
        ("u8[0] = 1", "Cannot access memory at address 0x0"),
        ("$rax = 1 / 0", "Division by zero"),
    ] {
        assert_eq!(set(&mut env, text), Err(want.to_string()), "{text}");
    }
}

#[test]
fn lists_of_expressions() {
    let (first, rest) = Expr::parse_first("$rax + 1, 5", &Symbols).unwrap();
    assert_eq!((first.text(), rest), ("$rax + 1", ", 5"));
    assert_eq!(Expr::parse_first("5", &Symbols).map(|r| r.1), Ok(""));
    assert!(Expr::parse_first("5 6", &Symbols).is_err());
}

/// Nothing panics, nothing takes long, and what can be read can be read again.
#[test]
fn nonsense() {
    const WORDS: [&str; 60] = [
        "1",
        "0x10",
        "0xffffffffffffffff",
        "$rax",
        "rax",
        "$",
        "$$",
        "$1",
        "$x",
        "u8[",
        "u64[",
        "]",
        "(",
        ")",
        "{int}",
        "(int*)",
        "(char)",
        "(unsigned long",
        "*",
        "&",
        "-",
        "+",
        "~",
        "!",
        "/",
        "%",
        "<<",
        ">>",
        "<",
        "==",
        "!=",
        "&&",
        "||",
        "^",
        "|",
        "?",
        ":",
        "phys:",
        "cs:",
        "0xf000:",
        "start_kernel",
        "msr(",
        "$msr[",
        "$xmm0.u32[1]",
        "$st0",
        "1.5",
        "1e",
        "'a'",
        "'\\x",
        "'",
        "byte ptr",
        "sizeof(",
        ",",
        "=",
        "+=",
        "é",
        "\u{1F600}",
        "\0",
        "!a",
        "ext4!",
    ];
    let mut env = bench(64);
    env.set_variable("x", Value::float(f64::NAN));
    let mut random = Random(0x5eed);
    let begin = Instant::now();
    let (mut read, mut valued) = (0, 0);
    for round in 0..60_000 {
        let mut text = String::new();
        for _ in 0..random.below(14) {
            match round % 3 {
                0 => text.push(char::from_u32(random.below(0x180) as u32).unwrap_or(' ')),
                _ => text.push_str(random.of(&WORDS)),
            }
            if random.below(3) == 0 {
                text.push(' ');
            }
        }
        if let Ok(e) = Expr::parse(&text, &Symbols) {
            read += 1;
            valued += u32::from(e.eval(&env).is_ok());
            assert_eq!(Expr::parse(e.text(), &Symbols), Ok(e));
        }
        if let Ok(a) = Assignment::parse(&text, &Symbols) {
            let _ = a.perform(&mut env);
        }
        let _ = Expr::parse_first(&text, &Symbols);
    }
    assert!(read > 500 && valued > 100, "{read} {valued}");
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}
