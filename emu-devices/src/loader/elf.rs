//! ELF executables as kernels come in them: 32 or 64 bit, loaded at their segments' physical addresses.

use super::space::Space;
use super::{File, LoadError, claim, clear, put};
use emu_core::mem::phys::Ram;
use object::Endianness;
use object::elf::{ELFCLASS32, ELFCLASS64, EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// Where in the file a note with this owner and type was found, and its bytes.
pub(super) struct Note<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u32,
    pub(super) desc: &'a [u8],
}

struct Segment<'a> {
    paddr: u64,
    vaddr: u64,
    size: u64,
    data: &'a [u8],
}

pub(super) struct Elf<'a> {
    file: File<'a>,
    entry: u64,
    segments: Vec<Segment<'a>>,
    pub(super) notes: Vec<Note<'a>>,
}

pub(super) fn is_elf(b: &[u8]) -> bool {
    b.starts_with(b"\x7fELF")
}

impl<'a> Elf<'a> {
    pub(super) fn parse(file: File<'a>) -> Result<Self, LoadError> {
        match file.bytes.get(4) {
            Some(&c) if c == ELFCLASS32.0 => Self::read::<FileHeader32<Endianness>>(file),
            Some(&c) if c == ELFCLASS64.0 => Self::read::<FileHeader64<Endianness>>(file),
            _ => Err(Self::bad(file, "its class is neither 32 nor 64 bit")),
        }
    }

    fn bad(file: File, why: impl ToString) -> LoadError {
        LoadError::Elf {
            file: file.name.into(),
            why: why.to_string(),
        }
    }

    fn read<H: FileHeader<Endian = Endianness>>(file: File<'a>) -> Result<Self, LoadError> {
        let bad = |e: object::Error| Self::bad(file, e);
        let header = H::parse(file.bytes).map_err(bad)?;
        let endian = header.endian().map_err(bad)?;
        let machine = header.e_machine(endian);
        if endian != Endianness::Little || !matches!(machine, EM_386 | EM_X86_64) {
            return Err(Self::bad(file, "it is for another processor"));
        }
        let headers = header.program_headers(endian, file.bytes).map_err(bad)?;
        let mut elf = Self {
            file,
            entry: header.e_entry(endian).into(),
            segments: Vec::new(),
            notes: Vec::new(),
        };
        for h in headers {
            if h.p_type(endian) == PT_LOAD {
                let (offset, size) = h.file_range(endian);
                let data = h
                    .data(endian, file.bytes)
                    .map_err(|()| LoadError::Truncated {
                        file: file.name.into(),
                        what: "a segment",
                        needs: offset.saturating_add(size),
                        has: file.bytes.len() as u64,
                    })?;
                elf.segments.push(Segment {
                    paddr: h.p_paddr(endian).into(),
                    vaddr: h.p_vaddr(endian).into(),
                    size: h.p_memsz(endian).into(),
                    data,
                });
            } else if let Some(mut notes) = h.notes(endian, file.bytes).map_err(bad)? {
                while let Some(n) = notes.next().map_err(bad)? {
                    elf.notes.push(Note {
                        name: n.name(),
                        kind: n.n_type(endian).0,
                        desc: n.desc(),
                    });
                }
            }
        }
        Ok(elf)
    }

    /// The entry as a physical address.
    pub(super) fn entry(&self) -> u64 {
        let inside = |s: &&Segment| self.entry.wrapping_sub(s.vaddr) < s.size;
        match self.segments.iter().find(inside) {
            Some(s) => (self.entry - s.vaddr).wrapping_add(s.paddr),
            None => self.entry,
        }
    }

    /// Copies the segments into RAM and takes their place out of the free space.
    pub(super) fn load(&self, ram: &Ram, space: &mut Space) -> Result<(), LoadError> {
        if self.segments.iter().all(|s| s.size == 0) {
            return Err(Self::bad(self.file, "nothing in it is to be loaded"));
        }
        let name = self.file.name;
        for s in self.segments.iter().filter(|s| s.size > 0) {
            if s.data.len() as u64 > s.size {
                return Err(Self::bad(
                    self.file,
                    "a segment is larger in the file than in memory",
                ));
            }
            claim(space, name, "a segment", s.paddr, s.size)?;
            put(ram, name, "a segment", s.paddr, s.data)?;
            let rest = s.size - s.data.len() as u64;
            clear(ram, name, "a segment", s.paddr + s.data.len() as u64, rest)?;
        }
        Ok(())
    }
}
