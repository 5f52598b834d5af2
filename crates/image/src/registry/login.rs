//! Trying credentials on a registry: a request to `/v2/`, answered as its challenge asks.

use hull_oci::Reference;

use super::PushOptions;
use super::RegistryError;
use super::client::{Action, Client, Reach, Wanted};
use super::credentials::Credentials;
use super::endpoint::Endpoint;

/// Whether a registry takes these credentials. One that asks for none takes any.
///
/// # Errors
/// [`RegistryError::Login`] when it does not, else what kept it from answering.
pub fn try_login(registry: &str, credentials: Credentials, options: &PushOptions) -> Result<(), RegistryError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RegistryError::Start)?;
    let reference = Reference { registry: registry.to_owned(), repository: String::new(), tag: None, digest: None };
    runtime.block_on(async {
        let client =
            Client::connect(&reference, &Endpoint::registry_of(&reference), &Reach::from(options), Action::Login)
                .await?;
        let client = client.introduced_as(credentials);
        match client.get(&client.base_url(), &Wanted::default()).await {
            Ok(_) => Ok(()),
            Err(RegistryError::Denied { message, .. }) => {
                Err(RegistryError::Login { registry: registry.to_owned(), message })
            }
            Err(error) => Err(error),
        }
    })
}
