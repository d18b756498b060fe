//! The text form of instruction vectors (`tests/vectors/*.ins`): bytes, the state before, what the instruction changes.
//!
//! ```text
//! # add [rbx],eax
//! 64 0103
//! > rax=1 rbx=10004000 [10004000]=ff
//! < flags=55 [10004000]=0001
//! ```
//!
//! First the disassembly (a comment), then the code size and the bytes. `>` gives what differs from [`Case::new`]'s state
//! before, `<` what differs from that afterwards (RIP behind the instruction goes without saying), `!` the exception:
//! vector, error code, faulting address. Fields: general registers, `rip`, `flags`, `ymm0` (64-bit lanes from the highest,
//! joined by `_`), `st0` (sign-exponent `:` significand), `mxcsr`, `fcw`, `fsw`, `ftw`, and bytes of memory from an address.
//! Numbers are hexadecimal.

use crate::compare::{GPR, text};
use crate::state::{Bits, Case, DATA, DATA_BYTES, Fault, Outcome, State};
use std::fmt::Write;

/// A case and what must come of it.
#[derive(Clone, Debug)]
pub struct Vector {
    pub case: Case,
    pub expect: Outcome,
}

/// Fields of `s` that differ from `base`.
fn changes(base: &State, s: &State) -> String {
    let mut o = String::new();
    for (name, (a, b)) in GPR.iter().zip(base.gpr.iter().zip(&s.gpr)) {
        if a != b {
            let _ = write!(o, " {name}={b:x}");
        }
    }
    if base.rip != s.rip {
        let _ = write!(o, " rip={:x}", s.rip);
    }
    if base.flags != s.flags {
        let _ = write!(o, " flags={:x}", s.flags);
    }
    for (n, (a, b)) in base.vec.iter().zip(&s.vec).enumerate() {
        if a != b {
            let _ = write!(o, " ymm{n}={:x}_{:x}_{:x}_{:x}", b[3], b[2], b[1], b[0]);
        }
    }
    for n in 0..8 {
        if (base.st[n], base.st_exp[n]) != (s.st[n], s.st_exp[n]) {
            let _ = write!(o, " st{n}={:x}:{:x}", s.st_exp[n], s.st[n]);
        }
    }
    for (name, a, b) in [
        ("mxcsr", base.mxcsr, s.mxcsr),
        ("fcw", base.fcw.into(), s.fcw.into()),
        ("fsw", base.fsw.into(), s.fsw.into()),
        ("ftw", base.ftw.into(), s.ftw.into()),
    ] {
        if a != b {
            let _ = write!(o, " {name}={b:x}");
        }
    }
    let mut at = 0;
    while at < DATA_BYTES {
        let n = (at..DATA_BYTES)
            .take_while(|&k| base.mem[k] != s.mem[k])
            .count();
        if n > 0 {
            let _ = write!(o, " [{:x}]=", DATA + at as u64);
            for b in &s.mem[at..at + n] {
                let _ = write!(o, "{b:02x}");
            }
        }
        at += n + 1;
    }
    o
}

/// The vector as text.
pub fn print(v: &Vector) -> String {
    let c = &v.case;
    let mut o = format!("# {}\n{} ", text(c), c.bits.count());
    for b in &c.code {
        let _ = write!(o, "{b:02x}");
    }
    let line = |o: &mut String, mark: char, s: String| {
        if !s.is_empty() {
            let _ = write!(o, "\n{mark}{s}");
        }
    };
    line(
        &mut o,
        '>',
        changes(&Case::new(c.bits, &c.code).before, &c.before),
    );
    line(
        &mut o,
        '<',
        changes(&then(c, v.expect.fault), &v.expect.after),
    );
    if let Some(f) = v.expect.fault {
        let _ = write!(o, "\n! {:x} {:x} {:x}", f.vector, f.error, f.address);
    }
    o.push('\n');
    o
}

/// The state before, with RIP behind an instruction that does not fault.
fn then(c: &Case, fault: Option<Fault>) -> State {
    let mut s = (*c.before).clone();
    if fault.is_none() {
        s.rip += c.code.len() as u64;
    }
    s
}

fn hex(s: &str) -> Result<u64, String> {
    u64::from_str_radix(s, 16).map_err(|e| format!("{s}: {e}"))
}

fn hex_bytes(s: &str) -> Result<Vec<u8>, String> {
    (0..s.len() / 2)
        .map(|n| hex(&s[2 * n..2 * n + 2]).map(|v| v as u8))
        .collect()
}

fn apply(s: &mut State, fields: &str) -> Result<(), String> {
    for f in fields.split_whitespace() {
        let (name, value) = f.split_once('=').ok_or_else(|| format!("{f}: no ="))?;
        if let Some(at) = name.strip_prefix('[') {
            let at = hex(at.trim_end_matches(']'))?.wrapping_sub(DATA) as usize;
            let b = hex_bytes(value)?;
            s.mem
                .get_mut(at..at + b.len())
                .ok_or_else(|| format!("{f}: outside the data"))?
                .copy_from_slice(&b);
        } else if let Some(n) = GPR.iter().position(|g| *g == name) {
            s.gpr[n] = hex(value)?;
        } else if let Some(n) = name.strip_prefix("ymm") {
            let n: usize = n.parse().map_err(|_| f.to_string())?;
            for (lane, v) in value.split('_').rev().enumerate() {
                s.vec[n & 15][lane & 3] = hex(v)?;
            }
        } else if let Some(n) = name.strip_prefix("st") {
            let n: usize = n.parse().map_err(|_| f.to_string())?;
            let (e, m) = value.split_once(':').ok_or_else(|| f.to_string())?;
            (s.st_exp[n & 7], s.st[n & 7]) = (hex(e)? as u16, hex(m)?);
        } else {
            let v = hex(value)?;
            match name {
                "rip" => s.rip = v,
                "flags" => s.flags = v,
                "mxcsr" => s.mxcsr = v as u32,
                "fcw" => s.fcw = v as u16,
                "fsw" => s.fsw = v as u16,
                "ftw" => s.ftw = v as u8,
                _ => return Err(format!("{f}: no such field")),
            }
        }
    }
    Ok(())
}

/// All vectors of a file.
///
/// # Errors
/// The line that cannot be read, and why.
pub fn parse(file: &str) -> Result<Vec<Vector>, String> {
    file.split("\n\n")
        .map(|p| p.lines().filter(|l| !l.starts_with('#') && !l.is_empty()))
        .filter_map(|mut lines| lines.next().map(|first| (first, lines)))
        .map(|(first, lines)| {
            let (bits, code) = first.split_once(' ').ok_or_else(|| first.to_string())?;
            let bits = if bits == "32" { Bits::B32 } else { Bits::B64 };
            let mut case = Case::new(bits, &hex_bytes(code)?);
            let (mut after, mut fault) = ("", None);
            for l in lines {
                match l.split_at(1) {
                    (">", rest) => apply(&mut case.before, rest)?,
                    ("<", rest) => after = rest,
                    ("!", rest) => {
                        let v = rest
                            .split_whitespace()
                            .map(hex)
                            .collect::<Result<Vec<_>, _>>()?;
                        let [vector, error, address] = v[..] else {
                            return Err(format!("{l}: three numbers"));
                        };
                        fault = Some(Fault {
                            vector: vector as u8,
                            error: error as u32,
                            address,
                        });
                    }
                    _ => return Err(format!("{l}: begins with none of # > < !")),
                }
            }
            let mut s = then(&case, fault);
            apply(&mut s, after)?;
            Ok(Vector {
                case,
                expect: Outcome {
                    after: Box::new(s),
                    fault,
                },
            })
        })
        .collect()
}

/// What an outcome changes, for a generator that looks for the smallest case with the same effect.
pub fn effect(c: &Case, o: &Outcome) -> String {
    format!("{:?}{}", o.fault, changes(&then(c, o.fault), &o.after))
}
