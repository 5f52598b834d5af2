//! Where an image is from: mirrors, proxies, every platform of an index, and whether it must be signed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hull_image::registry::{
    Mirror, Proxies, PullOptions, PushOptions, RegistryError, RegistryName, RegistrySettings, TransportError,
    TrustPolicy, TrustRule, manifest, pull, push, referrers, tags,
};
use hull_image::{IgnoreLayers, NoProgress};
use hull_oci::image as media;
use hull_oci::{Digest, Reference};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use crate::fixture::{Blob, CheckingSink, Hull, Recorder, TestImage, tar_of, told};
use crate::registry::options;
use crate::server::{Reply, Server};

fn one_layer(text: &str) -> TestImage {
    TestImage::new("amd64", &[tar_of(&[text], 100)])
}

fn settings(registry: &str, settings: RegistrySettings) -> PullOptions {
    let name = RegistryName::parse(registry).expect("a registry");
    PullOptions { registries: [(name, settings)].into(), ..options() }
}

fn mirrored(server: &Server, mirrors: &[&str]) -> PullOptions {
    let mirrors = mirrors.iter().map(|text| Mirror::try_from((*text).to_owned()).expect("a mirror")).collect();
    settings(&server.host, RegistrySettings { mirrors, ..RegistrySettings::default() })
}

/// Pulls, and says what the image is and what the user was warned of.
fn pulled(reference: &Reference, options: &PullOptions) -> Result<(Digest, Vec<String>), RegistryError> {
    let (hull, progress) = (Hull::new(), Recorder::default());
    let images = hull.images();
    let id =
        pull(&images, reference, options, &CheckingSink::default(), &progress).map(|pulled| pulled.image.id.clone())?;
    Ok((id, progress.warnings.into_inner().expect("no panic")))
}

#[test]
fn mirrors_are_asked_in_order_and_the_registry_last() {
    let (registry, mirror, image) = (Server::new(), Server::new(), one_layer("x"));
    let broken = Server::with(|_, _| Some(Reply::error(500, "BROKEN", "out of order")));
    registry.put_image("a", "latest", &image);
    mirror.put_image("hub/a", "latest", &image);
    let prefixed = format!("http://{}/hub", mirror.host);
    let options = mirrored(&registry, &[&broken.host, &prefixed]);
    let (id, warnings) = pulled(&registry.reference("a"), &options).expect("pulls");
    assert_eq!(id, image.id());
    assert!(
        warnings.len() == 1 && warnings[0].contains(&broken.host) && warnings[0].contains("out of order"),
        "{warnings:?}"
    );
    assert!(registry.requests().is_empty(), "nobody asked the registry");
    assert!(broken.count("/manifests/latest") >= 1);

    let empty = Server::new();
    let options = mirrored(&registry, &[&empty.host]);
    pulled(&registry.reference("a"), &options).expect("falls back");
    assert!(registry.count("/manifests/latest") == 1 && empty.count("/manifests/latest") == 1);
}

#[test]
fn a_mirror_that_lies_about_a_blob_is_left_for_the_registry() {
    let image = TestImage::new("amd64", &[tar_of(&["first"], 100), tar_of(&["second"], 100)]);
    let bad = image.layers[1].digest();
    let length = image.layers[1].bytes.len();
    let mirror =
        Server::with(move |request, _| request.path.ends_with(bad.as_str()).then(|| Reply::new(200, vec![7; length])));
    let registry = Server::new();
    registry.put_image("a", "latest", &image);
    mirror.put_image("a", "latest", &image);
    let (id, warnings) = pulled(&registry.reference("a"), &mirrored(&registry, &[&mirror.host])).expect("falls back");
    assert_eq!((id, warnings.len()), (image.id(), 1));
    let wrong = mirrored(&registry, &[&mirror.host]);
    let digest = registry.reference(&format!("a@{}", one_layer("other").manifest.digest()));
    assert!(matches!(pulled(&digest, &wrong), Err(RegistryError::NotFound { .. })));
}

#[test]
fn a_proxy_is_asked_with_the_whole_address_and_its_password() {
    let image = one_layer("x");
    let proxy = Server::with(|request, _| {
        let known = request.header("proxy-authorization") == Some("Basic dXNlcjpwYXNz");
        (!known).then(|| Reply::error(407, "PROXY", "who are you"))
    });
    for (kind, blob) in [("manifests/latest", &image.manifest), ("blobs", &image.layers[0]), ("blobs", &image.config)] {
        let target = if kind == "blobs" { format!("blobs/{}", blob.digest()) } else { kind.to_owned() };
        proxy.put_at(&format!("http://registry.test/v2/a/{target}"), blob);
    }
    let plain = settings("registry.test", RegistrySettings { plain_http: true, ..RegistrySettings::default() });
    let through = |user: &str| PullOptions {
        proxies: Proxies { http: Some(format!("http://{user}{}", proxy.host)), ..Proxies::default() },
        ..plain.clone()
    };
    let reference = Reference::parse("registry.test/a").expect("reference");
    assert_eq!(pulled(&reference, &through("user:pass@")).expect("pulls").0, image.id());
    assert!(proxy.requests().iter().all(|request| request.header("host") == Some("registry.test")));
    let error = pulled(&reference, &through("")).expect_err("unknown");
    assert!(told(&error).contains("who are you"), "{error:?}");
    let excepted = PullOptions {
        proxies: Proxies { exceptions: vec!["test".to_owned()], ..through("user:pass@").proxies },
        ..plain.clone()
    };
    let before = proxy.requests().len();
    assert!(matches!(pulled(&reference, &excepted), Err(RegistryError::Transport(TransportError::UnknownHost { .. }))));
    assert_eq!(proxy.requests().len(), before);
}

#[test]
fn tls_goes_through_a_proxy_s_tunnel() {
    let ((server, _), image) = (Server::with_tls(), one_layer("x"));
    server.put_image("a", "latest", &image);
    let target = server.host.replace("localhost", "127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = listener.local_addr().expect("bound").to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut head = String::new();
            let mut byte = [0];
            while !head.ends_with("\r\n\r\n") && (&client).read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(char::from(byte[0]));
            }
            told.lock().expect("no panic").push(head.lines().next().unwrap_or_default().to_owned());
            (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").expect("answers");
            let server = TcpStream::connect(&target).expect("the registry");
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
                std::thread::spawn(move || {
                    // Either end may close first.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    let unverified = settings("registry.test", RegistrySettings { insecure: true, ..RegistrySettings::default() });
    let options = PullOptions { proxies: Proxies { https: Some(proxy), ..Proxies::default() }, ..unverified };
    let reference = Reference::parse("registry.test/a").expect("reference");
    assert_eq!(pulled(&reference, &options).expect("pulls").0, image.id());
    let asked = asked.lock().expect("no panic");
    assert!(!asked.is_empty() && asked.iter().all(|line| line == "CONNECT registry.test:443 HTTP/1.1"), "{asked:?}");
    assert!(server.count("/blobs/") >= 2);
}

#[test]
fn a_proxy_that_opens_no_tunnel_is_named() {
    let proxy = Server::with(|request, _| (request.method == "CONNECT").then(|| Reply::error(403, "NO", "not there")));
    let proxies = Proxies { https: Some(proxy.host.clone()), ..Proxies::default() };
    let options = PullOptions { proxies, ..options() };
    let error = pulled(&Reference::parse("registry.test/a").expect("reference"), &options).expect_err("refused");
    let text = told(&error);
    assert!(text.contains(&proxy.host) && text.contains("registry.test:443") && text.contains("403"), "{text}");
    assert_eq!(proxy.requests()[0].path, "registry.test:443");
}

#[test]
fn rate_limits_are_told_and_long_pauses_not_waited_for() {
    let server = Server::with(|request, _| {
        let reply = Reply::error(429, "TOOMANYREQUESTS", "slow down").header("Retry-After", 3600);
        let reply = reply.header("RateLimit-Limit", "100;w=21600").header("RateLimit-Remaining", "0;w=21600");
        request.path.contains("/manifests/").then_some(reply)
    });
    let error = pulled(&server.reference("a"), &options()).expect_err("limited").to_string();
    for part in ["slow down", "the limit is 100 in 360 min", "0 are left", "again in 3600 s"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(server.count("/manifests/"), 1);
}

/// An index of two platforms and an attestation, on a server.
fn put_index(server: &Server) -> (Blob, [TestImage; 2]) {
    let images = [one_layer("amd"), TestImage::new("arm64", &[tar_of(&["arm"], 50)])];
    let entry = |manifest: &Blob, os: &str, architecture: &str| {
        let mut entry = manifest.descriptor();
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let statement = Blob::new("application/vnd.in-toto+json", "{\"statement\":1}");
    let config = Blob::new(media::OCI_CONFIG, "{}");
    let attestation = crate::fixture::manifest_of(&config, std::slice::from_ref(&statement));
    let entries = [
        entry(&images[0].manifest, "linux", "amd64"),
        entry(&images[1].manifest, "linux", "arm64"),
        entry(&attestation, "unknown", "unknown"),
    ];
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries});
    let index = Blob::new(media::OCI_INDEX, index.to_string());
    images.iter().for_each(|image| server.put_image("a", "unused", image));
    server.put_manifest("a", "unused", &attestation);
    [&statement, &config].into_iter().for_each(|blob| server.put_blob("a", blob));
    server.put_manifest("a", "latest", &index);
    (index, images)
}

#[test]
fn all_platforms_are_stored_and_pushed_as_they_were() {
    let (server, hull) = (Server::new(), Hull::new());
    let (index, [amd, arm]) = put_index(&server);
    let images = hull.images();
    let options = PullOptions { all_platforms: true, ..options() };
    let sink = CheckingSink::default();
    let new = pull(&images, &server.reference("a"), &options, &sink, &NoProgress).expect("pulls");
    let stored = images.add(&new.image).expect("adds");
    drop(new);
    assert_eq!((&stored.id, sink.delivered.into_inner().expect("no panic")), (&amd.id(), vec![0]));
    assert!(images.content().size_bytes(&arm.layers[0].digest()).expect("looks").is_some());
    assert_eq!(images.sweep().expect("sweeps"), 0, "they stay with the image");
    let other = Server::new();
    let pushing = PushOptions { first_pause: Duration::from_millis(1), ..PushOptions::default() };
    let pushed = push(&images, &stored, &other.reference("b"), &pushing, &NoProgress).expect("pushes");
    assert_eq!(pushed.digest, index.digest());
    assert_eq!(other.document("/v2/b/manifests/latest").expect("an index").bytes, index.bytes);
    let options = PullOptions { platform: Some("linux/arm64".parse().expect("platform")), ..options };
    assert_eq!(pulled(&other.reference("b"), &options).expect("pulls").0, arm.id());
}

#[test]
fn tags_are_listed_across_pages() {
    let server = Server::with(|request, _| match request.path.as_str() {
        "/v2/a/tags/list" => {
            let page = Reply::new(200, r#"{"name":"a","tags":["1","2"]}"#);
            Some(page.header("Link", "</v2/a/tags/list?last=2>; rel=\"next\""))
        }
        "/v2/a/tags/list?last=2" => Some(Reply::new(200, r#"{"name":"a","tags":["3"]}"#)),
        _ => None,
    });
    assert_eq!(tags(&server.reference("a"), &options()).expect("lists"), ["1", "2", "3"]);
}

#[test]
fn a_manifest_is_looked_at_and_its_referrers_listed() {
    let (server, image) = (Server::new(), one_layer("x"));
    server.put_image("a", "latest", &image);
    let found = manifest(&server.reference("a"), &options()).expect("there");
    assert_eq!((found.digest, found.bytes), (image.manifest.digest(), image.manifest.bytes.clone()));
    assert!(referrers(&server.reference("a"), None, &options()).expect("none").1.is_empty());
    let entries = ["x/sbom", "x/signature"].map(|kind| {
        let digest = Digest::sha256_of(kind.as_bytes());
        json!({"mediaType": media::OCI_MANIFEST, "digest": digest, "size": 7, "artifactType": kind})
    });
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries}).to_string();
    let index = Blob::new(media::OCI_INDEX, index);
    let count = |kind| referrers(&server.reference("a"), kind, &options()).expect("lists").1.len();
    server.put_manifest("a", &format!("sha256-{}", image.manifest.digest().hex()), &index);
    assert_eq!((count(None), count(Some("x/sbom"))), (2, 1), "by the tag");
    server.put_at(&format!("/v2/a/referrers/{}", image.manifest.digest()), &index);
    assert_eq!(count(None), 2, "by the list");
}

/// A key pair whose public half is a file.
struct Signer {
    pair: EcdsaKeyPair,
    public: std::path::PathBuf,
}

impl Signer {
    fn new(folder: &Path, name: &str) -> Self {
        let random = SystemRandom::new();
        let secret = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, secret.as_ref(), &random).expect("a key");
        // The fixed beginning of a P-256 key in DER (RFC 5480).
        let mut der =
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
                .to_vec();
        der.extend_from_slice(pair.public_key().as_ref());
        let public = folder.join(name);
        let text = hull_image::registry::encode_base64(&der);
        std::fs::write(&public, format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"))
            .expect("writes");
        Self { pair, public }
    }

    /// The payload about a digest, and the manifest that holds its signature.
    fn sign(&self, digest: &Digest) -> (Blob, Blob, Blob) {
        let critical = json!({
            "identity": {"docker-reference": "somewhere/else"}, "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        });
        let payload = json!({"critical": critical, "optional": null}).to_string();
        let payload = Blob::new("application/vnd.dev.cosign.simplesigning.v1+json", payload);
        let signature = self.pair.sign(&SystemRandom::new(), &payload.bytes).expect("signs");
        let mut layer = payload.descriptor();
        let text = hull_image::registry::encode_base64(signature.as_ref());
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": text});
        let config = Blob::new(media::OCI_CONFIG, "{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config.descriptor(), "layers": [layer],
        });
        (payload, config, Blob::new(media::OCI_MANIFEST, manifest.to_string()))
    }
}

fn requiring(server: &Server, key: &Path) -> PullOptions {
    let rule = TrustRule::CosignKeys(vec![key.to_path_buf()]);
    let rules: BTreeMap<_, _> = [(format!("{}/*", server.host), rule)].into();
    PullOptions { trust: TrustPolicy::try_from(rules).expect("patterns"), ..options() }
}

/// Expects a refusal before any layer was asked for, and returns its text.
fn refused(server: &Server, image: &TestImage, options: &PullOptions) -> String {
    let hull = Hull::new();
    let images = hull.images();
    let error = pull(&images, &server.reference("a"), options, &IgnoreLayers, &NoProgress).expect_err("refused");
    assert!(matches!(error, RegistryError::Untrusted { .. }), "{error:?}");
    assert_eq!(server.count(image.layers[0].digest().as_str()), 0);
    hull.assert_empty();
    error.to_string()
}

#[test]
fn an_image_is_taken_when_its_key_has_signed_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (ours, other) = (Signer::new(folder.path(), "ours.pub"), Signer::new(folder.path(), "other.pub"));
    for as_referrer in [false, true] {
        let (server, image) = (Server::new(), one_layer("x"));
        server.put_image("a", "latest", &image);
        let digest = image.manifest.digest();
        let text = refused(&server, &image, &requiring(&server, &ours.public));
        assert!(
            text.contains("has no signature") && text.contains("ours.pub") && text.contains("/a is refused"),
            "{text}"
        );
        let put = |payload: &Blob, config: &Blob, signature: &Blob| {
            server.put_blob("a", payload);
            server.put_blob("a", config);
            if as_referrer {
                let mut entry = signature.descriptor();
                entry["artifactType"] = json!("application/vnd.dev.cosign.artifact.sig.v1+json");
                let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [entry]});
                let index = Blob::new(media::OCI_INDEX, index.to_string());
                let query = "?artifactType=application/vnd.dev.cosign.artifact.sig.v1%2Bjson";
                server.put_manifest("a", "unused", signature);
                server.put_at(&format!("/v2/a/referrers/{digest}{query}"), &index);
            } else {
                server.put_manifest("a", &format!("sha256-{}.sig", digest.hex()), signature);
            }
        };
        let (payload, config, signature) = other.sign(&digest);
        put(&payload, &config, &signature);
        let text = refused(&server, &image, &requiring(&server, &ours.public));
        assert!(text.contains("is by another key"), "{text}");
        let (payload, config, signature) = ours.sign(&one_layer("another").manifest.digest());
        put(&payload, &config, &signature);
        let text = refused(&server, &image, &requiring(&server, &ours.public));
        assert!(text.contains("is of sha256:"), "{text}");
        let (payload, config, signature) = ours.sign(&digest);
        put(&payload, &config, &signature);
        assert_eq!(pulled(&server.reference("a"), &requiring(&server, &ours.public)).expect("signed").0, image.id());
    }
}

#[test]
fn unusable_keys_and_rejected_repositories_are_named() {
    let (server, image) = (Server::new(), one_layer("x"));
    server.put_image("a", "latest", &image);
    let error = pulled(&server.reference("a"), &requiring(&server, Path::new("/nowhere/k.pub"))).expect_err("no key");
    assert!(matches!(&error, RegistryError::Key { .. }) && error.to_string().contains("/nowhere/k.pub"), "{error:?}");
    let rules: BTreeMap<_, _> = [(format!("{}/a", server.host), TrustRule::Reject)].into();
    let text =
        refused(&server, &image, &PullOptions { trust: TrustPolicy::try_from(rules).expect("patterns"), ..options() });
    assert!(text.contains("rejects it"), "{text}");
}
