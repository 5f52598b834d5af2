//! Removal of names and images, by docker's rules.
//!
//! A name is taken away; when it was the last tagged one of its repository, the `name@digest` ones of that repository
//! go with it; when no name is left, the image goes too. An id takes all names away when they are of one repository
//! (with force, always). An image that a container row refers to stays: in Hull also with force, because the
//! container's layers are the image's; force takes only its names. The messages are docker's.

use hull_oci::{Digest, Reference};
use hull_store::layer_is_used;
use rusqlite::Transaction;

use crate::store::{digest, find, names_of, strings};
use crate::unasked::unask;
use crate::{ImageError, ImageStore};

/// How to remove.
pub struct Removal<'a> {
    /// Take names away although a container uses the image.
    pub force: bool,
    /// Whether the container with this id runs; asked only to choose the message.
    pub is_running: &'a dyn Fn(&str) -> bool,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names taken away, in docker's short form.
    pub untagged: Vec<String>,
    /// The image, when it went.
    pub deleted: Option<Digest>,
    /// Chain ids, highest layer first, that no image has any more. Their snapshots are for the caller to remove, after
    /// asking [`hull_store::layer_is_used`] again in its own transaction.
    pub unused_layers: Vec<Digest>,
}

/// Why an image or name stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The last name of an image that a container uses.
    #[error(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container {container} is using its \
         referenced image {image}"
    )]
    LastName {
        /// As the user wrote it.
        name: String,
        /// Short container id.
        container: String,
        /// Short image id.
        image: String,
    },
    /// By id, and a running container uses it.
    #[error(
        "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {container}"
    )]
    Running {
        /// Short image id.
        image: String,
        /// Short container id.
        container: String,
    },
    /// By id, and a stopped container uses it.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    Stopped {
        /// Short image id.
        image: String,
        /// Short container id.
        container: String,
    },
    /// By id, and it has names in several repositories, or several tags.
    #[error("conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories")]
    SeveralNames {
        /// Short image id.
        image: String,
    },
}

impl ImageStore<'_> {
    /// Removes a name, or an image by id.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], [`ImageError::Conflict`].
    pub fn remove(&self, text: &str, removal: &Removal<'_>) -> Result<Removed, ImageError> {
        let (removed, blobs) = self.database().write_durable(|transaction| remove(transaction, text, removal))?;
        self.collect_blobs(&blobs)?;
        Ok(removed)
    }
}

/// What is removed, and the blobs that may have become free.
type Outcome = (Removed, Vec<Digest>);

fn remove(transaction: &Transaction<'_>, text: &str, removal: &Removal<'_>) -> Result<Outcome, ImageError> {
    let found = find(transaction, text)?.ok_or_else(|| ImageError::NotFound { name: text.to_owned() })?;
    let id = &found.id;
    let names = names_of(transaction, id)?;
    let user = container_of(transaction, id, removal)?;
    let going = match &found.name {
        Some(name) => {
            if let (Some((container, _)), true, false) = (&user, is_single(&names), removal.force) {
                let (container, image) = (short(container), id.short().to_owned());
                return Err(Conflict::LastName { name: text.to_owned(), container, image }.into());
            }
            going_with(name, &names)
        }
        None => {
            check_by_id(id, &names, user.as_ref(), removal.force)?;
            names.clone()
        }
    };
    for name in &going {
        transaction.execute("DELETE FROM image_names WHERE name = ?1", [name.to_string()])?;
    }
    let untagged = going.iter().map(Reference::familiar).collect();
    if going.len() == names.len() && user.is_some() {
        unask(transaction, id)?;
    }
    if going.len() < names.len() || user.is_some() {
        return Ok((Removed { untagged, ..Removed::default() }, Vec::new()));
    }
    let (unused_layers, blobs) = delete_image(transaction, id)?;
    Ok((Removed { untagged, deleted: Some(id.clone()), unused_layers }, blobs))
}

/// A container that has the image and whether it runs; a running one is preferred.
fn container_of(
    transaction: &Transaction<'_>,
    id: &Digest,
    removal: &Removal<'_>,
) -> Result<Option<(String, bool)>, ImageError> {
    let containers = strings(transaction, "SELECT id FROM containers WHERE image_id = ?1 ORDER BY id", [id.as_str()])?;
    let running = containers.iter().find(|container| (removal.is_running)(container));
    Ok(running.map(|id| (id.clone(), true)).or_else(|| containers.first().map(|id| (id.clone(), false))))
}

fn check_by_id(id: &Digest, names: &[Reference], user: Option<&(String, bool)>, force: bool) -> Result<(), Conflict> {
    let image = id.short().to_owned();
    match user {
        Some((container, true)) => return Err(Conflict::Running { image, container: short(container) }),
        Some((container, false)) if !force => return Err(Conflict::Stopped { image, container: short(container) }),
        _ => {}
    }
    match is_single(names) || force {
        true => Ok(()),
        false => Err(Conflict::SeveralNames { image }),
    }
}

/// Whether names amount to one: at most one tagged name, and every digest name in the same repository.
fn is_single(names: &[Reference]) -> bool {
    let tagged = names.iter().filter(|name| name.digest.is_none()).count();
    let one_repository = names.windows(2).all(|pair| pair[0].name() == pair[1].name());
    tagged <= 1 && one_repository
}

/// The names that go when one goes.
fn going_with(name: &Reference, names: &[Reference]) -> Vec<Reference> {
    let same_repository = |other: &&Reference| other.name() == name.name() && *other != name;
    let tags_left = names.iter().filter(same_repository).any(|other| other.digest.is_none());
    let digests = names.iter().filter(same_repository).filter(|_| name.digest.is_none() && !tags_left);
    std::iter::once(name).chain(digests).cloned().collect()
}

/// Deletes the image's rows; gives the layers that no image has any more, and all its blobs.
pub(crate) fn delete_image(
    transaction: &Transaction<'_>,
    id: &Digest,
) -> Result<(Vec<Digest>, Vec<Digest>), ImageError> {
    let digests = |query| -> Result<Vec<Digest>, ImageError> {
        strings(transaction, query, [id.as_str()])?.iter().map(|text| digest(text)).collect()
    };
    let blobs = digests("SELECT digest FROM image_blobs WHERE image_id = ?1")?;
    let layers = digests("SELECT chain_id FROM image_layers WHERE image_id = ?1 ORDER BY position DESC")?;
    // Rows in image_blobs and image_layers go with the image.
    transaction.execute("DELETE FROM images WHERE id = ?1", [id.as_str()])?;
    let mut unused = Vec::new();
    for layer in layers {
        if !layer_is_used(transaction, layer.as_str())? {
            unused.push(layer);
        }
    }
    Ok((unused, blobs))
}

fn short(container: &str) -> String {
    container.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Reference> {
        let digest = Digest::sha256_of(b"x");
        let parse = |text: &&str| Reference::parse(&text.replace("@D", &format!("@{digest}"))).expect("reference");
        texts.iter().map(parse).collect()
    }

    #[test]
    fn single_means_one_tag_in_one_repository() {
        for (texts, expected) in [
            (&[][..], true),
            (&["a"][..], true),
            (&["a:1", "a@D"][..], true),
            (&["a:1", "a:2"][..], false),
            (&["a:1", "b@D"][..], false),
            (&["a@D", "b@D"][..], false),
        ] {
            assert_eq!(is_single(&names(texts)), expected, "{texts:?}");
        }
    }

    #[test]
    fn the_last_tag_takes_its_digests_along() {
        let all = names(&["a:1", "a@D", "b:1", "b@D"]);
        assert_eq!(going_with(&all[0], &all), all[..2]);
        let all = names(&["a:1", "a:2", "a@D"]);
        assert_eq!(going_with(&all[0], &all), all[..1]);
        assert_eq!(going_with(&all[2], &all), all[2..]);
    }
}
