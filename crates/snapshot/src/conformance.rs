//! The contract of [`Snapshotter`] as a suite that every driver runs.
//!
//! It asserts what the layers above rely on: what is committed is found, what is not is not; a container's writes stay
//! in its own top; whiteouts hide; removal is complete; a dead maker's leftovers are swept and a living one's are not.

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::{Finished, Snapshotter, Top};

/// Runs every check against `driver`, whose store must be empty. Needs the right to mount.
///
/// # Panics
/// On the first thing that is not as the contract says.
pub fn check(driver: &dyn Snapshotter) {
    layers_are_found_by_chain_id_once(driver);
    a_container_writes_into_its_own_top(driver);
    an_abandoned_layer_is_gone(driver);
}

fn layer(driver: &dyn Snapshotter, chain_id: &str, files: &[(&str, &str)]) -> crate::SnapshotId {
    let prepared = driver.prepare().unwrap();
    for (name, content) in files {
        fs::write(prepared.folder.join(name), content).unwrap();
    }
    let finished =
        Finished { prepared, chain_id: chain_id.to_owned(), diff_id: format!("diff-{chain_id}"), size_bytes: 1 };
    driver.commit(vec![finished]).unwrap().remove(0)
}

/// A path into a detached mount.
fn at(mount: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", mount.as_raw_fd()))
}

fn read(mount: &OwnedFd, name: &str) -> Option<String> {
    let mut text = String::new();
    fs::File::open(at(mount, name)).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

fn layers_are_found_by_chain_id_once(driver: &dyn Snapshotter) {
    assert_eq!(driver.layer("once").unwrap(), None);
    let first = layer(driver, "once", &[("a", "1")]);
    assert_eq!(driver.layer("once").unwrap(), Some(first.clone()));
    // Another process unpacked the same layer: the first one stays, the second is removed.
    let second = layer(driver, "once", &[("a", "1")]);
    assert_eq!(second, first);
    assert_eq!(driver.sweep().unwrap(), 0, "nothing was left");
    assert!(driver.usage(&first).unwrap().inodes == 1);
    driver.remove(&first).unwrap();
    assert_eq!(driver.layer("once").unwrap(), None);
    driver.remove(&first).unwrap();
}

fn a_container_writes_into_its_own_top(driver: &dyn Snapshotter) {
    let low = layer(driver, "low", &[("a", "low"), ("b", "low")]);
    let high = layer(driver, "high", &[("b", "high")]);
    let parents = [low.clone(), high.clone()];
    let (one, two) = (driver.container(&parents).unwrap(), driver.container(&parents).unwrap());
    {
        let mount = driver.rootfs(&one).unwrap().mount_detached().unwrap();
        assert_eq!((read(&mount, "a").as_deref(), read(&mount, "b").as_deref()), (Some("low"), Some("high")));
        fs::write(at(&mount, "a"), "changed").unwrap();
        fs::remove_file(at(&mount, "b")).unwrap();
    }
    let again = driver.rootfs(&one).unwrap().mount_detached().unwrap();
    assert_eq!((read(&again, "a").as_deref(), read(&again, "b")), (Some("changed"), None), "a top keeps its changes");
    let other = driver.rootfs(&two).unwrap().mount_detached().unwrap();
    assert_eq!(read(&other, "a").as_deref(), Some("low"), "and nobody else sees them");
    let view = driver.view(&parents).unwrap().mount_detached().unwrap();
    assert_eq!(read(&view, "b").as_deref(), Some("high"));
    assert!(fs::write(at(&view, "c"), "x").is_err(), "a view is read-only");
    changes_are_found(driver, &one);
    drop((again, other, view));
    for id in [one, two, high, low] {
        driver.remove(&id).unwrap();
    }
    assert_eq!(driver.sweep().unwrap(), 0);
}

/// `a` was rewritten and `b` removed in a container whose layers had both.
fn changes_are_found(driver: &dyn Snapshotter, container: &crate::SnapshotId) {
    let changes = driver.changes(container).unwrap();
    let below = changes.below.expect("there are layers").mount_detached().unwrap();
    assert_eq!((read(&below, "a").as_deref(), read(&below, "b").as_deref()), (Some("low"), Some("high")));
    let (Top::Difference(top) | Top::Whole(top)) = &changes.top;
    assert_eq!(fs::read_to_string(top.join("a")).unwrap(), "changed");
    let removed = fs::symlink_metadata(top.join("b"));
    match &changes.top {
        Top::Whole(_) => assert!(removed.is_err(), "what was removed is not there"),
        Top::Difference(_) => assert_eq!(removed.expect("a mark").rdev(), 0, "what was removed is marked"),
    }
}

fn an_abandoned_layer_is_gone(driver: &dyn Snapshotter) {
    let prepared = driver.prepare().unwrap();
    let folder = prepared.folder.clone();
    assert_eq!(driver.sweep().unwrap(), 0, "its maker lives");
    driver.abandon(prepared).unwrap();
    assert!(!folder.exists());
}
