//! What a script asks the messenger for, checked.

use std::time::Instant;

use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::model::{BODY_BYTES_MAX, Chain};

use super::chain::CHAIN_HEADER;
use super::target::Target;
use super::{Answer, Error};

/// Most headers of one request, and most bytes of all of them.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Most redirects that can be asked for.
pub(in crate::script) const REDIRECTS_MAX: i64 = 20;

/// Headers that are the connection's own (RFC 9110 7.6.1), or ours.
const NOT_SETTABLE: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-connection",
    "proxy-authorization",
    CHAIN_HEADER,
];
/// Headers that go along to another origin. All others may be secrets, whatever their names.
const HARMLESS: &[&str] =
    &["accept", "accept-language", "content-language", "content-type", "range", "user-agent"];

/// A request that can be sent.
#[derive(Clone, Debug)]
pub(in crate::script) struct Errand {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
    /// Redirects that may still be followed.
    pub(super) redirects: u8,
    /// Bytes that the answer's body may have.
    pub(super) bytes_max: usize,
    /// When to give up.
    pub(super) deadline: Instant,
    /// Whose call it is.
    pub(super) chain: Chain,
}

impl Errand {
    /// A request without headers and body, which follows five redirects.
    pub(in crate::script) fn new(
        method: &str,
        url: &str,
        chain: Chain,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<Errand, Error> {
        let upper = method.to_ascii_uppercase();
        let method = Method::from_bytes(upper.as_bytes()).ok().filter(|method| {
            method.as_str().len() <= 32 && *method != Method::CONNECT && *method != Method::TRACE
        });
        let method =
            method.ok_or_else(|| Error::Invalid("the method must be a word like GET or POST".to_owned()))?;
        let target = Target::parse(url)?;
        let (headers, body) = (HeaderMap::new(), None);
        Ok(Errand { method, target, headers, body, redirects: 5, bytes_max, deadline, chain })
    }

    /// Adds a header.
    pub(in crate::script) fn header(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let shown = super::super::logs::cut(name, 100);
        let bad = |why: &str| Err(Error::Invalid(format!("header {shown:?} {why}")));
        let Ok(key) = HeaderName::from_bytes(name.as_bytes()) else { return bad("is no name of a header") };
        if NOT_SETTABLE.contains(&key.as_str()) {
            return bad("cannot be set: it is made for each request");
        }
        let Ok(value) = HeaderValue::from_str(value) else {
            return bad("has a value that cannot be sent: only visible ASCII and blanks can");
        };
        self.headers.insert(key, value);
        let bytes: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if self.headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
            return bad(&format!(
                "is too much: at most {HEADERS_MAX} headers of {HEADER_BYTES_MAX} bytes in all"
            ));
        }
        Ok(())
    }

    /// Sets the body, and what it is unless a header says so.
    pub(in crate::script) fn body(&mut self, body: Vec<u8>, content_type: &'static str) -> Result<(), Error> {
        if body.len() > BODY_BYTES_MAX {
            let why = format!("a body of {} bytes is too large: at most {BODY_BYTES_MAX}", body.len());
            return Err(Error::Invalid(why));
        }
        self.headers.entry("content-type").or_insert(HeaderValue::from_static(content_type));
        self.body = Some(body);
        Ok(())
    }

    /// Sets how many redirects are followed.
    pub(in crate::script) fn redirects(&mut self, wish: i64) -> Result<(), Error> {
        let most = u8::try_from(wish).ok().filter(|_| wish <= REDIRECTS_MAX);
        self.redirects = most
            .ok_or_else(|| Error::Invalid(format!("redirects must be 0 to {REDIRECTS_MAX}, not {wish}")))?;
        Ok(())
    }

    /// The request that a redirect asks for (RFC 9110 15.4, and Fetch 4.4 where it is stricter); `None` if the answer
    /// is no redirect, or is wanted as it is.
    pub(super) fn redirected(&self, answer: &Answer) -> Result<Option<Errand>, Error> {
        let location = match answer.status {
            301 | 302 | 303 | 307 | 308 if self.redirects > 0 => answer.header("location"),
            _ => None,
        };
        let Some(location) = location else { return Ok(None) };
        let mut next = self.clone();
        next.redirects -= 1;
        next.target = self.target.join(location)?;
        if self.target.is_https && !next.target.is_https {
            let why =
                format!("{} redirects to {}, without TLS; this is not followed", self.target, next.target);
            return Err(Error::Refused(why));
        }
        let becomes_get = match answer.status {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::HEAD && self.method != Method::GET,
            _ => false,
        };
        if becomes_get {
            next.method = Method::GET;
            next.body = None;
            for name in ["content-type", "content-language", "content-encoding", "content-location"] {
                next.headers.remove(name);
            }
        }
        if !self.target.is_same_origin(&next.target) {
            let harmless = next.headers.iter().filter(|(name, _)| HARMLESS.contains(&name.as_str()));
            next.headers = harmless.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn errand(method: &str, url: &str) -> Errand {
        let chain = Chain { depth: 0, root: Uuid::nil() };
        Errand::new(method, url, chain, 100, Instant::now()).unwrap()
    }

    /// From a request with a body and headers over an answer to the next request, in words.
    #[track_caller]
    fn check(method: &str, status: u16, location: &str, wanted: &str) {
        let mut errand = errand(method, "https://a.org/x");
        errand.body(b"hi".to_vec(), "text/plain").unwrap();
        for (name, value) in [("Authorization", "s"), ("X-Api-Key", "s"), ("Accept", "*/*")] {
            errand.header(name, value).unwrap();
        }
        let headers = vec![("location".to_owned(), location.to_owned())];
        let said = match errand.redirected(&Answer { status, headers, body: Vec::new() }) {
            Ok(None) => "stays".to_owned(),
            Ok(Some(next)) => {
                let mut names: Vec<&str> = next.headers.keys().map(HeaderName::as_str).collect();
                names.sort_unstable();
                let body = next.body.map_or(0, |body| body.len());
                format!("{} {} {body} {}", next.method, next.target.url, names.join(","))
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(said, wanted, "{method} {status} {location}");
    }

    #[test]
    fn redirects_by_method_and_origin() {
        let all = "accept,authorization,content-type,x-api-key";
        check("GET", 200, "/y", "stays");
        check("GET", 304, "/y", "stays");
        check("GET", 301, "/y", &format!("GET https://a.org/y 2 {all}"));
        check("POST", 301, "/y", "GET https://a.org/y 0 accept,authorization,x-api-key");
        check("POST", 302, "/y", "GET https://a.org/y 0 accept,authorization,x-api-key");
        check("PUT", 302, "/y", &format!("PUT https://a.org/y 2 {all}"));
        check("PUT", 303, "/y", "GET https://a.org/y 0 accept,authorization,x-api-key");
        check("HEAD", 303, "/y", &format!("HEAD https://a.org/y 2 {all}"));
        check("POST", 307, "/y", &format!("POST https://a.org/y 2 {all}"));
        check("POST", 308, "https://b.org/y", "POST https://b.org/y 2 accept,content-type");
        check("GET", 302, "https://a.org:8443/", "GET https://a.org:8443/ 2 accept,content-type");
        let refused = "https://a.org/x redirects to http://a.org/y, without TLS; this is not followed";
        check("GET", 302, "http://a.org/y?secret", refused);
    }

    #[test]
    fn headers_that_cannot_be_set_are_named() {
        let mut errand = errand("patch", "http://a.org/");
        for (name, value, says) in [
            ("Host", "b.org", "header \"Host\" cannot be set"),
            ("CONTENT-LENGTH", "1", "cannot be set"),
            ("x-picloud-chain", "0", "cannot be set"),
            ("a b", "1", "is no name of a header"),
            ("x", "a\r\nb: c", "has a value that cannot be sent"),
            ("x", "ü\u{7f}", "has a value that cannot be sent"),
            ("x", &"y".repeat(40_000), "is too much"),
        ] {
            let said = errand.header(name, value).expect_err(name).to_string();
            assert!(said.contains(says), "{name}: {said}");
        }
        assert_eq!(errand.method, "PATCH");
        for bad in ["", "A B", "CONNECT", "trace", &"x".repeat(40)] {
            let chain = errand.chain;
            assert!(Errand::new(bad, "http://a.org/", chain, 1, Instant::now()).is_err(), "{bad}");
        }
    }
}
