//! Where a call goes: a URL taken apart, checked, and made whole again for the wire.

use std::fmt;

use fluent_uri::component::Authority;
use fluent_uri::{Uri, UriRef};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::model::{Host, HostPattern};

use super::Error;

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 8192;

/// What browsers encode in URLs (WHATWG URL, section 1.3), so that scripts may paste texts together.
const LOOSE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A URL that may be called, as far as it tells by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// With TLS or without.
    pub(super) is_https: bool,
    /// The name or address, without brackets, as it is looked up.
    pub(super) host: String,
    /// Given, or 80 or 443.
    pub(super) port: u16,
    /// All of it, without a fragment.
    pub(super) url: String,
}

impl Target {
    /// Reads what a script wrote.
    pub(super) fn parse(text: &str) -> Result<Target, Error> {
        check_length(text)?;
        let loose = utf8_percent_encode(text.trim(), LOOSE).to_string();
        let uri = Uri::parse(loose).map_err(|_| bad(text, "write one like https://api.example.org/items"))?;
        Target::of(&uri, text)
    }

    /// Where `location` leads from here (RFC 3986 5).
    pub(super) fn join(&self, location: &str) -> Result<Target, Error> {
        check_length(location)?;
        let loose = utf8_percent_encode(location.trim(), LOOSE).to_string();
        let base = Uri::parse(self.url.as_str()).map_err(|_| bad(&self.url, "nothing is relative to it"))?;
        let leads = UriRef::parse(loose).map_err(|_| bad(location, "it was redirected there"))?;
        let uri = leads.resolve_against(&base).map_err(|_| bad(location, "it was redirected there"))?;
        Target::of(&uri, location)
    }

    fn of(uri: &Uri<String>, text: &str) -> Result<Target, Error> {
        let is_https = match uri.scheme().as_str().to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(bad(text, "only http:// and https:// can be called")),
        };
        let authority = uri.authority().ok_or_else(|| bad(text, "it names no host"))?;
        if authority.has_userinfo() {
            let why = "a name or a password has no place in it; send an authorization header instead";
            return Err(Error::Invalid(format!("the URL cannot be called: {why}")));
        }
        let default = if is_https { 443 } else { 80 };
        let port = authority.port_to_u16().map_err(|_| bad(text, "its port is no number up to 65535"))?;
        let host = host_of(&authority).ok_or_else(|| bad(text, "its host is no name and no address"))?;
        let (scheme, at) = (if is_https { "https" } else { "http" }, authority.host());
        let at = port.map_or_else(|| at.to_owned(), |port| format!("{at}:{port}"));
        let path = if uri.path().is_empty() { "/" } else { uri.path().as_str() };
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        Ok(Target {
            is_https,
            host,
            port: port.unwrap_or(default),
            url: format!("{scheme}://{at}{path}{query}"),
        })
    }

    /// The host as rules see it.
    pub(super) fn rule_host(&self) -> Host<'_> {
        Host::from_header(&self.host)
    }

    /// Whether both are the same origin (RFC 6454 4).
    pub(super) fn is_same_origin(&self, other: &Target) -> bool {
        (self.is_https, self.port) == (other.is_https, other.port) && self.rule_host() == other.rule_host()
    }
}

impl fmt::Display for Target {
    /// Without its query, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.split('?').next().unwrap_or_default())
    }
}

/// The host without brackets, if it is one that could be claimed. All other spellings of addresses are names here,
/// and whatever a resolver makes of them is checked then.
fn host_of(authority: &Authority<'_>) -> Option<String> {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let pattern: HostPattern = bare.parse().ok()?;
    (!pattern.is_catch_all() && pattern.suffix().is_none()).then(|| bare.to_owned())
}

fn check_length(text: &str) -> Result<(), Error> {
    if text.len() > URL_BYTES_MAX {
        return Err(Error::Invalid(format!(
            "a URL of {} bytes is too long: at most {URL_BYTES_MAX}",
            text.len()
        )));
    }
    Ok(())
}

fn bad(text: &str, why: &str) -> Error {
    // Not its query, which may hold secrets.
    let shown = super::super::logs::cut(text.split('?').next().unwrap_or_default(), 200);
    Error::Invalid(format!("{shown:?} cannot be called: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, url: &str) {
        let target = Target::parse(text).unwrap();
        assert_eq!((target.host.as_str(), target.port, target.url.as_str()), (host, port, url), "{text}");
    }

    #[test]
    fn urls() {
        check("http://a.org", "a.org", 80, "http://a.org/");
        check("HTTPS://A.org:8443/x?y=1#z", "A.org", 8443, "https://A.org:8443/x?y=1");
        check(" https://a.org?q=a b&ü={} ", "a.org", 443, "https://a.org/?q=a%20b&%C3%BC=%7B%7D");
        check("http://a.org/%20%c3%bc", "a.org", 80, "http://a.org/%20%c3%bc");
        check("http://[::1]:80/", "::1", 80, "http://[::1]:80/");
        check("http://2130706433/", "2130706433", 80, "http://2130706433/");
        check("http://0x7f.1/", "0x7f.1", 80, "http://0x7f.1/");
        check("http://127.0.0.1./", "127.0.0.1.", 80, "http://127.0.0.1./");
        check("http://a.org:/", "a.org", 80, "http://a.org/");
    }

    #[test]
    fn what_cannot_be_called() {
        for (text, says) in [
            ("", "write one like"),
            ("/x", "write one like"),
            ("a.org", "write one like"),
            ("ftp://a.org/", "only http:// and https://"),
            ("file:///etc/passwd", "only http:// and https://"),
            ("http:a.org", "it names no host"),
            ("http:///x", "no name and no address"),
            ("http://u:p@a.org/", "send an authorization header"),
            ("http://@a.org/", "send an authorization header"),
            ("http://a.org:70000/", "its port is no number"),
            ("http://a.org:x/", "write one like"),
            ("http://a%2eorg/", "no name and no address"),
            ("http://*/", "no name and no address"),
            ("http://*.a.org/", "no name and no address"),
            ("http://[fe80::1%25eth0]/", "write one like"),
            ("http://a b/", "no name and no address"),
            ("http://müller.de/", "no name and no address"),
            ("http://a.org\\@b.org/", "send an authorization header"),
            ("http://a.org\r\nx: y/", "write one like"),
            ("http://a.org/%zz", "write one like"),
        ] {
            let said = Target::parse(text).expect_err(text).to_string();
            assert!(said.contains(says), "{text}: {said}");
            assert!(!said.contains("u:p"), "{said}");
        }
        assert!(Target::parse(&format!("http://a.org/{}", "x".repeat(9000))).is_err());
    }

    #[test]
    fn redirects_lead_somewhere() {
        let from = Target::parse("https://a.org:8443/x/y?q=1").unwrap();
        for (location, url) in [
            ("/z", "https://a.org:8443/z"),
            ("z", "https://a.org:8443/x/z"),
            ("../../../z?a b", "https://a.org:8443/z?a%20b"),
            ("//b.org/", "https://b.org/"),
            ("http://b.org/#f", "http://b.org/"),
            ("?r", "https://a.org:8443/x/y?r"),
        ] {
            assert_eq!(from.join(location).unwrap().url, url, "{location}");
        }
        for bad in ["ftp://a.org/", "https://u@b.org/", "javascript:x", "http://"] {
            assert!(from.join(bad).is_err(), "{bad}");
        }
        for (other, same) in [
            ("https://A.org.:8443/other", true),
            ("http://a.org:8443/", false),
            ("https://a.org/", false),
            ("https://b.org:8443/", false),
        ] {
            assert_eq!(from.is_same_origin(&Target::parse(other).unwrap()), same, "{other}");
        }
    }
}
