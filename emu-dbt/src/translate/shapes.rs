//! In which form each block of a region finds the arithmetic flags.
//!
//! If every way in brings the operands of one kind of instruction, a block takes them as they are. Where ways differ, it
//! depends on what becomes of the flags: a pair of words is made of them where an instruction will read them; they go to the
//! vCPU as operands where only a fault or a way out may show them; and nothing is done where they are overwritten first.
//!
//! All this is found before anything is translated, from what the instructions are. Where a translation finds that flags
//! which nothing was to see are needed after all, it is made again without that case ([`shapes`]'s `all_seen`).

use super::{Translator, table};
use crate::options::Options;
use crate::region::{Edge, Node, Region, Tail};
use emu_core::decode::insn::{Insn, pfx};
use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};

/// [`Flags`](super::flags::Flags) without the values: how a block finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Mem,
    /// Nowhere: they are overwritten before anything can see them.
    Unseen,
    Pair,
    Sub(u32),
    Add(u32),
    Logic(u32),
    Inc(u32),
    Dec(u32),
    Wide(u32),
    Shift(Shifted, u32),
}

/// The shifts by a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shifted {
    Left,
    Right,
    Signed,
}

/// What a block does to the flags.
#[derive(Clone, Copy)]
enum Effect {
    Keep,
    Leave(Shape),
}

/// What may become of flags.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Overwritten,
    Shown,
    Read,
}

/// The six arithmetic flags in iced-x86's bits.
pub const ARITH: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// The shape that an instruction leaves when it is lowered.
fn effect(x: &Instruction, i: &Insn, options: Options) -> Effect {
    if i.pfx & pfx::REFUSED != 0 || x.rflags_modified() & ARITH == 0 {
        return Effect::Keep;
    }
    if !options.lower() || !options.flag_elim() || i.pfx & pfx::AS_OLDER != 0 {
        return Effect::Leave(Shape::Pair);
    }
    Effect::Leave(table::shape(x, i).unwrap_or(Shape::Pair))
}

/// What the lowering of an instruction does with the flags before it, if anything.
fn fate_before(x: &Instruction) -> Fate {
    use Mnemonic::*;
    let modified = x.rflags_modified() & ARITH;
    let by_cl = x.op_count() > 1 && x.op_register(x.op_count() - 1) == Register::CL;
    if x.rflags_read() & ARITH != 0 {
        return Fate::Read;
    }
    if modified == 0 || modified == ARITH && !by_cl {
        return Fate::Overwritten;
    }
    // It leaves some as they are, but most look at them only where they are asked for themselves.
    match x.mnemonic() {
        Shl | Shr | Sar | Shld | Shrd | Rol | Ror | Imul | Mul | Bt | Bts | Btr | Btc | Bsf
        | Bsr | Tzcnt | Lzcnt | Clc | Stc => Fate::Shown,
        _ => Fate::Read,
    }
}

/// Whether nothing of an instruction but its result can be seen: it is lowered, and cannot fault.
fn quiet(x: &Instruction, i: &Insn, options: Options) -> bool {
    use Mnemonic::*;
    let plain = matches!(
        x.mnemonic(),
        Mov | Movzx
            | Movsx
            | Movsxd
            | Lea
            | Nop
            | Endbr32
            | Endbr64
            | Cdqe
            | Cwde
            | Cdq
            | Cqo
            | Bswap
            | Add
            | Sub
            | And
            | Or
            | Xor
            | Cmp
            | Test
            | Inc
            | Dec
            | Neg
            | Not
            | Shl
            | Shr
            | Sar
            | Jmp
    ) || x.is_jcc_short_or_near();
    let seen = |n| {
        matches!(
            x.op_kind(n),
            OpKind::Memory | OpKind::FarBranch16 | OpKind::FarBranch32
        ) && x.mnemonic() != Lea
            || x.op_kind(n) == OpKind::Register && !x.op_register(n).is_gpr()
    };
    plain
        && options.lower()
        && i.pfx & (pfx::REFUSED | pfx::AS_OLDER | pfx::HOOKED) == 0
        && (x.mnemonic() != Lea || Translator::addressable(i))
        && !(0..x.op_count()).any(seen)
}

/// What becomes of the flags that each block finds.
fn fates(region: &Region, order: &[usize], options: Options) -> Vec<Fate> {
    let mut passed = vec![false; region.nodes.len()];
    let mut fate = vec![Fate::Overwritten; region.nodes.len()];
    for (n, node) in region.nodes.iter().enumerate() {
        (fate[n], passed[n]) = own_fate(region, node, options);
    }
    loop {
        let mut changed = false;
        for &n in order.iter().rev().filter(|&&n| passed[n]) {
            for s in region.successors(n) {
                changed |= fate[s] > fate[n];
                fate[n] = fate[n].max(fate[s]);
            }
        }
        if !changed {
            return fate;
        }
    }
}

/// What a block itself does to the flags that it finds, and whether it passes them on.
fn own_fate(region: &Region, node: &Node, options: Options) -> (Fate, bool) {
    let mut fate = Fate::Overwritten;
    for (x, i) in node.code.iter().zip(&node.insns) {
        match fate_before(x) {
            Fate::Read => return (Fate::Read, false),
            Fate::Shown => fate = Fate::Shown,
            Fate::Overwritten => {}
        }
        if !quiet(x, i, options) {
            fate = Fate::Shown;
        }
        if let Effect::Leave(_) = effect(x, i, options) {
            return (fate, false);
        }
    }
    let edges = match node.tail {
        Tail::Next(e) | Tail::Jump(e) => [Some(e), None],
        Tail::Cond(a, b) => [Some(a), Some(b)],
        _ => return (Fate::Shown, true),
    };
    // On the way to a check of the fuel they may be shown, whatever comes then.
    let shown = |e: &Edge| match *e {
        Edge::Exit(_) => true,
        Edge::Node(n) => region.nodes[n].check.is_some(),
    };
    if edges.iter().flatten().any(shown) {
        fate = Fate::Shown;
    }
    (fate, true)
}

/// How each block of the region finds the flags.
pub fn shapes(region: &Region, options: Options, all_seen: bool) -> Vec<Shape> {
    let effects: Vec<Effect> = region
        .nodes
        .iter()
        .map(|n| {
            n.code.iter().zip(&n.insns).fold(Effect::Keep, |e, (x, i)| {
                match effect(x, i, options) {
                    Effect::Keep => e,
                    leave => leave,
                }
            })
        })
        .collect();
    let order = region.order();
    let fates = fates(region, &order, options);
    let mixed = |n: usize| match fates[n] {
        Fate::Read => Shape::Pair,
        Fate::Overwritten if !all_seen => Shape::Unseen,
        _ => Shape::Mem,
    };
    let mut at: Vec<Option<Shape>> = vec![None; region.nodes.len()];
    at[0] = Some(Shape::Mem);
    for &e in &region.entries {
        at[e] = Some(Shape::Mem);
    }
    loop {
        let mut changed = false;
        for &n in &order {
            let out = match effects[n] {
                Effect::Keep => at[n],
                Effect::Leave(s) => Some(s),
            };
            let Some(out) = out else { continue };
            for s in region.successors(n) {
                let new = match at[s] {
                    None => out,
                    Some(old) if old == out => old,
                    Some(_) => mixed(s),
                };
                changed |= at[s] != Some(new);
                at[s] = Some(new);
            }
        }
        if !changed {
            break;
        }
    }
    // A pair is to be made first; for nobody, where nobody sees it.
    let unseen = |n: usize| fates[n] == Fate::Overwritten && !all_seen;
    at.into_iter()
        .enumerate()
        .map(|(n, s)| match s.unwrap_or(Shape::Pair) {
            Shape::Pair if unseen(n) => Shape::Unseen,
            s => s,
        })
        .collect()
}
