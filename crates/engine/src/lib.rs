//! What a container is over time: accepted, created, started, stopped, removed.
//!
//! [`Engine`] is the whole public door; the command line, and later the Docker API and the CRI, only build request
//! types and call its methods. Inside, [`spec`] (request and image to OCI spec) and [`lifecycle::state`] (what is
//! allowed when) are pure; every other file joins the layers below: images, snapshots, the runtime, supervisors.
#![forbid(unsafe_code)]

mod after_boot;
mod archives;
pub mod builtin;
mod changes;
mod check;
mod commit;
pub mod configuration;
mod copy;
mod diff;
mod durations;
mod engine;
mod error;
mod exec;
mod export;
mod files;
mod filter;
mod gc;
mod history;
mod id;
pub mod identity;
mod images;
pub mod inspect;
pub mod lifecycle;
mod list;
mod logs;
mod machine;
mod mount_point;
mod mountinfo;
mod named_volumes;
mod names;
mod networks;
mod pressure;
mod prune;
pub mod publish;
mod record;
mod recover;
pub mod request;
mod row;
pub mod seccomp_profile;
mod signal;
pub mod spec;
mod status;
mod usage;
mod volume_size;
mod volumes;
pub mod worker;

pub use archives::LoadSource;
pub use builtin::hello_main;
pub use changes::ChangesError;
pub use check::{CheckReport, Finding};
pub use commit::CommitRequest;
pub use configuration::Configuration;
pub use copy::{CopyEnd, CopyError, CopyReport, CopyRequest};
pub use diff::ChangeKind;
pub use durations::human_duration;
pub use engine::Engine;
pub use error::{EngineError, ErrorKind};
pub use exec::ExecRequest;
pub use filter::{FilterError, ListFilter};
pub use gc::Collected;
pub use history::HistoryLine;
pub use hull_image::{NoProgress, Progress};
pub use id::ContainerId;
pub use inspect::{ContainerInspect, ImageInspect, Inspect, InspectKind};
pub use lifecycle::create::Created;
pub use lifecycle::prepare::{LogPlan, StartPlan};
pub use lifecycle::remove::RemoveOptions;
pub use lifecycle::start::reap_supervisors;
pub use lifecycle::state::{ContainerState, ExitStatus};
pub use lifecycle::stop::StopOptions;
pub use list::{ContainerSummary, ListQuery};
pub use logs::{LogLine, LogStream, LogStreamKind, LogsQuery};
pub use mount_point::{MountKind, MountPoint};
pub use named_volumes::{NewVolume, VolumeInspect, VolumeSummary};
pub use networks::NetworkError;
pub use pressure::Relief;
pub use prune::{PruneFilter, Pruned};
pub use record::{Builtin, ContainerRecord, ImageRef, RecordError};
pub use recover::Recovered;
pub use signal::{Signal, SignalError};
pub use usage::{DiskUsage, ImageUsage};
