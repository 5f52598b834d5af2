//! The OCI runtime as a library: a spec becomes a process.
//!
//! [`plan`] reads a [`hull_oci::runtime::Spec`], decides everything and opens every source, without changing the
//! kernel. [`create`](mod@create) is the parent's half: it makes the cgroup, clones once and waits. `init` is the child's
//! half, some forty steps that end in execve(2). [`exec`] starts one more process in a container that runs.
//! [`container`] keeps containers between the separate commands of the OCI runtime's command line.
//! What fails in the child crosses back as data, [`failure::InitFailure`]. Nothing here knows images, snapshots or
//! networks, and no program but the caller's own [`hooks`] is executed on the way.
#![forbid(unsafe_code)]

pub mod container;
pub mod create;
pub mod exec;
pub mod failure;
pub mod features;
pub mod filters;
mod go_between;
pub mod hooks;
pub mod id_map;
mod init;
pub mod init_process;
pub mod listener;
mod own_program;
pub mod plan;
pub mod seccomp;
mod sync;
