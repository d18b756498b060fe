//! Guests from Debian packages, and a person in front of one: what is on the screen, what the serial port says, and typing.
//!
//! The guests come from `images/fetch.sh out` in the workspace's root (or the folder that `EMU_GUESTS` names).
#![allow(dead_code)] // each test program uses its own part

use super::common::{Temp, emu};
use super::qmp::{Client, Machine};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a guest may take to show something, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A guest's file.
pub fn guest(name: &str) -> String {
    let folder = std::env::var_os("EMU_GUESTS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../out")),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `sh images/fetch.sh out` in the workspace's root; for the long tests also \
         `images/guests/mk-guests.sh out generic installer bootdisk`",
        path.display()
    );
    path.display().to_string()
}

/// The options of a kernel that boots to `@done` on its serial port, and then asks for a reset.
pub fn linux_boot() -> Vec<String> {
    let (kernel, initrd) = (guest("vmlinuz-amd64"), guest("initramfs-amd64-micro.cpio"));
    let append = "console=ttyS0 quiet panic=-1 gb=boot";
    [
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        append,
        "--no-reboot",
    ]
    .map(String::from)
    .into()
}

/// The option's value for a firmware's short name.
pub fn firmware(name: &str) -> String {
    match name {
        "seabios" => guest("seabios/bios-256k.bin"),
        other => other.into(),
    }
}

/// The screen's lines; none while it shows graphics.
pub fn screen(c: &mut Client) -> Vec<String> {
    match c.ask("x-query-screen-text", json!({})) {
        Ok(text) => text["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_string())
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// Waits until a line of the screen has this text.
pub fn wait_for(c: &mut Client, text: &str) -> Vec<String> {
    let began = Instant::now();
    loop {
        let lines = screen(c);
        if lines.iter().any(|line| line.contains(text)) {
            return lines;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "no \"{text}\" on the screen:\n{}",
            lines.join("\n")
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Width, height, and a byte each of red, green and blue.
pub type Picture = (usize, usize, Vec<u8>);

/// The picture in a PNG file.
pub fn read_png(path: &Path) -> Picture {
    let file = BufReader::new(File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let samples = info.color_type.samples();
    assert!(samples >= 3, "{:?}", info.color_type);
    let rgb = bytes.chunks_exact(samples).flat_map(|p| p[..3].to_vec());
    (info.width as usize, info.height as usize, rgb.collect())
}

/// The picture that `screendump` writes.
pub fn picture(c: &mut Client) -> Picture {
    let file = Temp::new(b"");
    c.run(
        "screendump",
        json!({ "filename": file.path(), "format": "png" }),
    );
    read_png(&file.0)
}

/// Types keys by their names, one after the other.
pub fn type_keys(c: &mut Client, keys: &[&str]) {
    for key in keys {
        let keys: Vec<_> = key
            .split('-')
            .map(|key| json!({ "type": "qcode", "data": key }))
            .collect();
        c.run("send-key", json!({ "keys": keys, "hold-time": 20 }));
        std::thread::sleep(Duration::from_millis(60));
    }
}

/// Types a line on a US keyboard.
pub fn type_line(c: &mut Client, line: &str) {
    let keys: Vec<String> = line
        .chars()
        .map(|letter| match letter {
            ' ' => "spc".into(),
            '/' => "slash".into(),
            '.' => "dot".into(),
            '-' => "minus".into(),
            '=' => "equal".into(),
            '>' => "shift-dot".into(),
            '&' => "shift-7".into(),
            upper if upper.is_ascii_uppercase() => format!("shift-{}", upper.to_ascii_lowercase()),
            letter => letter.to_string(),
        })
        .chain(["ret".into()])
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    type_keys(c, &keys);
}

/// Ends a machine by its monitor.
pub fn quit(machine: Machine, mut c: Client) {
    c.run("quit", json!({}));
    assert_eq!(machine.end().status.code(), Some(0));
}

/// The program with the guest's serial port on its input and output.
pub struct Console {
    child: Child,
    said: Receiver<Vec<u8>>,
    /// What was said and no wait has taken.
    text: String,
}

impl Console {
    pub fn start(args: &[&str]) -> Self {
        Self::spawn(emu(&[args, &["--serial", "stdio"]].concat()))
    }

    /// The same of a command that says so.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let (tell, said) = channel();
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut part) {
                if tell.send(part[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            said,
            text: String::new(),
        }
    }

    /// Waits for a text, and gives what was said before it since the last wait.
    pub fn wait(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text.find(text) {
                let rest = self.text.split_off(at + text.len());
                return std::mem::replace(&mut self.text, rest);
            }
            match self.said.recv_timeout(end - Instant::now().min(end)) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(why) => panic!(
                    "no \"{text}\" on the serial port ({}): {}",
                    match why {
                        RecvTimeoutError::Timeout => "it took too long",
                        RecvTimeoutError::Disconnected => "the program ended",
                    },
                    self.text
                ),
            }
        }
    }

    /// Types a line.
    pub fn send(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{line}\r").as_bytes()).unwrap();
    }

    /// Ends the program as nothing but SIGKILL does, and gives what was said and no wait has taken.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while let Ok(bytes) = self.said.recv_timeout(PATIENCE) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        std::mem::take(&mut self.text)
    }

    /// Waits for the program's end.
    pub fn end(mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.text);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
