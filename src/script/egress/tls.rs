//! TLS around a connection: the public certificate authorities that are built in, and those of a local network.
//!
//! The HTTP library's own connector takes either the one or the other. Sessions are not resumed, so that apps share
//! nothing; who has what certificate is checked on each connection.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// Why a file of certificate authorities is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRoots {
    /// It is no PEM, or a part of it is not.
    #[error("it is no file of PEM certificates: {0}")]
    Pem(String),
    /// A certificate cannot be an authority.
    #[error("certificate {number} in it cannot be used: {why}")]
    Certificate {
        /// Counts from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// There is none in it.
    #[error("there is no certificate in it")]
    Empty,
}

/// What all connections have in common. `more` are further authorities, in PEM.
pub(super) fn config(more: Option<&[u8]>) -> Result<Arc<ClientConfig>, BadRoots> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = more {
        let built_in = roots.len();
        for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(|error| BadRoots::Pem(error.to_string()))?;
            let bad =
                |error: rustls::Error| BadRoots::Certificate { number: index + 1, why: error.to_string() };
            roots.add(certificate).map_err(bad)?;
        }
        if roots.len() == built_in {
            return Err(BadRoots::Empty);
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers for each version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Wraps connections of https in TLS.
pub(super) struct TlsConnector(pub(super) Arc<ClientConfig>);

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        // A name with its last dot is the same name; certificates are without.
        let name = ServerName::try_from(bare.strip_suffix('.').unwrap_or(bare))
            .map_err(|_| ureq::Error::Tls("the host can be no name in a certificate"))?
            .to_owned();
        let mut connection = ClientConnection::new(self.0.clone(), name).map_err(std::io::Error::other)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned { conn: connection, sock: socket };
        Ok(Some(Either::B(TlsTransport { buffers: LazyBuffers::new(input, output), stream })))
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

/// A connection within TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_authorities_are_checked() {
        assert!(config(None).is_ok());
        assert_eq!(config(Some(b"")).unwrap_err(), BadRoots::Empty);
        assert_eq!(config(Some(b"hello\n")).unwrap_err(), BadRoots::Empty);
        let cut = b"-----BEGIN CERTIFICATE-----\nMIIB";
        assert!(matches!(config(Some(cut)).unwrap_err(), BadRoots::Pem(_)));
        let other = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(config(Some(other)).unwrap_err(), BadRoots::Certificate { number: 1, .. }));
    }
}
