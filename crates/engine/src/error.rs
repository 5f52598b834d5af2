//! Every way in which the engine says no.
//!
//! A variant names what was being done and to what; causes hang below it as `source()`. [`EngineError::kind`] is the
//! only thing that doors look at: it becomes an exit code, an HTTP status or a gRPC code. [`EngineError::hint`] is
//! a sentence for a human, where one helps.

use std::io;
use std::path::PathBuf;

use hull_store::{LeaseError, StoreError};

use crate::files::FilesError;
use crate::id::ContainerId;
use crate::identity::IdentityError;
use crate::lifecycle::state::Refusal;
use crate::machine::MachineError;
use crate::names::NameError;
use crate::record::RecordError;
use crate::signal::SignalError;
use crate::spec::SpecError;

/// What kind of failure it is, for exit codes and status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// It exists already, or is in a state that does not allow this.
    Conflict,
    /// The request can never work.
    Invalid,
    /// A registry refused the credentials, or wants some.
    Unauthorized,
    /// This process may not do this.
    Permission,
    /// Something outside Hull does not answer.
    Unavailable,
    /// A later version will do this.
    NotImplemented,
    /// Disk, memory, process ids or another resource is used up.
    Exhausted,
    /// The program to run does not exist in the container (exit code 127).
    CommandNotFound,
    /// The program to run cannot be executed (exit code 126).
    CommandNotExecutable,
    /// Hull or the kernel failed.
    Internal,
}

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Not root.
    #[error("Hull has to run as root for now: this process has the user id {uid}")]
    NotRoot {
        /// Effective user id.
        uid: u32,
    },
    /// No container of that name or id.
    #[error("No such container: {name}")]
    NoSuchContainer {
        /// As typed.
        name: String,
    },
    /// Neither a container nor an image.
    #[error("No such object: {name}")]
    NoSuchObject {
        /// As typed.
        name: String,
    },
    /// Several ids start with this.
    #[error("the prefix {prefix} is ambiguous: {count} containers have it")]
    AmbiguousContainer {
        /// As typed.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// A name that is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that another container has.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or \
         rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        owner: ContainerId,
    },
    /// A command that the container's phase does not allow.
    #[error("cannot {} container \"{name}\": {refusal}", refusal.action)]
    Refused {
        /// The container as typed.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// A container whose namespace is wanted does not run.
    #[error("cannot join the {option} namespace of container {name}: it is not running")]
    DonorNotRunning {
        /// The option.
        option: &'static str,
        /// The other container as typed.
        name: String,
    },
    /// A container did not die.
    #[error("container {name} did not end within {seconds} s after SIGKILL")]
    StillRunning {
        /// As typed.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A bad request.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A bad signal.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// A user or group that is not there.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// hosts, hostname, resolv.conf.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// request.json.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Facts about the machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder or file of Hull's own.
    #[error("cannot {action} {}", path.display())]
    Path {
        /// Make, read, write, remove, open.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("cannot read random bytes")]
    Random(#[source] io::Error),
}

impl EngineError {
    /// For `map_err` on an operation on one of Hull's own paths.
    pub(crate) fn path(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EngineError {
        let path = path.into();
        move |source| EngineError::Path { action, path, source }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EngineError::NotRoot { .. } => ErrorKind::Permission,
            EngineError::NoSuchContainer { .. } | EngineError::NoSuchObject { .. } => ErrorKind::NotFound,
            EngineError::NameTaken { .. } | EngineError::Refused { .. } | EngineError::DonorNotRunning { .. } => {
                ErrorKind::Conflict
            }
            EngineError::AmbiguousContainer { .. }
            | EngineError::Name(_)
            | EngineError::Spec(_)
            | EngineError::Signal(_)
            | EngineError::Identity(_) => ErrorKind::Invalid,
            EngineError::Files(FilesError::File { source, .. }) => kind_of(source),
            EngineError::Record(error) => error.kind(),
            EngineError::Store(error) => store_kind(error),
            EngineError::Path { source, .. } => kind_of(source),
            EngineError::StillRunning { .. } | EngineError::Machine(_) | EngineError::Random(_) => ErrorKind::Internal,
        }
    }

    /// A sentence that helps, when there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            EngineError::NotRoot { .. } => "run it with sudo; rootless containers come in a later version",
            EngineError::NameTaken { .. } => "choose another --name, or remove that container with `hull rm`",
            EngineError::Refused { refusal, .. } => return refusal.hint().map(str::to_owned),
            EngineError::Spec(SpecError::NoCommand) => "the image names no command: put one after the image's name",
            EngineError::Identity(IdentityError::UnknownUser(_)) => {
                "names are looked up in the container's /etc/passwd; a number always works"
            }
            EngineError::Identity(IdentityError::UnknownGroup(_)) => {
                "names are looked up in the container's /etc/group; a number always works"
            }
            _ if self.kind() == ErrorKind::Exhausted => {
                "the disk is full: free some space, for example with `hull rmi`"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// The kind of an operating system error.
pub(crate) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Permission,
        _ => ErrorKind::Internal,
    }
}

fn store_kind(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::Folder { source, .. } | StoreError::File { source, .. } => kind_of(source),
        StoreError::Sql { source, .. } | StoreError::Query(source) => match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::Exhausted,
            _ => ErrorKind::Internal,
        },
        StoreError::Busy { .. } => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

impl From<rusqlite::Error> for EngineError {
    fn from(error: rusqlite::Error) -> EngineError {
        EngineError::Store(StoreError::from(error))
    }
}

impl From<LeaseError> for EngineError {
    fn from(error: LeaseError) -> EngineError {
        EngineError::Store(StoreError::from(error))
    }
}
