//! Images into archives and out of them.
//!
//! `save` writes what is in the content store, whatever the snapshots are; `load` unpacks what it takes in, as a pull
//! does. The images of one archive are made present one after the other: those before a failure are kept.

use std::io::Read;
use std::path::Path;

use hull_image::archive::{self, ArchiveFormat, LoadOptions, SaveTarget};
use hull_image::{Image, Progress};
use hull_oci::Platform;

use crate::engine::Engine;
use crate::error::EngineError;

/// Where an archive is.
pub enum LoadSource<'s> {
    /// A file or pipe, compressed or not.
    Stream(&'s mut dyn Read),
    /// An OCI layout, or a folder of the `dir:` transport.
    Folder(&'s Path),
}

impl Engine {
    /// Takes the images of an archive in.
    ///
    /// # Errors
    /// What is wrong with the archive; the images before it are kept.
    pub fn load(
        &self,
        source: LoadSource<'_>,
        platform: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, EngineError> {
        let platform = platform.map(Platform::parse).transpose()?;
        let archive_bytes_max = Some(self.configuration()?.limits.archive_bytes);
        let options = LoadOptions { platform, archive_bytes_max };
        let images = self.image_store();
        let arrived = match source {
            LoadSource::Stream(input) => archive::load(&images, input, &options, progress)?,
            LoadSource::Folder(folder) => archive::load_folder(&images, folder, &options, progress)?,
        };
        let admitted = arrived.iter().map(|image| self.admit(&images, image, progress)).collect::<Result<_, _>>()?;
        self.relieve_by_itself();
        Ok(admitted)
    }

    /// Writes images as an archive; see [`archive::save`].
    ///
    /// # Errors
    /// No such image, the wrong platform, a damaged blob, or what the output says.
    pub fn save(
        &self,
        names: &[String],
        platform: Option<&str>,
        format: ArchiveFormat,
        target: SaveTarget<'_>,
        progress: &dyn Progress,
    ) -> Result<(), EngineError> {
        let platform = platform.map(Platform::parse).transpose()?;
        let images = self.image_store();
        let chosen = archive::choose(&images, names, platform.as_ref())?;
        Ok(archive::save(&images, &chosen, format, target, progress)?)
    }
}
