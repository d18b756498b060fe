//! TCP connections: a smoltcp socket towards the guest, a host socket behind it.
//!
//! A connection of the guest is answered when the host's connection stands, so that a refused one is refused to the guest too. Each has
//! an interface of its own, which knows one address: the one that the guest calls. smoltcp makes segments of up to 64 KiB, which the link
//! cuts if the NIC does not take them whole; checksums are the link's work as well. Data moves between smoltcp's buffers and the host's
//! socket without a copy in between.
//!
//! A connection is served when it is *dirty*: a segment or an event has come, its time is due, or something held it up that is over.

use super::super::offload;
use super::super::{ETHERNET_HEADER, End, Frame, Mac};
use super::nat::{Net, OF_TCP, OF_TCP_PORT};
use super::wire::{self, Packet};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration as Span, Instant as Moment};
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4};
use std::time::{Duration, Instant};

/// The most connections; beyond them the one that has been idle longest goes, if it has been so for a while.
const CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(10);
/// Bytes on their way from the guest and to it. The way to the guest is the slower one: more on it means fewer turns of the thread.
const FROM_GUEST: usize = 256 << 10;
const TO_GUEST: usize = 1 << 20;
/// Segments that wait for a connection to be served.
const SEGMENTS: usize = 256;
/// The longest IP packet for smoltcp to make, and what it tells the guest of.
const LONGEST: usize = 65535;
const MTU: usize = 1500;
/// How often data is moved before other connections have their turn.
const ROUNDS: usize = 16;
/// How long a guest may take to answer a connection to it.
const ANSWER: Span = Span::from_secs(60);

type Key = (SocketAddrV4, SocketAddrV4);

/// What smoltcp sees of the link: the segments that have come, and room for those to go.
struct Wire<'a> {
    net: &'a mut Net,
    input: &'a mut VecDeque<Frame>,
    guest: Ipv4Addr,
    /// Something could not be sent: the link is full, or the guest's address unknown.
    held_up: &'a mut bool,
}

struct In(Frame);

struct Out<'a> {
    end: &'a mut End,
    to: Mac,
    from: Mac,
    segment: Option<u16>,
}

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(wire::body(&self.0.data))
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut data = self.end.buffer();
        data.extend_from_slice(&self.to);
        data.extend_from_slice(&self.from);
        data.extend_from_slice(&wire::TYPE_IP.to_be_bytes());
        data.resize(ETHERNET_HEADER + length, 0);
        let result = f(&mut data[ETHERNET_HEADER..]);
        let size = self.segment.unwrap_or(0);
        // smoltcp makes nothing but TCP here; anything else would have no checksum.
        if let Some(mut work) = offload::prepare(&mut data, false, size, None) {
            if size == 0 {
                work.segment = None;
            }
            let frame = Frame {
                data,
                offload: work,
            };
            // There was room; a frame lost here is sent again.
            let _ = self.end.send(frame);
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(|n| n.get());
    }
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = In
    where
        Self: 'a;
    type TxToken<'a>
        = Out<'a>
    where
        Self: 'a;

    fn receive(&mut self, now: Moment) -> Option<(In, Out<'_>)> {
        if self.input.is_empty() {
            return None;
        }
        let to = self.way(now)?;
        let frame = self.input.pop_front()?;
        let from = self.net.own_mac(self.net.config.host);
        let end = &mut self.net.end;
        let out = Out {
            end,
            to,
            from,
            segment: None,
        };
        Some((In(frame), out))
    }

    fn transmit(&mut self, now: Moment) -> Option<Out<'_>> {
        let to = self.way(now)?;
        let from = self.net.own_mac(self.net.config.host);
        Some(Out {
            end: &mut self.net.end,
            to,
            from,
            segment: None,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

impl Wire<'_> {
    fn way(&mut self, _now: Moment) -> Option<Mac> {
        let to = match self.net.end.has_room() {
            true => self.net.neighbour(self.guest),
            false => None,
        };
        *self.held_up |= to.is_none();
        to
    }
}

fn capabilities() -> DeviceCapabilities {
    let mut c = DeviceCapabilities::default();
    c.medium = Medium::Ip;
    c.max_transmission_unit = MTU;
    c.checksum.ipv4 = Checksum::None;
    c.checksum.tcp = Checksum::None;
    c.segmentation.tcpv4 = std::num::NonZeroUsize::new(LONGEST);
    c
}

/// A device for an interface to be made with.
struct Nothing;

impl Device for Nothing {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;
    fn receive(&mut self, _: Moment) -> Option<(In, Out<'_>)> {
        None
    }
    fn transmit(&mut self, _: Moment) -> Option<Out<'_>> {
        None
    }
    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

/// One connection.
struct Connection {
    key: Key,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    host: TcpStream,
    input: VecDeque<Frame>,
    /// The host's side stands.
    connected: bool,
    readable: bool,
    writable: bool,
    /// The host has sent its last byte; the guest's last byte has been passed on.
    host_done: bool,
    guest_done: bool,
    failed: bool,
    dirty: bool,
    held_up: bool,
    due: Option<Instant>,
    active: Instant,
    /// The beginning of the guest's first packet, for an ICMP error about it.
    first: Vec<u8>,
}

impl Connection {
    fn new(net: &Net, key: Key, host: TcpStream) -> Self {
        let (guest, remote) = key;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random();
        let mut interface = Interface::new(config, &mut Nothing, moment(net));
        let address = IpCidr::new((*remote.ip()).into(), 32);
        interface.update_ip_addrs(|list| {
            // The list is empty and has room for one.
            let _ = list.push(address);
        });
        // Everything is reached directly; there is no other way on such an interface.
        let _ = interface.routes_mut().add_default_ipv4_route(*guest.ip());
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(FROM_GUEST), buffer(TO_GUEST));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self {
            key,
            interface,
            sockets,
            handle,
            host,
            input: VecDeque::new(),
            connected: false,
            readable: false,
            writable: false,
            host_done: false,
            guest_done: false,
            failed: false,
            dirty: true,
            held_up: false,
            due: None,
            active: net.now,
            first: Vec::new(),
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket>(self.handle)
    }

    /// Exchanges segments and data until nothing moves; true: it should go on soon. Then `is_over` says whether that was all.
    fn serve(&mut self, net: &mut Net) -> bool {
        self.dirty = false;
        for _ in 0..ROUNDS {
            self.held_up = false;
            self.finish_connecting(net);
            let now = moment(net);
            let mut wire = Wire {
                net: &mut *net,
                input: &mut self.input,
                guest: *self.key.0.ip(),
                held_up: &mut self.held_up,
            };
            self.interface.poll(now, &mut wire, &mut self.sockets);
            if !self.exchange() {
                self.due = match (self.held_up, self.connected) {
                    // The link or a neighbour will say; not for long, should the neighbour not be there.
                    (true, _) => Some(net.now + Duration::from_secs(1)),
                    // smoltcp would send what is kept back at once; the host's socket has its own limit.
                    (false, false) if !self.failed => None,
                    _ => self.interface.poll_at(now, &self.sockets).map(|at| {
                        net.started + Duration::from_micros(at.total_micros().max(0) as u64)
                    }),
                };
                return false;
            }
            self.active = net.now;
        }
        self.dirty = true;
        true
    }

    /// The host's connection stands, or does not.
    fn finish_connecting(&mut self, net: &mut Net) {
        if self.connected || self.failed || !self.writable {
            return;
        }
        let error = match self.host.take_error() {
            Ok(None) => self.host.peer_addr().err(),
            Ok(Some(e)) | Err(e) => Some(e),
        };
        match error {
            None => {
                self.connected = true;
                let _ = self.host.set_nodelay(true);
                self.socket().pause_synack(false);
            }
            Some(e) if e.kind() == ErrorKind::NotConnected => self.writable = false,
            Some(e) => self.refuse(net, &e),
        }
    }

    fn refuse(&mut self, net: &mut Net, error: &io::Error) {
        self.failed = true;
        // Network and host unreachable have ICMP codes; the rest is a reset.
        let code = match error.kind() {
            ErrorKind::NetworkUnreachable => Some(0),
            ErrorKind::HostUnreachable => Some(1),
            _ => None,
        };
        if let Some(code) = code {
            net.refuse(code, &std::mem::take(&mut self.first));
        }
        self.socket().abort();
    }

    /// Moves data both ways; true: some has moved.
    fn exchange(&mut self) -> bool {
        if !self.connected {
            return false;
        }
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let mut moved = false;
        let mut error = None;
        while self.writable && socket.can_recv() {
            let host = &mut self.host;
            let done = socket.recv(|data| match host.write(data) {
                Ok(n) => (n, Ok(n)),
                Err(e) => (0, Err(e)),
            });
            match done {
                Ok(Ok(_)) => moved = true,
                Ok(Err(e)) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Ok(Err(e)) if e.kind() == ErrorKind::Interrupted => {}
                Ok(Err(e)) => {
                    error = Some(e);
                    break;
                }
                Err(_) => break,
            }
        }
        let closing = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if closing && !self.guest_done && !socket.can_recv() {
            self.guest_done = true;
            let _ = self.host.shutdown(Shutdown::Write);
        }
        while self.readable && !self.host_done && error.is_none() && socket.can_send() {
            let host = &mut self.host;
            let done = socket.send(|room| match host.read(room) {
                Ok(n) => (n, Ok(n)),
                Err(e) => (0, Err(e)),
            });
            match done {
                Ok(Ok(0)) => {
                    self.host_done = true;
                    socket.close();
                    moved = true;
                }
                Ok(Ok(_)) => moved = true,
                Ok(Err(e)) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Ok(Err(e)) if e.kind() == ErrorKind::Interrupted => {}
                Ok(Err(e)) => error = Some(e),
                Err(_) => break,
            }
        }
        if error.is_some() && !self.failed {
            self.failed = true;
            socket.abort();
            moved = true;
        }
        moved
    }

    /// Whether all has been said. A connection that ends otherwise than both sides wanted resets the host's side too.
    fn is_over(&mut self) -> bool {
        let orderly = self.host_done && self.guest_done;
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let over = match socket.state() {
            State::TimeWait => orderly,
            // An aborted socket has a reset to send as long as it knows its peer.
            State::Closed => socket.remote_endpoint().is_none() || !self.failed,
            State::Listen => true,
            _ => false,
        };
        if over && !orderly {
            let _ = socket2::SockRef::from(&self.host).set_linger(Some(Duration::ZERO));
        }
        over
    }
}

/// All connections, and the host's ports that lead to the guest.
#[derive(Default)]
pub struct Connections {
    all: HashMap<Token, Connection>,
    by_key: HashMap<Key, Token>,
    ports: HashMap<Token, (TcpListener, SocketAddrV4)>,
    /// Those that are dirty, each once.
    dirty: Vec<Token>,
}

impl Connections {
    /// A host port that leads to the guest.
    pub fn listen(
        &mut self,
        net: &mut Net,
        mut listener: TcpListener,
        guest: SocketAddrV4,
    ) -> io::Result<()> {
        let token = net.token(OF_TCP_PORT);
        net.registry
            .register(&mut listener, token, Interest::READABLE)?;
        self.ports.insert(token, (listener, guest));
        Ok(())
    }

    fn mark(&mut self, token: Token) {
        if let Some(c) = self.all.get_mut(&token) {
            c.dirty = true;
            self.dirty.push(token);
        }
    }

    /// A host socket has something to say.
    pub fn event(&mut self, token: Token, event: &Event) {
        if let Some(c) = self.all.get_mut(&token) {
            c.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            c.writable |= event.is_writable() || event.is_error();
        }
        self.mark(token);
    }

    /// A segment of the guest, which is sound; gives the frame back if nobody keeps it.
    pub fn segment(&mut self, net: &mut Net, frame: Frame, flags: u8, key: Key) -> Option<Frame> {
        let token = match self.by_key.get(&key) {
            Some(token) => *token,
            // SYN alone begins a connection.
            None if flags & 0x17 == 0x02 => match self.open(net, &frame, key) {
                Ok(token) => token,
                Err(code) => {
                    refuse(net, &frame, code);
                    return Some(frame);
                }
            },
            None => {
                refuse(net, &frame, None);
                return Some(frame);
            }
        };
        let c = self.all.get_mut(&token)?;
        if c.input.len() >= SEGMENTS {
            return Some(frame);
        }
        c.input.push_back(frame);
        c.active = net.now;
        self.mark(token);
        None
    }

    /// Begins a connection that the guest asks for. An error is an ICMP code, or none for a reset.
    fn open(&mut self, net: &mut Net, frame: &Frame, key: Key) -> Result<Token, Option<u8>> {
        if net.config.contains(*key.1.ip()) && !net.is_own(*key.1.ip()) {
            return Err(Some(1));
        }
        let to = net.outside(key.1).ok_or(None)?;
        self.make_room(net.now).ok_or(None)?;
        let host = TcpStream::connect(to).map_err(|e| match e.kind() {
            ErrorKind::NetworkUnreachable => Some(0),
            ErrorKind::HostUnreachable => Some(1),
            _ => None,
        })?;
        let mut c = Connection::new(net, key, host);
        let socket = c.socket();
        socket.listen(key.1).map_err(|_| None)?;
        socket.pause_synack(true);
        c.first = wire::quote(wire::body(&frame.data));
        self.add(net, c).ok_or(None)
    }

    fn add(&mut self, net: &mut Net, mut c: Connection) -> Option<Token> {
        let token = net.token(OF_TCP);
        let both = Interest::READABLE | Interest::WRITABLE;
        net.registry.register(&mut c.host, token, both).ok()?;
        self.by_key.insert(c.key, token);
        self.all.insert(token, c);
        self.mark(token);
        Some(token)
    }

    /// Sees to it that one more connection is within the bound.
    fn make_room(&mut self, now: Instant) -> Option<()> {
        if self.all.len() < CONNECTIONS {
            return Some(());
        }
        let oldest = self.all.iter().min_by_key(|c| c.1.active)?;
        let token = *oldest.0;
        (now - oldest.1.active > IDLE).then_some(())?;
        let c = self.all.remove(&token)?;
        self.by_key.remove(&c.key);
        Some(())
    }

    /// A forwarded port of the host is called.
    pub fn accept(&mut self, net: &mut Net, token: Token) {
        let Some((listener, guest)) = self.ports.get(&token) else {
            return;
        };
        let guest = *guest;
        let mut waiting = Vec::new();
        while let Ok(one) = listener.accept() {
            waiting.push(one);
        }
        for (host, peer) in waiting {
            let mut key = (guest, net.inside(peer));
            while self.by_key.contains_key(&key) {
                // Two loopback addresses with the same port look alike to the guest.
                key.1.set_port((random() as u16).max(1024));
            }
            if self.make_room(net.now).is_none() {
                continue;
            }
            let mut c = Connection::new(net, key, host);
            c.connected = true;
            let handle = c.handle;
            let socket = c.sockets.get_mut::<Socket>(handle);
            socket.set_timeout(Some(ANSWER));
            if socket.connect(c.interface.context(), guest, key.1).is_ok() {
                let _ = c.host.set_nodelay(true);
                self.add(net, c);
            }
        }
    }

    /// What waited for a guest's Ethernet address can go.
    pub fn neighbour_learned(&mut self) {
        let held_up = self.all.iter().filter(|c| c.1.held_up);
        let tokens: Vec<Token> = held_up.map(|c| *c.0).collect();
        tokens.into_iter().for_each(|token| self.mark(token));
    }

    /// Serves whatever is dirty or due; true: not all was done.
    pub fn serve(&mut self, net: &mut Net) -> bool {
        let room = net.end.has_room();
        let now = net.now;
        for (token, c) in &mut self.all {
            if !c.dirty && (c.due.is_some_and(|due| due <= now) || c.held_up && room) {
                c.dirty = true;
                self.dirty.push(*token);
            }
        }
        let mut more = false;
        for token in std::mem::take(&mut self.dirty) {
            let Some(c) = self.all.get_mut(&token) else {
                continue;
            };
            if !c.dirty {
                continue;
            }
            let unfinished = c.serve(net);
            if c.socket().state() == State::Established {
                c.socket().set_timeout(None);
            }
            if c.is_over() {
                if let Some(c) = self.all.remove(&token) {
                    self.by_key.remove(&c.key);
                }
            } else if unfinished {
                self.dirty.push(token);
                more = true;
            }
        }
        more
    }

    /// When something is due.
    pub fn next(&self) -> Option<Instant> {
        self.all.values().filter_map(|c| c.due).min()
    }
}

/// Answers a segment that begins nothing.
fn refuse(net: &mut Net, frame: &Frame, code: Option<u8>) {
    let Some(packet) = Packet::parse(wire::body(&frame.data)) else {
        return;
    };
    match code {
        Some(code) => net.refuse(code, &wire::quote(packet.whole)),
        None => {
            if let Some(segment) = wire::reset(&packet) {
                net.send_ip(packet.dst, packet.src, wire::TCP, &segment);
            }
        }
    }
}

fn moment(net: &Net) -> Moment {
    Moment::from_micros((net.now - net.started).as_micros() as i64)
}

/// A number that the guest cannot guess, from the source that seeds hash maps.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
