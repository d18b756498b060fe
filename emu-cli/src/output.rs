//! What becomes of a guest's output when several machines run in one process: it is written, dropped, or written while a
//! gate is open (a machine that goes back in time says things twice). What is meant for a terminal that the debugger's full-screen
//! view has is kept for it instead.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Bytes that are kept for who shows them; of more, the last.
const KEPT: usize = 256 << 10;

/// Output on its way to who shows it.
#[derive(Debug, Default)]
pub struct Kept(Mutex<VecDeque<u8>>);

impl Kept {
    /// What has come since the last call.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner())).into()
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let more = kept.len().saturating_sub(KEPT);
        kept.drain(..more);
    }
}

/// See the module's comment.
#[derive(Clone, Debug, Default)]
pub enum Output {
    #[default]
    Written,
    Gated(Arc<AtomicBool>),
    Dropped,
    /// What would go to standard output is kept; files are written.
    Kept(Arc<Kept>),
    /// The same, or not, while a gate is open: the machine goes back in time.
    Timed(Arc<AtomicBool>, Option<Arc<Kept>>),
}

impl Output {
    pub fn is_dropped(&self) -> bool {
        matches!(self, Self::Dropped)
    }

    /// Whether several machines share what there is of the host.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Gated(_) | Self::Dropped)
    }

    /// Standard output as the guest's device shall have it.
    pub fn stdout(&self) -> Box<dyn Write + Send> {
        match self {
            Self::Kept(kept) => Box::new(Keeper(kept.clone())),
            Self::Timed(_, Some(kept)) => self.wrap(Box::new(Keeper(kept.clone()))),
            _ => self.wrap(Box::new(io::stdout())),
        }
    }

    /// The output as the guest's device shall have it; to the guest something is connected in any case.
    pub fn wrap(&self, to: Box<dyn Write + Send>) -> Box<dyn Write + Send> {
        match self {
            Self::Written | Self::Kept(_) => to,
            Self::Gated(open) | Self::Timed(open, _) => Box::new(Gate {
                open: open.clone(),
                to,
            }),
            Self::Dropped => Box::new(io::sink()),
        }
    }
}

struct Keeper(Arc<Kept>);

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.add(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Gate {
    open: Arc<AtomicBool>,
    to: Box<dyn Write + Send>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.load(Relaxed) {
            self.to.write(bytes)
        } else {
            Ok(bytes.len())
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_much_is_kept() {
        let kept = Arc::new(Kept::default());
        let mut out = Output::Kept(kept.clone()).stdout();
        out.write_all(&vec![b'a'; KEPT - 1]).unwrap();
        out.write_all(b"bc").unwrap();
        let got = kept.take();
        assert_eq!((got.len(), &got[KEPT - 3..]), (KEPT, &b"abc"[..]));
        assert!(kept.take().is_empty());
        out.write_all(&vec![b'd'; 3 * KEPT]).unwrap();
        assert_eq!(kept.take().len(), KEPT);
    }
}
