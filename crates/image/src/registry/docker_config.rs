//! Changing docker's config.json: credentials come and go, everything else in it stays as it is.
//!
//! Where a credential helper is configured for the registry, the secret goes to it and the file only says that there is
//! one. The file is written whole under another name with mode 0600, synced and renamed; a link to it stays a link.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::credentials::{CredentialsError, config_key, encode_base64, helper_for, names, run_helper};

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredIn {
    /// Into this file, readable for whoever may read it.
    File(PathBuf),
    /// Into the keeping of this program.
    Helper(String),
}

/// Keeps a user name and password for a registry.
///
/// # Errors
/// [`CredentialsError`] when the file cannot be read or written, or the helper fails.
pub fn store_credentials(
    path: &Path,
    registry: &str,
    user: &str,
    password: &str,
) -> Result<StoredIn, CredentialsError> {
    let key = config_key(registry);
    let _lock = lock(path)?;
    let mut config = read(path)?;
    let helper = helper_for(path, registry)?;
    let entry = match &helper {
        Some(helper) => {
            let secret = json!({"ServerURL": key, "Username": user, "Secret": password});
            run_helper(path, helper, "store", key, &secret.to_string())?;
            json!({})
        }
        None => json!({"auth": encode_base64(format!("{user}:{password}").as_bytes())}),
    };
    auths(&mut config).insert(key.to_owned(), entry);
    write(path, &config)?;
    Ok(helper.map_or_else(|| StoredIn::File(path.to_path_buf()), StoredIn::Helper))
}

/// Forgets what is kept for a registry; false when nothing was.
///
/// # Errors
/// [`CredentialsError`] when the file cannot be read or written, or the helper fails.
pub fn erase_credentials(path: &Path, registry: &str) -> Result<bool, CredentialsError> {
    let key = config_key(registry);
    let _lock = lock(path)?;
    let mut config = read(path)?;
    let auths = auths(&mut config);
    let before = auths.len();
    auths.retain(|name, _| !names(name, key));
    let was_known = auths.len() < before;
    if !was_known {
        return Ok(false);
    }
    if let Some(helper) = helper_for(path, registry)? {
        run_helper(path, &helper, "erase", key, key)?;
    }
    write(path, &config)?;
    Ok(true)
}

/// Keeps other Hulls from changing the file between being read and being written: its folder, locked (flock(2)).
fn lock(path: &Path) -> Result<File, CredentialsError> {
    let folder = folder_of(&real_path(path));
    let failed = |source| CredentialsError::Write { path: folder.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
    let file = File::open(&folder).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Where a link to the file leads.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_path_buf()
}

/// The file's object; an empty one when there is no file.
fn read(path: &Path) -> Result<Map<String, Value>, CredentialsError> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|source| CredentialsError::Json { path: path.to_path_buf(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
        Err(source) => Err(CredentialsError::Read { path: path.to_path_buf(), source }),
    }
}

/// The object of credentials; what else could stand in its place is replaced.
fn auths(config: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let entry = config.entry("auths").or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("it is an object by now")
}

fn write(path: &Path, config: &Map<String, Value>) -> Result<(), CredentialsError> {
    let path = real_path(path);
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
    config.serialize(&mut serializer).expect("an object of texts has a JSON form");
    let new = folder_of(&path).join(format!(".config.json.{}", std::process::id()));
    // A killed one of the same number may have left it.
    let _ = fs::remove_file(&new);
    let written = File::options().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, &path)).map_err(|source| {
        // What made it fail is what the user must hear.
        let _ = fs::remove_file(&new);
        CredentialsError::Write { path: path.clone(), source }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::registry::credentials::{Credentials, load};

    #[test]
    fn what_is_stored_is_loaded_and_erased() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("new/config.json");
        for registry in ["docker.io", "r.example:5000"] {
            let stored = store_credentials(&path, registry, "user", "pa:ss").expect("stores");
            assert_eq!(stored, StoredIn::File(path.clone()));
            let expected = Credentials::Password { user: "user".to_owned(), password: "pa:ss".to_owned() };
            assert_eq!(load(&path, registry).expect("reads"), Some(expected));
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).expect("reads");
        assert!(text.contains("\"https://index.docker.io/v1/\"") && text.contains("\n\t\t"), "{text}");
        assert!(erase_credentials(&path, "r.example:5000").expect("erases"));
        assert!(!erase_credentials(&path, "r.example:5000").expect("nothing left"));
        assert_eq!(load(&path, "r.example:5000").expect("reads"), None);
        assert!(load(&path, "docker.io").expect("reads").is_some());
        assert_eq!(fs::read_dir(path.parent().expect("folder")).expect("lists").count(), 1);
    }

    #[test]
    fn the_rest_of_the_file_stays() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("config.json");
        fs::write(&path, r#"{"HttpHeaders":{"a":"b"},"auths":{"old.example":{"auth":"dTpw"}}}"#).expect("writes");
        store_credentials(&path, "r.example", "u", "p").expect("stores");
        let config: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
        assert_eq!(config["HttpHeaders"]["a"], "b");
        assert_eq!(config["auths"].as_object().expect("object").len(), 2);
        fs::write(&path, "not JSON").expect("writes");
        assert!(matches!(store_credentials(&path, "r", "u", "p"), Err(CredentialsError::Json { .. })));
        assert_eq!(fs::read(&path).expect("reads"), b"not JSON");
    }
}
