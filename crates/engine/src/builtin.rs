//! The images that Hull carries in itself: `hello` and `host`. Nothing is downloaded for them.
//!
//! ```text
//! <root>/builtin/hello-<key>/    layer of `hello`: this binary as /hello, and what every root needs
//! ```
//!
//! `hello` is Hull's own static binary as the only program; its layer is made once for each binary (the key is device,
//! inode, size and change time) under a temporary name with its maker's lease, and renamed. `host` is the machine's own
//! root file system as the lower layer of a private upper one: only that file system, not what is mounted on it. Its
//! /run and /tmp are fresh, and Hull's own folders are covered wherever they lie on it, because what other containers
//! keep there is not for this one to read.

mod hello;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::inside;
use hull_oci::image::ImageConfig;
use hull_snapshot::{Rootfs, SnapshotId, Snapshotter};
use hull_store::{Lease, Roots};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::mount_point::{MountKind, MountPoint};
use crate::mountinfo::MountTable;
use crate::record::{Builtin, ContainerRecord, RecordError};
use crate::spec::DEFAULT_PATH;

pub use hello::hello_main;

/// Path of the program inside the image `hello`; a process with this argv\[0\] is to call [`hello_main`].
pub const HELLO_PROGRAM: &str = "/hello";

const SELF_EXE: &str = "/proc/self/exe";
const PASSWD: &str = "root:x:0:0:root:/:/hello\n";
const GROUP: &str = "root:x:0:\n";

/// What an image would say of itself.
pub(crate) fn config(builtin: Builtin) -> ImageConfig {
    match builtin {
        Builtin::Hello => ImageConfig { entrypoint: vec![HELLO_PROGRAM.to_owned()], ..ImageConfig::default() },
        Builtin::Host => ImageConfig {
            env: vec![format!("PATH={DEFAULT_PATH}")],
            cmd: vec![user_shell(std::env::var("SHELL").ok())],
            ..ImageConfig::default()
        },
    }
}

/// The user's shell when it is one on this machine, else the one that every machine has.
fn user_shell(shell: Option<String>) -> String {
    shell.filter(|path| path.starts_with('/') && Path::new(path).is_file()).unwrap_or_else(|| "/bin/sh".to_owned())
}

impl Engine {
    /// The root file system of a container.
    pub(crate) fn container_rootfs(&self, record: &ContainerRecord) -> Result<Rootfs, EngineError> {
        let damaged = || RecordError::Snapshot { id: record.id.clone(), snapshot: record.snapshot.clone() };
        let snapshot = SnapshotId::parse(&record.snapshot).ok_or_else(damaged)?;
        let rootfs = self.snapshots().rootfs(&snapshot)?.volatile(record.request.auto_remove);
        Ok(match record.image.builtin {
            None => rootfs,
            Some(Builtin::Hello) => rootfs.over(vec![self.hello_layer()?]),
            Some(Builtin::Host) => rootfs.over(vec![PathBuf::from("/")]),
        })
    }

    /// The layer of `hello` for this binary, made when it is missing.
    pub(crate) fn hello_layer(&self) -> Result<PathBuf, EngineError> {
        let folder = self.roots().root.join("builtin");
        let binary = fs::metadata(SELF_EXE).map_err(EngineError::path("read", SELF_EXE))?;
        let (seconds, nanoseconds) = (binary.mtime(), binary.mtime_nsec());
        let key = format!("{:x}-{:x}-{:x}-{seconds:x}.{nanoseconds:x}", binary.dev(), binary.ino(), binary.size());
        let layer = folder.join(format!("hello-{key}"));
        if layer.exists() {
            return Ok(layer);
        }
        make_folder(&folder, 0o711)?;
        self.sweep_hello(&folder)?;
        let temporary = folder.join(format!(".hello-{}", Lease::current()?));
        let made = fill_hello(&temporary).and_then(|()| match fs::rename(&temporary, &layer) {
            // Another process was faster: its layer is as good as ours.
            Err(_) if layer.exists() => remove_all(&temporary),
            renamed => renamed.map_err(EngineError::path("make", &layer)),
        });
        if made.is_err() {
            // What made it fail is what the user must hear; the next maker sweeps.
            let _ = remove_all(&temporary);
        }
        made.map(|()| layer)
    }

    /// Removes what dead makers left, and layers of other binaries unless some other container may be using them.
    fn sweep_hello(&self, folder: &Path) -> Result<(), EngineError> {
        let count = "SELECT count(*) FROM containers WHERE image_id IS NULL";
        let builtins: i64 = self.store().read(|db| Ok::<_, EngineError>(db.query_row(count, [], |row| row.get(0))?))?;
        let entries = fs::read_dir(folder).map_err(EngineError::path("read", folder))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let maker = name.strip_prefix(".hello-").and_then(|lease| lease.parse::<Lease>().ok());
            let rubbish = match maker {
                Some(maker) => !maker.is_alive(),
                None => name.starts_with("hello-") && builtins <= 1,
            };
            if rubbish {
                remove_all(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn fill_hello(root: &Path) -> Result<(), EngineError> {
    make_folder(root, 0o755)?;
    for (folder, mode) in [("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("sys", 0o555), ("run", 0o755)] {
        make_folder(&root.join(folder), mode)?;
    }
    for (file, content) in [("passwd", PASSWD), ("group", GROUP), ("hosts", ""), ("hostname", ""), ("resolv.conf", "")]
    {
        let path = root.join("etc").join(file);
        fs::write(&path, content).map_err(EngineError::path("write", &path))?;
    }
    let program = root.join(HELLO_PROGRAM.trim_start_matches('/'));
    fs::copy(SELF_EXE, &program).map_err(EngineError::path("write", &program))?;
    rustix::fs::chmod(&program, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(|errno| EngineError::path("write", &program)(errno.into()))
}

fn make_folder(path: &Path, mode: u32) -> Result<(), EngineError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(EngineError::path("make", path))
}

fn remove_all(path: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EngineError::path("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The mounts that make the machine's root fit for a container: fresh /run and /tmp, Hull's folders covered.
pub(crate) fn host_mounts(roots: &Roots, root: BorrowedFd<'_>) -> Result<Vec<MountPoint>, EngineError> {
    let fresh = [("/run", 0o755), ("/tmp", 0o1777)];
    let mut mounts: Vec<MountPoint> = fresh
        .iter()
        .filter(|(target, _)| inside::exists(root, Path::new(target)))
        .map(|(target, mode)| tmpfs(Path::new(target), None, *mode, false))
        .collect();
    let table = MountTable::read()?;
    for folder in [&roots.root, &roots.state] {
        let Some(target) = table.seen_through_root(folder) else { continue };
        let covered = ["/run", "/tmp", "/proc", "/sys", "/dev"].iter().any(|fresh| target.starts_with(fresh));
        if !covered && inside::exists(root, &target) {
            mounts.push(tmpfs(&target, Some(4096), 0o555, true));
        }
    }
    Ok(mounts)
}

fn tmpfs(target: &Path, size_bytes: Option<u64>, mode: u32, read_only: bool) -> MountPoint {
    // Programs may be run from /tmp, as on the machine itself; nothing is in the covers.
    let options = if read_only { Vec::new() } else { vec!["exec".to_owned()] };
    MountPoint {
        kind: MountKind::Tmpfs { size_bytes, mode: Some(mode), options },
        source: None,
        target: target.to_owned(),
        read_only,
        propagation: None,
        ownership: crate::request::Ownership::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_one_of_the_machine() {
        assert_eq!(user_shell(None), "/bin/sh");
        assert_eq!(user_shell(Some("/no/such/shell".into())), "/bin/sh");
        assert_eq!(user_shell(Some("sh".into())), "/bin/sh");
        assert_eq!(user_shell(Some("/bin/sh".into())), "/bin/sh");
    }

    #[test]
    fn the_layer_of_hello_has_the_binary_and_what_a_root_needs() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("layer");
        fill_hello(&root).unwrap();
        let (copy, own) = (fs::metadata(root.join("hello")).unwrap(), fs::metadata(SELF_EXE).unwrap());
        assert_eq!((copy.len(), copy.mode() & 0o777), (own.len(), 0o755));
        for name in ["proc", "sys", "dev", "etc/passwd", "etc/hosts"] {
            assert!(root.join(name).exists(), "{name}");
        }
    }
}
