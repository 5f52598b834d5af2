//! What a file has besides its content: owner, mode, time, extended attributes.
//!
//! Extended attributes stand behind the inode: a header of 12 bytes, then for each one its name without the prefix that
//! a number stands for, and its value, padded to 4 bytes. An inode and its attributes have to fit in one block, which is
//! also about what ext4 allows.

use std::io;

use rustix::io::Errno;

use super::format::{BLOCK_BYTES, INODE_BYTES};

/// Most bytes that an inode's encoded attributes may take.
pub(super) const XATTR_BYTES_MAX: usize = BLOCK_BYTES - INODE_BYTES;
const HEADER_BYTES: usize = 12;
/// Prefixes of names and the numbers that stand for them.
const PREFIXES: [(&str, u8); 5] =
    [("user.", 1), ("system.posix_acl_access", 2), ("system.posix_acl_default", 3), ("trusted.", 4), ("security.", 6)];

/// Owner, mode, time and extended attributes of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Names and values.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Encodes attributes; `is_open_to_users` says whether the file may have `user.` ones (xattr(7): files and directories).
/// Errors are those of setxattr(2).
pub(super) fn encode_xattrs(xattrs: &[(String, Vec<u8>)], is_open_to_users: bool) -> io::Result<Vec<u8>> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; HEADER_BYTES];
    for (name, value) in xattrs {
        let (rest, index) = split(name)?;
        if index == 1 && !is_open_to_users {
            return Err(Errno::PERM.into());
        }
        let (Ok(name_length), Ok(value_length)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return Err(Errno::NOSPC.into());
        };
        bytes.extend_from_slice(&[name_length, index]);
        bytes.extend_from_slice(&value_length.to_le_bytes());
        bytes.extend_from_slice(rest.as_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if bytes.len() > XATTR_BYTES_MAX {
            return Err(Errno::NOSPC.into());
        }
    }
    Ok(bytes)
}

/// A name without its prefix, and the prefix's number.
fn split(name: &str) -> io::Result<(&str, u8)> {
    let found = PREFIXES.iter().find_map(|(prefix, index)| Some((name.strip_prefix(prefix)?, *index)));
    match found {
        // An access control list's name is all prefix, any other one has something behind it.
        Some((rest, index)) if rest.is_empty() == matches!(index, 2 | 3) => Ok((rest, index)),
        Some((_, 2 | 3)) | None => Err(Errno::NOTSUP.into()),
        Some(_) => Err(Errno::INVAL.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(name: &str, value: &[u8], is_open: bool) -> Result<Vec<u8>, Option<i32>> {
        encode_xattrs(&[(name.to_owned(), value.to_vec())], is_open).map_err(|error| error.raw_os_error())
    }

    #[test]
    fn names_have_prefixes_that_are_known() {
        let encoded = encode("user.ab", b"xyz", true).unwrap();
        assert_eq!(encoded[12..], [2, 1, 3, 0, b'a', b'b', b'x', b'y', b'z', 0, 0, 0]);
        assert_eq!(encode("system.posix_acl_access", b"1234", true).unwrap()[12..16], [0, 2, 4, 0]);
        for (name, is_open, errno) in [
            ("user.a", false, Errno::PERM),
            ("user.", true, Errno::INVAL),
            ("system.posix_acl_accessory", true, Errno::NOTSUP),
            ("system.other", true, Errno::NOTSUP),
            ("none", true, Errno::NOTSUP),
        ] {
            assert_eq!(encode(name, b"", is_open).unwrap_err(), Some(errno.raw_os_error()), "{name}");
        }
        assert_eq!(encode("trusted.a", &[0; 4096], true).unwrap_err(), Some(Errno::NOSPC.raw_os_error()));
        assert_eq!(encode_xattrs(&[], true).unwrap(), []);
    }
}
