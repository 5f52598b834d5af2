//! What a registry has that refers to an image: signatures, bills of materials, attestations (distribution-spec 1.1,
//! "Listing Referrers").
//!
//! A registry without that list (404) is asked for the index under the tag `sha256-<digest>`, which clients keep there
//! in its place. Where the registry has not filtered by artifact type, this does.

use std::collections::BTreeMap;

use hull_oci::{Digest, Reference};
use serde::{Deserialize, Serialize};

use super::challenge::percent_encode;
use super::client::{Action, Client, Reach, Wanted, read_limited};
use super::endpoint::Endpoint;
use super::{PullOptions, RegistryError};
use crate::{DOCUMENT_BYTES_MAX, ManifestError};

/// Something that refers to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Media type of its manifest.
    #[serde(default)]
    pub media_type: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Size of its manifest in bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// What it is.
    #[serde(default)]
    pub artifact_type: String,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What refers to the image that a name leads to, and that image's digest.
///
/// # Errors
/// [`RegistryError`].
pub fn referrers(
    reference: &Reference,
    artifact_type: Option<&str>,
    options: &PullOptions,
) -> Result<(Digest, Vec<Referrer>), RegistryError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RegistryError::Start)?;
    runtime.block_on(async {
        let endpoint = Endpoint::registry_of(reference);
        let client = Client::connect(reference, &endpoint, &Reach::from(options), Action::Pull).await?;
        let digest = match &reference.digest {
            Some(digest) => digest.clone(),
            None => super::named_document(&client, reference).await?.0.blob.digest,
        };
        let found = referrers_of(&client, &digest, artifact_type).await?;
        Ok((digest, found))
    })
}

/// What refers to a digest.
pub(super) async fn referrers_of(
    client: &Client<'_>,
    digest: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Referrer>, RegistryError> {
    let mut url = client.url("referrers", digest.as_str());
    if let Some(wanted) = artifact_type {
        url.push_str("?artifactType=");
        percent_encode(wanted, &mut url);
    }
    let accept = &[hull_oci::image::OCI_INDEX];
    let answer = match client.get(&url, &Wanted { accept, ..Wanted::default() }).await {
        // Some registries take the unknown address for something else.
        Err(RegistryError::Status { status: 400 | 404 | 405, .. } | RegistryError::NotFound { .. }) => {
            url = client.url("manifests", &format!("{}-{}", digest.algorithm(), digest.hex()));
            client.get(&url, &Wanted { accept, ..Wanted::default() }).await
        }
        other => other,
    };
    let response = match answer {
        Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
        other => other?,
    };
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Referrer>,
    }
    let bytes = read_limited(&url, response, DOCUMENT_BYTES_MAX).await?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| RegistryError::Manifest {
        reference: Box::new(client.reference().clone()),
        source: Box::new(ManifestError::from(crate::manifest::invalid("list of referrers", error))),
    })?;
    let fits = |referrer: &Referrer| artifact_type.is_none_or(|wanted| referrer.artifact_type == wanted);
    Ok(index.manifests.into_iter().filter(fits).collect())
}
