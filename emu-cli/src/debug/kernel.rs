//! A Linux kernel whose symbols are known: where it really is (KASLR), and its modules.
//!
//! The kernel that is to be booted is not where its file says. Until it has been found, every write to CR3 is looked at: behind the
//! one that maps the kernel its banner can be read. Then its symbols move, and the breakpoints that were set on them.

use super::commands::points;
use super::session::Ctx;
use super::symbols::Symbols;
use super::symbols::linux::{Hints, find_slide, is_kernel, modules, symbols_of};
use crate::trace;
use emu_core::cpu::control::efer;
use emu_core::hooks::{HookId, What};
use emu_core::vcpu::Vcpu;

/// The kernel among the modules.
#[derive(Default)]
pub struct Kernel {
    /// The module's name.
    name: Option<String>,
    /// Watches CR3 while it has not been found.
    hook: Option<HookId>,
}

impl Kernel {
    pub fn hook(&self) -> Option<HookId> {
        self.hook
    }

    /// Symbols were read: perhaps those of a kernel.
    pub fn look_for(&mut self, symbols: &Symbols, cpu: &mut Vcpu) {
        let Some(m) = symbols.modules().iter().find(|m| is_kernel(m)) else {
            return;
        };
        self.name = Some(m.name.clone());
        if self.hook.is_none() {
            let what = What::Cr3 { value: None };
            self.hook = Some(cpu.hooks().add(what, None));
        }
    }
}

/// Looks whether the kernel is there; what there is to say.
pub fn find(c: &mut Ctx) -> Option<String> {
    c.s.kernel.hook?;
    let name = c.s.kernel.name.clone()?;
    let cpu = &c.vm.runner.cpu;
    let hints = Hints {
        lstar: cpu.msr.lstar,
        idt_base: cpu.idtr.base,
        idt_limit: cpu.idtr.limit,
        long_mode: cpu.efer & efer::LMA != 0,
    };
    let kernel = c.s.symbols.module_mut(&name)?;
    let slide = find_slide(kernel, &mut |at, buf| cpu.peek(at, buf), hints)?;
    let moved = kernel.slide() != slide;
    kernel.set_slide(slide);
    if let Some(hook) = c.s.kernel.hook.take() {
        c.vm.runner.cpu.hooks().remove(hook);
    }
    if !moved {
        return None;
    }
    points::resolve_again(c);
    trace::resolve_again(c);
    Some(format!("[{name} is {slide:#x} above its link address]\n"))
}

/// Takes in the symbols of the modules that the running kernel has loaded; how many there are.
pub fn load_modules(c: &mut Ctx) -> Result<String, String> {
    find(c);
    let name = c.s.kernel.name.clone();
    let missing =
        || "the symbols of a Linux kernel are needed: \"symbol-file BZIMAGE\"".to_string();
    let name = name.ok_or_else(missing)?;
    let cpu = &c.vm.runner.cpu;
    let kernel = c.s.symbols.modules().iter().find(|m| m.name == name);
    let kernel = kernel.ok_or_else(missing)?;
    let mut read = |at: u64, buf: &mut [u8]| cpu.peek(at, buf);
    let loaded = modules(kernel, &mut read);
    let (all, mut known) = (loaded.len(), Vec::new());
    for l in &loaded {
        known.extend(symbols_of(kernel, &mut read, l));
    }
    let count = known.len();
    known.into_iter().for_each(|m| {
        c.s.symbols.add(m);
    });
    Ok(format!(
        "{all} modules are loaded; symbols of {count} of them are known\n"
    ))
}
