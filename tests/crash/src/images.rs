//! The images that the rounds are about: small, of several layers, two of which they share.
//!
//! Layers have what makes unpacking interesting: folders, links of both kinds, attributes, a whiteout. Each image can be
//! pulled from [`crate::registry`] and loaded from a docker-archive, under the same name and with the same id.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// The folder that is copied into a new volume.
pub const VOLUME_SOURCE: &str = "/data";
/// How many images there are.
pub const COUNT: usize = 3;

/// One image.
pub struct Image {
    /// Name below the registry, such as `crash/0:latest`.
    pub repository: String,
    /// Configuration document.
    pub config: Vec<u8>,
    /// Uncompressed layers.
    pub layers: Vec<Vec<u8>>,
}

/// `sha256:` and the digest.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A layer as a registry has it.
pub fn compressed(layer: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(layer).and_then(|()| out.finish()).expect("compressing in memory")
}

impl Image {
    /// All of them.
    pub fn all() -> Vec<Image> {
        (0..COUNT).map(Image::numbered).collect()
    }

    fn numbered(number: usize) -> Image {
        let layers = match number {
            0 => vec![base(), changes(0)],
            1 => vec![base(), changes(0), changes(1)],
            _ => vec![changes(2)],
        };
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Labels": {"number": number.to_string()}},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = serde_json::to_vec(&config).expect("JSON from JSON");
        Image { repository: format!("crash/{number}"), config, layers }
    }

    /// Its id.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// A docker-archive that gives it this name.
    pub fn archive(&self, name: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let names: Vec<String> = (0..self.layers.len()).map(|number| format!("{number}/layer.tar")).collect();
        let config = format!("{}.json", &self.id()["sha256:".len()..]);
        let manifest = json!([{"Config": config, "RepoTags": [name], "Layers": names}]);
        let manifest = serde_json::to_vec(&manifest).expect("JSON from JSON");
        for (name, layer) in names.iter().zip(&self.layers) {
            file(&mut tar, name, layer);
        }
        file(&mut tar, &config, &self.config);
        file(&mut tar, "manifest.json", &manifest);
        tar.into_inner().expect("writing to memory")
    }
}

type Tar = tar::Builder<Vec<u8>>;

/// A folder of files, of which one is larger than a page.
fn base() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, EntryType::Directory, "bin", "", 0o755, &[]);
    entry(&mut tar, EntryType::Regular, "bin/true", "", 0o755, b"#!/bin/sh\n");
    entry(&mut tar, EntryType::Directory, "data", "", 0o750, &[]);
    for number in 0..4 {
        let bytes = vec![b'a' + number; 1000 << number];
        entry(&mut tar, EntryType::Regular, &format!("data/{number}"), "", 0o640, &bytes);
    }
    entry(&mut tar, EntryType::Symlink, "bin/false", "true", 0o777, &[]);
    entry(&mut tar, EntryType::Link, "bin/also", "bin/true", 0o755, &[]);
    tar.into_inner().expect("writing to memory")
}

/// A layer that adds and, where there is something below, removes.
fn changes(number: u8) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, EntryType::Directory, &format!("only-{number}"), "", 0o700, &[]);
    entry(&mut tar, EntryType::Regular, &format!("only-{number}/file"), "", 0o600, &[number; 5000]);
    entry(&mut tar, EntryType::Directory, "data", "", 0o755, &[]);
    entry(&mut tar, EntryType::Regular, "data/changed", "", 0o644, &[b'0' + number; 70]);
    if number == 1 {
        entry(&mut tar, EntryType::Regular, "data/.wh.2", "", 0o644, &[]);
    }
    tar.into_inner().expect("writing to memory")
}

fn file(tar: &mut Tar, path: &str, bytes: &[u8]) {
    entry(tar, EntryType::Regular, path, "", 0o644, bytes);
}

fn entry(tar: &mut Tar, kind: EntryType, path: &str, link: &str, mode: u32, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_704_067_200);
    header.set_size(bytes.len() as u64);
    header.set_path(path).expect("a short path");
    if !link.is_empty() {
        header.set_link_name(link).expect("a short path");
    }
    header.set_cksum();
    tar.append(&header, bytes).expect("writing to memory");
}
