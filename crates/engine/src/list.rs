//! What `ps` shows: one summary for each container, newest first.
//!
//! A summary joins the row, the record and the live state. Containers whose record cannot be read are shown as dead
//! rather than left out: whoever looks should see that something is wrong.

use std::collections::BTreeMap;

use hull_network::port_list;
use hull_oci::Digest;
use hull_snapshot::SnapshotId;
use jiff::Timestamp;

use crate::durations::human_duration;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::filter::ListFilter;
use crate::id::ContainerId;
use crate::lifecycle::state::ContainerState;
use crate::mount_point::MountKind;
use crate::record::ContainerRecord;
use crate::request::{CreateContainer, NamespaceChoice};
use crate::row::{self, ContainerRow};
use crate::spec::Effective;

/// What to list. The default is what runs.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Also those that do not run.
    pub all: bool,
    /// At most so many, the newest ones, in any state.
    pub last: Option<usize>,
    /// All of them must match; several of one key are alternatives.
    pub filters: Vec<ListFilter>,
    /// Also measure how much each has written.
    pub size: bool,
}

/// One container in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSummary {
    /// Id.
    pub id: ContainerId,
    /// Name.
    pub name: String,
    /// Image as it was asked for.
    pub image: String,
    /// Digest of the image's configuration; absent for a built-in image.
    pub image_id: Option<Digest>,
    /// Entrypoint and arguments.
    pub command: Vec<String>,
    /// When it was created.
    pub created: Timestamp,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Volume names and bind sources.
    pub mounts: Vec<String>,
    /// Paths inside at which something is mounted.
    pub mount_targets: Vec<String>,
    /// How many of the mounts are volumes.
    pub local_volumes: usize,
    /// Network mode.
    pub networks: Vec<String>,
    /// Docker's column of published and exposed ports.
    pub ports: String,
    /// Bytes written to the container's own layer, when measured.
    pub size_rw_bytes: Option<u64>,
    /// Those and the image's, when measured.
    pub size_root_fs_bytes: Option<u64>,
}

impl ContainerSummary {
    /// Docker's status column at the time `now`: `Up 3 minutes (Paused)`, `Exited (137) 2 hours ago`.
    pub fn status(&self, now: Timestamp) -> String {
        let since = |then: Timestamp| human_duration(now.as_second() - then.as_second());
        match &self.state {
            ContainerState::Creating | ContainerState::Created => "Created".to_owned(),
            ContainerState::Running { started_at, .. } => format!("Up {}", since(*started_at)),
            ContainerState::Paused { started_at, .. } => format!("Up {} (Paused)", since(*started_at)),
            ContainerState::Exited { status, .. } => {
                let code = status.code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
                match status.finished_at {
                    Some(finished) => format!("Exited ({code}) {} ago", since(finished)),
                    None => format!("Exited ({code})"),
                }
            }
            ContainerState::Removing => "Removal In Progress".to_owned(),
            ContainerState::Dead => "Dead".to_owned(),
        }
    }

    /// How long ago it was created: `2 hours ago`.
    pub fn running_for(&self, now: Timestamp) -> String {
        format!("{} ago", human_duration(now.as_second() - self.created.as_second()))
    }
}

impl Engine {
    /// Lists containers, newest first. Leftovers of killed commands are swept first.
    ///
    /// # Errors
    /// The database's; a filter that names an unknown container.
    pub fn list(&self, query: &ListQuery) -> Result<Vec<ContainerSummary>, EngineError> {
        self.recover()?;
        let rows = self.store().read(row::all)?;
        let any_state = query.all || query.last.is_some() || query.filters.iter().any(ListFilter::names_a_state);
        let bounds = self.bounds(&query.filters)?;
        let mut listed = Vec::new();
        for row in rows {
            if listed.len() >= query.last.unwrap_or(usize::MAX) {
                break;
            }
            let Some(summary) = self.summary(&row)? else { continue };
            let shown = any_state || summary.state.is_running();
            if shown && bounds.contains(&summary) && ListFilter::all_match(&query.filters, &summary) {
                listed.push(summary);
            }
        }
        if query.size {
            for summary in &mut listed {
                self.measure(summary)?;
            }
        }
        Ok(listed)
    }

    /// `None` for a container that went away meanwhile.
    fn summary(&self, row: &ContainerRow) -> Result<Option<ContainerSummary>, EngineError> {
        let state = self.state_of(row)?;
        let record = match ContainerRecord::read(&self.roots().container(row.id.as_str())) {
            Ok(record) => record,
            Err(_) if matches!(state, ContainerState::Creating | ContainerState::Removing) => return Ok(None),
            Err(_) => return Ok(self.store().read(|db| row::find(db, row.id.as_str()))?.exists().then(|| broken(row))),
        };
        let mut summary = summarize(row, &record, state);
        if summary.state.is_running() {
            let exposed = Effective::merge(&record.request, &record.image_config).exposed_ports;
            summary.ports = port_list::column(&self.published_ports(&row.id)?, &exposed);
        }
        Ok(Some(summary))
    }

    fn measure(&self, summary: &mut ContainerSummary) -> Result<(), EngineError> {
        let (written, image) = self.sizes(&summary.id, summary.image_id.as_ref())?;
        summary.size_rw_bytes = Some(written);
        summary.size_root_fs_bytes = Some(written + image);
        Ok(())
    }

    /// Bytes that a container has written, and bytes of its image; nothing for what is gone meanwhile.
    pub(crate) fn sizes(&self, id: &ContainerId, image: Option<&Digest>) -> Result<(u64, u64), EngineError> {
        let snapshot = match self.row(id.as_str()) {
            Ok(row) => row.snapshot_id.as_deref().and_then(SnapshotId::parse),
            Err(EngineError::NoSuchContainer { .. }) => None,
            Err(error) => return Err(error),
        };
        let written = snapshot.map_or(Ok(0), |snapshot| self.snapshot_bytes(&snapshot))?;
        let image = match image {
            Some(image) => self.image_store().get(image)?.map_or(0, |image| image.size_bytes),
            None => 0,
        };
        Ok((written, image))
    }

    fn bounds(&self, filters: &[ListFilter]) -> Result<Bounds, EngineError> {
        let created = |wanted: Option<&str>| wanted.map(|name| self.row(name).map(|row| row.created)).transpose();
        Ok(Bounds {
            before: created(filters.iter().find_map(ListFilter::before))?,
            since: created(filters.iter().find_map(ListFilter::since))?,
        })
    }
}

/// Times between which a container has to have been created, both excluded.
struct Bounds {
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl Bounds {
    fn contains(&self, summary: &ContainerSummary) -> bool {
        self.before.is_none_or(|before| summary.created < before)
            && self.since.is_none_or(|since| summary.created > since)
    }
}

fn broken(row: &ContainerRow) -> ContainerSummary {
    ContainerSummary {
        id: row.id.clone(),
        name: row.name.clone(),
        image: String::new(),
        image_id: row.image_id.as_deref().and_then(|id| Digest::parse(id).ok()),
        command: Vec::new(),
        created: row.created,
        state: ContainerState::Dead,
        labels: BTreeMap::new(),
        mounts: Vec::new(),
        mount_targets: Vec::new(),
        local_volumes: 0,
        networks: Vec::new(),
        ports: String::new(),
        size_rw_bytes: None,
        size_root_fs_bytes: None,
    }
}

fn summarize(row: &ContainerRow, record: &ContainerRecord, state: ContainerState) -> ContainerSummary {
    let effective = Effective::merge(&record.request, &record.image_config);
    let mounts = record.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, .. } => Some(name.clone()),
        MountKind::Bind { .. } => mount.source.as_ref().map(|source| source.display().to_string()),
        MountKind::Tmpfs { .. } => None,
    });
    ContainerSummary {
        id: row.id.clone(),
        name: row.name.clone(),
        image: record.image.name.clone(),
        image_id: record.image.id.clone(),
        command: effective.args(),
        created: record.created,
        state,
        labels: effective.labels,
        mounts: mounts.collect(),
        mount_targets: record.mounts.iter().map(|mount| mount.target.display().to_string()).collect(),
        local_volumes: record.mounts.iter().filter(|mount| mount.volume().is_some()).count(),
        networks: network_names(&record.request),
        ports: port_list::column(&[], &effective.exposed_ports),
        size_rw_bytes: None,
        size_root_fs_bytes: None,
    }
}

/// The networks that a container is in, or its mode.
pub(crate) fn network_names(request: &CreateContainer) -> Vec<String> {
    match &request.network {
        NamespaceChoice::Network(_) => request.networks.iter().map(|one| one.network.clone()).collect(),
        mode => vec![network_name(mode)],
    }
}

/// Docker's word for a network choice.
pub(crate) fn network_name(choice: &NamespaceChoice) -> String {
    match choice {
        NamespaceChoice::Default | NamespaceChoice::Private => "private".to_owned(),
        NamespaceChoice::Host => "host".to_owned(),
        NamespaceChoice::None => "none".to_owned(),
        NamespaceChoice::Container(name) => format!("container:{name}"),
        NamespaceChoice::Network(name) => name.clone(),
        NamespaceChoice::Path(path) => format!("ns:{}", path.display()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::lifecycle::state::ExitStatus;

    pub(crate) fn summary(name: &str, state: ContainerState) -> ContainerSummary {
        let row = ContainerRow {
            id: ContainerId::parse(&"ab".repeat(32)).unwrap(),
            name: name.into(),
            image_id: None,
            snapshot_id: None,
            created: Timestamp::from_second(1_000_000).unwrap(),
            auto_remove: false,
            lease: None,
        };
        ContainerSummary { state, ..broken(&row) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn status_in_dockers_words() {
        let now = at(1_007_200);
        let exited = |code, finished: Option<i64>| ContainerState::Exited {
            status: ExitStatus { code, finished_at: finished.map(at), ..ExitStatus::default() },
            started_at: None,
        };
        for (state, status) in [
            (ContainerState::Created, "Created"),
            (ContainerState::Running { pid: 7, started_at: at(1_007_140) }, "Up About a minute"),
            (ContainerState::Paused { pid: 7, started_at: at(1_007_195) }, "Up 5 seconds (Paused)"),
            (exited(Some(137), Some(1_000_000)), "Exited (137) 2 hours ago"),
            (exited(None, None), "Exited (unknown)"),
            (ContainerState::Removing, "Removal In Progress"),
        ] {
            assert_eq!(summary("a", state).status(now), status);
        }
        assert_eq!(summary("a", ContainerState::Created).running_for(now), "2 hours ago");
    }
}
