//! Compression, told by the first bytes and never by a name: gzip, zstd, xz, bzip2, or none.
//!
//! Media types and file names are claims; the magic number is what the decoder will meet. gzip and bzip2 may consist
//! of several members, zstd and xz of several frames or streams. Input is read forwards only, so a pipe will do.
//!
//! gzip is flate2 with zlib-rs. Measured on a Debian layer (51 MB packed, 128 MB of tar), best of many on a busy 2-CPU
//! machine: zlib-rs as a stream 0.30 s, libdeflate with the whole layer in memory, which it needs, 0.24 s; SHA-256 of
//! the tar 0.12 s and of the packed bytes 0.05 s (sha2 finds the processor's SHA instructions by itself). zlib-ng was
//! not compared: it wants cmake to be built.
//!
//! [`decompress_ahead`] decodes in a thread of its own, into `CHUNKS` buffers that go round, so that whoever hashes and
//! writes what comes out does so meanwhile.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use flate2::bufread::MultiGzDecoder;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known here.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The .xz format.
    Xz,
    /// The .bz2 format.
    Bzip2,
}

impl Compression {
    /// Tells from the first bytes of a stream.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }
}

/// How much is read ahead of a decoder.
const BUFFER_BYTES: usize = 128 << 10;
/// Longest magic number.
const MAGIC_BYTES: usize = 6;

/// A stream whose compression is known and whose first bytes are still to be read.
pub struct Detected<'a> {
    /// How it is compressed.
    pub compression: Compression,
    stream: Replayed<'a>,
}

/// The first bytes again, and then the rest.
type Replayed<'a> = BufReader<io::Chain<io::Cursor<Vec<u8>>, Box<dyn Read + 'a>>>;

impl<'a> Detected<'a> {
    /// Looks at the first bytes of a stream.
    ///
    /// # Errors
    /// What reading said.
    pub fn new(stream: impl Read + 'a) -> io::Result<Self> {
        let mut stream: Box<dyn Read + 'a> = Box::new(stream);
        let mut start = Vec::with_capacity(MAGIC_BYTES);
        stream.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
        let compression = Compression::of(&start);
        let stream = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(start).chain(stream));
        Ok(Self { compression, stream })
    }

    /// The stream as it came.
    pub fn raw(self) -> impl BufRead + 'a {
        self.stream
    }

    /// The stream uncompressed.
    ///
    /// # Errors
    /// When the decoder cannot be made.
    pub fn decompressed(self) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self.compression {
            Compression::None => Box::new(self.stream),
            Compression::Gzip => Box::new(MultiGzDecoder::new(self.stream)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(self.stream)?),
            Compression::Xz => Box::new(lzma_rust2::XzReader::new(self.stream, true)),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(self.stream)),
        })
    }
}

/// A stream uncompressed, whatever it is compressed with.
///
/// # Errors
/// What reading its first bytes said.
pub fn decompress<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Detected::new(stream)?.decompressed()
}

/// Bytes that the decoding thread hands on at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Buffers between the decoding thread and the reader.
const CHUNKS: usize = 6;

/// What travels from the decoding thread: memory, and how much of it is filled.
struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

/// A stream uncompressed in a thread that runs ahead of its reader, whatever it is compressed with. What is wrong with
/// the stream is what reading says.
///
/// # Errors
/// When no thread can be made.
pub fn decompress_ahead(stream: impl Read + Send + 'static) -> io::Result<Decoded> {
    let (full, chunks) = sync_channel(CHUNKS);
    let (empty, spare) = channel();
    for _ in 0..CHUNKS {
        // The other end is here.
        let _ = empty.send(vec![0; CHUNK_BYTES]);
    }
    let decode = move || decode(stream, &full, &spare);
    let thread = thread::Builder::new().name("decode".to_owned()).spawn(decode)?;
    let current = Chunk { bytes: Vec::new(), filled: 0 };
    Ok(Decoded { chunks: Some(chunks), empty, current, position: 0, thread: Some(thread) })
}

/// The decoding thread: it ends with the stream, with an error that it hands on, or when nobody reads any more.
fn decode(stream: impl Read, full: &SyncSender<io::Result<Chunk>>, spare: &Receiver<Vec<u8>>) {
    let mut decoder = match decompress(stream) {
        Ok(decoder) => decoder,
        Err(error) => return drop(full.send(Err(error))),
    };
    while let Ok(mut bytes) = spare.recv() {
        let filled = match fill(&mut decoder, &mut bytes) {
            Ok(0) => return,
            Ok(filled) => filled,
            Err(error) => return drop(full.send(Err(error))),
        };
        if full.send(Ok(Chunk { bytes, filled })).is_err() {
            return;
        }
    }
}

/// Fills the buffer unless the stream ends first.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The reading end of [`decompress_ahead`]. When it is dropped the thread has ended, which may have to wait for the
/// bytes that it is reading.
pub struct Decoded {
    /// Absent when it is being dropped.
    chunks: Option<Receiver<io::Result<Chunk>>>,
    empty: Sender<Vec<u8>>,
    current: Chunk,
    position: usize,
    thread: Option<JoinHandle<()>>,
}

impl Decoded {
    /// Takes the next chunk; false at the end of the stream.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(chunks) = &self.chunks else { return Ok(false) };
        let Ok(next) = chunks.recv() else { return Ok(false) };
        let done = std::mem::replace(&mut self.current, next?);
        self.position = 0;
        if !done.bytes.is_empty() {
            // The thread may have come to the end and gone.
            let _ = self.empty.send(done.bytes);
        }
        Ok(true)
    }
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.filled && (buffer.is_empty() || !self.advance()?) {
            return Ok(0);
        }
        let there = &self.current.bytes[self.position..self.current.filled];
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.position += length;
        Ok(length)
    }
}

impl Drop for Decoded {
    fn drop(&mut self) {
        self.chunks = None;
        // Without memory to fill, and nobody to take it, the thread ends.
        self.empty = channel().0;
        if let Some(thread) = self.thread.take() {
            // A panic of the decoder has no reader to go to.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &[u8] = b"what is compressed comes back as it was; what is compressed comes back as it was";

    fn compressed(compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        match compression {
            Compression::None => out.extend_from_slice(TEXT),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
                encoder.write_all(TEXT).expect("memory");
                encoder.finish().expect("memory");
            }
            Compression::Zstd => out = zstd::encode_all(TEXT, 3).expect("memory"),
            Compression::Xz => {
                let options = lzma_rust2::XzOptions::default();
                let mut writer = lzma_rust2::XzWriter::new(&mut out, options).expect("options");
                writer.write_all(TEXT).expect("memory");
                writer.finish().expect("memory");
            }
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(&mut out, bzip2::Compression::default());
                encoder.write_all(TEXT).expect("memory");
                encoder.finish().expect("memory");
            }
        }
        out
    }

    #[test]
    fn each_kind_is_told_and_undone_also_in_several_members() {
        for kind in [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
            let once = compressed(kind);
            assert_eq!(Compression::of(&once), kind);
            for count in 1..=3 {
                let mut plain = Vec::new();
                decompress(&once.repeat(count)[..]).expect("begins").read_to_end(&mut plain).expect("decodes");
                assert_eq!(plain, TEXT.repeat(count), "{kind:?} {count}");
            }
            let mut raw = Vec::new();
            Detected::new(&once[..]).expect("begins").raw().read_to_end(&mut raw).expect("reads");
            assert_eq!(raw, once);
        }
    }

    #[test]
    fn decoding_ahead_reads_the_same_and_ends_when_nobody_reads() {
        let long: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&long).expect("memory");
        let packed = encoder.finish().expect("memory");
        let mut plain = Vec::new();
        decompress_ahead(io::Cursor::new(packed.clone())).expect("begins").read_to_end(&mut plain).expect("decodes");
        assert!(plain == long);
        let cut = io::Cursor::new(packed[..packed.len() - 5].to_vec());
        assert!(decompress_ahead(cut).expect("begins").read_to_end(&mut plain).is_err());
        let mut unread = decompress_ahead(io::Cursor::new(packed)).expect("begins");
        unread.read_exact(&mut [0; 5]).expect("decodes");
    }

    #[test]
    fn truncated_streams_fail() {
        for kind in [Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
            let whole = compressed(kind);
            let cut = &whole[..whole.len() - 5];
            let mut plain = Vec::new();
            assert!(decompress(cut).expect("begins").read_to_end(&mut plain).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn short_streams_are_plain() {
        for text in [&b""[..], b"a", b"\x1f", b"BZ"] {
            let mut plain = Vec::new();
            decompress(text).expect("begins").read_to_end(&mut plain).expect("reads");
            assert_eq!(plain, text);
        }
    }
}
