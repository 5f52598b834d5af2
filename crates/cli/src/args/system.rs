//! The arguments of the commands on Hull itself, and the options before the command.

use std::path::PathBuf;

use clap::Args;

/// The options that stand before the command.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Folder of images, containers and volumes
    #[arg(long, value_name = "DIR", env = "HULL_ROOT", default_value = "/var/lib/hull", hide_env_values = true)]
    pub root: PathBuf,
    /// Folder of what runs now
    #[arg(long, value_name = "DIR", env = "HULL_STATE", default_value = "/run/hull", hide_env_values = true)]
    pub state: PathBuf,
    /// Configuration file [default: /etc/hull/hull.toml, which may be missing]
    #[arg(long, value_name = "FILE", env = "HULL_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// What to tell on stderr: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn", value_parser = level)]
    pub log_level: tracing::Level,
    /// How to tell it: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = log_format)]
    pub log_format: LogFormat,
}

/// How messages on stderr look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

fn level(text: &str) -> Result<tracing::Level, String> {
    match text {
        "error" | "fatal" => Ok(tracing::Level::ERROR),
        "warn" | "warning" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err("must be error, warn, info, debug or trace".to_owned()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json".to_owned()),
    }
}

/// `version` and `info`.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// Format: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL", hide = true)]
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for the pages; made when missing
    #[arg(value_name = "DIR", hide = true)]
    pub folder: PathBuf,
}
