//! `exec`: one more process in a container, from a process.json or from the command line.
//!
//! From the command line it is the container's own process with other arguments; the flags change what they name.

use std::fs;
use std::os::fd::AsFd;

use hull_oci::runtime::{Process, User};
use hull_runtime::container::{ContainerError, Containers, ExecRequest};
use hull_sys::signals;

use super::args::ExecArgs;
use super::create::{Holder, holder, own_streams, take_window_size, write_pid_file};
use super::foreground::{self, Foreground};
use super::sockets;
use crate::error::Failure;

/// Runs the process; gives its exit code, 0 when detached.
///
/// # Errors
/// See [`Failure`]; the container goes on.
pub fn exec(containers: &Containers, arguments: &ExecArgs) -> Result<u8, Failure> {
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
        return start(containers, arguments, &process, holder).map(|_| 0);
    }
    let _blocked = signals::block(&foreground::signals());
    let foreground = Foreground::prepare(true)?;
    let started = start(containers, arguments, &process, holder)?;
    let master = if holder == Holder::Foreground { started.terminal } else { None };
    foreground.wait(started.pid, started.pidfd.as_fd(), master.as_ref())
}

fn start(
    containers: &Containers,
    arguments: &ExecArgs,
    process: &Process,
    holder: Holder,
) -> Result<hull_runtime::create::Started, Failure> {
    let streams = match holder {
        Holder::None => Some(own_streams().map_err(Failure::stream("share the streams"))?),
        _ => None,
    };
    let request = ExecRequest { id: &arguments.id, process, streams, ignore_paused: arguments.ignore_paused };
    let created = containers.exec(request)?;
    if let (Some(path), Some(terminal)) = (&arguments.console_socket, &created.terminal)
        && let Err(error) = sockets::send(path, b"/dev/ptmx", terminal.as_fd())
    {
        created.abandon();
        return Err(Failure::path("send the terminal to", path)(error));
    }
    let started = created.start().map_err(ContainerError::Create)?;
    if let Some(path) = &arguments.pid_file {
        write_pid_file(path, started.pid).map_err(Failure::path("write", path))?;
    }
    Ok(started)
}

/// The container's process with what the command line says instead.
fn derived(container: Process, arguments: &ExecArgs) -> Result<Process, Failure> {
    if arguments.command.is_empty() {
        return Err(Failure::Arguments("process args cannot be empty".to_owned()));
    }
    let mut process = Process {
        args: arguments.command.clone(),
        terminal: arguments.tty,
        console_size: None,
        no_new_privileges: container.no_new_privileges || arguments.no_new_privs,
        ..container
    };
    process.env.extend(arguments.env.iter().cloned());
    if let Some(cwd) = &arguments.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &arguments.user {
        process.user = parse_user(user, process.user)?;
    }
    process.user.additional_gids.extend(&arguments.additional_gids);
    if let Some(sets) = &mut process.capabilities {
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
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
            no_new_privs: true,
            ..ExecArgs::default()
        };
        let process = derived(container.clone(), &arguments).unwrap();
        assert_eq!((process.args, process.env), (vec!["id".to_owned()], vec!["A=1".to_owned(), "B=2".to_owned()]));
        assert_eq!((process.user.uid, process.user.gid, process.user.additional_gids), (7, 6, vec![9]));
        assert!(!process.terminal && process.no_new_privileges);
        assert_eq!(process.capabilities.unwrap().bounding, ["CAP_KILL", "CAP_CHOWN"]);
        assert!(derived(container.clone(), &ExecArgs::default()).is_err());
        let named = ExecArgs { user: Some("root".to_owned()), ..arguments };
        assert!(derived(container, &named).is_err());
    }
}
