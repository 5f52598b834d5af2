//! A file that appears whole or not at all, as docker's `-o` has it.
//!
//! What is written goes to a temporary file in the same folder, which gets the name at the end; a failure removes it
//! and leaves what had the name before. A pipe or a device is no such file and is written directly.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::Failure;

/// Writes the file `path` by `fill`.
///
/// # Errors
/// When the file cannot be made, and those of `fill`.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    match kind {
        Ok(kind) if kind.is_dir() => Err(Failure::Arguments(format!("{} is a directory", path.display()))),
        Ok(kind) if !kind.is_file() => {
            let mut file = File::options().write(true).open(path).map_err(Failure::path("open", path))?;
            fill(&mut file)
        }
        _ => write_and_rename(path, fill),
    }
}

fn write_and_rename(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = File::create(&temporary).map_err(Failure::path("create", &temporary))?;
    let written = fill(&mut file).and_then(|()| fs::rename(&temporary, path).map_err(Failure::path("create", path)));
    if written.is_err() {
        // What made it fail is what the user must hear.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        entries.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out");
        write(&path, |file| file.write_all(b"one").map_err(Failure::stream("write"))).expect("writes");
        let failed = write(&path, |file| {
            file.write_all(b"two").map_err(Failure::stream("write"))?;
            Err(Failure::ExitUnknown)
        });
        assert!(failed.is_err());
        assert_eq!((fs::read(&path).expect("a file"), names(folder.path())), (b"one".to_vec(), vec!["out".to_owned()]));
        assert!(write(folder.path(), |_| Ok(())).is_err(), "a folder is refused");
        assert!(write(&folder.path().join("no/such"), |_| Ok(())).is_err());
    }
}
