//! The image file, written from its beginning to its end in large pieces.
//!
//! Bytes gather in a window that begins at a block; whoever has content reads it straight into the window. What lies
//! before the window can still be written by position. A window of nothing but zeroes is left as a hole. The kernel is
//! told to begin with the writing to the disk while the image still grows, so that who syncs it waits less.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hull_sys::writeback;

use super::format::BLOCK_BYTES;

/// Bytes of the window.
const WINDOW_BYTES: usize = 1 << 20;
/// Bytes after which the disk may begin.
const WRITEBACK_BYTES: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Output {
    file: File,
    window: Vec<u8>,
    /// Where the window begins in the file.
    start: u64,
    filled: usize,
    /// Up to where the disk has begun.
    on_its_way: u64,
}

impl Output {
    /// Writes to an empty file.
    pub fn new(file: File) -> Output {
        Output { file, window: vec![0; WINDOW_BYTES], start: 0, filled: 0, on_its_way: 0 }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.start + self.filled as u64
    }

    /// Room for the next bytes, never empty; [`Output::advance`] says how many there are.
    pub fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.filled == self.window.len() {
            self.flush()?;
        }
        Ok(&mut self.window[self.filled..])
    }

    /// Takes `length` bytes that have been put into [`Output::room`].
    pub fn advance(&mut self, length: usize) {
        self.filled += length;
    }

    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let length = room.len().min(bytes.len());
            room[..length].copy_from_slice(&bytes[..length]);
            self.advance(length);
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Goes on at a later position; what is between are zeroes.
    pub fn skip_to(&mut self, position: u64) -> io::Result<()> {
        let end = self.start + self.window.len() as u64;
        if position <= end {
            let filled = (position - self.start) as usize;
            self.window[self.filled..filled].fill(0);
            self.filled = filled;
            return Ok(());
        }
        self.flush()?;
        self.start = position - position % BLOCK_BYTES as u64;
        self.filled = (position - self.start) as usize;
        self.window[..self.filled].fill(0);
        Ok(())
    }

    /// Fills the block that has been begun with zeroes.
    pub fn pad(&mut self) -> io::Result<()> {
        self.skip_to(self.position().next_multiple_of(BLOCK_BYTES as u64))
    }

    /// Takes the last `length` bytes back, which are less than a block.
    pub fn take_back(&mut self, length: usize) -> Vec<u8> {
        self.filled -= length;
        self.window[self.filled..self.filled + length].to_vec()
    }

    /// Writes where something has been reserved before.
    pub fn put(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        match position.checked_sub(self.start) {
            Some(offset) => {
                let offset = offset as usize;
                self.window[offset..offset + bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            None => self.file.write_all_at(bytes, position),
        }
    }

    /// Reads what has been written before.
    pub fn get(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        match position.checked_sub(self.start) {
            Some(offset) => {
                let offset = offset as usize;
                bytes.copy_from_slice(&self.window[offset..offset + bytes.len()]);
                Ok(())
            }
            None => self.file.read_exact_at(bytes, position),
        }
    }

    /// Writes the window. Later positions begin a new one.
    pub fn flush(&mut self) -> io::Result<()> {
        let bytes = &self.window[..self.filled];
        if bytes.iter().any(|byte| *byte != 0) {
            self.file.write_all_at(bytes, self.start)?;
        }
        self.start += self.filled as u64;
        self.filled = 0;
        let waiting = self.start - self.on_its_way;
        if waiting >= WRITEBACK_BYTES {
            // A file system that cannot loses nothing but time.
            let _ = writeback::begin(&self.file, self.on_its_way, waiting);
            self.on_its_way = self.start;
        }
        Ok(())
    }

    /// Writes what is left and sets the file's length to the present position.
    pub fn finish(&mut self) -> io::Result<()> {
        self.pad()?;
        self.flush()?;
        self.file.set_len(self.start)
    }

    pub fn into_file(self) -> File {
        self.file
    }
}
