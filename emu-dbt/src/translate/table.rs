//! From mnemonics to lowerings: emu-dbt's half of the instruction table. A row of emu-core's table that has none here runs by its
//! handler.

use super::shapes::Shape;
use super::{
    Translator, alu, atomic, bits, muldiv, shift, stack, string, system, transfer, vec, x87,
};
use emu_core::decode::insn::Insn;
pub use emu_core::decode::table::width;
use iced_x86::{Instruction, Mnemonic};

/// Translates one instruction; false, with nothing done, for a form that is left to the handler.
pub type Lowering = fn(&mut Translator, &Instruction, &Insn) -> bool;

/// The lowering of an instruction that does not end its block.
pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    use Mnemonic::*;
    Some(match m {
        Add | Adc | Sub | Sbb | And | Or | Xor | Cmp | Test => alu::binary,
        Inc | Dec | Neg | Not => alu::unary,
        Mov => transfer::mov,
        Movzx | Movsx | Movsxd => transfer::extend,
        Lea => transfer::lea,
        Xchg => atomic::xchg,
        Cmpxchg => atomic::cmpxchg,
        Cmpxchg8b => atomic::cmpxchg8b,
        Xlatb => transfer::xlat,
        Cld | Std => transfer::direction,
        Lahf => transfer::lahf,
        Sahf => transfer::sahf,
        Mfence => transfer::fence,
        Cmovo | Cmovno | Cmovb | Cmovae | Cmove | Cmovne | Cmovbe | Cmova | Cmovs | Cmovns
        | Cmovp | Cmovnp | Cmovl | Cmovge | Cmovle | Cmovg => transfer::cmov,
        Seto | Setno | Setb | Setae | Sete | Setne | Setbe | Seta | Sets | Setns | Setp | Setnp
        | Setl | Setge | Setle | Setg => transfer::setcc,
        Cbw | Cwde | Cdqe => transfer::extend_accumulator,
        Cwd | Cdq | Cqo => transfer::sign_to_dx,
        Bswap => transfer::bswap,
        Movbe => transfer::movbe,
        Nop | Endbr32 | Endbr64 | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2
        | Prefetchw | Lfence | Sfence | Pause => transfer::nothing,
        Clc | Stc | Cmc => transfer::carry_flag,
        Push => stack::push,
        Pop => stack::pop,
        Pushf | Pushfd | Pushfq => stack::pushf,
        Leave => stack::leave,
        Shl | Sal | Shr | Sar => shift::shift,
        Rol | Ror => shift::rotate,
        Rcl | Rcr => shift::through_carry,
        Shld | Shrd => shift::double,
        Bt | Bts | Btr | Btc => shift::bit,
        Bsf | Bsr | Tzcnt | Lzcnt | Popcnt => shift::scan,
        Rdtsc | Rdtscp => system::rdtsc,
        Mul | Imul => muldiv::multiply,
        Div | Idiv => muldiv::divide,
        Shlx | Shrx | Sarx | Rorx => bits::flagless_shift,
        Mulx => bits::mulx,
        Andn => bits::andn,
        Blsi | Blsmsk | Blsr => bits::lowest,
        Bextr | Bzhi => bits::field,
        Adcx | Adox => bits::adx,
        Xadd => atomic::xadd,
        Movsb | Movsw | Movsq | Stosb | Stosw | Stosd | Stosq | Lodsb | Lodsw | Lodsd | Lodsq
        | Scasb | Scasw | Scasd | Scasq | Cmpsb | Cmpsw | Cmpsq => string::once,
        Movsd | Cmpsd => string_or_scalar,
        _ => return vec::lowering(m).or_else(|| x87::lowering(m)),
    })
}

/// MOVSD and CMPSD name a string instruction and one on a scalar double each.
fn string_or_scalar(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if x.is_string_instruction() {
        string::once(t, x, i)
    } else {
        vec::lowering(x.mnemonic()).is_some_and(|f| f(t, x, i))
    }
}

/// In which form the lowering of an instruction that sets flags leaves them; `None`: as a pair.
///
/// Blocks agree on forms before they are translated, so this must say exactly what the lowering does.
pub fn shape(x: &Instruction, i: &Insn) -> Option<Shape> {
    use Mnemonic::*;
    if !Translator::operands(x, i) {
        return None;
    }
    let bits = width(x);
    Some(match x.mnemonic() {
        Add | Xadd => Shape::Add(bits),
        Sub | Cmp | Neg | Cmpxchg => Shape::Sub(bits),
        And | Or | Xor | Test | Andn => Shape::Logic(bits),
        Inc => Shape::Inc(bits),
        Dec => Shape::Dec(bits),
        Adc | Sbb if bits < 64 => Shape::Wide(bits),
        Shl | Sal | Shr | Sar => return shift::shape(x, i, bits),
        _ => return None,
    })
}
