//! The command line: what each option takes, and how a value is read.

use crate::audio::{self, Audiodev};
use crate::bench::BenchOptions;
use crate::devices::{self, Device};
use crate::display::{self, Display};
use crate::drives::DriveOptions;
use crate::engines::{EngineKind, Translator};
use crate::error::Error;
use crate::inspect;
use crate::lockstep;
use crate::monitor::listen::{Address, Place};
use crate::netdev::{self, Netdev, NicOption, Wiring};
use crate::output::Output;
use crate::status::{Status, TABLE};
use crate::trace;
use clap::{Args, Parser, Subcommand, ValueEnum};
use emu_core::cpu::cpuid::{FEATURES, MODELS};
use emu_devices::pci::chipset::Model;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;

/// Guest RAM at most: what a 40-bit physical address and our own tables bear.
const MAX_MEMORY: u64 = 512 << 30;

#[derive(Parser)]
#[command(name = "emu", version, about = "An x86 PC in software", after_help = TABLE)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Boot a guest
    Run(Box<Options>),
    /// Debug a guest from its first instruction on (takes what run takes)
    Debug(Box<Options>),
    /// Repeat a run that was recorded
    Replay(Box<Replay>),
    /// Write down what a guest does: instructions, memory, ports, interrupts, system calls; coverage and profile (takes what run takes)
    Trace(Box<trace::Command>),
    /// Run two engines side by side on one guest and name the first instruction that differs
    Lockstep(Box<lockstep::Options>),
    /// Show how the translator translates the code at an address
    Inspect(Box<inspect::Options>),
    /// Compare engines on small guests, and write a report
    Bench(Box<BenchOptions>),
    /// Write a kernel's symbols as an ELF file that GDB and LLDB read (symbol-file): from a bzImage, System.map, ELF or PE file
    Symbols(SymbolFiles),
    /// List the CPU models and features that --cpu takes
    Cpus,
}

#[derive(Args, Clone)]
#[command(after_help = TABLE)]
pub struct Options {
    /// `demo` or `bench:NAME` (guests of our own), a machine file (*.toml) with options, or a file told by its content: kernel,
    /// disk, diskette or CD-ROM image
    #[arg(value_name = "GUEST")]
    pub guest: Option<PathBuf>,
    /// Kernel: Linux bzImage, Multiboot 1, ELF with a PVH entry, or boot sector; told by its content
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk; for Multiboot and PVH a list "FILE ARGS,FILE ARGS" of modules
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<String>,
    /// Firmware that boots from drives: builtin, seabios, or an image file; by default SeaBIOS if it is installed
    #[arg(long, value_name = "FIRMWARE")]
    pub firmware: Option<String>,
    /// A flash chip's file: once for firmware with its variables in one, twice for the code, which is only read, and the variables (OVMF)
    #[arg(long, value_name = "FILE")]
    pub pflash: Vec<PathBuf>,
    /// Kernel command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub append: String,
    /// The board
    #[arg(
        short = 'M',
        long,
        value_name = "MACHINE",
        value_enum,
        default_value = "pc"
    )]
    pub machine: Machine,
    /// Guest RAM: bytes, or with K, M, G, T
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = memory, allow_hyphen_values = true)]
    pub memory: u64,
    /// CPU model with features: MODEL[,+FEATURE][,-FEATURE] (`help` lists them)
    #[arg(long, value_name = "MODEL", default_value = "max")]
    pub cpu: String,
    /// How guest code is executed
    #[arg(long, value_name = "ENGINE", value_enum, default_value = "tiered")]
    pub engine: EngineKind,
    #[command(flatten)]
    pub translator: Translator,
    /// Guest time: the host's clock, or retired instructions (deterministic)
    #[arg(long, value_name = "CLOCK", default_value = "host", value_parser = ["host", "virtual"])]
    pub clock: String,
    /// Where a serial port goes: stdio, null, file:PATH; once for COM1, twice for COM2 too
    #[arg(long, value_name = "WHERE", value_parser = chardev)]
    pub serial: Vec<CharDev>,
    /// Where bytes written to port 0xE9 go: stdio, null, file:PATH
    #[arg(long, value_name = "WHERE", value_parser = chardev)]
    pub debugcon: Option<CharDev>,
    /// Where the screen is shown: none, terminal[,graphics=auto|sixel|blocks], vnc=HOST:NUMBER[,password=TEXT], web=HOST:PORT, window (if built with the feature window); may be given several times
    #[arg(long, value_name = "DISPLAY", value_parser = display::parse)]
    pub display: Vec<Display>,
    /// The graphics adapter
    #[arg(long, value_name = "ADAPTER", value_enum, default_value = "std")]
    pub vga: Vga,
    #[command(flatten)]
    pub drives: DriveOptions,
    /// The port of --debugcon, if not 0xE9 (SeaBIOS and OVMF write to 0x402)
    #[arg(long, value_name = "PORT", value_parser = port, requires = "debugcon")]
    pub debugcon_port: Option<u16>,
    /// A device: isa-debug-exit[,iobase=0x501][,iosize=2]; e1000|rtl8139|virtio-net-pci,netdev=ID[,mac=...]; virtio-blk-pci,drive=ID[,serial=TEXT]; virtio-scsi-pci with
    /// scsi-hd,drive=ID and scsi-cd,drive=ID; virtio-9p-pci,path=FOLDER,mount_tag=TAG[,readonly=on]; virtio-balloon-pci;
    /// virtio-rng-pci; AC97,audiodev=ID; virtio-keyboard-pci, virtio-mouse-pci, virtio-tablet-pci; virtio-gpu-pci; virtconsole,chardev=WHERE; qemu-xhci with
    /// usb-kbd, usb-mouse, usb-tablet, usb-storage,drive=ID. A PCI device also takes addr=
    #[arg(long, value_name = "DEVICE", value_parser = devices::parse)]
    pub device: Vec<Device>,
    /// Share a folder with the guest: local,path=FOLDER,mount_tag=TAG[,readonly=on]
    #[arg(long, value_name = "local,...", value_parser = devices::parse_virtfs)]
    pub virtfs: Vec<Device>,
    /// A network: user,id=ID[,hostfwd=tcp:127.0.0.1:2222-:22][,guestfwd=…][,restrict=on][,net=10.0.2.0/24]…; socket,id=ID,listen=|connect=HOST:PORT|unix:PATH; tap,id=ID,ifname=NAME
    #[arg(long, value_name = "NETWORK", value_parser = netdev::parse)]
    pub netdev: Vec<Netdev>,
    /// A network with its card: user|socket|tap[,model=e1000|rtl8139][,mac=…] and what --netdev takes; or none
    #[arg(long, value_name = "NETWORK", value_parser = netdev::parse_nic)]
    pub nic: Vec<NicOption>,
    /// What sound becomes: none,id=ID or wav,id=ID,path=FILE[,out.frequency=44100]
    #[arg(long, value_name = "DRIVER", value_parser = audio::parse)]
    pub audiodev: Vec<Audiodev>,
    /// The audiodev that the PC speaker is heard on
    #[arg(long, value_name = "ID")]
    pub pcspk_audiodev: Option<String>,
    /// No devices but those that are asked for (without it firmware finds a network card)
    #[arg(long)]
    pub nodefaults: bool,
    /// End when the guest asks for a reset or triple-faults
    #[arg(long)]
    pub no_reboot: bool,
    /// When the guest powers off or crashes, stop it and wait for the monitor
    #[arg(long)]
    pub no_shutdown: bool,
    /// Wait for the monitor's `cont`, or a GDB client's `continue`, before the first instruction
    #[arg(long)]
    pub paused: bool,
    /// Serve QMP: unix:PATH or tcp:HOST:PORT (without HOST: 127.0.0.1)
    #[arg(long, value_name = "WHERE")]
    pub qmp: Vec<Address>,
    /// Serve the human monitor: stdio, none, unix:PATH or tcp:HOST:PORT; on the console it is at Ctrl-A c too
    #[arg(long, value_name = "WHERE")]
    pub monitor: Vec<Place>,
    /// End after this many instructions
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_insns: Option<u64>,
    /// End after this many seconds of the host's time
    #[arg(long, value_name = "S", value_parser = seconds, allow_hyphen_values = true)]
    pub timeout: Option<f64>,
    /// Counters at the end, on standard error or in PATH: text, json, json:PATH
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text", value_parser = stats)]
    pub stats: Option<Stats>,
    /// Take the kernel's file as a raw image, put it here and start it in real mode
    #[arg(long, value_name = "ADDR", value_parser = number)]
    pub load_addr: Option<u64>,
    /// Where a raw image starts, if not at its first byte
    #[arg(long, value_name = "ADDR", value_parser = number, requires = "load_addr")]
    pub entry: Option<u64>,
    /// Write the options to a machine file (- is standard output), which `emu run FILE.toml` takes, and end
    #[arg(long, value_name = "FILE")]
    pub write_config: Option<PathBuf>,
    #[command(flatten)]
    pub debugger: Debugger,
    /// Write what comes from outside (keys, mouse, serial input, frames, buttons) to a file, for emu replay; needs --clock virtual
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// What becomes of the guest's output, for a program that runs several machines
    #[arg(skip)]
    pub output: Output,
    /// How networks are connected: by doors if what comes from them is noted
    #[arg(skip)]
    pub wiring: Wiring,
}

/// `emu symbols`.
#[derive(Args, Clone, Debug)]
pub struct SymbolFiles {
    /// The file that has the symbols
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// What the debugger is told from the beginning.
#[derive(Args, Clone, Debug, Default)]
pub struct Debugger {
    /// Have the debugger at the terminal while the guest runs: Ctrl-C stops the guest
    #[arg(long)]
    pub debug: bool,
    /// Let GDB or LLDB in: tcp:HOST:PORT (without HOST: 127.0.0.1) or unix:PATH; `target remote` stops the guest, --paused holds it before
    /// its first instruction
    #[arg(long, value_name = "WHERE")]
    pub gdb: Option<Address>,
    /// Debugger: execute the commands in a file
    #[arg(short = 'x', long = "command", value_name = "FILE")]
    pub scripts: Vec<PathBuf>,
    /// Debugger: execute a command (-ex, as GDB has it), behind those of files
    #[arg(long = "ex", value_name = "COMMAND", allow_hyphen_values = true)]
    pub lines: Vec<String>,
    /// Debugger: instructions between two checkpoints, with --clock virtual; 0: none, and no way back
    #[arg(long, value_name = "N", default_value_t = crate::timeline::INTERVAL)]
    pub checkpoint_interval: u64,
    /// Debugger: each answer and each stop is a line of JSON
    #[arg(long)]
    pub json: bool,
    /// Debugger: full-screen view of code, registers, stack, memory and the guest's console (F1 there for help)
    #[arg(long, conflicts_with = "json")]
    pub tui: bool,
    /// Debugger: read symbols from an ELF or PE file, a bzImage or a System.map; those of the kernel are read anyway
    #[arg(long, value_name = "FILE")]
    pub symbols: Vec<PathBuf>,
}

/// `emu replay`.
#[derive(Args, Clone)]
pub struct Replay {
    /// What emu run --record has written
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Another engine than the recorded run's
    #[arg(long, value_name = "ENGINE", value_enum)]
    pub engine: Option<EngineKind>,
    /// Where a serial port goes, if not where it went
    #[arg(long, value_name = "WHERE", value_parser = chardev)]
    pub serial: Vec<CharDev>,
    #[command(flatten)]
    pub debugger: Debugger,
}

/// A graphics adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vga {
    /// A VGA with Bochs VBE, 16 MiB, as QEMU's standard VGA
    Std,
    /// None; there is RAM at A0000h
    None,
}

/// `--machine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// i440FX and PIIX3, with IDE
    Pc,
    /// Q35 and ICH9, with SATA (AHCI) and configuration space in memory (ECAM)
    Q35,
}

impl From<Machine> for Model {
    fn from(machine: Machine) -> Self {
        match machine {
            Machine::Pc => Self::I440fx,
            Machine::Q35 => Self::Q35,
        }
    }
}

impl Options {
    /// Where the serial ports go: COM1 has the console, unless the monitor has it.
    pub fn serials(&self) -> Vec<CharDev> {
        match self.serial.is_empty() {
            false => self.serial.clone(),
            true if self.monitor.contains(&Place::Stdio) => vec![CharDev::Null],
            // A program that reads the debugger's lines has no use for the guest's between them.
            true if self.debugger.json => vec![CharDev::Null],
            // A screen in the terminal leaves no place for it there.
            true if self.display.iter().any(Display::is_terminal) => vec![CharDev::Null],
            true => vec![CharDev::Stdio],
        }
    }

    /// Whether the screen is shown anywhere.
    pub fn shows_screen(&self) -> bool {
        self.display.iter().any(|d| *d != Display::None)
    }

    /// Whether nothing has been said about the terminal.
    pub fn leaves_the_terminal(&self) -> bool {
        let nothing = self.display.is_empty() && self.serial.is_empty() && !self.debugger.tui;
        nothing && !self.monitor.contains(&Place::Stdio) && !devices::want_stdio(&self.device)
    }

    /// Whether a serial port or another console of the guest is on standard input.
    pub fn guest_has_stdio(&self) -> bool {
        self.serials().contains(&CharDev::Stdio) || devices::want_stdio(&self.device)
    }

    /// Whether standard input is the guest's or the monitor's.
    pub fn reads_stdio(&self) -> bool {
        self.monitor.contains(&Place::Stdio) || self.guest_has_stdio()
    }
}

/// Where a character device goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CharDev {
    Stdio,
    Null,
    File(PathBuf),
}

impl fmt::Display for CharDev {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Null => f.write_str("null"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// How `--stats` is written, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stats {
    Text,
    Json(Option<PathBuf>),
}

/// A mistake on the command line, in clap's words but one line.
pub fn one_line(e: &clap::Error) -> String {
    let text = e.render().to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|l| {
            !["Usage", "For more", "tip:"]
                .iter()
                .any(|p| l.starts_with(p))
        })
        .filter(|l| !l.is_empty())
        .collect();
    lines.join(" ").trim_start_matches("error: ").into()
}

/// A number in C's notation.
pub fn number(s: &str) -> Result<u64, String> {
    let digits = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X"));
    match digits {
        Some(hex) if !hex.starts_with('+') => u64::from_str_radix(hex, 16),
        _ => s.parse(),
    }
    .map_err(|_| "give a number such as 4096 or 0x1000".into())
}

fn port(s: &str) -> Result<u16, String> {
    let wrong = || "give a port such as 0xe9 or 0x402".to_string();
    u16::try_from(number(s)?).map_err(|_| wrong())
}

pub fn count(s: &str) -> Result<u64, String> {
    match number(s)? {
        0 => Err("give at least 1".into()),
        n => Ok(n),
    }
}

/// A size of translated code: 4K to 2G, since code must reach code.
pub fn code_size(s: &str) -> Result<u64, String> {
    let wrong = || "give a size such as 64M, from 4K to 2G".to_string();
    let split = s.len() - usize::from(s.ends_with(|c: char| c.is_ascii_alphabetic()));
    let (digits, unit) = s.split_at(split);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(wrong()),
    };
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    match n.checked_mul(1 << shift) {
        Some(size) if (4 << 10..=2 << 30).contains(&size) => Ok(size),
        _ => Err(wrong()),
    }
}

fn memory(s: &str) -> Result<u64, String> {
    let wrong = || "give a size such as 512M or 2G".to_string();
    let split = s.len() - usize::from(s.ends_with(|c: char| c.is_ascii_alphabetic()));
    let (digits, unit) = s.split_at(split);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    let size = n.saturating_mul(1 << shift);
    if size < 1 << 20 {
        Err("too little: give at least 1M".into())
    } else if size > MAX_MEMORY {
        Err(format!(
            "too much: at most {}G can be given",
            MAX_MEMORY >> 30
        ))
    } else if !size.is_multiple_of(4096) {
        Err("not a multiple of 4096 bytes: round it".into())
    } else {
        Ok(size)
    }
}

fn seconds(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(v) if v > 0.0 && v <= 1e9 => Ok(v),
        _ => Err("give seconds above 0, such as 30 or 0.5".into()),
    }
}

pub fn chardev(s: &str) -> Result<CharDev, String> {
    match s {
        "stdio" | "mon:stdio" => Ok(CharDev::Stdio),
        "null" | "none" => Ok(CharDev::Null),
        _ => match s.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(CharDev::File(path.into())),
            _ => Err("give stdio, null or file:PATH".into()),
        },
    }
}

fn stats(s: &str) -> Result<Stats, String> {
    match s {
        "text" => Ok(Stats::Text),
        "json" => Ok(Stats::Json(None)),
        _ => match s.strip_prefix("json:") {
            Some(path) if !path.is_empty() => Ok(Stats::Json(Some(path.into()))),
            _ => Err("give text, json or json:PATH".into()),
        },
    }
}

/// `emu cpus` and `--cpu help`.
pub fn list_cpus() -> Result<Status, Error> {
    let names: Vec<&str> = FEATURES.iter().map(|f| f.name).collect();
    let mut text = format!("models: {}\nfeatures:", MODELS.join(" "));
    let mut column = usize::MAX;
    for name in names {
        if column + name.len() > 76 {
            text += "\n ";
            column = 1;
        }
        text += &format!(" {name}");
        column += 1 + name.len();
    }
    // A reader that has seen enough is no error.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(Status::Listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("2g"), Ok(2 << 30));
        assert_eq!(memory("1048576"), Ok(1 << 20));
        for bad in [
            "",
            "0",
            "M",
            "1X",
            "-1M",
            "100T",
            "99999999999T",
            "1048577",
            "1023K",
            "ü",
        ] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
