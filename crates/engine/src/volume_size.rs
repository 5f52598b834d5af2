//! Volumes that may hold so many bytes and no more, where the file system enforces project quotas (ext4, XFS, f2fs).
//!
//! A volume with a size is a project of its own: its `_data` belongs to it, and everything that is made in there. Which
//! number it has is in the database, so that no other volume gets it, and in the folder, so that whoever removes the
//! folder knows which limit goes with it. Numbers of projects are the whole file system's: Hull takes them from a high
//! range, apart for each instance, and passes over those that have files or a limit already.
//!
//! Order: row and number; folder, project, limit; sync. Backwards: folder, limit, row. A limit is a fact of the file
//! system and survives a boot.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use hull_store::{Roots, StoreError};
use hull_sys::quota;
use rusqlite::{Transaction, params};

use crate::volumes::{VolumeError, data_path};

/// Where Hull's projects begin, and how many an instance has.
const FIRST_PROJECT: u32 = 1 << 30;
const PROJECTS: u32 = 1 << 16;

/// Refuses a size where nobody would hold a volume to it.
pub(crate) fn check(roots: &Roots) -> Result<(), VolumeError> {
    let path = roots.volumes();
    match File::open(&path).and_then(|folder| quota::is_enforced(folder.as_fd())) {
        Ok(true) => Ok(()),
        Ok(false) => Err(VolumeError::NoQuota { path }),
        Err(source) => Err(VolumeError::Folder { action: "look for quotas of", path, source }),
    }
}

/// The first project of an instance.
fn first_project(instance: &str) -> u32 {
    let hash = instance.rsplit('-').next().and_then(|hex| u32::from_str_radix(hex, 16).ok());
    FIRST_PROJECT + (hash.unwrap_or(0) % (FIRST_PROJECT / PROJECTS)) * PROJECTS
}

/// Takes a number for a volume.
pub(crate) fn claim(tx: &Transaction<'_>, roots: &Roots, volume: &str) -> Result<Option<u32>, StoreError> {
    let first = first_project(&roots.instance());
    let Ok(folder) = File::open(roots.volumes()) else { return Ok(None) };
    let mut is_taken = tx.prepare_cached("SELECT 1 FROM volume_projects WHERE project = ?1")?;
    for project in first..first + PROJECTS {
        let usage = quota::usage(folder.as_fd(), project);
        let is_free = usage.is_ok_and(|usage| usage.used_files == 0 && usage.limit_bytes == 0);
        if is_free && !is_taken.exists([project])? {
            tx.execute("INSERT INTO volume_projects VALUES (?1, ?2)", params![volume, project])?;
            return Ok(Some(project));
        }
    }
    Ok(None)
}

/// Holds a new volume to its size.
pub(crate) fn limit(roots: &Roots, volume: &str, project: u32, bytes: u64) -> Result<(), VolumeError> {
    let path = data_path(roots, volume);
    let limited = File::open(&path).and_then(|folder| {
        quota::give(folder.as_fd(), project)?;
        quota::limit(folder.as_fd(), project, bytes)
    });
    limited.map_err(|source| VolumeError::Folder { action: "limit the size of", path, source })
}

/// The project of a volume's folder, when it is one that Hull made.
pub(crate) fn project_of(data: &Path) -> Option<u32> {
    let project = quota::project(File::open(data).ok()?.as_fd()).ok()?;
    // A folder above may belong to a project of the administrator's, and all volumes with it.
    (project >= FIRST_PROJECT).then_some(project)
}

/// Takes the limit of a volume that is gone away.
pub(crate) fn release(roots: &Roots, project: u32) -> io::Result<()> {
    quota::limit(File::open(roots.volumes())?.as_fd(), project, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_have_ranges_of_their_own() {
        assert_eq!(first_project("hull"), FIRST_PROJECT);
        let (one, other) = (first_project("hull-665dbeb2"), first_project("hull-665dbeb3"));
        assert!(one.abs_diff(other) == PROJECTS && one > FIRST_PROJECT && other < 1 << 31);
        assert!(first_project("hull-ffffffff").checked_add(PROJECTS).is_some());
    }
}
