//! BTF: a kernel's types, as `.BTF` has them (Documentation/bpf/btf.rst): where a structure's members are.

/// Of `include/uapi/linux/btf.h`, BTF_KIND_*.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Types inside each other.
const DEEPEST: usize = 32;

pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where in `types` each is; the first has the number 1.
    at: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    info: u32,
    /// Or the number of another type.
    size: u32,
    /// Where what follows it is.
    rest: usize,
}

impl Type {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

impl Btf {
    /// Of a section's content; `None` if it is damaged.
    pub fn parse(data: &[u8]) -> Option<Btf> {
        if data.get(..2)? != [0x9f, 0xeb] {
            return None;
        }
        let field = |n: usize| word(data, 4 + 4 * n).map(|v| v as usize);
        let header = field(0)?;
        let part = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            data.get(start..start.checked_add(length)?)
        };
        let mut btf = Btf {
            types: part(field(1)?, field(2)?)?.to_vec(),
            strings: part(field(3)?, field(4)?)?.to_vec(),
            at: Vec::new(),
        };
        let mut next = 0;
        while next < btf.types.len() {
            btf.at.push(u32::try_from(next).ok()?);
            let t = btf.read(next)?;
            let n = t.count();
            next = t.rest
                + match t.kind() {
                    INT | VAR | DECL_TAG => 4,
                    ARRAY => 12,
                    STRUCT | UNION | DATASEC | ENUM64 => 12 * n,
                    ENUM | FUNC_PROTO => 8 * n,
                    _ => 0,
                };
        }
        Some(btf)
    }

    fn read(&self, at: usize) -> Option<Type> {
        let word = |n: usize| word(&self.types, at + 4 * n);
        Some(Type {
            name: word(0)?,
            info: word(1)?,
            size: word(2)?,
            rest: at + 12,
        })
    }

    fn get(&self, number: u32) -> Option<Type> {
        let i = (number as usize).checked_sub(1)?;
        self.read(*self.at.get(i)? as usize)
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let text = self.strings.get(offset as usize..);
        let rest = text.and_then(|t| t.strip_prefix(name.as_bytes()));
        rest.is_some_and(|r| r.first() == Some(&0))
    }

    /// What a type is without its other names (typedef, const, volatile).
    fn plain(&self, mut number: u32) -> Option<Type> {
        for _ in 0..DEEPEST {
            let t = self.get(number)?;
            match t.kind() {
                TYPEDEF..=RESTRICT | TYPE_TAG => number = t.size,
                _ => return Some(t),
            }
        }
        None
    }

    fn structure(&self, name: &str) -> Option<Type> {
        let all = self.at.iter().filter_map(|at| self.read(*at as usize));
        let mut all = all.filter(|t| t.kind() == STRUCT);
        all.find(|t| self.is_named(t.name, name))
    }

    /// A structure's size in bytes.
    pub fn size(&self, structure: &str) -> Option<u64> {
        Some(self.structure(structure)?.size.into())
    }

    /// Where a member is in a structure, in bytes; `path` is as in C: `core_layout.base`. An array's first element needs no index.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u64> {
        let mut t = self.structure(structure)?;
        let mut bits = 0;
        for (depth, name) in path.split('.').enumerate() {
            if depth > DEEPEST {
                return None;
            }
            if t.kind() == ARRAY {
                t = self.plain(word(&self.types, t.rest)?)?;
            }
            let (at, number) = self.member(t, name, DEEPEST)?;
            bits += at;
            t = self.plain(number)?;
        }
        Some(bits / 8)
    }

    /// A member's offset in bits, and the number of its type; looks into anonymous structures and unions.
    fn member(&self, t: Type, name: &str, depth: usize) -> Option<(u64, u32)> {
        if !matches!(t.kind(), STRUCT | UNION) || depth == 0 {
            return None;
        }
        // With the kind flag, an offset's upper 8 bits are a bit field's size.
        let mask = if t.info >> 31 != 0 {
            0xff_ffff
        } else {
            u32::MAX
        };
        (0..t.count()).find_map(|i| {
            let at = t.rest + 12 * i;
            let field = |n: usize| word(&self.types, at + 4 * n);
            let (own, number, offset) = (field(0)?, field(1)?, u64::from(field(2)? & mask));
            if own == 0 || self.strings.get(own as usize) == Some(&0) {
                let (inside, number) = self.member(self.plain(number)?, name, depth - 1)?;
                return Some((offset + inside, number));
            }
            self.is_named(own, name).then_some((offset, number))
        })
    }
}
