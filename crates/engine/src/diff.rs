//! `hull diff`: what a container changed of its image, in docker's letters.
//!
//! A folder is changed when it is so itself, or when a name in it came or went (docker's rule); one that only leads to
//! changed files is not told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::changes::{ChangesError, Found, State, Visitor};
use crate::engine::Engine;
use crate::error::EngineError;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// The image has it otherwise.
    Changed,
    /// The image has it, the container not any more.
    Deleted,
}

impl ChangeKind {
    /// Docker's letter.
    pub fn letter(self) -> char {
        match self {
            ChangeKind::Added => 'A',
            ChangeKind::Changed => 'C',
            ChangeKind::Deleted => 'D',
        }
    }
}

/// Collects paths, a folder before what is in it.
#[derive(Default)]
struct Listing(BTreeMap<PathBuf, ChangeKind>);

impl Listing {
    fn tell(&mut self, path: &Path, kind: ChangeKind) {
        let path = Path::new("/").join(path);
        if let (Some(parent), true) =
            (path.parent().filter(|parent| *parent != Path::new("/")), kind != ChangeKind::Changed)
        {
            self.0.entry(parent.to_owned()).or_insert(ChangeKind::Changed);
        }
        self.0.insert(path, kind);
    }
}

impl Visitor for Listing {
    fn found(&mut self, found: &Found<'_>) -> Result<(), ChangesError> {
        match found.state {
            State::Added => self.tell(found.path, ChangeKind::Added),
            State::Changed => self.tell(found.path, ChangeKind::Changed),
            State::Same => {}
        }
        Ok(())
    }

    fn deleted(&mut self, path: &Path) -> Result<(), ChangesError> {
        self.tell(path, ChangeKind::Deleted);
        Ok(())
    }
}

impl Engine {
    /// The paths that a container changed, absolute, sorted.
    ///
    /// # Errors
    /// No such container; a file that cannot be looked at.
    pub fn diff(&self, name: &str) -> Result<Vec<(ChangeKind, PathBuf)>, EngineError> {
        let record = self.record(&self.row(name)?.id)?;
        let mut listing = Listing::default();
        self.tell_changes(&record, self.ids_of(&record)?, &mut listing)?;
        Ok(listing.0.into_iter().map(|(path, kind)| (kind, path)).collect())
    }
}
