//! Images: from names to verified bytes to layers.
//!
//! ```text
//! registry::pull ─┐                     ┌─> LayerSink (unpacks while bytes arrive)
//! archive::load ──┼─> content (blobs) ──┤
//! archive::import ┘                     └─> NewImage ──ImageStore::add──> names, images, layers in the database
//! ```
//!
//! [`content`] holds bytes by digest; [`ImageStore`] knows which image needs which of them and under which names;
//! [`registry`] and [`archive`] bring them in; [`unpack`] turns a layer's tar into a folder. An image's id is the
//! digest of its configuration, so the same image has the same id however it came. Nothing here makes snapshots or
//! knows containers, except that an image which a container row refers to is not removed.
#![forbid(unsafe_code)]

pub mod archive;
mod arriving;
pub mod compression;
pub mod content;
mod error;
mod image;
mod manifest;
mod own_manifest;
pub mod pack;
mod partial;
mod progress;
pub mod registry;
mod remove;
mod store;
mod tar_entry;
mod travels;
mod unasked;
pub mod unpack;

pub use arriving::{Holds, NewImage, StoredBlob};
pub use error::ImageError;
pub use image::{Image, LayerDescriptor, chain_ids};
pub use manifest::{DOCUMENT_BYTES_MAX, Invalid, LAYERS_MAX, ManifestError};
pub use own_manifest::{ManifestForm, WrittenDescriptor, WrittenPlatform, manifest_of};
pub use partial::{ArrivingBlob, PartialBlob};
pub use progress::{IgnoreLayers, LayerEvent, LayerSink, NoProgress, PackedLayer, Progress, SinkError};
pub use remove::{Conflict, Removal, Removed};
pub use store::ImageStore;
