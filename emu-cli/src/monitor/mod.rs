//! The monitor: what looks at the machine and steers it from outside while it runs.
//!
//! `listen` and `server` bring clients in. `frame` and `qmp` understand programs, `human` (with `expr`) people. What they want is
//! done in `commands`, `machine`, `input`, `examine` and `info`, on the machine's thread where it needs the machine
//! ([`Commands::call`]), and `events` tells them what happens.

mod block;
mod bus;
mod commands;
pub mod events;
mod examine;
mod expr;
mod frame;
mod human;
pub mod info;
mod input;
pub mod listen;
mod machine;
mod network;
pub mod pages;
mod qmp;
mod screen;
mod server;
mod terminal;

pub use block::watch_trays;

use crate::args::Options;
use crate::commands::Commands;
use crate::console;
use crate::error::Error;
use events::Events;
use input::Input;
use listen::{Address, ListenError, Listener, Place};
use qmp::Qmp;
use server::Server;
pub use server::Session;
use std::sync::Arc;
use std::thread::JoinHandle;
pub use terminal::Human;

/// What commands have at hand.
pub struct Context {
    pub commands: Arc<Commands>,
    pub input: Input,
    /// What does not change while the machine runs.
    pub facts: Facts,
}

/// See [`Context`].
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub memory: u64,
    /// The serial ports: label and what is behind them.
    pub chardevs: Vec<(String, String)>,
}

impl Facts {
    fn of(options: &Options) -> Self {
        let serial = options.serials().into_iter().enumerate();
        let serial = serial.map(|(n, dev)| (format!("serial{n}"), dev.to_string()));
        let monitors = options.monitor.iter().map(Place::to_string);
        let monitors = monitors.chain(options.qmp.iter().map(Address::to_string));
        let monitors = monitors.enumerate();
        Self {
            memory: options.memory,
            chardevs: serial
                .chain(monitors.map(|(n, at)| (format!("compat_monitor{n}"), at)))
                .collect(),
        }
    }
}

impl Context {
    #[cfg(test)]
    pub fn unused() -> Arc<Self> {
        let commands = Commands::new(Arc::default());
        commands.close();
        Arc::new(Self {
            input: Input::new(commands.clone()),
            commands,
            facts: Facts::default(),
        })
    }
}

/// What is spoken at a listener.
#[derive(Clone, Copy)]
enum Language {
    Qmp,
    Human,
}

/// Takes a place, and says what its user has to know of it.
pub fn bind(at: &Address, option: &str) -> Result<Listener, ListenError> {
    let listener = Listener::bind(at)?;
    if let Some(ip) = listener.reachable_from_outside() {
        console::say(format_args!(
            "emu: {option} {at}: whoever reaches {ip} can steer the guest and write your files"
        ));
    }
    if let (Address::Tcp(_, 0), Some(port)) = (at, listener.port()) {
        console::say(format_args!("emu: {option} {at}: listening on port {port}"));
    }
    Ok(listener)
}

/// The listeners of a run, bound but not yet served.
pub struct Bound(Vec<(Listener, Language)>);

impl Bound {
    /// Takes the places, so that a mistake is known before the machine is built.
    pub fn new(options: &Options) -> Result<Self, ListenError> {
        let mut listeners = Vec::new();
        let qmp = options.qmp.iter().map(|at| (at, "--qmp", Language::Qmp));
        let human = options.monitor.iter().filter_map(|place| match place {
            Place::At(at) => Some((at, "--monitor", Language::Human)),
            _ => None,
        });
        for (at, option, language) in qmp.chain(human) {
            listeners.push((bind(at, option)?, language));
        }
        Ok(Self(listeners))
    }

    /// Starts to serve.
    pub fn serve(self, options: &Options, commands: &Arc<Commands>) -> Result<Monitor, Error> {
        let context = Arc::new(Context {
            commands: commands.clone(),
            input: Input::new(commands.clone()),
            facts: Facts::of(options),
        });
        let events = Arc::new(Events::default());
        let mut threads = Vec::new();
        for (listener, language) in self.0 {
            let mailbox = events.subscribe().map_err(Error::Monitor)?;
            let context = context.clone();
            let session = move || -> Box<dyn Session> {
                match language {
                    Language::Qmp => Box::new(Qmp::new(context.clone())),
                    Language::Human => Box::new(Human::remote(context.clone())),
                }
            };
            let server = Server::new(listener, mailbox, session);
            let thread = std::thread::Builder::new().name("monitor".into());
            threads.push(thread.spawn(|| server.run()).map_err(Error::Monitor)?);
        }
        Ok(Monitor {
            events,
            context,
            threads,
        })
    }
}

/// The monitor while the machine runs.
pub struct Monitor {
    pub events: Arc<Events>,
    context: Arc<Context>,
    threads: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// The human monitor for the console; `echo`: it is a raw terminal.
    pub fn on_console(&self, echo: bool) -> Human {
        Human::local(self.context.clone(), echo)
    }
}

impl Drop for Monitor {
    /// Clients hear the last events, and socket files go.
    fn drop(&mut self) {
        self.events.close();
        for thread in self.threads.drain(..) {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}
