//! Volumes, named and anonymous, and the sources of bind mounts.
//!
//! ```text
//! volumes/<name>/_data     what containers see; a container's own ids also with a user namespace
//! ```
//!
//! Write order of a new volume: its row with a lease, its folder, its content from the image, syncfs, the lease taken off
//! durably: a volume that was reported made is on disk. An anonymous one into which nothing is copied is as lasting as its
//! container, and nothing is synced for it. Removal: the row leased durably, the folder, the row; so a named folder
//! always has a row, and a row whose lease has died and that no container has marks a volume that was being made or
//! removed: it goes. One that a container still wants is emptied and filled afresh.
//! A volume is filled from the image while it is empty, with the owner and mode of the image's folder.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_kernel::tree;
use hull_oci::image::ImageConfig;
use hull_oci::runtime::LinuxIdMapping;
use hull_store::{Lease, Roots, Store, StoreError};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use rustix::fs::OFlags;

use crate::error::{EngineError, ErrorKind, kind_of};
use crate::id::{ContainerId, is_hex, random_hex};
use crate::identity::Identity;
use crate::mount_point::{MountKind, MountPoint};
use crate::mountinfo::MountTable;
use crate::request::{CreateContainer, MountSource, Ownership};
use crate::spec::{SpecError, clean_target};
use crate::volume_size;

/// How often a command looks whether another one has finished filling a volume.
const FILL_POLL: Duration = Duration::from_millis(20);

/// Folders that `:U` leaves alone; what is below them is the user's choice.
const SYSTEM_FOLDERS: [&str; 23] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
];

/// What is wrong with a volume or the source of a bind mount.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A volume name that is not allowed.
    #[error(
        "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. \
         If you intended to pass a host directory, use absolute path"
    )]
    Name {
        /// As typed.
        name: String,
    },
    /// There is no such volume.
    #[error("get {name}: no such volume")]
    Missing {
        /// As typed.
        name: String,
    },
    /// A size that nobody would hold it to.
    #[error(
        "a volume can have a size only where the file system enforces project quotas, and that of {} does not (mount \
         it with prjquota)",
        path.display()
    )]
    NoQuota {
        /// The folder of volumes.
        path: PathBuf,
    },
    /// Every number for a volume with a size is taken.
    #[error("no project number is free for the volume {name}")]
    NoProject {
        /// The volume.
        name: String,
    },
    /// Containers have it.
    #[error("remove {name}: volume is in use - [{}]", containers.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// Ids of the containers.
        containers: Vec<String>,
    },
    /// A bind source that is not there.
    #[error("invalid mount config for type \"bind\": bind source path does not exist: {}", path.display())]
    BindSource {
        /// Host path.
        path: PathBuf,
    },
    /// A bind source that is no absolute path.
    #[error("invalid mount path: '{}' mount path must be absolute", path.display())]
    BindRelative {
        /// Host path.
        path: PathBuf,
    },
    /// A propagation that the source's own mount does not allow.
    #[error("path {} is mounted on {} but it is not a {wanted} mount", path.display(), mount.display())]
    Propagation {
        /// Host path.
        path: PathBuf,
        /// Mount point that it is on.
        mount: PathBuf,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// A folder of the machine that no container's user is to have.
    #[error(
        "changing the owner of {} is not allowed: the machine needs it as it is. Use another folder, or chown it by \
         hand",
        path.display()
    )]
    NotOwnable {
        /// Host path.
        path: PathBuf,
    },
    /// Giving the files of a mount to the container's user.
    #[error("cannot give {} to the container's user", path.display())]
    Give {
        /// Host path.
        path: PathBuf,
        /// Cause.
        source: tree::TreeError,
    },
    /// A target inside the container.
    #[error(transparent)]
    Target(#[from] SpecError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder of a volume or a bind mount.
    #[error("cannot {action} {}", path.display())]
    Folder {
        /// Make, read, fill, remove.
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Copying the image's content.
    #[error("cannot fill volume {name} from {} of the image", target.display())]
    Fill {
        /// Volume.
        name: String,
        /// Path in the image.
        target: PathBuf,
        /// Cause.
        source: tree::TreeError,
    },
}

impl VolumeError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            VolumeError::Name { .. }
            | VolumeError::BindSource { .. }
            | VolumeError::BindRelative { .. }
            | VolumeError::Propagation { .. }
            | VolumeError::NotOwnable { .. }
            | VolumeError::NoQuota { .. }
            | VolumeError::Target(_) => ErrorKind::Invalid,
            VolumeError::NoProject { .. } => ErrorKind::Exhausted,
            VolumeError::Missing { .. } => ErrorKind::NotFound,
            VolumeError::InUse { .. } => ErrorKind::Conflict,
            VolumeError::Folder { source, .. } => kind_of(source),
            VolumeError::Fill { source, .. } | VolumeError::Give { source, .. } => {
                kind_of(&io::Error::from(source.errno))
            }
            VolumeError::Store(_) => ErrorKind::Internal,
        }
    }
}

impl From<rusqlite::Error> for VolumeError {
    fn from(error: rusqlite::Error) -> VolumeError {
        VolumeError::Store(StoreError::from(error))
    }
}

/// A mount as it will be, and whether the image's content belongs into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    pub point: MountPoint,
    pub copy_up: bool,
}

/// Names the volumes of a request: its own mounts, those `lent` by other containers, the later ones first, then the image's
/// volume paths; each only where no mount before it is.
pub(crate) fn settle(
    request: &CreateContainer,
    lent: Vec<MountPoint>,
    image: &ImageConfig,
    roots: &Roots,
) -> Result<Vec<Settled>, VolumeError> {
    let mut settled: Vec<Settled> = Vec::new();
    for mount in &request.mounts {
        let (kind, source, copy_up) = settle_source(&mount.source, roots)?;
        let point = MountPoint {
            kind,
            source,
            target: clean_target(&mount.target)?,
            read_only: mount.read_only,
            propagation: mount.propagation.clone(),
            ownership: mount.ownership,
        };
        settled.push(Settled { point, copy_up });
    }
    for point in lent.into_iter().rev() {
        if settled.iter().all(|have| have.point.target != point.target) {
            settled.push(Settled { point, copy_up: false });
        }
    }
    for path in &image.volumes {
        let target = clean_target(path.as_ref())?;
        if settled.iter().any(|have| have.point.target == target) {
            continue;
        }
        let (kind, source) = volume(None, roots)?;
        let point = MountPoint {
            kind,
            source: Some(source),
            target,
            read_only: false,
            propagation: None,
            ownership: Ownership::default(),
        };
        settled.push(Settled { point, copy_up: true });
    }
    Ok(settled)
}

fn settle_source(source: &MountSource, roots: &Roots) -> Result<(MountKind, Option<PathBuf>, bool), VolumeError> {
    Ok(match source {
        MountSource::Bind { path, create, recursive } => {
            if !path.is_absolute() {
                return Err(VolumeError::BindRelative { path: path.clone() });
            }
            (MountKind::Bind { recursive: *recursive, create: *create }, Some(path.clone()), false)
        }
        MountSource::Volume { name, copy_up } => {
            let (kind, source) = volume(name.as_deref(), roots)?;
            (kind, Some(source), *copy_up)
        }
        MountSource::Tmpfs { size_bytes, mode, options } => {
            let kind = MountKind::Tmpfs { size_bytes: *size_bytes, mode: *mode, options: options.clone() };
            (kind, None, false)
        }
    })
}

fn volume(name: Option<&str>, roots: &Roots) -> Result<(MountKind, PathBuf), VolumeError> {
    let (name, anonymous) = match name {
        Some(name) => (check_name(name)?.to_owned(), false),
        None => (anonymous_name(roots)?, true),
    };
    let source = data_path(roots, &name);
    Ok((MountKind::Volume { name, anonymous }, source))
}

/// Whether a name may be a volume's.
pub(crate) fn is_name(name: &str) -> bool {
    check_name(name).is_ok()
}

pub(crate) fn check_name(name: &str) -> Result<&str, VolumeError> {
    match crate::names::check(name) {
        Ok(bare) if bare == name && name.len() <= 255 => Ok(name),
        _ => Err(VolumeError::Name { name: name.to_owned() }),
    }
}

fn anonymous_name(roots: &Roots) -> Result<String, VolumeError> {
    random_hex(32).map_err(|source| VolumeError::Folder { action: "name a folder in", path: roots.volumes(), source })
}

/// Whether a name is one that Hull gives to anonymous volumes.
pub(crate) fn is_anonymous_name(name: &str) -> bool {
    name.len() == 64 && is_hex(name)
}

/// Folder of a volume.
pub(crate) fn folder(roots: &Roots, name: &str) -> PathBuf {
    roots.volumes().join(name)
}

/// The folder of a volume that containers see.
pub(crate) fn data_path(roots: &Roots, name: &str) -> PathBuf {
    folder(roots, name).join("_data")
}

/// Makes bind sources that may be made, and refuses those that are missing or cannot have their propagation.
pub(crate) fn check_binds<'a>(mounts: impl IntoIterator<Item = &'a MountPoint>) -> Result<(), EngineError> {
    for point in mounts {
        let (MountKind::Bind { create, .. }, Some(path)) = (&point.kind, &point.source) else { continue };
        if fs::metadata(path).is_err() {
            if !create {
                return Err(VolumeError::BindSource { path: path.clone() }.into());
            }
            DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|source| VolumeError::Folder {
                action: "make",
                path: path.clone(),
                source,
            })?;
        }
        if point.ownership.chown {
            check_ownable(&fs::canonicalize(path).map_err(|_| VolumeError::BindSource { path: path.clone() })?)?;
        }
        let wanted = match point.propagation.as_deref() {
            Some("shared" | "rshared") => "shared",
            Some("slave" | "rslave") => "shared or slave",
            _ => continue,
        };
        require_peer_group(&MountTable::read()?, path, wanted)?;
    }
    Ok(())
}

/// Refuses to give a folder away without which the machine does not work; `path` has no links in it.
fn check_ownable(path: &Path) -> Result<(), VolumeError> {
    match SYSTEM_FOLDERS.iter().any(|folder| Path::new(folder) == path) {
        true => Err(VolumeError::NotOwnable { path: path.to_owned() }),
        false => Ok(()),
    }
}

/// Gives the files of those mounts that ask for it to the container's user, whose ids on disk are shifted unless the mount
/// shifts them.
pub(crate) fn give(
    mounts: &[MountPoint],
    identity: &Identity,
    id_map: Option<LinuxIdMapping>,
) -> Result<(), VolumeError> {
    for point in mounts.iter().filter(|point| point.ownership.chown) {
        let Some(path) = &point.source else { continue };
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty());
        let failed =
            |source| VolumeError::Folder { action: "give to the container's user", path: path.clone(), source };
        let top = opened.map_err(|errno| failed(errno.into()))?;
        // What was opened, however a link in the path has been turned since the container was made.
        let real = fs::read_link(format!("/proc/self/fd/{}", top.as_raw_fd())).map_err(failed)?;
        check_ownable(&real)?;
        let is_shifted_by_mount = point.volume().is_some() || point.ownership.shift;
        let shift = id_map.filter(|_| !is_shifted_by_mount).map_or(0, |map| map.host_id);
        tree::own_tree(top.as_fd(), shift + identity.uid, shift + identity.gid)
            .map_err(|source| VolumeError::Give { path: path.clone(), source })?;
    }
    Ok(())
}

/// Checks that what is mounted on or below `path` can propagate as wanted.
fn require_peer_group(table: &MountTable, path: &Path, wanted: &'static str) -> Result<(), VolumeError> {
    let real = fs::canonicalize(path).map_err(|_| VolumeError::BindSource { path: path.to_owned() })?;
    match table.mount_of(&real) {
        Some(mount) if !(mount.shared || (mount.slave && wanted != "shared")) => {
            Err(VolumeError::Propagation { path: path.to_owned(), mount: mount.point.clone(), wanted })
        }
        _ => Ok(()),
    }
}

/// Makes every volume of `settled` that is not there yet, ties all of them to the container, and fills the empty ones
/// from `root`, the container's root file system, which is asked for only when it is needed.
pub(crate) fn prepare<'fd, E: From<VolumeError>>(
    store: &Store,
    roots: &Roots,
    container: &ContainerId,
    settled: &[Settled],
    root: impl Fn() -> Result<BorrowedFd<'fd>, E>,
) -> Result<(), E> {
    for wanted in settled {
        let MountKind::Volume { name, anonymous } = &wanted.point.kind else { continue };
        let lease = Lease::current().map_err(|error| VolumeError::from(StoreError::from(error)))?;
        let claim = Claim { container, name, anonymous: *anonymous, lease };
        let wants_content = || Ok::<_, VolumeError>(wanted.copy_up && is_empty(roots, name)?);
        match claim.wait(store, false)? {
            Claimed::Whole => {
                make_folder(roots, name)?;
                if !wants_content()? {
                    continue;
                }
                claim.wait(store, true)?;
            }
            Claimed::New => {}
            Claimed::Abandoned => remove_folder(roots, name)?,
        }
        make_folder(roots, name)?;
        let has_content = wants_content()? && fill(roots, name, &wanted.point.target, root()?)?;
        if has_content || !anonymous {
            sync(roots)?;
            store.write_durable(|tx| release(tx, name)).map_err(VolumeError::from)?;
        } else {
            store.write(|tx| release(tx, name)).map_err(VolumeError::from)?;
        }
    }
    Ok(())
}

/// A container that wants a volume.
struct Claim<'a> {
    container: &'a ContainerId,
    name: &'a str,
    anonymous: bool,
    lease: Lease,
}

/// In which state a volume was found when the container was tied to it.
enum Claimed {
    /// Somebody has finished it.
    Whole,
    /// It was not there; its row is this process's now.
    New,
    /// Whoever was making or filling it has died, and nobody else has it; its row is this process's now.
    Abandoned,
}

impl Claim<'_> {
    /// Ties the container to the volume, waiting while another living process makes or fills it. With `to_fill` the row
    /// is leased also when it is whole.
    fn wait(&self, store: &Store, to_fill: bool) -> Result<Claimed, VolumeError> {
        loop {
            // A named folder must not outlive its row: nobody would know that it is rubbish.
            let is_lasting = self.anonymous || store.read(|db| exists(db, self.name))?;
            let claimed = match is_lasting {
                true => store.write(|tx| self.take(tx, to_fill))?,
                false => store.write_durable(|tx| self.take(tx, to_fill))?,
            };
            match claimed {
                Some(claimed) => return Ok(claimed),
                None => std::thread::sleep(FILL_POLL),
            }
        }
    }

    fn take(&self, tx: &Transaction<'_>, to_fill: bool) -> Result<Option<Claimed>, VolumeError> {
        let columns = "SELECT lease_pid, lease_start, lease_boot FROM volumes WHERE name = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok(Lease::from_columns(row.get(0)?, row.get(1)?, row.get(2)?));
        let claimed = match tx.query_row(columns, [self.name], read).optional()? {
            Some(Some(holder)) if holder != self.lease && holder.is_alive() => return Ok(None),
            Some(Some(_)) if self.is_used_by_another(tx)? => {
                release(tx, self.name)?;
                Claimed::Whole
            }
            Some(Some(_)) => Claimed::Abandoned,
            Some(None) => Claimed::Whole,
            None => Claimed::New,
        };
        let (pid, start, boot) = self.lease.columns();
        if to_fill || !matches!(claimed, Claimed::Whole) {
            let now = jiff::Timestamp::now().as_nanosecond() as i64;
            tx.execute(
                "INSERT INTO volumes (name, anonymous, created_at, labels, options, lease_pid, lease_start, lease_boot)
                 VALUES (?1, ?2, ?3, '{}', '{}', ?4, ?5, ?6)
                 ON CONFLICT (name) DO UPDATE SET lease_pid = ?4, lease_start = ?5, lease_boot = ?6",
                params![self.name, self.anonymous, now, pid, start, boot],
            )?;
        }
        let tie = "INSERT OR IGNORE INTO container_volumes VALUES (?1, ?2)";
        tx.execute(tie, params![self.container.as_str(), self.name])?;
        Ok(Some(claimed))
    }

    /// A volume that was being filled while another container had it is not to be emptied.
    fn is_used_by_another(&self, tx: &Transaction<'_>) -> Result<bool, VolumeError> {
        let query = "SELECT EXISTS (SELECT 1 FROM container_volumes WHERE volume = ?1 AND container_id <> ?2)";
        Ok(tx.query_row(query, params![self.name, self.container.as_str()], |row| row.get(0))?)
    }
}

fn exists(db: &Connection, name: &str) -> Result<bool, StoreError> {
    Ok(db.query_row("SELECT EXISTS (SELECT 1 FROM volumes WHERE name = ?1)", [name], |row| row.get(0))?)
}

/// Deletes the row of a volume that was never finished and that no container has, once its folder is gone.
pub(crate) fn forget_abandoned(tx: &Transaction<'_>, name: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM volumes WHERE name = ?1 AND lease_pid IS NOT NULL", [name])?;
    Ok(())
}

/// Whether somebody is making or removing a volume, or was.
pub(crate) fn has_leased(db: &Connection) -> Result<bool, StoreError> {
    let query = "SELECT EXISTS (SELECT 1 FROM volumes WHERE lease_pid IS NOT NULL)";
    Ok(db.prepare_cached(query)?.query_row([], |row| row.get(0))?)
}

/// Leases, for their removal, the volumes whose makers or removers have died and that no container has; their names.
pub(crate) fn claim_abandoned(tx: &Transaction<'_>, own: &Lease) -> Result<Vec<String>, StoreError> {
    let query = "SELECT name, lease_pid, lease_start, lease_boot FROM volumes
                 WHERE lease_pid IS NOT NULL AND name NOT IN (SELECT volume FROM container_volumes)";
    let mut statement = tx.prepare_cached(query)?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, Lease::from_columns(row.get(1)?, row.get(2)?, row.get(3)?)))
    })?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let dead = rows.into_iter().filter(|(_, lease)| lease.as_ref().is_some_and(|lease| !lease.is_alive()));
    let names: Vec<String> = dead.map(|(name, _)| name).collect();
    let (pid, start, boot) = own.columns();
    for name in &names {
        let lease = "UPDATE volumes SET lease_pid = ?2, lease_start = ?3, lease_boot = ?4 WHERE name = ?1";
        tx.execute(lease, params![name, pid, start, boot])?;
    }
    Ok(names)
}

/// Inserts a volume that is whole.
pub(crate) fn insert_whole(tx: &Transaction<'_>, name: &str, labels: &str) -> Result<(), StoreError> {
    let now = jiff::Timestamp::now().as_nanosecond() as i64;
    tx.execute(
        "INSERT OR IGNORE INTO volumes (name, anonymous, created_at, labels, options) VALUES (?1, ?2, ?3, ?4, '{}')",
        params![name, is_anonymous_name(name), now, labels],
    )?;
    Ok(())
}

/// Inserts a volume that is being made; `false` when there is one of that name.
pub(crate) fn insert_leased(
    tx: &Transaction<'_>,
    name: &str,
    anonymous: bool,
    labels: &str,
    options: &str,
    lease: &Lease,
) -> Result<bool, StoreError> {
    let (pid, start, boot) = lease.columns();
    let now = jiff::Timestamp::now().as_nanosecond() as i64;
    let inserted = tx.execute(
        "INSERT OR IGNORE INTO volumes (name, anonymous, created_at, labels, options, lease_pid, lease_start, lease_boot)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![name, anonymous, now, labels, options, pid, start, boot],
    )?;
    Ok(inserted == 1)
}

/// Leases a volume that nobody makes, removes or has, for its removal.
pub(crate) fn claim_unused(tx: &Transaction<'_>, name: &str, lease: &Lease) -> Result<bool, StoreError> {
    let (pid, start, boot) = lease.columns();
    let claimed = tx.execute(
        "UPDATE volumes SET lease_pid = ?2, lease_start = ?3, lease_boot = ?4 WHERE name = ?1 AND lease_pid IS NULL
         AND NOT EXISTS (SELECT 1 FROM container_volumes WHERE volume = ?1)",
        params![name, pid, start, boot],
    )?;
    Ok(claimed == 1)
}

pub(crate) fn release(tx: &Transaction<'_>, name: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE volumes SET lease_pid = NULL, lease_start = NULL, lease_boot = NULL WHERE name = ?1", [name])?;
    Ok(())
}

/// Makes a volume's folder where it is missing.
pub(crate) fn make_folder(roots: &Roots, name: &str) -> Result<(), VolumeError> {
    let path = data_path(roots, name);
    let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
    made.map_err(|source| VolumeError::Folder { action: "make", path, source })
}

/// Everything in every volume is on disk when this returns.
pub(crate) fn sync(roots: &Roots) -> Result<(), VolumeError> {
    let path = roots.volumes();
    let synced = fs::File::open(&path).and_then(|folder| Ok(rustix::fs::syncfs(&folder)?));
    synced.map_err(|source| VolumeError::Folder { action: "sync", path, source })
}

fn is_empty(roots: &Roots, name: &str) -> Result<bool, VolumeError> {
    let path = data_path(roots, name);
    match fs::read_dir(&path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(VolumeError::Folder { action: "read", path, source }),
    }
}

/// Copies the image's folder at `target`, itself included, into the volume; `false` when there is none.
fn fill(roots: &Roots, name: &str, target: &Path, root: BorrowedFd<'_>) -> Result<bool, VolumeError> {
    let data = data_path(roots, name);
    let failed = |source: io::Error| VolumeError::Folder { action: "fill", path: data.clone(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = match hull_kernel::mounts::inside::open(root, target, flags) {
        Ok(source) => source,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(false),
        Err(errno) => return Err(failed(errno.into())),
    };
    let into = fs::File::open(&data).map_err(failed)?;
    tree::copy_tree(source.as_fd(), into.as_fd()).map(|_| true).map_err(|source| VolumeError::Fill {
        name: name.to_owned(),
        target: target.to_owned(),
        source,
    })
}

/// Names of all volumes.
pub(crate) fn all_names(db: &Connection) -> Result<HashSet<String>, StoreError> {
    let mut statement = db.prepare_cached("SELECT name FROM volumes")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Names of the volumes that are whole.
pub(crate) fn whole_names(db: &Connection) -> Result<Vec<String>, StoreError> {
    let mut statement = db.prepare_cached("SELECT name FROM volumes WHERE lease_pid IS NULL")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Names of the anonymous volumes of a container.
pub(crate) fn anonymous_of(tx: &Transaction<'_>, container: &ContainerId) -> Result<Vec<String>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT name FROM volumes JOIN container_volumes ON volume = name WHERE container_id = ?1 AND anonymous = 1",
    )?;
    let names = statement.query_map([container.as_str()], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Deletes the rows of those volumes that no container has any more; returns their names, whose folders are to go.
pub(crate) fn forget_unused(tx: &Transaction<'_>, names: Vec<String>) -> Result<Vec<String>, StoreError> {
    let mut gone = Vec::new();
    for name in names {
        let deleted = tx.execute(
            "DELETE FROM volumes WHERE name = ?1
             AND NOT EXISTS (SELECT 1 FROM container_volumes WHERE volume = ?1)",
            [&name],
        )?;
        if deleted > 0 {
            gone.push(name);
        }
    }
    Ok(gone)
}

/// Removes a volume's folder; one that is gone already is fine.
pub(crate) fn remove_folder(roots: &Roots, name: &str) -> Result<(), VolumeError> {
    let path = folder(roots, name);
    let project = volume_size::project_of(&data_path(roots, name));
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(VolumeError::Folder { action: "remove", path, source });
        }
        _ => {}
    }
    let released = project.map_or(Ok(()), |project| volume_size::release(roots, project));
    released.map_err(|source| VolumeError::Folder { action: "take the limit off", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::MountRequest;

    fn roots() -> Roots {
        Roots::new("/nowhere/root", "/nowhere/state")
    }

    fn volume_at(target: &str, name: Option<&str>) -> MountRequest {
        MountRequest {
            source: MountSource::Volume { name: name.map(str::to_owned), copy_up: true },
            target: target.into(),
            read_only: false,
            propagation: None,
            ownership: Ownership::default(),
        }
    }

    #[test]
    fn a_mount_covers_an_image_volume() {
        let request = CreateContainer { mounts: vec![volume_at("/data/", Some("mine"))], ..Default::default() };
        let image = ImageConfig { volumes: vec!["/data".into(), "/cache".into()], ..ImageConfig::default() };
        let settled = settle(&request, Vec::new(), &image, &roots()).unwrap();
        assert_eq!(settled.len(), 2);
        assert_eq!(settled[0].point.source.as_deref(), Some(Path::new("/nowhere/root/volumes/mine/_data")));
        let MountKind::Volume { name, anonymous } = &settled[1].point.kind else { panic!("a volume") };
        assert!(*anonymous && is_anonymous_name(name) && settled[1].copy_up);
    }

    #[test]
    fn bad_names_and_sources_are_refused() {
        for name in ["a", "../x", "a/b", "/abc", ""] {
            let request = CreateContainer { mounts: vec![volume_at("/d", Some(name))], ..Default::default() };
            assert!(settle(&request, Vec::new(), &ImageConfig::default(), &roots()).is_err(), "{name:?}");
        }
        let point = MountPoint {
            kind: MountKind::Bind { recursive: true, create: false },
            source: Some("/no/such/path".into()),
            target: "/x".into(),
            read_only: false,
            propagation: None,
            ownership: Ownership::default(),
        };
        let error = check_binds([&point]).unwrap_err().to_string();
        assert_eq!(error, "invalid mount config for type \"bind\": bind source path does not exist: /no/such/path");
    }
}
