//! The memory balloon.
//!
//! Source: virtio 1.2, 5.5. The host sets a target ([`BalloonTarget`]); the driver takes pages from its kernel, names them in queue 0, and
//! does not touch them until it has named them in queue 1. Their contents are undefined meanwhile, so the host's memory behind them is given
//! back at once. Queue 2 reports pages that are free just now (5.5.6.7): the same, without a target.

use super::*;
use crate::state;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_PAGE_REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;

const PAGE: u64 = 4096;
/// Where the driver says how large the balloon is.
const ACTUAL: usize = 4;
/// Pages of one request at most; Linux sends 256.
const MOST: u64 = 1 << 16;

/// What the host wants of the balloon and what it has got, in pages of 4 KiB. Shared with the monitor, which has the board poll after
/// a change.
#[derive(Debug, Default)]
pub struct BalloonTarget {
    pages: AtomicU32,
    actual: AtomicU32,
}

impl BalloonTarget {
    /// Asks the guest to give up this many pages.
    pub fn set(&self, pages: u32) {
        self.pages.store(pages, SeqCst);
    }

    /// How many it says it has given up.
    pub fn actual(&self) -> u32 {
        self.actual.load(SeqCst)
    }
}

/// The device.
pub struct Balloon {
    target: Arc<BalloonTarget>,
    /// The target as the driver has been told.
    told: u32,
}

impl Balloon {
    pub fn new(target: Arc<BalloonTarget>) -> Self {
        let told = target.pages.load(SeqCst);
        Self { target, told }
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> Kind {
        Kind {
            id: 5,
            transitional: Some(0x1002),
            class: [0xff, 0, 0],
        }
    }

    fn features(&self) -> u64 {
        F_DEFLATE_ON_OOM | F_PAGE_REPORTING
    }

    fn queues(&self) -> Vec<u16> {
        vec![128, 128, 32]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = self.told.to_le_bytes().to_vec();
        c.extend(self.target.actual().to_le_bytes());
        c
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        if let (ACTUAL, Ok(bytes)) = (offset, data.try_into()) {
            self.target.actual.store(u32::from_le_bytes(bytes), SeqCst);
        }
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        while let Some(mut chain) = x.pop(queue)? {
            match queue {
                INFLATE => {
                    let count = (chain.readable.left() / 4).min(MOST);
                    for _ in 0..count {
                        // A page that is no RAM is the driver's mistake and costs nobody anything.
                        let Ok(page) = chain.readable.get(x.memory) else {
                            break;
                        };
                        x.memory
                            .discard(u32::from_le_bytes(page) as u64 * PAGE, PAGE);
                    }
                    x.spend(count * PAGE);
                }
                // The pages are there again when they are touched.
                DEFLATE => {}
                _ => {
                    for (address, length) in chain.writable.iter() {
                        x.memory.discard(address, length as u64);
                        x.spend(length as u64);
                    }
                }
            }
            x.push(queue, &chain, 0)?;
        }
        Ok(())
    }

    fn poll(&mut self, x: &mut Context) -> Result<(), Broken> {
        let pages = self.target.pages.load(SeqCst);
        if pages != self.told {
            self.told = pages;
            x.config_changed();
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.target.actual.store(0, SeqCst);
        self.told = self.target.pages.load(SeqCst);
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&(self.told, self.target.actual()))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((told, actual)) = state::from_bytes(bytes) else {
            return false;
        };
        self.told = told;
        self.target.pages.store(told, SeqCst);
        self.target.actual.store(actual, SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::PciDevice;
    use crate::virtio::testing::*;

    #[test]
    fn pages_go_and_come_back() {
        let target = Arc::new(BalloonTarget::default());
        let mut d = Driver::ready(Box::new(Balloon::new(target.clone())));
        target.set(2);
        let generation = d.read_common(0x15, 1);
        d.dev.poll(0);
        assert_ne!(d.read_common(0x15, 1), generation);
        assert_eq!(d.dev.bar_read(4, pci::DEVICE, 4, 0), 2);
        for page in [0x300, 0x301, 0x302] {
            d.write(page * PAGE, &[0xaa; 4096]);
        }
        let mut list = Vec::new();
        for page in [0x300u32, 0x302, 0xfee00, u32::MAX] {
            list.extend(page.to_le_bytes());
        }
        d.request(0, &list, 0).unwrap();
        d.dev.bar_write(4, pci::DEVICE + 4, 4, 2, 0);
        assert_eq!(target.actual(), 2);
        assert_eq!(d.read(0x300 * PAGE), [0; 4096]);
        assert_eq!(d.read(0x301 * PAGE), [0xaa; 4096]);
        assert_eq!(d.read(0x302 * PAGE), [0; 4096]);
        d.request(1, &list, 0).unwrap();
        d.write(0x300 * PAGE, &[1]);
        // Free pages are reported as buffers to be written.
        d.add(
            2,
            &[(0x301 * PAGE, 4096, true), (u64::MAX - 4095, 4096, true)],
        );
        d.kick(2);
        assert_eq!(d.used(2), Some((0, 0)));
        assert_eq!(
            (d.read(0x301 * PAGE), d.read(0x300 * PAGE)),
            ([0; 16], [1, 0])
        );
    }
}
