//! What the containers of one Hull share: its folders, its database, and the leases on work in progress.
//!
//! ```text
//! <root>/                 Roots::root, /var/lib/hull
//!   hull.db               Store: names, images, layers, snapshots, containers, volumes (schema in `schema`)
//!   content/              blobs by digest (crate `image`)
//!   snapshots/            layers and writable tops (crate `snapshot`)
//!   drivers               which ways of keeping layers work on this machine (crate `snapshot`)
//!   containers/<id>/      request, log, exit record (crate `engine`)
//!   volumes/<name>/
//! <state>/                Roots::state, /run/hull: gone after a reboot
//!   <id>/                 one running container
//!   layers/               mounts of layers, shared by all containers (crate `snapshot`)
//! ```
//!
//! Several processes use one store at once. Write transactions begin immediately, last milliseconds and are never
//! held across I/O; whatever takes longer is marked with a [`Lease`], which is honoured for as long as its process
//! lives. All processes of one store must see each other's process ids.
#![forbid(unsafe_code)]

mod database;
mod facts;
mod holds;
mod lease;
mod roots;
pub mod schema;

pub use database::{Store, StoreError};
pub use facts::{CHANGED_SETTING, LOOKED_THROUGH_BOOT, SHORTCUT_REQUIREMENTS, fact, facts_with, remember};
pub use holds::{HoldKind, Holder, blob_is_used, is_held, layer_is_used, release_dead};
pub use lease::{Lease, LeaseError};
pub use roots::{DEFAULT_ROOT, DEFAULT_STATE, Roots};
