//! The test bench that programs run on, for the benchmarks here.

use emu_core::testing::{Page, UserBench};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

pub const CODE: u64 = 0x1000_0000;
/// Not a multiple of the shadow TLB's reach away from the code.
pub const DATA: u64 = 0x2004_0000;
pub const STACK: u64 = 0x3010_0000;
/// Data pages: more than a first-level data cache, fewer than the shadow TLB has entries.
pub const PAGES: u64 = 64;
/// Instructions of one measured run.
pub const RUN: u64 = 200_000;

pub type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A program at [`CODE`] about to start, with pages of data from RSI on and a stack.
pub fn bench(make: Program) -> UserBench {
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    make(&mut a).expect("the programs encode");
    let code = a.assemble(CODE).expect("the programs encode");
    let mut b = UserBench::new("max");
    b.map(CODE, Page::Code);
    b.write(CODE, &code);
    for p in 0..PAGES {
        b.map(DATA + (p << 12), Page::ReadWrite);
    }
    b.map(STACK, Page::ReadWrite);
    b.cpu.gpr[4] = STACK + 0xff0;
    b.cpu.gpr[6] = DATA;
    b.cpu.rip = CODE;
    b
}
