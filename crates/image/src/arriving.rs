//! Images on their way into the store: every blob held, nothing yet reported as present.
//!
//! ```text
//! hold digests ─> look which blobs exist ─> write the others ─> NewImage ─> layers unpacked ─> ImageStore::add
//! └──────────────────────────────── Holds lives ─────────────────────────────────────────────────────┘
//! ```
//!
//! A blob is admitted at once ([`Holds::admit`]), or kept until all are there and then settled with them, at the price
//! of one sync ([`Holds::keep`], [`Holds::settle`]).
//!
//! While [`Holds`] lives nobody collects what it holds. When the last clone of it is dropped it lets go and collects
//! what no image refers to, so that a failed pull leaves nothing behind, whoever noticed the failure.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hull_oci::image::ImageConfiguration;
use hull_oci::{Digest, Reference};
use hull_store::{HoldKind, Holder, release_dead};
use rusqlite::{OptionalExtension, Transaction};

use crate::content::{BlobWriter, SealedBlob, place_all};
use crate::partial::PartialBlob;
use crate::{ImageError, ImageStore, LayerDescriptor};

/// A blob in the content store, or to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Its media type; empty when unknown.
    pub media_type: String,
}

/// An image whose blobs are all in the content store and held; [`ImageStore::add`] makes it present.
#[derive(Debug, Clone)]
pub struct NewImage<'a> {
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of the platform's manifest, where it came with one.
    pub manifest_digest: Option<Digest>,
    /// What the registry calls it: digest of the index or manifest that the name led to.
    pub pulled_digest: Option<Digest>,
    /// Names it gets; none leaves it to be found by id.
    pub names: Vec<Reference>,
    /// Its configuration.
    pub configuration: ImageConfiguration,
    /// Its layers, lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// Every blob it needs: index, manifest, configuration and layers.
    pub blobs: Vec<StoredBlob>,
    pub(crate) holds: Arc<Holds<'a>>,
}

impl NewImage<'_> {
    /// Where a layer's blob is.
    pub fn blob_path(&self, layer: &LayerDescriptor) -> PathBuf {
        self.holds.path(&layer.digest)
    }

    /// That a name with a digest is one of this image: what a registry called it, or the digest of its index or
    /// manifest. Whoever asks for `name@digest` later must get nothing else.
    pub(crate) fn check_names(&self) -> Result<(), ImageError> {
        let is_own = |digest: &Digest| {
            let is_layer = self.layers.iter().any(|layer| layer.digest == *digest);
            let documents = self.blobs.iter().filter(|blob| !is_layer && blob.digest != self.id);
            self.pulled_digest.iter().chain(documents.map(|blob| &blob.digest)).any(|own| own == digest)
        };
        match self.names.iter().find(|name| name.digest.as_ref().is_some_and(|digest| !is_own(digest))) {
            Some(name) => Err(ImageError::TagWithDigest { name: name.to_string() }),
            None => Ok(()),
        }
    }
}

/// What one pull or load holds.
#[derive(Debug)]
pub struct Holds<'a> {
    images: &'a ImageStore<'a>,
    holder: Holder,
    held: Mutex<Vec<Digest>>,
    /// Verified blobs without a name yet, and their media types.
    kept: Mutex<Vec<(SealedBlob, String)>>,
}

impl<'a> Holds<'a> {
    /// Holds nothing yet. What dead processes held, or were writing, goes.
    ///
    /// # Errors
    /// [`ImageError`] when this process's lease cannot be made, or the database not be written.
    pub fn new(images: &'a ImageStore<'a>) -> Result<Self, ImageError> {
        let holder = Holder::new()?;
        images.database().write(|transaction| Ok::<_, ImageError>(release_dead(transaction)?))?;
        images.content().sweep()?;
        Ok(Self { images, holder, held: Mutex::default(), kept: Mutex::default() })
    }

    /// Holds blobs by digest and layers by chain id, before anybody looks whether they exist.
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be written.
    pub fn hold(&self, things: &[(HoldKind, &Digest)]) -> Result<(), ImageError> {
        self.images.database().write(|transaction| {
            for (kind, digest) in things {
                self.holder.hold(transaction, *kind, digest.as_str())?;
            }
            Ok::<_, ImageError>(())
        })?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let blobs = things.iter().filter(|(kind, _)| *kind == HoldKind::Blob);
        held.extend(blobs.map(|(_, digest)| (*digest).clone()));
        Ok(())
    }

    /// Holds the blobs and the chain ids of layers.
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be written.
    pub fn hold_layers(&self, layers: &[LayerDescriptor]) -> Result<(), ImageError> {
        let things: Vec<_> = layers
            .iter()
            .flat_map(|layer| [(HoldKind::Blob, &layer.digest), (HoldKind::Layer, &layer.chain_id)])
            .collect();
        self.hold(&things)
    }

    /// The layers of an image that is in the store already, held, when all their blobs are there.
    ///
    /// # Errors
    /// [`ImageError`] when the database or a file cannot be looked at.
    pub fn existing_layers(&self, id: &Digest) -> Result<Option<Vec<LayerDescriptor>>, ImageError> {
        let Some(found) = self.images.intact(id)? else { return Ok(None) };
        self.hold_layers(&found.layers)?;
        // It could have been removed before it was held.
        Ok(self.images.intact(id)?.map(|image| image.layers).filter(|layers| *layers == found.layers))
    }

    /// Whether a held blob is in the store, whole.
    ///
    /// # Errors
    /// [`ImageError`] when the database or the file cannot be looked at.
    pub fn is_stored(&self, digest: &Digest, size_bytes: u64) -> Result<bool, ImageError> {
        let recorded = self.images.database().read(|connection| {
            let query = "SELECT 1 FROM blobs WHERE digest = ?1";
            Ok::<_, ImageError>(connection.query_row(query, [digest.as_str()], |_| Ok(())).optional()?)
        })?;
        Ok(recorded.is_some() && self.images.content().size_bytes(digest)? == Some(size_bytes))
    }

    /// Where a blob is, or will be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.images.content().path(digest)
    }

    /// Opens a blob; see [`crate::content::Content::open`].
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn open(&self, digest: &Digest) -> Result<File, ImageError> {
        Ok(self.images.content().open(digest)?)
    }

    /// Reads a small blob; see [`crate::content::Content::read`].
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, ImageError> {
        Ok(self.images.content().read(digest, limit_bytes)?)
    }

    /// Begins a blob; see [`crate::content::Content::writer_of`].
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn writer_of(&self, digest: &Digest) -> Result<BlobWriter, ImageError> {
        Ok(self.images.content().writer_of(digest, self.holder.lease())?)
    }

    /// Begins a blob of unknown digest; see [`crate::content::Content::writer`].
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn writer(&self) -> Result<BlobWriter, ImageError> {
        Ok(self.images.content().writer(self.holder.lease())?)
    }

    /// Begins a blob that comes over the network, or goes on with what an earlier process left of it when `resume` says so.
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn partial(&self, digest: &Digest, size_bytes: u64, resume: bool) -> Result<PartialBlob, ImageError> {
        let begin = if resume { PartialBlob::resume } else { PartialBlob::create };
        Ok(begin(self.images.content(), digest, size_bytes, self.holder.lease())?)
    }

    /// Holds a sealed blob and keeps it until [`Holds::settle`].
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be written.
    pub fn keep(&self, sealed: SealedBlob, media_type: &str) -> Result<StoredBlob, ImageError> {
        let blob = StoredBlob {
            digest: sealed.digest.clone(),
            size_bytes: sealed.size_bytes,
            media_type: media_type.to_owned(),
        };
        self.hold(&[(HoldKind::Blob, &blob.digest)])?;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push((sealed, media_type.to_owned()));
        Ok(blob)
    }

    /// Gives every kept blob its name and records it.
    ///
    /// # Errors
    /// [`ImageError`] from syncing, renaming or the database.
    pub fn settle(&self) -> Result<(), ImageError> {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        let rows: Vec<_> =
            kept.iter().map(|(blob, media_type)| (blob.digest.clone(), blob.size_bytes, media_type.clone())).collect();
        // Also over files of those names, which could be damaged; these are verified.
        place_all(kept.into_iter().map(|(blob, _)| blob).collect())?;
        self.images.database().write(|transaction| {
            rows.iter()
                .try_for_each(|(digest, size_bytes, media_type)| record(transaction, digest, *size_bytes, media_type))
        })
    }

    /// Lets the next download go on with the kept blobs, as the image comes to nothing now.
    pub(crate) fn leave_unfinished(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter_mut().for_each(|(blob, _)| blob.keep_unfinished());
        kept.clear();
    }

    /// Holds a sealed blob, gives it its name and records it.
    ///
    /// # Errors
    /// [`ImageError`] from renaming or the database.
    pub fn admit(&self, sealed: SealedBlob, media_type: &str) -> Result<StoredBlob, ImageError> {
        let digest = sealed.digest.clone();
        let size_bytes = sealed.size_bytes;
        self.hold(&[(HoldKind::Blob, &digest)])?;
        // Also over a file of that name, which could be damaged; this one is verified.
        sealed.put_in_place()?;
        self.images.database().write(|transaction| record(transaction, &digest, size_bytes, media_type))?;
        Ok(StoredBlob { digest, size_bytes, media_type: media_type.to_owned() })
    }

    /// Stores a document that is in memory and has this digest.
    ///
    /// # Errors
    /// As [`Holds::admit`], and [`crate::content::ContentError::WrongDigest`].
    pub fn admit_bytes(&self, digest: &Digest, bytes: &[u8], media_type: &str) -> Result<StoredBlob, ImageError> {
        let blob = self.keep_bytes(digest, bytes, media_type)?;
        self.settle()?;
        Ok(blob)
    }

    /// Stores a document that is in memory and has this digest, when the others are settled.
    ///
    /// # Errors
    /// As [`Holds::keep`], and [`crate::content::ContentError::WrongDigest`].
    pub fn keep_bytes(&self, digest: &Digest, bytes: &[u8], media_type: &str) -> Result<StoredBlob, ImageError> {
        self.hold(&[(HoldKind::Blob, digest)])?;
        let size_bytes = bytes.len() as u64;
        if self.is_stored(digest, size_bytes)?
            && self.images.content().read(digest, size_bytes).is_ok_and(|stored| stored == bytes)
        {
            return Ok(StoredBlob { digest: digest.clone(), size_bytes, media_type: media_type.to_owned() });
        }
        let mut writer = self.writer_of(digest)?;
        writer.append(bytes)?;
        self.keep(writer.seal_unsynced_as(digest, None)?, media_type)
    }

    fn let_go(&self) -> Result<(), ImageError> {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        self.images.database().write(|transaction| Ok::<_, ImageError>(self.holder.let_go(transaction)?))?;
        self.images.collect_blobs(&held)?;
        Ok(())
    }
}

fn record(transaction: &Transaction<'_>, digest: &Digest, size_bytes: u64, media_type: &str) -> Result<(), ImageError> {
    transaction.execute(
        "INSERT INTO blobs VALUES (?1, ?2, ?3) ON CONFLICT (digest) DO UPDATE SET size_bytes = excluded.size_bytes",
        (digest.as_str(), size_bytes.cast_signed(), media_type),
    )?;
    Ok(())
}

impl Drop for Holds<'_> {
    fn drop(&mut self) {
        // Whatever stays behind belongs to a process that is about to end, and the next sweep takes it. On a full disk
        // that is the way of things, and the user hears of the disk already.
        if let Err(error) = self.let_go() {
            tracing::debug!("cannot let go of blobs on their way: {error}");
        }
    }
}
