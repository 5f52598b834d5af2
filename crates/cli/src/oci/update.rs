//! `update`: other limits for a container that runs, from flags or from a `linux.resources` document.
//!
//! Flags are runc's; with a document they count for nothing. An empty value, and 0 where a number is meant, leaves what
//! is. Limits on kernel memory are ignored with a warning, since kernels have none any more.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use hull_oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use hull_runtime::container::{ContainerError, Containers};

use super::args::UpdateArgs;
use super::report::{Gravity, Log};
use crate::args::values;
use crate::error::Failure;

/// Where a kernel that can partition caches and memory bandwidth shows it (Documentation/arch/x86/resctrl.rst).
const RESCTRL: &str = "/sys/fs/resctrl/info";

/// Changes the limits.
///
/// # Errors
/// The flag or field that makes no sense, a container that does not run, and what the kernel refuses.
pub fn update(containers: &Containers, arguments: &UpdateArgs, log: &Log) -> Result<(), Failure> {
    refuse_partitions(arguments)?;
    let mut resources = match &arguments.resources {
        Some(path) => document(path)?,
        None => from_flags(arguments, log)?,
    };
    // Unlimited memory below limited memory and swap makes no sense.
    if let Some(memory) = resources.memory.as_mut().filter(|memory| memory.limit == Some(-1)) {
        memory.swap.get_or_insert(-1);
    }
    Ok(containers.update(&arguments.id, &resources)?)
}

fn document(path: &Path) -> Result<LinuxResources, Failure> {
    let mut text = Vec::new();
    if path == Path::new("-") {
        io::stdin().read_to_end(&mut text).map_err(Failure::stream("read the resources from stdin"))?;
    } else {
        text = fs::read(path).map_err(Failure::path("open", path))?;
    }
    // runc reads one document and looks no further.
    let mut documents = serde_json::Deserializer::from_slice(&text).into_iter();
    let read = documents.next().unwrap_or_else(|| serde_json::from_slice(b""));
    Ok(read.map_err(|source| ContainerError::Json { path: path.to_path_buf(), source })?)
}

fn from_flags(arguments: &UpdateArgs, log: &Log) -> Result<LinuxResources, Failure> {
    for (flag, value) in
        [("kernel-memory", &arguments.kernel_memory), ("kernel-memory-tcp", &arguments.kernel_memory_tcp)]
    {
        if value.as_deref().is_some_and(|value| !value.is_empty()) {
            log.tell(Gravity::Warning, &format!("Setting --{flag} is ignored and will be removed"));
        }
    }
    Ok(LinuxResources {
        block_io: Some(LinuxBlockIo {
            weight: Some(arguments.blkio_weight).filter(|weight| *weight != 0),
            ..LinuxBlockIo::default()
        }),
        cpu: Some(LinuxCpu {
            shares: number("cpu-share", &arguments.cpu_share)?,
            quota: number("cpu-quota", &arguments.cpu_quota)?,
            burst: number("cpu-burst", &arguments.cpu_burst)?,
            period: number("cpu-period", &arguments.cpu_period)?,
            realtime_runtime: number("cpu-rt-runtime", &arguments.cpu_rt_runtime)?,
            realtime_period: number("cpu-rt-period", &arguments.cpu_rt_period)?,
            idle: number("cpu-idle", &arguments.cpu_idle)?,
            cpus: arguments.cpuset_cpus.clone(),
            mems: arguments.cpuset_mems.clone(),
        }),
        memory: Some(LinuxMemory {
            limit: size("memory", &arguments.memory)?,
            reservation: size("memory-reservation", &arguments.memory_reservation)?,
            swap: size("memory-swap", &arguments.memory_swap)?,
            ..LinuxMemory::default()
        }),
        pids: Some(LinuxPids { limit: Some(arguments.pids_limit).filter(|limit| *limit != 0) }),
        ..LinuxResources::default()
    })
}

fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

fn number<N: std::str::FromStr<Err = std::num::ParseIntError>>(
    flag: &str,
    value: &Option<String>,
) -> Result<Option<N>, Failure> {
    let invalid = |error| Failure::Arguments(format!("invalid value for {flag}: {error}"));
    given(value).map(str::parse).transpose().map_err(invalid)
}

/// Bytes, with units such as `64m`; -1 is unlimited.
fn size(flag: &str, value: &Option<String>) -> Result<Option<i64>, Failure> {
    let invalid = |error: String| Failure::Arguments(format!("invalid value for {flag}: {error}"));
    match given(value) {
        None => Ok(None),
        Some("-1") => Ok(Some(-1)),
        Some(text) => {
            let bytes = values::size(text).map_err(invalid)?;
            i64::try_from(bytes).map(Some).map_err(|error| invalid(error.to_string()))
        }
    }
}

/// Caches and memory bandwidth are not partitioned here.
fn refuse_partitions(arguments: &UpdateArgs) -> Result<(), Failure> {
    let asked = [
        (&arguments.l3_cache_schema, "Intel RDT/CAT: l3 cache schema", "--l3-cache-schema"),
        (&arguments.mem_bw_schema, "Intel RDT/MBA: memory bandwidth schema", "--mem-bw-schema"),
    ];
    let Some((_, what, flag)) = asked.into_iter().find(|(value, ..)| given(value).is_some()) else { return Ok(()) };
    Err(Failure::Arguments(match Path::new(RESCTRL).exists() {
        true => format!("{flag} is not supported yet (it comes with a later release)"),
        false => format!("{what} is not enabled"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<LinuxResources, String> {
        let words = ["runc", "update"].into_iter().chain(line.split_whitespace()).chain(["box"]);
        let matches =
            super::super::args::tree("runc").try_get_matches_from(words).map_err(|error| error.to_string())?;
        let arguments =
            <UpdateArgs as clap::FromArgMatches>::from_arg_matches(matches.subcommand().unwrap().1).unwrap();
        from_flags(&arguments, &Log::of_matches(&matches)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn flags_become_the_document() {
        let all = flags(
            "--blkio-weight 100 --cpu-period 50000 --cpu-quota -1 --cpu-burst 10 --cpu-share 512 --cpu-rt-period 1 \
             --cpu-rt-runtime 2 --cpuset-cpus 0-1 --cpuset-mems 0 --memory 64m --memory-reservation 32m \
             --memory-swap -1 --pids-limit -1 --cpu-idle 1",
        )
        .unwrap();
        let (cpu, memory) = (all.cpu.unwrap(), all.memory.unwrap());
        assert_eq!((cpu.period, cpu.quota, cpu.burst, cpu.shares), (Some(50_000), Some(-1), Some(10), Some(512)));
        assert_eq!((cpu.realtime_period, cpu.realtime_runtime, cpu.idle), (Some(1), Some(2), Some(1)));
        assert_eq!((cpu.cpus.as_deref(), cpu.mems.as_deref()), (Some("0-1"), Some("0")));
        assert_eq!((memory.limit, memory.reservation, memory.swap), (Some(64 << 20), Some(32 << 20), Some(-1)));
        assert_eq!((all.block_io.unwrap().weight, all.pids.unwrap().limit), (Some(100), Some(-1)));
    }

    #[test]
    fn what_is_not_given_stays() {
        let none = flags("--pids-limit 0 --kernel-memory=").unwrap();
        assert_eq!(hull_runtime::plan::cgroup_limits(&none).unwrap(), Default::default());
    }

    #[test]
    fn what_is_no_number_is_refused_by_name() {
        for (line, text) in [
            ("--cpu-quota x", "invalid value for cpu-quota: "),
            ("--memory many", "invalid value for memory: "),
            ("--cpu-share -5", "invalid value for cpu-share: "),
        ] {
            let error = flags(line).unwrap_err();
            assert!(error.starts_with(text), "{error}");
        }
    }
}
