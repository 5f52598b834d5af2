//! What the database knows of an image's travels: where registries have its blobs, how its layers travel, and by which
//! digests it is known there.
//!
//! All of it may be forgotten without harm: a blob is then sent again, or compressed again to the same bytes. Rows go
//! with their blobs.

use hull_oci::{Digest, Reference};
use rusqlite::{OptionalExtension, Transaction};

use crate::content::ContentError;
use crate::registry::NamedManifest;
use crate::store::{digest, strings, write_name};
use crate::{DOCUMENT_BYTES_MAX, ImageError, ImageStore};

/// Most repositories of one registry that a mount is tried from.
const SOURCES_MAX: usize = 3;

impl ImageStore<'_> {
    /// Other repositories of a reference's registry that have a blob, as far as is known.
    pub(crate) fn sources(&self, blob: &Digest, reference: &Reference) -> Result<Vec<String>, ImageError> {
        let query = "SELECT repository FROM blob_sources
            WHERE digest = ?1 AND registry = ?2 AND repository <> ?3 ORDER BY repository LIMIT ?4";
        let (registry, repository) = (reference.registry.as_str(), reference.repository.as_str());
        self.database().read(|db| strings(db, query, (blob.as_str(), registry, repository, SOURCES_MAX as i64)))
    }

    /// The digests by which registries know an image, of manifests and indexes.
    pub(crate) fn pulled_digests(&self, id: &Digest) -> Result<Vec<Digest>, ImageError> {
        let query =
            "SELECT DISTINCT digest FROM image_names WHERE image_id = ?1 AND digest IS NOT NULL ORDER BY digest";
        let found = self.database().read(|db| strings(db, query, [id.as_str()]))?;
        found.iter().map(|text| digest(text)).collect()
    }

    /// The manifest or index that a name leads to, when it is here.
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be read.
    pub fn stored_manifest(&self, name: &Reference) -> Result<Option<NamedManifest>, ImageError> {
        let tagged = match &name.digest {
            Some(digest) => Some(digest.clone()),
            None => {
                let query = "SELECT digest FROM image_names WHERE name = ?1 AND digest IS NOT NULL";
                let found = self.database().read(|db| strings(db, query, [name.to_string()]))?;
                found.first().map(|text| digest(text)).transpose()?
            }
        };
        let Some(digest) = tagged else { return Ok(None) };
        match self.content().read(&digest, DOCUMENT_BYTES_MAX) {
            Ok(bytes) => {
                let media_type = self.media_type(&digest)?.unwrap_or_default();
                Ok(Some(NamedManifest { digest, media_type, bytes }))
            }
            Err(ContentError::Missing { .. } | ContentError::WrongDigest { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The media type under which a blob came; absent when it is not known.
    pub(crate) fn media_type(&self, blob: &Digest) -> Result<Option<String>, ImageError> {
        let query = "SELECT media_type FROM blobs WHERE digest = ?1 AND media_type <> ''";
        Ok(self.database().read(|db| strings(db, query, [blob.as_str()]))?.pop())
    }

    /// The compressed form of a layer's blob that an earlier push made.
    pub(crate) fn compressed(&self, blob: &Digest) -> Result<Option<Digest>, ImageError> {
        let query = "SELECT compressed_digest FROM compressed_layers WHERE digest = ?1";
        let found = self.database().read(|db| {
            Ok::<_, ImageError>(db.query_row(query, [blob.as_str()], |row| row.get::<_, String>(0)).optional()?)
        })?;
        found.map(|text| digest(&text)).transpose()
    }

    /// Remembers the compressed form of a layer's blob; both are in the store and held.
    pub(crate) fn remember_compressed(&self, blob: &Digest, compressed: &Digest) -> Result<(), ImageError> {
        self.database().write(|transaction| {
            let query = "INSERT OR REPLACE INTO compressed_layers VALUES (?1, ?2)";
            transaction.execute(query, (blob.as_str(), compressed.as_str()))?;
            Ok(())
        })
    }

    /// Gives an image that came without a manifest one, whose blobs stay with it from now on.
    pub(crate) fn complete<'d>(
        &self,
        id: &Digest,
        manifest: &Digest,
        blobs: impl Iterator<Item = &'d Digest>,
    ) -> Result<(), ImageError> {
        self.database().write_durable(|transaction| {
            let query = "UPDATE images SET manifest_digest = ?2 WHERE id = ?1 AND manifest_digest IS NULL";
            transaction.execute(query, (id.as_str(), manifest.as_str()))?;
            for blob in blobs {
                let query = "INSERT OR IGNORE INTO image_blobs VALUES (?1, ?2)";
                transaction.execute(query, (id.as_str(), blob.as_str()))?;
            }
            Ok(())
        })
    }

    /// Remembers that a registry has an image: its digest there is a name of it, and its blobs can be mounted from there.
    pub(crate) fn pushed<'d>(
        &self,
        id: &Digest,
        reference: &Reference,
        manifest: &Digest,
        blobs: impl Iterator<Item = &'d Digest>,
    ) -> Result<(), ImageError> {
        self.database().write(|transaction| {
            write_name(transaction, &reference.with_digest(manifest.clone()), id, Some(manifest))?;
            write_sources(transaction, reference, blobs)
        })
    }
}

/// Remembers where blobs are.
pub(crate) fn write_sources<'d>(
    transaction: &Transaction<'_>,
    reference: &Reference,
    blobs: impl Iterator<Item = &'d Digest>,
) -> Result<(), ImageError> {
    let query = "INSERT OR IGNORE INTO blob_sources VALUES (?1, ?2, ?3)";
    let mut statement = transaction.prepare_cached(query)?;
    for blob in blobs {
        statement.execute((blob.as_str(), reference.registry.as_str(), reference.repository.as_str()))?;
    }
    Ok(())
}
