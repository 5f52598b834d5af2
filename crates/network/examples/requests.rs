//! Requests over TCP, both ends of them: the leanest of what `cargo xtask bench network` sends through published ports.
//!
//! ```text
//! requests serve PORT                  answers HTTP requests on connections that stay open
//! requests ask ADDRESS:PORT SECONDS    several connections ask at once; prints requests per second
//! ```
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Connections that ask at once.
const CONNECTIONS: usize = 16;
/// No request is longer.
const REQUEST_BYTES_MAX: usize = 4096;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["serve", port] => serve(port),
        ["ask", at, seconds] => duration(seconds).and_then(|time| ask(at, time)).map(|rate| println!("{rate:.0}")),
        _ => Err(io::Error::other("serve PORT, or ask ADDRESS:PORT SECONDS")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("requests {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn duration(seconds: &str) -> io::Result<Duration> {
    seconds.parse().map(Duration::from_secs_f64).map_err(io::Error::other)
}

fn serve(port: &str) -> io::Result<()> {
    let listener = TcpListener::bind(format!("[::]:{port}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // A connection that breaks is its client's to tell of.
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    let mut held = 0;
    loop {
        let read = stream.read(&mut buffer[held..])?;
        if read == 0 {
            return Ok(());
        }
        held += read;
        if buffer[..held].ends_with(b"\r\n\r\n") {
            stream.write_all(ANSWER)?;
            held = 0;
        }
    }
}

/// Requests per second that all connections together get answered.
fn ask(at: &str, time: Duration) -> io::Result<f64> {
    let over = Arc::new(AtomicBool::new(false));
    let streams = (0..CONNECTIONS).map(|_| TcpStream::connect(at)).collect::<io::Result<Vec<_>>>()?;
    let began = Instant::now();
    let clients: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            let over = over.clone();
            thread::spawn(move || -> io::Result<u64> {
                stream.set_nodelay(true)?;
                let mut answer = [0; ANSWER.len()];
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    stream.write_all(REQUEST)?;
                    stream.read_exact(&mut answer)?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    let mut count = 0;
    for client in clients {
        count += client.join().map_err(|_| io::Error::other("a client panicked"))??;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
