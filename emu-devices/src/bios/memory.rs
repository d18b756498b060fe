//! INT 11h, 12h, 14h, 15h and 17h: what the machine has, and services around memory.

use super::call::Call;
use super::post::EBDA_SEGMENT;
use super::rom;
use emu_core::addr::PhysAddr;

const MIB: u64 = 1 << 20;
/// AH of INT 15h for what there is not.
const NOT_SUPPORTED: u8 = 0x86;
const SMAP: u32 = 0x534d_4150;

impl Call<'_> {
    /// INT 11h.
    pub fn equipment(&mut self) {
        let equipment = self.bda16(0x10);
        self.set_ax(equipment);
    }

    /// INT 12h.
    pub fn memory_size(&mut self) {
        let kib = self.bda16(0x13);
        self.set_ax(kib);
    }

    /// Bytes of RAM from 1 MiB on, below 4 GiB.
    fn extended(&self) -> u64 {
        let config = &self.bios.config;
        let low = config.machine.low_ram(config.ram_size);
        low.saturating_sub(MIB)
    }

    /// INT 15h.
    pub fn system(&mut self) {
        match self.ax() {
            0xe801 => {
                let (low, high) = self.split();
                self.set_ax(low);
                self.set_cx(low);
                self.set_bx(high);
                self.set_dx(high);
                return self.set_carry(false);
            }
            0xe820 => return self.memory_map(),
            0xe881 => {
                let (low, high) = self.split();
                self.set_eax(low as u32);
                self.set_ecx(low as u32);
                self.set_ebx(high as u32);
                self.set_edx(high as u32);
                return self.set_carry(false);
            }
            _ => {}
        }
        let well = match self.ah() {
            0x24 => self.a20(),
            // The scan code goes on as it is.
            0x4f => return self.set_carry(true),
            0x80..=0x82 | 0x85 | 0x90 | 0x91 => true,
            0x83 => return self.event_wait(),
            0x86 => return self.sleep(),
            0x87 => self.block_move(),
            0x88 => {
                // Programs that ask so take 64 MiB for the end of the world.
                let kib = (self.extended() / 1024).min(0xfc00);
                self.set_ax(kib as u16);
                return self.set_carry(false);
            }
            0xc0 => {
                self.set_es(rom::SEGMENT);
                self.set_bx(rom::SYSTEM_TABLE);
                true
            }
            0xc1 => {
                self.set_es(EBDA_SEGMENT);
                return self.set_carry(false);
            }
            0xc2 => return self.pointing_device(),
            _ => false,
        };
        self.set_ah(if well { 0 } else { NOT_SUPPORTED });
        self.set_carry(!well);
    }

    /// KiB from 1 to 16 MiB, and 64-KiB blocks from there.
    fn split(&self) -> (u16, u16) {
        let extended = self.extended();
        let low = extended.min(15 * MIB);
        ((low / 1024) as u16, ((extended - low) >> 16) as u16)
    }

    /// AH=24h: the A20 gate.
    fn a20(&mut self) -> bool {
        let port = self.inb(0x92);
        match self.al() {
            0 => self.outb(0x92, port & !3),
            1 => self.outb(0x92, port & !1 | 2),
            2 => self.set_al(port >> 1 & 1),
            // By keyboard controller and by port 92h.
            3 => self.set_bx(3),
            _ => return false,
        }
        true
    }

    /// AH=87h: moves CX words between the addresses in the descriptors at ES:SI + 10h and + 18h.
    fn block_move(&mut self) -> bool {
        let table = self.es(self.si());
        let [from, to] = [0x10, 0x18].map(|at| {
            let mut d = [0; 8];
            self.read(table.wrapping_add(at), &mut d);
            u32::from_le_bytes([d[2], d[3], d[4], d[7]])
        });
        let words = self.cx();
        if words > 0x8000 {
            return false;
        }
        let mut data = vec![0; words as usize * 2];
        let machine = self.cpu.machine.clone();
        // Bit 20 passes here whatever the gate; what is not RAM is the board's.
        if !machine.ram.read(PhysAddr(from as u64), &mut data) {
            self.read(from, &mut data);
        }
        if !machine.ram.write(PhysAddr(to as u64), &data) {
            self.write(to, &data);
        }
        true
    }

    /// AX=E820h: entry EBX of the memory map, to ES:DI.
    fn memory_map(&mut self) {
        let map = &self.bios.firmware.e820;
        let n = self.ebx() as usize;
        let entry = map.get(n).copied();
        let more = n + 1 < map.len();
        let Some(entry) = entry.filter(|_| self.edx() == SMAP && self.ecx() >= 20) else {
            self.set_ah(NOT_SUPPORTED);
            return self.set_carry(true);
        };
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(entry.addr.to_le_bytes());
        bytes.extend(entry.size.to_le_bytes());
        bytes.extend((entry.kind as u32).to_le_bytes());
        let at = self.es(self.di());
        self.write(at, &bytes);
        self.set_eax(SMAP);
        self.set_ecx(20);
        self.set_ebx(if more { n as u32 + 1 } else { 0 });
        self.set_carry(false);
    }

    /// INT 14h.
    pub fn serial(&mut self) {
        let n = self.dx();
        let port = if n < 4 { self.bda16(2 * n as u32) } else { 0 };
        if port == 0 {
            return self.set_ah(0x80);
        }
        match self.ah() {
            0x00 => {
                let al = self.al();
                // 110 to 9600 baud.
                let divisor = [1047u16, 768, 384, 192, 96, 48, 24, 12][(al >> 5) as usize];
                self.outb(port + 3, al & 0x1f | 0x80);
                self.outb(port, divisor as u8);
                self.outb(port + 1, (divisor >> 8) as u8);
                self.outb(port + 3, al & 0x1f);
                self.outb(port + 1, 0);
            }
            0x01 => {
                self.outb(port + 4, 3);
                if self.inb(port + 5) & 0x20 == 0 {
                    return self.set_ah(0x80);
                }
                let byte = self.al();
                self.outb(port, byte);
                let status = self.inb(port + 5);
                return self.set_ah(status & 0x7f);
            }
            0x02 => {
                let status = self.inb(port + 5);
                if status & 1 == 0 {
                    return self.set_ah(0x80);
                }
                let byte = self.inb(port);
                self.set_al(byte);
                return self.set_ah(status & 0x1e);
            }
            0x03 => {}
            _ => return self.set_ah(0x80),
        }
        let (line, modem) = (self.inb(port + 5), self.inb(port + 6));
        self.set_ax((line as u16) << 8 | modem as u16);
    }

    /// INT 17h: there is no printer.
    pub fn printer(&mut self) {
        self.set_ah(0x01);
    }
}
