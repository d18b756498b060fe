//! The block device as a driver sees it.

use super::*;
use crate::pci::PciDevice;
use crate::virtio::testing::*;

fn disk() -> Arc<Drive> {
    let bytes: Vec<u8> = (0..64 * 512u32).map(|i| (i / 512) as u8).collect();
    Drive::new("d", Box::new(bytes), false)
}

fn driver(drive: &Arc<Drive>) -> Driver {
    Driver::ready(Box::new(Blk::new(drive.clone(), "serial-7")))
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

#[test]
fn reads_and_writes_in_odd_pieces() {
    let drive = disk();
    for legacy in [false, true] {
        let device = Box::new(Blk::new(drive.clone(), ""));
        let mut d = match legacy {
            false => Driver::ready(device),
            true => Driver::ready_legacy(device),
        };
        // Header and data in one piece, the status with them: as any layout allows.
        let mut out = header(T_OUT, 3);
        out.extend([0xaa; 1024]);
        assert_eq!(d.request(0, &out, 1), Some(vec![OK]));
        let mut back = [0; 1025];
        drive.read(3 * 512, &mut back).unwrap();
        assert!(back[..1024] == [0xaa; 1024] && back[1024] == 5);

        d.write(BUFFERS, &header(T_IN, 4));
        let (a, b) = (BUFFERS + 0x1000, BUFFERS + 0x5000);
        let parts = [
            (BUFFERS, 7, false),
            (BUFFERS + 7, 9, false),
            (a, 500, true),
            (b, 525, true),
        ];
        d.add(0, &parts);
        d.kick(0);
        assert_eq!(d.used(0), Some((0, 1025)));
        assert_eq!(d.read::<500>(a), [0xaa; 500]);
        assert_eq!(
            d.read::<14>(b + 10),
            [0xaa, 0xaa, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
        );
        assert_eq!(d.read::<1>(b + 524), [OK]);
        drive.write(3 * 512, &[3; 512]).unwrap();
    }
}

#[test]
fn what_is_wrong_fails_alone() {
    let drive = disk();
    let mut d = driver(&drive);
    for (kind, sector, back) in [
        (T_IN, 64, 513),
        (T_IN, u64::MAX, 513),
        (T_IN, u64::MAX / 512, 1025),
        (T_IN, 63, 1025),
        (T_IN, 0, 512),
    ] {
        let got = d.request(0, &header(kind, sector), back).unwrap();
        assert_eq!(got.len(), 1, "only the status: {kind} {sector} {back}");
        let status = d.read::<1>(BUFFERS + 0x8_0000 + back as u64 - 1);
        assert_eq!(status, [IOERR], "{kind} {sector} {back}");
    }
    assert_eq!(d.request(0, &header(99, 0), 1), Some(vec![UNSUPP]));
    assert_eq!(d.request(0, &header(T_IN, 0)[..15], 1), Some(vec![IOERR]));
    // A device's registers as the buffer.
    d.write(BUFFERS, &header(T_IN, 0));
    let status = BUFFERS + 0x100;
    d.add(
        0,
        &[
            (BUFFERS, 16, false),
            (0xfee0_0000, 512, true),
            (status, 1, true),
        ],
    );
    d.kick(0);
    assert_eq!((d.used(0), d.read::<1>(status)), (Some((0, 1)), [IOERR]));
    assert_eq!(
        d.request(0, &header(T_IN, 63), 513).unwrap()[511..],
        [63, OK]
    );
    // Nowhere to put the status.
    d.write(BUFFERS, &header(T_FLUSH, 0));
    d.add(0, &[(BUFFERS, 16, false)]);
    d.kick(0);
    assert_eq!(
        (d.used(0), d.read_status() & pci::NEEDS_RESET),
        (None, pci::NEEDS_RESET)
    );
}

#[test]
fn erasing_is_checked() {
    let drive = disk();
    let mut d = driver(&drive);
    let request = |kind, sector: u64, count: u32, flags: u32| {
        let mut out = header(kind, 0);
        out.extend(sector.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(flags.to_le_bytes());
        out
    };
    assert_eq!(
        d.request(0, &request(T_WRITE_ZEROES, 9, 2, 1), 1),
        Some(vec![OK])
    );
    let mut back = [1; 2048];
    drive.read(8 * 512, &mut back).unwrap();
    assert_eq!(
        (back[511], back[512], back[1535], back[1536]),
        (8, 0, 0, 11)
    );
    assert_eq!(
        d.request(0, &request(T_DISCARD, 0, 64, 0), 1),
        Some(vec![OK])
    );
    assert_eq!(
        d.request(0, &request(T_DISCARD, 1, 64, 0), 1),
        Some(vec![IOERR])
    );
    assert_eq!(
        d.request(0, &request(T_DISCARD, 0, u32::MAX, 0), 1),
        Some(vec![IOERR])
    );
    assert_eq!(
        d.request(0, &request(T_DISCARD, 0, 1, 1), 1),
        Some(vec![UNSUPP])
    );
    assert_eq!(
        d.request(0, &request(T_DISCARD, 0, 1, 0)[..31], 1),
        Some(vec![IOERR])
    );
}

#[test]
fn configuration_and_identity() {
    let drive = disk();
    let mut d = driver(&drive);
    assert_eq!(d.dev.bar_read(4, pci::DEVICE, 8, 0), 64);
    assert_eq!(d.dev.bar_read(4, pci::DEVICE + 12, 4, 0), SEG_MAX as u64);
    assert_eq!(
        d.request(0, &header(T_GET_ID, 0), 21).unwrap()[..9],
        *b"serial-7\0"
    );
    drive.change(Some(Box::new(vec![0; 1024])), true);
    let generation = d.read_common(0x15, 1);
    d.dev.poll(1);
    assert_eq!(d.dev.bar_read(4, pci::DEVICE, 8, 0), 2);
    assert_ne!(d.read_common(0x15, 1), generation);
    assert_eq!(d.offered() & (F_RO | F_DISCARD), F_RO);
    let mut out = header(T_OUT, 0);
    out.extend([0; 512]);
    assert_eq!(d.request(0, &out, 1), Some(vec![IOERR]));
}

/// Counts flushes.
struct Flushes(Vec<u8>, Arc<std::sync::atomic::AtomicU32>);

impl crate::storage::Medium for Flushes {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, buf)
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn without_a_cache_each_write_is_flushed() {
    let flushes = Arc::default();
    let medium = Flushes(vec![0; 4096], Arc::clone(&flushes));
    let drive = Drive::new("d", Box::new(medium), false);
    let count = || flushes.load(std::sync::atomic::Ordering::Relaxed);
    let mut d = driver(&drive);
    let mut out = header(T_OUT, 0);
    out.extend([0; 512]);
    d.request(0, &out, 1).unwrap();
    assert_eq!(count(), 0);
    d.request(0, &header(T_FLUSH, 0), 1).unwrap();
    assert_eq!(count(), 1);
    d.dev.bar_write(4, pci::DEVICE + WRITEBACK as u64, 1, 0, 0);
    assert_eq!(count(), 2, "turning the cache off empties it");
    d.request(0, &out, 1).unwrap();
    assert_eq!(count(), 3);
    // A driver that does not know of flushing.
    let mut d = Driver::new(Box::new(Blk::new(drive.clone(), "")));
    d.negotiate(F_VERSION_1);
    d.set_up(0);
    d.status(pci::ACKNOWLEDGE | pci::DRIVER | pci::FEATURES_OK | pci::DRIVER_OK);
    d.request(0, &out, 1).unwrap();
    assert_eq!(count(), 4);
    assert_eq!(d.request(0, &header(T_FLUSH, 0), 1), Some(vec![UNSUPP]));
}
