//! Questions to a registry that bring nothing into the store: what a name leads to, and which tags there are.

use hull_oci::{Digest, Reference};
use hyper::header::LINK;
use serde::Deserialize;

use super::client::{Action, Client, Reach, Wanted, next_address, parse_url, read_limited};
use super::endpoint::Endpoint;
use super::{PullOptions, RegistryError, named_document};
use crate::{DOCUMENT_BYTES_MAX, ManifestError};

/// Pages of a list of tags that are followed.
const PAGES_MAX: usize = 1000;
/// Memory that a list of tags may take.
const TAGS_BYTES_MAX: usize = 64 << 20;

/// A manifest or index as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What a name leads to, verified when the name has a digest.
///
/// # Errors
/// [`RegistryError`].
pub fn manifest(reference: &Reference, options: &PullOptions) -> Result<NamedManifest, RegistryError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RegistryError::Start)?;
    runtime.block_on(async {
        let endpoint = Endpoint::registry_of(reference);
        let client = Client::connect(reference, &endpoint, &Reach::from(options), Action::Pull).await?;
        let (fetched, announced) = named_document(&client, reference).await?;
        let media_type = announced.unwrap_or_default();
        Ok(NamedManifest { digest: fetched.blob.digest, media_type, bytes: fetched.bytes })
    })
}

/// Every tag of a reference's repository, in the registry's order.
///
/// # Errors
/// [`RegistryError`].
pub fn tags(reference: &Reference, options: &PullOptions) -> Result<Vec<String>, RegistryError> {
    #[derive(Deserialize)]
    struct Page {
        tags: Option<Vec<String>>,
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RegistryError::Start)?;
    runtime.block_on(async {
        let endpoint = Endpoint::registry_of(reference);
        let client = Client::connect(reference, &endpoint, &Reach::from(options), Action::Pull).await?;
        let (mut all, mut left_bytes) = (Vec::new(), TAGS_BYTES_MAX);
        let mut next = Some(client.url("tags", "list"));
        for _ in 0..PAGES_MAX {
            let Some(url) = next.take() else { break };
            let response = client.get(&url, &Wanted::default()).await?;
            let link = response.headers().get(LINK).and_then(|value| value.to_str().ok()).and_then(next_page);
            next = link
                .map(|link| Ok::<_, RegistryError>(next_address(&parse_url(&url)?, link)?.to_string()))
                .transpose()?;
            let bytes = read_limited(&url, response, DOCUMENT_BYTES_MAX).await?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|error| RegistryError::Manifest {
                reference: Box::new(reference.clone()),
                source: Box::new(ManifestError::from(crate::manifest::invalid("list of tags", error))),
            })?;
            let page = page.tags.unwrap_or_default();
            left_bytes = page
                .iter()
                .try_fold(left_bytes, |left, tag| left.checked_sub(tag.len() + size_of::<String>()))
                .ok_or_else(|| RegistryError::TooManyTags { reference: Box::new(reference.clone()) })?;
            all.extend(page);
        }
        Ok(all)
    })
}

/// The address of `<...>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn the_next_page_is_read() {
        assert_eq!(next_page("</v2/a/tags/list?last=x&n=2>; rel=\"next\""), Some("/v2/a/tags/list?last=x&n=2"));
        assert_eq!(next_page("</x>; rel=\"prev\""), None);
        assert_eq!(next_page("rubbish"), None);
    }
}
