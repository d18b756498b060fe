//! Mnemonics of SSE and AVX and their lowerings.

use super::super::table::Lowering;
use super::{arrange, convert, float, fma, int, mixed, moves};
use iced_x86::Mnemonic;

/// The lowering of a vector instruction; MOVSD and CMPSD are asked for as string instructions too.
pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    use Mnemonic::*;
    Some(match m {
        Movdqa | Vmovdqa | Movaps | Vmovaps | Movapd | Vmovapd | Movntdq | Vmovntdq | Movntps
        | Vmovntps | Movntpd | Vmovntpd | Movntdqa | Vmovntdqa => moves::aligned,
        Movdqu | Vmovdqu | Movups | Vmovups | Movupd | Vmovupd | Lddqu | Vlddqu => moves::unaligned,
        Movd | Vmovd | Movq | Vmovq => moves::movd,
        Movss | Vmovss | Movsd | Vmovsd => moves::scalar,
        Movlps | Vmovlps | Movlpd | Vmovlpd | Movhps | Vmovhps | Movhpd | Vmovhpd => moves::half,
        Movlhps | Vmovlhps | Movhlps | Vmovhlps => moves::between_halves,
        Movddup | Vmovddup => moves::movddup,
        Pmovmskb | Vpmovmskb | Movmskps | Vmovmskps | Movmskpd | Vmovmskpd => moves::signs,
        Pinsrb | Vpinsrb | Pinsrw | Vpinsrw | Pinsrd | Vpinsrd | Pinsrq | Vpinsrq => moves::insert,
        Pextrb | Vpextrb | Pextrw | Vpextrw | Pextrd | Vpextrd | Pextrq | Vpextrq | Extractps
        | Vextractps => moves::extract,
        Insertps | Vinsertps => moves::insertps,
        Ptest | Vptest | Vtestps | Vtestpd => moves::test,
        Vbroadcastss | Vbroadcastsd | Vpbroadcastb | Vpbroadcastw | Vpbroadcastd | Vpbroadcastq => {
            moves::broadcast
        }
        Vbroadcastf128 | Vbroadcasti128 => moves::broadcast128,
        Vinsertf128 | Vinserti128 => moves::insert128,
        Vextractf128 | Vextracti128 => moves::extract128,
        Vperm2f128 | Vperm2i128 => moves::permute128,
        Vpermq | Vpermpd => moves::permute64,
        Vzeroupper | Vzeroall => moves::zero,
        Mpsadbw | Vmpsadbw => int::sliding_sums,
        Phminposuw | Vphminposuw => int::least_word,
        Pabsb | Vpabsb | Pabsw | Vpabsw | Pabsd | Vpabsd => int::absolute,
        Psllw | Vpsllw | Pslld | Vpslld | Psllq | Vpsllq | Psrlw | Vpsrlw | Psrld | Vpsrld
        | Psrlq | Vpsrlq | Psraw | Vpsraw | Psrad | Vpsrad => int::shift,
        Pslldq | Vpslldq | Psrldq | Vpsrldq => arrange::shift_bytes,
        Pshufd | Vpshufd | Pshuflw | Vpshuflw | Pshufhw | Vpshufhw | Movsldup | Vmovsldup
        | Movshdup | Vmovshdup => arrange::unary,
        Pblendvb | Vpblendvb | Blendvps | Vblendvps | Blendvpd | Vblendvpd => {
            arrange::blend_variable
        }
        Vpermilps | Vpermilpd => arrange::permute_in_lanes,
        Vpermd | Vpermps => arrange::permute_dwords,
        Pmovsxbw | Vpmovsxbw | Pmovsxbd | Vpmovsxbd | Pmovsxbq | Vpmovsxbq | Pmovsxwd
        | Vpmovsxwd | Pmovsxwq | Vpmovsxwq | Pmovsxdq | Vpmovsxdq | Pmovzxbw | Vpmovzxbw
        | Pmovzxbd | Vpmovzxbd | Pmovzxbq | Vpmovzxbq | Pmovzxwd | Vpmovzxwd | Pmovzxwq
        | Vpmovzxwq | Pmovzxdq | Vpmovzxdq => arrange::extend,
        _ if int::operation(m).is_some() => int::binary,
        _ if arrange::operation(m).is_some() => arrange::binary,
        _ => {
            return float::lowering(m)
                .or_else(|| convert::lowering(m))
                .or_else(|| mixed::lowering(m))
                .or_else(|| fma::lowering(m));
        }
    })
}
