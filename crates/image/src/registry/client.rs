//! One repository of one registry: authentication, redirects and retries (distribution-spec 1.1, "Pull").
//!
//! A request that is answered 401 is sent once more with what the challenge asks for: a bearer token from the realm
//! it names, or user name and password. Redirects are followed up to ten times; the Authorization header stays behind
//! when the origin changes, and a redirect from TLS to plain HTTP is refused unless it leads to this machine. What may
//! be transient (a broken connection, 408, 429, 5xx) is tried again after growing pauses, longer where the server says
//! so. Registries on loopback, and those set to be insecure, are asked over plain HTTP first and over TLS when that is not
//! what they speak.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hull_oci::Reference;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;

use super::challenge::{self, Challenge, TokenSource};
use super::credentials::{self, Credentials, encode_base64};
use super::endpoint::Endpoint;
use super::payload::Content;
use super::transport::{IDLE_TIMEOUT, Origin, Transport, TransportError};
use super::trust::Trust;
use super::{Proxies, PullOptions, PushOptions, Registries, RegistryError};

const REDIRECTS_MAX: usize = 10;
/// Longest error text or token that is read.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;
/// Longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// A client for the repository of one reference.
pub(super) struct Client<'a> {
    transport: Transport,
    reference: &'a Reference,
    /// Under which name credentials are found.
    registry: String,
    repository: String,
    base: String,
    action: Action,
    docker_config: Option<PathBuf>,
    authorization: RefCell<Option<HeaderValue>>,
    scopes: RefCell<Vec<String>>,
    /// Credentials in place of those that are configured.
    introduction: Option<Credentials>,
    attempts: u32,
    first_pause: Duration,
}

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Pull,
    Push,
    /// Nothing but introducing oneself.
    Login,
}

impl std::fmt::Display for Action {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Login => "login",
        })
    }
}

/// How registries are reached and how patiently.
#[derive(Debug, Clone)]
pub(super) struct Reach<'o> {
    pub docker_config: Option<PathBuf>,
    pub registries: &'o Registries,
    pub attempts: u32,
    pub first_pause: Duration,
    pub proxies: &'o Proxies,
}

impl<'o> From<&'o PullOptions> for Reach<'o> {
    fn from(options: &'o PullOptions) -> Self {
        let PullOptions { docker_config, registries, attempts, first_pause, proxies, .. } = options;
        let docker_config = docker_config.clone().or_else(credentials::default_path);
        Self { docker_config, registries, attempts: *attempts, first_pause: *first_pause, proxies }
    }
}

impl<'o> From<&'o PushOptions> for Reach<'o> {
    fn from(options: &'o PushOptions) -> Self {
        let PushOptions { docker_config, registries, attempts, first_pause, proxies, .. } = options;
        let docker_config = docker_config.clone().or_else(credentials::default_path);
        Self { docker_config, registries, attempts: *attempts, first_pause: *first_pause, proxies }
    }
}

/// What one request asks for beyond its address, and what it brings.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted<'a> {
    pub method: Method,
    /// Media type of the content; empty for none.
    pub content_type: &'a str,
    /// First and last byte that the content has of the whole.
    pub content_range: Option<(u64, u64)>,
    pub content: Content,
    /// Media types for the Accept header.
    pub accept: &'a [&'a str],
    /// First byte of the body, when it begins later.
    pub from_byte: u64,
    /// The byte after the last one wanted, when the body need not come to its end.
    pub to_byte: Option<u64>,
}

impl<'a> Client<'a> {
    /// Finds out how an endpoint is reached.
    pub async fn connect(
        reference: &'a Reference,
        endpoint: &Endpoint,
        reach: &Reach<'_>,
        action: Action,
    ) -> Result<Self, RegistryError> {
        let Endpoint { registry, host, repository, is_plain } = endpoint;
        let settings = reach.registries.get(registry.as_str()).cloned().unwrap_or_default();
        let trust = Trust::of(&settings, registry, host)?;
        let mut client = Self {
            transport: Transport::new(trust, reach.proxies.clone()),
            reference,
            registry: registry.clone(),
            repository: repository.clone(),
            base: format!("https://{host}"),
            action,
            docker_config: reach.docker_config.clone(),
            authorization: RefCell::default(),
            scopes: RefCell::default(),
            introduction: None,
            attempts: reach.attempts.max(1),
            first_pause: reach.first_pause,
        };
        let is_plain = match (*is_plain || settings.plain_http, settings.insecure) {
            (true, _) => true,
            (false, true) => !client.speaks_tls(host).await?,
            (false, false) => endpoint.is_loopback() && client.speaks_plain_http(host).await?,
        };
        if is_plain {
            client.base = format!("http://{host}");
        }
        Ok(client)
    }

    /// What the client is about.
    pub fn reference(&self) -> &Reference {
        self.reference
    }

    /// With these credentials, whatever is configured.
    pub fn introduced_as(self, credentials: Credentials) -> Self {
        Self { introduction: Some(credentials), ..self }
    }

    /// The address by which a registry says that it is one.
    pub fn base_url(&self) -> String {
        format!("{}/v2/", self.base)
    }

    /// How often a transfer is tried.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The address of a manifest or blob of the repository.
    pub fn url(&self, kind: &str, target: &str) -> String {
        format!("{}/v2/{}/{kind}/{target}", self.base, self.repository)
    }

    /// Whether an insecure registry has TLS after all: nothing goes over in the clear before that is known.
    async fn speaks_tls(&self, host: &str) -> Result<bool, RegistryError> {
        let request = build(Request::head(format!("https://{host}/v2/")), Content::Nothing)?;
        match self.transport.send(request).await {
            Ok(_) => Ok(true),
            Err(TransportError::Tls { .. } | TransportError::Connect { .. } | TransportError::Broken { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A server that wants TLS answers plain HTTP with 400 or closes the connection.
    async fn speaks_plain_http(&self, host: &str) -> Result<bool, RegistryError> {
        let request = build(Request::get(format!("http://{host}/v2/")), Content::Nothing)?;
        match self.transport.send(request).await {
            Ok(response) => Ok(response.status() != StatusCode::BAD_REQUEST),
            Err(TransportError::Broken { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks an address of the registry, trying again where that may help. The answer is a success.
    pub async fn get(&self, url: &str, wanted: &Wanted<'_>) -> Result<Response<Incoming>, RegistryError> {
        let mut attempt = 1;
        loop {
            match self.get_once(url, wanted).await {
                // Whoever asks for a longer pause will not answer before.
                Err((error, after))
                    if error.is_transient()
                        && attempt < self.attempts
                        && after.is_none_or(|pause| pause <= RETRY_AFTER_MAX) =>
                {
                    tracing::debug!("attempt {attempt} of {}: {error}", self.attempts);
                    self.pause(attempt, after).await;
                    attempt += 1;
                }
                other => return other.map_err(|(error, _)| error),
            }
        }
    }

    /// As [`Client::get`], but never tries again.
    pub async fn once(&self, url: &str, wanted: &Wanted<'_>) -> Result<Response<Incoming>, RegistryError> {
        self.get_once(url, wanted).await.map_err(|(error, _)| error)
    }

    /// Waits before attempt `attempt + 1`: twice as long each time, or as long as the server asked for.
    pub async fn pause(&self, attempt: u32, asked_for: Option<Duration>) {
        let growing = self.first_pause.saturating_mul(1 << attempt.saturating_sub(1).min(6));
        tokio::time::sleep(asked_for.map_or(growing, |asked| asked.min(RETRY_AFTER_MAX))).await;
    }

    /// One attempt: the request, authenticated and redirected as needed. An error comes with the pause asked for.
    async fn get_once(
        &self,
        url: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Response<Incoming>, (RegistryError, Option<Duration>)> {
        let now = |error: RegistryError| (error, None);
        let (mut response, is_home) = self.follow(url, wanted).await.map_err(now)?;
        // What another server asks for after a redirect is no reason to show it our credentials.
        if response.status() == StatusCode::UNAUTHORIZED && is_home {
            self.authenticate(url, response).await.map_err(now)?;
            (response, _) = self.follow(url, wanted).await.map_err(now)?;
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            _ => {
                let pause = retry_after(&response);
                Err((self.refusal(url, response).await, pause))
            }
        }
    }

    /// Sends the request and follows redirects; the answer is any other status, and whether the registry itself gave it.
    async fn follow(&self, url: &str, wanted: &Wanted<'_>) -> Result<(Response<Incoming>, bool), RegistryError> {
        let start = parse_url(url)?;
        let home = Origin::of(&parse_url(&self.base)?)?;
        let mut current = start;
        for _ in 0..=REDIRECTS_MAX {
            let is_home = Origin::of(&current)? == home;
            let authorization = self.authorization.borrow().clone().filter(|_| is_home);
            let response = self.transport.send(request(&current, wanted, authorization)?).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok((response, is_home));
            }
            current = redirect_target(&current, &response)?;
        }
        Err(RegistryError::Redirect { url: url.to_owned(), reason: format!("more than {REDIRECTS_MAX} redirects") })
    }

    /// Gets what a 401 asks for and keeps it for the requests to come.
    async fn authenticate(&self, url: &str, response: Response<Incoming>) -> Result<(), RegistryError> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let texts: Vec<String> = headers.iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
        let challenges: Vec<Challenge> = texts.iter().flat_map(|text| challenge::parse(text)).collect();
        let credentials = match (&self.introduction, &self.docker_config) {
            (Some(credentials), _) => Some(credentials.clone()),
            (None, Some(path)) => credentials::load(path, &self.registry)?,
            (None, None) => None,
        };
        let source = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(source) => Some(source),
            Challenge::Basic => None,
        });
        let value = match (source, credentials) {
            (Some(source), credentials) => {
                self.extend_scopes(source);
                format!("Bearer {}", self.token(source, credentials.as_ref()).await?)
            }
            (None, Some(Credentials::Password { user, password })) if challenges.contains(&Challenge::Basic) => {
                basic(&user, &password)
            }
            (None, _) if challenges.contains(&Challenge::Basic) => {
                return Err(self.denied(message_of(response).await));
            }
            (None, _) => {
                return Err(RegistryError::Challenge { url: url.to_owned(), challenge: texts.join(", ") });
            }
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|error| RegistryError::Token { url: url.to_owned(), reason: error.to_string() })?;
        value.set_sensitive(true);
        *self.authorization.borrow_mut() = Some(value);
        Ok(())
    }

    /// What tokens are asked for: what this client is for, and whatever a challenge named besides.
    fn extend_scopes(&self, source: &TokenSource) {
        let mut scopes = self.scopes.borrow_mut();
        if self.action == Action::Push && scopes.is_empty() {
            scopes.push(format!("repository:{}:pull,push", self.repository));
        }
        for scope in source.scope.iter().flat_map(|scope| scope.split_ascii_whitespace()) {
            if !scopes.iter().any(|known| challenge::covers(known, scope)) {
                scopes.push(scope.to_owned());
            }
        }
        if scopes.is_empty() && self.action == Action::Pull {
            scopes.push(format!("repository:{}:pull", self.repository));
        }
    }

    /// A bearer token for the scopes.
    async fn token(&self, source: &TokenSource, credentials: Option<&Credentials>) -> Result<String, RegistryError> {
        let scopes = self.scopes.borrow().clone();
        let realm = parse_url(&source.realm)?;
        let (is_safe, failed) = (is_safe_realm(&realm, &self.base), |reason: &str| RegistryError::Token {
            url: source.realm.clone(),
            reason: reason.to_owned(),
        });
        if !is_safe {
            return Err(failed("it is reached over plain HTTP, which is for this machine only"));
        }
        let request = match credentials {
            Some(Credentials::IdentityToken(token)) => refresh_request(source, &scopes, token)?,
            Some(Credentials::Password { user, password }) => {
                let builder = Request::get(source.url(&scopes)).header(AUTHORIZATION, basic(user, password));
                build(builder, Content::Nothing)?
            }
            None => build(Request::get(source.url(&scopes)), Content::Nothing)?,
        };
        let response = self.transport.send(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied(message_of(response).await)),
            _ => return Err(self.refusal(&source.realm, response).await),
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = read_limited(&source.realm, response, MESSAGE_BYTES_MAX).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| failed("its answer is not JSON"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| failed("its answer has neither token nor access_token"))
    }

    fn denied(&self, message: String) -> RegistryError {
        RegistryError::Denied { action: self.action.to_string(), reference: Box::new(self.reference.clone()), message }
    }

    /// The error that a status other than success means.
    async fn refusal(&self, url: &str, response: Response<Incoming>) -> RegistryError {
        let status = response.status();
        let limits = limits_of(&response);
        let message = message_of(response).await;
        let url = url.to_owned();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(message),
            StatusCode::NOT_FOUND if url.contains("/manifests/") => {
                RegistryError::NotFound { reference: Box::new(self.reference.clone()), message }
            }
            StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests { url, message, limits },
            _ => RegistryError::Status { url, status: status.as_u16(), message },
        }
    }
}

pub(super) fn parse_url(url: &str) -> Result<Uri, RegistryError> {
    let invalid =
        |error: hyper::http::uri::InvalidUri| TransportError::Url { url: url.to_owned(), reason: error.to_string() };
    Ok(url.parse().map_err(invalid)?)
}

fn build(builder: Builder, content: Content) -> Result<Request<Content>, RegistryError> {
    let url = builder.uri_ref().map(ToString::to_string).unwrap_or_default();
    let built = builder.body(content);
    built.map_err(|error| TransportError::Url { url, reason: error.to_string() }.into())
}

fn request(
    url: &Uri,
    wanted: &Wanted<'_>,
    authorization: Option<HeaderValue>,
) -> Result<Request<Content>, RegistryError> {
    let mut builder = Request::builder().method(wanted.method.clone()).uri(url.clone());
    for media_type in wanted.accept {
        builder = builder.header(ACCEPT, *media_type);
    }
    if wanted.from_byte > 0 || wanted.to_byte.is_some() {
        let last = wanted.to_byte.map(|end| end.saturating_sub(1).to_string()).unwrap_or_default();
        builder = builder.header(RANGE, format!("bytes={}-{last}", wanted.from_byte));
    }
    if !wanted.content_type.is_empty() {
        builder = builder.header(CONTENT_TYPE, wanted.content_type);
    }
    if let Some((first, last)) = wanted.content_range {
        builder = builder.header(CONTENT_RANGE, format!("{first}-{last}"));
    }
    if let Some(value) = authorization {
        builder = builder.header(AUTHORIZATION, value);
    }
    build(builder, wanted.content.clone())
}

/// The OAuth2 form by which an identity token is changed for an access token.
fn refresh_request(source: &TokenSource, scopes: &[String], token: &str) -> Result<Request<Content>, RegistryError> {
    let mut form = "grant_type=refresh_token&client_id=hull".to_owned();
    let scope = scopes.join(" ");
    for (key, value) in
        [("service", source.service.as_deref().unwrap_or_default()), ("scope", &scope), ("refresh_token", token)]
    {
        form.push('&');
        form.push_str(key);
        form.push('=');
        challenge::percent_encode(value, &mut form);
    }
    build(
        Request::post(&source.realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded"),
        Content::Bytes(form.into()),
    )
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", encode_base64(format!("{user}:{password}").as_bytes()))
}

/// Credentials go over TLS, or to this machine, or where the registry itself is spoken to in the clear.
fn is_safe_realm(realm: &Uri, base: &str) -> bool {
    Origin::of(realm).is_ok_and(|origin| origin.is_tls || origin.is_loopback() || base.starts_with("http://"))
}

fn redirect_target(from: &Uri, response: &Response<Incoming>) -> Result<Uri, RegistryError> {
    let failed = |reason: String| RegistryError::Redirect { url: from.to_string(), reason };
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| failed(format!("status {} without a Location", response.status())))?;
    next_address(from, location)
}

/// Where an answer of `from` sends the client on to; never from TLS to plain HTTP.
pub(super) fn next_address(from: &Uri, location: &str) -> Result<Uri, RegistryError> {
    let failed = |reason: String| RegistryError::Redirect { url: from.to_string(), reason };
    let target = resolve_location(from, location)
        .ok_or_else(|| failed(format!("it leads to \"{location}\", which is not an address")))?;
    let (old, new) = (Origin::of(from)?, Origin::of(&target)?);
    if old.is_tls && !new.is_tls && !new.is_loopback() {
        return Err(failed(format!("it leads from TLS to plain HTTP ({new})")));
    }
    Ok(target)
}

/// Location may be absolute, or relative to the address that sent it (RFC 9110, 10.2.2).
fn resolve_location(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    absolute.parse().ok()
}

/// What a server says of its limits: docker's `ratelimit-limit: 100;w=21600`, and when to come again.
fn limits_of(response: &Response<Incoming>) -> String {
    let text = |name: &str| response.headers().get(name)?.to_str().ok().map(str::trim);
    let limit = |name: &str| {
        let value = text(name)?;
        let (count, window) = value.split_once(";w=").unwrap_or((value, ""));
        count.parse::<u64>().ok()?;
        Some((count, window.parse::<u64>().ok()))
    };
    let mut said = Vec::new();
    match limit("ratelimit-limit") {
        Some((count, Some(seconds))) => said.push(format!("the limit is {count} in {} min", seconds.div_ceil(60))),
        Some((count, None)) => said.push(format!("the limit is {count}")),
        None => {}
    }
    said.extend(limit("ratelimit-remaining").map(|(count, _)| format!("{count} are left")));
    said.extend(text("docker-ratelimit-source").map(|source| format!("counted for {source}")));
    said.extend(retry_after(response).map(|pause| format!("to be tried again in {} s", pause.as_secs())));
    let said: String = said.join(", ").chars().filter(|character| !character.is_control()).take(200).collect();
    if said.is_empty() { said } else { format!(" ({said})") }
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Reads a body that must not be longer than a limit.
pub(super) async fn read_limited(
    url: &str,
    response: Response<Incoming>,
    limit_bytes: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(part) = next_part(url, &mut body).await? {
        if (bytes.len() + part.len()) as u64 > limit_bytes {
            return Err(RegistryError::TooLong { url: url.to_owned(), limit_bytes });
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// The next bytes of a body; absent at its end.
pub(super) async fn next_part(url: &str, body: &mut Incoming) -> Result<Option<Bytes>, TransportError> {
    loop {
        let waiting_for = "more of the body comes";
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame()).await.map_err(|_| TransportError::Timeout {
            url: url.to_owned(),
            waiting_for,
            seconds: IDLE_TIMEOUT.as_secs(),
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(source)) => return Err(TransportError::Broken { url: url.to_owned(), source }),
            // Trailers are of no use here.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// What an error answer says: the registry's own messages, else its first line, else the status.
async fn message_of(response: Response<Incoming>) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    // A body that cannot be read says nothing; the status still does.
    let body = read_limited("", response, MESSAGE_BYTES_MAX).await.unwrap_or_default();
    if let Ok(Errors { errors }) = serde_json::from_slice(&body) {
        let said: Vec<String> = errors.iter().map(|item| join(&item.code, &item.message)).collect();
        if !said.is_empty() {
            return said.join("; ");
        }
    }
    let text = String::from_utf8_lossy(&body);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('<')).unwrap_or_default();
    let line: String = line.chars().filter(|character| !character.is_control()).take(200).collect();
    match line.is_empty() {
        true => status.to_string(),
        false => line,
    }
}

/// `code: message`, the code in docker's lower-case words, without characters that could move a terminal's cursor.
fn join(code: &str, message: &str) -> String {
    let code = code.to_ascii_lowercase().replace('_', " ");
    let text = match (code.is_empty(), message.is_empty()) {
        (true, _) => message.to_owned(),
        (_, true) => code,
        _ => format!("{code}: {message}"),
    };
    text.chars().filter(|character| !character.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_resolve_as_the_rfc_says() {
        let from: Uri = "https://r.example:444/v2/a/blobs/x?y=1".parse().expect("address");
        for (location, expected) in [
            ("https://cdn.example/b?sig=%2F", "https://cdn.example/b?sig=%2F"),
            ("/v2/b", "https://r.example:444/v2/b"),
            ("//cdn.example/b#part", "https://cdn.example/b"),
            ("other", "https://r.example:444/v2/a/blobs/other"),
        ] {
            assert_eq!(resolve_location(&from, location).expect("address").to_string(), expected);
        }
        assert!(resolve_location(&from, "https://a b/").is_none());
        for (location, is_good) in
            [("http://h/x", false), ("http://127.0.0.1:9/x", true), ("https://h/x", true), ("/x", true)]
        {
            assert_eq!(next_address(&from, location).is_ok(), is_good, "{location}");
        }
    }

    #[test]
    fn passwords_do_not_travel_in_the_clear() {
        let safe = |realm: &str, base| is_safe_realm(&realm.parse().expect("address"), base);
        assert!(safe("https://auth.example/token", "https://r.example"));
        assert!(safe("http://localhost:5001/token", "https://r.example"));
        assert!(!safe("http://auth.example/token", "https://r.example"));
        assert!(safe("http://auth.example/token", "http://127.0.0.1:5000"));
    }

    #[test]
    fn messages_are_joined_and_cleaned() {
        assert_eq!(join("MANIFEST_UNKNOWN", "manifest unknown"), "manifest unknown: manifest unknown");
        assert_eq!(join("", "a\u{1b}[2Jb"), "a[2Jb");
        assert_eq!(join("DENIED", ""), "denied");
    }
}
