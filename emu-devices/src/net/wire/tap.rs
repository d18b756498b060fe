//! A tap interface of the host: each read and write of its file is a frame.
//!
//! Source: Linux, Documentation/networking/tuntap.rst.

use super::super::MAX_FRAME;
use super::*;
use mio::unix::SourceFd;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

const DEVICE: &str = "/dev/net/tun";
/// The longest name of an interface.
const NAME: usize = 15;

struct Tap(File);

impl Outside for Tap {
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write(frame).map(|_| ())
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        frame.resize(MAX_FRAME, 0);
        let n = self.0.read(frame)?;
        frame.truncate(n);
        Ok(())
    }
}

/// Makes the open file that of an interface.
#[allow(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
fn attach(file: &File, name: &str) -> io::Result<()> {
    // struct ifreq: the name, then the flags at the head of a union that makes it 40 bytes.
    let mut request = [0u8; 40];
    let length = name.len().min(NAME);
    request[..length].copy_from_slice(&name.as_bytes()[..length]);
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    const { assert!(size_of::<libc::ifreq>() == 40) };
    // SAFETY: the descriptor is open for the whole call, and TUNSETIFF reads and writes one `struct ifreq` at the pointer, which is
    // the size of `request`; bytes have no invalid values.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn start(name: &str, mut end: End) -> Result<(), Error> {
    let open = || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)?;
        attach(&file, name)?;
        Ok(file)
    };
    let file = open().map_err(|source: io::Error| Error::Open {
        what: "tap interface",
        name: name.into(),
        hint: match source.kind() {
            io::ErrorKind::PermissionDenied => {
                ": make it first, as root: ip tuntap add NAME mode tap user USER"
            }
            _ => "",
        },
        source,
    })?;
    let mut poll = poll_for(&end)?;
    std::thread::Builder::new()
        .name("net-tap".into())
        .spawn(move || {
            carry(&mut poll, &mut end, &mut Tap(file), |tap, registry| {
                watch(&mut SourceFd(&tap.0.as_raw_fd()), registry)
            })
        })?;
    Ok(())
}
