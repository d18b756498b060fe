//! The GDB server (`--gdb`): GDB and LLDB debug the guest as if it were a program on a remote machine.
//!
//! One thread waits in `poll` for its client, a second one that it turns away, and the [`Bell`](bell::Bell) that the machine's thread
//! rings at a stop and at the end; it costs the machine nothing while nothing happens. Bytes become packets in `wire`, `session` speaks
//! with the client, `gdbstub` knows most of the protocol, and `target` has what it asks for done on the machine's thread
//! ([`Commands`]). What the registers are is in `registers`.
//!
//! A client's first packet stops the guest. When the client detaches, or its connection ends in whatever way, its breakpoints go
//! and the guest runs on; the next one may come then.
//!
//! Addresses are linear, through the guest's page tables as they are now (or physical, after `monitor phys on`), and `$pc` is the
//! linear address of the next instruction in every mode.

mod bell;
mod registers;
mod session;
mod target;
mod wire;

use crate::args::Options;
use crate::commands::Commands;
use crate::error::Error;
use crate::monitor;
use crate::monitor::listen::{ListenError, Listener};
use crate::vm::Vm;
use bell::Bell;
use emu_core::hooks::Mode;
use registers::Layout;
use session::Server;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The place where clients come in, taken before the machine is built.
pub struct Bound(Option<Listener>);

impl Bound {
    pub fn new(options: &Options) -> Result<Self, ListenError> {
        let bind = |at| monitor::bind(at, "--gdb");
        Ok(Self(options.debugger.gdb.as_ref().map(bind).transpose()?))
    }

    /// Starts to serve, if that was asked for.
    pub fn serve(
        self,
        vm: &mut Vm,
        options: &Options,
        commands: &Arc<Commands>,
    ) -> Result<Option<Gdb>, Error> {
        let Some(listener) = self.0 else {
            return Ok(None);
        };
        let bell = Arc::new(Bell::new().map_err(Error::Thread)?);
        let ring = bell.clone();
        vm.debug.listen_by(Box::new(move |stop| {
            ring.stopped(stop.clone());
            true
        }));
        let kernel = options.guest.as_ref().or(options.kernel.as_ref());
        let server = Server {
            listener,
            commands: commands.clone(),
            bell: bell.clone(),
            layouts: Layout::all(&vm.runner.cpu.model),
            executable: kernel.and_then(|path| executable(path)),
        };
        let thread = std::thread::Builder::new().name("gdb".into());
        let thread = thread.spawn(|| server.run()).map_err(Error::Thread)?;
        Ok(Some(Gdb { bell, thread }))
    }
}

/// The server while the machine runs.
pub struct Gdb {
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

impl Gdb {
    /// The run has ended: the client hears the exit status, and the socket's file goes.
    pub fn end(self, status: u8) {
        self.bell.end(status);
        // One that has panicked has said so.
        let _ = self.thread.join();
    }
}

/// The absolute path of a file that a debugger can read symbols from: an ELF file.
fn executable(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok().filter(|p| p.is_file())?;
    let mut magic = [0; 4];
    std::fs::File::open(&path)
        .ok()?
        .read_exact(&mut magic)
        .ok()?;
    (magic == *b"\x7fELF").then(|| path.into_os_string().into_string().ok())?
}

/// What a client's list of threads says of a vCPU.
fn thread_name(vm: &Vm, id: usize) -> String {
    let cpu = &vm.runner.cpu;
    format!("vCPU {} [{}]", id - 1, Mode::of(cpu.key).name())
}
