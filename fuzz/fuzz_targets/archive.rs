//! An archive of images, as docker, podman or somebody else writes it: it is loaded or refused, and when its images are
//! not made present nothing of it stays in the store.
#![no_main]

use std::cell::OnceCell;
use std::path::Path;

use hull_image::archive::{LoadOptions, load};
use hull_image::{ImageStore, NoProgress};
use hull_store::{Roots, Store};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: OnceCell<(tempfile::TempDir, Roots, Store)> = const { OnceCell::new() };
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with(|place| {
        let (_folder, roots, store) = place.get_or_init(|| {
            let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
            let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
            let store = Store::open(&roots).expect("a store");
            (folder, roots, store)
        });
        let images = ImageStore::new(store, roots);
        let options = LoadOptions { archive_bytes_max: Some(1 << 20), ..LoadOptions::default() };
        match load(&images, bytes, &options, &NoProgress) {
            Ok(loaded) => assert!(!loaded.is_empty(), "an archive without images is refused"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert_eq!(files(&roots.content()), 0, "something is left");
    });
});
