//! `--display window`: the screen in a window of X11 or Wayland.
//!
//! Three threads. "window" has the event loop: it draws the newest picture, and says what keys and pointer do. "window pictures"
//! waits at the hub, and wakes the loop when there is something new, once until the loop has looked, so that a slow display server
//! skips pictures. "window input" takes events from the [`Mailbox`](mailbox::Mailbox) to the machine. None of them holds anything
//! that the machine's thread waits for.
//!
//! The event loop is not on the main thread, though some systems ask for that: the main thread is the machine's, signals, the
//! console and the end of a run are built around it, and the other displays are threads too. X11 and Wayland work on any thread,
//! and this program runs on Linux only. The loop is made before the guest starts, so that a missing display server is told at once.
//!
//! Pure parts: `view` (where the picture is in the window, what is drawn, where the pointer is), `keyboard` (keys and hot keys),
//! `mouse` (moves, wheel, buttons), `mailbox`. `app` joins them with the window.
//!
//! No C library is linked: `winit` and `softbuffer` load libX11, libXcursor, libXi, libxcb and libxkbcommon (with its x11 part), or
//! libwayland-client, when the window opens.

mod app;
mod keyboard;
mod mailbox;
mod mouse;
mod view;

use super::hub::{Hub, Viewer};
use super::input::Input;
use super::thread;
use crate::args::Options;
use crate::commands::Commands;
use crate::error::Error;
use crate::signals::Control;
use app::App;
use mailbox::{Event, Mailbox};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use winit::event_loop::{EventLoop, EventLoopProxy};
use winit::platform::{wayland, x11};

/// How long the hub is waited for at a time.
const NAP: Duration = Duration::from_secs(1);

/// What other threads tell the event loop.
enum News {
    /// There is another picture, or another kind of pointer.
    Look,
    /// The run has ended.
    End,
}

/// What the event loop needs to show a machine.
struct Machine {
    hub: Arc<Hub>,
    commands: Arc<Commands>,
    control: Arc<Control>,
    /// What became of the window.
    opened: SyncSender<Result<(), Error>>,
}

/// A connection to the display server, without a window yet.
pub struct Connected {
    start: mpsc::Sender<Machine>,
    thread: JoinHandle<()>,
}

/// Connects to the display server.
pub fn connect(options: &Options) -> Result<Connected, Error> {
    let (start, machine) = mpsc::channel();
    let (tell, connected) = sync_channel(1);
    let title = format!("emu - {}", guest_of(options));
    let thread = thread("window", move || serve(title, &tell, &machine))?;
    connected.recv().unwrap_or_else(|_| lost())?;
    Ok(Connected { start, thread })
}

impl Connected {
    /// Opens the window.
    pub fn show(
        self,
        hub: &Arc<Hub>,
        commands: &Arc<Commands>,
        control: &Arc<Control>,
    ) -> Result<JoinHandle<()>, Error> {
        let (opened, answer) = sync_channel(1);
        let machine = Machine {
            hub: hub.clone(),
            commands: commands.clone(),
            control: control.clone(),
            opened,
        };
        if self.start.send(machine).is_err() {
            lost()?;
        }
        answer.recv().unwrap_or_else(|_| lost())?;
        Ok(self.thread)
    }
}

/// The thread has gone without an answer, and has said why: what loads libxkbcommon-x11 panics without it.
fn lost() -> Result<(), Error> {
    let why = "the display server cannot be used; is a library missing that README.md lists?";
    Err(Error::Window(why.into()))
}

/// Why there is no display server, with the variable that names it.
fn unreachable(why: &str) -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let named = ["WAYLAND_DISPLAY", "WAYLAND_SOCKET", "DISPLAY"]
        .into_iter()
        .find_map(|name| Some(format!("{name}={}", set(name)?)));
    // winit says first where in its source it is.
    let place = why.find(".rs:").and_then(|at| why[at..].split_once(": "));
    let why = place.map_or(why, |(_, why)| why);
    match named {
        Some(named) => format!("{named}: {why}"),
        None => "there is no display server".into(),
    }
}

/// The window's thread.
fn serve(title: String, tell: &SyncSender<Result<(), Error>>, machine: &Receiver<Machine>) {
    let mut builder = EventLoop::with_user_event();
    x11::EventLoopBuilderExtX11::with_any_thread(&mut builder, true);
    wayland::EventLoopBuilderExtWayland::with_any_thread(&mut builder, true);
    let events: EventLoop<News> = match builder.build() {
        Ok(events) => events,
        Err(e) => {
            let _ = tell.send(Err(Error::Window(unreachable(&e.to_string()))));
            return;
        }
    };
    let _ = tell.send(Ok(()));
    // Nothing comes if the machine cannot be built.
    let Ok(machine) = machine.recv() else { return };
    let mailbox = Arc::new(Mailbox::default());
    let told = Arc::new(AtomicBool::new(false));
    let (viewer, proxy) = (machine.hub.view(), events.create_proxy());
    let mut input = Input::new(machine.hub.clone(), machine.commands.clone());
    let threads = [
        thread("window pictures", {
            let told = told.clone();
            move || announce(&viewer, &proxy, &told)
        }),
        thread("window input", {
            let mailbox = mailbox.clone();
            move || {
                while let Some(event) = mailbox.next()
                    && deliver(&mut input, event)
                {}
                mailbox.close();
            }
        }),
    ];
    if let Some(e) = threads.into_iter().find_map(Result::err) {
        mailbox.close();
        let _ = machine.opened.send(Err(e));
        return;
    }
    let mut app = App::new(title, &machine, mailbox.clone(), told);
    let done = events.run_app(&mut app);
    mailbox.close();
    if let Err(e) = done {
        app.failed(&e);
    }
}

/// Tells the event loop of what is new.
fn announce(viewer: &Viewer, proxy: &EventLoopProxy<News>, told: &AtomicBool) {
    let (mut number, mut absolute) = (0, false);
    loop {
        let shot = viewer.wait(NAP, |shot| {
            shot.number != number || viewer.is_absolute() != absolute
        });
        let Some(shot) = shot else {
            // The loop may have ended by itself.
            let _ = proxy.send_event(News::End);
            return;
        };
        if (shot.number, viewer.is_absolute()) == (number, absolute) {
            continue;
        }
        (number, absolute) = (shot.number, viewer.is_absolute());
        if !told.swap(true, SeqCst) && proxy.send_event(News::Look).is_err() {
            return;
        }
    }
}

/// An event goes to the machine; false: the run has ended.
fn deliver(input: &mut Input, event: Event) -> bool {
    match event {
        Event::Key(code, down) => input.key(code, down),
        Event::At { x, y, buttons } => input.pointer_at(x, y, buttons),
        Event::By { dx, dy, buttons } => input.pointer_by(dx, dy, buttons),
    }
}

/// The name of what is booted.
fn guest_of(options: &Options) -> String {
    let drives = &options.drives;
    let disks = [
        &drives.hda,
        &drives.hdb,
        &drives.hdc,
        &drives.hdd,
        &drives.cdrom,
        &drives.fda,
    ];
    let mut files = [&options.guest, &options.kernel]
        .into_iter()
        .chain(disks)
        .chain(drives.drive.iter().map(|d| &d.file))
        .flatten();
    let name = files.next().and_then(|path| Path::new(path).file_name());
    name.map_or_else(|| "PC".into(), |n| n.to_string_lossy().into_owned())
}
