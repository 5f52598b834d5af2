//! File systems in a file, mounted: EROFS images.
//!
//! Since Linux 6.12 EROFS reads its image straight from the file, where the file's own file system can give it pages
//! (not tmpfs). Elsewhere the image becomes a loop device (loop(4)) that goes with its mount. Which way works is found
//! out by trying; the kernel says `ENOTBLK` to the first.
//!
//! A mount is read-only, and nobody gets a device or another user's rights through it directly. An overlay above it is
//! not bound by that: it has attributes of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hull_sys::loop_device;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::overlay::{OverlayMount, leave_mount_namespace, open_directory, overlay, with_short_name};
use super::{MountError, attach, kernel_log};

const FILE_SYSTEM: &str = "erofs";

/// Whether this kernel knows the file system of images; asks for its module.
pub fn has_images() -> bool {
    fsopen(FILE_SYSTEM, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

/// Mounts the image in a file, detached.
///
/// # Errors
/// The step that the kernel refused, with its message.
pub fn mount_image(path: &Path) -> Result<OwnedFd, MountError> {
    match with_short_name(path, |name| mount_source(name, path)) {
        Err(error) if error.errno == Errno::NOTBLK => mount_loop(path),
        result => result,
    }
}

fn mount_loop(path: &Path) -> Result<OwnedFd, MountError> {
    let failed = |operation| {
        let subject = path.display().to_string();
        move |error: std::io::Error| {
            MountError::new(operation, subject, Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    };
    let file = File::open(path).map_err(failed("open"))?;
    let (device, _held) = loop_device::attach_read_only(file.as_fd()).map_err(failed("making a loop device of"))?;
    mount_source(device.as_os_str(), path)
}

fn mount_source(source: &OsStr, path: &Path) -> Result<OwnedFd, MountError> {
    let context = fsopen(FILE_SYSTEM, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| MountError::new("fsopen", "erofs (is the erofs module there?)", errno))?;
    let context = context.as_fd();
    let refused = |operation| {
        move |errno| {
            let subject = path.display().to_string();
            MountError { operation, subject, errno, kernel_log: kernel_log(context) }
        }
    };
    fsconfig_set_string(context, "source", source.as_bytes()).map_err(refused("fsconfig source"))?;
    fsconfig_set_flag(context, "ro").map_err(refused("fsconfig ro"))?;
    fsconfig_create(context).map_err(refused("mounting image"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(refused("fsmount"))
}

/// Tries out what a container needs: the image mounted, and an overlay over it that can be written. Nothing of it is
/// seen by others, or stays. `place` is an empty folder, `upper` and `work` two others beside each other.
///
/// # Errors
/// The step that the kernel refused.
pub fn try_below_overlay(image: &Path, place: &Path, upper: &Path, work: &Path) -> Result<(), MountError> {
    let tried = || -> Result<(), MountError> {
        leave_mount_namespace()?;
        let mount = mount_image(image)?;
        attach(mount.as_fd(), open_directory(place)?.as_fd(), &place.display().to_string())?;
        let upper = Some((upper.to_path_buf(), work.to_path_buf()));
        overlay(&OverlayMount { lowers: vec![place.to_path_buf()], upper, volatile: true }).map(drop)
    };
    std::thread::scope(|scope| scope.spawn(tried).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erofs::{Attributes, Extent, FileKind, ImageWriter};
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statat, statx};
    use std::io::{self, Read};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    fn new_image(folder: &Path) -> (PathBuf, ImageWriter) {
        let path = folder.join("image");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        (path, ImageWriter::new(file).unwrap())
    }

    fn reader(mut content: &[u8]) -> impl FnMut(&mut [u8]) -> io::Result<usize> {
        move |room| content.read(room)
    }

    fn at(mount: &OwnedFd, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", mount.as_raw_fd()))
    }

    fn attributes(mode: u16) -> Attributes {
        Attributes { mode, uid: 70_000, gid: 5, mtime: (-2, 500_000_000), ..Attributes::default() }
    }

    /// A file system with pages of its own, and one without.
    fn folders() -> Vec<tempfile::TempDir> {
        vec![tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()]
    }

    #[test]
    fn files_of_every_size_come_back() {
        for folder in folders() {
            let (path, mut image) = new_image(folder.path());
            let sizes = [0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 12_345, 3 << 20];
            let content = |size: usize| -> Vec<u8> { (0..size).map(|n| (n % 251) as u8).collect() };
            for size in sizes {
                let node = image.file(&attributes(0o4755), reader(&content(size))).unwrap();
                image.link(image.root(), format!("file-{size}").as_bytes(), node).unwrap();
            }
            for length in [1, 60, 3000, 4032, 4033, 4095] {
                let node = image.symbolic_link(&attributes(0), "t".repeat(length).as_bytes()).unwrap();
                assert_eq!(image.target(node).unwrap().unwrap().len(), length);
                image.link(image.root(), format!("link-{length}").as_bytes(), node).unwrap();
            }
            image.finish().unwrap();
            let mount = mount_image(&path).unwrap();
            for size in sizes {
                let file = at(&mount, &format!("file-{size}"));
                assert_eq!(std::fs::read(&file).unwrap(), content(size), "{size}");
                let stat = std::fs::metadata(&file).unwrap();
                assert_eq!((stat.mode(), stat.uid(), stat.gid()), (0o104_755, 70_000, 5));
                assert_eq!((stat.mtime(), stat.mtime_nsec(), stat.nlink()), (-2, 500_000_000, 1));
            }
            for length in [1, 60, 3000, 4032, 4033, 4095] {
                let target = std::fs::read_link(at(&mount, &format!("link-{length}"))).unwrap();
                assert_eq!(target.as_os_str().len(), length);
            }
        }
    }

    #[test]
    fn directories_of_any_size_are_found_in() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut image) = new_image(folder.path());
        let mut parent = image.root();
        for depth in 0..40 {
            let directory = image.directory(attributes(0o750)).unwrap();
            image.link(parent, b"down", directory).unwrap();
            for number in 0..depth * 40 {
                let node = image.file(&attributes(0o644), reader(number.to_string().as_bytes())).unwrap();
                image.link(directory, format!("!{number:03}{}", "n".repeat(number % 200)).as_bytes(), node).unwrap();
                if number % 3 == 0 {
                    image.link(image.root(), format!("{depth}-{number}").as_bytes(), node).unwrap();
                }
            }
            parent = directory;
        }
        image.finish().unwrap();
        let mount = mount_image(&path).unwrap();
        let mut place = at(&mount, "");
        for depth in 0..40_usize {
            place = place.join("down");
            let names = std::fs::read_dir(&place).unwrap().filter(Result::is_ok).count();
            assert_eq!(names, depth * 40 + usize::from(depth < 39));
            for number in 0..depth * 40 {
                let file = place.join(format!("!{number:03}{}", "n".repeat(number % 200)));
                assert_eq!(std::fs::read_to_string(&file).unwrap(), number.to_string());
                let links = if number % 3 == 0 { 2 } else { 1 };
                assert_eq!(std::fs::metadata(&file).unwrap().nlink(), links);
            }
            let above = std::fs::metadata(place.join("..")).unwrap().ino();
            assert_eq!(above, std::fs::metadata(place.parent().unwrap()).unwrap().ino());
        }
        assert_eq!(std::fs::metadata(at(&mount, "down")).unwrap().nlink(), 3);
    }

    #[test]
    fn holes_take_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut image) = new_image(folder.path());
        let extents = [(1 << 20, 5_u64), ((1 << 20) + 4090, 10), ((40 << 30) + 7, 3)];
        let list = extents.map(|(offset, length)| Extent { offset, length });
        let sparse =
            image.sparse_file(&attributes(0o600), (40 << 30) + 100, list, reader(b"first0123456789end")).unwrap();
        image.link(image.root(), b"sparse", sparse).unwrap();
        let empty = image.sparse_file(&attributes(0o600), 1 << 30, [], reader(b"")).unwrap();
        image.link(image.root(), b"empty", empty).unwrap();
        let after = image.file(&attributes(0o600), reader(b"after")).unwrap();
        image.link(image.root(), b"after", after).unwrap();
        let file = image.finish().unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
        let mount = mount_image(&path).unwrap();
        let sparse = File::open(at(&mount, "sparse")).unwrap();
        assert_eq!(sparse.metadata().unwrap().len(), (40 << 30) + 100);
        for ((offset, length), expected) in extents.iter().zip(["first", "0123456789", "end"]) {
            let mut found = vec![0; *length as usize + 2];
            std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut found, offset - 1).unwrap();
            assert_eq!(found, [b"\0", expected.as_bytes(), b"\0"].concat());
        }
        assert_eq!(std::fs::read(at(&mount, "after")).unwrap(), b"after");
        let mut empty = File::open(at(&mount, "empty")).unwrap().take(1 << 20);
        let mut content = Vec::new();
        empty.read_to_end(&mut content).unwrap();
        assert!(content.len() == 1 << 20 && content.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn special_files_and_attributes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut image) = new_image(folder.path());
        let xattrs = |names: &[&str]| names.iter().map(|name| (name.to_string(), b"v\0".to_vec())).collect();
        let with = |names| Attributes { xattrs: xattrs(names), ..attributes(0o640) };
        let root = Attributes { mode: 0o1711, uid: 3, gid: 4, mtime: (9, 1), xattrs: xattrs(&["user.root"]) };
        image.change_directory(image.root(), root.clone()).unwrap();
        image.change_directory(image.root(), Attributes { xattrs: xattrs(&["trusted.more"]), ..root }).unwrap();
        for (name, kind, number) in [
            (&b"null"[..], FileKind::CharacterDevice, (1, 3)),
            (b"disk", FileKind::BlockDevice, (259, 70_000)),
            (b"fifo", FileKind::Fifo, (0, 0)),
            (b"socket", FileKind::Socket, (0, 0)),
        ] {
            let node = image.special(&with(&["trusted.a", "security.b"]), kind, number).unwrap();
            image.link(image.root(), name, node).unwrap();
        }
        let file = image.file(&with(&["user.x", "user.y"]), reader(&[7; 4000])).unwrap();
        image.link(image.root(), b"file", file).unwrap();
        let link = image.symbolic_link(&with(&["trusted.l"]), b"null").unwrap();
        image.link(image.root(), b"link", link).unwrap();
        let file = image.finish().unwrap();
        let owner = crate::erofs::root_attributes(&file).unwrap();
        assert_eq!((owner.mode, owner.uid, owner.gid), (0o1711, 3, 4));
        let mount = mount_image(&path).unwrap();
        let attribute = |name: &str, key: &str| {
            let mut value = [0; 16];
            rustix::fs::lgetxattr(at(&mount, name), key, &mut value[..]).map(|length| value[..length].to_vec())
        };
        for (name, key) in [
            (".", "user.root"),
            (".", "trusted.more"),
            ("null", "trusted.a"),
            ("null", "security.b"),
            ("file", "user.y"),
            ("link", "trusted.l"),
        ] {
            assert_eq!(attribute(name, key).unwrap(), b"v\0", "{name} {key}");
        }
        let stat = |name: &str| statat(&mount, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!((stat("null").st_mode, stat("null").st_rdev), (0o020_640, rustix::fs::makedev(1, 3)));
        assert_eq!((stat("disk").st_mode, stat("disk").st_rdev), (0o060_640, rustix::fs::makedev(259, 70_000)));
        assert_eq!((stat("fifo").st_mode, stat("socket").st_mode), (0o010_640, 0o140_640));
        assert_eq!(std::fs::read(at(&mount, "file")).unwrap(), [7; 4000]);
    }

    /// Linux 6.15 and later.
    fn takes_detached_layers() -> bool {
        let name = rustix::system::uname();
        let mut numbers = name.release().to_str().unwrap().split(['.', '-', '+']).map(|number| number.parse::<u32>());
        (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap()) >= (6, 15)
    }

    #[test]
    fn an_overlay_sees_marks_of_deletion_and_is_not_bound_by_the_layers_attributes() {
        for folder in folders() {
            let (path, mut image) = new_image(folder.path());
            for name in ["gone", "dir"] {
                let node = match name {
                    "gone" => image.special(&Attributes::default(), FileKind::CharacterDevice, (0, 0)).unwrap(),
                    _ => {
                        let xattrs = vec![("trusted.overlay.opaque".to_owned(), b"y".to_vec())];
                        image.directory(Attributes { xattrs, ..attributes(0o755) }).unwrap()
                    }
                };
                image.link(image.root(), name.as_bytes(), node).unwrap();
            }
            let root = Attributes { mode: 0o755, ..Attributes::default() };
            let null = image.special(&Attributes { mode: 0o666, ..root.clone() }, FileKind::CharacterDevice, (1, 3));
            image.link(image.root(), b"null", null.unwrap()).unwrap();
            let program = std::fs::read("/bin/true").unwrap();
            let node = image.file(&Attributes { mode: 0o4755, ..root }, reader(&program)).unwrap();
            image.link(image.root(), b"true", node).unwrap();
            image.finish().unwrap();
            let lower = folder.path().join("lower");
            std::fs::create_dir_all(lower.join("dir/hidden")).unwrap();
            std::fs::write(lower.join("gone"), "x").unwrap();
            let mount = mount_image(&path).unwrap();
            let lowers = vec![at(&mount, ""), lower];
            let top = overlay(&OverlayMount { lowers, upper: None, volatile: false });
            let top = match top {
                // Before Linux 6.15 overlay takes layers from attached mounts only.
                Err(_) if !takes_detached_layers() => continue,
                other => other.unwrap(),
            };
            assert!(!at(&top, "gone").exists() && at(&top, "dir").exists() && !at(&top, "dir/hidden").exists());
            assert_eq!(std::fs::read(at(&top, "null")).unwrap(), b"");
            assert_eq!(openat(&mount, "null", OFlags::RDONLY, Mode::empty()).unwrap_err(), Errno::ACCESS);
            assert!(std::process::Command::new(at(&top, "true")).status().unwrap().success());
            let seen = statx(CWD, at(&top, "true"), AtFlags::empty(), StatxFlags::MODE).unwrap();
            assert_eq!(seen.stx_mode & 0o7777, 0o4755);
        }
    }

    #[test]
    fn equal_input_gives_an_equal_image_and_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let (path, mut image) = new_image(&path);
            let node = image.file(&attributes(0o644), reader(b"content")).unwrap();
            image.link(image.root(), b"file", node).unwrap();
            image.finish().unwrap();
            path
        };
        let (one, two) = (make("one"), make("two"));
        let mut bytes = std::fs::read(&one).unwrap();
        assert_eq!(bytes, std::fs::read(two).unwrap());
        bytes[1024 + 20] ^= 1;
        std::fs::write(&one, bytes).unwrap();
        mount_image(&one).unwrap_err();
    }
}
