//! qemu: a machine with two processors, no network, a serial console in a file, and disks that stay as they are.
//!
//! It runs in software (tcg): hardware help is not there on most machines that run tests, and a lane should be the same
//! everywhere. The emulator is ended by its own pid when it takes too long; the guest powers itself off otherwise.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::{program, workspace};

/// Memory of the machine, in mebibytes.
const MEMORY_MB: u32 = 3072;
/// Everything that the emulator knows, without cmpxchg16b (it corrupts the flags in qemu 7.2, and the kernel's
/// allocator has another way) and without five-level page tables, which only cost time here.
const PROCESSOR: &str = "max,cx16=off,la57=off";
/// Quiet and fast: nothing on the console but the tests, a panic ends the machine, no mitigations to emulate.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off random.trust_cpu=on no_timer_check nokaslr rdinit=/init";

/// What a machine is made of.
pub struct Machine<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// Its first root.
    pub initramfs: &'a Path,
    /// Disks that nobody writes to: `vda` and so on.
    pub disks: &'a [PathBuf],
    /// A disk after them; what is written to it is forgotten at the end.
    pub scratch: Option<&'a Path>,
    /// A disk after them that keeps what is written to it.
    pub kept: Option<&'a Path>,
    /// More words for the kernel and the first program.
    pub words: &'a str,
}

/// Boots a machine and waits until it is off. The console goes to the file `console`.
pub fn run(machine: &Machine<'_>, console: &Path, limit: Duration) -> Result<()> {
    let mut command = command(machine, console)?;
    let words = console.with_extension("qemu");
    fs::write(&words, "")?;
    let status = program::logged(&mut command, &words, limit)
        .with_context(|| format!("the console says: {}", last_lines(console)))?;
    if !status.success() {
        bail!("qemu: {status}\n{}", program::text(&words)?);
    }
    Ok(())
}

/// Boots a machine, for somebody who ends it.
pub fn start(machine: &Machine<'_>, console: &Path) -> Result<Child> {
    let mut command = command(machine, console)?;
    let words = File::create(console.with_extension("qemu"))?;
    command.stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words).spawn().context("cannot start qemu")
}

/// The emulator with everything that a machine is made of, and an empty console.
fn command(machine: &Machine<'_>, console: &Path) -> Result<Command> {
    let mut command = qemu()?;
    command.args(["-machine", "pc,usb=off", "-cpu", PROCESSOR, "-accel", "tcg,thread=multi", "-smp", "2"]);
    command.args(["-m", &MEMORY_MB.to_string(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    for disk in machine.disks {
        command.arg("-drive").arg(format!("file={},if=virtio,format=raw,readonly=on", disk.display()));
    }
    if let Some(disk) = machine.scratch {
        command.arg("-drive").arg(format!("file={},if=virtio,format=raw,snapshot=on", disk.display()));
    }
    if let Some(disk) = machine.kept {
        command.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=writeback", disk.display()));
    }
    command.arg("-append").arg(format!("{COMMAND_LINE} {}", machine.words));
    command.arg("-kernel").arg(machine.kernel).arg("-initrd").arg(machine.initramfs);
    fs::write(console, "")?;
    Ok(command)
}

fn last_lines(console: &Path) -> String {
    let text = program::text(console).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Unpacks Debian's newest qemu for this machine: 7.2 (Debian 12's own) now and then goes on with the breakpoint that the
/// kernel puts into its code to change it, when another processor has removed it long since.
fn unpack(tree: &Path) -> Result<()> {
    const PACKAGES: [&str; 1] = ["qemu-system-x86"];
    Apt::backports()?.unpack(&PACKAGES, true, tree).or_else(|_| Apt::machine()?.unpack(&PACKAGES, true, tree))
}

/// The machine's own qemu, or Debian's, unpacked.
fn qemu() -> Result<Command> {
    let name = "qemu-system-x86_64";
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|folder| folder.join(name).exists()) {
        return Ok(Command::new(name));
    }
    let tree = workspace::folder("tools")?.join("qemu-newest");
    unpack(&tree).context("unpacking qemu")?;
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let libraries: Vec<PathBuf> =
        [format!("usr/lib/{triplet}"), format!("lib/{triplet}")].iter().map(|place| tree.join(place)).collect();
    let mut command = Command::new(tree.join("usr/bin").join(name));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    command.env("QEMU_MODULE_DIR", tree.join(format!("usr/lib/{triplet}/qemu")));
    for data in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(tree.join(data));
    }
    Ok(command)
}
