//! Which frames are received: addresses, VLANs, lengths (SDM, 3.2.1 and 9.3).

use super::*;

const RCTL_UPE: u32 = 1 << 3;
const RCTL_MPE: u32 = 1 << 4;
const RCTL_LPE: u32 = 1 << 5;
const RCTL_BAM: u32 = 1 << 15;
const RCTL_VFE: u32 = 1 << 18;
const RCTL_CFIEN: u32 = 1 << 19;
const RCTL_CFI: u32 = 1 << 20;
const RCTL_SBP: u32 = 1 << 2;

/// The longest frame with FCS that is ever received, and without long packet enable (with a tag: 4 more).
const LONGEST: usize = 16384;
const LONGEST_NORMAL: usize = 1518;

impl E1000 {
    /// The VLAN tag of a frame whose type is VET's.
    pub(super) fn tag(&self, frame: &[u8]) -> Option<u16> {
        let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
        let tag = u16::from_be_bytes([*frame.get(14)?, *frame.get(15)?]);
        (kind as u32 == self.reg(VET) & 0xffff).then_some(tag)
    }

    /// Whether a frame (without FCS) is for this adapter.
    pub(super) fn wants(&mut self, frame: &[u8]) -> bool {
        let rctl = self.reg(RCTL);
        let tag = self.tag(frame);
        let length = frame.len() + 4;
        let normal = LONGEST_NORMAL + if tag.is_some() { 4 } else { 0 };
        if length > LONGEST || length > normal && rctl & (RCTL_LPE | RCTL_SBP) == 0 {
            self.count(stats::ROC);
            return false;
        }
        if rctl & RCTL_VFE != 0
            && let Some(tag) = tag
        {
            let id = tag as usize & 0xfff;
            let listed = self.reg(VFTA + 4 * (id >> 5)) & 1 << (id & 31) != 0;
            let cfi = tag & 0x1000 != 0;
            if !listed || rctl & RCTL_CFIEN != 0 && cfi != (rctl & RCTL_CFI != 0) {
                return false;
            }
        }
        self.is_addressed(&frame[..6], rctl)
    }

    fn is_addressed(&self, to: &[u8], rctl: u32) -> bool {
        if to == [0xff; 6] {
            return rctl & (RCTL_BAM | RCTL_MPE) != 0 || self.has_address(to);
        }
        let multicast = to[0] & 1 != 0;
        if rctl & if multicast { RCTL_MPE } else { RCTL_UPE } != 0 || self.has_address(to) {
            return true;
        }
        multicast && {
            // Twelve bits of the address choose a bit of the table; RCTL.MO says which twelve.
            let shift = [4, 3, 2, 0][(rctl >> 12 & 3) as usize];
            let hash = (u16::from_le_bytes([to[4], to[5]]) >> shift & 0xfff) as usize;
            self.reg(MTA + 4 * (hash >> 5)) & 1 << (hash & 31) != 0
        }
    }

    /// One of the sixteen receive addresses that are valid and compared with the destination.
    fn has_address(&self, to: &[u8]) -> bool {
        (0..16).any(|n| {
            let low = self.reg(RAL + 8 * n).to_le_bytes();
            let high = self.reg(RAL + 8 * n + 4);
            high & 0x8003_0000 == 0x8000_0000
                && to[..4] == low
                && to[4..] == high.to_le_bytes()[..2]
        })
    }
}
