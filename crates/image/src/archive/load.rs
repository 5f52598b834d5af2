//! `load`: a docker-archive or an oci-archive, told apart by what is in it.
//!
//! With a manifest.json it is a docker-archive, also when there is an OCI layout beside it, as docker 25 and later
//! writes; else with an index.json it is an oci-archive. Either may hold several images. A folder is an OCI layout, or
//! one image as containers-image's `dir:` transport keeps it.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use hull_oci::Platform;
use hull_oci::image::ImageConfiguration;

use super::folder::{FolderKind, LayoutFolder};
use super::spool::Spool;
use super::{ArchiveError, docker, oci};
use crate::compression::decompress;
use crate::image::platform_of;
use crate::{Holds, ImageStore, LayerDescriptor, LayerEvent, NewImage, Progress};

/// Which of an archive's images are wanted.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Only those for this platform; where an image has several, the machine's own when absent.
    pub platform: Option<Platform>,
    /// Most bytes that an archive may have uncompressed; `None` for no limit but the disk's.
    pub archive_bytes_max: Option<u64>,
}

/// Reads an archive and gives its images, in order, blobs stored and held, to be unpacked and added.
///
/// # Errors
/// [`ArchiveError`]; nothing of the archive is left then.
pub fn load<'a>(
    images: &'a ImageStore<'a>,
    input: impl Read,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<Vec<NewImage<'a>>, ArchiveError> {
    let holds = Arc::new(Holds::new(images)?);
    let spool = Spool::read(decompress(input)?, &holds, options.archive_bytes_max, progress)?;
    let wanted = options.platform.clone().unwrap_or_else(Platform::host);
    let loaded = if spool.find(docker::MANIFEST).is_some() {
        docker::images(&spool, &holds)?
    } else if spool.find(oci::INDEX).is_some() {
        oci::images(&spool, &holds, &wanted)?
    } else if spool.looks_legacy() {
        return Err(ArchiveError::Legacy);
    } else {
        return Err(ArchiveError::NoImage);
    };
    chosen(loaded, options, progress)
}

/// The same for a folder: an OCI layout, or what skopeo's `dir:` and podman's `docker-dir` write. Of other folders
/// nothing is read.
///
/// # Errors
/// [`ArchiveError`]; nothing of the folder is in the store then.
pub fn load_folder<'a>(
    images: &'a ImageStore<'a>,
    folder: &Path,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<Vec<NewImage<'a>>, ArchiveError> {
    let folder = LayoutFolder::open(folder)?;
    let holds = Arc::new(Holds::new(images)?);
    let spool = Spool::read_folder(&folder, &holds, options.archive_bytes_max, progress)?;
    let wanted = options.platform.clone().unwrap_or_else(Platform::host);
    let loaded = match folder.kind() {
        FolderKind::Layout => oci::images(&spool, &holds, &wanted)?,
        FolderKind::Directory => vec![oci::nameless(&spool, &holds)?],
    };
    chosen(loaded, options, progress)
}

/// The images that are wanted, of which the user is told.
fn chosen<'a>(
    mut loaded: Vec<NewImage<'a>>,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<Vec<NewImage<'a>>, ArchiveError> {
    if let Some(wanted) = &options.platform {
        let offered: Vec<String> = loaded.iter().map(|image| platform_of(&image.configuration).to_string()).collect();
        loaded.retain(|image| wanted.matches(&platform_of(&image.configuration)));
        if loaded.is_empty() {
            return Err(ArchiveError::Platform { wanted: wanted.clone(), offered });
        }
    }
    for image in &loaded {
        image.check_names()?;
        report(image, options, progress);
    }
    Ok(loaded)
}

fn report(image: &NewImage<'_>, options: &LoadOptions, progress: &dyn Progress) {
    // Whoever asks for another machine's image knows.
    if options.platform.is_none() {
        warn_about_platform(&image.configuration, progress);
    }
    for layer in &image.layers {
        progress.layer(&layer.digest, LayerEvent::Downloaded);
    }
}

fn warn_about_platform(configuration: &ImageConfiguration, progress: &dyn Progress) {
    let (offered, host) = (platform_of(configuration), Platform::host());
    if !crate::manifest::runs(&host, &offered) {
        progress.warning(&format!("The image's platform ({offered}) does not match this machine's ({host})"));
    }
}

/// The layers that an image is going to have: those it has already, where it is in the store, else the archive's.
pub(super) fn existing_or(
    holds: &Holds<'_>,
    id: &hull_oci::Digest,
    archived: Vec<LayerDescriptor>,
) -> Result<Vec<LayerDescriptor>, ArchiveError> {
    if let Some(existing) = holds.existing_layers(id)? {
        return Ok(existing);
    }
    holds.hold_layers(&archived)?;
    Ok(archived)
}
