//! The list of capabilities in configuration space.
//!
//! Source: PCI Local Bus Specification 3.0, 6.7: the pointer at 34h leads to the first, each names the next in its second byte,
//! and status bit 4 says that there is a list. A device builds its list once; the guest only reads it.

use super::{ConfigSpace, STATUS};

/// The first capability's place.
pub const CAPABILITIES: usize = 0x34;
pub const POWER_MANAGEMENT: u8 = 0x01;
pub const MSI: u8 = 0x05;
pub const VENDOR_SPECIFIC: u8 = 0x09;
pub const PCI_EXPRESS: u8 = 0x10;
pub const MSIX: u8 = 0x11;
pub const SATA: u8 = 0x12;

impl ConfigSpace {
    /// Appends a capability to the list: its id at `at` (a multiple of 4 behind the header), a link, then `body`, read-only until
    /// [`allow`](Self::allow) says otherwise. Offsets in data sheets count from the id.
    pub fn add_capability(&mut self, at: usize, id: u8, body: &[u8]) -> &mut Self {
        assert!(at >= 0x40 && at.is_multiple_of(4) && at + 2 + body.len() <= 0x100);
        let last = self.capabilities().last();
        self.set(last.map_or(CAPABILITIES, |c| c + 1), &[at as u8])
            .set(at, &[id, 0])
            .set(at + 2, body);
        let status = self.byte(STATUS) | 0x10;
        self.set(STATUS, &[status])
    }

    /// Where the capability with this id is.
    pub fn capability(&self, id: u8) -> Option<usize> {
        self.capabilities().find(|&at| self.byte(at) == id)
    }

    /// Where the capabilities are, in the list's order.
    fn capabilities(&self) -> impl Iterator<Item = usize> {
        let link = |at: usize| Some(self.byte(at) as usize).filter(|&next| next != 0);
        std::iter::successors(link(CAPABILITIES), move |&at| link(at + 1)).take(48)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_order() {
        let mut c = ConfigSpace::new(1, 2, [0, 0, 0], 0);
        assert_eq!((c.capability(MSI), c.byte(STATUS) & 0x10), (None, 0));
        c.add_capability(0x80, MSI, &[0x80, 0])
            .add_capability(0x50, POWER_MANAGEMENT, &[3]);
        assert_eq!(c.byte(CAPABILITIES), 0x80);
        assert_eq!(c.dword(0x80), 0x0080_5005);
        assert_eq!(c.dword(0x50), 0x0003_0001);
        assert_eq!(c.byte(STATUS) & 0x10, 0x10);
        assert_eq!(c.capability(POWER_MANAGEMENT), Some(0x50));
        c.write(CAPABILITIES, 4, u32::MAX);
        c.write(0x80, 4, 0);
        assert_eq!(c.capability(MSI), Some(0x80), "the guest cannot change it");
    }
}
