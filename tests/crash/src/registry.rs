//! A registry on loopback that has the images and always behaves.
//!
//! It answers GET and HEAD of manifests and blobs, whole or from an offset (RFC 9110, section 14), and keeps connections
//! open. What clients that die leave of their connections is dropped.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use serde_json::json;

use crate::images::{Image, compressed, digest};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Document {
    kind: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

/// Serves the images for as long as this process lives.
pub fn serve(images: &[Image], address: &str) -> Result<SocketAddr> {
    let documents = Arc::new(documents(images));
    let listener = TcpListener::bind(address).context("a port on loopback")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let documents = Arc::clone(&documents);
            thread::spawn(move || speak(&documents, &stream));
        }
    });
    Ok(address)
}

fn documents(images: &[Image]) -> HashMap<String, Document> {
    let mut all = HashMap::new();
    for image in images {
        let layers: Vec<Vec<u8>> = image.layers.iter().map(|layer| compressed(layer)).collect();
        let described = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described("config.v1+json", &image.config),
            "layers": layers.iter().map(|layer| described("layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).expect("JSON from JSON");
        for blob in layers.into_iter().chain([image.config.clone()]) {
            let digest = digest(&blob);
            let path = format!("/v2/{}/blobs/{digest}", image.repository);
            all.insert(path, Document { kind: "application/octet-stream", digest, bytes: blob });
        }
        for reference in ["latest".to_owned(), digest(&manifest)] {
            let path = format!("/v2/{}/manifests/{reference}", image.repository);
            all.insert(path, Document { kind: MANIFEST, digest: digest(&manifest), bytes: manifest.clone() });
        }
    }
    all
}

fn speak(documents: &HashMap<String, Document>, stream: &TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        let mut from = None;
        loop {
            let line = lines.next()?.ok()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            let range = line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-'));
            from = range.map_or(from, |(first, last)| Some((first.parse().ok(), last.parse().ok())));
        }
        let mut words = request.split(' ');
        let (verb, path) = (words.next()?, words.next()?);
        answer(stream, verb, documents.get(path), path == "/v2/", from)?;
    }
}

type Range = (Option<usize>, Option<usize>);

fn answer(
    mut stream: &TcpStream,
    verb: &str,
    document: Option<&Document>,
    is_root: bool,
    range: Option<Range>,
) -> Option<()> {
    let Some(document) = document else {
        let status = if is_root { "200 OK" } else { "404 Not Found" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
        return stream.write_all(head.as_bytes()).ok();
    };
    let length = document.bytes.len();
    let (status, begin, end) = match range {
        Some((Some(first), last)) if first < length => {
            let end = last.map_or(length, |last| (last + 1).min(length));
            (format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{length}", end - 1), first, end)
        }
        _ => ("200 OK".to_owned(), 0, length),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nDocker-Content-Digest: {}\r\nAccept-Ranges: bytes\r\n\
         Content-Length: {}\r\n\r\n",
        document.kind,
        document.digest,
        end - begin
    );
    stream.write_all(head.as_bytes()).ok()?;
    if verb == "HEAD" { Some(()) } else { stream.write_all(&document.bytes[begin..end]).ok() }
}
