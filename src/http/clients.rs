//! Who a request comes from, when a proxy stands in between.
//!
//! What a proxy says counts only if it comes from a network that the operator trusts, and only back to the first hop
//! that is not one of those: everything before that, anybody can have written.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};
use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Bytes of a PROXY header; one with many TLVs has some hundred.
const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// Which header proxies tell the client in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaders {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// In none.
    None,
}

/// Proxies that are believed.
#[derive(Clone, Debug)]
pub struct Proxies {
    /// Where they are.
    pub trusted: Vec<IpNet>,
    /// How they tell the client of a request.
    pub headers: ProxyHeaders,
    /// Whether each of their connections begins with the PROXY protocol.
    pub protocol: bool,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visitor {
    /// The socket's other end.
    pub(super) peer: IpAddr,
    /// Whom the PROXY protocol names, else the same.
    pub(super) source: IpAddr,
    /// Whether the connection is encrypted.
    pub(super) is_secure: bool,
    /// Whether it showed a certificate that management takes.
    pub(super) has_certificate: bool,
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Its address.
    pub(super) address: IpAddr,
    /// Whether it came by TLS, here or to a proxy.
    pub(super) is_secure: bool,
}

impl Proxies {
    /// Whether what this address says is believed.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Whether a connection of `peer` begins with the PROXY protocol.
    pub(super) fn announces(&self, peer: IpAddr) -> bool {
        self.protocol && self.trusts(peer)
    }

    /// Who sent a request with these headers.
    pub(super) fn client(&self, visitor: &Visitor, headers: &HeaderMap) -> Client {
        let direct = Client { address: visitor.source, is_secure: visitor.is_secure };
        if !self.trusts(visitor.source) {
            return direct;
        }
        let hops = match self.headers {
            ProxyHeaders::None => return direct,
            ProxyHeaders::XForwardedFor => {
                let protos = list(headers, &FORWARDED_PROTO);
                // One value for all hops, or one each: the last one is the word of the proxy that we trust.
                let proto = protos.last().map(|proto| proto.trim().eq_ignore_ascii_case("https"));
                let hops = list(headers, &FORWARDED_FOR).into_iter();
                hops.map(|hop| Hop { address: node(hop), is_secure: proto }).collect::<Vec<_>>()
            }
            ProxyHeaders::Forwarded => list(headers, &FORWARDED).into_iter().map(Hop::parse).collect(),
        };
        self.walk(direct, &hops)
    }

    /// From the nearest hop back, as far as those are proxies of ours.
    fn walk(&self, direct: Client, hops: &[Hop]) -> Client {
        let mut client = direct;
        for hop in hops.iter().rev() {
            // An address that is hidden or malformed ends what is known.
            let Some(address) = hop.address else { break };
            client = Client { address, is_secure: hop.is_secure.unwrap_or(client.is_secure) };
            if !self.trusts(address) {
                break;
            }
        }
        client
    }
}

/// One step of the way, as the proxy at its end saw it.
struct Hop {
    address: Option<IpAddr>,
    is_secure: Option<bool>,
}

impl Hop {
    /// An element of `Forwarded` (RFC 7239 4).
    fn parse(element: &str) -> Hop {
        let mut hop = Hop { address: None, is_secure: None };
        for pair in split_quoted(element, ';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match name.trim() {
                name if name.eq_ignore_ascii_case("for") => hop.address = node(value),
                name if name.eq_ignore_ascii_case("proto") => {
                    hop.is_secure = Some(value.eq_ignore_ascii_case("https"));
                }
                _ => {}
            }
        }
        hop
    }
}

/// An address with or without a port, in brackets or not.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inner, _)| inner);
    let plain = bare.unwrap_or(text);
    let address = plain.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|node| node.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// All elements of a list header, over all its lines (RFC 9110 5.3). A line that is no text hides what comes before.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let mut all = Vec::new();
    for value in headers.get_all(name) {
        match value.to_str() {
            Ok(text) => all.extend(split_quoted(text, ',').filter(|element| !element.trim().is_empty())),
            Err(_) => all = vec!["unknown"],
        }
    }
    all
}

/// Parts between separators that stand outside of quotes.
fn split_quoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == separator && !is_quoted
    })
}

/// Reads the PROXY header (version 1 or 2) with which a connection begins, and gives the client that it names; `None` if
/// the proxy speaks for itself. Nothing of what follows is taken.
pub(super) async fn read_announcement(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("PROXY protocol: {why}"));
    let mut bytes = [0; PROXY_HEADER_BYTES_MAX];
    let mut before = 0;
    loop {
        let seen = stream.peek(&mut bytes).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen == before {
            // The rest is on its way; there is no waiting for more than what is there already.
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        before = seen;
        match ProxyHeader::parse(&bytes[..seen], ParseConfig::default()) {
            Ok((header, length)) => {
                let source = header.proxied_address().map(|address| address.source.ip().to_canonical());
                stream.read_exact(&mut bytes[..length]).await?;
                return Ok(source);
            }
            Err(proxy_header::Error::BufferTooShort) if seen < PROXY_HEADER_BYTES_MAX => {}
            Err(error) => return Err(bad(&error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(headers: ProxyHeaders) -> Proxies {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        Proxies { trusted, headers, protocol: false }
    }

    #[track_caller]
    fn check(proxies: &Proxies, peer: &str, lines: &[(&'static str, &str)], wanted: &str, is_secure: bool) {
        let peer = peer.parse().unwrap();
        let visitor = Visitor { peer, source: peer, is_secure: false, has_certificate: false };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.as_bytes().try_into().unwrap());
        }
        let client = Client { address: wanted.parse().unwrap(), is_secure };
        assert_eq!(proxies.client(&visitor, &headers), client, "{lines:?}");
    }

    #[test]
    fn a_client_is_whom_the_last_trusted_proxy_saw() {
        let (xff, proto) = ("x-forwarded-for", "x-forwarded-proto");
        let ours = &proxies(ProxyHeaders::XForwardedFor);
        check(ours, "10.0.0.1", &[(xff, "203.0.113.7")], "203.0.113.7", false);
        check(ours, "10.0.0.1", &[(xff, "203.0.113.7"), (proto, "https")], "203.0.113.7", true);
        // What the client itself wrote stands before.
        check(ours, "10.0.0.1", &[(xff, "127.0.0.1, 203.0.113.7, 10.0.0.2")], "203.0.113.7", false);
        check(ours, "10.0.0.1", &[(xff, "127.0.0.1"), (xff, "203.0.113.7")], "203.0.113.7", false);
        check(ours, "10.0.0.1", &[(xff, "1.2.3.4, garbage")], "10.0.0.1", false);
        check(ours, "10.0.0.1", &[(xff, "1.2.3.4, \u{e9}")], "10.0.0.1", false);
        check(ours, "10.0.0.1", &[(xff, "")], "10.0.0.1", false);
        check(ours, "10.0.0.1", &[(xff, "[2001:db8::1]:8080")], "2001:db8::1", false);
        check(ours, "10.0.0.1", &[(xff, "::ffff:203.0.113.7")], "203.0.113.7", false);
        // Who is not trusted speaks for nobody.
        check(ours, "203.0.113.9", &[(xff, "10.0.0.3"), (proto, "https")], "203.0.113.9", false);
        check(&proxies(ProxyHeaders::None), "10.0.0.1", &[(xff, "1.2.3.4")], "10.0.0.1", false);
    }

    #[test]
    fn forwarded_is_read_as_the_rfc_has_it() {
        let ours = &proxies(ProxyHeaders::Forwarded);
        let name = "forwarded";
        check(ours, "10.0.0.1", &[(name, "for=203.0.113.7;proto=https;by=10.0.0.1")], "203.0.113.7", true);
        check(ours, "10.0.0.1", &[(name, "For=\"[2001:db8:cafe::17]:4711\"")], "2001:db8:cafe::17", false);
        check(
            ours,
            "10.0.0.1",
            &[(name, "for=1.1.1.1, for=203.0.113.7, for=10.0.0.9")],
            "203.0.113.7",
            false,
        );
        check(ours, "10.0.0.1", &[(name, "for=1.1.1.1, for=unknown")], "10.0.0.1", false);
        check(ours, "10.0.0.1", &[(name, "for=_hidden")], "10.0.0.1", false);
        check(ours, "10.0.0.1", &[(name, "host=\"a,b;c\";for=203.0.113.7")], "203.0.113.7", false);
        check(ours, "10.0.0.1", &[("x-forwarded-for", "1.2.3.4")], "10.0.0.1", false);
    }
}
