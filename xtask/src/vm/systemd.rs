//! A machine with systemd: Debian's smallest root file system with systemd and a system bus, as a disk, and the unit that
//! runs the tests there.
//!
//! ```text
//! /init of the initramfs   loads the modules, mounts the disk, copies what changes with every build, executes systemd
//! hull-tests.service       after basic.target and the bus: `xtask inside guest`, then the machine is switched off
//! ```
//!
//! The emulator keeps what is written to the disk for itself, so that it is the same at every boot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::disk;
use crate::apt::Apt;
use crate::{program, workspace};

/// What tests for this machine have in their names; no other one runs them.
pub const FILTER: &str = "with_systemd";
/// What is in the file system besides the essential packages.
const PACKAGES: &str = "systemd-sysv,dbus";
/// The size of the disk: some 100 MB of files, and room to write.
const DISK_SIZE: &str = "512M";
/// Quiet, and nothing but what the tests want.
pub const COMMAND_LINE: &str = "systemd.unit=hull-tests.service systemd.show_status=0 systemd.log_target=null";

/// The first program: what `initramfs` has for a machine without systemd, with a disk for the root.
pub const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /root.new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r name; do
    case $name in ifb) option=numifbs=0;; dummy) option=numdummies=0;; *) option=;; esac
    insmod /modules/$name.ko $option || echo \"init: cannot load $name\"
done < /modules/order
mount -t ext4 /dev/vdb /root.new
cp /bin/xtask /usr/bin/hull /root.new/usr/local/bin/
cp /bin/busybox /root.new/usr/local/bin/
cp -a /tests /root.new/
cp /etc/work.json /root.new/etc/
cp /etc/hull-tests.service /root.new/etc/systemd/system/
printf '[Unit]\\nDescription=Containers of the tests\\n' > /root.new/etc/systemd/system/hulltest-real.slice
mkdir -p /root.new/images /root.new/var/lib/hull-tests
mount -o move /proc /root.new/proc
mount -o move /sys /root.new/sys
mount -o move /dev /root.new/dev
exec switch_root /root.new /sbin/init
";

/// The unit that runs the tests.
pub const UNIT: &str = "[Unit]
Description=Hull's tests
Wants=dbus.service hulltest-real.slice
After=basic.target dbus.service hulltest-real.slice

[Service]
Type=oneshot
Environment=HOME=/root
ExecStartPre=/bin/mount -t ext4 -o ro /dev/vda /images
ExecStartPre=/bin/mount -t tmpfs -o mode=755 tests /var/lib/hull-tests
ExecStart=/usr/local/bin/xtask inside guest /etc/work.json
ExecStopPost=/bin/sh -c 'echo o > /proc/sysrq-trigger; sleep 1000'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
";

/// The disk, made when it is missing.
pub fn ready() -> Result<PathBuf> {
    let path = workspace::folder("vm")?.join("systemd.ext4");
    if path.exists() {
        return Ok(path);
    }
    let tool = workspace::folder("tools")?.join("debootstrap");
    let apt = Apt::machine()?;
    apt.unpack(&["debootstrap"], false, &tool).context("unpacking debootstrap")?;
    let (suite, mirror) = apt.main_source()?;
    let root = workspace::folder("vm/systemd-root")?;
    // In a mount namespace of its own, so that the /proc that debootstrap mounts never shows on the machine.
    let script = "set -e; root=$1; shift; mount -t tmpfs tmpfs \"$root\"; \
                  \"$0\" --variant=minbase --include=\"$1\" \"$2\" \"$root\" \"$3\" >&2; \
                  rm -rf \"$root\"/var/cache/apt/archives/*.deb \"$root\"/var/lib/apt/lists/* \"$root\"/usr/share/doc \
                  \"$root\"/usr/share/locale \"$root\"/usr/share/man; \
                  umount -l \"$root/proc\" 2>/dev/null || true; umount -l \"$root/sys\" 2>/dev/null || true; \
                  test -x \"$root/sbin/init\"; \
                  \"$4\" -q -t ext4 -O ^has_journal -L system -d \"$root\" \"$5\" \"$6\"";
    let partial = path.with_extension("partial");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", script]);
    command.arg(tool.join("usr/sbin/debootstrap")).arg(&root).args([PACKAGES, &suite, &mirror]);
    command.arg(disk::mke2fs()?).arg(&partial).arg(DISK_SIZE);
    command.env("DEBOOTSTRAP_DIR", tool.join("usr/share/debootstrap")).env("LC_ALL", "C");
    program::quiet(&mut command).context("making a root file system with systemd")?;
    fs::remove_dir(&root)?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o644))?;
    fs::rename(partial, &path)?;
    Ok(path)
}
