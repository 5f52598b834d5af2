//! The container's sockets for names, held so that there is no moment without them.
//!
//! The resolver of its network answers on them (hull_network's dns). When that has died, its end of `liveness` is closed,
//! and the container's sockets go to another one, which this process starts, or which another supervisor has started
//! already. An adopter has no sockets at first; they come over `liveness`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hull_network::dns::listener::NameSockets;
use hull_network::dns::registration::{Held, Order, Settings, receive_duplicates};
use hull_store::Roots;

use super::poller::Source;
use super::{Supervisor, monotonic_seconds};

/// A resolver that has lived so long may be started again at once.
const SETTLED_SECONDS: i64 = 10;
/// Longest pause before one that keeps dying is started again.
const LONGEST_PAUSE_SECONDS: i64 = 64;

/// What is held for the container.
#[derive(Debug)]
pub(super) struct Names {
    /// The container's process.
    process: OwnedFd,
    /// `liveness` is absent until the resolver is started again.
    sockets: Option<NameSockets>,
    liveness: Option<OwnedFd>,
    /// When the resolver was found last.
    begun: i64,
    /// How many have died early, one after another.
    deaths: u32,
    /// When the next one is looked for, if there is none.
    due: i64,
}

/// Seconds between the latest early death and the next attempt: the first may be chance, what kills more is there to stay.
fn pause_seconds(deaths: u32) -> i64 {
    match deaths {
        0 | 1 => 0,
        more => LONGEST_PAUSE_SECONDS.min(1 << (more - 2).min(6)),
    }
}

impl Names {
    fn count_death(&mut self) {
        let now = monotonic_seconds();
        self.deaths = if now < self.begun + SETTLED_SECONDS { self.deaths.saturating_add(1) } else { 0 };
        self.due = now + pause_seconds(self.deaths);
    }
}

impl Supervisor {
    /// Takes over what the start has made.
    pub(super) fn hold_names(&mut self, process: OwnedFd, held: Held) {
        let Held { sockets, liveness } = held;
        let watched = self.poller.watch(&liveness, Source::Names);
        self.note("watch the resolver of names", watched);
        let begun = monotonic_seconds();
        self.names = Some(Names { process, sockets, liveness: Some(liveness), begun, deaths: 0, due: begun });
    }

    /// Finds the resolver of a container that was adopted, if it has one.
    pub(super) fn find_names(&mut self, process: OwnedFd) {
        if self.args.state_dir().join(Settings::FILE).exists() {
            let begun = monotonic_seconds();
            self.names = Some(Names { process, sockets: None, liveness: None, begun, deaths: 0, due: begun });
            self.renew_names();
        }
    }

    /// The resolver has sent duplicates of the sockets, or has died.
    pub(super) fn take_names(&mut self) {
        let Some(names) = &mut self.names else { return };
        let Some(liveness) = &names.liveness else { return };
        match receive_duplicates(liveness) {
            Ok(Some(sockets)) => names.sockets = Some(sockets),
            Ok(None) => {}
            Err(_) => {
                let forgotten = self.poller.forget(liveness);
                names.liveness = None;
                names.count_death();
                self.note("forget the resolver of names", forgotten);
                self.renew_names();
            }
        }
    }

    /// Seconds until a resolver that has died is to be started again.
    pub(super) fn names_due(&self) -> Option<i64> {
        let names = self.names.as_ref().filter(|names| names.liveness.is_none())?;
        Some((names.due - monotonic_seconds()).max(0))
    }

    /// Starts the resolver again, or finds the one that is there, when it is time.
    pub(super) fn renew_names(&mut self) {
        if self.names_due() != Some(0) {
            return;
        }
        let order = Order {
            roots: Roots { root: self.args.root.clone(), state: self.args.state.clone() },
            container: self.args.id.clone(),
        };
        let Some(names) = &mut self.names else { return };
        names.begun = monotonic_seconds();
        let started = self.oom_score.lent(|| order.start(names.process.as_fd(), names.sockets.as_ref()));
        let watched = started.and_then(|liveness| {
            self.poller.watch(&liveness, Source::Names)?;
            names.liveness = Some(liveness);
            Ok::<(), io::Error>(())
        });
        if watched.is_err() {
            names.count_death();
        }
        self.note("start the resolver of names", watched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!([0, 1, 2, 3, 8, 9, u32::MAX].map(pause_seconds), [0, 0, 1, 2, 64, 64, 64]);
    }
}
