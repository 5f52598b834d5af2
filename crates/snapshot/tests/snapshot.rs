//! The overlay driver on the kernel: the shared suite, and what a crash leaves. Needs root.
#![forbid(unsafe_code)]

use std::fs;

use hull_snapshot::{Overlay, SnapshotId, Snapshotter, conformance};
use hull_store::{Lease, Roots, Store};

fn store() -> (tempfile::TempDir, Roots, Store) {
    let folder = tempfile::tempdir().unwrap();
    let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
    let store = Store::open(&roots).unwrap();
    (folder, roots, store)
}

#[test]
fn overlay_keeps_the_contract() {
    let (_folder, roots, store) = store();
    conformance::check(&Overlay::new(&store, &roots));
}

#[test]
fn a_dead_makers_layer_and_a_folder_without_a_row_are_swept() {
    let (_folder, roots, store) = store();
    let driver = Overlay::new(&store, &roots);
    let prepared = driver.prepare().unwrap();
    // As if its maker had been another process that is gone: pid 1 never started at tick 1.
    let (boot_id, id) = (Lease::current().unwrap().boot_id, prepared.id.as_str().to_owned());
    store
        .write(|tx| {
            tx.execute(
                "UPDATE snapshots SET lease_pid = 1, lease_start = 1, lease_boot = ?1 WHERE id = ?2",
                [boot_id.as_str(), id.as_str()],
            )
            .map_err(hull_store::StoreError::from)
        })
        .unwrap();
    let orphan = roots.snapshots().join("overlay").join(SnapshotId::new().unwrap().as_str());
    fs::create_dir_all(orphan.join("fs/deep")).unwrap();
    let foreign = roots.snapshots().join("overlay/notes");
    fs::create_dir(&foreign).unwrap();

    assert_eq!(driver.sweep().unwrap(), 2);
    assert!(!prepared.folder.exists() && !orphan.exists());
    assert!(foreign.exists(), "what is not named like a snapshot is not ours");
}
