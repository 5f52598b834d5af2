//! Images made from nothing, and a store in a temporary folder.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;

use hull_image::{ImageStore, LayerDescriptor, LayerEvent, LayerSink, PackedLayer, Progress, SinkError};
use hull_oci::Digest;
use hull_oci::image as media;
use hull_store::{Roots, Store};
use serde_json::json;

/// A store that is gone with the test.
pub struct Hull {
    _folder: tempfile::TempDir,
    pub roots: Roots,
    pub store: Store,
}

impl Hull {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
        let store = Store::open(&roots).expect("opens");
        Self { _folder: folder, roots, store }
    }

    pub fn images(&self) -> ImageStore<'_> {
        ImageStore::new(&self.store, &self.roots)
    }

    /// Files of the content store, temporary ones included.
    pub fn files(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).expect("lists").map(|entry| entry.expect("entry").path());
            entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        count(&self.roots.content())
    }

    pub fn rows(&self, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM {table}");
        let read = |connection: &rusqlite::Connection| {
            Ok::<i64, hull_store::StoreError>(connection.query_row(&query, [], |row| row.get(0))?)
        };
        self.store.read(read).expect("table exists")
    }

    /// Asserts that a failure left nothing: no file, no row.
    pub fn assert_empty(&self) {
        for table in ["images", "image_names", "blobs", "image_blobs", "image_layers", "holds"] {
            assert_eq!(self.rows(table), 0, "{table}");
        }
        assert_eq!(self.files(), 0);
    }
}

/// A blob with its media type.
#[derive(Debug, Clone)]
pub struct Blob {
    pub media_type: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { media_type: media_type.to_owned(), bytes: bytes.into() }
    }

    pub fn digest(&self) -> Digest {
        Digest::sha256_of(&self.bytes)
    }

    pub fn descriptor(&self) -> serde_json::Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// An image in all its parts.
#[derive(Debug, Clone)]
pub struct TestImage {
    pub config: Blob,
    /// Uncompressed tars.
    pub tars: Vec<Vec<u8>>,
    /// The layers as they travel.
    pub layers: Vec<Blob>,
    pub manifest: Blob,
}

/// A tar with one file per name, whose content is the name repeated.
pub fn tar_of(names: &[&str], repeat: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let content = name.repeat(repeat);
        append(&mut builder, name, content.as_bytes());
    }
    builder.into_inner().expect("memory")
}

pub fn append<W: Write>(builder: &mut tar::Builder<W>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).expect("memory");
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

impl TestImage {
    /// An OCI image with gzip layers.
    pub fn new(architecture: &str, tars: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::sha256_of(tar)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2025-03-04T05:06:07Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": tars.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        });
        let config = Blob::new(media::OCI_CONFIG, config.to_string());
        let layers: Vec<Blob> = tars.iter().map(|tar| Blob::new(media::OCI_LAYER_GZIP, gzip(tar))).collect();
        let manifest = manifest_of(&config, &layers);
        Self { config, tars: tars.to_vec(), layers, manifest }
    }

    pub fn id(&self) -> Digest {
        self.config.digest()
    }
}

pub fn manifest_of(config: &Blob, layers: &[Blob]) -> Blob {
    let text = json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config.descriptor(),
        "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    Blob::new(media::OCI_MANIFEST, text.to_string())
}

/// A sink that unpacks gzip and plain layers in memory and checks their diff ids.
#[derive(Default)]
pub struct CheckingSink {
    pub delivered: Mutex<Vec<usize>>,
    pub fail_at: Option<usize>,
}

impl LayerSink for CheckingSink {
    fn layer(&self, index: usize, layer: &LayerDescriptor, mut packed: PackedLayer) -> Result<(), SinkError> {
        if self.fail_at == Some(index) {
            return Err("the sink is full".into());
        }
        let mut bytes = Vec::new();
        packed.read_to_end(&mut bytes)?;
        let tar = match bytes.starts_with(&[0x1f, 0x8b]) {
            true => std::io::read_to_string(flate2::read::GzDecoder::new(&bytes[..])).map(String::into_bytes)?,
            false => bytes,
        };
        if Digest::sha256_of(&tar) != layer.diff_id {
            return Err("another diff id".into());
        }
        self.delivered.lock().expect("no panic").push(index);
        Ok(())
    }
}

/// Remembers events.
#[derive(Default)]
pub struct Recorder {
    pub events: Mutex<Vec<(Digest, LayerEvent)>>,
    pub warnings: Mutex<Vec<String>>,
}

impl Recorder {
    pub fn count(&self, wanted: impl Fn(&LayerEvent) -> bool) -> usize {
        self.events.lock().expect("no panic").iter().filter(|(_, event)| wanted(event)).count()
    }
}

impl Progress for Recorder {
    fn layer(&self, blob: &Digest, event: LayerEvent) {
        self.events.lock().expect("no panic").push((blob.clone(), event));
    }

    fn warning(&self, message: &str) {
        self.warnings.lock().expect("no panic").push(message.to_owned());
    }
}

/// An error and its causes, as a user reads them.
pub fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
