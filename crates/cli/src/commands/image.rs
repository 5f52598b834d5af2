//! `hull pull`, `push`, `rmi`, `import`, `load`, `save` and `tag`: images come, go and get names.

use std::fs::File;
use std::io;
use std::path::Path;

use hull_engine::{Engine, LoadSource};
use hull_image::Progress;
use hull_image::archive::{ImportOptions, SaveTarget};
use hull_oci::{Platform, Reference};

use super::{Context, each, write_stdout};
use crate::args::images::{ImportArgs, LoadArgs, PullArgs, PushArgs, RemoveImageArgs, SaveArgs, TagArgs};
use crate::error::Failure;
use crate::output::progress::{self, ProgressMode};
use crate::output::whole_file;

/// `pull`: fetches an image, or every tag of a repository, showing how it arrives, and prints its full name.
///
/// # Errors
/// The engine's.
pub fn pull(arguments: PullArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let progress = progress::for_transfer(arguments.quiet, arguments.progress);
    let has_version = names_a_version(&arguments.name);
    if arguments.all_tags && has_version {
        return Err(Failure::Arguments("tag can't be used with --all-tags/-a".to_owned()));
    }
    if let Ok(reference) = Reference::parse(&arguments.name)
        && !has_version
        && !arguments.all_tags
    {
        progress.status(&format!("Using default tag: {}", reference.target()));
    }
    let mut printed = arguments.name.clone();
    if arguments.all_tags {
        let repository = Reference::parse(&arguments.name).map_err(hull_engine::EngineError::from)?;
        let tags = engine.registry_tags(&repository).map_err(Failure::of_image(&arguments.name))?;
        for tag in tags {
            let reference = repository.with_tag(&tag).map_err(hull_engine::EngineError::from)?;
            pull_one(&engine, &reference.to_string(), &arguments, progress.as_ref())?;
        }
        printed = repository.name();
    } else {
        pull_one(&engine, &arguments.name, &arguments, progress.as_ref())?;
        printed = Reference::parse(&printed).map_err(hull_engine::EngineError::from)?.to_string();
    }
    drop(progress);
    if arguments.quiet || arguments.progress != ProgressMode::Json {
        write_stdout(format!("{printed}\n").as_bytes())?;
    }
    Ok(0)
}

/// Fetches what one name means.
fn pull_one(engine: &Engine, name: &str, arguments: &PullArgs, progress: &dyn Progress) -> Result<(), Failure> {
    let (image, up_to_date) = engine
        .pull(name, arguments.platform.as_deref(), arguments.all_platforms, progress)
        .map_err(Failure::of_image(name))?;
    let reference = Reference::parse(name).map_err(hull_engine::EngineError::from)?;
    let known = image.names.iter().filter(|name| name.name() == reference.name()).find_map(|name| name.digest.as_ref());
    if let Some(digest) = known {
        progress.status(&format!("Digest: {digest}"));
    }
    let what = if up_to_date { "Image is up to date for" } else { "Downloaded newer image for" };
    progress.status(&format!("Status: {what} {}", reference.familiar()));
    Ok(())
}

/// `push`: brings an image, or every tag of a repository, to its registry.
///
/// # Errors
/// When no image has the name; the registry's.
pub fn push(arguments: PushArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let reference = Reference::parse(&arguments.name).map_err(hull_engine::EngineError::from)?;
    let has_version = names_a_version(&arguments.name);
    if reference.digest.is_some() {
        return Err(Failure::Arguments(format!("{} is a digest: push it by a tag", arguments.name)));
    }
    if arguments.all_tags && has_version {
        return Err(Failure::Arguments("tag can't be used with --all-tags/-a".to_owned()));
    }
    let progress = progress::for_transfer(arguments.quiet, arguments.progress);
    let names = match arguments.all_tags {
        true => engine.tags(&reference)?,
        false => vec![engine.tagged(&reference).map(|_| reference.clone())?],
    };
    if !arguments.all_tags && !has_version {
        progress.status(&format!("Using default tag: {}", reference.target()));
    }
    progress.status(&format!("The push refers to repository [{}]", reference.name()));
    for name in &names {
        let pushed = engine.push(name, progress.as_ref()).map_err(Failure::of_push(&name.familiar()))?;
        progress.status(&format!("{}: digest: {} size: {}", name.target(), pushed.digest, pushed.size_bytes));
    }
    drop(progress);
    if arguments.quiet {
        write_stdout(format!("{reference}\n").as_bytes())?;
    }
    Ok(0)
}

/// Whether a name has a tag or digest of its own.
fn names_a_version(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains([':', '@'])
}

/// `rmi`.
///
/// # Errors
/// When one of the names failed.
pub fn remove(arguments: RemoveImageArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.images, context, |name| {
        let removed = engine.remove_image(name, arguments.force)?;
        let untagged = removed.untagged.iter().map(|name| format!("Untagged: {name}\n"));
        let deleted = removed.deleted.iter().chain(&removed.unused_layers).map(|id| format!("Deleted: {id}\n"));
        write_stdout(untagged.chain(deleted).collect::<String>().as_bytes())
    })
}

/// `import`: makes an image of a root file system's tar and prints its id.
///
/// # Errors
/// When the file cannot be read, or what is wrong with it.
pub fn import(arguments: ImportArgs, context: &Context) -> Result<u8, Failure> {
    if arguments.file.starts_with("http://") || arguments.file.starts_with("https://") {
        return Err(Failure::Arguments(format!(
            "importing from a URL ({}) is not supported yet: fetch the file, or pipe it into `hull import -`",
            arguments.file
        )));
    }
    let engine_error = |error| Failure::Engine(error);
    let reference = arguments.name.as_deref().map(Reference::parse).transpose();
    let platform = arguments.platform.as_deref().map(Platform::parse).transpose();
    let options = ImportOptions {
        reference: reference.map_err(|error| engine_error(error.into()))?,
        changes: arguments.change.clone(),
        message: arguments.message.clone(),
        platform: platform.map_err(|error| engine_error(error.into()))?,
    };
    let engine = context.engine()?;
    let image = match arguments.file.as_str() {
        "-" => engine.import(&mut piped("import")?, &options, &hull_image::NoProgress)?,
        path if Path::new(path).is_dir() => {
            return Err(Failure::Arguments(format!(
                "{path} is a directory: import takes a tar, such as `tar -C {path} -c .` writes"
            )));
        }
        path => {
            let mut file = File::open(path).map_err(Failure::path("open", path))?;
            engine.import(&mut file, &options, &hull_image::NoProgress)?
        }
    };
    write_stdout(format!("{}\n", image.id).as_bytes())?;
    Ok(0)
}

/// `load`: takes the images of an archive in and prints their names.
///
/// # Errors
/// When the file cannot be read, or what is wrong with it.
pub fn load(arguments: LoadArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let progress = progress::for_archive(arguments.quiet, arguments.progress);
    let platform = arguments.platform.as_deref();
    let images = match arguments.input.as_deref() {
        None | Some("-") => engine.load(LoadSource::Stream(&mut piped("load")?), platform, progress.as_ref())?,
        Some(path) if Path::new(path).is_dir() => {
            engine.load(LoadSource::Folder(Path::new(path)), platform, progress.as_ref())?
        }
        Some(path) => {
            let mut file = File::open(path).map_err(Failure::path("open", path))?;
            engine.load(LoadSource::Stream(&mut file), platform, progress.as_ref())?
        }
    };
    drop(progress);
    let mut text = String::new();
    for image in images {
        let tags = image.tags();
        if tags.is_empty() {
            text.push_str(&format!("Loaded image ID: {}\n", image.id));
        }
        text.extend(tags.iter().map(|tag| format!("Loaded image: {tag}\n")));
    }
    write_stdout(text.as_bytes())?;
    Ok(0)
}

/// `save`: writes images as an archive to a file, a folder or stdout.
///
/// # Errors
/// When stdout is a terminal, and the engine's; a file or folder that was begun is gone then.
pub fn save(arguments: SaveArgs, context: &Context) -> Result<u8, Failure> {
    let SaveArgs { output, format, platform, progress, images } = arguments;
    let progress = progress::for_archive(false, progress);
    let engine = context.engine()?;
    let save = |target: SaveTarget<'_>| {
        engine.save(&images, platform.as_deref(), format, target, progress.as_ref()).map_err(Failure::from)
    };
    match output {
        Some(folder) if format.is_directory() => save(SaveTarget::Folder(&folder))?,
        None if format.is_directory() => {
            return Err(Failure::Arguments("this format is a folder: name it with -o".to_owned()));
        }
        Some(path) => whole_file::write(&path, |file| save(SaveTarget::Stream(file)))?,
        None if hull_kernel::terminal::is_terminal(io::stdout()) => {
            return Err(Failure::Arguments(
                "cowardly refusing to save to a terminal: use the -o flag or redirect".to_owned(),
            ));
        }
        None => save(SaveTarget::Stream(&mut io::stdout().lock()))?,
    }
    Ok(0)
}

/// Stdin, when something is piped into it.
fn piped(command: &str) -> Result<io::Stdin, Failure> {
    let stdin = io::stdin();
    if hull_kernel::terminal::is_terminal(&stdin) {
        return Err(Failure::Arguments(format!("requested {command} from stdin, but stdin is a terminal")));
    }
    Ok(stdin)
}

/// `tag`.
///
/// # Errors
/// The engine's.
pub fn tag(arguments: TagArgs, context: &Context) -> Result<u8, Failure> {
    context.engine()?.tag(&arguments.source, &arguments.target)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::names_a_version;

    #[test]
    fn default_tags_are_announced() {
        assert!(!names_a_version("debian"));
        assert!(!names_a_version("127.0.0.1:5000/debian"));
        assert!(names_a_version("127.0.0.1:5000/debian:12"));
        assert!(names_a_version("debian@sha256:abc"));
    }
}
