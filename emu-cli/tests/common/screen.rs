//! A program on a terminal of its own, and what a person sees there.
#![allow(dead_code)] // each test program uses its own part

use super::common::{status, stderr};
use super::pty::Terminal;
use emu_devices::display::font;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Screen {
    terminal: Terminal,
    parser: Arc<Mutex<vt100::Parser>>,
    pub child: Child,
}

impl Screen {
    /// Starts the program.
    pub fn start(columns: u16, rows: u16, args: &[&str]) -> Self {
        let terminal = Terminal::new();
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal.slave, size).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_emu"));
        command.args(args);
        if !args.contains(&"--timeout") {
            command.args(["--timeout", "120"]);
        }
        // No lines of other sessions.
        command.env("XDG_STATE_HOME", "/dev/null");
        let child = terminal.start_as(command);
        let parser = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let (mut from, to) = (terminal.master.try_clone().unwrap(), parser.clone());
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n) = from.read(&mut buf)
                && n > 0
            {
                to.lock().unwrap().process(&buf[..n]);
            }
        });
        Self {
            terminal,
            parser,
            child,
        }
    }

    pub fn key(&mut self, keys: &str) {
        self.terminal.master.write_all(keys.as_bytes()).unwrap();
    }

    pub fn text(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    #[track_caller]
    pub fn until(&self, what: &str, f: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !f(&self.text()) {
            let text = self.text();
            assert!(began.elapsed() < Duration::from_secs(60), "{what}:\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    pub fn wait(&self, text: &str) {
        self.until(&format!("no \"{text}\""), |t| t.contains(text));
    }

    #[track_caller]
    pub fn wait_not(&self, text: &str) {
        self.until(&format!("still \"{text}\""), |t| !t.contains(text));
    }

    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.parser
            .lock()
            .unwrap()
            .screen_mut()
            .set_size(rows, columns);
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.terminal.slave, size).unwrap();
        // The terminal is not the program's controlling one, so nobody else tells it.
        kill_process(Pid::from_child(&self.child), Signal::WINCH).unwrap();
    }

    /// Waits for the program's end: its status and its messages. The terminal is as before.
    #[track_caller]
    pub fn end(self) -> (i32, String) {
        let out = self.child.wait_with_output().unwrap();
        // What was written last has to arrive.
        let began = Instant::now();
        let other = || self.parser.lock().unwrap().screen().alternate_screen();
        while other() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let screen = self.parser.lock().unwrap().screen().clone();
        assert!(!screen.alternate_screen() && !screen.hide_cursor());
        assert_eq!(screen.contents(), "", "on the screen that was there before");
        let modes = tcgetattr(&self.terminal.slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        (status(&out), stderr(&out))
    }

    /// Writes the screen to a PNG file, if pictures are wanted.
    pub fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("EMU_PICTURES") else {
            return;
        };
        // What is on its way.
        std::thread::sleep(Duration::from_millis(400));
        let screen = self.parser.lock().unwrap().screen().clone();
        for (theme, ink, paper) in [("dark", 0xd0d0d0, 0x101418), ("light", 0x202020, 0xfafafa)] {
            let path = std::path::Path::new(&folder).join(format!("{name}-{theme}.png"));
            let (width, height, pixels) = pixels(&screen, ink, paper);
            let file = std::fs::File::create(path).unwrap();
            let mut encoder = png::Encoder::new(file, width, height);
            encoder.set_color(png::ColorType::Rgb);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&pixels).unwrap();
        }
    }
}

/// xterm's first sixteen colours.
const COLOURS: [u32; 16] = [
    0x000000, 0xcd3131, 0x0dbc79, 0xb5a000, 0x2472c8, 0xbc3fbc, 0x11a8cd, 0xc0c0c0, 0x666666,
    0xf14c4c, 0x23d18b, 0xf5f543, 0x3b8eea, 0xd670d6, 0x29b8db, 0xffffff,
];

fn colour(c: vt100::Color, default: u32) -> u32 {
    match c {
        vt100::Color::Default => default,
        vt100::Color::Idx(n) => COLOURS.get(usize::from(n)).copied().unwrap_or(default),
        vt100::Color::Rgb(r, g, b) => u32::from_be_bytes([0, r, g, b]),
    }
}

/// The screen with the VGA's glyphs of 8 by 16 pixels.
fn pixels(screen: &vt100::Screen, ink: u32, paper: u32) -> (u32, u32, Vec<u8>) {
    let (rows, columns) = screen.size();
    let (width, height) = (usize::from(columns) * 8, usize::from(rows) * 16);
    let mut out = vec![0; width * height * 3];
    for row in 0..rows {
        for column in 0..columns {
            let Some(cell) = screen.cell(row, column) else {
                continue;
            };
            let mut ink = colour(cell.fgcolor(), ink);
            let mut paper = colour(cell.bgcolor(), paper);
            if cell.dim() {
                let mix = |shift: u32| {
                    let of = |c: u32| c >> shift & 0xff;
                    ((of(ink) * 3 + of(paper) * 2) / 5) << shift
                };
                ink = mix(0) | mix(8) | mix(16);
            }
            if cell.inverse() {
                std::mem::swap(&mut ink, &mut paper);
            }
            let c = cell.contents().chars().next().unwrap_or(' ');
            let code = (0..=255).find(|&n| font::unicode(n) == c).unwrap_or(b'?');
            let glyph = if c == ' ' {
                [0; 16]
            } else {
                font::glyphs()[usize::from(code)]
            };
            for (y, mut bits) in glyph.into_iter().enumerate() {
                if cell.bold() {
                    bits |= bits >> 1;
                }
                if cell.underline() && y == 14 {
                    bits = 0xff;
                }
                for x in 0..8 {
                    let on = bits & 0x80 >> x != 0;
                    let at = (usize::from(row) * 16 + y) * width + usize::from(column) * 8 + x;
                    let [_, r, g, b] = if on { ink } else { paper }.to_be_bytes();
                    out[at * 3..at * 3 + 3].copy_from_slice(&[r, g, b]);
                }
            }
        }
    }
    (width as u32, height as u32, out)
}
