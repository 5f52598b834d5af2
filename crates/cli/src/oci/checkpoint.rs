//! `checkpoint` and `restore`: a container becomes files and comes back from them, by criu(8).
//!
//! What criu does and what it is told is in `hull_runtime`; here are runc's flags, and handing out what was restored.

use std::os::fd::AsFd;
use std::path::{Component, PathBuf};

use hull_runtime::container::{CheckpointRequest, Containers, CriuOptions, New, RestoreRequest};
use hull_sys::process::is_open;
use hull_sys::signals;

use super::args::{CheckpointArgs, CriuArgs, RestoreArgs};
use super::create::{own_streams, write_pid_file};
use super::foreground::{self, Foreground};
use super::remove;
use super::report::{Gravity, Log};
use crate::error::Failure;

/// `checkpoint`.
///
/// # Errors
/// See [`Failure`]; the container goes on then.
pub fn checkpoint(containers: &Containers, arguments: &CheckpointArgs, log: &Log) -> Result<(), Failure> {
    let options = options(&arguments.criu)?;
    let request = CheckpointRequest {
        parent: parent(arguments, &options)?,
        leave_running: arguments.leave_running,
        tcp_skip_in_flight: arguments.tcp_skip_in_flight,
        link_remap: arguments.link_remap,
        pre_dump: arguments.pre_dump,
        page_server: arguments.page_server.as_deref().filter(|text| !text.is_empty()).map(page_server).transpose()?,
        status_fd: status_fd(arguments)?,
        options,
    };
    for error in containers.checkpoint(&arguments.id, &request)? {
        log.tell(Gravity::Warning, &error.to_string());
    }
    Ok(())
}

/// `restore`; gives the exit code of the container's process, 0 when detached.
///
/// # Errors
/// See [`Failure`].
pub fn restore(containers: &Containers, arguments: &RestoreArgs, log: &Log) -> Result<u8, Failure> {
    let spec = Containers::read_spec(&arguments.bundle)?;
    let request = RestoreRequest {
        id: &arguments.id,
        bundle: &arguments.bundle,
        streams: own_streams().map_err(Failure::stream("share the streams"))?,
        options: options(&arguments.criu)?,
        lsm_profile: arguments.lsm_profile.clone(),
        lsm_mount_context: arguments.lsm_mount_context.clone(),
    };
    let make = || -> Result<New, Failure> {
        let new = containers.restore(&spec, &request)?;
        let Some(path) = &arguments.pid_file else { return Ok(new) };
        if let Err(error) = write_pid_file(path, new.pid) {
            remove(containers, &arguments.id, true, log)?;
            return Err(Failure::path("write", path)(error));
        }
        Ok(new)
    };
    if arguments.detach {
        return make().map(|_| 0);
    }
    // Blocked before the process exists, so that none is lost between its birth and the first wait.
    let _blocked = signals::block(&foreground::signals());
    let foreground = Foreground::prepare(!arguments.no_subreaper)?;
    let new = make()?;
    let code = foreground.wait(new.pid, new.pidfd.as_fd(), None);
    remove(containers, &arguments.id, true, log)?;
    code
}

fn options(arguments: &CriuArgs) -> Result<CriuOptions, Failure> {
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(Failure::path("find", path));
    let images = arguments.image_path.clone().filter(|path| !path.as_os_str().is_empty());
    Ok(CriuOptions {
        images: absolute(&images.unwrap_or_else(|| "checkpoint".into()))?,
        work: arguments.work_path.as_ref().filter(|path| !path.as_os_str().is_empty()).map(absolute).transpose()?,
        tcp_established: arguments.tcp_established,
        ext_unix_sk: arguments.ext_unix_sk,
        shell_job: arguments.shell_job,
        file_locks: arguments.file_locks,
        manage_cgroups: arguments.manage_cgroups_mode.clone().filter(|mode| !mode.is_empty()),
        auto_dedup: arguments.auto_dedup,
        lazy_pages: arguments.lazy_pages,
    })
}

/// A folder of earlier images, which criu looks for from the new ones.
fn parent(arguments: &CheckpointArgs, options: &CriuOptions) -> Result<Option<PathBuf>, Failure> {
    let refused = |text: String| Err(Failure::Arguments(text));
    let Some(path) = arguments.parent_path.clone().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    if path.components().next() == Some(Component::RootDir) {
        return refused("--parent-path must be relative".to_owned());
    }
    let folder = options.images.join(&path);
    if !folder.is_dir() {
        return refused(format!("invalid --parent-path: {} is no directory", folder.display()));
    }
    Ok(Some(path))
}

fn page_server(text: &str) -> Result<(String, u16), Failure> {
    let parts = text.rsplit_once(':').filter(|(address, port)| !address.is_empty() && !port.is_empty());
    let Some((address, port)) = parts else {
        return Err(Failure::Arguments("Use --page-server ADDRESS:PORT to specify page server".to_owned()));
    };
    let port = port.parse().map_err(|_| Failure::Arguments("Invalid port number".to_owned()))?;
    Ok((address.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

fn status_fd(arguments: &CheckpointArgs) -> Result<Option<i32>, Failure> {
    match arguments.status_fd {
        -1 => Ok(None),
        fd if fd > 2 && is_open(fd) => Ok(Some(fd)),
        fd => Err(Failure::Arguments(format!("invalid --status-fd argument {fd}: bad file descriptor"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        assert_eq!(page_server("10.0.0.1:27").unwrap(), ("10.0.0.1".to_owned(), 27));
        assert_eq!(page_server("[::1]:27").unwrap(), ("::1".to_owned(), 27));
        for (text, error) in [("10.0.0.1", "Use --page-server"), (":5", "Use --page-server"), ("a:b", "Invalid port")] {
            assert!(page_server(text).unwrap_err().to_string().starts_with(error), "{text}");
        }
    }
}
