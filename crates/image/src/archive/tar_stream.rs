//! A tar archive read forwards, entry by entry, with bounds (POSIX pax, "ustar" and GNU long names).
//!
//! The `tar` crate is the codec of single headers; the order of blocks, long names, pax records and the ends are read
//! here, because the crate reads a long name of any length into memory and takes the end of the input for the end of
//! an entry. Names come out relative, without `.`; one that is absolute, has `..` or is not UTF-8 is an error. Entry
//! types other than files, folders and links are passed over.

use std::io::Read;

use tar::{EntryType, Header};

use super::ArchiveError;

const BLOCK_BYTES: usize = 512;
/// Longest GNU name or set of pax records.
const RECORDS_BYTES_MAX: u64 = 1 << 20;
/// Longest name, and target of a link (PATH_MAX, limits.h).
pub(super) const NAME_BYTES_MAX: usize = 4096;
/// Bytes handed on at a time.
const PART_BYTES: usize = 128 << 10;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// The target, resolved inside the archive.
    Link(String),
    Other,
}

/// An entry whose body has not been read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub kind: Kind,
    pub size_bytes: u64,
}

/// The archive and how much of the current entry is left.
pub(super) struct TarStream<R> {
    input: R,
    left_bytes: u64,
    padding_bytes: u64,
    current: String,
    buffer: Vec<u8>,
    limit_bytes: Option<u64>,
    read_bytes: u64,
}

/// What extension headers say about the entry after them.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

impl<R: Read> TarStream<R> {
    /// An archive of at most `limit_bytes`, headers and what follows its end included.
    pub fn new(input: R, limit_bytes: Option<u64>) -> Self {
        Self {
            input,
            left_bytes: 0,
            padding_bytes: 0,
            current: "its first header".to_owned(),
            buffer: vec![0; PART_BYTES],
            limit_bytes,
            read_bytes: 0,
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), ArchiveError> {
        self.read_bytes += bytes as u64;
        match self.limit_bytes {
            Some(limit_bytes) if self.read_bytes > limit_bytes => Err(ArchiveError::TooLarge { limit_bytes }),
            _ => Ok(()),
        }
    }

    /// The next entry; what is left of the one before is passed over. Absent at the end.
    pub fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|error| self.not_tar(&error.to_string()))?;
            let kind = header.entry_type();
            let is_extension = matches!(
                kind,
                EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
            );
            let size = extended.size_bytes.filter(|_| !is_extension).unwrap_or(size);
            self.left_bytes = size;
            self.padding_bytes = (BLOCK_BYTES as u64 - size % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
            match kind {
                EntryType::GNULongName => extended.name = Some(self.long_name()?),
                EntryType::GNULongLink => extended.link = Some(self.long_name()?),
                EntryType::XHeader => self.pax(&mut extended)?,
                EntryType::XGlobalHeader => {}
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// Hands the body of the current entry on, part by part.
    pub fn body(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), ArchiveError>) -> Result<(), ArchiveError> {
        while self.left_bytes > 0 {
            let most = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = read_some(&mut self.input, &mut self.buffer[..most])?;
            if count == 0 {
                return Err(ArchiveError::Truncated { entry: self.current.clone() });
            }
            self.left_bytes -= count as u64;
            self.count(count)?;
            take(&self.buffer[..count])?;
        }
        Ok(())
    }

    /// Reads on to the end of the input, so that whoever writes it is not cut off and a checksum at its end is seen.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        loop {
            match read_some(&mut self.input, &mut self.buffer)? {
                0 => return Ok(()),
                count => self.count(count)?,
            }
        }
    }

    /// The body of a small entry.
    fn small_body(&mut self) -> Result<Vec<u8>, ArchiveError> {
        if self.left_bytes > RECORDS_BYTES_MAX {
            return Err(self.not_tar("a name or pax header is too long"));
        }
        let mut bytes = Vec::new();
        self.body(|part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn long_name(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.small_body()?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    fn pax(&mut self, extended: &mut Extended) -> Result<(), ArchiveError> {
        let body = self.small_body()?;
        for record in tar::PaxExtensions::new(&body) {
            let record = record.map_err(|error| self.not_tar(&error.to_string()))?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => extended.name = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    extended.size_bytes = Some(size.ok_or_else(|| self.not_tar("a pax size is not a number"))?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, ArchiveError> {
        let name = inside(&extended.name.unwrap_or_else(|| header.path_bytes().into_owned()))?;
        let link = extended.link.or_else(|| header.link_name_bytes().map(|bytes| bytes.into_owned()));
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if !name.is_empty() => Kind::File,
            EntryType::Link => Kind::Link(inside(&link.unwrap_or_default())?),
            EntryType::Symlink => Kind::Link(beside(&name, &link.unwrap_or_default())?),
            _ => Kind::Other,
        };
        self.current.clone_from(&name);
        Ok(Entry { name, kind, size_bytes: self.left_bytes })
    }

    fn pass_over(&mut self) -> Result<(), ArchiveError> {
        self.body(|_| Ok(()))?;
        self.left_bytes = std::mem::take(&mut self.padding_bytes);
        self.body(|_| Ok(()))
    }

    /// The next header; absent at a block of zeroes, or where the input ends between entries.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut header = Header::new_old();
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match read_some(&mut self.input, &mut header.as_mut_bytes()[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(ArchiveError::Truncated { entry: format!("the header after {}", self.current) }),
                count => filled += count,
            }
        }
        self.count(BLOCK_BYTES)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stated = header.cksum().ok();
        let (before, after) = (&header.as_bytes()[..148], &header.as_bytes()[156..]);
        let sum: u32 = before.iter().chain(after).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        match stated == Some(sum) {
            true => Ok(Some(header)),
            false => Err(self.not_tar("a header's checksum is wrong")),
        }
    }

    fn not_tar(&self, reason: &str) -> ArchiveError {
        ArchiveError::NotTar { reason: format!("{reason} (at {})", self.current) }
    }
}

/// One read that is not interrupted.
fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return Ok(other?),
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, ArchiveError> {
    if bytes.len() > NAME_BYTES_MAX {
        return Err(unsafe_name(&bytes[..64], "it begins so and is longer than 4096 bytes"));
    }
    std::str::from_utf8(bytes).map_err(|_| unsafe_name(bytes, "it is not UTF-8"))
}

fn unsafe_name(name: &[u8], reason: &'static str) -> ArchiveError {
    ArchiveError::Name { name: String::from_utf8_lossy(name).into_owned(), reason }
}

/// A name inside the archive, without `.` and empty components.
fn inside(name: &[u8]) -> Result<String, ArchiveError> {
    if name.starts_with(b"/") {
        return Err(unsafe_name(name, "it is absolute"));
    }
    normal(name, text(name)?.split('/'))
}

/// What a symbolic link in a folder of the archive leads to.
pub(super) fn beside(name: &str, target: &[u8]) -> Result<String, ArchiveError> {
    if target.starts_with(b"/") {
        return Err(unsafe_name(target, "it is an absolute link"));
    }
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut whole: Vec<&str> = folder.split('/').collect();
    for component in text(target)?.split('/') {
        match component {
            ".." if whole.iter().all(|part| part.is_empty()) => {
                return Err(unsafe_name(target, "it leads out of the archive"));
            }
            ".." => _ = whole.pop(),
            other => whole.push(other),
        }
    }
    normal(target, whole.into_iter())
}

fn normal<'a>(name: &[u8], components: impl Iterator<Item = &'a str>) -> Result<String, ArchiveError> {
    let mut kept = Vec::new();
    for component in components {
        match component {
            "" | "." => {}
            ".." => return Err(unsafe_name(name, "it leads out of the archive")),
            other => kept.push(other),
        }
    }
    Ok(kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
        let mut stream = TarStream::new(archive, None);
        let mut found = Vec::new();
        while let Some(entry) = stream.next()? {
            let mut body = Vec::new();
            stream.body(|part| {
                body.extend_from_slice(part);
                Ok(())
            })?;
            found.push((entry, body));
        }
        Ok(found)
    }

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().expect("memory")
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).expect("memory");
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, target).expect("memory");
    }

    /// A header whose name the tar crate would refuse to write.
    fn raw(name: &[u8]) -> Vec<u8> {
        let mut header = Header::new_old();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(0);
        header.set_entry_type(EntryType::Regular);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn reads_files_links_and_long_names() {
        let long = "d/".repeat(150) + "file";
        let bytes = archive(|builder| {
            file(builder, "./a/b.json", b"{}");
            file(builder, &long, &[7; 1000]);
            link(builder, EntryType::Symlink, "x/layer.tar", "../y/./layer.tar");
            link(builder, EntryType::Link, "z/layer.tar", "y/layer.tar");
        });
        let found = entries(&bytes).expect("readable");
        let kinds: Vec<_> = found.iter().map(|(entry, body)| (entry.name.as_str(), &entry.kind, body.len())).collect();
        let target = Kind::Link("y/layer.tar".to_owned());
        let expected = [
            ("a/b.json", &Kind::File, 2),
            (long.as_str(), &Kind::File, 1000),
            ("x/layer.tar", &target, 0),
            ("z/layer.tar", &target, 0),
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn pax_names_and_sizes_count() {
        let bytes = archive(|builder| {
            let records = [("path", &b"real/name"[..]), ("size", b"3"), ("mtime", b"1.5")];
            builder.append_pax_extensions(records).expect("memory");
            let mut header = Header::new_ustar();
            header.set_path("short").expect("short");
            header.set_size(0);
            header.set_entry_type(EntryType::Regular);
            header.set_cksum();
            builder.append(&header, &b""[..]).expect("memory");
        });
        // The size in the header is wrong on purpose: put the three bytes in front of the archive's end.
        let mut bytes = bytes[..bytes.len() - 1024].to_vec();
        bytes.extend_from_slice(b"abc");
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        let found = entries(&bytes).expect("readable");
        assert_eq!((found[0].0.name.as_str(), found[0].1.as_slice()), ("real/name", &b"abc"[..]));
    }

    #[test]
    fn names_that_leave_are_refused() {
        for name in [&b"../x"[..], b"a/../../x", b"a/..", b"/etc/passwd", b"a\xff"] {
            assert!(matches!(entries(&raw(name)), Err(ArchiveError::Name { .. })), "{name:?}");
        }
        for (name, target) in [("a/b", "../../x"), ("b", ".."), ("b", "/etc/passwd"), ("a/b", "../a/../../x")] {
            let bytes = archive(|builder| link(builder, EntryType::Symlink, name, target));
            assert!(matches!(entries(&bytes), Err(ArchiveError::Name { .. })), "{name} -> {target}");
        }
    }

    #[test]
    fn truncation_is_told_from_the_end() {
        let whole = archive(|builder| file(builder, "a", &[1; 2000]));
        assert_eq!(entries(&whole[..512 + 2048]).expect("ends between entries").len(), 1);
        for length in [512 + 1999, 512, 600, 100, 512 + 2010] {
            assert!(matches!(entries(&whole[..length]), Err(ArchiveError::Truncated { .. })), "{length}");
        }
    }

    #[test]
    fn no_changed_byte_makes_it_panic() {
        let whole = archive(|builder| {
            file(builder, &"d/".repeat(80), b"x");
            link(builder, EntryType::Symlink, "a/b", "c");
            builder.append_pax_extensions([("path", &b"name"[..])]).expect("memory");
            file(builder, "last", &[1; 600]);
        });
        for at in 0..whole.len() - 1024 {
            for value in [0, 0x80, 0xff, b'7', b'x'] {
                let mut changed = whole.clone();
                changed[at] = value;
                // Repair the checksum, so that what is behind it is reached too.
                let block = at / BLOCK_BYTES * BLOCK_BYTES;
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(&changed[block..block + BLOCK_BYTES]);
                header.set_cksum();
                changed[block..block + BLOCK_BYTES].copy_from_slice(header.as_bytes());
                // Either outcome is right; only a panic or an endless loop is not.
                let _ = entries(&changed);
            }
        }
    }

    #[test]
    fn other_bytes_are_not_tar() {
        assert!(matches!(entries(&[b'x'; 1024]), Err(ArchiveError::NotTar { .. })));
        assert!(entries(b"").expect("empty").is_empty());
        assert!(entries(&[0; 1024]).expect("empty").is_empty());
    }
}
