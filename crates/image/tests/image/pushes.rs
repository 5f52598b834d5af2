//! Pushes: what goes and what need not, in one piece and in chunks, and that what comes back is the same.

use std::time::Duration;

use hull_image::registry::{Credentials, PushOptions, RegistryError, pull, push, try_login};
use hull_image::{IgnoreLayers, Image, LayerEvent, NoProgress, archive};
use hull_oci::Reference;
use hull_oci::image as media;

use crate::archives::docker_archive;
use crate::fixture::{Hull, Recorder, TestImage, noise, tar_of, told};
use crate::registry::{bearer_script, noise_tar, options};
use crate::server::{Reply, Server};

fn pushing() -> PushOptions {
    PushOptions {
        docker_config: Some("/nowhere/config.json".into()),
        first_pause: Duration::from_millis(1),
        attempts: 3,
        ..PushOptions::default()
    }
}

/// Pulls an image and makes it present.
fn fetched(hull: &Hull, reference: &Reference) -> Image {
    let images = hull.images();
    let pulled = pull(&images, reference, &options(), &IgnoreLayers, &NoProgress).expect("pulls");
    images.add(&pulled.image).expect("adds")
}

/// Loads an image that came without a manifest, its layers uncompressed.
fn loaded(hull: &Hull, image: &TestImage) -> Image {
    let images = hull.images();
    let bytes = docker_archive(image, &["loaded:1"]);
    let mut new =
        archive::load(&images, &mut &bytes[..], &archive::LoadOptions::default(), &NoProgress).expect("loads");
    images.add(&new.remove(0)).expect("adds")
}

fn two_layers() -> TestImage {
    TestImage::new("amd64", &[tar_of(&["etc/one"], 1000), tar_of(&["etc/two"], 10)])
}

#[test]
fn what_was_pulled_is_pushed_byte_for_byte() {
    let (from, to, hull, image) = (Server::new(), Server::new(), Hull::new(), two_layers());
    from.put_image("a", "latest", &image);
    let stored = fetched(&hull, &from.reference("a"));
    let (target, progress) = (to.reference("b/c:2"), Recorder::default());
    let pushed = push(&hull.images(), &stored, &target, &pushing(), &progress).expect("pushes");
    assert_eq!((&pushed.digest, pushed.size_bytes), (&image.manifest.digest(), image.manifest.bytes.len() as u64));
    let there = to.document("/v2/b/c/manifests/2").expect("a manifest");
    assert_eq!((there.bytes, there.media_type), (image.manifest.bytes.clone(), media::OCI_MANIFEST.to_owned()));
    assert_eq!(progress.count(|event| *event == LayerEvent::Pushed), 2);
    let again = Hull::new();
    assert_eq!(fetched(&again, &target).id, image.id());
    let names = hull.images().get(&image.id()).expect("reads").expect("present").digests();
    assert!(names.contains(&target.with_digest(image.manifest.digest()).familiar()), "{names:?}");

    let progress = Recorder::default();
    push(&hull.images(), &stored, &target, &pushing(), &progress).expect("pushes again");
    assert_eq!(progress.count(|event| *event == LayerEvent::Known), 2);
    assert_eq!(to.count_of("POST", "/uploads/"), 3, "two layers and a configuration, once");
}

#[test]
fn blobs_are_mounted_from_where_they_are_known() {
    let (server, hull, image) = (Server::new(), Hull::new(), two_layers());
    server.put_image("library/debian", "latest", &image);
    let stored = fetched(&hull, &server.reference("library/debian"));
    let progress = Recorder::default();
    push(&hull.images(), &stored, &server.reference("mine"), &pushing(), &progress).expect("pushes");
    let mounted = LayerEvent::Mounted { from: "library/debian".to_owned() };
    assert_eq!(progress.count(|event| *event == mounted), 2);
    let sent: usize =
        server.requests().iter().filter(|request| request.path.contains("/blobs/")).map(|r| r.body.len()).sum();
    assert_eq!(sent, 0, "no byte of a blob was sent");
    // What was pushed is a source too.
    push(&hull.images(), &stored, &server.reference("third"), &pushing(), &NoProgress).expect("pushes");
    assert_eq!(server.count_of("PUT", "/blobs/"), 0);
}

#[test]
fn a_registry_that_does_not_mount_gets_the_bytes() {
    for status in [403, 404] {
        let server = Server::with(move |request, _| {
            let asks = request.method == "POST" && request.path.contains("mount=");
            asks.then(|| Reply::error(status, "X", "no"))
        });
        let (hull, image) = (Hull::new(), two_layers());
        server.put_image("a", "latest", &image);
        let stored = fetched(&hull, &server.reference("a"));
        push(&hull.images(), &stored, &server.reference("b"), &pushing(), &NoProgress).expect("pushes");
        assert_eq!(server.count_of("PUT", "/blobs/"), 3, "{status}");
    }
}

#[test]
fn a_loaded_image_is_compressed_once_and_always_the_same() {
    let image = two_layers();
    let mut digests = Vec::new();
    for _ in 0..2 {
        let (hull, server) = (Hull::new(), Server::new());
        let stored = loaded(&hull, &image);
        assert!(stored.manifest_digest.is_none());
        let first = push(&hull.images(), &stored, &server.reference("a"), &pushing(), &NoProgress).expect("pushes");
        assert_eq!((hull.rows("compressed_layers"), hull.rows("holds")), (2, 0));
        let stored = hull.images().get(&image.id()).expect("reads").expect("present");
        assert_eq!(stored.manifest_digest, Some(first.digest.clone()));
        assert_eq!(hull.images().sweep().expect("sweeps"), 0, "what was made for the push stays with the image");
        let second = push(&hull.images(), &stored, &server.reference("a"), &pushing(), &NoProgress).expect("pushes");
        assert_eq!(second, first);
        assert_eq!(fetched(&Hull::new(), &server.reference("a")).id, image.id());
        digests.push(first.digest);
    }
    assert_eq!(digests[0], digests[1], "the manifest depends on the content alone");
}

#[test]
fn large_blobs_go_in_chunks_and_go_on_where_they_broke() {
    let image = TestImage::new("amd64", &[noise_tar(300_000)]);
    let length = image.layers[0].bytes.len();
    // The second chunk of the first session is refused once.
    let server = Server::with(move |request, earlier| {
        let second = request.method == "PATCH"
            && request.header("content-range").is_some_and(|range| range.starts_with("100000-"));
        (second && earlier == 1).then(|| Reply::error(503, "UNAVAILABLE", "a moment"))
    });
    let from = Server::new();
    from.put_image("a", "latest", &image);
    let (hull, progress) = (Hull::new(), Recorder::default());
    let stored = fetched(&hull, &from.reference("a"));
    let options = PushOptions { chunk_bytes: 100_000, ..pushing() };
    push(&hull.images(), &stored, &server.reference("a"), &options, &progress).expect("pushes");
    let there = server.document(&format!("/v2/a/blobs/{}", image.layers[0].digest())).expect("the blob");
    assert!(there.bytes == image.layers[0].bytes);
    let ranges: Vec<String> =
        server.requests().iter().filter_map(|request| request.header("content-range").map(str::to_owned)).collect();
    let last = format!("300000-{}", length - 1);
    assert_eq!(ranges, ["0-99999", "100000-199999", "100000-199999", "200000-299999", &last]);
    let whole = LayerEvent::Uploading { done_bytes: length as u64, total_bytes: length as u64 };
    assert!(progress.count(|event| *event == whole) >= 1);
    assert_eq!(progress.count(|event| matches!(event, LayerEvent::Retrying { .. })), 1);
}

#[test]
fn an_upload_that_cannot_go_on_begins_again() {
    let image = TestImage::new("amd64", &[noise_tar(300_000)]);
    let server = Server::with(move |request, _| {
        let is_first = request.path.ends_with("/uploads/0") && request.method != "POST";
        let begins = request.header("content-range").is_some_and(|range| range.starts_with("0-"));
        (is_first && !begins).then(|| Reply::error(if request.method == "PATCH" { 503 } else { 404 }, "X", "lost"))
    });
    let from = Server::new();
    from.put_image("a", "latest", &image);
    let hull = Hull::new();
    let stored = fetched(&hull, &from.reference("a"));
    let options = PushOptions { chunk_bytes: 100_000, ..pushing() };
    push(&hull.images(), &stored, &server.reference("a"), &options, &NoProgress).expect("pushes");
    assert!(server.document(&format!("/v2/a/blobs/{}", image.layers[0].digest())).is_some());
}

#[test]
fn a_registry_that_never_gets_on_is_given_up() {
    let image = TestImage::new("amd64", &[noise_tar(300_000)]);
    let from = Server::new();
    from.put_image("a", "latest", &image);
    let hull = Hull::new();
    let stored = fetched(&hull, &from.reference("a"));
    let session = |range: &str| Reply::new(202, "").header("Location", "/v2/a/blobs/uploads/0").header("Range", range);
    let options = PushOptions { chunk_bytes: 100_000, attempts: 3, ..pushing() };
    for range in ["0-0", "0-5", "0-100000", "0-18446744073709551615"] {
        let server = Server::with(move |request, _| match request.method.as_str() {
            "PATCH" | "GET" if request.path.contains("/uploads/") => Some(session(range)),
            _ => None,
        });
        let error = push(&hull.images(), &stored, &server.reference("a"), &options, &NoProgress).expect_err(range);
        // A lone 0-0 is taken for no answer at all, so that the registry's digest says what is missing.
        assert!(matches!(error, RegistryError::Upload { .. } | RegistryError::Status { .. }), "{range}: {error:?}");
        assert!(server.requests().len() < 200, "{range}: {} requests", server.requests().len());
    }
    // It takes the first chunk, refuses the second, and has forgotten the first.
    let server = Server::with(move |request, _| match (request.method.as_str(), request.header("content-range")) {
        ("PATCH", Some(range)) if range.starts_with("0-") => Some(session("0-99999")),
        ("PATCH", _) => Some(Reply::error(503, "UNAVAILABLE", "a moment")),
        ("GET", _) if request.path.contains("/uploads/") => Some(session("0-0")),
        _ => None,
    });
    let error = push(&hull.images(), &stored, &server.reference("a"), &options, &NoProgress).expect_err("forgets");
    assert!(told(&error).contains("a moment"), "{error:?}");
    assert!(server.requests().len() < 200, "{} requests", server.requests().len());
}

#[test]
fn a_damaged_blob_is_refused_by_the_registry() {
    let (from, to, hull, image) = (Server::new(), Server::new(), Hull::new(), two_layers());
    from.put_image("a", "latest", &image);
    let stored = fetched(&hull, &from.reference("a"));
    let path = hull.images().content().path(&image.layers[0].digest());
    let length = image.layers[0].bytes.len();
    std::fs::write(&path, noise(length, 9)).expect("writes");
    let error = push(&hull.images(), &stored, &to.reference("a"), &pushing(), &NoProgress).expect_err("wrong bytes");
    assert!(told(&error).contains("did not match"), "{error:?}");
    assert!(to.document("/v2/a/manifests/latest").is_none());
    std::fs::write(&path, noise(length - 1, 9)).expect("writes");
    let error = push(&hull.images(), &stored, &to.reference("a"), &pushing(), &NoProgress).expect_err("wrong length");
    assert!(told(&error).contains("wrong size"), "{error:?}");
}

#[test]
fn a_token_to_push_is_asked_for() {
    let (from, hull, image) = (Server::new(), Hull::new(), two_layers());
    from.put_image("a", "latest", &image);
    let stored = fetched(&hull, &from.reference("a"));
    let to = Server::with(bearer_script("user:pass", "the-token"));
    let error = push(&hull.images(), &stored, &to.reference("a"), &pushing(), &NoProgress).expect_err("anonymous");
    assert!(matches!(&error, RegistryError::Denied { .. }), "{error:?}");
    assert!(error.to_string().starts_with("push access denied for"), "{error}");
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("config.json");
    std::fs::write(&config, format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, to.host)).expect("writes");
    let known = PushOptions { docker_config: Some(config), ..pushing() };
    push(&hull.images(), &stored, &to.reference("a"), &known, &NoProgress).expect("pushes");
    let mut tokens = to.requests().into_iter().filter(|request| request.path.starts_with("/token"));
    let last = tokens.next_back().expect("a token").path;
    assert_eq!(last, "/token?service=test&scope=repository:a:pull,push");
}

#[test]
fn credentials_are_tried_by_a_request() {
    let bearer = Server::with(move |request, earlier| {
        let script = bearer_script("user:pass", "the-token");
        let open = request.path == "/v2/" && request.header("authorization").is_none();
        match open {
            true if earlier > 0 => {
                let realm = format!("http://{}/token", request.header("host").expect("every client sends it"));
                Some(Reply::new(401, "").header("WWW-Authenticate", format!(r#"Bearer realm="{realm}""#)))
            }
            _ => script(request, earlier),
        }
    });
    let basic = Server::with(|request, _| {
        let good = request.header("authorization") == Some("Basic dXNlcjpwYXNz");
        (!good).then(|| Reply::error(401, "UNAUTHORIZED", "who?").header("WWW-Authenticate", "Basic realm=x"))
    });
    let given = |password: &str| Credentials::Password { user: "user".to_owned(), password: password.to_owned() };
    for server in [bearer, basic] {
        try_login(&server.host, given("pass"), &pushing()).expect("good");
        let error = try_login(&server.host, given("wrong"), &pushing()).expect_err("wrong");
        assert!(matches!(&error, RegistryError::Login { .. }), "{error:?}");
        assert!(error.to_string().contains(&server.host), "{error}");
    }
    try_login(&Server::new().host, given("any"), &pushing()).expect("nobody asks");
}
