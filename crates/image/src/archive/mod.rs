//! Images from files: `load` of what `docker save` and `skopeo copy oci-archive:` write, `import` of a file system.
//!
//! Both read a stream forwards once, so a pipe will do, compressed or not. What may be a blob goes into the content
//! store while it is read, whatever the order of the entries; when the end is reached the manifests are followed and
//! what no image needs is collected again. Ids are those of the content: the same image has the same id whether it
//! was pulled, saved by docker or copied by skopeo.

mod changes;
mod commit;
mod docker;
mod error;
mod folder;
mod import;
mod layout;
mod load;
mod oci;
mod save;
mod spool;
mod tar_stream;

pub use changes::{ChangeError, apply_changes};
pub use commit::{CommitOptions, commit};
pub use error::ArchiveError;
pub use import::{ImportOptions, import};
pub use layout::Chosen;
pub use load::{LoadOptions, load, load_folder};
pub use save::{ArchiveFormat, OtherPlatform, SaveError, SaveTarget, choose, save};
