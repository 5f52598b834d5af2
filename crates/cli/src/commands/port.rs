//! `hull port`: the published ports of a container, and who reaches them.

use std::fmt::Write;

use hull_engine::EngineError;
use hull_network::firewall::Publication;
use hull_network::port_list::host_end;
use hull_network::ports::ContainerPort;
use hull_network::publishing::Reach;
use jiff::Timestamp;

use super::{Context, write_stdout};
use crate::args::containers::PortArgs;
use crate::error::Failure;

/// Prints them, or where one of them is published.
///
/// # Errors
/// No such container; a port that is not published.
pub fn run(arguments: PortArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let inside = |one: &Publication| ContainerPort { port: one.port, protocol: one.protocol };
    if arguments.why {
        return why(&arguments, context);
    }
    let id = engine.resolve(&arguments.container)?;
    let publications = engine.published_ports(&id)?;
    let mut text = String::new();
    match arguments.port {
        None => {
            for one in &publications {
                let _ = writeln!(text, "{} -> {}", inside(one), host_end(one));
            }
        }
        Some(port) => {
            for one in publications.iter().filter(|one| inside(one) == port) {
                let _ = writeln!(text, "{}", host_end(one));
            }
            if text.is_empty() {
                let name = arguments.container.clone();
                return Err(EngineError::NotPublished { port: port.to_string(), name }.into());
            }
        }
    }
    write_stdout(text.as_bytes())?;
    Ok(0)
}

/// Who reaches each port, and what the host's firewall said just now.
fn why(arguments: &PortArgs, context: &Context) -> Result<u8, Failure> {
    let (reached, policy) = context.engine()?.port_reach(&arguments.container)?;
    let mut text = String::new();
    for one in &reached {
        let reach = match one.reach {
            Reach::Open => "everybody",
            Reach::Allowed => "everybody, as [publish] allow says",
            Reach::Loopback => "this host and its own network: it is published on loopback",
            Reach::Closed => "this host and its own network: the host's firewall is closed",
        };
        let port = ContainerPort { port: one.publication.port, protocol: one.publication.protocol };
        let _ = writeln!(text, "{port} -> {}: {reach}", host_end(&one.publication));
    }
    let _ = writeln!(text, "seen at {}:", Timestamp::now());
    for seen in &policy.input {
        let _ = writeln!(text, "  input: {seen}");
    }
    for seen in &policy.forward {
        let _ = writeln!(text, "  forward: {seen}, so that other hosts reach nothing unless its own rules let them");
    }
    if policy.input.is_empty() && policy.forward.is_empty() {
        text.push_str("  no chain with policy drop, no ufw, no firewalld; other rules are not looked at\n");
    }
    write_stdout(text.as_bytes())?;
    Ok(0)
}
