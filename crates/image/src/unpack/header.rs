//! Headers of a tar archive: ustar (POSIX.1-1988), GNU long names, PAX (pax(1), POSIX.1-2001), sparse maps.
//!
//! The stream is a row of 512-byte blocks. What describes the next entry (`L`, `K`, `x`) is gathered until the entry's own
//! header comes; `g` holds for all that follow. An entry's content is read through [`Headers::read_content`], and what
//! its reader left is skipped.

use std::collections::HashMap;
use std::io::Read;

use super::UnpackOptions;
use super::error::{UnpackError, shown};
use super::sparse::{self, Extent};

pub(super) const BLOCK: usize = 512;

/// A modification time: seconds since 1970 and nanoseconds.
pub(super) type Time = (i64, i64);

/// One entry, with everything that extended headers say.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Path as the archive has it.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Type flag.
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Size of the file.
    pub size: u64,
    pub major: u32,
    pub minor: u32,
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Where the content belongs; `None` for a file without holes.
    pub extents: Option<Vec<Extent>>,
}

type Records = HashMap<String, Vec<u8>>;

/// The reader.
pub(super) struct Headers<'o, R> {
    stream: R,
    options: &'o UnpackOptions,
    global: Records,
    global_bytes: u64,
    /// Content of the present entry that has not been read, and the padding after it.
    content_left: u64,
    padding: u64,
    last: Vec<u8>,
}

impl<'o, R: Read> Headers<'o, R> {
    pub(super) fn new(stream: R, options: &'o UnpackOptions) -> Self {
        Self { stream, options, global: Records::new(), global_bytes: 0, content_left: 0, padding: 0, last: Vec::new() }
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut local = Records::new();
        let (mut sparse_pairs, mut long_name, mut long_link) = (Vec::new(), None, None);
        let mut extension_bytes = 0;
        loop {
            let Some(block) = self.block()? else { return Ok(None) };
            let kind = block[156];
            let size = self.number(&block[124..136])?;
            match kind {
                b'L' | b'K' | b'x' | b'g' => {
                    // All of them together, for what they say is kept until the entry comes, or for good.
                    let kept = if kind == b'g' { &mut self.global_bytes } else { &mut extension_bytes };
                    *kept += size;
                    let kept = *kept;
                    let data = self.extension(size, kept)?;
                    match kind {
                        b'L' => long_name = Some(until_nul(&data).to_vec()),
                        b'K' => long_link = Some(until_nul(&data).to_vec()),
                        b'x' => self.records(&data, &mut local, &mut sparse_pairs)?,
                        _ => {
                            let mut global = std::mem::take(&mut self.global);
                            self.records(&data, &mut global, &mut Vec::new())?;
                            self.global = global;
                        }
                    }
                }
                _ => {
                    let mut entry = self.plain(&block, size)?;
                    self.extend(&mut entry, &local)?;
                    entry.path = long_name.unwrap_or(entry.path);
                    entry.link = long_link.unwrap_or(entry.link);
                    // Before there were types, a folder was told by its slash.
                    if entry.kind == 0 && entry.path.ends_with(b"/") {
                        entry.kind = b'5';
                    }
                    self.last.clone_from(&entry.path);
                    self.begin_content(&entry, size, &local)?;
                    self.sparse(&mut entry, &block, &local, sparse_pairs)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads the entry's content; 0 at its end.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let wanted = buffer.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.stream.read(&mut buffer[..wanted]).map_err(UnpackError::Read)?;
        if length == 0 {
            return Err(self.damaged("it ends in the middle of an entry"));
        }
        self.content_left -= length as u64;
        Ok(length)
    }

    /// Skips what is left of the entry.
    pub(super) fn finish_entry(&mut self) -> Result<(), UnpackError> {
        self.content_left += std::mem::take(&mut self.padding);
        let mut rest = [0; 16 * 1024];
        while self.read_content(&mut rest)? > 0 {}
        Ok(())
    }

    fn damaged(&self, reason: &'static str) -> UnpackError {
        UnpackError::Damaged { after: shown(&self.last), reason }
    }

    /// The next header block, checked; `None` at the end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let Some(block) = self.raw_block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.raw_block()? {
                None => Ok(None),
                Some(second) if second == [0; BLOCK] => Ok(None),
                Some(_) => Err(self.damaged("a single block of zeroes")),
            };
        }
        let spaces = 8 * i64::from(b' ');
        let rest = || block[..148].iter().chain(&block[156..]);
        let sum = rest().map(|byte| i64::from(*byte)).sum::<i64>() + spaces;
        // Some old tars added signed bytes.
        let signed_sum = rest().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + spaces;
        let stated = self.number(&block[148..156])?.cast_signed();
        if stated != sum && stated != signed_sum {
            return Err(self.damaged("a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    /// The next block as it is; `None` when the stream ends before it.
    fn raw_block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]).map_err(UnpackError::Read)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(self.damaged("it ends in the middle of a header")),
                length => filled += length,
            }
        }
        Ok(Some(block))
    }

    /// A number field: octal, or base 256 when its first bit is set (GNU).
    fn number(&self, field: &[u8]) -> Result<u64, UnpackError> {
        number(field).ok_or_else(|| self.damaged("a number in a header is none"))
    }

    /// Content of an extended header.
    fn extension(&mut self, size: u64, kept: u64) -> Result<Vec<u8>, UnpackError> {
        if size > self.options.extension_bytes_max || kept > self.options.extension_bytes_max {
            let (path, limit) = (shown(&self.last), self.options.extension_bytes_max);
            return Err(UnpackError::Limit { path, what: "an extended header", limit });
        }
        self.content_left = size;
        self.padding = padding(size);
        let mut data = vec![0; size as usize];
        let mut filled = 0;
        while filled < data.len() {
            filled += self.read_content(&mut data[filled..])?;
        }
        self.finish_entry()?;
        Ok(data)
    }

    /// What the 512 bytes alone say.
    fn plain(&self, block: &[u8; BLOCK], size: u64) -> Result<Entry, UnpackError> {
        let mut path = until_nul(&block[..100]).to_vec();
        let prefix = until_nul(&block[345..500]);
        // GNU archives (magic "ustar  ") keep other things where POSIX ones keep the prefix.
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let id = |field: &[u8]| self.number(field).map(owner);
        let out_of_range = || self.damaged("an owner is out of range");
        Ok(Entry {
            path,
            link: until_nul(&block[157..257]).to_vec(),
            kind: block[156],
            mode: (self.number(&block[100..108])? & 0o7777) as u32,
            uid: id(&block[108..116])?.ok_or_else(out_of_range)?,
            gid: id(&block[116..124])?.ok_or_else(out_of_range)?,
            mtime: (self.number(&block[136..148])?.cast_signed(), 0),
            size,
            major: device(&block[329..337]),
            minor: device(&block[337..345]),
            ..Entry::default()
        })
    }

    /// Puts PAX records over an entry.
    fn extend(&self, entry: &mut Entry, local: &Records) -> Result<(), UnpackError> {
        let value = |key: &str| local.get(key).or_else(|| self.global.get(key)).filter(|value| !value.is_empty());
        let bad = |key: &str, path: &[u8]| UnpackError::Extension { path: shown(path), key: key.to_owned() };
        if let Some(path) = value("GNU.sparse.name").or_else(|| value("path")) {
            entry.path.clone_from(path);
        }
        if let Some(link) = value("linkpath") {
            entry.link.clone_from(link);
        }
        for (key, id) in [("uid", &mut entry.uid), ("gid", &mut entry.gid)] {
            if let Some(text) = value(key) {
                *id = decimal(text).and_then(owner).ok_or_else(|| bad(key, &entry.path))?;
            }
        }
        if let Some(text) = value("mtime") {
            entry.mtime = time(text).ok_or_else(|| bad("mtime", &entry.path))?;
        }
        if let Some(text) = value("size") {
            entry.size = decimal(text).ok_or_else(|| bad("size", &entry.path))?;
        }
        for (key, value) in self.global.iter().chain(local) {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                entry.xattrs.retain(|(earlier, _)| earlier != name);
                entry.xattrs.push((name.to_owned(), value.clone()));
            }
        }
        Ok(())
    }

    /// Only files have content; links of old archives state a size without any.
    fn begin_content(&mut self, entry: &Entry, header_size: u64, local: &Records) -> Result<(), UnpackError> {
        let stored = match local.get("size") {
            Some(_) => entry.size,
            None => header_size,
        };
        self.content_left = match entry.kind {
            0 | b'0' | b'7' | b'S' => stored,
            b'1' | b'2' | b'3' | b'4' | b'5' | b'6' => 0,
            _ => stored,
        };
        self.padding = padding(self.content_left);
        Ok(())
    }

    /// Reads the sparse map in whichever of its four forms the entry has one.
    fn sparse(
        &mut self,
        entry: &mut Entry,
        block: &[u8; BLOCK],
        local: &Records,
        pairs: Vec<u64>,
    ) -> Result<(), UnpackError> {
        let bad = |path: &[u8]| UnpackError::Extension { path: shown(path), key: "GNU.sparse".to_owned() };
        let text = |key: &str| local.get(key).map(Vec::as_slice);
        let real_size = text("GNU.sparse.realsize").or_else(|| text("GNU.sparse.size"));
        let numbers = if entry.kind == b'S' {
            entry.size = self.number(&block[483..495])?;
            self.old_gnu_map(block)?
        } else if text("GNU.sparse.major") == Some(b"1") {
            self.leading_map(&entry.path)?
        } else if text("GNU.sparse.major").is_some_and(|major| major != b"0") {
            return Err(bad(&entry.path));
        } else if let Some(map) = text("GNU.sparse.map") {
            map.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>().ok_or_else(|| bad(&entry.path))?
        } else if !pairs.is_empty() {
            pairs
        } else {
            return Ok(());
        };
        if let Some(size) = real_size {
            entry.size = decimal(size).ok_or_else(|| bad(&entry.path))?;
        }
        let extents = sparse::extents(&numbers, entry.size, self.content_left).ok_or_else(|| bad(&entry.path))?;
        entry.extents = Some(extents);
        Ok(())
    }

    /// The map in the header and the blocks after it (type `S`).
    fn old_gnu_map(&mut self, block: &[u8; BLOCK]) -> Result<Vec<u64>, UnpackError> {
        let mut numbers = Vec::new();
        self.map_fields(&block[386..482], &mut numbers)?;
        let mut more = block[482] != 0;
        while more {
            let Some(next) = self.raw_block()? else {
                return Err(self.damaged("it ends in the middle of a sparse map"));
            };
            self.map_fields(&next[..504], &mut numbers)?;
            more = next[504] != 0;
            self.check_map(numbers.len())?;
        }
        Ok(numbers)
    }

    fn map_fields(&self, fields: &[u8], numbers: &mut Vec<u64>) -> Result<(), UnpackError> {
        for field in fields.chunks_exact(12) {
            if field[0] == 0 {
                break;
            }
            numbers.push(self.number(field)?);
        }
        Ok(())
    }

    fn check_map(&self, numbers: usize) -> Result<(), UnpackError> {
        if numbers as u64 <= self.options.extension_bytes_max {
            return Ok(());
        }
        let (path, limit) = (shown(&self.last), self.options.extension_bytes_max);
        Err(UnpackError::Limit { path, what: "a sparse map", limit })
    }

    /// The map at the start of the content (PAX sparse 1.0): decimal numbers, a line each, padded to a block.
    fn leading_map(&mut self, path: &[u8]) -> Result<Vec<u64>, UnpackError> {
        let bad = || UnpackError::Extension { path: shown(path), key: "GNU.sparse map".to_owned() };
        let (mut numbers, mut text, mut wanted) = (Vec::new(), Vec::new(), None);
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.read_content(&mut block[filled..])? {
                    0 => return Err(bad()),
                    length => filled += length,
                }
            }
            text.extend_from_slice(&block);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let number = decimal(&text[..end]).ok_or_else(bad)?;
                text.drain(..=end);
                match wanted {
                    None => {
                        let count = usize::try_from(number).ok().and_then(|n| n.checked_mul(2)).ok_or_else(bad)?;
                        self.check_map(count)?;
                        wanted = Some(count);
                    }
                    Some(count) if numbers.len() < count => numbers.push(number),
                    Some(_) => return Err(bad()),
                }
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
            }
        }
        Ok(numbers)
    }

    /// The records of a PAX header: `LENGTH KEY=VALUE\n`. Sparse 0.0 repeats two keys, which are gathered in `pairs`.
    fn records(&self, mut data: &[u8], into: &mut Records, pairs: &mut Vec<u64>) -> Result<(), UnpackError> {
        let bad = || self.damaged("an extended header is not one");
        while !data.is_empty() && data[0] != 0 {
            let space = data.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length = decimal(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &data[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = (shown(&record[..equals]), &record[equals + 1..]);
            match key.as_str() {
                "GNU.sparse.offset" | "GNU.sparse.numbytes" => pairs.push(decimal(value).ok_or_else(bad)?),
                _ => {
                    into.insert(key, value.to_vec());
                }
            }
            data = &data[length..];
        }
        Ok(())
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // Base 256; the second bit would be the sign, and nothing here may be negative but an ancient time, read as 0.
        if field[0] & 0x40 != 0 {
            return Some(0);
        }
        let first = u64::from(field[0] & 0x3f);
        return field[1..]
            .iter()
            .try_fold(first, |value, byte| value.checked_mul(256).map(|value| value + u64::from(*byte)));
    }
    let text = until_nul(field);
    let text = text.trim_ascii();
    text.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value + u64::from(byte - b'0')),
        _ => None,
    })
}

/// A user or group; the largest number means "unchanged" to chown(2).
fn owner(id: u64) -> Option<u32> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX)
}

/// Device numbers are rubbish in entries that are no devices, so a bad one is just 0.
fn device(field: &[u8]) -> u32 {
    number(field).and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `SECONDS[.FRACTION]`, possibly negative.
fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds - 1, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
    }
}
