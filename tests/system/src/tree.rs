//! A file tree as facts that can be compared, read from a folder or from a tar, whoever made it.
//!
//! A fact is what a file system keeps of one path: kind, mode, owner, time, size and hash of the content, target,
//! device number, extended attributes, and with which other path it shares its inode: the first of the group. Of
//! folders, size and number of links are the file system's own business; the root itself is left out, since a layer need
//! not have it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, lgetxattr, llistxattr, makedev};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

/// What is at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `f`, `d`, `l`, `c`, `b`, `p`, as find(1) has it.
    pub kind: char,
    /// The twelve bits; none of a link, where they mean nothing.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Size and SHA-256 of a file's content, the target of a link.
    pub content: String,
    /// Number of a device.
    pub device: u64,
    /// Extended attributes, without those of overlay and of this machine's labels.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path of several that are one file.
    pub group: Option<PathBuf>,
}

/// All paths of a tree.
pub type Tree = BTreeMap<PathBuf, Facts>;

/// What docker keeps of a tree in an exported tar: whole seconds, and of the attributes the capabilities.
pub fn as_docker_exports(mut tree: Tree) -> Tree {
    for facts in tree.values_mut() {
        facts.mtime.1 = 0;
        facts.xattrs.retain(|name, _| name == "security.capability");
    }
    tree
}

/// The tree below a folder.
pub fn of_folder(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    walk(top, Path::new(""), &mut tree, &mut inodes);
    tree
}

fn walk(top: &Path, path: &Path, tree: &mut Tree, inodes: &mut BTreeMap<(u64, u64), PathBuf>) {
    let mut names: Vec<_> = fs::read_dir(top.join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", top.join(path).display()))
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    for name in names {
        let path = path.join(name);
        let full = top.join(&path);
        let stat = fs::symlink_metadata(&full).expect("metadata");
        let kind = kind_of(FileType::from_raw_mode(stat.mode()));
        let content = match kind {
            'f' => hashed(File::open(&full).expect("a file")),
            'l' => fs::read_link(&full).expect("a target").display().to_string(),
            _ => String::new(),
        };
        let group = (kind != 'd' && stat.nlink() > 1)
            .then(|| inodes.entry((stat.dev(), stat.ino())).or_insert_with(|| path.clone()).clone());
        let facts = Facts {
            kind,
            mode: if kind == 'l' { 0 } else { stat.mode() & 0o7777 },
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), u32::try_from(stat.mtime_nsec()).expect("nanoseconds")),
            content,
            device: if matches!(kind, 'c' | 'b') { stat.rdev() } else { 0 },
            xattrs: xattrs(&full),
            group,
        };
        tree.insert(path.clone(), facts);
        if kind == 'd' {
            walk(top, &path, tree, inodes);
        }
    }
}

fn kind_of(kind: FileType) -> char {
    match kind {
        FileType::RegularFile => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        _ => 's',
    }
}

fn hashed(mut content: impl Read) -> String {
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).expect("content");
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hash}", bytes.len())
}

fn is_of_the_image(name: &str) -> bool {
    !name.starts_with("trusted.overlay.") && name != "security.selinux"
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65_536];
    let length = llistxattr(path, &mut list).unwrap_or(0);
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned()).filter(|name| is_of_the_image(name));
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = lgetxattr(path, name.as_str(), &mut value).expect("an attribute");
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// The tree that a tar holds.
pub fn of_tar(archive: impl Read) -> Tree {
    let mut tree = Tree::new();
    let mut archive = Archive::new(archive);
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let records = records(&mut entry);
        let path = clean(&entry.path_bytes());
        if path.as_os_str().is_empty() {
            continue;
        }
        let link = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        if entry.header().entry_type() == EntryType::Link {
            let first = clean(&link);
            let target = tree.get_mut(&first).unwrap_or_else(|| panic!("{} is not there yet", first.display()));
            let group = target.group.get_or_insert_with(|| first.clone()).clone();
            let facts = Facts { group: Some(group), ..target.clone() };
            tree.insert(path, facts);
            continue;
        }
        let facts = facts_of(&mut entry, &records, &link);
        tree.insert(path, facts);
    }
    tree
}

fn facts_of(entry: &mut tar::Entry<'_, impl Read>, records: &BTreeMap<String, Vec<u8>>, link: &[u8]) -> Facts {
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        EntryType::Directory => 'd',
        EntryType::Symlink => 'l',
        EntryType::Char => 'c',
        EntryType::Block => 'b',
        EntryType::Fifo => 'p',
        _ => 'f',
    };
    let number = |field: Option<u32>| field.expect("a device number");
    let device = match kind {
        'c' | 'b' => {
            makedev(number(header.device_major().expect("octal")), number(header.device_minor().expect("octal")))
        }
        _ => 0,
    };
    let id = |number: u64| u32::try_from(number).expect("an id");
    let text = |key: &str| records.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
    let attribute = |(key, value): (&String, &Vec<u8>)| {
        let name = key.strip_prefix("SCHILY.xattr.").filter(|name| is_of_the_image(name))?;
        Some((name.to_owned(), value.clone()))
    };
    Facts {
        kind,
        mode: if kind == 'l' { 0 } else { header.mode().expect("octal") & 0o7777 },
        owner: (id(header.uid().expect("octal")), id(header.gid().expect("octal"))),
        mtime: text("mtime")
            .map_or_else(|| (i64::try_from(header.mtime().expect("octal")).expect("a time"), 0), |text| moment(&text)),
        content: match kind {
            'f' => hashed(entry),
            'l' => OsStr::from_bytes(link).display().to_string(),
            _ => String::new(),
        },
        device,
        xattrs: records.iter().filter_map(attribute).collect(),
        group: None,
    }
}

fn records(entry: &mut tar::Entry<'_, impl Read>) -> BTreeMap<String, Vec<u8>> {
    let Some(records) = entry.pax_extensions().expect("pax records") else { return BTreeMap::new() };
    let record = |record: tar::PaxExtension<'_>| {
        (String::from_utf8_lossy(record.key_bytes()).into_owned(), record.value_bytes().to_vec())
    };
    records.map(|one| record(one.expect("a record"))).collect()
}

/// `-1.5` is half a second after -2.
fn moment(text: &str) -> (i64, u32) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanoseconds: i64 = format!("{fraction:0<9}")[..9].parse().expect("a fraction");
    let seconds: i64 = whole.parse().expect("seconds");
    match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => (seconds - 1, u32::try_from(1_000_000_000 - nanoseconds).expect("a fraction")),
        _ => (seconds, u32::try_from(nanoseconds).expect("a fraction")),
    }
}

/// A path without `./`, a slash at its end, or one at its beginning.
fn clean(path: &[u8]) -> PathBuf {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let path = parts.collect::<Vec<_>>().join(&b'/');
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// What two trees do not agree on, as lines; none when they are equal.
pub fn differences(one: &Tree, other: &Tree) -> Vec<String> {
    let mut paths: Vec<&PathBuf> = one.keys().chain(other.keys()).collect();
    paths.sort();
    paths.dedup();
    let differs = paths.into_iter().filter(|path| one.get(*path) != other.get(*path));
    differs.map(|path| format!("{path:?}:\n  {:?}\n  {:?}", one.get(path), other.get(path))).collect()
}
