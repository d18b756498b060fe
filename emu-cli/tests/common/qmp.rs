//! A small QMP client, and the program with a monitor.
#![allow(dead_code)] // each test program uses its own part

use super::common::{Temp, emu};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// A path for a socket, removed with what may be there.
pub struct SocketPath(pub PathBuf);

impl SocketPath {
    pub fn new() -> Self {
        let file = Temp::new(b"");
        Self(file.0.with_extension("sock"))
    }
    pub fn option(&self) -> String {
        format!("unix:{}", self.0.display())
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A connection.
pub struct Client {
    lines: BufReader<UnixStream>,
    /// Events that came, oldest first.
    pub events: Vec<Value>,
}

impl Client {
    /// Connects as soon as the program listens.
    pub fn connect(path: &Path) -> Self {
        let began = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) => assert!(began.elapsed() < Duration::from_secs(20), "{path:?}: {e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            lines: BufReader::new(stream),
            events: Vec::new(),
        }
    }

    /// The same with greeting and negotiation done.
    pub fn ready(path: &Path) -> Self {
        let mut c = Self::connect(path);
        assert!(c.read().unwrap()["QMP"]["version"].is_object());
        assert_eq!(c.ask("qmp_capabilities", json!({})), Ok(json!({})));
        c
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).unwrap();
    }

    /// The next message; `None`: the connection is closed.
    pub fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("no message: {e}"),
        }
    }

    /// The next answer; events on the way are kept.
    pub fn answer(&mut self) -> Value {
        loop {
            let message = self.read().expect("the connection is closed");
            match message.get("event") {
                Some(_) => self.events.push(message),
                None => return message,
            }
        }
    }

    /// A command's result or its error.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Value> {
        let request = json!({ "execute": command, "arguments": arguments, "id": command });
        self.send(request.to_string().as_bytes());
        let mut answer = self.answer();
        assert_eq!(answer["id"], command, "{answer}");
        match answer["return"].take() {
            Value::Null => Err(answer["error"].take()),
            value => Ok(value),
        }
    }

    /// The same of a command that must work.
    pub fn run(&mut self, command: &str, arguments: Value) -> Value {
        self.ask(command, arguments)
            .unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    pub fn status(&mut self) -> String {
        let status = self.run("query-status", json!({}));
        let name = status["status"].as_str().unwrap();
        assert_eq!(status["running"], json!(name == "running"));
        name.into()
    }

    /// Waits for an event and gives its data; those before it are dropped.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let event = match self.events.is_empty() {
                true => self.read().unwrap_or_else(|| panic!("no {name}")),
                false => self.events.remove(0),
            };
            if event["event"] == name {
                assert!(event["timestamp"]["seconds"].as_u64().unwrap() > 1_600_000_000);
                return event["data"].clone();
            }
        }
    }

    /// The names of the events so far.
    pub fn names(&self) -> Vec<&str> {
        self.events
            .iter()
            .map(|e| e["event"].as_str().unwrap())
            .collect()
    }
}

/// The program with a guest and a monitor.
pub struct Machine {
    pub child: Option<Child>,
    pub socket: SocketPath,
}

impl Machine {
    pub fn start(args: &[&str]) -> Self {
        let socket = SocketPath::new();
        let option = socket.option();
        let child = emu(&[args, &["--qmp", &option]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child: Some(child),
            socket,
        }
    }

    pub fn client(&self) -> Client {
        Client::ready(&self.socket.0)
    }

    /// Waits for its end.
    pub fn end(mut self) -> Output {
        let out = self.child.take().unwrap().wait_with_output().unwrap();
        assert!(!self.socket.0.exists(), "the socket is left");
        out
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
