//! A VNC server: RFB 3.3, 3.7 and 3.8 (RFC 6143).
//!
//! A client has two threads: one reads its messages, one sends pictures when they were asked for. `handshake.rs` is
//! everything up to the first message, `encode.rs` the pixels. Of the extensions there are: the picture's size changes
//! (DesktopSize), QEMU's extended key events, and QEMU's change between an absolute pointer (the guest uses a tablet) and a
//! relative one (it uses a mouse). A message that
//! is not known ends the connection, since its length is not known either.

mod encode;
mod handshake;

use super::damage::{Rect, damage, whole};
use super::hub::{Hub, Shot, Viewer};
use super::input::Input;
use super::listen::Place;
use crate::commands::Commands;
use crate::keys;
use emu_devices::display::Frame;
use encode::{Encoder, PixelFormat};
use std::io::{BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Messages of clients (RFC 6143, 7.5).
mod message {
    pub const SET_PIXEL_FORMAT: u8 = 0;
    pub const SET_ENCODINGS: u8 = 2;
    pub const UPDATE_REQUEST: u8 = 3;
    pub const KEY: u8 = 4;
    pub const POINTER: u8 = 5;
    pub const CUT_TEXT: u8 = 6;
    pub const QEMU: u8 = 255;
}

/// Pseudo-encodings.
mod pseudo {
    pub const DESKTOP_SIZE: i32 = -223;
    pub const QEMU_POINTER_MOTION: i32 = -257;
    pub const QEMU_EXTENDED_KEY: i32 = -258;
}

/// Text that a client may send us, which goes nowhere.
const MAX_CUT_TEXT: u32 = 1 << 20;
/// How long a sender sleeps at most before it looks whether its client is still there.
const NAP: Duration = Duration::from_secs(1);

/// What all clients of a port share.
pub struct Server {
    hub: Arc<Hub>,
    commands: Arc<Commands>,
    password: Option<String>,
}

/// What a client has asked for.
#[derive(Clone)]
struct Wants {
    format: PixelFormat,
    /// The format is new: an encoder has to know.
    encoding: i32,
    resize: bool,
    extended_key: bool,
    /// It knows relative pointers, and is told when ours is one.
    motion: bool,
    /// What it was told.
    relative: bool,
    /// An update was asked for.
    update: bool,
    /// And all of the picture, changed or not.
    full: bool,
    gone: bool,
}

type Shared = Mutex<Wants>;

fn lock(wants: &Shared) -> MutexGuard<'_, Wants> {
    wants.lock().unwrap_or_else(|e| e.into_inner())
}

impl Server {
    pub fn new(hub: Arc<Hub>, commands: Arc<Commands>, password: Option<String>) -> Self {
        Self {
            hub,
            commands,
            password,
        }
    }

    /// Serves a client until it goes.
    pub fn serve(&self, stream: TcpStream, place: Place) {
        // A client that goes, or that speaks something else, is no news.
        let _ = self.talk(&stream, &place);
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn talk(&self, stream: &TcpStream, place: &Place) -> Result<()> {
        let refusal = (!place.admitted).then_some("there are too many clients");
        handshake::agree(stream, self.password.as_deref(), refusal)?;
        let viewer = self.hub.view();
        let Some(shot) = viewer.wait(Duration::from_secs(5), |_| true) else {
            return Ok(());
        };
        let size = (shot.frame.width.max(1), shot.frame.height.max(1));
        handshake::initialise(stream, size)?;
        let wants = Arc::new(Mutex::new(Wants {
            format: PixelFormat::default(),
            encoding: encode::RAW,
            resize: false,
            extended_key: false,
            motion: false,
            relative: false,
            update: false,
            full: true,
            gone: false,
        }));
        let sender = {
            let (stream, wants) = (stream.try_clone()?, wants.clone());
            std::thread::Builder::new()
                .name("vnc sender".into())
                .spawn(move || {
                    let _ = send(&stream, &viewer, &wants, size);
                    // The reader then ends too.
                    let _ = stream.shutdown(Shutdown::Both);
                })?
        };
        let mut reader = BufReader::new(stream);
        let mut input = Input::new(self.hub.clone(), self.commands.clone());
        let done = read_messages(&mut reader, &wants, &mut input, &self.hub);
        lock(&wants).gone = true;
        self.hub.wake();
        drop(input);
        let _ = stream.shutdown(Shutdown::Both);
        let _ = sender.join();
        done
    }
}

/// `N` bytes.
fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn be16(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

fn be32(b: &[u8]) -> u32 {
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

fn read_messages(from: &mut impl Read, wants: &Shared, input: &mut Input, hub: &Hub) -> Result<()> {
    let mut alive = true;
    while alive {
        match take::<1>(from)?[0] {
            message::SET_PIXEL_FORMAT => {
                let b = take::<19>(from)?;
                let mut wants = lock(wants);
                wants.format = PixelFormat::read(&b[3..])?;
                wants.full = true;
            }
            message::SET_ENCODINGS => {
                let count = be16(&take::<3>(from)?[1..]);
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(be32(&take::<4>(from)?) as i32);
                }
                let known = list.iter().find(|e| encode::KNOWN.contains(e));
                let mut wants = lock(wants);
                wants.encoding = known.copied().unwrap_or(encode::RAW);
                wants.resize = list.contains(&pseudo::DESKTOP_SIZE);
                wants.extended_key = list.contains(&pseudo::QEMU_EXTENDED_KEY);
                wants.motion = list.contains(&pseudo::QEMU_POINTER_MOTION);
                wants.relative = false;
                // Told anew with the next update.
                wants.full = true;
            }
            message::UPDATE_REQUEST => {
                let b = take::<9>(from)?;
                let mut wants = lock(wants);
                wants.update = true;
                wants.full |= b[0] == 0;
                drop(wants);
                hub.wake();
            }
            message::KEY => {
                let b = take::<7>(from)?;
                if let Some(code) = keys::by_keysym(be32(&b[3..])) {
                    alive = input.key(code, b[0] != 0);
                }
            }
            message::POINTER => {
                let b = take::<5>(from)?;
                let (x, y) = (i32::from(be16(&b[1..])), i32::from(be16(&b[3..])));
                let relative = lock(wants).relative;
                alive = match relative {
                    // Differences around the middle of the range.
                    true => input.pointer_by(x - 0x7fff, y - 0x7fff, b[0]),
                    false => input.pointer_at(x, y, b[0]),
                };
            }
            message::CUT_TEXT => {
                let length = be32(&take::<7>(from)?[3..]);
                if length > MAX_CUT_TEXT {
                    return Err(ErrorKind::InvalidData.into());
                }
                std::io::copy(&mut from.take(length.into()), &mut std::io::sink())?;
            }
            message::QEMU => match take::<1>(from)?[0] {
                0 => {
                    let b = take::<10>(from)?;
                    let (down, sym, number) = (be16(&b) != 0, be32(&b[2..]), be32(&b[6..]));
                    let code = keys::by_number(number).or_else(|| keys::by_keysym(sym));
                    if let Some(code) = code {
                        alive = input.key(code, down);
                    }
                }
                _ => return Err(ErrorKind::InvalidData.into()),
            },
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

/// A rectangle's header.
fn head(out: &mut Vec<u8>, r: &Rect, encoding: i32) {
    for v in [r.x, r.y, r.width, r.height] {
        out.extend((v as u16).to_be_bytes());
    }
    out.extend(encoding.to_be_bytes());
}

/// The picture as a client sees it whose screen has this size.
fn fitted(frame: &Arc<Frame>, (width, height): (usize, usize)) -> Arc<Frame> {
    if (frame.width, frame.height) == (width, height) {
        return frame.clone();
    }
    let mut fitted = Frame::black(width, height);
    let n = width.min(frame.width);
    for y in 0..height.min(frame.height) {
        fitted.row_mut(y)[..n].copy_from_slice(&frame.row(y)[..n]);
    }
    Arc::new(fitted)
}

/// Sends updates until the client has gone or the run has ended.
fn send(
    mut to: &TcpStream,
    viewer: &Viewer,
    wants: &Shared,
    mut size: (usize, usize),
) -> Result<()> {
    let mut encoder = Encoder::new();
    let mut sent = Shot::default();
    loop {
        let news = |w: &Wants, shot: &Shot| {
            let pointer = w.motion && w.relative == viewer.is_absolute();
            w.update && (w.full || pointer || shot.number != sent.number)
        };
        let ready = |shot: &Shot| {
            let w = lock(wants);
            w.gone || news(&w, shot)
        };
        let Some(shot) = viewer.wait(NAP, ready) else {
            return Ok(());
        };
        let tell;
        let now = {
            let mut wants = lock(wants);
            if wants.gone {
                return Ok(());
            }
            if !news(&wants, &shot) {
                continue;
            }
            let relative = wants.motion && !viewer.is_absolute();
            tell = wants.motion && (wants.full || relative != wants.relative);
            wants.relative = relative;
            let now = wants.clone();
            wants.update = false;
            wants.full = false;
            now
        };
        let mut out = Vec::new();
        let mut count = 0u16;
        let everything = |size: (usize, usize)| Rect {
            x: 0,
            y: 0,
            width: size.0,
            height: size.1,
        };
        let real = (shot.frame.width, shot.frame.height);
        let resized = now.resize && real != size;
        if resized {
            size = real;
            head(&mut out, &everything(size), pseudo::DESKTOP_SIZE);
            count += 1;
        }
        if now.full && now.extended_key {
            head(&mut out, &everything(size), pseudo::QEMU_EXTENDED_KEY);
            count += 1;
        }
        if tell {
            // x = 0: the pointer is relative, 1: absolute.
            let mode = Rect {
                x: (!now.relative).into(),
                ..everything(size)
            };
            head(&mut out, &mode, pseudo::QEMU_POINTER_MOTION);
            count += 1;
        }
        let picture = fitted(&shot.frame, size);
        let rects = match now.full || resized {
            true => whole(&picture),
            false => damage(&sent.frame, &picture),
        };
        sent = Shot {
            frame: picture.clone(),
            ..shot
        };
        if rects.is_empty() && count == 0 {
            // Nothing that this client sees: its request stays.
            lock(wants).update = true;
            continue;
        }
        count += rects.len() as u16;
        if let Some(map) = now.format.take_map(&mut encoder) {
            to.write_all(&map)?;
        }
        let mut start = vec![0, 0];
        start.extend(count.to_be_bytes());
        to.write_all(&start)?;
        to.write_all(&out)?;
        for rect in rects {
            out.clear();
            head(&mut out, &rect, now.encoding);
            encoder.encode(&picture, &rect, now.encoding, &now.format, &mut out)?;
            to.write_all(&out)?;
        }
    }
}

/// An error that says what the client did.
fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
