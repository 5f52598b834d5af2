//! `hull create`, and the half of `hull run` that is the same: the request, the image's arrival, the id's file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hull_engine::request::CreateContainer;
use hull_engine::{ContainerId, Created, Engine, EngineError, Progress};

use super::{Context, write_stdout};
use crate::args::run::ContainerArgs;
use crate::args::surroundings::Process;
use crate::error::Failure;
use crate::output::progress;

/// Creates a container and prints its id.
///
/// # Errors
/// What kept it from being created; nothing is left then.
pub fn run(arguments: ContainerArgs, context: &Context) -> Result<u8, Failure> {
    let request = arguments.request(&Process)?;
    let mut cid_file = arguments.cidfile.as_deref().map(CidFile::reserve).transpose()?;
    let engine = context.engine()?;
    let created = create_by(Engine::create, &engine, request, arguments.quiet)?;
    if let Some(file) = &mut cid_file {
        file.write(&created.id)?;
        file.keep();
    }
    write_stdout(format!("{}\n", created.id).as_bytes())?;
    Ok(0)
}

/// [`Engine::create`], or [`Engine::create_to_start`].
pub type Make = fn(&Engine, CreateContainer, &dyn Progress) -> Result<Created, EngineError>;

/// Creates a container, showing on stderr how its image arrives and what there is to be warned of.
///
/// # Errors
/// The engine's.
pub fn create_by(make: Make, engine: &Engine, request: CreateContainer, quiet: bool) -> Result<Created, Failure> {
    let image = request.image.clone();
    let progress = progress::for_create(&image, quiet);
    let created = make(engine, request, progress.as_ref()).map_err(Failure::of_image(&image))?;
    drop(progress);
    for warning in &created.warnings {
        eprintln!("WARNING: {warning}");
    }
    Ok(created)
}

/// The file of `--cidfile`: made before the container, so that a clash costs nothing, and removed again when
/// no container comes of it.
pub struct CidFile {
    path: PathBuf,
    kept: bool,
}

impl CidFile {
    /// Makes the empty file.
    ///
    /// # Errors
    /// When it is there already, or cannot be made.
    pub fn reserve(path: &str) -> Result<CidFile, Failure> {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => Ok(CidFile { path: PathBuf::from(path), kept: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::Arguments(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            ))),
            Err(error) => Err(Failure::path("make", Path::new(path))(error)),
        }
    }

    /// Writes the id.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, id: &ContainerId) -> Result<(), Failure> {
        let written =
            OpenOptions::new().write(true).open(&self.path).and_then(|mut file| file.write_all(id.as_str().as_bytes()));
        written.map_err(Failure::path("write", &self.path))
    }

    /// Leaves the file when this value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if !self.kept {
            // It was made here; if it cannot be removed there is nothing more to do.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stays_only_with_an_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cid");
        let text = path.to_str().unwrap();
        drop(CidFile::reserve(text).unwrap());
        assert!(!path.exists());
        let id = ContainerId::parse(&"ab".repeat(32)).unwrap();
        let mut file = CidFile::reserve(text).unwrap();
        file.write(&id).unwrap();
        file.keep();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), id.as_str());
        let error = CidFile::reserve(text).err().unwrap().to_string();
        assert!(error.starts_with("container ID file found"), "{error}");
        assert!(path.exists());
    }
}
