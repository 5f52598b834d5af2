//! OCI and docker names and wire types, without any I/O.
//!
//! [`Digest`], [`Reference`] and [`Platform`] are the three names by which content is asked for; [`image`] holds the
//! image-spec types (from the `oci-spec` crate) with docker's media types beside them; [`runtime`] holds our own
//! types of the runtime specification 1.3 (config.json, state, features). Everything here is plain data: values are
//! checked for shape, never against a kernel, a store or a registry.
#![forbid(unsafe_code)]

mod digest;
pub mod image;
mod platform;
mod reference;
pub mod runtime;

pub use digest::{Digest, DigestError};
pub use platform::{Platform, PlatformError};
pub use reference::{DEFAULT_REGISTRY, DEFAULT_TAG, Reference, ReferenceError};
