//! What a container is over time: accepted, created, started, stopped, removed.
//!
//! [`Engine`] is the whole public door; the command line, and later the Docker API and the CRI, only build request
//! types and call its methods. Inside, [`spec`] (request and image to OCI spec) and [`lifecycle::state`] (what is
//! allowed when) are pure; every other file joins the layers below: images, snapshots, the runtime, supervisors.
#![forbid(unsafe_code)]

pub mod builtin;
mod durations;
mod error;
mod files;
mod id;
pub mod identity;
pub mod lifecycle;
mod machine;
mod mount_point;
mod names;
mod record;
pub mod request;
mod row;
pub mod seccomp_profile;
mod signal;
pub mod spec;

pub use durations::human_duration;
pub use error::{EngineError, ErrorKind};
pub use id::ContainerId;
pub use mount_point::{MountKind, MountPoint};
pub use record::{Builtin, ContainerRecord, ImageRef};
pub use signal::{Signal, SignalError};
