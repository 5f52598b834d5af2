//! Paths inside a root that is not trusted: every component is resolved by the kernel as if the root were `/`.
//!
//! openat2(2) with `RESOLVE_IN_ROOT` follows the container's own symbolic links, absolute ones too, and cannot
//! leave the root whatever they say and however they change meanwhile; `RESOLVE_NO_MAGICLINKS` keeps
//! `/proc/*/fd` links out. What is missing is made one component at a time, each below the descriptor of the
//! last, so that a link put in its place in between is refused or resolved inside the root again, never followed outside.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::MountError;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens `path` as seen from `root` with `O_PATH`, following links inside the root.
///
/// # Errors
/// openat2(2)'s.
pub fn open_path(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::PATH)
}

/// Opens `path` as seen from `root` with the flags given (close-on-exec is added).
///
/// # Errors
/// openat2(2)'s. A race that moves the root's parents (`EAGAIN`) is tried again a bounded number of times.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    const ATTEMPTS: usize = 32;
    let relative = relative(path);
    for _ in 1..ATTEMPTS {
        match openat2(root, &relative, flags | OFlags::CLOEXEC, Mode::empty(), IN_ROOT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    openat2(root, &relative, flags | OFlags::CLOEXEC, Mode::empty(), IN_ROOT)
}

/// `path` without its leading slashes; the root itself is `.`.
fn relative(path: &Path) -> PathBuf {
    let stripped: PathBuf =
        path.components().filter(|c| !matches!(c, Component::RootDir | Component::CurDir)).collect();
    if stripped.as_os_str().is_empty() { PathBuf::from(".") } else { stripped }
}

/// Links followed by hand while making what a dangling link points to; as many as the kernel follows (path_resolution(7)).
const MAXIMUM_LINKS: usize = 40;

/// Opens the directory `path` inside `root`, making what is missing with `mode`. Where a component is a dangling
/// link, what it points to is made, inside the root as well.
///
/// # Errors
/// The path and errno of the component that could not be opened or made; `ENOTDIR` when something else is there.
pub fn make_directory(root: BorrowedFd<'_>, path: &Path, mode: Mode) -> Result<OwnedFd, MountError> {
    let mut wanted = path.to_path_buf();
    for _ in 0..MAXIMUM_LINKS {
        match open(root, &wanted, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            Ok(directory) => return Ok(directory),
            Err(errno) => return Err(MountError::new("open", path.display().to_string(), errno)),
        }
        match make_missing(root, &wanted, mode)? {
            Made::Directory(directory) => return Ok(directory),
            Made::Redirected(target) => wanted = target,
        }
    }
    Err(MountError::new("open", path.display().to_string(), Errno::LOOP))
}

/// What [`make_missing`] came to: the directory, or a dangling link on the way and the path that it means.
enum Made {
    Directory(OwnedFd),
    Redirected(PathBuf),
}

fn make_missing(root: BorrowedFd<'_>, path: &Path, mode: Mode) -> Result<Made, MountError> {
    let failed = |operation, at: &Path, errno| MountError::new(operation, at.display().to_string(), errno);
    let (mut current, mut done, missing) = deepest_existing(root, path)?;
    for (index, component) in missing.iter().enumerate() {
        let Component::Normal(name) = component else {
            return Err(failed("open", path, Errno::NOENT));
        };
        match mkdirat(&current, *name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if let Ok(target) = readlinkat(&current, *name, Vec::new()) {
                    let target = done.join(Path::new(OsStr::from_bytes(target.as_bytes())));
                    return Ok(Made::Redirected(target.join(missing[index + 1..].iter().collect::<PathBuf>())));
                }
            }
            Err(errno) => return Err(failed("mkdir", &done.join(name), errno)),
        }
        done.push(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        current = openat(&current, *name, flags, Mode::empty()).map_err(|errno| failed("open", &done, errno))?;
    }
    Ok(Made::Directory(current))
}

/// The longest prefix of `path` that exists in `root`: its descriptor, its path, and the components after it.
fn deepest_existing<'p>(
    root: BorrowedFd<'_>,
    path: &'p Path,
) -> Result<(OwnedFd, PathBuf, Vec<Component<'p>>), MountError> {
    let components: Vec<Component<'p>> =
        path.components().filter(|c| !matches!(c, Component::RootDir | Component::CurDir)).collect();
    for length in (0..=components.len()).rev() {
        let prefix: PathBuf = components[..length].iter().collect();
        match open(root, &prefix, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => return Ok((fd, prefix, components[length..].to_vec())),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(MountError::new("open", prefix.display().to_string(), errno)),
        }
    }
    Err(MountError::new("open", path.display().to_string(), Errno::NOENT))
}

/// Opens the file `path` inside `root` with `O_PATH`, making an empty regular file (and its parents) when missing.
/// A dangling link is followed inside the root, as for [`make_directory`].
///
/// # Errors
/// As [`make_directory`], and openat(2)'s for the file itself.
pub fn make_file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, MountError> {
    let failed = |operation, errno| MountError::new(operation, path.display().to_string(), errno);
    let mut wanted = path.to_path_buf();
    for _ in 0..MAXIMUM_LINKS {
        match open_path(root, &wanted) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|errno| failed("open", errno)),
        }
        let Some(name) = wanted.file_name() else { return Err(failed("create", Errno::ISDIR)) };
        let parent_path = wanted.parent().unwrap_or(Path::new("/"));
        let parent = make_directory(root, parent_path, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) => {
                return openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|errno| failed("open", errno));
            }
            Err(Errno::EXIST) => {
                let target = readlinkat(&parent, name, Vec::new()).map_err(|errno| failed("create", errno))?;
                wanted = parent_path.join(Path::new(OsStr::from_bytes(target.as_bytes())));
            }
            Err(errno) => return Err(failed("create", errno)),
        }
    }
    Err(failed("open", Errno::LOOP))
}

/// Opens or makes the mount point for `source`: a directory for a directory, a file for anything else.
///
/// # Errors
/// As [`make_directory`] and [`make_file`].
pub fn mount_point(root: BorrowedFd<'_>, path: &Path, source: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let stat = fstat(source).map_err(|errno| MountError::new("fstat", path.display().to_string(), errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => make_directory(root, path, Mode::from_raw_mode(0o755)),
        _ => make_file(root, path),
    }
}

/// Whether `path` is inside `root` at all; other failures than "it is not there" count as present.
pub fn exists(root: BorrowedFd<'_>, path: &Path) -> bool {
    !matches!(open_path(root.as_fd(), path), Err(Errno::NOENT | Errno::NOTDIR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let path = std::env::temp_dir().join(format!("hull-inside-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Root(path)
        }

        fn fd(&self) -> OwnedFd {
            std::fs::File::open(&self.0).unwrap().into()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_link_out_of_the_root_ends_inside() {
        let root = Root::new("link");
        symlink("/etc", root.0.join("link")).unwrap();
        symlink("../../../..", root.0.join("up")).unwrap();
        make_directory(root.fd().as_fd(), Path::new("/etc/sub"), Mode::from_raw_mode(0o755)).unwrap();
        make_file(root.fd().as_fd(), Path::new("/link/passwd")).unwrap();
        make_file(root.fd().as_fd(), Path::new("/up/top")).unwrap();
        assert!(root.0.join("etc/passwd").is_file() && root.0.join("top").is_file());
    }

    #[test]
    fn a_dangling_link_is_completed_inside_the_root() {
        let root = Root::new("dangling");
        let outside = std::env::temp_dir().join(format!("hull-inside-outside-{}", std::process::id()));
        symlink(&outside, root.0.join("link")).unwrap();
        make_directory(root.fd().as_fd(), Path::new("/link/dir"), Mode::from_raw_mode(0o755)).unwrap();
        symlink("../run/resolv.conf", root.0.join("resolv")).unwrap();
        make_file(root.fd().as_fd(), Path::new("/resolv")).unwrap();
        assert!(!outside.exists());
        assert!(root.0.join(outside.strip_prefix("/").unwrap()).join("dir").is_dir());
        assert!(root.0.join("run/resolv.conf").is_file());
    }

    #[test]
    fn links_in_a_circle_end_with_an_error() {
        let root = Root::new("circle");
        symlink("b", root.0.join("a")).unwrap();
        symlink("a", root.0.join("b")).unwrap();
        assert_eq!(make_file(root.fd().as_fd(), Path::new("/a")).unwrap_err().errno, Errno::LOOP);
    }

    #[test]
    fn missing_parents_are_made_and_dots_are_not_walked_up() {
        let root = Root::new("parents");
        make_directory(root.fd().as_fd(), Path::new("/a/b/../c/d"), Mode::from_raw_mode(0o755)).unwrap_err();
        make_directory(root.fd().as_fd(), Path::new("/a/b/c"), Mode::from_raw_mode(0o755)).unwrap();
        assert!(root.0.join("a/b/c").is_dir());
    }

    #[test]
    fn a_file_in_the_way_of_a_directory_is_named() {
        let root = Root::new("file");
        std::fs::write(root.0.join("file"), "").unwrap();
        let error = make_directory(root.fd().as_fd(), Path::new("/file/x"), Mode::from_raw_mode(0o755)).unwrap_err();
        assert_eq!(error.errno, Errno::NOTDIR);
    }
}
