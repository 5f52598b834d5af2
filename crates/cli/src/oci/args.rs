//! The arguments of the OCI runtime command line: `hull oci ...`, or the binary called as `runc` or `hull-runc`.
//!
//! Names and meanings are runc's, because container engines spell them out. Flags and commands that this runtime does
//! not honour yet are recognised and refused by name.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Args, Command, Subcommand};
use rustix::process::geteuid;

use crate::args::later::{LaterFlag, switch, value};

/// Where containers made by this command line are recorded.
pub const DEFAULT_ROOT: &str = "/run/hull-oci";
/// The same below the user's own runtime folder.
const ROOT_NAME: &str = "hull-oci";

/// What stands before the command.
#[derive(Debug, Args)]
pub struct FrontArgs {
    /// Folder of the containers' states
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub root: PathBuf,
    /// Write failures into this file as well
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How to write them: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
    /// Tell on stderr what is done
    #[arg(long)]
    pub debug: bool,
    /// Go on without a cgroup where none can be made: true, false, or auto for every user but root
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "true", "false", ""])]
    pub rootless: String,
    /// Ignored: criu is looked for in PATH
    #[arg(long, value_name = "FILE", hide = true)]
    pub criu: Option<String>,
    /// Have systemd make the cgroups of new containers
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true",
        value_name = "BOOL", hide_default_value = true, hide_possible_values = true)]
    pub systemd_cgroup: bool,
}

/// A whole command line.
#[derive(Debug, Args)]
pub struct OciArgs {
    /// What stands before the command.
    #[command(flatten)]
    pub front: FrontArgs,
    /// Command
    #[command(subcommand)]
    pub command: OciCommand,
}

impl FrontArgs {
    /// The folder of states. In the place of the usual one a user without root's rights has one of the own below
    /// `XDG_RUNTIME_DIR`.
    pub fn state_root(&self) -> PathBuf {
        if self.root.as_os_str() != DEFAULT_ROOT || geteuid().is_root() {
            return self.root.clone();
        }
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(own) if !own.is_empty() => PathBuf::from(own).join(ROOT_NAME),
            _ => self.root.clone(),
        }
    }

    /// Whether a container may do without a cgroup; `None` leaves it to who the user is.
    pub fn without_cgroup(&self) -> Option<bool> {
        match self.rootless.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

/// A command of the OCI runtime.
#[derive(Debug, Subcommand)]
pub enum OciCommand {
    /// Create a container; its program waits for start
    Create(BundleArgs),
    /// Let a created container run its program
    Start(IdArgs),
    /// Create a container and run its program at once
    Run(RunBundleArgs),
    /// Print the state of a container
    State(IdArgs),
    /// Send a signal to a container
    Kill(KillArgs),
    /// Remove a stopped container
    Delete(DeleteArgs),
    /// List containers
    List(ListArgs),
    /// Run one more process in a container
    Exec(Box<ExecArgs>),
    /// Print the process ids of a container
    Ps(PsArgs),
    /// Freeze all processes of a container
    Pause(IdArgs),
    /// Let the processes of a paused container go on
    Resume(IdArgs),
    /// Change the limits of a container
    Update(Box<UpdateArgs>),
    /// Print what a container uses, and when it runs out of memory
    Events(EventsArgs),
    /// Write the processes of a container into files, with criu
    Checkpoint(Box<CheckpointArgs>),
    /// Make a container from such files
    Restore(Box<RestoreArgs>),
    /// Write a config.json to start from
    Spec(SpecArgs),
    /// Print what this runtime can do, as JSON
    Features,
}

impl OciCommand {
    /// The command's name, where its failures are introduced by it.
    pub fn introduced(&self) -> Option<&'static str> {
        match self {
            OciCommand::Create(_) => Some("create"),
            OciCommand::Run(_) => Some("run"),
            OciCommand::Exec(_) => Some("exec"),
            _ => None,
        }
    }
}

/// A container by its id.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `create`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Folder with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
    /// Unix socket that gets the terminal
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that gets the process's pidfd
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Leave the container the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Enter the root without pivot_root(2), on a host whose root is the initial ramfs
    #[arg(long)]
    pub no_pivot: bool,
    /// Hand this many descriptors on, from 3 and those of LISTEN_FDS on
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub preserve_fds: u32,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunBundleArgs {
    /// Do not wait for the end
    #[arg(short, long)]
    pub detach: bool,
    /// Do not remove the container after its end
    #[arg(long)]
    pub keep: bool,
    /// Do not become the parent of the container's orphans
    #[arg(long)]
    pub no_subreaper: bool,
    /// What `create` has as well.
    #[command(flatten)]
    pub bundle: BundleArgs,
}

/// `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Send it to every process of the container
    #[arg(short, long)]
    pub all: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// Name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    pub signal: String,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kill it first when it runs; one that is not there is fine
    #[arg(short, long)]
    pub force: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
}

/// `exec`.
#[derive(Debug, Default, Args)]
pub struct ExecArgs {
    /// Do not wait for the end
    #[arg(short, long)]
    pub detach: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// File with the process, as in config.json
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Unix socket that gets the terminal
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Add a variable, NAME=value
    #[arg(short, long, value_name = "VARIABLE")]
    pub env: Vec<String>,
    /// User and group, by number
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Add a group, by number
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Add a capability
    #[arg(short, long, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    /// Set no_new_privs, or with =false not
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    pub no_new_privs: Option<bool>,
    /// Also in a paused container
    #[arg(long)]
    pub ignore_paused: bool,
    /// Hand this many descriptors on, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub preserve_fds: u32,
    /// An existing cgroup below the container's: PATH, or CONTROLLERS:PATH, as cpu,cpuset:PATH
    #[arg(long, value_name = "CGROUP")]
    pub cgroup: Vec<String>,
    /// Unix socket that gets the process's pidfd
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE", allow_hyphen_values = true)]
    pub apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL", allow_hyphen_values = true)]
    pub process_label: Option<String>,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// Arguments of ps(1) for the table
    #[arg(value_name = "PS OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub ps_arguments: Vec<String>,
}

/// `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// File with the limits as in linux.resources of config.json, or - for stdin; other flags are ignored then
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", default_value_t = 0, hide_default_value = true)]
    pub blkio_weight: u16,
    /// Period of the processor quota, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_period: Option<String>,
    /// Processor time per period, in microseconds; -1 is unlimited
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// Unused processor time that may be saved up, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_burst: Option<String>,
    /// Weight of processor time
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    pub cpu_share: Option<String>,
    /// Real-time period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_period: Option<String>,
    /// Real-time processor time per period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<String>,
    /// Processors, as 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Ignored: kernels have no such limit any more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, hide = true)]
    pub kernel_memory: Option<String>,
    /// Ignored: kernels have no such limit any more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, hide = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Memory; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// 1 to run only when nobody else wants the processor
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub cpu_idle: Option<String>,
    /// Memory that is protected from reclaim
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Number of tasks; -1 is unlimited
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    pub pids_limit: i64,
    /// Intel RDT/CAT L3 cache schema
    #[arg(long, value_name = "SCHEMA", hide = true)]
    pub l3_cache_schema: Option<String>,
    /// Intel RDT/MBA memory bandwidth schema
    #[arg(long, value_name = "SCHEMA", hide = true)]
    pub mem_bw_schema: Option<String>,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// How long from one line to the next, as 5s or 1m30s
    #[arg(long, value_name = "DURATION", default_value = "5s", allow_hyphen_values = true)]
    pub interval: String,
    /// One line and no more
    #[arg(long)]
    pub stats: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// What `checkpoint` and `restore` both have.
#[derive(Debug, Args)]
pub struct CriuArgs {
    /// Folder of the image files; ./checkpoint when not given
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Folder for logs; the image files' when not given
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Allow established TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Allow Unix sockets whose other end is outside
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow a session that is led from outside
    #[arg(long)]
    pub shell_job: bool,
    /// Keep file locks
    #[arg(long)]
    pub file_locks: bool,
    /// Move pages of memory when they are touched
    #[arg(long)]
    pub lazy_pages: bool,
    /// Drop pages from older images that are in newer ones
    #[arg(long)]
    pub auto_dedup: bool,
    /// soft, full, strict or ignore
    #[arg(long, value_name = "MODE", value_parser = ["", "soft", "full", "strict", "ignore"], hide_possible_values = true)]
    pub manage_cgroups_mode: Option<String>,
    /// Leave the properties of a namespace out; only network, which is left out anyway
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"], hide_possible_values = true)]
    pub empty_ns: Vec<String>,
}

/// `checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// What `restore` has as well.
    #[command(flatten)]
    pub criu: CriuArgs,
    /// Images of an earlier pre-dump, relative to the image files' folder
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<PathBuf>,
    /// Let the container go on afterwards
    #[arg(long)]
    pub leave_running: bool,
    /// Ignore TCP connections that are being made
    #[arg(long)]
    pub tcp_skip_in_flight: bool,
    /// Allow files that were removed while open
    #[arg(long)]
    pub link_remap: bool,
    /// Descriptor that gets a zero byte when lazy pages can be asked for
    #[arg(long, value_name = "FD", default_value_t = -1, hide_default_value = true, allow_hyphen_values = true)]
    pub status_fd: i32,
    /// Server for the pages
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub page_server: Option<String>,
    /// Write memory only, and let the container go on
    #[arg(long)]
    pub pre_dump: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `checkpoint` has as well.
    #[command(flatten)]
    pub criu: CriuArgs,
    /// Folder with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
    /// Do not wait for the end
    #[arg(short, long)]
    pub detach: bool,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do not become the parent of the container's orphans
    #[arg(long)]
    pub no_subreaper: bool,
    /// Another label than the one checkpointed, as apparmor:NAME or selinux:LABEL
    #[arg(long, value_name = "TYPE:NAME")]
    pub lsm_profile: Option<String>,
    /// Another context for mounts that have one
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `spec`.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Folder to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
    /// For a user without privileges
    #[arg(long)]
    pub rootless: bool,
}

/// Flags of `restore` that are refused.
pub const LATER_RESTORE: &[LaterFlag] = &[
    LaterFlag { harmless: &["false"], ..switch("no-pivot", "criu changes the root in its own way") },
    LaterFlag { harmless: &[""], ..value("console-socket", "criu hands a terminal back over its RPC only") },
];

/// The refused flags of a command.
pub fn later(command: &str) -> &'static [LaterFlag] {
    match command {
        "restore" => LATER_RESTORE,
        _ => &[],
    }
}

/// The whole command for the binary called as `runc` or `hull-runc`.
pub fn tree(name: &'static str) -> Command {
    parsed(Command::new(name).about("An OCI runtime: bundles become processes"))
}

/// As [`flagged`], for reading a command line: each switch also takes `=true` and `=false`, as with Go's programs.
pub fn parsed(command: Command) -> Command {
    flagged(command).mut_args(switchable).mut_subcommands(|inner| inner.mut_args(switchable))
}

/// Adds the commands and their flags, with the refused ones.
pub fn flagged(command: Command) -> Command {
    let about = command.get_about().cloned();
    let command = OciCommand::augment_subcommands(framed(command)).mut_subcommands(taught);
    command.args_override_self(true).about(about.unwrap_or_default())
}

/// Adds what stands before the command.
fn framed(command: Command) -> Command {
    let help = Arg::new("help").long("help").short('h').help("Print this help").action(ArgAction::Help).global(true);
    let version = Arg::new("version").long("version").short('v').help("Print the version").action(ArgAction::Version);
    FrontArgs::augment_args(command)
        .version(concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .subcommand_help_heading("Commands")
        .args([help, version])
}

/// Adds the flags of a command that are refused.
fn taught(command: Command) -> Command {
    let flags = later(command.get_name());
    crate::args::later::recognise(command, flags).args_override_self(true)
}

fn switchable(argument: Arg) -> Arg {
    match argument.get_action() {
        ArgAction::SetTrue => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("BOOL")
            .value_parser(clap::value_parser!(bool))
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => argument,
    }
}
