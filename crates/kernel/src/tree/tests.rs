//! Trees on a real file system (needs root for owners, devices and a mount).

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, mknodat, setxattr};

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("hull-tree-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn fd(&self) -> OwnedFd {
        File::open(&self.0).unwrap().into()
    }

    fn sub(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // By its parent: the temporary folder may be a mount of its own, and mounts are never entered.
        let (Ok(parent), Some(name)) = (File::open(std::env::temp_dir()), self.0.file_name()) else { return };
        let _ = remove_tree(parent.as_fd(), name);
    }
}

#[test]
fn removes_everything_and_follows_nothing() {
    let folder = Folder::new("remove");
    let outside = folder.sub("outside");
    fs::write(outside.join("precious"), "x").unwrap();
    let tree = folder.sub("tree/a/b");
    symlink(&outside, tree.join("link")).unwrap();
    symlink(&outside, folder.0.join("tree/link")).unwrap();
    fs::hard_link(outside.join("precious"), tree.join("hard")).unwrap();
    mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o000)).unwrap();
    remove_tree(folder.fd().as_fd(), OsStr::new("tree")).unwrap();
    assert!(!folder.0.join("tree").exists());
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "x");
}

#[test]
fn removes_single_things_and_what_is_missing() {
    let folder = Folder::new("single");
    fs::write(folder.0.join("file"), "x").unwrap();
    symlink("file", folder.0.join("link")).unwrap();
    let fd = folder.fd();
    remove_tree(fd.as_fd(), OsStr::new("link")).unwrap();
    assert!(folder.0.join("file").is_file());
    remove_tree(fd.as_fd(), OsStr::new("file")).unwrap();
    remove_tree(fd.as_fd(), OsStr::new("missing")).unwrap();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn deeper_than_there_are_descriptors() {
    let folder = Folder::new("deep");
    let mut dir = folder.fd();
    for level in 0..1500 {
        rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        if level % 100 == 0 {
            rustix::fs::mkdirat(&dir, "e", Mode::from_raw_mode(0o755)).unwrap();
        }
        dir = open_directory(dir.as_fd(), Path::new("d"), ResolveFlags::empty()).unwrap();
    }
    remove_tree(folder.fd().as_fd(), OsStr::new("d")).unwrap();
    remove_tree(folder.fd().as_fd(), OsStr::new("e")).unwrap();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn does_not_enter_a_mount_and_removes_the_rest() {
    let folder = Folder::new("mount");
    let mounted = folder.sub("tree/mounted");
    let source = folder.sub("source");
    fs::write(source.join("precious"), "x").unwrap();
    folder.sub("tree/other/x");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            hull_sys::process::unshare(hull_sys::process::CLONE_NEWNS).unwrap();
            crate::mounts::set_propagation(c"/", true, crate::mounts::Propagation::Private).unwrap();
            let clone = crate::mounts::clone_tree(CWD, source.as_path(), false).unwrap();
            let target: OwnedFd = File::open(&mounted).unwrap().into();
            crate::mounts::attach(clone.as_fd(), target.as_fd(), "test").unwrap();
            let error = remove_tree(folder.fd().as_fd(), OsStr::new("tree")).unwrap_err();
            assert_eq!(error.errno, Errno::XDEV, "{error}");
            assert!(error.path.ends_with("tree/mounted"), "{error}");
        });
    });
    assert!(source.join("precious").is_file());
    assert!(!folder.0.join("tree/other").exists());
}

#[test]
fn copies_all_that_a_file_system_keeps() {
    let folder = Folder::new("copy");
    let source = folder.sub("source");
    fs::write(source.join("file"), "content").unwrap();
    chown(source.join("file"), Some(1234), Some(5678)).unwrap();
    fs::set_permissions(source.join("file"), fs::Permissions::from_mode(0o6751)).unwrap();
    setxattr(source.join("file"), "trusted.hull", b"value", XattrFlags::empty()).unwrap();
    setxattr(source.join("file"), "trusted.large", &[b'v'; 3000], XattrFlags::empty()).unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    fs::hard_link(source.join("file"), source.join("dir/hard")).unwrap();
    symlink("/etc/passwd", source.join("dir/link")).unwrap();
    std::os::unix::fs::lchown(source.join("dir/link"), Some(7), Some(8)).unwrap();
    mknodat(CWD, source.join("dir/null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), 0x103).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 5 << 20).unwrap();
    sparse.set_len(100 << 20).unwrap();
    fs::set_permissions(source.join("dir"), fs::Permissions::from_mode(0o2711)).unwrap();
    let destination = folder.sub("destination");
    let (from, to) = (File::open(&source).unwrap(), File::open(&destination).unwrap());
    let copied = copy_tree(from.as_fd(), to.as_fd()).unwrap();
    assert_eq!((copied.entries, copied.lost_xattrs), (6, 0));
    for name in ["", "file", "sparse", "dir", "dir/hard", "dir/link", "dir/null"] {
        let facts = |root: &Path| {
            let stat = fs::symlink_metadata(root.join(name)).unwrap();
            (stat.mode(), stat.uid(), stat.gid(), stat.rdev(), (stat.mtime(), stat.mtime_nsec()), stat.nlink())
        };
        assert_eq!(facts(&source), facts(&destination), "{name}");
    }
    let sparse = fs::metadata(destination.join("sparse")).unwrap();
    assert!(sparse.len() == 100 << 20 && sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    assert_eq!(fs::read(destination.join("sparse")).unwrap(), fs::read(source.join("sparse")).unwrap());
    assert_eq!(fs::read_link(destination.join("dir/link")).unwrap(), Path::new("/etc/passwd"));
    let inode = |name: &str| fs::metadata(destination.join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("dir/hard"));
    let mut value = vec![0; 3000];
    assert_eq!(getxattr(destination.join("file"), "trusted.hull", &mut value).unwrap(), 5);
    assert_eq!(getxattr(destination.join("file"), "trusted.large", &mut value).unwrap(), 3000);
}

#[test]
fn a_link_waiting_in_the_destination_leads_nowhere() {
    let folder = Folder::new("trap");
    let source = folder.sub("source/dir");
    fs::write(source.join("file"), "x").unwrap();
    let outside = folder.sub("outside");
    let destination = folder.sub("destination");
    symlink(&outside, destination.join("dir")).unwrap();
    let (from, to) = (File::open(folder.0.join("source")).unwrap(), File::open(&destination).unwrap());
    let error = copy_tree(from.as_fd(), to.as_fd()).unwrap_err();
    assert_eq!((error.path.as_path(), error.errno), (Path::new("dir"), Errno::NOTDIR));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_layer_is_merged_as_its_marks_say() {
    let folder = Folder::new("merge");
    let (low, high, merged) = (folder.sub("low"), folder.sub("high"), folder.sub("merged"));
    let mark = |path: &str| fs::write(high.join(path), "").unwrap();
    for path in ["kept", "gone", "dir/kept", "dir/gone", "hidden/old", "to-file/x", "to-dir", "lowhard", "again/old"] {
        let path = low.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "low").unwrap();
    }
    fs::hard_link(low.join("lowhard"), low.join("lowhard2")).unwrap();
    setxattr(low.join("dir"), "trusted.low", b"v", XattrFlags::empty()).unwrap();
    fs::create_dir_all(high.join("dir")).unwrap();
    fs::create_dir_all(high.join("hidden")).unwrap();
    fs::create_dir_all(high.join("to-dir")).unwrap();
    fs::create_dir_all(high.join("again")).unwrap();
    fs::write(high.join("again/new"), "high").unwrap();
    fs::set_permissions(high.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    for path in [".wh.gone", "dir/.wh.gone", ".wh.never", "hidden/.wh..wh..opq", ".wh.again"] {
        mark(path);
    }
    fs::write(high.join("hidden/new"), "high").unwrap();
    fs::write(high.join("to-file"), "high").unwrap();
    fs::write(high.join("hard"), "high").unwrap();
    fs::hard_link(high.join("hard"), high.join("lowhard")).unwrap();
    let fd = |path: &Path| File::open(path).unwrap();
    for layer in [&low, &high] {
        merge_layer(fd(layer).as_fd(), fd(&merged).as_fd()).unwrap();
    }
    let mut names: Vec<String> =
        fs::read_dir(&merged).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["again", "dir", "hard", "hidden", "kept", "lowhard", "lowhard2", "to-dir", "to-file"]);
    let read = |path: &str| fs::read_to_string(merged.join(path)).unwrap_or_default();
    assert_eq!(
        ["dir/kept", "hidden/new", "to-file", "hard", "lowhard", "lowhard2"].map(read),
        ["low", "high", "high", "high", "high", "low"]
    );
    assert!(!merged.join("dir/gone").exists() && !merged.join("hidden/old").exists() && merged.join("to-dir").is_dir());
    assert_eq!(fs::metadata(merged.join("hard")).unwrap().ino(), fs::metadata(merged.join("lowhard")).unwrap().ino());
    assert_eq!(fs::metadata(merged.join("dir")).unwrap().mode() & 0o777, 0o700);
    assert!(getxattr(merged.join("dir"), "trusted.low", &mut [0; 8][..]).is_err());
    assert!(!merged.join("again/old").exists() && merged.join("again/new").exists(), "deleted, then made anew");
    mark(".wh..wh..opq");
    merge_layer(fd(&high).as_fd(), fd(&merged).as_fd()).unwrap();
    assert!(!merged.join("kept").exists() && merged.join("hard").exists(), "the top itself can hide");
}

#[test]
fn a_tree_is_given_away_and_nothing_outside() {
    let folder = Folder::new("own");
    let tree = folder.sub("tree/below");
    let outside = folder.0.join("outside");
    fs::write(&outside, "").unwrap();
    fs::write(tree.join("file"), "").unwrap();
    symlink(&outside, tree.join("link")).unwrap();
    symlink(&folder.0, tree.join("folder-link")).unwrap();
    let top = File::open(folder.0.join("tree")).unwrap();
    own_tree(top.as_fd(), 12345, 23456).unwrap();
    let owner = |path: PathBuf| fs::symlink_metadata(&path).map(|found| (found.uid(), found.gid())).unwrap();
    for name in ["tree", "tree/below", "tree/below/file", "tree/below/link", "tree/below/folder-link"] {
        assert_eq!(owner(folder.0.join(name)), (12345, 23456), "{name}");
    }
    assert_eq!((owner(outside.clone()).0, owner(folder.0.clone()).0), (0, 0));
    own_tree(File::open(&outside).unwrap().as_fd(), 7, 8).unwrap();
    assert_eq!(owner(outside), (7, 8), "a file alone");
}
