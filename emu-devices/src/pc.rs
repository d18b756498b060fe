//! The board: a PC/AT with i440FX or Q35 chipset, as one wiring page.
//!
//! [`wire`] lists every device and its ports; what the chipsets do differently is asked of the [`Chipset`]. Interrupt lines
//! (`interrupts.rs`) go to the 8259 pair and to the I/O APIC; the pair's INT goes to LINT0 of each local APIC and to I/O APIC
//! pin 0. `access.rs` is the CPU's side ([`Board`]).
//!
//! Data flow: an access reaches a chip through [`PortMap`] or the memory windows; afterwards `settle` collects the
//! lines' levels and edges, routes APIC messages, and caches what each vCPU's INTR is and when `advance` is next due.
//! Invariant: between calls nothing is left to collect, so that `interrupt` and `next_event` only read the cache.
//!
//! All guest-visible state is in [`PcState`], plain data. The port table, the plugged PCI devices and the host sides
//! are built by [`Pc::new`] from [`PcConfig`]; a snapshot is restored into a board that was built alike.

mod access;
mod config;
pub mod flash;
mod floppy;
mod interrupts;
#[cfg(test)]
mod tests;

use crate::audio::speaker::Speaker;
use crate::backend::CharBackend;
use crate::chips::acpi_pm::{AcpiPm, Layout};
use crate::chips::fw_cfg::{FwCfg, GuestMemory, Memory};
use crate::chips::hpet::Hpet;
use crate::chips::i8042::I8042;
use crate::chips::i8237::Dma;
use crate::chips::i8254::I8254;
use crate::chips::i8259::Pair;
use crate::chips::i82077::I82077;
use crate::chips::ioapic::{IoApic, PINS};
use crate::chips::lapic::{Lapic, StartUp};
use crate::chips::mc146818::Mc146818;
use crate::chips::pflash::Flash;
use crate::chips::uart16550::Uart16550;
use crate::display::Screen;
use crate::firmware::{self, Hardware};
use crate::ibmpc;
use crate::input::{InputSink, Model};
use crate::pci::chipset::{Chipset, Model as Machine, Places};
use crate::pci::{ConfigSpace, PciDevice, PciSlots};
use crate::port_map::{PortError, PortMap};
use emu_core::bus::{Board, Interrupt, Nanos, Request};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

pub use config::{BoardError, DebugExit, PcConfig};
use flash::FlashChip;
use floppy::Floppies;

/// How often the host side is looked at, in guest time.
const POLL: Nanos = 1_000_000;
/// Requests that the machine has not taken; more are dropped.
const MAX_REQUESTS: usize = 64;

/// What answers at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dev {
    Dma(u8),
    DmaPage,
    Pic(u8),
    Elcr,
    Pit,
    Kbc(u8),
    Port61,
    Rtc,
    Port92,
    Smi,
    Fpu,
    Floppy(u8),
    BiosTrap,
    DebugCon,
    Com(u8),
    Pvpanic,
    FwCfg,
    FwCfgDma,
    AcpiPm,
    PciAddress,
    PciData,
    DebugExit,
}

/// Every device on the board and where it is.
fn wire(ports: &mut PortMap<Dev>, config: &PcConfig) -> Result<(), PortError> {
    ports.attach("8237 slave", ibmpc::DMA_SLAVE, Dev::Dma(0))?;
    ports.attach("8237 master", ibmpc::DMA_MASTER, Dev::Dma(1))?;
    ports.attach("DMA pages", ibmpc::DMA_PAGES, Dev::DmaPage)?;
    ports.attach("8259 master", ibmpc::PIC_MASTER, Dev::Pic(0))?;
    ports.attach("8259 slave", ibmpc::PIC_SLAVE, Dev::Pic(1))?;
    ports.attach("8259 edge/level control", ibmpc::PIC_ELCR, Dev::Elcr)?;
    ports.attach("8254 timer", ibmpc::PIT, Dev::Pit)?;
    ports.attach("8042 data", ibmpc::KBC_DATA, Dev::Kbc(0))?;
    ports.attach("8042 status", ibmpc::KBC_STATUS, Dev::Kbc(1))?;
    ports.attach("system control port B", ibmpc::PORT_61, Dev::Port61)?;
    ports.attach("system control port A", ibmpc::PORT_92, Dev::Port92)?;
    ports.attach("MC146818 clock", ibmpc::RTC, Dev::Rtc)?;
    ports.attach("SMI command", ibmpc::SMI, Dev::Smi)?;
    ports.attach("coprocessor error", ibmpc::FPU, Dev::Fpu)?;
    ports.attach("floppy", ibmpc::FLOPPY, Dev::Floppy(0))?;
    ports.attach("floppy DIR", ibmpc::FLOPPY_DIR, Dev::Floppy(7))?;
    ports.attach("com1", ibmpc::COM1, Dev::Com(0))?;
    ports.attach("com2", ibmpc::COM2, Dev::Com(1))?;
    ports.attach("pvpanic", ibmpc::PVPANIC, Dev::Pvpanic)?;
    ports.attach("fw_cfg", ibmpc::FW_CFG, Dev::FwCfg)?;
    ports.attach("fw_cfg DMA", ibmpc::FW_CFG_DMA, Dev::FwCfgDma)?;
    ports.attach("ACPI power management", ibmpc::ACPI_PM, Dev::AcpiPm)?;
    ports.attach(
        "PCI configuration address",
        ibmpc::PCI_ADDRESS,
        Dev::PciAddress,
    )?;
    ports.attach("PCI configuration data", ibmpc::PCI_DATA, Dev::PciData)?;
    if config.bios {
        ports.attach("BIOS services", ibmpc::BIOS_TRAP, Dev::BiosTrap)?;
    }
    if config.debugcon.is_some() {
        ports.attach("debug console", (config.debugcon_port, 1), Dev::DebugCon)?;
    }
    if let Some(exit) = config.debug_exit {
        ports.attach("isa-debug-exit", (exit.iobase, exit.iosize), Dev::DebugExit)?;
    }
    Ok(())
}

/// What happened and is worth counting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub unknown_port_reads: u64,
    pub unknown_port_writes: u64,
    pub last_unknown_port: Option<u16>,
    pub unknown_mmio_reads: u64,
    pub unknown_mmio_writes: u64,
    pub last_unknown_mmio: Option<u64>,
    pub spurious_interrupts: u64,
    pub nmis: u64,
    pub input_bytes: u64,
    pub output_bytes: u64,
    /// Interrupts that the 8259 pair has delivered, by IRQ.
    pub pic_delivered: [u64; 16],
    /// Interrupts that the I/O APIC has sent, by pin.
    pub ioapic_delivered: [u64; PINS],
}

/// The whole guest-visible state of the board.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PcState {
    dma: Dma,
    pic: Pair,
    pit: I8254,
    kbc: I8042,
    rtc: Mc146818,
    floppy: I82077,
    com: [Uart16550; 2],
    ioapic: IoApic,
    lapics: Vec<Lapic>,
    hpet: Hpet,
    pm: AcpiPm,
    chipset: Chipset,
    fw_cfg: FwCfg,
    ram_size: u64,
    /// Firmware in the guest sets the board up.
    firmware: bool,
    /// Port 61h bits 3:0.
    port_61: u8,
    /// Port 92h bit 0.
    fast_init: bool,
    a20: bool,
    nmi_masked: bool,
    smi: [u8; 2],
    /// FERR# has been seen: IRQ 13, until a write to port F0h.
    fpu_error: bool,
    /// IGNNE#, asserted by that write until the next edge of FERR# (before which FERR# has fallen).
    ignne: bool,
    reset_control: u8,
    /// The levels that the interrupt controllers were last given: ISA IRQs and I/O APIC pins.
    isa_lines: u32,
    gsi_lines: u32,
    /// ISA IRQs that the HPET's edges hold high.
    hpet_held: u32,
    /// The vCPU that makes the present access.
    cpu: usize,
    requests: VecDeque<Request>,
    counters: Counters,
}

/// A board's state with that of its PCI devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    state: PcState,
    pci: Vec<(u8, Vec<u8>)>,
    flash: Vec<Flash>,
}

/// The board.
pub struct Pc {
    s: PcState,
    flash: Vec<FlashChip>,
    /// Worked out by `place`: where the chipset has put what can be moved.
    places: Places,
    ports: PortMap<Dev>,
    slots: PciSlots,
    com: [CharBackend; 2],
    debugcon: Option<CharBackend>,
    floppies: Floppies,
    speaker: Option<Speaker>,
    memory: Option<Memory>,
    /// Keyboards and pointers that are not PS/2.
    plugged: Vec<(Model, Arc<dyn InputSink>)>,
    /// Worked out by `settle`: each vCPU's inputs, and when `advance` is due.
    inputs: Vec<Interrupt>,
    next: Nanos,
    /// When the host side is looked at next.
    poll_at: Nanos,
}

impl Pc {
    /// Builds the board in its state after power-on and firmware.
    pub fn new(config: PcConfig) -> Result<Self, BoardError> {
        if !(1..=255).contains(&config.cpus) {
            return Err(BoardError::Cpus(config.cpus));
        }
        let mut ports = PortMap::default();
        wire(&mut ports, &config)?;

        let low = config.machine.low_ram(config.ram_size);
        let mut rtc = Mc146818::new(config.rtc_base);
        let floppies = Floppies(config.floppies);
        rtc.set_floppies(floppies.types());
        rtc.set_pc_bytes(low, config.ram_size - low, config.cpus);
        let mut s = PcState {
            dma: Dma::new(),
            pic: Pair::new(),
            pit: I8254::new(),
            kbc: I8042::new(),
            rtc,
            floppy: I82077::new(),
            com: [Uart16550::new(), Uart16550::new()],
            ioapic: IoApic::new(),
            lapics: (0..config.cpus as u32).map(Lapic::new).collect(),
            hpet: Hpet::new(),
            pm: AcpiPm::new(pm_layout(config.machine)),
            chipset: Chipset::new(config.machine),
            fw_cfg: FwCfg::new(config.ram_size, config.cpus as u16),
            ram_size: config.ram_size,
            firmware: config.firmware,
            port_61: 0,
            fast_init: false,
            a20: true,
            nmi_masked: false,
            smi: [0; 2],
            fpu_error: false,
            ignne: false,
            reset_control: 0,
            isa_lines: 0,
            gsi_lines: 0,
            hpet_held: 0,
            cpu: 0,
            requests: VecDeque::new(),
            counters: Counters::default(),
        };
        s.before_guest();
        for (uart, backend) in s.com.iter_mut().zip(&config.com) {
            // CTS, DSR and DCD: somebody is at the other end.
            uart.set_modem_inputs(if backend.is_connected() { 0xb0 } else { 0 });
            uart.read(6, 0);
        }
        let mut pc = Self {
            inputs: vec![Interrupt::default(); config.cpus],
            s,
            flash: Vec::new(),
            places: Places::default(),
            ports,
            slots: PciSlots::default(),
            com: config.com,
            debugcon: config.debugcon,
            floppies,
            speaker: config.speaker.map(Speaker::new),
            memory: config.memory,
            plugged: Vec::new(),
            next: 0,
            poll_at: Nanos::MAX,
        };
        pc.place();
        pc.protect();
        pc.poll_host(0);
        pc.settle();
        Ok(pc)
    }

    /// Plugs a PCI device in.
    pub fn plug(
        &mut self,
        device: u8,
        function: u8,
        d: Box<dyn PciDevice>,
    ) -> Result<(), BoardError> {
        let devfn = device << 3 | function & 7;
        let chipset = self.s.chipset.functions().iter().any(|f| f.0 == devfn);
        if device > 31 || function > 7 || chipset || !self.slots.plug(devfn, d) {
            return Err(BoardError::PciSlot { device, function });
        }
        // What it asks for at once must not wait for whoever touches the board first.
        self.settle();
        Ok(())
    }

    /// The first PCI device number behind the screen's of which no function is taken.
    pub fn free_slot(&self) -> Option<u8> {
        let model = self.s.chipset.model();
        (model.vga_device() + 1..32)
            .find(|&device| device != model.isa_device() && !self.slots.is_taken(device))
    }

    /// Which chipset it has.
    pub fn machine(&self) -> Machine {
        self.s.chipset.model()
    }

    /// Where the chipset has put what can be moved.
    pub fn places(&self) -> Places {
        self.places
    }

    /// Every PCI function of bus 0, by device and function number.
    pub fn pci_functions(&self) -> Vec<(u8, ConfigSpace)> {
        let all = self.s.chipset.functions().into_iter();
        let all = all.chain(self.slots.functions());
        let mut list: Vec<_> = all.map(|(devfn, f)| (devfn, f.clone())).collect();
        list.sort_by_key(|f| f.0);
        list
    }

    /// What firmware boots from, in order: `a`, `c`, `d`, `n` as `--boot` has them.
    pub fn set_boot_order(&mut self, order: &str) {
        self.s.rtc.set_boot_order(order);
    }

    /// Solders a flash chip on.
    pub fn add_flash(&mut self, chip: FlashChip) {
        self.flash.push(chip);
    }

    /// What went wrong with a flash chip's file, once.
    pub fn take_flash_error(&mut self) -> Option<std::io::Error> {
        self.flash.iter_mut().find_map(|f| f.failed.take())
    }

    /// The wiring: name, first port, last port.
    pub fn port_list(&self) -> Vec<(String, u16, u16)> {
        self.ports.list()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        Counters {
            ioapic_delivered: *self.s.ioapic.sent(),
            ..self.s.counters.clone()
        }
    }

    /// The last byte written to port 80h.
    pub fn post_code(&self) -> u8 {
        self.s.dma.page(0)
    }

    /// Items for the guest's firmware or kernel.
    pub fn fw_cfg(&mut self) -> &mut FwCfg {
        &mut self.s.fw_cfg
    }

    /// The A20 gate: true lets addresses pass.
    pub fn a20(&self) -> bool {
        self.s.a20
    }

    /// A key goes down or up (codes: [`ps2`](crate::chips::ps2)).
    pub fn key(&mut self, key: u16, down: bool, now: Nanos) {
        match self.used(Model::Keyboard) {
            Some(keyboard) => {
                keyboard.key(key, down);
                self.slots.poll(now);
            }
            None => self.s.kbc.key(key, down, now),
        }
        self.settle();
    }

    /// Whether the keyboard can take any key without losing it.
    pub fn keyboard_has_room(&self) -> bool {
        let keyboard = self.used(Model::Keyboard);
        keyboard.map_or_else(|| self.s.kbc.keyboard.has_room(), |k| k.has_room())
    }

    /// A keyboard, mouse or tablet that takes what the PS/2 devices would get, once a driver uses it.
    pub fn attach_input(&mut self, model: Model, events: Arc<dyn InputSink>) {
        self.plugged.push((model, events));
    }

    /// As in QEMU, the one that was plugged in last.
    fn used(&self, model: Model) -> Option<Arc<dyn InputSink>> {
        let mut newest = self.plugged.iter().rev();
        let found = newest.find(|i| i.0 == model && i.1.is_used());
        found.map(|i| i.1.clone())
    }

    /// The pointers' names and whether they are absolute, PS/2's first; and which of them is moved.
    pub fn pointers(&self) -> (Vec<(&'static str, bool)>, usize) {
        let current = self.used(Model::Tablet).or_else(|| self.used(Model::Mouse));
        let mut list = vec![("QEMU PS/2 Mouse", false)];
        let mut moved = 0;
        for (model, sink) in self.plugged.iter().filter(|i| i.0 != Model::Keyboard) {
            if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, sink)) {
                moved = list.len();
            }
            list.push((sink.name(), *model == Model::Tablet));
        }
        (list, moved)
    }

    /// Whether a tablet is in use, so that pointers should be told where they are.
    pub fn has_tablet(&self) -> bool {
        self.used(Model::Tablet).is_some()
    }

    /// The pointer is at a place, each coordinate from 0 to [`TABLET_MAX`](crate::input::TABLET_MAX); its wheel turns (up
    /// positive), its buttons (bit 0 left, 1 right, 2 middle) are so. False: no tablet is in use.
    pub fn pointer(&mut self, x: u32, y: u32, dz: i32, buttons: u8, now: Nanos) -> bool {
        let Some(tablet) = self.used(Model::Tablet) else {
            return false;
        };
        tablet.placed(x, y, dz, buttons);
        self.slots.poll(now);
        self.settle();
        true
    }

    /// The keyboard's lights: bit 0 ScrollLock, 1 NumLock, 2 CapsLock.
    pub fn leds(&self) -> u8 {
        let keyboard = self.used(Model::Keyboard);
        keyboard.map_or_else(|| self.s.kbc.keyboard.leds(), |k| k.leds())
    }

    /// The mouse moves (right and up positive), its wheel turns (up positive) or its buttons change.
    pub fn mouse(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8, now: Nanos) {
        match self.used(Model::Mouse) {
            Some(mouse) => {
                mouse.moved(dx, dy.saturating_neg(), dz, buttons);
                self.slots.poll(now);
            }
            None => self.s.kbc.mouse_event(dx, dy, dz, buttons, now),
        }
        self.settle();
    }

    /// What the screen shows: registers and the memory itself, to be drawn without the board's lock.
    pub fn screen(&self, now: Nanos) -> Option<Screen> {
        self.slots.screen(now)
    }

    /// The user presses the power button: an ACPI guest shuts down.
    pub fn press_power_button(&mut self) {
        self.s.pm.press_power_button();
        self.settle();
    }

    /// A break arrives at a serial port.
    pub fn serial_break(&mut self, n: usize, now: Nanos) {
        if let Some(uart) = self.s.com.get_mut(n) {
            uart.receive_break(now);
            self.settle();
        }
    }

    /// The NMI button.
    pub fn nmi(&mut self) {
        if !self.s.nmi_masked {
            self.s.lapics.iter_mut().for_each(Lapic::pulse_lint1);
            self.settle();
        }
    }

    /// What an INIT or start-up message asks of a vCPU.
    pub fn take_start_up(&mut self, cpu: usize) -> Option<StartUp> {
        let lapic = self.s.lapics.get_mut(cpu)?;
        let start_up = lapic.take_start_up();
        if start_up == Some(StartUp::Init) {
            lapic.init_reset();
            self.refresh_cpu(cpu);
        }
        start_up
    }

    /// The host has input: takes what the guest has room for.
    pub fn input_arrived(&mut self, now: Nanos) {
        self.poll_host(now);
        self.slots.poll(now);
        self.settle();
    }

    /// Writes out what the guest has sent. Gives the first error of an output, which is then off.
    pub fn flush(&mut self) -> Option<std::io::Error> {
        let mut error = None;
        for backend in self.com.iter_mut().chain(self.debugcon.as_mut()) {
            backend.flush();
            error = error.or(backend.take_error());
        }
        error
    }

    /// The state, to put into a board that was built alike.
    pub fn save(&self) -> Snapshot {
        Snapshot {
            state: self.s.clone(),
            pci: self.slots.save(),
            flash: self.flash.iter().map(|f| f.chip.clone()).collect(),
        }
    }

    /// Takes a state back; false: it is another board's (the number of vCPUs or the PCI devices differ).
    pub fn restore(&mut self, snapshot: &Snapshot, now: Nanos) -> bool {
        if snapshot.state.lapics.len() != self.s.lapics.len()
            || snapshot.state.chipset.model() != self.machine()
            || snapshot.flash.len() != self.flash.len()
            || !self.slots.restore(&snapshot.pci)
        {
            return false;
        }
        let mut moved = false;
        for (flash, chip) in self.flash.iter_mut().zip(&snapshot.flash) {
            moved |= flash.restore(chip);
        }
        self.s = snapshot.state.clone();
        if moved {
            self.request(Request::MemoryMap);
        }
        self.place();
        self.protect();
        self.poll_host(now);
        self.settle();
        true
    }

    fn request(&mut self, request: Request) {
        if self.s.requests.len() < MAX_REQUESTS {
            self.s.requests.push_back(request);
        }
    }

    fn set_a20(&mut self, on: bool) {
        if self.s.a20 != on {
            self.s.a20 = on;
            self.request(Request::A20(on));
        }
    }

    /// What the chipset can move goes where it is now, and the tables for the firmware say so.
    fn place(&mut self) {
        let chipset = &self.s.chipset;
        self.places = chipset.places();
        let ports = self.places.pm.map(|p| (p, chipset.model().pm_ports()));
        self.ports.relocate(Dev::AcpiPm, ports);
        if self.s.firmware {
            let hardware = Hardware {
                machine: chipset.model(),
                ram_size: self.s.ram_size,
                cpus: self.s.lapics.len(),
                pm: self.places.pm.unwrap_or(ibmpc::ACPI_PM.0),
                ecam: self.places.ecam,
            };
            firmware::add_items(&mut self.s.fw_cfg, &hardware);
        }
    }

    /// RAM is write-protected where the chipset says.
    fn protect(&mut self) {
        let segments = self.s.chipset.read_only();
        if self.memory.as_ref().is_some_and(|m| m.protect(segments)) {
            self.request(Request::MemoryMap);
        }
    }

    /// Exchanges bytes with the host and plans the next look.
    fn poll_host(&mut self, now: Nanos) {
        let mut again = false;
        for (uart, backend) in self.s.com.iter_mut().zip(&mut self.com) {
            let room = uart.room();
            if room > 0 {
                let mut n = 0;
                backend.receive(room, |byte| {
                    uart.receive(byte, now);
                    n += 1;
                });
                self.s.counters.input_bytes += n;
            }
            backend.flush();
            again |= backend.wants_polling();
        }
        if let Some(backend) = &mut self.debugcon {
            backend.flush();
        }
        self.poll_at = if again {
            now.saturating_add(POLL)
        } else {
            Nanos::MAX
        };
    }

    /// Moves what a serial port has sent to its host side, which writes lines out by itself and the rest by
    /// [`flush`](Self::flush): when that is plays no part in the guest's time.
    fn send_out(&mut self, n: usize) {
        let backend = &mut self.com[n];
        for byte in self.s.com[n].take_output() {
            backend.put(byte);
            self.s.counters.output_bytes += 1;
        }
    }
}

/// Whose power management registers a board has.
fn pm_layout(machine: Machine) -> Layout {
    match machine {
        Machine::I440fx => Layout::Piix4,
        Machine::Q35 => Layout::Ich9,
    }
}

impl PcState {
    /// Chipset and interrupt controllers as firmware finds them, or as a BIOS leaves them: the SCI and the PCI interrupts are
    /// level-triggered.
    fn before_guest(&mut self) {
        let model = self.chipset.model();
        if self.firmware {
            self.chipset = Chipset::power_on(model);
            return;
        }
        self.dma.enable_cascade();
        self.chipset = Chipset::new(model);
        let levels = ibmpc::PIRQ_IRQS
            .iter()
            .fold(1u16 << ibmpc::IRQ_SCI, |l, &irq| l | 1 << irq);
        self.pic.set_elcr(0, levels as u8);
        self.pic.set_elcr(1, (levels >> 8) as u8);
    }

    /// RESET#. Time, CMOS, firmware items and counters stay.
    fn reset(&mut self) {
        self.dma = Dma::new();
        self.pic = Pair::new();
        self.pit = I8254::new();
        self.kbc = I8042::new();
        self.rtc.reset();
        self.floppy = I82077::new();
        self.com.iter_mut().for_each(Uart16550::reset);
        self.ioapic.reset();
        self.lapics = (0..self.lapics.len() as u32).map(Lapic::new).collect();
        self.hpet = Hpet::new();
        self.pm = AcpiPm::new(pm_layout(self.chipset.model()));
        self.fw_cfg.reset();
        self.port_61 = 0;
        self.fast_init = false;
        self.nmi_masked = false;
        self.fpu_error = false;
        self.ignne = false;
        self.reset_control = 0;
        self.isa_lines = 0;
        self.gsi_lines = 0;
        self.hpet_held = 0;
        self.before_guest();
    }
}
