//! The image store: which images there are, under which names, made of which blobs and layers.
//!
//! Write order of a new image: its blobs are in the content store, synced, and held; its layers are unpacked; then one
//! durable transaction writes image, names, blobs and layers, and the image is present. Removal runs backwards: one
//! durable transaction takes the rows away, then what nobody refers to or holds is collected. A crash in between
//! leaves blobs without an image, which [`ImageStore::sweep`] takes, never an image without blobs.

use hull_oci::{Digest, Reference};
use hull_store::{Lease, Roots, Store, blob_is_used, release_dead};
use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::content::{Content, ContentError};
use crate::image::{chain_ids, created, diff_ids, parse_configuration};
use crate::travels::write_sources;
use crate::unasked::{ask, unask, was_asked_before};
use crate::{DOCUMENT_BYTES_MAX, Image, ImageError, LayerDescriptor, ManifestError, NewImage};

/// How often an image is looked at that others remove and add again meanwhile.
const ATTEMPTS: u32 = 5;

/// Fewest digits of an id prefix.
const PREFIX_LENGTH_MIN: usize = 4;

/// Names, images and the blobs they need.
#[derive(Debug)]
pub struct ImageStore<'a> {
    store: &'a Store,
    content: Content,
}

impl<'a> ImageStore<'a> {
    /// The image store of a Hull; nothing is touched.
    pub fn new(store: &'a Store, roots: &Roots) -> Self {
        Self { store, content: Content::new(roots) }
    }

    /// The blobs.
    pub fn content(&self) -> &Content {
        &self.content
    }

    pub(crate) fn database(&self) -> &'a Store {
        self.store
    }

    /// Finds an image by what a user writes: a name (`debian`, `debian:12`, `debian@sha256:...`), an id
    /// (`sha256:<64 digits>` or the digits alone), or at least four digits that begin exactly one id. A name comes
    /// before an id prefix, as docker has it.
    ///
    /// # Errors
    /// [`ImageError::Ambiguous`] names the matches; [`ImageError::Reference`] when the text is neither name nor id.
    pub fn resolve(&self, text: &str) -> Result<Option<Image>, ImageError> {
        match self.store.read(|connection| find(connection, text))? {
            Some(Found { id, .. }) => self.get(&id),
            None => Ok(None),
        }
    }

    /// The image with this id.
    ///
    /// # Errors
    /// [`ImageError::Content`] when its configuration is missing or damaged.
    pub fn get(&self, id: &Digest) -> Result<Option<Image>, ImageError> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let Some(record) = self.store.read(|connection| self.record(connection, id))? else {
                return Ok(None);
            };
            match self.configuration_bytes(id) {
                // Whoever removes the image right now has taken its row away first: what is true shows once that is over.
                Err(ImageError::Content(ContentError::Missing { .. })) if attempts.next().is_some() => {
                    self.store.write(|_| Ok::<_, ImageError>(()))?;
                }
                bytes => {
                    let config = parse_configuration(&bytes?)?;
                    return Ok(Some(Image { created: created(&config), config, ..record }));
                }
            }
        }
    }

    /// The configuration of an image exactly as it was stored, with fields that [`Image::config`] has no place for.
    ///
    /// # Errors
    /// [`ImageError::Content`] when it is missing or damaged.
    pub fn configuration_bytes(&self, id: &Digest) -> Result<Vec<u8>, ImageError> {
        Ok(self.content.read(id, DOCUMENT_BYTES_MAX)?)
    }

    /// All images, the newest first. One whose configuration cannot be read is left out with a warning in the log.
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let ids: Vec<String> = self.store.read(|connection| strings(connection, "SELECT id FROM images", []))?;
        let mut images = Vec::with_capacity(ids.len());
        for id in ids {
            match self.get(&digest(&id)?) {
                Ok(image) => images.extend(image),
                Err(error @ (ImageError::Content(_) | ImageError::Manifest(_))) => {
                    tracing::warn!("image {id} is left out: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// What each layer of an image takes unpacked, lowest first, in bytes; its blob's size while it is not unpacked.
    ///
    /// # Errors
    /// [`ImageError`] when the database cannot be read.
    pub fn layer_sizes(&self, id: &Digest) -> Result<Vec<u64>, ImageError> {
        let query =
            "SELECT coalesce((SELECT max(size_bytes) FROM layers WHERE layers.chain_id = image_layers.chain_id),
                (SELECT size_bytes FROM blobs WHERE blobs.digest = image_layers.digest), 0)
            FROM image_layers WHERE image_id = ?1 ORDER BY position";
        self.store.read(|connection| {
            let mut statement = connection.prepare_cached(query)?;
            let rows = statement.query_map([id.as_str()], |row| row.get::<_, i64>(0))?;
            Ok(rows.map(|size| size.map(i64::cast_unsigned)).collect::<Result<_, _>>()?)
        })
    }

    /// An image all of whose blobs are in the content store with the right size, and whose layers are those that its
    /// configuration lists.
    ///
    /// # Errors
    /// [`ImageError`] when the database or a file cannot be looked at.
    pub fn intact(&self, id: &Digest) -> Result<Option<Image>, ImageError> {
        let image = match self.get(id) {
            Err(ImageError::Content(ContentError::Missing { .. } | ContentError::WrongDigest { .. })) => None,
            other => other?,
        };
        let Some(image) = image else { return Ok(None) };
        let wanted = diff_ids(&image.config).map_err(ManifestError::from)?;
        let recorded = image.layers.iter().map(|layer| (&layer.diff_id, &layer.chain_id));
        if !recorded.eq(wanted.iter().zip(&chain_ids(&wanted))) {
            return Ok(None);
        }
        for layer in &image.layers {
            if self.content.size_bytes(&layer.digest)? != Some(layer.size_bytes) {
                return Ok(None);
            }
        }
        Ok(Some(image))
    }

    /// Makes a new image present, durably: its blobs must be stored and held, and its layers unpacked by now. Names
    /// that another image had move here.
    ///
    /// # Errors
    /// [`ImageError`] when the database refuses.
    pub fn add(&self, image: &NewImage<'_>) -> Result<Image, ImageError> {
        self.write(image, |transaction| {
            write_image(transaction, image)?;
            ask(transaction, &image.id)
        })
    }

    /// As [`ImageStore::add`], for an image that nobody asked for by itself.
    ///
    /// # Errors
    /// As [`ImageStore::add`].
    pub fn add_unasked(&self, image: &NewImage<'_>) -> Result<Image, ImageError> {
        self.write(image, |transaction| {
            let was_asked = was_asked_before(transaction, image)?;
            write_image(transaction, image)?;
            if was_asked { ask(transaction, &image.id) } else { unask(transaction, &image.id) }
        })
    }

    fn write(
        &self,
        image: &NewImage<'_>,
        rows: impl Fn(&Transaction<'_>) -> Result<(), ImageError>,
    ) -> Result<Image, ImageError> {
        let record = self.store.write_durable(|transaction| {
            rows(transaction)?;
            self.record(transaction, &image.id)
        })?;
        let record = record.ok_or_else(|| ImageError::NotFound { name: image.id.to_string() })?;
        let config = image.configuration.clone();
        Ok(Image { created: created(&config), config, ..record })
    }

    /// Gives an image another name, which moves here when another image had it.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::TagWithDigest`].
    pub fn tag(&self, source: &str, target: &Reference) -> Result<(), ImageError> {
        refuse_digest(target)?;
        self.store.write_durable(|transaction| {
            let found = find(transaction, source)?.ok_or_else(|| ImageError::NotFound { name: source.to_owned() })?;
            write_name(transaction, target, &found.id, None)?;
            ask(transaction, &found.id)
        })
    }

    /// Removes blobs that no image refers to, among those given, unless a living process holds them.
    pub(crate) fn collect_blobs(&self, digests: &[Digest]) -> Result<usize, ImageError> {
        if digests.is_empty() {
            return Ok(0);
        }
        let lease = Lease::current()?;
        let discarded = self.store.write(|transaction| {
            let mut discarded = Vec::new();
            for digest in digests {
                if blob_is_used(transaction, digest.as_str())? {
                    continue;
                }
                transaction.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?.execute([digest.as_str()])?;
                discarded.extend(self.content.take_out(digest, &lease)?);
            }
            Ok::<_, ImageError>(discarded)
        })?;
        Ok(discarded.len())
    }

    /// Removes what killed processes left: their temporary files, and blobs that no image refers to and nobody holds.
    /// Says how many files went.
    ///
    /// # Errors
    /// [`ImageError`] when the database or the content store cannot be read or written.
    pub fn sweep(&self) -> Result<usize, ImageError> {
        self.store.write(|transaction| Ok::<_, ImageError>(release_dead(transaction)?))?;
        let mut candidates = self.content.digests()?;
        let unreferenced = "SELECT digest FROM blobs
            WHERE digest NOT IN (SELECT digest FROM image_blobs) AND digest NOT IN (SELECT digest FROM image_layers)";
        for text in self.store.read(|connection| strings(connection, unreferenced, []))? {
            candidates.push(digest(&text)?);
        }
        candidates.sort();
        candidates.dedup();
        Ok(self.collect_blobs(&candidates)? + self.content.sweep()?)
    }

    /// What the database alone knows about an image; the configuration is empty.
    fn record(&self, connection: &Connection, id: &Digest) -> Result<Option<Image>, ImageError> {
        let row = connection
            .prepare_cached("SELECT manifest_digest, size_bytes, created_at FROM images WHERE id = ?1")?
            .query_row([id.as_str()], |row| {
                Ok((row.get::<_, Option<String>>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })
            .optional()?;
        let Some((manifest_digest, blob_bytes, stored_at)) = row else {
            return Ok(None);
        };
        let damaged =
            |reason: String| ImageError::Damaged { id: id.clone(), database: self.store.path().to_path_buf(), reason };
        let stored_at = jiff::Timestamp::from_nanosecond(i128::from(stored_at))
            .map_err(|error| damaged(format!("created_at: {error}")))?;
        Ok(Some(Image {
            id: id.clone(),
            manifest_digest: manifest_digest.map(|text| digest(&text)).transpose()?,
            names: names_of(connection, id)?,
            config: hull_oci::image::ImageConfiguration::default(),
            layers: layers_of(connection, id)?,
            size_bytes: unpacked_bytes(connection, id)?.unwrap_or(blob_bytes).cast_unsigned(),
            created: None,
            stored_at,
        }))
    }
}

/// What a text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub id: Digest,
    /// The name, when it was one rather than an id.
    pub name: Option<Reference>,
}

/// Looks a text up as a name, then as an id, then as a prefix of one.
pub(crate) fn find(connection: &Connection, text: &str) -> Result<Option<Found>, ImageError> {
    let by_id = |id: &Digest| {
        let known = connection
            .prepare_cached("SELECT 1 FROM images WHERE id = ?1")?
            .query_row([id.as_str()], |_| Ok(()))
            .optional()?;
        Ok(known.map(|()| Found { id: id.clone(), name: None }))
    };
    if let Ok(id) = Digest::parse(text).or_else(|_| Digest::parse(&format!("sha256:{text}"))) {
        return by_id(&id);
    }
    let reference = Reference::parse(text);
    if let Ok(reference) = &reference {
        let name = lookup_name(reference);
        let id: Option<String> = connection
            .prepare_cached("SELECT image_id FROM image_names WHERE name = ?1")?
            .query_row([name.to_string()], |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            return Ok(Some(Found { id: digest(&id)?, name: Some(name) }));
        }
    }
    match id_prefix(text) {
        Some(prefix) => find_prefix(connection, prefix),
        None => reference.map(|_| None).map_err(ImageError::from),
    }
}

/// With a digest in it, a name is looked up by that alone, as docker does.
fn lookup_name(reference: &Reference) -> Reference {
    match &reference.digest {
        Some(digest) => reference.with_digest(digest.clone()),
        None => reference.clone(),
    }
}

fn id_prefix(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_prefix = (PREFIX_LENGTH_MIN..64).contains(&digits.len())
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_prefix.then_some(digits)
}

/// A digest is what content has, not a name that somebody gives.
pub(crate) fn refuse_digest(name: &Reference) -> Result<(), ImageError> {
    match name.digest {
        Some(_) => Err(ImageError::TagWithDigest { name: name.to_string() }),
        None => Ok(()),
    }
}

fn find_prefix(connection: &Connection, prefix: &str) -> Result<Option<Found>, ImageError> {
    // 'g' follows 'f', so this is the range of all ids that begin with the prefix.
    let (low, high) = (format!("sha256:{prefix}"), format!("sha256:{prefix}g"));
    let query = "SELECT id FROM images WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 10";
    let ids = strings(connection, query, [low.as_str(), high.as_str()])?;
    match ids.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(Found { id: digest(only)?, name: None })),
        several => {
            let mut matches = Vec::new();
            for id in several {
                let names = names_of(connection, &digest(id)?)?;
                let names: Vec<String> = names.iter().map(Reference::familiar).collect();
                matches.push(match names.is_empty() {
                    true => id.clone(),
                    false => format!("{id} ({})", names.join(", ")),
                });
            }
            Err(ImageError::Ambiguous { prefix: prefix.to_owned(), matches })
        }
    }
}

/// The names of an image, sorted.
pub(crate) fn names_of(connection: &Connection, id: &Digest) -> Result<Vec<Reference>, ImageError> {
    let query = "SELECT name FROM image_names WHERE image_id = ?1 ORDER BY name";
    let texts = strings(connection, query, [id.as_str()])?;
    texts.iter().map(|text| Ok(Reference::parse(text)?)).collect()
}

fn layers_of(connection: &Connection, id: &Digest) -> Result<Vec<LayerDescriptor>, ImageError> {
    let mut statement = connection.prepare_cached(
        "SELECT diff_id, chain_id, digest, media_type, size_bytes FROM image_layers JOIN blobs USING (digest)
         WHERE image_id = ?1 ORDER BY position",
    )?;
    let rows = statement.query_map([id.as_str()], |row| {
        let text = |column| row.get::<_, String>(column);
        Ok((text(0)?, text(1)?, text(2)?, text(3)?, row.get::<_, i64>(4)?))
    })?;
    let layer = |row: rusqlite::Result<(String, String, String, String, i64)>| {
        let (diff_id, chain_id, blob, media_type, size) = row?;
        let (diff_id, chain_id, digest) = (digest(&diff_id)?, digest(&chain_id)?, digest(&blob)?);
        Ok(LayerDescriptor { diff_id, chain_id, digest, media_type, size_bytes: size.cast_unsigned() })
    };
    rows.map(layer).collect()
}

/// What all layers of an image take unpacked; absent while one is not unpacked by any driver.
fn unpacked_bytes(connection: &Connection, id: &Digest) -> Result<Option<i64>, ImageError> {
    let query = "SELECT count(*), count(size), coalesce(sum(size), 0) FROM
        (SELECT (SELECT max(size_bytes) FROM layers WHERE layers.chain_id = image_layers.chain_id) AS size
         FROM image_layers WHERE image_id = ?1)";
    let (all, unpacked, bytes): (i64, i64, i64) = connection
        .prepare_cached(query)?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok((all == unpacked).then_some(bytes))
}

fn write_image(transaction: &Transaction<'_>, image: &NewImage<'_>) -> Result<(), ImageError> {
    image.check_names()?;
    let id = image.id.as_str();
    let size_bytes: u64 = image.layers.iter().map(|layer| layer.size_bytes).sum();
    transaction.execute(
        "INSERT INTO images VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE
         SET manifest_digest = coalesce(excluded.manifest_digest, manifest_digest), size_bytes = excluded.size_bytes",
        (id, image.manifest_digest.as_ref().map(Digest::as_str), size_bytes.cast_signed(), now()),
    )?;
    for blob in &image.blobs {
        let digest = blob.digest.as_str();
        transaction.execute(
            "INSERT INTO blobs VALUES (?1, ?2, ?3)
             ON CONFLICT (digest) DO UPDATE SET media_type = excluded.media_type WHERE media_type = ''",
            (digest, blob.size_bytes.cast_signed(), &blob.media_type),
        )?;
        transaction.execute("INSERT OR IGNORE INTO image_blobs VALUES (?1, ?2)", (id, digest))?;
    }
    transaction.execute("DELETE FROM image_layers WHERE image_id = ?1", [id])?;
    for (position, layer) in image.layers.iter().enumerate() {
        transaction.execute(
            "INSERT INTO image_layers VALUES (?1, ?2, ?3, ?4, ?5)",
            (id, position.cast_signed(), layer.chain_id.as_str(), layer.diff_id.as_str(), layer.digest.as_str()),
        )?;
    }
    if let (Some(_), Some(name)) = (&image.pulled_digest, image.names.first()) {
        write_sources(transaction, name, image.layers.iter().map(|layer| &layer.digest).chain([&image.id]))?;
    }
    for name in &image.names {
        match (&name.tag, &image.pulled_digest) {
            (Some(_), pulled) => {
                let tagged = Reference { digest: None, ..name.clone() };
                write_name(transaction, &tagged, &image.id, pulled.as_ref())?;
                if let Some(pulled) = pulled {
                    write_name(transaction, &name.with_digest(pulled.clone()), &image.id, Some(pulled))?;
                }
            }
            (None, pulled) => write_name(transaction, name, &image.id, pulled.as_ref())?,
        }
    }
    Ok(())
}

pub(crate) fn write_name(
    transaction: &Transaction<'_>,
    name: &Reference,
    id: &Digest,
    pulled: Option<&Digest>,
) -> Result<(), ImageError> {
    let before = "SELECT image_id FROM image_names WHERE name = ?1 AND image_id <> ?2";
    let loser = strings(transaction, before, [name.to_string().as_str(), id.as_str()])?;
    transaction.execute(
        "INSERT OR REPLACE INTO image_names VALUES (?1, ?2, ?3)",
        (name.to_string(), id.as_str(), pulled.map(Digest::as_str)),
    )?;
    for loser in loser {
        let loser = digest(&loser)?;
        // With its tags gone, the digests that a registry calls it by are nothing that anybody asks for.
        if names_of(transaction, &loser)?.iter().all(|name| name.digest.is_some()) {
            unask(transaction, &loser)?;
        }
    }
    Ok(())
}

/// The first column of a query's rows.
pub(crate) fn strings(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<String>, ImageError> {
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement.query_map(parameters, |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A digest that the database holds; only digests are ever written there.
pub(crate) fn digest(text: &str) -> Result<Digest, ImageError> {
    Digest::parse(text).map_err(|error| crate::manifest::invalid("digest in the database", error).into())
}

/// Nanoseconds since 1970; jiff's range is cut at the year 2262, where the column ends.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
