//! Where things are in the source tree, and what cargo has built there.
//!
//! Everything that xtask makes is below `target/`: nothing is installed and nothing is written elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The root of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A folder below `target/`, made when it is missing.
pub fn folder(name: &str) -> Result<PathBuf> {
    let path = root().join("target").join(name);
    fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// `cargo`, in the root of the tree, with the toolchain that runs this task.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// This program, by a name that stays good when a build replaces its file: for as long as this process lives.
pub fn own_program() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}

/// One line of `cargo --message-format json`, of the fields used here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// A program that cargo has built.
pub struct Executable {
    /// The target's name: the crate for unit tests, the file for integration tests.
    pub name: String,
    /// Whether the target is a library (its unit tests) and not a program or an integration test.
    pub is_library: bool,
    /// Whether it is a test program.
    pub is_test: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// Runs cargo with `arguments` (a build, or a test with `--no-run`) and returns the programs that it made.
/// Compiler errors go to standard error as they are.
pub fn build(arguments: &[&str]) -> Result<Vec<Executable>> {
    build_with(arguments, &[])
}

/// The same with environment variables.
pub fn build_with(arguments: &[&str], env: &[(&str, &Path)]) -> Result<Vec<Executable>> {
    let out = cargo()
        .args(arguments)
        .envs(env.iter().copied())
        .args(["--message-format", "json-render-diagnostics", "--quiet"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !out.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), out.status);
    }
    let messages = String::from_utf8_lossy(&out.stdout);
    Ok(messages.lines().filter_map(|line| serde_json::from_str(line).ok()).filter_map(executable).collect())
}

fn executable(message: Message) -> Option<Executable> {
    let (target, profile) = (message.target?, message.profile?);
    (message.reason == "compiler-artifact").then_some(())?;
    Some(Executable {
        name: target.name,
        is_library: target.kind.iter().any(|kind| kind == "lib"),
        is_test: profile.test,
        path: message.executable?,
    })
}

/// The release build of `hull`, built when it is not up to date; or a copy of the program that HULL_BIN names.
pub fn hull() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("HULL_BIN") {
        let copy = folder("xtask")?.join("hull");
        fs::copy(&given, &copy).with_context(|| format!("HULL_BIN={}", given.display()))?;
        return Ok(copy);
    }
    let made = build(&["build", "--release", "--package", "hull"])?;
    let hull = made.into_iter().find(|program| program.name == "hull");
    Ok(hull.context("cargo built no program called hull")?.path)
}

/// The program that makes the bare system calls of a container, for measurements.
pub fn floor() -> Result<PathBuf> {
    example("hull-runtime", "floor")
}

/// The program that decompresses and hashes a layer, for measurements.
pub fn inflate() -> Result<PathBuf> {
    example("hull-image", "inflate")
}

/// The program that asks and answers through published ports, for measurements.
pub fn requests() -> Result<PathBuf> {
    example("hull-network", "requests")
}

fn example(package: &str, name: &str) -> Result<PathBuf> {
    let made = build(&["build", "--release", "--package", package, "--example", name])?;
    let example = made.into_iter().find(|program| program.name == name);
    Ok(example.with_context(|| format!("cargo built no program called {name}"))?.path)
}

/// The end-to-end tests: one libtest program.
pub fn system_tests() -> Result<PathBuf> {
    let made = build(&["test", "--no-run", "--package", "system-tests", "--test", "system"])?;
    let tests = made.into_iter().find(|program| program.name == "system" && program.is_test);
    Ok(tests.context("cargo built no test program called system")?.path)
}

/// The crash tests: one program that counts its rounds.
pub fn crash_tests() -> Result<PathBuf> {
    let made = build(&["build", "--package", "crash-tests"])?;
    let tests = made.into_iter().find(|program| program.name == "crash");
    Ok(tests.context("cargo built no program called crash")?.path)
}
