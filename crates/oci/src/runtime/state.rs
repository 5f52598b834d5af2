//! The state documents of the runtime specification: what `state` prints, hooks read on stdin, and a seccomp agent gets.
//!
//! The specification knows four statuses and lets a runtime add more; `paused` is the one that runc and every client of
//! it know.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::null_as_default;

/// State of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the specification.
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Process id of the container's process in the runtime's pid namespace; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// The configuration's annotations.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made; the user's program has not been executed.
    Created,
    /// The user's program has been executed.
    Running,
    /// The process has exited.
    Stopped,
    /// All its processes are frozen.
    Paused,
}

impl Status {
    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What a seccomp agent receives at `listenerPath`, together with the descriptors that `fds` names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerProcessState {
    /// Version of the specification.
    pub oci_version: String,
    /// Names of the descriptors sent along, in order.
    pub fds: Vec<String>,
    /// Process id of the filtered process in the runtime's pid namespace.
    pub pid: i32,
    /// The configuration's `listenerMetadata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// State of the container.
    pub state: State,
}

/// Name in [`ContainerProcessState::fds`] for the seccomp notification descriptor.
pub const SECCOMP_FD_NAME: &str = "seccompFd";
