//! `hull manifest`: what a name leads to on a registry, as it is there, and what refers to it.

use std::fmt::Write as _;

use hull_image::registry::NamedManifest;
use hull_oci::image::{is_index, is_manifest};
use hull_oci::{Digest, Reference};
use serde_json::{Value, json};

use super::{Context, write_stdout};
use crate::args::images::{ManifestInspectArgs, ReferrersArgs};
use crate::error::Failure;
use crate::output::template::{Template, Value as TemplateValue};

/// `manifest inspect`: prints a manifest or index, with `-v` each platform's with its address.
///
/// # Errors
/// The registry's.
pub fn inspect(arguments: ManifestInspectArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let reference = Reference::parse(&arguments.name).map_err(hull_engine::EngineError::from)?;
    let get = |reference: &Reference| engine.manifest(reference).map_err(Failure::of_image(&reference.familiar()));
    let found = get(&reference)?;
    if !arguments.verbose {
        write_stdout(indented(&String::from_utf8_lossy(&found.bytes)).as_bytes())?;
        return Ok(0);
    }
    let value: Value = serde_json::from_slice(&found.bytes)?;
    let text = match is_index(media_type(&found, &value)) {
        false => verbose(&reference, &found, Value::Null)?,
        true => {
            let mut all = Vec::new();
            for entry in value["manifests"].as_array().into_iter().flatten() {
                let digest = entry["digest"].as_str().and_then(|text| Digest::parse(text).ok());
                let Some(digest) = digest else { continue };
                let child = reference.with_digest(digest);
                all.push(verbose(&child, &get(&child)?, entry["platform"].clone())?);
            }
            Value::Array(all)
        }
    };
    write_stdout(indented(&text.to_string()).as_bytes())?;
    Ok(0)
}

/// What a document says that it is, else what the registry said.
fn media_type<'v>(found: &'v NamedManifest, value: &'v Value) -> &'v str {
    match value["mediaType"].as_str() {
        Some(inside) => inside,
        None if found.media_type.is_empty() && value["manifests"].is_array() => hull_oci::image::OCI_INDEX,
        None => &found.media_type,
    }
}

/// A manifest with its address and descriptor, as docker's `-v` prints it.
fn verbose(reference: &Reference, found: &NamedManifest, platform: Value) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(&found.bytes)?;
    let kind = media_type(found, &value);
    let mut descriptor = json!({"mediaType": kind, "digest": found.digest, "size": found.bytes.len()});
    if !platform.is_null() {
        descriptor["platform"] = platform;
    }
    let name = match kind {
        hull_oci::image::DOCKER_MANIFEST => "SchemaV2Manifest",
        _ if is_manifest(kind) => "OCIManifest",
        _ => "Manifest",
    };
    let raw = hull_image::registry::encode_base64(&found.bytes);
    Ok(json!({"Ref": reference.to_string(), "Descriptor": descriptor, "Raw": raw, name: value}))
}

/// JSON on many lines, with docker's indentation; nothing but space is changed, so the order of fields stays.
fn indented(text: &str) -> String {
    let (mut out, mut depth, mut in_text, mut escaped) = (String::new(), 0_usize, false, false);
    let mut characters = text.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("   ", depth));
    };
    while let Some(character) = characters.next() {
        if in_text {
            out.push(character);
            in_text = escaped || character != '"';
            escaped = character == '\\' && !escaped;
            continue;
        }
        match character {
            ' ' | '\t' | '\r' | '\n' => {}
            '{' | '[' => {
                out.push(character);
                while characters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                if characters.peek().is_some_and(|next| !matches!(next, '}' | ']')) {
                    depth += 1;
                    line(&mut out, depth);
                } else {
                    out.extend(characters.next());
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(character);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            other => {
                in_text = other == '"';
                out.push(other);
            }
        }
    }
    out.push('\n');
    out
}

/// `manifest referrers`: lists signatures, attestations and other artifacts of an image.
///
/// # Errors
/// The registry's, or when `--format` is wrong.
pub fn referrers(arguments: ReferrersArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let reference = Reference::parse(&arguments.name).map_err(hull_engine::EngineError::from)?;
    let found = engine.referrers(&reference, arguments.artifact_type.as_deref());
    let (digest, found) = found.map_err(Failure::of_image(&reference.familiar()))?;
    let mut text = String::new();
    match arguments.format.as_deref() {
        None | Some("table") => {
            let width = found.iter().map(|referrer| referrer.artifact_type.len()).max().unwrap_or_default().max(13);
            let _ = writeln!(text, "{:71}   {:width$}   SIZE", "DIGEST", "ARTIFACT TYPE");
            for referrer in &found {
                let size = crate::output::units::human_size(referrer.size_bytes, 3);
                let _ = writeln!(text, "{:71}   {:width$}   {size}", referrer.digest, referrer.artifact_type);
            }
        }
        Some("json") => {
            let index = json!({
                "schemaVersion": 2, "mediaType": hull_oci::image::OCI_INDEX, "subject": digest, "manifests": found,
            });
            let _ = writeln!(text, "{index}");
        }
        Some(template) => {
            let template = Template::parse(template)?;
            for referrer in &found {
                let _ = writeln!(text, "{}", template.render(&TemplateValue::of(&Row::from(referrer))?)?);
            }
        }
    }
    write_stdout(text.as_bytes())?;
    Ok(0)
}

/// The fields for `--format`.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    digest: String,
    artifact_type: String,
    media_type: String,
    size: u64,
}

impl From<&hull_image::registry::Referrer> for Row {
    fn from(referrer: &hull_image::registry::Referrer) -> Row {
        Row {
            digest: referrer.digest.to_string(),
            artifact_type: referrer.artifact_type.clone(),
            media_type: referrer.media_type.clone(),
            size: referrer.size_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_keeps_its_order() {
        let text = r#"{"b":1,"a":[ {}, [] ,{"x":"{\"}:,"}], "c" : null}"#;
        let expected = "{\n   \"b\": 1,\n   \"a\": [\n      {},\n      [],\n      {\n         \"x\": \"{\\\"}:,\"\n      }\n   ],\n   \"c\": null\n}\n";
        assert_eq!(indented(text), expected);
        let again: Value = serde_json::from_str(&indented(text)).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn verbose_has_docker_s_fields() {
        let bytes = br#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#;
        let found =
            NamedManifest { digest: Digest::sha256_of(bytes), media_type: String::new(), bytes: bytes.to_vec() };
        let value = verbose(&Reference::parse("x").unwrap(), &found, json!({"os": "linux"})).unwrap();
        assert_eq!(value["Ref"], "docker.io/library/x:latest");
        assert_eq!(value["Descriptor"]["size"], bytes.len());
        assert_eq!(value["Descriptor"]["platform"]["os"], "linux");
        assert_eq!(value["SchemaV2Manifest"]["schemaVersion"], 2);
    }
}
