//! The mount table (proc_pid_mountinfo(5)): which mount a path is on, and where in its file system.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::EngineError;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The mounts of this process' namespace, in the order of mounting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountTable {
    mounts: Vec<MountEntry>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// `major:minor` of the file system.
    pub device: String,
    /// The folder of the file system that is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// It has peers to which mounts on it propagate.
    pub shared: bool,
    /// It receives mounts from others.
    pub slave: bool,
}

impl MountTable {
    /// Reads the table.
    pub fn read() -> Result<MountTable, EngineError> {
        let text = fs::read_to_string(MOUNTINFO).map_err(EngineError::path("read", MOUNTINFO))?;
        Ok(MountTable::parse(&text))
    }

    pub fn parse(text: &str) -> MountTable {
        MountTable { mounts: text.lines().filter_map(MountEntry::parse).collect() }
    }

    /// The mount that a path without links is on: the last of those with the longest mount point.
    pub fn mount_of(&self, path: &Path) -> Option<&MountEntry> {
        let covering = self.mounts.iter().filter(|mount| path.starts_with(&mount.point));
        covering.max_by_key(|mount| mount.point.components().count())
    }

    /// Where a folder of the host appears in the file system of `/` itself, without what is mounted on it; `None` when
    /// it does not.
    pub fn seen_through_root(&self, folder: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(folder).ok()?;
        let (own, root) = (self.mount_of(&real)?, self.mount_of(Path::new("/"))?);
        if own.device != root.device {
            return None;
        }
        let in_file_system = own.root.join(real.strip_prefix(&own.point).ok()?);
        Some(Path::new("/").join(in_file_system.strip_prefix(&root.root).ok()?))
    }
}

impl MountEntry {
    fn parse(line: &str) -> Option<MountEntry> {
        let mut fields = line.split(' ').skip(2);
        let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
        let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
        let has = |prefix: &str| optional.iter().any(|field| field.starts_with(prefix));
        Some(MountEntry {
            device: device.to_owned(),
            root: PathBuf::from(unescape(root)),
            point: PathBuf::from(unescape(point)),
            shared: has("shared:"),
            slave: has("master:"),
        })
    }
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> MountTable {
        MountTable::parse(
            "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n2 1 8:2 / /a\\040b rw master:3 - ext4 /dev/b rw\n\
             3 1 0:5 / /tmp rw - tmpfs t rw\n4 1 8:1 /srv/x /usr/bin rw - ext4 /dev/a rw\n",
        )
    }

    #[test]
    fn the_mount_of_a_path() {
        let table = table();
        let of = |path: &str| table.mount_of(Path::new(path)).map(|m| (m.point.clone(), m.shared, m.slave));
        assert_eq!(of("/x"), Some(("/".into(), true, false)));
        assert_eq!(of("/a b/c"), Some(("/a b".into(), false, true)));
        assert_eq!(of("/tmp"), Some(("/tmp".into(), false, false)));
        assert_eq!(of("/tmpx"), Some(("/".into(), true, false)));
    }

    #[test]
    fn folders_as_seen_through_the_root() {
        let table = table();
        let seen = |path: &str| table.seen_through_root(Path::new(path));
        assert_eq!(seen("/usr"), Some("/usr".into()));
        assert_eq!(seen("/usr/bin"), Some("/srv/x".into()), "mounted from elsewhere on the same file system");
        assert_eq!(seen("/tmp"), None);
        assert_eq!(seen("/no/such/folder"), None);
    }
}
