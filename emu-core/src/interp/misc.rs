//! Small families: flag instructions, decimal arithmetic, BOUND, NOPs and fences, CRC32, ADX, random numbers, BMI1 and BMI2.

use crate::by_width;
use crate::cpu::flags::{self, Lazy};
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, Op, TwoSpeed, quick, run};
use crate::decode::table::{Ctx, width};
use crate::fault::{Fault, R, vector};
use crate::interp::ea::{self, Mem, Reg1, Src};
use crate::op;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::marker::PhantomData;

/// CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC.
pub fn pick_flag(x: &Instruction, c: &Ctx) -> Option<Handler> {
    let compat = !c.key.contains(crate::cpu::mode::ModeKey::CODE64) || c.model.has("lahf-lm");
    Some(match x.mnemonic() {
        Mnemonic::Clc => op!(|c: &mut Vcpu, _: &Insn| {
            c.flags = c.flags.with_cf(false);
            Ok(())
        }),
        Mnemonic::Stc => op!(|c: &mut Vcpu, _: &Insn| {
            c.flags = c.flags.with_cf(true);
            Ok(())
        }),
        Mnemonic::Cmc => op!(|c: &mut Vcpu, _: &Insn| {
            c.flags = c.flags.with_cf(!c.flags.cf());
            Ok(())
        }),
        Mnemonic::Cld => op!(|c: &mut Vcpu, _: &Insn| {
            c.sys &= !flags::DF;
            Ok(())
        }),
        Mnemonic::Std => op!(|c: &mut Vcpu, _: &Insn| {
            c.sys |= flags::DF;
            Ok(())
        }),
        Mnemonic::Lahf | Mnemonic::Sahf if !compat => return None,
        Mnemonic::Lahf => op!(|c: &mut Vcpu, _: &Insn| {
            let v = c.flags.bits() as u8 | 2;
            c.gpr[reg::RAX] = c.gpr[reg::RAX] & !0xff00 | u64::from(v) << 8;
            Ok(())
        }),
        Mnemonic::Sahf => op!(|c: &mut Vcpu, _: &Insn| {
            let mask = flags::SF | flags::ZF | flags::AF | flags::PF | flags::CF;
            c.flags = c.flags.with(mask, c.gpr[reg::RAX] >> 8);
            Ok(())
        }),
        _ => op!(|c: &mut Vcpu, _: &Insn| {
            let v = if c.flags.cf() { 0xff } else { 0 };
            u8::put(c, 0, v);
            Ok(())
        }),
    })
}

/// SF, ZF, PF from AL, with CF and AF as given and OF = 0 (undefined by the manual).
fn bcd_flags(al: u8, cf: bool, af: bool) -> Lazy {
    let l = Lazy::logic(al);
    l.with(
        flags::CF | flags::AF,
        (u64::from(cf) * flags::CF) | (u64::from(af) * flags::AF),
    )
}

fn daa(c: &mut Vcpu, _: &Insn) -> R {
    let (old, cf, af) = (u8::get(c, 0), c.flags.cf(), c.flags.af());
    let mut al = old;
    let low = old & 15 > 9 || af;
    if low {
        al = al.wrapping_add(6);
    }
    let high = old > 0x99 || cf;
    if high {
        al = al.wrapping_add(0x60);
    }
    u8::put(c, 0, al);
    c.flags = bcd_flags(al, high, low);
    Ok(())
}

fn das(c: &mut Vcpu, _: &Insn) -> R {
    let (old, cf, af) = (u8::get(c, 0), c.flags.cf(), c.flags.af());
    let mut al = old;
    let low = old & 15 > 9 || af;
    let mut carry = false;
    if low {
        carry = cf || al < 6;
        al = al.wrapping_sub(6);
    }
    if old > 0x99 || cf {
        al = al.wrapping_sub(0x60);
        carry = true;
    }
    u8::put(c, 0, al);
    c.flags = bcd_flags(al, carry, low);
    Ok(())
}

fn ascii_adjust(c: &mut Vcpu, add: bool) -> R {
    let ax = u16::get(c, 0);
    let adjust = ax & 15 > 9 || c.flags.af();
    let mut r = ax;
    if adjust {
        r = if add {
            r.wrapping_add(0x106)
        } else {
            r.wrapping_sub(6).wrapping_sub(0x100)
        };
    }
    r &= 0xff0f;
    u16::put(c, 0, r);
    let l = Lazy::logic(r as u8);
    let v = if adjust { flags::CF | flags::AF } else { 0 };
    c.flags = l.with(flags::CF | flags::AF, v);
    Ok(())
}

/// AAM: a base of 0 is #DE (SDM Vol. 2A, AAM).
fn aam(c: &mut Vcpu, i: &Insn) -> R {
    let base = i.imm as u8;
    if base == 0 {
        return Err(c.raise(Fault::plain(vector::DE)));
    }
    let al = u8::get(c, 0);
    u16::put(c, 0, u16::from(al / base) << 8 | u16::from(al % base));
    c.flags = Lazy::logic(al % base);
    Ok(())
}

fn aad(c: &mut Vcpu, i: &Insn) -> R {
    let ax = u16::get(c, 0);
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(i.imm as u8));
    u16::put(c, 0, u16::from(al));
    c.flags = Lazy::logic(al);
    Ok(())
}

/// DAA, DAS, AAA, AAS, AAM, AAD.
pub fn pick_bcd(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match x.mnemonic() {
        Mnemonic::Daa => op!(daa),
        Mnemonic::Das => op!(das),
        Mnemonic::Aaa => op!(|c: &mut Vcpu, _: &Insn| ascii_adjust(c, true)),
        Mnemonic::Aas => op!(|c: &mut Vcpu, _: &Insn| ascii_adjust(c, false)),
        Mnemonic::Aam => op!(aam),
        _ => op!(aad),
    })
}

/// BOUND: an index outside is #BR (SDM Vol. 2A, BOUND).
fn bound<W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    let at = ea::lin::<false>(c, i, 2 * W::BYTES)?;
    let low: W = c.read(at)?;
    let high: W = c.read(at.wrapping_add(W::BYTES))?;
    let v = W::get(c, i.r0).sext() as i64;
    if v < low.sext() as i64 || v > high.sext() as i64 {
        return Err(c.raise(Fault::plain(vector::BR)));
    }
    Ok(())
}

pub fn pick_bound(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(if x.op0_register().size() == 2 {
        op!(bound::<u16>)
    } else {
        op!(bound::<u32>)
    })
}

fn nop(_: &mut Vcpu, _: &Insn) -> R {
    Ok(())
}

/// NOP, hints and fences that order nothing more than this CPU does anyway.
pub fn pick_nop(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use iced_x86::Code::{
        Reservednop_rm16_r16_0F0D, Reservednop_rm32_r32_0F0D, Reservednop_rm64_r64_0F0D,
    };
    // APM Vol. 3, PREFETCHlevel: the opcode takes memory only.
    let prefetch = matches!(
        x.code(),
        Reservednop_rm16_r16_0F0D | Reservednop_rm32_r32_0F0D | Reservednop_rm64_r64_0F0D
    );
    (!prefetch || x.op0_kind() == OpKind::Memory).then_some(op!(nop))
}

/// MFENCE.
pub fn pick_fence(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(|_: &mut Vcpu, _: &Insn| {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }))
}

/// CLFLUSH and its kin fault as a byte read does.
pub fn pick_touch(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(|c: &mut Vcpu, i: &Insn| {
        let at = ea::lin::<false>(c, i, 1)?;
        c.prepare_read(at, 1)
    }))
}

/// CRC-32C (polynomial 11EDC6F41h, bit-reflected 82F63B78h), a nibble at a time.
fn crc32c(crc: u32, data: u64, bytes: u64) -> u32 {
    const TABLE: [u32; 256] = {
        let mut t = [0u32; 256];
        let mut n = 0;
        while n < 256 {
            let mut c = n as u32;
            let mut k = 0;
            while k < 8 {
                c = c >> 1 ^ if c & 1 != 0 { 0x82f6_3b78 } else { 0 };
                k += 1;
            }
            t[n] = c;
            n += 1;
        }
        t
    };
    let d = data.to_le_bytes();
    d[..bytes as usize]
        .iter()
        .fold(crc, |c, &b| c >> 8 ^ TABLE[usize::from(c as u8 ^ b)])
}

struct Crc32<W, S>(PhantomData<(W, S)>);
impl<W: Width, S: Src> TwoSpeed for Crc32<W, S> {
    fn go<const QUICK: bool>(c: &mut Vcpu, i: &Insn) -> R {
        let v: W = S::get::<_, QUICK>(c, i)?;
        let crc = crc32c(c.gpr[(i.r0 & 31) as usize] as u32, v.to_u64(), W::BYTES);
        c.gpr[(i.r0 & 31) as usize] = u64::from(crc);
        Ok(())
    }
}

pub fn pick_crc32(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op1_kind() == OpKind::Memory;
    let bits = if mem {
        x.memory_size().size()
    } else {
        x.op1_register().size()
    } as u32
        * 8;
    by_width!(bits, |W| if mem {
        quick::<Crc32<W, Mem>>
    } else {
        quick::<Crc32<W, Reg1>>
    })
}

struct Adx<W, S, const OF: bool>(PhantomData<(W, S)>);
impl<W: Width, S: Src, const OF: bool> TwoSpeed for Adx<W, S, OF> {
    fn go<const QUICK: bool>(c: &mut Vcpu, i: &Insn) -> R {
        let b: W = S::get::<_, QUICK>(c, i)?;
        let a = W::get(c, i.r0);
        let carry = if OF { c.flags.of() } else { c.flags.cf() };
        let sum = u128::from(a.to_u64()) + u128::from(b.to_u64()) + u128::from(carry);
        W::put(c, i.r0, W::from_u64(sum as u64));
        let out = sum >> W::BITS != 0;
        let (cf, of) = if OF {
            (c.flags.cf(), out)
        } else {
            (out, c.flags.of())
        };
        c.flags = c.flags.with_cf_of(cf, of);
        Ok(())
    }
}

/// ADCX, ADOX.
pub fn pick_adx<const OF: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op1_kind() == OpKind::Memory;
    by_width!(width(x), |W| if mem {
        quick::<Adx<W, Mem, OF>>
    } else {
        quick::<Adx<W, Reg1, OF>>
    })
}

struct Random<W>(PhantomData<W>);
impl<W: Width> Op for Random<W> {
    fn exec(c: &mut Vcpu, i: &Insn) -> R {
        let v = c.random();
        W::put(c, i.r0, W::from_u64(v));
        c.flags = Lazy::from_bits(flags::CF);
        Ok(())
    }
}

/// RDRAND, RDSEED.
pub fn pick_random(x: &Instruction, _: &Ctx) -> Option<Handler> {
    by_width!(width(x), |W| run::<Random<W>>)
}

impl Vcpu {
    /// The next random number: splitmix64 over the retired count with the virtual clock, so that runs repeat; seeded by
    /// the host otherwise.
    pub fn random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random_state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// BMI operations: `a` and `b` are the sources in the manual's order; MULX writes its own.
fn bmi<W: Width>(m: Mnemonic, old: Lazy, a: W, b: W) -> (W, Lazy) {
    let (x, y) = (a.to_u64(), b.to_u64());
    let r = |v: u64| W::from_u64(v);
    // CF as given, OF = 0, SF and ZF from the result; AF and PF are undefined and follow the host (cleared or from the result).
    let logic = |v: u64, cf: bool| Lazy::logic(r(v)).with_cf_of(cf, false);
    let count = (y & u64::from(W::BITS - 1)) as u32;
    match m {
        Mnemonic::Andn => (r(!x & y), logic(!x & y, false)),
        Mnemonic::Blsi => (r(x.wrapping_neg() & x), logic(x.wrapping_neg() & x, x != 0)),
        Mnemonic::Blsmsk => (
            r(x.wrapping_sub(1) ^ x),
            logic(x.wrapping_sub(1) ^ x, x == 0),
        ),
        Mnemonic::Blsr => (
            r(x.wrapping_sub(1) & x),
            logic(x.wrapping_sub(1) & x, x == 0),
        ),
        Mnemonic::Bextr => {
            let (start, len) = (y as u8 as u32, (y >> 8) as u8 as u32);
            let v = if start >= W::BITS { 0 } else { x >> start };
            let v = if len >= 64 { v } else { v & ((1 << len) - 1) };
            (r(v), Lazy::logic(r(v)))
        }
        Mnemonic::Bzhi => {
            let n = y as u8 as u32;
            let v = if n >= W::BITS { x } else { x & ((1 << n) - 1) };
            (r(v), logic(v, n >= W::BITS))
        }
        Mnemonic::Pdep => (r(deposit(x, y)), old),
        Mnemonic::Pext => (r(extract(x, y)), old),
        Mnemonic::Rorx => (
            r(if count == 0 {
                x
            } else {
                x >> count | x << (W::BITS - count)
            }),
            old,
        ),
        Mnemonic::Sarx => (r((a.sext() as i64 >> count) as u64), old),
        Mnemonic::Shlx => (r(x << count), old),
        _ => (r(x >> count), old),
    }
}

fn deposit(mut v: u64, mut mask: u64) -> u64 {
    let mut out = 0;
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        if v & 1 != 0 {
            out |= bit;
        }
        v >>= 1;
        mask ^= bit;
    }
    out
}

fn extract(v: u64, mut mask: u64) -> u64 {
    let (mut out, mut n) = (0, 0);
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        out |= u64::from(v & bit != 0) << n;
        n += 1;
        mask ^= bit;
    }
    out
}

struct Bmi<W, const M: u32, const MEM: bool>(PhantomData<W>);

/// Which operands are the sources.
#[derive(Clone, Copy, PartialEq)]
enum Sources {
    /// dest, src1, src2/mem
    First1Then2,
    /// dest, src/mem, control register or immediate
    MemThenControl,
    /// dest, src/mem
    One,
}

fn sources(m: Mnemonic) -> Sources {
    match m {
        Mnemonic::Andn | Mnemonic::Pdep | Mnemonic::Pext => Sources::First1Then2,
        Mnemonic::Blsi | Mnemonic::Blsmsk | Mnemonic::Blsr => Sources::One,
        _ => Sources::MemThenControl,
    }
}

const BMI_LIST: [Mnemonic; 12] = [
    Mnemonic::Andn,
    Mnemonic::Bextr,
    Mnemonic::Blsi,
    Mnemonic::Blsmsk,
    Mnemonic::Blsr,
    Mnemonic::Bzhi,
    Mnemonic::Pdep,
    Mnemonic::Pext,
    Mnemonic::Rorx,
    Mnemonic::Sarx,
    Mnemonic::Shlx,
    Mnemonic::Shrx,
];

impl<W: Width, const M: u32, const MEM: bool> Op for Bmi<W, M, MEM> {
    fn exec(c: &mut Vcpu, i: &Insn) -> R {
        let m = BMI_LIST[M as usize];
        let (a, b) = match sources(m) {
            Sources::First1Then2 => (
                W::get(c, i.r1),
                if MEM {
                    ea::load(c, i)?
                } else {
                    W::get(c, i.r2)
                },
            ),
            Sources::One => (
                if MEM {
                    ea::load(c, i)?
                } else {
                    W::get(c, i.r1)
                },
                W::from_u64(0),
            ),
            Sources::MemThenControl => {
                let a = if MEM {
                    ea::load(c, i)?
                } else {
                    W::get(c, i.r1)
                };
                (
                    a,
                    if m == Mnemonic::Rorx {
                        W::from_u64(i.imm)
                    } else {
                        W::get(c, i.r2)
                    },
                )
            }
        };
        let (r, f) = bmi(m, c.flags, a, b);
        W::put(c, i.r0, r);
        c.flags = f;
        Ok(())
    }
}

struct Mulx<W, const MEM: bool>(PhantomData<W>);
impl<W: Width, const MEM: bool> Op for Mulx<W, MEM> {
    fn exec(c: &mut Vcpu, i: &Insn) -> R {
        let b: W = if MEM {
            ea::load(c, i)?
        } else {
            W::get(c, i.r2)
        };
        let p = u128::from(W::get(c, reg::RDX as u8).to_u64()) * u128::from(b.to_u64());
        // The low half first: with one register for both, the high half stays (SDM Vol. 2B, MULX).
        W::put(c, i.r1, W::from_u64(p as u64));
        W::put(c, i.r0, W::from_u64((p >> W::BITS) as u64));
        Ok(())
    }
}

/// BMI1 and BMI2.
pub fn pick_bmi(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn of<W: Width, const MEM: bool>(m: Mnemonic) -> Handler {
        match m {
            Mnemonic::Andn => run::<Bmi<W, 0, MEM>>,
            Mnemonic::Bextr => run::<Bmi<W, 1, MEM>>,
            Mnemonic::Blsi => run::<Bmi<W, 2, MEM>>,
            Mnemonic::Blsmsk => run::<Bmi<W, 3, MEM>>,
            Mnemonic::Blsr => run::<Bmi<W, 4, MEM>>,
            Mnemonic::Bzhi => run::<Bmi<W, 5, MEM>>,
            Mnemonic::Pdep => run::<Bmi<W, 6, MEM>>,
            Mnemonic::Pext => run::<Bmi<W, 7, MEM>>,
            Mnemonic::Rorx => run::<Bmi<W, 8, MEM>>,
            Mnemonic::Sarx => run::<Bmi<W, 9, MEM>>,
            Mnemonic::Shlx => run::<Bmi<W, 10, MEM>>,
            Mnemonic::Shrx => run::<Bmi<W, 11, MEM>>,
            _ => run::<Mulx<W, MEM>>,
        }
    }
    let mem = (0..x.op_count()).any(|n| x.op_kind(n) == OpKind::Memory);
    match (width(x), mem) {
        (32, false) => Some(of::<u32, false>(x.mnemonic())),
        (32, true) => Some(of::<u32, true>(x.mnemonic())),
        (_, false) => Some(of::<u64, false>(x.mnemonic())),
        (_, true) => Some(of::<u64, true>(x.mnemonic())),
    }
}
