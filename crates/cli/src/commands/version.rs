//! `hull version`: what this program is. There is no server to ask.

use serde::Serialize;

use super::{Context, write_stdout};
use crate::args::system::FormatArgs;
use crate::error::Failure;
use crate::output::template::{Template, Value};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: &'static str,
    os: &'static str,
    arch: &'static str,
    kernel_version: String,
}

/// Prints the version.
///
/// # Errors
/// When `--format` is wrong, or stdout cannot be written to.
pub fn run(arguments: FormatArgs, _context: &Context) -> Result<u8, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        os: std::env::consts::OS,
        arch: go_architecture(),
        kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
    };
    let text = match arguments.format.as_deref() {
        None => format!(
            "Hull\n Version:  {}\n OS/Arch:  {}/{}\n Kernel:   {}\n",
            version.version, version.os, version.arch, version.kernel_version
        ),
        Some("json") => serde_json::to_string(&version)? + "\n",
        Some(template) => Template::parse(template)?.render(&Value::of(&version)?)? + "\n",
    };
    write_stdout(text.as_bytes())?;
    Ok(0)
}

/// The processor's name in Go's words, as images use them.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
