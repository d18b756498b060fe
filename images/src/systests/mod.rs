//! Directed system tests: small images that print what they saw and leave by isa-debug-exit.
//!
//! One file per subject; each prints a line per probe, with no times in it, so that outputs compare
//! between machines. What must be printed is in `tests/systests/NAME.expected`, from the manual.

mod debug;
mod ferr;
mod fpu;
mod long64;
mod modes;
mod paging32;
mod paging64;
mod paging_pae;
mod privilege;
mod segments;
mod smoke;
mod stress;
mod strings;
mod system;
mod tasks;
mod v86;

/// Every image by name.
pub const ALL: &[(&str, crate::Maker)] = &[
    ("smoke", smoke::image),
    ("paging32", paging32::image),
    ("paging-pae", paging_pae::image),
    ("paging64", paging64::image),
    ("segments", segments::image),
    ("privilege", privilege::image),
    ("tasks", tasks::image),
    ("debug", debug::image),
    ("strings", strings::image),
    ("v86", v86::image),
    ("system", system::image),
    ("long64", long64::image),
    ("fpu", fpu::image),
    ("ferr", ferr::image),
    ("modes", modes::image),
    ("stress", stress::image),
];
