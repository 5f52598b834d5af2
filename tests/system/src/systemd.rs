//! A stand-in for systemd: the few methods of org.freedesktop.systemd1.Manager that a container runtime calls, on a socket in
//! the test's folder.
//!
//! It keeps every call in the words of GVariant's text format, makes the cgroups that systemd would make (with cgroup
//! v1 in the hierarchies that it uses itself), puts the processes into them, and answers and tells of jobs as systemd
//! does. What it cannot prove, that systemd understands the same, the tests in a machine with systemd do.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use zbus::wire::serialized::{Context, Data};
use zbus::wire::{LE, to_bytes};
use zbus::{ObjectPath, OwnedVariant, Signature, Type, Variant};

type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);
type Properties = Vec<(String, OwnedVariant)>;

/// What the stand-in is to do with the next unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Mood {
    /// Make it.
    Willing,
    /// Answer with this error and these words.
    Refusing(&'static str, &'static str),
    /// Say once that a failed unit of that name is there, until it is reset.
    Remembering,
    /// Take the job, and end it with this result.
    Failing(&'static str),
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    /// The folders of each unit's cgroups.
    units: BTreeMap<String, Vec<PathBuf>>,
    mood: Option<Mood>,
    jobs: u32,
}

/// A systemd that is none.
pub struct Systemd {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Systemd {
    /// Listens in that folder.
    pub fn listen(folder: &Path) -> Systemd {
        let socket = folder.join("bus");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shared) = (stream, shared.clone()) else { return };
                thread::spawn(move || Client { stream: BufReader::new(stream), state: shared, serial: 0 }.serve());
            }
        });
        Systemd { socket, state }
    }

    /// What DBUS_SYSTEM_BUS_ADDRESS has to be.
    pub fn address(&self) -> String {
        format!("unix:path={},guid=0123456789abcdef0123456789abcdef", self.socket.display())
    }

    /// What to do with the next unit.
    pub fn set_mood(&self, mood: Mood) {
        self.state.lock().expect("a state").mood = Some(mood);
    }

    /// The calls until now, one line for each and each property.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().expect("a state").calls.clone()
    }

    /// The names of the units that are there.
    pub fn units(&self) -> Vec<String> {
        self.state.lock().expect("a state").units.keys().cloned().collect()
    }
}

struct Client {
    stream: BufReader<UnixStream>,
    state: Arc<Mutex<State>>,
    serial: u32,
}

/// A method call.
struct Call {
    serial: u32,
    member: String,
    body: Vec<u8>,
}

impl Call {
    fn body<T: serde::de::DeserializeOwned + Type>(&self) -> T {
        Data::new(self.body.as_slice(), Context::new(LE, 0)).deserialize().expect("the method's arguments").0
    }
}

impl Client {
    fn serve(mut self) {
        self.greet();
        while let Some(call) = self.next_call() {
            self.answer(&call);
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        // A client that has gone away wants no answer.
        let _gone = self.stream.get_mut().write_all(bytes);
    }

    fn greet(&mut self) {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("the greeting");
        assert!(line.starts_with(b"\0AUTH EXTERNAL"), "{line:?}");
        if !line.starts_with(b"\0AUTH EXTERNAL ") {
            self.say(b"DATA\r\n");
            self.stream.read_until(b'\n', &mut line).expect("the data");
        }
        self.say(b"OK 0123456789abcdef0123456789abcdef\r\n");
        line.clear();
        self.stream.read_until(b'\n', &mut line).expect("the begin");
        assert_eq!(line, b"BEGIN\r\n");
    }

    fn next_call(&mut self) -> Option<Call> {
        let mut bytes = vec![0; 16];
        self.stream.read_exact(&mut bytes).ok()?;
        assert_eq!((bytes[0], bytes[1]), (b'l', 1), "a call in little endian");
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let (body, header) = (number(4), (16 + number(12)).next_multiple_of(8));
        bytes.resize(header + body, 0);
        self.stream.read_exact(&mut bytes[16..]).ok()?;
        // What is several values is no struct of them, which the decoder here would not tell apart.
        let signature = bytes[..header].windows(3).position(|part| part == b"\x01g\0");
        assert!(signature.is_none_or(|at| bytes[at + 4] != b'('), "a body's signature in parentheses");
        let data = Data::new(&bytes[..header], Context::new(LE, 0));
        let (parsed, _): (Header<'_>, usize) = data.deserialize().expect("a header");
        let member = parsed.6.iter().find_map(|(field, value)| match value {
            Variant::Str(word) if *field == 3 => Some(word.to_string()),
            _ => None,
        });
        Some(Call { serial: parsed.5, member: member.expect("a member"), body: bytes[header..].to_vec() })
    }

    fn send<B: serde::Serialize + Type>(&mut self, kind: u8, mut fields: Vec<(u8, Variant<'_>)>, body: &B) {
        self.serial += 1;
        let signature = B::SIGNATURE.to_string_no_parens();
        let content = if signature.is_empty() {
            Vec::new()
        } else {
            to_bytes(Context::new(LE, 0), body).expect("a body").to_vec()
        };
        fields.push((7, Variant::from(":1.1")));
        if !content.is_empty() {
            let signature = Signature::try_from(signature.as_str()).expect("a signature");
            fields.push((8, Variant::Signature(signature)));
        }
        let header: Header<'_> = (b'l', kind, 0, 1, content.len() as u32, self.serial, fields);
        let mut bytes = to_bytes(Context::new(LE, 0), &header).expect("a header").to_vec();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(content);
        self.say(&bytes);
    }

    fn reply<B: serde::Serialize + Type>(&mut self, call: &Call, body: &B) {
        self.send(2, vec![(5, Variant::from(call.serial))], body);
    }

    fn refuse(&mut self, call: &Call, name: &str, words: &str) {
        self.send(3, vec![(4, Variant::from(name.to_owned())), (5, Variant::from(call.serial))], &words);
    }

    /// Answers with a job, and says that it has ended.
    fn job(&mut self, call: &Call, unit: &str, result: &str) {
        let number = {
            let mut state = self.state.lock().expect("a state");
            state.jobs += 1;
            state.jobs
        };
        let path = |number: u32| {
            ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{number}")).expect("an object path")
        };
        // Somebody else's job ends first.
        self.removed(9000 + number, &path(9000 + number), "other.service", "done");
        self.reply(call, &path(number));
        self.removed(number, &path(number), unit, result);
    }

    fn removed(&mut self, number: u32, path: &ObjectPath<'_>, unit: &str, result: &str) {
        let fields = vec![
            (1, Variant::ObjectPath(ObjectPath::try_from("/org/freedesktop/systemd1").expect("an object path"))),
            (2, Variant::from("org.freedesktop.systemd1.Manager")),
            (3, Variant::from("JobRemoved")),
        ];
        self.send(4, fields, &(number, path, unit, result));
    }

    fn answer(&mut self, call: &Call) {
        match call.member.as_str() {
            "Hello" => self.reply(call, &":1.7"),
            "AddMatch" | "Subscribe" => self.reply(call, &()),
            "Get" => {
                let (_, name): (String, String) = call.body();
                let value = if name == "Version" { "252.39-1~deb12u1" } else { "" };
                self.reply(call, &Variant::from(value));
            }
            "StartTransientUnit" => self.start(call),
            "SetUnitProperties" => {
                let (unit, runtime, properties): (String, bool, Properties) = call.body();
                self.note(&format!("SetUnitProperties {unit} {runtime}"), &properties);
                self.reply(call, &());
            }
            "StopUnit" => self.stop(call),
            "ResetFailedUnit" => {
                let unit: String = call.body();
                self.note(&format!("ResetFailedUnit {unit}"), &[]);
                let mut state = self.state.lock().expect("a state");
                let was_failed = state.mood == Some(Mood::Remembering);
                if was_failed {
                    state.mood = None;
                }
                drop(state);
                match was_failed {
                    true => self.reply(call, &()),
                    false => self.refuse(call, "org.freedesktop.systemd1.NoSuchUnit", "Unit not loaded."),
                }
            }
            other => panic!("the stand-in has no {other}"),
        }
    }

    fn note(&self, call: &str, properties: &[(String, OwnedVariant)]) {
        let mut state = self.state.lock().expect("a state");
        state.calls.push(call.to_owned());
        state.calls.extend(properties.iter().map(|(name, value)| format!("  {name} = {}", **value)));
    }

    fn start(&mut self, call: &Call) {
        let (unit, mode, properties, _others): (String, String, Properties, Vec<(String, Properties)>) = call.body();
        self.note(&format!("StartTransientUnit {unit} {mode}"), &properties);
        let mood = self.state.lock().expect("a state").mood.clone().unwrap_or(Mood::Willing);
        match mood {
            Mood::Refusing(name, words) => return self.refuse(call, name, words),
            Mood::Remembering => {
                return self.refuse(call, "org.freedesktop.systemd1.UnitExists", "Unit was already loaded.");
            }
            Mood::Failing(result) => return self.job(call, &unit, result),
            Mood::Willing => {}
        }
        let find = |name: &str| properties.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
        let path = match find("Slice") {
            Some(Variant::Str(slice)) => format!("{}/{unit}", slice_path(slice)),
            _ => slice_path(&unit),
        };
        let pids: Vec<u32> = match find("PIDs") {
            Some(Variant::Array(pids)) => pids.iter().map(|pid| u32::try_from(pid).expect("a pid")).collect(),
            _ => Vec::new(),
        };
        let folders: Vec<PathBuf> = hierarchies().iter().map(|mount| mount.join(&path[1..])).collect();
        for folder in &folders {
            make(folder);
            for pid in &pids {
                fs::write(folder.join("cgroup.procs"), pid.to_string()).expect("the process in its unit");
            }
        }
        self.state.lock().expect("a state").units.insert(unit.clone(), folders);
        self.job(call, &unit, "done");
    }

    fn stop(&mut self, call: &Call) {
        let (unit, mode): (String, String) = call.body();
        self.note(&format!("StopUnit {unit} {mode}"), &[]);
        let folders = self.state.lock().expect("a state").units.remove(&unit);
        let Some(folders) = folders else {
            return self.refuse(call, "org.freedesktop.systemd1.NoSuchUnit", "Unit not loaded.");
        };
        for folder in &folders {
            remove_with_slices(folder);
        }
        self.job(call, &unit, "done");
    }
}

/// Makes a cgroup while others may remove what it is in.
fn make(folder: &Path) {
    for _ in 0..1000 {
        match fs::create_dir_all(folder) {
            Ok(()) => return fill_cpuset(folder),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{}: {error}", folder.display()),
        }
    }
    panic!("{} is always removed again", folder.display());
}

/// A v1 cpuset takes no process before it has processors. The stand-in uses no such hierarchy, but some machines join
/// cpuset to one that it uses.
fn fill_cpuset(folder: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let inherited = folder.parent().map(|parent| fs::read_to_string(parent.join(file)).unwrap_or_default());
        if let Some(inherited) = inherited.filter(|text| !text.trim().is_empty() && !unified()) {
            fs::write(folder.join(file), inherited).ok();
        }
    }
}

/// Removes a unit's cgroup and the slices above it that nothing is in any more.
pub fn remove_with_slices(folder: &Path) {
    let is_slice = |path: &Path| path.extension().is_some_and(|extension| extension == "slice");
    fs::remove_dir(folder).ok();
    for slice in folder.ancestors().skip(1).take_while(|path| is_slice(path)) {
        if fs::remove_dir(slice).is_err() {
            return;
        }
    }
}

/// Whether there is cgroup v2 alone.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where systemd makes cgroups: the one hierarchy of v2, or of v1 those it uses and v2 beside them.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if unified() {
        return vec![root];
    }
    let used = ["systemd", "unified", "memory", "pids", "cpu", "cpu,cpuacct"];
    let found = used.iter().map(|name| root.join(name)).filter(|path| path.exists());
    let mut all: Vec<PathBuf> = found.filter_map(|path| path.canonicalize().ok()).collect();
    all.sort();
    all.dedup();
    all
}

/// Every mounted hierarchy, also those that systemd leaves alone.
pub fn all_hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if unified() {
        return vec![root];
    }
    let entries = fs::read_dir(root).expect("/sys/fs/cgroup").flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// `a-b.slice` is `/a.slice/a-b.slice`.
fn slice_path(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").expect("a slice");
    if stem == "-" {
        return String::new();
    }
    let parts: Vec<&str> = stem.split('-').collect();
    (1..=parts.len()).map(|count| format!("/{}.slice", parts[..count].join("-"))).collect()
}
