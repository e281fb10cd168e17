//! Who may be called: what an address is, and whether an app's rules let its scripts go there.
//!
//! An address that is not public belongs to somebody's network, and a script is not its user: the cards of clouds, the
//! routers and printers of a home answer whoever can reach them. So only public unicast addresses are called, unless
//! the app names the network. The registries are those of IANA (special-purpose addresses, RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{Egress, Host};

use super::Error;

/// Networks of IPv4 that are not public: a network, its prefix, and what it is.
const RESERVED_V4: &[([u8; 4], u32, &str)] = &[
    ([0, 0, 0, 0], 8, "an address of this host only"),
    ([10, 0, 0, 0], 8, "a private address"),
    ([100, 64, 0, 0], 10, "an address shared behind a provider's NAT"),
    ([127, 0, 0, 0], 8, "a loopback address"),
    ([169, 254, 0, 0], 16, "a link-local address"),
    ([172, 16, 0, 0], 12, "a private address"),
    ([192, 0, 0, 0], 24, "a reserved address"),
    ([192, 0, 2, 0], 24, "an address for documentation"),
    ([192, 88, 99, 0], 24, "a reserved address"),
    ([192, 168, 0, 0], 16, "a private address"),
    ([198, 18, 0, 0], 15, "an address for benchmarks"),
    ([198, 51, 100, 0], 24, "an address for documentation"),
    ([203, 0, 113, 0], 24, "an address for documentation"),
    ([224, 0, 0, 0], 4, "a multicast address"),
    ([255, 255, 255, 255], 32, "the broadcast address"),
    ([240, 0, 0, 0], 4, "a reserved address"),
];

/// The same of IPv6; what is not within 2000::/3 is not public anyway, and only has better names here.
const RESERVED_V6: &[([u16; 8], u32, &str)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "the unspecified address"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "a loopback address"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "a link-local address"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "a private address"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "a multicast address"),
    // Teredo, too: it carries the addresses of whoever made it.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "a reserved address"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "an address for documentation"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "an address for documentation"),
];

/// Whether the app's scripts may call this host and port at all.
pub(super) fn check_host(egress: &Egress, host: &Host<'_>, port: u16) -> Result<(), Error> {
    if egress.allows_host(host, port) {
        return Ok(());
    }
    let why = format!(
        "{host}:{port} is none of the hosts that this app may call; allow it with \
         `picloud app update <app> --egress-allow {host}`, along with the others"
    );
    Err(Error::Refused(why))
}

/// Whether the app's scripts may call this address, which `host` stands for.
pub(super) fn check_address(egress: &Egress, host: &str, address: IpAddr) -> Result<(), Error> {
    let address = address.to_canonical();
    let Some(what) = reserved(address).filter(|_| !egress.opens(address)) else { return Ok(()) };
    let who =
        if host == address.to_string() { host.to_owned() } else { format!("{host} is {address}, which") };
    let why = format!(
        "{who} is {what}; allow its network with `picloud app update <app> --egress-network {address}`, along with \
         the others"
    );
    Err(Error::Refused(why))
}

/// What an address is, if it is not public.
fn reserved(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => reserved_v4(address),
        IpAddr::V6(address) => reserved_v6(address),
    }
}

fn reserved_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    let within =
        |network: [u8; 4], prefix: u32| (bits ^ Ipv4Addr::from(network).to_bits()) >> (32 - prefix) == 0;
    RESERVED_V4.iter().find(|(network, prefix, _)| within(*network, *prefix)).map(|(_, _, what)| *what)
}

fn reserved_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = embedded(address) {
        return reserved_v4(inner);
    }
    let bits = address.to_bits();
    let within =
        |network: [u16; 8], prefix: u32| (bits ^ Ipv6Addr::from(network).to_bits()) >> (128 - prefix) == 0;
    let named = RESERVED_V6.iter().find(|(network, prefix, _)| within(*network, *prefix));
    let is_global = address.segments()[0] >> 13 == 1;
    named.map(|(_, _, what)| *what).or((!is_global).then_some("a reserved address"))
}

/// The IPv4 address that a gateway makes of this one: mapped (RFC 4291 2.5.5.2), NAT64 (RFC 6052 2.1), 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(g, h)),
        [0x2002, high, low, _, _, _] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, what: Option<&str>) {
        assert_eq!(reserved(address.parse::<IpAddr>().unwrap().to_canonical()), what, "{address}");
    }

    #[test]
    fn addresses_by_class() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "2002:101:101::1",
            "64:ff9b::101:101",
            "::ffff:1.1.1.1",
            "2001:200::1",
            "3ffe::1",
        ] {
            check(public, None);
        }
        for (class, addresses) in [
            (
                "an address of this host only",
                &["0.0.0.0", "0.255.255.255", "::ffff:0.0.0.0", "64:ff9b::"][..],
            ),
            (
                "a private address",
                &[
                    "10.0.0.0",
                    "10.255.255.255",
                    "172.16.0.0",
                    "172.31.255.255",
                    "192.168.0.0",
                    "192.168.255.255",
                    "fc00::",
                    "fdff:ffff::1",
                    "::ffff:10.0.0.1",
                    "64:ff9b::a00:1",
                    "2002:a00:1::",
                    "2002:c0a8:101::1",
                ],
            ),
            ("an address shared behind a provider's NAT", &["100.64.0.0", "100.127.255.255"]),
            (
                "a loopback address",
                &[
                    "127.0.0.1",
                    "127.255.255.255",
                    "::1",
                    "::ffff:127.0.0.1",
                    "64:ff9b::7f00:1",
                    "2002:7f00:1::",
                ],
            ),
            (
                "a link-local address",
                &["169.254.169.254", "169.254.0.0", "fe80::1", "febf::1", "64:ff9b::a9fe:a9fe"],
            ),
            (
                "an address for documentation",
                &["192.0.2.1", "198.51.100.255", "203.0.113.9", "2001:db8::1", "3fff:fff::1"],
            ),
            ("an address for benchmarks", &["198.18.0.0", "198.19.255.255"]),
            ("a multicast address", &["224.0.0.1", "239.255.255.255", "ff02::1"]),
            ("the broadcast address", &["255.255.255.255"]),
            ("the unspecified address", &["::"]),
            (
                "a reserved address",
                &[
                    "192.0.0.1",
                    "192.88.99.1",
                    "240.0.0.1",
                    "255.255.255.254",
                    "2001::1",
                    "2001:10::1",
                    "2001:1ff::",
                    "fec0::1",
                    "::2",
                    "::10.0.0.1",
                    "64:ff9b:1::1",
                    "100::1",
                    "4000::1",
                    "5f00::1",
                    "1fff::1",
                ],
            ),
        ] {
            for address in addresses {
                check(address, Some(class));
            }
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let egress: Egress =
            serde_json::from_str(r#"{"allow":["a.org"],"networks":["192.168.1.0/24"]}"#).unwrap();
        let said = |result: Result<(), Error>| result.err().map(|error| error.to_string());
        let address = |text: &str| text.parse().unwrap();
        assert_eq!(said(check_host(&egress, &Host::from_header("A.org."), 80)), None);
        let refused = said(check_host(&egress, &Host::from_header("b.org"), 80)).unwrap();
        assert!(
            refused.starts_with("b.org:80 is none of the hosts that this app may call; allow it with"),
            "{refused}"
        );
        assert_eq!(said(check_address(&egress, "nas", address("192.168.1.9"))), None);
        assert_eq!(said(check_address(&egress, "nas", address("::ffff:192.168.1.9"))), None);
        let refused = said(check_address(&egress, "nas", address("192.168.2.9"))).unwrap();
        assert!(
            refused.starts_with("nas is 192.168.2.9, which is a private address; allow its network"),
            "{refused}"
        );
        let refused = said(check_address(&egress, "169.254.169.254", address("169.254.169.254"))).unwrap();
        assert!(
            refused.starts_with("169.254.169.254 is a link-local address; allow its network"),
            "{refused}"
        );
    }
}
