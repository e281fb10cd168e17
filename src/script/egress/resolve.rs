//! From a host to the addresses that may be connected to.
//!
//! A name is looked up once, each of its addresses is checked, and the connection goes to one that was: a name that
//! answers differently a moment later is not asked again.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::model::Egress;

use super::target::Target;
use super::{Error, policy};

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What answers for a host and a port.
type Ask = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Looks a host and a port up.
#[derive(Clone)]
pub(super) struct Lookup(Arc<Ask>);

impl Lookup {
    /// By the system: its hosts file, its name servers. Blocks as long as that takes, some ten seconds at worst.
    pub(super) fn system() -> Lookup {
        Lookup::by(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    /// By anything.
    pub(super) fn by(
        ask: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Lookup {
        Lookup(Arc::new(ask))
    }

    /// The addresses of a target that the app's scripts may call; at least one.
    pub(super) fn allowed(&self, target: &Target, egress: &Egress) -> Result<Vec<SocketAddr>, Error> {
        policy::check_host(egress, &target.rule_host(), target.port)?;
        let unknown = |why: &dyn fmt::Display| {
            Error::Connect(format!("the host {} could not be found: {why}", target.host))
        };
        let found = (self.0)(&target.host, target.port).map_err(|error| unknown(&error))?;
        let mut refused = unknown(&"it has no address");
        let mut allowed = Vec::new();
        for address in found {
            // A mapped address is the IPv4 one in disguise; it is checked and called without.
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            match policy::check_address(egress, &target.host, address.ip()) {
                Ok(()) if allowed.len() < ADDRESSES_MAX && !allowed.contains(&address) => {
                    allowed.push(address)
                }
                Ok(()) => {}
                Err(why) => refused = why,
            }
        }
        if allowed.is_empty() { Err(refused) } else { Ok(allowed) }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

/// Answers the HTTP library with addresses that were checked, whatever it asks for.
#[derive(Debug)]
pub(super) struct Checked(pub(super) Vec<SocketAddr>);

impl Resolver for Checked {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        for address in self.0.iter().take(ADDRESSES_MAX) {
            addresses.push(*address);
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answers: &[&str], egress: &str, wanted: Result<&[&str], &str>) {
        let found: Vec<SocketAddr> =
            answers.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 8080)).collect();
        let lookup = Lookup::by(move |host, port| {
            assert_eq!((host, port), ("some.host", 8080));
            Ok(found.clone())
        });
        let target = Target::parse("http://some.host:8080/").unwrap();
        let got = lookup.allowed(&target, &serde_json::from_str(egress).unwrap());
        match wanted {
            Ok(addresses) => {
                let all: Vec<SocketAddr> =
                    addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 8080)).collect();
                assert_eq!(got.unwrap(), all);
            }
            Err(says) => {
                let said = got.unwrap_err().to_string();
                assert!(said.contains(says), "{said}");
            }
        }
    }

    #[test]
    fn only_checked_addresses_are_left() {
        check(&["1.1.1.1", "1.1.1.1", "2a00::1"], "{}", Ok(&["1.1.1.1", "2a00::1"]));
        check(&["127.0.0.1", "1.1.1.1", "::1"], "{}", Ok(&["1.1.1.1"]));
        check(&["::ffff:1.1.1.1"], "{}", Ok(&["1.1.1.1"]));
        check(&["::ffff:127.0.0.1"], "{}", Err("some.host is 127.0.0.1, which is a loopback address"));
        check(&["127.0.0.1", "::1"], "{}", Err("some.host is ::1, which is a loopback address"));
        check(&["10.0.0.1", "10.1.0.1"], r#"{"networks":["10.1.0.0/16"]}"#, Ok(&["10.1.0.1"]));
        check(&[], "{}", Err("the host some.host could not be found: it has no address"));
        check(&["1.1.1.1"], r#"{"allow":["other.host"]}"#, Err("some.host:8080 is none of the hosts"));
        check(&["1.1.1.1"], r#"{"allow":["some.host"]}"#, Ok(&["1.1.1.1"]));
    }
}
