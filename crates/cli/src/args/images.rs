//! The arguments of the commands on images.

use std::path::PathBuf;

use clap::Args;
use hull_image::archive::ArchiveFormat;

use super::containers::filter;
use super::values;
use crate::output::progress::ProgressMode;

/// `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Store the other platforms' manifests and layers too
    #[arg(long, conflicts_with = "platform")]
    pub all_platforms: bool,
    /// Fetch every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Platform of the image: OS[/ARCH[/VARIANT]]
    #[arg(long, value_name = "PLATFORM", value_parser = values::platform)]
    pub platform: Option<String>,
    /// How to show what happens: auto, tty, plain or json
    #[arg(long, value_name = "STYLE", default_value = "auto", value_parser = ProgressMode::parse)]
    pub progress: ProgressMode,
    /// Print only the image's name
    #[arg(short, long)]
    pub quiet: bool,
    /// Name of the image
    #[arg(value_name = "NAME", hide = true)]
    pub name: String,
}

/// `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Push every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// How to show what happens: auto, tty, plain or json
    #[arg(long, value_name = "STYLE", default_value = "auto", value_parser = ProgressMode::parse)]
    pub progress: ProgressMode,
    /// Print only the image's name
    #[arg(short, long)]
    pub quiet: bool,
    /// Name of the image
    #[arg(value_name = "NAME", hide = true)]
    pub name: String,
}

/// `manifest inspect`.
#[derive(Debug, Args)]
pub struct ManifestInspectArgs {
    /// Print each platform's manifest with its name and descriptor
    #[arg(short, long)]
    pub verbose: bool,
    /// Name of the image
    #[arg(value_name = "NAME", hide = true)]
    pub name: String,
}

/// `manifest referrers`.
#[derive(Debug, Args)]
pub struct ReferrersArgs {
    /// Only those of this type
    #[arg(long, value_name = "TYPE")]
    pub artifact_type: Option<String>,
    /// Format: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Name of the image
    #[arg(value_name = "NAME", hide = true)]
    pub name: String,
}

/// `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Password, which other processes can see; better use --password-stdin
    #[arg(short, long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// User name
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// The registry
    #[arg(value_name = "SERVER", hide = true)]
    pub server: Option<String>,
}

/// `logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry
    #[arg(value_name = "SERVER", hide = true)]
    pub server: Option<String>,
}

/// `images`.
#[derive(Debug, Args)]
pub struct ListImagesArgs {
    /// Show all images (Hull has no hidden ones)
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Show only what matches: dangling, reference, label, before, since, until
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<String>,
    /// Format: table, 'table TEMPLATE', json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Do not shorten anything
    #[arg(long)]
    pub no_trunc: bool,
    /// Show only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Show layers as a tree, each once, and the images that end with them
    #[arg(long)]
    pub tree: bool,
    /// Only images of this name
    #[arg(value_name = "REPOSITORY", hide = true)]
    pub repository: Option<String>,
}

/// `rmi`.
#[derive(Debug, Args)]
pub struct RemoveImageArgs {
    /// Remove an image although it has several names or a stopped container uses it
    #[arg(short, long)]
    pub force: bool,
    /// Keep parents without a name (Hull has none)
    #[arg(long)]
    pub no_prune: bool,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true, hide = true)]
    pub images: Vec<String>,
}

/// `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Change the image's configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Note in the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Platform of the image: OS[/ARCH[/VARIANT]]
    #[arg(long, value_name = "PLATFORM", value_parser = values::platform)]
    pub platform: Option<String>,
    /// A tar file, or - for stdin
    #[arg(value_name = "FILE", hide = true)]
    pub file: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY", hide = true)]
    pub name: Option<String>,
}

/// `load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Read from this file, or OCI layout folder, instead of stdin
    #[arg(short, long, value_name = "FILE|DIR")]
    pub input: Option<String>,
    /// Only images for this platform: OS[/ARCH[/VARIANT]]
    #[arg(long, value_name = "PLATFORM", value_parser = values::platform)]
    pub platform: Option<String>,
    /// How to show what happens: auto, tty, plain or json
    #[arg(long, value_name = "STYLE", default_value = "auto", value_parser = ProgressMode::parse)]
    pub progress: ProgressMode,
    /// Show nothing while loading
    #[arg(short, long)]
    pub quiet: bool,
}

/// `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Format: table, 'table TEMPLATE', json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Sizes and dates in words
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false", value_parser = values::truth)]
    pub human: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub no_trunc: bool,
    /// Only if the image is for this platform: OS[/ARCH[/VARIANT]]
    #[arg(long, value_name = "PLATFORM", value_parser = values::platform)]
    pub platform: Option<String>,
    /// Show only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Name or id
    #[arg(value_name = "IMAGE", hide = true)]
    pub image: String,
}

/// `save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Write to this file, or folder, instead of stdout
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,
    /// Form of the archive: docker-archive (an OCI layout too), oci-archive, oci-dir or docker-dir
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive", value_parser = archive_format)]
    pub format: ArchiveFormat,
    /// Only if the images are for this platform: OS[/ARCH[/VARIANT]]
    #[arg(long, value_name = "PLATFORM", value_parser = values::platform)]
    pub platform: Option<String>,
    /// How to show what happens: auto, tty, plain or json
    #[arg(long, value_name = "STYLE", default_value = "auto", value_parser = ProgressMode::parse)]
    pub progress: ProgressMode,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true, hide = true)]
    pub images: Vec<String>,
}

fn archive_format(text: &str) -> Result<ArchiveFormat, String> {
    let found = ArchiveFormat::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, format)| *format).ok_or_else(|| {
        let names: Vec<&str> = ArchiveFormat::ALL.iter().map(|(name, _)| *name).collect();
        format!("must be one of {}", names.join(", "))
    })
}

/// `tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Name or id
    #[arg(value_name = "SOURCE_IMAGE", hide = true)]
    pub source: String,
    /// New name
    #[arg(value_name = "TARGET_IMAGE", hide = true)]
    pub target: String,
}
