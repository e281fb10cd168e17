//! Where the certificate of a domain comes from, and which names no public authority can vouch for.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::HostPattern;
use super::name::Invalid;

/// Where the certificate of a domain comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsSource {
    /// An own one that covers the name; else ACME for a public name that resolves to a public address or to this
    /// device; else the device's own authority.
    #[default]
    Auto,
    /// An ACME server. Names below a wildcard are ordered when they are first asked for.
    Acme,
    /// The device's own authority, for names of the local network.
    Local,
    /// One that the operator brought.
    Pem,
    /// There is none: the domain is served in the clear.
    None,
}

/// Domains that the device's own authority may sign for, besides the device's host name: multicast DNS (RFC 6762),
/// what home routers give out, RFC 8375, and the machine itself (RFC 6761).
pub const LAN_SUFFIXES: &[&str] = &["local", "lan", "home.arpa", "localhost"];

/// Further domains that no public authority signs for (RFC 6761, RFC 9476, ICANN's reservation of `internal`).
const PRIVATE_SUFFIXES: &[&str] =
    &["internal", "test", "example", "invalid", "onion", "alt", "home", "corp", "intranet"];

impl TlsSource {
    /// Whether the certificate of `pattern` can come from here.
    ///
    /// # Errors
    /// Why it cannot, for the person who chose it.
    pub fn check(self, pattern: &HostPattern) -> Result<(), Invalid> {
        let text = pattern.as_str();
        let name = text.strip_prefix("*.").unwrap_or(text);
        match self {
            TlsSource::Acme if pattern.is_catch_all() => Err(Invalid(
                "acme needs a domain that names its host: anybody could point a name of their own to this device and have a certificate ordered".into(),
            )),
            TlsSource::Acme if name.parse::<IpAddr>().is_ok() => {
                Err(Invalid("acme certifies names, not addresses; use \"local\" or \"pem\"".into()))
            }
            TlsSource::Local if !pattern.is_catch_all() && !may_be_local(name) => Err(Invalid(format!(
                "this device's own authority signs only for names below {}, its host name and private addresses; use \"acme\" or \"pem\"",
                dotted(LAN_SUFFIXES)
            ))),
            TlsSource::Auto | TlsSource::Acme | TlsSource::Local | TlsSource::Pem | TlsSource::None => Ok(()),
        }
    }
}

fn dotted(suffixes: &[&str]) -> String {
    suffixes.iter().map(|suffix| format!(".{suffix}")).collect::<Vec<_>>().join(", ")
}

/// Whether `name` may be one that the device's own authority signs for. A single label may be its host name.
fn may_be_local(name: &str) -> bool {
    name.parse::<IpAddr>().map_or_else(|_| is_lan_name(name) || !name.contains('.'), is_private)
}

/// Whether `name`, in lower case, belongs to the local network.
pub fn is_lan_name(name: &str) -> bool {
    LAN_SUFFIXES.iter().any(|suffix| is_below(name, suffix))
}

/// Whether a public authority could vouch for `name`, in lower case.
pub fn is_public_name(name: &str) -> bool {
    name.contains('.')
        && name.parse::<IpAddr>().is_err()
        && !is_lan_name(name)
        && !PRIVATE_SUFFIXES.iter().any(|suffix| is_below(name, suffix))
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// Whether an address means something only in its own network: RFC 1918, RFC 3927, RFC 4193, RFC 4291 2.5.6, loopback.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_public_or_local_or_neither() {
        for (name, lan, public) in [
            ("pi.local", true, false),
            ("local", true, false),
            ("a.b.lan", true, false),
            ("x.home.arpa", true, false),
            ("localhost", true, false),
            ("plan", false, false),
            ("x.plan", false, true),
            ("pi", false, false),
            ("pi.example.org", false, true),
            ("pi.test", false, false),
            ("10.0.0.1", false, false),
            ("::1", false, false),
        ] {
            assert_eq!((is_lan_name(name), is_public_name(name)), (lan, public), "{name}");
        }
    }

    #[test]
    fn a_source_fits_its_domain_or_says_why_not() {
        for (source, pattern, good) in [
            (TlsSource::Acme, "pi.example.org", true),
            (TlsSource::Acme, "*.example.org", true),
            (TlsSource::Acme, "pi.lan", true),
            (TlsSource::Acme, "*", false),
            (TlsSource::Acme, "192.168.1.7", false),
            (TlsSource::Local, "*", true),
            (TlsSource::Local, "pi", true),
            (TlsSource::Local, "*.lan", true),
            (TlsSource::Local, "192.168.1.7", true),
            (TlsSource::Local, "8.8.8.8", false),
            (TlsSource::Local, "pi.example.org", false),
            (TlsSource::Pem, "*", true),
            (TlsSource::None, "pi.example.org", true),
            (TlsSource::Auto, "*", true),
        ] {
            let checked = source.check(&pattern.parse().unwrap());
            assert_eq!(checked.is_ok(), good, "{source:?} {pattern}: {checked:?}");
        }
    }
}
