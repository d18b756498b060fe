//! The window on a virtual X server: it shows what `screendump` writes, keys and mouse reach the guest, and closing it ends the run.
//! A tablet is Linux's (from `images/fetch.sh out`). Without Xvfb and xdotool on the host there is nothing to test.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/linux.rs"]
mod linux;
#[path = "common/qmp.rs"]
mod qmp;

use common::*;
use guests::{Console, Picture};
use iced_x86::code_asm::*;
use qmp::{Client, Machine, SocketPath};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);
const ORANGE: u32 = 0xff8000;
const RELEASE: &str = "Press Ctrl+Alt+G to release grab";

/// An X server with a screen of 1600x1200 in memory, and in a file.
struct XServer {
    server: Child,
    number: u32,
    folder: PathBuf,
}

impl XServer {
    /// `None`: there is none here.
    fn start() -> Option<Self> {
        if let Err(e) = Command::new("xdotool").arg("version").output() {
            eprintln!("no xdotool here ({e}): nothing was tested");
            return None;
        }
        let folder = Temp::new(b"").0.with_extension("screen");
        std::fs::create_dir(&folder).unwrap();
        let server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1600x1200x24"])
            .args(["-nolisten", "tcp", "-nocursor", "-noreset", "-fbdir"])
            .arg(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut server = match server {
            Ok(server) => server,
            Err(e) => {
                let _ = std::fs::remove_dir_all(&folder);
                eprintln!("no Xvfb here ({e}): nothing was tested");
                return None;
            }
        };
        let mut number = String::new();
        let mut out = BufReader::new(server.stdout.take().unwrap());
        out.read_line(&mut number).unwrap();
        let number = number.trim().parse().expect("Xvfb does not start");
        Some(Self {
            server,
            number,
            folder,
        })
    }

    fn name(&self) -> String {
        format!(":{}", self.number)
    }

    /// The program with its window here.
    fn emu(&self, args: &[&str]) -> Command {
        let mut command = emu(&[args, &["--display", "window"]].concat());
        command
            .env("DISPLAY", self.name())
            .env("WINIT_X11_SCALE_FACTOR", "1")
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("WAYLAND_SOCKET");
        command
    }

    fn try_xdotool(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("xdotool");
        let out = command.env("DISPLAY", self.name()).args(args).output();
        let out = out.unwrap();
        out.status.success().then(|| stdout(&out).trim().into())
    }

    fn xdotool(&self, args: &[&str]) -> String {
        let out = self.try_xdotool(args);
        out.unwrap_or_else(|| panic!("xdotool {args:?}"))
    }

    /// The window of the program.
    fn find(&self) -> String {
        let began = Instant::now();
        loop {
            if let Some(id) = self.try_xdotool(&["search", "--onlyvisible", "--name", "^emu - "]) {
                return id;
            }
            assert!(began.elapsed() < LONG, "no window");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Left, top, width, height.
    fn place(&self, window: &str) -> [usize; 4] {
        let text = self.xdotool(&["getwindowgeometry", "--shell", window]);
        ["X=", "Y=", "WIDTH=", "HEIGHT="].map(|name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|v| v.parse().ok()).expect(&text)
        })
    }

    /// What a window shows. The file is in xwd's format (X11/XWDFile.h), with the header's numbers highest byte first.
    fn picture(&self, window: &str) -> Picture {
        let [left, top, width, height] = self.place(window);
        let file = std::fs::read(self.folder.join("Xvfb_screen0")).unwrap();
        let head = |n: usize| {
            let bytes = file[4 * n..][..4].try_into().unwrap();
            u32::from_be_bytes(bytes) as usize
        };
        assert_eq!((head(4), head(5), head(11)), (1600, 1200, 32));
        let (start, stride) = (head(0) + 12 * head(19), head(12));
        let mut rgb = Vec::new();
        for y in top..top + height {
            let row = &file[start + y * stride + 4 * left..][..4 * width];
            rgb.extend(row.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0]]));
        }
        (width, height, rgb)
    }

    /// A connection without a library, for what xdotool does not do (X Window System Protocol, 8 and appendix B).
    fn connect(&self) -> X {
        let mut stream = UnixStream::connect(format!("/tmp/.X11-unix/X{}", self.number)).unwrap();
        stream
            .write_all(&[b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap();
        let mut head = [0; 8];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 1, "the X server refuses");
        let mut rest = vec![0; 4 * usize::from(u16::from_le_bytes([head[6], head[7]]))];
        stream.read_exact(&mut rest).unwrap();
        X(stream)
    }
}

impl Drop for XServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct X(UnixStream);

impl X {
    fn request(&mut self, code: u8, data: u8, body: &[u8]) {
        let length = (body.len() / 4 + 1) as u16;
        let [low, high] = length.to_le_bytes();
        self.0
            .write_all(&[&[code, data, low, high], body].concat())
            .unwrap();
    }

    fn atom(&mut self, name: &str) -> [u8; 4] {
        let mut body = vec![name.len() as u8, 0, 0, 0];
        body.extend(name.bytes());
        body.resize(body.len().next_multiple_of(4), 0);
        self.request(16, 0, &body);
        loop {
            let mut message = [0; 32];
            self.0.read_exact(&mut message).unwrap();
            match message[0] {
                0 => panic!("the X server says error {}", message[1]),
                1 => return message[8..12].try_into().unwrap(),
                // An event that every client gets.
                _ => {}
            }
        }
    }

    /// What a window manager sends when its user closes a window (ICCCM, 4.2.8.1).
    fn close_window(&mut self, window: &str) {
        let (protocols, delete) = (self.atom("WM_PROTOCOLS"), self.atom("WM_DELETE_WINDOW"));
        let window = window.parse::<u32>().unwrap().to_le_bytes();
        let event = [&[33, 32, 0, 0], &window[..], &protocols, &delete, &[0; 16]].concat();
        self.request(25, 0, &[&window[..], &[0; 4], &event].concat());
        // The server has done it when it answers.
        self.atom("done");
    }

    /// No window has the keyboard.
    fn unfocus(&mut self) {
        self.request(42, 0, &[0; 8]);
        self.atom("done");
    }
}

/// Fills the first line with all characters in all colours. Each byte of the keyboard goes to COM1 behind a K, each of the mouse behind
/// an M. The key A makes a white block, Enter 640x480 with an orange top.
fn guest() -> Temp {
    sector(|a| {
        let (mut wait, mut mouse, mut not_a) =
            (a.create_label(), a.create_label(), a.create_label());
        all_characters(a)?;
        poll_keyboard(a)?;
        // The mouse reports.
        for (port, value) in [(0x64, 0xa8), (0x64, 0xd4), (0x60, 0xf4)] {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        a.mov(dx, 0x3f8)?;
        a.set_label(&mut wait)?;
        a.in_(al, 0x64)?;
        a.test(al, 1)?;
        a.jz(wait)?;
        a.test(al, 0x20)?;
        a.in_(al, 0x60)?;
        a.mov(bl, al)?;
        a.jnz(mouse)?;
        a.mov(al, i32::from(b'K'))?;
        a.out(dx, al)?;
        a.mov(al, bl)?;
        a.out(dx, al)?;
        a.cmp(al, 0x1e)?;
        a.jne(not_a)?;
        a.mov(ax, 0x0fdb)?;
        a.stosw()?;
        a.set_label(&mut not_a)?;
        a.cmp(bl, 0x1c)?;
        a.jne(wait)?;
        vbe_picture(a, ORANGE)?;
        a.mov(dx, 0x3f8)?;
        a.jmp(wait)?;
        a.set_label(&mut mouse)?;
        a.mov(al, i32::from(b'M'))?;
        a.out(dx, al)?;
        a.mov(al, bl)?;
        a.out(dx, al)?;
        a.jmp(wait)
    })
}

/// The program with its window on an X server, and what the guest has sent to COM1.
struct Windowed {
    machine: Machine,
    serial: Temp,
    _image: Temp,
}

impl Windowed {
    fn start(x: &XServer) -> Self {
        let (image, serial, socket) = (guest(), Temp::new(b""), SocketPath::new());
        let (to, qmp) = (format!("file:{}", serial.path()), socket.option());
        let args = ["--kernel", image.path(), "--serial", &to, "--qmp", &qmp];
        let child = x
            .emu(&[&args[..], &["--timeout", "200"]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let child = Some(child);
        Self {
            machine: Machine { child, socket },
            serial,
            _image: image,
        }
    }

    /// The bytes of the keyboard or the mouse so far.
    fn sent(&self, whose: u8) -> Vec<u8> {
        let all = std::fs::read(&self.serial.0).unwrap();
        let pairs = all.chunks_exact(2).filter(|p| p[0] == whose);
        pairs.map(|p| p[1]).collect()
    }

    /// Waits until the guest has had these bytes of the keyboard, since `from`.
    fn keys(&self, from: usize, bytes: &[u8]) {
        let began = Instant::now();
        while self.sent(b'K')[from..] != *bytes {
            assert!(
                began.elapsed() < LONG,
                "{:02x?} and not {bytes:02x?}",
                &self.sent(b'K')[from..]
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the mouse has sent what is wanted: how far it has moved, and the buttons that were down.
    fn moves(&self, what: &str, wanted: impl Fn(i32, i32, u8) -> bool) {
        let began = Instant::now();
        loop {
            let bytes = self.sent(b'M');
            let (mut x, mut y, mut buttons) = (0, 0, 0);
            // The first byte acknowledges that it may report.
            for packet in bytes.get(1..).unwrap_or_default().chunks_exact(3) {
                let sign = |bit: u8| i32::from(packet[0] >> bit & 1) << 8;
                x += i32::from(packet[1]) - sign(4);
                y += i32::from(packet[2]) - sign(5);
                buttons |= packet[0] & 7;
            }
            if wanted(x, y, buttons) {
                return;
            }
            assert!(
                began.elapsed() < LONG,
                "{what}: moved by {x}, {y}, buttons {buttons}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Waits until the window shows what `screendump` writes, `times` as large, and that is what is wanted.
fn agree(
    x: &XServer,
    window: &str,
    c: &mut Client,
    times: usize,
    what: &str,
    wanted: impl Fn(&Picture) -> bool,
) {
    let began = Instant::now();
    loop {
        let (shown, dump) = (x.picture(window), guests::picture(c));
        if wanted(&dump) && shown == enlarged(&dump, times) {
            return;
        }
        assert!(
            began.elapsed() < LONG,
            "{what}: the window ({}x{}) is not what screendump writes ({}x{})",
            shown.0,
            shown.1,
            dump.0,
            dump.1
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn enlarged((width, height, rgb): &Picture, times: usize) -> Picture {
    let mut out = Vec::new();
    for row in rgb.chunks_exact(3 * width) {
        let wide: Vec<u8> = row.chunks_exact(3).flat_map(|p| p.repeat(times)).collect();
        out.extend(wide.repeat(times));
    }
    (width * times, height * times, out)
}

/// How many pixels have a colour.
fn count(picture: &Picture, colour: u32) -> usize {
    let [_, r, g, b] = colour.to_be_bytes();
    let pixels = picture.2.chunks_exact(3);
    pixels.filter(|p| **p == [r, g, b]).count()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_window_shows_the_screen_and_takes_keys_and_mouse() {
    let Some(x) = XServer::start() else { return };
    let mut raw = x.connect();
    let guest = Windowed::start(&x);
    let mut c = guest.machine.client();
    let window = x.find();
    let name = || x.xdotool(&["getwindowname", &window]);
    assert!(name().starts_with("emu - emu-test-"), "{}", name());
    agree(&x, &window, &mut c, 1, "at first", |p| {
        (p.0, p.1) == (720, 400) && count(p, 0xffffff) > 20
    });

    // Keys: a plain one, which also changes the picture; and by X's numbers keypad Enter, right Ctrl, the left logo key, up, Pause, Print and
    // F12.
    x.xdotool(&["windowfocus", "--sync", &window]);
    x.xdotool(&["key", "a"]);
    guest.keys(0, &[0x1e, 0x9e]);
    agree(&x, &window, &mut c, 1, "after a key", |p| {
        count(p, 0xffffff) > 9 * 16 + 20
    });
    for (key, bytes) in [
        ("104", &[0xe0, 0x1c, 0xe0, 0x9c][..]),
        ("105", &[0xe0, 0x1d, 0xe0, 0x9d]),
        ("133", &[0xe0, 0x5b, 0xe0, 0xdb]),
        ("111", &[0xe0, 0x48, 0xe0, 0xc8]),
        ("127", &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
        ("107", &[0xe0, 0x37, 0xe0, 0xb7]),
        ("96", &[0x58, 0xd8]),
    ] {
        let from = guest.sent(b'K').len();
        x.xdotool(&["key", key]);
        guest.keys(from, bytes);
    }

    // What is held when the keyboard goes elsewhere is released, once.
    let from = guest.sent(b'K').len();
    x.xdotool(&["keydown", "Shift_L"]);
    guest.keys(from, &[0x2a]);
    raw.unfocus();
    guest.keys(from, &[0x2a, 0xaa]);
    x.xdotool(&["windowfocus", "--sync", &window]);
    x.xdotool(&["keyup", "Shift_L", "key", "b"]);
    guest.keys(from, &[0x2a, 0xaa, 0x30, 0xb0]);

    // A click takes the pointer, and is not the guest's; the window's edges are none for the guest.
    x.xdotool(&["mousemove", "--window", &window, "200", "100", "click", "1"]);
    wait_until("the pointer is not grabbed", || name().ends_with(RELEASE));
    x.xdotool(&["mousemove_relative", "--", "7", "-5"]);
    guest.moves("a step", |x, y, buttons| (x, y, buttons) == (7, 5, 0));
    for _ in 0..20 {
        x.xdotool(&["mousemove_relative", "100", "50"]);
    }
    guest.moves("far", |x, y, _| (x, y) == (2007, 5 - 1000));
    x.xdotool(&["click", "3"]);
    guest.moves("a click", |_, _, buttons| buttons == 2);
    // The hot key is not the guest's, only Ctrl and Alt are.
    let from = guest.sent(b'K').len();
    x.xdotool(&["key", "ctrl+alt+g"]);
    guest.keys(from, &[0x1d, 0x38, 0x9d, 0xb8]);
    wait_until("the pointer is still grabbed", || !name().contains(RELEASE));
    let moves = guest.sent(b'M').len();
    x.xdotool(&["mousemove", "--window", &window, "50", "60", "click", "3"]);

    // Another mode: the window follows, until its user gives it another size.
    x.xdotool(&["key", "Return"]);
    let orange = |p: &Picture| (p.0, p.1) == (640, 480) && count(p, ORANGE) == 640 * 4;
    agree(&x, &window, &mut c, 1, "another mode", orange);
    assert_eq!(
        guest.sent(b'M').len(),
        moves,
        "a free pointer is the host's"
    );
    x.xdotool(&["windowsize", "--sync", &window, "1280", "960"]);
    agree(&x, &window, &mut c, 2, "enlarged", orange);
    x.xdotool(&["key", "ctrl+alt+0"]);
    agree(&x, &window, &mut c, 1, "its own size", orange);

    raw.close_window(&window);
    assert_eq!(
        c.event("SHUTDOWN"),
        json!({"guest": false, "reason": "host-ui"})
    );
    let out = guest.machine.end();
    assert_eq!((status(&out), stderr(&out)), (0, String::new()));
}

#[test]
fn a_tablet_knows_where_the_pointer_is() {
    let Some(x) = XServer::start() else { return };
    let initrd = linux::initrd(linux::TELL_EVENTS);
    let options = linux::options(&initrd, "quiet");
    let mut args: Vec<&str> = options.iter().map(String::as_str).collect();
    args.extend(["--device", "virtio-tablet-pci", "--serial", "stdio"]);
    let mut console = Console::spawn(x.emu(&args));
    console.wait("@listening");
    let window = x.find();
    let mut last = [0; 2];
    let mut agree = |times: u32| {
        for (column, row) in [(500, 30), (33, 350), (719, 399)] {
            let place = [column, row].map(|at| (at * times).to_string());
            x.xdotool(&["mousemove", "--window", &window, &place[0], &place[1]]);
            x.xdotool(&["click", "1"]);
            let said = console.wait(&format!(" {} 1", linux::BTN_LEFT));
            console.wait(&format!(" {} 0", linux::BTN_LEFT));
            let pixel = linux::pixel(&said, &mut last, [720, 400]);
            assert_eq!(pixel, [column, row], "{times} times: {said}");
        }
    };
    agree(1);
    // The same pixels, larger.
    x.xdotool(&["windowsize", "--sync", &window, "1440", "800"]);
    agree(2);
    let name = x.xdotool(&["getwindowname", &window]);
    assert_eq!(name, "emu - drivers-amd64-vmlinuz", "it needs no grab");
    x.connect().close_window(&window);
    assert_eq!(console.end().code(), Some(0));
}

#[test]
fn without_a_display_server_there_is_one_line() {
    let image = guest();
    for (variable, place) in [("XDG_RUNTIME_DIR", "/"), ("DISPLAY", ":65000")] {
        let out = emu(&["--kernel", image.path(), "--display", "window"])
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("WAYLAND_SOCKET")
            .env(variable, place)
            .output()
            .unwrap();
        let line = stderr(&out);
        assert_eq!((status(&out), line.lines().count()), (2, 1), "{line}");
        for word in ["--display window", "DISPLAY", "WAYLAND_DISPLAY", "vnc"] {
            assert!(line.contains(word), "{line}");
        }
    }
}

#[test]
fn machine_files_have_it() {
    let out = run(&["demo", "--display", "window", "--write-config", "-"]);
    assert!(stdout(&out).contains("display = [\"window\"]"), "{out:?}");
}
