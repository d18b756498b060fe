//! DWARF's call frame information: `.eh_frame` and `.debug_frame`.
//!
//! Both are lists of entries in any order; the first question makes an index of them by address.

use super::{RSP, Read, Regs, Step, Width};
use crate::debug::symbols::module::Module;
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, EndianArcSlice, EvaluationResult,
    LittleEndian, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, Value,
};
use std::cell::OnceCell;
use std::sync::Arc;

type Bytes = EndianArcSlice<LittleEndian>;

/// Operations of one expression.
const STEPS: u32 = 1000;

/// DWARF's numbers as encodings: the ABIs number registers each in their own way.
const X86_64: [usize; 16] = [0, 2, 1, 3, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
/// In i386 DWARF's numbers are the encodings.
const I386: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// What a function keeps for its caller, as encodings.
const KEPT_64: [usize; 6] = [3, 5, 12, 13, 14, 15];
const KEPT_32: [usize; 4] = [3, 5, 6, 7];

pub struct Cfi {
    eh: Option<EhFrame<Bytes>>,
    debug: Option<DebugFrame<Bytes>>,
    bases: BaseAddresses,
    index: OnceCell<Vec<Span>>,
}

struct Span {
    start: u64,
    end: u64,
    offset: usize,
    eh: bool,
}

impl Cfi {
    /// Each section with its address; `None` if there is neither.
    pub fn new(
        eh: Option<(u64, Vec<u8>)>,
        debug: Option<(u64, Vec<u8>)>,
        text: u64,
        got: u64,
        width: u8,
    ) -> Option<Cfi> {
        let slice = |data: Vec<u8>| EndianArcSlice::new(Arc::from(data), LittleEndian);
        let bases = BaseAddresses::default()
            .set_eh_frame(eh.as_ref().map_or(0, |e| e.0))
            .set_text(text)
            .set_got(got);
        let eh = eh.filter(|e| !e.1.is_empty()).map(|(_, data)| {
            let mut eh = EhFrame::from(slice(data));
            eh.set_address_size(width);
            eh
        });
        let debug = debug.filter(|d| !d.1.is_empty()).map(|(_, data)| {
            let mut debug = DebugFrame::from(slice(data));
            debug.set_address_size(width);
            debug
        });
        (eh.is_some() || debug.is_some()).then_some(Cfi {
            eh,
            debug,
            bases,
            index: OnceCell::new(),
        })
    }

    fn index(&self) -> &[Span] {
        self.index.get_or_init(|| {
            let mut all = Vec::new();
            if let Some(eh) = &self.eh {
                spans(eh, &self.bases, true, &mut all);
            }
            if let Some(debug) = &self.debug {
                spans(debug, &self.bases, false, &mut all);
            }
            all.sort_by_key(|s| (s.start, s.end));
            all
        })
    }

    pub(super) fn step(&self, module: &Module, regs: &Regs, read: &mut Read) -> Step {
        let Some(at) = module.linked(regs.site()) else {
            return Step::Unknown;
        };
        let index = self.index();
        let behind = index.partition_point(|s| s.start <= at);
        // Two sections may both have a function; nothing else makes ranges overlap.
        let covers = |s: &&Span| at < s.end;
        let Some(span) = index[..behind].iter().rev().take(2).find(covers) else {
            return Step::Unknown;
        };
        let found = match (span.eh, &self.eh, &self.debug) {
            (true, Some(eh), _) => self.caller(eh, span.offset.into(), at, regs, read),
            (false, _, Some(debug)) => self.caller(debug, span.offset.into(), at, regs, read),
            _ => return Step::Unknown,
        };
        found.unwrap_or(Step::Lost)
    }

    fn caller<S: UnwindSection<Bytes>>(
        &self,
        section: &S,
        offset: S::Offset,
        at: u64,
        regs: &Regs,
        read: &mut Read,
    ) -> Option<Step> {
        let fde = section
            .fde_from_offset(&self.bases, offset, S::cie_from_offset)
            .ok()?;
        let mut context = UnwindContext::<usize>::new();
        let row = fde
            .unwind_info_for_address(section, &self.bases, &mut context, at)
            .ok()?;
        let encoding = fde.cie().encoding();
        let registers: &[usize] = match regs.width {
            Width::W64 => &X86_64,
            _ => &I386,
        };
        let mask = regs.width.mask();
        let value = |r: Register| regs.gpr[*registers.get(usize::from(r.0))?];
        let evaluate = |e: &UnwindExpression<usize>, initial: Option<u64>, read: &mut Read| {
            let mut machine = e.get(section).ok()?.evaluation(encoding);
            machine.set_max_iterations(STEPS);
            if let Some(v) = initial {
                machine.set_initial_value(v);
            }
            let mut state = machine.evaluate().ok()?;
            loop {
                state = match state {
                    EvaluationResult::Complete => break,
                    EvaluationResult::RequiresRegister { register, .. } => {
                        let v = Value::Generic(value(register)?);
                        machine.resume_with_register(v).ok()?
                    }
                    EvaluationResult::RequiresMemory { address, size, .. } => {
                        let v = super::number(read, address & mask, size.into())?;
                        machine.resume_with_memory(Value::Generic(v)).ok()?
                    }
                    _ => return None,
                };
            }
            match machine.value_result()? {
                Value::Generic(v) => Some(v & mask),
                v => v.to_u64(mask).ok(),
            }
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                value(*register)?.wrapping_add_signed(*offset) & mask
            }
            CfaRule::Expression(e) => evaluate(e, None, read)?,
        };
        // `None`: no rule. `Some(None)`: lost.
        let mut rule = |r: Register| -> Option<Option<u64>> {
            let known = match row.register(r)? {
                RegisterRule::SameValue => value(r),
                RegisterRule::Offset(o) => regs.load(read, cfa.wrapping_add_signed(o)),
                RegisterRule::ValOffset(o) => Some(cfa.wrapping_add_signed(o) & mask),
                RegisterRule::Register(other) => value(other),
                RegisterRule::Expression(e) => {
                    evaluate(&e, Some(cfa), read).and_then(|at| regs.load(read, at))
                }
                RegisterRule::ValExpression(e) => evaluate(&e, Some(cfa), read),
                RegisterRule::Constant(v) => Some(v),
                _ => None,
            };
            Some(known)
        };
        let mut gpr = [None; 16];
        for (number, encoded) in (0u16..).zip(registers) {
            let kept = match regs.width {
                Width::W64 => KEPT_64.contains(encoded),
                _ => KEPT_32.contains(encoded),
            };
            gpr[*encoded] = match rule(Register(number)) {
                Some(known) => known,
                None if *encoded == RSP => Some(cfa),
                None => regs.gpr[*encoded].filter(|_| kept),
            };
        }
        let back = fde.cie().return_address_register();
        // DWARF 5, 6.4.4: the outermost function's return address is undefined.
        if matches!(row.register(back), None | Some(RegisterRule::Undefined)) {
            return Some(Step::Outermost);
        }
        let pc = rule(back)??;
        Some(Step::Caller(Box::new(Regs {
            pc,
            gpr,
            exact: fde.is_signal_trampoline(),
            ..regs.clone()
        })))
    }
}

fn spans<S: UnwindSection<Bytes>>(
    section: &S,
    bases: &BaseAddresses,
    eh: bool,
    all: &mut Vec<Span>,
) {
    let mut entries = section.entries(bases);
    // Damage ends the list: what was before it counts.
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let Ok(fde) = partial.parse(S::cie_from_offset) else {
            continue;
        };
        all.push(Span {
            start: fde.initial_address(),
            end: fde.end_address(),
            offset: fde.offset(),
            eh,
        });
    }
}
