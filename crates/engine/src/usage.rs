//! `hull system df`: what images, containers and volumes take on disk.
//!
//! An image takes its unpacked layers, asked of the driver that keeps them, and its blobs. Each layer and blob is counted
//! once in the total; in one image it counts as shared when another image has it too. What can be reclaimed of images is
//! everything that no image with a container needs. A container takes its own layer, its log and its records; a volume
//! its folder. Downloads that were cut off, which the next pull goes on with, are told by themselves.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hull_image::Image;
use hull_snapshot::{SnapshotError, SnapshotId, Snapshotter};
use hull_store::StoreError;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::list::{ContainerSummary, ListQuery};
use crate::named_volumes::VolumeSummary;

/// What everything takes, in bytes.
#[derive(Debug)]
pub struct DiskUsage {
    /// Images, newest first.
    pub images: Vec<ImageUsage>,
    /// Each layer and blob of images once.
    pub images_bytes: u64,
    /// Of that, what no image with a container needs.
    pub images_reclaimable_bytes: u64,
    /// Containers and what each takes.
    pub containers: Vec<(ContainerSummary, u64)>,
    /// Volumes and what each takes.
    pub volumes: Vec<(VolumeSummary, u64)>,
    /// Number of files of downloads that were cut off, or are going on.
    pub downloads: usize,
    /// What they take.
    pub downloads_bytes: u64,
}

/// What one image takes.
#[derive(Debug)]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// Its layers and blobs, in bytes.
    pub size_bytes: u64,
    /// Of that, what other images have too.
    pub shared_bytes: u64,
    /// Containers of it.
    pub containers: usize,
}

impl Engine {
    /// Measures everything.
    ///
    /// # Errors
    /// What the database or a folder says.
    pub fn disk_usage(&self) -> Result<DiskUsage, EngineError> {
        let containers = self.list(&ListQuery { all: true, ..ListQuery::default() })?;
        let images = self.images()?;
        let mut sizes = BTreeMap::new();
        let mut parts = Vec::new();
        for image in &images {
            parts.push(self.parts_of(image, &mut sizes)?);
        }
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        for part in parts.iter().flatten() {
            *users.entry(part).or_default() += 1;
        }
        let count = |image: &Image| containers.iter().filter(|c| c.image_id.as_ref() == Some(&image.id)).count();
        let size = |part: &String| sizes[part.as_str()];
        let needed: HashSet<&String> =
            images.iter().zip(&parts).filter(|(image, _)| count(image) > 0).flat_map(|(_, parts)| parts).collect();
        let images_bytes: u64 = sizes.values().sum();
        let needed_bytes: u64 = needed.into_iter().map(size).sum();
        let measured = images.iter().zip(&parts).map(|(image, parts)| ImageUsage {
            image: image.clone(),
            size_bytes: parts.iter().map(size).sum(),
            shared_bytes: parts.iter().filter(|part| users[part.as_str()] > 1).map(size).sum(),
            containers: count(image),
        });
        let (downloads, downloads_bytes) = files_in(&self.roots().content().join("tmp"));
        Ok(DiskUsage {
            images: measured.collect(),
            images_bytes,
            images_reclaimable_bytes: images_bytes - needed_bytes,
            containers: self.containers_usage(containers)?,
            volumes: self.volumes_usage()?,
            downloads,
            downloads_bytes,
        })
    }

    /// The layers and blobs of an image, each measured when it is met first.
    fn parts_of(&self, image: &Image, sizes: &mut BTreeMap<String, u64>) -> Result<Vec<String>, EngineError> {
        let snapshots = self.snapshots();
        let mut parts: HashSet<String> = HashSet::new();
        for layer in &image.layers {
            let key = format!("layer {}", layer.chain_id);
            if !sizes.contains_key(&key) {
                let ids = snapshots.layers(layer.chain_id.as_str())?;
                let bytes = ids.iter().map(|id| self.snapshot_bytes(id)).sum::<Result<u64, EngineError>>()?;
                sizes.insert(key.clone(), bytes);
            }
            parts.insert(key);
        }
        let query = "SELECT digest, size_bytes FROM blobs JOIN image_blobs USING (digest) WHERE image_id = ?1";
        let blobs = self.store().read(|db| {
            let mut statement = db.prepare_cached(query)?;
            let rows = statement.query_map([image.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok::<Vec<(String, i64)>, StoreError>(rows.collect::<Result<_, _>>()?)
        })?;
        for (digest, bytes) in blobs {
            sizes.insert(digest.clone(), bytes.cast_unsigned());
            parts.insert(digest);
        }
        Ok(parts.into_iter().collect())
    }

    /// What a snapshot takes; nothing when it is removed meanwhile.
    pub(crate) fn snapshot_bytes(&self, id: &SnapshotId) -> Result<u64, EngineError> {
        match self.snapshots().usage(id) {
            Ok(usage) => Ok(usage.bytes),
            Err(SnapshotError::Missing(_)) => Ok(0),
            Err(SnapshotError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn containers_usage(&self, all: Vec<ContainerSummary>) -> Result<Vec<(ContainerSummary, u64)>, EngineError> {
        let measure = |container: ContainerSummary| {
            let (written, _) = self.sizes(&container.id, None)?;
            let (_, kept) = files_in(&self.roots().container(container.id.as_str()));
            Ok((container, written + kept))
        };
        all.into_iter().map(measure).collect()
    }

    fn volumes_usage(&self) -> Result<Vec<(VolumeSummary, u64)>, EngineError> {
        let volumes = self.volumes()?;
        Ok(volumes
            .into_iter()
            .map(|volume| {
                let (_, bytes) = files_in(&volume.mountpoint);
                (volume, bytes)
            })
            .collect())
    }
}

/// Number and disk blocks of all that is in a folder, in bytes; what goes away meanwhile counts for nothing.
pub(crate) fn files_in(folder: &Path) -> (usize, u64) {
    let mut seen = HashSet::new();
    add_files(folder, &mut seen)
}

fn add_files(folder: &Path, seen: &mut HashSet<(u64, u64)>) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let (inner_count, inner_bytes) = add_files(&entry.path(), seen);
            count += inner_count;
            bytes += inner_bytes;
        } else if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        count += 1;
        bytes += metadata.blocks() * 512;
    }
    (count, bytes)
}
