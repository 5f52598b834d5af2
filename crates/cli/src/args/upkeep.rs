//! The arguments of the commands that look after the store: prune, system and volume.

use clap::Args;

use super::containers::filter;

/// `container prune`.
#[derive(Debug, Args)]
pub struct PruneContainersArgs {
    /// Only what matches: until=MOMENT, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// `image prune` and `volume prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Also what has a name
    #[arg(short, long)]
    pub all: bool,
    /// Only what matches: until=MOMENT, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// `system prune`.
#[derive(Debug, Args)]
pub struct PruneSystemArgs {
    /// Also images with a name that no container has
    #[arg(short, long)]
    pub all: bool,
    /// Only what matches: until=MOMENT, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also anonymous volumes that no container has
    #[arg(long)]
    pub volumes: bool,
}

/// `system df`.
#[derive(Debug, Args)]
pub struct DiskUsageArgs {
    /// Format: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show each image, container and volume
    #[arg(short, long)]
    pub verbose: bool,
}

/// `system check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Format: json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Heal what can be healed
    #[arg(long)]
    pub repair: bool,
}

/// `system gc`.
#[derive(Debug, Args)]
pub struct CollectArgs {}

/// `volume create`.
#[derive(Debug, Args)]
pub struct CreateVolumeArgs {
    /// Label: KEY[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Option: size=BYTES is the most that it may hold, where the file system has project quotas
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,
    /// Name
    #[arg(value_name = "VOLUME", hide = true)]
    pub name: Option<String>,
}

/// `volume ls`.
#[derive(Debug, Args)]
pub struct ListVolumesArgs {
    /// Show only what matches: dangling, driver, label, name
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<String>,
    /// Format: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show only names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `volume inspect`.
#[derive(Debug, Args)]
pub struct InspectVolumesArgs {
    /// Format: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names
    #[arg(value_name = "VOLUME", hide = true, required = true)]
    pub names: Vec<String>,
}

/// `volume rm`.
#[derive(Debug, Args)]
pub struct RemoveVolumesArgs {
    /// Say nothing of volumes that are not there
    #[arg(short, long)]
    pub force: bool,
    /// Names
    #[arg(value_name = "VOLUME", hide = true, required = true)]
    pub names: Vec<String>,
}
