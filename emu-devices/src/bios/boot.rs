//! INT 19h and 18h: finding something to start, and saying that there is nothing.

use super::call::Call;
use super::disk::FIRST_CD;
use super::{BootDevice, rom};
use emu_core::cpu::flags;
use emu_core::vcpu::reg;

/// Where a boot sector is, and the drive that it came from.
pub struct Loaded {
    pub segment: u16,
    pub offset: u16,
    pub drive: u8,
}

/// Where boot sectors go.
const LOAD: u32 = 0x7c00;

impl Call<'_> {
    /// INT 19h.
    pub fn boot(&mut self) {
        let (last, first) = (self.cmos(0x38), self.cmos(0x3d));
        let codes = [first & 15, first >> 4, last >> 4];
        for device in codes.into_iter().filter_map(BootDevice::from_cmos) {
            let (name, there) = match device {
                BootDevice::Floppy => ("Floppy", self.floppy_count() > 0),
                BootDevice::Disk => ("Hard Disk", !self.bios.config.disks.is_empty()),
                BootDevice::Cdrom => ("DVD/CD", !self.bios.config.cdroms.is_empty()),
            };
            if !there {
                continue;
            }
            self.print(&format!("Booting from {name}...\r\n"));
            let loaded = match device {
                BootDevice::Floppy => self.boot_sector(0),
                BootDevice::Disk => self.boot_sector(0x80),
                BootDevice::Cdrom => (0..self
                    .bios
                    .config
                    .cdroms
                    .len()
                    .min((0xff - FIRST_CD) as usize))
                    .map(|n| self.boot_cd(n))
                    .reduce(|first, next| first.or(next))
                    .unwrap_or(Err("no such drive")),
            };
            match loaded {
                Ok(at) => return self.start(at),
                Err(why) => self.print(&format!("Boot failed: {why}\r\n\r\n")),
            }
        }
        self.jump_to(rom::rom().call_no_boot);
    }

    fn boot_sector(&mut self, drive: u8) -> Result<Loaded, &'static str> {
        let unit = self.unit(drive).ok_or("no such drive")?;
        let mut sector = [0; 512];
        if unit.blocks == 0 {
            return Err("no medium");
        }
        if unit.drive.read(unit.begin, &mut sector).is_err() {
            return Err("could not read the boot disk");
        }
        if sector[510..] != [0x55, 0xaa] {
            return Err("not a bootable disk");
        }
        self.write(LOAD, &sector);
        Ok(Loaded {
            segment: 0,
            offset: LOAD as u16,
            drive,
        })
    }

    /// Gives the machine to what was loaded.
    fn start(&mut self, at: Loaded) {
        self.cpu.gpr[..16].fill(0);
        self.cpu.gpr[reg::RSP] = u64::from(LOAD);
        self.set_ax(0xaa55);
        self.set_dx(at.drive as u16);
        for segment in [0, 2, 3, 4, 5] {
            self.load(segment, 0);
        }
        self.jump(at.segment, at.offset);
        self.cpu.set_rflags(flags::IF | 2);
    }

    /// INT 18h.
    pub fn no_boot(&mut self) {
        self.print("No bootable device.\r\n");
        self.jump_to(rom::rom().idle);
    }
}
