//! Docker's flags that Hull knows and does not do yet: recognised, and refused by name.
//!
//! A flag that were merely unknown would read as a typing error, and one that were silently taken would be a
//! lie. A value that asks for what happens anyway (`--restart no`) is accepted.

use clap::{Arg, ArgAction, ArgMatches, Command};

/// A flag of a later release.
pub struct LaterFlag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) takes_value: bool,
    /// Values that ask for nothing and are therefore fine.
    pub(crate) harmless: &'static [&'static str],
    pub(crate) reason: &'static str,
}

const NETWORKS: &str = "it comes with the networks release";
const LIMITS: &str = "this limit comes with a later release";
const HEALTH: &str = "health checks come with a later release";
const WINDOWS: &str = "it has a meaning on Windows only";

/// A refused flag with a value.
pub(crate) const fn value(long: &'static str, reason: &'static str) -> LaterFlag {
    LaterFlag { long, short: None, takes_value: true, harmless: &[], reason }
}

/// A refused flag without a value.
pub(crate) const fn switch(long: &'static str, reason: &'static str) -> LaterFlag {
    LaterFlag { long, short: None, takes_value: false, harmless: &[], reason }
}

/// The flags of `run` and `create` that are refused.
pub const RUN: &[LaterFlag] = &[
    value("link", "containers of a user network find each other by name"),
    value("link-local-ip", "only global addresses are given"),
    LaterFlag { harmless: &["no", ""], ..value("restart", "restart policies come with a later release") },
    value("health-cmd", HEALTH),
    value("health-interval", HEALTH),
    value("health-retries", HEALTH),
    value("health-start-interval", HEALTH),
    value("health-start-period", HEALTH),
    value("health-timeout", HEALTH),
    switch("no-healthcheck", HEALTH),
    LaterFlag { short: Some('a'), ..value("attach", "use -d, -i and -t, or `hull attach`") },
    value("blkio-weight", LIMITS),
    value("blkio-weight-device", LIMITS),
    value("cgroup-parent", LIMITS),
    value("cpu-period", "use --cpus"),
    value("cpu-quota", "use --cpus"),
    value("cpu-rt-period", LIMITS),
    value("cpu-rt-runtime", LIMITS),
    value("cpuset-mems", LIMITS),
    value("device-cgroup-rule", LIMITS),
    value("device-read-bps", LIMITS),
    value("device-read-iops", LIMITS),
    value("device-write-bps", LIMITS),
    value("device-write-iops", LIMITS),
    LaterFlag { harmless: &["-1"], ..value("memory-swappiness", LIMITS) },
    value("kernel-memory", "the kernel no longer has this limit"),
    LaterFlag { harmless: &["false"], ..switch("oom-kill-disable", LIMITS) },
    value("gpus", "GPUs come with a later release"),
    LaterFlag { harmless: &["json-file"], ..value("log-driver", "the json-file log is the only one for now") },
    value("log-opt", "logs are bounded at 5 files of 20 MB for now"),
    value("storage-opt", "storage options come with a later release"),
    LaterFlag { harmless: &["local"], ..value("volume-driver", "volume drivers come with a later release") },
    switch("disable-content-trust", "Hull has no content trust to disable"),
    switch("use-api-socket", "there is no API socket yet"),
    LaterFlag { harmless: &["default", ""], ..value("isolation", WINDOWS) },
    value("cpu-count", WINDOWS),
    value("cpu-percent", WINDOWS),
    value("io-maxbandwidth", WINDOWS),
    value("io-maxiops", WINDOWS),
];

/// The flags of `start` that are refused.
pub const START: &[LaterFlag] = &[
    value("checkpoint", "checkpoints come with a later release"),
    value("checkpoint-dir", "checkpoints come with a later release"),
];

const SWARM: &str = "it belongs to swarm";

/// Flags of `network create`.
pub const CREATE_NETWORK: &[LaterFlag] = &[
    switch("attachable", SWARM),
    value("aux-address", "give containers addresses from --ip-range instead"),
    value("config-from", SWARM),
    switch("config-only", SWARM),
    switch("ingress", SWARM),
    LaterFlag { harmless: &["default"], ..value("ipam-driver", "addresses are given by Hull") },
    value("ipam-opt", "addresses are given by Hull"),
    LaterFlag { harmless: &["true"], ..switch("ipv4", "every network has IPv4 addresses") },
    LaterFlag { harmless: &["local"], ..value("scope", SWARM) },
];

/// Flags of `network connect`.
pub const CONNECT: &[LaterFlag] = &[
    value("driver-opt", "a place in a network has no options"),
    value("gw-priority", "the first network that is not internal has the default routes"),
    value("link", "containers of a user network find each other by name"),
    value("link-local-ip", "only global addresses are given"),
];

/// Flags of `network inspect`.
pub const INSPECT_NETWORK: &[LaterFlag] =
    &[LaterFlag { short: Some('v'), ..switch("verbose", "services belong to swarm") }];

/// Flags of `volume create`.
pub const CREATE_VOLUME: &[LaterFlag] = &[
    LaterFlag { short: Some('d'), harmless: &["local"], ..value("driver", "volume drivers come with a later release") },
    value("availability", "cluster volumes belong to swarm"),
    value("group", "cluster volumes belong to swarm"),
    value("scope", "cluster volumes belong to swarm"),
    value("sharing", "cluster volumes belong to swarm"),
    value("type", "cluster volumes belong to swarm"),
];

/// The flags of `update` that are refused.
pub const UPDATE: &[LaterFlag] = &[
    value("blkio-weight", LIMITS),
    value("blkio-weight-device", LIMITS),
    value("cpu-period", "use --cpus"),
    value("cpu-quota", "use --cpus"),
    value("cpu-rt-period", LIMITS),
    value("cpu-rt-runtime", LIMITS),
    value("cpuset-mems", LIMITS),
    value("device-read-bps", LIMITS),
    value("device-read-iops", LIMITS),
    value("device-write-bps", LIMITS),
    value("device-write-iops", LIMITS),
    value("kernel-memory", "the kernel no longer has this limit"),
    value("restart", "restart policies come with a later release"),
];

/// The flags of `rm` that are refused.
pub const REMOVE: &[LaterFlag] = &[LaterFlag { short: Some('l'), ..switch("link", NETWORKS) }];

/// The flags of `logs` that are refused.
pub const LOGS: &[LaterFlag] = &[switch("details", "log options come with a later release")];

/// The flags of `pull` that are refused.
pub const PULL: &[LaterFlag] = &[switch("disable-content-trust", "Hull has no content trust to disable")];

/// The flags of `push` that are refused.
pub const PUSH: &[LaterFlag] = &[
    value("platform", "push sends the platform that is here"),
    switch("disable-content-trust", "Hull has no content trust to disable"),
];

/// The flags of `manifest inspect` that are refused.
pub const MANIFEST_INSPECT: &[LaterFlag] =
    &[switch("insecure", "set insecure for the registry in the configuration file")];

/// The flags of `rmi` that are refused.
pub const REMOVE_IMAGE: &[LaterFlag] =
    &[value("platform", "an image here is for one platform: remove it by its name or id")];

/// Docker's commands that Hull knows and does not do yet.
pub const VERBS: &[&str] = &[
    "build",
    "builder",
    "buildx",
    "checkpoint",
    "compose",
    "config",
    "context",
    "events",
    "node",
    "plugin",
    "rename",
    "search",
    "secret",
    "service",
    "stack",
    "stats",
    "swarm",
    "top",
    "trust",
];

/// A flag was given whose time has not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} is not supported yet ({reason})")]
pub struct NotYet {
    /// Long name of the flag.
    pub flag: &'static str,
    /// Why, or what to use instead.
    pub reason: &'static str,
}

/// Teaches a command the flags, hidden from its help.
pub fn recognise(command: Command, flags: &'static [LaterFlag]) -> Command {
    command.args(flags.iter().map(|flag| {
        let arg = Arg::new(flag.long).long(flag.long).hide(true).action(ArgAction::Append);
        let arg = match flag.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        if flag.takes_value {
            arg.allow_hyphen_values(true)
        } else {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true")
        }
    }))
}

/// Refuses the first flag of a later release that was given.
///
/// # Errors
/// [`NotYet`], which names it.
pub fn refuse(matches: &ArgMatches, flags: &'static [LaterFlag]) -> Result<(), NotYet> {
    for flag in flags {
        let mut values = matches.get_many::<String>(flag.long).into_iter().flatten();
        if !values.all(|value| flag.harmless.contains(&value.as_str())) {
            return Err(NotYet { flag: flag.long, reason: flag.reason });
        }
    }
    Ok(())
}
