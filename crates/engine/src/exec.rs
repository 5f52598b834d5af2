//! `hull exec`: one more process in a container that runs.
//!
//! The process is the container's own, as its present start was configured, with what the user asks changed: program,
//! environment, user, folder, terminal. It is left in a file for the supervisor's worker, because only a child of the
//! supervisor can be waited for by it; the client that asked is attached from the first byte.

use std::fs;
use std::path::PathBuf;

use hull_oci::runtime::{ConsoleSize, LinuxCapabilities, Process, Spec, User};
use hull_supervisor::client::{Client, ClientError, Started};
use hull_supervisor::protocol::AttachFlags;
use rustix::fs::{Mode, OFlags};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::identity;
use crate::lifecycle::external;
use crate::lifecycle::start::CONFIG_FILE;
use crate::lifecycle::state::{Action, ContainerState};
use crate::worker::{ExecSpec, exec_file};

/// What to execute (`docker exec`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value` pairs added to the container's.
    pub env: Vec<String>,
    /// `user[:group]`; the container's when absent.
    pub user: Option<String>,
    /// Working directory; the container's when absent.
    pub workdir: Option<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub interactive: bool,
    /// Give it every capability and no seccomp filter.
    pub privileged: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
}

impl Engine {
    /// Executes a process and returns when it runs, with a client attached as `attach` says, or to nothing.
    ///
    /// # Errors
    /// [`EngineError::Launch`] with the exit code that the command should end with when the program cannot be
    /// executed; else why the container does not take one.
    pub fn exec(
        &self,
        name: &str,
        request: &ExecRequest,
        attach: Option<AttachFlags>,
    ) -> Result<(Client, Started), EngineError> {
        let id = self.resolve(name)?;
        let state = self.state(&id)?;
        self.accept(name, &state, Action::Exec)?;
        let folder = self.roots().runtime_state(id.as_str());
        let file = exec_file(&folder, &token()?);
        let spec = self.exec_spec(&id, &state, request)?;
        let text = serde_json::to_vec(&spec).map_err(|error| EngineError::path("write", &file)(error.into()))?;
        fs::write(&file, text).map_err(EngineError::path("write", &file))?;
        let started = Client::connect(&folder).and_then(|mut client| {
            let started = client.exec(&file, attach)?;
            Ok((client, started))
        });
        started.map_err(|error| {
            // The worker removes the file when it takes it; nobody has taken it when there is none.
            let _ = fs::remove_file(&file);
            match error {
                ClientError::Refused { exit_code, text } => EngineError::Launch { exit_code, message: text },
                error => EngineError::Client { id, source: error },
            }
        })
    }

    fn exec_spec(
        &self,
        id: &ContainerId,
        state: &ContainerState,
        request: &ExecRequest,
    ) -> Result<ExecSpec, EngineError> {
        let path = self.roots().runtime_state(id.as_str()).join(CONFIG_FILE);
        let text = fs::read(&path).map_err(EngineError::path("read", &path))?;
        let spec: Spec =
            serde_json::from_slice(&text).map_err(|error| EngineError::path("read", &path)(error.into()))?;
        let mut process = spec.process.unwrap_or_default();
        process.args = request.command.clone();
        process.terminal = request.tty;
        process.console_size =
            request.console_size.map(|(rows, columns)| ConsoleSize { height: rows.into(), width: columns.into() });
        process.cwd = request.workdir.as_ref().map_or(process.cwd, PathBuf::from);
        set_env(&mut process, request);
        if let Some(user) = &request.user {
            self.set_user(&mut process, id, state, user)?;
        }
        let runtime = self.runtime_of(id)?;
        let mut seccomp = spec.linux.and_then(|linux| linux.seccomp);
        if request.privileged {
            process.capabilities = Some(all_capabilities());
            seccomp = None;
        }
        Ok(ExecSpec { process, seccomp, interactive: request.interactive, cgroup_path: self.cgroup_path(id), runtime })
    }

    /// The other OCI runtime that made the container, when one did.
    fn runtime_of(&self, id: &ContainerId) -> Result<Option<PathBuf>, EngineError> {
        match external::was_used(&self.roots().runtime_state(id.as_str())) {
            true => Ok(self.record(id)?.request.runtime.map(PathBuf::from)),
            false => Ok(None),
        }
    }

    /// Looks the user up in the container's own files, through its first process' root. Another runtime's process may be
    /// a virtual machine: then in the files as they are on the host.
    fn set_user(
        &self,
        process: &mut Process,
        id: &ContainerId,
        state: &ContainerState,
        user: &str,
    ) -> Result<(), EngineError> {
        let root_fd = match self.runtime_of(id)? {
            Some(_) => self.container_rootfs(&self.record(id)?)?.as_view().mount_detached()?,
            None => {
                let root = PathBuf::from(format!("/proc/{}/root", state.pid().unwrap_or_default()));
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(&root, flags, Mode::empty())
                    .map_err(|errno| EngineError::path("open", &root)(errno.into()))?
            }
        };
        let identity = identity::look_up(std::os::fd::AsFd::as_fd(&root_fd), user, &[])?;
        process.user =
            User { uid: identity.uid, gid: identity.gid, additional_gids: identity.additional_gids, ..User::default() };
        process.env.retain(|variable| !variable.starts_with("HOME="));
        process.env.push(format!("HOME={}", identity.home));
        Ok(())
    }
}

/// The container's environment, with the request's over it; a terminal has a TERM.
fn set_env(process: &mut Process, request: &ExecRequest) {
    let terminal = request.tty.then(|| "TERM=xterm".to_owned());
    let given = request.env.iter().cloned();
    for variable in terminal.into_iter().chain(given) {
        let name = variable.split('=').next().unwrap_or_default().to_owned();
        process.env.retain(|old| old.split('=').next() != Some(name.as_str()));
        process.env.push(variable);
    }
}

fn all_capabilities() -> LinuxCapabilities {
    let all: Vec<String> = hull_kernel::capabilities::Capabilities::ALL.names().collect();
    LinuxCapabilities { bounding: all.clone(), effective: all.clone(), permitted: all, ..LinuxCapabilities::default() }
}

/// A name that no other exec of this container has.
fn token() -> Result<String, EngineError> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| EngineError::Random(errno.into()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
