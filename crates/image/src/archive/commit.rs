//! `commit`: an image and a new layer become another image.
//!
//! The layer arrives as an uncompressed tar and is hashed and compressed while it passes, so memory is bounded. gzip
//! at its usual level without a time in its header: equal layers are equal blobs. The configuration is the base's with
//! every field that Hull does not know, without docker's notes about how the base was built; an empty layer is not
//! kept, only its line of history.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::{Compression, GzBuilder};
use hull_oci::image as media;
use hull_oci::{Digest, Reference};
use serde_json::{Map, Value, json};

use super::ArchiveError;
use super::changes::apply_changes;
use crate::content::{BlobWriter, Hasher};
use crate::image::{chain_ids, parse_configuration};
use crate::store::refuse_digest;
use crate::{Holds, Image, ImageError, ImageStore, LayerDescriptor, LayerEvent, NewImage, Progress, StoredBlob};

/// Fields of a configuration that tell of the base's making, not of the image.
const NOT_INHERITED: [&str; 6] =
    ["id", "parent", "container", "container_config", "docker_version", "moby.buildkit.buildinfo.v1"];

/// What the image is to be besides its files.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Its name; without one it is found by id.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: Option<String>,
    /// Comment in the history.
    pub message: Option<String>,
    /// Fields of `config` as the container has them; empty ones are left out of the image.
    pub config: Vec<(&'static str, Value)>,
    /// What the history says that was run.
    pub command: Vec<String>,
    /// Dockerfile instructions on top of that.
    pub changes: Vec<String>,
    /// When it is made.
    pub created: jiff::Timestamp,
}

/// Makes an image of `base` and the layer that `write_layer` writes, which says how many entries it has; stored and
/// held, to be unpacked and added.
///
/// # Errors
/// [`ArchiveError`] and those of `write_layer`; nothing is left then.
pub fn commit<'a, E: From<ArchiveError>>(
    images: &'a ImageStore<'a>,
    base: &Image,
    options: &CommitOptions,
    progress: &dyn Progress,
    write_layer: impl FnOnce(&mut dyn Write) -> Result<u64, E>,
) -> Result<NewImage<'a>, E> {
    options.reference.iter().try_for_each(refuse_digest).map_err(ArchiveError::from)?;
    let config = configured(images, base, options)?;
    let holds = Arc::new(Holds::new(images).map_err(ArchiveError::from)?);
    let inherited = holds.existing_layers(&base.id).map_err(ArchiveError::from)?;
    let mut layers = inherited.ok_or_else(|| ArchiveError::from(ImageError::NotFound { name: base.id.to_string() }))?;
    let layer = spool_layer(&holds, write_layer)?;
    if let Some((layer, diff_id)) = &layer {
        progress.layer(&layer.digest, LayerEvent::Downloaded);
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| &layer.diff_id).chain([diff_id]).cloned().collect();
        let chain_id = chain_ids(&diff_ids).pop().unwrap_or_else(|| diff_id.clone());
        let StoredBlob { digest, size_bytes, media_type } = layer.clone();
        layers.push(LayerDescriptor { diff_id: diff_id.clone(), chain_id, digest, media_type, size_bytes });
    }
    holds.hold_layers(&layers).map_err(ArchiveError::from)?;
    Ok(finished(&holds, config, &layers, layer.is_none(), options)?)
}

/// Stores the configuration and gives the image.
fn finished<'a>(
    holds: &Arc<Holds<'a>>,
    mut document: Map<String, Value>,
    layers: &[LayerDescriptor],
    is_empty: bool,
    options: &CommitOptions,
) -> Result<NewImage<'a>, ArchiveError> {
    let history = document.entry("history").or_insert_with(|| json!([]));
    if let Some(lines) = history.as_array_mut() {
        lines.push(line_of_history(options, is_empty));
    }
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    document.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
    let bytes = Value::Object(document).to_string().into_bytes();
    let id = Digest::sha256_of(&bytes);
    let configuration =
        parse_configuration(&bytes).map_err(|source| ArchiveError::document("configuration", source))?;
    let blob = holds.admit_bytes(&id, &bytes, media::OCI_CONFIG)?;
    Ok(NewImage {
        id,
        manifest_digest: None,
        pulled_digest: None,
        names: options.reference.iter().cloned().collect(),
        configuration,
        blobs: layers.iter().map(StoredBlob::from).chain([blob]).collect(),
        layers: layers.to_vec(),
        holds: Arc::clone(holds),
    })
}

/// The base's configuration with the container's fields and the instructions in it.
fn configured(
    images: &ImageStore<'_>,
    base: &Image,
    options: &CommitOptions,
) -> Result<Map<String, Value>, ArchiveError> {
    let bytes = images.configuration_bytes(&base.id)?;
    let mut document: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| ArchiveError::invalid("configuration", "object", error))?;
    document.retain(|key, _| !NOT_INHERITED.contains(&key.as_str()));
    let mut config = match document.remove("config") {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    for (key, value) in &options.config {
        match is_empty(value) {
            true => _ = config.remove(*key),
            false => _ = config.insert((*key).to_owned(), value.clone()),
        }
    }
    document.insert("config".to_owned(), apply_changes(config, &options.changes)?);
    document.insert("created".to_owned(), json!(options.created.to_string()));
    match &options.author {
        Some(author) => document.insert("author".to_owned(), json!(author)),
        None => document.remove("author"),
    };
    Ok(document)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn line_of_history(options: &CommitOptions, is_empty: bool) -> Value {
    let mut line = Map::new();
    line.insert("created".to_owned(), json!(options.created.to_string()));
    let texts = [
        ("author", options.author.clone()),
        ("created_by", Some(options.command.join(" "))),
        ("comment", options.message.clone()),
    ];
    for (key, text) in texts {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            line.insert(key.to_owned(), json!(text));
        }
    }
    if is_empty {
        line.insert("empty_layer".to_owned(), json!(true));
    }
    Value::Object(line)
}

/// Hashes what passes and hands it on.
struct Hashed<W> {
    output: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The layer as a gzip blob and its diff id; none when it has no entry.
fn spool_layer<E: From<ArchiveError>>(
    holds: &Holds<'_>,
    write_layer: impl FnOnce(&mut dyn Write) -> Result<u64, E>,
) -> Result<Option<(StoredBlob, Digest)>, E> {
    let blob: BlobWriter = holds.writer().map_err(ArchiveError::from)?;
    let output = GzBuilder::new().write(blob, Compression::default());
    let mut hashed = Hashed { output, hasher: Hasher::default() };
    if write_layer(&mut hashed)? == 0 {
        return Ok(None);
    }
    let blob = hashed.output.finish().map_err(ArchiveError::from)?;
    let sealed = blob.seal().map_err(ArchiveError::from)?;
    let stored = holds.admit(sealed, media::OCI_LAYER_GZIP).map_err(ArchiveError::from)?;
    Ok(Some((stored, hashed.hasher.finish())))
}
