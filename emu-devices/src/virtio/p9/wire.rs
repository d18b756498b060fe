//! 9P messages as bytes: little-endian numbers, strings with a 16-bit length.

use super::{Errno, Qid};

/// Takes a message apart. Whatever is missing is `EINVAL`.
pub struct Message<'a>(pub &'a [u8]);

impl<'a> Message<'a> {
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Errno> {
        let (now, rest) = self.0.split_at_checked(n).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(now)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        self.bytes(N)?.try_into().map_err(|_| Errno::INVAL)
    }

    pub fn u8(&mut self) -> Result<u8, Errno> {
        self.array().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Result<u16, Errno> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn text(&mut self) -> Result<&'a [u8], Errno> {
        let n = self.u16()?;
        self.bytes(n as usize)
    }
}

/// An answer's body.
#[derive(Default)]
pub struct Answer(pub Vec<u8>);

impl Answer {
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.0.extend_from_slice(v);
        self
    }

    /// What is longer than a string can be is cut off.
    pub fn text(&mut self, v: &[u8]) -> &mut Self {
        let v = &v[..v.len().min(u16::MAX as usize)];
        self.u16(v.len() as u16).bytes(v)
    }

    pub fn qid(&mut self, q: Qid) -> &mut Self {
        self.u8(q.kind).u32(q.version).u64(q.path)
    }
}
