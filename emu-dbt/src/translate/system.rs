//! Critical instructions whose emulation is a few operations: in line where that is provably the same, by the interpreter alone
//! where it is not.

use super::Translator;
use crate::runtime;
use cranelift_codegen::ir::InstBuilder;
use cranelift_codegen::ir::types::{I8, I32, I64};
use emu_core::cpu::control::cr4;
use emu_core::decode::insn::Insn;
use emu_core::layout;
use emu_core::vcpu::reg;
use iced_x86::{Instruction, Mnemonic};

/// RDTSC, RDTSCP (SDM Vol. 2B): #GP(0) while CR4.TSD is set, unless the privilege level is 0.
pub fn rdtsc(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    let control = t.load_own(I64, layout::CR4);
    let tsd = t.b.ins().band_imm_u(control, cr4::TSD as i64);
    let cpl = t.load_own(I8, layout::CPL);
    let cpl = t.zext(cpl);
    let none = t.b.ins().iconst(I64, 0);
    let refused = t.b.ins().select(tsd, cpl, none);
    t.alone_if(refused);
    let info = t.info();
    let nothing = t.iconst(0);
    let v = t.call_helper(runtime::tsc as *const () as usize, nothing, info);
    let low = t.b.ins().band_imm_u(v, 0xffff_ffff);
    let high = t.b.ins().ushr_imm_u(v, 32);
    t.set64(reg::RAX as u8, low);
    t.set64(reg::RDX as u8, high);
    if x.mnemonic() == Mnemonic::Rdtscp {
        let aux = t.load_own(I32, layout::TSC_AUX);
        let aux = t.zext(aux);
        t.set64(reg::RCX as u8, aux);
    }
    true
}
