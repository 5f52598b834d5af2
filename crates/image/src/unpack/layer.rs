//! Where the entries of a layer go, and what they do to each other.
//!
//! Symbolic links on the way to an entry are those that the layer itself has brought, and they are followed as if the
//! layer were the root of everything, as docker does (it unpacks in a chroot(2)). They are followed here, by name, until
//! the path has none; a target opens only such paths, so that no archive can lead outside whatever its links say. A
//! later entry replaces an earlier one of its name, except that a folder stays a folder.

use std::collections::VecDeque;
use std::io::Read;

use hull_kernel::tree::{DELETION, OPAQUE};
use rustix::io::Errno;

use super::UnpackOptions;
use super::error::{UnpackError, shown};
use super::header::{Entry, Headers};
use super::target::{Content, Fault, Found, Refusal, Target};

/// How many parents stay open: an archive goes down into a folder and comes back.
const OPEN_PARENTS: usize = 8;
/// What an entry takes in memory besides its name, roughly.
const ENTRY_BYTES: usize = 100;
/// Symbolic links that are followed on the way to one entry; as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A layer being put into a target.
pub(super) struct Layer<'a, T: Target> {
    target: T,
    options: &'a UnpackOptions,
    /// The parents of the last entries: most entries of an archive follow their siblings.
    parents: Vec<(Vec<u8>, T::Folder)>,
    bytes: u64,
    /// Entries so far, with the folders that only their paths tell of.
    entries: u64,
    /// What the target may have to remember of the entries until the end, in bytes.
    kept_bytes: u64,
}

/// An entry's name in its parent; empty for the root itself.
struct Place<'e> {
    entry: &'e Entry,
    /// Plain components, joined by single slashes.
    path: Vec<u8>,
}

impl Place<'_> {
    fn name(&self) -> &[u8] {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        &self.path[start..]
    }

    fn parent(&self) -> &[u8] {
        &self.path[..self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
    }

    fn refused(&self, reason: &'static str) -> UnpackError {
        UnpackError::Path { path: shown(&self.entry.path), reason }
    }

    /// The error for what the target said.
    fn failed(&self, refusal: Refusal) -> UnpackError {
        UnpackError::Write { path: shown(&self.entry.path), action: refusal.action, source: refusal.source }
    }

    /// The same, naming what was being done.
    fn failed_to<E: Into<std::io::Error>>(&self, action: &'static str) -> impl FnOnce(E) -> UnpackError {
        let path = shown(&self.entry.path);
        move |error| UnpackError::Write { path, action, source: error.into() }
    }
}

impl<'a, T: Target> Layer<'a, T> {
    pub(super) fn new(target: T, options: &'a UnpackOptions) -> Self {
        Self { target, options, parents: Vec::with_capacity(OPEN_PARENTS), bytes: 0, entries: 0, kept_bytes: 0 }
    }

    /// Puts one entry where it belongs, reading its content from the archive.
    pub(super) fn place<R: Read>(&mut self, entry: &Entry, content: &mut Headers<'_, R>) -> Result<(), UnpackError> {
        let mut place = Place { entry, path: self.normal(&entry.path, entry)? };
        self.count_entry()?;
        check_attributes(entry)?;
        if place.path.is_empty() {
            return match entry.kind {
                b'5' => self.target.change_top(entry).map_err(|refusal| place.failed(refusal)),
                _ => Err(place.refused("it names the layer itself")),
            };
        }
        if is_bookkeeping_of_aufs(&place.path) {
            return Ok(());
        }
        let parent = self.open_parent(&mut place)?;
        let xattrs = entry.xattrs.iter().map(|(name, value)| name.len() + value.len());
        let attributes = if entry.kind == b'5' { xattrs.sum() } else { 0 };
        self.check_kept(&place, place.path.len(), attributes)?;
        self.place_in(&parent, &place, content)?;
        if self.parents.len() == OPEN_PARENTS {
            self.parents.remove(0);
        }
        self.parents.push((place.parent().to_vec(), parent));
        Ok(())
    }

    /// Names, and attributes of folders, are in memory until the layer is whole.
    fn check_kept(&mut self, place: &Place<'_>, path_bytes: usize, attributes: usize) -> Result<(), UnpackError> {
        self.kept_bytes += (ENTRY_BYTES + path_bytes + attributes) as u64;
        let limit = self.options.kept_bytes_max;
        match self.kept_bytes > limit {
            true => Err(UnpackError::Limit { path: shown(&place.entry.path), what: "names and attributes", limit }),
            false => Ok(()),
        }
    }

    fn count_entry(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        match self.entries > self.options.entries_max {
            true => Err(UnpackError::TooManyEntries { limit: self.options.entries_max }),
            false => Ok(()),
        }
    }

    fn place_in<R: Read>(
        &mut self,
        parent: &T::Folder,
        place: &Place<'_>,
        content: &mut Headers<'_, R>,
    ) -> Result<(), UnpackError> {
        if place.name().starts_with(DELETION) {
            return self.whiteout(parent, place);
        }
        match place.entry.kind {
            0 | b'0' | b'7' | b'S' => self.file(parent, place, content),
            b'1' => self.hard_link(parent, place),
            b'2' => self.make(parent, place, |target| target.symbolic_link(parent, place.name(), place.entry)),
            b'3' | b'4' | b'6' => self.node(parent, place),
            b'5' => self.folder(parent, place),
            kind => Err(UnpackError::Kind { path: shown(&place.entry.path), kind: char::from(kind) }),
        }
    }

    /// Makes something new at the entry's place. What an earlier entry of the archive left there is removed first.
    fn make<V>(
        &mut self,
        parent: &T::Folder,
        place: &Place<'_>,
        make: impl Fn(&mut T) -> Result<V, Refusal>,
    ) -> Result<V, UnpackError> {
        match make(&mut self.target) {
            Err(refusal) if refusal.is_taken() => {
                self.make_room(parent, place)?;
                make(&mut self.target)
            }
            result => result,
        }
        .map_err(|refusal| place.failed(refusal))
    }

    fn make_room(&mut self, parent: &T::Folder, place: &Place<'_>) -> Result<(), UnpackError> {
        // One of the open parents may be in what is removed.
        self.parents.clear();
        self.target.remove(parent, place.name()).map_err(|refusal| place.failed(refusal))
    }

    /// Ends the layer; returns the bytes of content.
    pub(super) fn finish(self) -> Result<u64, UnpackError> {
        self.target.finish()?;
        Ok(self.bytes)
    }

    /// A path without leading slashes and dots; one whose `..` leads out of the layer is refused.
    fn normal(&self, path: &[u8], entry: &Entry) -> Result<Vec<u8>, UnpackError> {
        let refused = |reason| Err(UnpackError::Path { path: shown(&entry.path), reason });
        if path.len() > self.options.path_bytes_max {
            return refused("the path is too long");
        }
        if path.contains(&0) {
            return refused("the path holds a NUL byte");
        }
        let mut normal = Vec::with_capacity(path.len());
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." if normal.is_empty() => return refused("it leads out of the layer"),
                b".." => normal.truncate(normal.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
                component => append(&mut normal, component),
            }
        }
        Ok(normal)
    }

    /// Opens the parent, making folders that the archive did not mention. Links on the way are followed, and the place
    /// is then the one that they lead to.
    fn open_parent(&mut self, place: &mut Place<'_>) -> Result<T::Folder, UnpackError> {
        for _ in 0..2 {
            let wanted = place.parent();
            if let Some(index) = self.parents.iter().position(|(path, _)| path == wanted) {
                return Ok(self.parents.remove(index).1);
            }
            match self.target.open(wanted) {
                Ok(parent) => return Ok(parent),
                Err(Errno::NOENT | Errno::NOTDIR) => return self.make_parents(place),
                Err(Errno::LOOP) => place.path = self.followed(place)?,
                Err(errno) => return Err(place.failed_to("open the parent of")(errno)),
            }
        }
        Err(place.refused("one of its parents is a symbolic link"))
    }

    /// The path of a place without symbolic links on the way to it. What is not there yet is no link.
    fn followed(&self, place: &Place<'_>) -> Result<Vec<u8>, UnpackError> {
        let components =
            |path: &[u8]| -> Vec<Vec<u8>> { path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect() };
        let mut rest = VecDeque::from(components(place.parent()));
        let (mut done, mut links) = (Vec::new(), 0);
        while let Some(component) = rest.pop_front() {
            match component.as_slice() {
                b"" | b"." => {}
                b".." => done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
                name => match self.link_at(&done, name, place)? {
                    None => append(&mut done, name),
                    Some(_) if links == LINKS_MAX => return Err(place.refused("too many symbolic links lead to it")),
                    Some(target) => {
                        links += 1;
                        if target.starts_with(b"/") {
                            done.clear();
                        }
                        components(&target).into_iter().rev().for_each(|component| rest.push_front(component));
                    }
                },
            }
            if done.len() > self.options.path_bytes_max {
                return Err(place.refused("the path is too long"));
            }
        }
        append(&mut done, place.name());
        Ok(done)
    }

    /// Where the symbolic link `name` in the folder `above` points to; none when it is something else, or not there.
    fn link_at(&self, above: &[u8], name: &[u8], place: &Place<'_>) -> Result<Option<Vec<u8>>, UnpackError> {
        let above = match self.target.open(above) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other.map_err(place.failed_to("follow a parent of"))?,
        };
        self.target.link_target(&above, name).map_err(|refusal| place.failed(refusal))
    }

    fn make_parents(&mut self, place: &Place<'_>) -> Result<T::Folder, UnpackError> {
        let wanted = place.parent();
        let ends = wanted.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([wanted.len()]) {
            let path = &wanted[..end];
            let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let above = self.target.open(&path[..start.saturating_sub(1)]);
            let is_new =
                self.make_parent(&above.map_err(place.failed_to("open the parent of"))?, &path[start..], place)?;
            if is_new {
                self.count_entry()?;
                self.check_kept(place, path.len(), 0)?;
            }
        }
        self.target.open(wanted).map_err(place.failed_to("open the parent of"))
    }

    /// Makes one folder unless it is there, and says whether it did; the mark of a deletion gives way to a folder that hides what is below.
    fn make_parent(&mut self, above: &T::Folder, name: &[u8], place: &Place<'_>) -> Result<bool, UnpackError> {
        let failed = |refusal| place.failed(refusal);
        match self.target.make_parent(above, name) {
            Err(refusal) if refusal.is_taken() => {}
            result => return result.map(|()| true).map_err(failed),
        }
        match self.target.look(above, name).map_err(failed)? {
            Found::Folder => Ok(false),
            Found::Link => Err(place.refused("one of its parents is a symbolic link")),
            Found::Deletion => {
                self.target.remove(above, name).map_err(failed)?;
                self.target.make_parent(above, name).map_err(failed)?;
                let made = self.target.enter(above, name).map_err(failed)?;
                self.target.make_opaque(&made).map_err(failed)?;
                Ok(true)
            }
            Found::Other | Found::Nothing => Err(place.refused("one of its parents is no folder")),
        }
    }

    fn file<R: Read>(
        &mut self,
        parent: &T::Folder,
        place: &Place<'_>,
        headers: &mut Headers<'_, R>,
    ) -> Result<(), UnpackError> {
        let entry = place.entry;
        let file = self.make(parent, place, |target| target.begin_file(parent, place.name(), entry))?;
        let bytes_max = self.options.content_bytes_max;
        let mut content = Content { headers, bytes: &mut self.bytes, bytes_max, entry };
        self.target.fill_file(file, parent, place.name(), &mut content).map_err(|fault| match fault {
            Fault::Archive(error) => error,
            Fault::Target(refusal) => place.failed(refusal),
        })
    }

    fn hard_link(&mut self, parent: &T::Folder, place: &Place<'_>) -> Result<(), UnpackError> {
        let entry = place.entry;
        let failed = |source: std::io::Error| UnpackError::HardLink {
            path: shown(&entry.path),
            target: shown(&entry.link),
            source,
        };
        let mut from = Place { entry, path: self.normal(&entry.link, entry)? };
        let above = match self.target.open(from.parent()) {
            Err(Errno::LOOP) => {
                from.path = self.followed(&from)?;
                self.target.open(from.parent())
            }
            other => other,
        }
        .map_err(|errno| failed(errno.into()))?;
        match self.target.look(&above, from.name()).map_err(|refusal| failed(refusal.source))? {
            Found::Folder => return Err(failed(Errno::ISDIR.into())),
            Found::Deletion | Found::Nothing => return Err(failed(Errno::NOENT.into())),
            _ if from.path == place.path => return Err(place.refused("it is a hard link to itself")),
            _ => {}
        }
        self.make(parent, place, |target| target.link(&above, from.name(), parent, place.name()))
    }

    fn node(&mut self, parent: &T::Folder, place: &Place<'_>) -> Result<(), UnpackError> {
        let entry = place.entry;
        if entry.kind == b'3' && (entry.major, entry.minor) == (0, 0) {
            return Err(place.refused("device 0:0 is overlay's own mark"));
        }
        self.make(parent, place, |target| target.node(parent, place.name(), entry))
    }

    /// A folder stays, anything else gives way to one; a deletion to one that hides what is below it.
    fn folder(&mut self, parent: &T::Folder, place: &Place<'_>) -> Result<(), UnpackError> {
        let (name, path, entry) = (place.name(), place.path.as_slice(), place.entry);
        let failed = |refusal| place.failed(refusal);
        match self.target.make_folder(parent, name, path, entry) {
            Err(refusal) if refusal.is_taken() => {}
            result => return result.map_err(failed),
        }
        let found = self.target.look(parent, name).map_err(failed)?;
        if found == Found::Folder {
            return self.target.change_folder(parent, name, path, entry).map_err(failed);
        }
        self.make_room(parent, place)?;
        self.target.make_folder(parent, name, path, entry).map_err(failed)?;
        if found == Found::Deletion {
            let folder = self.target.enter(parent, name).map_err(failed)?;
            self.target.make_opaque(&folder).map_err(failed)?;
        }
        Ok(())
    }

    /// A deletion: of one name, or of everything below the parent.
    fn whiteout(&mut self, parent: &T::Folder, place: &Place<'_>) -> Result<(), UnpackError> {
        let failed = |refusal| place.failed(refusal);
        if place.name() == OPAQUE {
            return self.target.make_opaque(parent).map_err(failed);
        }
        let deleted = &place.name()[DELETION.len()..];
        if matches!(deleted, b"" | b"." | b"..") || deleted.starts_with(DELETION) {
            return Err(place.refused("it deletes no name"));
        }
        match self.target.mark_deleted(parent, deleted) {
            Err(refusal) if refusal.is_taken() => {}
            result => return result.map_err(failed),
        }
        // This layer has that name too: what it brings stays, and a folder hides what was below it.
        match self.target.look(parent, deleted).map_err(failed)? {
            Found::Folder => {
                let folder = self.target.enter(parent, deleted).map_err(failed)?;
                self.target.make_opaque(&folder).map_err(failed)
            }
            _ => Ok(()),
        }
    }
}

fn append(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

fn check_attributes(entry: &Entry) -> Result<(), UnpackError> {
    let own = |name: &str| name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
    match entry.xattrs.iter().find(|(name, _)| own(name)) {
        Some((name, _)) => Err(UnpackError::ForbiddenAttribute { path: shown(&entry.path), name: name.clone() }),
        None => Ok(()),
    }
}

/// aufs, which wrote the first docker layers, kept files of its own in the top folder.
fn is_bookkeeping_of_aufs(path: &[u8]) -> bool {
    path.starts_with(b".wh..wh.") && path != OPAQUE
}
