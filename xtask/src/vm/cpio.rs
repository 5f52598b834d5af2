//! The `newc` cpio format, as far as an initramfs needs it: folders, files, links.
//!
//! Each entry is a header of 110 hexadecimal characters, the name with a NUL, and the content, both padded to four
//! bytes; `TRAILER!!!` ends the archive. The kernel unpacks several archives that follow each other in one file.
//! See Documentation/driver-api/early-userspace/buffer-format.rst in the kernel tree.

use std::collections::BTreeSet;
use std::io::{Result, Write};
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;

/// Writes one archive; folders appear by themselves before what is in them.
pub struct Archive<W: Write> {
    out: W,
    written: u64,
    entries: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An archive that is written to `out`.
    pub fn new(out: W) -> Archive<W> {
        Archive { out, written: 0, entries: 0, folders: BTreeSet::new() }
    }

    /// A folder and the folders above it.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return Ok(());
        }
        self.parent(path)?;
        self.folders.insert(path.to_string());
        self.entry(path, FOLDER, &[])
    }

    /// A file with its permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(path, FILE | permissions, content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(path, LINK, target.as_bytes())
    }

    /// Ends the archive, padded so that another one can follow.
    pub fn finish(mut self) -> Result<W> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        self.pad(512)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parent(&mut self, path: &str) -> Result<()> {
        match Path::new(path).parent().and_then(Path::to_str) {
            Some(parent) => self.folder(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).map_err(std::io::Error::other)?;
        let links = if mode == FOLDER { 2 } else { 1 };
        let length = u32::try_from(name.len() + 1).map_err(std::io::Error::other)?;
        let mut header = String::from("070701");
        for field in [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, length, 0] {
            header += &format!("{field:08x}");
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(content)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self, to: u64) -> Result<()> {
        let missing = (to - self.written % to) % to;
        self.put(&vec![0; missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_folders_come_first() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/usr/bin/one", 0o755, b"12345").unwrap();
        archive.link("bin/two", "one").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut names = Vec::new();
        let mut at = 0;
        loop {
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                usize::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, length) = (field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + length - 1]).unwrap().to_string();
            at = (at + 110 + length).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
            names.push(name);
        }
        assert_eq!(names, ["usr", "usr/bin", "usr/bin/one", "bin", "bin/two"]);
    }
}
