//! The kernel's description of its own types (BTF: `/sys/kernel/btf`, Documentation/bpf/btf.rst): which number a function
//! of it has, and where in a structure a member is. Programs that the kernel runs name both by numbers that differ from
//! one build of a kernel to the next.
//!
//! ```text
//! header   u16 magic, u8 version, u8 flags, u32 length; offset and length of the types, and of the strings
//! types    u32 name, u32 info (count, kind), u32 size or type, then what the kind has
//! strings  each ended by a zero
//! ```
//! A module's types and strings go on where the kernel's end. Types are numbered by their order, from 1.

use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel shows them.
const FOLDER: &str = "/sys/kernel/btf";
const MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();

/// Kinds of types that are looked for, or through.
const NUMBER: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;
/// typedef, volatile, const, restrict, type tag.
const MODIFIERS: [u32; 5] = [8, 9, 10, 11, 18];

/// The types of the kernel, or of a module on top of them.
#[derive(Debug)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where in `types` each is, by its number; the first stands for `void`.
    places: Vec<u32>,
}

/// A type.
#[derive(Debug, Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// How many members it has.
    count: usize,
    /// Whether members have widths in bits beside their places.
    has_widths: bool,
    /// Bytes, or the type that it stands for.
    size_or_type: u32,
    rest: &'a [u8],
}

impl Btf {
    /// The kernel's.
    ///
    /// # Errors
    /// Not there (`CONFIG_DEBUG_INFO_BTF`), or not understood.
    pub fn kernel() -> io::Result<Btf> {
        let mut btf = Btf { types: Vec::new(), strings: Vec::new(), places: vec![0] };
        btf.add(&fs::read(Path::new(FOLDER).join("vmlinux"))?)?;
        Ok(btf)
    }

    /// The kernel's with those of a module.
    ///
    /// # Errors
    /// Not there, or not understood.
    pub fn with_module(mut self, name: &str) -> io::Result<Btf> {
        self.add(&fs::read(Path::new(FOLDER).join(name))?)?;
        Ok(self)
    }

    /// The number of a function.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.find(FUNC, name)
    }

    /// The number of a structure.
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.find(STRUCT, name)
    }

    /// Where in a structure a member is, bytes: `["tuplehash", "1", "tuple"]` is a member of the second of an array's.
    pub fn offset(&self, structure: u32, path: &[&str]) -> Option<u32> {
        let mut number = structure;
        let mut offset = 0;
        for step in path {
            let (further, next) = self.step(number, step)?;
            offset += further;
            number = next;
        }
        Some(offset)
    }

    /// Takes a file's types and strings after those that are there.
    fn add(&mut self, file: &[u8]) -> io::Result<()> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "BTF that is not understood");
        if file.get(..2) != Some(&MAGIC[..]) {
            return Err(broken());
        }
        let field = |at: usize| word(file, at).map(|value| value as usize).ok_or_else(broken);
        let (header, types, strings) = (field(4)?, (field(8)?, field(12)?), (field(16)?, field(20)?));
        let part = |(offset, length): (usize, usize)| {
            let begin = header.checked_add(offset)?;
            file.get(begin..begin.checked_add(length)?)
        };
        let mut place = self.types.len();
        self.types.extend_from_slice(part(types).ok_or_else(broken)?);
        self.strings.extend_from_slice(part(strings).ok_or_else(broken)?);
        while place < self.types.len() {
            self.places.push(u32::try_from(place).map_err(|_| broken())?);
            let found = read(&self.types[place..]).ok_or_else(broken)?;
            place += 12 + rest_bytes(found.kind, found.count).ok_or_else(broken)?;
        }
        Ok(())
    }

    fn get(&self, number: u32) -> Option<Type<'_>> {
        let place = *self.places.get(number as usize).filter(|_| number != 0)?;
        read(self.types.get(place as usize..)?)
    }

    fn is_called(&self, name: u32, wanted: &str) -> bool {
        let text = self.strings.get(name as usize..).unwrap_or_default();
        text.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        let count = u32::try_from(self.places.len()).ok()?;
        (1..count).find(|number| {
            self.get(*number).is_some_and(|found| found.kind == kind && self.is_called(found.name, name))
        })
    }

    /// A member of a type: where it is, and which type it is of.
    fn step(&self, number: u32, name: &str) -> Option<(u32, u32)> {
        let found = self.get(number)?;
        match found.kind {
            kind if MODIFIERS.contains(&kind) => self.step(found.size_or_type, name),
            ARRAY => {
                let element = word(found.rest, 0)?;
                let position: u32 = name.parse().ok().filter(|position| Some(*position) < word(found.rest, 8))?;
                Some((position * self.size(element)?, element))
            }
            STRUCT | UNION => (0..found.count).find_map(|position| {
                let member = found.rest.get(position * 12..)?;
                let bits = word(member, 8)?;
                let bits = if found.has_widths { bits & 0xff_ffff } else { bits };
                let is_it = self.is_called(word(member, 0)?, name);
                is_it.then_some((bits / 8, word(member, 4)?))
            }),
            _ => None,
        }
    }

    /// How large a structure or a number is, bytes.
    fn size(&self, number: u32) -> Option<u32> {
        let found = self.get(number)?;
        match found.kind {
            kind if MODIFIERS.contains(&kind) => self.size(found.size_or_type),
            NUMBER | STRUCT | UNION => Some(found.size_or_type),
            _ => None,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read(bytes: &[u8]) -> Option<Type<'_>> {
    let (name, info, size_or_type) = (word(bytes, 0)?, word(bytes, 4)?, word(bytes, 8)?);
    let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
    Some(Type { name, kind, count, has_widths: info >> 31 == 1, size_or_type, rest: &bytes[12..] })
}

/// How long is what a type of this kind has after its first three words; nothing for a kind that is not known.
fn rest_bytes(kind: u32, count: usize) -> Option<usize> {
    match kind {
        // Variables, declaration tags.
        NUMBER | 14 | 17 => Some(4),
        ARRAY => Some(12),
        // Structures, unions, sections, enumerations of 64 bits.
        STRUCT | UNION | 15 | 19 => Some(12 * count),
        // Enumerations, prototypes.
        6 | 13 => Some(8 * count),
        // Pointers, declarations, functions, floating point numbers.
        2 | 7 | FUNC | 16 => Some(0),
        kind if MODIFIERS.contains(&kind) => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_functions_and_members_are_found() {
        let Ok(btf) = Btf::kernel() else {
            eprintln!("this kernel describes no types");
            return;
        };
        let list = btf.structure("list_head").unwrap();
        assert_eq!(btf.offset(list, &["prev"]), Some(8));
        assert_eq!(btf.offset(list, &["no_such_member"]), None);
        assert_eq!(btf.offset(u32::MAX, &["prev"]), None);
        assert_eq!(btf.structure("no_such_structure"), None);
        // An array of `struct hlist_head`, each a pointer.
        let pid = btf.structure("pid").unwrap();
        let (first, second) = (btf.offset(pid, &["tasks", "0"]), btf.offset(pid, &["tasks", "1"]));
        assert_eq!(btf.offset(pid, &["tasks", "1000"]), None);
        assert_eq!(second.unwrap() - first.unwrap(), 8);
        assert!(btf.function("bpf_prog_run_generic_xdp").or(btf.function("schedule")).is_some());
        assert_eq!(btf.function("list_head"), None);
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        let mut btf = Btf { types: Vec::new(), strings: Vec::new(), places: vec![0] };
        assert!(btf.add(b"").is_err());
        assert!(btf.add(&[0; 40]).is_err());
        let mut short = MAGIC.to_vec();
        short.extend([1, 0]);
        short.extend([24_u32, 0, 1000, 1000, 4].map(u32::to_ne_bytes).concat());
        assert!(btf.add(&short).is_err());
    }
}
