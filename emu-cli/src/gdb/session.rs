//! One client at a time: its bytes, the state of the protocol, and when the guest runs for it.
//!
//! What `gdbstub` does not know, or would end the connection for, is done here: acknowledgements and repeated answers, memory in
//! one piece (`m`, and `x` with binary data), QEMU's packets for physical memory, `vKill`. A packet that `gdbstub` refuses is answered with
//! `E01` by a fresh state machine that is told the client's features again; the machine never hears of it.

use super::bell::Bell;
use super::registers::Layout;
use super::target::{Ended, Machine};
use super::wire::{self, Framer, Item, LONGEST};
use crate::commands::Commands;
use crate::console;
use crate::monitor::listen::{Listener, Stream};
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine as Stub;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::convert::Infallible;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client may leave an answer untaken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to leave the listener alone when no connection can be accepted (out of file descriptors).
const BREATHER: Duration = Duration::from_millis(100);
/// What is refused is answered so.
const REFUSED: &[u8] = b"E01";
/// Bytes of a refused packet that are shown.
const SHOWN: usize = 40;
/// Complaints about a client that are written out; more of them say nothing new.
const COMPLAINTS: usize = 5;

/// What `gdbstub` writes; sent when an answer is complete.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Connection for Answer {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Why a session ends.
enum End {
    /// The client has closed the connection, or is not there any more.
    Gone,
    /// It has taken its leave.
    Detached,
    /// It wants the guest to end.
    Killed,
    /// The run has ended.
    Over,
}

impl From<Ended> for End {
    fn from(_: Ended) -> Self {
        Self::Over
    }
}

/// A listener for GDB clients.
pub struct Server {
    pub listener: Listener,
    pub commands: Arc<Commands>,
    pub bell: Arc<Bell>,
    pub layouts: Vec<Arc<Layout>>,
    pub executable: Option<String>,
}

impl Server {
    /// Serves until the run has ended.
    pub fn run(self) {
        while self.bell.ended().is_none() {
            let mut fds = [
                self.bell.poll_fd(),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            // An interrupted wait is one that found nothing.
            let _ = poll(&mut fds, None);
            if !fds[0].revents().is_empty() {
                // A stop that is nobody's.
                self.bell.take();
                continue;
            }
            match self.listener.accept() {
                Ok(stream) => self.serve(stream),
                Err(e) if is_momentary(&e) => {}
                Err(_) => std::thread::sleep(BREATHER),
            }
        }
    }

    fn serve(&self, stream: Stream) {
        let client = match rustix::io::dup(&stream) {
            Ok(fd) => fd,
            Err(e) => {
                return console::say(format_args!("emu: --gdb: a client was turned away: {e}"));
            }
        };
        let machine = Machine::new(
            self.commands.clone(),
            self.bell.clone(),
            self.layouts.clone(),
            self.executable.clone(),
            client,
        );
        let mut session = Session {
            server: self,
            stream,
            machine,
            framer: Framer::default(),
            stub: None,
            acknowledges: true,
            last: Vec::new(),
            supported: Vec::new(),
            bare_binary: false,
            complaints: 0,
        };
        let end = session.run();
        match end {
            End::Killed => {
                console::say(format_args!("emu: ended by a GDB client (kill)"));
                session.machine.kill();
            }
            End::Gone if session.framer.in_frame() => {
                session.complain(format_args!("it went in the middle of a packet"));
            }
            _ => {}
        }
    }
}

fn is_momentary(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

struct Session<'a> {
    server: &'a Server,
    stream: Stream,
    machine: Machine,
    framer: Framer,
    stub: Option<Stub<'static, Machine, Answer>>,
    /// Packets are acknowledged, on either side.
    acknowledges: bool,
    /// The last answer, in case that the client wants it again.
    last: Vec<u8>,
    /// The client's `qSupported`, for a new state machine.
    supported: Vec<u8>,
    /// The client has asked whether there is `x` (LLDB before its version 20), and wants its data without a letter before it.
    bare_binary: bool,
    complaints: usize,
}

impl Session<'_> {
    fn complain(&mut self, what: impl fmt::Display) {
        self.complaints += 1;
        if self.complaints <= COMPLAINTS {
            console::say(format_args!("emu: --gdb: the client: {what}"));
        }
    }

    /// Until the client or the run ends.
    fn run(&mut self) -> End {
        loop {
            match self.turn() {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        let mut fds = [
            self.server.bell.poll_fd(),
            PollFd::new(&self.stream, PollFlags::IN),
            PollFd::new(&self.server.listener, PollFlags::IN),
        ];
        // An interrupted wait is one that found nothing.
        let _ = poll(&mut fds, None);
        let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
        if ready[2] {
            self.turn_away();
        }
        if ready[0] {
            self.bell()?;
        }
        if ready[1] {
            let mut bytes = [0; 32 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(End::Gone),
                Ok(n) => self.input(&bytes[..n])?,
                Err(e) if is_momentary(&e) => {}
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(())
    }

    /// There is one client at a time.
    fn turn_away(&mut self) {
        match self.server.listener.accept() {
            Ok(second) => {
                drop(second);
                console::say(format_args!(
                    "emu: --gdb: a second client was turned away: one is connected already (\"detach\" there first)"
                ));
            }
            Err(e) if is_momentary(&e) => {}
            Err(_) => std::thread::sleep(BREATHER),
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.stub, Some(Stub::Running(_)))
    }

    /// The machine has stopped, or the run has ended.
    fn bell(&mut self) -> Result<(), End> {
        if let Some(status) = self.server.bell.ended() {
            if self.is_running() {
                self.report(MultiThreadStopReason::Exited(status), &[])?;
            }
            return Err(End::Over);
        }
        let Some(stop) = self.server.bell.take() else {
            return Ok(());
        };
        if !self.is_running() {
            // Another debugger's business.
            return Ok(());
        }
        let told = self.machine.told(stop)?;
        if !told.text.is_empty() {
            let mut text = b"O".to_vec();
            wire::hex(told.text.as_bytes(), &mut text);
            self.send(&wire::frame(&text))?;
        }
        match told.going {
            true => Ok(()),
            false => self.report(told.reply, &told.registers),
        }
    }

    /// Tells why the guest that ran for the client does not any more.
    fn report(
        &mut self,
        reason: MultiThreadStopReason<u64>,
        registers: &[(super::target::Number, Vec<u8>)],
    ) -> Result<(), End> {
        let stub = match self.stub.take() {
            Some(Stub::Running(stub)) => stub,
            other => {
                self.stub = other;
                return Ok(());
            }
        };
        let mut registers = registers.iter().map(|(n, value)| (*n, &value[..]));
        match stub.report_stop_with_regs(&mut self.machine, reason, &mut registers) {
            Ok(stub) => self.stub = Some(stub),
            Err(e) => self.complain(e),
        }
        self.answer()
    }

    fn input(&mut self, bytes: &[u8]) -> Result<(), End> {
        for &byte in bytes {
            let Some(item) = self.framer.push(byte) else {
                continue;
            };
            match item {
                Item::Packet(_) if self.is_running() => {
                    self.complain("a packet while the guest runs was ignored: interrupt it first");
                }
                Item::Packet(payload) => {
                    if self.acknowledges {
                        self.send(b"+")?;
                    }
                    self.machine.attach()?;
                    self.packet(&payload)?;
                }
                Item::Interrupt if self.is_running() => self.machine.interrupt(),
                // The stop that it wants is on its way, or it stands.
                Item::Interrupt => {}
                Item::Again if self.acknowledges && !self.last.is_empty() => {
                    let last = std::mem::take(&mut self.last);
                    self.send(&last)?;
                    self.last = last;
                }
                Item::Again => {}
                Item::Broken(why) => {
                    self.complain(format_args!("a packet was not taken: {why}"));
                    if self.acknowledges {
                        self.send(b"-")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers a packet.
    fn packet(&mut self, payload: &[u8]) -> Result<(), End> {
        if payload == b"QStartNoAckMode" {
            self.reply(b"OK")?;
            self.acknowledges = false;
            self.last.clear();
            return Ok(());
        }
        if let Some(reply) = self.own(payload)? {
            return self.reply(&reply);
        }
        if payload.starts_with(b"qSupported") {
            self.supported = payload.to_vec();
        }
        let Some(payload) = normal(payload) else {
            let text = String::from_utf8_lossy(&payload[..payload.len().min(SHOWN)]);
            self.complain(format_args!("\"{}\" was refused", text.escape_debug()));
            return self.reply(REFUSED);
        };
        self.feed(&payload)?;
        match self.stub.take() {
            Some(Stub::Disconnected(stub)) => {
                let reason = stub.get_reason();
                self.stub = Some(stub.return_to_idle());
                self.answer()?;
                Err(match reason {
                    DisconnectReason::Kill => End::Killed,
                    _ => End::Detached,
                })
            }
            stub => {
                self.stub = stub;
                self.answer()
            }
        }
    }

    /// What is not left to `gdbstub`; `None`: it is.
    fn own(&mut self, payload: &[u8]) -> Result<Option<Vec<u8>>, End> {
        let reply = match payload {
            [b'm', rest @ ..] => self.memory(rest, wire::hex),
            b"x0,0" => {
                self.bare_binary = true;
                b"OK".to_vec()
            }
            [b'x', rest @ ..] => {
                let bare = self.bare_binary;
                self.memory(rest, |data, out| {
                    if !bare {
                        out.push(b'b');
                    }
                    wire::escape(data, out);
                })
            }
            b"qqemu.PhyMemMode" => vec![b'0' + u8::from(self.machine.physical)],
            b"Qqemu.PhyMemMode:0" | b"Qqemu.PhyMemMode:1" => {
                self.machine.physical = payload.ends_with(b"1");
                b"OK".to_vec()
            }
            _ if payload.starts_with(b"vKill") => {
                self.reply(b"OK")?;
                return Err(End::Killed);
            }
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }

    /// Memory for `m` and `x`: as much as there is, and as fits into an answer.
    fn memory(&self, rest: &[u8], put: impl FnOnce(&[u8], &mut Vec<u8>)) -> Vec<u8> {
        let Some((at, len)) = wire::address_and_length(rest) else {
            return REFUSED.to_vec();
        };
        match self.machine.read_memory(at, len.min(LONGEST / 2 - 4)) {
            Ok(data) => {
                let mut out = Vec::with_capacity(2 * data.len() + 1);
                put(&data, &mut out);
                out
            }
            Err(_) => b"E0e".to_vec(),
        }
    }

    /// A state machine in its first state, which does not acknowledge and knows the client's features.
    fn fresh(&mut self) -> Result<(), End> {
        let stub = GdbStub::<Machine, Answer>::builder(Answer::default())
            .packet_buffer_size(LONGEST + 8)
            .build();
        let stub = stub.map_err(|_| End::Gone)?;
        let stub = stub.run_state_machine(&mut self.machine);
        self.stub = Some(stub.map_err(|_| End::Gone)?);
        for known in [&b"QStartNoAckMode"[..], &self.supported.clone()] {
            if !known.is_empty() {
                self.pump(known)?;
            }
        }
        self.taken();
        Ok(())
    }

    fn feed(&mut self, payload: &[u8]) -> Result<(), End> {
        if self.stub.is_none() {
            self.fresh()?;
        }
        self.pump(payload)
    }

    /// Passes a packet to `gdbstub`.
    fn pump(&mut self, payload: &[u8]) -> Result<(), End> {
        for byte in wire::frame(payload) {
            let Some(Stub::Idle(stub)) = self.stub.take() else {
                return Err(End::Gone);
            };
            match stub.incoming_data(&mut self.machine, byte) {
                Ok(stub) => self.stub = Some(stub),
                Err(e) if e.is_target_error() => return Err(End::Over),
                Err(e) => {
                    let text = String::from_utf8_lossy(&payload[..payload.len().min(SHOWN)]);
                    self.complain(format_args!("\"{}\": {e}", text.escape_debug()));
                    self.supported.clear();
                    self.fresh()?;
                    return self.reply(REFUSED);
                }
            }
        }
        Ok(())
    }

    /// What `gdbstub` has written.
    fn taken(&mut self) -> Vec<u8> {
        match &mut self.stub {
            Some(Stub::Idle(s)) => std::mem::take(&mut s.borrow_conn().0),
            Some(Stub::Running(s)) => std::mem::take(&mut s.borrow_conn().0),
            Some(Stub::CtrlCInterrupt(s)) => std::mem::take(&mut s.borrow_conn().0),
            Some(Stub::Disconnected(s)) => std::mem::take(&mut s.borrow_conn().0),
            None => Vec::new(),
        }
    }

    /// Sends what `gdbstub` has written.
    fn answer(&mut self) -> Result<(), End> {
        let bytes = self.taken();
        if bytes.is_empty() {
            return Ok(());
        }
        self.send(&bytes)?;
        if self.acknowledges {
            self.last = bytes;
        }
        Ok(())
    }

    /// Sends an answer of ours.
    fn reply(&mut self, payload: &[u8]) -> Result<(), End> {
        let frame = wire::frame(payload);
        self.send(&frame)?;
        if self.acknowledges {
            self.last = frame;
        }
        Ok(())
    }

    /// Writes bytes; a client that does not take them is gone.
    fn send(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        let until = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(End::Gone),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        self.complain("it takes no answers: the connection was closed");
                        return Err(End::Gone);
                    }
                    if self.server.bell.ended().is_some() {
                        return Err(End::Over);
                    }
                    let left = left.min(BREATHER);
                    let left = Timespec {
                        tv_sec: 0,
                        tv_nsec: left.as_nanos() as i64,
                    };
                    let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
                    // An interrupted wait is one that found nothing.
                    let _ = poll(&mut fds, Some(&left));
                }
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(())
    }
}

/// Steps and continues in the words that `gdbstub` takes: it wants to know of which thread, and there is one. `None`: nobody could know
/// what to do. Every other packet is as it was.
fn normal(payload: &[u8]) -> Option<Vec<u8>> {
    let actions = match payload {
        b"vCont?" => return Some(payload.to_vec()),
        [b's' | b'S' | b'c' | b'C', ..] => payload,
        _ if payload.starts_with(b"vCont") => payload.strip_prefix(b"vCont;")?,
        _ => return Some(payload.to_vec()),
    };
    let text = std::str::from_utf8(actions).ok()?;
    let number = |s: &str| u64::from_str_radix(s, 16).ok();
    let mut first = None;
    for action in text.split(';') {
        let (action, thread) = action.split_once(':').unwrap_or((action, "1"));
        let thread = thread.strip_prefix('p').unwrap_or(thread);
        for id in thread.split('.') {
            number(id.strip_prefix('-').unwrap_or(id))?;
        }
        let word = match (action.as_bytes().first()?, action.get(1..)?) {
            (b'c', "") => "vCont;c".to_string(),
            (b's', "") => "vCont;s:1;c".to_string(),
            (b'C', signal) if number(signal).is_some() => "vCont;c".to_string(),
            (b'S', signal) if number(signal).is_some() => "vCont;s:1;c".to_string(),
            (b'r', range) => {
                let (from, to) = range.split_once(',')?;
                let (from, to) = (number(from)?, number(to)?);
                format!("vCont;r{from:x},{to:x}:1;c")
            }
            _ => return None,
        };
        // The first action that fits a thread is its.
        first.get_or_insert(word);
    }
    Some(first?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_run_is_said_in_one_way() {
        let said = |text: &str| normal(text.as_bytes()).map(|b| String::from_utf8(b).unwrap());
        let same = |a: &str, b: &str| assert_eq!(said(a).as_deref(), Some(b), "{a}");
        for a in ["c", "C05", "vCont;c", "vCont;C05:1;c", "vCont;c:p1.-1"] {
            same(a, "vCont;c");
        }
        for a in ["s", "S05", "vCont;s", "vCont;s:1", "vCont;s:p1.1;c:p1.-1"] {
            same(a, "vCont;s:1;c");
        }
        same("vCont;r7c00,7c09:1;c", "vCont;r7c00,7c09:1;c");
        for a in ["vCont?", "g", "qC", "vMustReplyEmpty", ""] {
            same(a, a);
        }
        for bad in [
            "vCont",
            "vCont;",
            "vCont;t",
            "vCont;q:1",
            "vCont;s:",
            "vCont;s:zz",
            "vCont;r1,:1",
            "vCont;r1:1",
            "cx",
            "C",
            "S0z",
            "s1000",
            "vCont;c;",
            "vContx",
            "vCont;\u{e9}",
        ] {
            assert_eq!(said(bad), None, "{bad}");
        }
    }
}
