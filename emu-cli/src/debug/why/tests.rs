//! Faults of small programs, and what is said of each; and that every place of ours that raises one can be told of.

use super::*;
use emu_core::addr::PhysAddr;
use emu_core::cpu::segment::{CS, Segment};
use emu_core::engine::Engine;
use emu_core::interp::Interp;
use emu_core::testing::{Page, UserBench, vcpu};
use emu_core::vcpu::Vcpu;

const CODE: u64 = 0x1000_0000;

/// What is said of the vCPU's last exception, with bare addresses.
fn last(cpu: &Vcpu) -> (String, Value) {
    let x = cpu.last_exception.as_ref().expect("an exception");
    let place = |at: u64| format!("{at:#x}");
    let text = |i: &Instruction| disasm::text(i, disasm::Flavor::Intel, &|_| None);
    (told(x, &place, &text), fields(x))
}

/// Runs one instruction of a user's 64-bit or 32-bit program, which faults.
fn user(bits: u32, code: &[u8], prepare: impl FnOnce(&mut UserBench)) -> (String, Value) {
    let mut b = UserBench::new("max");
    b.map(CODE, Page::Code);
    b.map(CODE + 0x1000, Page::ReadOnly);
    b.write(CODE, code);
    b.enter(bits);
    b.cpu.rip = CODE;
    // As with a debugger, for whom more is kept.
    b.cpu.hooks();
    prepare(&mut b);
    b.run(&mut Interp::default(), 1).expect("a fault");
    last(&b.cpu)
}

/// The same in real mode, where CPL is 0; without a table of interrupts nothing can be delivered.
fn real(code: &[u8], prepare: impl FnOnce(&mut Vcpu)) -> (String, Value) {
    let mut cpu = vcpu("max", 1 << 20);
    assert!(cpu.machine.ram.write(PhysAddr(0x7c00), code));
    let mut s: Segment = cpu.seg[CS as usize];
    s.load_real(0);
    cpu.set_segment(CS as usize, s);
    cpu.refresh_mode();
    cpu.rip = 0x7c00;
    cpu.hooks();
    prepare(&mut cpu);
    Interp::default().run(&mut cpu, 1);
    last(&cpu)
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for w in words {
        assert!(text.contains(w), "no \"{w}\" in\n{text}");
    }
}

const GENERAL_PROTECTION: &str =
    "SDM Vol. 3A, 6.15, Interrupt 13—General Protection Exception (#GP)";

#[test]
fn a_model_specific_register_that_is_none() {
    let (text, fields) = real(&[0x0f, 0x30], |c| c.gpr[1] = 0x1234_5678);
    has(
        &text,
        &[
            "The last exception was #GP, error 0x0, at 0x7c00, after 0 instructions, in real mode at CPL 0.",
            "The instruction: wrmsr\n",
            "The check at emu-core/src/cpu/msr.rs:",
            "=> match fixed(n) {\n",
            "_ => return self.gp(0),\n",
            "SDM Vol. 2D, WRMSR, Real-Address Mode Exceptions\n",
            "SDM Vol. 4; AMD APM Vol. 2, appendix A\n",
            GENERAL_PROTECTION,
        ],
    );
    assert_eq!(fields["instruction"], "wrmsr");
    assert_eq!((&fields["vector"], &fields["cpl"]), (&json!(13), &json!(0)));
    assert_eq!(fields["check"]["file"], "emu-core/src/cpu/msr.rs");
    assert_eq!(
        fields["manual"][0],
        "SDM Vol. 2D, WRMSR, Real-Address Mode Exceptions"
    );
    assert_eq!(fields["manual"].as_array().unwrap().len(), 3);
}

#[test]
fn paging_without_protection() {
    let (text, _) = real(&[0x0f, 0x22, 0xc0], |c| c.gpr[0] = 0x8000_0000);
    has(
        &text,
        &[
            "mov    cr0,eax\n",
            "    if v >> 32 != 0 || v & (PG | PE) == PG || v & (NW | CD) == NW {\n        return self.gp(0);\n",
            "SDM Vol. 2B, MOV—Move to/from Control Registers, Real-Address Mode Exceptions\n",
            "SDM Vol. 2B, MOV control registers; Vol. 3A, 2.5\n",
        ],
    );
}

#[test]
fn a_port_without_the_right_to_it() {
    let (text, _) = user(64, &[0xec], |_| ());
    has(
        &text,
        &[
            "in 64-bit mode at CPL 3",
            "in     al,dx\n",
            "emu-core/src/interp/system.rs:",
            "if at + 1 > u64::from(self.tr.limit) {\n",
            "SDM Vol. 2A, IN, 64-Bit Mode Exceptions\n",
            "SDM Vol. 1, 19.5\n",
        ],
    );
}

#[test]
fn what_only_the_kernel_may_do() {
    let (text, _) = user(32, &[0x0f, 0x30], |_| ());
    has(
        &text,
        &[
            "in compatibility mode at CPL 3",
            "    if self.cpl == 0 { Ok(()) } else { self.gp(0) }\n",
            "SDM Vol. 2D, WRMSR, Compatibility Mode Exceptions\nSDM Vol. 3A, 5.9\n",
        ],
    );
}

#[test]
fn a_null_selector_for_the_stack() {
    let (text, _) = user(64, &[0x8e, 0xd0], |b| b.cpu.gpr[0] = 0);
    has(
        &text,
        &[
            "mov    ss,",
            "if !self.code64() || cpl == 3 || rpl != cpl {\n",
            "SDM Vol. 2B, MOV, 64-Bit Mode Exceptions\nSDM Vol. 3A, 5.4.1\n",
        ],
    );
}

#[test]
fn a_users_page_fault() {
    // Not there, and not to be written.
    let (text, fields) = user(64, &[0x8b, 0x04, 0x25, 0, 0, 0, 0x20], |_| ());
    has(
        &text,
        &[
            "#PF, error 0x4 (user, read, page not present), address 0x20000000",
            "if e & P == 0 {\n        return Err(refused(0));\n",
            "\"info page 0x20000000\" shows the walk as it is now.\n",
            "SDM Vol. 2B, MOV, 64-Bit Mode Exceptions\nSDM Vol. 3A, 4.3 to 4.5 and 4.7\n",
            "Interrupt 14—Page-Fault Exception (#PF); 4.7\n",
        ],
    );
    assert_eq!(fields["address"], 0x2000_0000);
    let (text, _) = user(64, &[0x89, 0x04, 0x25, 0, 0x10, 0, 0x10], |_| ());
    has(
        &text,
        &[
            "#PF, error 0x7",
            "Access::Write => write,\n",
            "if !allowed {\n",
            "SDM Vol. 3A, 4.6\n",
        ],
    );
    // Fetched where nothing is.
    let (text, fields) = user(64, &[0x90], |b| b.cpu.rip = 0x2000_0000);
    has(
        &text,
        &[
            "#PF, error 0x14",
            "It came of fetching the instruction there.\n",
        ],
    );
    assert!(!text.contains("Mode Exceptions"), "{text}");
    assert_eq!(fields["during"], "fetch");
}

#[test]
fn a_misaligned_fxsave() {
    let (text, _) = user(64, &[0x0f, 0xae, 0x00], |b| b.cpu.gpr[0] = CODE + 8);
    has(
        &text,
        &[
            "fxsave [rax]\n",
            "if at & (align - 1) != 0 {\n    ...\n",
            "return c.gp(0);\n",
            "SDM Vol. 2A, FXSAVE, 64-Bit Mode Exceptions\nSDM Vol. 2A, FXSAVE; Vol. 2D, XSAVE\n",
        ],
    );
}

#[test]
fn a_gate_that_is_not_for_this_level() {
    let (text, _) = user(64, &[0xcd, 0x80], |_| ());
    has(
        &text,
        &[
            "#GP, error 0x402 (IDT entry 0x80)",
            "int    0x80\n",
            "    if source.software() && gate.dpl() < self.cpl {\n        return self.gp(code);\n",
            "SDM Vol. 2A, INT n/INTO/INT3/INT1, 64-Bit Mode Exceptions\nSDM Vol. 3A, 6.14\n",
        ],
    );
}

#[test]
fn an_address_that_is_not_canonical_and_an_instruction_that_is_none() {
    let (text, _) = user(64, &[0x8b, 0x00], |b| b.cpu.gpr[0] = 1 << 62);
    has(
        &text,
        &[
            "#GP, error 0x0",
            "if self.key.contains(ModeKey::LONG) && !self.canonical(lin) {\n",
            "SDM Vol. 1, 3.3.7.1\n",
        ],
    );
    let (text, _) = user(64, &[0x06], |_| ());
    has(
        &text,
        &[
            "#UD, at",
            "(bad)",
            "op!(|c: &mut Vcpu, _: &Insn| c.ud())",
            "SDM Vol. 3A, table 6-2\n",
        ],
    );
    // The FPU is switched off.
    let (text, _) = user(64, &[0xd9, 0xe8], |b| {
        b.cpu.cr0 |= 8;
        b.cpu.refresh_mode();
    });
    has(
        &text,
        &[
            "#NM, at",
            "Unit::X87 => key.contains(ModeKey::FPU_NM).then_some(not_available!()),\n",
            "SDM Vol. 2A, FLD1/FLDL2T/FLDL2E/FLDPI/FLDLG2/FLDLN2/FLDZ, 64-Bit Mode Exceptions\n",
            "SDM Vol. 3A, 2.5 and 13.1; Vol. 2A, 2.4\n",
        ],
    );
}

#[test]
fn a_triple_fault_is_told_step_by_step() {
    let (text, fields) = real(&[0x0f, 0x0b], |c| c.idtr.limit = 0);
    has(
        &text,
        &[
            "The last exception was #UD",
            "ud2\n",
            "Delivering #UD raised #GP.\nThe check at emu-core/src/cpu/interrupt.rs:",
            "if at + 3 > u64::from(self.idtr.limit) {\n",
            "Delivering #GP raised #GP.\n",
            "Both together are a double fault.\nSDM Vol. 3A, 6.15, Interrupt 8—",
            "Delivering #DF raised #GP.\n",
            "That is a triple fault: the CPU shuts down.\n",
        ],
    );
    let then: Vec<u64> = fields["then"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["vector"].as_u64().unwrap())
        .collect();
    assert_eq!(then, [13, 13, 13]);
    // An exception that comes later is not told with what raised this one.
    let (text, _) = real(&[0xf4], |c| {
        c.idtr.limit = 0;
        c.exception(Fault::UD);
    });
    has(&text, &["The last exception was #UD"]);
    assert!(text.find("The check") > text.find("Delivering"), "{text}");
}

/// Lines that raise a fault, as `#[track_caller]` names them.
fn raises(line: &str) -> bool {
    let l = line.trim_start();
    const WORDS: [&str; 9] = [
        ".gp(",
        ".ud(",
        ".raise(",
        ".page_fault(",
        ".raise_non_canonical(",
        ".ts(",
        "not_available(",
        "not_available!(",
        "undefined!(",
    ];
    !l.starts_with("//") && !l.contains("fn ") && WORDS.iter().any(|w| l.contains(w))
}

/// Lines that need no manual, and why.
const EXCUSED: &[(&str, &str, &str)] = &[
    (
        "src/decode/block.rs",
        "blank(op!(|c: &mut Vcpu, _: &Insn| c.ud()))",
        "a placeholder, which is written over before it can run",
    ),
    (
        "src/decode/block.rs",
        "        op!(|c: &mut Vcpu, _: &Insn| c.ud())\n    };",
        "in a macro: the places that use it are told",
    ),
    (
        "src/decode/block.rs",
        "        op!(|c: &mut Vcpu, _: &Insn| Err(c.raise(Fault::plain(vector::NM))))\n    };",
        "in a macro: the places that use it are told",
    ),
    (
        "src/interp/mod.rs",
        "return cpu.ud();",
        "no memory is there: that the bus floats high is our board's",
    ),
    (
        "src/vcpu.rs",
        "Err(self.raise(Fault::coded(vector::GP, error)))",
        "has #[track_caller]: its callers are told",
    ),
    (
        "src/vcpu.rs",
        "Err(self.raise(Fault::UD))",
        "has #[track_caller]: its callers are told",
    ),
    (
        "src/interp/state_save.rs",
        "Err(c.raise(Fault::plain(vector::NM)))",
        "has #[track_caller]: its callers are told",
    ),
    (
        "src/cpu/task.rs",
        "Err(self.raise(Fault::coded(vector::TS, error)))",
        "has #[track_caller]: its callers are told",
    ),
];

#[test]
fn every_check_has_its_lines_and_a_citation() {
    let mut sites = 0;
    let mut excused = vec![0; EXCUSED.len()];
    let mut without = Vec::new();
    for (file, text) in source::FILES {
        let mut at = 0;
        for (n, line) in text.lines().enumerate() {
            let rest = &text[at..];
            at += line.len() + 1;
            if !raises(line) {
                continue;
            }
            sites += 1;
            let number = n as u32 + 1;
            let excuse = EXCUSED.iter().position(|(f, words, _)| {
                f == file && rest.find(words).is_some_and(|found| found <= line.len())
            });
            if let Some(e) = excuse {
                excused[e] += 1;
                continue;
            }
            let lines = check::lines(text, number);
            assert!(
                lines.iter().any(|l| l.trim() == line.trim()),
                "{file}:{number}: {lines:?}"
            );
            assert!(lines.len() <= 14, "{file}:{number}: {lines:?}");
            match check::citation(text, number) {
                None => without.push(format!("{file}:{number}: {}", line.trim())),
                Some(c) => assert!(c.len() < 80 && !c.contains('`'), "{file}:{number}: {c}"),
            }
        }
    }
    assert!(without.is_empty(), "no citation at {without:#?}");
    assert!(sites > 190, "{sites} places");
    for (e, n) in EXCUSED.iter().zip(excused) {
        assert!(n > 0, "{}: \"{}\" is no more", e.0, e.1);
    }
}

#[test]
fn a_check_is_shown_with_what_it_asks() {
    let text = "//! Top (SDM Vol. 1, 2.3).\n\
        impl X {\n\
        \x20   /// F (APM Vol. 3, NOP; so it is).\n\
        \x20   fn f(\n\
        \x20       &self,\n\
        \x20   ) -> R {\n\
        \x20       let ok = match v {\n\
        \x20           1 => true,\n\
        \x20           _ => false,\n\
        \x20       };\n\
        \x20       // SDM Vol. 2A, HLT: why.\n\
        \x20       if !ok\n\
        \x20           && self.other()\n\
        \x20       {\n\
        \x20           return self.gp(0);\n\
        \x20       }\n\
        \x20       self.gp(1)\n\
        \x20   }\n\
        }\n\
        fn g() {\n    go.ud()\n}\n";
    assert_eq!(
        check::lines(text, 15),
        [
            "let ok = match v {",
            "    1 => true,",
            "    _ => false,",
            "};",
            "...",
            "if !ok",
            "    && self.other()",
            "{",
            "    return self.gp(0);"
        ]
    );
    assert_eq!(
        check::citation(text, 15).as_deref(),
        Some("SDM Vol. 2A, HLT")
    );
    assert_eq!(
        check::citation(text, 17).as_deref(),
        Some("APM Vol. 3, NOP; so it is")
    );
    assert_eq!(
        check::citation(text, 21).as_deref(),
        Some("SDM Vol. 1, 2.3")
    );
    assert!(check::lines(text, 17).contains(&"if !ok".to_string()));
    assert_eq!(check::lines(text, 17).last().unwrap(), "self.gp(1)");
    assert_eq!(check::lines(text, 21), ["go.ud()"]);
    // A line that is not there.
    assert!(check::lines(text, 0).is_empty() && check::lines("", 1).is_empty());
    assert_eq!(check::citation(text, 99), None);
}
