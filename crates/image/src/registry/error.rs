//! Why a pull or push failed, by what the user can do about it.
//!
//! Every variant names the reference or the address it is about. The texts for a missing image and for refused
//! access are docker's, because people search for them.

use std::io;
use std::path::PathBuf;

use hull_oci::{Digest, Reference};

use super::credentials::CredentialsError;
use super::transport::TransportError;
use crate::content::ContentError;
use crate::{ImageError, ManifestError, SinkError};

/// An error of [`super::pull`] or [`super::push()`].
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There was no answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Credentials are configured but cannot be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The registry wants credentials, or others than it was given.
    #[error(
        "{action} access denied for {name}, repository does not exist or may require 'hull login': {message}",
        name = reference.familiar_name()
    )]
    Denied {
        /// pull or push.
        action: String,
        /// What was asked for.
        reference: Box<Reference>,
        /// What the registry said.
        message: String,
    },
    /// The registry refuses credentials that were to be kept.
    #[error("{registry} refuses the credentials: {message}")]
    Login {
        /// The registry.
        registry: String,
        /// What it said.
        message: String,
    },
    /// The registry answers 401 in a way that cannot be answered.
    #[error("{url} asks for an unsupported kind of authentication: {challenge}")]
    Challenge {
        /// The address.
        url: String,
        /// Its WWW-Authenticate header.
        challenge: String,
    },
    /// The token server's answer is not a token.
    #[error("{url} gave no token: {reason}")]
    Token {
        /// The token server's address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry has no such manifest.
    #[error("manifest for {name} not found: {message}", name = reference.familiar())]
    NotFound {
        /// What was asked for.
        reference: Box<Reference>,
        /// What the registry said.
        message: String,
    },
    /// A repository's list of tags is longer than what is kept of one.
    #[error("the list of tags of {name} is too long", name = reference.familiar_name())]
    TooManyTags {
        /// Whose tags were asked for.
        reference: Box<Reference>,
    },
    /// The registry has the manifest but not a blob of it.
    #[error("{url}: blob {digest} not found: {message}")]
    BlobNotFound {
        /// The address.
        url: String,
        /// The blob.
        digest: Digest,
        /// What the registry said.
        message: String,
    },
    /// Too many requests (429), also after waiting.
    #[error("{url}: too many requests: {message}{limits}")]
    TooManyRequests {
        /// The address.
        url: String,
        /// What the registry said.
        message: String,
        /// What it said of its limits, in parentheses; empty for nothing.
        limits: String,
    },
    /// Some other status.
    #[error("{url}: unexpected status {status}: {message}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// A redirect that is not followed.
    #[error("{url}: {reason}")]
    Redirect {
        /// The address that redirected.
        url: String,
        /// Why it is not followed.
        reason: String,
    },
    /// A document is longer than allowed or than announced.
    #[error("{url}: the document is longer than {limit_bytes} bytes")]
    TooLong {
        /// The address.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// What came is not what was asked for.
    #[error("{url}: wrong digest: expected {expected}, received {found}")]
    WrongDigest {
        /// The address.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// More bytes came, or were announced, than the descriptor says.
    #[error("{url}: wrong size: the manifest says {expected_bytes} bytes, the server has {found_bytes}")]
    WrongSize {
        /// The address.
        url: String,
        /// The descriptor's size.
        expected_bytes: u64,
        /// What came or was announced.
        found_bytes: u64,
    },
    /// The body ended early, every time.
    #[error("{url}: the transfer ended after {received_bytes} of {expected_bytes} bytes ({attempts} attempts)")]
    Truncated {
        /// The address.
        url: String,
        /// How many came.
        received_bytes: u64,
        /// How many there should be.
        expected_bytes: u64,
        /// How often it was tried.
        attempts: u32,
    },
    /// The manifest does not lead to an image that can be used here.
    #[error("{name} cannot be used", name = reference.familiar())]
    Manifest {
        /// What was asked for.
        reference: Box<Reference>,
        /// What is wrong.
        source: Box<ManifestError>,
    },
    /// The policy does not accept it.
    #[error("{repository} is refused: [trust] \"{pattern}\" {wanted}, and {found}")]
    Untrusted {
        /// Registry and repository.
        repository: String,
        /// The pattern that decides.
        pattern: String,
        /// What it wants.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A key of the policy cannot be used.
    #[error("cannot use the key {}: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An upload does not go on.
    #[error("{url}: {reason}")]
    Upload {
        /// The address.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The manifest in the store cannot be used.
    #[error("the stored manifest {digest} cannot be used")]
    Stored {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        source: Box<ManifestError>,
    },
    /// A layer cannot be read or compressed.
    #[error("cannot compress layer {digest}")]
    Compress {
        /// The layer's blob.
        digest: Digest,
        /// What the kernel or the decoder said.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A layer could not be unpacked.
    #[error("layer {digest} cannot be unpacked")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// What the sink said.
        source: SinkError,
    },
    /// No thread, timer or event queue could be made.
    #[error("cannot begin network work")]
    Start(#[source] io::Error),
    /// Another layer failed; that error is the one reported.
    #[error("stopped because another layer failed")]
    Stopped,
}

impl RegistryError {
    /// Whether trying again a moment later may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_transient(),
            Self::TooManyRequests { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

impl RegistryError {
    /// Whether another place that has the content may do better.
    pub(super) fn is_the_place_s(&self) -> bool {
        use RegistryError::{Image, Key, Layer, Start, Stopped, Untrusted};
        !matches!(self, Image(_) | Layer { .. } | Start(_) | Stopped | Untrusted { .. } | Key { .. })
    }

    /// Whether everything that came so far is as good as before: the next pull can go on with it.
    pub(super) fn is_interruption(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::Stopped) || self.is_transient()
    }
}

impl From<ContentError> for RegistryError {
    fn from(error: ContentError) -> Self {
        Self::Image(error.into())
    }
}
