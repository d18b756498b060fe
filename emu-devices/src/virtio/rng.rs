//! The entropy device.
//!
//! Source: virtio 1.2, 5.4. A request is a place for bytes, and gets at most [`MOST`]. They come from the host, or, where a run is to be a
//! function of its inputs, from a seed.

use super::*;
use crate::state;

/// Bytes that one request gets at most.
const MOST: u64 = 4096;

/// Where the bytes come from.
pub enum Source {
    /// The host; false: it has none now, and the request gets nothing.
    Host(Box<dyn FnMut(&mut [u8]) -> bool + Send>),
    /// This seed, which is the state of a generator (splitmix64).
    Seeded(u64),
}

/// The device.
pub struct Rng {
    source: Source,
}

impl Rng {
    pub fn new(source: Source) -> Self {
        Self { source }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        match &mut self.source {
            Source::Host(read) => read(bytes),
            Source::Seeded(state) => {
                for part in bytes.chunks_mut(8) {
                    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mut z = *state;
                    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                    part.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..part.len()]);
                }
                true
            }
        }
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> Kind {
        Kind {
            id: 4,
            transitional: Some(0x1005),
            class: [0xff, 0, 0],
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![64]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        let mut bytes = [0; MOST as usize];
        while let Some(mut chain) = x.pop(queue)? {
            let n = chain.writable.left().min(MOST);
            let bytes = &mut bytes[..n as usize];
            let done = self.fill(bytes) && chain.writable.write(bytes, x.memory).is_ok();
            x.spend(n);
            x.push(queue, &chain, if done { n as u32 } else { 0 })?;
        }
        Ok(())
    }

    fn reset(&mut self) {}

    fn save(&self) -> Vec<u8> {
        match &self.source {
            Source::Host(_) => Vec::new(),
            Source::Seeded(state) => state::to_bytes(state),
        }
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        match &mut self.source {
            Source::Host(_) => bytes.is_empty(),
            Source::Seeded(state) => state::from_bytes(bytes).map(|s| *state = s).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::*;

    #[test]
    fn bytes_of_a_seed_and_of_the_host() {
        let ask = |source| {
            let mut d = Driver::ready(Box::new(Rng::new(source)));
            let a = d.request(0, &[], 12).unwrap();
            (a, d.request(0, &[], 1 << 16).unwrap())
        };
        let (a, b) = ask(Source::Seeded(0));
        // The first value of splitmix64 from 0.
        assert_eq!(a[..8], 0xe220_a839_7b1d_cdafu64.to_le_bytes());
        assert_eq!((a.len(), b.len()), (12, MOST as usize));
        assert_eq!(ask(Source::Seeded(0)), (a, b));
        let host = |bytes: &mut [u8]| {
            bytes.fill(7);
            bytes.len() < 100
        };
        let (a, b) = ask(Source::Host(Box::new(host)));
        assert_eq!((a, b), (vec![7; 12], Vec::new()));
    }
}
