//! Pages that a small loop keeps from one iteration to the next.
//!
//! An access of a loop mostly stays on its page. So the loop carries two words for it in registers: the page that its last probe
//! found, and the way from linear to host addresses there. An aligned access to that page needs one compare; any other
//! probes the TLB as always, and leaves its page behind. The words begin as a page that no access is on, and are that again
//! behind every handler: it might have changed a mapping. Between handlers nothing does.

use super::Translator;
use super::mem::{Access, Page, Sum};
use crate::region::Region;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};
use cranelift_frontend::Variable;
use emu_core::mem::tlb::EMPTY;

/// Accesses that a unit carries pages for: each takes two registers.
const MOST: usize = 3;
/// Instructions in a loop at most that carries pages.
const LONGEST: usize = 40;

/// What a loop carries for one access.
#[derive(Clone, Copy)]
pub struct LoopPage {
    node: usize,
    idx: usize,
    /// The page's first linear address; [`EMPTY`]: none, since no access is compared with so odd a number.
    page: Variable,
    addend: Variable,
    /// It has its access: another of the same instruction may need other rights.
    taken: bool,
}

/// The accesses that loops carry pages for: those of the smallest loops.
fn choose(region: &Region, loops: &[Option<usize>]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (n, node) in region.nodes.iter().enumerate() {
        let Some(size) = loops[n].filter(|&size| size <= LONGEST) else {
            continue;
        };
        let mut bases = Vec::new();
        for (k, (x, i)) in node.code.iter().zip(&node.insns).enumerate() {
            let base = (i.base, i.index, i.scale);
            // Another access through the same registers is likely on the same page: the block keeps that.
            if super::guest::accesses(x) && Translator::addressable(i) && !bases.contains(&base) {
                bases.push(base);
                found.push((size, n, k));
            }
        }
    }
    found.sort_unstable();
    found.truncate(MOST);
    found.into_iter().map(|(_, n, k)| (n, k)).collect()
}

impl Translator<'_, '_> {
    /// Makes the words, which belong to no page yet.
    pub fn begin_loop_pages(&mut self) {
        if !self.options.loop_pages() || !self.options.inline_tlb() {
            return;
        }
        for (node, idx) in choose(self.region, &self.loops) {
            let (page, addend) = (self.b.declare_var(I64), self.b.declare_var(I64));
            let zero = self.iconst(0);
            self.b.def_var(addend, zero);
            self.loop_pages.push(LoopPage {
                node,
                idx,
                page,
                addend,
                taken: false,
            });
        }
        self.forget_loop_pages();
    }

    /// Something may have changed a mapping.
    pub fn forget_loop_pages(&mut self) {
        if self.loop_pages.is_empty() {
            return;
        }
        let none = self.iconst(EMPTY);
        for k in 0..self.loop_pages.len() {
            self.b.def_var(self.loop_pages[k].page, none);
        }
    }

    /// What the loop carries for the current instruction's first access.
    pub fn take_page(&mut self, size: u32) -> Option<LoopPage> {
        let (node, idx) = (self.node, self.idx);
        let here = |p: &&mut LoopPage| (p.node, p.idx, p.taken) == (node, idx, false);
        let found = self.loop_pages.iter_mut().find(here);
        let page = found.filter(|_| size.is_power_of_two())?;
        page.taken = true;
        Some(*page)
    }

    /// Goes to `hit` with the host address if the access is on the page that the loop carries. What is emitted next is for
    /// any other page; it ends with [`carry_page`](Self::carry_page).
    pub fn compare_loop_page(&mut self, p: LoopPage, lin: Value, size: u32, hit: Block) {
        let other = self.b.create_block();
        self.b.set_cold_block(other);
        let (page, addend) = (self.b.use_var(p.page), self.b.use_var(p.addend));
        let aligned = self.b.ins().band_imm_s(lin, !0xfff | i64::from(size - 1));
        let same = self.b.ins().icmp(IntCC::Equal, aligned, page);
        let host = self.b.ins().iadd(lin, addend);
        let args = [BlockArg::Value(host)];
        self.b.ins().brif(same, hit, &args, other, &[]);
        self.at(other);
    }

    /// The probe has found another page: the loop carries that from now on.
    pub fn carry_page(&mut self, p: LoopPage, lin: Value, found: Block, hit: Block) {
        self.at(found);
        let of = self.b.block_params(found).to_vec();
        let page = self.b.ins().band_imm_s(lin, !0xfff);
        self.b.def_var(p.page, page);
        self.b.def_var(p.addend, of[2]);
        self.b.ins().jump(hit, &[BlockArg::Value(of[0])]);
    }

    /// The page as the block's later accesses compare with it.
    pub fn page_of_loop(&mut self, p: LoopPage, at: Sum, access: Access) -> Page {
        let (page, addend) = (self.b.use_var(p.page), self.b.use_var(p.addend));
        let tag = self.b.ins().iadd_imm_s(page, 0xfff);
        Page::new(at, access, tag, addend)
    }
}
