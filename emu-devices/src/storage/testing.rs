//! Guest memory and random numbers for the controllers' tests.

use crate::chips::fw_cfg::GuestMemory;
use std::sync::{Arc, Mutex};

/// Memory from address 0 on; nothing else is memory.
pub struct Ram(Mutex<Vec<u8>>);

impl Ram {
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; size])))
    }

    pub fn bytes(&self, at: usize, n: usize) -> Vec<u8> {
        self.0.lock().unwrap()[at..at + n].to_vec()
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        self.0.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl GuestMemory for Ram {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let ram = self.0.lock().unwrap();
        let range = usize::try_from(addr)
            .ok()
            .and_then(|a| Some(a..a.checked_add(buf.len())?));
        let found = range.and_then(|r| ram.get(r));
        found.map(|r| buf.copy_from_slice(r)).is_some()
    }
    fn write(&self, addr: u64, buf: &[u8]) -> bool {
        let mut ram = self.0.lock().unwrap();
        let range = usize::try_from(addr)
            .ok()
            .and_then(|a| Some(a..a.checked_add(buf.len())?));
        let found = range.and_then(|r| ram.get_mut(r));
        found.map(|r| r.copy_from_slice(buf)).is_some()
    }
}
