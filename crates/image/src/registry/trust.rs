//! Whom a connection trusts: the authorities of the Mozilla program that are built in, the machine's own bundle, those
//! set for the registry, and those that docker keeps for it in `/etc/docker/certs.d/HOST[:PORT]/` (`*.crt`
//! authorities, `NAME.cert` and `NAME.key` what this client shows when a registry asks for a certificate).
//!
//! The registry's own authorities are trusted for every connection of a pull or push, because its token server often
//! has them too. That nothing is verified, where it is set, holds for the registry's host alone. The crypto provider
//! is chosen in one place, [`provider`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::settings::{ClientCertificate, RegistrySettings};
use super::transport::{Origin, TransportError};

/// Where docker keeps the certificates of registries.
const DOCKER_CERTIFICATES: &str = "/etc/docker/certs.d";
/// Where distributions keep the machine's trusted certificates; the first that exists is taken.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom the connections of one pull or push trust.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust {
    /// Files of authorities besides the usual ones.
    authorities: Vec<PathBuf>,
    /// A certificate of our own and its key.
    identity: Option<(PathBuf, PathBuf)>,
    /// Host whose certificate is not verified.
    unverified_host: Option<String>,
}

impl Trust {
    /// What is set for a registry, `HOST[:PORT]`, whose API is at `host`.
    pub fn of(settings: &RegistrySettings, registry: &str, host: &str) -> Result<Self, TransportError> {
        let mut trust = Self::in_folder(&Path::new(DOCKER_CERTIFICATES).join(registry))?;
        trust.authorities.extend(settings.ca.clone());
        if let Some(ClientCertificate { file, key }) = &settings.client_certificate {
            trust.identity = Some((file.clone(), key.clone()));
        }
        let url = format!("https://{host}/").parse().ok();
        let origin = url.as_ref().and_then(|url| Origin::of(url).ok());
        trust.unverified_host = origin.filter(|_| settings.insecure).map(|origin| origin.host);
        Ok(trust)
    }

    /// What docker's folder for a registry holds; nothing when there is none.
    fn in_folder(folder: &Path) -> Result<Self, TransportError> {
        let mut trust = Self::default();
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(trust) };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => trust.authorities.push(path),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.exists() {
                        return Err(unusable(&path, format!("its key {} is missing", key.display())));
                    }
                    trust.identity.get_or_insert((path, key));
                }
                _ => {}
            }
        }
        Ok(trust)
    }

    /// Whether the certificate of an origin is verified.
    pub fn verifies(&self, origin: &Origin) -> bool {
        self.unverified_host.as_deref() != Some(origin.host.as_str())
    }

    /// TLS by this trust, or without any for a host that is not verified.
    pub fn config(&self, verified: bool) -> Result<ClientConfig, TransportError> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(Path::new(""), error))?;
        let builder = match verified {
            true => builder.with_root_certificates(self.roots()?),
            false => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(algorithms))),
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(certificate, error))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, TransportError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(bundle) = system_bundle() {
            // A bundle of many authorities may hold some that cannot be used; the others still count.
            roots.add_parsable_certificates(certificates(&bundle)?);
        }
        for path in &self.authorities {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, error))?;
            }
        }
        Ok(roots)
    }
}

/// The one place where cryptography is chosen.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts any certificate; the connection is still encrypted, with whoever it is.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn system_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(|| SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let parsed = CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, error))?;
    parsed.map(|certificate| certificate.map_err(|error| unusable(path, error))).collect()
}

fn unusable(path: &Path, reason: impl ToString) -> TransportError {
    TransportError::Certificates { path: path.to_path_buf(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(&url.parse().expect("address")).expect("origin")
    }

    #[test]
    fn the_provider_and_the_roots_make_a_configuration() {
        assert!(Trust::default().config(true).is_ok() && Trust::default().config(false).is_ok());
        let settings = RegistrySettings { ca: Some(PathBuf::from("/nowhere/ca.pem")), ..RegistrySettings::default() };
        let trust = Trust::of(&settings, "r.example", "r.example").expect("no files read yet");
        let error = trust.config(true).expect_err("no such file").to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn only_the_registry_s_own_host_may_be_unverified() {
        let settings = RegistrySettings { insecure: true, ..RegistrySettings::default() };
        let trust = Trust::of(&settings, "r.example:5000", "R.example:5000").expect("nothing to read");
        assert!(!trust.verifies(&origin("https://r.example:5000/")) && trust.verifies(&origin("https://cdn.example/")));
        assert!(Trust::default().verifies(&origin("https://r.example/")));
    }

    #[test]
    fn docker_s_folder_is_read() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["ca.crt", "b.cert", "readme"] {
            std::fs::write(path(name), "").expect("writes");
        }
        let error = Trust::in_folder(folder.path()).expect_err("no key").to_string();
        assert!(error.contains("b.key is missing"), "{error}");
        std::fs::write(path("b.key"), "").expect("writes");
        let trust = Trust::in_folder(folder.path()).expect("complete");
        assert_eq!((trust.authorities, trust.identity), (vec![path("ca.crt")], Some((path("b.cert"), path("b.key")))));
        assert!(Trust::in_folder(&path("nowhere")).expect("none").authorities.is_empty());
    }
}
