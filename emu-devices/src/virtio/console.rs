//! The console device with one port.
//!
//! Source: virtio 1.2, 5.3. Queue 0 takes bytes to the guest, queue 1 brings them from it; without MULTIPORT there are no others. The host
//! side is a [`CharBackend`], which keeps what the guest has no buffer for.

use super::*;
use crate::backend::CharBackend;

const F_EMERG_WRITE: u64 = 1 << 2;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Where a character for emergencies is written in the configuration.
const EMERGENCY: usize = 8;

/// The device.
pub struct Console {
    backend: CharBackend,
}

impl Console {
    /// A console whose backend's queue announces input to the board.
    pub fn new(backend: CharBackend) -> Self {
        Self { backend }
    }

    fn receive(&mut self, x: &mut Context) -> Result<(), Broken> {
        if !x.queues[RECEIVE].is_enabled() {
            return Ok(());
        }
        while self.backend.wants_polling()
            && let Some(mut chain) = x.pop(RECEIVE)?
        {
            let mut bytes = Vec::new();
            let most = chain.writable.left().min(4096) as usize;
            self.backend.receive(most, |byte| bytes.push(byte));
            if bytes.is_empty() {
                x.queues[RECEIVE].unpop(1);
                break;
            }
            let done = chain.writable.write(&bytes, x.memory).is_ok();
            x.push(RECEIVE, &chain, if done { bytes.len() as u32 } else { 0 })?;
        }
        Ok(())
    }

    fn transmit(&mut self, x: &mut Context) -> Result<(), Broken> {
        while let Some(mut chain) = x.pop(TRANSMIT)? {
            let mut bytes = [0; 4096];
            // What is longer than any budget is cut off.
            let mut left = chain.readable.left().min(Context::BUDGET);
            x.spend(left);
            while left > 0 {
                let n = left.min(4096);
                let part = &mut bytes[..n as usize];
                if chain.readable.read(part, x.memory).is_err() {
                    break;
                }
                part.iter().for_each(|&byte| self.backend.put(byte));
                left -= n;
            }
            x.push(TRANSMIT, &chain, 0)?;
        }
        self.backend.flush();
        Ok(())
    }
}

impl VirtioDevice for Console {
    fn kind(&self) -> Kind {
        Kind {
            id: 3,
            transitional: Some(0x1003),
            class: [7, 0x80, 0],
        }
    }

    fn features(&self) -> u64 {
        F_EMERG_WRITE
    }

    fn queues(&self) -> Vec<u16> {
        vec![128, 128]
    }

    fn config(&self) -> Vec<u8> {
        // Columns, rows, ports: only with features that are not offered.
        vec![0; EMERGENCY + 4]
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        if let (EMERGENCY, [byte, ..]) = (offset, data) {
            self.backend.put(*byte);
            self.backend.flush();
        }
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        match queue {
            RECEIVE => self.receive(x),
            _ => self.transmit(x),
        }
    }

    fn poll(&mut self, x: &mut Context) -> Result<(), Broken> {
        self.receive(x)
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::InputQueue;
    use crate::pci::PciDevice;
    use crate::virtio::testing::*;
    use std::sync::Arc;

    #[test]
    fn both_directions() {
        let (backend, out) = CharBackend::memory();
        let input = Arc::new(InputQueue::announced());
        let mut d = Driver::ready(Box::new(Console::new(backend.with_input(input.clone()))));
        assert_eq!(d.request(1, b"no newline", 0), Some(vec![]));
        assert_eq!(out.bytes(), b"no newline");
        input.push(b"early");
        d.dev.poll(0);
        d.add(0, &[(BUFFERS, 3, true)]);
        d.kick(0);
        assert_eq!((d.used(0), d.read(BUFFERS)), (Some((0, 3)), *b"ear"));
        d.add(0, &[(BUFFERS, 30, true)]);
        d.kick(0);
        assert_eq!((d.used(0), d.read(BUFFERS)), (Some((0, 2)), *b"ly"));
        d.add(0, &[(BUFFERS, 30, true)]);
        d.kick(0);
        assert_eq!(d.used(0), None);
        input.push(b"late");
        d.dev.poll(0);
        assert_eq!((d.used(0), d.read(BUFFERS)), (Some((0, 4)), *b"late"));
        d.dev.bar_write(4, pci::DEVICE + 8, 4, b'!' as u64, 0);
        assert_eq!(out.bytes(), b"no newline!");
    }
}
