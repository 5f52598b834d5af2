//! oci-archive: an OCI image layout in a tar (image-spec, image-layout.md).
//!
//! `index.json` lists manifests or further indexes by digest; everything else is under `blobs/`. An entry's name is in
//! its annotations: `io.containerd.image.name` in full, else `org.opencontainers.image.ref.name`, which is a name only
//! when it has more than a tag. Entries with the same name are one image for several platforms, of which the machine's
//! own is taken.

use std::sync::Arc;

use hull_oci::image as media;
use hull_oci::{Platform, Reference};
use serde::Deserialize;

use super::ArchiveError;
use super::docker;
use super::load::existing_or;
use super::spool::{Spool, blob_name};
use crate::image::parse_configuration;
use crate::manifest::{Descriptor, Document, INDEX_DEPTH_MAX, Manifest, select};
use crate::{Holds, ManifestError, NewImage, StoredBlob};

/// The list of images.
pub(super) const INDEX: &str = "index.json";
/// The layout's version.
pub(super) const LAYOUT: &str = "oci-layout";
/// The one version of the layout that there is.
pub(super) const LAYOUT_VERSION: &str = "1.0.0";
pub(super) const NAME_IN_FULL: &str = "io.containerd.image.name";
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";

/// The images of an oci-archive.
pub(super) fn images<'a>(
    spool: &Spool<'_, 'a>,
    holds: &Arc<Holds<'a>>,
    wanted: &Platform,
) -> Result<Vec<NewImage<'a>>, ArchiveError> {
    check_layout(spool)?;
    let bytes = spool.document(INDEX, spool.named(INDEX, INDEX)?)?;
    let document = Document::parse(&bytes, None).map_err(|source| ArchiveError::document(INDEX, source))?;
    let Document::Index(entries) = document else {
        return Err(ArchiveError::invalid(INDEX, "index", "it is a manifest"));
    };
    let mut groups: Vec<(Option<Reference>, Vec<Descriptor>)> = Vec::new();
    for entry in entries {
        let name = name_of(&entry)?;
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, members)) => members.push(entry),
            None => groups.push((name, vec![entry])),
        }
    }
    if groups.is_empty() {
        return Err(ArchiveError::invalid(INDEX, "index", "it lists no image"));
    }
    let image = |(name, members): (Option<Reference>, Vec<Descriptor>)| {
        let (path, manifest) = follow(&members, spool, wanted)?;
        self::image(name, &path, &manifest, spool, holds)
    };
    groups.into_iter().map(image).collect()
}

fn check_layout(spool: &Spool<'_, '_>) -> Result<(), ArchiveError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let bytes = spool.document(LAYOUT, spool.named(LAYOUT, INDEX)?)?;
    let layout: Layout =
        serde_json::from_slice(&bytes).map_err(|error| ArchiveError::invalid(LAYOUT, "OCI layout", error))?;
    match layout.image_layout_version.as_str() {
        LAYOUT_VERSION => Ok(()),
        other => Err(ArchiveError::invalid(LAYOUT, "OCI layout", format!("version \"{other}\" is not supported"))),
    }
}

fn name_of(entry: &Descriptor) -> Result<Option<Reference>, ArchiveError> {
    let full = entry.annotation(NAME_IN_FULL);
    let name = full.or_else(|| entry.annotation(NAME).filter(|name| name.contains([':', '/'])));
    let invalid = |source| ArchiveError::Reference { entry: INDEX.to_owned(), source };
    name.map(|name| Reference::parse(name).map_err(invalid)).transpose()
}

/// The only image of a `dir:` folder, whose manifest.json is the manifest itself.
pub(super) fn nameless<'a>(spool: &Spool<'_, 'a>, holds: &Arc<Holds<'a>>) -> Result<NewImage<'a>, ArchiveError> {
    let file = spool.named(docker::MANIFEST, docker::MANIFEST)?;
    let bytes = spool.document(docker::MANIFEST, file)?;
    let failed = |source| ArchiveError::document(docker::MANIFEST, source);
    match Document::parse(&bytes, None).map_err(failed)? {
        Document::Manifest(manifest) => {
            let media_type = media_type_of(&manifest);
            let itself = Descriptor::of(media_type, file.digest.clone(), file.size_bytes);
            image(None, &[itself], &manifest, spool, holds)
        }
        Document::Index(_) => {
            Err(ArchiveError::invalid(docker::MANIFEST, "manifest", "it is an index, of which dir: keeps no blobs"))
        }
    }
}

/// The manifests in index.json that are of a configuration, for archives that have docker's list as well.
pub(super) fn manifest_for<'a>(spool: &Spool<'_, 'a>, image: &NewImage<'a>) -> Option<StoredBlob> {
    let bytes = spool.document(INDEX, spool.find(INDEX)?).ok()?;
    let Document::Index(entries) = Document::parse(&bytes, None).ok()? else { return None };
    entries.iter().find_map(|entry| {
        let name = blob(entry, spool).ok()?;
        let bytes = spool.document(&name, spool.find(&name)?).ok()?;
        let Document::Manifest(manifest) = Document::parse(&bytes, Some(&entry.media_type)).ok()? else { return None };
        let blobs = manifest.layers.iter().map(|layer| &layer.digest);
        let is_it = manifest.config.digest == image.id && blobs.eq(image.layers.iter().map(|layer| &layer.digest));
        is_it.then(|| StoredBlob { media_type: media_type_of(&manifest).to_owned(), ..StoredBlob::from(entry) })
    })
}

fn media_type_of(manifest: &Manifest) -> &'static str {
    if manifest.config.media_type == media::DOCKER_CONFIG { media::DOCKER_MANIFEST } else { media::OCI_MANIFEST }
}

fn image<'a>(
    name: Option<Reference>,
    path: &[Descriptor],
    manifest: &Manifest,
    spool: &Spool<'_, 'a>,
    holds: &Arc<Holds<'a>>,
) -> Result<NewImage<'a>, ArchiveError> {
    let config = &manifest.config;
    let entry = blob(config, spool)?;
    let bytes = spool.document(&entry, spool.named(&entry, INDEX)?)?;
    let configuration = parse_configuration(&bytes).map_err(|source| ArchiveError::document(&entry, source))?;
    let layers = manifest.layers(&configuration).map_err(|source| ArchiveError::document(&entry, source))?;
    for descriptor in &manifest.layers {
        blob(descriptor, spool)?;
    }
    let layers = existing_or(holds, &config.digest, layers)?;
    let documents = path.iter().chain([config]).map(StoredBlob::from);
    Ok(NewImage {
        id: config.digest.clone(),
        manifest_digest: path.last().map(|manifest| manifest.digest.clone()),
        pulled_digest: None,
        names: name.into_iter().collect(),
        configuration,
        blobs: documents.chain(layers.iter().map(StoredBlob::from)).collect(),
        layers,
        holds: Arc::clone(holds),
    })
}

/// The descriptors from an entry of index.json to the manifest for a platform, and that manifest.
fn follow(
    members: &[Descriptor],
    spool: &Spool<'_, '_>,
    wanted: &Platform,
) -> Result<(Vec<Descriptor>, Manifest), ArchiveError> {
    let mut path: Vec<Descriptor> = Vec::new();
    let mut entries = members.to_vec();
    for _ in 0..=INDEX_DEPTH_MAX {
        let named_by = path.last().map_or(INDEX.to_owned(), |index| blob_name(&index.digest));
        let chosen = match entries.as_slice() {
            [only] if path.is_empty() => only,
            several => select(several, wanted).map_err(|source| ArchiveError::document(&named_by, source))?,
        };
        let mut chosen = chosen.clone();
        let entry = blob(&chosen, spool)?;
        let bytes = spool.document(&entry, spool.named(&entry, &named_by)?)?;
        let announced = Some(chosen.media_type.as_str()).filter(|text| !text.is_empty());
        let document = Document::parse(&bytes, announced).map_err(|source| ArchiveError::document(&entry, source))?;
        if chosen.media_type.is_empty() {
            let is_index = matches!(document, Document::Index(_));
            chosen.media_type = if is_index { media::OCI_INDEX } else { media::OCI_MANIFEST }.to_owned();
        }
        path.push(chosen);
        match document {
            Document::Manifest(manifest) => return Ok((path, manifest)),
            Document::Index(inner) => entries = inner,
        }
    }
    Err(ArchiveError::document(INDEX, ManifestError::Nesting))
}

/// The name of a descriptor's blob, which must be there and have the digest and the size that are said. A name alone
/// says nothing: a link may lead from it to any other file of the archive.
fn blob(descriptor: &Descriptor, spool: &Spool<'_, '_>) -> Result<String, ArchiveError> {
    let entry = blob_name(&descriptor.digest);
    let found = spool.named(&entry, INDEX)?;
    if found.digest != descriptor.digest {
        return Err(ArchiveError::WrongDigest { entry, found: found.digest.clone() });
    }
    let found_bytes = found.size_bytes;
    match descriptor.size_bytes {
        expected_bytes if expected_bytes == found_bytes => Ok(entry),
        expected_bytes => Err(ArchiveError::WrongSize { entry, expected_bytes, found_bytes }),
    }
}
