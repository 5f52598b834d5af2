//! What can go wrong between a runtime and systemd: no bus, no understanding, a refusal, a job that ends otherwise.

use std::io;

/// What went wrong with systemd.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// A cgroup path that names no unit.
    #[error("cgroupsPath {path:?} names no systemd unit: {reason}")]
    BadPath {
        /// As given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A text that is no value of D-Bus in GVariant's notation.
    #[error("{text:?} is no value in GVariant's text format: {reason} at byte {position}")]
    Text {
        /// As given.
        text: String,
        /// Where it stops making sense.
        position: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A property that has no name or no value that systemd could take.
    #[error("systemd property {name:?}: {reason}")]
    Property {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A bus address in an environment variable that is not understood.
    #[error("{variable}={address:?} is no bus address that can be used: {reason}")]
    Address {
        /// The variable.
        variable: &'static str,
        /// Its value.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A user's bus was asked for and the environment names none.
    #[error(
        "systemd's bus of this user is unknown: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set (log in \
         through systemd, or use the cgroup driver without systemd)"
    )]
    NoUserBus,
    /// Nobody listens at systemd's sockets.
    #[error(
        "{}: cannot connect to {socket}",
        if *.booted { "systemd runs here, but its bus does not answer" } else { "this host does not run systemd" }
    )]
    NoSystemd {
        /// The sockets that were tried.
        socket: String,
        /// Whether /run/systemd/system exists (sd_booted(3)).
        booted: bool,
        /// Why the last of them failed.
        source: io::Error,
    },
    /// The bus does not accept this user.
    #[error("the bus at {socket} refuses this user: {answer:?}")]
    Refused {
        /// The socket.
        socket: String,
        /// What it said.
        answer: String,
    },
    /// read(2) or write(2) on the bus.
    #[error("talking with systemd over {socket}")]
    Conversation {
        /// The socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// A message that is not what the protocol or the method says.
    #[error("a message of systemd over {socket} is not understood: {reason}")]
    Malformed {
        /// The socket.
        socket: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A method call that systemd answers with an error.
    #[error("systemd refuses {method}: {message} ({name})")]
    Call {
        /// The method and its unit.
        method: String,
        /// The error's name.
        name: String,
        /// Its words.
        message: String,
    },
    /// A job that did not do what it was made for.
    #[error("systemd's job for {unit} ended with {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// Its result, such as `failed` or `canceled`.
        result: String,
    },
    /// systemd makes no units for users on cgroup v1.
    #[error("systemd hands no cgroup v1 to a user: this host needs cgroup v2 for a user's units")]
    UserOnLegacy,
}

impl SystemdError {
    /// Whether systemd answered with the error of that name.
    pub(super) fn is(&self, error: &str) -> bool {
        matches!(self, SystemdError::Call { name, .. } if name == error)
    }
}
