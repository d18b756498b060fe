//! A translation unit for a person to read: guest code with each instruction's class and treatment, Cranelift IR, host code, links.
//!
//! The region is gathered and compiled again for the listing, so nothing is kept for it while the guest runs; what the unit of
//! the moment is linked to comes from the unit itself.

use crate::codegen::{Compiler, Explained};
use crate::engine::Dbt;
use crate::region::{Node, Region, Tail};
use crate::unit::{Compiled, UnitId};
use emu_core::decode::block::Block;
use emu_core::decode::cache::Cache;
use emu_core::decode::insn::pfx;
use emu_core::fault::Stop;
use emu_core::sensitive::{self, Class};
use emu_core::vcpu::Vcpu;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use std::fmt::Write;

/// Bytes from a block's start to its last instruction at most.
const LONGEST: u64 = 48 * 15;

/// How one instruction was translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Treatment {
    pub node: u16,
    pub idx: u8,
    pub lowered: bool,
}

impl Dbt {
    /// The published unit with this instruction in it, its root's RIP and block.
    fn unit_at(&self, cpu: &Vcpu, rip: u64) -> Option<(UnitId, u64)> {
        let off = cpu.known_fetch_offset(rip)?;
        for back in 0..=(rip & 0xfff).min(LONGEST) {
            let start = off - back;
            let Some(n) = self.interp.cache.peek(start, cpu.key) else {
                continue;
            };
            let b = self.interp.cache.get(n);
            if back >= u64::from(b.bytes) {
                continue;
            }
            let Some(id) = self.unit_of(start, cpu.key) else {
                continue;
            };
            let u = self.unit(id)?;
            let page = u.pages.iter().find(|p| p.off == off & !0xfff)?;
            let root = (rip & !0xfff).wrapping_sub(page.delta as u64);
            return Some((id, root | u.off & 0xfff));
        }
        None
    }

    /// The listing of the unit with this instruction in it; `None`: there is none.
    pub fn describe(&mut self, cpu: &mut Vcpu, rip: u64) -> Option<String> {
        let (id, root) = self.unit_at(cpu, rip)?;
        let n = self.interp.cache.peek(self.unit(id)?.off, cpu.key)?;
        let was = std::mem::replace(&mut cpu.rip, root);
        let text = self.listing(cpu, n, Some(id));
        cpu.rip = was;
        Some(text)
    }

    /// The same for the code at an address, whether it has run or not; `Err`: why there is none.
    pub fn describe_now(&mut self, cpu: &mut Vcpu, rip: u64) -> Result<String, String> {
        if !cpu.code64() && rip >> 32 != 0 {
            return Err(format!(
                "{rip:#x} is beyond what the CPU's mode can run: it is in 16- or 32-bit code"
            ));
        }
        let was = std::mem::replace(&mut cpu.rip, rip);
        let found = self.interp.lookup(cpu);
        let text = match found {
            Ok(n) => Ok(self.listing(cpu, n, None)),
            Err(_) => Err(match std::mem::take(&mut cpu.stop) {
                Stop::Fault(f) => format!("fetching from {rip:#x} faults: {f:?}"),
                _ => format!("{rip:#x} is not an address of code"),
            }),
        };
        cpu.rip = was;
        text
    }

    fn listing(&mut self, cpu: &Vcpu, n: u32, id: Option<UnitId>) -> String {
        let mut out = String::new();
        let apart = self.apart(cpu, n);
        let Some(region) = Region::gather(cpu, &self.interp.cache, n, self.options(), apart) else {
            let b = self.interp.cache.get(n);
            let _ = writeln!(
                out,
                "block at {:#x}: interpreted, since only 64-bit and flat 32-bit code is translated",
                cpu.rip
            );
            untranslated(cpu, b, &mut out);
            return out;
        };
        let explained = Compiler::new(self.options()).and_then(|mut c| c.explain(&region));
        let unit = id.and_then(|id| self.unit(id));
        let state = match unit {
            Some(_) => "translated",
            None => "as it would be translated",
        };
        let _ = writeln!(
            out,
            "unit at {:#x}: {} blocks, {} instructions, {}-bit code; {state}",
            region.root().rip,
            region.nodes.len(),
            region.insns,
            region.key.code_bits()
        );
        match explained {
            Err(e) => {
                guest(cpu, &self.interp.cache, &region, None, &mut out);
                let _ = writeln!(out, "\nnot translated: {e}");
            }
            Ok(x) => {
                guest(
                    cpu,
                    &self.interp.cache,
                    &region,
                    Some(&x.compiled),
                    &mut out,
                );
                self.links(&x.compiled, unit.map(|_| id.unwrap_or(0)), &mut out);
                let _ = writeln!(out, "\nCranelift IR:\n{}", x.ir.trim_end());
                host(&x, unit.map_or(0, |u| u.code), &mut out);
            }
        }
        out
    }

    fn links(&self, compiled: &Compiled, id: Option<UnitId>, out: &mut String) {
        let _ = writeln!(out, "\nlinks:");
        if compiled.exits.is_empty() {
            let _ = writeln!(out, "  none");
        }
        let slots = id.and_then(|id| self.unit(id)).map(|u| &u.slots);
        // What runs may have been compiled when other blocks were known.
        let slots = slots.filter(|s| s.len() == compiled.exits.len());
        for (k, rip) in compiled.exits.iter().enumerate() {
            let to = slots.and_then(|s| s.get(k)).filter(|s| s.tag != 0);
            let state = match to.and_then(|s| self.unit(s.to)) {
                Some(u) => format!("linked, host code at {:#x}", u.code),
                None => "not linked".to_owned(),
            };
            let _ = writeln!(out, "  to {rip:#x}: {state}");
        }
    }
}

fn treatment(x: &Instruction, lowered: Option<bool>) -> &'static str {
    let stub = matches!(sensitive::class_of(x), Class::Privileged | Class::Critical);
    match (lowered, stub) {
        (Some(true), _) => "lowered",
        (Some(false), true) => "emulation stub",
        (Some(false), false) => "handler",
        (None, _) => "interpreted",
    }
}

fn class(x: &Instruction) -> &'static str {
    match sensitive::class_of(x) {
        Class::Innocuous => "innocuous",
        Class::ControlFlow => "control flow",
        Class::Privileged => "privileged",
        Class::Critical => "critical",
    }
}

/// One instruction: address, bytes, text, class, treatment; below it the reason, if it is sensitive.
fn line(x: &Instruction, bytes: &[u8], lowered: Option<bool>, refused: bool, out: &mut String) {
    let mut text = String::new();
    IntelFormatter::new().format(x, &mut text);
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if refused {
        let _ = writeln!(
            out,
            "  {:016x}  {:<24} raises its fault: handler",
            x.ip(),
            hex.join(" ")
        );
        return;
    }
    let _ = writeln!(
        out,
        "  {:016x}  {:<24} {text:<36} {}: {}",
        x.ip(),
        hex.join(" "),
        class(x),
        treatment(x, lowered)
    );
    if let Some(e) = sensitive::entry_of(x)
        && e.class != Class::ControlFlow
    {
        let _ = writeln!(out, "  {:16}  {:24}   {}", "", "", e.reason);
    }
}

fn guest(
    cpu: &Vcpu,
    cache: &Cache,
    region: &Region,
    compiled: Option<&Compiled>,
    out: &mut String,
) {
    for (k, node) in region.nodes.iter().enumerate() {
        let entry = if region.entries.contains(&k) {
            ", an entry"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "\nblock {k} at {:#x}{entry}{}:",
            node.rip,
            ending(node)
        );
        let block = cache.peek(node.off, region.key).map(|n| cache.get(n));
        let raw = block.map(|b| raw(cpu, b)).unwrap_or_default();
        for (x, i) in node.code.iter().zip(&node.insns) {
            let how = compiled.and_then(|c| {
                c.treatments
                    .iter()
                    .find(|t| (usize::from(t.node), t.idx) == (k, i.idx))
            });
            let from = usize::from(i.off);
            let bytes = raw.get(from..from + usize::from(i.len)).unwrap_or_default();
            let mut x = *x;
            x.set_ip(node.rip.wrapping_add(u64::from(i.off)));
            let refused = i.pfx & pfx::REFUSED != 0;
            line(&x, bytes, how.map(|t| t.lowered), refused, out);
        }
    }
}

fn ending(node: &Node) -> String {
    use crate::region::Edge;
    let to = |e: Edge| match e {
        Edge::Node(n) => format!("block {n}"),
        Edge::Exit(rip) => format!("{rip:#x}"),
    };
    match node.tail {
        Tail::Next(e) | Tail::Jump(e) | Tail::Barrier(e) => format!(", then {}", to(e)),
        Tail::Call(e) => format!(", calls {}", to(e)),
        Tail::Cond(a, b) => format!(", then {} or {}", to(a), to(b)),
        Tail::Repeat(next, _) => format!(", repeats, then {}", to(next)),
        Tail::Ret | Tail::Jumps | Tail::Calls if !node.targets.is_empty() => {
            let to: Vec<_> = node.targets.iter().map(|t| t.1.to_string()).collect();
            format!(", perhaps then block {}", to.join(", "))
        }
        Tail::Ret | Tail::Jumps | Tail::Calls | Tail::Far => String::new(),
    }
}

/// A block's bytes.
fn raw(cpu: &Vcpu, b: &Block) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(b.bytes)];
    let ram = &cpu.machine.ram;
    let here = ram.read_page(b.off, &mut bytes);
    if let Some(second) = b.second
        && here < bytes.len()
    {
        ram.read_page(second, &mut bytes[here..]);
    }
    bytes
}

/// A block that no unit can be made of.
fn untranslated(cpu: &Vcpu, b: &Block, out: &mut String) {
    let bytes = raw(cpu, b);
    for i in &b.insns {
        let from = usize::from(i.off);
        let bytes = &bytes[from..from + usize::from(i.len)];
        let ip = cpu.rip.wrapping_add(u64::from(i.off));
        let x = Decoder::with_ip(b.key.code_bits(), bytes, ip, DecoderOptions::NONE).decode();
        line(&x, bytes, None, i.pfx & pfx::REFUSED != 0, out);
    }
}

/// Host code, by iced where it can read it.
fn host(x: &Explained, at: u64, out: &mut String) {
    let _ = writeln!(out, "\nhost code ({} bytes):", x.compiled.code.len());
    if !cfg!(target_arch = "x86_64") {
        let _ = writeln!(out, "{}", x.assembly.trim_end());
        return;
    }
    let mut decoder = Decoder::with_ip(64, &x.compiled.code, at, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    while decoder.can_decode() {
        let insn = decoder.decode();
        text.clear();
        formatter.format(&insn, &mut text);
        let _ = writeln!(out, "  {:016x}  {text}", insn.ip());
    }
}
