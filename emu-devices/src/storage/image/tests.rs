use super::*;
use crate::storage::Drive;
use emu_core::testing::Random;
use std::fs;
use std::process::Command;

/// A folder of its own that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("emu-image-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn why(opened: Result<Image, ImageError>) -> String {
    opened.err().expect("an error").to_string()
}

fn raw_bytes(sectors: usize) -> Vec<u8> {
    (0..sectors * 512)
        .map(|i| (i / 512) as u8 ^ i as u8)
        .collect()
}

/// `qemu-img` with these arguments; false: there is none on this host.
pub(crate) fn qemu_img(args: &[&str]) -> bool {
    match Command::new("qemu-img").args(args).output() {
        Err(_) => {
            eprintln!("qemu-img is not installed: not checked");
            false
        }
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stderr).into_owned()
                + &String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success(), "qemu-img {args:?}: {text}");
            true
        }
    }
}

#[test]
fn raw_images_grow_to_sectors_and_guard_their_magic() {
    let dir = Folder::new("raw");
    let path = dir.file("d.img", &raw_bytes(4)[..1700]);
    let mut image = open(&path, &Options::default()).unwrap();
    assert_eq!((image.format, image.medium.size()), (Format::Raw, 2048));
    let mut end = [1; 512];
    image.medium.read(1536, &mut end).unwrap();
    assert_eq!((end[163], end[164], end[511]), (raw_bytes(4)[1699], 0, 0));
    image.medium.write(510, &[9; 4]).unwrap();
    assert!(
        image.medium.write(0, b"QFI\xfb").is_err(),
        "it would be qcow2"
    );
    image.medium.write_zeroes(512, 512).unwrap();
    image.medium.discard(1024, 512).unwrap();
    image.medium.flush().unwrap();
    drop(image);
    let now = fs::read(&path).unwrap();
    assert_eq!((now[510], now[511], now[512], now[1023]), (9, 9, 0, 0));
    // Whoever says raw means it.
    let options = Options {
        format: Some(Format::Raw),
        ..Options::default()
    };
    let mut image = open(&path, &options).unwrap();
    image.medium.write(0, b"QFI\xfb").unwrap();
}

#[test]
fn what_is_not_an_image_is_named() {
    let dir = Folder::new("foreign");
    let gz = dir.file("a.gz", b"\x1f\x8b\x08....");
    assert!(why(open(&gz, &Options::default())).contains("gzip"));
    assert!(why(open(&dir.0, &Options::default())).contains("folder"));
    let none = dir.0.join("none");
    assert!(why(open(&none, &Options::default())).contains("No such file"));
    let v9 = dir.file("v9", b"QFI\xfb\0\0\0\x09aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert!(why(open(&v9, &Options::default())).contains("version 9"));
}

#[test]
fn an_image_has_one_writer() {
    let dir = Folder::new("lock");
    let path = dir.file("d.img", &[0; 1024]);
    let read = Options {
        read_only: true,
        ..Options::default()
    };
    let snapshot = Options {
        snapshot: true,
        ..Options::default()
    };
    let first = open(&path, &Options::default()).unwrap();
    assert!(why(open(&path, &Options::default())).contains("another program"));
    assert!(why(open(&path, &read)).contains("another program"));
    drop(first);
    let readers = (open(&path, &read).unwrap(), open(&path, &snapshot).unwrap());
    assert!(why(open(&path, &Options::default())).contains("readonly=on"));
    drop(readers);
    assert!(open(&path, &Options::default()).is_ok());
}

#[test]
fn a_snapshot_leaves_the_image_alone() {
    let dir = Folder::new("snapshot");
    let content = raw_bytes(21);
    let path = dir.file("d.img", &content);
    let options = Options {
        snapshot: true,
        ..Options::default()
    };
    let mut medium = open(&path, &options).unwrap().medium;
    let mut expect = content.clone();
    let mut seed = 1u64;
    for _ in 0..300 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(99);
        let at = (seed >> 33) as usize % expect.len();
        let n = (seed >> 50) as usize % (expect.len() - at).min(9000) + 1;
        let n = n.min(expect.len() - at);
        medium.write(at as u64, &vec![seed as u8; n]).unwrap();
        expect[at..at + n].fill(seed as u8);
        let mut all = vec![0; expect.len()];
        medium.read(0, &mut all).unwrap();
        assert_eq!(all, expect);
    }
    drop(medium);
    assert_eq!(fs::read(&path).unwrap(), content);
}

/// Makes an image with qemu-img and compares it with the raw file it was made of.
fn converted(dir: &Folder, format: &str, options: &[&str], content: &[u8]) -> Option<PathBuf> {
    let raw = dir.file("source.raw", content);
    let path = dir.0.join(format!("image.{format}"));
    let (from, to) = (raw.to_str()?, path.to_str()?);
    let mut args = vec!["convert", "-f", "raw", "-O", format];
    args.extend(options);
    args.extend([from, to]);
    qemu_img(&args).then_some(path)
}

fn same(path: &Path, format: Format, content: &[u8]) {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let mut image = open(path, &options).unwrap();
    assert_eq!(image.format, format);
    let size = image.medium.size() as usize;
    assert!(size >= content.len());
    let mut all = vec![1; size];
    image.medium.read(0, &mut all).unwrap();
    assert_eq!(all[..content.len()], *content);
    assert!(all[content.len()..].iter().all(|b| *b == 0));
    // Across grains, blocks and clusters.
    let mut piece = vec![0; 70_001];
    image.medium.read(65_000, &mut piece).unwrap();
    assert_eq!(piece, content[65_000..135_001]);
}

#[test]
fn other_formats_read_as_qemu_wrote_them() {
    let dir = Folder::new("formats");
    let mut content = raw_bytes(2048);
    content[300 * 512..1200 * 512].fill(0);
    for (format, options, is) in [
        ("qcow2", &[][..], Format::Qcow2),
        ("qcow2", &["-o", "compat=0.10"], Format::Qcow2),
        ("qcow2", &["-c", "-o", "cluster_size=4096"], Format::Qcow2),
        ("vmdk", &[], Format::Vmdk),
        ("vmdk", &["-o", "subformat=streamOptimized"], Format::Vmdk),
        ("vmdk", &["-o", "subformat=monolithicFlat"], Format::Vmdk),
        (
            "vmdk",
            &["-o", "subformat=twoGbMaxExtentSparse"],
            Format::Vmdk,
        ),
        ("vpc", &[], Format::Vpc),
        ("vpc", &["-o", "subformat=fixed"], Format::Vpc),
    ] {
        let Some(path) = converted(&dir, format, options, &content) else {
            return;
        };
        same(&path, is, &content);
        let writable = open(&path, &Options::default());
        match options.last() {
            None if format == "qcow2" => assert!(writable.is_ok()),
            Some(&"subformat=monolithicFlat" | &"subformat=fixed") => assert!(writable.is_ok()),
            _ if format != "qcow2" => assert!(why(writable).contains("only read")),
            _ => {}
        }
    }
}

#[test]
fn qcow2_writes_are_what_qemu_reads() {
    let dir = Folder::new("qcow2");
    let mut content = raw_bytes(2048);
    let Some(base) = converted(&dir, "qcow2", &["-c"], &content) else {
        return;
    };
    let top = dir.0.join("top.qcow2");
    let (base, top) = (base.to_str().unwrap(), top.to_str().unwrap());
    qemu_img(&["create", "-f", "qcow2", "-b", base, "-F", "qcow2", top]);
    let image = open(Path::new(top), &Options::default()).unwrap();
    let drive = Drive::new("d", image.medium, false);
    for (at, n) in [
        (0usize, 512usize),
        (65_536 - 512, 1024),
        (512_000, 200_192),
        (1_048_064, 512),
    ] {
        content[at..at + n].fill(0x5a);
        drive.write(at as u64, &content[at..at + n]).unwrap();
    }
    content[131_072..262_144].fill(0);
    drive.write_zeroes(131_072, 131_072).unwrap();
    drive.flush().unwrap();
    let mut all = vec![0; content.len()];
    drive.read(0, &mut all).unwrap();
    assert!(all == content);
    drop(drive);
    qemu_img(&["check", top]);
    let raw = dir.file("expect.raw", &content);
    qemu_img(&["compare", top, raw.to_str().unwrap()]);
}

#[test]
fn backing_files_are_where_they_belong() {
    let dir = Folder::new("backing");
    let away = Folder::new("backing-away");
    let secret = away.file("secret", &[7; 4096]);
    let inner = dir.0.join("a.qcow2");
    let (a, b) = (inner.to_str().unwrap(), dir.0.join("b.qcow2"));
    let b = b.to_str().unwrap();
    let create = |file, backing, format| {
        qemu_img(&[
            "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, file, "1M",
        ])
    };
    if !create(a, secret.to_str().unwrap(), "raw") {
        return;
    }
    let refused = why(open(&inner, &Options::default()));
    assert!(
        refused.contains("another folder") && refused.contains("backing="),
        "{refused}"
    );
    let named = Options {
        backing: Some(secret.clone()),
        ..Options::default()
    };
    let mut buf = [0; 512];
    open(&inner, &named)
        .unwrap()
        .medium
        .read(0, &mut buf)
        .unwrap();
    assert_eq!(buf, [7; 512]);
    // Each the other's backing file.
    create(a, "b.qcow2", "qcow2");
    create(b, "a.qcow2", "qcow2");
    assert!(why(open(&inner, &Options::default())).contains("lead back"));
    create(a, "nbd://host/x", "raw");
    assert!(why(open(&inner, &Options::default())).contains("no file's name"));
    create(a, "none.img", "raw");
    assert!(why(open(&inner, &Options::default())).contains("none.img"));
}

#[test]
fn damaged_images_fail_and_nothing_more() {
    let dir = Folder::new("fuzz");
    let content = raw_bytes(1024);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut next = |n: usize| random.below(n.max(1) as u64) as usize;
    let soak = std::env::var("EMU_SOAK").map_or(1, |n| n.parse().unwrap_or(1));
    let mut opened = 0;
    for (format, options) in [
        ("qcow2", &["-o", "cluster_size=4096"][..]),
        ("qcow2", &["-c", "-o", "cluster_size=4096"]),
        ("vmdk", &[]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vpc", &[]),
    ] {
        let Some(path) = converted(&dir, format, options, &content) else {
            return;
        };
        let good = fs::read(&path).unwrap();
        for round in 0..150 * soak {
            let mut bad = good.clone();
            if round % 5 == 0 {
                bad.truncate(next(bad.len()));
            }
            for _ in 0..1 + next(8) {
                // Headers and tables are at the start; a VHD's footer is at the end.
                let reach = [128, 1024, 4096, 65536, bad.len()][next(5)].min(bad.len());
                let from = if next(4) == 0 { bad.len() - reach } else { 0 };
                if reach > 0 {
                    let at = from + next(reach);
                    bad[at] = [0, 1, 0x7f, 0x80, 0xff, next(256) as u8][next(6)];
                }
            }
            let path = dir.file("bad", &bad);
            let options = Options {
                read_only: format != "qcow2",
                format: Some(format.parse().unwrap()),
                ..Options::default()
            };
            let Ok(mut image) = open(&path, &options) else {
                continue;
            };
            opened += 1;
            let size = image.medium.size();
            let mut buf = vec![0; 65536];
            for _ in 0..20 {
                let n = (next(buf.len()) as u64 + 1).min(size);
                let at = match size - n {
                    0 => 0,
                    left => next(left.min(1 << 20) as usize) as u64,
                };
                let _ = image.medium.read(at, &mut buf[..n as usize]);
                if !options.read_only {
                    let _ = image.medium.write(at, &buf[..n as usize]);
                    let _ = image.medium.discard(at, n);
                }
            }
            let _ = image.medium.flush();
        }
    }
    assert!(
        opened > 50,
        "{opened} of the damaged images could be opened at all"
    );
}
