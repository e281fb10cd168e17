//! From a chain and its key to what a handshake takes. All have their protocols, their tickets and their demands on
//! clients in common, so that a session which began under one certificate goes on under its successor.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{NoServerSessionStorage, ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use super::certificate::{Facts, Pair, Unfit};

/// HTTP/2 (RFC 9113), then HTTP/1.1.
pub(in crate::http) const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP11: &[u8] = b"http/1.1";
/// RFC 8737.
pub(super) const ALPN_ACME: &[u8] = b"acme-tls/1";

/// A certificate as it is served.
pub(in crate::http) struct Served {
    /// What the handshake takes.
    pub(super) config: Arc<ServerConfig>,
    /// What it says.
    pub(in crate::http) facts: Facts,
}

/// Makes configurations.
pub(super) struct Foundry {
    base: ServerConfig,
    provider: Arc<CryptoProvider>,
    refusing: Arc<ServerConfig>,
}

impl Foundry {
    /// With the authorities of client certificates, in PEM, if those are asked for.
    pub(super) fn new(client_authorities: Option<&[u8]>) -> Result<Foundry, String> {
        let provider = Arc::new(provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match client_authorities {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider.clone())
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| error.to_string())?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut base = builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        // Tickets hold the session and are sealed with keys that change every six hours: nothing to keep here.
        base.ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
        base.session_storage = Arc::new(NoServerSessionStorage {});
        // Ours is by what this processor does well.
        base.ignore_client_order = true;
        base.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP11.to_vec()];
        let refusing = Arc::new(base.clone());
        Ok(Foundry { base, provider, refusing })
    }

    /// What serves a chain.
    pub(super) fn serve(&self, pair: &Pair) -> Result<Served, Unfit> {
        let facts = Facts::of(&pair.chain)?;
        Ok(Served { config: Arc::new(self.config(pair)?), facts })
    }

    /// What answers the challenge of an ACME server.
    pub(super) fn challenge(&self, pair: &Pair) -> Result<Arc<ServerConfig>, Unfit> {
        let bad = |error: rustls::Error| Unfit::BadKey(error.to_string());
        let key = self.provider.key_provider.load_private_key(pair.key.clone_key()).map_err(bad)?;
        let mut config = self.base.clone();
        // Not compared with its key: its critical extension is one that only ACME servers read.
        config.cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(pair.chain.clone(), key)));
        config.alpn_protocols = vec![ALPN_ACME.to_vec()];
        // Who asks leaves at once.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Ends every handshake with an alert.
    pub(super) fn refusing(&self) -> Arc<ServerConfig> {
        self.refusing.clone()
    }

    fn config(&self, pair: &Pair) -> Result<ServerConfig, Unfit> {
        let key = CertifiedKey::from_der(pair.chain.clone(), pair.key.clone_key(), &self.provider)
            .map_err(|error| Unfit::BadKey(error.to_string()))?;
        let mut config = self.base.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(key));
        Ok(config)
    }
}

/// The library's ciphers, the cheapest first: all of them are beyond doubt. Without instructions for AES, as on the boards
/// up to the fourth, that is ChaCha20.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    let is_fast = has_aes();
    provider.cipher_suites.sort_by_key(|suite| {
        // The newer version stays before the older one.
        let is_old = suite.version().version != rustls::ProtocolVersion::TLSv1_3;
        let name = suite.suite().as_str().unwrap_or_default();
        let (is_aes, is_long) = (name.contains("AES"), name.contains("AES_256"));
        (is_old, is_aes != is_fast, is_long)
    });
    provider
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(target_arch = "aarch64"))]
fn has_aes() -> bool {
    true
}

/// Authorities out of PEM.
pub(super) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "it is no file of PEM certificates")?;
        roots.add(certificate).map_err(|error| format!("certificate {}: {error}", roots.len() + 1))?;
    }
    if roots.is_empty() { Err("there is no certificate in it".into()) } else { Ok(roots) }
}
