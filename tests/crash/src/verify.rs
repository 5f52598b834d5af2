//! What must be true of a store at any time, found out without asking the code that keeps it so.
//!
//! [`whole`]: every image that is listed has all its blobs, each with its digest, and its files, mounted, are those of
//! its layers; every container has its record, its files and its volumes, and a volume that counts as filled has what
//! the image has there. [`nothing_leaks`]: files and rows, compared, are the same, and nothing unreferred is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use hull_engine::{Engine, ListQuery};
use hull_store::StoreError;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::images::{self, Image};

/// A file tree in words: path, mode, size or target, content.
type Tree = BTreeMap<PathBuf, String>;

/// Everything that is there is whole.
pub fn whole(engine: &Engine) -> Result<()> {
    let integrity: String = query(engine, |db| db.query_row("PRAGMA integrity_check", [], |row| row.get(0)))?;
    ensure!(integrity == "ok", "the database: {integrity}");
    let ids: BTreeSet<String> = strings(engine, "SELECT id FROM images")?;
    let readable: BTreeSet<String> = engine.images()?.iter().map(|image| image.id.to_string()).collect();
    ensure!(ids == readable, "images that cannot be read: {:?}", ids.difference(&readable).collect::<Vec<_>>());
    let known = Image::all();
    for image in engine.images()? {
        let blobs = "SELECT digest FROM image_blobs WHERE image_id = ?1";
        let digests: Vec<String> =
            query(engine, |db| db.prepare(blobs)?.query_map([image.id.as_str()], |row| row.get(0))?.collect())?;
        ensure!(!digests.is_empty(), "image {} has no blobs", image.id);
        for digest in digests {
            let path = blob_path(engine, &digest);
            let bytes = fs::read(&path).with_context(|| format!("image {}: {}", image.id, path.display()))?;
            ensure!(images::digest(&bytes) == digest, "image {}: {} is damaged", image.id, path.display());
        }
        // What is committed adds nothing to the files of the image whose label it has.
        let labels = image.execution().labels;
        let number = labels.get("number").and_then(|number| number.parse::<usize>().ok());
        let wanted = number.and_then(|number| known.get(number)).context("an unknown image")?;
        let mount = engine.mount_image(&image).with_context(|| format!("mounting image {}", image.id))?;
        let found = tree(&at(&mount))?;
        same(&expected(wanted), &found).with_context(|| format!("the files of image {}", image.id))?;
    }
    containers(engine)
}

fn containers(engine: &Engine) -> Result<()> {
    let everything = ListQuery { all: true, ..ListQuery::default() };
    let listed = engine.list(&everything)?;
    let rows: BTreeSet<String> = strings(engine, "SELECT name FROM containers")?;
    let names: BTreeSet<String> = listed.iter().map(|container| container.name.clone()).collect();
    ensure!(rows == names, "rows {rows:?} and listed containers {names:?}");
    for container in listed {
        let mount = engine.mount_container(&container.id);
        let mount = mount.with_context(|| format!("mounting container {}", container.name))?;
        ensure!(at(&mount).join("data").is_dir(), "container {} has no files", container.name);
        let used = "SELECT volume FROM container_volumes JOIN containers ON id = container_id WHERE name = ?1";
        let volumes: Vec<String> =
            query(engine, |db| db.prepare(used)?.query_map([&container.name], |row| row.get(0))?.collect())?;
        for volume in volumes {
            let data = engine.roots().volumes().join(&volume).join("_data");
            ensure!(data.is_dir(), "container {}: volume {volume} has no folder", container.name);
        }
    }
    for volume in strings(engine, "SELECT name FROM volumes WHERE anonymous = 0 AND lease_pid IS NULL")? {
        let data = engine.roots().volumes().join(&volume).join("_data");
        let found = tree(&data).with_context(|| format!("volume {volume}"))?;
        let fits = Image::all().iter().any(|image| {
            let source = images::VOLUME_SOURCE.trim_start_matches('/');
            let below = expected(image).into_iter();
            let below: Tree =
                below.filter_map(|(path, line)| Some((path.strip_prefix(source).ok()?.to_owned(), line))).collect();
            same(&below, &found).is_ok()
        });
        ensure!(fits, "volume {volume} is not filled from any image: {found:?}");
    }
    Ok(())
}

/// Nothing is there that belongs to nothing.
pub fn nothing_leaks(engine: &Engine) -> Result<()> {
    let root = &engine.roots().root;
    let mut wrong = Vec::new();
    let mut compare = |what: &str, files: BTreeSet<String>, rows: BTreeSet<String>| {
        wrong.extend(files.difference(&rows).map(|name| format!("{what} {name}: a file without a row")));
        wrong.extend(rows.difference(&files).map(|name| format!("{what} {name}: a row without a file")));
    };
    let mut blobs = BTreeSet::new();
    for folder in names(&root.join("content/sha256"))? {
        let hex = names(&root.join("content/sha256").join(folder))?;
        blobs.extend(hex.into_iter().map(|hex| format!("sha256:{hex}")));
    }
    compare("blob", blobs, strings(engine, "SELECT digest FROM blobs")?);
    let mut snapshots = BTreeSet::new();
    for driver in names(&root.join("snapshots"))? {
        snapshots.extend(names(&root.join("snapshots").join(driver))?);
    }
    compare("snapshot", snapshots, strings(engine, "SELECT id FROM snapshots")?);
    compare("container", names(&root.join("containers"))?, strings(engine, "SELECT id FROM containers")?);
    compare("volume", names(&root.join("volumes"))?, strings(engine, "SELECT name FROM volumes")?);
    for name in names(&root.join("content/tmp"))? {
        wrong.push(format!("content/tmp/{name} is left"));
    }
    // `drivers` says which storage drivers have worked since the last boot.
    let known = ["content", "snapshots", "containers", "volumes", "drivers"];
    let others =
        names(root)?.into_iter().filter(|name| !known.contains(&name.as_str()) && !name.starts_with("hull.db"));
    wrong.extend(others.map(|name| format!("{name} is left in the root folder")));
    for (what, sql) in UNREFERRED {
        wrong.extend(strings(engine, sql)?.into_iter().map(|key| format!("{what} {key}: nothing refers to it")));
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
}

/// Rows that nothing needs.
const UNREFERRED: [(&str, &str); 8] = [
    (
        "blob",
        "SELECT digest FROM blobs WHERE digest NOT IN (SELECT digest FROM image_blobs)
         AND digest NOT IN (SELECT digest FROM image_layers)",
    ),
    ("layer", "SELECT chain_id FROM layers WHERE chain_id NOT IN (SELECT chain_id FROM image_layers)"),
    ("layer without a snapshot", "SELECT chain_id FROM layers WHERE snapshot_id NOT IN (SELECT id FROM snapshots)"),
    ("layer snapshot", "SELECT id FROM snapshots WHERE kind = 'layer' AND id NOT IN (SELECT snapshot_id FROM layers)"),
    (
        "container snapshot",
        "SELECT id FROM snapshots WHERE kind = 'container'
         AND id NOT IN (SELECT snapshot_id FROM containers WHERE snapshot_id IS NOT NULL)",
    ),
    ("leased snapshot", "SELECT id FROM snapshots WHERE lease_pid IS NOT NULL"),
    (
        "anonymous volume",
        "SELECT name FROM volumes WHERE anonymous = 1 AND name NOT IN (SELECT volume FROM container_volumes)",
    ),
    ("hold", "SELECT key FROM holds"),
];

fn blob_path(engine: &Engine, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
    engine.roots().content().join(algorithm).join(&hex[..2]).join(hex)
}

/// What the layers of an image make, by a reading of the tar that is not Hull's.
fn expected(image: &Image) -> Tree {
    let mut tree = Tree::new();
    for layer in &image.layers {
        let mut archive = tar::Archive::new(&layer[..]);
        for entry in archive.entries().expect("our own tar") {
            let mut entry = entry.expect("our own tar");
            let path = entry.path().expect("our own tar").into_owned();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(gone) = name.strip_prefix(".wh.") {
                tree.remove(&path.with_file_name(gone));
                continue;
            }
            let link = entry.link_name().expect("our own tar").map(|link| link.into_owned());
            let mode = entry.header().mode().expect("our own tar");
            let line = match entry.header().entry_type() {
                tar::EntryType::Directory => format!("folder {mode:o}"),
                tar::EntryType::Symlink => format!("link {}", link.expect("a target").display()),
                tar::EntryType::Link => tree[&link.expect("a target")].clone(),
                _ => {
                    let mut bytes = Vec::new();
                    std::io::copy(&mut entry, &mut bytes).expect("reading from memory");
                    format!("file {mode:o} {}", images::digest(&bytes))
                }
            };
            tree.insert(path, line);
        }
    }
    tree
}

fn tree(folder: &Path) -> Result<Tree> {
    let mut found = Tree::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        let path = folder.join(&below);
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let entry = entry?;
            let below = below.join(entry.file_name());
            let metadata = entry.metadata()?;
            let mode = metadata.permissions().mode() & 0o7777;
            let line = if metadata.is_dir() {
                waiting.push(below.clone());
                format!("folder {mode:o}")
            } else if metadata.is_symlink() {
                format!("link {}", fs::read_link(entry.path())?.display())
            } else {
                let bytes = fs::read(entry.path())?;
                ensure!(metadata.size() == bytes.len() as u64, "{} has another size", below.display());
                let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                format!("file {mode:o} sha256:{digest}")
            };
            found.insert(below, line);
        }
    }
    Ok(found)
}

fn same(wanted: &Tree, found: &Tree) -> Result<()> {
    let wanted: BTreeMap<&Path, &str> = wanted
        .iter()
        .filter(|(path, _)| !path.as_os_str().is_empty())
        .map(|(p, l)| (p.as_path(), l.as_str()))
        .collect();
    let found: BTreeMap<&Path, &str> = found.iter().map(|(p, l)| (p.as_path(), l.as_str())).collect();
    if wanted == found {
        return Ok(());
    }
    let missing = wanted.iter().filter(|(path, line)| found.get(*path) != Some(line));
    let strange = found.iter().filter(|(path, line)| wanted.get(*path) != Some(line));
    bail!("missing {:?}, found {:?}", missing.collect::<Vec<_>>(), strange.collect::<Vec<_>>())
}

fn at(mount: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()))
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| folder.display().to_string()),
    }
}

fn strings(engine: &Engine, sql: &str) -> Result<BTreeSet<String>> {
    query(engine, |db| db.prepare(sql)?.query_map([], |row| row.get(0))?.collect())
}

fn query<T>(engine: &Engine, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
    Ok(engine.store().read(|db| Ok::<T, StoreError>(read(db)?))?)
}
