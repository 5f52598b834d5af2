//! `exec`: one more process in a container, from a process.json or from the command line.
//!
//! From the command line it is the container's own process with other arguments; the flags change what they name.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;

use hull_oci::runtime::{Process, User};
use hull_runtime::container::{ContainerError, Containers, ExecRequest};
use hull_runtime::create::{Created, Started};
use hull_sys::signals;

use super::args::ExecArgs;
use super::create::{Holder, holder, own_streams, take_window_size, write_pid_file};
use super::foreground::{self, Foreground};
use super::inherited::Inherited;
use super::sockets;
use crate::error::Failure;

/// Runs the process; gives its exit code, 0 when detached.
///
/// # Errors
/// See [`Failure`]; the container goes on.
pub fn exec(containers: &Containers, arguments: &ExecArgs) -> Result<u8, Failure> {
    let inherited = Inherited::of_exec(arguments.preserve_fds)?;
    let mut process = match &arguments.process {
        Some(path) => {
            let text = fs::read(path).map_err(Failure::path("read", path))?;
            serde_json::from_slice(&text).map_err(|source| ContainerError::Json { path: path.clone(), source })?
        }
        None => derived(containers.process(&arguments.id)?, arguments)?,
    };
    let holder = holder(process.terminal, arguments.console_socket.as_deref(), !arguments.detach)?;
    if holder == Holder::Foreground {
        take_window_size(&mut process);
    }
    if arguments.detach {
        return start(containers, arguments, &process, holder, inherited).map(|_| 0);
    }
    let _blocked = signals::block(&foreground::signals());
    let foreground = Foreground::prepare(false)?;
    let started = start(containers, arguments, &process, holder, inherited)?;
    let master = if holder == Holder::Foreground { started.terminal } else { None };
    foreground.wait(started.pid, started.pidfd.as_fd(), master.as_ref())
}

fn start(
    containers: &Containers,
    arguments: &ExecArgs,
    process: &Process,
    holder: Holder,
    inherited: Inherited,
) -> Result<Started, Failure> {
    let streams = match holder {
        Holder::None => Some(own_streams().map_err(Failure::stream("share the streams"))?),
        _ => None,
    };
    let sub_cgroups = sub_cgroups(&arguments.cgroup)?;
    let request = ExecRequest {
        id: &arguments.id,
        process,
        streams,
        ignore_paused: arguments.ignore_paused,
        kept_fds: inherited.count(),
        sub_cgroups: &sub_cgroups,
    };
    let created = containers.exec(request)?;
    if let Err(failure) = hand_out(arguments, &created) {
        created.abandon();
        return Err(failure);
    }
    let started = created.start().map_err(ContainerError::Create)?;
    if let Some(path) = &arguments.pid_file {
        write_pid_file(path, started.pid).map_err(Failure::path("write", path))?;
    }
    Ok(started)
}

/// Sends the terminal and the pidfd to whoever wants them.
fn hand_out(arguments: &ExecArgs, created: &Created) -> Result<(), Failure> {
    if let (Some(path), Some(terminal)) = (&arguments.console_socket, &created.terminal) {
        sockets::send(path, b"/dev/ptmx", terminal.as_fd()).map_err(Failure::path("send the terminal to", path))?;
    }
    match &arguments.pidfd_socket {
        Some(path) => {
            sockets::send(path, b"pidfd", created.pidfd.as_fd()).map_err(Failure::path("send the pidfd to", path))
        }
        None => Ok(()),
    }
}

/// `--cgroup`: one path for every hierarchy, under an empty name, or paths by controller.
fn sub_cgroups(words: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let invalid = |reason: String| Err(Failure::Arguments(format!("invalid --cgroup argument{reason}")));
    let mut paths = BTreeMap::new();
    for word in words {
        let Some((controllers, path)) = word.split_once(':') else {
            if words.len() > 1 {
                return invalid(format!(": {word} (missing <controller>: prefix)"));
            }
            paths.insert(String::new(), word.clone());
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return invalid(format!(": {word} (empty <controller> prefix)"));
            }
            if paths.insert(controller.to_owned(), path.to_owned()).is_some() {
                return invalid(format!("(s): controller {controller} specified multiple times"));
            }
        }
    }
    Ok(paths)
}

/// The container's process with what the command line says instead.
fn derived(container: Process, arguments: &ExecArgs) -> Result<Process, Failure> {
    if arguments.command.is_empty() {
        return Err(Failure::Arguments("exec args cannot be empty".to_owned()));
    }
    let mut process = Process {
        args: arguments.command.clone(),
        terminal: arguments.tty,
        console_size: None,
        no_new_privileges: arguments.no_new_privs.unwrap_or(container.no_new_privileges),
        ..container
    };
    process.env.extend(arguments.env.iter().cloned());
    if let Some(cwd) = &arguments.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &arguments.user {
        process.user = parse_user(user, process.user)?;
    }
    for (label, given) in
        [(&mut process.apparmor_profile, &arguments.apparmor), (&mut process.selinux_label, &arguments.process_label)]
    {
        if let Some(given) = given.as_ref().filter(|given| !given.is_empty()) {
            *label = Some(given.clone());
        }
    }
    process.user.additional_gids.extend(&arguments.additional_gids);
    if let Some(sets) = &mut process.capabilities {
        // Never into the inheritable set (CVE-2022-29162). Without it there is no ambient one either, so that gets the
        // capability only where the container has inheritable ones of its own, as in runc.
        let ambient = (!sets.inheritable.is_empty()).then_some(&mut sets.ambient);
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted].into_iter().chain(ambient) {
            set.extend(arguments.cap.iter().cloned());
        }
    }
    Ok(process)
}

/// `UID` or `UID:GID`.
fn parse_user(text: &str, container: User) -> Result<User, Failure> {
    let number = |part: &str| {
        part.parse::<u32>().map_err(|_| Failure::Arguments(format!("parsing {text} as int for uid or gid failed")))
    };
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (number(uid)?, number(gid)?),
        None => (number(text)?, container.gid),
    };
    Ok(User { uid, gid, ..container })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::runtime::LinuxCapabilities;

    #[test]
    fn sub_cgroups_are_for_all_hierarchies_or_by_controller() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            sub_cgroups(&words).map_err(|failure| failure.to_string())
        };
        assert!(of(&[]).unwrap().is_empty());
        assert_eq!(of(&["x/y"]).unwrap()[""], "x/y");
        let paths = of(&["cpu,cpuacct:a", "memory:b"]).unwrap();
        assert_eq!((paths["cpu"].as_str(), paths["cpuacct"].as_str(), paths["memory"].as_str()), ("a", "a", "b"));
        assert_eq!(of(&["a", "b"]).unwrap_err(), "invalid --cgroup argument: a (missing <controller>: prefix)");
        assert_eq!(of(&[":a"]).unwrap_err(), "invalid --cgroup argument: :a (empty <controller> prefix)");
        let twice = of(&["cpu:a", "cpu:b"]).unwrap_err();
        assert_eq!(twice, "invalid --cgroup argument(s): controller cpu specified multiple times");
    }

    #[test]
    fn an_ambient_capability_needs_a_container_with_inheritable_ones() {
        let kill = vec!["CAP_KILL".to_owned()];
        let sets = LinuxCapabilities { inheritable: kill.clone(), ambient: kill, ..Default::default() };
        let container = Process { capabilities: Some(sets), ..Process::default() };
        let arguments =
            ExecArgs { command: vec!["id".to_owned()], cap: vec!["CAP_CHOWN".to_owned()], ..Default::default() };
        let sets = derived(container, &arguments).unwrap().capabilities.unwrap();
        assert_eq!(
            (sets.inheritable, sets.ambient),
            (vec!["CAP_KILL".to_owned()], vec!["CAP_KILL".to_owned(), "CAP_CHOWN".to_owned()])
        );
    }

    #[test]
    fn no_new_privs_can_be_taken_back() {
        let container = Process { no_new_privileges: true, ..Process::default() };
        let of = |no_new_privs| {
            let arguments = ExecArgs { command: vec!["id".to_owned()], no_new_privs, ..ExecArgs::default() };
            derived(container.clone(), &arguments).unwrap().no_new_privileges
        };
        assert!(of(None) && of(Some(true)) && !of(Some(false)));
    }

    #[test]
    fn the_command_line_changes_what_it_names() {
        let container = Process {
            args: vec!["init".to_owned()],
            env: vec!["A=1".to_owned()],
            cwd: "/".into(),
            terminal: true,
            user: User { uid: 5, gid: 6, ..User::default() },
            capabilities: Some(LinuxCapabilities { bounding: vec!["CAP_KILL".to_owned()], ..Default::default() }),
            ..Process::default()
        };
        let arguments = ExecArgs {
            command: vec!["id".to_owned()],
            env: vec!["B=2".to_owned()],
            user: Some("7".to_owned()),
            additional_gids: vec![9],
            cap: vec!["CAP_CHOWN".to_owned()],
            no_new_privs: Some(true),
            ..ExecArgs::default()
        };
        let process = derived(container.clone(), &arguments).unwrap();
        assert_eq!((process.args, process.env), (vec!["id".to_owned()], vec!["A=1".to_owned(), "B=2".to_owned()]));
        assert_eq!((process.user.uid, process.user.gid, process.user.additional_gids), (7, 6, vec![9]));
        assert!(!process.terminal && process.no_new_privileges);
        let sets = process.capabilities.unwrap();
        assert_eq!(sets.bounding, ["CAP_KILL", "CAP_CHOWN"]);
        assert_eq!((sets.permitted, sets.effective), (vec!["CAP_CHOWN".to_owned()], vec!["CAP_CHOWN".to_owned()]));
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty(), "CVE-2022-29162");
        assert!(derived(container.clone(), &ExecArgs::default()).is_err());
        let named = ExecArgs { user: Some("root".to_owned()), ..arguments };
        assert!(derived(container, &named).is_err());
    }
}
