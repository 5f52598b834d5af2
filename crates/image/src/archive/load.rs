//! `load`: a docker-archive or an oci-archive, told apart by what is in it.
//!
//! With a manifest.json it is a docker-archive, also when there is an OCI layout beside it, as docker 25 and later
//! writes; else with an index.json it is an oci-archive. Either may hold several images.

use std::io::Read;
use std::sync::Arc;

use hull_oci::Platform;
use hull_oci::image::ImageConfiguration;

use super::spool::Spool;
use super::{ArchiveError, docker, oci};
use crate::compression::decompress;
use crate::image::platform_of;
use crate::{Holds, ImageStore, LayerDescriptor, LayerEvent, NewImage, Progress};

/// Reads an archive and gives its images, in order, blobs stored and held, to be unpacked and added.
///
/// # Errors
/// [`ArchiveError`]; nothing of the archive is left then.
pub fn load<'a>(
    images: &'a ImageStore<'a>,
    input: impl Read,
    progress: &dyn Progress,
) -> Result<Vec<NewImage<'a>>, ArchiveError> {
    let holds = Arc::new(Holds::new(images)?);
    let spool = Spool::read(decompress(input)?, &holds)?;
    let loaded = if spool.find(docker::MANIFEST).is_some() {
        docker::images(&spool, &holds)?
    } else if spool.find(oci::INDEX).is_some() {
        oci::images(&spool, &holds)?
    } else if spool.looks_legacy() {
        return Err(ArchiveError::Legacy);
    } else {
        return Err(ArchiveError::NoImage);
    };
    for image in &loaded {
        report(image, progress);
    }
    Ok(loaded)
}

fn report(image: &NewImage<'_>, progress: &dyn Progress) {
    warn_about_platform(&image.configuration, progress);
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
