//! Headers of the tar entries that Hull writes (POSIX pax, tar(5)): ustar, and what does not fit there in pax records.
//!
//! A record is written only where it is needed: for a name that is long or not ASCII (its bytes as they are, as Go and
//! libarchive write them), a number too large, a time with a fraction or before 1970, extended attributes
//! (`SCHILY.xattr.NAME`). Records are sorted by key and nothing else is in a header, so that equal entries are equal
//! bytes. User and group names stay empty: only ids mean something in an image.

use tar::{EntryType, Header};

/// Entries and bodies are padded to blocks of this size.
pub(crate) const BLOCK_BYTES: u64 = 512;
/// Two empty blocks end an archive.
pub(crate) const END: [u8; 1024] = [0; 1024];
/// Longest name and link in a header.
const NAME_BYTES: usize = 100;
/// Largest id in seven octal digits.
const ID_MAX: u32 = 0o7_777_777;
/// Largest size and time in eleven octal digits.
const LONG_MAX: u64 = 0o77_777_777_777;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TarEntry {
    pub kind: EntryType,
    /// Without a leading slash; a folder's ends with one.
    pub path: Vec<u8>,
    /// Target of a link, empty for everything else.
    pub link: Vec<u8>,
    /// The twelve bits of permission.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub size_bytes: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl TarEntry {
    /// A plain file or folder of root.
    pub fn new(kind: EntryType, path: impl Into<Vec<u8>>, mode: u32, size_bytes: u64) -> Self {
        Self {
            kind,
            path: path.into(),
            link: Vec::new(),
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size_bytes,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// The blocks before the body.
    pub fn blocks(&self) -> Vec<u8> {
        let records = self.records();
        let mut blocks = Vec::new();
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            let extended = Self::new(EntryType::XHeader, self.extended_name(), 0, body.len() as u64);
            blocks.extend_from_slice(extended.header().as_bytes());
            blocks.extend_from_slice(&body);
            blocks.resize(blocks.len() + padding(body.len() as u64), 0);
        }
        blocks.extend_from_slice(self.header().as_bytes());
        blocks
    }

    fn header(&self) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(fitting(u64::from(self.uid), u64::from(ID_MAX)));
        header.set_gid(fitting(u64::from(self.gid), u64::from(ID_MAX)));
        header.set_mtime(fitting(u64::try_from(self.mtime.0).unwrap_or(0), LONG_MAX));
        header.set_size(fitting(self.size_bytes, LONG_MAX));
        let device = header.set_device_major(self.device.0).and(header.set_device_minor(self.device.1));
        debug_assert!(device.is_ok(), "a ustar header has device fields");
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, &self.path), (&mut old.linkname, &self.link)] {
            let length = text.len().min(NAME_BYTES);
            field[..length].copy_from_slice(&text[..length]);
        }
        header.set_cksum();
        header
    }

    /// What does not fit into the header, sorted.
    fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = Vec::new();
        let mut add = |key: &str, value: Vec<u8>| records.push((key.as_bytes().to_vec(), value));
        for (key, text) in [("path", &self.path), ("linkpath", &self.link)] {
            if text.len() > NAME_BYTES || !text.is_ascii() {
                add(key, text.clone());
            }
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > ID_MAX {
                add(key, id.to_string().into_bytes());
            }
        }
        if self.size_bytes > LONG_MAX {
            add("size", self.size_bytes.to_string().into_bytes());
        }
        if self.mtime.1 != 0 || !u64::try_from(self.mtime.0).is_ok_and(|seconds| seconds <= LONG_MAX) {
            add("mtime", decimal(self.mtime).into_bytes());
        }
        for (name, value) in &self.xattrs {
            records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
        records.sort();
        records
    }

    /// Only for readers that do not know pax; the same names as Go gives.
    fn extended_name(&self) -> Vec<u8> {
        let path = self.path.strip_suffix(b"/").unwrap_or(&self.path);
        let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let mut name = [&path[..start], b"PaxHeaders.0/", &path[start..]].concat();
        name.retain(u8::is_ascii);
        name.truncate(NAME_BYTES);
        name
    }
}

/// Zero where a record says it, since a reader must not take a cut number for the truth.
fn fitting(number: u64, largest: u64) -> u64 {
    if number > largest { 0 } else { number }
}

/// Bytes from the end of a body to the next block.
pub(crate) fn padding(size_bytes: u64) -> usize {
    // Below 512, so it fits.
    ((BLOCK_BYTES - size_bytes % BLOCK_BYTES) % BLOCK_BYTES) as usize
}

/// `length key=value\n`, the length counting its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + " =\n".len();
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// Seconds since 1970 as a decimal number without trailing zeros.
fn decimal((seconds, nanoseconds): (i64, u32)) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    let whole = format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000);
    whole.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(entry: &TarEntry) -> Vec<String> {
        entry.records().iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn what_fits_needs_no_record() {
        let mut entry = TarEntry::new(EntryType::Regular, "a/b", 0o644, 5);
        entry.mtime = (1_700_000_000, 0);
        assert!(keys(&entry).is_empty());
        assert_eq!(entry.blocks().len(), 512);
        entry.path = vec![b'a'; 100];
        assert!(keys(&entry).is_empty());
    }

    #[test]
    fn what_does_not_fit_has_one() {
        let mut entry = TarEntry::new(EntryType::Regular, vec![b'a'; 101], 0o644, 1 << 33);
        entry.uid = 3_000_000;
        entry.mtime = (-2, 500_000_000);
        entry.link = "ä".into();
        entry.xattrs = vec![(b"user.b".to_vec(), b"\0=".to_vec()), (b"user.a".to_vec(), Vec::new())];
        let expected = ["SCHILY.xattr.user.a", "SCHILY.xattr.user.b", "linkpath", "mtime", "path", "size", "uid"];
        assert_eq!(keys(&entry), expected);
        let blocks = entry.blocks();
        let mut archive = tar::Archive::new(&blocks[..]);
        let mut read = archive.entries().expect("a tar").next().expect("an entry").expect("readable");
        assert_eq!(read.path_bytes().as_ref(), [b'a'; 101]);
        assert_eq!(read.header().uid().expect("octal"), 3_000_000, "the tar crate takes records into account");
        let records = read.pax_extensions().expect("readable").expect("there are some");
        let mtime = records.flatten().find(|record| record.key() == Ok("mtime")).expect("there is one");
        assert_eq!(mtime.value(), Ok("-1.5"));
    }

    #[test]
    fn record_lengths_count_themselves() {
        assert_eq!(record(b"k", b"v"), b"6 k=v\n");
        for length in [80, 90, 91, 92, 93, 94, 95, 990, 995, 996] {
            let record = record(b"path", &vec![b'x'; length]);
            let stated: usize = String::from_utf8_lossy(&record).split(' ').next().unwrap().parse().unwrap();
            assert_eq!(stated, record.len());
        }
    }

    #[test]
    fn times_are_exact() {
        for (time, text) in [
            ((0, 0), "0"),
            ((10, 0), "10"),
            ((10, 1), "10.000000001"),
            ((10, 500_000_000), "10.5"),
            ((-1, 0), "-1"),
            ((-1, 999_999_999), "-0.000000001"),
        ] {
            assert_eq!(decimal(time), text);
        }
    }
}
