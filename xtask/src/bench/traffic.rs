//! Traffic through published ports, beside the same traffic straight to the container.
//!
//! ```text
//! wrk asks nginx     requests as a site gets them, on open connections
//! iperf3             the bytes of one connection
//! requests asks      programs of the tree (crates/network/examples/requests.rs) that do nothing but ask and answer:
//!                    the harshest comparison, for only the network costs anything
//!
//! straight           from the host to the container's address
//! host's address     from the host, through the published port; a remote host would measure its own wire
//! 127.0.0.1          from the host, through the published port
//! from itself        from the container through its own published port (hairpin): every packet crosses two veth pairs
//! neighbour          from another container to the container's address: as many, and nothing is translated
//! ```
//! wrk, nginx and iperf3 are Debian's. In the container they run with the machine's own libraries, so that both ends
//! are the same programs whatever the image is. Each end has a processor of its own (taskset(1)): where the scheduler
//! puts them makes more of a difference than the way between them.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Settings;
use super::figures::{self, Samples};
use super::network::{HOST, Ways, quiet};
use super::stage::IMAGE;
use super::worker::Start;
use crate::apt::Apt;
use crate::workspace;

/// How long traffic is measured, seconds.
const SECONDS: &str = "1";
/// How long servers may take until they accept.
const SERVERS_LIMIT: Duration = Duration::from_secs(10);
const PACKAGES: [&str; 3] = ["iperf3", "nginx-light", "wrk"];
/// Debian's util-linux, which every machine has.
const TASKSET: &str = "/usr/bin/taskset";
/// The program of the tree, in a container.
const REQUESTS: &str = "/requests";
/// The container that serves, and the one beside it.
const SERVER: &str = "server";
const NEIGHBOUR: &str = "neighbour";
/// One process, as it has one processor; nothing is read from files or written to them.
const NGINX: &str = "daemon off; master_process off; user root root; pid /nginx.pid; error_log /dev/null;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path /nginx-body; proxy_temp_path /nginx-proxy; fastcgi_temp_path /nginx-fastcgi;
  uwsgi_temp_path /nginx-uwsgi; scgi_temp_path /nginx-scgi;
  server { listen 82; location / { return 200 ok; } }
}
";

/// One kind of traffic.
struct Load {
    title: &'static str,
    unit: &'static str,
    /// The port inside.
    port: u16,
    /// The client's program and arguments for an address and a port.
    client: fn(&str, u16) -> Vec<String>,
    /// The figure in what the client prints.
    figure: fn(&str) -> Option<f64>,
}

const LOADS: [Load; 3] = [
    Load {
        title: "Requests, wrk to nginx",
        unit: "1/s",
        port: 82,
        client: |address, port| {
            words(&[
                "/tools/usr/bin/wrk",
                "-t1",
                "-c16",
                &format!("-d{SECONDS}s"),
                &format!("http://{address}:{port}/"),
            ])
        },
        figure: |text| text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok(),
    },
    Load {
        title: "Bytes of one connection, iperf3",
        unit: "Mbit/s",
        port: 81,
        client: |address, port| {
            let port = port.to_string();
            words(&["/tools/usr/bin/iperf3", "--json", "-t", SECONDS, "-c", address, "-p", &port])
        },
        figure: |text| {
            let said: Value = serde_json::from_str(text).ok()?;
            Some(said["end"]["sum_received"]["bits_per_second"].as_f64()? / 1e6)
        },
    },
    Load {
        title: "Requests, nothing but asked and answered",
        unit: "1/s",
        port: 80,
        client: |address, port| words(&[REQUESTS, "ask", &format!("{address}:{port}"), SECONDS]),
        figure: |text| text.trim().parse().ok(),
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// Where programs are, seen from the host and from a container.
pub struct Tools {
    tree: PathBuf,
    requests: PathBuf,
    triplet: String,
    /// File name of the dynamic loader, which lies among the machine's libraries.
    loader: String,
    /// The processor of clients; servers have the first one.
    client_processor: usize,
}

impl Tools {
    /// Unpacks them when they are not there yet.
    pub fn unpack() -> Result<PathBuf> {
        let tree = workspace::folder("peers")?.join("traffic");
        Apt::machine()?.unpack(&PACKAGES, true, &tree).context("unpacking what makes traffic")?;
        Ok(tree)
    }

    fn ready(settings: &Settings) -> Result<Tools> {
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let folder = PathBuf::from("/usr/lib").join(&triplet);
        let mut names = fs::read_dir(&folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let loader = names.find(|name| name.starts_with("ld-linux")).context("the machine has no dynamic loader")?;
        let client_processor = std::thread::available_parallelism()?.get() - 1;
        Ok(Tools { tree: Tools::unpack()?, requests: settings.requests.clone(), triplet, loader, client_processor })
    }

    /// What a container is started with so that it has them.
    fn mounts(&self, settings: &Settings) -> Result<Vec<String>> {
        let mut flags = Vec::new();
        let mut mount = |from: &str, to: &str| flags.extend(["-v".to_owned(), format!("{from}:{to}:ro")]);
        mount("/usr", "/machine");
        mount(&self.tree.display().to_string(), "/tools");
        mount(&self.requests.display().to_string(), REQUESTS);
        for (name, to, text) in [
            ("nginx.conf", "/nginx.conf", NGINX),
            ("passwd", "/etc/passwd", "root:x:0:0::/:/bin/sh\n"),
            ("group", "/etc/group", "root:x:0:\n"),
        ] {
            let path = settings.dir.join(name);
            fs::write(&path, text)?;
            mount(&path.display().to_string(), to);
        }
        Ok(flags)
    }

    /// A server in a container.
    fn server_inside(&self, argv: &[String]) -> Vec<String> {
        self.inside_on(0, argv)
    }

    /// A client in a container.
    fn client_inside(&self, argv: &[String]) -> Vec<String> {
        self.inside_on(self.client_processor, argv)
    }

    fn inside_on(&self, processor: usize, argv: &[String]) -> Vec<String> {
        let taskset = ["/machine/bin/taskset", "--cpu-list", &processor.to_string()];
        [self.inside(&words(&taskset)), self.inside(argv)].concat()
    }

    /// A program in a container; that of the tree needs no libraries.
    fn inside(&self, argv: &[String]) -> Vec<String> {
        if argv[0] == REQUESTS {
            return argv.to_vec();
        }
        let Tools { triplet, loader, .. } = self;
        let machine = format!("/machine/lib/{triplet}");
        let libraries = format!("/tools/usr/lib/{triplet}:/tools/lib/{triplet}:{machine}");
        [words(&[&format!("{machine}/{loader}"), "--library-path", &libraries]), argv.to_vec()].concat()
    }

    /// A client on the host.
    fn client_on_host(&self, argv: &[String]) -> Start {
        let program = match argv[0].strip_prefix("/tools/") {
            Some(path) => self.tree.join(path).display().to_string(),
            None => self.requests.display().to_string(),
        };
        let taskset = words(&[TASKSET, "--cpu-list", &self.client_processor.to_string(), &program]);
        let argv = [&taskset, &argv[1..]].concat();
        let folder = |below: &str| self.tree.join(below).join(&self.triplet).display().to_string();
        let libraries = [folder("usr/lib"), folder("lib")].join(":");
        Start { argv, env: BTreeMap::from([("LD_LIBRARY_PATH".into(), libraries)]) }
    }
}

/// One engine's server.
struct Served {
    index: usize,
    engine: &'static str,
    address: String,
}

impl Served {
    /// Where the host has a port of the container's.
    fn published(&self, port: u16) -> u16 {
        8000 + 100 * self.index as u16 + port
    }
}

/// Prints a table for each kind.
pub fn measure(settings: &Settings, ways: &Ways) -> Result<()> {
    let tools = Tools::ready(settings)?;
    let mut served = Vec::new();
    for (index, (engine, _)) in ways.each(&[])?.into_iter().enumerate() {
        served.push(serve(settings, ways, &tools, index, engine)?);
    }
    for load in &LOADS {
        let places = places(ways, &tools, load, &served)?;
        let mut samples: Vec<Samples> = places.iter().map(|(name, _)| Samples::of(name)).collect();
        for round in 0..settings.rounds {
            for turn in 0..places.len() {
                let index = (round + turn) % places.len();
                samples[index].values.push(number(load, &places[index].1)?);
            }
        }
        figures::print(settings, load.title, load.unit, &samples)?;
    }
    for Served { index, .. } in &served {
        quiet(&ways.removal(*index, &[SERVER, NEIGHBOUR])?)?;
    }
    Ok(())
}

/// Starts the containers of one engine, and every server.
fn serve(settings: &Settings, ways: &Ways, tools: &Tools, index: usize, engine: &'static str) -> Result<Served> {
    let mut served = Served { index, engine, address: String::new() };
    let mounts = tools.mounts(settings)?;
    let publish = |load: &Load| words(&["-p", &format!("{}:{}", served.published(load.port), load.port)]);
    let run = |name: &str, flags: Vec<String>, program: &[String]| {
        let argv = [words(&["run", "-d", "--name", name]), mounts.clone(), flags, words(&[IMAGE]), program.to_vec()];
        quiet(&ways.one(index, &argv.concat())?)
    };
    run(SERVER, LOADS.iter().flat_map(publish).collect(), &tools.server_inside(&words(&[REQUESTS, "serve", "80"])))?;
    run(NEIGHBOUR, Vec::new(), &words(&["sleep", "10000"]))?;
    for server in [
        words(&["/tools/usr/bin/iperf3", "-s", "-p", "81"]),
        words(&["/tools/usr/sbin/nginx", "-e", "/dev/null", "-c", "/nginx.conf"]),
    ] {
        quiet(&ways.one(index, &[words(&["exec", "-d", SERVER]), tools.server_inside(&server)].concat())?)?;
    }
    let inspect = ways.one(index, &words(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", SERVER]))?;
    served.address = said(&inspect)?.trim().to_owned();
    ensure!(!served.address.is_empty(), "{engine} has given its container no address");
    LOADS.iter().try_for_each(|load| accepts(&served.address, load.port))?;
    Ok(served)
}

fn accepts(address: &str, port: u16) -> Result<()> {
    let end = Instant::now() + SERVERS_LIMIT;
    while let Err(error) = TcpStream::connect((address, port)) {
        if Instant::now() > end {
            return Err(error).with_context(|| format!("the server at {address}:{port}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Every client of a load, under the name of its place.
fn places(ways: &Ways, tools: &Tools, load: &Load, served: &[Served]) -> Result<Vec<(String, Start)>> {
    let mut places = Vec::new();
    for one in served {
        let straight = (load.client)(&one.address, load.port);
        let published = |at: &str| (load.client)(at, one.published(load.port));
        let within = |container: &str, argv: &[String]| {
            ways.one(one.index, &[words(&["exec", container]), tools.client_inside(argv)].concat())
        };
        for (place, client) in [
            ("straight", tools.client_on_host(&straight)),
            ("host's address", tools.client_on_host(&published(HOST))),
            ("127.0.0.1", tools.client_on_host(&published("127.0.0.1"))),
            ("from itself", within(SERVER, &published(HOST))?),
            ("neighbour, straight", within(NEIGHBOUR, &straight)?),
        ] {
            places.push((format!("{}, {place}", one.engine), client));
        }
    }
    Ok(places)
}

fn number(load: &Load, client: &Start) -> Result<f64> {
    let text = said(client)?;
    (load.figure)(&text).with_context(|| format!("{} printed no figure: {text}", client.argv.join(" ")))
}

/// What a program prints.
fn said(start: &Start) -> Result<String> {
    let output = Command::new(&start.argv[0]).args(&start.argv[1..]).envs(&start.env).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{}: {text}{}", start.argv.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
