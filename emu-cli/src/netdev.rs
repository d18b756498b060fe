//! `--netdev` and `--nic`: the guest's networks, by QEMU's names.
//!
//! A back end has one end of a link; the NIC that names it with `netdev=` gets the other. `--nic BACKEND,model=M` is `--netdev` and
//! `--device M,netdev=` in one.

use crate::args::Options;
use crate::devices;
use crate::error::Error;
use crate::props::Props;
use emu_core::nearest::hint;
use emu_devices::backend::Waker;
use emu_devices::net::user::{self, Config, Forward, GuestForward};
use emu_devices::net::wire::{self, Address};
use emu_devices::net::{End, FIRST_MAC, Frame, Link, Mac};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

/// What `--netdev` takes.
const BACKENDS: [&str; 3] = ["user", "socket", "tap"];
const MODEL: &str = "e1000";

/// A network that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netdev {
    pub id: String,
    backend: Backend,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Backend {
    User(Box<Config>),
    Socket(Address),
    Tap(String),
}

/// `--nic`: no NIC at all, or one with its network (which has no name yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicOption {
    None,
    Nic {
        backend: Netdev,
        /// Model and properties, as `--device` takes them, without `netdev=`.
        device: String,
    },
}

/// Reads a value of `--netdev`.
pub fn parse(text: &str) -> Result<Netdev, String> {
    let mut props = Props::parse(text)?;
    let id = props.text("id")?;
    let backend = backend(&mut props)?;
    props.finish()?;
    let id = id.ok_or("it has no id: give id=NAME, and --device MODEL,netdev=NAME")?;
    Ok(Netdev { id, backend })
}

/// Reads a value of `--nic`.
pub fn parse_nic(text: &str) -> Result<NicOption, String> {
    let mut props = Props::parse(text)?;
    if props.name() == "none" {
        props.finish()?;
        return Ok(NicOption::None);
    }
    let model = props.text("model")?.unwrap_or_else(|| MODEL.into());
    let mut device = match &model[..] {
        "virtio" => "virtio-net-pci".into(),
        _ => model,
    };
    for key in ["mac", "addr"] {
        if let Some(value) = props.text(key)? {
            device += &format!(",{key}={value}");
        }
    }
    // Whatever is wrong with the model or its properties is said now.
    devices::parse(&format!("{device},netdev=x"))?;
    let id = props.text("id")?.unwrap_or_default();
    let backend = backend(&mut props)?;
    props.finish()?;
    Ok(NicOption::Nic {
        backend: Netdev { id, backend },
        device,
    })
}

/// The NICs of a machine: those of the command line, or one on a user network where there is firmware to boot a disk, as a PC has. Not with
/// the virtual clock, where a run depends on nothing outside.
pub fn nics(options: &Options, firmware: bool) -> Vec<NicOption> {
    let asked = !options.nic.is_empty() || !options.netdev.is_empty();
    if asked || !firmware || options.nodefaults || options.clock == "virtual" {
        return options.nic.clone();
    }
    parse_nic("user").into_iter().collect()
}

fn backend(props: &mut Props) -> Result<Backend, String> {
    match props.name() {
        "user" => user(props).map(|config| Backend::User(Box::new(config))),
        "socket" => socket(props).map(Backend::Socket),
        "tap" => tap(props).map(Backend::Tap),
        other => Err(format!(
            "unknown network \"{other}\"{} (known: {})",
            hint(other, BACKENDS),
            BACKENDS.join(", ")
        )),
    }
}

fn user(props: &mut Props) -> Result<Config, String> {
    let mut config = match props.read("net", "a network such as 10.0.2.0/24", network)? {
        Some((addr, prefix)) => Config::on(addr, prefix),
        None => Config::default(),
    };
    let addr = |v: &str| v.parse::<Ipv4Addr>().ok();
    let what = "an address such as 10.0.2.2";
    for (key, place) in [
        ("host", &mut config.host),
        ("dns", &mut config.dns),
        ("dhcpstart", &mut config.dhcp_start),
    ] {
        if let Some(value) = props.read(key, what, addr)? {
            *place = value;
        }
    }
    for (key, addr) in [
        ("host", config.host),
        ("dns", config.dns),
        ("dhcpstart", config.dhcp_start),
    ] {
        if !config.contains(addr) || addr == config.network.0 || addr == config.broadcast() {
            let (net, prefix) = config.network;
            return Err(format!(
                "{key}={addr} is no host's address in {net}/{prefix}"
            ));
        }
    }
    if config.host == config.dns || !config.is_guest(config.dhcp_start) {
        return Err("host, dns and dhcpstart must be three addresses".into());
    }
    config.hostname = props.text("hostname")?;
    if config.hostname.as_ref().is_some_and(|h| h.len() > 63) {
        return Err("hostname is longer than 63 bytes".into());
    }
    config.restrict = props.switch("restrict")?.unwrap_or(false);
    for text in props.all("hostfwd")? {
        let forward = forward(&text).ok_or_else(|| {
            format!("hostfwd={text} is not such as tcp:127.0.0.1:2222-:22 (tcp or udp)")
        })?;
        if forward.guest.0.is_some_and(|addr| !config.is_guest(addr)) {
            return Err(format!("hostfwd={text} leads to no guest's address"));
        }
        config.forwards.push(forward);
    }
    for text in props.all("guestfwd")? {
        let forward = guest_forward(&text).ok_or_else(|| {
            format!("guestfwd={text} is not such as tcp:10.0.2.100:80-tcp:127.0.0.1:8080")
        })?;
        if !config.contains(*forward.guest.ip()) || forward.guest.ip() == &config.host {
            return Err(format!(
                "guestfwd={text} begins at no free address of the network"
            ));
        }
        config.guest_forwards.push(forward);
    }
    Ok(config)
}

fn socket(props: &mut Props) -> Result<Address, String> {
    let what = "such as 127.0.0.1:5000 or unix:PATH";
    let place = |v: &str| match v.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Some((None, path.into())),
        Some(_) => None,
        None => Some((Some(host_addr(v)?), PathBuf::new())),
    };
    let listen = props.read("listen", what, place)?;
    let connect = props.read("connect", what, place)?;
    match (listen, connect) {
        (Some((Some(addr), _)), None) => Ok(Address::Listen(addr)),
        (Some((None, path)), None) => Ok(Address::ListenUnix(path)),
        (None, Some((Some(addr), _))) => Ok(Address::Connect(addr)),
        (None, Some((None, path))) => Ok(Address::ConnectUnix(path)),
        _ => Err("socket needs one of listen=HOST:PORT and connect=HOST:PORT".into()),
    }
}

fn tap(props: &mut Props) -> Result<String, String> {
    for key in ["script", "downscript"] {
        if props.text(key)?.is_some_and(|v| v != "no") {
            return Err(format!(
                "{key} is not supported: set the interface up yourself, {key}=no"
            ));
        }
    }
    let name = props.text("ifname")?;
    let name = name.ok_or("tap needs ifname=NAME: ip tuntap add NAME mode tap user USER")?;
    match name.len() {
        1..=15 => Ok(name),
        _ => Err(format!("ifname={name} is not of 1 to 15 bytes")),
    }
}

fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (addr, prefix) = text.split_once('/').unwrap_or((text, "24"));
    let prefix = prefix.parse().ok().filter(|p| (8..=29).contains(p))?;
    Some((addr.parse().ok()?, prefix))
}

/// `[tcp|udp]:[ADDR]:PORT-[ADDR]:PORT`. Without an address the host's port is on its loopback.
fn forward(text: &str) -> Option<Forward> {
    let (kind, rest) = text.split_once(':')?;
    let udp = match kind {
        "tcp" | "" => false,
        "udp" => true,
        _ => return None,
    };
    let (host, guest) = rest.rsplit_once('-')?;
    let (addr, port) = guest.rsplit_once(':')?;
    let guest = match addr {
        "" => None,
        addr => Some(addr.parse().ok()?),
    };
    let port = port.parse().ok().filter(|&p| p != 0)?;
    Some(Forward {
        udp,
        host: host_addr(host)?,
        guest: (guest, port),
    })
}

/// `[tcp]:ADDR:PORT-tcp:HOST:PORT`.
fn guest_forward(text: &str) -> Option<GuestForward> {
    let (kind, rest) = text.split_once(':')?;
    let (guest, host) = rest.split_once('-')?;
    let guest: SocketAddrV4 = guest.parse().ok()?;
    let host = host_addr(host.strip_prefix("tcp:")?)?;
    (matches!(kind, "tcp" | "") && guest.port() != 0).then_some(GuestForward { guest, host })
}

/// `[ADDR]:PORT`; a name is looked up.
fn host_addr(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    if addr.is_empty() {
        return Some((Ipv4Addr::LOCALHOST, port).into());
    }
    let bare = addr.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(addr) => Some((addr, port).into()),
        Err(_) => (addr, port).to_socket_addrs().ok()?.next(),
    }
}

/// `52:54:00:12:34:56`, of a single station.
pub fn mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|p| (1..=2).contains(&p.len()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

impl Backend {
    /// As the monitor shows it.
    fn about(&self) -> String {
        match self {
            Self::User(config) => {
                let (net, restrict) = (config.network.0, config.restrict);
                let restrict = if restrict { "on" } else { "off" };
                format!("type=user,net={net},restrict={restrict}")
            }
            Self::Socket(address) => format!("type=socket,{address}"),
            Self::Tap(name) => format!("type=tap,ifname={name}"),
        }
    }
}

/// A network's cable, and what is at its ends.
#[derive(Clone)]
pub struct Cable {
    pub link: Arc<Link>,
    /// Type and properties of the back end.
    pub backend: String,
    /// The NIC's model and address.
    pub nic: Option<(&'static str, Mac)>,
}

/// Where the frames for a guest wait whose run is a function of its inputs: they come in between two slices, and are noted. What the guest
/// sends goes on to the back end, or is lost; it never waits for that.
pub struct Door {
    /// The other end of the NIC's cable.
    nic: End,
    /// The NIC's end of the back end's cable; `None`: there is no back end, the frames are those of a record.
    host: Option<End>,
}

impl Door {
    /// Passes on, or drops, what the guest has sent.
    pub fn carry(&mut self, on: bool) {
        while let Some(frame) = self.nic.receive() {
            if let Some(host) = self.host.as_mut().filter(|_| on) {
                // A back end that has no room loses it, as a switch does.
                let _ = host.send(frame);
            } else {
                self.nic.recycle(frame.data);
            }
        }
    }

    /// The next frame for the guest, if it has room for one.
    pub fn arrived(&mut self) -> Option<Vec<u8>> {
        if !self.nic.has_room() {
            return None;
        }
        Some(self.host.as_mut()?.receive()?.data)
    }

    /// A frame is the guest's.
    pub fn deliver(&mut self, data: Vec<u8>) {
        // One that is too long, or too much, is lost.
        let _ = self.nic.send(data.into());
    }

    /// What was delivered and the NIC has not taken yet.
    pub fn waiting(&self) -> Waiting {
        Waiting {
            up: self.nic.is_up(),
            frames: self.nic.sent(),
        }
    }

    pub fn put_waiting(&self, waiting: Waiting) {
        self.nic.link().set_up(waiting.up);
        self.nic.put_sent(waiting.frames);
    }
}

/// What a NIC's cable holds for it.
#[derive(Clone)]
pub struct Waiting {
    up: bool,
    frames: Vec<Frame>,
}

/// How a machine's networks are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wiring {
    /// NIC and back end share a cable.
    #[default]
    Direct,
    /// By doors.
    Doors,
    /// The same, with nobody outside.
    Closed,
}

/// The networks of a machine.
#[derive(Default)]
pub struct Networks {
    cables: Vec<Cable>,
    /// In the order of `cables`, or none.
    pub doors: Vec<Door>,
    /// The NICs' ends that no NIC has taken yet.
    ends: Vec<End>,
    nics: u8,
}

impl Networks {
    /// Starts the back ends. `--nic` adds its devices to the list.
    pub fn new(
        netdevs: &[Netdev],
        nics: &[NicOption],
        devices: &mut Vec<devices::Device>,
        wiring: Wiring,
    ) -> Result<Self, Error> {
        let mut all = netdevs.to_vec();
        for (n, nic) in nics.iter().enumerate() {
            let NicOption::Nic { backend, device } = nic else {
                continue;
            };
            let mut netdev = backend.clone();
            if netdev.id.is_empty() {
                netdev.id = format!("#nic{n}");
            }
            let id = netdev.id.replace(',', ",,");
            let device = devices::parse(&format!("{device},netdev={id}"));
            devices.push(device.map_err(Error::Network)?);
            all.push(netdev);
        }
        let mut networks = Self::default();
        for netdev in &all {
            if networks.cables.iter().any(|c| c.link.id() == netdev.id) {
                return Err(Error::Network(format!(
                    "--netdev id={} is given twice",
                    netdev.id
                )));
            }
            let (nic, host) = Link::pair(&netdev.id);
            networks.cables.push(Cable {
                link: nic.link().clone(),
                backend: netdev.backend.about(),
                nic: None,
            });
            let host = match wiring {
                Wiring::Direct => Some(host),
                Wiring::Doors | Wiring::Closed => {
                    host.set_lossy();
                    let (outside, end) = match wiring {
                        Wiring::Doors => Some(Link::pair(&netdev.id)),
                        _ => None,
                    }
                    .unzip();
                    networks.doors.push(Door {
                        nic: host,
                        host: outside,
                    });
                    end
                }
            };
            if let Some(host) = host {
                match &netdev.backend {
                    Backend::User(config) => user::start((**config).clone(), host)?,
                    Backend::Socket(address) => wire::start_socket(address.clone(), host)?,
                    Backend::Tap(name) => wire::start_tap(name, host)?,
                }
            }
            networks.ends.push(nic);
        }
        Ok(networks)
    }

    /// The NIC's end of a network, which one NIC can have, and the NIC's address if it has not asked for one.
    pub fn take(
        &mut self,
        id: &str,
        model: &'static str,
        asked: Option<Mac>,
    ) -> Result<(End, Mac), Error> {
        let Some(cable) = self.cables.iter_mut().find(|c| c.link.id() == id) else {
            let hint = hint(id, self.cables.iter().map(|c| c.link.id()));
            return Err(Error::Network(format!(
                "netdev={id} is not there{hint}: give --netdev user,id={id}"
            )));
        };
        let Some(at) = self.ends.iter().position(|e| e.link().id() == id) else {
            return Err(Error::Network(format!(
                "netdev={id} has a NIC already: give each NIC its own --netdev"
            )));
        };
        let n = self.nics;
        self.nics = n.wrapping_add(1);
        let mac = asked.unwrap_or_else(|| {
            let mut mac = FIRST_MAC;
            mac[5] = mac[5].wrapping_add(n);
            mac
        });
        cable.nic = Some((model, mac));
        Ok((self.ends.remove(at), mac))
    }

    /// Whom to wake when a frame comes.
    pub fn set_waker(&self, waker: &Waker) {
        let inside = self.cables.iter().map(|c| &c.link);
        let outside = self.doors.iter().filter_map(|d| d.host.as_ref());
        let links: Vec<&Arc<Link>> = match self.doors.is_empty() {
            true => inside.collect(),
            false => outside.map(End::link).collect(),
        };
        for link in links {
            link.set_nic_waker(waker.clone());
        }
    }

    /// What connects the NICs.
    pub fn cables(&self) -> &[Cable] {
        &self.cables
    }

    pub fn is_empty(&self) -> bool {
        self.cables.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        match parse(text).unwrap().backend {
            Backend::User(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn user_networks() {
        let c = config(
            "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-10.0.2.20:5353",
        );
        assert!(c.restrict);
        assert_eq!(c.forwards[0].host, "127.0.0.1:2222".parse().unwrap());
        assert_eq!(
            (c.forwards[0].udp, c.forwards[0].guest),
            (false, (None, 22))
        );
        assert_eq!(c.forwards[1].host, "127.0.0.1:53".parse().unwrap());
        assert_eq!(
            c.forwards[1].guest,
            (Some(Ipv4Addr::new(10, 0, 2, 20)), 5353)
        );
        let c = config("user,id=n,guestfwd=tcp:10.0.2.100:80-tcp:[::1]:8080");
        assert_eq!(c.guest_forwards[0].host, "[::1]:8080".parse().unwrap());
        let c = config("user,id=n,net=192.168.7.0/24,dhcpstart=192.168.7.99");
        assert_eq!(c.host, Ipv4Addr::new(192, 168, 7, 2));
        for bad in [
            "user",
            "usr,id=n",
            "user,id=n,hostfwd=tcp:127.0.0.1:2222",
            "user,id=n,hostfwd=sctp::1-:2",
            "user,id=n,hostfwd=tcp::1-:0",
            "user,id=n,hostfwd=tcp::1-10.0.3.1:5",
            "user,id=n,guestfwd=tcp:10.0.3.1:80-tcp::80",
            "user,id=n,net=10.0.0.0/31",
            "user,id=n,dns=10.0.3.3",
            "user,id=n,dns=10.0.2.2",
            "user,id=n,restrict=maybe",
            "user,id=n,hostfdw=tcp::1-:2",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wires() {
        let backend = |text| parse(text).map(|n| n.backend);
        let at = "127.0.0.1:5000".parse().unwrap();
        assert_eq!(
            backend("socket,id=n,listen=:5000"),
            Ok(Backend::Socket(Address::Listen(at)))
        );
        assert_eq!(
            backend("socket,id=n,connect=unix:/x"),
            Ok(Backend::Socket(Address::ConnectUnix("/x".into())))
        );
        assert_eq!(
            backend("tap,id=n,ifname=tap0,script=no"),
            Ok(Backend::Tap("tap0".into()))
        );
        for bad in [
            "socket,id=n",
            "socket,id=n,listen=:1,connect=:2",
            "socket,id=n,listen=unix:",
            "tap,id=n",
            "tap,id=n,ifname=0123456789abcdef",
            "tap,id=n,ifname=a,script=/etc/x",
        ] {
            assert!(backend(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nics() {
        assert_eq!(parse_nic("none"), Ok(NicOption::None));
        let Ok(NicOption::Nic { device, .. }) = parse_nic("user,mac=52:54:0:0:0:1") else {
            panic!();
        };
        assert_eq!(device, "e1000,mac=52:54:0:0:0:1");
        for bad in ["user,model=ne3000", "user,mac=1", "none,model=e1000", "tup"] {
            assert!(parse_nic(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(mac("52:54:00:12:34:56"), Some(FIRST_MAC));
        for bad in [
            "",
            "52:54:00:12:34",
            "53:54:00:12:34:56",
            "0:0:0:0:0:0",
            "52:54:00:12:34:56:7",
        ] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
