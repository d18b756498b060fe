//! What becomes of a guest's output when several machines run in one process: it is written, dropped, or written while a
//! gate is open (a machine that goes back in time says things twice).

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// See the module's comment.
#[derive(Clone, Debug, Default)]
pub enum Output {
    #[default]
    Written,
    Gated(Arc<AtomicBool>),
    Dropped,
}

impl Output {
    pub fn is_dropped(&self) -> bool {
        matches!(self, Self::Dropped)
    }

    /// The output as the guest's device shall have it; to the guest something is connected in any case.
    pub fn wrap(&self, to: Box<dyn Write + Send>) -> Box<dyn Write + Send> {
        match self {
            Self::Written => to,
            Self::Gated(open) => Box::new(Gate {
                open: open.clone(),
                to,
            }),
            Self::Dropped => Box::new(io::sink()),
        }
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
