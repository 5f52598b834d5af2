//! Images from files: `load` of what `docker save` and `skopeo copy oci-archive:` write, `import` of a file system.
//!
//! Both read a stream forwards once, so a pipe will do, compressed or not. What may be a blob goes into the content
//! store while it is read, whatever the order of the entries; when the end is reached the manifests are followed and
//! what no image needs is collected again. Ids are those of the content: the same image has the same id whether it
//! was pulled, saved by docker or copied by skopeo.

mod changes;
mod docker;
mod error;
mod import;
mod load;
mod oci;
mod spool;
mod tar_stream;

pub use changes::ChangeError;
pub use error::ArchiveError;
pub use import::{ImportOptions, import};
pub use load::load;
