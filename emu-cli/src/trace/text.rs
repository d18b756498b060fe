//! Entries as text, a line each, and as JSON, an object a line.

use super::record::{Entry, Gate, REGISTERS, What};
use super::syscalls;
use crate::debug::disasm::{self, Flavor};
use crate::debug::format::symbolic;
use crate::debug::report::exception;
use emu_core::fault::Fault;
use serde_json::{Value, json};
use std::fmt::Write;

/// A symbol and the distance from it.
pub type Symbol<'a> = &'a dyn Fn(u64) -> Option<(String, u64)>;

/// The count of retired instructions, the privilege level, the address and its name, and what happened.
pub fn line(e: &Entry, symbol: Symbol) -> String {
    let width = if e.at.code_bits == 64 { 16 } else { 8 };
    let mut out = format!("{:>12} {} {:0width$x} ", e.retired, e.at.cpl, e.at.lin);
    if let Some(name) = symbolic(e.at.lin, symbol) {
        let _ = write!(out, "{name} ");
    }
    out + &happened(e, symbol)
}

fn happened(e: &Entry, symbol: Symbol) -> String {
    match &e.what {
        What::Insn { code, changed } => {
            let mut out = insn(e, code, symbol);
            for (n, (reg, value)) in changed.iter().enumerate() {
                let mark = if n == 0 { "  ;" } else { "" };
                let _ = write!(out, "{mark} {}={value:#x}", register(*reg));
            }
            out
        }
        What::Mem {
            at,
            size,
            write,
            value,
        } => {
            let way = if *write { "writes" } else { "reads" };
            let at = match symbolic(*at, symbol) {
                Some(name) => format!("{at:#x} {name}"),
                None => format!("{at:#x}"),
            };
            match value {
                Some(v) => format!("{way} {size} at {at}: {}", number(v)),
                None => format!("{way} {size} at {at}"),
            }
        }
        What::Port {
            port,
            size,
            write,
            value,
        } => {
            let way = if *write { "out" } else { "in" };
            format!("{way} port {port:#06x}: {}", sized(*value, *size))
        }
        What::Mmio {
            at,
            size,
            write,
            value,
        } => {
            let way = if *write { "writes" } else { "reads" };
            format!("{way} device at {at:#x}: {}", sized(*value, *size))
        }
        What::Exception {
            vector,
            error,
            address,
        } => {
            let fault = Fault {
                vector: *vector,
                error: *error,
                address: *address,
            };
            format!("exception {}", exception(fault))
        }
        What::Interrupt { vector } => format!("interrupt {vector:#x}"),
        What::SoftwareInterrupt { vector } => format!("int {vector:#x}"),
        What::Call {
            gate,
            number,
            args,
            path,
        } => {
            let wide = is_wide(e, *gate);
            let named = syscalls::path_argument(*number, wide).zip(path.as_ref());
            let arg = |(n, v): (usize, &u64)| match named {
                Some((which, path)) if which == n => format!("{path:?}"),
                _ => format!("{v:#x}"),
            };
            let args: Vec<String> = args.iter().enumerate().map(arg).collect();
            format!("{}({})", call_name(*number, wide), args.join(", "))
        }
        What::Return {
            gate,
            number,
            value,
            called,
            path,
        } => {
            let wide = is_wide(e, *gate);
            let name = call_name(*number, wide);
            let path = path.as_ref().map_or(String::new(), |p| format!("{p:?}, "));
            format!("{name} ({path}at {called}) = {}", result(*value, wide))
        }
    }
}

fn insn(e: &Entry, code: &[u8], symbol: Symbol) -> String {
    match disasm::decode(code, e.at.lin, e.at.code_bits.into()) {
        Some(i) => disasm::text(&i, Flavor::Intel, symbol),
        None => "(bad)".into(),
    }
}

fn register(n: u8) -> &'static str {
    REGISTERS.get(usize::from(n)).copied().unwrap_or("?")
}

/// A number of so many bytes.
fn sized(value: impl Into<u64>, bytes: u8) -> String {
    format!("0x{:0w$x}", value.into(), w = 2 * usize::from(bytes))
}

/// Bytes as a number as wide as they are; in their order if they are too many for one.
fn number(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=8 => {
            let v = bytes.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
            format!("0x{v:0w$x}", w = 2 * bytes.len())
        }
        _ => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Programs that call by SYSCALL from 64-bit code have 64-bit Linux's numbers.
fn is_wide(e: &Entry, gate: Gate) -> bool {
    gate == Gate::Syscall && e.at.code_bits == 64
}

fn call_name(number: u64, wide: bool) -> String {
    match syscalls::name(number, wide) {
        Some(name) => name.into(),
        None => format!("syscall_{number:#x}"),
    }
}

/// As strace: small negative numbers are errors.
fn result(value: u64, wide: bool) -> String {
    let signed = if wide {
        value as i64
    } else {
        i64::from(value as u32 as i32)
    };
    match signed {
        -4095..0 => {
            let errno = syscalls::error_name(-signed);
            format!("{signed} {}", errno.unwrap_or("(errno)"))
        }
        _ => format!("{value:#x}"),
    }
}

/// One object. Addresses and values are numbers; bytes are hexadecimal digits in memory's order.
pub fn json(e: &Entry, symbol: Symbol) -> Value {
    let mut v = json!({
        "retired": e.retired,
        "cpl": e.at.cpl,
        "cr3": e.at.cr3,
        "rip": e.at.lin,
        "bits": e.at.code_bits,
    });
    let mut more = match &e.what {
        What::Insn { code, changed } => {
            let changed: serde_json::Map<_, _> = changed
                .iter()
                .map(|(n, v)| (register(*n).to_string(), json!(v)))
                .collect();
            let mut v =
                json!({ "kind": "insn", "bytes": hex(code), "text": insn(e, code, symbol) });
            if !changed.is_empty() {
                v["changed"] = changed.into();
            }
            v
        }
        What::Mem {
            at,
            size,
            write,
            value,
        } => json!({
            "kind": if *write { "write" } else { "read" },
            "address": at, "size": size, "value": value.as_ref().map(|b| hex(b)),
        }),
        What::Port {
            port,
            size,
            write,
            value,
        } => json!({
            "kind": if *write { "out" } else { "in" }, "port": port, "size": size, "value": value,
        }),
        What::Mmio {
            at,
            size,
            write,
            value,
        } => json!({
            "kind": if *write { "mmio-write" } else { "mmio-read" },
            "physical": at, "size": size, "value": value,
        }),
        What::Exception {
            vector,
            error,
            address,
        } => json!({ "kind": "exception", "vector": vector, "error": error, "address": address }),
        What::Interrupt { vector } => json!({ "kind": "interrupt", "vector": vector }),
        What::SoftwareInterrupt { vector } => json!({ "kind": "int", "vector": vector }),
        What::Call {
            gate,
            number,
            args,
            path,
        } => json!({
            "kind": "syscall", "gate": gate_name(*gate), "number": number,
            "name": syscalls::name(*number, is_wide(e, *gate)), "args": args, "path": path,
        }),
        What::Return {
            gate,
            number,
            value,
            called,
            path,
        } => json!({
            "kind": "sysret", "gate": gate_name(*gate), "number": number,
            "name": syscalls::name(*number, is_wide(e, *gate)), "value": value, "called": called, "path": path,
        }),
    };
    if let Some((name, offset)) = symbol(e.at.lin) {
        more["symbol"] = name.into();
        more["offset"] = offset.into();
    }
    if let (Some(v), Value::Object(more)) = (v.as_object_mut(), more) {
        v.extend(more);
    }
    v
}

fn gate_name(gate: Gate) -> &'static str {
    match gate {
        Gate::Syscall => "syscall",
        Gate::Sysenter => "sysenter",
        Gate::Int(_) => "int",
    }
}
