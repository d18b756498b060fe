//! The PC/AT's DMA: two Intel 8237A controllers in cascade, with the page registers that give the upper address bits.
//!
//! Source: Intel 8237A data sheet; IBM PC/AT technical reference (cascade, page registers); 82371SB, 2.5.1.
//!
//! Channels 0 to 3 move bytes, 5 to 7 words; channel 4 is the cascade, so that channels 0 to 3 are served only while it
//! is unmasked and in cascade mode. A device that asserts DREQ hands its data to [`Dma::transfer`], which moves what the
//! channel takes until its terminal count. Addresses wrap inside their page. Memory-to-memory transfers and software
//! requests, which no PC uses, are not carried out.

use super::fw_cfg::GuestMemory;
use serde::{Deserialize, Serialize};

const COMMAND_DISABLED: u8 = 0x04;
const MODE_AUTO: u8 = 0x10;
const MODE_DOWN: u8 = 0x20;
const MODE_CASCADE: u8 = 0xc0;
/// Which page register (from port 80h) is which channel's.
const PAGE_OF: [usize; 8] = [7, 3, 1, 2, 15, 11, 9, 10];

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Channel {
    base_addr: u16,
    base_count: u16,
    addr: u16,
    count: u16,
    mode: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Chip {
    channels: [Channel; 4],
    command: u8,
    mask: u8,
    /// Bits 3:0: channels that have reached their terminal count since the last read.
    reached: u8,
    /// Bits 3:0: DREQ.
    requests: u8,
    high_byte: bool,
}

impl Chip {
    fn new() -> Self {
        Self {
            channels: Default::default(),
            command: 0,
            mask: 0x0f,
            reached: 0,
            requests: 0,
            high_byte: false,
        }
    }

    fn read(&mut self, reg: u8) -> u8 {
        match reg {
            0..=7 => {
                let c = &self.channels[reg as usize / 2];
                let word = if reg & 1 == 0 { c.addr } else { c.count };
                self.high_byte ^= true;
                word.to_le_bytes()[!self.high_byte as usize]
            }
            8 => std::mem::take(&mut self.reached) | self.requests << 4,
            15 => self.mask | 0xf0,
            _ => 0,
        }
    }

    fn write(&mut self, reg: u8, value: u8) {
        let channel = value as usize & 3;
        match reg {
            0..=7 => {
                let c = &mut self.channels[reg as usize / 2];
                let word = if reg & 1 == 0 {
                    &mut c.base_addr
                } else {
                    &mut c.base_count
                };
                let mut bytes = word.to_le_bytes();
                bytes[self.high_byte as usize] = value;
                *word = u16::from_le_bytes(bytes);
                self.high_byte ^= true;
                if reg & 1 == 0 {
                    c.addr = c.base_addr;
                } else {
                    c.count = c.base_count;
                }
            }
            8 => self.command = value,
            10 => self.mask = self.mask & !(1 << channel) | (value >> 2 & 1) << channel,
            11 => self.channels[channel].mode = value & 0xfc,
            12 => self.high_byte = false,
            13 => {
                // Master clear: the channels keep their addresses, counts and modes.
                (self.command, self.reached, self.mask) = (0, 0, 0x0f);
                self.high_byte = false;
            }
            14 => self.mask = 0,
            15 => self.mask = value & 0x0f,
            _ => {}
        }
    }

    fn serves(&self, channel: usize) -> bool {
        self.command & COMMAND_DISABLED == 0 && self.mask & 1 << channel == 0
    }
}

/// What a transfer has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub bytes: usize,
    /// TC was asserted with the last of them.
    pub terminal_count: bool,
}

/// Both controllers and the page registers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dma {
    chips: [Chip; 2],
    pages: [u8; 16],
}

impl Default for Dma {
    fn default() -> Self {
        Self::new()
    }
}

impl Dma {
    pub fn new() -> Self {
        Self {
            chips: [Chip::new(), Chip::new()],
            pages: [0; 16],
        }
    }

    /// The cascade as a BIOS sets it up.
    pub fn enable_cascade(&mut self) {
        self.chips[1].channels[0].mode = MODE_CASCADE;
        self.chips[1].mask &= !1;
    }

    /// Reads register `reg` (0 to 15) of controller `chip`.
    pub fn read(&mut self, chip: u8, reg: u8) -> u8 {
        self.chips[chip as usize & 1].read(reg)
    }

    /// Writes it.
    pub fn write(&mut self, chip: u8, reg: u8, value: u8) {
        self.chips[chip as usize & 1].write(reg, value);
    }

    /// The page register at port 80h + `n`. Those that belong to no channel are plain latches; the first shows POST codes.
    pub fn page(&self, n: u8) -> u8 {
        self.pages[n as usize & 15]
    }

    pub fn set_page(&mut self, n: u8, value: u8) {
        self.pages[n as usize & 15] = value;
    }

    /// The level of DREQ of channel `n`, for the status register.
    pub fn set_request(&mut self, n: usize, level: bool) {
        let requests = &mut self.chips[n >> 2 & 1].requests;
        *requests = *requests & !(1 << (n & 3)) | (level as u8) << (n & 3);
    }

    /// Whether channel `n` would answer DREQ.
    pub fn serves(&self, n: usize) -> bool {
        let upper = &self.chips[1];
        let cascaded = || upper.serves(0) && upper.channels[0].mode & MODE_CASCADE == MODE_CASCADE;
        let mode = self.chips[n >> 2 & 1].channels[n & 3].mode;
        let open = self.chips[n >> 2 & 1].serves(n & 3) && mode & MODE_CASCADE != MODE_CASCADE;
        open && (n >= 4 || cascaded())
    }

    /// Moves up to `data.len()` bytes between channel `n`'s device and memory, in the direction of the channel's mode, until the
    /// terminal count. What is not RAM reads as ones and takes no writes.
    pub fn transfer(&mut self, n: usize, data: &mut [u8], memory: &dyn GuestMemory) -> Moved {
        let mut moved = Moved {
            bytes: 0,
            terminal_count: false,
        };
        if !self.serves(n) {
            return moved;
        }
        let wide = n >= 4;
        let page = self.pages[PAGE_OF[n & 7]] as u64;
        let chip = &mut self.chips[n >> 2 & 1];
        let c = &mut chip.channels[n & 3];
        for unit in data.chunks_exact_mut(1 + wide as usize) {
            let address = if wide {
                (page & 0xfe) << 16 | (c.addr as u64) << 1
            } else {
                page << 16 | c.addr as u64
            };
            match c.mode >> 2 & 3 {
                1 => {
                    memory.write(address, unit);
                }
                2 if !memory.read(address, unit) => unit.fill(0xff),
                // Verify moves nothing.
                _ => {}
            }
            moved.bytes += unit.len();
            c.addr = match c.mode & MODE_DOWN {
                0 => c.addr.wrapping_add(1),
                _ => c.addr.wrapping_sub(1),
            };
            c.count = c.count.wrapping_sub(1);
            if c.count == 0xffff {
                moved.terminal_count = true;
                chip.reached |= 1 << (n & 3);
                if c.mode & MODE_AUTO != 0 {
                    (c.addr, c.count) = (c.base_addr, c.base_count);
                } else {
                    chip.mask |= 1 << (n & 3);
                }
                break;
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Bytes(Mutex<Vec<u8>>);

    impl GuestMemory for Bytes {
        fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
            let bytes = self.0.lock().unwrap();
            let from = bytes.get(addr as usize..addr as usize + buf.len());
            from.map(|from| buf.copy_from_slice(from)).is_some()
        }
        fn write(&self, addr: u64, buf: &[u8]) -> bool {
            let mut bytes = self.0.lock().unwrap();
            let to = bytes.get_mut(addr as usize..addr as usize + buf.len());
            to.map(|to| to.copy_from_slice(buf)).is_some()
        }
    }

    fn memory() -> Bytes {
        Bytes(Mutex::new(vec![0; 0x40000]))
    }

    /// Channel 2 from `address`, `bytes` long.
    fn program(dma: &mut Dma, mode: u8, address: u32, bytes: u16) {
        dma.write(0, 10, 6);
        dma.write(0, 12, 0);
        dma.write(0, 11, mode | 2);
        dma.write(0, 4, address as u8);
        dma.write(0, 4, (address >> 8) as u8);
        dma.set_page(1, (address >> 16) as u8);
        dma.write(0, 5, (bytes - 1) as u8);
        dma.write(0, 5, ((bytes - 1) >> 8) as u8);
        dma.write(0, 10, 2);
    }

    fn ready() -> Dma {
        let mut dma = Dma::new();
        dma.enable_cascade();
        dma
    }

    #[test]
    fn a_transfer_ends_on_terminal_count_and_masks_its_channel() {
        let (mut dma, memory) = (ready(), memory());
        program(&mut dma, 0x44, 0x12345, 300);
        let mut data = vec![7; 512];
        let moved = dma.transfer(2, &mut data[..200], &memory);
        assert_eq!((moved.bytes, moved.terminal_count), (200, false));
        assert_eq!(dma.read(0, 8) & 0x0f, 0);
        let moved = dma.transfer(2, &mut data, &memory);
        assert_eq!((moved.bytes, moved.terminal_count), (100, true));
        assert!(!dma.serves(2));
        assert_eq!((dma.read(0, 8), dma.read(0, 8)), (4, 0), "read once");
        let bytes = memory.0.lock().unwrap();
        assert_eq!(bytes[0x12345..][..300], [7; 300]);
        assert_eq!((bytes[0x12344], bytes[0x12345 + 300]), (0, 0));
    }

    #[test]
    fn the_address_wraps_in_its_page_and_counts_either_way() {
        let (mut dma, memory) = (ready(), memory());
        program(&mut dma, 0x44, 0x1fffe, 4);
        dma.transfer(2, &mut [1, 2, 3, 4], &memory);
        let bytes = memory.0.lock().unwrap().clone();
        assert_eq!(
            (&bytes[0x1fffe..0x20000], &bytes[0x10000..0x10002]),
            (&[1u8, 2][..], &[3u8, 4][..])
        );
        assert_eq!(bytes[0x20000], 0);
        program(&mut dma, 0x68, 0x10001, 2);
        let mut data = [0; 2];
        dma.transfer(2, &mut data, &memory);
        assert_eq!(data, [4, 3]);
    }

    #[test]
    fn autoinit_starts_again_and_verify_moves_nothing() {
        let (mut dma, memory) = (ready(), memory());
        program(&mut dma, 0x54, 0x8000, 2);
        assert!(dma.transfer(2, &mut [1, 2], &memory).terminal_count);
        assert!(dma.transfer(2, &mut [3, 4], &memory).terminal_count);
        assert_eq!(memory.0.lock().unwrap()[0x8000..0x8002], [3, 4]);
        program(&mut dma, 0x40, 0x8000, 2);
        assert!(dma.transfer(2, &mut [5, 6], &memory).terminal_count);
        assert_eq!(memory.0.lock().unwrap()[0x8000..0x8002], [3, 4]);
    }

    #[test]
    fn what_is_not_ram_reads_as_ones() {
        let (mut dma, memory) = (ready(), memory());
        program(&mut dma, 0x48, 0xf0000, 2);
        let mut data = [0; 2];
        assert_eq!(dma.transfer(2, &mut data, &memory).bytes, 2);
        assert_eq!(data, [0xff; 2]);
    }

    #[test]
    fn masks_the_cascade_and_the_disable_bit_stop_a_channel() {
        let mut dma = Dma::new();
        program(&mut dma, 0x44, 0, 2);
        assert!(!dma.serves(2), "no cascade");
        dma.write(1, 11, 0xc0);
        dma.write(1, 10, 0);
        assert!(dma.serves(2));
        dma.write(0, 8, 4);
        assert!(!dma.serves(2), "disabled");
        dma.write(0, 13, 0);
        assert!(!dma.serves(2), "master clear masks all");
        dma.write(0, 14, 0);
        assert!(dma.serves(2));
        assert_eq!(dma.transfer(2, &mut [0; 4], &memory()).bytes, 2);
    }

    #[test]
    fn words_on_the_upper_channels() {
        let (mut dma, memory) = (ready(), memory());
        for (reg, value) in [(11, 0x45), (2, 0x00), (2, 0x80), (3, 1), (3, 0), (10, 1)] {
            dma.write(1, reg, value);
        }
        // Page bit 0 is not connected: the address is 2 * 8000h in an even page.
        dma.set_page(11, 3);
        let moved = dma.transfer(5, &mut [1, 2, 3, 4, 5], &memory);
        assert_eq!((moved.bytes, moved.terminal_count), (4, true));
        assert_eq!(memory.0.lock().unwrap()[0x30000..0x30004], [1, 2, 3, 4]);
    }

    #[test]
    fn current_registers_read_low_then_high() {
        let mut dma = ready();
        program(&mut dma, 0x44, 0x4567, 0x1235);
        dma.transfer(2, &mut [0; 3], &memory());
        dma.write(0, 12, 0);
        assert_eq!([dma.read(0, 4), dma.read(0, 4)], [0x6a, 0x45]);
        assert_eq!([dma.read(0, 5), dma.read(0, 5)], [0x31, 0x12]);
    }
}
