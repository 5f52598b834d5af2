//! Rows of the `containers` table: which containers there are, and who is working on one.
//!
//! A row is inserted with the lease of the command that creates the container and loses it when the container is
//! whole, or by the start that the same command goes on to; a removal leases it again and ends by deleting it. So a row
//! with a dead lease is what a killed command left, and is finished off by [`crate::Engine::recover`]. Everything else
//! about a container is in files.

use hull_snapshot::SnapshotId;
use hull_store::{Lease, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, Transaction, params};

use crate::id::ContainerId;

const COLUMNS: &str = "id, name, image_id, snapshot_id, created_at, auto_remove, lease_pid, lease_start, lease_boot";

/// One container as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerRow {
    pub id: ContainerId,
    pub name: String,
    pub image_id: Option<String>,
    pub snapshot_id: Option<String>,
    pub created: Timestamp,
    pub auto_remove: bool,
    pub lease: Option<Lease>,
}

/// What asking for a container by name can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    One(Box<ContainerRow>),
    None,
    Several(usize),
}

impl Found {
    /// Whether there is at least one.
    pub fn exists(&self) -> bool {
        !matches!(self, Found::None)
    }
}

impl ContainerRow {
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<ContainerRow> {
        let id: String = row.get(0)?;
        let created_at: i64 = row.get(4)?;
        let damaged = |column, what: String| {
            rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
        };
        Ok(ContainerRow {
            id: ContainerId::try_from(id).map_err(|what| damaged(0, what))?,
            name: row.get(1)?,
            image_id: row.get(2)?,
            snapshot_id: row.get(3)?,
            created: Timestamp::from_nanosecond(i128::from(created_at)).map_err(|e| damaged(4, e.to_string()))?,
            auto_remove: row.get(5)?,
            lease: Lease::from_columns(row.get(6)?, row.get(7)?, row.get(8)?),
        })
    }
}

/// Finds by full id, by name, then by unambiguous id prefix.
pub(crate) fn find(connection: &Connection, name: &str) -> Result<Found, StoreError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let exact = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM containers WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC"))?
        .query_row([bare], ContainerRow::read)
        .optional()?;
    if let Some(row) = exact {
        return Ok(Found::One(Box::new(row)));
    }
    if !crate::id::is_hex(bare) {
        return Ok(Found::None);
    }
    // Every id with this prefix lies between it and its successor: `g` follows `f`.
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM containers WHERE id >= ?1 AND id < ?1 || 'g'"))?;
    let mut rows: Vec<ContainerRow> = statement.query_map([bare], ContainerRow::read)?.collect::<Result<_, _>>()?;
    match rows.len() {
        0 => Ok(Found::None),
        1 => Ok(Found::One(Box::new(rows.remove(0)))),
        several => Ok(Found::Several(several)),
    }
}

/// Every container, newest first.
pub(crate) fn all(connection: &Connection) -> Result<Vec<ContainerRow>, StoreError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM containers ORDER BY created_at DESC, id"))?;
    Ok(statement.query_map([], ContainerRow::read)?.collect::<Result<_, _>>()?)
}

/// The owner of a name.
pub(crate) fn owner_of_name(connection: &Connection, name: &str) -> Result<Option<ContainerRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM containers WHERE name = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([name], ContainerRow::read).optional()?)
}

/// Whether the image of a container to be, and these layers of it, are here (still).
pub(crate) fn has_image(tx: &Transaction<'_>, row: &ContainerRow, layers: &[SnapshotId]) -> Result<bool, StoreError> {
    let Some(image) = &row.image_id else { return Ok(true) };
    let mut is_here = tx.prepare_cached("SELECT 1 FROM images WHERE id = ?1")?.exists([image])?;
    for layer in layers {
        is_here &= tx.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?.exists([layer.as_str()])?;
    }
    Ok(is_here)
}

/// Inserts a container that is being created.
pub(crate) fn insert(tx: &Transaction<'_>, row: &ContainerRow, lease: &Lease) -> Result<(), StoreError> {
    let (pid, start, boot) = lease.columns();
    tx.prepare_cached(&format!("INSERT INTO containers ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"))?
        .execute(params![
            row.id.as_str(),
            row.name,
            row.image_id,
            row.snapshot_id,
            row.created.as_nanosecond() as i64,
            row.auto_remove,
            pid,
            start,
            boot
        ])?;
    Ok(())
}

/// Records the writable snapshot and takes the lease off: the container is whole.
pub(crate) fn finish(tx: &Transaction<'_>, id: &ContainerId, snapshot: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE containers SET snapshot_id = ?2, lease_pid = NULL, lease_start = NULL, lease_boot = NULL WHERE id = ?1",
    )?
    .execute([id.as_str(), snapshot])?;
    Ok(())
}

/// Leases an existing row for its removal; `false` when it is gone or another living process has it.
pub(crate) fn claim(tx: &Transaction<'_>, id: &ContainerId, lease: &Lease) -> Result<bool, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM containers WHERE id = ?1");
    let row = tx.prepare_cached(&sql)?.query_row([id.as_str()], ContainerRow::read).optional()?;
    let Some(row) = row else { return Ok(false) };
    if row.lease.is_some_and(|holder| holder != *lease && holder.is_alive()) {
        return Ok(false);
    }
    let (pid, start, boot) = lease.columns();
    tx.prepare_cached("UPDATE containers SET lease_pid = ?2, lease_start = ?3, lease_boot = ?4 WHERE id = ?1")?
        .execute(params![id.as_str(), pid, start, boot])?;
    Ok(true)
}

/// Takes the lease off.
pub(crate) fn release(tx: &Transaction<'_>, id: &ContainerId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE containers SET lease_pid = NULL, lease_start = NULL, lease_boot = NULL WHERE id = ?1")?
        .execute([id.as_str()])?;
    Ok(())
}

/// Takes the lease off and undoes [`throw_away`].
pub(crate) fn give_back(tx: &Transaction<'_>, row: &ContainerRow) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE containers SET auto_remove = ?2 WHERE id = ?1")?
        .execute(params![row.id.as_str(), row.auto_remove])?;
    release(tx, &row.id)
}

/// Marks a container as one that goes with its anonymous volumes.
pub(crate) fn throw_away(tx: &Transaction<'_>, id: &ContainerId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE containers SET auto_remove = 1 WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// Deletes the row, and with it the container's claims on volumes.
pub(crate) fn delete(tx: &Transaction<'_>, id: &ContainerId) -> Result<(), StoreError> {
    // Until now the container has used its image (hull_image's unasked.rs).
    let now = Timestamp::now().as_nanosecond() as i64;
    let used = "UPDATE unasked_images SET used_at = ?2
        WHERE image_id = (SELECT image_id FROM containers WHERE id = ?1)";
    tx.prepare_cached(used)?.execute(params![id.as_str(), now])?;
    tx.prepare_cached("DELETE FROM containers WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use hull_store::{Roots, Store};

    use super::*;

    fn row(id: &str, name: &str) -> ContainerRow {
        ContainerRow {
            id: ContainerId::parse(&format!("{id}{}", "0".repeat(64 - id.len()))).unwrap(),
            name: name.into(),
            image_id: None,
            snapshot_id: None,
            created: Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap(),
            auto_remove: true,
            lease: None,
        }
    }

    fn store(folder: &std::path::Path) -> Store {
        Store::open(&Roots::new(folder.join("root"), folder.join("state"))).unwrap()
    }

    #[test]
    fn names_ids_and_prefixes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let lease = Lease::current().unwrap();
        let rows = [row("abc1", "one"), row("abc2", "two"), row("def", "abc1")];
        store
            .write(|tx| -> Result<(), StoreError> { rows.iter().try_for_each(|row| insert(tx, row, &lease)) })
            .unwrap();
        let found = |name: &str| store.read(|db| find(db, name)).unwrap();
        let id_of = |name: &str| match found(name) {
            Found::One(row) => row.name,
            other => format!("{other:?}"),
        };
        assert_eq!(id_of("/two"), "two");
        assert_eq!(id_of("abc2"), "two");
        assert_eq!(id_of("abc1"), "abc1", "a name comes before a prefix");
        assert_eq!(id_of(rows[0].id.as_str()), "one");
        assert_eq!(found("abc"), Found::Several(2));
        assert_eq!(found("xyz"), Found::None);
        assert_eq!(found(""), Found::None);
        assert_eq!(found("%"), Found::None);
    }

    #[test]
    fn leases_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let lease = Lease::current().unwrap();
        let one = row("aa", "one");
        store.write(|tx| insert(tx, &one, &lease)).unwrap();
        assert_eq!(store.read(all).unwrap(), [ContainerRow { lease: Some(lease.clone()), ..one.clone() }]);
        store.write(|tx| release(tx, &one.id)).unwrap();
        assert_eq!(store.read(all).unwrap(), std::slice::from_ref(&one));
        assert!(store.write(|tx| claim(tx, &one.id, &lease)).unwrap());
        let other = Lease { pid: 1, ..Lease::of(1).unwrap() };
        assert!(!store.write(|tx| claim(tx, &one.id, &other)).unwrap(), "the holder lives");
        store.write(|tx| delete(tx, &one.id)).unwrap();
        assert!(!store.write(|tx| claim(tx, &one.id, &lease)).unwrap());
    }
}
