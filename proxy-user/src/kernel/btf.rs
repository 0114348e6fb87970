//! Where the running kernel has a field of one of its own records, by the types that it tells of itself (BTF,
//! `/sys/kernel/btf/vmlinux`). aya reads them too, for its relocations, and keeps them to itself.

use std::{fs, io, path::Path};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// `linux/btf.h`
const STRUCT: u32 = 4;
const UNION: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("{VMLINUX} cannot be read ({0}): the kernel was built without CONFIG_DEBUG_INFO_BTF")]
    Unread(#[from] io::Error),
    #[error("{VMLINUX} is not what it is to be")]
    Malformed,
    #[error("the kernel's struct {0} has no field {1}")]
    Missing(String, String),
}

/// The types of the running kernel.
#[derive(Debug)]
pub struct Types {
    data: Vec<u8>,
    strings: usize,
    /// Where each begins, by its number less one.
    places: Vec<usize>,
}

impl Types {
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(Path::new(VMLINUX))?).ok_or(BtfError::Malformed)
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let words = Words(&data);
        if words.half(0)? != MAGIC {
            return None;
        }
        let [header, types, length, strings] = [4, 8, 12, 16].map(|at| words.word(at).map(|it| it as usize));
        let (mut at, strings) = (header? + types?, header? + strings?);
        let end = at + length?;
        let mut places = Vec::new();
        while at < end {
            places.push(at);
            let info = words.word(at + 4)?;
            at += 12 + behind(info >> 24 & 0x1f)?.of(info & 0xffff);
        }
        Some(Self { data, strings, places })
    }

    /// Where a field begins, in bytes from the beginning of the struct; `path` leads there by way of fields that are structs
    /// themselves.
    pub fn offset(&self, of: &str, path: &[&str]) -> Result<u32, BtfError> {
        let found = || {
            let mut at = self.places.iter().copied().find(|at| self.is_record(*at) && self.name(*at) == Some(of))?;
            let mut offset = 0;
            for field in path {
                let (bits, number) = self.member(at, field)?;
                offset += bits / 8;
                at = self.place(number).unwrap_or_default();
            }
            Some(offset)
        };
        found().ok_or_else(|| BtfError::Missing(of.to_owned(), path.join(".")))
    }

    /// A field by its name, also one of a struct without a name inside: where, in bits, and the number of its type.
    fn member(&self, at: usize, name: &str) -> Option<(u32, u32)> {
        let words = Words(&self.data);
        let info = words.word(at + 4)?;
        let has_widths = info >> 31 != 0;
        (0..(info & 0xffff) as usize).find_map(|index| {
            let member = at + 12 + index * 12;
            let (number, place) = (words.word(member + 4)?, words.word(member + 8)?);
            let bits = if has_widths { place & 0xff_ffff } else { place };
            if self.name(member) == Some(name) {
                return Some((bits, number));
            }
            let inside = self.place(number).filter(|at| self.name(member) == Some("") && self.is_record(*at))?;
            self.member(inside, name).map(|(within, number)| (bits + within, number))
        })
    }

    fn is_record(&self, at: usize) -> bool {
        let kind = Words(&self.data).word(at + 4).map(|info| info >> 24 & 0x1f);
        kind.is_some_and(|kind| kind == STRUCT || kind == UNION)
    }

    fn place(&self, number: u32) -> Option<usize> {
        self.places.get((number as usize).checked_sub(1)?).copied()
    }

    /// Of a type or a field, both of which begin with it.
    fn name(&self, at: usize) -> Option<&str> {
        let start = self.strings + Words(&self.data).word(at)? as usize;
        let rest = self.data.get(start..)?;
        std::str::from_utf8(&rest[..rest.iter().position(|byte| *byte == 0)?]).ok()
    }
}

/// What follows a type's three words, in bytes.
struct Behind {
    once: usize,
    each: usize,
}

impl Behind {
    fn of(&self, count: u32) -> usize {
        self.once + self.each * count as usize
    }
}

fn behind(kind: u32) -> Option<Behind> {
    let (once, each) = match kind {
        // Integers, variables and tags of declarations.
        1 | 14 | 17 => (4, 0),
        // Arrays.
        3 => (12, 0),
        // Structs, unions, sections, and enums of 64 bits.
        STRUCT | UNION | 15 | 19 => (0, 12),
        // Enums, and parameters of functions.
        6 | 13 => (0, 8),
        // Pointers, declarations, names, qualifiers, functions, floats and tags of types.
        2 | 7..=12 | 16 | 18 => (0, 0),
        _ => return None,
    };
    Some(Behind { once, each })
}

/// The kernel writes it in its own byte order.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn half(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; struct { int b; struct inner c; }; }`, `struct inner { int d; int e; }`.
    fn types() -> Vec<u8> {
        let strings = b"\0int\0outer\0inner\0a\0b\0c\0d\0e\0";
        let name = |text: &str| {
            let text = [b"\0", text.as_bytes(), b"\0"].concat();
            let at = strings.windows(text.len()).position(|it| it == text).unwrap();
            at as u32 + 1
        };
        let record = |count: u32| STRUCT << 24 | count;
        let types: &[u32] = &[
            // 1: int
            name("int"),
            1 << 24,
            4,
            32,
            // 2: outer
            name("outer"),
            record(2),
            16,
            name("a"),
            1,
            0,
            0,
            3,
            32,
            // 3: the one without a name
            0,
            record(2),
            12,
            name("b"),
            1,
            0,
            name("c"),
            4,
            32,
            // 4: inner
            name("inner"),
            record(2),
            8,
            name("d"),
            1,
            0,
            name("e"),
            1,
            32,
        ];
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let lengths = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        let mut data = MAGIC.to_ne_bytes().to_vec();
        data.extend([1, 0]);
        data.extend(lengths.iter().flat_map(|word| word.to_ne_bytes()));
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn a_field_is_found_through_structs_with_a_name_and_without() {
        let types = Types::parse(types()).unwrap();
        let offset = |of: &str, path: &[&str]| types.offset(of, path).ok();
        assert_eq!(offset("outer", &["a"]), Some(0));
        assert_eq!(offset("outer", &["b"]), Some(4));
        assert_eq!(offset("outer", &["c", "e"]), Some(12));
        assert_eq!(offset("outer", &["d"]), None, "it is not a field of this one");
        assert_eq!((offset("inner", &["d"]), offset("nobody", &["d"])), (Some(0), None));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = types();
        assert!((0..whole.len()).all(|end| {
            let types = Types::parse(whole[..end].to_vec());
            types.is_none_or(|types| types.offset("outer", &["c", "e"]).is_err())
        }));
    }
}
