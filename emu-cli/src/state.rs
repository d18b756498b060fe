//! Whether the machine runs, and if not, why; and why a run ends or begins anew. In QEMU's words (QAPI `RunState` and
//! `ShutdownCause`), which clients compare.

use serde_json::{Value, json};

/// How the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    Running,
    /// It has not executed anything since power-on or reset.
    Prelaunch,
    /// Stopped by the user.
    Paused,
    /// The guest has powered off, and `--no-shutdown` was given.
    Shutdown,
    GuestPanicked,
    /// A debugger's hook stopped it, or its step is done.
    Debug,
}

impl RunState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Prelaunch => "prelaunch",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
            Self::GuestPanicked => "guest-panicked",
            Self::Debug => "debug",
        }
    }
}

/// Who wants an end or a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    HostError,
    MonitorQuit,
    MonitorReset,
    Signal,
    /// The console's keys, `--timeout`, `--max-insns`.
    HostUi,
    GuestShutdown,
    GuestReset,
    GuestPanic,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::HostError => "host-error",
            Self::MonitorQuit => "host-qmp-quit",
            Self::MonitorReset => "host-qmp-system-reset",
            Self::Signal => "host-signal",
            Self::HostUi => "host-ui",
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
        }
    }

    /// What the events SHUTDOWN and RESET tell of it.
    pub fn data(self) -> Value {
        let guest = [Self::GuestShutdown, Self::GuestReset, Self::GuestPanic].contains(&self);
        json!({ "guest": guest, "reason": self.name() })
    }
}
