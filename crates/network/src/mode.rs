//! Whose network a container uses, resolved: what the spec and the name files depend on.
//!
//! `None` is a network namespace with a loopback that stays so; a `Private` one may be in networks.

use std::fmt;
use std::path::PathBuf;

/// The network of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// A network namespace of its own.
    Private,
    /// A network namespace of its own with a loopback and nothing else, ever.
    None,
    /// The host's network namespace.
    Host,
    /// The network namespace of the container with this id.
    Container(String),
    /// The network namespace that this file leads to.
    Path(PathBuf),
}

impl NetworkMode {
    /// Whether the container gets a network namespace of its own, so that its loopback has to be brought up.
    pub fn has_own_namespace(&self) -> bool {
        matches!(self, NetworkMode::Private | NetworkMode::None)
    }
}

/// The spelling of `--network`: `private`, `none`, `host`, `container:ID`, `ns:PATH`.
impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkMode::Private => f.write_str("private"),
            NetworkMode::None => f.write_str("none"),
            NetworkMode::Host => f.write_str("host"),
            NetworkMode::Container(id) => write!(f, "container:{id}"),
            NetworkMode::Path(path) => write!(f, "ns:{}", path.display()),
        }
    }
}
