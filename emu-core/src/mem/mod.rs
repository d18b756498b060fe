//! Guest memory: RAM, page walks, the shadow TLB and the pages that hold decoded code.
//!
//! ```text
//! handler -> Vcpu::read/write/rmw (mmu) -> shadow TLB (tlb) --hit--> RAM (phys)
//!                                             | miss
//!                                             v
//!                          page walk (paging) -> fill, or fault, or MMIO through the board
//! ```
//!
//! `unsafe` in emu-core lives in this folder alone. The invariants it rests on:
//! * a TLB entry's tags match only addresses whose page, moved by `addend`, lies wholly inside the RAM mapping;
//! * the mapping lives as long as the [`Ram`](phys::Ram), which the vCPU holds by an `Arc`;
//! * guest RAM is never seen as a Rust reference, only through raw pointers, byte by byte or in whole words.
#![allow(unsafe_code)]

mod atomic;
pub mod bulk;
mod device;
pub mod dirty;
pub mod mmu;
pub mod paging;
pub mod phys;
pub mod tlb;
