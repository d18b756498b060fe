//! What the CPU sees of a board: ports, memory-mapped registers, interrupts and time.
//!
//! emu-core knows no device. A board (emu-devices) implements [`Board`]; the machine keeps it behind one lock and
//! calls it from whichever vCPU executes the access. All times are guest nanoseconds since power-on, read from the
//! machine's [`clock`](crate::machine) by the caller and passed in, so that a chip has no clock of its own and a run with
//! the virtual clock is a function of its inputs.
//!
//! Data flow: CPU -> `pio_*` / `mmio_*` -> chip -> interrupt lines -> [`Board::interrupt`] -> CPU. After each call
//! that may change a line the CPU asks `interrupt` again; the board keeps the answer cheap.

use crate::addr::PhysAddr;

/// Guest time in nanoseconds since power-on.
pub type Nanos = u64;

/// What a board wants of the machine; collected by the CPU after each access and each [`Board::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Request {
    /// ACPI S5 or its like: stop, exit status 0.
    PowerOff,
    /// Keyboard controller 0xFE, port 0xCF9, ACPI reset register, triple fault.
    Reset,
    /// `isa-debug-exit` was written: the process ends with `(code << 1) | 1`.
    DebugExit(u32),
    /// The A20 gate changed: true = addresses pass unmasked.
    A20(bool),
    /// Memory has been placed elsewhere, or taken away: what TLBs know is stale.
    MemoryMap,
    /// pvpanic: the guest says that it has crashed (bit 0: panicked, bit 1: crash loaded).
    GuestPanic(u8),
    /// A stub of firmware whose services are the host's asks for one ([`Firmware`](crate::runner::Firmware)).
    Firmware,
    /// Fast INIT of the boot CPU (port 92h bit 0): reset the CPU but not the board.
    Init,
}

/// The level of a vCPU's interrupt inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// INTR: a maskable interrupt waits (local APIC above its priority threshold, or the 8259 through LINT0/ExtINT).
    pub intr: bool,
    /// NMI was latched since the last [`Board::ack_nmi`].
    pub nmi: bool,
}

/// The devices of one machine, seen from its vCPUs.
pub trait Board: std::any::Any + Send {
    /// The accesses that follow come from this vCPU (its local APIC answers at the APIC's page). A machine with one
    /// vCPU need not call it.
    fn select_cpu(&mut self, _cpu: usize) {}
    /// IN: `size` is 1, 2 or 4. A port that nobody answers reads all ones and is counted.
    fn pio_read(&mut self, port: u16, size: u8, now: Nanos) -> u32;
    /// OUT: `size` is 1, 2 or 4.
    fn pio_write(&mut self, port: u16, size: u8, value: u32, now: Nanos);
    /// A read outside RAM and ROM: `size` is 1, 2, 4 or 8. Nobody there: all ones, counted.
    fn mmio_read(&mut self, addr: PhysAddr, size: u8, now: Nanos) -> u64;
    /// A write outside RAM and ROM.
    fn mmio_write(&mut self, addr: PhysAddr, size: u8, value: u64, now: Nanos);

    /// Runs everything that is due at `now` (timers, host input). `now` never goes back.
    fn advance(&mut self, now: Nanos);
    /// When [`advance`](Self::advance) must be called again at the latest, if anything is planned.
    fn next_event(&self) -> Option<Nanos>;
    /// What the board wants of the machine since the last call, oldest first.
    fn take_request(&mut self) -> Option<Request>;

    /// The interrupt inputs of a vCPU.
    fn interrupt(&self, cpu: usize) -> Interrupt;
    /// The interrupt acknowledge cycle: the vector of what INTR asked for (spurious ones included).
    fn ack_intr(&mut self, cpu: usize, now: Nanos) -> u8;
    /// The NMI was taken.
    fn ack_nmi(&mut self, cpu: usize);
    /// FERR# is asserted: an x87 exception waits and CR0.NE is clear (SDM Vol. 1, appendix D). `edge`: it was not before.
    /// The answer is IGNNE#: true lets the CPU go on, false stops it until an interrupt comes. A PC's board latches IRQ 13
    /// on the edge; a write to port F0h clears that and asserts IGNNE#. A board without such logic ties IGNNE# active.
    fn fpu_error(&mut self, _cpu: usize, _edge: bool, _now: Nanos) -> bool {
        true
    }

    /// IA32_APIC_BASE as the CPU shows it (SDM Vol. 3A, 11.4.4).
    fn apic_base(&self, cpu: usize) -> u64;
    /// WRMSR to IA32_APIC_BASE; false: #GP (reserved bits, illegal x2APIC transition).
    fn set_apic_base(&mut self, cpu: usize, value: u64) -> bool;
    /// RDMSR of 0x800..=0x8FF; `None`: #GP (not in x2APIC mode, no such register, write-only).
    fn x2apic_read(&mut self, cpu: usize, msr: u32, now: Nanos) -> Option<u64>;
    /// WRMSR to 0x800..=0x8FF; false: #GP.
    fn x2apic_write(&mut self, cpu: usize, msr: u32, value: u64, now: Nanos) -> bool;
    /// CR8 (TPR bits 7:4).
    fn tpr(&self, cpu: usize) -> u8;
    /// MOV CR8.
    fn set_tpr(&mut self, cpu: usize, value: u8);
    /// IA32_TSC_DEADLINE (0x6E0) in guest nanoseconds; 0 is disarmed.
    fn tsc_deadline(&self, cpu: usize) -> Nanos;
    /// Arms the deadline; the CPU has converted TSC ticks to guest nanoseconds.
    fn set_tsc_deadline(&mut self, cpu: usize, deadline: Nanos, now: Nanos);
    /// RESET#: every chip to its power-on state.
    fn reset(&mut self, now: Nanos);
}
