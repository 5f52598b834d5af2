//! `inspect`: everything known about a container or an image, in the JSON of docker's API (version 1.56).
//!
//! Field names and shapes are docker's, so that scripts and clients made for it can read them; what Hull does not have
//! (networks, graph drivers' data, health) is there and empty. One thing docker has no word for: the exit code of a
//! container whose end nobody saw is -1, and `Error` says so.

mod container;
mod host_config;
mod image;

use serde::Serialize;

use crate::engine::Engine;
use crate::error::EngineError;

pub use container::{
    ContainerConfig, ContainerInspect, ContainerStateInspect, EndpointInspect, MountInspect, NetworkSettings,
};
pub use host_config::{DeviceMapping, HostConfig, HostMount, LogConfig, RestartPolicy, UlimitInspect};
pub use image::{ImageInspect, ImageMetadata, RootFsInspect};

/// What may be meant by a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InspectKind {
    /// A container, or else an image.
    #[default]
    Any,
    /// A container.
    Container,
    /// An image.
    Image,
}

/// Either kind of object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Inspect {
    /// A container.
    Container(Box<ContainerInspect>),
    /// An image.
    Image(Box<ImageInspect>),
}

/// An object of docker's JSON whose members Hull never has: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

impl Engine {
    /// Looks a name up among containers and images. `size` also measures a container.
    ///
    /// # Errors
    /// [`EngineError::NoSuchObject`] and its like.
    pub fn inspect(&self, name: &str, kind: InspectKind, size: bool) -> Result<Inspect, EngineError> {
        let container = |engine: &Engine| Ok(Inspect::Container(Box::new(engine.inspect_container(name, size)?)));
        let image = |engine: &Engine| Ok(Inspect::Image(Box::new(engine.inspect_image(name)?)));
        match kind {
            InspectKind::Container => container(self),
            InspectKind::Image => image(self),
            InspectKind::Any => match container(self) {
                Err(EngineError::NoSuchContainer { .. }) => match image(self) {
                    Err(error) if error.kind() == crate::ErrorKind::NotFound => {
                        Err(EngineError::NoSuchObject { name: name.to_owned() })
                    }
                    other => other,
                },
                other => other,
            },
        }
    }
}
