//! The arguments of the commands on containers other than `run` and `create`.

use std::path::PathBuf;

use clap::Args;
use hull_engine::Signal;

use super::bandwidth::BandwidthArgs;
use super::values;

/// `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Attach to the container's output and pass signals on
    #[arg(short, long)]
    pub attach: bool,
    /// Keys that detach from the container
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Attach stdin as well
    #[arg(short, long)]
    pub interactive: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true, hide = true)]
    pub containers: Vec<String>,
}

/// `stop` and `restart`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Signal that asks the container to stop
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal)]
    pub signal: Option<Signal>,
    /// Seconds from that signal to SIGKILL; -1 for ever
    #[arg(short = 't', long, alias = "time", value_name = "SECONDS", value_parser = values::integer)]
    pub timeout: Option<i64>,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true, hide = true)]
    pub containers: Vec<String>,
}

/// `pause`, `unpause` and `wait`.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true, hide = true)]
    pub containers: Vec<String>,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container: String,
}

/// `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container: String,
}

/// `commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Who made the image
    #[arg(short, long, value_name = "TEXT")]
    pub author: Option<String>,
    /// Change the image's configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Note in the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Freeze the container while its files are read
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false", value_parser = values::truth)]
    pub pause: bool,
    /// Do not freeze it
    #[arg(long)]
    pub no_pause: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY", hide = true)]
    pub name: Option<String>,
}

/// `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    pub signal: Signal,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true, hide = true)]
    pub containers: Vec<String>,
}

/// `rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Kill a running container first
    #[arg(short, long)]
    pub force: bool,
    /// Remove the container's anonymous volumes as well
    #[arg(short, long)]
    pub volumes: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true, hide = true)]
    pub containers: Vec<String>,
}

/// `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "WEIGHT", value_parser = values::natural)]
    pub cpu_shares: Option<u64>,
    /// Number of CPUs, such as 0.5
    #[arg(long, value_name = "DECIMAL", value_parser = values::nano_cpus)]
    pub cpus: Option<u64>,
    /// CPUs in which to run, such as 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "SIZE", value_parser = values::size)]
    pub memory: Option<u64>,
    /// Memory that the container keeps under pressure
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory_reservation: Option<u64>,
    /// Limit of memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "SIZE", value_parser = values::swap_size)]
    pub memory_swap: Option<i64>,
    /// How much it may send and receive; 0 for as much as there is
    #[command(flatten)]
    pub bandwidth: BandwidthArgs,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", value_parser = values::integer)]
    pub pids_limit: Option<i64>,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true, hide = true)]
    pub containers: Vec<String>,
}

/// `port`.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Show who reaches each port, and what the host's firewall says
    #[arg(long)]
    pub why: bool,
    /// A container and perhaps one of its ports; or `add` or `rm`, a container and ports
    #[arg(value_name = "CONTAINER", required = true, hide = true)]
    pub words: Vec<String>,
}

/// `ps`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    pub all: bool,
    /// Show only what matches: id, name, label, exited, status, ancestor, volume, before, since
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<String>,
    /// Format: table, 'table TEMPLATE', json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show the last N created containers, in whatever state
    #[arg(short = 'n', long, value_name = "N", value_parser = values::integer)]
    pub last: Option<i64>,
    /// Show the last created container, in whatever state
    #[arg(short, long)]
    pub latest: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub no_trunc: bool,
    /// Show only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Show sizes
    #[arg(short, long)]
    pub size: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Wait for more
    #[arg(short, long)]
    pub follow: bool,
    /// Only lines since a moment: 2024-01-02T13:23:37Z, or 42m for 42 minutes ago
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only the last N lines, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    pub tail: String,
    /// Begin every line with its time
    #[arg(short, long)]
    pub timestamps: bool,
    /// Only lines until a moment: 2024-01-02T13:23:37Z, or 42m for 42 minutes ago
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Name or id
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container: String,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Run in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that detach from the process
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Set a variable, or pass on one of this process
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = values::variable)]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the process every capability
    #[arg(long)]
    pub privileged: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User, by name or id: USER[:GROUP]
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The container, and the command with its arguments
    #[arg(value_name = "CONTAINER", required = true, num_args = 2.., trailing_var_arg = true, hide = true)]
    pub container_and_command: Vec<String>,
}

/// `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Keys that detach from the container
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Do not attach stdin
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass received signals on to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false", value_parser = values::truth)]
    pub sig_proxy: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container: String,
}

/// `cp`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Keep owner and group
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a symbolic link in the source
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing about what was copied
    #[arg(short, long)]
    pub quiet: bool,
    /// CONTAINER:PATH, a path, or - for a tar stream
    #[arg(value_name = "SOURCE", hide = true)]
    pub from: String,
    /// CONTAINER:PATH, a path, or - for a tar stream
    #[arg(value_name = "TARGET", hide = true)]
    pub to: String,
}

/// `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Format: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show a container's sizes
    #[arg(short, long)]
    pub size: bool,
    /// Look only for this
    #[arg(long = "type", value_name = "TYPE", value_parser = ["container", "image", "network"])]
    pub kind: Option<String>,
    /// Names or ids
    #[arg(value_name = "NAME", required = true, hide = true)]
    pub names: Vec<String>,
}

/// `container inspect` and `image inspect`.
#[derive(Debug, Args)]
pub struct InspectOneKindArgs {
    /// Format: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show a container's sizes
    #[arg(short, long)]
    pub size: bool,
    /// Names or ids
    #[arg(value_name = "NAME", required = true, hide = true)]
    pub names: Vec<String>,
}

fn signal(text: &str) -> Result<Signal, String> {
    text.parse().map_err(|error: hull_engine::SignalError| error.to_string())
}

/// A filter has a key and a value; which keys there are is the engine's to say.
pub fn filter(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_owned()),
        _ => Err("bad format of filter (expected name=value)".to_owned()),
    }
}
