//! The musl build of `hull`: what releases are, and what measurements compare, where the toolchain has that target.
//!
//! Rust brings musl's own startup files and libraries; only the C parts (SQLite, zstd, the crypto library) need musl's
//! headers. They come from Debian's `musl-dev`, unpacked, and the machine's own compiler is told to use them and
//! nothing else. The program is static and not position independent, like the other build.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::{program, workspace};

const TARGET: &str = "x86_64-unknown-linux-musl";

/// Whether the toolchain has the target.
pub fn is_there() -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(workspace::root());
    program::output(&mut command).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// The release build of `hull` with musl.
pub fn hull() -> Result<PathBuf> {
    let compiler = compiler()?;
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--package", "hull", "--target", TARGET]);
    command.env("CC_x86_64_unknown_linux_musl", compiler);
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS", "-C relocation-model=static");
    program::quiet(&mut command)?;
    Ok(workspace::folder(TARGET)?.join("release/hull"))
}

/// A script that runs the machine's C compiler with musl's headers.
fn compiler() -> Result<PathBuf> {
    let tree = workspace::folder("tools")?.join("musl");
    Apt::machine()?.unpack(&["musl-dev"], false, &tree).context("unpacking musl-dev")?;
    let own = program::output(Command::new("cc").arg("-print-file-name=include")).context("the C compiler")?;
    let headers = tree.join("usr/include/x86_64-linux-musl");
    let script = tree.join("cc");
    let text =
        format!("#!/bin/sh\nexec cc -nostdinc -isystem '{}' -isystem '{}' \"$@\"\n", headers.display(), own.trim());
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}
