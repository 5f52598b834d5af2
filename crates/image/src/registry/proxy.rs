//! HTTP proxies as the environment names them: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in capitals or small letters.
//!
//! Plain HTTP is asked of the proxy with the whole address (RFC 9112, 3.2.2); TLS goes through a tunnel that CONNECT
//! opens (RFC 9110, 9.3.6), so the proxy sees a host and a port and nothing else. User name and password in the proxy's
//! address become its Basic authorization. This machine is never reached by a proxy. A proxy is spoken to over plain
//! HTTP; one of another kind is refused by name.

use std::io;
use std::net::IpAddr;

use hyper::Uri;
use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::credentials::encode_base64;
use super::transport::{Origin, TransportError};

/// Longest answer to CONNECT that is read.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Which proxies are used for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Address of the proxy for plain HTTP.
    pub http: Option<String>,
    /// Address of the proxy for TLS.
    pub https: Option<String>,
    /// Hosts that are reached directly: names with all below them, addresses, networks in CIDR form, `*` for all.
    pub exceptions: Vec<String>,
}

/// A proxy to be used.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    /// Where it is.
    pub origin: Origin,
    /// What it is shown.
    pub authorization: Option<HeaderValue>,
}

impl Proxies {
    /// What the environment says.
    pub fn of_environment() -> Self {
        let variable = |name: &str| {
            let either = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).ok();
            either.filter(|value| !value.trim().is_empty())
        };
        let exceptions = variable("NO_PROXY").unwrap_or_default();
        Self {
            http: variable("HTTP_PROXY"),
            https: variable("HTTPS_PROXY"),
            exceptions: exceptions.split(',').map(|item| item.trim().to_ascii_lowercase()).collect(),
        }
    }

    /// The proxy by which an origin is reached; absent when it is reached directly.
    pub(super) fn proxy_for(&self, origin: &Origin) -> Result<Option<Proxy>, TransportError> {
        let address = if origin.is_tls { &self.https } else { &self.http };
        match address {
            Some(address) if !origin.is_loopback() && !self.excepts(origin) => Proxy::parse(address).map(Some),
            _ => Ok(None),
        }
    }

    fn excepts(&self, origin: &Origin) -> bool {
        let host = origin.bare_host();
        self.exceptions.iter().filter(|item| !item.is_empty()).any(|item| {
            let (name, port) = match item.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') => (name, port.parse::<u16>().ok()),
                _ => (item.as_str(), None),
            };
            let suffix = name.trim_start_matches('*').trim_start_matches('.');
            let is_named = name == "*" || host == suffix || host.ends_with(&format!(".{suffix}"));
            (is_named && port.is_none_or(|port| port == origin.port)) || contains(item, host)
        })
    }
}

/// Whether a network (`10.0.0.0/8`) has an address.
fn contains(network: &str, host: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(bits), Ok(host)) = (base.parse::<IpAddr>(), bits.parse::<u32>(), host.parse::<IpAddr>()) else {
        return false;
    };
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let ((base, width), (host, host_width)) = (number(base), number(host));
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits.min(128)) };
    width == host_width && bits <= width && base & mask == host & mask
}

impl Proxy {
    fn parse(address: &str) -> Result<Self, TransportError> {
        let invalid = |reason: &str| {
            // A password is not for an error's text.
            let shown = address.rsplit_once('@').map_or(address, |(_, host)| host);
            TransportError::Proxy { proxy: shown.to_owned(), reason: reason.to_owned() }
        };
        let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        if !with_scheme.starts_with("http://") {
            return Err(invalid("only proxies that speak plain HTTP (http://) are supported"));
        }
        let url: Uri = with_scheme.parse().map_err(|_| invalid("it is no address"))?;
        let origin = Origin::of(&url).map_err(|_| invalid("it is no address"))?;
        let user = url.authority().and_then(|authority| authority.as_str().rsplit_once('@')).map(|(user, _)| user);
        let authorization = user.map(|user| {
            let text = percent_decode(user);
            let text = if text.contains(&b':') { text } else { [&text[..], b":"].concat() };
            let value = HeaderValue::from_str(&format!("Basic {}", encode_base64(&text)));
            value.map_err(|_| invalid("its user name cannot be sent"))
        });
        let mut authorization = authorization.transpose()?;
        authorization.iter_mut().for_each(|value| value.set_sensitive(true));
        Ok(Self { origin, authorization })
    }

    /// Opens a tunnel to an origin on a connection to the proxy.
    pub async fn tunnel(&self, stream: &mut TcpStream, origin: &Origin) -> Result<(), TransportError> {
        let failed = |reason: String| TransportError::Proxy { proxy: self.origin.to_string(), reason };
        let target = format!("{}:{}", origin.host, origin.port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let answer = async {
            stream.write_all(&request).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                if answer.len() == ANSWER_BYTES_MAX {
                    return Err(io::Error::other("its answer is too long"));
                }
                // What follows the answer belongs to the tunnel.
                answer.push(stream.read_u8().await?);
            }
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = answer.await.map_err(|error: io::Error| failed(error.to_string()))?;
        let line = answer.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some("200") => Ok(()),
            _ => Err(failed(format!("it does not open a connection to {target}: {line}"))),
        }
    }
}

/// The bytes that `%41` and other characters stand for.
fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| std::str::from_utf8(after.get(..2)?).ok()).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(&url.parse().expect("address")).expect("origin")
    }

    #[test]
    fn a_proxy_is_chosen_by_scheme_and_host() {
        let exceptions = "example.com,.internal,10.0.0.0/8,192.168.1.1,other.example:8443";
        let proxies = Proxies {
            http: Some("proxy.example:3128".to_owned()),
            https: Some("http://us%65r:p%40ss@secure.example:3129/".to_owned()),
            exceptions: exceptions.split(',').map(str::to_owned).collect(),
        };
        let found = |url: &str| {
            let proxy = proxies.proxy_for(&origin(url)).expect("valid");
            proxy.map(|proxy| proxy.origin.to_string())
        };
        assert_eq!(found("http://r.example/").as_deref(), Some("http://proxy.example:3128"));
        assert_eq!(found("https://r.example/").as_deref(), Some("http://secure.example:3129"));
        let direct = ["https://example.com", "https://a.example.com", "http://a.internal", "http://10.1.2.3:5000"];
        for url in direct.iter().chain(&["http://192.168.1.1", "http://127.0.0.1", "http://localhost:5000"]) {
            assert_eq!(found(url), None, "{url}");
        }
        assert!(found("https://notexample.com").is_some() && found("http://11.1.2.3").is_some());
        assert!(found("https://other.example:8443").is_none() && found("https://other.example").is_some());
        let secure = proxies.proxy_for(&origin("https://r.example/")).expect("valid").expect("one");
        // user:p@ss
        assert_eq!(secure.authorization.expect("a user"), "Basic dXNlcjpwQHNz");
    }

    #[test]
    fn other_kinds_are_refused_without_their_password() {
        let proxies = Proxies { http: Some("socks5://u:secret@p.example".to_owned()), ..Proxies::default() };
        let error = proxies.proxy_for(&origin("http://r.example/")).expect_err("refused").to_string();
        assert!(error.contains("p.example") && error.contains("plain HTTP") && !error.contains("secret"), "{error}");
    }
}
