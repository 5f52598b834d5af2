//! The linker's map: which piece of which file lies at which address.
//!
//! lld writes one line for each output section, each input section in it, and each symbol in that, told apart by what
//! their last column looks like: `FILE:(SECTION)` is an input section. GNU ld tells them apart by their indentation, and
//! breaks the line after a long name. Addresses and sizes are hexadecimal.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What GNU ld writes above the sections that the program has.
const GNU_BEGINNING: &str = "\nLinker script and memory map\n";

/// A piece of code as the linker took it from a file: one function of a Rust crate, or a file of libc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    file: String,
    name: String,
}

/// The code of a program.
pub struct Map {
    /// Input sections with code, by where they begin.
    pub sections: BTreeMap<u64, Section>,
    /// Where the functions in them begin.
    pub functions: Vec<u64>,
}

impl Map {
    /// Reads a map.
    pub fn read(path: &Path) -> Result<Map> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Map::parse(&text))
    }

    fn parse(text: &str) -> Map {
        let mut map = match text.split_once(GNU_BEGINNING) {
            Some((_, text)) => Map::parse_gnu(text),
            None => Map::parse_lld(text),
        };
        map.functions.sort_unstable();
        map.functions.dedup();
        map
    }

    /// GNU ld names no local symbols. A section that was made for one function begins with it, though.
    fn parse_gnu(text: &str) -> Map {
        let mut map = Map { sections: BTreeMap::new(), functions: Vec::new() };
        let mut is_code = false;
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
            let indentation = line.len() - line.trim_start().len();
            if indentation == 1 && words.len() == 1 {
                words.extend(lines.peek().iter().flat_map(|next| next.split_ascii_whitespace()));
            }
            match (indentation, &words[..]) {
                (0, [_, ..]) => is_code = false,
                (1, &[name, address, size, file]) if name.starts_with('.') => {
                    let (Some(address), Some(size)) = (hexadecimal(address), hexadecimal(size)) else { continue };
                    is_code = name.starts_with(".text") && address > 0 && size > 0;
                    if !is_code {
                        continue;
                    }
                    map.sections.insert(address, Section { file: file.to_owned(), name: name.to_owned() });
                    if name != ".text" {
                        map.functions.push(address);
                    }
                }
                (2.., &[address, _]) if is_code => map.functions.extend(hexadecimal(address)),
                _ => {}
            }
        }
        map
    }

    fn parse_lld(text: &str) -> Map {
        let mut map = Map { sections: BTreeMap::new(), functions: Vec::new() };
        let mut is_code = false;
        for line in text.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let address = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
            // After the address: where it is loaded, size, alignment, and what it is.
            let (Some(address), Some(what)) = (address, words.nth(3)) else { continue };
            match section(what) {
                Some(section) => {
                    is_code = section.name.starts_with(".text");
                    if is_code {
                        map.sections.insert(address, section);
                    }
                }
                // An output section begins.
                None if what.starts_with('.') => is_code = false,
                None if is_code => map.functions.push(address),
                None => {}
            }
        }
        map
    }

    /// The section that an address lies in.
    pub fn section_of(&self, address: u64) -> Option<&Section> {
        self.sections.range(..=address).next_back().map(|(_, section)| section)
    }
}

/// A number of GNU ld's.
fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

fn section(what: &str) -> Option<Section> {
    let (file, name) = what.strip_suffix(')')?.rsplit_once(":(")?;
    Some(Section { file: file.to_owned(), name: name.to_owned() })
}

impl Section {
    /// What a linker script calls it. A section that holds one function is found by its name alone, whatever hashes
    /// the compiler puts into it; of a C library, the file in its archive says which one is meant.
    pub fn pattern(&self) -> String {
        match self.name.strip_prefix(".text.") {
            Some(function) if is_rust(function) => format!("*(.text.{})", without_hashes(function)),
            _ => format!("{}({})", file_pattern(&self.file), self.name),
        }
    }
}

fn is_rust(function: &str) -> bool {
    function.contains("_R")
}

/// Name of a file anywhere: `*libc.a:malloc.o` for a member of an archive.
fn file_pattern(file: &str) -> String {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    match file.strip_suffix(')').and_then(|file| file.rsplit_once('(')) {
        Some((archive, member)) => format!("*{}:{member}", base(archive)),
        None => format!("*{}", base(file)),
    }
}

/// Fewest digits of a crate's hash, 64 bits written to base 62: nearly all have 10 or 11. A name that looks like one by
/// chance becomes a wildcard that still matches it.
const HASH_DIGITS_MIN: usize = 9;

/// A symbol name of version 0 with wildcards for the hashes of crates (`Cs` HASH `_`) and of modules that link-time
/// optimisation made (`.llvm.` HASH).
fn without_hashes(name: &str) -> String {
    let (name, moved) = name.split_once(".llvm.").map_or((name, ""), |(name, _)| (name, ".llvm.*"));
    let mut parts = name.split("Cs");
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        pattern.push_str("Cs");
        let hash = part.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let is_hash = hash >= HASH_DIGITS_MIN && part[hash..].starts_with('_');
        pattern.push_str(if is_hash { "*" } else { &part[..hash] });
        pattern.push_str(&part[hash..]);
    }
    pattern + moved
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
             VMA              LMA     Size Align Out     In      Symbol
          200270           200270       20     4 .note.ABI-tag
          200270           200270       20     4         /usr/lib/crt1.o:(.note.ABI-tag)
          200270           200270       20     1                 __abi_tag
          437d40           437d40   ac3f40    64 .text
          437d40           437d40       1d    16         hull.cgu.0.o:(.text._RNvCsab1gEmfK2I_4hull4main)
          437d40           437d40       1d     1                 _RNvCsab1gEmfK2I_4hull4main
          437d60           437d60     5c56    16         /usr/lib/x/libc.a(malloc.o):(.text)
          437d70           437d70       15     1                 malloc
          43ff00           43ff00       10     1 .init
          43ff00           43ff00       10     1                 _init
";

    #[test]
    fn sections_and_functions_are_read() {
        let map = Map::parse(TEXT);
        assert_eq!(map.functions, [0x437d40, 0x437d70]);
        let pattern = |address| map.section_of(address).map(Section::pattern);
        assert_eq!(pattern(0x437d41).as_deref(), Some("*(.text._RNvCs*_4hull4main)"));
        assert_eq!(pattern(0x437d71).as_deref(), Some("*libc.a:malloc.o(.text)"));
        assert_eq!(pattern(0x1000), None);
    }

    const GNU_TEXT: &str = "
Discarded input sections

 .text          0x0000000000000000        0x0 /usr/lib/x/libc.a(free.lo)

Linker script and memory map

LOAD /usr/lib/crt1.o

.text.frequent  0x0000000000401010   0x1ff1b8
 *crt1.o(.text)
 .text._RNvCsab1gEmfK2I_4hull4main
                0x0000000000401010       0x1d hull.cgu.0.o
 *fill*         0x000000000040102d        0x3
 .text          0x0000000000401030       0x32 /usr/lib/x/libc.a(memcpy.lo)
                0x0000000000401030                memcpy
                0x0000000000401034                __memcpy_fwd_alias_1
 .text.malloc   0x0000000000401070        0x8 /usr/lib/x/libc.a(malloc.lo)

.rodata         0x0000000000502000        0x8
 .rodata.a      0x0000000000502000        0x8 hull.cgu.0.o
                0x0000000000502000                table
";

    #[test]
    fn the_other_linkers_map_is_read() {
        let map = Map::parse(GNU_TEXT);
        assert_eq!(map.functions, [0x40_1010, 0x40_1030, 0x40_1034, 0x40_1070]);
        let pattern = |address| map.section_of(address).map(Section::pattern);
        assert_eq!(pattern(0x40_1011).as_deref(), Some("*(.text._RNvCs*_4hull4main)"));
        assert_eq!(pattern(0x40_1034).as_deref(), Some("*libc.a:memcpy.lo(.text)"));
        assert_eq!(pattern(0x40_1070).as_deref(), Some("*libc.a:malloc.lo(.text.malloc)"));
    }

    #[test]
    fn hashes_are_wildcards_and_nothing_else_is() {
        let name = "_RNvMs_NtCs3AxgEmfK2I_11hull_kernel6CsumsNtB4_5Css_s3add.llvm.1234";
        assert_eq!(without_hashes(name), "_RNvMs_NtCs*_11hull_kernel6CsumsNtB4_5Css_s3add.llvm.*");
    }
}
