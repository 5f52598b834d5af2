//! Large blobs: in ranges over several connections, gone on with after a break and by the next process, and read while
//! they arrive.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use hull_image::registry::{RegistryError, pull};
use hull_image::{IgnoreLayers, LayerDescriptor, LayerEvent, LayerSink, NoProgress, PackedLayer, SinkError};
use hull_store::Lease;

use crate::fixture::{Blob, Hull, Recorder, TestImage, told};
use crate::registry::{ByteSink, noise_tar, options};
use crate::server::{Reply, Request, Server};

const MIB: usize = 1 << 20;

/// An image of one layer, which does not compress.
fn large(length: usize) -> (TestImage, Blob) {
    let image = TestImage::new("amd64", &[noise_tar(length)]);
    let blob = image.layers[0].clone();
    (image, blob)
}

/// The ranges of a blob that a server was asked for, in order of their first byte.
fn ranges(server: &Server, blob: &Blob) -> Vec<Option<(usize, Option<usize>)>> {
    let digest = blob.digest();
    let requests = server.requests();
    let mut ranges: Vec<_> =
        requests.iter().filter(|request| request.path.ends_with(digest.as_str())).map(Request::range).collect();
    ranges.sort_unstable();
    ranges
}

/// Pulls into a store and compares what the sink read; returns the progress.
fn pull_bytes(hull: &Hull, server: &Server, blob: &Blob) -> Recorder {
    let (images, sink, progress) = (hull.images(), ByteSink::default(), Recorder::default());
    let pulled = pull(&images, &server.reference("a"), &options(), &sink, &progress).expect("pulls");
    images.add(&pulled.image).expect("adds");
    assert!(sink.0.into_inner().expect("no panic") == blob.bytes);
    assert_eq!(images.content().size_bytes(&blob.digest()).expect("looks"), Some(blob.bytes.len() as u64));
    progress
}

#[test]
fn a_large_blob_comes_in_ranges() {
    let (image, blob) = large(20 * MIB);
    let (server, hull) = (Server::new(), Hull::new());
    server.put_image("a", "latest", &image);
    let progress = pull_bytes(&hull, &server, &blob);
    let last = blob.bytes.len() - 1;
    let expected = [(0, 8 * MIB - 1), (8 * MIB, 16 * MIB - 1), (16 * MIB, last)];
    assert_eq!(ranges(&server, &blob), expected.map(|(first, last)| Some((first, Some(last)))));
    let whole = LayerEvent::Downloading { done_bytes: last as u64 + 1, total_bytes: last as u64 + 1 };
    assert_eq!(progress.count(|event| *event == whole), 1);
}

#[test]
fn a_server_without_ranges_sends_the_whole() {
    let (image, blob) = large(20 * MIB);
    let whole = blob.clone();
    let server = Server::with(move |request, _| {
        request.path.ends_with(whole.digest().as_str()).then(|| Reply::new(200, whole.bytes.clone()))
    });
    server.put_image("a", "latest", &image);
    pull_bytes(&Hull::new(), &server, &blob);
    assert_eq!(ranges(&server, &blob).len(), 1, "one request for all");
}

#[test]
fn each_range_goes_on_where_it_broke() {
    let (image, blob) = large(20 * MIB);
    let whole = blob.clone();
    let broken = Mutex::new(Vec::new());
    let server = Server::with(move |request, _| {
        let (from, to) = request.range().filter(|_| request.path.ends_with(whole.digest().as_str()))?;
        let mut broken = broken.lock().expect("no panic");
        if from % (8 * MIB) != 0 || broken.contains(&from) {
            return None;
        }
        broken.push(from);
        let to = to.expect("a last byte").min(whole.bytes.len() - 1);
        let reply = Reply::new(206, &whole.bytes[from..=to]);
        let reply = reply.header("Content-Range", format!("bytes {from}-{to}/{}", whole.bytes.len()));
        Some(Reply { cut_after: Some(MIB), ..reply })
    });
    server.put_image("a", "latest", &image);
    let progress = pull_bytes(&Hull::new(), &server, &blob);
    assert_eq!(progress.count(|event| matches!(event, LayerEvent::Retrying { .. })), 3);
    assert!(ranges(&server, &blob).contains(&Some((9 * MIB, Some(16 * MIB - 1)))));
}

/// Leaves a file in a store as a process does that was killed while it fetched a blob.
fn leave(hull: &Hull, blob: &Blob, bytes: &[u8]) {
    let lease = Lease::current().expect("/proc");
    let dead = Lease { start_time: lease.start_time + 1, ..lease };
    let folder = hull.roots.content().join("tmp");
    std::fs::create_dir_all(&folder).expect("makes");
    let name = format!("{dead}.0.sha256-{}", blob.digest().hex());
    std::fs::write(folder.join(name), bytes).expect("writes");
}

#[test]
fn what_a_killed_pull_left_is_gone_on_with() {
    let (image, blob) = large(4 * MIB);
    let (server, hull) = (Server::new(), Hull::new());
    server.put_image("a", "latest", &image);
    leave(&hull, &blob, &blob.bytes[..3 * MIB]);
    pull_bytes(&hull, &server, &blob);
    assert_eq!(ranges(&server, &blob), [Some((3 * MIB, None))]);
    assert_eq!(hull.files(), 3, "nothing else stays");
}

#[test]
fn a_whole_file_of_a_killed_pull_is_verified_and_not_fetched() {
    let (image, blob) = large(2 * MIB);
    let (server, hull) = (Server::new(), Hull::new());
    server.put_image("a", "latest", &image);
    leave(&hull, &blob, &blob.bytes);
    pull_bytes(&hull, &server, &blob);
    assert_eq!(ranges(&server, &blob), []);
}

#[test]
fn a_damaged_file_of_a_killed_pull_is_fetched_again() {
    let (image, blob) = large(4 * MIB);
    let (server, hull) = (Server::new(), Hull::new());
    server.put_image("a", "latest", &image);
    leave(&hull, &blob, &vec![0; 2 * MIB]);
    pull_bytes(&hull, &server, &blob);
    assert_eq!(ranges(&server, &blob), [None, Some((2 * MIB, None))]);
    assert_eq!(hull.files(), 3);
}

#[test]
fn a_broken_transfer_leaves_its_bytes_for_the_next_pull() {
    let (image, blob) = large(4 * MIB);
    let whole = blob.clone();
    let server = Server::with(move |request, earlier| {
        if !request.path.ends_with(whole.digest().as_str()) || earlier >= 4 {
            return None;
        }
        let whole = Reply::new(200, whole.bytes.clone());
        Some(if earlier == 0 {
            Reply { cut_after: Some(2 * MIB), ..whole }
        } else {
            Reply { cut_after: Some(5), ..whole }
        })
    });
    server.put_image("a", "latest", &image);
    let hull = Hull::new();
    let images = hull.images();
    let error = pull(&images, &server.reference("a"), &options(), &IgnoreLayers, &NoProgress).expect_err("breaks");
    assert!(matches!(&error, RegistryError::Truncated { .. }), "{error:?}");
    assert_eq!((hull.files(), hull.rows("blobs"), hull.rows("holds")), (1, 0, 0));
    // This process still lives, and so does its lease; the next process finds it dead.
    let tmp = hull.roots.content().join("tmp");
    let left = std::fs::read_dir(&tmp).expect("lists").next().expect("one").expect("entry").path();
    let bytes = std::fs::read(&left).expect("reads");
    std::fs::remove_file(&left).expect("removes");
    leave(&hull, &blob, &bytes);
    pull_bytes(&hull, &server, &blob);
    assert!(ranges(&server, &blob).contains(&Some((2 * MIB, None))));
    assert_eq!(hull.files(), 3);
}

/// A sink that says when the first byte was there.
struct Early(SyncSender<()>);

impl LayerSink for Early {
    fn layer(&self, _: usize, _: &LayerDescriptor, mut packed: PackedLayer) -> Result<(), SinkError> {
        packed.read_exact(&mut [0])?;
        self.0.send(())?;
        std::io::copy(&mut packed, &mut std::io::sink())?;
        Ok(())
    }
}

#[test]
fn a_layer_is_read_while_it_arrives() {
    let (image, blob) = large(20 * MIB);
    let (sender, receiver) = sync_channel(1);
    let receiver: Mutex<Receiver<()>> = Mutex::new(receiver);
    let digest = blob.digest();
    // The last range is answered only when the sink has read from the first.
    let server = Server::with(move |request, _| {
        let last = request.path.ends_with(digest.as_str()) && request.range().is_some_and(|(from, _)| from == 16 * MIB);
        if last {
            receiver.lock().expect("no panic").recv().expect("the sink reads");
        }
        None
    });
    server.put_image("a", "latest", &image);
    let hull = Hull::new();
    drop(pull(&hull.images(), &server.reference("a"), &options(), &Early(sender), &NoProgress).expect("pulls"));
}

/// A sink that cannot read what comes.
struct Unreadable;

impl LayerSink for Unreadable {
    fn layer(&self, _: usize, _: &LayerDescriptor, _: PackedLayer) -> Result<(), SinkError> {
        Err("this is no archive".into())
    }
}

#[test]
fn wrong_bytes_are_told_before_what_they_unpack_to() {
    let (image, blob) = large(2 * MIB);
    let (digest, length) = (blob.digest(), blob.bytes.len());
    let server = Server::with(move |request, _| {
        request.path.ends_with(digest.as_str()).then(|| Reply::new(200, vec![7; length]))
    });
    server.put_image("a", "latest", &image);
    let hull = Hull::new();
    let images = hull.images();
    let error = pull(&images, &server.reference("a"), &options(), &Unreadable, &NoProgress).expect_err("wrong");
    assert!(matches!(&error, RegistryError::WrongDigest { .. }), "{error:?}");
    hull.assert_empty();
    let right = Server::new();
    right.put_image("a", "latest", &image);
    let error = pull(&images, &right.reference("a"), &options(), &Unreadable, &NoProgress).expect_err("unreadable");
    assert!(told(&error).contains("this is no archive"), "{error:?}");
    hull.assert_empty();
}
