//! The guests that `emu bench` measures: one kind of work each, and nothing else.
//!
//! Each is a Multiboot 1 image ([`frame`]) that runs a *unit* of work as often as `n=COUNT` on its command line says,
//! compares the checksum of every unit with what the same work gives in Rust, and prints to the first serial port
//!
//! ```text
//! @init integer
//! @done integer 0123456789abcdef
//! ```
//!
//! or `@bad` and the sum it found. It ends by `isa-debug-exit` at F4h (code 0, 1 after `@bad`, 2 after an exception
//! that it did not expect), or without that device by ACPI power-off, so other PC emulators can run it too.
//! Units are some hundred thousand instructions, so that a run is a multiple of one thing.

// asm! and ok!, the kit's two macros.
#[macro_use]
extern crate emu_images;

mod branches;
mod calls;
mod float;
mod frame;
mod integer;
mod memory;
mod pagefaults;
mod selfmod;
mod syscalls;

/// One guest of ours.
pub struct Workload {
    /// As `--only` takes it.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// Makes the image.
    pub image: fn() -> Vec<u8>,
    /// Units of a run: in a hurry, and else.
    pub quick: u64,
    pub full: u64,
}

/// All of them, in the order of a report.
pub const ALL: [Workload; 8] = [
    Workload {
        name: "integer",
        about: "sieve, Shell sort, CRC-32 by table, 64-bit hash with multiplication and division",
        image: integer::image,
        quick: 30,
        full: 300,
    },
    Workload {
        name: "float",
        about: "SSE2: Mandelbrot set and an orbit in scalar double, matrix product in packed double",
        image: float::image,
        quick: 90,
        full: 1000,
    },
    Workload {
        name: "memory",
        about: "copy loop, REP MOVSQ and STOSB, list over 1024 pages",
        image: memory::image,
        quick: 180,
        full: 2000,
    },
    Workload {
        name: "branches",
        about: "branches that follow random bits, switch by jump table",
        image: branches::image,
        quick: 110,
        full: 1200,
    },
    Workload {
        name: "calls",
        about: "recursive Fibonacci, calls through a table of functions",
        image: calls::image,
        quick: 140,
        full: 1500,
    },
    Workload {
        name: "syscalls",
        about: "SYSCALL and SYSRET between CPL 3 and 0 with SWAPGS and a dispatch table",
        image: syscalls::image,
        quick: 90,
        full: 1000,
    },
    Workload {
        name: "pagefaults",
        about: "CPL 3 touches 512 pages, each mapped by the #PF handler, then all unmapped",
        image: pagefaults::image,
        quick: 400,
        full: 2500,
    },
    Workload {
        name: "selfmod",
        about: "instructions patched between calls, data written beside code, code made fresh and run once",
        image: selfmod::image,
        quick: 60,
        full: 2000,
    },
];

/// The guest of this name.
pub fn find(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|w| w.name == name)
}

/// Knuth's generator (The Art of Computer Programming, volume 2, section 3.3.4); guests compute the same.
pub(crate) struct Random(pub u64);

pub(crate) const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
pub(crate) const INCREMENT: u64 = 1_442_695_040_888_963_407;

impl Random {
    /// The next 31 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        self.0 >> 33
    }
}

/// Puts one part's sum into the unit's: the guests' `mix`.
pub(crate) fn mix(sum: u64, part: u64) -> u64 {
    sum.rotate_left(5) ^ part
}
