//! Every way in which the engine says no.
//!
//! A variant names what was being done and to what; causes hang below it as `source()`. [`EngineError::kind`] is the
//! only thing that doors look at: it becomes an exit code, an HTTP status or a gRPC code. [`EngineError::hint`] is
//! a sentence for a human, where one helps.

use std::io;
use std::path::PathBuf;

use hull_image::ImageError;
use hull_image::archive::{ArchiveError, OtherPlatform, SaveError};
use hull_image::registry::RegistryError;
use hull_kernel::cgroups::CgroupError;
use hull_kernel::mounts::MountError;
use hull_kernel::netlink::nftables::NftablesError;
use hull_network::bandwidth::BandwidthError;
use hull_network::claims::ClaimError;
use hull_network::firewall::FirewallError;
use hull_oci::{Digest, PlatformError, ReferenceError};
use hull_runtime::plan::PlanError;
use hull_snapshot::SnapshotError;
use hull_store::{LeaseError, StoreError};
use hull_supervisor::client::ClientError;
use hull_supervisor::log::LogError;
use hull_supervisor::record::RecordError as LiveRecordError;
use hull_supervisor::start::StartError;

use crate::changes::ChangesError;
use crate::configuration::ConfigurationError;
use crate::copy::CopyError;
use crate::files::FilesError;
use crate::id::ContainerId;
use crate::identity::IdentityError;
use crate::images::LayerError;
use crate::lifecycle::external::ExternalError;
use crate::lifecycle::state::Refusal;
use crate::lifecycle::update::UpdateConflict;
use crate::machine::MachineError;
use crate::names::NameError;
use crate::networks::NetworkError;
use crate::record::RecordError;
use crate::signal::SignalError;
use crate::spec::SpecError;
use crate::volumes::VolumeError;

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
    /// A name to push that no image has.
    #[error("An image does not exist locally with the tag: {name}")]
    NotTagged {
        /// The name, in docker's short form.
        name: String,
    },
    /// The configuration file.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
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
    /// A volume or bind mount.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Networks.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// hosts, hostname, resolv.conf.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// request.json.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Facts about the machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Ports that a container does not get.
    #[error(transparent)]
    Ports(#[from] ClaimError),
    /// The firewall's table.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The host's own firewall cannot be read.
    #[error("reading the host's firewall")]
    HostFirewall(#[source] NftablesError),
    /// A container without a network of which ports could be published.
    #[error("conflicting options: port publishing and the network mode {mode}")]
    NothingToPublish {
        /// Its network mode.
        mode: String,
    },
    /// Names that would be another container's.
    #[error("conflicting options: {option} and the network mode")]
    NamesOfAnother {
        /// What was asked for.
        option: &'static str,
    },
    /// What the resolver has to know of a container.
    #[error(transparent)]
    Names(#[from] hull_network::dns::registration::RegistrationError),
    /// A container without an interface of its own.
    #[error("conflicting options: --net-rate and the network mode {mode}")]
    NothingToLimit {
        /// Its network mode.
        mode: String,
    },
    /// Rates.
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
    /// Limits that cannot be changed.
    #[error("Cannot update container {id}")]
    Update {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Box<EngineError>,
    },
    /// A limit that another one does not allow.
    #[error(transparent)]
    UpdateConflict(#[from] UpdateConflict),
    /// A port that is not published.
    #[error("No public port '{port}' published for {name}")]
    NotPublished {
        /// `80/tcp`.
        port: String,
        /// The container as typed.
        name: String,
    },
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
    /// Copying files.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// An image that is not here and may not be pulled.
    #[error("No such image: {name}")]
    NoSuchImage {
        /// As typed.
        name: String,
    },
    /// The image store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image's configuration that is no JSON.
    #[error("the configuration of image {id} is damaged")]
    ImageConfiguration {
        /// The image.
        id: Digest,
        /// Cause.
        source: serde_json::Error,
    },
    /// A registry.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// An image's name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Another OCI runtime.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// An archive of an image or of a root file system.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A container's changes could not be found or packed.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// A container whose image has no layers of its own.
    #[error(
        "container {name} was made from the built-in image {image}, which has no layers to commit onto; `hull export` \
         writes its files"
    )]
    NothingToCommitOnto {
        /// The container as typed.
        name: String,
        /// The image's name.
        image: String,
    },
    /// An image that is for another machine than was asked for.
    #[error(transparent)]
    OtherPlatform(#[from] Box<OtherPlatform>),
    /// Images that cannot be written as an archive.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A layer that cannot be unpacked.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A mount that this process makes itself.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A spec that the runtime refuses.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A supervisor cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// state.json or exit.json.
    #[error(transparent)]
    Live(#[from] LiveRecordError),
    /// A log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The container's program could not be executed, or its surroundings could not be made.
    #[error("{message}")]
    Launch {
        /// 125, 126 or 127.
        exit_code: i32,
        /// What failed, with its causes.
        message: String,
    },
    /// Talking to a supervisor.
    #[error("cannot talk to the supervisor of container {id}")]
    Client {
        /// The container.
        id: ContainerId,
        /// Cause.
        source: ClientError,
    },
    /// A supervisor was killed while a container was being started.
    #[error("the supervisor of container {id} was killed before the container ran")]
    SupervisorLost {
        /// The container.
        id: ContainerId,
    },
    /// Somebody else has started it, or is starting it.
    #[error("container {id} is already running")]
    AlreadyStarted {
        /// The container.
        id: ContainerId,
    },
    /// A process could not be made, or not be reached by a signal.
    #[error("cannot make or signal a process of container {id}")]
    Process {
        /// The container.
        id: ContainerId,
        /// Cause.
        source: io::Error,
    },
    /// Waiting for a process.
    #[error("cannot wait for a process")]
    Wait(#[source] io::Error),
    /// A supervisor does not write down how its container ended.
    #[error("the supervisor of container {id} has not recorded its end within {seconds} s")]
    NoExitRecord {
        /// The container.
        id: ContainerId,
        /// How long was waited.
        seconds: u64,
    },
    /// Another process keeps a container busy.
    #[error("container {id} was kept busy by another process for {seconds} s")]
    Locked {
        /// The container.
        id: ContainerId,
        /// How long was waited.
        seconds: u64,
    },
    /// A container whose user namespace is wanted has none.
    #[error("container {name} has no user namespace of its own to share")]
    NoUserNamespace {
        /// The other container as typed.
        name: String,
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

    /// Whether another container has the address or port that was asked for.
    pub(crate) fn is_taken(&self) -> bool {
        match self {
            EngineError::Network(error) => error.is_taken(),
            EngineError::Ports(error) => error.is_taken(),
            _ => false,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EngineError::NotRoot { .. } => ErrorKind::Permission,
            EngineError::NoSuchContainer { .. }
            | EngineError::NoSuchObject { .. }
            | EngineError::NotTagged { .. }
            | EngineError::NoSuchImage { .. } => ErrorKind::NotFound,
            EngineError::NameTaken { .. }
            | EngineError::Refused { .. }
            | EngineError::AlreadyStarted { .. }
            | EngineError::DonorNotRunning { .. } => ErrorKind::Conflict,
            EngineError::AmbiguousContainer { .. }
            | EngineError::Name(_)
            | EngineError::Spec(_)
            | EngineError::Signal(_)
            | EngineError::Plan(_)
            | EngineError::NoUserNamespace { .. }
            | EngineError::NothingToCommitOnto { .. }
            | EngineError::OtherPlatform(_)
            | EngineError::Configuration(ConfigurationError::Invalid { .. })
            | EngineError::Identity(_) => ErrorKind::Invalid,
            EngineError::Launch { exit_code: 126, .. } => ErrorKind::CommandNotExecutable,
            EngineError::Launch { exit_code: 127, .. } => ErrorKind::CommandNotFound,
            EngineError::Image(error) => image_kind(error),
            EngineError::Registry(error) => registry_kind(error),
            EngineError::Reference(_) | EngineError::Platform(_) => ErrorKind::Invalid,
            EngineError::Snapshot(SnapshotError::File { source, .. }) => kind_of(source),
            EngineError::Snapshot(SnapshotError::Store(error)) => store_kind(error),
            EngineError::External(_) => ErrorKind::Internal,
            EngineError::Archive(error) => disk_full_or(error, ErrorKind::Invalid),
            EngineError::Save(SaveError::Image(error)) => image_kind(error),
            EngineError::Save(error) => disk_full_or(error, ErrorKind::Invalid),
            EngineError::Layer(error) => disk_full_or(error, ErrorKind::Invalid),
            EngineError::Locked { .. } => ErrorKind::Unavailable,
            EngineError::Volume(error) => error.kind(),
            EngineError::Network(error) => error.kind(),
            EngineError::NotPublished { .. } => ErrorKind::NotFound,
            EngineError::Ports(ClaimError::Store(error)) => store_kind(error),
            EngineError::Ports(ClaimError::Publish(_))
            | EngineError::NothingToPublish { .. }
            | EngineError::NothingToLimit { .. }
            | EngineError::UpdateConflict(_)
            | EngineError::Bandwidth(
                BandwidthError::BurstWithoutRate
                | BandwidthError::BurstTooSmall { .. }
                | BandwidthError::NoHostEnd { .. }
                | BandwidthError::Plugins { .. },
            ) => ErrorKind::Invalid,
            EngineError::Update { source, .. } => source.kind(),
            EngineError::NamesOfAnother { .. } | EngineError::Files(FilesError::NoGateway(_)) => ErrorKind::Invalid,
            EngineError::Ports(_) => ErrorKind::Conflict,
            EngineError::Copy(error) => error.kind(),
            EngineError::Files(FilesError::File { source, .. }) => kind_of(source),
            EngineError::Record(error) => error.kind(),
            EngineError::Store(error) => store_kind(error),
            EngineError::Path { source, .. } => kind_of(source),
            _ => disk_full_or(self, ErrorKind::Internal),
        }
    }

    /// A sentence that helps, when there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            EngineError::NotRoot { .. } => "run it with sudo; rootless containers come in a later version",
            EngineError::NothingToPublish { .. } => "ports are published from a network: use --network bridge",
            EngineError::NothingToLimit { .. } => "rates are those of an interface of its own: use --network bridge",
            EngineError::NameTaken { .. } => "choose another --name, or remove that container with `hull rm`",
            EngineError::Refused { refusal, .. } => return refusal.hint().map(str::to_owned),
            EngineError::Spec(SpecError::NoCommand) => "the image names no command: put one after the image's name",
            EngineError::Identity(IdentityError::UnknownUser(_)) => {
                "names are looked up in the container's /etc/passwd; a number always works"
            }
            EngineError::Identity(IdentityError::UnknownGroup(_)) => {
                "names are looked up in the container's /etc/group; a number always works"
            }
            EngineError::Volume(VolumeError::BindSource { .. }) => "make the folder first, or use -v, which makes it",
            EngineError::NoSuchImage { .. } => "`hull pull` fetches it, `hull images` lists those that are here",
            EngineError::Registry(_) if self.kind() == ErrorKind::Unavailable => {
                "is the registry's address right, and can this machine reach it?"
            }
            EngineError::Network(NetworkError::NoPool) => {
                "add pools to [network] in the configuration file, or name a --subnet"
            }
            EngineError::Network(NetworkError::Address { .. }) | EngineError::Volume(VolumeError::NoProject { .. }) => {
                return None;
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

/// Exhausted when a full disk is among the causes, else `other`.
fn disk_full_or(error: &(dyn std::error::Error + 'static), other: ErrorKind) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| kind_of(error) == ErrorKind::Exhausted) {
            return ErrorKind::Exhausted;
        }
        cause = error.source();
    }
    other
}

fn image_kind(error: &ImageError) -> ErrorKind {
    match error {
        ImageError::Store(error) => store_kind(error),
        ImageError::Reference(_) | ImageError::TagWithDigest { .. } | ImageError::Ambiguous { .. } => {
            ErrorKind::Invalid
        }
        ImageError::NotFound { .. } => ErrorKind::NotFound,
        ImageError::Conflict(_) => ErrorKind::Conflict,
        _ => ErrorKind::Internal,
    }
}

fn registry_kind(error: &RegistryError) -> ErrorKind {
    match error {
        RegistryError::Transport(_)
        | RegistryError::Status { .. }
        | RegistryError::TooManyRequests { .. }
        | RegistryError::Truncated { .. }
        | RegistryError::Upload { .. }
        | RegistryError::Redirect { .. } => ErrorKind::Unavailable,
        RegistryError::Credentials(_)
        | RegistryError::Denied { .. }
        | RegistryError::Login { .. }
        | RegistryError::Challenge { .. }
        | RegistryError::Token { .. } => ErrorKind::Unauthorized,
        RegistryError::NotFound { .. } | RegistryError::BlobNotFound { .. } => ErrorKind::NotFound,
        RegistryError::Untrusted { .. } => ErrorKind::Permission,
        RegistryError::Key { .. } => ErrorKind::Invalid,
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

impl From<RegistryError> for EngineError {
    fn from(error: RegistryError) -> EngineError {
        EngineError::Registry(Box::new(error))
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
