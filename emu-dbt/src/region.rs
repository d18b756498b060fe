//! From profile to translation unit: which blocks are compiled as one.
//!
//! A region grows from a hot block over its direct successors, the hottest first, as long as they are hot enough and the budget
//! lasts. A call is followed into its callee; the callee's blocks then belong to that call (a *context*), so that its return is
//! known to go back there. A block may so appear several times, once for each context. Everything that is not followed
//! becomes an exit. Recursion leads back into the blocks that are there, and indirect branches to where the profile saw them go:
//! compiled code compares the target with each.
//!
//! Gathering reads the block cache and the TLB, and changes neither. The result is plain data that owns all it needs: it can be
//! compiled on another thread while the guest runs on.

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
/// Instructions in a loop at most that keeps its registers out of the vCPU.
const SMALL_LOOP: usize = 64;
/// Calls within calls at most.
const MAX_DEPTH: usize = 4;
/// Targets of an indirect jump that are compared with; of a return.
const MAX_JUMPS: usize = 16;
const MAX_RETURNS: usize = 4;
/// A successor is taken when it ran at least one time in this many that the root did.
const COLDEST: u32 = 16;

/// Instructions in a unit that is rather compiled again than left for.
const SMALL_UNIT: u32 = 24;
/// Units that a block is part of at most, but for one that begins with it.
const MAX_COPIES: u8 = 4;

/// Where control goes from a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// To a block of the region.
    Node(usize),
    /// Out of it, to this RIP.
    Exit(u64),
}

/// How a block ends.
#[derive(Clone, Copy, Debug)]
pub enum Tail {
    /// It just goes on (also behind a repeated string instruction that is finished).
    Next(Edge),
    /// A conditional branch: taken, not taken.
    Cond(Edge, Edge),
    Jump(Edge),
    /// A direct call.
    Call(Edge),
    /// A near return; [`Node::targets`] holds where calls of the region came from.
    Ret,
    /// Indirect jump, near; [`Node::targets`] holds where it has been seen to go.
    Jumps,
    /// The same of a call.
    Calls,
    /// A repeated string instruction: next, and the instruction itself again.
    Repeat(Edge, Edge),
    /// Anything else that leaves RIP in the vCPU, or may have changed mode or mapping.
    Far,
    /// Its handler runs; it goes on unless mode, mapping or an interrupt line have changed.
    Barrier(Edge),
}

/// One block in one context.
pub struct Node {
    pub rip: u64,
    pub off: u64,
    pub insns: Vec<Insn>,
    pub code: Vec<Instruction>,
    pub bytes: u16,
    pub tail: Tail,
    /// Blocks of the region that an indirect branch or a return at its end may lead to, by RIP.
    pub targets: Vec<(u64, usize)>,
    /// Where a check of the fuel comes before it: the instructions on the longest way to the next check.
    pub check: Option<u32>,
    context: usize,
}

/// Blocks to be compiled as one unit; the first is the root.
pub struct Region {
    pub key: ModeKey,
    pub nodes: Vec<Node>,
    pub pages: Vec<Page>,
    pub insns: u32,
}

/// A call that was followed. A recursive one belongs to the context of the call that it repeats.
struct Context {
    /// Where it was called from: return addresses and the callers' contexts.
    returns: Vec<(u64, usize)>,
    callee: u64,
    parent: usize,
    depth: usize,
}

impl Region {
    pub fn root(&self) -> &Node {
        &self.nodes[0]
    }

    /// The region around block `root`, which begins at the vCPU's RIP; `None`: there is nothing to translate here.
    pub fn gather(cpu: &Vcpu, cache: &Cache, root: u32, options: Options) -> Option<Self> {
        if !cpu.key.intersects(ModeKey::CODE64 | ModeKey::FLAT) || cpu.key.code_bits() == 16 {
            return None;
        }
        let mut g = Gather {
            cpu,
            cache,
            options,
            region: Region {
                key: cpu.key,
                nodes: Vec::new(),
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
            root_count: cache.executions(root).max(1),
        };
        g.add(cpu.rip, root, 0)?;
        if options.region() {
            g.grow();
        }
        g.connect();
        let mut region = g.region;
        region.place_checks();
        Some(region)
    }

    /// Puts fuel checks at the root and wherever a way could go on without end or too long.
    fn place_checks(&mut self) {
        let order = self.order();
        let mut rank = vec![usize::MAX; self.nodes.len()];
        for (k, &n) in order.iter().enumerate() {
            rank[n] = k;
        }
        let mut checked = vec![false; self.nodes.len()];
        checked[0] = true;
        for (k, &n) in order.iter().enumerate() {
            for s in self.successors(n) {
                if rank[s] <= k {
                    checked[s] = true;
                }
            }
        }
        // Longest way from each block to the next check, backwards along the order.
        let mut longest = vec![0u32; self.nodes.len()];
        for &n in order.iter().rev() {
            let after = |r: &Self, checked: &[bool], longest: &[u32]| {
                r.successors(n)
                    .filter(|&s| !checked[s])
                    .map(|s| longest[s])
                    .max()
                    .unwrap_or(0)
            };
            let own = self.nodes[n].insns.len() as u32;
            let mut way = own + after(self, &checked, &longest);
            if way > 256 {
                let next: Vec<usize> = self.successors(n).collect();
                for s in next {
                    checked[s] = true;
                }
                way = own;
            }
            longest[n] = way;
        }
        // A check that was added late may cut ways measured before: they only become shorter.
        for (n, node) in self.nodes.iter_mut().enumerate() {
            node.check = checked[n].then_some(longest[n]);
        }
    }

    /// Which blocks belong to a loop of at most [`SMALL_LOOP`] instructions.
    pub fn small_loops(&self) -> Vec<bool> {
        let order = self.order();
        let mut rank = vec![usize::MAX; self.nodes.len()];
        let mut before = vec![Vec::new(); self.nodes.len()];
        for (k, &n) in order.iter().enumerate() {
            rank[n] = k;
            for s in self.successors(n) {
                before[s].push(n);
            }
        }
        let mut inside = vec![false; self.nodes.len()];
        for &n in &order {
            for head in self.successors(n).filter(|&s| rank[s] <= rank[n]) {
                let mut body = vec![head];
                let mut todo = vec![n];
                let mut insns = self.nodes[head].insns.len();
                while let Some(m) = todo.pop() {
                    if body.contains(&m) {
                        continue;
                    }
                    body.push(m);
                    insns += self.nodes[m].insns.len();
                    if insns > SMALL_LOOP {
                        break;
                    }
                    todo.extend(&before[m]);
                }
                if insns <= SMALL_LOOP {
                    for m in body {
                        inside[m] = true;
                    }
                }
            }
        }
        inside
    }

    /// Blocks in reverse post-order from the root.
    pub fn order(&self) -> Vec<usize> {
        let mut seen = vec![false; self.nodes.len()];
        let mut post = Vec::with_capacity(self.nodes.len());
        let mut stack = vec![(0usize, self.successors(0).collect::<Vec<_>>())];
        seen[0] = true;
        while let Some((n, rest)) = stack.last_mut() {
            match rest.pop() {
                Some(s) if !seen[s] => {
                    seen[s] = true;
                    let next = self.successors(s).collect();
                    stack.push((s, next));
                }
                Some(_) => {}
                None => {
                    post.push(*n);
                    stack.pop();
                }
            }
        }
        post.reverse();
        post
    }

    /// How many edges lead to each block; one from outside leads to the root.
    pub fn ways_in(&self) -> Vec<u32> {
        let mut ways = vec![0; self.nodes.len()];
        ways[0] = 1;
        for n in self.order() {
            for s in self.successors(n) {
                ways[s] += 1;
            }
        }
        ways
    }

    /// The blocks that may follow a block within the region.
    pub fn successors(&self, n: usize) -> impl Iterator<Item = usize> {
        let pair = match self.nodes[n].tail {
            Tail::Next(e) | Tail::Jump(e) | Tail::Call(e) | Tail::Barrier(e) => [Some(e), None],
            Tail::Cond(a, b) | Tail::Repeat(a, b) => [Some(a), Some(b)],
            Tail::Ret | Tail::Jumps | Tail::Calls | Tail::Far => [None, None],
        };
        let direct = pair.into_iter().flatten().filter_map(|e| match e {
            Edge::Node(n) => Some(n),
            Edge::Exit(_) => None,
        });
        direct.chain(self.nodes[n].targets.iter().map(|&(_, n)| n))
    }
}

/// A successor that might be taken, the hottest first; (executions, order of discovery reversed, RIP, context).
type Wanted = (u32, std::cmp::Reverse<usize>, u64, usize);

struct Gather<'a> {
    cpu: &'a Vcpu,
    cache: &'a Cache,
    options: Options,
    region: Region,
    index: FxHashMap<(u64, usize), usize>,
    /// Where each block's call, indirect branch or return may lead: RIP and context.
    ways: Vec<Vec<(u64, usize)>>,
    contexts: Vec<Context>,
    wanted: BinaryHeap<Wanted>,
    root_count: u32,
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
        let p = &self.cache.get(n).profile;
        let elsewhere = p.unit.get() != 0 && p.unit_insns.get() > SMALL_UNIT;
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
        let n = self.region.nodes.len();
        self.region.insns += b.insns.len() as u32;
        self.region.nodes.push(Node {
            rip,
            off: b.off,
            insns: b.insns.to_vec(),
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
                return self.enter(callee, back, context).into_iter().collect();
            }
            Tail::Calls if self.options.guess() => {
                let targets = self.cache.targets(block);
                return targets
                    .iter()
                    .filter_map(|&t| self.enter(t, back, context))
                    .collect();
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
