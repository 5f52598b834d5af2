//! Making room when the file system of the images is full: what nobody asked for goes, until enough is free.
//!
//! ```text
//! more than high-water used?     else nothing happens; this is one statvfs(2)
//! unfinished downloads           that no living process works on
//! images that nobody asked for   not used for longer than `keep`, the least recently used first, measuring after each
//! no more than low-water used    the end; or nothing is left that may go
//! ```
//!
//! Which images those are says hull_image's unasked.rs: one that a user pulled, loaded, imported, committed or tagged by a
//! command of its own is never among them. One that a container has, or that a living process holds, is not removed
//! either, however full the disk is. The marks and `keep` are in the configuration's `[gc]`.
//!
//! It runs at the end of whatever has brought an image, and in `hull system gc`. A start from an image that is here never
//! asks. Used is what df(1) calls so: blocks that are reserved for root count neither as used nor as free.

use hull_image::{ImageError, Removed};
use hull_oci::Digest;
use jiff::Timestamp;

use crate::configuration::Gc;
use crate::engine::Engine;
use crate::error::EngineError;

/// What went to make room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relief {
    /// Files of unfinished downloads.
    pub downloads: usize,
    /// Images, with their names.
    pub images: Vec<Removed>,
}

/// How full a file system is, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Filling {
    used: u64,
    free: u64,
}

impl Filling {
    fn is_above(self, percent: u8) -> bool {
        let all = u128::from(self.used) + u128::from(self.free);
        u128::from(self.used) * 100 > all * u128::from(percent)
    }
}

/// What making room can measure and remove.
trait Disk {
    fn filling(&self) -> Result<Filling, EngineError>;
    fn remove_downloads(&mut self) -> Result<(), EngineError>;
    /// Images that may go, in the order in which they are to.
    fn candidates(&self) -> Result<Vec<Digest>, EngineError>;
    fn remove_image(&mut self, id: &Digest) -> Result<(), EngineError>;
}

/// Removes what may go until no more than low-water is used, if more than high-water is.
fn make_room(gc: &Gc, disk: &mut impl Disk) -> Result<(), EngineError> {
    if !disk.filling()?.is_above(gc.high_water) {
        return Ok(());
    }
    disk.remove_downloads()?;
    for id in disk.candidates()? {
        if !disk.filling()?.is_above(gc.low_water) {
            break;
        }
        disk.remove_image(&id)?;
    }
    Ok(())
}

/// The file system that an engine's images are on.
struct ImageDisk<'e> {
    engine: &'e Engine,
    unused_since: Timestamp,
    relief: Relief,
}

impl Disk for ImageDisk<'_> {
    fn filling(&self) -> Result<Filling, EngineError> {
        let root = &self.engine.roots().root;
        let found = rustix::fs::statvfs(root).map_err(|errno| EngineError::path("measure", root)(errno.into()))?;
        Ok(Filling { used: found.f_blocks.saturating_sub(found.f_bfree), free: found.f_bavail })
    }

    fn remove_downloads(&mut self) -> Result<(), EngineError> {
        self.relief.downloads = self.engine.image_store().content().sweep_unfinished().map_err(ImageError::from)?;
        Ok(())
    }

    fn candidates(&self) -> Result<Vec<Digest>, EngineError> {
        Ok(self.engine.image_store().unasked(self.unused_since)?)
    }

    fn remove_image(&mut self, id: &Digest) -> Result<(), EngineError> {
        // Absent when somebody has begun to use it since.
        if let Some(removed) = self.engine.image_store().remove_unasked(id, self.unused_since)? {
            self.engine.remove_unused_layers(&removed.unused_layers)?;
            self.relief.images.push(removed);
        }
        Ok(())
    }
}

impl Engine {
    /// Makes room if the file system of the images is too full.
    ///
    /// # Errors
    /// The configuration's, and the first thing that could not be removed.
    pub fn relieve(&self) -> Result<Relief, EngineError> {
        let gc = &self.configuration()?.gc;
        let unused_since = Timestamp::now().saturating_sub(gc.keep).unwrap_or(Timestamp::MIN);
        let mut disk = ImageDisk { engine: self, unused_since, relief: Relief::default() };
        make_room(gc, &mut disk)?;
        Ok(disk.relief)
    }

    /// The same after an image has come, unless the configuration says no. The image is here whatever comes of this.
    pub(crate) fn relieve_by_itself(&self) {
        if self.configuration().is_ok_and(|configuration| !configuration.gc.enabled) {
            return;
        }
        match self.relieve() {
            Ok(relief) if relief == Relief::default() => {}
            Ok(relief) => {
                let images: Vec<_> = relief.images.iter().filter_map(|image| image.deleted.as_ref()).collect();
                tracing::info!(?images, downloads = relief.downloads, "made room on the disk");
            }
            Err(error) => tracing::warn!(%error, "making room on the disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 100 blocks, where each image takes what is written behind its letter.
    struct Model {
        used: u64,
        downloads: u64,
        images: Vec<(char, u64)>,
        removed: String,
    }

    fn id(letter: char) -> Digest {
        Digest::sha256_of(letter.to_string().as_bytes())
    }

    impl Disk for Model {
        fn filling(&self) -> Result<Filling, EngineError> {
            Ok(Filling { used: self.used, free: 100 - self.used })
        }

        fn remove_downloads(&mut self) -> Result<(), EngineError> {
            self.used -= self.downloads;
            self.removed.push('-');
            Ok(())
        }

        fn candidates(&self) -> Result<Vec<Digest>, EngineError> {
            Ok(self.images.iter().map(|(letter, _)| id(*letter)).collect())
        }

        fn remove_image(&mut self, wanted: &Digest) -> Result<(), EngineError> {
            let (letter, blocks) = self.images.iter().find(|(letter, _)| id(*letter) == *wanted).expect("a candidate");
            self.used -= blocks;
            self.removed.push(*letter);
            Ok(())
        }
    }

    #[test]
    fn images_go_in_order_until_enough_is_free() {
        let images = [('a', 4), ('b', 4), ('c', 4)];
        for (used, high_water, low_water, downloads, expected) in [
            (85, 85, 75, 0, ""),
            (86, 85, 75, 0, "-abc"),
            (86, 85, 80, 0, "-ab"),
            (86, 85, 85, 0, "-a"),
            (86, 85, 75, 11, "-"),
            (86, 85, 75, 10, "-a"),
            (99, 85, 75, 0, "-abc"),
            (100, 100, 0, 0, ""),
            (12, 0, 0, 0, "-abc"),
            (0, 0, 0, 0, ""),
        ] {
            let mut disk = Model { used, downloads, images: images.to_vec(), removed: String::new() };
            let gc = Gc { high_water, low_water, ..Gc::default() };
            make_room(&gc, &mut disk).expect("nothing fails here");
            assert_eq!(disk.removed, expected, "{used} used, {high_water} to {low_water}, {downloads} unfinished");
        }
    }

    #[test]
    fn the_largest_disk_is_measured_exactly() {
        let filling = Filling { used: u64::MAX, free: 0 };
        assert!(filling.is_above(99) && !filling.is_above(100));
    }
}
