//! What runs guest instructions, and why it stops.

use crate::vcpu::Vcpu;

/// Why an engine came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The fuel is used up, or the board planned an event before the end of the slice ([`Vcpu::slice_end`]), or, with the
    /// host's clock and something done, the rest of the fuel would end in the middle of something.
    Fuel,
    /// HLT, with nothing to wake the CPU: advance the clock to the board's next event.
    Halt,
    /// The board asked for something: see [`Vcpu::requests`].
    Request,
    /// Triple fault: the CPU is in shutdown, and a PC's board answers by RESET#.
    Shutdown,
    /// A debugger's hook: see [`Vcpu::take_stops`].
    Debug,
}

/// Executes guest code.
pub trait Engine {
    /// Runs at most `fuel` instructions. Every engine stops on the same instruction for the same fuel.
    fn run(&mut self, cpu: &mut Vcpu, fuel: u64) -> Exit;
    /// The engine's name as `--engine` takes it.
    fn name(&self) -> &'static str;
    /// The engine's own counters.
    fn stats(&self) -> Vec<(&'static str, u64)>;
    /// Counters that have names of their own, in groups, largest first.
    fn tables(&self) -> Vec<(&'static str, Vec<(String, u64)>)> {
        Vec::new()
    }
    /// The last blocks executed, oldest first, as (RIP, instructions), for a crash report.
    fn recent(&self) -> Vec<(u64, u32)>;
    /// What the engine has made of the code at this RIP of the current address space and mode (guest code, intermediate and
    /// host code), for a person to read; `None`: nothing.
    fn describe_unit(&mut self, _cpu: &mut Vcpu, _rip: u64) -> Option<String> {
        None
    }
    /// Linear addresses in a range at which translated units begin, in the CPU's present mode and address space. Looks, and changes nothing.
    fn units_at(&self, _cpu: &Vcpu, _range: std::ops::Range<u64>) -> Vec<u64> {
        Vec::new()
    }
}
