//! From options to a machine ready to run: RAM, board, vCPU, guest in memory.

use crate::args::{CharDev, Options, Vga};
use crate::audio::Audio;
use crate::boot::{self, Choice, Kernel};
use crate::debug::{Debug, Reason, Session};
use crate::devices;
use crate::drives::{self, Interface};
use crate::engines;
use crate::error::Error;
use crate::firmware::Firmware;
use crate::monitor::events::Events;
use crate::netdev::{self, Networks};
use crate::state::{Cause, RunState};
use crate::timeline::Timeline;
use crate::trace::Tracer;
use crate::virtio;
use emu_core::cpu::cpuid::CpuModel;
use emu_core::machine::{Clock, Machine};
use emu_core::mem::phys::Ram;
use emu_core::runner::Runner;
use emu_core::vcpu::Vcpu;
use emu_devices::Memory;
use emu_devices::backend::{CharBackend, InputQueue};
use emu_devices::bios::Bios;
use emu_devices::chips::fw_cfg;
use emu_devices::display::vga;
use emu_devices::ibmpc;
use emu_devices::loader::{self, Boot, File, Kind, Module, RawPlace};
use emu_devices::pc::{Pc, PcConfig};
use emu_devices::pci::chipset::Model;
use emu_devices::storage::ahci::{self, Ahci};
use emu_devices::storage::ide::{self, Ide};
use emu_devices::storage::nvme::Nvme;
use emu_devices::virtio::balloon::BalloonTarget;
use serde_json::json;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the guest writes to pvpanic's port.
const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

/// The machine's memory and what is beside it.
struct Layout {
    vga: Option<usize>,
    firmware: Vec<usize>,
}

impl Layout {
    /// RAM with a window for the VGA and those of the firmware.
    fn build(options: &Options, firmware: Option<&Firmware>) -> Result<(Ram, Self), Error> {
        let mut windows = Vec::new();
        let vga = (options.vga == Vga::Std).then(|| {
            windows.push(vga::WINDOW);
            windows.len() - 1
        });
        let first = windows.len();
        if let Some(firmware) = firmware {
            windows.extend(firmware.windows());
        }
        let firmware = (first..windows.len()).collect();
        let hole = if vga.is_some() { vga::HOLE } else { 0..0 };
        let low = Model::from(options.machine).low_ram(options.memory);
        let ram = Ram::with(options.memory, &windows, hole)?.below_4g(low);
        Ok((ram, Self { vga, firmware }))
    }
}

/// A machine with its guest in memory.
pub struct Vm {
    pub runner: Runner,
    /// Every drive, with or without a medium.
    pub drives: Vec<drives::Attached>,
    /// The user wants a reset; done before the guest goes on.
    pub reset_wanted: bool,
    /// Who wants to know what happens.
    pub events: Arc<Events>,
    state: RunState,
    /// The balloon's target, if there is a balloon.
    pub balloon: Option<Arc<BalloonTarget>>,
    chipset: Model,
    model: Arc<CpuModel>,
    bios: Option<Arc<Bios>>,
    kernel: Kernel,
    initrd: Option<String>,
    append: String,
    raw: Option<RawPlace>,
    layout: Layout,
    /// The boot order from the first reset on, if it is another.
    order_after_reset: Option<String>,
    pub networks: Networks,
    pub audio: Audio,
    pub debug: Debug,
    /// What a debugger's user has said.
    pub session: Option<Box<Session>>,
    /// What came from outside, and the way back.
    pub timeline: Option<Box<Timeline>>,
    /// What is being traced.
    pub tracer: Option<Box<Tracer>>,
}

impl Vm {
    /// Builds the machine and loads the guest. `input` feeds the serial port that is on stdio.
    pub fn new(options: &Options, input: &Arc<InputQueue>) -> Result<Self, Error> {
        Self::wired(options, input, |_| ())
    }

    /// The same with a last change to the board's host side.
    pub fn wired(
        options: &Options,
        input: &Arc<InputQueue>,
        change: impl FnOnce(&mut PcConfig),
    ) -> Result<Self, Error> {
        let (mut kernel, drive_options) = Choice::of(options)?.open(options)?;
        let raw = options.load_addr.map(|addr| RawPlace {
            addr,
            entry: options.entry.unwrap_or(addr),
        });
        if raw.is_some() && !matches!(kernel, Kernel::File(_)) {
            return Err(Error::RawDemo);
        }
        let model = Arc::new(CpuModel::parse(&options.cpu)?);
        let firmware = match &kernel {
            Kernel::Firmware(firmware) => Some(firmware),
            _ => None,
        };
        let (ram, layout) = Layout::build(options, firmware)?;
        let end = ram.phys_of(ram.size() - 1).0 + 1;
        if model.phys_bits < 64 && end > 1 << model.phys_bits {
            let bits = model.phys_bits;
            return Err(Error::AddressBits { end, bits });
        }

        let chipset = Model::from(options.machine);
        let drives = drives::open(&drive_options, chipset)?;
        let bios = match kernel {
            Kernel::Builtin => {
                let bios = boot::builtin(options, &drives, &drive_options)?;
                Some(Arc::new(bios))
            }
            _ => None,
        };
        // The guest first: a mistake there should not leave emptied output files behind.
        let mut guest = Guest {
            chipset,
            model: &model,
            kernel: &kernel,
            initrd: options.initrd.as_deref(),
            append: &options.append,
            raw,
            layout: &layout,
            bios: bios.as_deref(),
        };
        let start = guest.load(&ram)?;

        let is_virtual = options.clock == "virtual";
        let ram = Arc::new(ram);
        let mut config = config(options, input, is_virtual, ram.clone())?;
        let with_firmware = firmware.is_some();
        config.firmware = with_firmware;
        config.bios = bios.is_some();
        config.floppies = boot::floppies(&drives);
        let audio = Audio::open(&options.audiodev, options.output.is_shared())?;
        if let Some(id) = &options.pcspk_audiodev {
            config.speaker = Some(audio.voice(id)?);
        }
        change(&mut config);
        let mut pc = Pc::new(config)?;
        if let Some(window) = layout.vga {
            let start = match with_firmware {
                true => vga::Start::Firmware,
                false => vga::Start::Text,
            };
            let vga = vga::Vga::new(ram.clone(), window, start);
            pc.plug(chipset.vga_device(), 0, Box::new(vga))?;
        }
        plug_drives(&mut pc, &drives, &(ram.clone() as Memory))?;
        let mut list = [&options.device[..], &options.virtfs[..]].concat();
        let nics = netdev::nics(options, with_firmware || bios.is_some());
        let mut networks = Networks::new(&options.netdev, &nics, &mut list, options.wiring)?;
        let balloon = Arc::<BalloonTarget>::default();
        let mut parts = devices::Parts {
            memory: ram.clone(),
            networks: &mut networks,
            audio: &audio,
            drives: &drives,
            open: &|dev| char_backend(options, input, dev, true),
            is_virtual,
            balloon: balloon.clone(),
            taken: Vec::new(),
            units: Vec::new(),
            inputs: Vec::new(),
        };
        for d in drives.iter().filter(|d| d.interface == Interface::Virtio) {
            let slot = pc.free_slot().ok_or(Error::NoSlot)?;
            pc.plug(slot, 0, virtio::drive(d, &parts))?;
        }
        devices::plug(&list, &mut pc, &mut parts)?;
        plug_more_drives(&mut pc, &drives, &(ram.clone() as Memory))?;
        if let Kernel::Firmware(firmware) = &mut kernel {
            firmware.install(&mut pc, &ram, &layout.firmware)?;
            // As QEMU's -nographic: SeaBIOS shows its text screen on the serial port too.
            if !options.shows_screen() && options.serials().first() == Some(&CharDev::Stdio) {
                let port = u64::from(ibmpc::COM1.0).to_le_bytes();
                pc.fw_cfg().add_file("etc/sercon-port", port.to_vec());
            }
        }
        let boot = drive_options.boot.unwrap_or_default();
        pc.set_boot_order(boot.first());
        if boot.menu {
            pc.fw_cfg().add(fw_cfg::BOOT_MENU, vec![1, 0]);
        }
        let clock = match is_virtual {
            true => Clock::new_virtual(),
            false => Clock::host(),
        };
        let machine = Arc::new(Machine::new(ram, clock, Box::new(pc)));
        let mut cpu = Vcpu::new(machine, model.clone(), 0);
        if !is_virtual {
            cpu.random_state = entropy();
        }
        match start {
            Some(start) => start.apply(&mut cpu),
            None => cpu.reset(),
        }
        let with_balloon = options.device.iter().any(devices::Device::is_balloon);
        let mut runner = Runner::new(cpu, engines::make(options.engine, &options.translator)?);
        runner.firmware = bios
            .clone()
            .map(|bios| bios as Arc<dyn emu_core::runner::Firmware>);
        Ok(Self {
            networks,
            audio,
            balloon: with_balloon.then_some(balloon),
            drives,
            reset_wanted: false,
            debug: Debug::default(),
            session: None,
            timeline: None,
            tracer: None,
            events: Arc::default(),
            state: RunState::Running,
            runner,
            bios,
            chipset,
            model,
            kernel,
            initrd: options.initrd.clone(),
            append: options.append.clone(),
            raw,
            layout,
            order_after_reset: boot.once.is_some().then(|| boot.later().into()),
        })
    }

    /// Resets the machine, and loads the guest again unless there is firmware that does.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.runner.reset();
        if let Some(order) = self.order_after_reset.take() {
            self.with_pc(|pc| pc.set_boot_order(&order));
        }
        let mut guest = Guest {
            chipset: self.chipset,
            model: &self.model,
            kernel: &self.kernel,
            initrd: self.initrd.as_deref(),
            append: &self.append,
            raw: self.raw,
            layout: &self.layout,
            bios: self.bios.as_deref(),
        };
        let start = guest.load(&self.runner.machine().ram)?;
        if let Some(start) = start {
            start.apply(&mut self.runner.cpu);
        }
        self.runner.cpu.poll_lines();
        Ok(())
    }

    /// INIT. Without firmware to take a CPU that begins anew where its last program wanted it, the machine does.
    pub fn init(&mut self) -> Result<(), Error> {
        match self.kernel {
            Kernel::Firmware(_) => self.runner.init(),
            Kernel::Builtin => {
                self.runner.init();
                loader::CpuStart::bios().apply(&mut self.runner.cpu);
                self.runner.cpu.poll_lines();
            }
            _ => self.reset()?,
        }
        Ok(())
    }

    pub fn state(&self) -> RunState {
        self.state
    }

    /// Before the guest's first instruction: it waits for [`cont`](Self::cont).
    pub fn hold(&mut self) {
        self.runner.machine().clock.stop();
        self.state = RunState::Prelaunch;
    }

    /// Stops guest and guest time; nothing if they are stopped.
    pub fn stop(&mut self, state: RunState) {
        if self.state == RunState::Running {
            self.runner.machine().clock.stop();
            self.state = state;
            self.events.emit("STOP", None);
            match state {
                RunState::Debug => {}
                RunState::Paused => self.told(vec![Reason::Paused]),
                _ => self.told(vec![Reason::Ended]),
            }
        }
    }

    /// Lets the guest go on; false: after its end it has to be reset first.
    pub fn cont(&mut self) -> bool {
        match self.state {
            RunState::Running => {}
            RunState::Shutdown => return false,
            _ => {
                self.runner.machine().clock.go();
                self.state = RunState::Running;
                self.events.emit("RESUME", None);
            }
        }
        true
    }

    /// The guest tells pvpanic what has become of it; true: it has crashed, and the run ends, or stays for a look at it (`stay`).
    pub fn panicked(&mut self, what: u8, stay: bool) -> bool {
        if what & PANICKED == 0 {
            if what & CRASH_LOADED != 0 {
                let data = json!({ "action": "run" });
                self.events.emit("GUEST_CRASHLOADED", Some(data));
            }
            return false;
        }
        let action = if stay { "pause" } else { "poweroff" };
        let data = json!({ "action": action });
        self.events.emit("GUEST_PANICKED", Some(data));
        self.stop(RunState::GuestPanicked);
        !stay
    }

    /// Tells of the end.
    pub fn shutting_down(&self, cause: Cause) {
        self.events.emit("SHUTDOWN", Some(cause.data()));
    }

    /// Tells of a reset; a machine that is stopped is as before its first instruction then.
    pub fn was_reset(&mut self, cause: Cause) {
        self.events.emit("RESET", Some(cause.data()));
        if self.state != RunState::Running {
            self.state = RunState::Prelaunch;
        }
    }

    /// Does something with the board as what it is.
    pub fn with_pc<T>(&self, f: impl FnOnce(&mut Pc) -> T) -> Option<T> {
        let mut board = self.runner.machine().board();
        let board: &mut dyn std::any::Any = &mut **board;
        board.downcast_mut::<Pc>().map(f)
    }
}

/// What is loaded.
struct Guest<'a> {
    chipset: Model,
    model: &'a CpuModel,
    kernel: &'a Kernel,
    initrd: Option<&'a str>,
    append: &'a str,
    raw: Option<RawPlace>,
    /// There is a VGA, in text mode.
    layout: &'a Layout,
    bios: Option<&'a Bios>,
}

impl Guest<'_> {
    /// `None`: the CPU starts as RESET# leaves it.
    fn load(&mut self, ram: &Ram) -> Result<Option<loader::CpuStart>, Error> {
        if let Some(bios) = self.bios {
            bios.load(ram);
            return Ok(Some(loader::CpuStart::bios()));
        }
        let (name, bytes) = match self.kernel {
            Kernel::Builtin => return Ok(None),
            Kernel::Firmware(firmware) => {
                firmware.load(ram, &self.layout.firmware);
                return Ok(None);
            }
            Kernel::Ours(name, make) => (name.to_string(), make()),
            Kernel::File(path) => (path.display().to_string(), read(path, ram)?),
        };
        let kernel = File {
            name: &name,
            bytes: &bytes,
        };
        let kind = match self.raw {
            Some(_) => Kind::Raw,
            None => loader::detect(kernel)?,
        };
        // Linux has one initrd, whose name may have any character; the others have a list.
        let list: Vec<(&str, &str)> = match (self.initrd, kind) {
            (None, _) => Vec::new(),
            (Some(path), Kind::Linux | Kind::Raw) => vec![(path, "")],
            (Some(list), _) => list
                .split(',')
                .map(|m| m.split_once(' ').unwrap_or((m, "")))
                .collect(),
        };
        let files: Vec<Vec<u8>> = list
            .iter()
            .map(|(path, _)| read(Path::new(path), ram))
            .collect::<Result<_, _>>()?;
        let modules = list
            .iter()
            .zip(&files)
            .map(|(&(name, cmdline), bytes)| Module {
                file: File { name, bytes },
                cmdline,
            })
            .collect();
        let boot = Boot {
            machine: self.chipset,
            kernel,
            modules,
            cmdline: self.append,
            raw: self.raw,
            cpus: 1,
            text_screen: self.layout.vga.is_some(),
        };
        Ok(Some(loader::load(ram, self.model, &boot)?))
    }
}

/// Reads a file that has to fit into guest memory.
fn read(path: &Path, ram: &Ram) -> Result<Vec<u8>, Error> {
    let name = || path.display().to_string();
    let fail = |source| Error::Read {
        name: name(),
        source,
    };
    let size = ram.size();
    let too_large = || Error::LargerThanRam { name: name(), size };
    let file = std::fs::File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    if length > size {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // A pipe or a device does not know its length.
    file.take(size + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > size {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Plugs the chipset's controller in, with its drives.
fn plug_drives(pc: &mut Pc, all: &[drives::Attached], memory: &Memory) -> Result<(), Error> {
    if pc.machine() == Model::Q35 {
        let (device, function) = ahci::SLOT;
        pc.plug(device, function, sata(all, memory))?;
        return Ok(());
    }
    let ide = drives::of(all, Interface::Ide).map(|d| d.map(|d| d.on_cable()));
    let (device, function) = ide::SLOT;
    let ide = Ide::new(ide, Some(memory.clone()));
    pc.plug(device, function, Box::new(ide))?;
    Ok(())
}

/// An AHCI controller with its drives.
fn sata(all: &[drives::Attached], memory: &Memory) -> Box<Ahci> {
    let drives = drives::of(all, Interface::Ahci).map(|d| d.map(|d| d.on_cable()));
    Box::new(Ahci::new(drives, memory.clone()))
}

/// The controllers that are there only if a drive is: wherever there is room.
fn plug_more_drives(pc: &mut Pc, all: &[drives::Attached], memory: &Memory) -> Result<(), Error> {
    let wanted = all.iter().any(|d| d.interface == Interface::Ahci);
    if wanted && pc.machine() != Model::Q35 {
        let slot = pc.free_slot().ok_or(Error::NoSlot)?;
        pc.plug(slot, 0, sata(all, memory))?;
    }
    for d in all.iter().filter(|d| d.interface == Interface::Nvme) {
        let slot = pc.free_slot().ok_or(Error::NoSlot)?;
        pc.plug(
            slot,
            0,
            Box::new(Nvme::new(d.drive.clone(), memory.clone())),
        )?;
    }
    Ok(())
}

/// Opens the host side of a character device; `read`: it takes the input if it is standard input.
fn char_backend(
    options: &Options,
    input: &Arc<InputQueue>,
    dev: &CharDev,
    read: bool,
) -> Result<CharBackend, Error> {
    let out = |w| CharBackend::new(options.output.wrap(w));
    Ok(match dev {
        CharDev::Stdio if read => {
            CharBackend::new(options.output.stdout()).with_input(input.clone())
        }
        CharDev::Stdio => CharBackend::new(options.output.stdout()),
        CharDev::Null => CharBackend::null(),
        CharDev::File(_) if options.output.is_dropped() => out(Box::new(std::io::sink())),
        CharDev::File(path) => {
            let file = std::fs::File::create(path).map_err(|source| Error::Write {
                name: path.display().to_string(),
                source,
            })?;
            out(Box::new(file))
        }
    })
}

fn config(
    options: &Options,
    input: &Arc<InputQueue>,
    is_virtual: bool,
    memory: Memory,
) -> Result<PcConfig, Error> {
    let mut config = PcConfig::new(options.memory);
    config.machine = options.machine.into();
    let open = |dev: &CharDev, read: bool| char_backend(options, input, dev, read);
    match &options.serials()[..] {
        [a] => config.com[0] = open(a, true)?,
        [a, b] => {
            config.com[0] = open(a, true)?;
            config.com[1] = open(b, *a != CharDev::Stdio)?;
        }
        more => return Err(Error::Serials(more.len())),
    }
    config.debugcon = match &options.debugcon {
        Some(dev) => Some(open(dev, false)?),
        None => None,
    };
    if let Some(port) = options.debugcon_port {
        config.debugcon_port = port;
    }
    config.debug_exit = match &devices::debug_exits(&options.device)[..] {
        [] => None,
        [one] => Some(*one),
        _ => return Err(Error::TwoExits),
    };
    if !is_virtual && let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        config.rtc_base = now.as_secs() as i64;
    }
    config.memory = Some(memory);
    Ok(config)
}

/// A number that nobody can guess, from the source that seeds hash maps.
fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
