//! A disk in memory that knows what of it would survive a power cut.
//!
//! Programs see the present: every write, rename and removal at once. Beside it stands what is on the platter:
//!
//! - A file's bytes and attributes are there as of its last fsync(2) (or syncfs(2)); before the first one it is as it
//!   was made, empty. Written but not synced pages may each be there or not, whatever the length says.
//! - A folder's entries are there as of its last fsync(2). The changes since then are a journal of which a beginning
//!   survives, each folder by itself: ext4, xfs and btrfs keep the order inside a folder, POSIX promises nothing between
//!   two. A file renamed from one folder into another may afterwards be in both, never in neither; a folder is in one.
//! - fsync(2) of a file says nothing about its name. Some file systems write the names too, so by chance this one does.
//!
//! [`Disk::survive`] makes the disk that a machine finds after the cut, by seed. Nothing here knows FUSE or Hull.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::Errno;

/// Number of an inode.
pub type Ino = u64;
/// The top folder.
pub const ROOT: Ino = 1;
/// What is written or lost at once, in bytes.
const PAGE_BYTES: usize = 4096;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link; its bytes are the target.
    Link,
    /// A device, FIFO or socket: the type bits of its mode.
    Special(u32),
}

/// What stat(2) says, without what follows from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Type.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub device: u32,
    /// Last change of the content.
    pub modified: SystemTime,
}

/// An inode's own content at one moment.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    attributes: Attributes,
    bytes: Arc<Vec<u8>>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// A change of a folder's entries that is not synced yet. The number names a rename between two folders, with the other.
#[derive(Debug, Clone)]
enum Change {
    Put { name: OsString, ino: Ino, renamed: Option<(u64, Ino)> },
    Remove { name: OsString, renamed: Option<(u64, Ino)> },
    Move { from: OsString, to: OsString, ino: Ino },
}

#[derive(Debug, Clone)]
struct Node {
    now: Version,
    synced: Version,
    /// Pages written since the last sync.
    dirty: BTreeSet<usize>,
    entries: BTreeMap<OsString, Ino>,
    durable: BTreeMap<OsString, Ino>,
    journal: Vec<Change>,
    links: u32,
    parent: Ino,
}

/// How much of what was not synced survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Nothing.
    Least,
    /// Everything.
    Most,
    /// Some, by chance.
    Between,
}

/// The disk.
#[derive(Debug, Clone)]
pub struct Disk {
    nodes: HashMap<Ino, Node>,
    next: Ino,
    renames: u64,
    random: fastrand::Rng,
}

/// What stat(2) and readdir(3) say of an inode.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Its number.
    pub ino: Ino,
    /// Attributes.
    pub attributes: Attributes,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Names that it has.
    pub links: u32,
}

type Result<T> = std::result::Result<T, Errno>;

impl Disk {
    /// An empty disk; the seed decides what happens by chance while it is used.
    pub fn new(seed: u64) -> Disk {
        let attributes = Attributes::new(Kind::Folder, 0o755, 0, 0);
        let root = Node::new(attributes, Vec::new(), ROOT);
        Disk { nodes: HashMap::from([(ROOT, root)]), next: 2, renames: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The same disk with other chances.
    pub fn reseeded(&self, seed: u64) -> Disk {
        Disk { random: fastrand::Rng::with_seed(seed), ..self.clone() }
    }

    fn node(&self, ino: Ino) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(Errno::NOENT)
    }

    fn node_mut(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Errno::NOENT)
    }

    /// stat(2).
    pub fn stat(&self, ino: Ino) -> Result<Stat> {
        let node = self.node(ino)?;
        let size_bytes = node.now.bytes.len() as u64;
        Ok(Stat { ino, attributes: node.now.attributes, size_bytes, links: node.links })
    }

    /// The inode of a name.
    pub fn lookup(&self, folder: Ino, name: &OsStr) -> Result<Ino> {
        self.node(folder)?.entries.get(name).copied().ok_or(Errno::NOENT)
    }

    /// Names and inodes of a folder.
    pub fn entries(&self, folder: Ino) -> Result<Vec<(OsString, Ino)>> {
        Ok(self.node(folder)?.entries.iter().map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    /// The folder above.
    pub fn parent(&self, ino: Ino) -> Result<Ino> {
        Ok(self.node(ino)?.parent)
    }

    /// Makes an inode under a new name.
    pub fn make(&mut self, folder: Ino, name: &OsStr, attributes: Attributes, bytes: Vec<u8>) -> Result<Ino> {
        if self.node(folder)?.entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Node::new(attributes, bytes, folder));
        self.put(folder, name, ino, None)?;
        Ok(ino)
    }

    /// Gives an inode another name.
    pub fn link(&mut self, ino: Ino, folder: Ino, name: &OsStr) -> Result<()> {
        if self.node(folder)?.entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.node_mut(ino)?.links += 1;
        self.put(folder, name, ino, None)
    }

    /// Takes a name away: of a file, or of an empty folder.
    pub fn remove(&mut self, folder: Ino, name: &OsStr, wants_folder: bool) -> Result<()> {
        let ino = self.lookup(folder, name)?;
        self.check_replaceable(ino, wants_folder)?;
        let node = self.node_mut(folder)?;
        node.entries.remove(name);
        node.journal.push(Change::Remove { name: name.to_owned(), renamed: None });
        self.unlinked(ino)
    }

    /// rename(2), within a folder or between two.
    pub fn rename(&mut self, from: Ino, name: &OsStr, to: Ino, new_name: &OsStr, replace: bool) -> Result<()> {
        let ino = self.lookup(from, name)?;
        if let Ok(target) = self.lookup(to, new_name) {
            if !replace {
                return Err(Errno::EXIST);
            }
            if target == ino {
                return Ok(());
            }
            self.check_replaceable(target, self.node(ino)?.is_folder())?;
            self.unlinked(target)?;
        }
        if from == to {
            let node = self.node_mut(from)?;
            node.entries.remove(name);
            node.entries.insert(new_name.to_owned(), ino);
            node.journal.push(Change::Move { from: name.to_owned(), to: new_name.to_owned(), ino });
            return Ok(());
        }
        self.renames += 1;
        let number = self.renames;
        let source = self.node_mut(from)?;
        source.entries.remove(name);
        source.journal.push(Change::Remove { name: name.to_owned(), renamed: Some((number, to)) });
        self.put(to, new_name, ino, Some((number, from)))
    }

    fn put(&mut self, folder: Ino, name: &OsStr, ino: Ino, renamed: Option<(u64, Ino)>) -> Result<()> {
        let node = self.node_mut(folder)?;
        node.entries.insert(name.to_owned(), ino);
        node.journal.push(Change::Put { name: name.to_owned(), ino, renamed });
        self.node_mut(ino)?.parent = folder;
        Ok(())
    }

    fn check_replaceable(&self, ino: Ino, by_folder: bool) -> Result<()> {
        let node = self.node(ino)?;
        match (node.is_folder(), by_folder) {
            (true, false) => Err(Errno::ISDIR),
            (false, true) => Err(Errno::NOTDIR),
            (true, true) if !node.entries.is_empty() => Err(Errno::NOTEMPTY),
            _ => Ok(()),
        }
    }

    /// The inode stays: it may be open, and the removal of its name may be lost.
    fn unlinked(&mut self, ino: Ino) -> Result<()> {
        let node = self.node_mut(ino)?;
        node.links = node.links.saturating_sub(1);
        Ok(())
    }

    /// Bytes of a file (or the target of a link), as many as there are.
    pub fn read(&self, ino: Ino, offset: usize, length: usize) -> Result<&[u8]> {
        let bytes = &self.node(ino)?.now.bytes;
        let begin = offset.min(bytes.len());
        Ok(&bytes[begin..begin.saturating_add(length).min(bytes.len())])
    }

    /// Writes into a file.
    pub fn write(&mut self, ino: Ino, offset: usize, data: &[u8]) -> Result<()> {
        let node = self.node_mut(ino)?;
        let bytes = Arc::make_mut(&mut node.now.bytes);
        let (begin, end) = (offset.min(bytes.len()), offset + data.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(data);
        node.dirty.extend(begin / PAGE_BYTES..=end / PAGE_BYTES);
        node.now.attributes.modified = SystemTime::now();
        Ok(())
    }

    /// Sets a file's length.
    pub fn resize(&mut self, ino: Ino, size_bytes: usize) -> Result<()> {
        let node = self.node_mut(ino)?;
        let bytes = Arc::make_mut(&mut node.now.bytes);
        let (low, high) = (size_bytes.min(bytes.len()), size_bytes.max(bytes.len()));
        bytes.resize(size_bytes, 0);
        node.dirty.extend(low / PAGE_BYTES..=high / PAGE_BYTES);
        Ok(())
    }

    /// Changes attributes.
    pub fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Attributes)) -> Result<()> {
        change(&mut self.node_mut(ino)?.now.attributes);
        Ok(())
    }

    /// An extended attribute.
    pub fn xattr(&self, ino: Ino, name: &OsStr) -> Result<&[u8]> {
        self.node(ino)?.now.xattrs.get(name).map(Vec::as_slice).ok_or(Errno::NODATA)
    }

    /// Names of extended attributes.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<OsString>> {
        Ok(self.node(ino)?.now.xattrs.keys().cloned().collect())
    }

    /// Sets an extended attribute, or removes it.
    pub fn set_xattr(&mut self, ino: Ino, name: &OsStr, value: Option<&[u8]>) -> Result<()> {
        let xattrs = &mut self.node_mut(ino)?.now.xattrs;
        match value {
            Some(value) => drop(xattrs.insert(name.to_owned(), value.to_vec())),
            None => drop(xattrs.remove(name).ok_or(Errno::NODATA)?),
        }
        Ok(())
    }

    /// fsync(2) of a file or folder.
    pub fn sync(&mut self, ino: Ino) -> Result<()> {
        let node = self.node_mut(ino)?;
        node.synced = node.now.clone();
        node.dirty.clear();
        let count = node.journal.len();
        self.commit(ino, count);
        if self.random.u8(..) < 48 {
            self.sync_names_of(ino);
        }
        Ok(())
    }

    /// Writes the entries of all folders above, as some file systems do.
    fn sync_names_of(&mut self, mut ino: Ino) {
        while ino != ROOT {
            let Some(node) = self.nodes.get(&ino) else { return };
            ino = node.parent;
            let count = self.nodes.get(&ino).map_or(0, |node| node.journal.len());
            self.commit(ino, count);
        }
    }

    /// syncfs(2).
    pub fn sync_all(&mut self) {
        for node in self.nodes.values_mut() {
            node.synced = node.now.clone();
            node.dirty.clear();
            node.journal.clear();
            node.durable = node.entries.clone();
        }
    }

    /// Makes the first `count` changes of a folder durable, and what they cannot be without.
    fn commit(&mut self, folder: Ino, count: usize) {
        let Some(node) = self.nodes.get_mut(&folder) else { return };
        let count = count.min(node.journal.len());
        let changes: Vec<Change> = node.journal.drain(..count).collect();
        let mut others = Vec::new();
        for change in changes {
            match change {
                Change::Put { name, ino, renamed } => {
                    node.durable.insert(name, ino);
                    others.extend(renamed.map(|(number, from)| (number, from, Some(ino))));
                }
                Change::Remove { name, renamed } => {
                    node.durable.remove(&name);
                    others.extend(renamed.map(|(number, to)| (number, to, None)));
                }
                Change::Move { from, to, ino } => {
                    node.durable.remove(&from);
                    node.durable.insert(to, ino);
                }
            }
        }
        for (number, other, moved_here) in others {
            // A file may be in both folders; a folder may not.
            let may_be_in_both = moved_here.is_some_and(|ino| self.nodes.get(&ino).is_some_and(|n| !n.is_folder()));
            let position = self.nodes.get(&other).and_then(|node| node.journal.iter().position(|c| c.is(number)));
            if let Some(position) = position.filter(|_| !may_be_in_both) {
                self.commit(other, position + 1);
            }
        }
    }

    /// The disk that is found after the power is back.
    pub fn survive(&self, seed: u64, mood: Mood) -> Disk {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut after = self.clone();
        let mut folders: Vec<Ino> = after.nodes.keys().copied().collect();
        folders.sort_unstable();
        random.shuffle(&mut folders);
        for folder in folders {
            let length = after.nodes[&folder].journal.len();
            let count = match mood {
                Mood::Least => 0,
                Mood::Most => length,
                Mood::Between => random.usize(0..=length),
            };
            after.commit(folder, count);
        }
        after.settle(&mut random, mood);
        after.random = random;
        after
    }

    /// Keeps what can be reached and gives each inode the content that survived.
    fn settle(&mut self, random: &mut fastrand::Rng, mood: Mood) {
        let mut links: BTreeMap<Ino, u32> = BTreeMap::from([(ROOT, 1)]);
        let mut waiting = vec![ROOT];
        while let Some(folder) = waiting.pop() {
            for (_, ino) in self.nodes[&folder].durable.clone() {
                let count = links.entry(ino).or_insert(0);
                *count += 1;
                if *count == 1 {
                    waiting.push(ino);
                    self.nodes.get_mut(&ino).expect("an entry's inode").parent = folder;
                }
            }
        }
        self.nodes.retain(|ino, _| links.contains_key(ino));
        for (ino, count) in links {
            let node = self.nodes.get_mut(&ino).expect("a reachable inode");
            let content = node.surviving(random, mood);
            node.now = content.clone();
            node.synced = content;
            node.dirty.clear();
            node.journal.clear();
            node.entries = node.durable.clone();
            node.links = count;
        }
    }

    /// Every path, for messages.
    pub fn path(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let (mut at, mut seen) = (ino, HashSet::new());
        while at != ROOT && seen.insert(at) {
            let Some(node) = self.nodes.get(&at) else { break };
            let name = self.nodes.get(&node.parent).and_then(|folder| folder.entries.iter().find(|(_, i)| **i == at));
            names.push(name.map_or_else(|| format!("(inode {at})"), |(name, _)| name.to_string_lossy().into_owned()));
            at = node.parent;
        }
        names.reverse();
        names.join("/")
    }
}

impl Attributes {
    /// Of something new.
    pub fn new(kind: Kind, mode: u32, uid: u32, gid: u32) -> Attributes {
        Attributes { kind, mode, uid, gid, device: 0, modified: SystemTime::now() }
    }
}

impl Change {
    fn is(&self, wanted: u64) -> bool {
        let (Change::Put { renamed, .. } | Change::Remove { renamed, .. }) = self else { return false };
        renamed.is_some_and(|(number, _)| number == wanted)
    }
}

impl Node {
    fn new(attributes: Attributes, bytes: Vec<u8>, parent: Ino) -> Node {
        let version = Version { attributes, bytes: Arc::new(bytes), xattrs: BTreeMap::new() };
        Node {
            now: version.clone(),
            synced: version,
            dirty: BTreeSet::new(),
            entries: BTreeMap::new(),
            durable: BTreeMap::new(),
            journal: Vec::new(),
            links: 1,
            parent,
        }
    }

    fn is_folder(&self) -> bool {
        self.now.attributes.kind == Kind::Folder
    }

    fn surviving(&self, random: &mut fastrand::Rng, mood: Mood) -> Version {
        match mood {
            Mood::Least => self.synced.clone(),
            Mood::Most => self.now.clone(),
            Mood::Between => match random.u8(0..3) {
                0 => self.synced.clone(),
                1 => self.now.clone(),
                _ => self.torn(random),
            },
        }
    }

    /// Each unsynced page is there or not; so is the new length, by itself.
    fn torn(&self, random: &mut fastrand::Rng) -> Version {
        let mut bytes = self.synced.bytes.to_vec();
        let length = if random.bool() { self.now.bytes.len() } else { bytes.len() };
        bytes.resize(length, 0);
        for page in self.dirty.iter().filter(|_| random.bool()) {
            let begin = page * PAGE_BYTES;
            let end = (begin + PAGE_BYTES).min(length).min(self.now.bytes.len());
            if begin < end {
                bytes[begin..end].copy_from_slice(&self.now.bytes[begin..end]);
            }
        }
        let of = if random.bool() { &self.now } else { &self.synced };
        Version { attributes: of.attributes, xattrs: of.xattrs.clone(), bytes: Arc::new(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &mut Disk, folder: Ino, name: &str, bytes: &[u8]) -> Ino {
        let ino = disk.make(folder, name.as_ref(), Attributes::new(Kind::File, 0o644, 0, 0), Vec::new()).unwrap();
        disk.write(ino, 0, bytes).unwrap();
        ino
    }

    fn folder(disk: &mut Disk, above: Ino, name: &str) -> Ino {
        disk.make(above, name.as_ref(), Attributes::new(Kind::Folder, 0o755, 0, 0), Vec::new()).unwrap()
    }

    fn content(disk: &Disk, folder: Ino, name: &str) -> Option<Vec<u8>> {
        let ino = disk.lookup(folder, name.as_ref()).ok()?;
        Some(disk.read(ino, 0, usize::MAX).unwrap().to_vec())
    }

    /// What happens by chance while syncing would make these tests depend on it.
    fn strict() -> Disk {
        let mut seed = 0;
        while fastrand::Rng::with_seed(seed).u8(..) < 128 {
            seed += 1;
        }
        Disk::new(seed)
    }

    #[test]
    fn a_synced_file_without_a_synced_name_is_lost() {
        let mut disk = strict();
        let ino = file(&mut disk, ROOT, "a", b"x");
        disk.sync(ino).unwrap();
        assert_eq!(content(&disk.survive(1, Mood::Least), ROOT, "a"), None);
        assert_eq!(content(&disk.survive(1, Mood::Most), ROOT, "a"), Some(b"x".to_vec()));
        disk.sync(ROOT).unwrap();
        assert_eq!(content(&disk.survive(1, Mood::Least), ROOT, "a"), Some(b"x".to_vec()));
    }

    #[test]
    fn a_synced_name_without_a_synced_file_is_empty() {
        let mut disk = strict();
        file(&mut disk, ROOT, "a", b"x");
        disk.sync(ROOT).unwrap();
        assert_eq!(content(&disk.survive(1, Mood::Least), ROOT, "a"), Some(Vec::new()));
    }

    #[test]
    fn unsynced_pages_survive_one_by_one() {
        let mut disk = strict();
        let ino = file(&mut disk, ROOT, "a", &[1; 3 * PAGE_BYTES]);
        disk.sync(ino).unwrap();
        disk.sync(ROOT).unwrap();
        disk.write(ino, 0, &[2; 3 * PAGE_BYTES]).unwrap();
        let mixed = |bytes: Vec<u8>| {
            let pages: BTreeSet<u8> = bytes.chunks(PAGE_BYTES).map(|page| page[0]).collect();
            pages.len() == 2
        };
        let torn = (0..100).any(|seed| mixed(content(&disk.survive(seed, Mood::Between), ROOT, "a").unwrap()));
        assert!(torn, "never only some of the pages");
    }

    #[test]
    fn changes_of_one_folder_survive_in_order() {
        let mut disk = strict();
        for name in ["a", "b", "c"] {
            file(&mut disk, ROOT, name, b"");
        }
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let after = disk.survive(seed, Mood::Between);
            let names: Vec<_> = ["a", "b", "c"].into_iter().filter(|n| content(&after, ROOT, n).is_some()).collect();
            seen.insert(names.concat());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "a", "ab", "abc"]);
    }

    #[test]
    fn a_file_between_two_folders_is_never_in_neither() {
        let mut disk = strict();
        let (one, two) = (folder(&mut disk, ROOT, "one"), folder(&mut disk, ROOT, "two"));
        let inner = folder(&mut disk, one, "inner");
        let ino = file(&mut disk, one, "a", b"x");
        disk.sync_all();
        disk.rename(one, "a".as_ref(), two, "b".as_ref(), true).unwrap();
        disk.rename(one, "inner".as_ref(), two, "inner".as_ref(), true).unwrap();
        let mut both = 0;
        for seed in 0..100 {
            let after = disk.survive(seed, Mood::Between);
            let names = [after.lookup(one, "a".as_ref()).is_ok(), after.lookup(two, "b".as_ref()).is_ok()];
            assert!(names[0] || names[1], "seed {seed}");
            both += usize::from(names[0] && names[1]);
            assert_eq!(after.stat(ino).unwrap().links, u32::from(names[0]) + u32::from(names[1]));
            let folders = [one, two].map(|at| after.lookup(at, "inner".as_ref()).is_ok());
            assert!(folders[0] != folders[1], "seed {seed}: {folders:?}");
            assert!(after.stat(inner).is_ok());
        }
        assert!(both > 0, "never in both");
    }

    #[test]
    fn a_lost_removal_brings_the_file_back() {
        let mut disk = strict();
        let ino = file(&mut disk, ROOT, "a", b"x");
        disk.sync(ino).unwrap();
        disk.sync(ROOT).unwrap();
        disk.remove(ROOT, "a".as_ref(), false).unwrap();
        assert_eq!(content(&disk, ROOT, "a"), None);
        assert_eq!(content(&disk.survive(1, Mood::Least), ROOT, "a"), Some(b"x".to_vec()));
        disk.sync(ROOT).unwrap();
        assert_eq!(content(&disk.survive(1, Mood::Least), ROOT, "a"), None);
    }
}
