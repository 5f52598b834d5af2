//! Layers that no image has and no living process holds: forgotten first, durably, then removed.
//!
//! A layer's row promises that its files are whole, and a pull that finds the row unpacks nothing. So a row must never
//! come back after its files have begun to go: the transaction that takes it away is on disk before the first file is
//! touched. It is also the transaction that asks whether the layer is used, so that nobody finds it in between.

use hull_store::{Store, layer_is_used};
use rusqlite::Transaction;

use crate::{SnapshotError, SnapshotId};

/// Forgets those of the layers, given by chain id, that are unused, whoever keeps them, and returns their snapshots, which
/// are now for the caller to remove; [`crate::Snapshotter::sweep`] takes what it does not come to.
///
/// # Errors
/// The database's.
pub fn forget_unused(store: &Store, chain_ids: &[&str]) -> Result<Vec<SnapshotId>, SnapshotError> {
    if chain_ids.is_empty() {
        return Ok(Vec::new());
    }
    store.write_durable(|tx| {
        let mut forgotten = Vec::new();
        for chain_id in chain_ids {
            if !layer_is_used(tx, chain_id)? {
                forgotten.extend(forget(tx, chain_id)?);
            }
        }
        Ok(forgotten)
    })
}

fn forget(tx: &Transaction<'_>, chain_id: &str) -> Result<Vec<SnapshotId>, SnapshotError> {
    let mut deleted = tx.prepare_cached("DELETE FROM layers WHERE chain_id = ?1 RETURNING snapshot_id")?;
    let ids = deleted.query_map([chain_id], |row| row.get::<_, String>(0))?;
    let ids: Vec<SnapshotId> =
        ids.collect::<Result<Vec<_>, _>>()?.iter().filter_map(|text| SnapshotId::parse(text)).collect();
    for id in &ids {
        tx.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?.execute([id.as_str()])?;
    }
    Ok(ids)
}
