//! What a container knows about its network: the mode it asked for and the name files under /etc.
//!
//! Bridges, addresses, ports and name resolution come with later work; today a container has a loopback of its
//! own, the host's network, or another container's. Nothing here touches the kernel: [`name_files`] gives texts,
//! the engine writes and mounts them.
#![forbid(unsafe_code)]

pub mod firewall;
pub mod mode;
pub mod name_files;
pub mod network;
pub mod ports;
pub mod subnet;

pub use mode::NetworkMode;
pub use network::{Driver, Endpoint, Mac, Network};
pub use subnet::{Cidr, Subnet};
