//! A registry on loopback that answers what a test tells it to, right or wrong.
//!
//! It speaks just enough HTTP/1.1 for one client after another: a GET or HEAD is answered from a table of paths, from
//! an offset when one is asked for, and the connection is closed. A body may be cut short, so that the length that was
//! promised never comes, or stop without an end.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::archive::{Image, digest};

/// One answer.
#[derive(Clone)]
pub struct Answer {
    /// `Content-Type`.
    pub kind: &'static str,
    /// The body that is promised.
    pub body: Vec<u8>,
    /// How much of it is sent.
    pub sent: usize,
    /// Whether the connection then stays open in silence, until somebody asks for what is missing.
    pub stalls: bool,
}

/// What a registry answers for each path.
#[derive(Clone, Default)]
pub struct Registry {
    answers: HashMap<String, Answer>,
    ranges: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    /// A registry with one image, `NAME:latest`.
    pub fn with(name: &str, image: &Image) -> Registry {
        let mut registry = Registry::default();
        let config = image.document();
        let described = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", &config),
            "layers": image.layers.iter().map(|layer| described("layer.v1.tar", layer)).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).expect("JSON from JSON");
        for blob in image.layers.iter().chain([&config]) {
            registry.answer(format!("/v2/{name}/blobs/{}", digest(blob)), "application/octet-stream", blob.clone());
        }
        for reference in ["latest".to_owned(), digest(&manifest)] {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            registry.answer(format!("/v2/{name}/manifests/{reference}"), kind, manifest.clone());
        }
        registry
    }

    /// With what another one answers as well.
    pub fn and(mut self, other: Registry) -> Registry {
        self.answers.extend(other.answers);
        self
    }

    fn answer(&mut self, path: String, kind: &'static str, body: Vec<u8>) {
        let sent = body.len();
        self.answers.insert(path, Answer { kind, body, sent, stalls: false });
    }

    /// Changes the answer for the blob with these bytes.
    pub fn spoil(&mut self, blob: &[u8], change: impl Fn(&mut Answer)) {
        let digest = digest(blob);
        let answers = self.answers.iter_mut().filter(|(path, _)| path.ends_with(&digest));
        answers.for_each(|(_, answer)| change(answer));
    }

    /// What clients have asked for with `Range: bytes=`, so far.
    pub fn ranges(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(&self.ranges)
    }

    /// Serves until the test process ends, and returns the address.
    pub fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let registry = self.clone();
                thread::spawn(move || registry.speak(stream));
            }
        });
        address
    }

    fn speak(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let request = lines.next()?.ok()?;
        let mut from = 0;
        loop {
            let line = lines.next()?.ok()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                self.ranges.lock().expect("no panic").push(range.to_owned());
                from = range.strip_suffix('-').and_then(|first| first.parse().ok()).unwrap_or(0);
            }
        }
        let mut words = request.split(' ');
        let (verb, path) = (words.next()?, words.next()?);
        let answer = match self.answers.get(path) {
            Some(answer) => answer.clone(),
            None => Answer { kind: "application/json", body: b"{}".to_vec(), sent: 2, stalls: false },
        };
        let goes_on = answer.stalls && !self.ranges.lock().expect("no panic").is_empty();
        let (from, sent) = (from.min(answer.body.len()), if goes_on { answer.body.len() } else { answer.sent });
        let found = path == "/v2/" || self.answers.contains_key(path);
        let status = match (found, from) {
            (false, _) => "404 Not Found".to_owned(),
            (true, 0) => "200 OK".to_owned(),
            (true, _) => {
                let length = answer.body.len();
                format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{length}", length - 1)
            }
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.kind,
            answer.body.len() - from
        );
        stream.write_all(head.as_bytes()).ok()?;
        if verb == "GET" {
            stream.write_all(&answer.body[from..sent.max(from)]).ok()?;
            if answer.stalls && sent < answer.body.len() {
                // The client's end ends it.
                let _ = stream.read(&mut [0]);
            }
        }
        Some(())
    }
}

/// An address on loopback where nobody answers.
pub fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    listener.local_addr().expect("an address")
}
