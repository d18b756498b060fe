//! What expressions ask of the machine: registers, memory, segments, the debugger's own variables.
//!
//! One [`Machine`] serves commands and breakpoints' conditions alike; the latter see the vCPU in the middle of the engine's loop,
//! where every register is exact. Nothing is changed by looking, so memory of devices cannot be read here: a register of a device
//! changes by being read.

use super::expr::{Env, Names, Reg, Space, Store, Value, Variable};
use super::symbols::Symbols;
use emu_core::addr::PhysAddr;
use emu_core::cpu::segment::{CS, Descriptor, SS, Segment, attr};
use emu_core::fault::Stop;
use emu_core::vcpu::Vcpu;
use rustc_hash::FxHashMap;
use std::cell::RefCell;

/// What the user has stored, and what was printed.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    pub named: FxHashMap<String, Value>,
    pub history: Vec<Value>,
}

/// Values of the history that are kept.
const MOST_VALUES: usize = 10_000;

impl Variables {
    /// Appends to the history; the value's number, from 1.
    pub fn remember(&mut self, v: Value) -> usize {
        if self.history.len() < MOST_VALUES {
            self.history.push(v);
        }
        self.history.len()
    }

    fn get(&self, v: Variable) -> Option<Value> {
        let last = self.history.len();
        let at = match v {
            Variable::Named(name) => return self.named.get(name).copied(),
            Variable::History(n) => (n as usize).checked_sub(1)?,
            Variable::FromLast(n) => last.checked_sub(1 + n as usize)?,
        };
        self.history.get(at).copied()
    }
}

/// A vCPU as expressions see it.
pub struct Machine<'a> {
    cpu: RefCell<&'a mut Vcpu>,
    variables: RefCell<&'a mut Variables>,
}

impl<'a> Machine<'a> {
    pub fn new(cpu: &'a mut Vcpu, variables: &'a mut Variables) -> Self {
        Self {
            cpu: RefCell::new(cpu),
            variables: RefCell::new(variables),
        }
    }
}

impl Names for Symbols {
    fn symbol(&self, name: &str) -> Option<u64> {
        self.lookup(name)
    }
    fn nearest(&self, name: &str) -> Option<String> {
        let hint = self.hint(name);
        Some(
            hint.strip_prefix(": did you mean ")?
                .trim_end_matches('?')
                .to_string(),
        )
    }
}

impl Env for Machine<'_> {
    fn register(&self, r: Reg) -> Option<u64> {
        let mut cpu = self.cpu.borrow_mut();
        register(&mut cpu, r)
    }

    fn read(&self, space: Space, addr: u64, buf: &mut [u8]) -> bool {
        read(&self.cpu.borrow(), space, addr, buf)
    }

    fn segment_base(&self, selector: u16) -> Option<u64> {
        segment_base(&self.cpu.borrow(), selector)
    }

    fn code_bits(&self) -> u32 {
        self.cpu.borrow().key.code_bits()
    }

    fn variable(&self, v: Variable) -> Option<Value> {
        self.variables.borrow().get(v)
    }
}

impl Store for Machine<'_> {
    fn set_register(&mut self, r: Reg, value: u64) -> Result<(), String> {
        set_register(self.cpu.get_mut(), r, value)
    }

    fn write(&mut self, space: Space, addr: u64, bytes: &[u8]) -> bool {
        write(self.cpu.get_mut(), space, addr, bytes)
    }

    fn set_variable(&mut self, name: &str, value: Value) {
        self.variables
            .get_mut()
            .named
            .insert(name.to_string(), value);
    }
}

/// Reads RAM; false: not all of it is there.
pub fn read(cpu: &Vcpu, space: Space, addr: u64, buf: &mut [u8]) -> bool {
    match space {
        Space::Linear => cpu.peek(addr, buf),
        Space::Physical => {
            let mut done = 0;
            // RAM may go on elsewhere in the host's memory behind a page.
            while done < buf.len() {
                let at = addr.wrapping_add(done as u64);
                let n = (0x1000 - (at & 0xfff) as usize).min(buf.len() - done);
                if !cpu.machine.ram.read(PhysAddr(at), &mut buf[done..done + n]) {
                    return false;
                }
                done += n;
            }
            true
        }
    }
}

/// Writes RAM, whatever the page's rights; false: nothing was written.
pub fn write(cpu: &mut Vcpu, space: Space, addr: u64, bytes: &[u8]) -> bool {
    match space {
        Space::Linear => cpu.poke(addr, bytes),
        Space::Physical => {
            let mut old = vec![0; bytes.len()];
            let done =
                read(cpu, space, addr, &mut old) && cpu.machine.ram.write(PhysAddr(addr), bytes);
            cpu.collect_device_hits();
            done
        }
    }
}

/// The descriptor of a selector that is not null.
pub fn descriptor(cpu: &Vcpu, selector: u16) -> Option<Descriptor> {
    let (base, limit) = match selector & 4 {
        0 => (cpu.gdtr.base, u32::from(cpu.gdtr.limit)),
        _ => (cpu.ldtr.base, cpu.ldtr.limit),
    };
    let at = u32::from(selector & !7);
    if selector & !3 == 0 || at + 7 > limit {
        return None;
    }
    let mut raw = [0; 8];
    let there = cpu.peek(base.wrapping_add(at.into()), &mut raw);
    there.then(|| Descriptor::new(u64::from_le_bytes(raw)))
}

/// Whether a selector is a sixteenth of its base.
fn by_selector(cpu: &Vcpu) -> bool {
    cpu.real_mode() || cpu.v86()
}

fn segment_base(cpu: &Vcpu, selector: u16) -> Option<u64> {
    if by_selector(cpu) {
        return Some(u64::from(selector) << 4);
    }
    if let Some(s) = cpu.seg.iter().position(|s| s.selector == selector) {
        return Some(cpu.seg_base[s]);
    }
    descriptor(cpu, selector).map(|d| d.base().into())
}

/// The physical number of ST(n).
fn st(cpu: &Vcpu, n: u8) -> usize {
    usize::from(cpu.fpu.top.wrapping_add(n) & 7)
}

/// The nearest f64 to an 80-bit number.
fn to_f64(se: u16, mant: u64) -> f64 {
    let sign = if se & 0x8000 != 0 { -1.0 } else { 1.0 };
    match (se & 0x7fff, mant) {
        (_, 0) => sign * 0.0,
        (0x7fff, m) if m << 1 == 0 => sign * f64::INFINITY,
        (0x7fff, _) => f64::NAN,
        (e, m) => sign * (m as f64) * 2f64.powi(i32::from(e) - 16383 - 63),
    }
}

/// A whole register; `None`: this CPU has none.
pub fn register(cpu: &mut Vcpu, r: Reg) -> Option<u64> {
    let Reg::Msr(n) = r else {
        return plain_register(cpu, r);
    };
    let value = cpu.read_msr(n, 0).ok();
    cpu.stop = Stop::None;
    value
}

/// The same of what can be had without asking the machine anything.
pub fn plain_register(cpu: &Vcpu, r: Reg) -> Option<u64> {
    Some(match r {
        Reg::Gpr(n) => *cpu.gpr[..16].get(usize::from(n))?,
        Reg::Rip => cpu.rip,
        Reg::Pc => cpu.code_address(),
        Reg::Rflags => cpu.rflags(),
        Reg::Segment(6) => cpu.ldtr.selector.into(),
        Reg::Segment(7) => cpu.tr.selector.into(),
        Reg::Segment(n) => cpu.seg.get(usize::from(n))?.selector.into(),
        Reg::SegmentBase(6) => cpu.ldtr.base,
        Reg::SegmentBase(7) => cpu.tr.base,
        Reg::SegmentBase(n) if n < 6 => cpu.seg_base[usize::from(n)],
        Reg::SegmentLimit(6) => cpu.ldtr.limit.into(),
        Reg::SegmentLimit(7) => cpu.tr.limit.into(),
        Reg::SegmentLimit(n) => cpu.seg.get(usize::from(n))?.limit.into(),
        Reg::SegmentBase(_) => return None,
        Reg::GdtrBase => cpu.gdtr.base,
        Reg::GdtrLimit => cpu.gdtr.limit.into(),
        Reg::IdtrBase => cpu.idtr.base,
        Reg::IdtrLimit => cpu.idtr.limit.into(),
        Reg::Cr(0) => cpu.cr0,
        Reg::Cr(2) => cpu.cr2,
        Reg::Cr(3) => cpu.cr3,
        Reg::Cr(4) => cpu.cr4,
        Reg::Cr(8) => cpu.machine.board().tpr(cpu.index).into(),
        Reg::Cr(_) => return None,
        Reg::Dr(n) => *cpu.dr.get(usize::from(n))?,
        Reg::Efer => cpu.efer,
        Reg::Xcr0 => cpu.xcr0,
        Reg::Mxcsr => cpu.mxcsr.into(),
        Reg::Cpl => cpu.cpl.into(),
        Reg::Retired => cpu.retired,
        Reg::Msr(_) => return None,
        Reg::Vector(n, quarter) => *cpu.vec.get(usize::from(n))?.get(usize::from(quarter))?,
        Reg::St(n) => {
            let r = cpu.fpu.r[st(cpu, n)];
            to_f64(r.se, r.mant).to_bits()
        }
        Reg::FpuControl => cpu.fpu.cw.into(),
        Reg::FpuStatus => u64::from(cpu.fpu.sw) | u64::from(cpu.fpu.top) << 11,
    })
}

/// Loads a segment register as an instruction would: by the selector in real and virtual-8086 mode, otherwise by the descriptor.
fn set_selector(cpu: &mut Vcpu, n: usize, value: u64) -> Result<(), String> {
    let selector = u16::try_from(value)
        .map_err(|_| format!("{value:#x} is no selector: they end at 0xffff"))?;
    let mut segment = cpu.seg[n];
    if by_selector(cpu) {
        segment.load_real(selector);
    } else if selector & !3 == 0 && n != usize::from(CS) && n != usize::from(SS) {
        segment = Segment {
            selector,
            ..Segment::default()
        };
    } else {
        let d = descriptor(cpu, selector).ok_or_else(|| {
            format!("selector {selector:#x} has no segment in the descriptor tables")
        })?;
        if !d.present()
            || d.attr() & attr::S == 0
            || (n == usize::from(CS)) != d.is_code() && n < 3 && n != 0
        {
            return Err(format!(
                "selector {selector:#x} does not name a segment that this register can have"
            ));
        }
        segment = d.segment(selector);
    }
    cpu.set_segment(n, segment);
    cpu.refresh_mode();
    Ok(())
}

/// Writes a whole register. What the architecture refuses is refused here too.
pub fn set_register(cpu: &mut Vcpu, r: Reg, value: u64) -> Result<(), String> {
    let refused = |cpu: &mut Vcpu| {
        cpu.stop = Stop::None;
        format!("the CPU does not take {value:#x} for {r}")
    };
    let narrow = |what: &str| format!("{value:#x} does not fit into {what}");
    match r {
        Reg::Gpr(n) => cpu.gpr[usize::from(n & 15)] = value,
        Reg::Rip => cpu.rip = cpu.key.cut(value),
        Reg::Pc => {
            cpu.rip = cpu.key.cut(value.wrapping_sub(match cpu.code64() {
                true => 0,
                false => cpu.seg_base[usize::from(CS)],
            }))
        }
        Reg::Rflags => cpu.set_rflags(value & 0x003f_7fd5 | 2),
        Reg::Segment(n @ 0..6) => return set_selector(cpu, n.into(), value),
        Reg::SegmentBase(n @ 0..6) => {
            let n = usize::from(n);
            let base = if cpu.long_mode() {
                value
            } else {
                value & 0xffff_ffff
            };
            cpu.seg[n].base = base;
            cpu.seg_base[n] = base;
            cpu.refresh_mode();
        }
        Reg::GdtrBase => cpu.gdtr.base = value,
        Reg::IdtrBase => cpu.idtr.base = value,
        Reg::GdtrLimit => cpu.gdtr.limit = u16::try_from(value).map_err(|_| narrow("16 bits"))?,
        Reg::IdtrLimit => cpu.idtr.limit = u16::try_from(value).map_err(|_| narrow("16 bits"))?,
        Reg::Cr(0) => cpu.write_cr0(value).map_err(|_| refused(cpu))?,
        Reg::Cr(2) => cpu.cr2 = value,
        Reg::Cr(3) => cpu.write_cr3(value).map_err(|_| refused(cpu))?,
        Reg::Cr(4) => cpu.write_cr4(value).map_err(|_| refused(cpu))?,
        Reg::Dr(n) if n < 8 => {
            match n {
                6 => cpu.dr[6] = value & 0xe00f | 0xffff_0ff0,
                7 => cpu.dr[7] = value & 0xffff_23ff | 0x400,
                _ => cpu.dr[usize::from(n)] = value,
            }
            cpu.tlb.flush_all(false);
            cpu.refresh_events();
        }
        Reg::Efer => cpu.write_efer(value).map_err(|_| refused(cpu))?,
        Reg::Xcr0 => cpu.write_xcr0(0, value).map_err(|_| refused(cpu))?,
        Reg::Mxcsr if value <= 0xffff => cpu.mxcsr = value as u32,
        Reg::Msr(n) => cpu.write_msr(n, value, 0).map_err(|_| refused(cpu))?,
        Reg::Vector(n, quarter) if n < 16 && quarter < 4 => {
            cpu.vec[usize::from(n)][usize::from(quarter)] = value;
        }
        Reg::FpuControl => cpu.fpu.cw = u16::try_from(value).map_err(|_| narrow("16 bits"))?,
        _ => return Err(format!("{r} cannot be set")),
    }
    Ok(())
}

/// Registers alone, of a vCPU that is only looked at: what an instruction's operands need.
pub struct Looker<'a>(&'a Vcpu);

impl<'a> Looker<'a> {
    pub fn new(cpu: &'a Vcpu) -> Self {
        Self(cpu)
    }
}

impl Env for Looker<'_> {
    fn register(&self, r: Reg) -> Option<u64> {
        plain_register(self.0, r)
    }
    fn read(&self, space: Space, addr: u64, buf: &mut [u8]) -> bool {
        read(self.0, space, addr, buf)
    }
    fn segment_base(&self, selector: u16) -> Option<u64> {
        segment_base(self.0, selector)
    }
    fn code_bits(&self) -> u32 {
        self.0.key.code_bits()
    }
    fn variable(&self, _: Variable) -> Option<Value> {
        None
    }
}
