//! Names of containers: a small DNS server (RFC 1035) for those in user networks.
//!
//! ```text
//! container        asks 127.0.0.11:53; a rule of its own namespace leads that to the port ...
//! listener         ... where two sockets listen, made in its namespace at the start
//! resolver         one process per network has the sockets of the network's containers, and answers:
//!   answer           from what is asked, purely
//!   directory        by the places that containers have, read from the database for each question
//!   exchange         or with what the host's name servers say (upstream)
//! registration     how sockets come to the resolver, and how there is always one
//! ```
//! Names are docker's: a container's name, its aliases, the first twelve characters of its id and its host name, each
//! also followed by the network's name. Whoever asks is known by the socket that the question came by, and sees its own
//! networks. A known name that has no address of the family asked for is answered without one, never denied: a libc that
//! asks for both families at once takes a denial of one for both.

pub mod answer;
pub mod directory;
pub mod exchange;
pub mod listener;
pub mod registration;
mod resolver;
pub mod stream;
pub mod upstream;
