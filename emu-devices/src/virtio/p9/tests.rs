//! A guest that tries to get out of its folder, and one that only works in it.

use super::*;
use crate::pci::PciDevice;
use crate::virtio::testing::*;
use std::path::PathBuf;

/// A folder in a folder, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("emu-9p-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("share/sub")).unwrap();
        std::fs::write(path.join("secret"), "secret").unwrap();
        std::fs::write(path.join("share/hello"), "hello").unwrap();
        std::os::unix::fs::symlink("../secret", path.join("share/out")).unwrap();
        std::os::unix::fs::symlink("..", path.join("share/up")).unwrap();
        Self(path)
    }

    fn share(&self) -> PathBuf {
        self.0.join("share")
    }

    fn device(&self, read_only: bool) -> P9 {
        let mut p = P9::new(&self.share(), "tag", read_only).unwrap();
        let mut version = Answer::default();
        version.u32(1 << 16).text(VERSION);
        let (kind, answer) = p.answer(100, &version.0);
        assert_eq!((kind, &answer.0[..4]), (101, &[0, 0, 1, 0][..]));
        let (kind, _) = p.answer(104, &words(&[0, u32::MAX, 0, 0]));
        assert_eq!(kind, 105);
        p
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Fid 0 is the folder. Walks to `to` and gives how many names were found, or the error.
fn walk(p: &mut P9, from: u32, to: u32, names: &[&str]) -> Result<u16, u32> {
    let mut m = Answer::default();
    m.u32(from).u32(to).u16(names.len() as u16);
    names.iter().for_each(|n| {
        m.text(n.as_bytes());
    });
    let (kind, answer) = p.answer(110, &m.0);
    result(kind, &answer.0).map(|body| u16::from_le_bytes([body[0], body[1]]))
}

fn result(kind: u8, body: &[u8]) -> Result<Vec<u8>, u32> {
    match kind {
        R_ERROR => Err(u32::from_le_bytes(body.try_into().unwrap())),
        _ => Ok(body.to_vec()),
    }
}

fn ask(p: &mut P9, kind: u8, fid: u32, name: Option<&str>, rest: &[u32]) -> Result<Vec<u8>, u32> {
    let mut m = Answer::default();
    m.u32(fid);
    if let Some(name) = name {
        m.text(name.as_bytes());
    }
    m.bytes(&words(rest));
    let (kind, answer) = p.answer(kind, &m.0);
    result(kind, &answer.0)
}

fn code(e: Errno) -> u32 {
    e.raw_os_error() as u32
}

#[test]
fn there_is_no_way_out() {
    let folder = Folder::new("out");
    let mut p = folder.device(false);
    // The folder's parent is the folder.
    assert_eq!(walk(&mut p, 0, 1, &["..", "..", "sub"]), Ok(3));
    for bad in ["../secret", "sub/..", "/etc", ".", "", "a\0b"] {
        assert_eq!(
            walk(&mut p, 0, 2, &[bad]),
            Err(code(Errno::INVAL)),
            "{bad:?}"
        );
        for kind in [14, 16, 72] {
            let done = ask(&mut p, kind, 0, Some(bad), &[0, 0, 0]);
            assert_eq!(done, Err(code(Errno::INVAL)), "{bad:?}");
        }
    }
    // Links can be seen, and not followed.
    assert_eq!(walk(&mut p, 0, 3, &["out"]), Ok(1));
    assert_eq!(
        ask(&mut p, 22, 3, None, &[]),
        Ok(b"\x09\x00../secret".to_vec())
    );
    for flags in [0, 1, 2, 0o1000 | 1] {
        assert_eq!(ask(&mut p, 12, 3, None, &[flags]), Err(code(Errno::LOOP)));
    }
    assert_eq!(
        walk(&mut p, 0, 4, &["up", "secret"]),
        Ok(1),
        "only the link itself"
    );
    assert_eq!(ask(&mut p, 24, 4, None, &[0, 0]), Err(code(Errno::BADF)));
    let truncate = ask(
        &mut p,
        26,
        3,
        None,
        &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    assert_eq!(truncate, Err(code(Errno::LOOP)));
    let made = ask(&mut p, 14, 0, Some("out"), &[0o1101, 0o644, 0]);
    assert_eq!(made, Err(code(Errno::LOOP)), "created through a link");
    // A directory that becomes a link while the guest uses it.
    assert_eq!(walk(&mut p, 0, 5, &["sub"]), Ok(1));
    std::fs::remove_dir(folder.share().join("sub")).unwrap();
    std::os::unix::fs::symlink("..", folder.share().join("sub")).unwrap();
    assert_eq!(walk(&mut p, 5, 6, &["secret"]), Err(code(Errno::LOOP)));
    let made = ask(&mut p, 14, 5, Some("new"), &[0o101, 0o644, 0]);
    assert_eq!(made, Err(code(Errno::LOOP)));
    let gone = ask(&mut p, 76, 5, Some("secret"), &[0]);
    assert!(gone.is_err() && folder.0.join("secret").exists() && !folder.0.join("new").exists());
    // Nodes, and pipes of the host, which nobody waits for.
    assert_eq!(
        ask(&mut p, 18, 0, Some("node"), &[0o20666, 1, 3, 0]),
        Err(code(Errno::PERM))
    );
    rustix::fs::mknodat(
        fs::CWD,
        folder.share().join("pipe"),
        FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(walk(&mut p, 0, 7, &["pipe"]), Ok(1));
    assert_eq!(ask(&mut p, 12, 7, None, &[0]), Err(code(Errno::ACCESS)));
}

#[test]
fn files_are_made_read_and_renamed() {
    let folder = Folder::new("files");
    let mut p = folder.device(false);
    walk(&mut p, 0, 1, &[]).unwrap();
    ask(&mut p, 14, 1, Some("new"), &[0o102, 0o4755, 0]).unwrap();
    let mut m = Answer::default();
    m.u32(1).u64(2).u32(3).bytes(b"abc");
    assert_eq!(p.answer(118, &m.0).1.0, [3, 0, 0, 0]);
    let path = folder.share().join("new");
    assert_eq!(std::fs::read(&path).unwrap(), b"\0\0abc");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().mode() & 0o7000,
        0,
        "no set-id bits"
    );
    assert_eq!(
        ask(&mut p, 116, 1, None, &[3, 0, 100]),
        Ok(b"\x02\0\0\0bc".to_vec())
    );
    // What is under a renamed directory is still found.
    ask(&mut p, 72, 0, Some("dir"), &[0o755, 0]).unwrap();
    walk(&mut p, 0, 2, &["dir"]).unwrap();
    let mut m = Answer::default();
    m.u32(0).text(b"new").u32(2).text(b"moved");
    assert_eq!(p.answer(74, &m.0).0, 75);
    walk(&mut p, 2, 3, &["moved"]).unwrap();
    let mut m = Answer::default();
    m.u32(0).text(b"dir").u32(0).text(b"other");
    assert_eq!(p.answer(74, &m.0).0, 75);
    ask(&mut p, 24, 3, None, &[0, 0]).unwrap();
    // A listing in pieces.
    walk(&mut p, 0, 4, &[]).unwrap();
    ask(&mut p, 12, 4, None, &[0]).unwrap();
    let (mut offset, mut names) = (0u32, Vec::new());
    loop {
        let list = ask(&mut p, 40, 4, None, &[offset, 0, 60]).unwrap();
        let mut m = Message(&list[4..]);
        if m.0.is_empty() {
            break;
        }
        while !m.0.is_empty() {
            m.bytes(13).unwrap();
            offset = m.u64().unwrap() as u32;
            m.u8().unwrap();
            names.push(String::from_utf8(m.text().unwrap().to_vec()).unwrap());
        }
    }
    names.sort();
    assert_eq!(names, [".", "..", "hello", "other", "out", "sub", "up"]);
    ask(
        &mut p,
        26,
        3,
        None,
        &[9, 0o600, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    )
    .unwrap();
    let path = folder.share().join("other/moved");
    assert_eq!(
        (
            std::fs::metadata(&path).unwrap().len(),
            std::fs::metadata(&path).unwrap().mode() & 0o777
        ),
        (1, 0o600)
    );
    let state = p.save();
    assert_eq!(ask(&mut p, 122, 3, None, &[]), Ok(vec![]));
    assert!(!path.exists());
    assert!(p.restore(&state));
    assert_eq!(ask(&mut p, 120, 2, None, &[]), Ok(vec![]));
}

#[test]
fn read_only_is_read_only() {
    let folder = Folder::new("ro");
    let mut p = folder.device(true);
    walk(&mut p, 0, 1, &["hello"]).unwrap();
    let no = Err(code(Errno::ROFS));
    for flags in [1, 2, 0o1000] {
        assert_eq!(ask(&mut p, 12, 1, None, &[flags]), no);
    }
    assert_eq!(ask(&mut p, 14, 0, Some("x"), &[0o100, 0o644, 0]), no);
    assert_eq!(ask(&mut p, 72, 0, Some("x"), &[0o755, 0]), no);
    assert_eq!(ask(&mut p, 76, 0, Some("hello"), &[0]), no);
    assert_eq!(
        ask(
            &mut p,
            26,
            1,
            None,
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        ),
        no
    );
    let mut m = Answer::default();
    m.u32(0).text(b"hello").u32(0).text(b"other");
    assert_eq!(result(p.answer(74, &m.0).0, &[30, 0, 0, 0]), no);
    ask(&mut p, 12, 1, None, &[0]).unwrap();
    assert_eq!(
        ask(&mut p, 116, 1, None, &[0, 0, 9]),
        Ok(b"\x05\0\0\0hello".to_vec())
    );
}

#[test]
fn messages_are_bounded() {
    let folder = Folder::new("bounds");
    let mut p = folder.device(true);
    let made = (1..=MAX_FIDS as u32 + 1).take_while(|&n| walk(&mut p, 0, n, &[]).is_ok());
    assert_eq!(made.count(), MAX_FIDS - 1);
    let mut d = Driver::ready(Box::new(folder.device(true)));
    assert_eq!(d.dev.config().dword(0), 0x1009_1af4);
    let version = |size: u32| {
        let mut m = Answer::default();
        m.u32(size).u8(100).u16(0xffff).u32(u32::MAX).text(VERSION);
        m.0
    };
    let got = d.request(0, &version(21), 100).unwrap();
    assert_eq!(got[..11], [21, 0, 0, 0, 101, 255, 255, 0, 0, 8, 0]);
    // Sizes that cannot be.
    for size in [0, 6, 22, MAX_MESSAGE + 1, u32::MAX] {
        assert_eq!(d.request(0, &version(size), 100), Some(vec![]), "{size}");
    }
    assert_eq!(
        d.request(0, &version(21), 5),
        Some(vec![]),
        "no room for the answer"
    );
    // Cut off anywhere, a message is an error.
    let mut p = folder.device(false);
    for kind in 0..=255u8 {
        for length in [0, 1, 4, 9, 40] {
            p.answer(kind, &vec![0xff; length]);
            p.answer(kind, &vec![0; length]);
        }
    }
}
