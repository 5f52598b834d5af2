//! Tar archives built byte by byte, right or wrong as a test wants them.

const BLOCK: usize = 512;

/// Blocks of entries so far.
#[derive(Debug, Clone, Default)]
pub struct Archive(Vec<u8>);

/// One header and its data.
#[derive(Debug, Clone)]
pub struct Entry {
    header: [u8; BLOCK],
    /// Blocks between header and data.
    extra: Vec<u8>,
    data: Vec<u8>,
    is_signed: bool,
}

impl Archive {
    pub fn new() -> Archive {
        Archive::default()
    }

    pub fn add(mut self, entry: Entry) -> Archive {
        let Entry { mut header, extra, data, is_signed } = entry;
        header[148..156].fill(b' ');
        let sum: i64 = match is_signed {
            false => header.iter().map(|byte| i64::from(*byte)).sum(),
            true => header.iter().map(|byte| i64::from(byte.cast_signed())).sum(),
        };
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(&extra);
        self.0.extend_from_slice(&data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// With its end mark.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

impl Entry {
    fn new(name: &[u8], kind: u8, data: &[u8]) -> Entry {
        let mut header = [0; BLOCK];
        let name = &name[..name.len().min(100)];
        header[..name.len()].copy_from_slice(name);
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let entry = Entry { header, extra: Vec::new(), data: data.to_vec(), is_signed: false };
        entry.mode(0o644).owner(0, 0).mtime(0).size_field(data.len() as u64)
    }

    pub fn file(name: &str, data: &[u8]) -> Entry {
        Entry::new(name.as_bytes(), b'0', data)
    }

    pub fn raw_name(name: &[u8], data: &[u8]) -> Entry {
        Entry::new(name, b'0', data)
    }

    pub fn directory(name: &str) -> Entry {
        Entry::new(name.as_bytes(), b'5', b"").mode(0o755)
    }

    pub fn symlink(name: &str, target: &str) -> Entry {
        Entry::new(name.as_bytes(), b'2', b"").mode(0o777).link(target)
    }

    pub fn hard_link(name: &str, target: &str) -> Entry {
        Entry::new(name.as_bytes(), b'1', b"").link(target)
    }

    pub fn device(name: &str, kind: u8, major: u32, minor: u32) -> Entry {
        let mut entry = Entry::new(name.as_bytes(), kind, b"");
        entry.header[329..337].copy_from_slice(format!("{major:07o}\0").as_bytes());
        entry.header[337..345].copy_from_slice(format!("{minor:07o}\0").as_bytes());
        entry
    }

    /// An extended header or long name.
    pub fn extension(kind: u8, data: &[u8]) -> Entry {
        Entry::new(b"extension", kind, data)
    }

    pub fn pax(records: &[(&str, &[u8])]) -> Entry {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        Entry::extension(b'x', &data)
    }

    /// A sparse file in the old GNU format, with one segment in the header and the others in an extension block.
    pub fn old_sparse(name: &str, size: u64, segments: &[(u64, u64)], data: &[u8]) -> Entry {
        let mut entry = Entry::new(name.as_bytes(), b'S', data);
        entry.header[257..265].copy_from_slice(b"ustar  \0");
        let octal = |number: u64| format!("{number:011o}\0").into_bytes();
        let pair = |(offset, length): &(u64, u64)| [octal(*offset), octal(*length)].concat();
        entry.header[386..410].copy_from_slice(&pair(&segments[0]));
        entry.header[482] = u8::from(segments.len() > 1);
        entry.header[483..495].copy_from_slice(&octal(size));
        if segments.len() > 1 {
            entry.extra = segments[1..].iter().flat_map(pair).collect();
            entry.extra.resize(BLOCK, 0);
        }
        entry
    }

    pub fn kind(mut self, kind: u8) -> Entry {
        self.header[156] = kind;
        self
    }

    pub fn magic(mut self, magic: &[u8; 8]) -> Entry {
        self.header[257..265].copy_from_slice(magic);
        self
    }

    pub fn prefix(mut self, prefix: &str) -> Entry {
        self.header[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
        self
    }

    fn link(mut self, target: &str) -> Entry {
        let target = &target.as_bytes()[..target.len().min(100)];
        self.header[157..157 + target.len()].copy_from_slice(target);
        self
    }

    pub fn mode(mut self, mode: u32) -> Entry {
        self.header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Entry {
        self.header[108..116].copy_from_slice(format!("{uid:07o}\0").as_bytes());
        self.header[116..124].copy_from_slice(format!("{gid:07o}\0").as_bytes());
        self
    }

    pub fn mtime(mut self, seconds: u64) -> Entry {
        self.header[136..148].copy_from_slice(format!("{seconds:011o}\0").as_bytes());
        self
    }

    /// What the header says about the size, whatever data there is.
    pub fn size_field(mut self, size: u64) -> Entry {
        self.header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        self
    }

    /// Sums signed bytes, as some old tars did.
    pub fn signed_checksum(mut self) -> Entry {
        self.is_signed = true;
        self
    }
}

/// `length key=value\n`, the length counting itself.
pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
