//! Guest memory: addresses, the inline TLB probe, and its slow path.
//!
//! The probe is that of emu-core's `mem::tlb`: one compare finds the page, the permission, an access over the page's end and
//! the pages that need care. The slow path writes the changed registers back first, so that a fault finds them exact.

use super::Translator;
use super::guest::int;
use super::loop_pages::LoopPage;
use crate::runtime;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Type, Value};
use emu_core::decode::insn::{Insn, akind};
use emu_core::layout;
use emu_core::mem::tlb::ENTRIES;
use emu_core::vcpu::reg;
use iced_x86::Instruction;

/// A page that a probe has found: the tag it had to have (0: it was not found), and the way from linear to host addresses.
#[derive(Clone, Copy)]
pub struct Page {
    root: Value,
    off: i64,
    write: bool,
    tag: Value,
    addend: Value,
}

impl Page {
    /// Of an access at `at`.
    pub fn new(at: Sum, access: Access, tag: Value, addend: Value) -> Self {
        Self {
            root: at.root,
            off: at.off,
            write: access == Access::Write,
            tag,
            addend,
        }
    }
}

/// A value as another one and a constant: really so, or but for a cut to 32 bits in between.
#[derive(Clone, Copy)]
pub struct Sum {
    root: Value,
    off: i64,
    exact: bool,
}

/// What keeps the page that an access is on.
#[derive(Clone, Copy)]
enum Kept {
    Nothing,
    /// The block, for later accesses.
    InBlock,
    /// The loop, for later iterations.
    InLoop(LoopPage),
}

impl Kept {
    fn in_block(self) -> bool {
        matches!(self, Self::InBlock)
    }
}

/// What an access will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

impl Translator<'_, '_> {
    /// Whether the memory operand's address can be formed here.
    pub fn addressable(i: &Insn) -> bool {
        matches!(i.akind, akind::A64 | akind::FLAT32 | akind::A32IN64)
            || i.akind == akind::SEG32 && i.seg > 3
    }

    /// Base + index * scale + displacement, uncut.
    fn sum(&mut self, i: &Insn, more: Option<Value>) -> Value {
        let zero = reg::ZERO as u8;
        let mut v = more;
        if i.base == reg::BLOCK as u8 {
            let node = &self.region.nodes[self.node];
            let target = node.rip.wrapping_add(i.disp as u64);
            let delta = target.wrapping_sub(self.region.nodes[0].rip);
            let v = self.add_constant(self.base, delta as i64);
            return match more {
                Some(more) => self.b.ins().iadd(v, more),
                None => v,
            };
        }
        if i.base != zero {
            let base = self.get64(i.base);
            v = Some(match v {
                Some(v) => self.b.ins().iadd(v, base),
                None => base,
            });
        }
        if i.index != zero {
            let x = self.get64(i.index);
            let x = match i.scale {
                0 => x,
                s => self.b.ins().ishl_imm_u(x, i64::from(s)),
            };
            v = Some(match v {
                Some(v) => self.b.ins().iadd(v, x),
                None => x,
            });
        }
        match v {
            Some(v) if i.disp != 0 => self.add_constant(v, i.disp),
            Some(v) => v,
            None => self.iconst(i.disp as u64),
        }
    }

    /// The effective address, cut to the address size.
    pub fn offset(&mut self, i: &Insn) -> Value {
        let v = self.sum(i, None);
        match i.akind {
            akind::A64 => v,
            akind::SEG16 => self.b.ins().band_imm_u(v, 0xffff),
            _ => self.cut32(v),
        }
    }

    pub fn cut32(&mut self, v: Value) -> Value {
        let n = self.b.ins().ireduce(I32, v);
        let n = self.b.ins().uextend(I64, n);
        let at = self.root(v);
        self.affine.insert(n, Sum { exact: false, ..at });
        n
    }

    /// Adds a constant, counting from where the value itself was counted from.
    pub fn add_constant(&mut self, v: Value, c: i64) -> Value {
        let at = self.root(v);
        let off = at.off.wrapping_add(c);
        let r = match (at.exact, off) {
            (true, 0) => return at.root,
            (false, _) if c == 0 => return v,
            // One addition after another would not become one instruction.
            (true, _) => self.b.ins().iadd_imm_s(at.root, off),
            (false, _) => self.b.ins().iadd_imm_s(v, c),
        };
        self.affine.insert(r, Sum { off, ..at });
        r
    }

    fn root(&self, v: Value) -> Sum {
        // What a variable gives may be another name of the value.
        let v = self.b.func.dfg.resolve_aliases(v);
        let itself = Sum {
            root: v,
            off: 0,
            exact: true,
        };
        self.affine.get(&v).copied().unwrap_or(itself)
    }

    /// Whether a later instruction of the block reaches memory through the same register as the current one.
    fn base_comes_again(&self) -> bool {
        let node = &self.region.nodes[self.node];
        let bases = |k: usize| {
            let (x, i) = (&node.code[k], &node.insns[k]);
            let stack = x.stack_pointer_increment() != 0;
            let operand = (0..x.op_count()).any(|n| x.op_kind(n) == iced_x86::OpKind::Memory);
            let base = (operand && i.base != reg::ZERO as u8).then_some(i.base);
            (stack.then_some(reg::RSP as u8), base)
        };
        let (a, b) = bases(self.idx);
        (self.idx + 1..node.insns.len()).any(|k| {
            let (c, d) = bases(k);
            let meets = |r: Option<u8>| r.is_some() && (r == c || r == d);
            meets(a) || meets(b)
        })
    }

    /// A page probed before that this access is likely to be on, and whether it lies behind the address that was: then its
    /// last byte decides if it is on that page, before that its first byte does.
    fn likely_page(&self, lin: Value, size: u32, access: Access) -> Option<(Page, bool)> {
        let Sum { root, off, .. } = self.root(lin);
        let found = self.pages.iter().rev().copied().find(|p| {
            let apart = off >= p.off || off.wrapping_add(i64::from(size)) <= p.off;
            let allowed = p.write || access == Access::Read;
            p.root == root && allowed && apart && off.abs_diff(p.off) < 4096
        });
        found.map(|p| (p, off >= p.off))
    }

    /// Linear address of the memory operand; only for [`addressable`](Self::addressable) ones.
    pub fn lin(&mut self, i: &Insn) -> Value {
        self.lin_beside(i, None)
    }

    /// The same with something added to the effective address.
    pub fn lin_beside(&mut self, i: &Insn, more: Option<Value>) -> Value {
        let v = self.sum(i, more);
        match i.akind {
            akind::FLAT32 => self.cut32(v),
            akind::SEG32 => {
                let v = self.cut32(v);
                self.segment32(v, i)
            }
            k => {
                let v = if k == akind::A32IN64 {
                    self.cut32(v)
                } else {
                    v
                };
                if i.seg < 6 {
                    let base = self.load_own(I64, layout::SEG_BASE + 8 * usize::from(i.seg));
                    self.b.ins().iadd(v, base)
                } else {
                    v
                }
            }
        }
    }

    /// The probe: leaves the current block for `hit` with the host address, or for `miss`.
    fn probe(
        &mut self,
        lin: Value,
        size: u32,
        access: Access,
        hit: Block,
        miss: Block,
        keep: bool,
    ) {
        if !self.options.inline_tlb() {
            self.b.ins().jump(miss, &[]);
            return;
        }
        if let Some((p, behind)) = self.likely_page(lin, size, access) {
            let want = self.last_byte(lin, if behind { size } else { 1 });
            let ok = self.b.ins().icmp(IntCC::Equal, want, p.tag);
            let host = self.b.ins().iadd(lin, p.addend);
            self.b
                .ins()
                .brif(ok, hit, &[BlockArg::Value(host)], miss, &[]);
            return;
        }
        let live = self.load_own(I64, layout::TLB_LIVE);
        let s = self.b.ins().ushr_imm_u(lin, 12 - 5);
        let s = self.b.ins().band_imm_u(s, ((ENTRIES - 1) << 5) as i64);
        let entry = self.b.ins().iadd(live, s);
        let want = self.last_byte(lin, size);
        let at = match access {
            Access::Read => layout::ENTRY_READ,
            Access::Write => layout::ENTRY_WRITE,
        };
        let tag = self.b.ins().load(I64, self.own, entry, at as i32);
        let ok = self.b.ins().icmp(IntCC::Equal, want, tag);
        let addend = self
            .b
            .ins()
            .load(I64, self.own, entry, layout::ENTRY_ADDEND as i32);
        let host = self.b.ins().iadd(lin, addend);
        let args = [host, tag, addend].map(BlockArg::Value);
        let args = if keep { &args[..] } else { &args[..1] };
        self.b.ins().brif(ok, hit, args, miss, &[]);
    }

    /// What the tag of the page must be that holds the access's last byte.
    fn last_byte(&mut self, lin: Value, size: u32) -> Value {
        let last = if size > 1 {
            self.add_constant(lin, i64::from(size - 1))
        } else {
            lin
        };
        self.b.ins().bor_imm_u(last, 0xfff)
    }

    /// Whether the page of an access is to be remembered for later ones of the block.
    fn keeps(&self) -> bool {
        self.options.one_probe() && self.options.inline_tlb() && self.base_comes_again()
    }

    /// Remembers a page for later accesses of the block, if there are some.
    fn keep_page(&mut self, lin: Value, access: Access, of: Kept, page: [Value; 2]) {
        let at = self.root(lin);
        let page = match of {
            Kept::Nothing => return,
            Kept::InBlock => Page::new(at, access, page[0], page[1]),
            Kept::InLoop(p) if self.keeps() => self.page_of_loop(p, at, access),
            Kept::InLoop(_) => return,
        };
        self.pages.push(page);
    }

    /// What becomes of the page that an access is on.
    fn kept(&mut self, lin: Value, size: u32, access: Access) -> Kept {
        if self.likely_page(lin, size, access).is_some() {
            return Kept::Nothing;
        }
        match self.take_page(size) {
            Some(p) => Kept::InLoop(p),
            None if self.keeps() => Kept::InBlock,
            None => Kept::Nothing,
        }
    }

    /// The way to an access: leaves the current block for `hit` with the host address (and with a page that the block keeps), or
    /// for `miss`.
    fn find(&mut self, lin: Value, size: u32, access: Access, hit: Block, miss: Block, keep: Kept) {
        let Kept::InLoop(p) = keep else {
            return self.probe(lin, size, access, hit, miss, keep.in_block());
        };
        self.compare_loop_page(p, lin, size, hit);
        let found = self.b.create_block();
        self.b.set_cold_block(found);
        for _ in 0..3 {
            self.b.append_block_param(found, I64);
        }
        self.probe(lin, size, access, found, miss, true);
        self.carry_page(p, lin, found, hit);
    }

    /// The arguments for a block that takes a host address, and perhaps a page, from the slow path.
    fn unknown_page(&mut self, host: Value, keep: bool) -> Vec<BlockArg> {
        let mut args = vec![BlockArg::Value(host)];
        if keep {
            let zero = self.iconst(0);
            args.extend([BlockArg::Value(zero); 2]);
        }
        args
    }

    /// The slow path's beginning: state that a fault needs, then the helper. Its result.
    fn slow(&mut self, helper: usize, lin: Value, size: u32, stack: bool) -> Value {
        self.write_back();
        self.pass_flags();
        let info = self.info().size(size as u8).stack(stack);
        // The address is formed here once more where that is an addition: the fast path, which has it in other forms, is spared.
        let lin = self.add_constant(lin, 0);
        self.call_memory(helper, lin, info)
    }

    /// Calls a memory helper, which keeps all registers.
    fn call_memory(&mut self, helper: usize, lin: Value, info: runtime::Info) -> Value {
        let f = self.iconst(helper as u64);
        let clock = self.b.use_var(self.clock);
        let info = self.iconst(info.0);
        self.b
            .ins()
            .call_indirect(self.memory_helper, f, &[self.cpu, lin, clock, info]);
        self.load_scratch(crate::unit::scratch::RESULT)
    }

    /// Where the helper's result is zero, the unit is left: the instruction did not complete.
    fn check_helper(&mut self, result: Value, on: Block, args: &[BlockArg]) {
        self.b.ins().brif(result, on, args, self.stop, &[]);
    }

    fn resolve(
        &mut self,
        lin: Value,
        size: u32,
        stack: bool,
        access: Access,
        helper: usize,
    ) -> Value {
        self.before_access();
        let (hit, miss) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(miss);
        let kept = self.kept(lin, size, access);
        let keep = kept.in_block();
        for _ in 0..if keep { 3 } else { 1 } {
            self.b.append_block_param(hit, I64);
        }
        self.find(lin, size, access, hit, miss, kept);
        self.at(miss);
        let host = self.slow(helper, lin, size, stack);
        let args = self.unknown_page(host, keep);
        self.check_helper(host, hit, &args);
        self.at(hit);
        let of = self.b.block_params(hit).to_vec();
        let page = if keep { [of[1], of[2]] } else { [of[0]; 2] };
        self.keep_page(lin, access, kept, page);
        of[0]
    }

    /// Reads `ty` at a linear address.
    pub fn read(&mut self, lin: Value, ty: Type, stack: bool) -> Value {
        let helper = runtime::kept::read as *const () as usize;
        let host = self.resolve(lin, ty.bytes(), stack, Access::Read, helper);
        self.b.ins().load(ty, self.guest, host, 0)
    }

    /// The host address of `size` bytes to be read at once.
    pub fn read_host(&mut self, lin: Value, size: u32, stack: bool) -> Value {
        let helper = runtime::kept::read as *const () as usize;
        self.resolve(lin, size, stack, Access::Read, helper)
    }

    /// The host address of `size` bytes that will be changed in place.
    pub fn claim(&mut self, lin: Value, size: u32, stack: bool) -> Value {
        let helper = runtime::kept::claim as *const () as usize;
        self.resolve(lin, size, stack, Access::Write, helper)
    }

    /// Writes a value at a linear address.
    pub fn write(&mut self, lin: Value, v: Value, stack: bool) {
        self.write_parts(lin, &[v], stack);
    }

    /// Writes two values of 16 bytes, one behind the other, as one access.
    pub fn write_pair(&mut self, lin: Value, low: Value, high: Value, stack: bool) {
        self.write_parts(lin, &[low, high], stack);
    }

    fn write_parts(&mut self, lin: Value, parts: &[Value], stack: bool) {
        self.before_access();
        let each = self.b.func.dfg.value_type(parts[0]).bytes();
        let size = each * parts.len() as u32;
        let (hit, miss, done) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        self.b.set_cold_block(miss);
        let access = Access::Write;
        let kept = self.kept(lin, size, access);
        let keep = kept.in_block();
        for _ in 0..if keep { 3 } else { 1 } {
            self.b.append_block_param(hit, I64);
        }
        self.find(lin, size, access, hit, miss, kept);
        self.at(miss);
        for (k, &v) in parts.iter().enumerate() {
            self.store_scratch(crate::unit::scratch::VALUE + 2 * k, v);
        }
        let ok = self.slow(runtime::kept::write as *const () as usize, lin, size, stack);
        let none = if keep {
            // The page of a write that went the slow way stays unknown.
            self.b.append_block_param(done, I64);
            self.b.append_block_param(done, I64);
            let zero = self.iconst(0);
            vec![BlockArg::Value(zero); 2]
        } else {
            Vec::new()
        };
        self.check_helper(ok, done, &none);
        self.at(hit);
        let p = self.b.block_params(hit).to_vec();
        for (k, &v) in parts.iter().enumerate() {
            let at = k as i32 * each as i32;
            self.b.ins().store(self.guest, v, p[0], at);
        }
        let page: Vec<BlockArg> = p[1..].iter().map(|&v| BlockArg::Value(v)).collect();
        self.b.ins().jump(done, &page);
        self.at(done);
        let page = if keep {
            let of = self.b.block_params(done);
            [of[0], of[1]]
        } else {
            [p[0]; 2]
        };
        self.keep_page(lin, access, kept, page);
    }

    /// Stores to an address that [`claim`](Self::claim) gave.
    pub fn store_host(&mut self, host: Value, v: Value) {
        self.b.ins().store(self.guest, v, host, 0);
    }

    pub fn load_host(&mut self, host: Value, bits: u32) -> Value {
        self.b.ins().load(int(bits), self.guest, host, 0)
    }

    /// Whether a non-canonical operand is a stack fault.
    pub fn stack_operand(i: &Insn) -> bool {
        emu_core::interp::ea::faults_as_stack(i)
    }

    /// Reads the memory operand.
    pub fn load_operand(&mut self, _: &Instruction, i: &Insn, bits: u32) -> Value {
        let lin = self.lin(i);
        self.read(lin, int(bits), Self::stack_operand(i))
    }

    /// Writes the memory operand.
    pub fn store_operand(&mut self, i: &Insn, v: Value) {
        let lin = self.lin(i);
        self.write(lin, v, Self::stack_operand(i));
    }
}
