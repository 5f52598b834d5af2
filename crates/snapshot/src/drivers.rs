//! All drivers of a store together: what is new is made by one of them, what is there is found with whoever made it.
//!
//! Which one makes what is new is settled when that is first needed. What the configuration names is taken or refused.
//! Otherwise it is the first of [`Driver::ALL`] that works here, which is tried out: an image is mounted, an overlay is
//! made over it. What has worked is written down for the time until the next boot (`<root>/drivers`), and for a layer that
//! is there in that first one already nothing is asked at all, so that a container of an image that has been used before
//! starts without it. A container stays with the driver that made it.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use hull_kernel::erofs::ImageWriter;
use hull_kernel::mounts::image::{has_images, try_below_overlay};
use hull_kernel::mounts::overlay::{OverlayMount, overlay};
use hull_store::{Lease, Roots, Store};

use crate::folders::{Folders, TRYING, file_error, make_folder, remove_folder};
use crate::{Changes, Copy, Erofs, Finished, Overlay, Prepared, Rootfs, SnapshotError, SnapshotId, Snapshotter, Usage};

/// A way of keeping layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Driver {
    /// Each layer an EROFS image.
    Erofs,
    /// Each layer a folder.
    Overlay,
    /// Each container a copy of its layers.
    Copy,
}

impl Driver {
    /// All, the best first.
    pub const ALL: [Driver; 3] = [Driver::Erofs, Driver::Overlay, Driver::Copy];

    /// Its name in the database, below `snapshots/`, and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Erofs => "erofs",
            Driver::Overlay => "overlay",
            Driver::Copy => "copy",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Name of the file that says which drivers have worked.
const WORKING: &str = "drivers";

/// Held while drivers are tried out.
static CHOOSING: Mutex<()> = Mutex::new(());

/// Says which driver is wanted, when that is first asked.
pub type WantedDriver<'a> =
    Box<dyn Fn() -> Result<Option<Driver>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'a>;

/// The drivers of a store.
pub struct Snapshots<'a> {
    erofs: Erofs<'a>,
    overlay: Overlay<'a>,
    copy: Copy<'a>,
    wanted: WantedDriver<'a>,
    chosen: OnceLock<Driver>,
    /// Drivers that have worked, one a line, each with its boot.
    working: PathBuf,
}

impl fmt::Debug for Snapshots<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("chosen", &self.chosen.get()).finish_non_exhaustive()
    }
}

impl<'a> Snapshots<'a> {
    /// The drivers of a store, of which one may be wanted.
    pub fn new(store: &'a Store, roots: &Roots, wanted: WantedDriver<'a>) -> Snapshots<'a> {
        Snapshots {
            erofs: Erofs::new(store, roots),
            overlay: Overlay::new(store, roots),
            copy: Copy::new(store, roots),
            wanted,
            chosen: OnceLock::new(),
            working: roots.root.join(WORKING),
        }
    }

    /// The driver that makes what is new.
    ///
    /// # Errors
    /// [`SnapshotError::Unusable`] for one that is wanted and does not work here.
    pub fn current(&self) -> Result<Driver, SnapshotError> {
        if let Some(chosen) = self.chosen.get() {
            return Ok(*chosen);
        }
        // Threads of this process would try in the same folder.
        let _alone = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chosen) = self.chosen.get() {
            return Ok(*chosen);
        }
        let chosen = match self.wanted()? {
            Some(wanted) => self.try_out(wanted).map(|()| wanted).map_err(|source| {
                let path = self.folders(wanted).root().to_path_buf();
                SnapshotError::Unusable { driver: wanted, path, source: Box::new(source) }
            })?,
            None => {
                let works = |driver: &Driver| self.try_out(*driver).is_ok();
                Driver::ALL.into_iter().find(works).unwrap_or(Driver::Copy)
            }
        };
        Ok(*self.chosen.get_or_init(|| chosen))
    }

    /// The snapshots of a chain id, of every driver.
    ///
    /// # Errors
    /// The database's.
    pub fn layers(&self, chain_id: &str) -> Result<Vec<SnapshotId>, SnapshotError> {
        let found = Driver::ALL.into_iter().map(|driver| self.folders(driver).layer(chain_id));
        found.filter_map(Result::transpose).collect()
    }

    /// The layers below a container's snapshot, lowest first.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`].
    pub fn parents(&self, id: &SnapshotId) -> Result<Vec<SnapshotId>, SnapshotError> {
        let driver = self.maker(id).ok_or_else(|| SnapshotError::Missing(id.clone()))?;
        self.folders(driver).parents(id)
    }

    /// Takes the mounts of layers away that are not among those `used`; says how many there were.
    ///
    /// # Errors
    /// umount2(2)'s.
    pub fn release_mounts(&self, used: &std::collections::HashSet<SnapshotId>) -> Result<usize, SnapshotError> {
        Ok(self.erofs.mounts().release(used)?)
    }

    fn wanted(&self) -> Result<Option<Driver>, SnapshotError> {
        (self.wanted)().map_err(SnapshotError::Choice)
    }

    fn folders(&self, driver: Driver) -> &Folders<'a> {
        match driver {
            Driver::Erofs => self.erofs.folders(),
            Driver::Overlay => self.overlay.folders(),
            Driver::Copy => self.copy.folders(),
        }
    }

    fn of(&self, driver: Driver) -> &(dyn Snapshotter + 'a) {
        match driver {
            Driver::Erofs => &self.erofs,
            Driver::Overlay => &self.overlay,
            Driver::Copy => &self.copy,
        }
    }

    /// Who made a snapshot: whoever has a folder of that name.
    fn maker(&self, id: &SnapshotId) -> Option<Driver> {
        Driver::ALL.into_iter().find(|driver| self.folders(*driver).folder(id).exists())
    }

    /// The maker of a snapshot that has to be there.
    fn made(&self, id: &SnapshotId) -> Result<&(dyn Snapshotter + 'a), SnapshotError> {
        self.maker(id).map(|driver| self.of(driver)).ok_or_else(|| SnapshotError::Missing(id.clone()))
    }

    /// Whether a driver works on this kernel and this file system.
    fn try_out(&self, driver: Driver) -> Result<(), SnapshotError> {
        if driver == Driver::Copy {
            return Ok(());
        }
        if driver == Driver::Erofs && !has_images() {
            let errno = rustix::io::Errno::NODEV;
            return Err(hull_kernel::mounts::MountError::new("fsopen", "erofs", errno).into());
        }
        let lease = Lease::current()?;
        let line = format!("{driver} {}\n", lease.boot_id);
        let known = fs::read_to_string(&self.working).unwrap_or_default();
        if known.split_inclusive('\n').any(|known| known == line) {
            return Ok(());
        }
        let place = self.folders(driver).root().join(format!("{TRYING}{lease}"));
        let tried = try_in(driver, &place);
        remove_folder(&place)?;
        tried?;
        let same_boot = known.split_inclusive('\n').filter(|known| known.ends_with(&format!(" {}\n", lease.boot_id)));
        let all: String = same_boot.chain([line.as_str()]).collect();
        // What cannot be written down, on a full disk for example, or what another process overwrites, is found out again.
        let _ = fs::write(&self.working, all);
        Ok(())
    }
}

/// Makes what a container of a driver needs, in a folder of its own.
fn try_in(driver: Driver, place: &Path) -> Result<(), SnapshotError> {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| place.join(name));
    for folder in [&lower, &upper, &work] {
        make_folder(folder, 0o700)?;
    }
    if driver == Driver::Overlay {
        let stack = OverlayMount { lowers: vec![lower], upper: Some((upper, work)), volatile: true };
        return Ok(overlay(&stack).map(drop)?);
    }
    let image = place.join("image");
    let written = File::options().read(true).write(true).create_new(true).open(&image);
    let written = written.and_then(ImageWriter::new).and_then(ImageWriter::finish);
    written.map_err(file_error("write", &image))?;
    Ok(try_below_overlay(&image, &lower, &upper, &work)?)
}

impl Snapshotter for Snapshots<'_> {
    fn driver(&self) -> &'static str {
        self.chosen.get().copied().unwrap_or(Driver::ALL[0]).name()
    }

    fn prepare(&self) -> Result<Prepared, SnapshotError> {
        self.of(self.current()?).prepare()
    }

    fn abandon(&self, prepared: Prepared) -> Result<(), SnapshotError> {
        match self.maker(&prepared.id) {
            Some(driver) => self.of(driver).abandon(prepared),
            None => self.remove(&prepared.id),
        }
    }

    fn commit(&self, layers: Vec<Finished>) -> Result<Vec<SnapshotId>, SnapshotError> {
        match layers.first().map(|layer| self.made(&layer.prepared.id)) {
            Some(driver) => driver?.commit(layers),
            None => Ok(Vec::new()),
        }
    }

    fn layer(&self, chain_id: &str) -> Result<Option<SnapshotId>, SnapshotError> {
        let likely = match self.chosen.get() {
            Some(chosen) => *chosen,
            None => self.wanted()?.unwrap_or(Driver::ALL[0]),
        };
        match self.folders(likely).layer(chain_id)? {
            None if self.current()? != likely => self.folders(self.current()?).layer(chain_id),
            found => Ok(found),
        }
    }

    fn container(&self, parents: &[SnapshotId]) -> Result<SnapshotId, SnapshotError> {
        match parents.last() {
            Some(top) => self.made(top)?.container(parents),
            // What has no layers of its own is put over folders that others keep.
            None => self.overlay.container(parents),
        }
    }

    fn rootfs(&self, id: &SnapshotId) -> Result<Rootfs, SnapshotError> {
        self.made(id)?.rootfs(id)
    }

    fn view(&self, parents: &[SnapshotId]) -> Result<Rootfs, SnapshotError> {
        match parents.last() {
            Some(top) => self.made(top)?.view(parents),
            None => self.overlay.view(parents),
        }
    }

    fn changes(&self, id: &SnapshotId) -> Result<Changes, SnapshotError> {
        self.made(id)?.changes(id)
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage, SnapshotError> {
        self.made(id)?.usage(id)
    }

    fn remove(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        match self.maker(id) {
            Some(driver) => self.of(driver).remove(id),
            // Only a row is left, or nothing.
            None => Driver::ALL.into_iter().try_for_each(|driver| self.folders(driver).forget(id)),
        }
    }

    fn sweep(&self) -> Result<usize, SnapshotError> {
        let mut swept = 0;
        for driver in Driver::ALL {
            swept += self.of(driver).sweep()?;
        }
        Ok(swept)
    }
}
