//! `save`: images as one archive, or as a folder.
//!
//! What is written is known before its first byte (see `layout`), so blobs stream from the content store straight into
//! the output, in the order of their names: no copy is made and memory is bounded whatever the images' size. Entries
//! have the mode and the time of nobody in particular (0644, 1970), so that the same images give the same bytes. Each
//! blob's digest is compared while it passes; everything is held meanwhile, so nobody removes it.
//!
//! A folder is filled under a temporary name beside its own and renamed, so that it is there whole or not at all; what
//! becomes of a stream that breaks off is for its owner to see to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hull_oci::{Digest, Platform, Reference};
use hull_store::HoldKind;
use tar::EntryType;

use super::layout::{Chosen, Files, Source, directory, layout};
use crate::content::{ContentError, Hasher};
use crate::tar_entry::{END, TarEntry, padding};
use crate::{Holds, Image, ImageError, ImageStore, LayerEvent, Progress};

/// Bytes handled at a time.
const PART_BYTES: usize = 256 << 10;

/// What an archive is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// What docker 25 and later writes: an OCI layout with docker's manifest.json in a tar.
    DockerArchive,
    /// An OCI layout in a tar.
    OciArchive,
    /// An OCI layout as a folder.
    OciDirectory,
    /// One image as a folder of containers-image's `dir:` transport.
    DockerDirectory,
}

impl ArchiveFormat {
    /// Every format by its name on the command line.
    pub const ALL: [(&'static str, ArchiveFormat); 4] = [
        ("docker-archive", Self::DockerArchive),
        ("oci-archive", Self::OciArchive),
        ("oci-dir", Self::OciDirectory),
        ("docker-dir", Self::DockerDirectory),
    ];

    /// Whether it is a folder rather than one stream.
    pub fn is_directory(self) -> bool {
        matches!(self, Self::OciDirectory | Self::DockerDirectory)
    }
}

/// Where an archive goes.
pub enum SaveTarget<'t> {
    /// A stream, for the formats that are one.
    Stream(&'t mut dyn Write),
    /// A folder that is not there yet, or empty.
    Folder(&'t Path),
}

/// An image is for another machine than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {name} is for {offered}, not for {wanted}")]
pub struct OtherPlatform {
    /// As the user wrote it.
    pub name: String,
    /// Its platform.
    pub offered: Platform,
    /// The one asked for.
    pub wanted: Platform,
}

impl OtherPlatform {
    /// Refuses an image that is not for a platform, where one is asked for.
    ///
    /// # Errors
    /// Itself.
    pub fn check(name: &str, image: &Image, wanted: Option<&Platform>) -> Result<(), Box<OtherPlatform>> {
        let offered = image.platform();
        match wanted.filter(|wanted| !wanted.matches(&offered)) {
            None => Ok(()),
            Some(wanted) => Err(Box::new(Self { name: name.to_owned(), offered, wanted: wanted.clone() })),
        }
    }
}

/// Why images could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image is for another machine than was asked for.
    #[error(transparent)]
    Platform(#[from] Box<OtherPlatform>),
    /// The `dir:` transport has room for one.
    #[error("docker-dir holds exactly one image, not {count}")]
    OneImage {
        /// How many were asked for.
        count: usize,
    },
    /// The wrong kind of target.
    #[error("{format} is written to {}", if *.is_directory { "a folder" } else { "a stream" })]
    Target {
        /// The format's name.
        format: &'static str,
        /// Whether the format is a folder.
        is_directory: bool,
    },
    /// There is something already.
    #[error("{} is there already and not an empty folder", .0.display())]
    Occupied(PathBuf),
    /// A file or folder of the target.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Make, write, sync, rename.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output does not take any more.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// A blob of the content store is not what its name says.
    #[error("blob {digest} is damaged in the content store: its bytes have the digest {found}")]
    Damaged {
        /// The blob.
        digest: Digest,
        /// What its bytes have.
        found: Digest,
    },
}

impl From<ContentError> for SaveError {
    fn from(error: ContentError) -> Self {
        Self::Image(error.into())
    }
}

/// Finds images by what a user writes, each once, in the order of the texts, its names sorted. A repository without a
/// tag means all of its tags, an id keeps no name, as docker has it.
///
/// # Errors
/// [`ImageError::NotFound`], [`SaveError::Platform`].
pub fn choose(
    images: &ImageStore<'_>,
    texts: &[String],
    platform: Option<&Platform>,
) -> Result<Vec<Chosen>, SaveError> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for text in texts {
        for Chosen { image, names } in meant_by(images, text)? {
            OtherPlatform::check(text, &image, platform)?;
            match chosen.iter_mut().find(|known| known.image.id == image.id) {
                Some(known) => known.names.extend(names),
                None => chosen.push(Chosen { image, names }),
            }
        }
    }
    for Chosen { names, .. } in &mut chosen {
        names.sort_by_key(Reference::to_string);
        names.dedup();
    }
    Ok(chosen)
}

fn meant_by(images: &ImageStore<'_>, text: &str) -> Result<Vec<Chosen>, SaveError> {
    let has_version = text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let reference = Reference::parse(text).ok();
    if let (false, Some(reference)) = (has_version, &reference) {
        let tags = |image: &Image| -> Vec<Reference> {
            let of_repository = |name: &&Reference| name.digest.is_none() && name.name() == reference.name();
            image.names.iter().filter(of_repository).cloned().collect()
        };
        let all = images.list()?.into_iter().map(|image| Chosen { names: tags(&image), image });
        let tagged: Vec<Chosen> = all.filter(|chosen| !chosen.names.is_empty()).collect();
        if !tagged.is_empty() {
            return Ok(tagged);
        }
    }
    let image = images.resolve(text)?.ok_or_else(|| ImageError::NotFound { name: text.to_owned() })?;
    let name = reference.filter(|name| name.digest.is_none() && image.names.contains(name));
    Ok(vec![Chosen { image, names: name.into_iter().collect() }])
}

/// Writes images as an archive.
///
/// # Errors
/// [`SaveError`]. A folder is not there then; a stream is broken off.
pub fn save(
    images: &ImageStore<'_>,
    chosen: &[Chosen],
    format: ArchiveFormat,
    target: SaveTarget<'_>,
    progress: &dyn Progress,
) -> Result<(), SaveError> {
    let holds = Holds::new(images)?;
    for Chosen { image, names } in chosen {
        holds.hold_layers(&image.layers)?;
        let documents = image.manifest_digest.iter().chain([&image.id]);
        holds.hold(&documents.map(|digest| (HoldKind::Blob, digest)).collect::<Vec<_>>())?;
        // It could have been removed before it was held.
        if images.get(&image.id)?.is_none() {
            let name = names.first().map_or_else(|| image.id.to_string(), Reference::familiar);
            return Err(ImageError::NotFound { name }.into());
        }
    }
    let files = match (format, chosen) {
        (ArchiveFormat::DockerArchive, _) => layout(images, chosen, true)?,
        (ArchiveFormat::OciArchive | ArchiveFormat::OciDirectory, _) => layout(images, chosen, false)?,
        (ArchiveFormat::DockerDirectory, [only]) => directory(images, &only.image)?,
        (ArchiveFormat::DockerDirectory, several) => return Err(SaveError::OneImage { count: several.len() }),
    };
    let blobs = Blobs { images, progress };
    match (target, format.is_directory()) {
        (SaveTarget::Stream(output), false) => write_tar(&blobs, &files, output),
        (SaveTarget::Folder(folder), true) => write_folder(&blobs, &files, folder),
        (_, is_directory) => {
            let named = ArchiveFormat::ALL.iter().find(|(_, known)| *known == format);
            Err(SaveError::Target { format: named.map_or("it", |(name, _)| name), is_directory })
        }
    }
}

/// The content store as a source of streams.
struct Blobs<'b> {
    images: &'b ImageStore<'b>,
    progress: &'b dyn Progress,
}

impl Blobs<'_> {
    /// Copies a file's bytes, exactly as many as were announced, and compares a blob's digest.
    fn copy(&self, source: &Source, mut write: impl FnMut(&[u8]) -> Result<(), SaveError>) -> Result<(), SaveError> {
        let blob = match source {
            Source::Bytes(bytes) => return write(bytes),
            Source::Blob(blob) => blob,
        };
        let path = self.images.content().path(&blob.digest);
        let unreadable = |source| SaveError::File { action: "read", path: path.clone(), source };
        let mut file = self.images.content().open(&blob.digest)?;
        let mut hasher = Hasher::like(&blob.digest);
        let (mut buffer, mut done_bytes) = (vec![0; PART_BYTES], 0);
        loop {
            let count = match file.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(unreadable)?,
            };
            done_bytes += count as u64;
            if count == 0 || done_bytes > blob.size_bytes {
                break;
            }
            hasher.update(&buffer[..count]);
            write(&buffer[..count])?;
            let event = LayerEvent::Saving { done_bytes, total_bytes: blob.size_bytes };
            self.progress.layer(&blob.digest, event);
        }
        let found = hasher.finish();
        if done_bytes != blob.size_bytes {
            let (digest, expected_bytes) = (blob.digest.clone(), blob.size_bytes);
            return Err(ContentError::WrongSize { digest, expected_bytes, found_bytes: done_bytes }.into());
        }
        if found != blob.digest {
            return Err(SaveError::Damaged { digest: blob.digest.clone(), found });
        }
        self.progress.layer(&blob.digest, LayerEvent::Done);
        Ok(())
    }
}

fn write_tar(blobs: &Blobs<'_>, files: &Files, output: &mut dyn Write) -> Result<(), SaveError> {
    let mut folders: BTreeSet<&str> = BTreeSet::new();
    for (name, source) in files {
        for (end, _) in name.match_indices('/') {
            let folder = &name[..=end];
            if folders.insert(folder) {
                let entry = TarEntry::new(EntryType::Directory, folder, 0o755, 0);
                output.write_all(&entry.blocks()).map_err(SaveError::Write)?;
            }
        }
        let entry = TarEntry::new(EntryType::Regular, name.as_str(), 0o644, source.size_bytes());
        output.write_all(&entry.blocks()).map_err(SaveError::Write)?;
        blobs.copy(source, |part| output.write_all(part).map_err(SaveError::Write))?;
        output.write_all(&vec![0; padding(source.size_bytes())]).map_err(SaveError::Write)?;
    }
    output.write_all(&END).and_then(|()| output.flush()).map_err(SaveError::Write)
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SaveError {
    let path = path.to_owned();
    move |source| SaveError::File { action, path, source }
}

fn write_folder(blobs: &Blobs<'_>, files: &Files, folder: &Path) -> Result<(), SaveError> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(false) => return Err(SaveError::Occupied(folder.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(SaveError::Occupied(folder.to_owned()));
        }
        Err(error) => return Err(file_error("read", folder)(error)),
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::create_dir(&temporary).map_err(file_error("make", &temporary))?;
    let written = fill_folder(blobs, files, &temporary)
        .and_then(|()| fs::rename(&temporary, folder).map_err(file_error("make", folder)));
    if written.is_err() {
        // What made it fail is what the user must hear.
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

fn fill_folder(blobs: &Blobs<'_>, files: &Files, folder: &Path) -> Result<(), SaveError> {
    for (name, source) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(file_error("make", parent))?;
        let mut file = File::create_new(&path).map_err(file_error("make", &path))?;
        blobs.copy(source, |part| file.write_all(part).map_err(file_error("write", &path)))?;
    }
    Ok(())
}
