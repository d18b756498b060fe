//! `--display`: the guest's screen on a terminal, for VNC clients, in a browser, in a window.
//!
//! Data flow: the painter's thread takes a snapshot of the screen some thirty times a second while somebody looks, draws it
//! outside the board's lock and puts it into the [`Hub`](hub::Hub). Each viewer has threads of its own, compares the newest picture
//! with what it has sent last, and sends the difference; a slow one skips pictures. Keys and the mouse go the other way through
//! [`Input`](input::Input), which waits until the machine has taken them, so that no client can fill a queue.

mod damage;
mod hub;
mod input;
mod listen;
mod sixel;
mod terminal;
mod vnc;
mod web;
#[cfg(feature = "window")]
mod window;

use crate::args::Options;
use crate::commands::Commands;
use crate::error::Error;
use crate::signals::Control;
use crate::vm::Vm;
use emu_core::nearest::nearest;
use hub::Hub;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Where the screen is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Display {
    None,
    Terminal(Graphics),
    Vnc {
        host: String,
        /// Display number: port 5900 plus this.
        number: u16,
        password: Option<String>,
    },
    Web {
        host: String,
        port: u16,
    },
    #[cfg(feature = "window")]
    Window,
}

/// How a terminal shows graphics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Graphics {
    /// As it says that it can.
    #[default]
    Auto,
    Sixel,
    /// Half blocks.
    Blocks,
}

impl Display {
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }
}

pub use terminal::there as on_a_terminal;

/// Port 5900 is display 0.
const VNC_PORT: u16 = 5900;
const LOOPBACK: &str = "127.0.0.1";
const FORMS: &str = "give none, terminal[,graphics=auto|sixel|blocks], vnc=HOST:NUMBER[,password=TEXT], web=HOST:PORT or window";
const NAMES: [&str; 5] = ["none", "terminal", "vnc", "web", "window"];

/// Reads a value of `--display`.
pub fn parse(text: &str) -> Result<Display, String> {
    let (kind, rest) = text.split_once('=').unwrap_or((text, ""));
    match (kind, rest) {
        ("none", "") => Ok(Display::None),
        ("terminal", "") => Ok(Display::Terminal(Graphics::Auto)),
        ("terminal,graphics", "auto") => Ok(Display::Terminal(Graphics::Auto)),
        ("terminal,graphics", "sixel") => Ok(Display::Terminal(Graphics::Sixel)),
        ("terminal,graphics", "blocks") => Ok(Display::Terminal(Graphics::Blocks)),
        ("vnc", rest) => {
            let (place, options) = rest.split_once(',').unwrap_or((rest, ""));
            let password = match options.strip_prefix("password=") {
                Some("") => return Err("the password is empty: leave it out, or give one".into()),
                // DES takes eight bytes (RFC 6143, 7.2.2).
                Some(p) if p.len() > 8 => {
                    return Err("the password is too long: VNC takes eight bytes".into());
                }
                Some(p) => Some(p.to_string()),
                None if options.is_empty() => None,
                None => {
                    return Err(format!(
                        "\"{options}\" is not known here: give password=TEXT"
                    ));
                }
            };
            let (host, number) = place_of(place, "0")?;
            if number > u16::MAX - VNC_PORT {
                return Err(format!(
                    "display {number} has no port: 0 to {} have",
                    u16::MAX - VNC_PORT
                ));
            }
            Ok(Display::Vnc {
                host,
                number,
                password,
            })
        }
        ("web", rest) => {
            let (host, port) = place_of(rest, "8006")?;
            Ok(Display::Web { host, port })
        }
        ("window", "") => window(),
        _ => {
            let name = kind.split(',').next().unwrap_or_default();
            Err(match nearest(name, NAMES) {
                Some(near) if near != name => format!("did you mean {near}? {FORMS}"),
                _ => FORMS.into(),
            })
        }
    }
}

#[cfg(feature = "window")]
fn window() -> Result<Display, String> {
    Ok(Display::Window)
}

#[cfg(not(feature = "window"))]
fn window() -> Result<Display, String> {
    Err("this program was built without it: build it with `cargo build --release --features window`, or give terminal, vnc or web".into())
}

/// `HOST:NUMBER`, `:NUMBER`, `HOST` or nothing; an IPv6 address is in brackets.
fn place_of(text: &str, number: &str) -> Result<(String, u16), String> {
    let (host, number) = match text.rsplit_once(':') {
        Some((host, n)) if !n.ends_with(']') => (host, n),
        _ => (text, number),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { LOOPBACK } else { host };
    match number.parse() {
        Ok(number) => Ok((host.into(), number)),
        Err(_) => Err(format!("\"{number}\" is not a number: {FORMS}")),
    }
}

/// Displays that listen already, so that a taken port is known before the guest starts.
pub struct Bound {
    terminal: Option<Graphics>,
    vnc: Vec<(TcpListener, Option<String>)>,
    web: Vec<(TcpListener, String)>,
    #[cfg(feature = "window")]
    window: Option<window::Connected>,
}

/// Takes the ports.
pub fn bind(options: &Options) -> Result<Bound, Error> {
    let terminal = options.display.iter().rev().find_map(|d| match d {
        Display::Terminal(graphics) => Some(*graphics),
        _ => None,
    });
    if terminal.is_some() && options.reads_stdio() {
        return Err(Error::TerminalTwice);
    }
    let mut bound = Bound {
        terminal,
        vnc: Vec::new(),
        web: Vec::new(),
        #[cfg(feature = "window")]
        window: None,
    };
    for display in &options.display {
        match display {
            Display::None | Display::Terminal(_) => {}
            Display::Vnc {
                host,
                number,
                password,
            } => {
                let listener = listen::bind("vnc", host, VNC_PORT + number)?;
                bound.vnc.push((listener, password.clone()));
            }
            Display::Web { host, port } => {
                let listener = listen::bind("web", host, *port)?;
                bound.web.push((listener, host.clone()));
            }
            #[cfg(feature = "window")]
            Display::Window => {
                // One screen, one window.
                if bound.window.is_none() {
                    bound.window = Some(window::connect(options)?);
                }
            }
        }
    }
    Ok(bound)
}

/// The screen is shown while this lives.
pub struct Shown {
    hub: Arc<Hub>,
    threads: Vec<JoinHandle<()>>,
}

impl Bound {
    fn is_empty(&self) -> bool {
        #[cfg(feature = "window")]
        if self.window.is_some() {
            return false;
        }
        self.terminal.is_none() && self.vnc.is_empty() && self.web.is_empty()
    }

    /// Starts showing the machine's screen.
    pub fn show(
        self,
        vm: &Vm,
        commands: &Arc<Commands>,
        control: &Arc<Control>,
    ) -> Result<Shown, Error> {
        let hub = Arc::new(Hub::default());
        let mut shown = Shown {
            hub: hub.clone(),
            threads: Vec::new(),
        };
        if self.is_empty() {
            return Ok(shown);
        }
        let machine = vm.runner.machine().clone();
        let painter = {
            let hub = hub.clone();
            thread("painter", move || hub::paint(&machine, &hub))?
        };
        shown.threads.push(painter);
        if let Some(graphics) = self.terminal {
            let drawing = terminal::start(&hub, commands, control, graphics)?;
            shown.threads.push(drawing);
        }
        for (listener, password) in self.vnc {
            let server = vnc::Server::new(hub.clone(), commands.clone(), password);
            thread("vnc", move || {
                listen::serve(&listener, move |stream, room| {
                    server.serve(stream, room);
                })
            })?;
        }
        for (listener, host) in self.web {
            let server = web::Server::new(hub.clone(), commands.clone(), host);
            thread("web", move || {
                listen::serve(&listener, move |stream, room| {
                    server.serve(stream, room);
                })
            })?;
        }
        #[cfg(feature = "window")]
        if let Some(connected) = self.window {
            let drawing = connected.show(&hub, commands, control)?;
            shown.threads.push(drawing);
        }
        Ok(shown)
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(Error::Thread)
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.hub.close();
        for thread in self.threads.drain(..) {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let vnc = |host: &str, number, password: Option<&str>| {
            Ok(Display::Vnc {
                host: host.into(),
                number,
                password: password.map(Into::into),
            })
        };
        assert_eq!(parse("none"), Ok(Display::None));
        let terminal = |graphics| Ok(Display::Terminal(graphics));
        assert_eq!(parse("terminal"), terminal(Graphics::Auto));
        assert_eq!(parse("terminal,graphics=sixel"), terminal(Graphics::Sixel));
        assert_eq!(parse("vnc=:1"), vnc(LOOPBACK, 1, None));
        assert_eq!(
            parse("vnc=0.0.0.0:7,password=a,b=c"),
            vnc("0.0.0.0", 7, Some("a,b=c"))
        );
        assert_eq!(parse("vnc=[::1]:2"), vnc("::1", 2, None));
        assert_eq!(parse("vnc=[::1]"), vnc("::1", 0, None));
        let web = |host: &str, port| {
            Ok(Display::Web {
                host: host.into(),
                port,
            })
        };
        assert_eq!(parse("web"), web(LOOPBACK, 8006));
        assert_eq!(parse("web=localhost:80"), web("localhost", 80));
        #[cfg(feature = "window")]
        assert_eq!(parse("window"), Ok(Display::Window));
        for bad in [
            "",
            "x",
            "window=1",
            "none=1",
            "terminal,graphics=x",
            "terminal,size=3",
            "vnc=:x",
            "vnc=:59636",
            "vnc=:-1",
            "vnc=:0,password=",
            "vnc=:0,password=123456789",
            "vnc=:0,sasl",
            "web=:65536",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
