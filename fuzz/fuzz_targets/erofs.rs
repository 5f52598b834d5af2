//! A layer's tar into an EROFS image: whatever it holds, it is refused, or makes an image that the kernel mounts and reads
//! to its last file without an error.
//!
//! Needs root, and a kernel that mounts images from files (Linux 6.12).
#![no_main]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use hull_image::unpack::{Destination, UnpackOptions, unpack_layer};
use hull_kernel::mounts::image::mount_image;
use libfuzzer_sys::fuzz_target;

/// Bytes of each file that are read; a sparse one may be endless.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Reads everything below a mount; returns how many names there are.
fn read_all(mount: &OwnedFd) -> u64 {
    let mut waiting = vec![PathBuf::from(format!("/proc/self/fd/{}/", mount.as_raw_fd()))];
    let mut names = 0;
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("a folder that can be listed") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("attributes");
            names += 1;
            if metadata.is_dir() {
                waiting.push(path);
            } else if metadata.is_symlink() {
                fs::read_link(&path).expect("a target");
            } else if metadata.is_file() {
                let file = File::open(&path).expect("a file that can be opened");
                file.take(READ_BYTES_MAX).read_to_end(&mut Vec::new()).expect("content");
            }
        }
    }
    names
}

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let path = folder.path().join("image");
    let options = UnpackOptions {
        entries_max: 1000,
        content_bytes_max: Some(1 << 20),
        extension_bytes_max: 1 << 16,
        ..UnpackOptions::default()
    };
    let image = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    match unpack_layer(bytes, Destination::Image(image), &options) {
        Ok(report) => {
            assert!(report.entries <= 1000 && report.bytes <= 1 << 20);
            let mount = mount_image(&path).expect("an image that the kernel takes");
            assert!(read_all(&mount) <= 1000);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
