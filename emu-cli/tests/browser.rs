//! The web display in headless Chromium, driven by the DevTools protocol: the canvas shows what `screendump` writes, keys typed into
//! the page reach the guest, and so does the place of the pointer if the guest (Linux, from `images/fetch.sh out`) has a tablet. Without
//! Chromium on the host there is nothing to test.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/linux.rs"]
mod linux;
#[path = "common/qmp.rs"]
mod qmp;

use common::*;
use guests::Console;
use iced_x86::code_asm::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

const LONG: Duration = Duration::from_secs(120);

/// Ended with the test, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fills the first line with all characters in all colours; each key's scan code becomes a character of the second line.
fn guest() -> Temp {
    sector(|a| {
        let mut key = a.create_label();
        all_characters(a)?;
        poll_keyboard(a)?;
        wait_key(a, &mut key)?;
        a.mov(ah, 0x1f)?;
        a.stosw()?;
        a.jmp(key)
    })
}

/// The browser, and what it keeps.
struct Browser {
    _process: Ended,
    profile: PathBuf,
}

impl Browser {
    fn is_there() -> bool {
        let found = Command::new("chromium").arg("--version").output();
        let there = found.is_ok_and(|o| o.status.success());
        if !there {
            eprintln!("no chromium here: nothing was tested");
        }
        there
    }

    /// Starts it, and gives the page that it shows.
    fn open(url: &str) -> (Self, Page) {
        let devtools = free_port();
        let name = format!("emu-test-chromium-{}-{devtools}", std::process::id());
        let profile = std::env::temp_dir().join(name);
        let process = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--remote-allow-origins=*"])
            .arg(format!("--remote-debugging-port={devtools}"))
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let browser = Self {
            _process: Ended(process.unwrap()),
            profile,
        };
        (browser, Page::find(devtools, url))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// A page in the browser.
struct Page {
    socket: WebSocket<TcpStream>,
    id: u64,
}

impl Page {
    /// The page that shows `url`, once it is there.
    fn find(port: u16, url: &str) -> Self {
        let began = Instant::now();
        let address = loop {
            assert!(began.elapsed() < LONG, "the browser shows no {url}");
            let mut stream = connect(port);
            write!(
                stream,
                "GET /json HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            )
            .unwrap();
            let mut stream = BufReader::new(stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some((name, n)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = n.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let pages: Value = serde_json::from_slice(&body).unwrap();
            let pages = pages.as_array().unwrap();
            let page = pages.iter().find(|p| p["url"].as_str() == Some(url));
            if let Some(address) = page.and_then(|p| p["webSocketDebuggerUrl"].as_str()) {
                break address.to_string();
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let (socket, _) = tungstenite::client(address, connect(port)).unwrap();
        Self { socket, id: 0 }
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.id += 1;
        let text = json!({"id": self.id, "method": method, "params": params}).to_string();
        self.socket.send(Message::text(text)).unwrap();
        loop {
            let answer = self.socket.read().unwrap();
            if let Ok(answer) = serde_json::from_slice::<Value>(&answer.into_data())
                && answer["id"] == self.id
            {
                return answer["result"].clone();
            }
        }
    }

    fn evaluate(&mut self, expression: &str) -> String {
        let answer = self.call("Runtime.evaluate", json!({ "expression": expression }));
        answer["result"]["value"]
            .as_str()
            .unwrap_or_default()
            .into()
    }

    /// The canvas as a PPM file.
    fn canvas(&mut self) -> Vec<u8> {
        let text = self.evaluate(
            "(() => { const c = document.getElementById('screen'); \
             const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
             let s = `${c.width} ${c.height} `; \
             for (let i = 0; i < d.length; i += 4) \
               s += (d[i] << 16 | d[i + 1] << 8 | d[i + 2]).toString(16).padStart(6, '0'); \
             return s; })()",
        );
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let mut ppm = format!("P6\n{} {}\n255\n", word(), word()).into_bytes();
        let digits = word().as_bytes();
        ppm.extend(digits.chunks_exact(2).map(|pair| {
            let pair = std::str::from_utf8(pair).unwrap();
            u8::from_str_radix(pair, 16).unwrap()
        }));
        ppm
    }
}

/// What `screendump` writes.
fn screendump(qmp: u16) -> Vec<u8> {
    let file = Temp::new(b"");
    let mut stream = BufReader::new(connect(qmp));
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let dump = json!({"execute": "screendump", "arguments": {"filename": file.path()}});
    for command in [json!({"execute": "qmp_capabilities"}), dump] {
        writeln!(stream.get_mut(), "{command}").unwrap();
        line.clear();
        stream.read_line(&mut line).unwrap();
        assert!(line.contains("return"), "{line}");
    }
    std::fs::read(&file.0).unwrap()
}

#[test]
fn chromium_shows_the_screen_and_types() {
    if !Browser::is_there() {
        return;
    }
    let (web, qmp) = (free_port(), free_port());
    let image = guest();
    let display = format!("web=:{web}");
    let monitor = format!("tcp:127.0.0.1:{qmp}");
    let args = [
        "--kernel",
        image.path(),
        "--serial",
        "null",
        "--timeout",
        "200",
    ];
    let _emu = Ended(
        emu(&[&args[..], &["--display", &display, "--qmp", &monitor]].concat())
            .spawn()
            .unwrap(),
    );
    drop(connect(web));
    let url = format!("http://127.0.0.1:{web}/");
    let (_browser, mut page) = Browser::open(&url);
    let agree = |page: &mut Page, what: &str| {
        let began = Instant::now();
        loop {
            let (canvas, dump) = (page.canvas(), screendump(qmp));
            // An empty screen would be no proof.
            if canvas == dump && dump[20..].iter().any(|b| *b != 0) {
                return dump;
            }
            assert!(
                began.elapsed() < LONG,
                "{what}: the canvas is not what screendump writes"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let before = agree(&mut page, "at first");
    for kind in ["rawKeyDown", "keyUp"] {
        page.call(
            "Input.dispatchKeyEvent",
            json!({"type": kind, "code": "KeyA", "key": "a"}),
        );
    }
    let began = Instant::now();
    while agree(&mut page, "after a key") == before {
        assert!(began.elapsed() < LONG, "the key changed nothing");
    }
}

#[test]
fn chromium_points_where_the_guests_tablet_is() {
    if !Browser::is_there() {
        return;
    }
    let (web, initrd) = (free_port(), linux::initrd(linux::TELL_EVENTS));
    let options = linux::options(&initrd, "quiet");
    let display = format!("web=:{web}");
    let mut args: Vec<&str> = options.iter().map(String::as_str).collect();
    args.extend(["--display", &display, "--device", "virtio-tablet-pci"]);
    let mut console = Console::start(&args);
    console.wait("@listening");
    let (_browser, mut page) = Browser::open(&format!("http://127.0.0.1:{web}/"));
    let began = Instant::now();
    // The guest uses the tablet, and the picture is there.
    while page.evaluate("String(tablet !== null && canvas.width > 300)") != "true" {
        assert!(began.elapsed() < LONG, "the page has no tablet");
        std::thread::sleep(Duration::from_millis(100));
    }
    let size = page.evaluate("`${canvas.width} ${canvas.height}`");
    let (width, height) = size.split_once(' ').unwrap();
    let size: [u32; 2] = [width.parse().unwrap(), height.parse().unwrap()];
    let mut last = [0u32; 2];
    for (x, y) in [(500, 30), (33, 350)] {
        // A mouse is at whole places of the page; the canvas need not begin at one.
        let place = page.evaluate(&format!(
            "(() => {{ const r = canvas.getBoundingClientRect(); \
             return `${{Math.ceil(r.left + {x} * r.width / canvas.width)}} \
             ${{Math.ceil(r.top + {y} * r.height / canvas.height)}}`; }})()"
        ));
        let mut numbers = place.split_whitespace().map(|n| n.parse::<f64>().unwrap());
        let place = (numbers.next().unwrap(), numbers.next().unwrap());
        for (kind, buttons) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)] {
            page.call(
                "Input.dispatchMouseEvent",
                json!({"type": kind, "x": place.0, "y": place.1, "button": "left",
                       "buttons": buttons, "clickCount": 1}),
            );
        }
        let said = console.wait(&format!(" {} 1", linux::BTN_LEFT));
        console.wait(&format!(" {} 0", linux::BTN_LEFT));
        let pixel = linux::pixel(&said, &mut last, size);
        assert_eq!(pixel, [x, y], "{last:?} of {size:?}: {said}");
    }
}
