//! HTTP/1.1 over TCP or TLS, with errors that say what failed.
//!
//! One [`Transport`] keeps the connections of one pull and reuses them by origin. It follows nothing, retries nothing
//! and knows no registry; a response is whatever the server said. Whom TLS trusts is in [`super::trust`].

use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::payload::{Content, Payload};
use super::proxy::{Proxies, Proxy};
use super::trust::Trust;

/// How long one address may take to accept a connection, and TLS to be agreed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may take to begin its answer, and to send the next part of a body.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("hull/", env!("CARGO_PKG_VERSION"));

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It is not `http://host...` or `https://host...`.
    #[error("invalid address \"{url}\": {reason}")]
    Url {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's name has no address.
    #[error("cannot find the host {host}")]
    UnknownHost {
        /// The host.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address of the host accepts a connection.
    #[error("cannot connect to {origin}")]
    Connect {
        /// Scheme, host and port.
        origin: String,
        /// What the kernel said about the last address.
        source: io::Error,
    },
    /// TLS could not be agreed: an unknown authority, a wrong name, or a server that speaks no TLS.
    #[error("TLS with {origin} failed")]
    Tls {
        /// Scheme, host and port.
        origin: String,
        /// What rustls said.
        source: io::Error,
    },
    /// The proxy cannot be used, or does not do what it is asked.
    #[error("proxy {proxy}: {reason}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of certificates cannot be used.
    #[error("cannot read certificates from {path}: {reason}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The server was silent for too long.
    #[error("{url}: no answer for {seconds} s while {waiting_for}")]
    Timeout {
        /// The address.
        url: String,
        /// What was waited for.
        waiting_for: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("{url}: the connection failed")]
    Broken {
        /// The address.
        url: String,
        /// What hyper said.
        source: hyper::Error,
    },
}

impl TransportError {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Broken { .. })
            || matches!(self, Self::Connect { source, .. } if source.kind() != io::ErrorKind::ConnectionRefused)
    }
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// The origin of an absolute address.
    pub fn of(url: &Uri) -> Result<Self, TransportError> {
        let invalid = |reason: &str| TransportError::Url { url: url.to_string(), reason: reason.to_owned() };
        let is_tls = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid("it is neither http nor https")),
        };
        let host = url.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("it has no host"))?;
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { is_tls, host: host.to_ascii_lowercase(), port })
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        match self.bare_host().parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }

    /// The host without the brackets of an IPv6 address.
    pub fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&self.host)
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}://{}:{}", if self.is_tls { "https" } else { "http" }, self.host, self.port)
    }
}

type Sender = SendRequest<Payload>;

/// The connections of one pull.
pub(super) struct Transport {
    idle: RefCell<Vec<(Origin, Sender)>>,
    trust: Trust,
    proxies: Proxies,
    verifying: OnceCell<TlsConnector>,
    unverifying: OnceCell<TlsConnector>,
}

impl Transport {
    /// No connection yet.
    pub fn new(trust: Trust, proxies: Proxies) -> Self {
        Self { idle: RefCell::default(), trust, proxies, verifying: OnceCell::new(), unverifying: OnceCell::new() }
    }

    /// Sends a request to the absolute address in it and waits for the head of the answer.
    pub async fn send(&self, request: Request<Content>) -> Result<Response<Incoming>, TransportError> {
        let (head, content) = request.into_parts();
        let mut request = Request::from_parts(head, Payload::from(content.clone()));
        let url = request.uri().clone();
        let origin = Origin::of(&url)?;
        let host = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let invalid = |reason: String| TransportError::Url { url: url.to_string(), reason };
        let host = HeaderValue::from_str(host).map_err(|error| invalid(error.to_string()))?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let proxy = self.proxies.proxy_for(&origin)?;
        let path = match &proxy {
            // A proxy is told the whole address; inside of its tunnel the server is not.
            Some(_) if !origin.is_tls => url.to_string(),
            _ => url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        };
        if let Some(value) = proxy.as_ref().filter(|_| !origin.is_tls).and_then(|proxy| proxy.authorization.clone()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value);
        }
        *request.uri_mut() = path.parse().map_err(|error: hyper::http::uri::InvalidUri| invalid(error.to_string()))?;
        let mut sender = match self.take_idle(&origin) {
            Some(sender) => sender,
            None => self.connect(&origin, proxy.as_ref()).await?,
        };
        let mut answer = pin!(sender.send_request(request));
        let answer = loop {
            let before = content.sent_bytes();
            match tokio::time::timeout(IDLE_TIMEOUT, &mut answer).await {
                Ok(answer) => break answer,
                // A long body is still on its way.
                Err(_) if content.sent_bytes() > before => {}
                Err(_) => return Err(timeout(&url, "it begins to answer", IDLE_TIMEOUT)),
            }
        };
        let response = answer.map_err(|source| TransportError::Broken { url: url.to_string(), source })?;
        self.idle.borrow_mut().push((origin, sender));
        Ok(response)
    }

    /// A connection on which nothing is under way.
    fn take_idle(&self, origin: &Origin) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(known, sender)| known == origin && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    async fn connect(&self, origin: &Origin, proxy: Option<&Proxy>) -> Result<Sender, TransportError> {
        let mut stream = connect_tcp(proxy.map_or(origin, |proxy| &proxy.origin)).await?;
        if let Some(proxy) = proxy.filter(|_| origin.is_tls) {
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, proxy.tunnel(&mut stream, origin)).await;
            opened.map_err(|_| timeout(origin, "the proxy opens a tunnel", CONNECT_TIMEOUT))??;
        }
        if !origin.is_tls {
            return serve(origin, stream).await;
        }
        let tls_failed = |source| TransportError::Tls { origin: origin.to_string(), source };
        let name = ServerName::try_from(origin.bare_host().to_owned())
            .map_err(|error| TransportError::Url { url: origin.to_string(), reason: error.to_string() })?;
        let agreed = tokio::time::timeout(CONNECT_TIMEOUT, self.tls(origin)?.connect(name, stream)).await;
        let agreed = agreed.map_err(|_| timeout(origin, "TLS is agreed", CONNECT_TIMEOUT))?;
        serve(origin, agreed.map_err(tls_failed)?).await
    }

    fn tls(&self, origin: &Origin) -> Result<&TlsConnector, TransportError> {
        let verifies = self.trust.verifies(origin);
        let cell = if verifies { &self.verifying } else { &self.unverifying };
        if let Some(connector) = cell.get() {
            return Ok(connector);
        }
        let config = self.trust.config(verifies)?;
        Ok(cell.get_or_init(|| TlsConnector::from(Arc::new(config))))
    }
}

fn timeout(url: impl ToString, waiting_for: &'static str, limit: Duration) -> TransportError {
    TransportError::Timeout { url: url.to_string(), waiting_for, seconds: limit.as_secs() }
}

/// Begins HTTP on a stream; a task of the runtime moves the bytes until the connection closes.
async fn serve<S>(origin: &Origin, stream: S) -> Result<Sender, TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source| TransportError::Broken { url: origin.to_string(), source };
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its failure reaches whoever waits for a response or a body on it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn connect_tcp(origin: &Origin) -> Result<TcpStream, TransportError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses(origin).await? {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|source| refused(origin, source))?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(refused(origin, last))
}

fn refused(origin: &Origin, source: io::Error) -> TransportError {
    TransportError::Connect { origin: origin.to_string(), source }
}

/// The addresses of a host. `localhost` is never asked of a resolver (RFC 6761, 6.3).
async fn addresses(origin: &Origin) -> Result<Vec<SocketAddr>, TransportError> {
    let host = origin.bare_host();
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, origin.port).into()]);
    }
    if host == "localhost" {
        return Ok(vec![(Ipv4Addr::LOCALHOST, origin.port).into(), (Ipv6Addr::LOCALHOST, origin.port).into()]);
    }
    let unknown = |source| TransportError::UnknownHost { host: host.to_owned(), source };
    Ok(tokio::net::lookup_host((host, origin.port)).await.map_err(unknown)?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_their_default_ports() {
        for (url, expected) in [
            ("https://Registry.example/v2/", "https://registry.example:443"),
            ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
            ("http://[::1]/x", "http://[::1]:80"),
        ] {
            assert_eq!(Origin::of(&url.parse().expect("address")).expect("origin").to_string(), expected);
        }
        for url in ["ftp://a/", "/path", "a:1"] {
            assert!(Origin::of(&url.parse().expect("address")).is_err(), "{url}");
        }
    }

    #[test]
    fn loopback_is_known_by_address_and_name() {
        let is_loopback = |url: &str| Origin::of(&url.parse().expect("address")).expect("origin").is_loopback();
        assert!(is_loopback("http://127.3.2.1/") && is_loopback("http://[::1]/") && is_loopback("http://LOCALHOST/"));
        assert!(!is_loopback("http://localhost.example/") && !is_loopback("http://128.0.0.1/"));
    }
}
