//! One AHCI port: its registers, the command list, and the FISes that its device sends.
//!
//! Source: AHCI 1.3.1, 3.3 (port registers), 4.2 (received FIS and command list), 5.3 to 5.5 (commands), 6 (errors); Serial ATA 3.0,
//! 10.5 (FIS types). A command that fails stops the port until software clears and sets ST.

use crate::chips::fw_cfg::GuestMemory;
use crate::storage::Drive;
use crate::storage::ata::{self, AtaDisk, DRDY, DSC, ERR, TaskFile};
use crate::storage::atapi::{self, Cdrom};
use crate::storage::ide::Attached;
use crate::storage::job::{Job, Kind, ListEnd, Pumped, Scatter};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

// PxCMD.
const ST: u32 = 1;
const SUD: u32 = 2;
const POD: u32 = 4;
const CLO: u32 = 8;
const FRE: u32 = 16;
const FR: u32 = 1 << 14;
const CR: u32 = 1 << 15;
const IS_ATAPI: u32 = 1 << 24;
const CCS: u32 = 31 << 8;

// PxIS.
const DHRS: u32 = 1;
const PSS: u32 = 2;
const SDBS: u32 = 8;
const DPS: u32 = 1 << 5;
/// Follow PxSERR.DIAG.X and N, and are cleared there.
const PCS: u32 = 1 << 6;
const PRCS: u32 = 1 << 22;
const OFS: u32 = 1 << 24;
const HBDS: u32 = 1 << 28;
const HBFS: u32 = 1 << 29;
const TFES: u32 = 1 << 30;

const DIAG_N: u32 = 1 << 16;
const DIAG_X: u32 = 1 << 26;

/// A device is there, at 3 Gb/s, active.
const LINKED: u32 = 0x123;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Model {
    Disk(AtaDisk),
    Cdrom(Cdrom),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    device: Option<Model>,
    tf: TaskFile,
    clb: u64,
    fb: u64,
    is: u32,
    ie: u32,
    cmd: u32,
    tfd: u32,
    sig: u32,
    ssts: u32,
    sctl: u32,
    serr: u32,
    sact: u32,
    ci: u32,
    /// The device's first FIS waits for FRE.
    greeting: bool,
    /// SRST was set by the last control FIS.
    srst: bool,
    /// A command has failed: nothing more until ST is cleared.
    stopped: bool,
}

pub struct Port {
    pub s: State,
    drive: Option<Arc<Drive>>,
    buffer: Vec<u8>,
}

/// What a command leads to.
enum End {
    /// A register FIS, with an interrupt.
    Registers,
    /// A PIO set-up FIS was the last.
    Pio,
    /// Set device bits for a queued command.
    Queued(u32),
}

impl Port {
    pub fn new(attached: Option<Attached>) -> Self {
        let device = attached.as_ref().map(|a| match a.cdrom {
            true => Model::Cdrom(Cdrom::new(&a.drive)),
            false => Model::Disk(AtaDisk::new(true)),
        });
        let mut port = Self {
            s: State {
                device,
                ..State::default()
            },
            drive: attached.map(|a| a.drive),
            buffer: Vec::new(),
        };
        port.reset();
        port
    }

    /// Whether a saved state is of the same kind of device.
    pub fn fits(&self, s: &State) -> bool {
        matches!(
            (&self.s.device, &s.device),
            (None, None)
                | (Some(Model::Disk(_)), Some(Model::Disk(_)))
                | (Some(Model::Cdrom(_)), Some(Model::Cdrom(_)))
        )
    }

    pub fn reset(&mut self) {
        let device = self.s.device.take();
        self.s = State {
            device,
            cmd: SUD | POD,
            tfd: 0x7f,
            sig: u32::MAX,
            ..State::default()
        };
        self.link();
    }

    /// After COMRESET: the device is found, and sends its signature.
    fn link(&mut self) {
        self.s.tfd = 0x7f;
        if self.drive.is_none() {
            self.s.ssts = 0;
            return;
        }
        self.reset_device();
        if self.is_packet() {
            self.s.cmd |= IS_ATAPI;
        }
        self.s.ssts = LINKED;
        self.s.serr |= DIAG_X | DIAG_N;
        self.s.greeting = true;
    }

    fn is_packet(&self) -> bool {
        matches!(self.s.device, Some(Model::Cdrom(_)))
    }

    /// Whether an interrupt is asked for.
    pub fn interrupt(&self) -> bool {
        self.status() & self.s.ie != 0
    }

    fn status(&self) -> u32 {
        let on = |diag: u32, bit: u32| if self.s.serr & diag != 0 { bit } else { 0 };
        self.s.is | on(DIAG_X, PCS) | on(DIAG_N, PRCS)
    }

    pub fn read(&self, offset: u64) -> u32 {
        let s = &self.s;
        match offset {
            0x00 => s.clb as u32,
            0x04 => (s.clb >> 32) as u32,
            0x08 => s.fb as u32,
            0x0c => (s.fb >> 32) as u32,
            0x10 => self.status(),
            0x14 => s.ie,
            0x18 => s.cmd,
            0x20 => s.tfd,
            0x24 => s.sig,
            0x28 => s.ssts,
            0x2c => s.sctl,
            0x30 => s.serr,
            0x34 => s.sact,
            0x38 => s.ci,
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        let s = &mut self.s;
        let low = |old: u64, mask: u32| old & !0xffff_ffff | u64::from(value & mask);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x00 => s.clb = low(s.clb, !0x3ff),
            0x04 => s.clb = high(s.clb),
            0x08 => s.fb = low(s.fb, !0xff),
            0x0c => s.fb = high(s.fb),
            0x10 => s.is &= !value,
            0x14 => s.ie = value & 0xfdc0_00ff,
            0x18 => self.command(value),
            0x2c => {
                let before = std::mem::replace(&mut s.sctl, value & 0xfff);
                match (before & 15, value & 15) {
                    (_, 1) => (s.ssts, s.tfd) = (0, 0x7f),
                    (1, 0) => self.link(),
                    // Offline.
                    (_, 4) => s.ssts = 4,
                    _ => {}
                }
            }
            0x30 => s.serr &= !value,
            // Software sets bits of queued commands before it issues them.
            0x34 if s.cmd & ST != 0 => s.sact |= value,
            0x38 if s.cmd & ST != 0 => s.ci |= value,
            _ => {}
        }
    }

    fn command(&mut self, value: u32) {
        let s = &mut self.s;
        const WRITABLE: u32 = ST | SUD | POD | FRE | 0xfe00_0000 & !(0xf << 28);
        let before = s.cmd;
        s.cmd = before & !WRITABLE | value & WRITABLE;
        if value & CLO != 0 && s.cmd & ST == 0 {
            s.tfd &= !u32::from(ata::BSY | ata::DRQ);
        }
        if s.cmd & ST != 0 {
            s.cmd |= CR;
        } else if before & ST != 0 {
            s.cmd &= !(CR | CCS);
            (s.ci, s.sact, s.stopped) = (0, 0, false);
        }
        match s.cmd & FRE {
            0 => s.cmd &= !FR,
            _ => s.cmd |= FR,
        }
    }

    /// Sends what waits, and executes the commands that are issued.
    pub fn run(&mut self, memory: &dyn GuestMemory) {
        if self.s.greeting && self.s.cmd & FRE != 0 {
            self.s.greeting = false;
            self.s.sig = u32::from_le_bytes([
                self.s.tf.count,
                self.s.tf.lba[0],
                self.s.tf.lba[1],
                self.s.tf.lba[2],
            ]);
            self.registers(memory, false);
        }
        while self.s.cmd & CR != 0 && self.s.ci != 0 && !self.s.stopped && self.s.ssts == LINKED {
            let slot = self.s.ci.trailing_zeros();
            self.s.cmd = self.s.cmd & !CCS | slot << 8;
            if let Err(error) = self.slot(slot, memory) {
                self.s.is |= error;
                self.s.stopped = true;
            }
        }
    }

    /// Executes one slot's command. `Err`: the interrupt status of what stops the port.
    fn slot(&mut self, slot: u32, memory: &dyn GuestMemory) -> Result<(), u32> {
        let at = self.s.clb + 32 * u64::from(slot);
        let mut header = [0; 16];
        let mut fis = [0; 20];
        if !memory.read(at, &mut header) {
            return Err(HBFS);
        }
        let word = |n: usize| u32::from_le_bytes(std::array::from_fn(|i| header[4 * n + i]));
        let flags = word(0);
        let table = u64::from(word(2) & !0x7f) | u64::from(word(3)) << 32;
        if !memory.read(table, &mut fis) {
            return Err(HBFS);
        }
        // A register FIS of five words, to a device without a port multiplier.
        if fis[0] != 0x27 || flags & 31 < 5 || fis[1] & 15 != 0 {
            return Err(HBFS);
        }
        if fis[1] & 0x80 == 0 {
            self.control(fis[15], memory);
            self.s.ci &= !(1 << slot);
            return Ok(());
        }
        let mut list = List {
            memory,
            at: table.wrapping_add(0x80),
            count: flags >> 16,
            next: 0,
            address: 0,
            left: 0,
            moved: 0,
            wants_interrupt: false,
        };
        let tf = &mut self.s.tf;
        *tf = TaskFile {
            features: fis[3],
            lba: [fis[4], fis[5], fis[6]],
            device: fis[7],
            previous_lba: [fis[8], fis[9], fis[10]],
            previous_features: fis[11],
            count: fis[12],
            previous_count: fis[13],
            status: DRDY | DSC,
            error: 0,
        };
        let command = fis[2];
        let mut packet = [0; 12];
        if flags & 1 << 5 != 0 && !memory.read(table.wrapping_add(0x40), &mut packet) {
            return Err(HBFS);
        }
        let end = self.execute(command, &packet, &mut list);
        let (moved, interrupt) = (list.moved, list.wants_interrupt);
        // What has been moved is told in the header (4.2.2).
        memory.write(at + 4, &moved.to_le_bytes());
        if interrupt {
            self.s.is |= DPS;
        }
        let bit = 1 << slot;
        match end {
            Ok(End::Registers) => {
                self.s.ci &= !bit;
                self.registers(memory, true);
            }
            Ok(End::Pio) => {
                self.s.ci &= !bit;
                self.pio_setup(memory, moved, true);
            }
            Ok(End::Queued(tag)) => {
                self.s.ci &= !bit;
                self.registers(memory, false);
                self.set_device_bits(memory, tag);
            }
            Err(Failure::Device { queued }) => {
                if queued {
                    self.s.ci &= !bit;
                    self.set_device_bits(memory, 0);
                } else {
                    self.registers(memory, true);
                }
                return Err(TFES);
            }
            Err(Failure::Host(error)) => return Err(error),
        }
        Ok(())
    }

    /// A control FIS: software reset.
    fn control(&mut self, control: u8, memory: &dyn GuestMemory) {
        let set = control & 4 != 0;
        if self.s.srst && !set {
            self.reset_device();
            self.registers(memory, false);
        }
        self.s.srst = set;
    }

    fn reset_device(&mut self) {
        match (&mut self.s.device, &self.drive) {
            (Some(Model::Disk(disk)), _) => disk.reset(),
            (Some(Model::Cdrom(cd)), Some(drive)) => cd.reset(drive),
            _ => {}
        }
        self.s.tf.signature(self.is_packet());
    }

    fn execute(&mut self, command: u8, packet: &[u8; 12], list: &mut List) -> Result<End, Failure> {
        let Some(drive) = self.drive.clone() else {
            return Err(Failure::Host(HBFS));
        };
        let failed = Failure::Device { queued: false };
        match self.s.device.as_mut() {
            Some(Model::Disk(disk)) => {
                let tf = &mut self.s.tf;
                let (command, tag) = match command {
                    // READ and WRITE FPDMA QUEUED: count in features, tag in count.
                    0x60 | 0x61 => {
                        let tag = u32::from(tf.count >> 3);
                        let fua = tf.device & 0x80 != 0;
                        (tf.count, tf.previous_count) = (tf.features, tf.previous_features);
                        let write = if fua { 0x3d } else { 0x35 };
                        (if command == 0x60 { 0x25 } else { write }, Some(tag))
                    }
                    other => (other, None),
                };
                let done = disk.command(command, tf, &drive);
                let result = match done {
                    Ok(Some(job)) => self.transfer(job, &drive, list),
                    Ok(None) => Ok(End::Registers),
                    Err(error) => {
                        self.fail(error);
                        Err(failed)
                    }
                };
                match (tag, result) {
                    (Some(tag), Ok(_)) => Ok(End::Queued(1 << tag)),
                    (Some(tag), Err(Failure::Device { .. })) => {
                        if let Some(Model::Disk(disk)) = &mut self.s.device {
                            disk.queue_failed(tag as u8, &self.s.tf);
                        }
                        Err(Failure::Device { queued: true })
                    }
                    (_, result) => result,
                }
            }
            Some(Model::Cdrom(_)) => match atapi::command(command, &mut self.s.tf) {
                atapi::Reply::Reset => Ok(End::Registers),
                atapi::Reply::Done(Ok(Some(job))) => self.transfer(job, &drive, list),
                atapi::Reply::Done(Ok(None)) => Ok(End::Registers),
                atapi::Reply::Done(Err(error)) => {
                    self.fail(error);
                    Err(failed)
                }
                atapi::Reply::Packet => self.packet(packet, &drive, list),
            },
            None => Err(Failure::Host(HBFS)),
        }
    }

    fn packet(
        &mut self,
        packet: &[u8; 12],
        drive: &Drive,
        list: &mut List,
    ) -> Result<End, Failure> {
        let dma = self.s.tf.features & 1 != 0;
        let Some(Model::Cdrom(cd)) = &mut self.s.device else {
            return Err(Failure::Host(HBFS));
        };
        let done = match cd.packet(packet, drive) {
            Ok(Some(mut job)) => {
                job.dma = dma;
                self.transfer(job, drive, list).map(|_| End::Registers)
            }
            Ok(None) => Ok(End::Registers),
            Err(sense) => {
                self.fail(sense.key << 4 | if sense.key == 5 { ata::ABRT } else { 0 });
                Err(Failure::Device { queued: false })
            }
        };
        self.s.tf.count = 3; // command done
        done
    }

    /// The device's status is an error.
    fn fail(&mut self, error: u8) {
        self.s.tf.error = error;
        self.s.tf.status = self.s.tf.status | DRDY | DSC | ERR;
    }

    fn transfer(&mut self, job: Job, drive: &Drive, list: &mut List) -> Result<End, Failure> {
        let mut job = job.in_buffer(std::mem::take(&mut self.buffer));
        let pio_in = !job.dma && !job.is_out();
        let pumped = job.pump(drive, list);
        let failed = Failure::Device { queued: false };
        let result = match (pumped, &mut self.s.device) {
            (Pumped::Finished, Some(Model::Disk(disk))) => {
                match disk.finish(&job, &mut self.s.tf, drive) {
                    Ok(()) if pio_in => Ok(End::Pio),
                    Ok(()) => Ok(End::Registers),
                    Err(error) => {
                        self.fail(error);
                        Err(failed)
                    }
                }
            }
            (Pumped::Finished, _) if pio_in => Ok(End::Pio),
            (Pumped::Finished, _) => Ok(End::Registers),
            (Pumped::Failed, Some(Model::Disk(disk))) => {
                let error = disk.failed(&job, &mut self.s.tf);
                self.fail(error);
                Err(failed)
            }
            (Pumped::Failed, device) => {
                if let Some(Model::Cdrom(cd)) = device {
                    let _ = cd.fail::<()>(atapi::UNREADABLE);
                }
                self.fail(atapi::UNREADABLE.key << 4);
                Err(failed)
            }
            // A packet command may have less memory than the drive has data.
            (Pumped::Starved, Some(Model::Cdrom(_))) if !job.is_out() => Ok(End::Registers),
            (Pumped::Starved, _) => Err(Failure::Host(OFS)),
            (Pumped::BadMemory, _) => Err(Failure::Host(HBDS)),
        };
        if matches!(job.kind, Kind::Read | Kind::Write) {
            self.buffer = job.into_buffer();
        }
        result
    }

    fn receive(&mut self, memory: &dyn GuestMemory, at: u64, fis: &[u8]) {
        // A FIS area that is no memory loses them.
        if self.s.cmd & FRE != 0 {
            memory.write(self.s.fb.wrapping_add(at), fis);
        }
    }

    fn show(&mut self) {
        self.s.tfd = u32::from(self.s.tf.status) | u32::from(self.s.tf.error) << 8;
    }

    /// The register FIS to the host.
    fn registers(&mut self, memory: &dyn GuestMemory, interrupt: bool) {
        self.show();
        let fis = self.register_fis(0x34, interrupt);
        self.receive(memory, 0x40, &fis);
        if interrupt {
            self.s.is |= DHRS;
        }
    }

    fn register_fis(&self, kind: u8, interrupt: bool) -> [u8; 20] {
        let tf = &self.s.tf;
        let mut fis = [0; 20];
        fis[..4].copy_from_slice(&[kind, u8::from(interrupt) << 6, tf.status, tf.error]);
        fis[4..7].copy_from_slice(&tf.lba);
        fis[7] = tf.device;
        fis[8..11].copy_from_slice(&tf.previous_lba);
        (fis[12], fis[13]) = (tf.count, tf.previous_count);
        fis
    }

    fn pio_setup(&mut self, memory: &dyn GuestMemory, bytes: u32, interrupt: bool) {
        self.show();
        let mut fis = self.register_fis(0x5f, interrupt);
        fis[1] |= 0x20; // to the host
        fis[2] |= ata::DRQ;
        fis[15] = self.s.tf.status; // at its end
        fis[16..18].copy_from_slice(&(bytes as u16).to_le_bytes());
        self.receive(memory, 0x20, &fis);
        self.s.is |= PSS;
    }

    /// Queued commands have ended.
    fn set_device_bits(&mut self, memory: &dyn GuestMemory, done: u32) {
        let (status, error) = (self.s.tf.status & 0x77, self.s.tf.error);
        let mut fis = [0xa1, 0x40, status, error, 0, 0, 0, 0];
        fis[4..].copy_from_slice(&done.to_le_bytes());
        self.show();
        self.receive(memory, 0x58, &fis);
        self.s.sact &= !done;
        self.s.is |= SDBS;
    }
}

enum Failure {
    /// The device's registers say what.
    Device { queued: bool },
    /// The host bus or the list: these interrupt status bits.
    Host(u32),
}

/// A physical region descriptor table as a list of memory ranges.
struct List<'a> {
    memory: &'a dyn GuestMemory,
    at: u64,
    count: u32,
    next: u32,
    address: u64,
    left: u32,
    moved: u32,
    wants_interrupt: bool,
}

impl List<'_> {
    fn region(&mut self) -> Result<usize, ListEnd> {
        if self.left == 0 {
            if self.next >= self.count {
                return Err(ListEnd::Exhausted);
            }
            let mut entry = [0; 16];
            let at = self.at.wrapping_add(16 * u64::from(self.next));
            if !self.memory.read(at, &mut entry) {
                return Err(ListEnd::BadMemory);
            }
            let [a, b, c, d, e, f, g, h, .., i, j, k, l] = entry;
            self.address = u64::from_le_bytes([a, b, c, d, e, f, g, h]) & !1;
            let last = u32::from_le_bytes([i, j, k, l]);
            self.left = (last & 0x3f_ffff | 1) + 1;
            self.wants_interrupt |= last >> 31 != 0;
            self.next += 1;
        }
        Ok(self.left as usize)
    }

    fn done(&mut self, bytes: usize) -> usize {
        self.address = self.address.wrapping_add(bytes as u64);
        self.left -= bytes as u32;
        self.moved = self.moved.wrapping_add(bytes as u32);
        bytes
    }
}

impl Scatter for List<'_> {
    fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd> {
        let n = self.region()?.min(data.len());
        match self.memory.write(self.address, &data[..n]) {
            true => Ok(self.done(n)),
            false => Err(ListEnd::BadMemory),
        }
    }

    fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd> {
        let n = self.region()?.min(buf.len());
        match self.memory.read(self.address, &mut buf[..n]) {
            true => Ok(self.done(n)),
            false => Err(ListEnd::BadMemory),
        }
    }
}
