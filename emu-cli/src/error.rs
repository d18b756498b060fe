//! What can be wrong with the host or the command line, and the exit status that says so.

use crate::drives::DriveError;
use crate::engines;
use crate::status::Status;
use emu_core::cpu::cpuid::ModelError;
use emu_core::mem::phys::RamError;
use emu_devices::loader::LoadError;
use emu_devices::pc::BoardError;

/// What is wrong with the host or the command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Engine(#[from] engines::EngineError),
    #[error("nothing to boot: give an image, --kernel FILE, --drive, or `emu run demo`")]
    NoGuest,
    #[error("SeaBIOS is not installed: install the package seabios, or give --firmware FILE")]
    NoSeaBios,
    #[error(
        "{name}: {size} bytes are not a firmware image: 64 KiB to 16 MiB in pages of 4 KiB are"
    )]
    FirmwareSize { name: String, size: u64 },
    #[error("{name}: {source}")]
    Flash {
        name: String,
        source: emu_devices::storage::image::ImageError,
    },
    #[error(
        "--boot menu=on: the built-in BIOS has no menu: give --firmware seabios, or leave it out"
    )]
    NoBootMenu,
    #[error("--pflash is given {0} times: there are two chips")]
    Pflashes(usize),
    #[error("--firmware and --pflash both say what the CPU starts in: leave one of them out")]
    RomAndFlash,
    #[error("--firmware boots from drives: leave it out, or the guest {0}")]
    TwoGuests(String),
    #[error("{name}: {source}")]
    Read {
        name: String,
        source: std::io::Error,
    },
    #[error(
        "{name}: the file is larger than the guest's memory ({size} bytes): give more --memory"
    )]
    LargerThanRam { name: String, size: u64 },
    #[error("{name}: cannot be written: {source}")]
    Write {
        name: String,
        source: std::io::Error,
    },
    #[error("--device isa-debug-exit is given twice: one is supported")]
    TwoExits,
    #[error("{0}")]
    Network(String),
    #[error("{0}")]
    Trace(String),
    #[error("{0}")]
    Audio(String),
    #[error(transparent)]
    User(#[from] emu_devices::net::user::Error),
    #[error(transparent)]
    Wire(#[from] emu_devices::net::wire::Error),
    #[error("no PCI device is free for another --device")]
    NoSlot,
    #[error("there is no drive \"{0}\"{1}: give --drive if=none,id={0},file=FILE")]
    NoDrive(String, String),
    #[error("--device {0}: No 'usb-bus' bus found: add --device qemu-xhci")]
    NoUsb(&'static str),
    #[error("--device {0}: no port is free: give another port=, or another --device qemu-xhci")]
    UsbPort(&'static str),
    #[error("bus={0} is unknown{1}: give id= to --device qemu-xhci")]
    UsbBus(String, String),
    #[error("{0} SCSI drives: at most 16 are supported")]
    ScsiUnits(usize),
    #[error("drive {0} is plugged in already: give it if=none, and one device")]
    DriveTaken(String),
    #[error("--serial is given {0} times: there are two ports")]
    Serials(usize),
    #[error(
        "--memory reaches to {end:#x}, and the CPU has {bits} address bits: give less, or another --cpu"
    )]
    AddressBits { end: u64, bits: u32 },
    #[error("--load-addr is for an image file, not for a guest of our own")]
    RawDemo,
    #[error("unknown workload \"{name}\" (known: {known})")]
    Workload { name: String, known: String },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error("standard output is closed or fails: {0}")]
    Output(std::io::Error),
    #[error(transparent)]
    Bench(#[from] crate::bench::BenchError),
    #[error("--display {what}: {place} cannot be listened on: {source}; choose another")]
    DisplayPort {
        what: &'static str,
        place: String,
        source: std::io::Error,
    },
    #[error(
        "--display terminal: the terminal is a serial port's or the monitor's too: give --serial null, or another --monitor"
    )]
    TerminalTwice,
    #[error("--display terminal: standard input and output are no terminal: give vnc or web")]
    NoTerminal,
    #[error(
        "--tui: the terminal is the guest's screen's too: leave out --display terminal, which the view has as a pane"
    )]
    TuiTwice,
    #[error("--tui: standard input and output are no terminal: leave it out, or give --json")]
    TuiNoTerminal,
    #[cfg(feature = "window")]
    #[error(
        "--display window: {0}: let DISPLAY or WAYLAND_DISPLAY name one that runs, or give terminal, vnc or web"
    )]
    Window(String),
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    #[error("signals cannot be watched: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    Listen(#[from] crate::monitor::listen::ListenError),
    #[error("{0}")]
    Symbols(String),
    #[error(transparent)]
    Record(#[from] crate::timeline::record::RecordError),
    #[error("the monitor cannot be started: {0}")]
    Monitor(std::io::Error),
}

impl Error {
    pub fn status(&self) -> Status {
        match self {
            Self::Write { .. }
            | Self::User(_)
            | Self::Wire(_)
            | Self::Ram(_)
            | Self::Output(_)
            | Self::Signals(_)
            | Self::Listen(_)
            | Self::Thread(_)
            | Self::Monitor(_) => Status::HostError,
            Self::Bench(e) => e.status(),
            _ => Status::Usage,
        }
    }
}
