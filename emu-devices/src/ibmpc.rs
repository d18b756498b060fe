//! Ports, interrupts and addresses of the IBM PC/AT and its followers: constants only.
//!
//! A port range is (first, count). The board's wiring is in [`pc`](crate::pc).

/// A range of ports: first and count.
pub type Ports = (u16, u16);
/// A range of physical addresses: first and size.
pub type Window = (u64, u64);

pub const DMA_MASTER: Ports = (0xc0, 32);
pub const DMA_SLAVE: Ports = (0x00, 16);
/// The first, which belongs to no channel, is where programs write POST codes.
pub const DMA_PAGES: Ports = (0x80, 16);
pub const PIC_MASTER: Ports = (0x20, 2);
pub const PIC_SLAVE: Ports = (0xa0, 2);
pub const PIC_ELCR: Ports = (0x4d0, 2);
pub const PIT: Ports = (0x40, 4);
pub const KBC_DATA: Ports = (0x60, 1);
pub const PORT_61: Ports = (0x61, 1);
pub const KBC_STATUS: Ports = (0x64, 1);
pub const RTC: Ports = (0x70, 2);
pub const PORT_92: Ports = (0x92, 1);
/// Where the built-in BIOS asks for its services.
pub const BIOS_TRAP: Ports = (0xb5, 1);
pub const SMI: Ports = (0xb2, 2);
/// The coprocessor's: a write clears its interrupt (and asserts IGNNE#).
pub const FPU: Ports = (0xf0, 1);
pub const DEBUGCON: Ports = (0xe9, 1);
pub const COM2: Ports = (0x2f8, 8);
/// 3F6h is an IDE controller's.
pub const FLOPPY: Ports = (0x3f0, 6);
pub const FLOPPY_DIR: Ports = (0x3f7, 1);
pub const COM1: Ports = (0x3f8, 8);
pub const PVPANIC: Ports = (0x505, 1);
pub const FW_CFG: Ports = (0x510, 2);
pub const FW_CFG_DMA: Ports = (0x514, 8);
pub const ACPI_PM: Ports = (0x600, 64);
/// Includes the reset control register at CF9h.
pub const PCI_ADDRESS: Ports = (0xcf8, 4);
pub const PCI_DATA: Ports = (0xcfc, 4);

pub const IRQ_TIMER: u8 = 0;
pub const IRQ_KEYBOARD: u8 = 1;
pub const IRQ_COM2: u8 = 3;
pub const IRQ_COM1: u8 = 4;
pub const IRQ_FLOPPY: u8 = 6;
pub const IRQ_RTC: u8 = 8;
pub const IRQ_SCI: u8 = 9;
pub const IRQ_MOUSE: u8 = 12;
pub const IRQ_FPU: u8 = 13;
pub const DRQ_FLOPPY: usize = 2;
/// The I/O APIC pin of the timer: pin 0 belongs to the 8259.
pub const GSI_TIMER: u8 = 2;
/// The interrupts that PCI links are routed to by the firmware, PIRQA# to PIRQD#.
pub const PIRQ_IRQS: [u8; 4] = [10, 10, 11, 11];

pub const IOAPIC: Window = (0xfec0_0000, 0x1000);
pub const HPET: Window = (0xfed0_0000, 0x400);
pub const LAPIC_SIZE: u64 = 0x1000;
pub const LAPIC: Window = (0xfee0_0000, LAPIC_SIZE);

/// End of conventional memory; above it to [`VGA`] is the extended BIOS data area.
pub const EBDA: u64 = 0x9_fc00;
pub const VGA: Window = (0xa_0000, 0x2_0000);
pub const BIOS: Window = (0xe_0000, 0x2_0000);
/// RAM below 4 GiB ends here at the latest; the rest of it is above 4 GiB.
pub const PCI_HOLE: u64 = 0xc000_0000;
pub const FOUR_GIB: u64 = 1 << 32;

/// What SMI_CMD (port B2h) is told to turn ACPI mode on and off.
pub const ACPI_ENABLE: u8 = 0xf1;
pub const ACPI_DISABLE: u8 = 0xf0;
