//! Host names: what a request's `Host` says, and the patterns that apps claim.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::{Invalid, validated};

/// The host of a request, normalised: lower case, without port, brackets or a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'a>(Cow<'a, str>);

impl<'a> Host<'a> {
    /// Takes a `Host` header's value (RFC 9110 7.2). Total: what is no host claims nothing but `*`.
    pub fn from_header(value: &'a str) -> Host<'a> {
        let value = value.trim();
        if let Some((inner, after)) = value.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            && (after.is_empty() || after.starts_with(':'))
        {
            return Host(canonical_ip(inner).map_or(Cow::Borrowed(inner), Cow::Owned));
        }
        if let Ok(address) = value.parse::<Ipv6Addr>() {
            return Host(Cow::Owned(address.to_string()));
        }
        let name = value.split(':').next().unwrap_or_default();
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Host(Cow::Owned(name.to_ascii_lowercase()))
        } else {
            Host(Cow::Borrowed(name))
        }
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn canonical_ip(text: &str) -> Option<String> {
    text.parse::<IpAddr>().ok().map(|address| address.to_string())
}

/// A claim on hosts: an exact name or address, `*.suffix`, or `*` for every host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(Arc<str>);
validated!(HostPattern);

impl HostPattern {
    /// Whether `host` falls under this claim. `*.example.org` covers every name below example.org, not itself.
    pub fn matches(&self, host: &Host<'_>) -> bool {
        if self.is_catch_all() {
            return true;
        }
        match self.suffix() {
            Some(suffix) => host.as_str().len() > suffix.len() && host.as_str().ends_with(suffix),
            None => host.as_str() == &*self.0,
        }
    }

    /// Which of several matching claims wins is the greatest of these: exact, then the longest wildcard, then `*`.
    pub fn precedence(&self) -> (u8, usize) {
        match (self.is_catch_all(), self.suffix()) {
            (true, _) => (0, 0),
            (false, Some(suffix)) => (1, suffix.len()),
            (false, None) => (2, 0),
        }
    }

    /// Whether this is `*`.
    pub fn is_catch_all(&self) -> bool {
        &*self.0 == "*"
    }

    /// `.example.org` of `*.example.org`.
    pub fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*').filter(|suffix| !suffix.is_empty())
    }
}

impl FromStr for HostPattern {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<HostPattern, Invalid> {
        if text == "*" {
            return Ok(HostPattern(text.into()));
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Some(address) = canonical_ip(bare) {
            return Ok(HostPattern(address.into()));
        }
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix('.').unwrap_or(&lower);
        check_name(lower.strip_prefix("*.").unwrap_or(lower))?;
        Ok(HostPattern(lower.into()))
    }
}

/// A DNS name as RFC 1123 2.1 has it, underscores allowed because local networks use them.
fn check_name(name: &str) -> Result<(), Invalid> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.contains(':') {
        return Err(Invalid("must be a host without a port".into()));
    }
    if !name.is_ascii() {
        return Err(Invalid("must be ASCII; write an international name in its xn-- form".into()));
    }
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(Invalid(
            "must be a host name like pi.local, a wildcard like *.example.org, an address, or *".into(),
        ));
    }
    Ok(())
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn request_hosts_are_normalised() {
        for (value, host) in [
            ("Example.ORG:8080", "example.org"),
            ("example.org.", "example.org"),
            ("example.org.:80", "example.org"),
            ("[::1]:8080", "::1"),
            ("[0:0::0001]", "::1"),
            ("::1", "::1"),
            ("192.168.1.7:80", "192.168.1.7"),
            ("", ""),
            ("[", "["),
            ("[::1].example.org", "["),
            (":80", ""),
        ] {
            assert_eq!(Host::from_header(value).as_str(), host, "{value:?}");
        }
    }

    #[test]
    fn claims_parse_or_say_why() {
        for good in ["*", "pi.local", "*.example.org", "Example.org.", "192.168.1.7", "::1", "[::1]", "my_pi"]
        {
            assert!(good.parse::<HostPattern>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "*.", "a.*", "**.a", "pi:80", "-a", "a-", "müller.de", "a b", "http://a"]
        {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    /// The contract's rule said naively, label by label.
    fn naive(pattern: &str, host: &str) -> bool {
        match pattern.strip_prefix("*.") {
            _ if pattern == "*" => true,
            Some(suffix) => {
                let (host, suffix): (Vec<_>, Vec<_>) =
                    (host.split('.').collect(), suffix.split('.').collect());
                host.len() > suffix.len()
                    && host.ends_with(&suffix)
                    && !host[..host.len() - suffix.len()].join(".").is_empty()
            }
            None => pattern == host,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_naive_rule(pattern in "(\\*|(\\*\\.)?[ab]{1,2}(\\.[ab]{1,2}){0,2})", host in "[ab]{1,2}(\\.[ab]{1,2}){0,3}") {
            let claim: HostPattern = pattern.parse().unwrap();
            prop_assert_eq!(claim.matches(&Host::from_header(&host)), naive(&pattern, &host));
        }

        #[test]
        fn any_header_normalises_without_panic(value in ".*") {
            let once = Host::from_header(&value).as_str().to_owned();
            prop_assert!(!once.bytes().any(|b| b.is_ascii_uppercase()) || value.contains('['));
        }

        #[test]
        fn a_parsed_claim_parses_to_itself(text in "[a-zA-Z*.:0-9\\[\\]_-]{0,20}") {
            if let Ok(claim) = text.parse::<HostPattern>() {
                prop_assert_eq!(claim.as_str().parse::<HostPattern>().unwrap(), claim);
            }
        }
    }
}
