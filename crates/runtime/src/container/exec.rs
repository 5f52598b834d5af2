//! One more process in a container of the command line.
//!
//! What it starts from, the container's own process and filter, was written down at create: changes of config.json
//! after that have no effect (runtime.md, "Lifecycle").

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hull_kernel::cgroups::{Cgroup, Layout};
use hull_oci::runtime::{Linux, LinuxNamespaceType, Process, Spec, State, Status};
use serde::{Deserialize, Serialize};

use super::record::{Record, RecordedUnit, in_unit};
use super::{ContainerError, Containers, status};
use crate::create::Created;
use crate::exec::{ExecOptions, create, plan};
use crate::listener::Listener;
use crate::plan::Streams;

const TEMPLATE_FILE: &str = "exec.json";

/// What exec.json holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Template {
    process: Process,
    /// What of the section [`plan`] asks for.
    #[serde(default)]
    linux: Linux,
    /// Path of the container's cgroup.
    cgroup: Option<String>,
    /// The unit that systemd makes the cgroup for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<RecordedUnit>,
}

/// The cgroup of a container that may have nothing but its exec.json; `None` when it does not even have that.
pub(super) fn unfinished_cgroup(folder: &Path) -> Result<Option<Cgroup>, ContainerError> {
    if !folder.join(TEMPLATE_FILE).exists() {
        return Ok(None);
    }
    let template = match Template::read(folder) {
        // Cut off while it was being written, before there was anything else.
        Err(ContainerError::Json { .. }) => return Ok(None),
        other => other?,
    };
    match template.cgroup {
        Some(path) => Ok(Some(in_unit(Layout::detect()?.cgroup(&path)?, template.unit.as_ref()))),
        None => Ok(None),
    }
}

impl Template {
    /// Of the container that is being created.
    pub fn of(spec: &Spec, record: &Record) -> Template {
        Template {
            process: spec.process.clone().unwrap_or_default(),
            linux: spec.linux.as_ref().map(for_later_processes).unwrap_or_default(),
            cgroup: record.cgroup.clone(),
            unit: record.unit.clone(),
        }
    }

    /// Writes it into the container's folder.
    pub fn write(&self, folder: &Path) -> Result<(), ContainerError> {
        let path = folder.join(TEMPLATE_FILE);
        let text = serde_json::to_vec(self).map_err(|source| ContainerError::Json { path: path.clone(), source })?;
        fs::write(&path, text).map_err(ContainerError::file("write", &path))
    }

    /// The agent of the container's filter.
    pub fn listener(folder: &Path, state: State) -> Result<Option<Listener>, ContainerError> {
        let template = Template::read(folder)?;
        Ok(template.linux.seccomp.as_ref().and_then(|seccomp| Listener::of(seccomp, state)))
    }

    fn read(folder: &Path) -> Result<Template, ContainerError> {
        let path = folder.join(TEMPLATE_FILE);
        let text = fs::read(&path).map_err(ContainerError::file("read", &path))?;
        serde_json::from_slice(&text).map_err(|source| ContainerError::Json { path, source })
    }
}

/// The part of the section that holds for every process of the container.
fn for_later_processes(linux: &Linux) -> Linux {
    let time = linux.namespaces.iter().filter(|namespace| namespace.type_ == LinuxNamespaceType::Time);
    Linux {
        seccomp: linux.seccomp.clone(),
        memory_policy: linux.memory_policy.clone(),
        personality: linux.personality.clone(),
        intel_rdt: linux.intel_rdt.clone(),
        namespaces: time.cloned().collect(),
        ..Linux::default()
    }
}

/// A process to be added.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The container.
    pub id: &'a str,
    /// What it runs.
    pub process: &'a Process,
    /// Standard streams; absent with a terminal.
    pub streams: Option<Streams>,
    /// Also when the container is paused; the process then waits for its resume.
    pub ignore_paused: bool,
    /// How many descriptors of the caller, from 3 on, stay open in the program.
    pub kept_fds: i32,
    /// Cgroups below the container's own that the process goes to, by controller; the empty name stands for all.
    pub sub_cgroups: &'a BTreeMap<String, String>,
}

impl Containers {
    /// The process that the container was created with, from which others are derived.
    ///
    /// # Errors
    /// [`ContainerError::Missing`], and what cannot be read.
    pub fn process(&self, id: &str) -> Result<Process, ContainerError> {
        let folder = self.folder(id)?;
        Record::read(&folder)?;
        Ok(Template::read(&folder)?.process)
    }

    /// Makes one more process, which stops before its program; [`Created::start`] executes it.
    ///
    /// The caller must have one thread; its children are in the container's pid namespace from here on.
    ///
    /// # Errors
    /// [`ContainerError::ExecStopped`], [`ContainerError::ExecPaused`], and what kept the process from being made.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<Created, ContainerError> {
        let folder = self.folder(request.id)?;
        let record = Record::read(&folder)?;
        let status = status(&folder, &record)?;
        match status {
            Status::Stopped => return Err(ContainerError::ExecStopped),
            Status::Paused if !request.ignore_paused => return Err(ContainerError::ExecPaused),
            _ => {}
        }
        let template = Template::read(&folder)?;
        let mut cgroup = record.cgroup()?;
        for (controller, path) in request.sub_cgroups {
            cgroup = cgroup.map(|cgroup| cgroup.below(controller, path)).transpose()?;
        }
        let options = ExecOptions {
            pid: record.pid,
            cgroup,
            streams: request.streams,
            sibling: false,
            kept_fds: request.kept_fds,
            state: record.state(request.id, status),
            filters: Some(&super::filters_beside(&folder)),
        };
        Ok(create(plan(request.process, &template.linux, options)?)?)
    }
}
