//! Index, manifest and configuration of an image, in an OCI layout whose digests are right, so that what is behind them
//! is reached: the image is taken or refused, and one that is taken has as many layers as diff ids.
//!
//! The input is the three documents with NULs between; `@M` and `@C` in them become the digest of the manifest and of
//! the configuration, `@m` and `@c` their sizes.
#![no_main]

use std::cell::OnceCell;

use hull_image::archive::{LoadOptions, load};
use hull_image::{ImageStore, NoProgress};
use hull_oci::Digest;
use hull_store::{Roots, Store};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: OnceCell<(tempfile::TempDir, Roots, Store)> = const { OnceCell::new() };
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content.as_bytes()).expect("memory");
}

fn filled(text: &str, mark: char, blob: &str) -> String {
    let digest = Digest::sha256_of(blob.as_bytes());
    let small = mark.to_ascii_lowercase();
    text.replace(&format!("@{mark}"), digest.as_str()).replace(&format!("@{small}"), &blob.len().to_string())
}

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, '\0');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    let (index, manifest, configuration) = (part(), part(), part());
    let manifest = filled(&manifest, 'C', &configuration);
    let index = filled(&index, 'M', &manifest);
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    append(&mut tar, "index.json", &index);
    for blob in [&manifest, &configuration, &String::new()] {
        append(&mut tar, &format!("blobs/sha256/{}", Digest::sha256_of(blob.as_bytes()).hex()), blob);
    }
    let archive = tar.into_inner().expect("memory");
    PLACE.with(|place| {
        let (_folder, roots, store) = place.get_or_init(|| {
            let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
            let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
            let store = Store::open(&roots).expect("a store");
            (folder, roots, store)
        });
        let images = ImageStore::new(store, roots);
        match load(&images, &archive[..], &LoadOptions::default(), &NoProgress) {
            Ok(loaded) => {
                for image in loaded {
                    assert_eq!(image.layers.len(), image.configuration.rootfs().diff_ids().len());
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
});
