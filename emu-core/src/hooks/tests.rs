//! What the random machines of the workspace's tests cannot say: which stop comes, and when.

use super::*;
use crate::engine::{Engine, Exit};
use crate::interp::Interp;
use crate::testing::{Page, UserBench};
use crate::vcpu::reg;

const CODE: u64 = 0x1000_0000;
const DATA: u64 = 0x2000_0000;

/// Runs until the guest stops; why.
fn go(b: &mut UserBench, e: &mut Interp) -> Vec<Hit> {
    b.cpu.arm_hooks();
    assert_eq!(e.run(&mut b.cpu, 100_000), Exit::Debug);
    b.cpu.take_stops()
}

fn bench(code: &[u8]) -> (UserBench, Interp) {
    let mut b = UserBench::new("max");
    b.map(CODE, Page::Code);
    b.map(DATA, Page::ReadWrite);
    b.write(CODE, code);
    b.cpu.rip = CODE;
    (b, Interp::default())
}

fn at(at: u64) -> What {
    What::Code {
        space: Space::Linear,
        at,
    }
}

#[test]
fn a_breakpoint_stops_before_its_instruction_each_time_round() {
    // inc eax; nop; jmp $-3
    let (mut b, mut e) = bench(&[0xff, 0xc0, 0x90, 0xeb, 0xfb]);
    // Decoded before the breakpoint is set.
    e.run(&mut b.cpu, 30);
    b.cpu.rip = CODE;
    b.cpu.gpr[0] = 0;
    let id = b.cpu.hooks().add(at(CODE + 2), None);
    for n in 1..4 {
        let cause = Cause::Code;
        assert_eq!(go(&mut b, &mut e), [Hit { id, cause }]);
        assert_eq!((b.cpu.rip, b.cpu.gpr[0]), (CODE + 2, n));
    }
    assert_eq!(b.cpu.retired, 30 + 1 + 3 + 3);
    b.cpu.hooks().remove(id);
    b.cpu.arm_hooks();
    assert_eq!(e.run(&mut b.cpu, 100), Exit::Fuel);
}

#[test]
fn a_place_within_an_instruction_is_none() {
    // mov eax, 90909090h; jmp $
    let (mut b, mut e) = bench(&[0xb8, 0x90, 0x90, 0x90, 0x90, 0xeb, 0xfe]);
    b.cpu.hooks().add(at(CODE + 2), None);
    b.cpu.arm_hooks();
    assert_eq!(e.run(&mut b.cpu, 100), Exit::Fuel);
    assert_eq!(b.cpu.gpr[0], 0x9090_9090);
}

#[test]
fn hits_are_counted_ignored_and_judged() {
    let (mut b, mut e) = bench(&[0xff, 0xc0, 0x90, 0xeb, 0xfb]);
    let odd: Condition = Box::new(|c, _| c.gpr[0] & 1 != 0);
    let id = b.cpu.hooks().add(at(CODE + 2), Some(odd));
    b.cpu.hooks().get_mut(id).expect("it").ignore = 2;
    go(&mut b, &mut e);
    assert_eq!(b.cpu.gpr[0], 5);
    assert_eq!(b.cpu.hooks().list()[0].hits, 3);
    assert_eq!((b.cpu.hooks().judgements, b.cpu.hooks().declined), (5, 2));
}

#[test]
fn a_watchpoint_stops_behind_the_write_that_changes_something() {
    // mov [rdi], eax; mov [rdi], eax; inc eax; mov [rdi+2], ax; jmp $
    let code = [
        0x89, 0x07, 0x89, 0x07, 0xff, 0xc0, 0x66, 0x89, 0x47, 2, 0xeb, 0xfe,
    ];
    let (mut b, mut e) = bench(&code);
    b.cpu.gpr[reg::RDI] = DATA;
    b.cpu.gpr[reg::RAX] = 7;
    let id = b.cpu.hooks().add(
        What::Data {
            space: Space::Linear,
            at: DATA,
            len: 4,
            read: false,
            write: true,
            changed: true,
        },
        None,
    );
    let stop = go(&mut b, &mut e);
    let cause = |lin, size, old, new| Cause::Data {
        lin,
        size,
        write: true,
        old,
        new,
    };
    let hit = |cause| Hit { id, cause };
    assert_eq!(stop, [hit(cause(DATA, 4, 0, 7))]);
    assert_eq!((b.cpu.rip, b.cpu.retired), (CODE + 2, 1));
    assert_eq!(go(&mut b, &mut e), [hit(cause(DATA + 2, 2, 0, 8))]);
    assert_eq!((b.cpu.rip, b.cpu.retired), (CODE + 10, 4));
}

#[test]
fn a_step_is_one_iteration_and_counts_when_the_others_would() {
    // mov ecx, 3; rep stosb; nop; jmp $
    let code = [0xb9, 3, 0, 0, 0, 0xf3, 0xaa, 0x90, 0xeb, 0xfe];
    let (mut b, mut e) = bench(&code);
    b.cpu.gpr[reg::RDI] = DATA;
    let mut seen = Vec::new();
    for _ in 0..5 {
        b.cpu.hooks().step();
        let stops = go(&mut b, &mut e);
        let (id, cause) = (NOBODY, Cause::Step);
        assert_eq!(stops, [Hit { id, cause }]);
        seen.push((b.cpu.rip - CODE, b.cpu.gpr[reg::RCX], b.cpu.retired));
    }
    let expected = [(5, 3, 1), (5, 2, 1), (5, 1, 1), (7, 0, 2), (8, 0, 3)];
    assert_eq!(seen, expected);
}

#[test]
fn an_exception_is_caught_before_it_is_delivered() {
    // inc eax; ud2
    let (mut b, mut e) = bench(&[0xff, 0xc0, 0x0f, 0x0b]);
    let vector = Some(6);
    let what = What::Exception {
        vector,
        error: None,
    };
    let id = b.cpu.hooks().add(what, None);
    let cause = Cause::Exception(Fault::UD);
    assert_eq!(go(&mut b, &mut e), [Hit { id, cause }]);
    assert_eq!((b.cpu.rip, b.cpu.retired, b.cpu.cpl), (CODE + 2, 1, 3));
    // Then it is.
    b.cpu.arm_hooks();
    let trap = b.run(&mut e, 1).expect("#UD");
    assert_eq!((trap.vector, trap.rip), (6, CODE + 2));
}

#[test]
fn a_page_that_is_mapped_later_has_its_breakpoint() {
    let (mut b, mut e) = bench(&[0xeb, 0xfe]);
    let other = CODE + 0x10_0000;
    b.cpu.hooks().add(at(other), None);
    b.cpu.arm_hooks();
    assert_eq!(e.run(&mut b.cpu, 10), Exit::Fuel);
    b.map(other, Page::Code);
    b.write(other, &[0x90, 0xeb, 0xfe]);
    b.cpu.rip = other;
    go(&mut b, &mut e);
    assert_eq!(b.cpu.rip, other);
}

#[test]
fn memory_is_looked_at_and_changed_whatever_its_rights() {
    let (mut b, mut e) = bench(&[0xff, 0xc0, 0xeb, 0xfc]);
    e.run(&mut b.cpu, 10);
    let mut code = [0; 2];
    assert!(b.cpu.peek(CODE, &mut code));
    assert_eq!(code, [0xff, 0xc0]);
    assert!(!b.cpu.peek(CODE + 0xfff, &mut code));
    // dec eax instead; and nothing where part of it is not mapped.
    assert!(b.cpu.poke(CODE, &[0xff, 0xc8]));
    assert!(!b.cpu.poke(CODE + 0xfff, &[1, 2]));
    b.cpu.peek(CODE + 0xfff, &mut code[..1]);
    assert_eq!(code[0], 0);
    let before = b.cpu.gpr[0];
    e.run(&mut b.cpu, 20);
    assert_eq!(b.cpu.gpr[0] as u32, (before as u32).wrapping_sub(10));
}
