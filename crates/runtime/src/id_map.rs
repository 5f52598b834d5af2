//! Maps of ids: writing those of a user namespace, and namespaces that exist for their map alone
//! (user_namespaces(7), "User and group ID mappings").
//!
//! Root writes any map. Without its rights a user may map one id, the own one, and has to give up setgroups(2) for the
//! groups; for more there are newuidmap(1) and newgidmap(1), which know from subuid(5) and subgid(5) what the user may
//! map. They are looked for in `PATH` and are the only programs besides hooks that are executed here.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use hull_sys::process::{self as sys, Cloned};
use rustix::process::{Pid, WaitOptions, getegid, geteuid, waitpid};

use crate::plan::IdMap;

/// A map that could not be written, or a namespace that could not be made for one.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// A file of the process whose namespace it is.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program that writes maps for users is missing.
    #[error("{program} is not in PATH: without root's rights it is needed to map more than the own id")]
    Missing {
        /// Its name.
        program: &'static str,
    },
    /// It could not be executed.
    #[error("executing {program}")]
    Execute {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It refused.
    #[error("{program} {arguments}: {said}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// The map, as it was told.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// No process for a namespace could be made.
    #[error("making a user namespace for the map of a mount")]
    Namespace(#[source] std::io::Error),
}

/// A kind of ids.
struct Kind {
    file: &'static str,
    program: &'static str,
}

const UID: Kind = Kind { file: "uid_map", program: "newuidmap" };
const GID: Kind = Kind { file: "gid_map", program: "newgidmap" };

/// Whether a user without rights writes this group map directly, after which setgroups(2) is denied in the namespace.
pub(crate) fn denies_groups(gid_map: &[IdMap]) -> bool {
    !geteuid().is_root() && is_own(gid_map, getegid().as_raw())
}

/// Whether it is the one line that everybody may write.
fn is_own(map: &[IdMap], own: u32) -> bool {
    matches!(map, [line] if line.count == 1 && line.outside == own)
}

/// Writes the maps of the new user namespace in which process `pid` is.
///
/// # Errors
/// What the kernel, newuidmap(1) or newgidmap(1) refused, or which of these is missing.
pub fn write(pid: i32, uid_map: &[IdMap], gid_map: &[IdMap]) -> Result<(), IdMapError> {
    let user = geteuid();
    if user.is_root() || is_own(uid_map, user.as_raw()) {
        write_file(pid, UID.file, &lines(uid_map))?;
    } else {
        execute(&UID, pid, uid_map)?;
    }
    if denies_groups(gid_map) {
        write_file(pid, "setgroups", "deny")?;
    }
    if user.is_root() || is_own(gid_map, getegid().as_raw()) {
        return write_file(pid, GID.file, &lines(gid_map));
    }
    execute(&GID, pid, gid_map)
}

fn lines(map: &[IdMap]) -> String {
    map.iter().map(|line| format!("{} {} {}\n", line.inside, line.outside, line.count)).collect()
}

fn write_file(pid: i32, file: &str, text: &str) -> Result<(), IdMapError> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    fs::write(&path, text).map_err(|source| IdMapError::File { action: "writing", path, source })
}

fn execute(kind: &Kind, pid: i32, map: &[IdMap]) -> Result<(), IdMapError> {
    let program = kind.program;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = find(program, &path).ok_or(IdMapError::Missing { program })?;
    let numbers = map.iter().flat_map(|line| [line.inside, line.outside, line.count]);
    let arguments: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let output = Command::new(found)
        .arg(pid.to_string())
        .args(&arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| IdMapError::Execute { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(IdMapError::Refused { program, arguments: arguments.join(" "), said })
}

fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The user namespace of a process.
///
/// # Errors
/// Its file in /proc cannot be opened.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd, IdMapError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/user"));
    match File::open(&path) {
        Ok(namespace) => Ok(namespace.into()),
        Err(source) => Err(IdMapError::File { action: "opening", path, source }),
    }
}

/// A user namespace with these maps and nobody in it. The caller must have one thread and the right to write them.
///
/// # Errors
/// See [`IdMapError`].
pub(crate) fn namespace_with(uid_map: &[IdMap], gid_map: &[IdMap]) -> Result<OwnedFd, IdMapError> {
    let (mut held, holder) = std::io::pipe().map_err(IdMapError::Namespace)?;
    match sys::clone3(sys::CLONE_NEWUSER as u64, None).map_err(IdMapError::Namespace)? {
        Cloned::Child => {
            drop(holder);
            // Until the parent lets go of its end; then the namespace lives on through its descriptor.
            let _ = held.read(&mut [0]);
            sys::exit_now(0)
        }
        Cloned::Parent { pid, .. } => {
            let namespace = write(pid, uid_map, gid_map).and_then(|()| namespace_of(pid));
            drop(holder);
            if let Some(pid) = Pid::from_raw(pid) {
                while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
            }
            namespace
        }
    }
}

/// What a map of the namespace that this process is in says, `None` when it cannot be read.
pub(crate) fn read_own(file: &str) -> Option<Vec<IdMap>> {
    let text = fs::read_to_string(format!("/proc/self/{file}")).ok()?;
    let number = |word: Option<&str>| word?.parse().ok();
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (inside, outside, count) = (number(words.next())?, number(words.next())?, number(words.next())?);
            Some(IdMap { inside, outside, count })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn only_ones_own_id_is_written_directly() {
        let line = |inside, outside, count| IdMap { inside, outside, count };
        for (map, own) in [
            (vec![line(0, 7, 1)], true),
            (vec![line(5, 7, 1)], true),
            (vec![line(0, 7, 2)], false),
            (vec![line(0, 8, 1)], false),
            (vec![line(0, 7, 1), line(1, 100, 1)], false),
            (vec![], false),
        ] {
            assert_eq!(is_own(&map, 7), own, "{map:?}");
        }
    }

    #[test]
    fn a_program_is_found_in_absolute_folders_alone() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("newuidmap");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::join_paths([PathBuf::from("."), "/nowhere".into(), folder.path().into()]).unwrap();
        assert_eq!(find("newuidmap", &path), Some(program));
        assert_eq!(find("newgidmap", &path), None);
        assert_eq!(find("newuidmap", OsStr::new("")), None);
    }

    #[test]
    fn a_map_is_read_as_it_was_written() {
        assert!(lines(&[IdMap { inside: 0, outside: 7, count: 1 }]) == "0 7 1\n");
        assert!(read_own("uid_map").is_some_and(|map| !map.is_empty()));
        assert_eq!(read_own("no_map"), None);
        let own = namespace_of(std::process::id() as i32).unwrap();
        assert_eq!(File::from(own).metadata().unwrap().ino(), fs::metadata("/proc/self/ns/user").unwrap().ino());
    }
}
