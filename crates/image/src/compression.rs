//! Compression, told by the first bytes and never by a name: gzip, zstd, xz, bzip2, or none.
//!
//! Media types and file names are claims; the magic number is what the decoder will meet. gzip and bzip2 may consist
//! of several members, zstd and xz of several frames or streams. Input is read forwards only, so a pipe will do.

use std::io::{self, BufRead, BufReader, Read};

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
