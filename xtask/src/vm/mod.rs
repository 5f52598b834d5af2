//! The cgroup v2 lane: Debian kernels in an emulator, running the privileged tests with nothing else on the machine.
//!
//! ```text
//! kernel      a kernel package, unpacked: image and modules
//! modules     which modules, in which order, decompressed
//! cpio        the archive format of an initramfs
//! initramfs   busybox, modules, hull, the test programs, and what they are to do
//! disk        the test images and the validation suite as read-only disks
//! emulator    qemu without hardware help, its console, its time limit
//! guest       what runs inside: the tests, and what they left
//! systemd     the root file system of a machine with systemd
//! cuts        a machine that is switched off while it works, by hand: `cargo xtask cuts`
//! ```
//!
//! A 6.12 kernel runs every privileged test but two that are only large; a 6.1 kernel, the oldest that Hull supports, runs
//! those that a fallback concerns (`fallback` in the name) and the first ones (`smoke`); a 6.12 kernel with systemd as its
//! first program runs those that need it (`with_systemd`).

mod cpio;
pub mod cuts;
pub mod disk;
mod emulator;
pub mod guest;
mod initramfs;
mod kernel;
mod modules;
pub mod systemd;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{ci, conformance, images, workspace};
use emulator::Machine;
use guest::{Program, Work};
use initramfs::{Payload, Task};
use kernel::Release;

/// Where things are inside the machine.
const GUEST_HULL: &str = "/usr/bin/hull";
const SYSTEMD_HULL: &str = "/usr/local/bin/hull";
const GUEST_FILES: &str = "/var/lib/hull-tests";
const GUEST_IMAGES: &str = "/images";
const GUEST_SUITE: &str = "/suite";
const GUEST_RUNTIME: &str = "/usr/bin/hull-runc";
/// Crates whose unit tests run in the machine as well: those that ask the kernel for something.
const UNIT_CRATES: [&str; 3] = ["hull-sys", "hull-kernel", "hull-snapshot"];
/// Unit tests that only compute, for minutes in an emulator, and ask the kernel nothing.
const UNIT_SKIP: [&str; 3] = ["seccomp::tests::large", "seccomp::tests::programs_do", "seccomp::tests::a_long_program"];
/// End-to-end tests of how much there is of something, for half a minute and more each, whatever kernel and cgroups.
const SYSTEM_SKIP: [&str; 2] = ["logs::the_log_is_bounded", "lengths::a_huge_spec"];
/// What of the end-to-end tests runs on the oldest kernel.
const FALLBACK_FILTER: [&str; 2] = ["fallback", "smoke"];
/// What the kernel dies of when the emulator runs a place of its code while another processor changes it (a static key,
/// such as the one of device filters, goes through a breakpoint): nothing that a test does on a real machine.
const EMULATOR_FAULT: &str = "Oops: int3: 0000";
/// The longest one boot may take, with all its tests: twice as long as on a usual machine, because the emulator has only
/// what the machine can spare. A test that hangs has a limit of its own.
const BOOT_LIMIT: Duration = Duration::from_secs(30 * 60);

/// What the first program of a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    /// A shell that starts the tests.
    Busybox,
    /// systemd, for the tests of its cgroup driver.
    Systemd,
}

/// The machines, in the order in which they boot.
const MACHINES: [(Release, System); 3] =
    [(Release::Current, System::Busybox), (Release::Oldest, System::Busybox), (Release::Current, System::Systemd)];

/// `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// One kernel only; all when it is not given.
    #[arg(long)]
    kernel: Option<Release>,
    /// One kind of machine only; all when it is not given.
    #[arg(long)]
    system: Option<System>,
    /// Parts of test names.
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Runs the lane by hand, with its words on the terminal.
pub fn run(args: &Args) -> Result<bool> {
    let log = workspace::folder("xtask/logs")?.join("vm.log");
    File::create(&log)?;
    let is_chosen = |(release, system): (Release, System)| {
        args.kernel.is_none_or(|kernel| kernel == release) && args.system.is_none_or(|chosen| chosen == system)
    };
    let machines: Vec<_> = MACHINES.into_iter().filter(|machine| is_chosen(*machine)).collect();
    let ended = boots(&machines, &args.filter, &log);
    print!("{}", crate::program::text(&log)?);
    println!("{}", crate::count::Count::read(&crate::program::text(&log)?));
    if let Err(error) = &ended {
        eprintln!("Error: {error:#}");
    }
    Ok(ended.is_ok())
}

/// The lane as a step of the whole run.
pub fn lane(log: &Path, filter: &[String]) -> Result<()> {
    boots(&MACHINES, filter, log)
}

fn boots(machines: &[(Release, System)], filter: &[String], log: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machine lane knows only x86_64");
    }
    let tests = workspace::system_tests()?;
    let hull = workspace::hull()?;
    let units = if filter.is_empty() { unit_tests()? } else { Vec::new() };
    let images = disk::of(&image_files()?, "images")?;
    let suite = if filter.is_empty() { Some(suite_disk()?) } else { None };
    let mut failed = Vec::new();
    for (release, system) in machines.iter().copied() {
        let Some(chosen) = chosen(release, system, filter) else { continue };
        let began = Instant::now();
        let mut programs = vec![match system {
            System::Busybox => {
                let long: &[&str] = if chosen.is_empty() { &SYSTEM_SKIP } else { &[] };
                Program::new("system", "/tests/system").only(&chosen).without(&[&[systemd::FILTER], long].concat())
            }
            System::Systemd => Program::new("system", "/tests/system").only(&chosen),
        }];
        let mut files = vec![(hull.clone(), GUEST_HULL.to_string()), (tests.clone(), "/tests/system".to_string())];
        if chosen.is_empty() {
            for (name, path) in &units {
                let place = format!("/tests/{name}");
                programs.push(Program::new(name, &place).without(&UNIT_SKIP));
                files.push((path.clone(), place));
            }
        }
        let mut work = work(system, programs);
        let mut disks = vec![images.clone()];
        if let Some(suite) = suite.as_ref().filter(|_| chosen.is_empty()) {
            work.conformance = Some(conformance_work(&[]));
            disks.push(suite.clone());
        }
        let ended = boot(release, Payload { files, task: Task::Tests(work), system }, &disks, log);
        let name = if system == System::Systemd { " with systemd" } else { "" };
        note(log, &format!("kernel {release}{name}: {:.1} s", began.elapsed().as_secs_f64()))?;
        failed.extend(ended.err().map(|error| format!("kernel {release}{name}: {error:#}")));
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

/// The validation suite alone.
pub fn conformance(log: &Path, filter: &[String]) -> Result<()> {
    let files = vec![(workspace::hull()?, GUEST_HULL.to_string())];
    let disks = [disk::of(&image_files()?, "images")?, suite_disk()?];
    let mut work = work(System::Busybox, Vec::new());
    work.conformance = Some(conformance_work(filter));
    boot(Release::Current, Payload { files, task: Task::Tests(work), system: System::Busybox }, &disks, log)
}

fn suite_disk() -> Result<PathBuf> {
    disk::of(&conformance::Suite::ready()?.folder, "suite")
}

fn conformance_work(filter: &[String]) -> conformance::guest::Work {
    conformance::guest::Work { suite: GUEST_SUITE.into(), runtime: GUEST_RUNTIME.into(), filter: filter.to_vec() }
}

/// Which tests a machine runs: nothing for all of them, `None` when there is nothing for this one.
fn chosen(release: Release, system: System, filter: &[String]) -> Option<Vec<String>> {
    let all = |parts: &[&str]| Some(parts.iter().map(|part| part.to_string()).collect());
    match (system, release) {
        (System::Systemd, _) if filter.iter().all(|part| systemd::FILTER.contains(part.as_str())) => {
            all(&[systemd::FILTER])
        }
        (System::Systemd, _) => {
            let own: Vec<String> = filter.iter().filter(|part| part.contains(systemd::FILTER)).cloned().collect();
            Some(own).filter(|own| !own.is_empty())
        }
        (System::Busybox, Release::Oldest) if filter.is_empty() => all(&FALLBACK_FILTER),
        (System::Busybox, _) => Some(filter.to_vec()),
    }
}

fn work(system: System, programs: Vec<Program>) -> Work {
    let path = Path::new;
    let hull = if system == System::Systemd { SYSTEMD_HULL } else { GUEST_HULL };
    let mut env = ci::test_environment(path(hull), path(GUEST_FILES), path(GUEST_IMAGES), "vm");
    env.insert("RUST_BACKTRACE".into(), "0".into());
    Work { programs, env, files: GUEST_FILES.into(), conformance: None }
}

fn boot(release: Release, payload: Payload, disks: &[PathBuf], log: &Path) -> Result<()> {
    let kernel = kernel::ready(release)?;
    note(log, &format!("kernel {}", kernel.version))?;
    let name = if payload.system == System::Systemd { format!("{release}-systemd") } else { release.to_string() };
    let nonce = format!("{name}-{}", std::process::id());
    let initramfs = initramfs::write(&kernel, &payload, &nonce)?;
    let console = workspace::folder("vm")?.join(format!("console-{name}.log"));
    let (root, words) = match payload.system {
        System::Busybox => (None, ""),
        System::Systemd => (Some(systemd::ready()?), systemd::COMMAND_LINE),
    };
    let machine =
        Machine { kernel: &kernel.image, initramfs: &initramfs, disks, scratch: root.as_deref(), kept: None, words };
    emulator::run(&machine, &console, BOOT_LIMIT)?;
    let mut printed = crate::program::text(&console)?.replace('\r', "");
    if printed.contains(EMULATOR_FAULT) {
        note(
            log,
            &format!("the emulator ran code of the kernel that was being changed ({EMULATOR_FAULT}): once more"),
        )?;
        emulator::run(&machine, &console, BOOT_LIMIT)?;
        printed = crate::program::text(&console)?.replace('\r', "");
    }
    let report = guest::Report::read(&printed, &nonce)
        .with_context(|| format!("the machine gave no result, see {}", console.display()))?;
    note(log, report.text)?;
    if !report.is_good {
        bail!("its tests failed or left something behind");
    }
    Ok(())
}

/// The unit test programs of the crates that talk to the kernel.
fn unit_tests() -> Result<Vec<(String, PathBuf)>> {
    let mut arguments = vec!["test", "--no-run", "--lib"];
    for name in UNIT_CRATES {
        arguments.extend(["--package", name]);
    }
    let made = workspace::build(&arguments)?;
    let tests = made.into_iter().filter(|program| program.is_test && program.is_library);
    Ok(tests.map(|program| (program.name, program.path)).collect())
}

fn note(log: &Path, text: &str) -> Result<()> {
    let mut file = File::options().append(true).create(true).open(log)?;
    Ok(writeln!(file, "{}", text.trim_end())?)
}

/// The images that tests load, as a folder to put on the disk.
fn image_files() -> Result<PathBuf> {
    images::debian()?;
    images::quotas()?;
    images::folder()
}
