//! A registry on a loopback port, which can be told to misbehave.
//!
//! It speaks enough HTTP/1.1 for pulls and pushes with keep-alive. Before its own answer it asks the test's script,
//! whose reply comes first; what it was asked is kept for the test to look at.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use hull_oci::Reference;

use crate::fixture::{Blob, TestImage};

/// What came in.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl Request {
    /// First and, where it is named, last byte of the range asked for.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (from, to) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()))
    }
}

/// What goes out.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Announce the whole body but close the connection after so many bytes of it.
    pub cut_after: Option<usize>,
    /// Announce no length.
    pub no_length: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#))
    }
}

type Script = dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync;

struct State {
    /// Path to media type and bytes.
    documents: Mutex<HashMap<String, Blob>>,
    /// What uploads have so far, by path.
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    sessions: AtomicUsize,
    /// Every request, in order.
    requests: Mutex<Vec<Request>>,
    script: Box<Script>,
}

/// A running registry; its threads end with the test process.
pub struct Server {
    pub host: String,
    state: Arc<State>,
}

impl Server {
    /// A registry that always behaves.
    pub fn new() -> Self {
        Self::with(|_, _| None)
    }

    /// A registry that always behaves and speaks TLS alone, with a certificate for `localhost` by an authority of its
    /// own, which comes back in PEM.
    pub fn with_tls() -> (Self, String) {
        let authority_key = rcgen::KeyPair::generate().expect("key");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&authority_key).expect("signs");
        let issuer = rcgen::Issuer::from_params(&parameters, &authority_key);
        let key = rcgen::KeyPair::generate().expect("key");
        let names = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = names.signed_by(&key, &issuer).expect("signs");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a certificate and its key");
        let mut server = Self::start(|_, _| None, Some(Arc::new(config)));
        server.host = server.host.replace("127.0.0.1", "localhost");
        (server, authority.pem())
    }

    /// A registry whose script sees each request and how often that path was asked for before.
    pub fn with(script: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::start(script, None)
    }

    fn start(
        script: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let host = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(State {
            documents: Mutex::default(),
            uploads: Mutex::default(),
            sessions: AtomicUsize::new(0),
            requests: Mutex::default(),
            script: Box::new(script),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                let tls = tls.clone();
                thread::spawn(move || match tls {
                    None => serve(&state, stream),
                    Some(config) => {
                        let session = rustls::ServerConnection::new(config).expect("a session");
                        serve(&state, rustls::StreamOwned::new(session, stream));
                    }
                });
            }
        });
        Self { host, state }
    }

    pub fn reference(&self, rest: &str) -> Reference {
        Reference::parse(&format!("{}/{rest}", self.host)).expect("reference")
    }

    pub fn put_manifest(&self, repository: &str, target: &str, manifest: &Blob) {
        let mut documents = self.state.documents.lock().expect("no panic");
        for target in [target, manifest.digest().as_str()] {
            documents.insert(format!("/v2/{repository}/manifests/{target}"), manifest.clone());
        }
    }

    pub fn put_blob(&self, repository: &str, blob: &Blob) {
        let path = format!("/v2/{repository}/blobs/{}", blob.digest());
        self.state.documents.lock().expect("no panic").insert(path, blob.clone());
    }

    pub fn put_at(&self, path: &str, blob: &Blob) {
        self.state.documents.lock().expect("no panic").insert(path.to_owned(), blob.clone());
    }

    pub fn put_image(&self, repository: &str, tag: &str, image: &TestImage) {
        self.put_manifest(repository, tag, &image.manifest);
        for blob in image.layers.iter().chain([&image.config]) {
            self.put_blob(repository, blob);
        }
    }

    /// What is there under a path.
    pub fn document(&self, path: &str) -> Option<Blob> {
        self.state.documents.lock().expect("no panic").get(path).cloned()
    }

    /// How many requests of a method had this in their path.
    pub fn count_of(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|request| request.method == method && request.path.contains(part)).count()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("no panic").clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }
}

fn serve(state: &State, stream: impl Read + Write) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let earlier = {
            let mut requests = state.requests.lock().expect("no panic");
            requests.push(request.clone());
            requests.iter().filter(|earlier| earlier.path == request.path).count() - 1
        };
        let reply = (state.script)(&request, earlier).unwrap_or_else(|| own_reply(state, &request));
        if !write_reply(reader.get_mut(), &reply, request.method == "HEAD") {
            break;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let name = name.to_ascii_lowercase();
        let earlier = headers.remove(&name).map(|earlier: String| earlier + ", ").unwrap_or_default();
        headers.insert(name, earlier + value.trim());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

fn own_reply(state: &State, request: &Request) -> Reply {
    if request.path == "/v2/" {
        return Reply::new(200, "{}");
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") || request.path.contains("/uploads/") {
        return taken(state, request);
    }
    let documents = state.documents.lock().expect("no panic");
    let Some(blob) = documents.get(&request.path) else {
        let code = if request.path.contains("/manifests/") { "MANIFEST_UNKNOWN" } else { "BLOB_UNKNOWN" };
        return Reply::error(404, code, &code.to_lowercase().replace('_', " "));
    };
    let reply = match request.range() {
        Some((from, end)) if from < blob.bytes.len() => {
            let length = blob.bytes.len();
            let last = end.unwrap_or(length - 1).min(length - 1);
            let partial = Reply::new(206, &blob.bytes[from..=last]);
            partial.header("Content-Range", format!("bytes {from}-{last}/{length}"))
        }
        _ => Reply::new(200, blob.bytes.clone()),
    };
    reply.header("Content-Type", &blob.media_type).header("Docker-Content-Digest", blob.digest())
}

/// Takes a part of a push.
fn taken(state: &State, request: &Request) -> Reply {
    let mut documents = state.documents.lock().expect("no panic");
    let mut uploads = state.uploads.lock().expect("no panic");
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let repository = path.strip_prefix("/v2/").and_then(|path| path.split("/blobs/").next()).unwrap_or_default();
    match request.method.as_str() {
        "POST" => {
            let mounted = value("mount").zip(value("from")).and_then(|(digest, from)| {
                let blob = documents.get(&format!("/v2/{from}/blobs/{digest}"))?.clone();
                documents
                    .insert(format!("/v2/{repository}/blobs/{digest}"), blob)
                    .is_none()
                    .then(|| Reply::new(201, "").header("Location", format!("/v2/{repository}/blobs/{digest}")))
            });
            let session = format!("{path}{}", state.sessions.fetch_add(1, Ordering::Relaxed));
            mounted.unwrap_or_else(|| {
                uploads.insert(session.clone(), Vec::new());
                Reply::new(202, "").header("Location", session).header("Range", "0-0")
            })
        }
        "PATCH" | "GET" => {
            let Some(so_far) = uploads.get_mut(path) else { return Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "gone") };
            let begins_at = request.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
            if begins_at.is_some_and(|begin: usize| begin != so_far.len()) {
                return Reply::error(416, "RANGE_INVALID", "not where it ended");
            }
            so_far.extend_from_slice(&request.body);
            let status = if request.method == "GET" { 204 } else { 202 };
            let range = format!("0-{}", so_far.len().saturating_sub(1));
            Reply::new(status, "").header("Location", path).header("Range", range)
        }
        "PUT" if path.contains("/manifests/") => {
            let media_type = request.header("content-type").unwrap_or_default();
            let manifest = Blob::new(media_type, request.body.clone());
            let digest = manifest.digest();
            let by_digest = format!("{}/{digest}", path.rsplit_once('/').expect("a path").0);
            documents.insert(by_digest, manifest.clone());
            documents.insert(path.to_owned(), manifest);
            Reply::new(201, "").header("Docker-Content-Digest", digest)
        }
        _ => {
            let Some(mut bytes) = uploads.remove(path) else { return Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "gone") };
            bytes.extend_from_slice(&request.body);
            let blob = Blob::new("application/octet-stream", bytes);
            let digest = blob.digest().to_string();
            if value("digest") != Some(&digest) {
                return Reply::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
            }
            documents.insert(format!("/v2/{repository}/blobs/{digest}"), blob);
            Reply::new(201, "")
        }
    }
}

/// False when the connection is to be closed.
fn write_reply(stream: &mut impl Write, reply: &Reply, is_head: bool) -> bool {
    let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.no_length {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    let body = if is_head { &[][..] } else { &reply.body[..reply.cut_after.unwrap_or(reply.body.len())] };
    let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    written.is_ok() && reply.cut_after.is_none()
}
