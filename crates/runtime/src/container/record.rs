//! What the runtime keeps of a container between its commands, and how a process is known again.
//!
//! A record is written once, to a new name that is renamed, when the process exists; a folder without one is a create
//! that is in progress or was cut off. It is written while the process builds its file systems, and renamed after that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hull_kernel::cgroups::systemd::{Bus, Unit};
use hull_kernel::cgroups::{Cgroup, Layout};
use hull_oci::runtime::{Hooks, OCI_VERSION, State, Status};
use serde::{Deserialize, Serialize};

use super::ContainerError;
use crate::hooks::HookPlan;

const STATE_FILE: &str = "state.json";
const DRAFT_FILE: &str = "state.json.new";
/// Version of state.json.
pub(super) const STATE_VERSION: u32 = 3;

/// What state.json holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub version: u32,
    pub pid: i32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot: tells the process from a later one with its id.
    pub start_time: u64,
    /// When it was created, nanoseconds since 1970.
    pub created_ns: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub cgroup: Option<String>,
    /// Where cgroups are, so that later commands need not look through all mounts for them; not on a machine with v2
    /// alone, where that is known at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Whether the cgroup above it was there before.
    pub keeps_cgroup_parent: bool,
    /// Whether it is process 1 of a pid namespace made for it.
    pub own_pid_namespace: bool,
    /// Groups of resctrl that end with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<PathBuf>,
    /// The unit that systemd made the cgroup for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<RecordedUnit>,
    pub annotations: BTreeMap<String, String>,
    /// The hooks that later commands run: poststart and poststop.
    pub hooks: Hooks,
}

/// A unit as it is recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RecordedUnit {
    pub name: String,
    /// A user's own systemd has it.
    pub user: bool,
}

/// The cgroup as that of the unit, where there is one.
pub(super) fn in_unit(cgroup: Cgroup, unit: Option<&RecordedUnit>) -> Cgroup {
    match unit {
        Some(RecordedUnit { name, user }) => {
            let bus = if *user { Bus::User } else { Bus::System };
            cgroup.in_unit(Unit { name: name.clone(), bus })
        }
        None => cgroup,
    }
}

impl RecordedUnit {
    pub fn of(unit: &Unit) -> RecordedUnit {
        RecordedUnit { name: unit.name.clone(), user: unit.bus == Bus::User }
    }
}

impl Record {
    /// Reads the record of `folder`.
    pub fn read(folder: &Path) -> Result<Record, ContainerError> {
        let path = folder.join(STATE_FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ContainerError::Missing),
            other => other.map_err(ContainerError::file("read", &path))?,
        };
        serde_json::from_slice(&text).map_err(|source| ContainerError::Json { path, source })
    }

    /// Writes the record into `folder`, under a name that is not the record's yet.
    pub fn draft(&self, folder: &Path) -> Result<(), ContainerError> {
        let path = folder.join(DRAFT_FILE);
        let text = serde_json::to_vec(self).map_err(|source| ContainerError::Json { path: path.clone(), source })?;
        fs::write(&path, text).map_err(ContainerError::file("write", &path))
    }

    /// Gives what was written last its name.
    pub fn publish(folder: &Path) -> Result<(), ContainerError> {
        let path = folder.join(STATE_FILE);
        fs::rename(folder.join(DRAFT_FILE), &path).map_err(ContainerError::file("rename", &path))
    }

    /// The process that was recorded, while it has not ended.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// The cgroup, when the container has one.
    pub fn cgroup(&self) -> Result<Option<Cgroup>, ContainerError> {
        match &self.cgroup {
            Some(path) => {
                let layout = self.layout.clone().map_or_else(Layout::detect, Ok)?;
                let mut cgroup = in_unit(layout.cgroup(path)?, self.unit.as_ref());
                if self.keeps_cgroup_parent {
                    cgroup.keep_parent();
                }
                Ok(Some(cgroup))
            }
            None => Ok(None),
        }
    }

    /// The specification's state.
    pub fn state(&self, id: &str, status: Status) -> State {
        State {
            oci_version: OCI_VERSION.to_owned(),
            id: id.to_owned(),
            status,
            pid: (status != Status::Stopped).then_some(self.pid),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// The hooks that later commands run.
    pub fn hooks(&self, id: &str) -> HookPlan {
        HookPlan::recorded(self.hooks.clone(), self.state(id, Status::Stopped))
    }
}

/// Start time of a process that is not a zombie, in clock ticks since boot (proc_pid_stat(5), field 22).
pub(super) fn start_time(pid: i32) -> Option<u64> {
    // The line has 52 fields of at most 20 digits and a name of at most 64 bytes.
    let mut line = [0; 1280];
    let length = fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line)).ok()?;
    let stat = String::from_utf8_lossy(&line[..length]);
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_time_and_no_process_has_none() {
        assert!(start_time(std::process::id() as i32).is_some());
        assert_eq!(start_time(0), None);
    }
    /// state.json and exec.json as a fuzz target has them: cut off anywhere, and with any byte another one.
    #[test]
    fn damaged_records_are_read_or_refused() {
        let whole = include_bytes!("../../../../fuzz/seeds/state/both");
        let (state, template) = whole.split_at(whole.iter().position(|byte| *byte == 0).unwrap());
        let root = tempfile::tempdir().unwrap();
        let (folder, containers) = (root.path().join("box"), super::super::Containers::new(root.path()));
        fs::create_dir(&folder).unwrap();
        let look = |state: &[u8], template: &[u8]| {
            fs::write(folder.join(STATE_FILE), state).unwrap();
            fs::write(folder.join("exec.json"), template).unwrap();
            let looked = (containers.state("box"), containers.process("box"));
            for error in [looked.0.err(), looked.1.err()].into_iter().flatten() {
                assert!(error.to_string().contains("is not valid"), "{error}");
            }
        };
        look(state, &template[1..]);
        assert!(containers.state("box").is_ok() && containers.process("box").is_ok(), "the seed is whole");
        for end in 0..state.len() {
            look(&state[..end], &template[1..]);
            for byte in [b'0', b'"', b'{', 0xff] {
                let mut changed = state.to_vec();
                changed[end] = byte;
                look(&changed, &template[1..template.len().min(end + 1)]);
            }
        }
    }
}
