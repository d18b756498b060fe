//! What an instruction sees and leaves: registers, flags, vector and x87 state, and the bytes of a small arena.
//!
//! The arena lies at the same linear addresses on the host and in our machine:
//!
//! | from | pages | what |
//! | --- | --- | --- |
//! | [`CODE`] | 2 | code, filled with INT3 around the instruction; also writable |
//! | [`DATA`] | 2 | data |
//! | [`CONST`] | 1 | read-only data behind it ([`const_byte`]) |
//!
//! The pages around each are not mapped.

/// Code begins here.
pub const CODE: u64 = 0x1000_1000;
pub const CODE_BYTES: usize = 0x2000;
/// Data begins here.
pub const DATA: u64 = 0x1000_4000;
pub const DATA_BYTES: usize = 0x2000;
/// Read-only data begins here, right behind [`DATA`].
pub const CONST: u64 = DATA + DATA_BYTES as u64;
pub const CONST_BYTES: usize = 0x1000;
/// The filler of the code pages.
pub const INT3: u8 = 0xcc;

/// The byte of the read-only page at this offset.
pub const fn const_byte(at: usize) -> u8 {
    (at as u8).wrapping_mul(37) ^ 0x5a
}

/// CF, PF, AF, ZF, SF, DF and OF: the flags that a case sets and that are compared.
pub const FLAGS: u64 = 0xcd5;

/// The state before or after.
#[derive(Clone, Debug, PartialEq)]
#[repr(C)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    pub rip: u64,
    /// Within [`FLAGS`].
    pub flags: u64,
    /// YMM0 to YMM15 as 64-bit lanes.
    pub vec: [[u64; 4]; 16],
    /// ST(0) to ST(7): significands (the MMX registers when TOP is 0).
    pub st: [u64; 8],
    /// ST(0) to ST(7): sign and exponent.
    pub st_exp: [u16; 8],
    pub mxcsr: u32,
    pub fcw: u16,
    /// With TOP.
    pub fsw: u16,
    /// A bit per physical register that is not empty (FXSAVE's abridged tag word).
    pub ftw: u8,
    /// The bytes at [`DATA`].
    pub mem: [u8; DATA_BYTES],
}

impl Default for State {
    fn default() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            flags: 0,
            vec: [[0; 4]; 16],
            st: [0; 8],
            st_exp: [0; 8],
            mxcsr: 0x1f80,
            fcw: 0x37f,
            fsw: 0,
            ftw: 0,
            mem: [0; DATA_BYTES],
        }
    }
}

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub vector: u8,
    pub error: u32,
    /// The faulting address of a #PF, else 0.
    pub address: u64,
}

/// Code size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bits {
    /// Compatibility mode: a 32-bit code segment under a 64-bit kernel, flat segments.
    B32,
    #[default]
    B64,
}

impl Bits {
    pub fn count(self) -> u32 {
        match self {
            Self::B32 => 32,
            Self::B64 => 64,
        }
    }
}

/// One instruction to execute once at `before.rip` (within the code pages).
#[derive(Clone, Debug)]
pub struct Case {
    pub bits: Bits,
    pub code: Vec<u8>,
    pub before: Box<State>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub after: Box<State>,
    pub fault: Option<Fault>,
}

impl Case {
    /// A case at the beginning of the code pages, with a stack in the middle of the data.
    pub fn new(bits: Bits, code: &[u8]) -> Self {
        let mut before = Box::new(State {
            rip: CODE,
            ..State::default()
        });
        before.gpr[4] = DATA + 0x1000;
        Self {
            bits,
            code: code.to_vec(),
            before,
        }
    }
}
