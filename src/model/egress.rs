//! What an app's scripts may call: hosts by rule, and addresses that are not public by network.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use super::name::Invalid;
use super::{Host, HostPattern};

/// Most rules, and most networks, of one app.
const ENTRIES_MAX: usize = 100;

/// What an app's scripts may call. The default is every public host, and no address of a local network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Only these hosts; any where `None`.
    #[serde(deserialize_with = "few_or_none")]
    pub allow: Option<Vec<HostRule>>,
    /// Networks whose addresses may be called although they are not public.
    #[serde(deserialize_with = "few")]
    pub networks: Vec<Network>,
}

impl Egress {
    /// Whether a rule allows this host and port; its addresses are another question.
    pub fn allows_host(&self, host: &Host<'_>, port: u16) -> bool {
        self.allow.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.matches(host, port)))
    }

    /// Whether this address is in one of the networks.
    pub fn opens(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.0.contains(&address))
    }
}

fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Vec::deserialize(from).and_then(check_few)
}

fn few_or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    Option::<Vec<T>>::deserialize(from)?.map(check_few).transpose()
}

fn check_few<T, E: serde::de::Error>(list: Vec<T>) -> Result<Vec<T>, E> {
    if list.len() > ENTRIES_MAX {
        return Err(E::custom(format_args!(
            "has {} entries; at most {ENTRIES_MAX} are possible",
            list.len()
        )));
    }
    Ok(list)
}

/// `api.example.org`, `*.example.org`, an address, or `*`; with `:port` only that port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostRule {
    host: HostPattern,
    port: Option<u16>,
}

impl HostRule {
    /// Whether this host and port fall under the rule.
    pub fn matches(&self, host: &Host<'_>, port: u16) -> bool {
        self.host.matches(host) && self.port.is_none_or(|only| only == port)
    }
}

impl FromStr for HostRule {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<HostRule, Invalid> {
        let (host, port) = match text.rsplit_once(':') {
            // The colons of a bare IPv6 address are no ports.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let number = |port: &str| port.parse().ok().filter(|port| *port > 0);
        let no_port = |port| Invalid(format!("{port:?} is no port: write a host like api.example.org:443"));
        let port = port.map(|port| number(port).ok_or_else(|| no_port(port))).transpose()?;
        Ok(HostRule { host: host.parse()?, port })
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.as_str().contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

/// A network like `192.168.1.0/24`; an address alone is the network of just it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Network, Invalid> {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let network = network
            .ok_or_else(|| Invalid(format!("{text:?} is no network: write 192.168.1.0/24 or fd00::/8")))?;
        Ok(Network(network.trunc()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {
        $(
            impl TryFrom<String> for $name {
                type Error = Invalid;
                fn try_from(text: String) -> Result<$name, Invalid> {
                    text.parse()
                }
            }

            impl From<$name> for String {
                fn from(value: $name) -> String {
                    value.to_string()
                }
            }
        )*
    };
}
as_text!(HostRule, Network);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &str, good: &[(&str, u16)], bad: &[(&str, u16)]) {
        let read: HostRule = rule.parse().unwrap();
        assert_eq!(read.to_string().parse::<HostRule>().unwrap(), read);
        for (host, port) in good {
            assert!(read.matches(&Host::from_header(host), *port), "{rule} does not match {host}:{port}");
        }
        for (host, port) in bad {
            assert!(!read.matches(&Host::from_header(host), *port), "{rule} matches {host}:{port}");
        }
    }

    #[test]
    fn rules() {
        check(
            "api.example.org",
            &[("api.example.org", 443), ("API.Example.org.", 80)],
            &[("example.org", 443), ("x.api.example.org", 443), ("api.example.org.evil.net", 443)],
        );
        check("*.Example.org", &[("a.example.org", 1), ("a.b.example.org", 2)], &[("example.org", 1)]);
        check("pi.local:8080", &[("pi.local", 8080)], &[("pi.local", 80), ("pi.locals", 8080)]);
        check("*:443", &[("anything", 443)], &[("anything", 80)]);
        check("192.168.1.7:80", &[("192.168.1.7", 80)], &[("192.168.1.70", 80), ("192.168.1.7", 81)]);
        check("fd00::1", &[("[fd00::1]", 80), ("fd00:0::1", 81)], &[("[fd00::2]", 80)]);
        check("[fd00::1]:80", &[("[fd00::1]", 80)], &[("[fd00::1]", 81)]);
    }

    #[test]
    fn what_is_no_rule_or_network_says_so() {
        for bad in [
            "",
            ":80",
            "a:0",
            "a:x",
            "a:70000",
            "http://a",
            "a/b",
            "a b",
            "u@a",
            "*.",
            "a:80:80",
            "müller.de",
        ] {
            assert!(bad.parse::<HostRule>().is_err(), "{bad}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0", "x", "10.0.0.0/8/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_open_their_addresses() {
        let egress: Egress =
            serde_json::from_str(r#"{"networks":["192.168.1.77/24","fd00::/8","10.0.0.1"]}"#).unwrap();
        for (address, opened) in [
            ("192.168.1.255", true),
            ("192.168.2.1", false),
            ("fd12::1", true),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
        ] {
            assert_eq!(egress.opens(address.parse().unwrap()), opened, "{address}");
        }
        let text = serde_json::to_string(&egress).unwrap();
        assert_eq!(text, r#"{"allow":null,"networks":["192.168.1.0/24","fd00::/8","10.0.0.1/32"]}"#);
    }

    #[test]
    fn lists_are_bounded() {
        let many =
            |field: &str| format!(r#"{{"{field}":[{}"10.0.0.1"]}}"#, "\"10.0.0.1\",".repeat(ENTRIES_MAX));
        for field in ["allow", "networks"] {
            let said = serde_json::from_str::<Egress>(&many(field)).unwrap_err().to_string();
            assert!(said.contains("has 101 entries; at most 100 are possible"), "{said}");
        }
    }
}
