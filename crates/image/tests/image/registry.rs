//! Pulls from a registry that behaves, and from ones that do not.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hull_image::registry::{
    PullOptions, PulledImage, RegistryError, RegistryName, RegistrySettings, TransportError, pull,
};
use hull_image::{IgnoreLayers, ImageStore, LayerEvent, ManifestError, NoProgress};
use hull_oci::image as media;
use hull_oci::{Digest, Platform, Reference};
use serde_json::json;

use crate::fixture::{Blob, CheckingSink, Hull, Recorder, TestImage, manifest_of, noise, tar_of, told};
use crate::server::{Reply, Request, Server};

pub fn options() -> PullOptions {
    PullOptions {
        docker_config: Some("/nowhere/config.json".into()),
        first_pause: Duration::from_millis(1),
        attempts: 3,
        ..PullOptions::default()
    }
}

/// With settings for one registry.
fn with_settings(server: &Server, settings: RegistrySettings) -> PullOptions {
    let name = RegistryName::parse(&server.host).expect("a registry");
    PullOptions { registries: [(name, settings)].into(), ..options() }
}

fn quiet_pull<'a>(images: &'a ImageStore<'a>, reference: &Reference) -> Result<PulledImage<'a>, RegistryError> {
    pull(images, reference, &options(), &IgnoreLayers, &NoProgress)
}

/// Pulls, expects failure, and that nothing is left.
fn failure(reference: &Reference, options: &PullOptions) -> RegistryError {
    let hull = Hull::new();
    let error = pull(&hull.images(), reference, options, &IgnoreLayers, &NoProgress).expect_err("must fail");
    hull.assert_empty();
    error
}

fn two_layers() -> TestImage {
    TestImage::new("amd64", &[tar_of(&["etc/one"], 1000), tar_of(&["etc/two"], 10)])
}

#[test]
fn a_pull_brings_verified_layers_and_names() {
    let (server, hull, image) = (Server::new(), Hull::new(), two_layers());
    server.put_image("a/debian", "12", &image);
    let (sink, progress) = (CheckingSink::default(), Recorder::default());
    let reference = server.reference("a/debian:12");
    let images = hull.images();
    let pulled = pull(&images, &reference, &options(), &sink, &progress).expect("pulls");
    assert_eq!((&pulled.digest, pulled.up_to_date), (&image.manifest.digest(), false));
    assert!(images.resolve(&reference.to_string()).expect("reads").is_none(), "present only when added");
    let stored = images.add(&pulled.image).expect("adds");
    drop(pulled);
    assert_eq!(stored.id, image.id());
    assert_eq!(stored.tags(), [reference.familiar()]);
    assert_eq!(stored.digests(), [reference.with_digest(image.manifest.digest()).familiar()]);
    assert_eq!(stored.layers.len(), 2);
    assert_eq!(stored.execution().cmd, ["/bin/sh"]);
    assert_eq!(stored.created.expect("dated").to_string(), "2025-03-04T05:06:07Z");
    let mut delivered = sink.delivered.into_inner().expect("no panic");
    delivered.sort_unstable();
    assert_eq!(delivered, [0, 1]);
    assert_eq!(progress.count(|event| *event == LayerEvent::Downloaded), 2);
    assert_eq!((hull.files(), hull.rows("blobs"), hull.rows("holds")), (4, 4, 0));
}

#[test]
fn a_second_pull_fetches_no_layer() {
    let (server, hull, image) = (Server::new(), Hull::new(), two_layers());
    server.put_image("a", "latest", &image);
    let (reference, images) = (server.reference("a"), hull.images());
    let first = quiet_pull(&images, &reference).expect("pulls");
    images.add(&first.image).expect("adds");
    drop(first);
    let progress = Recorder::default();
    let sink = CheckingSink::default();
    let again = pull(&images, &reference, &options(), &sink, &progress).expect("pulls");
    assert!(again.up_to_date);
    images.add(&again.image).expect("adds");
    assert_eq!(progress.count(|event| *event == LayerEvent::Exists), 2);
    assert_eq!(server.count("/blobs/"), 3, "config and two layers, once");
    assert_eq!(sink.delivered.into_inner().expect("no panic").len(), 2, "the sink decides what it has");
}

#[test]
fn a_pull_that_is_not_added_leaves_nothing() {
    let (server, hull) = (Server::new(), Hull::new());
    server.put_image("a", "latest", &two_layers());
    let images = hull.images();
    drop(quiet_pull(&images, &server.reference("a")).expect("pulls"));
    hull.assert_empty();
}

#[test]
fn a_moved_tag_leaves_the_old_image_by_digest() {
    let (server, hull, old) = (Server::new(), Hull::new(), two_layers());
    let new = TestImage::new("amd64", &[tar_of(&["etc/one"], 1000)]);
    let (reference, images) = (server.reference("a"), hull.images());
    for image in [&old, &new] {
        server.put_image("a", "latest", image);
        let pulled = quiet_pull(&images, &reference).expect("pulls");
        images.add(&pulled.image).expect("adds");
    }
    let found = images.resolve(&reference.familiar()).expect("reads").expect("present");
    assert_eq!(found.id, new.id());
    let old = images.get(&old.id()).expect("reads").expect("still there");
    assert!(old.tags().is_empty() && old.digests().len() == 1);
}

#[test]
fn an_index_is_followed_by_platform() {
    let (server, hull) = (Server::new(), Hull::new());
    let (amd, arm) = (two_layers(), TestImage::new("arm64", &[tar_of(&["arm"], 1)]));
    let entry = |image: &TestImage, architecture: &str| {
        let mut entry = image.manifest.descriptor();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let attestation = {
        let mut entry = Blob::new(media::OCI_MANIFEST, "{}").descriptor();
        entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        entry
    };
    let entries = [attestation, entry(&amd, "amd64"), entry(&arm, "arm64")];
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries});
    let index = Blob::new(media::OCI_INDEX, index.to_string());
    for image in [&amd, &arm] {
        server.put_image("a", "unused", image);
    }
    server.put_manifest("a", "latest", &index);
    let (reference, images) = (server.reference("a"), hull.images());
    for (platform, image) in [("linux/amd64", &amd), ("linux/arm64", &arm)] {
        let options = PullOptions { platform: Some(Platform::parse(platform).expect("platform")), ..options() };
        let pulled = pull(&images, &reference, &options, &CheckingSink::default(), &NoProgress).expect("pulls");
        assert_eq!((&pulled.image.id, &pulled.digest), (&image.id(), &index.digest()));
        assert_eq!(pulled.image.manifest_digest, Some(image.manifest.digest()));
        let stored = images.add(&pulled.image).expect("adds");
        assert_eq!(stored.digests(), [reference.with_digest(index.digest()).familiar()]);
    }
    let options = PullOptions { platform: Some(Platform::parse("linux/riscv64").expect("platform")), ..options() };
    let error = told(&failure(&reference, &options));
    assert!(error.contains("linux/riscv64; available: linux/amd64, linux/arm64"), "{error}");
}

#[test]
fn an_image_for_another_platform_is_refused_or_warned_about() {
    let (server, hull) = (Server::new(), Hull::new());
    server.put_image("a", "latest", &TestImage::new("s390x", &[tar_of(&["x"], 1)]));
    let images = hull.images();
    let progress = Recorder::default();
    drop(pull(&images, &server.reference("a"), &options(), &IgnoreLayers, &progress).expect("pulls"));
    assert!(progress.warnings.into_inner().expect("no panic")[0].contains("linux/s390x"));
    let options = PullOptions { platform: Some(Platform::host()), ..options() };
    let error = failure(&server.reference("a"), &options);
    assert!(
        matches!(&error, RegistryError::Manifest { source, .. } if matches!(**source, ManifestError::Platform { .. })),
        "{error:?}"
    );
}

#[test]
fn a_digest_is_pulled_as_such_and_must_match() {
    let (server, hull, image) = (Server::new(), Hull::new(), two_layers());
    server.put_image("a", "latest", &image);
    let images = hull.images();
    let reference = server.reference(&format!("a:tag@{}", image.manifest.digest()));
    let pulled = quiet_pull(&images, &reference).expect("pulls");
    let stored = images.add(&pulled.image).expect("adds");
    assert!(stored.tags().is_empty() && stored.digests().len() == 1);
    assert!(images.resolve(&reference.to_string()).expect("reads").is_some(), "the tag says nothing");

    let liar = Server::with(|request, _| request.path.contains("/manifests/").then(|| Reply::new(200, "{}")));
    let wanted = image.manifest.digest();
    let error = failure(&liar.reference(&format!("a@{wanted}")), &options());
    assert!(matches!(&error, RegistryError::WrongDigest { expected, .. } if *expected == wanted), "{error:?}");
}

#[test]
fn wrong_layer_bytes_are_refused() {
    let image = two_layers();
    let (right, length) = (image.layers[0].digest(), image.layers[0].bytes.len());
    let path = format!("/blobs/{right}");
    let server =
        Server::with(move |request, _| request.path.ends_with(&path).then(|| Reply::new(200, vec![7; length])));
    server.put_image("a", "latest", &image);
    let error = failure(&server.reference("a"), &options());
    assert!(matches!(&error, RegistryError::WrongDigest { expected, .. } if *expected == right), "{error:?}");
    assert!(error.to_string().contains(&server.host), "{error}");
}

#[test]
fn wrong_sizes_are_refused() {
    for (length, announced) in [(5, true), (50_000, true), (50_000, false)] {
        let image = two_layers();
        let path = format!("/blobs/{}", image.layers[0].digest());
        let server = Server::with(move |request, _| {
            let reply = Reply::new(200, vec![7; length]);
            let reply = if announced { reply } else { chunked(&reply.body) };
            request.path.ends_with(&path).then_some(reply)
        });
        server.put_image("a", "latest", &image);
        let error = failure(&server.reference("a"), &options());
        assert!(matches!(error, RegistryError::WrongSize { .. }), "{length} {announced}: {error:?}");
    }
}

/// A body whose length is not announced.
fn chunked(body: &[u8]) -> Reply {
    let mut framed = format!("{:x}\r\n", body.len()).into_bytes();
    framed.extend_from_slice(body);
    framed.extend_from_slice(b"\r\n0\r\n\r\n");
    Reply { no_length: true, ..Reply::new(200, framed).header("Transfer-Encoding", "chunked") }
}

#[test]
fn a_truncated_layer_is_tried_again_and_goes_on_where_it_broke() {
    let image = TestImage::new("amd64", &[noise_tar(300_000)]);
    let blob = image.layers[0].clone();
    let path = format!("/blobs/{}", blob.digest());
    let server = Server::with(move |request, earlier| {
        let cut = Reply { cut_after: Some(100_000), ..Reply::new(200, blob.bytes.clone()) };
        (request.path.ends_with(&path) && earlier == 0).then_some(cut)
    });
    server.put_image("a", "latest", &image);
    let (hull, progress) = (Hull::new(), Recorder::default());
    let images = hull.images();
    let sink = ByteSink::default();
    let pulled = pull(&images, &server.reference("a"), &options(), &sink, &progress).expect("pulls");
    assert_eq!(pulled.image.id, image.id());
    assert_eq!(sink.0.into_inner().expect("no panic"), image.layers[0].bytes);
    assert_eq!(progress.count(|event| matches!(event, LayerEvent::Retrying { attempt: 2, .. })), 1);
    let ranges: Vec<Option<String>> = server
        .requests()
        .iter()
        .filter(|request| request.path.ends_with(image.layers[0].digest().as_str()))
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
}

#[test]
fn a_server_without_ranges_begins_again() {
    let image = TestImage::new("amd64", &[noise_tar(300_000)]);
    let blob = image.layers[0].clone();
    let path = format!("/blobs/{}", blob.digest());
    let server = Server::with(move |request, earlier| {
        let whole = Reply::new(200, blob.bytes.clone());
        let reply = if earlier == 0 { Reply { cut_after: Some(123), ..whole } } else { whole };
        request.path.ends_with(&path).then_some(reply)
    });
    server.put_image("a", "latest", &image);
    let hull = Hull::new();
    let (images, sink) = (hull.images(), ByteSink::default());
    drop(pull(&images, &server.reference("a"), &options(), &sink, &NoProgress).expect("pulls"));
    assert_eq!(sink.0.into_inner().expect("no panic"), image.layers[0].bytes);
}

#[test]
fn a_layer_that_is_always_truncated_fails() {
    let image = TestImage::new("amd64", &[noise_tar(300_000)]);
    let blob = image.layers[0].clone();
    let path = format!("/blobs/{}", blob.digest());
    let server = Server::with(move |request, _| {
        let cut = Reply { cut_after: Some(10), ..Reply::new(200, blob.bytes.clone()) };
        request.path.ends_with(&path).then_some(cut)
    });
    server.put_image("a", "latest", &image);
    let error = failure(&server.reference("a"), &options());
    assert!(matches!(error, RegistryError::Truncated { received_bytes: 10, attempts: 3, .. }), "{error:?}");
}

pub fn noise_tar(length: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    crate::fixture::append(&mut builder, "noise", &noise(length, 1));
    builder.into_inner().expect("memory")
}

/// Keeps the bytes of the only layer.
#[derive(Default)]
pub struct ByteSink(pub Mutex<Vec<u8>>);

impl hull_image::LayerSink for ByteSink {
    fn layer(
        &self,
        _index: usize,
        _layer: &hull_image::LayerDescriptor,
        mut packed: hull_image::PackedLayer,
    ) -> Result<(), hull_image::SinkError> {
        let mut bytes = Vec::new();
        packed.read_to_end(&mut bytes)?;
        *self.0.lock().expect("no panic") = bytes;
        Ok(())
    }
}

#[test]
fn server_errors_are_tried_again_within_bounds() {
    for (status, good) in [(500, true), (503, true), (429, true), (404, false), (400, false)] {
        let image = two_layers();
        let server = Server::with(move |request, earlier| {
            (request.path.contains("/blobs/") && earlier < 2).then(|| Reply::error(status, "X", "try later"))
        });
        server.put_image("a", "latest", &image);
        let hull = Hull::new();
        let result = quiet_pull(&hull.images(), &server.reference("a")).map(|pulled| pulled.image.id.clone());
        assert_eq!(result.is_ok(), good, "{status}: {result:?}");
    }
    let server = Server::with(|request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::error(429, "TOOMANYREQUESTS", "You have reached your limit"))
    });
    let error = failure(&server.reference("a"), &options());
    assert!(matches!(&error, RegistryError::TooManyRequests { .. }), "{error:?}");
    assert!(error.to_string().contains("You have reached your limit"), "{error}");
    assert_eq!(server.count("/manifests/"), 3);
}

#[test]
fn a_missing_manifest_or_blob_is_named() {
    let server = Server::new();
    let error = failure(&server.reference("a/b:c"), &options());
    let expected = format!("manifest for {}/a/b:c not found: manifest unknown: manifest unknown", server.host);
    assert_eq!(error.to_string(), expected);
    let image = two_layers();
    server.put_manifest("a", "latest", &image.manifest);
    server.put_blob("a", &image.config);
    server.put_blob("a", &image.layers[0]);
    let error = failure(&server.reference("a"), &options());
    assert!(
        matches!(&error, RegistryError::BlobNotFound { digest, .. } if *digest == image.layers[1].digest()),
        "{error:?}"
    );
}

#[test]
fn a_bearer_token_is_fetched_and_used() {
    let image = two_layers();
    let server = Server::with(bearer_script("user:pass", "the-token"));
    server.put_image("a", "latest", &image);
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("config.json");
    // "user:pass" in base64.
    std::fs::write(&config, format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, server.host)).expect("writes");
    let hull = Hull::new();
    let with_password = PullOptions { docker_config: Some(config), ..options() };
    let images = hull.images();
    drop(pull(&images, &server.reference("a"), &with_password, &IgnoreLayers, &NoProgress).expect("pulls"));
    let tokens: Vec<Request> =
        server.requests().into_iter().filter(|request| request.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1, "one token serves all requests");
    assert_eq!(tokens[0].path, "/token?service=test&scope=repository:a:pull");

    let error = failure(&server.reference("a"), &options());
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("pull access denied") && text.contains("denied: wrong password"), "{text}");
}

pub fn bearer_script(
    password: &'static str,
    token: &'static str,
) -> impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static {
    move |request, _| {
        let authorization = request.header("authorization").unwrap_or_default();
        if request.path.starts_with("/token") {
            let good = authorization == format!("Basic {}", base64(password));
            return Some(match good {
                true => Reply::new(200, format!(r#"{{"token":"{token}","expires_in":300}}"#)),
                false => Reply::error(401, "DENIED", "wrong password"),
            });
        }
        if authorization == format!("Bearer {token}") || request.path == "/v2/" {
            return None;
        }
        let realm = format!("http://{}/token", request.header("host").expect("every client sends it"));
        let challenge = format!(r#"Bearer realm="{realm}",service="test",scope="repository:a:pull""#);
        Some(Reply::error(401, "UNAUTHORIZED", "authentication required").header("WWW-Authenticate", challenge))
    }
}

fn base64(text: &str) -> &'static str {
    match text {
        "user:pass" => "dXNlcjpwYXNz",
        other => panic!("no base64 of {other} here"),
    }
}

#[test]
fn basic_authentication_and_helpers_work() {
    let image = two_layers();
    let server = Server::with(|request, _| {
        let good = request.header("authorization") == Some("Basic dXNlcjpwYXNz");
        (!good).then(|| Reply::error(401, "UNAUTHORIZED", "who?").header("WWW-Authenticate", "Basic realm=x"))
    });
    server.put_image("a", "latest", &image);
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("config.json");
    std::fs::write(&config, format!(r#"{{"auths":{{"{}":{{"username":"user","password":"pass"}}}}}}"#, server.host))
        .expect("writes");
    let hull = Hull::new();
    let images = hull.images();
    let known = PullOptions { docker_config: Some(config), ..options() };
    drop(pull(&images, &server.reference("a"), &known, &IgnoreLayers, &NoProgress).expect("pulls"));
    let error = failure(&server.reference("a"), &options());
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");

    let odd = Server::with(|_, _| Some(Reply::new(401, "").header("WWW-Authenticate", "Negotiate")));
    let error = failure(&odd.reference("a"), &options());
    assert!(matches!(&error, RegistryError::Challenge { challenge, .. } if challenge == "Negotiate"), "{error:?}");
}

#[test]
fn redirects_are_followed_without_the_password() {
    let image = two_layers();
    let elsewhere = Server::new();
    elsewhere.put_image("a", "latest", &image);
    let target = elsewhere.host.clone();
    let server = Server::with(move |request, _| {
        let authorized = request.header("authorization") == Some("Basic dXNlcjpwYXNz");
        if !authorized {
            return Some(Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"));
        }
        let location = format!("http://{target}{}", request.path);
        request.path.contains("/blobs/").then(|| Reply::new(307, "").header("Location", location))
    });
    server.put_image("a", "latest", &image);
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("config.json");
    std::fs::write(&config, format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, server.host)).expect("writes");
    let hull = Hull::new();
    let images = hull.images();
    let known = PullOptions { docker_config: Some(config), ..options() };
    drop(pull(&images, &server.reference("a"), &known, &CheckingSink::default(), &NoProgress).expect("pulls"));
    let there = elsewhere.requests();
    assert_eq!(there.len(), 3);
    assert!(there.iter().all(|request| request.header("authorization").is_none()), "{there:?}");

    let circle = Server::with(|request, _| {
        let here = request.path.clone();
        request.path.contains("/manifests/").then(|| Reply::new(302, "").header("Location", here))
    });
    let error = failure(&circle.reference("a"), &options());
    assert!(matches!(&error, RegistryError::Redirect { reason, .. } if reason.contains("10 redirects")), "{error:?}");
}

#[test]
fn documents_are_bounded_and_refused_by_kind() {
    let huge =
        Server::with(|request, _| request.path.contains("/manifests/").then(|| Reply::new(200, vec![b' '; 5 << 20])));
    assert!(matches!(failure(&huge.reference("a"), &options()), RegistryError::TooLong { .. }));

    let image = two_layers();
    let schema1 = r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#;
    let mut claimed = image.config.clone();
    claimed.bytes.push(b' ');
    let fewer = manifest_of(&image.config, &image.layers[..1]);
    let cases = [
        (Blob::new(media::DOCKER_MANIFEST_V1_SIGNED, schema1), "docker schema 1"),
        (Blob::new("application/json", schema1), "docker schema 1"),
        (Blob::new("text/html", "<html>"), "invalid manifest"),
        (Blob::new(media::OCI_MANIFEST, "\u{0}"), "invalid manifest"),
        (fewer, "the manifest lists 1 layers, the configuration 2"),
    ];
    for (manifest, reason) in cases {
        let server = Server::new();
        server.put_image("a", "other", &image);
        server.put_manifest("a", "latest", &manifest);
        let error = told(&failure(&server.reference("a"), &options()));
        assert!(error.contains(reason) && error.contains("/a:latest"), "{reason}: {error}");
    }
}

#[test]
fn nested_and_circular_indexes_end() {
    let image = two_layers();
    let server = Server::new();
    server.put_image("a", "image", &image);
    let mut inner = image.manifest.clone();
    for depth in 0..6 {
        let mut entry = inner.descriptor();
        entry["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture});
        let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [entry]});
        inner = Blob::new(media::OCI_INDEX, index.to_string());
        server.put_manifest("a", &format!("depth{depth}"), &inner);
    }
    let hull = Hull::new();
    assert!(quiet_pull(&hull.images(), &server.reference("a:depth1")).is_ok());
    let error = failure(&server.reference("a:depth5"), &options());
    assert!(
        matches!(&error, RegistryError::Manifest { source, .. } if **source == ManifestError::Nesting),
        "{error:?}"
    );
}

#[test]
fn a_failing_sink_stops_the_pull() {
    let (server, hull) = (Server::new(), Hull::new());
    server.put_image("a", "latest", &two_layers());
    let sink = CheckingSink { fail_at: Some(1), ..CheckingSink::default() };
    let error = pull(&hull.images(), &server.reference("a"), &options(), &sink, &NoProgress).expect_err("full");
    assert!(
        matches!(&error, RegistryError::Layer { source, .. } if source.to_string() == "the sink is full"),
        "{error:?}"
    );
    hull.assert_empty();
}

#[test]
fn the_same_blob_twice_is_fetched_once_and_delivered_twice() {
    let tar = tar_of(&["same"], 1);
    let (server, hull, image) = (Server::new(), Hull::new(), TestImage::new("amd64", &[tar.clone(), tar]));
    server.put_image("a", "latest", &image);
    let (images, sink) = (hull.images(), CheckingSink::default());
    let pulled = pull(&images, &server.reference("a"), &options(), &sink, &NoProgress).expect("pulls");
    assert_eq!(images.add(&pulled.image).expect("adds").layers.len(), 2);
    assert_eq!(sink.delivered.into_inner().expect("no panic"), [0, 1]);
    assert_eq!(server.count(image.layers[0].digest().as_str()), 1);
}

#[test]
fn at_most_three_layers_are_fetched_at_once() {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let tars: Vec<Vec<u8>> = (0..8).map(|number| tar_of(&[&format!("file{number}")], 100)).collect();
    let image = TestImage::new("amd64", &tars);
    let config = format!("/blobs/{}", image.config.digest());
    let server = Server::with(move |request, _| {
        if request.path.contains("/blobs/") && !request.path.ends_with(&config) {
            MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(30));
            NOW.fetch_sub(1, Ordering::SeqCst);
        }
        None
    });
    server.put_image("a", "latest", &image);
    let (hull, sink) = (Hull::new(), CheckingSink::default());
    drop(pull(&hull.images(), &server.reference("a"), &options(), &sink, &NoProgress).expect("pulls"));
    assert_eq!(sink.delivered.into_inner().expect("no panic").len(), 8);
    assert!((2..=3).contains(&MOST.load(Ordering::SeqCst)), "{MOST:?}");
}

#[test]
fn pulls_of_one_image_at_the_same_time_agree() {
    let (server, hull, image) = (Server::new(), Hull::new(), two_layers());
    server.put_image("a", "latest", &image);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // As other processes would, each with its own connection.
                let store = hull_store::Store::open(&hull.roots).expect("opens");
                let images = ImageStore::new(&store, &hull.roots);
                let pulled = quiet_pull(&images, &server.reference("a")).expect("pulls");
                assert_eq!(images.add(&pulled.image).expect("adds").id, image.id());
            });
        }
    });
    assert!(hull.images().intact(&image.id()).expect("reads").is_some());
    assert_eq!((hull.files(), hull.rows("images")), (4, 1));
}

#[test]
fn a_damaged_blob_is_fetched_again() {
    let (server, hull, image) = (Server::new(), Hull::new(), two_layers());
    server.put_image("a", "latest", &image);
    let images = hull.images();
    let reference = server.reference("a");
    let first = quiet_pull(&images, &reference).expect("pulls");
    images.add(&first.image).expect("adds");
    drop(first);
    let path = images.content().path(&image.layers[0].digest());
    std::fs::write(&path, b"short").expect("writes");
    assert!(images.intact(&image.id()).expect("looks").is_none());
    let again = pull(&images, &reference, &options(), &CheckingSink::default(), &NoProgress).expect("pulls");
    images.add(&again.image).expect("adds");
    assert_eq!(std::fs::read(&path).expect("reads"), image.layers[0].bytes);
}

#[test]
fn hosts_that_cannot_be_reached_are_named() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").to_string()
    };
    let error = failure(&Reference::parse(&format!("{closed}/a")).expect("reference"), &options());
    assert!(matches!(&error, RegistryError::Transport(TransportError::Connect { .. })), "{error:?}");
    assert!(told(&error).contains(&closed) && told(&error).contains("refused"), "{error}");

    let error = failure(&Reference::parse("registry.invalid/a").expect("reference"), &options());
    assert!(
        matches!(&error, RegistryError::Transport(TransportError::UnknownHost { host, .. }) if host == "registry.invalid")
    );

    // A server that is no HTTP server, and no TLS server either.
    let server = Server::with(|_, _| Some(Reply::new(400, "Client sent an HTTP request to an HTTPS server.")));
    let error = failure(&server.reference("a"), &options());
    assert!(matches!(&error, RegistryError::Transport(TransportError::Tls { .. })), "{error:?}");
    assert!(error.to_string().contains(&format!("https://{}", server.host)), "{error}");
}

#[test]
fn sha512_names_are_verified_too() {
    let image = two_layers();
    let text = String::from_utf8(image.manifest.bytes.clone()).expect("JSON");
    let like = Digest::parse(&format!("sha512:{}", "0".repeat(128))).expect("valid");
    let digest = hull_image::content::Hasher::digest_like(&like, &image.layers[0].bytes);
    let text = text.replace(image.layers[0].digest().as_str(), digest.as_str());
    let server = Server::new();
    server.put_image("a", "other", &image);
    server.put_manifest("a", "latest", &Blob::new(media::OCI_MANIFEST, text));
    server.put_at(&format!("/v2/a/blobs/{digest}"), &image.layers[0]);
    let hull = Hull::new();
    let images = hull.images();
    let pulled =
        pull(&images, &server.reference("a"), &options(), &CheckingSink::default(), &NoProgress).expect("pulls");
    assert_eq!(pulled.image.layers[0].digest, digest);
    assert_eq!(images.add(&pulled.image).expect("adds").layers[0].digest, digest);
}

#[test]
fn an_identity_token_is_changed_for_an_access_token() {
    let image = two_layers();
    let server = Server::with(|request, _| {
        if request.path == "/token" {
            let expected = "grant_type=refresh_token&client_id=hull&service=test&scope=repository:a:pull&\
                            refresh_token=it%20is%20me";
            let good = request.method == "POST" && request.body == expected.as_bytes();
            return Some(match good {
                true => Reply::new(200, r#"{"access_token":"fresh"}"#),
                false => Reply::error(401, "DENIED", &String::from_utf8_lossy(&request.body)),
            });
        }
        if request.header("authorization") == Some("Bearer fresh") || request.path == "/v2/" {
            return None;
        }
        let realm = format!("http://{}/token", request.header("host").expect("every client sends it"));
        let challenge = format!(r#"Bearer realm="{realm}",service="test""#);
        Some(Reply::error(401, "UNAUTHORIZED", "who?").header("WWW-Authenticate", challenge))
    });
    server.put_image("a", "latest", &image);
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("config.json");
    let text = format!(r#"{{"auths":{{"{}":{{"identitytoken":"it is me"}}}}}}"#, server.host);
    std::fs::write(&config, text).expect("writes");
    let (hull, known) = (Hull::new(), PullOptions { docker_config: Some(config), ..options() });
    drop(pull(&hull.images(), &server.reference("a"), &known, &IgnoreLayers, &NoProgress).expect("pulls"));
}

#[test]
fn a_loopback_registry_may_speak_tls() {
    let ((server, authority), image) = (Server::with_tls(), two_layers());
    server.put_image("a", "latest", &image);
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, authority).expect("writes");
    let hull = Hull::new();
    let trusting = with_settings(&server, RegistrySettings { ca: Some(path), ..RegistrySettings::default() });
    let images = hull.images();
    let pulled = pull(&images, &server.reference("a"), &trusting, &CheckingSink::default(), &NoProgress);
    assert_eq!(pulled.expect("pulls").image.id, image.id());
    let error = failure(&server.reference("a"), &options());
    assert!(matches!(&error, RegistryError::Transport(TransportError::Tls { .. })), "{error:?}");
    assert!(told(&error).contains("UnknownIssuer"), "{}", told(&error));
    let insecure = with_settings(&server, RegistrySettings { insecure: true, ..RegistrySettings::default() });
    drop(pull(&images, &server.reference("a"), &insecure, &CheckingSink::default(), &NoProgress).expect("pulls"));
    let plain = with_settings(&server, RegistrySettings { plain_http: true, ..RegistrySettings::default() });
    let error = failure(&server.reference("a"), &plain);
    assert!(matches!(&error, RegistryError::Transport(TransportError::Broken { .. })), "{error:?}");
}

#[test]
fn an_insecure_registry_is_asked_for_tls_before_anything_goes_in_the_clear() {
    let (server, image) = (Server::new(), two_layers());
    server.put_image("a", "latest", &image);
    let hull = Hull::new();
    let insecure = with_settings(&server, RegistrySettings { insecure: true, ..RegistrySettings::default() });
    let images = hull.images();
    drop(pull(&images, &server.reference("a"), &insecure, &CheckingSink::default(), &NoProgress).expect("has no TLS"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let host = listener.local_addr().expect("bound").to_string();
    let first = std::thread::spawn(move || {
        let mut first = [0];
        listener.accept().expect("somebody comes").0.read_exact(&mut first).expect("who says something");
        first[0]
    });
    let settings = RegistrySettings { insecure: true, ..RegistrySettings::default() };
    let registries = [(RegistryName::parse(&host).expect("a name"), settings)].into();
    failure(&Reference::parse(&format!("{host}/a")).expect("a name"), &PullOptions { registries, ..options() });
    assert_eq!(first.join().expect("no panic"), 0x16, "not a TLS handshake (RFC 8446, 5.1)");
}

#[test]
fn another_server_s_challenge_is_not_answered() {
    let image = two_layers();
    let thief = Server::with(|_, _| Some(Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x")));
    let target = thief.host.clone();
    let server = Server::with(move |request, _| {
        let location = format!("http://{target}{}", request.path);
        request.path.contains("/blobs/").then(|| Reply::new(307, "").header("Location", location))
    });
    server.put_image("a", "latest", &image);
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("config.json");
    std::fs::write(&config, format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, server.host)).expect("writes");
    let error = failure(&server.reference("a"), &PullOptions { docker_config: Some(config), ..options() });
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert!(thief.requests().iter().all(|request| request.header("authorization").is_none()));
}
