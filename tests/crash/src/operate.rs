//! The process under test: operations of the engine, one after another, each reported when it has returned.
//!
//! It is this program executed again. What to do comes as one line of JSON, after everything is ready to end it in the
//! middle; each step that returns is one line back, with everything that a user who looks then would see.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use hull_engine::request::{CreateContainer, MountRequest, MountSource};
use hull_engine::{CommitRequest, Engine, ListQuery, LoadSource, NoProgress, PruneFilter, RemoveOptions};
use hull_store::Roots;
use serde::{Deserialize, Serialize};

use crate::{images, syncfs, verify};

/// What may happen to a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// `hull pull`.
    Pull(String),
    /// `hull load` of an archive.
    Load(PathBuf),
    /// `hull tag`.
    Tag(String, String),
    /// `hull rmi`, with force or not.
    RemoveImage(String, bool),
    /// `hull create`: name, image, volume.
    Create(String, String, Option<String>),
    /// `hull rm -v`.
    RemoveContainer(String),
    /// `hull commit`: container, name of the image.
    Commit(String, String),
    /// `hull system prune -f --volumes`, with `-a` or not.
    Prune(bool),
    /// `hull system gc`.
    Collect,
    /// What a boot changes for a store.
    Boot,
    /// What any command does that looks at containers.
    Recover,
    /// Everything that is there is whole.
    Verify,
    /// Nothing is there that belongs to nothing.
    Leaks,
}

/// What a process is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The disk.
    pub mount: PathBuf,
    /// The state folder.
    pub state: PathBuf,
    /// The configuration file, which says how layers are kept.
    pub configuration: PathBuf,
    /// What to do.
    pub operations: Vec<Operation>,
}

/// What a user sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Tags and the ids of their images.
    pub tags: BTreeMap<String, String>,
    /// Names of containers.
    pub containers: BTreeSet<String>,
}

/// What came of one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The error, with its causes.
    pub error: Option<String>,
    /// What is there now, when nothing failed in looking.
    pub view: Option<View>,
}

/// Folder of the store on a disk.
pub fn roots(orders: &Orders) -> Roots {
    Roots::new(orders.mount.join("hull"), &orders.state)
}

/// The whole life of such a process.
pub fn main() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let orders: Orders = serde_json::from_str(&line)?;
    syncfs::redirect(&orders.mount)?;
    let mut out = std::io::stdout().lock();
    for operation in &orders.operations {
        let report = match step(&orders, operation) {
            Ok(view) => Report { error: None, view: Some(view) },
            Err(error) => Report { error: Some(format!("{error:#}")), view: None },
        };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        out.flush()?;
    }
    Ok(())
}

/// Each step opens the store anew, as a command does.
pub fn step(orders: &Orders, operation: &Operation) -> Result<View> {
    let engine = Engine::open(roots(orders)).context("opening the store")?;
    let engine = engine.configured_by(orders.configuration.clone());
    perform(&engine, operation)?;
    look(&engine)
}

fn perform(engine: &Engine, operation: &Operation) -> Result<()> {
    match operation {
        Operation::Pull(name) => drop(engine.pull(name, None, false, &NoProgress)?),
        Operation::Load(archive) => {
            let mut archive = std::fs::File::open(archive)?;
            engine.load(LoadSource::Stream(&mut archive), None, &NoProgress)?;
        }
        Operation::Tag(source, target) => engine.tag(source, target)?,
        Operation::RemoveImage(name, force) => drop(engine.remove_image(name, *force)?),
        Operation::Create(name, image, volume) => drop(engine.create(request(name, image, volume), &NoProgress)?),
        Operation::RemoveContainer(name) => {
            engine.remove(name, &RemoveOptions { force: false, volumes: true })?;
        }
        Operation::Commit(name, tag) => {
            let request = CommitRequest { reference: Some(tag.clone()), ..CommitRequest::default() };
            engine.commit(name, &request, &NoProgress)?;
        }
        Operation::Prune(all) => {
            let everything = PruneFilter::default();
            engine.prune_containers(&everything)?;
            engine.prune_images(*all, &everything)?;
            engine.prune_volumes(false, &everything)?;
        }
        Operation::Collect => drop(engine.collect()?),
        Operation::Boot => {
            let forget = |tx: &rusqlite::Transaction<'_>| -> Result<(), hull_store::StoreError> {
                tx.execute("DELETE FROM facts WHERE key = ?1", [hull_store::LOOKED_THROUGH_BOOT])?;
                Ok(())
            };
            engine.store().write(forget)?;
        }
        Operation::Recover => drop(engine.recover()?),
        Operation::Verify => verify::whole(engine)?,
        Operation::Leaks => verify::nothing_leaks(engine)?,
    }
    Ok(())
}

fn request(name: &str, image: &str, volume: &Option<String>) -> CreateContainer {
    let mount = |name: &Option<String>, target: &str| MountRequest {
        source: MountSource::Volume { name: name.clone(), copy_up: true },
        target: target.into(),
        read_only: false,
        propagation: None,
        ownership: hull_engine::request::Ownership::default(),
    };
    let anonymous = mount(&None, "/scratch");
    let named = volume.iter().map(|_| mount(volume, images::VOLUME_SOURCE));
    CreateContainer {
        image: image.to_owned(),
        name: Some(name.to_owned()),
        mounts: named.chain([anonymous]).collect(),
        ..CreateContainer::default()
    }
}

fn look(engine: &Engine) -> Result<View> {
    let mut view = View::default();
    for image in engine.images()? {
        for tag in image.tags() {
            view.tags.insert(tag, image.id.to_string());
        }
    }
    let everything = ListQuery { all: true, ..ListQuery::default() };
    view.containers = engine.list(&everything)?.into_iter().map(|container| container.name).collect();
    Ok(view)
}
