//! `hull info`: this Hull and the machine it is on.

use std::collections::BTreeMap;

use hull_engine::{ContainerState, ListQuery};
use hull_kernel::cgroups::Layout;
use rustix::system::{sysinfo, uname};
use serde::Serialize;

use super::version::go_architecture;
use super::{Context, write_stdout};
use crate::args::system::FormatArgs;
use crate::error::Failure;
use crate::output::template::{Template, Value};
use crate::output::units::binary_size;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    server_version: &'static str,
    driver: &'static str,
    cgroup_driver: &'static str,
    cgroup_version: &'static str,
    kernel_version: String,
    operating_system: String,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: String,
    #[serde(rename = "NCPU")]
    processors: usize,
    mem_total: u64,
    name: String,
    hull_root_dir: String,
    hull_state_dir: String,
    /// Settings of the kernel that Hull has changed, with the value before.
    changed_settings: BTreeMap<String, String>,
}

/// Prints the facts.
///
/// # Errors
/// When `--format` is wrong, or the store cannot be read.
pub fn run(arguments: FormatArgs, context: &Context) -> Result<u8, Failure> {
    let info = gathered(context)?;
    let text = match arguments.format.as_deref() {
        None | Some("") => described(&info),
        Some("json") => serde_json::to_string(&info)? + "\n",
        Some(template) => Template::parse(template)?.render(&Value::of(&info)?)? + "\n",
    };
    write_stdout(text.as_bytes())?;
    Ok(0)
}

fn gathered(context: &Context) -> Result<Info, Failure> {
    let engine = context.engine()?;
    let containers = engine.list(&ListQuery { all: true, ..ListQuery::default() })?;
    let count = |is: fn(&ContainerState) -> bool| containers.iter().filter(|summary| is(&summary.state)).count();
    let running = count(|state| matches!(state, ContainerState::Running { .. }));
    let paused = count(|state| matches!(state, ContainerState::Paused { .. }));
    let layout = Layout::detect().map_err(hull_engine::EngineError::from)?;
    let machine = uname();
    let system = sysinfo();
    Ok(Info {
        containers: containers.len(),
        containers_running: running,
        containers_paused: paused,
        containers_stopped: containers.len() - running - paused,
        images: engine.images()?.len(),
        server_version: env!("CARGO_PKG_VERSION"),
        driver: engine.storage_driver()?.name(),
        cgroup_driver: "cgroupfs",
        cgroup_version: if layout.is_unified() { "2" } else { "1" },
        kernel_version: machine.release().to_string_lossy().into_owned(),
        operating_system: operating_system(),
        os_type: "linux",
        architecture: format!("{} ({})", machine.machine().to_string_lossy(), go_architecture()),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        mem_total: system.totalram.saturating_mul(u64::from(system.mem_unit)),
        name: machine.nodename().to_string_lossy().into_owned(),
        hull_root_dir: engine.roots().root.display().to_string(),
        hull_state_dir: engine.roots().state.display().to_string(),
        changed_settings: engine.changed_settings()?.into_iter().collect(),
    })
}

/// `PRETTY_NAME` of os-release(5); `Linux` where there is none.
fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn described(info: &Info) -> String {
    let lines = [
        ("Containers", info.containers.to_string()),
        (" Running", info.containers_running.to_string()),
        (" Paused", info.containers_paused.to_string()),
        (" Stopped", info.containers_stopped.to_string()),
        ("Images", info.images.to_string()),
        ("Version", info.server_version.to_owned()),
        ("Storage Driver", info.driver.to_owned()),
        ("Cgroup Driver", info.cgroup_driver.to_owned()),
        ("Cgroup Version", info.cgroup_version.to_owned()),
        ("Kernel Version", info.kernel_version.clone()),
        ("Operating System", info.operating_system.clone()),
        ("OSType", info.os_type.to_owned()),
        ("Architecture", info.architecture.clone()),
        ("CPUs", info.processors.to_string()),
        ("Total Memory", binary_size(info.mem_total)),
        ("Name", info.name.clone()),
        ("Hull Root Dir", info.hull_root_dir.clone()),
        ("Hull State Dir", info.hull_state_dir.clone()),
    ];
    let mut text: String = lines.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    if !info.changed_settings.is_empty() {
        text.push_str("Changed Settings:\n");
    }
    for (name, previous) in &info.changed_settings {
        text.push_str(&format!(" {name}: {previous} before\n"));
    }
    text
}
