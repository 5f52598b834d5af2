//! System calls that rustix lacks, behind safe functions: the only unsafe code of Hull.
//!
//! Each function says in its documentation which man page it follows; each `unsafe` block names the concrete
//! fact that makes it sound. No policy lives here: what to mount, clone or allow is decided above.

pub mod allocator;
pub mod bpf;
pub mod closing;
pub mod executable;
pub mod fs_ids;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod pidfd_info;
pub mod process;
pub mod quota;
pub mod scheduling;
pub mod seccomp;
pub mod signals;
pub mod spawn;
pub mod writeback;
