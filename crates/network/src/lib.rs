//! What a container knows about its network: the mode it asked for and the name files under /etc.
//!
//! A [`Network`] is a bridge, or an interface of the host's, with subnets, an [`Endpoint`] a container's place in one; both are the engine's to store.
//! [`NetworkPlan::wire`] makes of them what the kernel has; [`name_files`] gives texts, the engine writes and mounts
//! them.
#![forbid(unsafe_code)]

#[cfg(test)]
mod apart;
pub mod bandwidth;
pub mod claims;
pub mod cni;
pub mod dns;
pub mod firewall;
pub mod interfaces;
pub mod mode;
pub mod name_files;
pub mod network;
pub mod plan;
pub mod port_list;
pub mod ports;
pub mod publishing;
pub mod reservation;
pub mod resolv_conf;
pub mod settings;
pub mod shortcut;
pub mod subnet;

pub use mode::NetworkMode;
pub use network::{Endpoint, Link, Mac, Network};
pub use plan::{NetworkPlan, PlanError};
pub use subnet::{Cidr, Subnet};
