//! TCP for displays: a port, a bounded number of clients, a thread for each.

use crate::error::Error;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// Clients of one display at most.
const CLIENTS: usize = 8;
/// A client that takes nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes a port.
pub fn bind(what: &'static str, host: &str, port: u16) -> Result<TcpListener, Error> {
    let fail = |source: std::io::Error| Error::DisplayPort {
        what,
        place: format!("{host}:{port}"),
        source,
    };
    let addresses: Vec<_> = (host, port).to_socket_addrs().map_err(fail)?.collect();
    TcpListener::bind(&addresses[..]).map_err(fail)
}

/// A client's place.
pub struct Place {
    taken: Arc<AtomicUsize>,
    /// False: there are too many, and this one is only told so.
    pub admitted: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, SeqCst);
    }
}

/// Accepts clients for ever. `serve` gets each in a thread of its own.
pub fn serve(listener: &TcpListener, serve: impl Fn(TcpStream, Place) + Send + Sync + 'static) {
    let serve = Arc::new(serve);
    let count = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, perhaps: not at once again.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let before = count.fetch_add(1, SeqCst);
        let place = Place {
            taken: count.clone(),
            admitted: before < CLIENTS,
        };
        if before >= 2 * CLIENTS {
            // Those that are being turned away have threads too.
            continue;
        }
        let set = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        if set.is_err() {
            continue;
        }
        let serve = serve.clone();
        // Without a thread the client finds its connection closed.
        let _ = std::thread::Builder::new()
            .name("client".into())
            .spawn(move || serve(stream, place));
    }
}
