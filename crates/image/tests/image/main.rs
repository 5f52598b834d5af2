//! The image crate from outside: a registry written here, archives made here, and the store they fill.
//!
//! Nothing leaves this machine: the registry is a thread on a loopback port that answers as each test tells it to.
#![forbid(unsafe_code)]

mod archives;
mod fixture;
mod hostile;
mod places;
mod pushes;
mod registry;
mod server;
mod store;
mod transfers;
