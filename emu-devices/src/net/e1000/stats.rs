//! The statistics registers: they count to their end, and a read clears them (SDM, 13.7).

use super::*;

pub const MPC: usize = 0x4010;
const PRC64: usize = 0x405c;
const GPRC: usize = 0x4074;
const BPRC: usize = 0x4078;
const MPRC: usize = 0x407c;
const GPTC: usize = 0x4080;
const GORCL: usize = 0x4088;
const GOTCL: usize = 0x4090;
pub const RNBC: usize = 0x40a0;
pub const ROC: usize = 0x40ac;
const TORL: usize = 0x40c0;
const TOTL: usize = 0x40c8;
const TPR: usize = 0x40d0;
const TPT: usize = 0x40d4;
const PTC64: usize = 0x40d8;
const MPTC: usize = 0x40f0;
const BPTC: usize = 0x40f4;
pub const TSCTC: usize = 0x40f8;

impl E1000 {
    /// The high half of a 64-bit counter clears the pair.
    pub(super) fn read_statistic(&mut self, at: usize) -> u32 {
        let value = self.reg(at);
        match at & !7 {
            GORCL | GOTCL | TORL | TOTL if at & 4 == 0 => {}
            GORCL | GOTCL | TORL | TOTL => {
                *self.reg_mut(at) = 0;
                *self.reg_mut(at & !7) = 0;
            }
            _ => *self.reg_mut(at) = 0,
        }
        value
    }

    pub(super) fn count(&mut self, at: usize) {
        let counter = self.reg_mut(at);
        *counter = counter.saturating_add(1);
    }

    fn count_octets(&mut self, at: usize, n: usize) {
        let total = self.reg(at) as u64 | (self.reg(at + 4) as u64) << 32;
        let total = total.saturating_add(n as u64);
        *self.reg_mut(at) = total as u32;
        *self.reg_mut(at + 4) = (total >> 32) as u32;
    }

    fn size_class(length: usize) -> usize {
        let limits = [64, 127, 255, 511, 1023];
        4 * limits
            .iter()
            .position(|&most| length <= most)
            .unwrap_or(limits.len())
    }

    /// A frame was received; the length is that with FCS.
    pub(super) fn count_received(&mut self, to: &[u8], length: usize) {
        self.count(PRC64 + Self::size_class(length));
        self.count(GPRC);
        self.count(TPR);
        self.count_octets(GORCL, length);
        self.count_octets(TORL, length);
        if to == [0xff; 6] {
            self.count(BPRC);
        } else if to[0] & 1 != 0 {
            self.count(MPRC);
        }
    }

    /// A frame was sent.
    pub(super) fn count_sent(&mut self, to: &[u8], length: usize) {
        self.count(PTC64 + Self::size_class(length));
        self.count(GPTC);
        self.count(TPT);
        self.count_octets(GOTCL, length);
        self.count_octets(TOTL, length);
        if to == [0xff; 6] {
            self.count(BPTC);
        } else if to[0] & 1 != 0 {
            self.count(MPTC);
        }
    }
}
