//! From profile to region: which blocks are compiled together.
//!
//! A region grows from a hot block over its direct successors, the hottest first, as long as they are hot enough and the budget
//! lasts: over loops, both sides of branches, callees, and what calls return to. Recursion leads back into the blocks that are
//! there, and indirect branches to where the profile saw them go: compiled code compares the target with each.
//!
//! Gathering reads the block cache and the TLB, and changes neither.

use super::{Edge, Node, Region, Tail};
use crate::options::Options;
use crate::unit::Page;
use emu_core::cpu::mode::ModeKey;
use emu_core::decode::block::{self, Block};
use emu_core::decode::cache::Cache;
use emu_core::decode::insn::{Insn, pfx};
use emu_core::decode::table::Ends;
use emu_core::vcpu::Vcpu;
use iced_x86::{Decoder, FlowControl, Instruction};
use rustc_hash::FxHashMap;
use std::collections::BinaryHeap;

/// Blocks in a region at most.
const MAX_NODES: usize = 96;
/// Calls within calls at most.
const MAX_DEPTH: usize = 4;
/// Targets of an indirect jump that are compared with; of a return.
const MAX_JUMPS: usize = 16;
const MAX_RETURNS: usize = 4;
/// A successor is taken when it ran at least one time in this many that the root did.
const COLDEST: u32 = 16;

/// Instructions in a unit that is rather compiled again than left for.
const SMALL_UNIT: u16 = 24;
/// Places beside the root where a unit can be entered.
const MAX_ENTRIES: usize = 12;
/// Units that a block is part of at most, but for one that begins with it.
const MAX_COPIES: u8 = 4;

/// A call that was followed. A recursive one belongs to the context of the call that it repeats.
struct Context {
    /// Where it was called from: return addresses and the callers' contexts.
    returns: Vec<(u64, usize)>,
    callee: u64,
    parent: usize,
    depth: usize,
}

impl Region {
    /// The region around block `root`, which begins at the vCPU's RIP, without the pages at the RAM offsets `apart`; `None`: there
    /// is nothing to translate here.
    pub fn gather(
        cpu: &Vcpu,
        cache: &Cache,
        root: u32,
        options: Options,
        apart: &[u64],
    ) -> Option<Self> {
        if !cpu.key.intersects(ModeKey::CODE64 | ModeKey::FLAT) || cpu.key.code_bits() == 16 {
            return None;
        }
        let mut g = Gather {
            cpu,
            cache,
            options,
            apart,
            region: Region {
                key: cpu.key,
                nodes: Vec::new(),
                entries: Vec::new(),
                pages: Vec::new(),
                insns: 0,
            },
            index: FxHashMap::default(),
            ways: Vec::new(),
            contexts: vec![Context {
                returns: Vec::new(),
                callee: cpu.rip,
                parent: 0,
                depth: 0,
            }],
            wanted: BinaryHeap::new(),
            sites: Vec::new(),
            root_count: cache.executions(root).max(1),
            unit: cache.get(root).profile.unit.get(),
        };
        g.add(cpu.rip, root, 0)?;
        if options.region() {
            g.grow();
        }
        g.connect();
        g.place_entries();
        let mut region = g.region;
        region.place_checks();
        Some(region)
    }
}

/// A successor that might be taken, the hottest first; (executions, order of discovery reversed, RIP, context).
type Wanted = (u32, std::cmp::Reverse<usize>, u64, usize);

struct Gather<'a> {
    cpu: &'a Vcpu,
    cache: &'a Cache,
    options: Options,
    apart: &'a [u64],
    region: Region,
    index: FxHashMap<(u64, usize), usize>,
    /// Where each block's call, indirect branch or return may lead: RIP and context.
    ways: Vec<Vec<(u64, usize)>>,
    contexts: Vec<Context>,
    wanted: BinaryHeap<Wanted>,
    /// Where the calls of code that was not inlined return to.
    sites: Vec<u64>,
    root_count: u32,
    /// The unit that begins at the root already, when it is only to be shown.
    unit: u32,
}

impl Gather<'_> {
    fn grow(&mut self) {
        while let Some((_, _, rip, context)) = self.wanted.pop() {
            if self.region.nodes.len() >= MAX_NODES
                || self.region.insns >= self.options.region_insns
            {
                break;
            }
            if self.index.contains_key(&(rip, context)) {
                continue;
            }
            if let Some(n) = self.find(rip) {
                self.add(rip, n, context);
            }
        }
    }

    /// The block at `rip`, as far as that is known without a walk; not one that keeps changing, nor one that has been compiled
    /// often enough.
    fn find(&self, rip: u64) -> Option<u32> {
        let off = self.cpu.known_fetch_offset(rip)?;
        let n = self.cache.peek(off, self.region.key)?;
        let b = self.cache.get(n);
        if !self.apart.is_empty() && pages_of(b).any(|p| self.apart.contains(&p)) {
            return None;
        }
        let p = &b.profile;
        let own = self.unit != 0 && p.unit.get() == self.unit;
        let elsewhere = p.unit.get() != 0 && !own && p.unit_insns.get() > SMALL_UNIT;
        if self.options.share() && (elsewhere || p.copies.get() >= MAX_COPIES) {
            return None;
        }
        let settled = p.deaths.get() == 0 || p.executions() >= p.worth(self.options.threshold);
        settled.then_some(n)
    }

    /// The page at `rip` becomes one of the region's; false: RAM answers elsewhere for it already, or it is unknown.
    fn note_page(&mut self, rip: u64, off: u64) -> bool {
        let root = self.region.nodes.first().map_or(rip, |n| n.rip);
        let delta = (rip & !0xfff).wrapping_sub(root & !0xfff) as i64;
        if delta.unsigned_abs() > 1 << 30 {
            return false;
        }
        let page = Page {
            delta,
            off: off & !0xfff,
        };
        match self.region.pages.iter().find(|p| p.delta == delta) {
            Some(p) => *p == page,
            None => {
                self.region.pages.push(page);
                true
            }
        }
    }

    fn add(&mut self, rip: u64, block: u32, context: usize) -> Option<usize> {
        let b = self.cache.get(block);
        if b.insns.is_empty() || !self.note_page(rip, b.off) {
            return None;
        }
        if let Some(second) = b.second
            && !self.note_page((rip & !0xfff).wrapping_add(0x1000), second)
        {
            return None;
        }
        let code = decode(self.cpu, b, rip)?;
        let mut insns = b.insns.to_vec();
        if b.is_hooked() {
            // The unit asks a debugger's hook by itself.
            insns[0] = self.cpu.hooks.as_ref()?.original(b)?;
        }
        let n = self.region.nodes.len();
        self.region.insns += b.insns.len() as u32;
        self.region.nodes.push(Node {
            rip,
            off: b.off,
            insns,
            code,
            bytes: b.bytes,
            tail: tail(b, rip),
            targets: Vec::new(),
            check: None,
            context,
        });
        self.index.insert((rip, context), n);
        let ways = self.resolve(n, block);
        self.ways.push(ways);
        Some(n)
    }

    /// Asks for a block's successors; the ways that its tail alone does not tell.
    fn resolve(&mut self, n: usize, block: u32) -> Vec<(u64, usize)> {
        let node = &self.region.nodes[n];
        let context = node.context;
        let back = self
            .region
            .key
            .cut(node.rip.wrapping_add(u64::from(node.bytes)));
        match node.tail {
            Tail::Next(e) | Tail::Jump(e) => self.want(e, context),
            Tail::Barrier(e) if passes(&node.code[node.code.len() - 1]) => self.want(e, context),
            Tail::Cond(a, b) | Tail::Repeat(a, b) => {
                self.want(a, context);
                self.want(b, context);
            }
            Tail::Call(Edge::Exit(callee)) => {
                self.comes_back(back, context);
                return self.enter(callee, back, context).into_iter().collect();
            }
            Tail::Calls => {
                self.comes_back(back, context);
                if self.options.guess() {
                    let targets = self.cache.targets(block);
                    return targets
                        .iter()
                        .filter_map(|&t| self.enter(t, back, context))
                        .collect();
                }
            }
            Tail::Jumps if self.options.guess() => return self.seen(block, MAX_JUMPS, context),
            Tail::Ret if context != 0 => {
                for (back, to) in self.contexts[context].returns.clone() {
                    self.want(Edge::Exit(back), to);
                }
            }
            // Who called is not known, but who did so before is.
            Tail::Ret if self.options.guess() => return self.seen(block, MAX_RETURNS, 0),
            _ => {}
        }
        Vec::new()
    }

    /// What a call returns to can be gone on with here, whoever returns.
    fn comes_back(&mut self, back: u64, context: usize) {
        if context == 0 && self.options.entries() {
            self.sites.push(back);
            self.want(Edge::Exit(back), 0);
        }
    }

    /// Chooses where the region can be entered.
    fn place_entries(&mut self) {
        if !self.options.entries() {
            return;
        }
        let sites = self.sites.iter();
        let mut entries: Vec<usize> = sites
            .filter_map(|&s| self.index.get(&(s, 0)))
            .copied()
            .collect();
        let heads = self.region.loop_heads().into_iter();
        entries.extend(heads.filter(|&n| self.region.nodes[n].context == 0));
        entries.retain(|&n| n != 0);
        entries.sort_unstable();
        entries.dedup();
        // The first that were found are the hottest.
        entries.truncate(MAX_ENTRIES);
        self.region.entries = entries;
    }

    /// The first so many targets of an indirect branch.
    fn seen(&mut self, block: u32, most: usize, context: usize) -> Vec<(u64, usize)> {
        let targets = self.cache.targets(block);
        let ways: Vec<_> = targets.iter().take(most).map(|&t| (t, context)).collect();
        for &(rip, _) in &ways {
            self.want(Edge::Exit(rip), context);
        }
        ways
    }

    /// Follows a call from `context` to `callee`, which returns to `back`.
    fn enter(&mut self, callee: u64, back: u64, context: usize) -> Option<(u64, usize)> {
        if !self.options.inline_calls() {
            return None;
        }
        let mut at = context;
        while self.contexts[at].callee != callee && at != 0 {
            at = self.contexts[at].parent;
        }
        if self.contexts[at].callee == callee {
            if !self.options.guess() {
                return None;
            }
            // Recursion: the callee is here already, and its returns may come back to this place.
            let returns = &mut self.contexts[at].returns;
            if returns.len() >= MAX_RETURNS {
                return None;
            }
            returns.push((back, context));
            self.want(Edge::Exit(back), context);
            return Some((callee, at));
        }
        let depth = self.contexts[context].depth + 1;
        if depth > MAX_DEPTH || self.find(callee).is_none() {
            return None;
        }
        self.contexts.push(Context {
            returns: vec![(back, context)],
            callee,
            parent: context,
            depth,
        });
        let own = self.contexts.len() - 1;
        self.want(Edge::Exit(callee), own);
        Some((callee, own))
    }

    fn want(&mut self, edge: Edge, context: usize) {
        let Edge::Exit(rip) = edge else { return };
        let Some(b) = self.find(rip) else { return };
        let count = self.cache.executions(b);
        if count >= self.root_count / COLDEST {
            let order = std::cmp::Reverse(self.index.len() * 2 + self.wanted.len());
            self.wanted.push((count, order, rip, context));
        }
    }

    /// Turns exits to blocks that were taken into edges.
    fn connect(&mut self) {
        let index = &self.index;
        for (node, ways) in self.region.nodes.iter_mut().zip(&self.ways) {
            let context = node.context;
            let link = |e: Edge, context: usize| match e {
                Edge::Exit(rip) => index.get(&(rip, context)).map_or(e, |&to| Edge::Node(to)),
                e => e,
            };
            let t = &mut node.tail;
            *t = match *t {
                Tail::Next(e) => Tail::Next(link(e, context)),
                Tail::Jump(e) => Tail::Jump(link(e, context)),
                Tail::Barrier(e) => Tail::Barrier(link(e, context)),
                Tail::Cond(a, b) => Tail::Cond(link(a, context), link(b, context)),
                Tail::Repeat(a, b) => Tail::Repeat(link(a, context), link(b, context)),
                Tail::Call(e) => Tail::Call(ways.first().map_or(e, |&(_, c)| link(e, c))),
                t => t,
            };
            let returns: &[_] = match *t {
                Tail::Ret => &self.contexts[context].returns,
                _ => &[],
            };
            let ways: &[_] = if matches!(t, Tail::Call(_)) {
                &[]
            } else {
                ways
            };
            for &(rip, c) in returns.iter().chain(ways) {
                if node.targets.iter().all(|t| t.0 != rip)
                    && let Some(&to) = index.get(&(rip, c))
                {
                    node.targets.push((rip, to));
                }
            }
        }
    }
}

/// RAM offsets of the pages that a block is on.
fn pages_of(b: &Block) -> impl Iterator<Item = u64> {
    std::iter::once(b.off & !0xfff).chain(b.second)
}

/// How a block of the cache ends, with every edge still an exit.
fn tail(b: &Block, rip: u64) -> Tail {
    let cut = |v: u64| b.key.cut(v);
    let next = Edge::Exit(cut(rip.wrapping_add(u64::from(b.bytes))));
    let last = &b.insns[b.insns.len() - 1];
    let target = |i: &Insn| Edge::Exit(cut(rip.wrapping_add(i.imm)));
    match b.ends {
        Ends::No => return Tail::Next(next),
        Ends::Far => return Tail::Far,
        Ends::Barrier => return Tail::Barrier(next),
        Ends::Branch if last.pfx & pfx::REFUSED != 0 => return Tail::Far,
        Ends::Branch => {}
    }
    let Ok(code) = iced_x86::Code::try_from(usize::from(last.code)) else {
        return Tail::Far;
    };
    if last.pfx & (pfx::REP | pfx::REPNE) != 0 && code.is_string_instruction() {
        return Tail::Repeat(next, Edge::Exit(cut(rip.wrapping_add(u64::from(last.off)))));
    }
    match code.flow_control() {
        FlowControl::ConditionalBranch => Tail::Cond(target(last), next),
        FlowControl::UnconditionalBranch => Tail::Jump(target(last)),
        FlowControl::Call => Tail::Call(target(last)),
        FlowControl::Return => Tail::Ret,
        FlowControl::IndirectBranch => Tail::Jumps,
        FlowControl::IndirectCall => Tail::Calls,
        _ => Tail::Far,
    }
}

/// Whether an instruction that might change mode or mapping mostly does not, so that what follows it belongs to its region.
fn passes(x: &Instruction) -> bool {
    use iced_x86::Mnemonic::*;
    matches!(
        x.mnemonic(),
        Cli | Popf | Popfd | Popfq | Swapgs | Rdmsr | Wrmsr | Stac | Clac | In | Out
    ) || x.op0_register().is_segment_register()
}

/// The block's instructions in iced's form, from the bytes that it was built from.
fn decode(cpu: &Vcpu, b: &Block, rip: u64) -> Option<Vec<Instruction>> {
    let mut bytes = [0u8; 4096];
    let ram = &cpu.machine.ram;
    let want = usize::from(b.bytes);
    let here = ram.read_page(b.off, &mut bytes[..want]);
    if here < want {
        ram.read_page(b.second?, &mut bytes[here..want]);
    }
    let mut decoder = Decoder::with_ip(b.key.code_bits(), &bytes[..want], rip, block::OPTIONS);
    let mut out = Vec::with_capacity(b.insns.len());
    for i in &b.insns {
        let at = usize::from(i.off);
        if i.pfx & pfx::REFUSED != 0 {
            out.push(Instruction::default());
            continue;
        }
        decoder.set_position(at).ok()?;
        decoder.set_ip(rip.wrapping_add(at as u64));
        let mut x = decoder.decode();
        block::mend(&mut x, &bytes[at..want]);
        if x.len() != usize::from(i.len) || x.code() as u16 != i.code {
            return None;
        }
        out.push(x);
    }
    Some(out)
}
