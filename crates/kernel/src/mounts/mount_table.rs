//! The mounts of this process' mount namespace, as far as its root directory shows them (proc_pid_mountinfo(5)).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::MountError;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which may be given again once it is gone.
    pub id: u64,
    /// The mount that it is on.
    pub parent: u64,
    /// What of its file system it shows.
    pub root: PathBuf,
    /// Where it is.
    pub place: PathBuf,
    /// Type of its file system.
    pub kind: String,
}

/// All of them.
#[derive(Debug, Default)]
pub struct MountTable(BTreeMap<u64, Mount>);

/// Reads the table.
///
/// # Errors
/// /proc/self/mountinfo cannot be read, or has a line that makes no sense (`EBADMSG`).
pub fn read() -> Result<MountTable, MountError> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = fs::read(PATH)
        .map_err(|error| MountError::new("read", PATH, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    parse(&text).ok_or_else(|| MountError::new("read", PATH, Errno::BADMSG))
}

fn parse(text: &[u8]) -> Option<MountTable> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| one(line).map(|mount| (mount.id, mount))).collect::<Option<_>>().map(MountTable)
}

fn one(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse().ok();
    let (id, parent) = (number(fields.next())?, number(fields.next())?);
    let (_device, root, place) = (fields.next()?, unescape(fields.next()?), unescape(fields.next()?));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, parent, root, place, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Undoes the kernel's `\040` for a space and its like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        let octal = |digits: &[u8]| digits.iter().all(|d| matches!(d, b'0'..=b'7')) && digits[0] < b'4';
        match tail {
            [a, b, c, after @ ..] if *byte == b'\\' && octal(&[*a, *b, *c]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

impl MountTable {
    /// Every mount.
    pub fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.0.values()
    }

    /// Whether mount `id` is `top` or somewhere below it.
    pub fn is_below(&self, id: u64, top: u64) -> bool {
        let mut current = id;
        // Of no more steps than there are mounts, should the table hold a circle.
        for _ in 0..=self.0.len() {
            if current == top {
                return true;
            }
            match self.0.get(&current) {
                Some(mount) if mount.parent != current => current = mount.parent,
                _ => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"21 28 0:20 / /proc rw,nosuid - proc proc rw\n\
        28 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
        30 28 0:26 /a\\040b /mnt/c\\134d rw master:1 - tmpfs tmp rw\n\
        31 30 0:27 / /mnt/c\\134d/proc rw - proc proc rw,hidepid=2\n";

    #[test]
    fn lines_are_read_with_their_escapes() {
        let table = parse(TEXT).unwrap();
        let mount = table.mounts().find(|mount| mount.id == 30).unwrap();
        let expected =
            Mount { id: 30, parent: 28, root: "/a b".into(), place: "/mnt/c\\d".into(), kind: "tmpfs".into() };
        assert_eq!(*mount, expected);
        assert!(parse(b"x y z\n").is_none());
    }

    #[test]
    fn what_is_below_a_mount_is_told_from_what_is_not() {
        let table = parse(TEXT).unwrap();
        for (id, top, below) in [(31, 30, true), (30, 30, true), (31, 28, true), (21, 30, false), (28, 30, false)] {
            assert_eq!(table.is_below(id, top), below, "{id} below {top}");
        }
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(read().unwrap().mounts().any(|mount| mount.place.as_os_str() == "/"));
    }
}
