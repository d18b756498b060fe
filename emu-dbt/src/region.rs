//! From profile to translation unit: which blocks are compiled as one.
//!
//! A region grows from a hot block over its direct successors, the hottest first, as long as they are hot enough and the budget
//! lasts. A call is followed into its callee; the callee's blocks then belong to that call (a *context*), so that its return is
//! known to go back there. A block may so appear several times, once for each context. Everything that is not followed
//! becomes an exit.
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
/// A successor is taken when it ran at least one time in this many that the root did.
const COLDEST: u32 = 16;

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
    /// A near return; where it goes if it returns to where its call came from: (RIP, block).
    Ret(Option<(u64, Edge)>),
    /// Indirect jump or call, near.
    Indirect,
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

/// A call that was followed: the return address and the context of the caller.
struct Context {
    back: u64,
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
            contexts: vec![Context {
                back: 0,
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

    /// The blocks that may follow a block within the region.
    pub fn successors(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        let pair = match self.nodes[n].tail {
            Tail::Next(e) | Tail::Jump(e) | Tail::Call(e) | Tail::Barrier(e) => [Some(e), None],
            Tail::Cond(a, b) | Tail::Repeat(a, b) => [Some(a), Some(b)],
            Tail::Ret(r) => [r.map(|(_, e)| e), None],
            Tail::Indirect | Tail::Far => [None, None],
        };
        pair.into_iter().flatten().filter_map(|e| match e {
            Edge::Node(n) => Some(n),
            Edge::Exit(_) => None,
        })
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

    /// The block at `rip`, as far as that is known without a walk.
    fn find(&self, rip: u64) -> Option<u32> {
        let off = self.cpu.known_fetch_offset(rip)?;
        self.cache.peek(off, self.region.key)
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
            check: None,
            context,
        });
        self.index.insert((rip, context), n);
        self.resolve(n);
        Some(n)
    }

    /// Fills in what a block's tail needs of its context, and asks for its successors.
    fn resolve(&mut self, n: usize) {
        let node = &self.region.nodes[n];
        let context = node.context;
        match node.tail {
            Tail::Next(e) | Tail::Jump(e) => self.want(e, context),
            Tail::Barrier(e) if passes(&node.code[node.code.len() - 1]) => self.want(e, context),
            Tail::Cond(a, b) | Tail::Repeat(a, b) => {
                self.want(a, context);
                self.want(b, context);
            }
            Tail::Call(Edge::Exit(callee)) => {
                let back = self.cut(node.rip.wrapping_add(u64::from(node.bytes)));
                let c = &self.contexts[context];
                let recursive = {
                    let mut at = context;
                    loop {
                        if self.contexts[at].callee == callee {
                            break true;
                        }
                        if at == 0 {
                            break false;
                        }
                        at = self.contexts[at].parent;
                    }
                };
                if self.options.inline_calls() && c.depth < MAX_DEPTH && !recursive {
                    let depth = c.depth + 1;
                    self.contexts.push(Context {
                        back,
                        callee,
                        parent: context,
                        depth,
                    });
                    self.want(Edge::Exit(callee), self.contexts.len() - 1);
                }
            }
            Tail::Ret(_) if context != 0 => {
                let c = &self.contexts[context];
                let (back, parent) = (c.back, c.parent);
                self.region.nodes[n].tail = Tail::Ret(Some((back, Edge::Exit(back))));
                self.want(Edge::Exit(back), parent);
            }
            _ => {}
        }
    }

    fn cut(&self, rip: u64) -> u64 {
        if self.region.key.contains(ModeKey::CODE64) {
            rip
        } else {
            rip & 0xffff_ffff
        }
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
        for n in 0..self.region.nodes.len() {
            let context = self.region.nodes[n].context;
            let parent = self.contexts[context].parent;
            let callee = match self.region.nodes[n].tail {
                Tail::Call(Edge::Exit(to)) => {
                    let node = &self.region.nodes[n];
                    let back = self.cut(node.rip.wrapping_add(u64::from(node.bytes)));
                    self.contexts.iter().position(|c| {
                        c.depth > 0 && c.parent == context && c.back == back && c.callee == to
                    })
                }
                _ => None,
            };
            let index = &self.index;
            let link = |e: Edge, context: usize| match e {
                Edge::Exit(rip) => index.get(&(rip, context)).map_or(e, |&to| Edge::Node(to)),
                e => e,
            };
            let t = &mut self.region.nodes[n].tail;
            *t = match *t {
                Tail::Next(e) => Tail::Next(link(e, context)),
                Tail::Jump(e) => Tail::Jump(link(e, context)),
                Tail::Barrier(e) => Tail::Barrier(link(e, context)),
                Tail::Cond(a, b) => Tail::Cond(link(a, context), link(b, context)),
                Tail::Repeat(a, b) => Tail::Repeat(link(a, context), link(b, context)),
                Tail::Call(e) => Tail::Call(callee.map_or(e, |c| link(e, c))),
                Tail::Ret(Some((back, e))) => match link(e, parent) {
                    Edge::Exit(_) => Tail::Ret(None),
                    e => Tail::Ret(Some((back, e))),
                },
                t => t,
            };
        }
    }
}

/// How a block of the cache ends, with every edge still an exit.
fn tail(b: &Block, rip: u64) -> Tail {
    let cut = |v: u64| {
        if b.key.contains(ModeKey::CODE64) {
            v
        } else {
            v & 0xffff_ffff
        }
    };
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
    if last.pfx & (pfx::REP | pfx::REPNE) != 0 && names_a_string(code.mnemonic()) {
        return Tail::Repeat(next, Edge::Exit(cut(rip.wrapping_add(u64::from(last.off)))));
    }
    match code.flow_control() {
        FlowControl::ConditionalBranch => Tail::Cond(target(last), next),
        FlowControl::UnconditionalBranch => Tail::Jump(target(last)),
        FlowControl::Call => Tail::Call(target(last)),
        FlowControl::Return => Tail::Ret(None),
        FlowControl::IndirectBranch | FlowControl::IndirectCall => Tail::Indirect,
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

/// Whether a mnemonic is a string instruction's (and perhaps another's too).
fn names_a_string(m: iced_x86::Mnemonic) -> bool {
    use iced_x86::Mnemonic::*;
    matches!(
        m,
        Movsb
            | Movsw
            | Movsd
            | Movsq
            | Stosb
            | Stosw
            | Stosd
            | Stosq
            | Lodsb
            | Lodsw
            | Lodsd
            | Lodsq
            | Scasb
            | Scasw
            | Scasd
            | Scasq
            | Cmpsb
            | Cmpsw
            | Cmpsd
            | Cmpsq
            | Insb
            | Insw
            | Insd
            | Outsb
            | Outsw
            | Outsd
    )
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
