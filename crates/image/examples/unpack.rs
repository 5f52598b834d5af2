//! Measures unpacking: `unpack LAYER PLACE folder|image|none`, with PLACE not there yet. Prints seconds of wall clock and of
//! this process' processors. `none` only decompresses and hashes.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::time::Instant;

use hull_image::unpack::{Destination, UnpackOptions, decompress, unpack_layer};
use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().collect();
    let [_, layer, place, form] = words.as_slice() else { return Err("unpack LAYER PLACE folder|image|none".into()) };
    let begin = Instant::now();
    let mut tar = decompress(BufReader::with_capacity(256 * 1024, File::open(layer)?))?;
    let options = UnpackOptions::default();
    match form.as_str() {
        "folder" => {
            std::fs::create_dir(place)?;
            unpack_layer(tar, Destination::Folder(File::open(place)?.as_fd()), &options)?;
        }
        "image" => {
            let file = File::options().read(true).write(true).create_new(true).open(place)?;
            unpack_layer(tar, Destination::Image(file), &options)?;
        }
        _ => {
            let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 * 1024]);
            loop {
                match tar.read(&mut buffer)? {
                    0 => break,
                    length => hash.update(&buffer[..length]),
                }
            }
            println!("{:x?}", hash.finalize());
        }
    }
    let wall = begin.elapsed().as_secs_f64();
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // utime and stime are the 12th and 13th field after the name, in ticks of 1/100 s (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let seconds = |field: usize| fields[field].parse::<f64>().unwrap_or(0.0) / 100.0;
    println!("{form}: wall {wall:.2} s, user {:.2} s, system {:.2} s", seconds(11), seconds(12));
    Ok(())
}
