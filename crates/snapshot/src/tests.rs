//! Every driver on the kernel: the shared suite, and what is theirs alone. Needs root.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use hull_kernel::erofs::ImageWriter;
use hull_kernel::mounts::{OverlayMount, Propagation, attach, overlay, set_propagation};
use hull_store::{Roots, Store};
use hull_sys::process::{CLONE_NEWNS, unshare};

use super::*;

struct Place {
    _folder: tempfile::TempDir,
    roots: Roots,
    store: Store,
}

/// Stores on file systems of different kinds, seen in a mount namespace that ends with this thread.
fn places() -> Vec<Place> {
    unshare(CLONE_NEWNS).unwrap();
    set_propagation(c"/", true, Propagation::Private).unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()];
    let place = |folder: tempfile::TempDir| {
        let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
        let store = Store::open(&roots).unwrap();
        roots.make_state().unwrap();
        Place { _folder: folder, roots, store }
    };
    folders.map(place).into_iter().collect()
}

fn mounts_below(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places.filter(|place| Path::new(place).starts_with(folder)).map(str::to_owned).collect()
}

#[test]
fn overlay_keeps_the_contract() {
    for Place { roots, store, .. } in &places() {
        conformance::check(&Overlay::new(store, roots), store);
    }
}

#[test]
fn erofs_keeps_the_contract_and_leaves_no_mount() {
    for Place { roots, store, .. } in &places() {
        conformance::check(&Erofs::new(store, roots), store);
        assert_eq!(mounts_below(&roots.state), [""; 0]);
        assert!(!roots.layer_mounts().exists());
    }
}

#[test]
fn copy_keeps_the_contract() {
    for Place { roots, store, .. } in &places() {
        conformance::check(&Copy::new(store, roots), store);
    }
}

#[test]
fn all_together_keep_the_contract_whoever_is_wanted() {
    // Where files cost the least: what the places differ in is asked of each driver by itself.
    for Place { roots, store, .. } in &places()[1..] {
        for driver in Driver::ALL {
            let snapshots = Snapshots::new(store, roots, Box::new(move || Ok(Some(driver))));
            conformance::check(&snapshots, store);
            assert_eq!(snapshots.current().unwrap(), driver);
        }
        let snapshots = Snapshots::new(store, roots, Box::new(|| Ok(None)));
        assert_eq!(snapshots.current().unwrap(), Driver::Erofs, "it works on the kernels of tests");
        let known = fs::read_to_string(roots.root.join("drivers")).unwrap();
        assert_eq!(known.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(), ["erofs", "overlay"]);
        // What worked before the last boot need not work now, and is tried again.
        fs::write(roots.root.join("drivers"), "erofs of-another-boot\noverlay").unwrap();
        let snapshots = Snapshots::new(store, roots, Box::new(|| Ok(None)));
        assert_eq!(snapshots.current().unwrap(), Driver::Erofs);
        let again = fs::read_to_string(roots.root.join("drivers")).unwrap();
        assert_eq!(again.lines().collect::<Vec<_>>(), [known.lines().next().unwrap()]);
        let snapshots = Snapshots::new(store, roots, Box::new(|| Err("no choice".into())));
        assert!(snapshots.prepare().unwrap_err().to_string().contains("cannot choose"));
    }
}

/// A layer without anything in it.
fn empty_layer(driver: &dyn Snapshotter, chain_id: &str) -> SnapshotId {
    let prepared = driver.prepare().unwrap();
    if let Space::Image(path) = &prepared.space {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        ImageWriter::new(file).unwrap().finish().unwrap();
    }
    let finished = Finished { prepared, chain_id: chain_id.to_owned(), diff_id: chain_id.to_owned(), size_bytes: 0 };
    driver.commit(vec![finished]).unwrap().remove(0)
}

#[test]
fn containers_share_the_mount_of_a_layer() {
    for Place { roots, store, .. } in &places() {
        let driver = Erofs::new(store, roots);
        let parents = [empty_layer(&driver, "one"), empty_layer(&driver, "two")];
        let containers = [driver.container(&parents).unwrap(), driver.container(&parents).unwrap()];
        let running: Vec<_> =
            containers.iter().map(|id| driver.rootfs(id).unwrap().mount_detached().unwrap()).collect();
        let shared = mounts_below(&roots.layer_mounts());
        assert_eq!(shared.len(), 3, "each layer once, and the folder: {shared:?}");
        // What runs goes on without the shared mount.
        assert_eq!(driver.mounts().release(&HashSet::from([parents[0].clone()])).unwrap(), 1);
        assert_eq!(mounts_below(&roots.layer_mounts()).len(), 2);
        for mount in &running {
            assert_eq!(rustix::fs::statat(mount, ".", rustix::fs::AtFlags::empty()).unwrap().st_mode & 0o777, 0o755);
        }
        // A row that went without its mount, as a kill in the middle of a removal leaves it.
        store
            .write(|tx| {
                let forget = tx.execute("DELETE FROM snapshots WHERE id = ?1", [parents[0].as_str()]);
                forget.map(drop).map_err(hull_store::StoreError::from)
            })
            .unwrap();
        assert_eq!(driver.sweep().unwrap(), 1);
        assert_eq!(mounts_below(&roots.state), [""; 0], "the last one takes the folder along");
    }
}

#[test]
fn parallel_starts_mount_a_layer_once() {
    for Place { roots, store, .. } in &places() {
        let driver = Erofs::new(store, roots);
        let parents = [empty_layer(&driver, "one")];
        let rootfs = driver.rootfs(&driver.container(&parents).unwrap()).unwrap().without_top();
        // Threads that are made here are in this thread's mount namespace.
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| rootfs.mount_detached().unwrap())));
        });
        assert_eq!(mounts_below(&roots.layer_mounts()).len(), 2);
        driver.remove(&parents[0]).unwrap();
        assert_eq!(mounts_below(&roots.state), [""; 0]);
    }
}

#[test]
fn more_layers_than_the_kernel_stacks_are_refused_by_number() {
    let places = places();
    let Place { roots, store, .. } = &places[1];
    let driver = Overlay::new(store, roots);
    let parents: Vec<SnapshotId> = (0..501).map(|number| empty_layer(&driver, &number.to_string())).collect();
    let error = driver.view(&parents).unwrap().mount_detached().unwrap_err().to_string();
    assert!(error.contains("501 layers") && error.contains("at most 500"), "{error}");
    driver.view(&parents[1..]).unwrap().mount_detached().unwrap();
}

#[test]
fn a_container_stays_with_the_driver_that_made_it() {
    for Place { roots, store, .. } in &places() {
        let with = |driver| Snapshots::new(store, roots, Box::new(move || Ok(Some(driver))));
        let overlay = with(Driver::Overlay);
        let old = empty_layer(&overlay, "chain");
        let container = overlay.container(std::slice::from_ref(&old)).unwrap();
        let erofs = with(Driver::Erofs);
        assert_eq!(erofs.layer("chain").unwrap(), None, "the other driver has to unpack it again");
        let new = empty_layer(&erofs, "chain");
        assert_eq!(erofs.layers("chain").unwrap().len(), 2);
        drop(erofs.rootfs(&container).unwrap().mount_detached().unwrap());
        assert_eq!(erofs.parents(&container).unwrap().as_slice(), std::slice::from_ref(&old));
        for id in [&container, &old, &new] {
            erofs.remove(id).unwrap();
        }
        assert_eq!((erofs.layers("chain").unwrap().len(), erofs.sweep().unwrap()), (0, 0));
    }
}

/// On an overlay: the kernel takes none as another one's upper directory, and gives no pages of its files to EROFS.
#[test]
fn where_no_overlay_can_be_layers_are_copied() {
    let below = places();
    let folder = below[1].roots.root.join("overlay-below");
    let [lower, upper, work, top] = ["lower", "upper", "work", "top"].map(|name| folder.join(name));
    for path in [&lower, &upper, &work, &top] {
        fs::create_dir_all(path).unwrap();
    }
    let stack = OverlayMount { lowers: vec![lower], upper: Some((upper, work)), volatile: false };
    let mount = overlay(&stack).unwrap();
    attach(mount.as_fd(), File::open(&top).unwrap().as_fd(), "top").unwrap();
    let roots = Roots::new(top.join("root"), top.join("state"));
    let store = Store::open(&roots).unwrap();
    let snapshots = Snapshots::new(&store, &roots, Box::new(|| Ok(None)));
    assert_eq!(snapshots.current().unwrap(), Driver::Copy);
    conformance::a_container_writes_into_its_own_top(&snapshots);
    conformance::files_have_all_they_had(&snapshots);
    conformance::marks_hide_what_is_below(&snapshots);
    for refused in [Driver::Erofs, Driver::Overlay] {
        let snapshots = Snapshots::new(&store, &roots, Box::new(move || Ok(Some(refused))));
        let error = snapshots.prepare().unwrap_err().to_string();
        assert!(error.contains(&format!("the storage driver {refused} does not work with")), "{error}");
    }
    assert_eq!(snapshots.sweep().unwrap(), 0);
}
