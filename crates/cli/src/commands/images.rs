//! `hull images`: images as rows, one for each name.
//!
//! An image without a name is one row of `<none>`. A name that a registry knows by digest only shows the tag
//! `<none>`; with `--digests` a tag has a row for each of its repository's digests, as docker prints them.

use hull_engine::Engine;
use hull_image::Image;
use hull_oci::{Digest, Reference};
use jiff::Timestamp;

use super::image_filter::ImageFilter;
use super::image_tree::tree;
use super::{Context, write_stdout};
use crate::args::images::ListImagesArgs;
use crate::error::Failure;
use crate::output::table::{Format, Layout, render};
use crate::output::template::{Methods, NoMethods, Value};
use crate::output::units::{go_time, human_size, since};

const LAYOUT: Layout = Layout {
    headings: &[
        ("Containers", "CONTAINERS"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("SharedSize", "SHARED SIZE"),
        ("Size", "SIZE"),
        ("Tag", "TAG"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("VirtualSize", "SIZE"),
    ],
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
};

const WITH_DIGESTS: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// What a column shows that has nothing to show.
const NONE: &str = "<none>";

/// Lists images.
///
/// # Errors
/// When a filter or the format is wrong, or the store cannot be read.
pub fn run(arguments: ListImagesArgs, context: &Context) -> Result<u8, Failure> {
    let others = [("quiet", arguments.quiet), ("digests", arguments.digests), ("format", arguments.format.is_some())];
    if let Some((flag, _)) = others.iter().find(|(_, given)| arguments.tree && *given) {
        return Err(Failure::Arguments(format!("--{flag} cannot be used with --tree")));
    }
    let default = if arguments.digests { WITH_DIGESTS } else { LAYOUT.default };
    let format = match (arguments.quiet, arguments.format.as_deref()) {
        (true, None | Some("table" | "")) => Format::parse(Some("{{.ID}}"), default)?,
        (_, format) => Format::parse(format, default)?,
    };
    let engine = context.engine()?;
    let images = listed(&engine, &arguments)?;
    if arguments.tree {
        let images: Vec<Image> = images.into_iter().map(|(image, _)| image).collect();
        write_stdout(tree(&engine, &images, !arguments.no_trunc)?.as_bytes())?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let rows: Vec<_> = images
        .iter()
        .flat_map(|(image, names)| rows(image, names, arguments.digests, !arguments.no_trunc, now))
        .map(|row| (row, Box::new(NoMethods) as Box<dyn Methods>))
        .collect();
    write_stdout(render(&LAYOUT, &format, &rows)?.as_bytes())?;
    Ok(0)
}

/// The images that match, each with those of its names that do.
fn listed(engine: &Engine, arguments: &ListImagesArgs) -> Result<Vec<(Image, Vec<Reference>)>, Failure> {
    let images = engine.images()?;
    let filter = ImageFilter::parse(&arguments.filter, arguments.repository.as_deref(), &images)?;
    Ok(images
        .into_iter()
        .filter(|image| filter.takes(image))
        .filter_map(|image| {
            let names = filter.names(&image)?;
            Some((image, names))
        })
        .collect())
}

/// The rows of one image.
fn rows(image: &Image, names: &[Reference], digests: bool, short: bool, now: Timestamp) -> Vec<Value> {
    let mut repositories: Vec<String> = names.iter().map(Reference::familiar_name).collect();
    repositories.dedup();
    let row = |repository: &str, tag: &str, digest: &str| fields(image, repository, tag, digest, short, now);
    if repositories.is_empty() {
        return vec![row(NONE, NONE, NONE)];
    }
    let mut rows = Vec::new();
    for repository in &repositories {
        let of_this = || names.iter().filter(|name| name.familiar_name() == *repository);
        let tags: Vec<&str> = of_this().filter(|n| n.digest.is_none()).filter_map(|n| n.tag.as_deref()).collect();
        let known: Vec<&str> = of_this().filter_map(|name| name.digest.as_ref()).map(Digest::as_str).collect();
        let tags = if tags.is_empty() { vec![NONE] } else { tags };
        let known = if known.is_empty() || !digests { vec![*known.first().unwrap_or(&NONE)] } else { known };
        for tag in &tags {
            rows.extend(known.iter().map(|digest| row(repository, tag, digest)));
        }
    }
    rows
}

/// The fields of a row, sorted by name as docker's JSON has them.
fn fields(image: &Image, repository: &str, tag: &str, digest: &str, short: bool, now: Timestamp) -> Value {
    let id = if short { image.id.hex().get(..12).unwrap_or(image.id.hex()) } else { image.id.as_str() };
    let size = human_size(image.size_bytes, 3);
    let fields = [
        ("Containers", "N/A".to_owned()),
        ("CreatedAt", image.created.map_or_else(|| "N/A".to_owned(), go_time)),
        ("CreatedSince", since(image.created, now)),
        ("Digest", digest.to_owned()),
        ("ID", id.to_owned()),
        ("Repository", repository.to_owned()),
        ("SharedSize", "N/A".to_owned()),
        ("Size", size.clone()),
        ("Tag", tag.to_owned()),
        ("UniqueSize", "N/A".to_owned()),
        ("VirtualSize", size),
    ];
    Value::Map(fields.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text))).collect())
}
