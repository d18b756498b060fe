//! A translation unit: compiled code and what the engine must know of it.

use emu_core::cpu::mode::ModeKey;
use emu_core::decode::insn::Insn;

/// A unit's name; 0 is none.
pub type UnitId = u32;

/// A link: where one exit of a unit goes. Compiled code reads it, the engine writes it.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Slot {
    /// The link holds while the vCPU's tag equals this; 0: it does not.
    pub tag: u64,
    /// Entry of the unit there.
    pub code: u64,
    /// That unit.
    pub to: UnitId,
}

/// One entry of the jump cache.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Jump {
    pub rip: u64,
    /// As [`Slot::tag`].
    pub tag: u64,
    pub code: u64,
}

/// log2 of the entries of the jump cache for one tag.
pub const JUMP_BITS: u32 = 12;
pub const JUMPS: usize = 1 << JUMP_BITS;
/// Spreads targets over the jump cache, however functions are aligned (Knuth, The Art of Computer Programming, vol. 3, 6.4).
pub const JUMP_FACTOR: u64 = 0x61c8_8647;
/// Parts of the jump cache; tags share them.
pub const JUMP_PARTS: usize = 8;

/// Which part of the jump cache a tag uses.
pub fn jump_part(tag: u64) -> usize {
    (tag >> 16 ^ tag >> 19 ^ tag >> 22) as usize & (JUMP_PARTS - 1)
}

/// Where a target stands in its part.
pub fn jump_index(rip: u64) -> usize {
    (rip as u32).wrapping_mul(JUMP_FACTOR as u32) as usize >> (32 - JUMP_BITS)
}

/// Words of [`Vcpu::scratch`](emu_core::vcpu::Vcpu::scratch).
pub mod scratch {
    /// The retired count at which the slice ends.
    pub const END: usize = 0;
    /// The retired count, minus [`END`], while units run.
    pub const CLOCK: usize = 17;
    /// What links and the jump cache are compared with: TLB epoch and mode.
    pub const TAG: usize = 1;
    /// The part of the jump cache that belongs to the tag.
    pub const JUMPS: usize = 2;
    /// RIP of the running unit's root.
    pub const BASE: usize = 3;
    /// The flags' operands on the way into a helper.
    pub const F0: usize = 4;
    pub const F1: usize = 5;
    /// 32 bytes: a value on its way to or from a helper.
    pub const VALUE: usize = 6;
    /// Instructions retired in handlers called from compiled code.
    pub const CALLED: usize = 10;
    /// What a memory helper returned.
    pub const RESULT: usize = 11;
    /// Address of the counts of handler calls, a word for each iced-x86 code.
    pub const CALLS: usize = 12;
    /// The jump cache.
    pub const ALL_JUMPS: usize = 13;
    /// Not 0 while the host's MXCSR gathers the guest's floating-point flags.
    pub const FLOAT: usize = 14;
    /// Takes a result so that its operation is not left out.
    pub const DONE: usize = 15;
    /// Of what [`F0`] and [`F1`] are the operands that the vCPU's flags are to be made from
    /// ([`kind_word`](crate::runtime::kind_word)); 0: its lazy record holds them.
    pub const KIND: usize = 16;
}

/// How a unit came back to the dispatcher: the low three bits of what it returns. [`exit::LINK`] has the slot's address above them.
pub mod exit {
    /// RIP is the target of a direct branch whose link does not hold.
    pub const LINK: u64 = 0;
    /// RIP is the target of an indirect branch that the jump cache does not know.
    pub const INDIRECT: u64 = 1;
    /// The instruction at RIP did not complete; `Vcpu::stop` says why.
    pub const STOPPED: u64 = 2;
    /// RIP is exact; mode, mapping or events may have changed.
    pub const LOOK_UP: u64 = 3;
    /// Too little is left of the slice; RIP is the block that did not begin.
    pub const FUEL: u64 = 4;
    /// The block's last instruction ran by its handler, nothing is pending, and links hold as before; RIP is exact.
    pub const DONE: u64 = 5;
    /// The same, but mode, privilege or mapping are others now: [`scratch::TAG`](super::scratch::TAG) has been renewed.
    pub const MOVED: u64 = 6;
    /// The unit is bound to another linear address than RIP.
    pub const REBIND: u64 = 7;
    /// A kind of [`FUEL`]: the unit has floating point and MXCSR is not the usual; nothing was done.
    pub const MXCSR: u64 = 8 | FUEL;
}

/// A page that a unit has code on: its distance from the root's page and where it was found in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub delta: i64,
    pub off: u64,
}

/// What compilation makes of a region.
#[derive(Default)]
pub struct Compiled {
    pub code: Vec<u8>,
    pub slots: Vec<Box<Slot>>,
    /// Where the unit runs; its code compares.
    pub bound: Box<u64>,
    /// The instructions that compiled code calls handlers for; it holds their addresses.
    pub insns: Vec<Box<Insn>>,
    /// Where each slot leads, in the order of slots.
    pub exits: Vec<u64>,
    /// How each instruction was translated.
    pub treatments: Vec<crate::dump::Treatment>,
    pub guest_insns: u32,
    /// Instructions that were lowered.
    pub lowered: u32,
    pub ns: u64,
}

/// A published unit. What the dispatcher looks at before it enters comes first, in one cache line.
#[repr(C, align(64))]
pub struct Unit {
    /// RAM offset of its root.
    pub off: u64,
    /// The linear address that its links are for.
    pub root: u64,
    /// The tag under which its pages were last seen where they were.
    pub checked: u64,
    /// Entry address.
    pub code: u64,
    /// Entries that ended in vain, since one that did not.
    pub vain: u32,
    pub guest_insns: u32,
    pub key: ModeKey,
    /// [`root`](Self::root) as its code reads it.
    pub bound: Box<u64>,
    /// Where the root was when the unit was compiled.
    pub made_for: u64,
    /// When it was last left for code that keeps changing: instructions retired.
    pub vain_at: u64,
    /// Times that its pages were not where they had been.
    pub misfits: u32,
    /// The blocks that it can be entered at, and their distance from the root.
    pub entries: Vec<(u64, u64)>,
    pub pages: Vec<Page>,
    /// The blocks that it was made from.
    pub blocks: Vec<u64>,
    /// Offset and size in the arena.
    pub at: usize,
    pub size: usize,
    pub slots: Vec<Box<Slot>>,
    /// Slots of other units (or its own) that lead here.
    pub incoming: Vec<*mut Slot>,
    /// Entries of the jump cache that lead here.
    pub jumps: Vec<u16>,
    /// Addressed by the code.
    pub insns: Vec<Box<Insn>>,
}

impl Unit {
    /// Its instructions as a block's profile has them.
    pub fn insns_for_profile(&self) -> u16 {
        u16::try_from(self.guest_insns).unwrap_or(u16::MAX)
    }

    /// How far from the root the block at this RAM offset is, if the unit can be entered there.
    #[inline]
    pub fn entry(&self, off: u64) -> Option<u64> {
        if off == self.off {
            return Some(0);
        }
        self.entries.iter().find(|e| e.0 == off).map(|e| e.1)
    }
}
