//! The screen as VNC clients, browsers and terminals see it, and their keys as the guest does.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/pty.rs"]
mod pty;
#[path = "common/qmp.rs"]
mod qmp;

use common::*;
use flate2::read::ZlibDecoder;
use iced_x86::code_asm::*;
use pty::Terminal;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

const LONG: Duration = Duration::from_secs(60);
const BLUE: u32 = 0x0000aa;
const WHITE: u32 = 0xffffff;
const YELLOW: u32 = 0xffff55;
/// What the guest fills the linear frame buffer with.
const ORANGE: u32 = 0xff8000;

/// Shows a white block and "Hi" on blue; then a block for each key, coloured by its scan code; after Enter (1Ch), 640x480 with an
/// orange top.
fn guest() -> Temp {
    sector(|a| {
        let (mut key, mut vbe) = (a.create_label(), a.create_label());
        a.cld()?;
        a.mov(ax, 0xb800)?;
        a.mov(es, ax)?;
        a.xor(di, di)?;
        for cell in [0x1fdb, 0x1f48, 0x1f69] {
            a.mov(ax, cell)?;
            a.stosw()?;
        }
        poll_keyboard(a)?;
        wait_key(a, &mut key)?;
        a.cmp(al, 0x1c)?;
        a.je(vbe)?;
        a.mov(ah, al)?;
        a.and(ah, 0x0f)?;
        a.mov(al, 0xdb)?;
        a.stosw()?;
        a.jmp(key)?;
        a.set_label(&mut vbe)?;
        vbe_picture(a, ORANGE)?;
        a.jmp(key)
    })
}

/// A running emulator with the guest.
struct Running(Child, #[allow(dead_code)] Temp);

impl Running {
    fn new(display: &str) -> Self {
        let image = guest();
        let args = ["--kernel", image.path(), "--display", display];
        let child = emu(&[&args[..], &["--serial", "null"]].concat())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child, image)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A picture as a client has put it together.
#[derive(Default)]
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u32>,
}

impl Picture {
    fn resize(&mut self, width: usize, height: usize) {
        if (self.width, self.height) != (width, height) {
            *self = Self {
                width,
                height,
                pixels: vec![0; width * height],
            };
        }
    }

    fn at(&self, x: usize, y: usize) -> u32 {
        self.pixels[y * self.width + x]
    }

    /// The colour of a text cell that has one only.
    fn cell(&self, column: usize) -> Option<u32> {
        let first = self.at(9 * column, 0);
        let mut all = (0..16).flat_map(|y| (0..9).map(move |x| (9 * column + x, y)));
        all.all(|(x, y)| self.at(x, y) == first).then_some(first)
    }
}

/// A small RFB client.
struct Vnc {
    stream: TcpStream,
    picture: Picture,
}

impl Vnc {
    /// Shakes hands; `Err` is the server's reason.
    fn new(mut stream: TcpStream, answer: impl Fn([u8; 16]) -> [u8; 16]) -> Result<Self, String> {
        let mut version = [0; 12];
        stream.read_exact(&mut version).unwrap();
        assert_eq!(&version, b"RFB 003.008\n");
        stream.write_all(&version).unwrap();
        let mut client = Self {
            stream,
            picture: Picture::default(),
        };
        let [types] = client.take::<1>();
        if types == 0 {
            return Err(client.reason());
        }
        assert_eq!(types, 1);
        let [kind] = client.take::<1>();
        client.stream.write_all(&[kind]).unwrap();
        if kind == 2 {
            let challenge = client.take::<16>();
            client.stream.write_all(&answer(challenge)).unwrap();
        }
        if client.take::<4>() != [0; 4] {
            return Err(client.reason());
        }
        client.stream.write_all(&[1]).unwrap();
        let head = client.take::<24>();
        let be = |b: &[u8]| usize::from(u16::from_be_bytes([b[0], b[1]]));
        client.picture.resize(be(&head), be(&head[2..]));
        assert_eq!(client.take::<3>(), *b"emu");
        Ok(client)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn reason(&mut self) -> String {
        let length = u32::from_be_bytes(self.take()) as usize;
        let mut text = vec![0; length];
        self.stream.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn encodings(&mut self, list: &[i32]) {
        let mut out = vec![2, 0];
        out.extend((list.len() as u16).to_be_bytes());
        list.iter().for_each(|e| out.extend(e.to_be_bytes()));
        self.stream.write_all(&out).unwrap();
    }

    fn key(&mut self, sym: u32) {
        for down in [1, 0] {
            let mut out = vec![4, down, 0, 0];
            out.extend(sym.to_be_bytes());
            self.stream.write_all(&out).unwrap();
        }
    }

    fn request(&mut self, incremental: bool) {
        let mut out = vec![3, incremental as u8, 0, 0, 0, 0];
        out.extend([0x10, 0, 0x10, 0]);
        self.stream.write_all(&out).unwrap();
    }

    /// Reads an update of raw rectangles; gives the encodings that it had.
    fn update(&mut self) -> Vec<i32> {
        let [kind, _] = self.take::<2>();
        assert_eq!(kind, 0);
        let count = u16::from_be_bytes(self.take());
        let mut seen = Vec::new();
        for _ in 0..count {
            let [x, y, w, h] = [(); 4].map(|()| usize::from(u16::from_be_bytes(self.take())));
            let encoding = i32::from_be_bytes(self.take());
            seen.push(encoding);
            match encoding {
                0 => {
                    for row in y..y + h {
                        for column in x..x + w {
                            let pixel = u32::from_le_bytes(self.take());
                            self.picture.pixels[row * self.picture.width + column] = pixel;
                        }
                    }
                }
                -223 => self.picture.resize(w, h),
                -257 | -258 => {}
                other => panic!("encoding {other}"),
            }
        }
        seen
    }

    /// Takes updates until the picture is as it should be.
    fn until(&mut self, is: impl Fn(&Picture) -> bool) {
        let began = Instant::now();
        while !is(&self.picture) {
            assert!(began.elapsed() < LONG, "the picture never came");
            self.request(true);
            self.update();
        }
    }
}

#[test]
fn vnc_shows_the_screen_and_types() {
    let port = free_port();
    let _running = Running::new(&format!("vnc=:{}", port - 5900));
    let mut vnc = Vnc::new(connect(port), |c| c).unwrap();
    assert_eq!((vnc.picture.width, vnc.picture.height), (720, 400));
    vnc.encodings(&[0, -223, -258]);
    vnc.request(false);
    assert!(vnc.update().contains(&-258), "extended keys are announced");
    vnc.until(|p| p.cell(0) == Some(WHITE) && p.at(9, 0) == BLUE);
    vnc.key(b'a'.into());
    vnc.until(|p| p.cell(3) == Some(YELLOW));
    // QEMU's extended key event: the same key by its number, whatever the keysym.
    for down in [1, 0] {
        vnc.stream
            .write_all(&[255, 0, 0, down, 0, 0, 0, 0, 0, 0, 0, 0x1e])
            .unwrap();
    }
    vnc.until(|p| p.cell(4) == Some(YELLOW));
    // Enter: another mode, of which a client that understands it is told.
    vnc.key(0xff0d);
    vnc.until(|p| (p.width, p.height) == (640, 480) && p.at(639, 3) == ORANGE);
    assert_eq!(vnc.picture.at(0, 4), 0);
}

/// A VNC client of the GNOME project's sees what `screendump` writes; without it on the host there is nothing to compare.
#[test]
fn gvnccapture_sees_what_screendump_writes() {
    let port = free_port();
    let (image, display) = (guest(), format!("vnc=:{}", port - 5900));
    let machine = qmp::Machine::start(&["--kernel", image.path(), "--display", &display]);
    let mut c = machine.client();
    drop(connect(port));
    let seen = Temp::new(b"");
    let capture = |file: &str| {
        let place = format!("127.0.0.1:{}", port - 5900);
        let mut client = std::process::Command::new("gvnccapture");
        client.args(["-q", &place, file]).output()
    };
    let began = Instant::now();
    let white = |p: &guests::Picture| p.2.chunks(3).filter(|p| *p == [255; 3]).count() > 100;
    loop {
        let out = match capture(seen.path()) {
            Ok(out) => out,
            Err(e) => return eprintln!("no gvnccapture here ({e}): nothing was compared"),
        };
        assert!(out.status.success(), "{}", stderr(&out));
        let (client, ours) = (guests::read_png(&seen.0), guests::picture(&mut c));
        if client == ours && white(&ours) {
            break;
        }
        // Before the guest has drawn, or at the cursor's blink.
        assert!(began.elapsed() < LONG, "another picture");
    }
    guests::quit(machine, c);
}

#[test]
fn vnc_asks_for_the_password() {
    use des::cipher::{BlockCipherEncrypt, KeyInit};
    let port = free_port();
    let _running = Running::new(&format!("vnc=127.0.0.1:{},password=secret", port - 5900));
    let wrong = Vnc::new(connect(port), |c| c);
    assert_eq!(wrong.err().as_deref(), Some("the password is wrong"));
    let mut key = [0u8; 8];
    for (k, b) in key.iter_mut().zip(b"secret") {
        *k = b.reverse_bits();
    }
    let cipher = des::Des::new(&key.into());
    let right = Vnc::new(connect(port), |challenge| {
        let mut answer = challenge;
        for half in answer.chunks_exact_mut(8) {
            let mut block: [u8; 8] = half.try_into().unwrap();
            let mut b = block.into();
            cipher.encrypt_block(&mut b);
            block.copy_from_slice(&b);
            half.copy_from_slice(&block);
        }
        answer
    });
    assert!(right.is_ok());
}

/// Clients that vanish in the middle of an update, send rubbish, or are too many, leave the others alone.
#[test]
fn vnc_bears_any_client() {
    let port = free_port();
    let mut running = Running::new(&format!("vnc=:{}", port - 5900));
    let mut good = Vnc::new(connect(port), |c| c).unwrap();
    for _ in 0..20 {
        let mut gone = Vnc::new(connect(port), |c| c).unwrap();
        gone.request(false);
        let mut some = [0; 1000];
        gone.stream.read_exact(&mut some).unwrap();
    }
    for rubbish in [
        &[0xff; 64][..],
        &[0; 200],
        &[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        &[2, 0, 0xff, 0xff, 1],
    ] {
        let mut bad = Vnc::new(connect(port), |c| c).unwrap();
        bad.stream.write_all(rubbish).unwrap();
        let mut rest = Vec::new();
        if rubbish[0] != 2 {
            // The connection is ended, with or without something on the way.
            let _ = bad.stream.read_to_end(&mut rest);
            assert!(rest.is_empty());
        }
    }
    let mut many = Vec::new();
    let began = Instant::now();
    let why = loop {
        match Vnc::new(connect(port), |c| c) {
            Ok(client) => many.push(client),
            Err(why) => break why,
        }
        assert!(many.len() < 20 && began.elapsed() < LONG);
    };
    assert_eq!(why, "there are too many clients");
    good.request(false);
    good.update();
    good.until(|p| p.cell(0) == Some(WHITE));
    assert!(running.0.try_wait().unwrap().is_none(), "it still runs");
}

/// The page's side of the websocket.
struct Web {
    socket: WebSocket<TcpStream>,
    picture: Picture,
}

impl Web {
    fn new(stream: TcpStream, port: u16, host: &str, origin: Option<&str>) -> Result<Self, String> {
        let mut request = format!("ws://{host}:{port}/screen")
            .into_client_request()
            .unwrap();
        if let Some(origin) = origin {
            let value = origin.parse().unwrap();
            request.headers_mut().insert("Origin", value);
        }
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self {
                socket,
                picture: Picture::default(),
            }),
            Err(e) => Err(e.to_string()),
        }
    }

    fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    fn update(&mut self) {
        let Message::Binary(message) = self.socket.read().unwrap() else {
            panic!("not a picture");
        };
        let at = |n: usize| usize::from(u16::from_le_bytes([message[2 * n], message[2 * n + 1]]));
        let count = at(2);
        self.picture.resize(at(0), at(1));
        let mut pixels = Vec::new();
        let mut zlib = ZlibDecoder::new(&message[2 * (3 + 4 * count)..]);
        zlib.read_to_end(&mut pixels).unwrap();
        let mut pixels = pixels.chunks_exact(4);
        for n in 0..count {
            let [x, y, w, h] = [0, 1, 2, 3].map(|i| at(3 + 4 * n + i));
            for row in y..y + h {
                for column in x..x + w {
                    let p = pixels.next().unwrap();
                    assert_eq!(p[3], 0xff);
                    self.picture.pixels[row * self.picture.width + column] =
                        u32::from_be_bytes([0, p[0], p[1], p[2]]);
                }
            }
        }
        assert!(pixels.next().is_none());
        self.say("ready");
    }

    fn until(&mut self, is: impl Fn(&Picture) -> bool) {
        let began = Instant::now();
        while self.picture.width == 0 || !is(&self.picture) {
            assert!(began.elapsed() < LONG, "the picture never came");
            self.update();
        }
    }
}

#[test]
fn web_shows_the_screen_and_types() {
    let port = free_port();
    let _running = Running::new(&format!("web=:{port}"));
    let mut page = connect(port);
    write!(page, "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").unwrap();
    let mut text = String::new();
    page.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("<canvas"));

    let origin = format!("http://127.0.0.1:{port}");
    let stream = connect(port);
    let mut web = Web::new(stream, port, "127.0.0.1", Some(&origin)).unwrap();
    web.until(|p| p.cell(0) == Some(WHITE) && p.at(9, 0) == BLUE);
    web.say("rubbish");
    web.say("down KeyA");
    web.say("up KeyA");
    web.until(|p| p.cell(3) == Some(YELLOW));
    // Gone in the middle: the next one sees all of it.
    web.say("down Enter");
    drop(web);
    let stream = connect(port);
    let mut web = Web::new(stream, port, "127.0.0.1", None).unwrap();
    web.until(|p| (p.width, p.height) == (640, 480) && p.at(639, 3) == ORANGE);
}

#[test]
fn other_sites_pages_are_refused() {
    let port = free_port();
    let _running = Running::new(&format!("web=:{port}"));
    let other = Web::new(
        connect(port),
        port,
        "127.0.0.1",
        Some("http://evil.example"),
    );
    assert!(other.err().unwrap().contains("403"));
    let rebound = Web::new(connect(port), port, "evil.example", None);
    assert!(rebound.err().unwrap().contains("403"));
}

#[test]
fn a_taken_port_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let image = guest();
    for display in [format!("vnc=:{}", port - 5900), format!("web=:{port}")] {
        let out = run(&["--kernel", image.path(), "--display", &display]);
        let text = stderr(&out);
        assert_eq!((status(&out), text.lines().count()), (2, 1), "{text}");
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    }
    let out = run(&["--kernel", image.path(), "--display", "terminal"]);
    assert_eq!(status(&out), 2);
    assert!(stderr(&out).contains("no terminal"), "{}", stderr(&out));
    let both = ["--display", "terminal", "--serial", "stdio"];
    let out = run(&[&["--kernel", image.path()][..], &both].concat());
    assert!(stderr(&out).contains("--serial null"), "{}", stderr(&out));
}

#[test]
fn terminal_shows_the_screen_and_types() {
    // Nine lines to a half block, four of them orange: the mean.
    on_a_terminal("\x1b[?62;1;22c", "\x1b[38;2;113;56;0;");
}

#[test]
fn a_terminal_that_takes_sixels_gets_them() {
    // A picture whose first colour is orange, in percents.
    on_a_terminal("\x1b[?62;4;22c", "#0;2;100;50;0");
}

/// A terminal that says what it can, and what it gets for a picture.
fn on_a_terminal(answer: &str, picture: &str) {
    let terminal = Terminal::new();
    let image = guest();
    let mut child = terminal.start(&["--kernel", image.path(), "--display", "terminal"]);
    let mut master = &terminal.master;
    let mut seen = String::new();
    let mut until = |master: &mut &File, what: &str| {
        let began = Instant::now();
        while !seen.contains(what) {
            assert!(began.elapsed() < LONG, "no {what:?} in {seen:?}");
            let mut bytes = [0; 4096];
            let n = master.read(&mut bytes).unwrap();
            seen += &String::from_utf8_lossy(&bytes[..n]);
        }
        let end = seen.find(what).unwrap() + what.len();
        seen.drain(..end);
    };
    until(&mut master, "\x1b[c");
    master.write_all(answer.as_bytes()).unwrap();
    until(&mut master, "\x1b[38;2;255;255;255;48;2;0;0;170m█Hi");
    master.write_all(b"a").unwrap();
    until(&mut master, "\x1b[38;2;255;255;85;48;2;0;0;0m█");
    master.write_all(b"\r").unwrap();
    until(&mut master, picture);
    master.write_all(b"\x01x").unwrap();
    until(&mut master, "\x1b[?1049l");
    let out = child.wait().unwrap();
    assert_eq!(out.code(), Some(0), "{out:?}");
}
