//! A page with the screen on a canvas, over a websocket.
//!
//! One port serves two things: `GET /` is the page (`page.html`), and `GET /screen` with an upgrade is the websocket. Pictures go
//! out as binary messages (a head and a zlib stream of RGBA rectangles), each after the page has acknowledged the one before; keys
//! and the mouse come in as short texts. `absolute` and `relative` go out as texts when the guest begins and ceases to use a tablet. `http.rs` says who may: a page of another site may not, though the browser would let it.

mod http;

use super::damage::{damage, whole};
use super::hub::{Hub, Shot, Viewer};
use super::input::Input;
use super::listen::Place;
use crate::commands::Commands;
use crate::keys;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

/// How long a message of the page is waited for before the picture is looked at.
const TICK: Duration = Duration::from_millis(10);
/// A page's messages are short.
const MAX_MESSAGE: usize = 4096;

/// What all clients of a port share.
pub struct Server {
    hub: Arc<Hub>,
    commands: Arc<Commands>,
    host: String,
}

impl Server {
    pub fn new(hub: Arc<Hub>, commands: Arc<Commands>, host: String) -> Self {
        Self {
            hub,
            commands,
            host,
        }
    }

    /// Serves a request, or a websocket until it goes.
    pub fn serve(&self, stream: TcpStream, place: Place) {
        if let Ok(http::Request::Socket) = http::answer(&stream, &self.host, place.admitted) {
            // A page that is closed is no news.
            let _ = self.talk(&stream);
        }
        let _ = stream.shutdown(Shutdown::Both);
        drop(place);
    }

    fn talk(&self, stream: &TcpStream) -> tungstenite::Result<()> {
        stream.set_read_timeout(Some(TICK))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
        let viewer = self.hub.view();
        let mut input = Input::new(self.hub.clone(), self.commands.clone());
        let mut sent = Shot::default();
        let mut ready = true;
        let mut absolute = false;
        loop {
            if viewer.is_absolute() != absolute {
                absolute = !absolute;
                let word = if absolute { "absolute" } else { "relative" };
                socket.send(Message::text(word))?;
            }
            if ready && let Some(message) = news(&viewer, &mut sent) {
                ready = false;
                socket.send(Message::binary(message))?;
            }
            match socket.read() {
                Ok(Message::Text(text)) => match event(&text) {
                    Some(Event::Ready) => ready = true,
                    Some(Event::Key(code, down)) if !input.key(code, down) => return Ok(()),
                    Some(Event::Mouse(x, y, buttons)) if !input.pointer_by(x, y, buttons) => {
                        return Ok(());
                    }
                    Some(Event::At(x, y, buttons)) if !input.pointer_at(x, y, buttons) => {
                        return Ok(());
                    }
                    _ => {}
                },
                Ok(_) => {}
                Err(tungstenite::Error::Io(e))
                    if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// What a page tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The last picture is on the canvas.
    Ready,
    Key(u16, bool),
    /// Right, down, RFB's buttons.
    Mouse(i32, i32, u8),
    /// A pixel, RFB's buttons.
    At(i32, i32, u8),
}

/// Reads a message: `ready`, `down CODE`, `up CODE`, `mouse DX DY BUTTONS`, `at X Y BUTTONS`. What is not one of them does nothing.
fn event(text: &str) -> Option<Event> {
    let mut words = text.split(' ');
    let event = match words.next()? {
        "ready" => Event::Ready,
        word @ ("down" | "up") => Event::Key(keys::by_js(words.next()?)?, word == "down"),
        word @ ("mouse" | "at") => {
            let mut number = || words.next()?.parse::<i16>().ok().map(i32::from);
            let (x, y) = (number()?, number()?);
            let buttons = u8::try_from(number()?).ok()?;
            match word {
                "at" => Event::At(x, y, buttons),
                _ => Event::Mouse(x, y, buttons),
            }
        }
        _ => return None,
    };
    words.next().is_none().then_some(event)
}

/// The message that brings the canvas up to date; `None`: it is.
///
/// Width, height, number of rectangles, then x, y, width and height of each, all in 16 bits, lowest byte first; then a zlib
/// stream of the rectangles' pixels: red, green, blue, 255.
fn news(viewer: &Viewer, sent: &mut Shot) -> Option<Vec<u8>> {
    let shot = viewer.shot();
    if shot.number == sent.number {
        return None;
    }
    let rects = match sent.number {
        0 => whole(&shot.frame),
        _ => damage(&sent.frame, &shot.frame),
    };
    let old = std::mem::replace(sent, shot);
    if rects.is_empty()
        && (old.frame.width, old.frame.height) == (sent.frame.width, sent.frame.height)
    {
        return None;
    }
    let frame = &sent.frame;
    let mut head = Vec::new();
    let mut pixels = Vec::new();
    let mut put = |v: usize| head.extend((v as u16).to_le_bytes());
    [frame.width, frame.height, rects.len()]
        .into_iter()
        .for_each(&mut put);
    for r in &rects {
        [r.x, r.y, r.width, r.height].into_iter().for_each(&mut put);
        for y in r.y..r.y + r.height {
            for p in &frame.row(y)[r.x..r.x + r.width] {
                let [b, g, r, _] = p.to_le_bytes();
                pixels.extend([r, g, b, 0xff]);
            }
        }
    }
    let mut zlib = ZlibEncoder::new(head, Compression::fast());
    // Writing to memory does not fail.
    zlib.write_all(&pixels).ok()?;
    zlib.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(event("ready"), Some(Event::Ready));
        assert_eq!(event("down KeyA"), Some(Event::Key(0x1e, true)));
        assert_eq!(event("up ArrowUp"), Some(Event::Key(0xe048, false)));
        assert_eq!(event("mouse -3 4 1"), Some(Event::Mouse(-3, 4, 1)));
        assert_eq!(event("at 639 0 4"), Some(Event::At(639, 0, 4)));
        for bad in [
            "",
            "down",
            "down Nothing",
            "down KeyA KeyB",
            "mouse 1 2",
            "mouse 40000 0 0",
            "at 1",
            "mouse 0 0 256",
            "mouse 0 0 -1",
            "\0",
        ] {
            assert_eq!(event(bad), None, "{bad}");
        }
    }
}
