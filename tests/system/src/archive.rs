//! Images made for one test: layers written with the tar crate, a configuration, a docker-archive around them.
//!
//! An [`Image`] starts from the busybox layer that the lane provides, so that every image can run a shell.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// An image to be.
pub struct Image {
    /// Names, such as `wishes:latest`.
    pub names: Vec<String>,
    /// What docker calls `config`: Env, Cmd and so on.
    pub config: Value,
    /// Layers, lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// Busybox under another name and with another configuration.
    pub fn new(name: &str, config: Value) -> Image {
        Image { names: vec![name.to_owned()], config, layers: vec![busybox_layer()] }
    }

    /// With one more layer.
    pub fn layer(mut self, layer: Layer) -> Image {
        self.layers.push(layer.bytes());
        self
    }

    /// The configuration document, its fields in the order of Go's types: tools that convert a configuration write it
    /// anew, and then it stays what it is.
    pub fn document(&self) -> Vec<u8> {
        let ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let (config, ids) = (&self.config, json!(ids));
        format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":{ids}}}}}"#
        )
        .into_bytes()
    }

    /// Writes a docker-archive.
    pub fn write(&self, path: &Path) {
        let config = self.document();
        let mut out = Layer::new();
        let paths: Vec<String> = self.layers.iter().map(|layer| format!("{}/layer.tar", hex(layer))).collect();
        for (path, layer) in paths.iter().zip(&self.layers) {
            out = out.file(path, layer);
        }
        let name = format!("{}.json", hex(&config));
        let manifest = json!([{"Config": name, "RepoTags": self.names, "Layers": paths}]);
        let manifest = serde_json::to_vec(&manifest).expect("JSON from JSON");
        let bytes = out.file(&name, &config).file("manifest.json", &manifest).bytes();
        File::create(path).and_then(|mut file| file.write_all(&bytes)).expect("writing an archive");
    }
}

/// A layer, or any other tar.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// With nothing in it.
    pub fn new() -> Layer {
        Layer { tar: tar::Builder::new(Vec::new()) }
    }

    /// With a file of mode 0644.
    pub fn file(self, path: &str, bytes: &[u8]) -> Layer {
        let mut header = header(EntryType::Regular, 0o644);
        header.set_size(bytes.len() as u64);
        self.entry(header, path, "", bytes)
    }

    /// With a folder of that mode and owner.
    pub fn folder(self, path: &str, mode: u32, owner: u64) -> Layer {
        let mut header = header(EntryType::Directory, mode);
        header.set_uid(owner);
        header.set_gid(owner);
        self.entry(header, path, "", &[])
    }

    /// With a symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.entry(header(EntryType::Symlink, 0o777), path, target, &[])
    }

    /// With a hard link.
    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.entry(header(EntryType::Link, 0o644), path, target, &[])
    }

    /// With a character device.
    pub fn device(self, path: &str, major: u32, minor: u32) -> Layer {
        let mut header = header(EntryType::Char, 0o600);
        header.set_device_major(major).expect("a header with device numbers");
        header.set_device_minor(minor).expect("a header with device numbers");
        self.entry(header, path, "", &[])
    }

    /// The path and the link go into the header as they are, without the checks of the tar crate.
    fn entry(mut self, mut header: Header, path: &str, link: &str, bytes: &[u8]) -> Layer {
        let raw = header.as_old_mut();
        raw.name[..path.len()].copy_from_slice(path.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.tar.append(&header, bytes).expect("writing to memory");
        self
    }

    /// The tar.
    pub fn bytes(self) -> Vec<u8> {
        self.tar.into_inner().expect("writing to memory")
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mtime(1_704_067_200);
    header
}

/// The only layer of the busybox image.
pub fn busybox_layer() -> Vec<u8> {
    let mut archive = tar::Archive::new(File::open(crate::image("busybox.docker.tar")).expect("the busybox image"));
    let entries = archive.entries().expect("a tar");
    let mut layers =
        entries.map(|entry| entry.expect("an entry")).filter(|entry| entry.path_bytes().ends_with(b".tar"));
    let mut bytes = Vec::new();
    layers.next().expect("a layer in the busybox image").read_to_end(&mut bytes).expect("the layer");
    bytes
}

/// `sha256:` and the digest.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
