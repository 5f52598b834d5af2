//! `hull update`: changes the limits of containers.

use hull_engine::UpdateContainer;
use hull_engine::request::ResourceRequest;

use super::{Context, each, write_stdout};
use crate::args::containers::UpdateArgs;
use crate::error::Failure;

/// Changes the limits of the containers, of those that run at once.
///
/// # Errors
/// Without any limit; when one of the names failed.
pub fn run(arguments: UpdateArgs, context: &Context) -> Result<u8, Failure> {
    if asks_nothing(&arguments) {
        return Err(Failure::Arguments("you must provide one or more flags when using this command".to_owned()));
    }
    let engine = context.engine()?;
    let change = change(&arguments);
    each(&arguments.containers, context, |name| {
        engine.update(name, &change)?;
        write_stdout(format!("{name}\n").as_bytes())
    })
}

fn asks_nothing(arguments: &UpdateArgs) -> bool {
    arguments.cpu_shares.is_none()
        && arguments.cpus.is_none()
        && arguments.cpuset_cpus.is_none()
        && arguments.memory.is_none()
        && arguments.memory_reservation.is_none()
        && arguments.memory_swap.is_none()
        && arguments.pids_limit.is_none()
        && arguments.bandwidth.change().is_empty()
}

/// Zero and empty ask for nothing.
fn change(arguments: &UpdateArgs) -> UpdateContainer {
    UpdateContainer {
        resources: ResourceRequest {
            memory_bytes: arguments.memory.filter(|size| *size > 0),
            memory_swap_bytes: arguments.memory_swap.filter(|size| *size != 0),
            memory_reservation_bytes: arguments.memory_reservation.filter(|size| *size > 0),
            nano_cpus: arguments.cpus.filter(|nanos| *nanos > 0),
            cpu_shares: arguments.cpu_shares.filter(|weight| *weight > 0),
            cpuset_cpus: arguments.cpuset_cpus.clone().filter(|list| !list.is_empty()),
            pids_limit: arguments.pids_limit.filter(|limit| *limit != 0),
        },
        bandwidth: arguments.bandwidth.change(),
    }
}
