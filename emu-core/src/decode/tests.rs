//! Blocks built from what was learned against blocks decoded in full, and the life of a page of code.

use super::block::{Block, Builder};
use super::cache::Cache;
use crate::cpu::mode::ModeKey;
use crate::testing::{Page, Random, UserBench};
use crate::vcpu::Vcpu;

const CODE: u64 = 0x1000_0000;

fn bench() -> (UserBench, u64) {
    let mut b = UserBench::new("max");
    b.map(CODE, Page::Code);
    let off = b.cpu.fetch_offset(CODE).unwrap().expect("RAM");
    (b, off)
}

/// Bytes of code: prefixes and common opcodes more often than chance has them.
fn fill(random: &mut Random, buf: &mut [u8]) {
    const COMMON: &[u8] = &[
        0x48, 0x4c, 0x66, 0x67, 0x0f, 0xc5, 0xc4, 0xf3, 0x81, 0x83, 0x8b, 0x89, 0x8d, 0xc7, 0xe8,
        0xeb, 0x74, 0xa1, 0xb8, 0xd9, 0xc1, 0xd1, 0x05, 0x3d, 0x80, 0x00, 0xff, 0x7f, 0x24, 0x85,
        0xf7,
    ];
    for b in buf {
        let r = random.next();
        *b = match r >> 62 {
            0 | 1 => COMMON[(r >> 8) as usize % COMMON.len()],
            _ => r as u8,
        };
    }
}

/// All of a block but the names of its neighbours.
fn text(b: &Block) -> String {
    let mut t = format!("{:x} {:?} {:?} {:?}", b.off, b.bytes, b.ends, b.second);
    for i in &b.insns {
        t += &format!(
            "\n{:x} imm {:x} disp {:x} off {} code {} r {} {} {} {} mem {} {} {} {} {} len {} idx {} pfx {}",
            i.run as usize,
            i.imm,
            i.disp,
            i.off,
            i.code,
            i.r0,
            i.r1,
            i.r2,
            i.r3,
            i.base,
            i.index,
            i.scale,
            i.akind,
            i.seg,
            i.len,
            i.idx,
            i.pfx
        );
    }
    t
}

fn build(with: &mut Builder, cpu: &mut Vcpu, rip: u64, off: u64) -> String {
    text(
        &with
            .build(cpu, rip, CODE + (off & 0xfff), off)
            .expect("mapped"),
    )
}

#[test]
fn what_was_learned_decodes_as_the_decoder_does() {
    let (mut b, page) = bench();
    let keys = [
        b.cpu.key,
        ModeKey::LONG | ModeKey::PROTECTED | ModeKey::CODE32 | ModeKey::STACK32 | ModeKey::FLAT,
        ModeKey::PROTECTED | ModeKey::CODE32 | ModeKey::TS,
        ModeKey::AVX_UD,
    ];
    let mut learned = Builder::default();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut instructions = 0;
    for round in 0..60_000 {
        let mut code = [0; 64];
        fill(&mut random, &mut code);
        b.write(CODE + 0x100, &code);
        let key = keys[round % keys.len()];
        b.cpu.key = key;
        // Where branches wrap around, too.
        let rip = match (round / 8 % 3, key.contains(ModeKey::CODE64)) {
            (0, _) => CODE + 0x100,
            (1, true) => 0xffff_ffff_ffff_ffd0,
            (1, false) => 0xffff_ffd0,
            _ => 0xffd0,
        };
        let full = build(&mut Builder::default(), &mut b.cpu, rip, page + 0x100);
        let quick = build(&mut learned, &mut b.cpu, rip, page + 0x100);
        assert_eq!(quick, full, "{key:?} {rip:x}: {code:02x?}");
        instructions += full.lines().count() - 1;
        b.cpu.key = keys[0];
    }
    assert!(instructions > 60_000, "{instructions}");
}

/// Code of INC EAX; JMP to the next of them, all over the page.
fn increments(b: &mut UserBench) {
    for at in (0..0x1000).step_by(4) {
        b.write(CODE + at, &[0xff, 0xc0, 0xeb, 0]);
    }
}

/// Takes the block so far into the page, which stands at RAM offset `page`, into the cache; its name.
fn decoded(cache: &mut Cache, b: &mut UserBench, page: u64, at: u64) -> u32 {
    let (rip, machine) = (CODE + at, b.cpu.machine.clone());
    let block = cache.builder.build(&mut b.cpu, rip, rip, page + at);
    let block = block.expect("the page is mapped");
    let (off, bytes) = (block.off, u64::from(block.bytes));
    let n = cache.insert(block, &machine.ram);
    machine.ram.add_code(off, bytes);
    n
}

#[test]
fn a_page_written_as_data_loses_its_code_at_once() {
    let (mut b, page) = bench();
    increments(&mut b);
    let ram = &b.cpu.machine.clone().ram;
    let mut cache = Cache::default();
    let mut decode = |cache: &mut Cache, at: u64| decoded(cache, &mut b, page, at);
    let names: Vec<u32> = (0..64).map(|n| decode(&mut cache, n * 0x40)).collect();
    let key = cache.get(names[0]).key;
    // A write and a new block, over and over: nothing else dies, and the name stays.
    for _ in 0..20 {
        cache.invalidate(ram, page + 0x41, 1);
        assert_eq!(cache.find(page + 0x40, key), None);
        assert!(!ram.has_code(page + 0x40, 4) && ram.is_code_page(page));
        assert_eq!(decode(&mut cache, 0x40), names[1]);
    }
    assert_eq!(cache.find(page + 0x80, key), Some(names[2]));
    // Writes alone: the page is data after the fourth.
    for n in 0..4 {
        assert!(ram.is_code_page(page) && cache.alive(names[63]));
        cache.invalidate(ram, page + n * 0x40, 4);
    }
    assert!(!ram.is_code_page(page) && !ram.has_code(page, 0x1000));
    assert!(names.iter().all(|&n| !cache.alive(n)));
    assert_eq!(decode(&mut cache, 0xfc0), names[63]);
    assert_eq!(cache.stats.blocks_invalidated_by_write, 20 + 64);
}

#[test]
fn a_full_cache_keeps_what_translations_hold() {
    let (mut b, page) = bench();
    increments(&mut b);
    let ram = &b.cpu.machine.clone().ram;
    for (held, kept) in [(3, true), (200, false)] {
        let mut cache = Cache::default();
        cache.most_bytes = 64 << 10;
        let key = b.cpu.key;
        for n in 0..0x400 {
            let at = n * 4;
            let n = decoded(&mut cache, &mut b, page, at);
            cache.get(n).profile.translated.set(at < held * 4);
            if cache.stats.cache_flushes == 1 {
                break;
            }
        }
        assert_eq!(cache.stats.cache_flushes, 1);
        for at in (0..held * 4).step_by(4) {
            let found = cache.find(page + at, key);
            assert_eq!(found.is_some_and(|n| cache.get(n).off == page + at), kept);
            assert_eq!(cache.untranslate.contains(&(page + at, key)), !kept);
        }
        assert_eq!(ram.has_code(page, 4), kept);
        assert!(!ram.has_code(page + 0x80, 0x10));
        assert_eq!(cache.find(page + 0x80, key), None);
        // It still dies by a write.
        cache.invalidate(ram, page + 5, 1);
        assert_eq!(cache.find(page + 4, key), None);
    }
}

#[test]
fn an_undefined_instruction_depends_on_every_byte_that_was_looked_at() {
    let (mut b, page) = bench();
    let ram = &b.cpu.machine.clone().ram;
    // REX.W and 06h, which 64-bit code has not.
    b.write(CODE + 0x40, &[0x48, 0x06, 0xc4]);
    for written in [0, 1, 2, 14] {
        let mut cache = Cache::default();
        let n = decoded(&mut cache, &mut b, page, 0x40);
        assert_eq!(cache.get(n).insns.len(), 1);
        assert!(ram.has_code(page + 0x40 + written, 1) && cache.alive(n));
        cache.invalidate(ram, page + 0x40 + written, 1);
        assert!(!cache.alive(n), "byte {written}");
    }
}

#[test]
fn rex_b_makes_pause_an_exchange() {
    use crate::interp::Interp;
    for (code, a, r8) in [
        (&[0xf3, 0x41, 0x90][..], 0x2222_2222, 0x1111_1111),
        (&[0xf3, 0x49, 0x90], 0x2222_2222_2222, 0x1111_1111_1111),
        (
            &[0x66, 0xf3, 0x41, 0x90],
            0x1111_1111_2222,
            0x2222_2222_1111,
        ),
        (&[0xf3, 0x90], 0x1111_1111_1111, 0x2222_2222_2222),
        (&[0xf3, 0x40, 0x90], 0x1111_1111_1111, 0x2222_2222_2222),
        // REX counts only right before the opcode.
        (&[0x41, 0xf3, 0x90], 0x1111_1111_1111, 0x2222_2222_2222),
    ] {
        let (mut b, _) = bench();
        b.write(CODE, &[code, &[0x90; 8]].concat());
        b.enter(64);
        b.cpu.rip = CODE;
        (b.cpu.gpr[0], b.cpu.gpr[8]) = (0x1111_1111_1111, 0x2222_2222_2222);
        assert_eq!(b.run(&mut Interp::default(), 1), None);
        assert_eq!((b.cpu.gpr[0], b.cpu.gpr[8]), (a, r8), "{code:x?}");
        assert_eq!(b.cpu.rip, CODE + code.len() as u64);
    }
}

#[test]
fn vex_w_outside_64_bit_code_is_the_vendors_choice() {
    use crate::cpu::cpuid::CpuModel;
    use crate::decode::block::decode_one;
    use crate::decode::insn::pfx;
    use crate::decode::table::Ctx;
    let refused = |model: &str, key: ModeKey, w: u8, op: u8| {
        let model = CpuModel::parse(model).expect("a CPU model");
        let ctx = Ctx { key, model: &model };
        let code = [0xc4, 0xe3, 0x79 | w << 7, op, 0xc0, 0];
        let (insn, _) = decode_one(&code, CODE, &ctx).expect("a known encoding");
        insn.pfx & pfx::REFUSED != 0
    };
    let code32 = ModeKey::PROTECTED | ModeKey::CODE32;
    let code64 = ModeKey::PROTECTED | ModeKey::LONG | ModeKey::CODE64;
    let intel = "pentium3,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+xsave,+avx";
    // VPEXTRD, VPINSRD.
    for op in [0x16, 0x22] {
        assert!(!refused("max", code32, 0, op));
        assert!(refused("max", code32, 1, op));
        assert!(!refused("max", code64, 1, op));
        assert!(!refused(intel, code32, 1, op));
    }
}
