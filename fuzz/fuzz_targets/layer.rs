//! A layer's tar: whatever it holds, it is unpacked or refused, and nothing outside of its folder is touched.
//!
//! Needs root, as unpacking does. The folder lies beside a file and another folder, at which archives may aim.
#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hull_image::unpack::{Destination, UnpackOptions, unpack_layer};
use libfuzzer_sys::fuzz_target;

/// What would show that somebody was here.
fn facts(path: &Path) -> (u32, u32, u64, i64, i64) {
    let metadata = fs::symlink_metadata(path).expect("what was made is there");
    (metadata.mode(), metadata.uid(), metadata.len(), metadata.mtime(), metadata.ctime_nsec())
}

fuzz_target!(|bytes: &[u8]| {
    let all = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let (layer, file, folder) = (all.path().join("layer"), all.path().join("file"), all.path().join("folder"));
    fs::create_dir(&layer).and_then(|()| fs::create_dir(&folder)).expect("folders");
    fs::write(&file, "outside").expect("a file");
    let before = [&file, &folder].map(|path| facts(path));
    let options = UnpackOptions {
        entries_max: 1000,
        content_bytes_max: Some(1 << 20),
        extension_bytes_max: 1 << 16,
        ..UnpackOptions::default()
    };
    let into = File::open(&layer).expect("the folder that was made");
    match unpack_layer(bytes, Destination::Folder(into.as_fd()), &options) {
        Ok(report) => assert!(report.entries <= 1000 && report.bytes <= 1 << 20),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert_eq!([&file, &folder].map(|path| facts(path)), before, "something outside was touched");
    assert_eq!(fs::read_dir(all.path()).expect("the folder").count(), 3, "something was made outside");
});
