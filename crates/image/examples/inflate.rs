//! The least that a pull must do with a layer: read the packed bytes, hash them, unpack them, hash what comes out.
//!
//! `inflate FILE`: with Hull's own decoder and hashes, one after the other on one thread, and nothing is written. The
//! measurements of pulls are set beside it.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::process::ExitCode;

use hull_image::compression::Detected;
use hull_image::content::Hasher;

/// How much is read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A stream whose bytes are hashed as they pass.
struct Hashed<R> {
    stream: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("inflate FILE");
        return ExitCode::FAILURE;
    };
    match std::fs::File::open(path).and_then(inflate) {
        Ok((packed, unpacked)) => {
            println!("{packed} {unpacked}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The digests of a layer as it came and of its tar.
fn inflate(file: std::fs::File) -> io::Result<(String, String)> {
    let mut packed = Hashed { stream: file, hasher: Hasher::default() };
    let unpacked = digest_of_tar(&mut packed)?;
    Ok((packed.hasher.finish().to_string(), unpacked))
}

fn digest_of_tar(packed: impl Read) -> io::Result<String> {
    let mut unpacked = Hashed { stream: Detected::new(packed)?.decompressed()?, hasher: Hasher::default() };
    let mut buffer = vec![0; BUFFER_BYTES];
    while unpacked.read(&mut buffer)? > 0 {}
    Ok(unpacked.hasher.finish().to_string())
}
