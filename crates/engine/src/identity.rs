//! Who the container's process is: `user[:group]` looked up in the container's own passwd and group files.
//!
//! Semantics are those of docker and runc: a name must be in passwd(5); a number is looked up there too (for its
//! home and its groups) but may be absent; without a group the passwd entry's one is taken, and only then
//! supplementary groups come from group(5). The files belong to the image, so they are opened inside the root
//! with openat2(2) (a link in it cannot lead outside), must be regular files, and are read up to
//! [`FILE_LIMIT_BYTES`]; lines that are not entries are skipped, as libc does.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use hull_kernel::mounts::inside;
use rustix::fs::{FileType, OFlags};

/// Longest passwd or group file that is read, in bytes.
pub const FILE_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// Largest id that Linux and docker take.
const MAX_ID: u64 = i32::MAX as u64;

/// The ids of a process and what follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups in ascending order, without duplicates.
    pub additional_gids: Vec<u32>,
    /// Home folder of the passwd entry; `/` when there is none.
    pub home: String,
}

/// Why nobody can be found.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A user name without an entry.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// A group name without an entry.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number that is no id.
    #[error("uids and gids must be in range 0-2147483647: {0}")]
    OutOfRange(String),
    /// A file that cannot be read.
    #[error("cannot read {path} of the container")]
    Read {
        /// Path inside the container.
        path: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// A file that is too large.
    #[error("{path} of the container is larger than {FILE_LIMIT_BYTES} bytes")]
    TooLarge {
        /// Path inside the container.
        path: &'static str,
    },
}

/// Looks up `user` (`user[:group]`, may be empty) and `group_add` in the root file system behind `root`.
///
/// # Errors
/// Names without an entry, ids out of range, and files that cannot be read. A missing file is an empty one.
pub fn look_up(root: BorrowedFd<'_>, user: &str, group_add: &[String]) -> Result<Identity, IdentityError> {
    let passwd = read_inside(root, "/etc/passwd")?;
    let group = read_inside(root, "/etc/group")?;
    resolve(&passwd, &group, user, group_add)
}

/// One passwd(5) entry.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One group(5) entry.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The lookup itself, on the files' texts.
fn resolve(passwd: &str, group: &str, user: &str, group_add: &[String]) -> Result<Identity, IdentityError> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let number = number(user_part)?;
    let entry = users(passwd).find(|entry| number.map_or(entry.name == user_part, |number| number == entry.uid));

    let uid = match (number, &entry) {
        (Some(number), _) => number,
        (None, Some(entry)) => in_range(entry.uid.into(), user_part)?,
        (None, None) => return Err(IdentityError::UnknownUser(user_part.to_owned())),
    };
    let mut additional = BTreeSet::new();
    let gid = if group_part.is_empty() {
        let own_groups =
            groups(group).filter(|g| entry.as_ref().is_some_and(|e| g.members.split(',').any(|m| m == e.name)));
        additional.extend(own_groups.map(|g| g.gid));
        entry.as_ref().map_or(0, |entry| entry.gid)
    } else {
        find_group(group, group_part)?
    };
    // The primary group as well: a set-group-id program must not lose what a file denies to that group.
    additional.insert(gid);
    for wanted in group_add {
        additional.insert(find_group(group, wanted)?);
    }
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { uid, gid, additional_gids: additional.into_iter().collect(), home })
}

fn find_group(group: &str, wanted: &str) -> Result<u32, IdentityError> {
    if let Some(number) = number(wanted)? {
        return Ok(number);
    }
    match groups(group).find(|entry| entry.name == wanted) {
        Some(entry) => in_range(entry.gid.into(), wanted),
        None => Err(IdentityError::UnknownGroup(wanted.to_owned())),
    }
}

/// The number that `text` is, `None` for a name. What looks like a number is never a name, however large it is: an
/// image could else give it any id (CVE-2016-3697, CVE-2026-46680).
fn number(text: &str) -> Result<Option<u32>, IdentityError> {
    let digits = text.trim_start_matches(['+', '-']);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(number) => in_range(number, text).map(Some),
        Err(_) => Err(IdentityError::OutOfRange(text.to_owned())),
    }
}

fn in_range(number: u64, text: &str) -> Result<u32, IdentityError> {
    if number > MAX_ID {
        return Err(IdentityError::OutOfRange(text.to_owned()));
    }
    Ok(number as u32)
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(User { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

/// Reads a file inside the root; empty when it does not exist or is not a regular file.
fn read_inside(root: BorrowedFd<'_>, path: &'static str) -> Result<String, IdentityError> {
    let failed = |source: io::Error| IdentityError::Read { path, source };
    // Not blocking: the file may be a FIFO.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match inside::open(root, Path::new(path), flags) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(1 << 16) + 1);
    File::from(fd).take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(IdentityError::TooLarge { path });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# comment\nbroken line\nweb:x:33:34:www:/var/www:/bin/sh\n\
        1000:x:2000:2000:odd:/odd:/bin/sh\nnohome:x:5:5::\nshort:x:6:6\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nadm:x:4:web,root\naudio:x:29:root,web\nempty:x:50\nbad:x:y:web\n";

    fn found(user: &str, add: &[&str]) -> Identity {
        let add: Vec<String> = add.iter().map(|g| (*g).to_owned()).collect();
        resolve(PASSWD, GROUP, user, &add).unwrap()
    }

    fn identity(uid: u32, gid: u32, additional: &[u32], home: &str) -> Identity {
        Identity { uid, gid, additional_gids: additional.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(found("", &[]), identity(0, 0, &[0, 4, 29], "/root"));
        assert_eq!(found("web", &[]), identity(33, 34, &[4, 29, 34], "/var/www"));
        assert_eq!(found("33", &["audio", "77"]), identity(33, 34, &[4, 29, 34, 77], "/var/www"));
        assert_eq!(found("web:adm", &[]), identity(33, 4, &[4], "/var/www"));
        assert_eq!(found("web:1234", &["adm"]), identity(33, 1234, &[4, 1234], "/var/www"));
        assert_eq!(found("4321", &[]), identity(4321, 0, &[0], "/"));
        assert_eq!(found(":adm", &[]), identity(0, 4, &[4], "/root"));
        assert_eq!(found("nohome", &[]), identity(5, 5, &[5], "/"));
        assert_eq!(found("short", &[]), identity(6, 6, &[6], "/"));
    }

    #[test]
    fn what_looks_like_a_number_is_never_a_name() {
        assert_eq!(found("1000", &[]), identity(1000, 0, &[0], "/"));
        let passwd = "18446744073709551617:x:0:0::/:\n-1:x:0:0::/:\nlast:x:4294967295:0::/:\n";
        for user in ["18446744073709551617", "-1", "4294967296", "last", "0:18446744073709551617"] {
            assert!(resolve(passwd, "18446744073709551617:x:0:", user, &[]).is_err(), "{user}");
        }
    }

    #[test]
    fn dockers_messages() {
        let error = |user: &str| resolve(PASSWD, GROUP, user, &[]).unwrap_err().to_string();
        assert_eq!(error("foo"), "unable to find user foo: no matching entries in passwd file");
        assert_eq!(error("root:foo"), "unable to find group foo: no matching entries in group file");
        assert_eq!(error("4294967296"), "uids and gids must be in range 0-2147483647: 4294967296");
        assert_eq!(error("-1"), "uids and gids must be in range 0-2147483647: -1");
    }

    #[test]
    fn links_stay_inside_and_odd_files_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        symlink("/../../../../../../../etc/shadow-of-hull", etc.join("passwd")).unwrap();
        std::fs::write(etc.join("shadow-of-hull"), "inside:x:7:8::/in:\n").unwrap();
        std::fs::create_dir(etc.join("group")).unwrap();
        let root = File::open(folder.path()).unwrap();
        let identity = look_up(root.as_fd(), "inside", &[]).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.home.as_str()), (7, 8, "/in"));
    }
}
