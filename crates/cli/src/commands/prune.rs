//! `hull container prune`, `image prune`, `volume prune` and `system prune`, with docker's questions and words.

use std::io::{BufRead, Write};

use hull_engine::{Engine, EngineError, PruneFilter, Pruned};
use jiff::Timestamp;

use super::{Context, write_stdout};
use crate::args::moment::moment;
use crate::args::upkeep::{PruneArgs, PruneContainersArgs, PruneSystemArgs};
use crate::error::Failure;
use crate::output::units::human_size;

/// `container prune`.
///
/// # Errors
/// A filter that there is not, or what could not be removed.
pub fn containers(arguments: PruneContainersArgs, context: &Context) -> Result<u8, Failure> {
    let filter = parse(&arguments.filter)?;
    if !arguments.force && !confirmed("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let pruned = context.engine()?.prune_containers(&filter)?;
    tell(&[("Deleted Containers:", &pruned)])
}

/// `image prune`.
///
/// # Errors
/// As [`containers`].
pub fn images(arguments: PruneArgs, context: &Context) -> Result<u8, Failure> {
    let (dangling, rest) = split_dangling(&arguments.filter)?;
    let filter = parse(&rest)?;
    // `dangling=false` is docker's older word for --all.
    let all = dangling.map_or(arguments.all, |dangling| !dangling);
    let warning = match all {
        true => "WARNING! This will remove all images without at least one container associated to them.",
        false => "WARNING! This will remove all dangling images.",
    };
    if !arguments.force && !confirmed(warning)? {
        return Ok(0);
    }
    let pruned = context.engine()?.prune_images(all, &filter)?;
    tell(&[("Deleted Images:", &pruned)])
}

/// `volume prune`.
///
/// # Errors
/// As [`containers`].
pub fn volumes(arguments: PruneArgs, context: &Context) -> Result<u8, Failure> {
    if arguments.filter.iter().any(|text| text.starts_with("until=")) {
        return Err(Failure::Arguments("the \"until\" filter is not supported for volumes".to_owned()));
    }
    let filter = parse(&arguments.filter)?;
    let warning = match arguments.all {
        true => "WARNING! This will remove all local volumes not used by at least one container.",
        false => "WARNING! This will remove anonymous local volumes not used by at least one container.",
    };
    if !arguments.force && !confirmed(warning)? {
        return Ok(0);
    }
    let pruned = context.engine()?.prune_volumes(arguments.all, &filter)?;
    tell(&[("Deleted Volumes:", &pruned)])
}

/// `network prune`.
///
/// # Errors
/// As [`containers`].
pub fn networks(arguments: PruneContainersArgs, context: &Context) -> Result<u8, Failure> {
    let filter = parse(&arguments.filter)?;
    let warning = "WARNING! This will remove all custom networks not used by at least one container.";
    if !arguments.force && !confirmed(warning)? {
        return Ok(0);
    }
    let pruned = context.engine()?.prune_networks(&filter)?;
    if !pruned.removed.is_empty() {
        write_stdout(format!("Deleted Networks:\n{}\n\n", pruned.removed.join("\n")).as_bytes())?;
    }
    Ok(0)
}

/// `system prune`.
///
/// # Errors
/// As [`containers`].
pub fn system(arguments: PruneSystemArgs, context: &Context) -> Result<u8, Failure> {
    let filter = parse(&arguments.filter)?;
    if arguments.volumes && filter.until.is_some() {
        return Err(Failure::Arguments("the \"until\" filter is not supported with \"--volumes\"".to_owned()));
    }
    let mut warning = "WARNING! This will remove:\n  - all stopped containers\n".to_owned();
    warning.push_str("  - all networks not used by at least one container\n");
    if arguments.volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(match arguments.all {
        true => "  - all images without at least one container associated to them\n",
        false => "  - all dangling images\n",
    });
    warning.push_str("  - what interrupted commands have left\n");
    if !arguments.force && !confirmed(&warning)? {
        return Ok(0);
    }
    let engine = context.engine()?;
    let containers = engine.prune_containers(&filter)?;
    let networks = engine.prune_networks(&filter)?;
    let volumes = prune_volumes(&engine, arguments.volumes, &filter)?;
    let images = engine.prune_images(arguments.all, &filter)?;
    let leftovers = engine.prune_leftovers()?;
    tell(&[
        ("Deleted Containers:", &containers),
        ("Deleted Networks:", &networks),
        ("Deleted Volumes:", &volumes),
        ("Deleted Images:", &images),
        ("Deleted Downloads:", &leftovers),
    ])
}

fn prune_volumes(engine: &Engine, wanted: bool, filter: &PruneFilter) -> Result<Pruned, EngineError> {
    if wanted { engine.prune_volumes(false, filter) } else { Ok(Pruned::default()) }
}

/// Prints what went, kind by kind, and what that reclaimed.
fn tell(pruned: &[(&str, &Pruned)]) -> Result<u8, Failure> {
    let mut text = String::new();
    for (heading, pruned) in pruned.iter().filter(|(_, pruned)| !pruned.removed.is_empty()) {
        text.push_str(&format!("{heading}\n{}\n\n", pruned.removed.join("\n")));
    }
    let bytes: u64 = pruned.iter().map(|(_, pruned)| pruned.reclaimed_bytes).sum();
    text.push_str(&format!("Total reclaimed space: {}\n", human_size(bytes, 4)));
    write_stdout(text.as_bytes())?;
    Ok(0)
}

/// Asks on the terminal, or whatever stdin is; only yes is yes.
fn confirmed(warning: &str) -> Result<bool, Failure> {
    write_stdout(format!("{warning}\nAre you sure you want to continue? [y/N] ").as_bytes())?;
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Failure::stream("read stdin"))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// The value of `dangling=`, and the other filters.
fn split_dangling(filters: &[String]) -> Result<(Option<bool>, Vec<String>), Failure> {
    let (dangling, rest): (Vec<String>, Vec<String>) =
        filters.iter().cloned().partition(|text| text.starts_with("dangling="));
    let truth = |text: &String| {
        crate::args::values::truth(&text["dangling=".len()..])
            .map_err(|_| Failure::Arguments(format!("invalid filter '{text}'")))
    };
    Ok((dangling.last().map(truth).transpose()?, rest))
}

fn parse(filters: &[String]) -> Result<PruneFilter, Failure> {
    let mut filter = PruneFilter::default();
    for text in filters {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let label = || match value.split_once('=') {
            Some((name, wanted)) => (name.to_owned(), Some(wanted.to_owned())),
            None => (value.to_owned(), None),
        };
        match key {
            "until" => {
                let zone = jiff::tz::TimeZone::system();
                filter.until = Some(moment(value, Timestamp::now(), &zone).map_err(Failure::Arguments)?);
            }
            "label" => filter.labels.push(label()),
            "label!" => filter.without_labels.push(label()),
            _ => return Err(Failure::Arguments(format!("invalid filter '{key}': known are label, label! and until"))),
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_refused() {
        let texts = ["label=a", "label=b=c", "label!=d=e"].map(str::to_owned);
        let filter = parse(&texts).expect("all known");
        assert_eq!(filter.labels, [("a".to_owned(), None), ("b".to_owned(), Some("c".to_owned()))]);
        assert_eq!(filter.without_labels, [("d".to_owned(), Some("e".to_owned()))]);
        assert!(parse(&["until=never".to_owned()]).is_err());
        assert!(parse(&["name=x".to_owned()]).is_err());
        let (dangling, rest) = split_dangling(&["dangling=false".to_owned(), "label=a".to_owned()]).expect("known");
        assert_eq!((dangling, rest.len()), (Some(false), 1));
    }
}
