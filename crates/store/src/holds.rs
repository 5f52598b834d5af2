//! Holds: what work in progress needs although no image refers to it yet.
//!
//! A pull holds the digests of its blobs and the chain ids of its layers before it looks which of them exist, and
//! lets go when the transaction that writes the image is done. Whoever removes a blob or a layer asks
//! [`blob_is_used`] or [`layer_is_used`] in the transaction that decides about it. Both sides being write
//! transactions, one of them comes first, and nothing is removed between being found and being used. The holds of a
//! dead process count for nothing.

use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, params};

use crate::{Lease, LeaseError};

/// Numbers the holders of this process.
static NEXT_NUMBER: AtomicI64 = AtomicI64::new(0);

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

/// One piece of work that holds things; a process may have several at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    lease: Lease,
    number: i64,
}

impl Holder {
    /// A new holder of this process.
    ///
    /// # Errors
    /// [`LeaseError`] when this process's lease cannot be made.
    pub fn new() -> Result<Self, LeaseError> {
        Ok(Self { lease: Lease::current()?, number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed) })
    }

    /// The lease of its process.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Holds one thing; holding it twice is the same as once.
    ///
    /// # Errors
    /// The database's.
    pub fn hold(&self, connection: &Connection, kind: HoldKind, key: &str) -> rusqlite::Result<()> {
        let (pid, start, boot) = self.lease.columns();
        connection.prepare_cached("INSERT OR IGNORE INTO holds VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            kind.as_str(),
            key,
            self.number,
            pid,
            start,
            boot
        ])?;
        Ok(())
    }

    /// Lets go of everything that this holder holds.
    ///
    /// # Errors
    /// The database's.
    pub fn let_go(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (pid, start, boot) = self.lease.columns();
        connection
            .prepare_cached(
                "DELETE FROM holds WHERE holder = ?1 AND lease_pid = ?2 AND lease_start = ?3 AND lease_boot = ?4",
            )?
            .execute(params![self.number, pid, start, boot])?;
        Ok(())
    }
}

/// Whether a living process holds a thing. This belongs in a write transaction.
///
/// # Errors
/// The database's.
pub fn is_held(connection: &Connection, kind: HoldKind, key: &str) -> rusqlite::Result<bool> {
    let query = "SELECT DISTINCT lease_pid, lease_start, lease_boot FROM holds WHERE kind = ?1 AND key = ?2";
    Ok(leases(connection, query, params![kind.as_str(), key])?.iter().any(Lease::is_alive))
}

/// Deletes the holds of processes that are gone.
///
/// # Errors
/// The database's.
pub fn release_dead(connection: &Connection) -> rusqlite::Result<()> {
    let query = "SELECT DISTINCT lease_pid, lease_start, lease_boot FROM holds";
    for lease in leases(connection, query, [])?.iter().filter(|lease| !lease.is_alive()) {
        connection
            .prepare_cached("DELETE FROM holds WHERE lease_pid = ?1 AND lease_start = ?2 AND lease_boot = ?3")?
            .execute(lease.columns())?;
    }
    Ok(())
}

fn leases(connection: &Connection, query: &str, parameters: impl rusqlite::Params) -> rusqlite::Result<Vec<Lease>> {
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement.query_map(parameters, |row| Ok(Lease::from_columns(row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.filter_map(Result::transpose).collect()
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
