//! A region: the blocks that are compiled as one unit, and how control goes between them.
//!
//! A call is followed into its callee; the callee's blocks then belong to that call (a *context*), so that its return is
//! known to go back there. A block may so appear several times, once for each context. Everything that is not followed
//! becomes an exit. The unit begins at the root, but can be entered at some other blocks too.
//!
//! A region is plain data that owns all it needs: it can be compiled on another thread while the guest runs on.

mod gather;

use crate::unit::Page;
use emu_core::cpu::mode::ModeKey;
use emu_core::decode::insn::Insn;
use iced_x86::Instruction;

/// Instructions in a loop at most that keeps its registers out of the vCPU.
const SMALL_LOOP: usize = 64;

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
    /// Blocks beside the root where it can be entered.
    pub entries: Vec<usize>,
    pub pages: Vec<Page>,
    pub insns: u32,
}

impl Region {
    pub fn root(&self) -> &Node {
        &self.nodes[0]
    }

    /// Puts fuel checks at the root and wherever a way could go on without end or too long.
    pub(super) fn place_checks(&mut self) {
        let order = self.order();
        let mut rank = vec![usize::MAX; self.nodes.len()];
        for (k, &n) in order.iter().enumerate() {
            rank[n] = k;
        }
        let mut checked = vec![false; self.nodes.len()];
        checked[0] = true;
        for &e in &self.entries {
            checked[e] = true;
        }
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

    /// Blocks to which a way leads back.
    pub fn loop_heads(&self) -> Vec<usize> {
        let order = self.order();
        let mut rank = vec![usize::MAX; self.nodes.len()];
        for (k, &n) in order.iter().enumerate() {
            rank[n] = k;
        }
        let mut heads = Vec::new();
        for (k, &n) in order.iter().enumerate() {
            heads.extend(self.successors(n).filter(|&s| rank[s] <= k));
        }
        heads
    }

    /// Which blocks belong to a loop of at most [`SMALL_LOOP`] instructions, and how many the smallest has.
    pub fn small_loops(&self) -> Vec<Option<usize>> {
        let order = self.order();
        let mut rank = vec![usize::MAX; self.nodes.len()];
        let mut before = vec![Vec::new(); self.nodes.len()];
        for (k, &n) in order.iter().enumerate() {
            rank[n] = k;
            for s in self.successors(n) {
                before[s].push(n);
            }
        }
        let mut inside: Vec<Option<usize>> = vec![None; self.nodes.len()];
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
                        inside[m] = Some(inside[m].map_or(insns, |n| n.min(insns)));
                    }
                }
            }
        }
        inside
    }

    /// Blocks in reverse post-order, from the root and the other entries.
    pub fn order(&self) -> Vec<usize> {
        let mut seen = vec![false; self.nodes.len()];
        let mut post = Vec::with_capacity(self.nodes.len());
        // The root's walk is the last, so that it comes first.
        for &from in self.entries.iter().rev().chain(&[0]) {
            if std::mem::replace(&mut seen[from], true) {
                continue;
            }
            let mut stack = vec![(from, self.successors(from).collect::<Vec<_>>())];
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
        }
        post.reverse();
        post
    }

    /// How many edges lead to each block; one from outside leads to the root and to each other entry.
    pub fn ways_in(&self) -> Vec<u32> {
        let mut ways = vec![0; self.nodes.len()];
        ways[0] = 1;
        for &e in &self.entries {
            ways[e] += 1;
        }
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
