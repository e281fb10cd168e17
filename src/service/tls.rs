//! What TLS is opened with: files that the configuration names, and what the system calls itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{Error, parts};
use crate::config::Config;
use crate::dispatch::ClockRule;
use crate::http::{AcmeSettings, Tls, TlsSettings};

/// What TLS is opened with, if it is on: `by_tls` are the addresses of its sockets.
pub(super) fn settings(
    config: &Config,
    clear: &[SocketAddr],
    by_tls: &[SocketAddr],
) -> Result<Option<TlsSettings>, Error> {
    let Some(port) = port_of(by_tls, 443) else {
        let path = &config.management.client_ca_file;
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        // Nobody could show a certificate, and nobody would be asked for one.
        let (key, why) =
            ("management.client_ca_file", "clients show certificates by TLS only: set tls.listen, too");
        return Err(Error::File { key, path: path.clone(), why: why.to_owned() });
    };
    let tls = &config.tls;
    Ok(Some(TlsSettings {
        directory: config.server.data_dir.join("tls"),
        files: tls.files.clone(),
        client_authorities: file("management.client_ca_file", &config.management.client_ca_file)?,
        acme: AcmeSettings {
            directory: config.acme.directory.clone(),
            authorities: file("acme.ca_file", &config.acme.ca_file)?,
            contact: config.acme.contact.iter().map(|address| format!("mailto:{address}")).collect(),
            external: external(config)?,
            tls_first: port == 443,
        },
        host_name: host_name(&tls.host_name),
        handshake_time_max: Duration::from_secs(tls.handshake_timeout_seconds),
        handshakes_max: tls.handshakes_max,
        port: Some(port),
        clear_port: port_of(clear, 80),
        redirect: tls.redirect,
        hsts: Duration::from_secs(tls.hsts_max_age_seconds),
    }))
}

/// Opens it.
pub(super) fn open(config: &Config, settings: TlsSettings) -> Result<Tls, Error> {
    let is_clock_good: fn() -> bool = match parts::clock(config) {
        ClockRule::Auto => || ClockRule::Auto.is_met(),
        ClockRule::Synchronised => || ClockRule::Synchronised.is_met(),
        ClockRule::Trusted => || true,
    };
    Ok(Tls::open(settings, is_clock_good)?)
}

/// Clients look for the usual port; of several others, the first is as good as any.
fn port_of(addresses: &[SocketAddr], usual: u16) -> Option<u16> {
    let ports = || addresses.iter().map(SocketAddr::port);
    ports().find(|port| *port == usual).or_else(|| ports().next())
}

/// A file that a key of the configuration names, if it does.
fn file(key: &'static str, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let unusable = |why: std::io::Error| Error::File { key, path: path.to_owned(), why: why.to_string() };
    std::fs::read(path).map(Some).map_err(unusable)
}

/// The account that was made elsewhere, and its key.
fn external(config: &Config) -> Result<Option<(String, Vec<u8>)>, Error> {
    let (id, path) = (&config.acme.eab_key_id, &config.acme.eab_key_file);
    let unusable =
        |why: &str| Error::File { key: "acme.eab_key_file", path: path.clone(), why: why.to_owned() };
    match (id.is_empty(), file("acme.eab_key_file", path)?) {
        (true, None) => Ok(None),
        (true, Some(_)) => Err(unusable("it needs acme.eab_key_id beside it")),
        (false, None) => Err(unusable("acme.eab_key_id needs it: set it to a file with the key")),
        (false, Some(text)) => {
            let key = crate::http::decode_base64url(text.trim_ascii());
            Ok(Some((id.clone(), key.ok_or_else(|| unusable("it holds no base64url"))?)))
        }
    }
}

/// The name that was given, else the first label of the system's.
fn host_name(given: &str) -> String {
    if !given.is_empty() {
        return given.to_owned();
    }
    let system = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let label = system.split('.').next().unwrap_or_default();
    let is_fit = !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    // What nobody can look up would be in no certificate either.
    if is_fit { label.to_owned() } else { "picloud".to_owned() }
}
