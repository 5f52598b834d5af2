//! Layers for file systems that overlay does not work on: folders with files for marks.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use hull_image::unpack::{Destination, UnpackOptions, unpack_layer};
use hull_kernel::tree::merge_layer;

use super::archive::{Archive, Entry};

/// Two layers on a file system without overlay's marks, merged, hold what the marks say.
#[test]
fn plain_folders_keep_marks_as_files() {
    let low = ["gone", "dir/gone", "dir/kept", "hidden/old", "again/old"];
    let low = low.iter().fold(Archive::new(), |archive, path| archive.add(Entry::file(path, b"low"))).end();
    let high = Archive::new()
        .add(Entry::file(".wh.gone", b""))
        .add(Entry::file("dir/.wh.gone", b""))
        .add(Entry::file("hidden/.wh..wh..opq", b""))
        .add(Entry::file("hidden/new", b"high"))
        .add(Entry::file("again/new", b"high"))
        .add(Entry::file(".wh.again", b""))
        .add(Entry::file(".wh.again", b""))
        .add(Entry::file("made/file", b"high"))
        .end();
    let merged = tempfile::tempdir().unwrap();
    for archive in [low, high] {
        let layer = tempfile::tempdir().unwrap();
        let open = |path: &Path| File::open(path).unwrap();
        let folder = open(layer.path());
        unpack_layer(&archive[..], Destination::Plain(folder.as_fd()), &UnpackOptions::default()).unwrap();
        merge_layer(folder.as_fd(), open(merged.path()).as_fd()).unwrap();
    }
    let has = |path: &&str| merged.path().join(path).exists();
    let all = ["dir/kept", "hidden/new", "again/new", "made/file", "gone", "dir/gone", "hidden/old", "again/old"];
    assert_eq!(all.iter().filter(|path| has(path)).count(), 4);
    assert!(all[..4].iter().all(has));
}
