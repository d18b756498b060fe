//! Where a monitor listens: `unix:PATH` or `tcp:HOST:PORT`.
//!
//! Who reaches a monitor has the machine and, through commands that write files, the account that runs it. So a socket file
//! is for its owner only, and a TCP port is on the loopback interface unless another address is written out.

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Clients that may wait to be let in.
const BACKLOG: i32 = 8;

/// What `--qmp` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(String, u16),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give unix:PATH or tcp:HOST:PORT, such as tcp:127.0.0.1:4444".to_string();
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        // What QEMU's users write behind the address: it is so anyway.
        let mut parts = rest.split(',');
        let place = parts.next().unwrap_or_default();
        for option in parts {
            match option {
                "server" | "server=on" | "nowait" | "wait=off" => {}
                "server=off" | "wait" | "wait=on" => {
                    return Err(format!(
                        "{option} is not supported: emu listens and does not wait (--paused holds the guest)"
                    ));
                }
                _ => {
                    return Err(format!(
                        "unknown option \"{option}\" (known: server, wait=off)"
                    ));
                }
            }
        }
        match kind {
            "unix" if !place.is_empty() => Ok(Self::Unix(place.into())),
            "tcp" => {
                let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
                let port = port.parse().map_err(|_| {
                    format!("\"{port}\" is no port: give a number from 0 (any free one) to 65535")
                })?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Ok(Self::Tcp(host.into(), port))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// What `--monitor` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Stdio,
    /// Nowhere.
    None,
    At(Address),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdio" | "mon:stdio" => Ok(Self::Stdio),
            "none" | "null" => Ok(Self::None),
            _ if text.contains(':') => text.parse().map(Self::At),
            _ => Err("give stdio, none, unix:PATH or tcp:HOST:PORT".into()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::None => f.write_str("none"),
            Self::At(at) => at.fmt(f),
        }
    }
}

/// A place where one cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{0}: the path exists and is not a socket: remove it or choose another")]
    NotASocket(Address),
    #[error("{0}: another program listens there: choose another")]
    Taken(Address),
    #[error("{0}: cannot listen: {1}")]
    Io(Address, io::Error),
}

/// A place where clients come in.
pub enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

/// A client's connection.
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// Begins to listen, without blocking.
    pub fn bind(at: &Address) -> Result<Self, ListenError> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::AddrInUse => ListenError::Taken(at.clone()),
            _ => ListenError::Io(at.clone(), e),
        };
        let listener = match at {
            Address::Unix(path) => {
                make_room(at, path)?;
                let listener = bind_private(path).map_err(failed)?;
                Self::Unix(listener, path.clone())
            }
            Address::Tcp(host, port) => {
                let listener = match &host[..] {
                    "" => TcpListener::bind((Ipv4Addr::LOCALHOST, *port)),
                    host => (host, *port)
                        .to_socket_addrs()
                        .and_then(|list| TcpListener::bind(&list.collect::<Vec<_>>()[..])),
                };
                Self::Tcp(listener.map_err(failed)?)
            }
        };
        match &listener {
            Self::Unix(l, _) => l.set_nonblocking(true),
            Self::Tcp(l) => l.set_nonblocking(true),
        }
        .map_err(failed)?;
        Ok(listener)
    }

    /// The address that is not this host's alone, if it is such a one.
    pub fn reachable_from_outside(&self) -> Option<IpAddr> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(l) => l
                .local_addr()
                .ok()
                .map(|a| a.ip())
                .filter(|ip| !ip.is_loopback()),
        }
    }

    /// The port that a port of 0 has become.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(l) => l.local_addr().ok().map(|a| a.port()),
        }
    }

    /// The next client, if one waits.
    pub fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Unix(l, _) => {
                let (stream, _) = l.accept()?;
                stream.set_nonblocking(true)?;
                Stream::Unix(stream)
            }
            Self::Tcp(l) => {
                let (stream, _) = l.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the socket file of a program that has not tidied up.
fn make_room(at: &Address, path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if !meta.file_type().is_socket() => Err(ListenError::NotASocket(at.clone())),
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|e| ListenError::Io(at.clone(), e))
            }
            Ok(_) => Err(ListenError::Taken(at.clone())),
            Err(e) => Err(ListenError::Io(at.clone(), e)),
        },
    }
}

/// A socket file that nobody else could ever connect to: nothing is let in before its mode is set.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(l, _) => l.as_fd(),
            Self::Tcp(l) => l.as_fd(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(s) => s.as_fd(),
            Self::Tcp(s) => s.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.read(buf),
            Self::Tcp(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.write(data),
            Self::Tcp(s) => s.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Ok(Address::Tcp(host.into(), port));
        assert_eq!("tcp:127.0.0.1:4444".parse(), tcp("127.0.0.1", 4444));
        assert_eq!("tcp::0".parse(), tcp("", 0));
        assert_eq!("tcp:[::1]:1,server,nowait".parse(), tcp("::1", 1));
        assert_eq!(
            "unix:/run/a b,server=on,wait=off".parse(),
            Ok(Address::Unix("/run/a b".into()))
        );
        for bad in [
            "",
            "tcp",
            "tcp:4444x",
            "tcp:h:65536",
            "tcp:h:-1",
            "unix:",
            "udp:h:1",
            "unix:a,server=off",
            "unix:a,x",
            "stdio:",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        for text in ["tcp:[::1]:7", "tcp:localhost:7", "unix:/a/b"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_socket_file_is_private_and_replaced_only_when_dead() {
        let path = std::env::temp_dir().join(format!("emu-listen-{}", std::process::id()));
        let at = Address::Unix(path.clone());
        let first = Listener::bind(&at).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(matches!(Listener::bind(&at), Err(ListenError::Taken(_))));
        drop(first);
        assert!(!path.exists());
        // As a killed program leaves it.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&at).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Listener::bind(&at),
            Err(ListenError::NotASocket(_))
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_port_without_a_host_is_on_loopback() {
        let listener = Listener::bind(&"tcp::0".parse().unwrap()).unwrap();
        assert_eq!(listener.reachable_from_outside(), None);
        let port = listener.port().unwrap();
        let again = Listener::bind(&Address::Tcp("127.0.0.1".into(), port));
        assert!(matches!(again, Err(ListenError::Taken(_))));
        let open = Listener::bind(&"tcp:0.0.0.0:0".parse().unwrap()).unwrap();
        assert!(open.reachable_from_outside().is_some());
    }
}
