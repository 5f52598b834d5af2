//! Holds: what work in progress needs although no image refers to it yet.
//!
//! A pull holds the digests of its blobs and the chain ids of its layers before it looks which of them exist, and
//! releases them in the transaction that writes the image. Whoever removes a blob or a layer asks [`is_held`] in
//! the transaction that decides about it. Both sides being write transactions, one of them comes first, and nothing
//! is removed between being found and being used. The holds of a dead process count for nothing.

use rusqlite::{Connection, params};

use crate::Lease;

/// What kind of thing is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldKind {
    /// A blob, by digest.
    Blob,
    /// An unpacked layer, by chain id.
    Layer,
}

impl HoldKind {
    /// As the database writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Layer => "layer",
        }
    }
}

/// Holds one thing for a process; holding it twice is the same as once.
///
/// # Errors
/// The database's.
pub fn hold(connection: &Connection, kind: HoldKind, key: &str, lease: &Lease) -> rusqlite::Result<()> {
    let (pid, start, boot) = lease.columns();
    connection.prepare_cached("INSERT OR IGNORE INTO holds VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        kind.as_str(),
        key,
        pid,
        start,
        boot
    ])?;
    Ok(())
}

/// Lets go of one thing.
///
/// # Errors
/// The database's.
pub fn release(connection: &Connection, kind: HoldKind, key: &str, lease: &Lease) -> rusqlite::Result<()> {
    let (pid, start, boot) = lease.columns();
    connection
        .prepare_cached(
            "DELETE FROM holds WHERE kind = ?1 AND key = ?2 AND lease_pid = ?3 AND lease_start = ?4 AND lease_boot = ?5",
        )?
        .execute(params![kind.as_str(), key, pid, start, boot])?;
    Ok(())
}

/// Lets go of everything a process holds.
///
/// # Errors
/// The database's.
pub fn release_all(connection: &Connection, lease: &Lease) -> rusqlite::Result<()> {
    connection
        .execute("DELETE FROM holds WHERE lease_pid = ?1 AND lease_start = ?2 AND lease_boot = ?3", lease.columns())?;
    Ok(())
}

/// Whether a living process holds a thing. The holds of dead ones are deleted on the way, so this belongs in a
/// write transaction.
///
/// # Errors
/// The database's.
pub fn is_held(connection: &Connection, kind: HoldKind, key: &str) -> rusqlite::Result<bool> {
    let mut statement = connection
        .prepare_cached("SELECT lease_pid, lease_start, lease_boot FROM holds WHERE kind = ?1 AND key = ?2")?;
    let rows = statement
        .query_map([kind.as_str(), key], |row| Ok(Lease::from_columns(row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let holders: Vec<Lease> = rows.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let mut held = false;
    for holder in holders {
        match holder.is_alive() {
            true => held = true,
            false => release(connection, kind, key, &holder)?,
        }
    }
    Ok(held)
}

/// Whether an image refers to a blob or a living process holds it; only when neither does may its row and file go.
/// This belongs in the write transaction that decides about it.
///
/// # Errors
/// The database's.
pub fn blob_is_used(connection: &Connection, digest: &str) -> rusqlite::Result<bool> {
    let referred = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM image_blobs WHERE digest = ?1)
                 OR EXISTS (SELECT 1 FROM image_layers WHERE digest = ?1)",
        )?
        .query_row([digest], |row| row.get(0))?;
    Ok(referred || is_held(connection, HoldKind::Blob, digest)?)
}

/// Whether an image has a layer or a living process holds it; only when neither does may its snapshots go.
/// This belongs in the write transaction that decides about it.
///
/// # Errors
/// The database's.
pub fn layer_is_used(connection: &Connection, chain_id: &str) -> rusqlite::Result<bool> {
    let referred = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM image_layers WHERE chain_id = ?1)")?
        .query_row([chain_id], |row| row.get(0))?;
    Ok(referred || is_held(connection, HoldKind::Layer, chain_id)?)
}
