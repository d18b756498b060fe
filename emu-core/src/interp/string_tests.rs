//! Repeated string instructions in segments that are not flat: whole runs do what single elements do.
//!
//! The oracle is the same instruction with a data breakpoint armed somewhere else, which makes every chunk one element.

use super::Interp;
use crate::addr::PhysAddr;
use crate::cpu::control::cr0;
use crate::cpu::flags;
use crate::cpu::segment::{self, Segment, attr};
use crate::engine::{Engine, Exit};
use crate::testing::{Page, Random, UserBench, vcpu};
use crate::vcpu::{Vcpu, reg};

const RAM: usize = 1 << 20;
const CODE: u64 = 0xf_0000;

/// A machine whose DS and ES are anything, about to run `code` with pointers near the ends of segments and pages.
fn machine(seed: u64, code: &[u8], wide: bool) -> Vcpu {
    let mut r = Random(seed);
    let mut cpu = vcpu("max", RAM as u64);
    let mut fill = vec![0; RAM];
    // Few values, so that comparisons run for a while.
    for b in &mut fill[..CODE as usize] {
        *b = if r.below(300) == 0 { r.next() as u8 } else { 7 };
    }
    fill[CODE as usize..][..code.len()].copy_from_slice(code);
    assert!(cpu.machine.ram.write(PhysAddr(0), &fill));
    let protected = wide || r.below(2) == 0;
    let data = |r: &mut Random| Segment {
        selector: 0x10,
        attr: attr::P
            | attr::S
            | r.of(&[attr::WRITE_READ, attr::WRITE_READ, 0])
            | r.of(&[0, 0, attr::DOWN_CONFORMING])
            | r.of(&[0, attr::DB]),
        limit: match wide {
            true => r.of(&[0xffff_ffff, 0x4fff, 0x2803, 0x1000]),
            false => r.of(&[0xffff, 0xffff, 0x4fff, 0x2803]),
        },
        base: match wide {
            true => r.below(0x4_0000),
            false => r.below(0x4000) << 4,
        },
    };
    for s in [segment::DS, segment::ES] {
        let s = s as usize;
        cpu.seg[s] = data(&mut r);
        if !protected {
            cpu.seg[s].attr = attr::P | attr::S | attr::WRITE_READ;
            cpu.seg[s].limit = 0xffff;
        }
        cpu.seg_base[s] = cpu.seg[s].base;
    }
    let code = &mut cpu.seg[segment::CS as usize];
    code.base = CODE;
    code.selector = 8;
    code.attr = attr::P | attr::S | attr::CODE | attr::WRITE_READ | if wide { attr::DB } else { 0 };
    cpu.seg_base[segment::CS as usize] = CODE;
    if protected {
        cpu.cr0 |= cr0::PE;
    }
    let near = |r: &mut Random| {
        let edge = r.of(&[0u64, 0x1000, 0x2800, 0x5000, 0x1_0000, 0xffff_ffff]);
        let at = edge.wrapping_add(r.below(600)).wrapping_sub(400);
        at & if wide { 0xffff_ffff } else { 0xffff }
    };
    cpu.gpr[reg::RSI] = near(&mut r);
    cpu.gpr[reg::RDI] = match r.below(4) {
        // Runs that overlap.
        0 => cpu.gpr[reg::RSI].wrapping_add(r.below(20)).wrapping_sub(10) & 0xffff,
        _ => near(&mut r),
    };
    cpu.gpr[reg::RCX] = r.of(&[1, 5, 100, 300, 5000]);
    cpu.gpr[reg::RAX] = r.of(&[0x0707_0707, 0x1234_5678]);
    cpu.sys = 2 | if r.below(6) == 0 { flags::DF } else { 0 };
    cpu.rip = 0;
    cpu.idtr.limit = 0;
    cpu.tlb.flush_all(false);
    cpu.refresh_mode();
    cpu
}

/// Runs to the HLT behind the instruction, or to the triple fault that an exception is.
fn run(cpu: &mut Vcpu) -> Exit {
    let mut engine = Interp::default();
    loop {
        match engine.run(cpu, 10_000) {
            Exit::Fuel => {}
            end => return end,
        }
    }
}

#[test]
fn runs_do_what_elements_do() {
    let (mut halts, mut faults, mut shorter) = (0, 0, 0);
    for seed in 1..=600u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let wide = r.below(2) == 0;
        let op = r.of(&[0xa4u8, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xa6, 0xa7]);
        let code = [r.of(&[0xf3, 0xf2]), op, 0xf4];
        let mut cpu = machine(seed, &code, wide);
        let mut slow = machine(seed, &code, wide);
        // DR7: L0, 1 byte, writes.
        (slow.dr[0], slow.dr[7]) = (0xff_fff0, 0x0001_0401);
        let (exit, oracle) = (run(&mut cpu), run(&mut slow));
        let what = format!("seed {seed}, {code:02x?}, {:?}", cpu.seg);
        assert_eq!(exit, oracle, "{what}");
        assert_eq!(cpu.gpr[..16], slow.gpr[..16], "{what}");
        assert_eq!((cpu.rip, cpu.rflags()), (slow.rip, slow.rflags()), "{what}");
        let ram = |cpu: &Vcpu| {
            let mut all = vec![0; RAM];
            assert!(cpu.machine.ram.read(PhysAddr(0), &mut all));
            all
        };
        assert!(ram(&cpu) == ram(&slow), "RAM differs: {what}");
        match exit {
            Exit::Halt => halts += 1,
            _ => faults += 1,
        }
        shorter += u64::from(cpu.retired < slow.retired);
    }
    assert!(
        halts > 200 && faults > 200 && shorter > 150,
        "{halts} {faults} {shorter}"
    );
}

/// With 32-bit addresses in 64-bit code the offset wraps, wherever the segment's base puts that in a page.
#[test]
fn a_run_ends_where_its_offset_wraps() {
    let mut b = UserBench::new("max");
    b.map(0x1000_0000, Page::Code);
    b.map(0x1_0000_0000, Page::ReadOnly);
    b.map(0, Page::ReadOnly);
    b.map(0x2000_0000, Page::ReadWrite);
    // rep movsb [edi], fs:[esi]
    b.write(0x1000_0000, &[0x67, 0x64, 0xf3, 0xa4]);
    b.write(0x1_0000_00c0, &[1; 0x80]);
    b.write(0x100, &[2; 0x40]);
    b.cpu.seg[segment::FS as usize].base = 0x100;
    b.cpu.seg_base[segment::FS as usize] = 0x100;
    b.cpu.gpr[reg::RSI] = 0xffff_ffc0;
    b.cpu.gpr[reg::RDI] = 0x2000_0000;
    b.cpu.gpr[reg::RCX] = 0x80;
    b.cpu.rip = 0x1000_0000;
    let mut engine = Interp::default();
    assert_eq!(b.run(&mut engine, 2), None);
    assert_eq!((b.cpu.gpr[reg::RCX], b.cpu.gpr[reg::RSI]), (0, 0x40));
    let mut got = [0; 0x80];
    b.read(0x2000_0000, &mut got);
    assert_eq!(
        (&got[..0x40], &got[0x40..]),
        (&[1; 0x40][..], &[2; 0x40][..])
    );
}
