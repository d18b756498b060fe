//! How a run ends, and the exit status that says so.
//!
//! `isa-debug-exit` gives odd numbers, so all of ours but SIGTERM's are even.

/// The table of exit statuses, as `--help` shows it.
pub const TABLE: &str = "\
Exit status:
  0          the guest powered off, or asked for a reset under --no-reboot; Ctrl-A x; --help
  1, 3, 5 …  isa-debug-exit was written: (code << 1) | 1
  2          bad usage: options, or a kernel or initrd that cannot be booted
  4          host error: out of memory, a file or the console cannot be read or written
  6          triple fault under --no-reboot (registers and last blocks on standard error)
  8          --timeout has passed
  10         --max-insns have been executed
  12         the guest halted with interrupts off, and nothing can wake it
  14         the guest told pvpanic that it has crashed
  130, 143   ended by SIGINT, SIGTERM (128 + its number; SIGHUP: 129)";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    PowerOff,
    Reset,
    Quit,
    DebugExit(u32),
    Usage,
    HostError,
    TripleFault,
    Timeout,
    MaxInsns,
    Halted,
    GuestPanic,
    Signal(i32),
    Listed,
    /// Two engines did the same, or not.
    Alike,
    Different,
}

impl Status {
    pub fn code(self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset | Self::Quit | Self::Listed | Self::Alike => 0,
            Self::Different => 1,
            Self::DebugExit(code) => (code << 1 | 1) as u8,
            Self::Usage => 2,
            Self::HostError => 4,
            Self::TripleFault => 6,
            Self::Timeout => 8,
            Self::MaxInsns => 10,
            Self::Halted => 12,
            Self::GuestPanic => 14,
            Self::Signal(n) => (128 + n) as u8,
        }
    }

    /// The name in `--stats`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::Quit => "quit",
            Self::DebugExit(_) => "debug-exit",
            Self::Usage => "usage",
            Self::HostError => "host-error",
            Self::TripleFault => "triple-fault",
            Self::Timeout => "timeout",
            Self::MaxInsns => "max-insns",
            Self::Halted => "halted",
            Self::GuestPanic => "guest-panic",
            Self::Signal(_) => "signal",
            Self::Listed => "listed",
            Self::Alike => "alike",
            Self::Different => "different",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statuses_are_the_documented_ones() {
        for (status, text) in [
            (Status::Usage, "\n  2  "),
            (Status::HostError, "\n  4  "),
            (Status::TripleFault, "\n  6  "),
            (Status::Timeout, "\n  8  "),
            (Status::MaxInsns, "\n  10  "),
            (Status::Halted, "\n  12  "),
            (Status::GuestPanic, "\n  14  "),
        ] {
            assert!(TABLE.contains(text));
            assert_eq!(text.trim(), status.code().to_string());
        }
        assert_eq!(Status::DebugExit(0x21).code(), 0x43);
        assert_eq!(
            Status::DebugExit(0x80).code(),
            1,
            "eight bits, as exit() takes"
        );
        assert_eq!(Status::Signal(15).code(), 143);
    }
}
