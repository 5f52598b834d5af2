//! The contract of [`Snapshotter`] as a suite that every driver runs, on the kernel.
//!
//! It asserts what the layers above rely on: what is committed is found, what is not is not; files come back with all
//! they have; a container's writes stay in its own top; deletions and opaque folders hide; many layers stack; ids are
//! shifted; removal is complete; a dead maker's leftovers are swept and a living one's are not.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use hull_kernel::erofs::{Attributes, FileKind, ImageWriter};
use hull_store::{Lease, Store};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use crate::{Finished, Prepared, SnapshotId, Snapshotter, Space, Top};

/// Runs every check against `driver`, whose store must be empty. Needs the right to mount.
///
/// # Panics
/// On the first thing that is not as the contract says.
pub(crate) fn check(driver: &dyn Snapshotter, store: &Store) {
    layers_are_found_by_chain_id_once(driver);
    a_container_writes_into_its_own_top(driver);
    files_have_all_they_had(driver);
    marks_hide_what_is_below(driver);
    a_root_is_as_the_topmost_layer_says(driver);
    many_layers_are_stacked(driver);
    ids_are_shifted(driver);
    an_abandoned_layer_is_gone(driver);
    a_dead_makers_leftovers_are_swept(driver, store);
    assert_eq!(driver.sweep().unwrap(), 0, "nothing is left");
}

/// One thing in a layer.
#[derive(Debug, Clone, Copy)]
enum What<'a> {
    File(&'a str),
    Folder,
    Link(&'a str),
    Hard(&'a str),
    Device(u32, u32),
    /// What lower layers have of that name is deleted.
    Deletion,
    /// A folder that hides what lower layers have in it.
    Opaque,
}

const MODE: u32 = 0o4750;
const OWNER: (u32, u32) = (1000, 2000);
const TIME: (i64, u32) = (1_234_567_890, 123_456_789);
const ATTRIBUTE: &str = "trusted.hull";

/// Puts things into a prepared layer, in the form that the driver wants.
fn fill(prepared: &Prepared, things: &[(&str, What<'_>)]) {
    match &prepared.space {
        Space::Folder(folder) | Space::Plain(folder) => {
            let form = if let Space::Plain(_) = &prepared.space { put_plain } else { put };
            things.iter().for_each(|(path, what)| form(folder, path, *what));
            // What came into folders changed their times.
            let marks = |what: &What<'_>| matches!(what, What::Deletion);
            things.iter().filter(|(_, what)| !marks(what)).for_each(|(path, _)| set_time(&folder.join(path)));
        }
        Space::Image(path) => {
            let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
            let mut image = ImageWriter::new(file).unwrap();
            things.iter().for_each(|(path, what)| write(&mut image, path, *what));
            image.finish().unwrap();
        }
    }
}

/// As [`put`], with files for marks.
fn put_plain(folder: &Path, name: &str, what: What<'_>) {
    let path = folder.join(name);
    match what {
        What::Deletion => {
            let marked = path.file_name().unwrap().to_str().unwrap();
            fs::write(path.with_file_name(format!(".wh.{marked}")), "").unwrap();
        }
        What::Opaque => {
            put(folder, name, What::Folder);
            fs::write(path.join(".wh..wh..opq"), "").unwrap();
        }
        what => put(folder, name, what),
    }
}

fn put(folder: &Path, name: &str, what: What<'_>) {
    let path = folder.join(name);
    let make_node = |kind, device| rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device).unwrap();
    match what {
        What::File(content) => fs::write(&path, content).unwrap(),
        What::Folder | What::Opaque => fs::create_dir(&path).unwrap(),
        What::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
        What::Hard(target) => return fs::hard_link(folder.join(target), &path).unwrap(),
        What::Device(major, minor) => make_node(FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
        What::Deletion => return make_node(FileType::CharacterDevice, 0),
    }
    std::os::unix::fs::lchown(&path, Some(OWNER.0), Some(OWNER.1)).unwrap();
    if !matches!(what, What::Link(_)) {
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).unwrap();
    }
    let set = |name: &str, value: &[u8]| rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()).unwrap();
    set(ATTRIBUTE, b"value");
    if let What::Opaque = what {
        set("trusted.overlay.opaque", b"y");
    }
}

fn set_time(path: &Path) {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec { tv_sec: TIME.0, tv_nsec: TIME.1.into() };
    let times = Timestamps { last_access, last_modification };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn write(image: &mut ImageWriter, path: &str, what: What<'_>) {
    let mut components: Vec<&str> = path.split('/').collect();
    let name = components.pop().unwrap();
    let find = |image: &ImageWriter, path: &[&str]| {
        path.iter().fold(image.root(), |folder, name| image.child(folder, name.as_bytes()).unwrap())
    };
    let folder = find(image, &components);
    let mut attributes = Attributes {
        mode: MODE as u16,
        uid: OWNER.0,
        gid: OWNER.1,
        mtime: TIME,
        xattrs: vec![(ATTRIBUTE.to_owned(), b"value".to_vec())],
    };
    let node = match what {
        What::File(content) => {
            let mut content = content.as_bytes();
            image.file(&attributes, |room: &mut [u8]| content.read(room)).unwrap()
        }
        What::Opaque => {
            attributes.xattrs.push(("trusted.overlay.opaque".to_owned(), b"y".to_vec()));
            image.directory(attributes).unwrap()
        }
        What::Folder => image.directory(attributes).unwrap(),
        What::Link(target) => image.symbolic_link(&attributes, target.as_bytes()).unwrap(),
        What::Hard(target) => find(image, &target.split('/').collect::<Vec<_>>()),
        What::Device(major, minor) => image.special(&attributes, FileKind::CharacterDevice, (major, minor)).unwrap(),
        What::Deletion => image.special(&Attributes::default(), FileKind::CharacterDevice, (0, 0)).unwrap(),
    };
    image.link(folder, name.as_bytes(), node).unwrap();
}

fn finished(prepared: Prepared, chain_id: &str) -> Finished {
    Finished { prepared, chain_id: chain_id.to_owned(), diff_id: format!("diff-{chain_id}"), size_bytes: 1 }
}

/// A layer that has been committed.
fn layer(driver: &dyn Snapshotter, chain_id: &str, things: &[(&str, What<'_>)]) -> SnapshotId {
    let prepared = driver.prepare().unwrap();
    fill(&prepared, things);
    driver.commit(vec![finished(prepared, chain_id)]).unwrap().remove(0)
}

fn remove(driver: &dyn Snapshotter, ids: impl IntoIterator<Item = SnapshotId>) {
    for id in ids {
        driver.remove(&id).unwrap();
        assert!(driver.rootfs(&id).is_err() || driver.usage(&id).is_err(), "{id} is gone");
    }
}

/// A path into a detached mount.
fn at(mount: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", mount.as_raw_fd()))
}

fn read(mount: &OwnedFd, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(at(mount, name)).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

fn layers_are_found_by_chain_id_once(driver: &dyn Snapshotter) {
    assert_eq!(driver.layer("once").unwrap(), None);
    // Two processes unpack the same layer at once: the first to be done stays, the second is removed.
    let (one, two) = (driver.prepare().unwrap(), driver.prepare().unwrap());
    for prepared in [&one, &two] {
        fill(prepared, &[("a", What::File("1"))]);
    }
    let other = two.id.clone();
    let first = driver.commit(vec![finished(one, "once")]).unwrap().remove(0);
    assert_eq!(driver.layer("once").unwrap(), Some(first.clone()));
    assert_eq!(driver.commit(vec![finished(two, "once")]).unwrap().as_slice(), std::slice::from_ref(&first));
    assert!(driver.usage(&other).is_err(), "the second is removed");
    assert_eq!(driver.sweep().unwrap(), 0, "nothing was left");
    let usage = driver.usage(&first).unwrap();
    assert!(usage.inodes == 1 && usage.bytes > 0 && usage.bytes < 1 << 20, "{usage:?}");
    driver.remove(&first).unwrap();
    assert_eq!(driver.layer("once").unwrap(), None);
    driver.remove(&first).unwrap();
}

pub(crate) fn a_container_writes_into_its_own_top(driver: &dyn Snapshotter) {
    let low = layer(driver, "low", &[("a", What::File("low")), ("b", What::File("low"))]);
    let high = layer(driver, "high", &[("b", What::File("high"))]);
    let parents = [low.clone(), high.clone()];
    let (one, two) = (driver.container(&parents).unwrap(), driver.container(&parents).unwrap());
    let before = driver.usage(&one).unwrap();
    {
        let mount = driver.rootfs(&one).unwrap().mount_detached().unwrap();
        assert_eq!((read(&mount, "a").as_deref(), read(&mount, "b").as_deref()), (Some("low"), Some("high")));
        fs::write(at(&mount, "a"), "changed").unwrap();
        fs::remove_file(at(&mount, "b")).unwrap();
        let mut large = File::create(at(&mount, "large")).unwrap();
        large.write_all(&vec![1; 1 << 20]).unwrap();
        large.sync_all().unwrap();
    }
    let after = driver.usage(&one).unwrap();
    assert!(before.bytes < 1 << 20 && after.bytes >= 1 << 20, "{before:?} {after:?}");
    let again = driver.rootfs(&one).unwrap().mount_detached().unwrap();
    assert_eq!((read(&again, "a").as_deref(), read(&again, "b")), (Some("changed"), None), "a top keeps its changes");
    let other = driver.rootfs(&two).unwrap().mount_detached().unwrap();
    assert_eq!(read(&other, "a").as_deref(), Some("low"), "and nobody else sees them");
    let view = driver.view(&parents).unwrap().mount_detached().unwrap();
    assert_eq!(read(&view, "b").as_deref(), Some("high"));
    assert!(fs::write(at(&view, "c"), "x").is_err(), "a view is read-only");
    changes_are_found(driver, &one);
    drop((again, other, view));
    remove(driver, [one, two, high, low]);
}

/// `a` was rewritten and `b` removed in a container whose layers had both.
fn changes_are_found(driver: &dyn Snapshotter, container: &SnapshotId) {
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

pub(crate) fn files_have_all_they_had(driver: &dyn Snapshotter) {
    let things = [
        ("file", What::File("content")),
        ("folder", What::Folder),
        ("folder/deep", What::File("deep")),
        ("link", What::Link("folder/deep")),
        ("hard", What::Hard("folder/deep")),
        ("device", What::Device(1, 3)),
    ];
    let parents = [layer(driver, "files", &things)];
    let container = driver.container(&parents).unwrap();
    for rootfs in [driver.rootfs(&container).unwrap(), driver.view(&parents).unwrap()] {
        let mount = rootfs.mount_detached().unwrap();
        assert_eq!((read(&mount, "file").as_deref(), read(&mount, "link").as_deref()), (Some("content"), Some("deep")));
        for (name, what) in things {
            let stat = fs::symlink_metadata(at(&mount, name)).unwrap();
            assert_eq!((stat.uid(), stat.gid()), OWNER, "{name}");
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (TIME.0, TIME.1.into()), "{name}");
            if !matches!(what, What::Link(_)) {
                assert_eq!(stat.mode() & 0o7777, MODE, "{name}");
            }
            let mut value = [0; 16];
            let length = rustix::fs::lgetxattr(at(&mount, name), ATTRIBUTE, &mut value[..]).unwrap();
            assert_eq!(&value[..length], b"value", "{name}");
        }
        let stat = |name: &str| fs::symlink_metadata(at(&mount, name)).unwrap();
        assert_eq!((stat("hard").ino(), stat("hard").nlink()), (stat("folder/deep").ino(), 2));
        assert_eq!(stat("device").rdev(), rustix::fs::makedev(1, 3));
    }
    remove(driver, [container].into_iter().chain(parents));
}

pub(crate) fn marks_hide_what_is_below(driver: &dyn Snapshotter) {
    let low = [
        ("gone", What::File("low")),
        ("folder", What::Folder),
        ("folder/gone", What::File("low")),
        ("folder/kept", What::File("low")),
        ("opaque", What::Folder),
        ("opaque/old", What::File("low")),
        ("becomes-folder", What::File("low")),
        ("becomes-file", What::Folder),
        ("becomes-file/old", What::File("low")),
    ];
    let high = [
        ("gone", What::Deletion),
        ("never-was", What::Deletion),
        ("folder", What::Folder),
        ("folder/gone", What::Deletion),
        ("opaque", What::Opaque),
        ("opaque/new", What::File("high")),
        ("becomes-folder", What::Folder),
        ("becomes-file", What::File("high")),
    ];
    let parents = [layer(driver, "below", &low), layer(driver, "marks", &high)];
    let container = driver.container(&parents).unwrap();
    for rootfs in [driver.rootfs(&container).unwrap(), driver.view(&parents).unwrap()] {
        let mount = rootfs.mount_detached().unwrap();
        for gone in ["gone", "never-was", "folder/gone", "opaque/old"] {
            assert!(fs::symlink_metadata(at(&mount, gone)).is_err(), "{gone}");
        }
        for (name, content) in [("folder/kept", "low"), ("opaque/new", "high"), ("becomes-file", "high")] {
            assert_eq!(read(&mount, name).as_deref(), Some(content), "{name}");
        }
        let names = |folder: &str| fs::read_dir(at(&mount, folder)).unwrap().flatten().count();
        assert_eq!(["", "folder", "opaque", "becomes-folder"].map(names), [4, 1, 1, 0]);
    }
    remove(driver, [container].into_iter().chain(parents));
}

fn a_root_is_as_the_topmost_layer_says(driver: &dyn Snapshotter) {
    let prepared = driver.prepare().unwrap();
    match &prepared.space {
        Space::Folder(folder) | Space::Plain(folder) => {
            std::os::unix::fs::chown(folder, Some(7), Some(8)).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o1711)).unwrap();
        }
        Space::Image(path) => {
            let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
            let mut image = ImageWriter::new(file).unwrap();
            let attributes = Attributes { mode: 0o1711, uid: 7, gid: 8, ..Attributes::default() };
            image.change_directory(image.root(), attributes).unwrap();
            image.finish().unwrap();
        }
    }
    let low = layer(driver, "plain", &[("a", What::File("1"))]);
    let high = driver.commit(vec![finished(prepared, "owned")]).unwrap().remove(0);
    let container = driver.container(&[low.clone(), high.clone()]).unwrap();
    let mount = driver.rootfs(&container).unwrap().mount_detached().unwrap();
    let root = fs::metadata(at(&mount, "")).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o1711, 7, 8));
    drop(mount);
    remove(driver, [container, high, low]);
}

/// More than docker's 127.
const MANY: usize = 200;

fn many_layers_are_stacked(driver: &dyn Snapshotter) {
    let prepared = (0..MANY).map(|number| {
        let prepared = driver.prepare().unwrap();
        let (own, shared) = (format!("file-{number}"), number.to_string());
        fill(&prepared, &[(&own, What::File("own")), ("shared", What::File(&shared))]);
        finished(prepared, &format!("many-{number}"))
    });
    let parents = driver.commit(prepared.collect()).unwrap();
    assert_eq!(parents.len(), MANY);
    let container = driver.container(&parents).unwrap();
    let mount = driver.rootfs(&container).unwrap().mount_detached().unwrap();
    assert_eq!(read(&mount, "shared"), Some((MANY - 1).to_string()));
    assert_eq!(fs::read_dir(at(&mount, "")).unwrap().count(), MANY + 1);
    fs::write(at(&mount, "file-0"), "x").unwrap();
    drop(mount);
    remove(driver, [container].into_iter().chain(parents));
}

/// A process in a user namespace whose ids 0 to 9999 are the host's from 100000.
fn namespace() -> (Child, File) {
    let mut child = Command::new("unshare").args(["--user", "sleep", "60"]).spawn().unwrap();
    let path = format!("/proc/{}/ns/user", child.id());
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    while fs::read_link(&path).unwrap() == own {
        assert_eq!(child.try_wait().unwrap(), None, "unshare has ended");
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), "0 100000 10000").unwrap();
    }
    let namespace = File::open(&path).unwrap();
    (child, namespace)
}

/// Whether the file system of a container's own files can shift ids at all.
fn can_shift(rootfs: &crate::Rootfs, namespace: &File) -> bool {
    let own = rootfs.top().unwrap();
    hull_kernel::mounts::shifted::folder_shifted(own, std::os::fd::AsFd::as_fd(namespace)).is_ok()
}

fn ids_are_shifted(driver: &dyn Snapshotter) {
    let parents =
        [layer(driver, "shift-0", &[("a", What::File("a"))]), layer(driver, "shift-1", &[("b", What::Folder)])];
    let container = driver.container(&parents).unwrap();
    let (mut child, namespace) = namespace();
    let rootfs = driver.rootfs(&container).unwrap();
    let mount = match rootfs.mount_detached_in(namespace.try_clone().unwrap().into()) {
        // tmpfs cannot shift ids before Linux 6.3.
        Err(error) if error.operation == "mount_setattr" && !can_shift(&rootfs, &namespace) => {
            child.kill().unwrap();
            child.wait().unwrap();
            return remove(driver, [container].into_iter().chain(parents));
        }
        mounted => mounted.unwrap(),
    };
    let owner = |name: &str| fs::symlink_metadata(at(&mount, name)).map(|stat| (stat.uid(), stat.gid())).unwrap();
    assert_eq!((owner("a"), owner("b")), ((101_000, 102_000), (101_000, 102_000)));
    assert_eq!(owner("").0, 100_000);
    std::os::unix::fs::chown(at(&mount, "a"), Some(100_005), None).unwrap();
    assert_eq!(owner("a").0, 100_005);
    drop(mount);
    child.kill().unwrap();
    child.wait().unwrap();
    remove(driver, [container].into_iter().chain(parents));
}

/// Where a prepared layer is.
fn path(space: &Space) -> &Path {
    let (Space::Folder(path) | Space::Plain(path) | Space::Image(path)) = space;
    path
}

fn an_abandoned_layer_is_gone(driver: &dyn Snapshotter) {
    let prepared = driver.prepare().unwrap();
    fill(&prepared, &[("a", What::File("1"))]);
    let place = path(&prepared.space).to_path_buf();
    assert_eq!(driver.sweep().unwrap(), 0, "its maker lives");
    assert!(place.exists());
    driver.abandon(prepared).unwrap();
    assert!(!place.exists() && !place.parent().unwrap().exists());
}

fn a_dead_makers_leftovers_are_swept(driver: &dyn Snapshotter, store: &Store) {
    let prepared = driver.prepare().unwrap();
    fill(&prepared, &[("a", What::File("1"))]);
    let living = driver.prepare().unwrap();
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
    let folder = path(&prepared.space).parent().unwrap();
    let all = folder.parent().unwrap();
    let orphan = all.join(SnapshotId::new().unwrap().as_str());
    fs::create_dir_all(orphan.join("fs/deep")).unwrap();
    let foreign = all.join("notes");
    fs::create_dir(&foreign).unwrap();

    assert_eq!(driver.sweep().unwrap(), 2);
    assert!(!folder.exists() && !orphan.exists());
    assert!(foreign.exists(), "what is not named like a snapshot is not ours");
    fs::remove_dir(foreign).unwrap();
    driver.abandon(living).unwrap();
}
