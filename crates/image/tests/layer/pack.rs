//! A tree that is packed and unpacked again is the same tree, in all that a file system keeps.
//!
//! Needs root's rights, for devices, owners and attributes of every kind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use hull_image::pack::{Ids, Packer};
use rustix::fs::{
    CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, lsetxattr, makedev, mknodat, openat,
    utimensat,
};

use super::folder::{Facts, Folder, Target};

fn pack_all(packer: &mut Packer<'_>, folder: BorrowedFd<'_>, path: &Path, at: &Path) {
    let mut names: Vec<_> =
        fs::read_dir(at).expect("a folder").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    for name in names {
        let (path, at) = (path.join(&name), at.join(&name));
        packer.entry(folder, &name, &path).expect("packs");
        if fs::symlink_metadata(&at).expect("metadata").is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let inside = openat(folder, &name, flags, Mode::empty()).expect("opens");
            pack_all(packer, inside.as_fd(), &path, &at);
        }
    }
}

fn packed(top: &Path, ids: Ids) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut packer = Packer::new(&mut archive, ids);
    let root = File::open(top).expect("opens");
    pack_all(&mut packer, root.as_fd(), Path::new(""), top);
    packer.finish().expect("ends");
    archive
}

/// One of everything.
fn fill(top: &Path) {
    fs::create_dir(top.join("d")).expect("makes");
    fs::write(top.join("d/file"), vec![7; 300_000]).expect("writes");
    fs::set_permissions(top.join("d/file"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    fs::hard_link(top.join("d/file"), top.join("e-link")).expect("links");
    fs::write(top.join("owned"), b"x").expect("writes");
    chown(top.join("owned"), Some(3_000_000), Some(77)).expect("chown");
    symlink("../nowhere", top.join("link")).expect("links");
    lchown(top.join("link"), Some(5), Some(6)).expect("lchown");
    fs::write(top.join(OsStr::from_bytes(b"not \xff utf-8")), b"bytes").expect("writes");
    let long = top.join("l".repeat(200)).join("m".repeat(200));
    fs::create_dir_all(&long).expect("makes");
    fs::write(long.join("n".repeat(255)), b"long").expect("writes");
    for (name, kind, number) in [
        ("char", FileType::CharacterDevice, makedev(1, 3)),
        ("block", FileType::BlockDevice, makedev(259, 1_048_575)),
        ("fifo", FileType::Fifo, 0),
    ] {
        mknodat(CWD, top.join(name), kind, Mode::from_raw_mode(0o640), number).expect("mknod");
    }
    let set = |path: &str, name: &str, value: &[u8]| {
        lsetxattr(top.join(path), name, value, XattrFlags::empty()).expect("setxattr");
    };
    set("d/file", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    set("d", "trusted.folder", b"\0\x01\n=");
    set("link", "trusted.link", b"of a link");
    if rustix::fs::setxattr(top.join("owned"), "user.note", b"", XattrFlags::empty()).is_err() {
        // tmpfs of older kernels has none.
        set("owned", "trusted.note", b"");
    }
    let old = Timespec { tv_sec: -5, tv_nsec: 250_000_000 };
    let times = Timestamps { last_access: old, last_modification: old };
    utimensat(CWD, top.join("owned"), &times, rustix::fs::AtFlags::empty()).expect("utimes");
}

/// Facts without the content, which is long.
fn described(facts: &Facts) -> String {
    format!("{:?}", Facts { content: Vec::new(), ..facts.clone() })
}

#[test]
fn everything_survives_in_a_folder_and_in_an_image() {
    survives(Target::Folder);
    survives(Target::Image);
}

fn survives(target: Target) {
    let (first, second) = (Folder::of(Target::Folder), Folder::of(target));
    fill(&first.top());
    let archive = packed(&first.top(), Ids::PLAIN);
    second.unpack(&archive).expect("unpacks");
    let (ours, theirs) = (second.listing(), first.listing());
    assert_eq!(ours.len(), theirs.len());
    for (one, other) in ours.iter().zip(&theirs).skip(1) {
        assert!(one == other, "{:?}: {:?} {:?}", one.path, described(one), described(other));
    }
    assert_eq!(packed(&second.top(), Ids::PLAIN), archive, "the same tree is the same bytes");
}

#[test]
fn shifted_owners_are_given_back() {
    let (first, second) = (Folder::of(Target::Folder), Folder::of(Target::Folder));
    fs::write(first.path("root"), b"").expect("writes");
    fs::write(first.path("user"), b"").expect("writes");
    let own = |name: &str, id: u32| {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        rustix::fs::chownat(CWD, first.path(name), Some(uid), Some(gid), rustix::fs::AtFlags::empty()).expect("chown");
    };
    own("root", 700_000);
    own("user", 701_000);
    second.unpack(&packed(&first.top(), Ids { first: 700_000, count: 65_536 })).expect("unpacks");
    let owners: Vec<_> = second.listing().iter().skip(1).map(|facts| facts.owner).collect();
    assert_eq!(owners, [(0, 0), (1000, 1000)]);
}

#[test]
fn what_is_overlay_s_own_stays_behind_and_sockets_too() {
    let (first, second) = (Folder::of(Target::Folder), Folder::of(Target::Folder));
    fs::create_dir(first.path("d")).expect("makes");
    lsetxattr(first.path("d"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).expect("setxattr");
    let _socket = std::os::unix::net::UnixListener::bind(first.path("socket")).expect("binds");
    second.unpack(&packed(&first.top(), Ids::PLAIN)).expect("unpacks");
    assert_eq!(second.names(), ["d"]);
    assert_eq!(second.xattr("d", "trusted.overlay.opaque"), None);
}
