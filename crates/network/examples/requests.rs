//! Requests and bytes over TCP, both ends of them: what `cargo xtask bench network` sends through published ports.
//!
//! ```text
//! requests serve PORT                  answers HTTP requests on connections that stay open; a POST begins bytes without end,
//!                                      which are read and dropped
//! requests ask ADDRESS:PORT SECONDS    several connections ask at once; prints requests per second
//! requests send ADDRESS:PORT SECONDS   one connection sends; prints megabits per second that the other end has taken
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
const BYTES: &[u8] = b"POST / HTTP/1.1\r\n\r\n";
/// Connections that ask at once.
const CONNECTIONS: usize = 16;
const CHUNK: usize = 128 * 1024;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["serve", port] => serve(port),
        ["ask", at, seconds] => duration(seconds).and_then(|time| ask(at, time)).map(|rate| println!("{rate:.0}")),
        ["send", at, seconds] => duration(seconds).and_then(|time| send(at, time)).map(|rate| println!("{rate:.0}")),
        _ => Err(io::Error::other("serve PORT, ask ADDRESS:PORT SECONDS, or send ADDRESS:PORT SECONDS")),
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
    let mut buffer = vec![0; CHUNK];
    let mut held = 0;
    loop {
        let read = stream.read(&mut buffer[held..])?;
        if read == 0 {
            return Ok(());
        }
        held += read;
        if buffer.starts_with(BYTES) {
            while stream.read(&mut buffer)? > 0 {}
            // Now everything has been taken.
            return stream.write_all(b"x");
        }
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

/// Megabits per second that the other end takes.
fn send(at: &str, time: Duration) -> io::Result<f64> {
    let mut stream = TcpStream::connect(at)?;
    stream.write_all(BYTES)?;
    let chunk = vec![0; CHUNK];
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += chunk.len();
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(sent as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64())
}
