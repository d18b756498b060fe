//! Puts a flat image together from chunks of code and data of several bitnesses.
//!
//! An image is linked at [`BASE`], below 1 MiB, so that real-mode code can run in it; the loader puts
//! it at [`LOAD`], and a stub copies it down. Chunks refer to each other by name: the whole image is
//! built again and again until no symbol moves, so a name may be used before it is defined.
//! Invariant: the closure given to [`image`] emits the same chunks in every pass.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, CodeLabel, eax, ecx, edi, esi};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Where an image runs: linear address, real-mode segment 0x1000.
pub const BASE: u32 = 0x1_0000;
/// Where the Multiboot loader puts it.
pub const LOAD: u32 = 0x10_0000;
/// Result of everything that assembles.
pub type R = Result<(), IcedError>;

/// `asm! { a; mov(eax, 1); int(0x30); }`: one method call with `?` per instruction. Arguments are
/// evaluated first, so they may ask `a` for symbols.
#[macro_export]
macro_rules! asm {
    ($a:ident; $($m:ident($($e:expr),*);)*) => {{ $( $crate::asm_one!($a, $m, $($e),*); )* }};
}
/// The same as an expression of type [`R`], for closures: `|a| ok! { a; nop(); }`.
#[macro_export]
macro_rules! ok {
    ($a:ident; $($m:ident($($e:expr),*);)*) => {{ $( $crate::asm_one!($a, $m, $($e),*); )* $crate::kit::R::Ok(()) }};
}
/// One instruction of [`asm!`].
#[macro_export]
macro_rules! asm_one {
    ($a:ident, $m:ident,) => {
        $a.$m()?;
    };
    ($a:ident, $m:ident, $x:expr) => {{
        let x = $x;
        $a.$m(x)?;
    }};
    ($a:ident, $m:ident, $x:expr, $y:expr) => {{
        let (x, y) = ($x, $y);
        $a.$m(x, y)?;
    }};
    ($a:ident, $m:ident, $x:expr, $y:expr, $z:expr) => {{
        let (x, y, z) = ($x, $y, $z);
        $a.$m(x, y, z)?;
    }};
}

/// An assembler for one chunk, which also knows the image's symbols and strings.
pub struct Asm {
    code: CodeAssembler,
    symbols: Rc<BTreeMap<String, u32>>,
    strings: Rc<RefCell<BTreeMap<String, ()>>>,
}

impl Deref for Asm {
    type Target = CodeAssembler;
    fn deref(&self) -> &CodeAssembler {
        &self.code
    }
}

impl DerefMut for Asm {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.code
    }
}

impl Asm {
    /// Address of a symbol (linear, link address).
    pub fn sym(&self, name: &str) -> u32 {
        self.symbols.get(name).copied().unwrap_or(BASE + 0x1_2345)
    }
    /// The same as a branch target.
    pub fn to(&self, name: &str) -> u64 {
        u64::from(self.sym(name))
    }
    /// Offset of a symbol in the real-mode segment 0x1000.
    pub fn off(&self, name: &str) -> u32 {
        self.sym(name).wrapping_sub(BASE) & 0xffff
    }
    /// Address of a zero-ended string, kept in the image's string pool.
    pub fn text(&self, s: &str) -> u32 {
        self.strings.borrow_mut().insert(s.to_owned(), ());
        self.sym(&format!("text:{s}"))
    }
    /// Defines a label here.
    pub fn here(&mut self, l: &mut CodeLabel) -> R {
        self.code.set_label(l)
    }
    pub fn rep_movsb(&mut self) -> R {
        self.code.rep().movsb()
    }
    pub fn rep_movsd(&mut self) -> R {
        self.code.rep().movsd()
    }
    pub fn rep_stosb(&mut self) -> R {
        self.code.rep().stosb()
    }
    pub fn rep_stosd(&mut self) -> R {
        self.code.rep().stosd()
    }
    /// Raw bytes: for encodings the assembler refuses to make.
    pub fn bytes(&mut self, b: &[u8]) -> R {
        self.code.db(b)
    }
}

/// One pass over an image.
pub struct Build {
    bytes: Vec<u8>,
    old: Rc<BTreeMap<String, u32>>,
    new: BTreeMap<String, u32>,
    strings: Rc<RefCell<BTreeMap<String, ()>>>,
}

impl Build {
    /// Link address of the next byte.
    pub fn here(&self) -> u32 {
        BASE + self.bytes.len() as u32
    }
    /// Address of a symbol as the pass before found it.
    pub fn sym(&self, name: &str) -> u32 {
        self.old.get(name).copied().unwrap_or(BASE + 0x1_2345)
    }
    /// Names the next byte.
    pub fn def(&mut self, name: &str) {
        let here = self.here();
        assert!(
            self.new.insert(name.to_owned(), here).is_none(),
            "symbol {name} is defined twice"
        );
    }
    /// Pads with zeros up to a multiple of `n` (a power of two).
    pub fn align(&mut self, n: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(n), 0);
    }
    pub fn data(&mut self, b: &[u8]) {
        self.bytes.extend_from_slice(b);
    }
    pub fn quads(&mut self, q: &[u64]) {
        q.iter()
            .for_each(|q| self.bytes.extend_from_slice(&q.to_le_bytes()));
    }
    pub fn longs(&mut self, q: &[u32]) {
        q.iter()
            .for_each(|q| self.bytes.extend_from_slice(&q.to_le_bytes()));
    }
    /// Code that runs where it stands.
    pub fn code(&mut self, bits: u32, f: impl FnOnce(&mut Asm) -> R) -> R {
        let ip = self.here();
        self.code_at(bits, ip, f)
    }
    /// 16-bit code for real-mode segment 0x1000 (or a 16-bit segment with that base).
    pub fn code16(&mut self, f: impl FnOnce(&mut Asm) -> R) -> R {
        let ip = self.here() - BASE;
        self.code_at(16, ip, f)
    }
    /// Code stored here that will run at `ip` (it is copied there, or its segment has a base).
    pub fn code_at(&mut self, bits: u32, ip: u32, f: impl FnOnce(&mut Asm) -> R) -> R {
        let mut a = Asm {
            code: CodeAssembler::new(bits)?,
            symbols: self.old.clone(),
            strings: self.strings.clone(),
        };
        f(&mut a)?;
        let code = a.code.assemble(u64::from(ip))?;
        self.bytes.extend_from_slice(&code);
        Ok(())
    }
}

/// Builds a Multiboot image: header, a stub that moves it to [`BASE`], then whatever `f` emits, which
/// must define `entry` (32-bit code, flat segments of the loader, interrupts off).
///
/// # Panics
/// When the source of the image is wrong: an instruction that does not exist, or symbols that never settle.
pub fn image(f: impl Fn(&mut Build) -> R) -> Vec<u8> {
    let (mut old, mut length) = (Rc::new(BTreeMap::new()), 0x4000);
    for _ in 0..20 {
        let mut b = Build {
            bytes: Vec::new(),
            old: old.clone(),
            new: BTreeMap::new(),
            strings: Rc::default(),
        };
        header(&mut b, length)
            .and_then(|()| f(&mut b))
            .expect("the image's source assembles");
        let strings = std::mem::take(&mut *b.strings.borrow_mut());
        for s in strings.keys() {
            b.def(&format!("text:{s}"));
            b.data(s.as_bytes());
            b.data(&[0]);
        }
        b.align(16);
        if b.new == *old && b.bytes.len() as u32 == length {
            assert!(
                length < 0x5_0000,
                "image of {length:#x} bytes reaches the user pages at 0x60000"
            );
            return b.bytes;
        }
        length = b.bytes.len() as u32;
        old = Rc::new(b.new);
    }
    panic!("the image's symbols do not settle");
}

/// The Multiboot 1 header with address fields (Multiboot Specification 0.6.96, section 3.1), and the copy stub.
fn header(b: &mut Build, length: u32) -> R {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES: u32 = 1 << 16;
    const HEADER: u32 = 32;
    let end = LOAD + length;
    b.longs(&[
        MAGIC,
        ADDRESSES,
        (MAGIC + ADDRESSES).wrapping_neg(),
        LOAD,
        LOAD,
        end,
        end,
        LOAD + HEADER,
    ]);
    b.code(32, |a| {
        ok! { a;
            cli();
            cld();
            mov(esi, LOAD);
            mov(edi, BASE);
            mov(ecx, length / 4);
            rep_movsd();
            mov(eax, a.sym("entry"));
            jmp(eax);
        }
    })
}
