//! Kernel mechanisms in the kernel's own words: namespaces, mounts, cgroups, capabilities, seccomp, netlink.
//!
//! Nothing here knows OCI or what a container is; the crates above translate. Every error names the call, the
//! path and the errno.
#![forbid(unsafe_code)]

pub mod btf;
pub mod capabilities;
pub mod cgroups;
pub mod erofs;
pub mod labels;
pub mod links;
pub mod loopback;
pub mod mounts;
pub mod netlink;
pub mod resctrl;
pub mod rlimits;
pub mod seccomp;
pub mod seqpacket;
pub mod terminal;
pub mod tree;
