//! Images that nobody asked for: the only ones that a full disk may cost.
//!
//! ```text
//! asked for      pulled, loaded, imported, committed or tagged by a command of its own
//! not asked for  brought by the creation of a container alone, while no asked-for image had its name;
//!                or its last tag moved to another image, or its last name was taken away while a container had it
//! ```
//!
//! An image is not asked for while it has a row in `unasked_images`. The row is written and deleted in the transaction
//! that makes the image present or moves the name, so two commands that bring the same image leave it asked for
//! whenever one of them asked, in whichever order they end. A row that is missing only keeps an image too long.
//!
//! `used_at` is refreshed when a container is about to be made of the image and when one is removed. An image that a
//! container has, or whose blobs or layers a living process holds, is not removed.

use hull_oci::{Digest, Reference};
use hull_store::{HoldKind, is_held};
use jiff::Timestamp;
use rusqlite::{Connection, Transaction, params};

use crate::remove::delete_image;
use crate::store::{digest, names_of, now, strings};
use crate::{ImageError, ImageStore, NewImage, Removed};

impl ImageStore<'_> {
    /// Notes that a container is about to be made of an image. False when the image was collected just now.
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be read or written.
    pub fn use_again(&self, id: &Digest) -> Result<bool, ImageError> {
        if self.database().read(|connection| is_unasked(connection, id))? {
            let update = "UPDATE unasked_images SET used_at = ?2 WHERE image_id = ?1";
            self.database().write(|transaction| {
                transaction.execute(update, params![id.as_str(), now()])?;
                let present = "SELECT EXISTS (SELECT 1 FROM images WHERE id = ?1)";
                Ok(transaction.query_row(present, [id.as_str()], |row| row.get(0))?)
            })
        } else {
            Ok(true)
        }
    }

    /// Images that nobody asked for, that no container has and that were not used since a moment; the least recently
    /// used first.
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be read.
    pub fn unasked(&self, unused_since: Timestamp) -> Result<Vec<Digest>, ImageError> {
        let query = "SELECT image_id FROM unasked_images
            WHERE used_at <= ?1 AND image_id NOT IN (SELECT image_id FROM containers WHERE image_id IS NOT NULL)
            ORDER BY used_at, image_id";
        let ids = self.database().read(|connection| strings(connection, query, [nanoseconds(unused_since)]))?;
        ids.iter().map(|id| digest(id)).collect()
    }

    /// Removes an image with all its names if it still is one of those. Absent when it is not any more.
    ///
    /// # Errors
    /// [`ImageError`] when the database or a blob refuses.
    pub fn remove_unasked(&self, id: &Digest, unused_since: Timestamp) -> Result<Option<Removed>, ImageError> {
        let removed = self.database().write_durable(|transaction| {
            if !is_collectable(transaction, id, unused_since)? {
                return Ok::<_, ImageError>(None);
            }
            let names = names_of(transaction, id)?;
            transaction.execute("DELETE FROM image_names WHERE image_id = ?1", [id.as_str()])?;
            let (unused_layers, blobs) = delete_image(transaction, id)?;
            let untagged = names.iter().map(Reference::familiar).collect();
            Ok(Some((Removed { untagged, deleted: Some(id.clone()), unused_layers }, blobs)))
        })?;
        let Some((removed, blobs)) = removed else { return Ok(None) };
        self.collect_blobs(&blobs)?;
        Ok(Some(removed))
    }
}

fn is_unasked(connection: &Connection, id: &Digest) -> Result<bool, ImageError> {
    let query = "SELECT EXISTS (SELECT 1 FROM unasked_images WHERE image_id = ?1)";
    Ok(connection.prepare_cached(query)?.query_row([id.as_str()], |row| row.get(0))?)
}

fn is_collectable(transaction: &Transaction<'_>, id: &Digest, unused_since: Timestamp) -> Result<bool, ImageError> {
    let query = "SELECT EXISTS (SELECT 1 FROM unasked_images WHERE image_id = ?1 AND used_at <= ?2)
        AND NOT EXISTS (SELECT 1 FROM containers WHERE image_id = ?1)";
    let parameters = params![id.as_str(), nanoseconds(unused_since)];
    if !transaction.query_row(query, parameters, |row| row.get::<_, bool>(0))? {
        return Ok(false);
    }
    let needs = [
        (HoldKind::Blob, "SELECT digest FROM image_blobs WHERE image_id = ?1"),
        (HoldKind::Layer, "SELECT chain_id FROM image_layers WHERE image_id = ?1"),
    ];
    for (kind, query) in needs {
        for key in strings(transaction, query, [id.as_str()])? {
            if is_held(transaction, kind, &key)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether a new image counts as asked for although it comes unasked: it is here by somebody's wish already, or an
/// image is that has its name.
pub(crate) fn was_asked_before(connection: &Connection, image: &NewImage<'_>) -> Result<bool, ImageError> {
    let asked = "NOT IN (SELECT image_id FROM unasked_images)";
    let by_id = format!("SELECT EXISTS (SELECT 1 FROM images WHERE id = ?1 AND id {asked})");
    if connection.query_row(&by_id, [image.id.as_str()], |row| row.get(0))? {
        return Ok(true);
    }
    let by_name = format!("SELECT EXISTS (SELECT 1 FROM image_names WHERE name = ?1 AND image_id {asked})");
    for name in &image.names {
        let written = match &name.tag {
            Some(_) => Reference { digest: None, ..name.clone() },
            None => name.clone(),
        };
        if connection.query_row(&by_name, [written.to_string()], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Somebody asked for an image.
pub(crate) fn ask(transaction: &Transaction<'_>, id: &Digest) -> Result<(), ImageError> {
    transaction.execute("DELETE FROM unasked_images WHERE image_id = ?1", [id.as_str()])?;
    Ok(())
}

/// Nobody asks for an image any more, or nobody did.
pub(crate) fn unask(transaction: &Transaction<'_>, id: &Digest) -> Result<(), ImageError> {
    transaction.execute("INSERT OR REPLACE INTO unasked_images VALUES (?1, ?2)", params![id.as_str(), now()])?;
    Ok(())
}

fn nanoseconds(moment: Timestamp) -> i64 {
    i64::try_from(moment.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use hull_store::{Holder, Roots, Store};

    use super::*;

    #[test]
    fn what_is_held_or_asked_for_or_was_used_stays() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
        let store = Store::open(&roots).expect("a store");
        let images = ImageStore::new(&store, &roots);
        let (id, blob) = (Digest::sha256_of(b"image"), Digest::sha256_of(b"blob"));
        let holder = Holder::new().expect("a holder");
        let written: Result<(), ImageError> = store.write(|tx| {
            tx.execute("INSERT INTO images VALUES (?1, NULL, 0, 0)", [id.as_str()])?;
            tx.execute("INSERT INTO blobs VALUES (?1, 0, '')", [blob.as_str()])?;
            tx.execute("INSERT INTO image_blobs VALUES (?1, ?2)", [id.as_str(), blob.as_str()])?;
            unask(tx, &id)?;
            Ok(holder.hold(tx, HoldKind::Blob, blob.as_str())?)
        });
        written.expect("rows");
        let (before, after) = (Timestamp::UNIX_EPOCH, Timestamp::now());
        assert_eq!(images.unasked(before).expect("reads"), []);
        assert_eq!(images.unasked(after).expect("reads"), std::slice::from_ref(&id));
        assert_eq!(images.remove_unasked(&id, after).expect("held"), None);
        let let_go: Result<(), ImageError> = store.write(|tx| Ok(holder.let_go(tx)?));
        let_go.expect("lets go");
        assert_eq!(images.remove_unasked(&id, before).expect("used since"), None);
        let asked: Result<(), ImageError> = store.write(|tx| ask(tx, &id));
        asked.expect("asks");
        assert_eq!(images.remove_unasked(&id, after).expect("asked for"), None);
        assert!(images.use_again(&id).expect("it is there"));
        let unasked: Result<(), ImageError> = store.write(|tx| unask(tx, &id));
        unasked.expect("unasks");
        let removed = images.remove_unasked(&id, Timestamp::now()).expect("removes").expect("nothing keeps it");
        assert_eq!(removed.deleted.as_ref(), Some(&id));
        assert_eq!(images.unasked(Timestamp::now()).expect("reads"), []);
    }
}
