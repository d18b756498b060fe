//! Frames over a stream, each behind its length in four bytes, big-endian, as QEMU has it.
//!
//! The listener has one peer at a time; when it goes, the next may come. Whoever connects does it once.

use super::super::{ETHERNET_HEADER, MAX_FRAME};
use super::*;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use std::fmt;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the other emulator is, or where it will call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Listen(SocketAddr),
    Connect(SocketAddr),
    ListenUnix(PathBuf),
    ConnectUnix(PathBuf),
}

/// As `--netdev socket,` takes it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(addr) => write!(f, "listen={addr}"),
            Self::Connect(addr) => write!(f, "connect={addr}"),
            Self::ListenUnix(path) => write!(f, "listen=unix:{}", path.display()),
            Self::ConnectUnix(path) => write!(f, "connect=unix:{}", path.display()),
        }
    }
}

struct Stream<S> {
    stream: S,
    /// What has come and is not a whole frame yet, from `taken` on.
    input: Vec<u8>,
    taken: usize,
    /// What has not been written yet.
    output: Vec<u8>,
}

impl<S: Read + Write + Send> Stream<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
        }
    }

    /// A whole frame of what has come.
    fn whole(&mut self, frame: &mut Vec<u8>) -> io::Result<bool> {
        let waiting = &self.input[self.taken..];
        let Some(head) = waiting.first_chunk::<4>() else {
            return Ok(false);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if !(ETHERNET_HEADER..=MAX_FRAME).contains(&length) {
            // Whatever this is, it is not a peer that speaks our language.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(data) = waiting.get(4..4 + length) else {
            return Ok(false);
        };
        frame.extend_from_slice(data);
        self.taken += 4 + length;
        Ok(true)
    }
}

impl<S: Read + Write + Send> Outside for Stream<S> {
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.output
            .extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.output.extend_from_slice(frame);
        match self.flush() {
            // It has been taken.
            Err(e) if blocks(&e) => Ok(()),
            done => done,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let n = self.stream.write(&self.output)?;
            self.output.drain(..n);
        }
        Ok(())
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        loop {
            if self.whole(frame)? {
                return Ok(());
            }
            self.input.drain(..self.taken);
            self.taken = 0;
            let have = self.input.len();
            self.input.resize(have + MAX_FRAME, 0);
            let got = self.stream.read(&mut self.input[have..]);
            let n = *got.as_ref().unwrap_or(&0);
            self.input.truncate(have + n);
            if got? == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }
}

fn stream<S: Read + Write + Send + Source>(poll: &mut Poll, end: &mut End, s: S) -> bool {
    let mut stream = Stream::new(s);
    let open = carry(poll, end, &mut stream, |s, registry| {
        watch(&mut s.stream, registry)
    });
    let _ = poll.registry().deregister(&mut stream.stream);
    open
}

/// Serves one peer after the other.
fn serve<L: Source, S: Read + Write + Send + Source>(
    mut poll: Poll,
    mut end: End,
    mut listener: L,
    accept: impl Fn(&L) -> io::Result<S>,
) {
    let registered = poll
        .registry()
        .register(&mut listener, LISTENER, Interest::READABLE);
    let mut events = Events::with_capacity(8);
    while registered.is_ok() && !end.is_closed() {
        if let Ok(peer) = accept(&listener) {
            if !stream(&mut poll, &mut end, peer) {
                return;
            }
            continue;
        }
        // A wire that leads nowhere takes everything.
        while let Some(frame) = end.receive() {
            end.recycle(frame.data);
        }
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}

pub fn start(address: Address, mut end: End) -> Result<(), Error> {
    let mut poll = poll_for(&end)?;
    let fail = |what, name: String| {
        move |source| Error::Open {
            what,
            name,
            source,
            hint: "",
        }
    };
    let thread = std::thread::Builder::new().name("net-socket".into());
    match address {
        Address::Listen(at) => {
            let name = at.to_string();
            let listener = TcpListener::bind(at).map_err(fail("cannot listen on", name))?;
            thread.spawn(move || {
                serve(poll, end, listener, |l| {
                    let (peer, _) = l.accept()?;
                    peer.set_nodelay(true)?;
                    Ok(peer)
                })
            })?;
        }
        Address::ListenUnix(path) => {
            let name = path.display().to_string();
            let listener = UnixListener::bind(path).map_err(fail("cannot listen on", name))?;
            thread.spawn(move || serve(poll, end, listener, |l| Ok(l.accept()?.0)))?;
        }
        Address::Connect(to) => {
            let connect = || {
                let peer = std::net::TcpStream::connect(to)?;
                peer.set_nodelay(true)?;
                peer.set_nonblocking(true)?;
                Ok(TcpStream::from_std(peer))
            };
            let peer = connect().map_err(fail("cannot connect to", to.to_string()))?;
            thread.spawn(move || stream(&mut poll, &mut end, peer))?;
        }
        Address::ConnectUnix(path) => {
            let name = path.display().to_string();
            let connect = || {
                let peer = std::os::unix::net::UnixStream::connect(path)?;
                peer.set_nonblocking(true)?;
                Ok(UnixStream::from_std(peer))
            };
            let peer = connect().map_err(fail("cannot connect to", name))?;
            thread.spawn(move || stream(&mut poll, &mut end, peer))?;
        }
    }
    Ok(())
}
