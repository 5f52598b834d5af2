//! Snapshots: layers unpacked once, and a writable top for each container.
//!
//! A snapshot is an opaque id; a driver maps it to a folder below `snapshots/<driver>/`. A layer is prepared (an empty
//! folder to unpack into, or a file to write an image to), committed under its chain id, and from then on never changed. A container snapshot is a
//! writable top over layers. What is to be mounted is a [`Rootfs`], which nothing has mounted yet.
//!
//! Three drivers keep the same contract (`conformance`): [`Erofs`], [`Overlay`] and [`struct@Copy`]. [`Snapshots`] is all of
//! them.
#![forbid(unsafe_code)]

#[cfg(test)]
mod conformance;
mod copy;
mod drivers;
mod erofs;
mod folders;
mod layer_mounts;
mod overlay;
mod rootfs;
#[cfg(test)]
mod tests;
mod unused;

use std::fmt;
use std::io;
use std::path::PathBuf;

use hull_kernel::mounts::MountError;
use hull_kernel::tree::TreeError;
use hull_store::{LeaseError, StoreError};
use serde::{Deserialize, Serialize};

pub use copy::Copy;
pub use drivers::{Driver, Snapshots, WantedDriver};
pub use erofs::Erofs;
pub use overlay::Overlay;
pub use rootfs::Rootfs;
pub use unused::forget_unused;

/// Name of a snapshot: 32 hexadecimal digits, random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new() -> io::Result<SnapshotId> {
        let mut random = [0_u8; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok(SnapshotId(random.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Reads one back from where it was stored; `None` when it is not one.
    pub fn parse(text: &str) -> Option<SnapshotId> {
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
        is_id.then(|| SnapshotId(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A snapshot operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or folder.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Make, read, write, remove, sync.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This process' lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// No random bytes for an id.
    #[error("cannot read random bytes")]
    Random(#[source] io::Error),
    /// There is no such snapshot.
    #[error("snapshot {0} does not exist")]
    Missing(SnapshotId),
    /// A file of the snapshot says something that is not understood.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A layer cannot be copied to where it is needed.
    #[error("cannot copy {} to {}", from.display(), to.display())]
    Copy {
        /// The layer's files.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
        /// What could not be copied.
        #[source]
        source: TreeError,
    },
    /// The driver that was asked for does not work here.
    #[error("the storage driver {driver} does not work with {}", path.display())]
    Unusable {
        /// The driver.
        driver: Driver,
        /// Its folder.
        path: PathBuf,
        /// What the kernel refused.
        #[source]
        source: Box<SnapshotError>,
    },
    /// Nobody can say which driver is wanted.
    #[error("cannot choose a storage driver")]
    Choice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<rusqlite::Error> for SnapshotError {
    fn from(error: rusqlite::Error) -> SnapshotError {
        SnapshotError::Store(StoreError::from(error))
    }
}

/// A layer being made: leased, invisible to everyone else, gone with its process unless it is committed.
#[derive(Debug)]
pub struct Prepared {
    /// Its id.
    pub id: SnapshotId,
    /// Where its files go.
    pub space: Space,
}

/// Where a layer's files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Space {
    /// An empty folder to unpack into, with overlay's marks for what is deleted.
    Folder(PathBuf),
    /// An empty folder to unpack into, where files mark what is deleted ([`hull_kernel::tree::merge_layer`]).
    Plain(PathBuf),
    /// A file that is not there yet and becomes an EROFS image.
    Image(PathBuf),
}

/// A prepared layer that is whole.
#[derive(Debug)]
pub struct Finished {
    /// What was prepared.
    pub prepared: Prepared,
    /// The name under which it will be found: the chain id of the OCI image specification, or another unique text.
    pub chain_id: String,
    /// Digest of the layer's uncompressed tar.
    pub diff_id: String,
    /// What its files take on disk, in bytes.
    pub size_bytes: u64,
}

/// What a snapshot uses itself, without what is below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The files of a container's top as they lie on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Top {
    /// Only what differs from the layers, with overlay's marks: a character device 0:0 for what was deleted,
    /// `trusted.overlay.opaque` on a folder that hides what lower layers have in it.
    Difference(PathBuf),
    /// Everything, to be compared with the layers.
    Whole(PathBuf),
}

/// What there is to find out what a container changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Its own files.
    pub top: Top,
    /// What it was made over, to be mounted read-only; `None` when that is nothing.
    pub below: Option<Rootfs>,
}

/// A way of keeping layers.
pub trait Snapshotter {
    /// Name of the driver in the database and below `snapshots/`.
    fn driver(&self) -> &'static str;

    /// Makes room for a layer, leased to this process.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn prepare(&self) -> Result<Prepared, SnapshotError>;

    /// Removes a prepared layer that will not be finished.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn abandon(&self, prepared: Prepared) -> Result<(), SnapshotError>;

    /// Makes layers permanent: when it returns they survive a power cut. A chain id that another process committed in
    /// the meantime keeps that snapshot, and ours is removed.
    ///
    /// Returns the snapshot of each chain id, in the order given.
    ///
    /// # Errors
    /// See [`SnapshotError`]; what was prepared is then left to be abandoned or swept.
    fn commit(&self, layers: Vec<Finished>) -> Result<Vec<SnapshotId>, SnapshotError>;

    /// The snapshot of a chain id.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn layer(&self, chain_id: &str) -> Result<Option<SnapshotId>, SnapshotError>;

    /// Makes a writable top over `parents`, lowest first.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn container(&self, parents: &[SnapshotId]) -> Result<SnapshotId, SnapshotError>;

    /// What to mount for a container snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`].
    fn rootfs(&self, id: &SnapshotId) -> Result<Rootfs, SnapshotError>;

    /// What to mount to read layers, lowest first, without a top.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn view(&self, parents: &[SnapshotId]) -> Result<Rootfs, SnapshotError>;

    /// Where to look for what a container snapshot changed. Files belong there to whom the kernel stored them: with a
    /// user namespace, to the host's ids of the namespace's users.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`].
    fn changes(&self, id: &SnapshotId) -> Result<Changes, SnapshotError>;

    /// What a snapshot uses.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn usage(&self, id: &SnapshotId) -> Result<Usage, SnapshotError>;

    /// Removes a snapshot, layer or container; one that is not there is fine. The caller knows that nothing needs it.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn remove(&self, id: &SnapshotId) -> Result<(), SnapshotError>;

    /// Removes what dead processes left: folders without a row and rows with a dead lease. Returns how many.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    fn sweep(&self) -> Result<usize, SnapshotError>;
}
