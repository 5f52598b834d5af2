//! `cargo xtask bench`: Hull beside docker, podman, ctr, runc and crun, on this machine, in one run.
//!
//! ```text
//! stage      the peers' daemons and images, in namespaces of their own, below one folder
//! worker     a small process that starts one program at a time and reports how long it took
//! start      whole container starts, in interleaved rounds
//! runtime    the runtimes alone, on one bundle, beside the bare system calls
//! memory     what an idle container costs
//! network    starts with a network, a thousand ports
//! traffic    requests and bytes through published ports
//! pull       pulls from a registry on loopback, beside decompression and hashes alone
//! frequent   no measurement: which functions the frequent commands execute
//! figures    medians, ratios, the table
//! ```
//!
//! Each round runs every candidate once, beginning with another one each time, so that whatever the machine does
//! meanwhile hits all of them. Compare ratios of one run, never figures of two.

mod bundle;
mod figures;
mod frequent;
mod memory;
mod network;
mod pull;
mod registry;
mod runtime;
mod stage;
mod start;
mod traffic;
pub mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::contained::{self, Request};
use crate::musl::Musl;
use crate::peers::Peers;
use crate::{images, layout, workspace};

/// The longest a measurement may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// What programs are linked with.
const MUSL: &str = "musl";
const GLIBC: &str = "glibc";

/// `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure.
    #[arg(value_enum)]
    subject: Subject,
    /// Rounds of the interleaved run.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Idle containers of the memory measurement.
    #[arg(long, default_value_t = 50)]
    containers: usize,
    /// Where roots and data lie, on disk; a tmpfs when it is not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only these candidates, by the first word of their name (hull, docker, podman, ctr, runc, crun).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pause before each start, in milliseconds: a machine that has been idle.
    #[arg(long, default_value_t = 0)]
    idle_ms: u64,
    /// The build with glibc instead of the one with musl.
    #[arg(long)]
    glibc: bool,
    /// Figures as JSON.
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Subject {
    /// From command to exit: a container of a five-layer image, and the runtimes alone on one bundle.
    Start,
    /// The runtimes alone: run, create, start, exec, delete, a burst, memory, beside the bare system calls.
    Runtime,
    /// What idle detached containers cost.
    Memory,
    /// Starts with a published port, fifty at once, traffic through ports, a thousand ports.
    Network,
    /// Pulls from a registry on loopback, and starts of images with one layer and with twenty.
    Pull,
    /// Nothing: the frequent commands run once, and what they execute is recorded.
    #[value(skip)]
    Layout,
}

/// The measurement as the contained process is told of it.
#[derive(Serialize, Deserialize)]
pub struct Settings {
    subject: Subject,
    rounds: usize,
    containers: usize,
    idle_ms: u64,
    only: Vec<String>,
    json: bool,
    /// The command line, to be printed under the figures.
    command: String,
    /// The folder for roots, data and sockets' logs.
    dir: PathBuf,
    /// Whether a tmpfs is to be mounted there.
    on_tmpfs: bool,
    #[serde(flatten)]
    measured: Measured,
    /// The program that does with a layer what every pull must.
    inflate: PathBuf,
    /// The program that asks and answers through published ports.
    requests: PathBuf,
    images: PathBuf,
}

/// The programs that are measured, made alike.
#[derive(Serialize, Deserialize)]
struct Measured {
    hull: PathBuf,
    /// The program that makes the bare system calls of a container.
    floor: PathBuf,
    /// What they are linked with.
    libc: String,
}

/// `cargo xtask layout`: runs the frequent commands once and puts their functions side by side.
pub fn layout(glibc: bool) -> Result<()> {
    let args = Args {
        subject: Subject::Layout,
        rounds: 1,
        containers: 1,
        dir: None,
        only: Vec::new(),
        idle_ms: 0,
        glibc,
        json: false,
    };
    run(&args)?;
    layout::install(&frequent::script()?, if glibc { GLIBC } else { MUSL })
}

/// Prepares everything that needs the network, and measures in a contained place.
pub fn run(args: &Args) -> Result<()> {
    Peers::ready()?;
    if args.subject == Subject::Pull {
        images::debian()?;
    }
    if args.subject == Subject::Network {
        traffic::Tools::unpack()?;
    }
    let own = workspace::folder("bench")?;
    let dir = match &args.dir {
        Some(dir) => dir.join(format!("hull-bench-{}", std::process::id())),
        None => own.join("tmpfs"),
    };
    fs::create_dir_all(&dir)?;
    let settings = Settings {
        subject: args.subject,
        rounds: args.rounds,
        containers: args.containers,
        idle_ms: args.idle_ms,
        only: args.only.clone(),
        json: args.json,
        command: format!("cargo xtask {}", std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        on_tmpfs: args.dir.is_none(),
        dir: fs::canonicalize(&dir)?,
        measured: measured(args)?,
        inflate: workspace::inflate()?,
        requests: fs::canonicalize(workspace::requests()?)?,
        images: images::folder()?,
    };
    let plan = own.join("settings.json");
    fs::write(&plan, serde_json::to_string(&settings)?)?;
    let ended = contain(&plan, &settings.dir);
    fs::remove_dir_all(&dir)?;
    ended
}

/// The programs to measure: with musl as releases are, where that can be built.
fn measured(args: &Args) -> Result<Measured> {
    let made = |hull: PathBuf, floor: PathBuf, libc: &str| {
        Ok(Measured { hull: fs::canonicalize(hull)?, floor: fs::canonicalize(floor)?, libc: libc.into() })
    };
    if args.subject == Subject::Layout {
        let musl = if args.glibc { None } else { Some(Musl::ready()?) };
        return made(layout::link(musl)?, workspace::floor()?, "either");
    }
    if std::env::var_os("HULL_BIN").is_some() {
        return made(workspace::hull()?, workspace::floor()?, "what HULL_BIN has");
    }
    if !args.glibc {
        match Musl::ready() {
            Ok(musl) => return made(musl.hull()?, musl.floor()?, MUSL),
            Err(error) => eprintln!("there is no build with musl to measure: {error:#}"),
        }
    }
    made(workspace::hull()?, workspace::floor()?, GLIBC)
}

fn contain(plan: &Path, dir: &Path) -> Result<()> {
    let own = workspace::own_program();
    let argv = [own.as_path(), Path::new("inside"), Path::new("bench"), plan];
    let outcome = contained::run(&Request {
        name: "bench".into(),
        argv: argv.map(|word| word.display().to_string()).to_vec(),
        env: BTreeMap::new(),
        files: None,
        writable: vec![workspace::folder("")?, dir.to_path_buf()],
        log: None,
        limit: LIMIT,
    })?;
    // The peers keep the parent cgroups that they made; those go with the safety cgroups.
    let parents = ["libpod_parent", "/docker", "/bench"];
    for left in outcome.left.iter().filter(|left| !parents.iter().any(|parent| left.contains(parent))) {
        eprintln!("left behind: {left}");
    }
    if !outcome.status.success() {
        bail!("the measurement: {}", outcome.status);
    }
    Ok(())
}

/// `xtask inside bench SETTINGS`: the measurement itself.
pub fn inside(file: &Path) -> Result<()> {
    let settings: Settings = serde_json::from_str(&fs::read_to_string(file)?)?;
    stage::prepare_folders(&settings)?;
    let measured = match settings.subject {
        Subject::Start => start::whole(&settings),
        Subject::Runtime => runtime::measure(&settings),
        Subject::Memory => memory::measure(&settings),
        Subject::Network => network::measure(&settings),
        Subject::Pull => pull::measure(&settings),
        Subject::Layout => frequent::record(&settings),
    };
    measured.and(stage::remove_images(&settings)).and(stage::remove_folders(&settings))
}

impl Settings {
    /// Whether a candidate of this name was asked for.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }
}
