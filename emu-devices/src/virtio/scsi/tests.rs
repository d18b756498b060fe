//! The SCSI host as a driver sees it.

use super::*;
use crate::virtio::testing::*;

const HEAD: usize = 108;

fn drive(sectors: usize) -> Arc<Drive> {
    let bytes: Vec<u8> = (0..sectors * 512).map(|i| (i / 512) as u8).collect();
    Drive::new("unit-1", Box::new(bytes), false)
}

fn driver() -> (Driver, Arc<Drive>) {
    let disk = drive(256);
    let targets = vec![
        Target {
            drive: disk.clone(),
            cdrom: false,
        },
        Target {
            drive: drive(400),
            cdrom: true,
        },
    ];
    let mut d = Driver::ready(Box::new(Scsi::new(targets)));
    for target in 0..2 {
        let (_, status, sense, _) = command(&mut d, target, &[0], &[], 0);
        assert_eq!((status, sense), (CHECK_CONDITION, [6, 0x29]), "power-on");
    }
    (d, disk)
}

fn request(target: u8, lun: u8, cdb: &[u8], out: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, target, 0x40, lun, 0, 0, 0, 0];
    bytes.resize(REQUEST, 0);
    bytes.extend(cdb);
    bytes.resize(REQUEST + 32, 0);
    bytes.extend(out);
    bytes
}

/// Response code, status, sense key and code, data.
fn command(
    d: &mut Driver,
    target: u8,
    cdb: &[u8],
    out: &[u8],
    back: u32,
) -> (u8, u8, [u8; 2], Vec<u8>) {
    let bytes = request(target, 0, cdb, out);
    let got = d.request(2, &bytes, HEAD as u32 + back).unwrap();
    let sense = [got[RESPONSE + 2], got[RESPONSE + 12]];
    (got[11], got[10], sense, got[HEAD..].to_vec())
}

#[test]
fn a_disk_reads_and_writes() {
    let (mut d, disk) = driver();
    let (_, status, _, data) = command(&mut d, 0, &[0x28, 0, 0, 0, 0, 7, 0, 0, 2, 0], &[], 1024);
    assert_eq!((status, data.len(), data[0], data[512]), (0, 1024, 7, 8));
    let out = [0x5a; 1024];
    let cdb = [0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0, 2];
    assert_eq!(command(&mut d, 0, &cdb, &out, 0).1, 0);
    let mut back = [0; 1024];
    disk.read(254 * 512, &mut back).unwrap();
    assert_eq!(back, out);
    // READ(6) with a count of 0 is 256 blocks.
    let (_, status, _, data) = command(&mut d, 0, &[8, 0, 0, 0, 0, 0], &[], 256 * 512);
    assert_eq!((status, data.len()), (0, 256 * 512));
    let (_, _, _, data) = command(&mut d, 0, &[0x25], &[], 8);
    assert_eq!(data, [0, 0, 0, 255, 0, 0, 2, 0]);
    let (_, _, _, data) = command(&mut d, 0, &[0x12, 1, 0x80, 0, 255, 0], &[], 255);
    assert_eq!(data, *b"\0\x80\0\x06unit-1");
    let (_, _, _, data) = command(&mut d, 0, &[0x1a, 0, 0x3f, 0, 255, 0], &[], 255);
    assert_eq!(
        (data[0] as usize + 1, data[2], data[12], data[14]),
        (data.len(), 0x10, 8, 4)
    );
}

#[test]
fn what_is_wrong_is_sense_data() {
    let (mut d, disk) = driver();
    let mut wrong = |cdb: &[u8], out: &[u8], back| command(&mut d, 0, cdb, out, back);
    let (r, status, sense, _) = wrong(&[0x28, 0, 0, 0, 0, 255, 0, 0, 2, 0], &[], 1024);
    assert_eq!((r, status, sense), (0, CHECK_CONDITION, [5, 0x21]));
    let mut cdb = vec![0x88, 0];
    cdb.extend([0xff; 14]);
    assert_eq!(wrong(&cdb, &[], 512).2, [5, 0x21]);
    assert_eq!(wrong(&[0xff], &[], 0).2, [5, 0x20]);
    assert_eq!(
        wrong(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[], 512).0,
        S_OVERRUN
    );
    assert_eq!(
        wrong(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[0; 512], 0).0,
        S_OVERRUN
    );
    let mut unmap = vec![0, 22, 0, 16, 0, 0, 0, 0];
    unmap.extend(200u64.to_be_bytes());
    unmap.extend([0, 0, 0, 57, 0, 0, 0, 0]);
    assert_eq!(
        wrong(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &unmap, 0).2,
        [5, 0x21]
    );
    unmap[19] = 56;
    assert_eq!(wrong(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &unmap, 0).1, 0);
    let same = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2];
    assert_eq!(wrong(&same, &[0xbb; 512], 0).1, 0);
    let mut back = [0; 1536];
    disk.read(3 * 512, &mut back).unwrap();
    assert_eq!((back[0], back[1023], back[1024]), (0xbb, 0xbb, 5));
    disk.change(Some(Box::new(vec![0; 4096])), true);
    let mut wrong = |cdb: &[u8], out: &[u8], back| command(&mut d, 0, cdb, out, back);
    assert_eq!(wrong(&[0], &[], 0).2, [6, 0x2a]);
    assert_eq!(
        wrong(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512], 0).2,
        [7, 0x27]
    );
}

#[test]
fn targets_and_units() {
    let (mut d, _) = driver();
    assert_eq!(command(&mut d, 2, &[0], &[], 0).0, S_BAD_TARGET);
    let (_, _, _, data) = command(&mut d, 1, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16], &[], 16);
    assert_eq!(data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let got = d.request(
        2,
        &request(0, 3, &[0x12, 0, 0, 0, 36], &[]),
        36 + HEAD as u32,
    );
    assert_eq!(got.unwrap()[HEAD], 0x7f);
    let got = d
        .request(2, &request(0, 3, &[0], &[]), HEAD as u32)
        .unwrap();
    assert_eq!((got[10], got[RESPONSE + 12]), (CHECK_CONDITION, 0x25));
    let (_, status, _, data) = command(&mut d, 1, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0], &[], 2048);
    assert_eq!((status, data.len(), data[0], data[512]), (0, 2048, 4, 5));
    assert_eq!(command(&mut d, 1, &[0x12, 0, 0, 0, 36], &[], 36).3[0], 5);
    // A reset of a unit, of none, and a question for events.
    let tmf = |target: u8| {
        [
            0, 0, 0, 0, 5, 0, 0, 0, 1, target, 0x40, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        ]
    };
    assert_eq!(d.request(0, &tmf(0), 1), Some(vec![S_OK]));
    assert_eq!(d.request(0, &tmf(9), 1), Some(vec![S_BAD_TARGET]));
    let query = [1, 0, 0, 0, 1, 0, 0x40, 0, 0, 0, 0, 0, 255, 0, 0, 0];
    assert_eq!(d.request(0, &query, 5), Some(vec![0; 5]));
}

#[test]
fn a_request_without_room_for_the_response() {
    let (mut d, _) = driver();
    assert_eq!(
        d.request(2, &request(0, 0, &[0], &[])[..20], 108).unwrap()[11],
        S_FAILURE
    );
    assert_eq!(d.request(2, &request(0, 0, &[0], &[]), 107), None);
    assert_eq!(d.read_status() & pci::NEEDS_RESET, pci::NEEDS_RESET);
}
