//! The chips of a classic PC, each as pure state: registers in, pins out.
//!
//! No chip knows its port, its interrupt number or the host. Those that keep time get `now` (guest nanoseconds since
//! power-on) with every call and work counts out from it, so that nothing ticks: `next_event` says when
//! `advance` must be called, and a late call catches up by arithmetic, not by a loop over missed periods.
//! Everything derives serde, so that a board can be saved as plain data.

pub mod acpi_pm;
pub mod fw_cfg;
pub mod hpet;
pub mod i8042;
pub mod i82077;
pub mod i8237;
pub mod i8254;
pub mod i8259;
pub mod ioapic;
pub mod lapic;
pub mod mc146818;
pub mod pflash;
pub mod ps2;
pub mod uart16550;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Ticks of a `hz` clock that have passed at `ns`.
pub fn ticks_at(ns: u64, hz: u64) -> u64 {
    ((ns as u128 * hz as u128) / SECOND as u128) as u64
}

/// The first nanosecond at which [`ticks_at`] gives at least `ticks`; saturates.
pub fn time_of(ticks: u64, hz: u64) -> u64 {
    let ns = (ticks as u128 * SECOND as u128).div_ceil(hz as u128);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// The earlier of two planned times.
pub fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
