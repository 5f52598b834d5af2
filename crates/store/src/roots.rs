//! The two folders of one Hull and the paths below them.
//!
//! The root folder survives a reboot, the state folder need not. Both are made absolute lexically (symbolic links
//! are left as written), because the instance name, which marks this Hull's cgroups, bridges and tables, is derived
//! from the state folder's text.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// Root folder when none is given.
pub const DEFAULT_ROOT: &str = "/var/lib/hull";
/// State folder when none is given.
pub const DEFAULT_STATE: &str = "/run/hull";

/// Where one Hull keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Lasting data; an absolute path.
    pub root: PathBuf,
    /// State of running containers; an absolute path.
    pub state: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self::new(DEFAULT_ROOT, DEFAULT_STATE)
    }
}

impl Roots {
    /// The two folders, made absolute; neither is touched.
    pub fn new(root: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { root: absolute(&root.into()), state: absolute(&state.into()) }
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.root.join("hull.db")
    }

    /// The folder of blobs.
    pub fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    /// The folder of unpacked layers and writable tops.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// The folder of all containers' lasting files.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// One container's lasting files.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// The folder of volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Where layers are mounted that containers share.
    pub fn layer_mounts(&self) -> PathBuf {
        self.state.join("layers")
    }

    /// One running container's state.
    pub fn runtime_state(&self, id: &str) -> PathBuf {
        self.state.join(id)
    }

    /// What tells this Hull's kernel objects from another's: `hull` for the default state folder, else `hull-` and
    /// eight hexadecimal digits that depend on the state folder alone.
    pub fn instance(&self) -> String {
        if self.state == Path::new(DEFAULT_STATE) {
            return "hull".to_owned();
        }
        let hash = fnv1a_64(self.state.as_os_str().as_encoded_bytes());
        let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
        format!("hull-{folded:08x}")
    }

    /// Makes the state folder and its parents where missing.
    ///
    /// # Errors
    /// What mkdir(2) said.
    pub fn make_state(&self) -> io::Result<()> {
        make_folder(&self.state)
    }

    /// Makes the root folder, its parents and the folders inside it where missing.
    pub(crate) fn make_root(&self) -> Result<(), (PathBuf, io::Error)> {
        let content = self.content();
        let inside = [content.join("sha256"), content.join("tmp"), self.snapshots(), self.containers(), self.volumes()];
        for folder in [self.root.clone()].into_iter().chain(inside) {
            make_folder(&folder).map_err(|error| (folder, error))?;
        }
        Ok(())
    }
}

/// Folders of Hull let others pass through to what is theirs (shifted ids), but not look around.
fn make_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}

/// An absolute path without `.`, doubled or trailing separators; `..` stays, since it depends on links.
fn absolute(path: &Path) -> PathBuf {
    let based = match path.is_absolute() {
        true => path.to_path_buf(),
        // Without a current directory there is nothing to be relative to; opening will then name this path.
        false => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")).join(path),
    };
    based.components().filter(|component| *component != Component::CurDir).collect()
}

/// FNV-1a, 64 bits: stable across builds, which the standard library's hasher is not.
fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_their_root() {
        let roots = Roots::new("/var//lib/./hull/", "/run/hull/");
        assert_eq!(roots, Roots::default());
        assert_eq!(roots.database(), Path::new("/var/lib/hull/hull.db"));
        assert_eq!(roots.container("abc"), Path::new("/var/lib/hull/containers/abc"));
        assert_eq!(roots.runtime_state("abc"), Path::new("/run/hull/abc"));
        assert!(Roots::new("x", "y").root.is_absolute());
    }

    #[test]
    fn instance_depends_on_the_state_folder_alone() {
        assert_eq!(Roots::new("/srv/a", "/run/hull").instance(), "hull");
        let one = Roots::new("/srv/a", "/run/one").instance();
        assert_eq!(one, Roots::new("/srv/b", "/run/one/").instance());
        assert_ne!(one, Roots::new("/srv/a", "/run/two").instance());
        assert_eq!(one.len(), "hull-".len() + 8);
    }

    #[test]
    fn hash_is_the_published_one() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
