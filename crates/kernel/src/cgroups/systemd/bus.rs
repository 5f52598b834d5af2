//! A connection to systemd over D-Bus, as far as a container runtime needs one (dbus-specification, "Message Protocol",
//! "Authentication Protocol").
//!
//! One socket, one call at a time, no thread: the process that clones containers may have only one. The wire format is
//! zbus'. root talks to systemd's own socket, where there is no bus between (as systemctl does), and takes the
//! system bus when that is not there or DBUS_SYSTEM_BUS_ADDRESS names one; a user has the socket or bus of the session.
//!
//! ```text
//! connect, "\0AUTH EXTERNAL <uid>" and BEGIN -> OK -> (Hello, on a bus) -> call, reply, signals in between, call ...
//! ```

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{Endian, LE, to_bytes};
use zbus::{ObjectPath, Signature, Type, Variant};

use super::SystemdError;

/// How long an answer or the end of a job may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The longest message that is read; systemd's are a few hundred bytes.
const MAXIMUM_BYTES: usize = 1 << 20;
const SYSTEM_VARIABLE: &str = "DBUS_SYSTEM_BUS_ADDRESS";
const SESSION_VARIABLE: &str = "DBUS_SESSION_BUS_ADDRESS";
const SYSTEMD_SOCKET: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Which systemd is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The host's.
    System,
    /// The one of this user's session.
    User,
}

impl Bus {
    /// The host's for its root, a user's own for everybody else, root of a user namespace among them.
    pub fn of_caller() -> Bus {
        let whole = |map: &str| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        let is_root = rustix::process::geteuid().is_root();
        // Without /proc nobody can say, and nothing else will work either.
        let in_own_namespace = || std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !whole(&map));
        if is_root && !in_own_namespace() { Bus::System } else { Bus::User }
    }
}

/// A method and whom to ask.
pub(super) struct Method {
    pub destination: &'static str,
    pub path: &'static str,
    pub interface: &'static str,
    pub member: &'static str,
}

/// The kinds of messages that matter here.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const BODY_SIGNATURE: u8 = 8;
/// Bytes of a header that say how long the message is.
const FIXED_BYTES: usize = 16;

/// The fixed part of a header and its fields.
type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);

/// The signature of a body as a header field. A body of several values is no struct: its signature has no parentheses,
/// with which the library would write it.
struct BodySignature(String);

impl Serialize for BodySignature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut variant = serializer.serialize_struct("Variant", 2)?;
        variant.serialize_field("signature", &Signature::Signature)?;
        variant.serialize_field("value", &self.0)?;
        variant.end()
    }
}

/// A header field that goes out.
enum Field<'a> {
    Value(Variant<'a>),
    BodySignature(BodySignature),
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Value(value) => value.serialize(serializer),
            Field::BodySignature(signature) => signature.serialize(serializer),
        }
    }
}

impl Type for Field<'_> {
    const SIGNATURE: &'static Signature = &Signature::Variant;
}

/// A message that has come in.
#[derive(Debug, Default)]
pub(super) struct Message {
    kind: u8,
    pub member: String,
    error_name: String,
    reply_serial: u32,
    signature: String,
    big_endian: bool,
    body: Vec<u8>,
}

impl Message {
    /// The body, when it has the signature of `T` (a struct's without its parentheses).
    pub fn body<T: DeserializeOwned + Type>(&self) -> Result<T, String> {
        let wanted = T::SIGNATURE.to_string_no_parens();
        if self.signature != wanted {
            return Err(format!("its content is {:?} and not {wanted:?}", self.signature));
        }
        let endian = if self.big_endian { Endian::Big } else { Endian::Little };
        let data = Data::new(self.body.as_slice(), Context::new(endian, 0));
        data.deserialize().map(|(value, _)| value).map_err(|error| error.to_string())
    }
}

/// Where a socket is.
#[derive(Debug, PartialEq, Eq)]
enum Socket {
    Path(String),
    Abstract(String),
}

/// A way to systemd: a socket, and whether a bus is between.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    socket: Socket,
    is_bus: bool,
}

impl Way {
    fn connect(&self) -> io::Result<UnixStream> {
        match &self.socket {
            Socket::Path(path) => UnixStream::connect(path),
            Socket::Abstract(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?),
        }
    }

    fn name(&self) -> String {
        match &self.socket {
            Socket::Path(path) => path.clone(),
            Socket::Abstract(name) => format!("@{name}"),
        }
    }
}

/// A connection that is past its greeting.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// How the socket is called in errors.
    name: String,
    /// Whether signals have to be asked for.
    pub is_bus: bool,
    serial: u32,
    signals: VecDeque<Message>,
}

impl Connection {
    /// Connects to the first of the bus' sockets that somebody listens at, and says Hello on a bus.
    pub fn open(bus: Bus) -> Result<Connection, SystemdError> {
        let ways = ways(bus)?;
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for way in &ways {
            match way.connect() {
                Ok(stream) => return Connection::greet(stream, way, bus),
                Err(error) => failed = error,
            }
        }
        let socket = ways.iter().map(Way::name).collect::<Vec<_>>().join(" or ");
        Err(SystemdError::NoSystemd { socket, booted: Path::new("/run/systemd/system").is_dir(), source: failed })
    }

    fn greet(stream: UnixStream, way: &Way, bus: Bus) -> Result<Connection, SystemdError> {
        let mut connection =
            Connection { stream, name: way.name(), is_bus: way.is_bus, serial: 0, signals: VecDeque::new() };
        connection.authenticate(bus)?;
        if way.is_bus {
            let method = Method {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member: "Hello",
            };
            connection.call(&method, "", &())?;
        }
        Ok(connection)
    }

    /// EXTERNAL: the socket says who we are. A user in a user namespace does not know by which number the other side
    /// knows it, and leaves that to the socket too.
    ///
    /// Everything goes out at once, as sd-bus does it: a message that systemd reads together with BEGIN would lie there
    /// until another one comes, so BEGIN has to be with it before the answer that lets us go on.
    fn authenticate(&mut self, bus: Bus) -> Result<(), SystemdError> {
        let deadline = Instant::now() + PATIENCE;
        match bus {
            Bus::System => {
                let uid = rustix::process::geteuid().as_raw().to_string();
                let digits: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
                self.write(format!("\0AUTH EXTERNAL {digits}\r\nBEGIN\r\n").as_bytes())?;
            }
            Bus::User => self.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?,
        }
        let mut answer = self.read_line(deadline)?;
        if bus == Bus::User && answer == "DATA" {
            answer = self.read_line(deadline)?;
        }
        if answer.starts_with("OK ") {
            Ok(())
        } else {
            Err(SystemdError::Refused { socket: self.name.clone(), answer })
        }
    }

    /// Calls a method and waits for its reply; signals that come before it are kept. `about` is what the call is about,
    /// for the error.
    pub fn call<B>(&mut self, method: &Method, about: &str, body: &B) -> Result<Message, SystemdError>
    where
        B: Serialize + Type,
    {
        self.serial += 1;
        let serial = self.serial;
        let bytes = encode(method, serial, body, self.is_bus).map_err(|error| self.malformed(error.to_string()))?;
        self.write(&bytes)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.read_message(deadline)?;
            match message.kind {
                METHOD_RETURN if message.reply_serial == serial => return Ok(message),
                ERROR if message.reply_serial == serial => {
                    let words = message.body().unwrap_or_default();
                    let method = format!("{} {about}", method.member).trim_end().to_owned();
                    return Err(SystemdError::Call { method, name: message.error_name, message: words });
                }
                SIGNAL => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// The next signal of that name.
    pub fn signal(&mut self, member: &str, deadline: Instant) -> Result<Message, SystemdError> {
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.read_message(deadline)?,
            };
            if message.kind == SIGNAL && message.member == member {
                return Ok(message);
            }
        }
    }

    pub fn malformed(&self, reason: String) -> SystemdError {
        SystemdError::Malformed { socket: self.name.clone(), reason }
    }

    fn lost(&self, source: io::Error) -> SystemdError {
        SystemdError::Conversation { socket: self.name.clone(), source }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SystemdError> {
        self.stream.write_all(bytes).map_err(|error| self.lost(error))
    }

    /// Fills `buffer`, waiting no longer than the deadline.
    fn read(&mut self, mut buffer: &mut [u8], deadline: Instant) -> Result<(), SystemdError> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.lost(io::ErrorKind::TimedOut.into()));
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.lost(error))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(())
    }

    /// A line of the greeting, without its end. What follows it is binary, so it is read byte by byte.
    fn read_line(&mut self, deadline: Instant) -> Result<String, SystemdError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            self.read(&mut byte, deadline)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn read_message(&mut self, deadline: Instant) -> Result<Message, SystemdError> {
        let mut bytes = vec![0; FIXED_BYTES];
        self.read(&mut bytes, deadline)?;
        let (header, body) = lengths(&bytes).ok_or_else(|| self.malformed("its header is none".to_owned()))?;
        bytes.resize(header + body, 0);
        self.read(&mut bytes[FIXED_BYTES..], deadline)?;
        decode(&bytes, header).map_err(|reason| self.malformed(reason))
    }
}

/// The bytes of a method call.
fn encode<B: Serialize + Type>(method: &Method, serial: u32, body: &B, is_bus: bool) -> Result<Vec<u8>, zbus::Error> {
    let content =
        if *B::SIGNATURE == Signature::Unit { Vec::new() } else { to_bytes(Context::new(LE, 0), body)?.to_vec() };
    let length = u32::try_from(content.len()).map_err(|_| zbus::Error::ExcessData)?;
    let mut fields = vec![
        (PATH, Field::Value(Variant::ObjectPath(ObjectPath::try_from(method.path)?))),
        (INTERFACE, Field::Value(Variant::from(method.interface))),
        (MEMBER, Field::Value(Variant::from(method.member))),
    ];
    if is_bus {
        fields.push((DESTINATION, Field::Value(Variant::from(method.destination))));
    }
    if !content.is_empty() {
        fields.push((BODY_SIGNATURE, Field::BodySignature(BodySignature(B::SIGNATURE.to_string_no_parens()))));
    }
    let header = (b'l', METHOD_CALL, 0_u8, 1_u8, length, serial, fields);
    let mut bytes = to_bytes(Context::new(LE, 0), &header)?.to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(content);
    Ok(bytes)
}

/// Lengths of the padded header and of the body, from the fixed part of the header.
fn lengths(fixed: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| {
        let bytes = fixed.get(at..at + 4)?.try_into().ok()?;
        match fixed[0] {
            b'l' => Some(u32::from_le_bytes(bytes)),
            b'B' => Some(u32::from_be_bytes(bytes)),
            _ => None,
        }
    };
    let (body, fields) = (number(4)? as usize, number(12)? as usize);
    if body > MAXIMUM_BYTES || fields > MAXIMUM_BYTES {
        return None;
    }
    Some(((FIXED_BYTES + fields).next_multiple_of(8), body))
}

fn decode(bytes: &[u8], header_bytes: usize) -> Result<Message, String> {
    let big_endian = bytes.first() == Some(&b'B');
    let endian = if big_endian { Endian::Big } else { Endian::Little };
    let (header, body) = bytes.split_at(header_bytes);
    let data = Data::new(header, Context::new(endian, 0));
    let (header, _): (Header<'_>, usize) = data.deserialize().map_err(|error| error.to_string())?;
    let mut message = Message { kind: header.1, big_endian, body: body.to_vec(), ..Message::default() };
    for (field, value) in header.6 {
        match (field, value) {
            (MEMBER, Variant::Str(word)) => message.member = word.to_string(),
            (ERROR_NAME, Variant::Str(word)) => message.error_name = word.to_string(),
            (REPLY_SERIAL, Variant::U32(serial)) => message.reply_serial = serial,
            (BODY_SIGNATURE, Variant::Signature(signature)) => message.signature = signature.to_string_no_parens(),
            _ => {}
        }
    }
    Ok(message)
}

/// Where a bus may be, the best first.
fn ways(bus: Bus) -> Result<Vec<Way>, SystemdError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let at = |path: &str, is_bus| Way { socket: Socket::Path(path.to_owned()), is_bus };
    match bus {
        Bus::System => match variable(SYSTEM_VARIABLE) {
            Some(address) => parse_address(SYSTEM_VARIABLE, &address),
            None if rustix::process::geteuid().is_root() => Ok(vec![at(SYSTEMD_SOCKET, false), at(SYSTEM_BUS, true)]),
            None => Ok(vec![at(SYSTEM_BUS, true)]),
        },
        Bus::User => match (variable(SESSION_VARIABLE), variable("XDG_RUNTIME_DIR")) {
            (Some(address), _) => parse_address(SESSION_VARIABLE, &address),
            (None, Some(folder)) => {
                Ok(vec![at(&format!("{folder}/systemd/private"), false), at(&format!("{folder}/bus"), true)])
            }
            (None, None) => Err(SystemdError::NoUserBus),
        },
    }
}

/// `unix:path=/run/x,guid=...;unix:abstract=y`, with bytes as `%20` (dbus-specification, "Server Addresses").
fn parse_address(variable: &'static str, address: &str) -> Result<Vec<Way>, SystemdError> {
    let bad = |reason| SystemdError::Address { variable, address: address.to_owned(), reason };
    let mut ways = Vec::new();
    for one in address.split(';').filter(|one| !one.is_empty()) {
        let Some(pairs) = one.strip_prefix("unix:") else { continue };
        for pair in pairs.split(',') {
            let (key, value) = pair.split_once('=').ok_or_else(|| bad("a part of it is not key=value"))?;
            let value = unescape(value).ok_or_else(|| bad("a percent sign in it is not followed by two digits"))?;
            let socket = match key {
                "path" => Socket::Path(value),
                "abstract" => Socket::Abstract(value),
                _ => continue,
            };
            ways.push(Way { socket, is_bus: true });
        }
    }
    if ways.is_empty() { Err(bad("it has no unix socket with a path or an abstract name")) } else { Ok(ways) }
}

fn unescape(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| (byte as char).to_digit(16);
                (digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_sockets() {
        let names = |address: &str| {
            let ways = parse_address("DBUS_SYSTEM_BUS_ADDRESS", address).ok()?;
            Some(ways.iter().map(Way::name).collect::<Vec<_>>())
        };
        let one = |name: &str| Some(vec![name.to_owned()]);
        assert_eq!(names("unix:path=/run/bus,guid=00"), one("/run/bus"));
        assert_eq!(names("unix:abstract=/tmp/x"), one("@/tmp/x"));
        assert_eq!(names("unix:path=/a%20b%2c"), one("/a b,"));
        assert_eq!(names("tcp:host=h;unix:path=/a;unix:path=/b"), Some(vec!["/a".to_owned(), "/b".to_owned()]));
        for bad in ["", "tcp:host=h,port=1", "unix:tmpdir=/tmp", "unix:path", "unix:path=/a%2"] {
            assert_eq!(names(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_call_reads_back_as_what_it_is() {
        let method = Method { destination: "d.d", path: "/p", interface: "i.i", member: "Member" };
        let bytes = encode(&method, 7, &("unit", 5_u32), true).unwrap();
        let (header, body) = lengths(&bytes).unwrap();
        assert_eq!(header + body, bytes.len());
        let message = decode(&bytes, header).unwrap();
        assert_eq!((message.kind, message.member.as_str(), message.signature.as_str()), (METHOD_CALL, "Member", "su"));
        assert!(bytes.windows(7).any(|part| part == b"\x01g\0\x02su\0"), "two values and no struct of two");
        assert_eq!(message.body::<(String, u32)>().unwrap(), ("unit".to_owned(), 5));
        assert!(message.body::<u32>().unwrap_err().contains("\"su\""));
        let empty = encode(&method, 8, &(), false).unwrap();
        assert_eq!(lengths(&empty).unwrap(), (empty.len(), 0));
    }

    proptest::proptest! {
        #[test]
        fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 16..96), swap: bool) {
            bytes[0] = if swap { b'B' } else { b'l' };
            let header = lengths(&bytes).filter(|(header, body)| header + body <= bytes.len());
            let message = header.and_then(|(header, body)| decode(&bytes[..header + body], header).ok());
            let _either = message.map(|message| message.body::<(u32, String)>());
        }
    }
}
