//! Traces as compact files, which `emu trace show` reads.
//!
//! A line that names the format, then frames, each with its compressed length, its length, a CRC-32 of what follows and
//! deflated items; a frame of no length is the end. Items ([`Item`], by postcard) are entries as differences from those before them:
//! an instruction that follows the last one, of known bytes, takes five bytes before compression. Each frame begins anew, so what is
//! whole can be read.
//!
//! The reader trusts nothing: lengths have bounds, a frame is inflated to its length at most, and what is wrong is said with the
//! frame's place in the file.

use super::record::{Entry, Name, Place, What};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::ops::Range;

const MAGIC: &[u8] = b"emu trace 1\n";
/// Bytes of items after which a frame is written.
const FRAME: usize = 1 << 20;
/// The longest frame that is read, compressed or not.
const LONGEST: u32 = 4 << 20;

/// What a frame consists of.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Item {
    Name(Name),
    /// Another page table, privilege level or code size from here on.
    Space {
        cr3: u64,
        cpl: u8,
        code_bits: u8,
    },
    Entry {
        /// More than the last one's.
        retired: u64,
        /// From where the last instruction ended.
        lin: i64,
        what: What,
    },
    /// The instruction that was at this address before.
    Again {
        retired: u64,
        lin: i64,
    },
}

/// What writer and reader know of a frame so far.
#[derive(Default)]
struct Context {
    place: Place,
    retired: u64,
    /// Where the last instruction ended.
    next: u64,
    code: FxHashMap<u64, Vec<u8>>,
}

impl Context {
    fn passed(&mut self, e: &Entry) {
        self.place = e.at;
        self.retired = e.retired;
        self.next = e.at.lin;
        if let What::Insn { code, .. } = &e.what {
            self.next = e.at.lin.wrapping_add(code.len() as u64);
            if self.code.get(&e.at.lin) != Some(code) {
                self.code.insert(e.at.lin, code.clone());
            }
        }
    }
}

/// Writes a trace.
pub struct Writer<W: Write> {
    to: W,
    raw: Vec<u8>,
    context: Context,
    named: FxHashSet<u64>,
    /// What the last name covers.
    covered: Range<u64>,
}

impl<W: Write> Writer<W> {
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(MAGIC)?;
        Ok(Self {
            to,
            raw: Vec::new(),
            context: Context::default(),
            named: FxHashSet::default(),
            covered: 0..0,
        })
    }

    /// Whether code there may have a name that is not written yet.
    pub fn needs_name(&self, at: u64) -> bool {
        !self.covered.contains(&at)
    }

    fn item(&mut self, item: &Item) -> io::Result<()> {
        let raw = std::mem::take(&mut self.raw);
        self.raw = postcard::to_extend(item, raw).map_err(io::Error::other)?;
        Ok(())
    }

    /// What code is called, before an entry there; a name that the frame has already is not written again.
    pub fn name(&mut self, name: Name) -> io::Result<()> {
        self.covered = name.from..name.to;
        match self.named.insert(name.from) {
            true => self.item(&Item::Name(name)),
            false => Ok(()),
        }
    }

    pub fn entry(&mut self, e: &Entry) -> io::Result<()> {
        let space = |p: &Place| (p.cr3, p.cpl, p.code_bits);
        if space(&e.at) != space(&self.context.place) {
            let (cr3, cpl, code_bits) = space(&e.at);
            self.item(&Item::Space {
                cr3,
                cpl,
                code_bits,
            })?;
        }
        let retired = e.retired.wrapping_sub(self.context.retired);
        let lin = e.at.lin.wrapping_sub(self.context.next) as i64;
        let again = matches!(&e.what, What::Insn { code, changed }
            if changed.is_empty() && self.context.code.get(&e.at.lin) == Some(code));
        let item = match again {
            true => Item::Again { retired, lin },
            false => Item::Entry {
                retired,
                lin,
                what: e.what.clone(),
            },
        };
        self.item(&item)?;
        self.context.passed(e);
        if self.raw.len() >= FRAME {
            self.frame()?;
        }
        Ok(())
    }

    fn frame(&mut self) -> io::Result<()> {
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&self.raw)?;
        let packed = packed.finish()?;
        for n in [
            packed.len() as u32,
            self.raw.len() as u32,
            crc32fast::hash(&packed),
        ] {
            self.to.write_all(&n.to_le_bytes())?;
        }
        self.to.write_all(&packed)?;
        self.raw.clear();
        self.context = Context::default();
        self.named.clear();
        self.covered = 0..0;
        Ok(())
    }

    /// Writes what is left, and the end.
    pub fn finish(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.frame()?;
        }
        self.to.write_all(&[0; 12])?;
        self.to.flush()
    }
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    #[error("not a trace that emu trace has written in its binary format")]
    Magic,
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("cut short at byte {0}")]
    Short(u64),
    #[error("damaged: the frame at byte {0} {1}")]
    Frame(u64, &'static str),
}

/// A trace that is being read.
pub struct Reader<R: Read> {
    from: R,
    at: u64,
    raw: Vec<u8>,
    read: usize,
    began: u64,
    context: Context,
    ended: bool,
}

/// What the reader comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Name(Name),
    Entry(Entry),
}

impl<R: Read> Reader<R> {
    pub fn new(mut from: R) -> Result<Self, Bad> {
        let mut magic = [0; MAGIC.len()];
        match from.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e.into()),
            _ => return Err(Bad::Magic),
        }
        Ok(Self {
            from,
            at: MAGIC.len() as u64,
            raw: Vec::new(),
            read: 0,
            began: 0,
            context: Context::default(),
            ended: false,
        })
    }

    fn exactly(&mut self, buf: &mut [u8]) -> Result<(), Bad> {
        match self.from.read_exact(buf) {
            Ok(()) => {
                self.at += buf.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Bad::Short(self.at)),
            Err(e) => Err(e.into()),
        }
    }

    /// The next frame; false: that was the end.
    fn frame(&mut self) -> Result<bool, Bad> {
        let at = self.at;
        let mut header = [[0; 4]; 3];
        self.exactly(header.as_flattened_mut())?;
        let [packed, raw, crc] = header.map(u32::from_le_bytes);
        if packed == 0 {
            return Ok(false);
        }
        if packed > LONGEST || raw > LONGEST {
            return Err(Bad::Frame(at, "is too long"));
        }
        let mut bytes = vec![0; packed as usize];
        self.exactly(&mut bytes)?;
        if crc32fast::hash(&bytes) != crc {
            return Err(Bad::Frame(at, "has another check sum"));
        }
        self.raw.clear();
        let mut limited = DeflateDecoder::new(&bytes[..]).take(u64::from(raw) + 1);
        let read = limited.read_to_end(&mut self.raw);
        if read.is_err() || self.raw.len() != raw as usize {
            return Err(Bad::Frame(at, "has another length"));
        }
        (self.read, self.began) = (0, at);
        self.context = Context::default();
        Ok(true)
    }

    /// What comes next; `None`: that is all.
    pub fn next(&mut self) -> Result<Option<Next>, Bad> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if self.read == self.raw.len() {
                self.ended = !self.frame()?;
                continue;
            }
            let wrong = |what| Bad::Frame(self.began, what);
            let (item, rest) = postcard::take_from_bytes::<Item>(&self.raw[self.read..])
                .map_err(|_| wrong("has something unknown"))?;
            self.read = self.raw.len() - rest.len();
            let (retired, lin, what) = match item {
                Item::Name(name) => return Ok(Some(Next::Name(name))),
                Item::Space {
                    cr3,
                    cpl,
                    code_bits,
                } => {
                    if cpl > 3 || !matches!(code_bits, 16 | 32 | 64) {
                        return Err(wrong("names a mode that there is not"));
                    }
                    let p = &mut self.context.place;
                    (p.cr3, p.cpl, p.code_bits) = (cr3, cpl, code_bits);
                    continue;
                }
                Item::Entry { retired, lin, what } => (retired, lin, Some(what)),
                Item::Again { retired, lin } => (retired, lin, None),
            };
            let lin = self.context.next.wrapping_add(lin as u64);
            let known = || self.context.code.get(&lin).cloned();
            let what = match what {
                Some(what) => what,
                None => What::Insn {
                    code: known().ok_or_else(|| wrong("repeats an unknown instruction"))?,
                    changed: Vec::new(),
                },
            };
            if !matches!(self.context.place.code_bits, 16 | 32 | 64) {
                return Err(wrong("has an entry of no mode"));
            }
            let e = Entry {
                retired: self.context.retired.wrapping_add(retired),
                at: Place {
                    lin,
                    ..self.context.place
                },
                what,
            };
            self.context.passed(&e);
            return Ok(Some(Next::Entry(e)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Gate;
    use super::*;

    /// Numbers that nobody chose (xorshift).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }
    }

    fn entries(r: &mut Random, n: usize) -> Vec<Entry> {
        let one = |r: &mut Random| Entry {
            retired: r.next() >> r.below(64),
            at: Place {
                lin: 0x1000 + r.next() % 64,
                cr3: r.next() % 2 * 0x1000,
                cpl: (r.next() % 4) as u8,
                code_bits: [16, 32, 64][r.below(3)],
            },
            what: match r.below(6) {
                0 => What::Mem {
                    at: r.next(),
                    size: 8,
                    write: true,
                    value: Some(vec![1; 8]),
                },
                1 => What::Exception {
                    vector: 14,
                    error: Some(2),
                    address: r.next(),
                },
                2 => What::Call {
                    gate: Gate::Int(0x80),
                    number: 5,
                    args: [1, 2, 3, 4, 5, u64::MAX],
                    path: Some("/etc/passwd".into()),
                },
                _ => What::Insn {
                    code: vec![0x90; 1 + r.below(2)],
                    changed: match r.below(3) {
                        0 => vec![(0, r.next())],
                        _ => Vec::new(),
                    },
                },
            },
        };
        (0..n).map(|_| one(r)).collect()
    }

    fn written(list: &[Entry]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out).unwrap();
        for (n, e) in list.iter().enumerate() {
            if n % 10 == 0 {
                let name = Name {
                    from: e.at.lin,
                    to: e.at.lin + 1,
                    name: "f".into(),
                };
                w.name(name).unwrap();
            }
            w.entry(e).unwrap();
            if n % 1000 == 999 {
                w.frame().unwrap();
            }
        }
        w.finish().unwrap();
        out
    }

    /// The entries that can be read, and how that ended.
    fn read(bytes: &[u8]) -> (Vec<Entry>, Option<Bad>) {
        let mut list = Vec::new();
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(e) => return (list, Some(e)),
        };
        loop {
            match reader.next() {
                Ok(Some(Next::Entry(e))) => list.push(e),
                Ok(Some(Next::Name(_))) => {}
                Ok(None) => return (list, None),
                Err(e) => return (list, Some(e)),
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let list = entries(&mut Random(42), 5000);
        let (back, bad) = read(&written(&list));
        assert!(bad.is_none(), "{bad:?}");
        assert!(back == list);
    }

    #[test]
    fn straight_code_is_small() {
        let loops = (0..100_000u64).map(|n| Entry {
            retired: n,
            at: Place {
                lin: 0x1000 + n % 50 * 3,
                cr3: 0,
                cpl: 0,
                code_bits: 64,
            },
            what: What::Insn {
                code: vec![0x48, 0x89, 0xc3],
                changed: Vec::new(),
            },
        });
        let list: Vec<Entry> = loops.collect();
        let bytes = written(&list).len();
        assert!(bytes < 50_000, "{bytes} bytes for 100,000 instructions");
    }

    #[test]
    fn wrong_files_are_told() {
        let whole = written(&entries(&mut Random(1), 10));
        let told = |bytes: &[u8]| read(bytes).1.unwrap().to_string();
        let magic = "not a trace that emu trace has written in its binary format";
        assert_eq!(told(b""), magic);
        assert_eq!(told(b"emu trace 2\n............"), magic);
        let cut = whole.len() - 12;
        assert_eq!(told(&whole[..cut]), format!("cut short at byte {cut}"));
        let mut other = whole.clone();
        other[40] ^= 1;
        assert_eq!(
            told(&other),
            "damaged: the frame at byte 12 has another check sum"
        );
        let mut long = whole;
        long[12..16].copy_from_slice(&[0xff; 4]);
        assert_eq!(told(&long), "damaged: the frame at byte 12 is too long");
    }

    /// Damage ends in an error or in other entries, soon; the frames before it are whole.
    #[test]
    fn damaged_files() {
        let mut r = Random(7);
        let list = entries(&mut r, 3000);
        let whole = written(&list);
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + r.below(4) {
                let at = r.below(bytes.len());
                match r.below(3) {
                    0 => bytes[at] ^= 1 << r.below(8),
                    1 => bytes.truncate(at + 1),
                    _ => {
                        bytes.splice(at..at, (0..4).map(|n| n * 85));
                    }
                }
            }
            let (back, bad) = read(&bytes);
            assert!(bad.is_some() || back == list);
            assert!(back.len().is_multiple_of(1000) && list.starts_with(&back));
        }
    }

    /// Frames whose check sums are right and whose content is not.
    #[test]
    fn damaged_frames() {
        let mut r = Random(8);
        for _ in 0..3000 {
            let list = entries(&mut r, 20);
            let mut out = MAGIC.to_vec();
            let mut w = Writer::new(io::sink()).unwrap();
            list.iter().for_each(|e| w.entry(e).unwrap());
            for _ in 0..1 + r.below(6) {
                let at = r.below(w.raw.len());
                w.raw[at] = r.next() as u8;
            }
            let mut w = Writer {
                to: &mut out,
                raw: w.raw,
                context: Context::default(),
                named: FxHashSet::default(),
                covered: 0..0,
            };
            w.finish().unwrap();
            let (back, _) = read(&out);
            // An entry has three bytes at least.
            assert!(back.len() <= out.len());
            let symbol = |_| None;
            for e in &back {
                crate::trace::text::line(e, &symbol);
                crate::trace::text::json(e, &symbol);
            }
        }
    }
}
