//! A folder or an image to unpack into, with another folder beside it that nothing may touch. An image is looked at
//! through a detached mount.

use std::cell::{Cell, RefCell};
use std::fs::{self, File, Metadata};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use hull_image::unpack::{Destination, UnpackError, UnpackOptions, UnpackReport, unpack_layer};
use hull_kernel::mounts::image::mount_image;

/// What layers are unpacked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Folder,
    Image,
}

thread_local! {
    static TARGET: Cell<Target> = const { Cell::new(Target::Folder) };
}

impl Target {
    /// Runs a test whose folders are of this kind.
    pub fn run(self, test: impl FnOnce()) {
        TARGET.set(self);
        test();
    }
}

/// The two folders; gone with the value.
pub struct Folder {
    target: Target,
    all: tempfile::TempDir,
    image: tempfile::TempDir,
    mount: RefCell<Option<OwnedFd>>,
    outside: PathBuf,
}

/// What a file system keeps about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub path: PathBuf,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub links: u64,
    pub device: u64,
    pub mtime: (i64, i64),
    pub content: Vec<u8>,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Folder {
    pub fn new() -> Folder {
        Folder::of(TARGET.get())
    }

    pub fn of(target: Target) -> Folder {
        let (all, image) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let outside = all.path().join("outside");
        for path in [&all.path().join("layer"), &outside] {
            fs::create_dir(path).expect("folder");
        }
        Folder { target, all, image, mount: RefCell::new(None), outside }
    }

    pub fn unpack(&self, archive: &[u8]) -> Result<UnpackReport, UnpackError> {
        self.unpack_with(archive, &UnpackOptions::default())
    }

    pub fn unpack_with(&self, archive: &[u8], options: &UnpackOptions) -> Result<UnpackReport, UnpackError> {
        let image = self.image.path().join("image");
        if self.target == Target::Folder {
            let top = File::open(self.top()).expect("folder");
            return unpack_layer(archive, Destination::Folder(top.as_fd()), options);
        }
        self.mount.take();
        let mut new = File::options();
        let file = new.read(true).write(true).create(true).truncate(true).open(&image).expect("image");
        let report = unpack_layer(archive, Destination::Image(file), options)?;
        self.mount.replace(Some(mount_image(&image).expect("a mount")));
        Ok(report)
    }

    /// What an unpacking that failed has left can be looked into.
    pub fn keeps_what_failed(&self) -> bool {
        self.target == Target::Folder
    }

    /// Bytes that a file takes on the disk; of an image, all of it.
    pub fn disk_bytes(&self, path: &str) -> u64 {
        let stat = match self.target {
            Target::Folder => self.stat(path),
            Target::Image => fs::metadata(self.image.path().join("image")).expect("image"),
        };
        stat.blocks() * 512
    }

    pub fn top(&self) -> PathBuf {
        match &*self.mount.borrow() {
            Some(mount) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
            None => self.all.path().join("layer"),
        }
    }

    pub fn outside(&self) -> &Path {
        &self.outside
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.top().join(path)
    }

    pub fn stat(&self, path: &str) -> Metadata {
        fs::symlink_metadata(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        xattr(&self.path(path), name)
    }

    /// Names in the top directory.
    pub fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("")).expect("folder").map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Everything in the layer, sorted by path, itself included.
    pub fn listing(&self) -> Vec<Facts> {
        let mut facts = Vec::new();
        list(&self.top(), Path::new(""), &mut facts);
        facts.sort_by(|one, other| one.path.cmp(&other.path));
        facts
    }

    /// Everything outside the layer, and how many things there are beside it.
    pub fn facts_outside(&self) -> (usize, Vec<Facts>) {
        let mut facts = Vec::new();
        list(&self.outside, Path::new(""), &mut facts);
        facts.sort_by(|one, other| one.path.cmp(&other.path));
        let beside = self.outside.parent().expect("a parent");
        (fs::read_dir(beside).expect("folder").count(), facts)
    }
}

fn list(top: &Path, path: &Path, facts: &mut Vec<Facts>) {
    let full = top.join(path);
    let stat = fs::symlink_metadata(&full).expect("stat");
    let kind = stat.file_type();
    let content = match () {
        () if kind.is_file() => fs::read(&full).expect("content"),
        () if kind.is_symlink() => fs::read_link(&full).expect("target").into_os_string().into_encoded_bytes(),
        () => Vec::new(),
    };
    let is_device = kind.is_char_device() || kind.is_block_device();
    facts.push(Facts {
        path: path.to_path_buf(),
        mode: stat.mode(),
        owner: (stat.uid(), stat.gid()),
        size: if kind.is_dir() { 0 } else { stat.len() },
        links: if kind.is_dir() { 0 } else { stat.nlink() },
        device: if is_device { stat.rdev() } else { 0 },
        mtime: (stat.mtime(), stat.mtime_nsec()),
        content,
        xattrs: xattrs(&full),
    });
    if kind.is_dir() {
        for entry in fs::read_dir(&full).expect("folder") {
            list(top, &path.join(entry.expect("entry").file_name()), facts);
        }
    }
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list).expect("attributes");
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    let mut all: Vec<_> = names.map(|name| (name.clone(), xattr(path, &name).unwrap_or_default())).collect();
    all.sort();
    all
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}
