//! From a region to Cranelift IR.
//!
//! The function is `tail fn(vcpu) -> exit`. At its entry the guest's registers are loaded into SSA variables; blocks become
//! Cranelift blocks, edges jumps; what leaves the region writes back what changed ([`exits`]). A family of instructions has a
//! file, named as in emu-core's interpreter: [`alu`], [`shift`], … Each lowering says `true`, or `false` for a form that it
//! leaves to the handler ([`fallback`]).
//!
//! Invariants at every instruction boundary: each guest register's variable holds its value; registers not in `dirty` have it in
//! the vCPU too; `flags` says where the arithmetic flags are; the variable `clock` and the constant `since` together are the number
//! of instructions retired before this block, minus the slice's end. An instruction's lowering makes all its memory accesses before
//! it changes any of these.

mod alu;
mod atomic;
mod bits;
mod conditions;
mod control_flow;
mod exits;
mod fallback;
mod flags;
mod guest;
mod late;
mod loop_pages;
mod mem;
mod muldiv;
mod shapes;
mod shift;
mod stack;
mod string;
mod system;
mod table;
mod transfer;
mod vec;
mod x87;

use crate::dump::Treatment;
use crate::options::Options;
use crate::region::{Edge, Region, Tail};
use crate::runtime::Info;
use crate::unit::{Compiled, scratch};
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, SigRef, Value, condcodes::IntCC};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, Switch, Variable};
use emu_core::cpu::mode::ModeKey;
use emu_core::decode::insn::{Insn, pfx};
use emu_core::layout;
use flags::Flags;
use iced_x86::Instruction;
use rustc_hash::FxHashMap;
use shapes::Shape;

/// What is known while a unit is translated.
pub struct Translator<'a, 'b> {
    b: &'a mut FunctionBuilder<'b>,
    region: &'a Region,
    options: Options,
    out: &'a mut Compiled,
    cpu: Value,
    /// RIP of the root.
    base: Value,
    gpr: [Variable; 16],
    /// Those that the region has to do with.
    used: u16,
    f0: Variable,
    f1: Variable,
    clock: Variable,
    since: u8,
    /// `since` where each block begins: 0 where several ways meet.
    sinces: Vec<u8>,
    /// Registers whose variable may differ from the vCPU.
    dirty: u16,
    flags: Flags,
    /// Recipes for flags of the current block.
    late: Vec<late::Late>,
    /// How each block finds the flags.
    shapes: Vec<Shape>,
    blocks: Vec<Block>,
    node: usize,
    idx: usize,
    /// Accesses to the vCPU and the TLB; to guest RAM.
    own: MemFlagsData,
    guest: MemFlagsData,
    helper: SigRef,
    memory_helper: SigRef,
    unit: SigRef,
    /// Returns to the dispatcher with [`exit::STOPPED`](crate::unit::exit::STOPPED).
    stop: Block,
    /// Asks the jump cache; whether anything needs it.
    find: Block,
    finds: bool,
    /// Edges that lead to each block, with the one from outside.
    ways_in: Vec<u32>,
    /// Blocks of small loops (their instructions), where changed registers are written back on the slow path rather than before each
    /// access.
    loops: Vec<Option<usize>>,
    loop_pages: Vec<loop_pages::LoopPage>,
    /// Pages that this block has probed, by the value that their address is counted from.
    pages: Vec<mem::Page>,
    /// Values that are another one and a constant.
    affine: FxHashMap<Value, mem::Sum>,
    vec: vec::Vectors,
    x87: x87::X87,
    failed: Option<&'static str>,
}

/// The error of a translation that needs the flags where [`shapes`] said that nothing sees them.
pub const UNSEEN: &str = "flags are needed that nothing was to see";

/// Builds the IR of a region. With `all_seen` nothing is left out that only might be needed.
pub fn translate(
    mut b: FunctionBuilder,
    region: &Region,
    options: Options,
    all_seen: bool,
    config: TargetFrontendConfig,
    out: &mut Compiled,
) -> Result<(), &'static str> {
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let cpu = b.block_params(entry)[0];
    let own = MemFlagsData::trusted();
    let guest = MemFlagsData::new().with_notrap();
    let helper = b.import_signature(fallback::helper_signature(config.default_call_conv));
    let memory_helper = b.import_signature(fallback::memory_signature(config.default_call_conv));
    let (stop, find) = (b.create_block(), b.create_block());
    b.set_cold_block(find);
    b.set_cold_block(stop);
    let unit = b.import_signature(crate::codegen::unit_signature());
    let gpr = std::array::from_fn(|_| b.declare_var(I64));
    let (f0, f1, clock) = (b.declare_var(I64), b.declare_var(I64), b.declare_var(I64));
    let bound = b.ins().iconst(I64, (&raw const *out.bound) as i64);
    let base = b.ins().load(I64, own, bound, 0);
    let blocks = region.nodes.iter().map(|_| b.create_block()).collect();
    let shapes = shapes::shapes(region, options, all_seen);
    let vec = vec::Vectors::new(&mut b, region, options);
    out.guest_insns = region.insns;
    let mut t = Translator {
        b: &mut b,
        region,
        options,
        out,
        cpu,
        base,
        gpr,
        used: guest::used(region),
        f0,
        f1,
        clock,
        since: 0,
        sinces: vec![0; region.nodes.len()],
        dirty: 0,
        flags: Flags::Mem,
        late: Vec::new(),
        shapes,
        blocks,
        node: 0,
        idx: 0,
        own,
        guest,
        helper,
        memory_helper,
        unit,
        stop,
        find,
        finds: false,
        ways_in: region.ways_in(),
        loops: region.small_loops(),
        loop_pages: Vec::new(),
        pages: Vec::new(),
        affine: FxHashMap::default(),
        vec,
        x87: x87::X87::default(),
        failed: None,
    };
    t.enter();
    let dirty = guest::dirty_at_entry(region, &t.loops);
    let heads = region.loop_heads();
    for n in region.order() {
        if !heads.contains(&n) {
            // All ways here have been laid; knowing so now, values that are the same on all of them stay what they are.
            t.b.seal_block(t.blocks[n]);
        }
        t.begin(n, dirty[n]);
        t.body();
        t.tail();
    }
    if let Some(why) = t.failed {
        return Err(why);
    }
    t.emit_behind_x87();
    t.emit_find();
    t.b.switch_to_block(stop);
    t.return_code(crate::unit::exit::STOPPED);
    b.seal_all_blocks();
    b.finalize(config);
    Ok(())
}

impl Translator<'_, '_> {
    /// The unit's beginning: registers, clock, and which of the entries RIP is.
    fn enter(&mut self) {
        self.enter_vectors();
        self.begin_loop_pages();
        self.store_scratch(scratch::BASE, self.base);
        self.reload(self.used);
        let clock = self.load_scratch(scratch::CLOCK);
        self.b.def_var(self.clock, clock);
        let rip = self.load_own(I64, layout::RIP);
        let here = self.b.ins().icmp(IntCC::Equal, rip, self.base);
        let (root, other) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(other);
        self.b.ins().brif(here, root, &[], other, &[]);
        let mut ways = vec![(root, 0)];
        self.at(other);
        if !self.region.entries.is_empty() {
            let from_root = self.distance_of(rip);
            let mut s = Switch::new();
            for &e in &self.region.entries {
                let way = self.b.create_block();
                s.set_entry(u128::from(self.distance(self.region.nodes[e].rip)), way);
                ways.push((way, e));
            }
            let elsewhere = self.b.create_block();
            self.b.set_cold_block(elsewhere);
            s.emit(self.b, from_root, elsewhere);
            self.at(elsewhere);
        }
        self.return_code(crate::unit::exit::REBIND);
        let place = self.place();
        for (way, n) in ways {
            self.back_to(place);
            self.at(way);
            self.begin_at(n, clock);
        }
    }

    /// Goes on to an entry if the fuel covers it.
    fn begin_at(&mut self, n: usize, clock: Value) {
        self.set_shape_vars(self.shapes[n]);
        let need = self.region.nodes[n].check.unwrap_or(1);
        let (out, go) = (self.b.create_block(), self.blocks[n]);
        self.b.set_cold_block(out);
        let short = self
            .b
            .ins()
            .icmp_imm_s(IntCC::SignedGreaterThan, clock, -i64::from(need));
        self.b.ins().brif(short, out, &[], go, &[]);
        self.at(out);
        self.return_code(crate::unit::exit::FUEL);
    }

    fn begin(&mut self, n: usize, dirty: u16) {
        self.node = n;
        self.idx = 0;
        self.dirty = dirty;
        self.begin_vectors();
        self.b.switch_to_block(self.blocks[n]);
        self.pages.clear();
        self.late.clear();
        self.flags = Flags::Found(self.shapes[n]);
        self.since = self.sinces[n];
    }

    /// The block's instructions, all but one that its tail is.
    fn body(&mut self) {
        let node = &self.region.nodes[self.node];
        let count = node.insns.len();
        let own = usize::from(!matches!(node.tail, Tail::Next(_)));
        for k in 0..count - own {
            self.idx = k;
            let (x, i) = (&node.code[k], &node.insns[k]);
            if i.pfx & pfx::HOOKED != 0 {
                self.ask_hook(i);
            }
            let lowered = self.lower(x, i);
            if !lowered {
                self.call_handler(x, i);
            }
            self.note_treatment(lowered);
        }
        self.end_x87();
        self.idx = count - 1;
    }

    fn lower(&mut self, x: &Instruction, i: &Insn) -> bool {
        if i.pfx & (pfx::REFUSED | pfx::AS_OLDER) != 0 || !self.options.lower() {
            return false;
        }
        let lowered = table::lowering(x.mnemonic()).is_some_and(|f| f(self, x, i));
        self.out.lowered += u32::from(lowered);
        lowered
    }

    /// What ends the block.
    fn tail(&mut self) {
        let node = &self.region.nodes[self.node];
        let last = node.insns.len() - 1;
        let (x, i) = (&node.code[last], &node.insns[last]);
        if let Tail::Next(e) = node.tail {
            self.advance_clock();
            self.go(e);
            return;
        }
        if i.pfx & pfx::HOOKED != 0 {
            self.ask_hook(i);
        }
        let refused = i.pfx & (pfx::REFUSED | pfx::AS_OLDER) != 0 || !self.options.lower();
        if !refused && self.lower_tail(x, i) {
            self.out.lowered += 1;
            self.note_treatment(true);
            return;
        }
        self.note_treatment(false);
        self.call_last(x, i);
    }

    /// Remembers how the current instruction was translated.
    fn note_treatment(&mut self, lowered: bool) {
        self.out.treatments.push(Treatment {
            node: self.node as u16,
            idx: self.idx as u8,
            lowered,
        });
    }

    /// What ways that part here have in common: each begins with it.
    fn place(&self) -> (Flags, u16, u8) {
        (self.flags, self.dirty, self.since)
    }

    fn back_to(&mut self, place: (Flags, u16, u8)) {
        (self.flags, self.dirty, self.since) = place;
    }

    /// The block's instructions count as retired.
    fn advance_clock(&mut self) {
        let n = self.region.nodes[self.node].insns.len();
        let since = usize::from(self.since) + n;
        self.since = since as u8;
        if since > usize::from(u8::MAX / 2) {
            self.settle_clock(since as i64);
        }
    }

    fn settle_clock(&mut self, since: i64) {
        let c = self.b.use_var(self.clock);
        let c = self.b.ins().iadd_imm_s(c, since);
        self.b.def_var(self.clock, c);
        self.since = 0;
    }

    /// Goes along an edge, the clock advanced already; the current Cranelift block is filled afterwards.
    fn go(&mut self, e: Edge) {
        match e {
            Edge::Exit(rip) => self.exit_to(rip),
            Edge::Node(n) => {
                if let Some(need) = self.region.nodes[n].check {
                    let (out, on) = (self.b.create_block(), self.b.create_block());
                    self.b.set_cold_block(out);
                    let c = self.b.use_var(self.clock);
                    let most = -i64::from(need) - i64::from(self.since);
                    let short = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, c, most);
                    self.b.ins().brif(short, out, &[], on, &[]);
                    let place = self.place();
                    self.at(out);
                    self.exit_short(self.region.nodes[n].rip);
                    self.back_to(place);
                    self.at(on);
                }
                if self.loops[n].is_some() && self.loops[self.node].is_none() {
                    self.flush();
                }
                self.set_shape_vars(self.shapes[n]);
                if self.ways_in[n] == 1 {
                    self.sinces[n] = self.since;
                } else if self.since != 0 {
                    self.settle_clock(i64::from(self.since));
                }
                self.b.ins().jump(self.blocks[n], &[]);
            }
        }
    }

    /// Goes on in a block to which all ways have been laid.
    fn at(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    fn long(&self) -> bool {
        self.region.key.contains(ModeKey::CODE64)
    }

    /// The constant that names the current instruction for a helper.
    fn info(&self) -> Info {
        let node = &self.region.nodes[self.node];
        let at = node.rip.wrapping_add(u64::from(node.insns[self.idx].off));
        let delta = at.wrapping_sub(self.region.nodes[0].rip) as i32;
        let (kind, width) = self.flags.kind();
        Info::new(delta, self.idx as u8, self.since, kind, width)
    }

    fn load_own(&mut self, ty: cranelift_codegen::ir::Type, at: usize) -> Value {
        self.b.ins().load(ty, self.own, self.cpu, at as i32)
    }
    fn store_own(&mut self, v: Value, at: usize) {
        self.b.ins().store(self.own, v, self.cpu, at as i32);
    }
    fn load_scratch(&mut self, word: usize) -> Value {
        self.load_own(I64, layout::SCRATCH + 8 * word)
    }
    fn store_scratch(&mut self, word: usize, v: Value) {
        self.store_own(v, layout::SCRATCH + 8 * word);
    }
    fn iconst(&mut self, v: u64) -> Value {
        self.b.ins().iconst(I64, v as i64)
    }
}
