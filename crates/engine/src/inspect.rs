//! `inspect`: everything known about a container, an image or a network, in the JSON of docker's API (version 1.56).
//!
//! Field names and shapes are docker's, so that scripts and clients made for it can read them; what Hull does not have
//! (graph drivers' data, health) is there and empty. One thing docker has no word for: the exit code of a
//! container whose end nobody saw is -1, and `Error` says so.

mod container;
mod host_config;
mod image;
mod network;

use serde::Serialize;

use crate::engine::Engine;
use crate::error::EngineError;

pub use container::{
    ContainerConfig, ContainerInspect, ContainerStateInspect, EndpointInspect, MountInspect, NetworkSettings,
};
pub use host_config::{DeviceMapping, HostConfig, HostMount, LogConfig, RestartPolicy, UlimitInspect};
pub use image::{ImageInspect, ImageMetadata, RootFsInspect};
pub use network::{ConfigFrom, Ipam, IpamConfig, Member, NetworkInspect};

/// What may be meant by a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InspectKind {
    /// A container, or else an image, or else a network.
    #[default]
    Any,
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
}

/// An object of any kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Inspect {
    /// A container.
    Container(Box<ContainerInspect>),
    /// An image.
    Image(Box<ImageInspect>),
    /// A network.
    Network(Box<NetworkInspect>),
}

/// An object of docker's JSON whose members Hull never has: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

impl Engine {
    /// Looks a name up among containers, images and networks. `size` also measures a container.
    ///
    /// # Errors
    /// [`EngineError::NoSuchObject`] and its like.
    pub fn inspect(&self, name: &str, kind: InspectKind, size: bool) -> Result<Inspect, EngineError> {
        match kind {
            InspectKind::Container => Ok(Inspect::Container(Box::new(self.inspect_container(name, size)?))),
            InspectKind::Image => Ok(Inspect::Image(Box::new(self.inspect_image(name)?))),
            InspectKind::Network => Ok(Inspect::Network(Box::new(self.inspect_network(name)?))),
            InspectKind::Any => {
                for kind in [InspectKind::Container, InspectKind::Image, InspectKind::Network] {
                    match self.inspect(name, kind, size) {
                        Err(error) if error.kind() == crate::ErrorKind::NotFound => {}
                        result => return result,
                    }
                }
                Err(EngineError::NoSuchObject { name: name.to_owned() })
            }
        }
    }
}
