//! A machine with a GDB server, the real debuggers on it, and a client of our own that sends what a test wants.
#![allow(dead_code)] // each test program uses its own part

use super::common::emu;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Whether a debugger is there; says so if not.
pub fn installed(program: &str) -> bool {
    let there = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

/// `emu run … --gdb unix:…`.
pub struct Machine {
    child: Child,
    socket: PathBuf,
    /// What it says on standard error.
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

impl Machine {
    pub fn start(args: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("emu-gdb-{}-{n}", std::process::id()));
        let mut args = args.to_vec();
        if !args.contains(&"--timeout") {
            args.extend(["--timeout", "120"]);
        }
        let mut child = emu(&args)
            .args(["--serial", "null", "--display", "none", "--gdb"])
            .arg(format!("unix:{}", socket.display()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < until, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let err = child.stderr.take().unwrap();
        let said = Arc::<Mutex<String>>::default();
        let to = said.clone();
        let listener = std::thread::spawn(move || {
            for line in BufReader::new(err).lines() {
                *to.lock().unwrap() += &(line.unwrap() + "\n");
            }
        });
        Self {
            child,
            socket,
            said,
            listener: Some(listener),
        }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket)
            .unwrap_or_else(|e| panic!("{e}; emu has said: {}", self.said.lock().unwrap()));
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// A client that does not acknowledge.
    pub fn raw(&self) -> Raw {
        self.try_raw().unwrap_or_else(|| {
            panic!(
                "no client is let in; emu has said: {}",
                self.said.lock().unwrap()
            )
        })
    }

    /// The same; `None`: the machine has ended.
    pub fn try_raw(&self) -> Option<Raw> {
        // The one before may just be leaving.
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            let stream = UnixStream::connect(&self.socket).ok()?;
            let wait = Some(Duration::from_secs(20));
            stream.set_read_timeout(wait).unwrap();
            let mut c = Raw::new(stream);
            let asked = c.stream.write_all(&frame(b"QStartNoAckMode"));
            // The server may also go in the middle of its answer.
            let mut answered = b"+$OK#9a".iter().map(|b| c.try_byte() == Some(*b));
            if asked.is_ok() && answered.all(|is| is) {
                return Some(c);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!(
            "no client is let in; emu has said: {}",
            self.said.lock().unwrap()
        );
    }

    /// The exit status of a machine that has ended, and what it has said.
    pub fn status(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        if let Some(listener) = self.listener.take() {
            listener.join().unwrap();
        }
        (status.code(), self.said.lock().unwrap().clone())
    }

    pub fn gdb_command(&self, commands: &[&str]) -> Command {
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch", "-ex", "set pagination off", "-ex"]);
        gdb.args(["set confirm off", "-ex"]);
        gdb.arg(format!("target remote {}", self.socket.display()));
        for c in commands {
            gdb.args(["-ex", c]);
        }
        gdb.stdin(Stdio::null());
        gdb
    }

    /// What GDB says to these commands.
    pub fn gdb(&self, commands: &[&str]) -> String {
        // Several lines are a script of their own.
        let script = super::common::Temp::new((commands.join("\n") + "\n").as_bytes());
        let mut gdb = self.gdb_command(&[]);
        gdb.args(["-x", script.path()]);
        said(&mut gdb)
    }

    pub fn lldb(&self, commands: &[&str]) -> String {
        let mut lldb = Command::new("lldb");
        lldb.args(["--no-lldbinit", "--batch", "-o"]);
        lldb.arg(format!(
            "process connect --plugin gdb-remote unix-connect://{}",
            self.socket.display()
        ));
        for c in commands {
            lldb.args(["-o", c]);
        }
        lldb.stdin(Stdio::null());
        said(&mut lldb)
    }

    /// Ends the machine; what it has said on standard error.
    pub fn end(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.listener.take().unwrap().join().unwrap();
        self.child.wait().unwrap();
        let text = self.said.lock().unwrap().clone();
        assert!(!self.socket.exists(), "the socket's file goes");
        assert!(!text.contains("panicked"), "{text}");
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text += &String::from_utf8_lossy(&out.stderr);
    text
}

/// A payload as a frame.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let sum = payload.iter().fold(0u8, |s, b| s.wrapping_add(*b));
    [b"$", payload, format!("#{sum:02x}").as_bytes()].concat()
}

/// The number behind little-endian hexadecimal digits, eight bytes of it at most.
pub fn little(hex: &str) -> u64 {
    assert!(hex.len() >= 2 && !hex.starts_with('E'), "{hex}");
    (0..hex.len().min(16) / 2).fold(0, |v, n| {
        v | u64::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap() << (8 * n)
    })
}

pub fn hex_of(value: u64, bytes: usize) -> String {
    value.to_le_bytes()[..bytes]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The number of a register in a target description.
pub fn regnum(xml: &str, name: &str) -> usize {
    let at = xml.find(&format!("<reg name=\"{name}\"")).expect(name);
    let rest = &xml[at..];
    let at = rest.find("regnum=\"").unwrap() + 8;
    rest[at..].split('"').next().unwrap().parse().unwrap()
}

/// Three hexadecimal numbers behind a word.
pub fn numbers(line: &str) -> [u64; 3] {
    let list: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(|n| u64::from_str_radix(n, 16).unwrap())
        .collect();
    list.try_into().unwrap()
}

/// A client of our own.
pub struct Raw {
    pub stream: UnixStream,
    buffer: VecDeque<u8>,
}

impl Raw {
    pub fn new(stream: UnixStream) -> Self {
        let buffer = VecDeque::new();
        Self { stream, buffer }
    }

    fn try_byte(&mut self) -> Option<u8> {
        if self.buffer.is_empty() {
            let mut buf = vec![0; 64 << 10];
            let n = self.stream.read(&mut buf).ok()?;
            self.buffer.extend(&buf[..n]);
        }
        self.buffer.pop_front()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }
    pub fn send(&mut self, payload: &str) {
        self.send_bytes(payload.as_bytes());
    }
    pub fn send_bytes(&mut self, payload: &[u8]) {
        self.write(&frame(payload));
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut byte = || self.try_byte().expect("an answer in time");
        (0..n).map(|_| byte()).collect()
    }

    /// The payload of the next frame, as it came.
    pub fn answer_bytes(&mut self) -> Vec<u8> {
        let first = self.bytes(1);
        assert_eq!(first, b"$", "{:?}", first.escape_ascii().to_string());
        let mut payload = Vec::new();
        loop {
            let b = self.bytes(1)[0];
            if b == b'#' {
                break;
            }
            payload.push(b);
        }
        let sum = self.bytes(2);
        assert!(frame(&payload).ends_with(&sum), "{payload:?}");
        payload
    }

    /// The same without runs (`X*"` is four of X).
    pub fn answer(&mut self) -> String {
        let mut out: Vec<u8> = Vec::new();
        let payload = self.answer_bytes();
        let mut bytes = payload.into_iter();
        while let Some(b) = bytes.next() {
            match (b, out.last().copied()) {
                (b'*', Some(last)) => {
                    let n = bytes.next().unwrap() - 29;
                    out.extend(std::iter::repeat_n(last, n.into()));
                }
                _ => out.push(b),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    pub fn ask(&mut self, payload: &str) -> String {
        self.send(payload);
        self.answer()
    }

    /// A whole document.
    pub fn xfer(&mut self, what: &str) -> String {
        let mut text = String::new();
        loop {
            let part = self.ask(&format!("{what}:{:x},1000", text.len()));
            match part.as_bytes()[0] {
                b'm' => text += &part[1..],
                b'l' => return text + &part[1..],
                _ => panic!("{what}: {part}"),
            }
        }
    }

    pub fn send_monitor(&mut self, line: &str) {
        let hex: String = line.bytes().map(|b| format!("{b:02x}")).collect();
        self.send(&format!("qRcmd,{hex}"));
    }

    /// Console text, and the first answer that is none.
    pub fn console_and_answer(&mut self) -> (String, String) {
        let mut text = Vec::new();
        loop {
            let part = self.answer();
            match part.strip_prefix('O') {
                Some(hex) if part != "OK" => {
                    let digits = (0..hex.len() / 2).map(|n| &hex[2 * n..2 * n + 2]);
                    text.extend(digits.map(|d| u8::from_str_radix(d, 16).unwrap()));
                }
                _ => return (String::from_utf8_lossy(&text).into_owned(), part),
            }
        }
    }

    /// Lets the guest run; what the console says meanwhile, and the stop.
    pub fn run(&mut self) -> (String, String) {
        self.send("vCont;c");
        self.console_and_answer()
    }

    pub fn monitor_answer(&mut self) -> String {
        let (text, answer) = self.console_and_answer();
        assert_eq!(answer, "OK", "{text}");
        text
    }

    pub fn monitor(&mut self, line: &str) -> String {
        self.send_monitor(line);
        self.monitor_answer()
    }

    /// Takes what is there.
    pub fn drain(&mut self) {
        let mut buf = [0; 64 << 10];
        while matches!(self.stream.read(&mut buf), Ok(n) if n > 0) {}
    }
}

/// xorshift64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A good packet, a damaged one, or noise.
    pub fn packet(&mut self) -> Vec<u8> {
        const SEEDS: [&str; 44] = [
            "?",
            "g",
            "G0011223344556677",
            "m7c00,40",
            "M600,4:01020304",
            "X600,4:abcd",
            "p10",
            "P1=1122334455667788",
            "Z0,7c09,1",
            "z0,7c09,1",
            "Z1,7c05,1",
            "Z2,500,2",
            "Z3,500,2",
            "Z4,500,2",
            "z2,500,2",
            "vCont?",
            "vCont;c",
            "vCont;s:1;c",
            "vCont;r7c05,7c09:1;c",
            "s",
            "c",
            "Hg1",
            "Hc-1",
            "T1",
            "qC",
            "qfThreadInfo",
            "qsThreadInfo",
            "qThreadExtraInfo,p1.1",
            "qSupported:multiprocess+;swbreak+",
            "qXfer:features:read:target.xml:0,ffb",
            "qXfer:memory-map:read::0,fff",
            "qXfer:exec-file:read:1:0,fff",
            "qAttached:1",
            "qHostInfo",
            "qProcessInfo",
            "qRegisterInfo0",
            "x7c00,40",
            "x0,0",
            "Qqemu.PhyMemMode:1",
            "QStartNoAckMode",
            "qRcmd,696e666f20726567697374657273",
            "vMustReplyEmpty",
            "qTStatus",
            "jThreadsInfo",
        ];
        let mut payload = SEEDS[self.below(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..self.below(4) {
            let byte = self.next() as u8;
            let at = self.below(payload.len() + 1);
            match self.below(5) {
                0 if at < payload.len() => payload[at] = byte,
                1 => payload.insert(at, byte),
                2 if at < payload.len() => drop(payload.remove(at)),
                3 => payload.truncate(at),
                _ => payload.extend(std::iter::repeat_n(
                    b"0f,:;+-#$}*"[self.below(11)],
                    self.below(300),
                )),
            }
        }
        // A packet that takes its leave, or the guest's life, is no test of what comes behind it.
        if payload.starts_with(b"k") || payload.starts_with(b"vKill") {
            payload[0] = b'm';
        }
        match self.below(10) {
            0 => payload,
            1 => vec![3],
            2 => [b"$", &payload[..], b"#zz"].concat(),
            3 => [b"-".to_vec(), frame(&payload)].concat(),
            _ => frame(&payload),
        }
    }
}
