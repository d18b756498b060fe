//! The CPU's side of the board: ports, memory windows, interrupt acknowledge and local APIC registers.

use super::*;
use crate::chips::acpi_pm::Sleep;
use crate::chips::i8042::Signal;
use crate::pci::VENDOR;
use emu_core::addr::PhysAddr;

/// All ones in `size` bytes.
fn ones(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size as u32)) - 1
    }
}

/// The refresh request toggles each 15.085 us (port 61h bit 4).
const REFRESH_NS: u64 = 15_085;

impl Pc {
    /// One access within a device's range.
    fn dev_read(&mut self, dev: Dev, offset: u16, size: u8, now: Nanos) -> u32 {
        let s = &mut self.s;
        let byte = match dev {
            Dev::Dma(0) => s.dma.read(0, offset as u8),
            Dev::Dma(chip) => s.dma.read(chip, offset as u8 / 2),
            Dev::DmaPage => s.dma.page(offset as u8),
            Dev::Pic(chip) => s.pic.read(chip, offset as u8),
            Dev::Elcr => s.pic.elcr(offset as u8),
            Dev::Pit => s.pit.read(offset as u8, now),
            Dev::Kbc(port) => s.kbc.read(port, s.a20, now),
            Dev::Port61 => {
                let refresh = ((now / REFRESH_NS) & 1) as u8;
                let out2 = s.pit.out(2, now) as u8;
                s.port_61 & 0x0f | refresh << 4 | out2 << 5
            }
            Dev::Rtc => s.rtc.read(offset as u8, now),
            Dev::Port92 => s.fast_init as u8 | (s.a20 as u8) << 1,
            Dev::Smi => s.smi[offset as usize & 1],
            Dev::Fpu | Dev::BiosTrap => 0xff,
            Dev::Floppy(first) => s.floppy.read(first + offset as u8, now, &self.floppies),
            Dev::DebugCon => 0xe9,
            Dev::Com(n) => s.com[n as usize].read(offset as u8, now),
            Dev::Pvpanic => 3,
            Dev::FwCfg if offset == 1 => s.fw_cfg.read_data(),
            Dev::FwCfg => 0,
            Dev::FwCfgDma => {
                return (0..size as u16).fold(0, |v, i| {
                    v | (s.fw_cfg.read_dma(offset + i) as u32) << (8 * i)
                });
            }
            Dev::AcpiPm => return s.pm.read(offset, size, now),
            Dev::PciAddress if size == 4 => return s.chipset.address(),
            Dev::PciAddress if offset == 1 => s.reset_control & !4,
            Dev::PciAddress => 0xff,
            Dev::PciData => {
                let Some((devfn, reg)) = s.chipset.target() else {
                    return ones(size) as u32;
                };
                return self.config_read(devfn, reg + offset as usize, size);
            }
            Dev::DebugExit => 0,
        };
        byte as u32
    }

    fn dev_write(&mut self, dev: Dev, offset: u16, size: u8, value: u32, now: Nanos) {
        let s = &mut self.s;
        let byte = value as u8;
        match dev {
            Dev::Dma(0) => s.dma.write(0, offset as u8, byte),
            Dev::Dma(chip) => s.dma.write(chip, offset as u8 / 2, byte),
            Dev::DmaPage => s.dma.set_page(offset as u8, byte),
            Dev::Pic(chip) => s.pic.write(chip, offset as u8, byte),
            Dev::Elcr => s.pic.set_elcr(offset as u8, byte),
            Dev::Pit => {
                self.play_speaker(now);
                self.s.pit.write(offset as u8, byte, now);
                self.stir_speaker(now);
            }
            Dev::Kbc(port) => match s.kbc.write(port, byte, s.a20, now) {
                Some(Signal::Reset) => self.request(Request::Reset),
                Some(Signal::A20(on)) => self.set_a20(on),
                None => {}
            },
            Dev::Port61 => {
                self.play_speaker(now);
                self.s.port_61 = byte & 0x0f;
                self.s.pit.set_gate2(byte & 1 != 0, now);
                self.stir_speaker(now);
            }
            Dev::Rtc => {
                if offset == 0 {
                    s.nmi_masked = byte & 0x80 != 0;
                }
                s.rtc.write(offset as u8, byte, now);
            }
            Dev::Port92 => {
                let init = byte & 1 != 0 && !s.fast_init;
                s.fast_init = byte & 1 != 0;
                self.set_a20(byte & 2 != 0);
                if init {
                    self.request(Request::Init);
                }
            }
            Dev::Smi => {
                s.smi[offset as usize & 1] = byte;
                match (offset, byte) {
                    (0, ibmpc::ACPI_ENABLE) => s.pm.set_acpi_mode(true),
                    (0, ibmpc::ACPI_DISABLE) => s.pm.set_acpi_mode(false),
                    _ => {}
                }
            }
            // 82371SB, coprocessor error register: IGNNE# is not asserted unless FERR# was.
            Dev::Fpu => s.ignne |= std::mem::take(&mut s.fpu_error),
            Dev::BiosTrap => self.request(Request::Firmware),
            Dev::Floppy(first) => {
                let reg = first + offset as u8;
                s.floppy.write(reg, byte, now, &self.floppies);
            }
            Dev::DebugCon => {
                if let Some(backend) = &mut self.debugcon {
                    backend.put(byte);
                    s.counters.output_bytes += 1;
                }
            }
            Dev::Com(n) => {
                s.com[n as usize].write(offset as u8, byte, now);
                if s.com[n as usize].has_output() {
                    self.send_out(n as usize);
                }
            }
            Dev::Pvpanic => self.request(Request::GuestPanic(byte)),
            Dev::FwCfg if offset == 0 => s.fw_cfg.select(value as u16),
            Dev::FwCfg => {}
            Dev::FwCfgDma => {
                if size == 4 && offset & 3 == 0 {
                    let memory = self.memory.clone();
                    let memory: Option<&dyn GuestMemory> = match &memory {
                        Some(memory) => Some(&**memory),
                        None => None,
                    };
                    s.fw_cfg.write_dma((offset / 4) as u8, value, memory);
                }
            }
            Dev::AcpiPm => {
                if s.pm.write(offset, size, value, now) == Some(Sleep::Off) {
                    self.request(Request::PowerOff);
                }
            }
            Dev::PciAddress if size == 4 => s.chipset.set_address(value),
            Dev::PciAddress if offset == 1 => {
                // The rising edge of bit 2 resets (82371SB, 2.5.2).
                let reset = byte & !s.reset_control & 4 != 0;
                s.reset_control = byte & 0x06;
                if reset {
                    self.request(Request::Reset);
                }
            }
            Dev::PciAddress => {}
            Dev::PciData => {
                if let Some((devfn, reg)) = s.chipset.target() {
                    self.config_write(devfn, reg + offset as usize, size, value);
                }
            }
            Dev::DebugExit => self.request(Request::DebugExit(value)),
        }
    }

    /// Reads configuration space; nobody there: all ones.
    fn config_read(&mut self, devfn: u8, at: usize, size: u8) -> u32 {
        let value = self.s.chipset.config_read(devfn, at, size);
        value
            .or_else(|| self.slots.config_read(devfn, at, size))
            .unwrap_or(ones(size) as u32)
    }

    fn config_write(&mut self, devfn: u8, at: usize, size: u8, value: u32) {
        if !self.s.chipset.config_write(devfn, at, size, value) {
            self.slots.config_write(devfn, at, size, value);
            return;
        }
        if self.s.chipset.places() != self.places {
            self.place();
        }
        self.protect();
    }

    /// Part of an access to configuration space in memory that is within a double word: which function's, at which of
    /// its 4096 bytes. `None`: not bus 0.
    fn ecam_function(offset: u64) -> Option<(u8, usize)> {
        (offset >> 20 == 0).then_some(((offset >> 12) as u8, offset as usize & 0xfff))
    }

    /// A read of configuration space in memory (PCI Express Base Specification, 7.2.2). What a function has behind its first 256
    /// bytes is zero.
    fn ecam_read(&mut self, offset: u64, size: u8) -> u64 {
        let mut value = 0;
        for (at, bytes) in double_words(offset, size) {
            let part = match Self::ecam_function(offset + u64::from(at)) {
                None => ones(bytes) as u32,
                Some((devfn, at)) if at < 0x100 => self.config_read(devfn, at, bytes),
                Some((devfn, _)) if self.config_read(devfn, VENDOR, 2) == 0xffff => {
                    ones(bytes) as u32
                }
                Some(_) => 0,
            };
            value |= u64::from(part) << (8 * at);
        }
        value
    }

    fn ecam_write(&mut self, offset: u64, size: u8, value: u64) {
        for (at, bytes) in double_words(offset, size) {
            if let Some((devfn, reg @ ..0x100)) = Self::ecam_function(offset + u64::from(at)) {
                let part = (value >> (8 * at)) & ones(bytes);
                self.config_write(devfn, reg, bytes, part as u32);
            }
        }
    }

    /// Whether a device takes accesses wider than a byte; the others get them byte by byte.
    fn is_wide(dev: Dev) -> bool {
        matches!(
            dev,
            Dev::AcpiPm
                | Dev::PciAddress
                | Dev::PciData
                | Dev::FwCfgDma
                | Dev::FwCfg
                | Dev::DebugExit
        )
    }

    fn port_read(&mut self, port: u16, size: u8, now: Nanos) -> u32 {
        match self.ports.find(port) {
            Some((dev, offset, left))
                if size == 1 || (Self::is_wide(dev) && left >= size as u16) =>
            {
                return self.dev_read(dev, offset, size, now);
            }
            None if self.nobody_of_ours(port, size) => {
                return match self.slots.find(true, port as u64, size) {
                    Some(target) => self.slots.read(target, size, now) as u32,
                    None => {
                        self.s.counters.unknown_port_reads += 1;
                        self.s.counters.last_unknown_port = Some(port);
                        ones(size) as u32
                    }
                };
            }
            _ => {}
        }
        (0..size).fold(0, |v, i| {
            v | self.port_read(port.wrapping_add(i as u16), 1, now) << (8 * i)
        })
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32, now: Nanos) {
        match self.ports.find(port) {
            Some((dev, offset, left))
                if size == 1 || (Self::is_wide(dev) && left >= size as u16) =>
            {
                return self.dev_write(dev, offset, size, value, now);
            }
            None if self.nobody_of_ours(port, size) => {
                match self.slots.find(true, port as u64, size) {
                    Some(target) => self.slots.write(target, size, value as u64, now),
                    None => {
                        self.s.counters.unknown_port_writes += 1;
                        self.s.counters.last_unknown_port = Some(port);
                    }
                }
                return;
            }
            _ => {}
        }
        for i in 0..size {
            self.port_write(
                port.wrapping_add(i as u16),
                1,
                (value >> (8 * i)) & 0xff,
                now,
            );
        }
    }

    /// Whether none of the board's own devices has a port of this access.
    fn nobody_of_ours(&self, port: u16, size: u8) -> bool {
        (0..size).all(|i| self.ports.find(port.wrapping_add(i as u16)).is_none())
    }

    /// What the speaker has to say until now, before what makes it changes.
    fn play_speaker(&mut self, now: Nanos) {
        if let Some(speaker) = &mut self.speaker {
            speaker.run(&self.s.pit, self.s.port_61, now);
        }
    }

    fn stir_speaker(&mut self, now: Nanos) {
        if let Some(speaker) = &mut self.speaker {
            speaker.stir(self.s.port_61, now);
        }
    }

    /// Runs what is due before an access sees the chips.
    fn catch_up(&mut self, now: Nanos) {
        if now >= self.next {
            self.advance(now);
        }
    }

    /// What the reading half of an instruction that modifies ROM sees.
    fn rom_read(&self, addr: PhysAddr, size: u8) -> Option<u64> {
        let mut bytes = [0; 8];
        let memory = self.memory.as_ref()?;
        memory
            .read(addr.0, &mut bytes[..size as usize & 15])
            .then(|| u64::from_le_bytes(bytes))
    }

    /// The flash chip of an access, and the offset in it.
    fn flash_at(&self, addr: u64, size: u8) -> Option<(usize, u64)> {
        let mut chips = self.flash.iter().enumerate();
        chips.find_map(|(n, f)| Some((n, f.offset(addr, size)?)))
    }

    /// The memory window of the board's own chips at `addr`, with the offset.
    fn window(&self, addr: u64) -> Option<(Mmio, u64)> {
        let inside =
            |(base, size): ibmpc::Window| (addr.wrapping_sub(base) < size).then(|| addr - base);
        if let Some(base) = self.s.lapics[self.s.cpu].mmio_base()
            && let Some(offset) = inside((base, ibmpc::LAPIC_SIZE))
        {
            return Some((Mmio::Lapic, offset));
        }
        if let Some(offset) = inside(ibmpc::IOAPIC) {
            return Some((Mmio::IoApic, offset));
        }
        if let Some(offset) = inside(ibmpc::HPET) {
            return Some((Mmio::Hpet, offset));
        }
        if let Some(offset) = self.places.ecam.and_then(inside) {
            return Some((Mmio::Ecam, offset));
        }
        let rcrb = self.places.rcba.and_then(inside);
        rcrb.map(|offset| (Mmio::Rcrb, offset))
    }
}

#[derive(Clone, Copy)]
enum Mmio {
    Lapic,
    IoApic,
    Hpet,
    /// PCI configuration space.
    Ecam,
    /// Chipset configuration registers.
    Rcrb,
}

/// An access in parts that do not cross a multiple of 4: offset from its first byte, and bytes.
fn double_words(offset: u64, size: u8) -> impl Iterator<Item = (u8, u8)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = (4 - (offset + u64::from(at)) as u8 % 4).min(size - at);
        at += bytes;
        (bytes > 0).then_some((at - bytes, bytes))
    })
}

impl Board for Pc {
    fn select_cpu(&mut self, cpu: usize) {
        self.s.cpu = cpu.min(self.s.lapics.len() - 1);
    }

    fn pio_read(&mut self, port: u16, size: u8, now: Nanos) -> u32 {
        self.catch_up(now);
        let value = self.port_read(port, size, now);
        self.settle();
        value
    }

    fn pio_write(&mut self, port: u16, size: u8, value: u32, now: Nanos) {
        self.catch_up(now);
        self.port_write(port, size, value, now);
        self.serve_dma(now);
        self.settle();
    }

    fn mmio_read(&mut self, addr: PhysAddr, size: u8, now: Nanos) -> u64 {
        let target = self.slots.find(false, addr.0, size);
        if let Some(target) = target.filter(|t| t.is_memory) {
            return self.slots.read(target, size, now);
        }
        if let Some((n, at)) = self.flash_at(addr.0, size) {
            return self.flash[n].read(at, size);
        }
        self.catch_up(now);
        let value = match self.window(addr.0) {
            // The APICs' registers are 32 bits wide at multiples of 16.
            Some((Mmio::Lapic, offset)) => {
                let cpu = self.s.cpu;
                let value = self.s.lapics[cpu].mmio_read(offset & !3, now) as u64;
                value >> (8 * (offset & 3)) & ones(size)
            }
            Some((Mmio::IoApic, offset)) => {
                let value = self.s.ioapic.read(offset & !3) as u64;
                value >> (8 * (offset & 3)) & ones(size)
            }
            Some((Mmio::Hpet, offset)) => self.s.hpet.read(offset, size, now),
            Some((Mmio::Ecam, offset)) => self.ecam_read(offset, size),
            Some((Mmio::Rcrb, offset)) => self.s.chipset.rcrb_read(offset, size),
            None => match target {
                Some(target) => self.slots.read(target, size, now),
                None => self.rom_read(addr, size).unwrap_or_else(|| {
                    self.s.counters.unknown_mmio_reads += 1;
                    self.s.counters.last_unknown_mmio = Some(addr.0);
                    ones(size)
                }),
            },
        };
        self.settle();
        value
    }

    fn mmio_write(&mut self, addr: PhysAddr, size: u8, value: u64, now: Nanos) {
        let target = self.slots.find(false, addr.0, size);
        if let Some(target) = target.filter(|t| t.is_memory) {
            self.slots.write(target, size, value, now);
            return;
        }
        if let Some((n, at)) = self.flash_at(addr.0, size) {
            if self.flash[n].write(at, size, value) {
                self.request(Request::MemoryMap);
            }
            return;
        }
        self.catch_up(now);
        match self.window(addr.0) {
            Some((Mmio::Lapic, offset)) => {
                let cpu = self.s.cpu;
                // Narrower accesses are undefined (SDM Vol. 3A, 11.4.1); they do nothing here.
                if size >= 4 {
                    self.s.lapics[cpu].mmio_write(offset, value as u32, now);
                }
            }
            Some((Mmio::IoApic, offset)) => self.s.ioapic.write(offset, value as u32),
            Some((Mmio::Hpet, offset)) => self.s.hpet.write(offset, size, value, now),
            Some((Mmio::Ecam, offset)) => self.ecam_write(offset, size, value),
            Some((Mmio::Rcrb, offset)) => self.s.chipset.rcrb_write(offset, size, value),
            None => match target {
                Some(target) => self.slots.write(target, size, value, now),
                None => {
                    self.s.counters.unknown_mmio_writes += 1;
                    self.s.counters.last_unknown_mmio = Some(addr.0);
                }
            },
        }
        self.settle();
    }

    fn advance(&mut self, now: Nanos) {
        if now < self.next {
            return;
        }
        self.play_speaker(now);
        let s = &mut self.s;
        s.pit.advance(now);
        s.rtc.advance(now);
        s.kbc.advance(now);
        s.floppy.advance(now, &self.floppies);
        s.com.iter_mut().for_each(|uart| uart.advance(now));
        s.hpet.advance(now);
        s.pm.advance(now);
        s.lapics.iter_mut().for_each(|lapic| lapic.advance(now));
        self.slots.advance(now);
        if now >= self.poll_at {
            self.poll_host(now);
        }
        self.serve_dma(now);
        self.settle();
    }

    fn next_event(&self) -> Option<Nanos> {
        (self.next != Nanos::MAX).then_some(self.next)
    }

    fn take_request(&mut self) -> Option<Request> {
        self.s.requests.pop_front()
    }

    fn interrupt(&self, cpu: usize) -> Interrupt {
        self.inputs.get(cpu).copied().unwrap_or_default()
    }

    fn ack_intr(&mut self, cpu: usize, _now: Nanos) -> u8 {
        let vector = if let Some(vector) = self.s.lapics[cpu].ack() {
            vector
        } else if self.takes_extint(cpu) {
            // The acknowledge cycle goes to the 8259, which has its own spurious vector.
            let (vector, irq) = self.s.pic.ack();
            match irq {
                Some(irq) => self.s.counters.pic_delivered[irq as usize & 15] += 1,
                None => self.s.counters.spurious_interrupts += 1,
            }
            vector
        } else {
            self.s.counters.spurious_interrupts += 1;
            self.s.lapics[cpu].spurious().unwrap_or(0xff)
        };
        self.settle();
        vector
    }

    fn ack_nmi(&mut self, cpu: usize) {
        self.s.counters.nmis += 1;
        self.s.lapics[cpu].ack_nmi();
        self.refresh_cpu(cpu);
    }

    fn fpu_error(&mut self, _cpu: usize, edge: bool, now: Nanos) -> bool {
        if edge {
            self.catch_up(now);
            (self.s.fpu_error, self.s.ignne) = (true, false);
            self.settle();
        }
        self.s.ignne
    }

    fn apic_base(&self, cpu: usize) -> u64 {
        self.s.lapics[cpu].base()
    }

    fn set_apic_base(&mut self, cpu: usize, value: u64) -> bool {
        let done = self.s.lapics[cpu].set_base(value);
        self.refresh_cpu(cpu);
        done
    }

    fn x2apic_read(&mut self, cpu: usize, msr: u32, now: Nanos) -> Option<u64> {
        self.catch_up(now);
        self.s.lapics[cpu].msr_read(msr, now)
    }

    fn x2apic_write(&mut self, cpu: usize, msr: u32, value: u64, now: Nanos) -> bool {
        self.catch_up(now);
        let done = self.s.lapics[cpu].msr_write(msr, value, now);
        self.settle();
        done
    }

    fn tpr(&self, cpu: usize) -> u8 {
        self.s.lapics[cpu].cr8()
    }

    fn set_tpr(&mut self, cpu: usize, value: u8) {
        self.s.lapics[cpu].set_cr8(value);
        self.refresh_cpu(cpu);
    }

    fn tsc_deadline(&self, cpu: usize) -> Nanos {
        self.s.lapics[cpu].tsc_deadline()
    }

    fn set_tsc_deadline(&mut self, cpu: usize, deadline: Nanos, now: Nanos) {
        self.s.lapics[cpu].set_tsc_deadline(deadline, now);
        self.settle();
    }

    fn reset(&mut self, now: Nanos) {
        self.play_speaker(now);
        self.s.reset();
        self.slots.reset();
        self.place();
        self.protect();
        self.set_a20(true);
        // The runner flushes the TLB with a reset, so that nobody need be told.
        self.flash.iter_mut().for_each(|f| {
            f.reset();
        });
        self.s.requests.clear();
        self.settle();
    }
}
