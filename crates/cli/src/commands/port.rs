//! `hull port`: the published ports of a container, who reaches them, and changes of a running one.

use std::fmt::Write;

use hull_engine::EngineError;
use hull_network::port_list::host_end;
use hull_network::ports::{self, ContainerPort, PortError, PortRequest};
use hull_network::publishing::Reach;
use jiff::Timestamp;

use super::{Context, write_stdout};
use crate::args::containers::PortArgs;
use crate::error::Failure;

/// What the words ask for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    /// The ports of a container, or one of them.
    List(&'a str, Option<ContainerPort>),
    /// More ports.
    Add(&'a str, Vec<PortRequest>),
    /// Fewer.
    Remove(&'a str, Vec<ContainerPort>),
}

fn read(words: &[String]) -> Result<Asked<'_>, Failure> {
    let wrong = |error: PortError| Failure::Arguments(error.to_string());
    let number = |text: &String| text.parse::<ContainerPort>().map_err(wrong);
    match words {
        // A container of that name has at most one word after it.
        [verb, container, first, rest @ ..] if verb == "add" => {
            let requests = std::iter::once(first).chain(rest).map(|text| ports::publish(text));
            let requests: Vec<_> = requests.collect::<Result<_, _>>().map_err(wrong)?;
            Ok(Asked::Add(container, requests.concat()))
        }
        [verb, container, first, rest @ ..] if verb == "rm" => {
            let ports = std::iter::once(first).chain(rest).map(number);
            Ok(Asked::Remove(container, ports.collect::<Result<_, _>>()?))
        }
        [container] => Ok(Asked::List(container, None)),
        [container, port] => Ok(Asked::List(container, Some(number(port)?))),
        _ => Err(Failure::Arguments("expected a container and at most one port, or add or rm".to_owned())),
    }
}

/// Prints them, or where one of them is published; publishes more, or withdraws some.
///
/// # Errors
/// No such container; a port that is not published, or that is taken.
pub fn run(arguments: PortArgs, context: &Context) -> Result<u8, Failure> {
    match read(&arguments.words)? {
        Asked::List(container, None) if arguments.why => why(container, context),
        _ if arguments.why => Err(Failure::Arguments("--why shows all ports of one container".to_owned())),
        Asked::List(container, port) => list(container, port, context),
        Asked::Add(container, requests) => {
            context.engine()?.add_ports(container, &requests)?;
            Ok(0)
        }
        Asked::Remove(container, ports) => {
            context.engine()?.remove_ports(container, &ports)?;
            Ok(0)
        }
    }
}

fn list(container: &str, port: Option<ContainerPort>, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let publications = engine.ports(container)?;
    let mut text = String::new();
    match port {
        None => {
            for one in &publications {
                let _ = writeln!(text, "{} -> {}", one.inside(), host_end(one));
            }
        }
        Some(port) => {
            for one in publications.iter().filter(|one| one.inside() == port) {
                let _ = writeln!(text, "{}", host_end(one));
            }
            if text.is_empty() {
                let name = container.to_owned();
                return Err(EngineError::NotPublished { port: port.to_string(), name }.into());
            }
        }
    }
    write_stdout(text.as_bytes())?;
    Ok(0)
}

/// Who reaches each port, and what the host's firewall said just now.
fn why(container: &str, context: &Context) -> Result<u8, Failure> {
    let (reached, policy) = context.engine()?.port_reach(container)?;
    let mut text = String::new();
    for one in &reached {
        let reach = match one.reach {
            Reach::Open => "everybody",
            Reach::Allowed => "everybody, as [publish] allow says",
            Reach::Loopback => "this host and its own network: it is published on loopback",
            Reach::Closed => "this host and its own network: the host's firewall is closed",
        };
        let _ = writeln!(text, "{} -> {}: {reach}", one.publication.inside(), host_end(&one.publication));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<String, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        read(&words).map(|asked| format!("{asked:?}")).map_err(|failure| format!("{failure}"))
    }

    #[test]
    fn a_container_may_be_called_add() {
        assert!(read_line("add").unwrap().starts_with("List(\"add\", None"));
        assert!(read_line("add 80").unwrap().starts_with("List(\"add\", Some"));
        assert!(read_line("add web 8080:80 53:53/udp").unwrap().starts_with("Add(\"web\", ["));
        assert!(read_line("rm web 80 53/udp").unwrap().starts_with("Remove(\"web\", ["));
        for line in ["web 80 81", "web x", "add web x", "rm web 8080:80"] {
            assert!(read_line(line).is_err(), "{line}");
        }
    }
}
