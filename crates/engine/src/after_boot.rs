//! Containers after a boot: those that a power cut left in part are removed, once for each boot.
//!
//! Creating a container syncs nothing, so that it is quick, and neither does removing a throw-away one. After a power cut
//! the database may know a container whose files never reached the disk, or are gone already. It is swept when
//!
//! - it was to be removed at its end (`--rm`), which the boot was;
//! - its record or its snapshot is missing, which only a lost creation or a lost removal explains;
//! - its record or its snapshot cannot be read, and it has written nothing.
//!
//! One that has written something is kept whatever is wrong with it, and `hull system check` says what. Containers that
//! run have not been through a boot, whatever the database remembers of it. An anonymous volume into which nothing was
//! copied is not synced either; its folder is made again.

use std::io;

use hull_snapshot::{SnapshotError, SnapshotId, Snapshotter, Top};
use hull_store::{LOOKED_THROUGH_BOOT, Lease, fact, remember};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::remove::Idle;
use crate::record::{ContainerRecord, RecordError};
use crate::row::{self, ContainerRow};
use crate::volumes;

impl Engine {
    /// Looks through all containers when that has not been done since the machine was booted, and returns those that
    /// were removed.
    ///
    /// # Errors
    /// The first one that could not be removed; the next command tries again.
    pub(crate) fn sweep_after_boot(&self, rows: &[ContainerRow]) -> Result<Vec<ContainerId>, EngineError> {
        let lease = Lease::current()?;
        let (_, _, boot) = lease.columns();
        let known = self.store().read(|db| Ok::<_, EngineError>(fact(db, LOOKED_THROUGH_BOOT)?))?;
        if known.as_deref() == Some(boot) {
            return Ok(Vec::new());
        }
        let mut swept = Vec::new();
        for row in rows.iter().filter(|row| row.lease.is_none()) {
            if !self.is_remnant(row)? || !self.store().write(|tx| row::claim(tx, &row.id, &lease))? {
                continue;
            }
            match self.lock_idle(row)? {
                Idle::Running => self.store().write(|tx| row::release(tx, &row.id))?,
                Idle::Locked(_lock) => {
                    tracing::warn!("container {} ({}) did not survive the end of the last boot", row.name, row.id);
                    self.remove_claimed(row, true)?;
                    swept.push(row.id.clone());
                }
            }
        }
        for name in self.store().read(volumes::whole_names)? {
            volumes::make_folder(self.roots(), &name)?;
        }
        self.store().write(|tx| Ok::<_, EngineError>(remember(tx, LOOKED_THROUGH_BOOT, boot)?))?;
        Ok(swept)
    }

    /// Whether a container that nobody works on is there in part only.
    fn is_remnant(&self, row: &ContainerRow) -> Result<bool, EngineError> {
        if self.process(&row.id)?.is_some() {
            return Ok(false);
        }
        if row.auto_remove {
            return Ok(true);
        }
        let Some(snapshot) = row.snapshot_id.as_deref().and_then(SnapshotId::parse) else { return Ok(true) };
        let snapshots = self.snapshots();
        let inodes = match snapshots.usage(&snapshot) {
            Ok(usage) => usage.inodes,
            Err(error) => return Ok(is_missing(&error)),
        };
        // A copy has files from the beginning; its record alone decides.
        let is_copy = snapshots.changes(&snapshot).is_ok_and(|changes| matches!(changes.top, Top::Whole(_)));
        let wrote = inodes > 0 && !is_copy;
        let record = match ContainerRecord::read(&self.roots().container(row.id.as_str())) {
            Ok(record) => record,
            Err(RecordError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(_) => return Ok(!wrote),
        };
        let layers = match &record.image.id {
            Some(image) => self.image_store().get(image)?.map_or(0, |image| image.layers.len()),
            None => 0,
        };
        match snapshots.parents(&snapshot) {
            Ok(parents) => Ok(!wrote && parents.len() < layers),
            Err(_) => Ok(!wrote),
        }
    }
}

fn is_missing(error: &SnapshotError) -> bool {
    match error {
        SnapshotError::Missing(_) => true,
        SnapshotError::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}
