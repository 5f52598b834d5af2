//! `hull network`: networks made, listed, removed, and containers put into them and taken out.

use hull_engine::request::NetworkRequest;
use hull_engine::{ErrorKind, NetworkInspect, NewNetwork};

use super::inspect::{Form, printed};
use super::{Context, each, write_stdout};
use crate::args::networks::{
    ConnectArgs, CreateNetworkArgs, DisconnectArgs, InspectNetworksArgs, ListNetworksArgs, ReloadArgs,
    RemoveNetworksArgs,
};
use crate::args::values::truth;
use crate::error::{Failure, report};
use crate::output::table::{Format, Layout, render};
use crate::output::template::{Methods, NoMethods, Value};

const LAYOUT: Layout = Layout {
    headings: &[
        ("CreatedAt", "CREATED AT"),
        ("Driver", "DRIVER"),
        ("ID", "NETWORK ID"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("Name", "NAME"),
        ("Scope", "SCOPE"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
};

/// Digits of an id in lists.
const SHORT_ID: usize = 12;

/// `network create`.
///
/// # Errors
/// What is wrong with the definition.
pub fn create(arguments: CreateNetworkArgs, context: &Context) -> Result<u8, Failure> {
    let wanted = NewNetwork {
        name: arguments.name,
        driver: Some(arguments.driver),
        subnets: arguments.subnet,
        gateways: arguments.gateway,
        ranges: arguments.ip_range,
        ipv6: arguments.ipv6,
        internal: arguments.internal,
        options: arguments.opt.into_iter().collect(),
        labels: arguments.label.into_iter().collect(),
    };
    let id = context.engine()?.create_network(&wanted)?;
    write_stdout(format!("{id}\n").as_bytes())?;
    Ok(0)
}

/// `network ls`.
///
/// # Errors
/// When a filter or the format is wrong.
pub fn list(arguments: ListNetworksArgs, context: &Context) -> Result<u8, Failure> {
    let format = match (arguments.quiet, arguments.format.as_deref()) {
        (true, None | Some("table" | "")) => Format::parse(Some("{{.ID}}"), LAYOUT.default)?,
        (_, format) => Format::parse(format, LAYOUT.default)?,
    };
    let filter = NetworkFilter::parse(&arguments.filter)?;
    let networks = context.engine()?.list_networks()?;
    let rows: Vec<_> = networks
        .iter()
        .filter(|network| filter.takes(network))
        .map(|network| (fields(network, arguments.no_trunc), Box::new(NoMethods) as Box<dyn Methods>))
        .collect();
    write_stdout(render(&LAYOUT, &format, &rows)?.as_bytes())?;
    Ok(0)
}

/// `network inspect`.
///
/// # Errors
/// When one of the names failed, or the format is wrong.
pub fn inspect(arguments: InspectNetworksArgs, context: &Context) -> Result<u8, Failure> {
    let form = Form::parse(arguments.format.as_deref())?;
    let engine = context.engine()?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &arguments.names {
        match engine.inspect_network(name) {
            Ok(network) => found.push(network),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    write_stdout(&printed(&found, &form)?)?;
    for failure in &failures {
        report(failure, context.log_format());
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::Reported) }
}

/// `network rm`.
///
/// # Errors
/// When one of the names failed.
pub fn remove(arguments: RemoveNetworksArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.names, context, |name| {
        match engine.remove_network(name) {
            Err(error) if arguments.force && error.kind() == ErrorKind::NotFound => {}
            result => result?,
        }
        write_stdout(format!("{name}\n").as_bytes())
    })
}

/// `network connect`.
///
/// # Errors
/// When the container is not in the network then.
pub fn connect(arguments: ConnectArgs, context: &Context) -> Result<u8, Failure> {
    let asked = NetworkRequest {
        network: arguments.network,
        ipv4: arguments.ip,
        ipv6: arguments.ip6,
        mac: None,
        aliases: arguments.alias,
    };
    context.engine()?.connect(&arguments.container, asked)?;
    Ok(0)
}

/// `network disconnect`.
///
/// # Errors
/// When the container was not in the network, or is in it still.
pub fn disconnect(arguments: DisconnectArgs, context: &Context) -> Result<u8, Failure> {
    context.engine()?.disconnect(&arguments.network, &arguments.container, arguments.force)?;
    Ok(0)
}

/// `network reload`.
///
/// # Errors
/// The firewall's.
pub fn reload(_: ReloadArgs, context: &Context) -> Result<u8, Failure> {
    context.engine()?.reload_networks()?;
    Ok(0)
}

fn fields(network: &NetworkInspect, whole: bool) -> Value {
    let labels: Vec<String> = network.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let id = if whole { &network.id[..] } else { &network.id[..SHORT_ID] };
    let fields = [
        ("CreatedAt", network.created.clone()),
        ("Driver", network.driver.clone()),
        ("ID", id.to_owned()),
        ("IPv4", network.enable_ipv4.to_string()),
        ("IPv6", network.enable_ipv6.to_string()),
        ("Internal", network.internal.to_string()),
        ("Labels", labels.join(",")),
        ("Name", network.name.clone()),
        ("Scope", network.scope.to_owned()),
    ];
    Value::Map(fields.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text))).collect())
}

/// What a network must be like: one of the values of each key that was given.
#[derive(Debug, Default)]
struct NetworkFilter(Vec<(String, String)>);

/// Docker's own networks.
fn is_builtin(network: &NetworkInspect) -> bool {
    matches!(network.name.as_str(), "bridge" | "host" | "none")
}

impl NetworkFilter {
    fn parse(texts: &[String]) -> Result<NetworkFilter, Failure> {
        let mut filter = NetworkFilter::default();
        for text in texts {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            let is_good = match key {
                "dangling" => truth(value).is_ok(),
                "type" => matches!(value, "custom" | "builtin"),
                "driver" | "id" | "label" | "name" | "scope" => true,
                _ => {
                    let known = "known are dangling, driver, id, label, name, scope and type";
                    return Err(Failure::Arguments(format!("invalid filter '{key}': {known}")));
                }
            };
            if !is_good {
                return Err(Failure::Arguments(format!("invalid filter '{text}'")));
            }
            filter.0.push((key.to_owned(), value.to_owned()));
        }
        Ok(filter)
    }

    fn takes(&self, network: &NetworkInspect) -> bool {
        let fits = |key: &str, value: &str| match key {
            "dangling" => truth(value) == Ok(network.containers.is_empty() && !is_builtin(network)),
            "driver" => network.driver == value,
            "id" => network.id.starts_with(value),
            "label" => match value.split_once('=') {
                Some((name, wanted)) => network.labels.get(name).is_some_and(|label| label == wanted),
                None => network.labels.contains_key(value),
            },
            "name" => network.name.contains(value),
            "scope" => network.scope == value,
            _ => is_builtin(network) == (value == "builtin"),
        };
        // Labels are all wanted, of the others one of each.
        self.0.iter().all(|(key, value)| {
            let mut same = self.0.iter().filter(|(other, _)| other == key);
            if key == "label" { fits(key, value) } else { same.any(|(key, value)| fits(key, value)) }
        })
    }
}
