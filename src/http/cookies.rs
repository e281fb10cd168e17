//! The cookie of a session, and whether a request that brings it was meant by who holds it.
//!
//! A browser sends cookies along with whatever makes it ask. `SameSite=Strict` keeps other sites out; another port of
//! the same host is the same site, so a request that may change something must also say that it comes from a page of
//! this very origin: by `Sec-Fetch-Site` (Fetch Metadata), which browsers send to secure origins, or by `Origin`
//! (RFC 6454 7), which they send with all such requests.

use hyper::header::{COOKIE, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};

use super::router;
use crate::model::{SESSION_AGE_MAX, SESSION_COOKIE as NAME};

/// The secret of a session that a request brings.
pub(super) fn session(headers: &HeaderMap) -> Option<&str> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut crumbs = texts.flat_map(|text| text.split(';')).filter_map(|crumb| crumb.trim().split_once('='));
    crumbs.find(|(name, _)| *name == NAME).map(|(_, value)| value)
}

/// The header that sets it, for as long as a session can last; or, without a secret, the one that takes it away.
pub(super) fn set(secret: Option<&str>, is_secure: bool) -> Option<HeaderValue> {
    let age = secret.map_or(0, |_| SESSION_AGE_MAX.as_secs());
    let secure = if is_secure { "; Secure" } else { "" };
    let secret = secret.unwrap_or_default();
    let text = format!("{NAME}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}");
    HeaderValue::try_from(text).ok().map(|mut value| {
        value.set_sensitive(true);
        value
    })
}

/// A `Cookie` header without the session, as scripts may see it; `None` if nothing is left.
pub(super) fn without_session(text: &str) -> Option<String> {
    if !text.contains(NAME) {
        return Some(text.to_owned());
    }
    let is_other = |crumb: &&str| crumb.split_once('=').map_or(*crumb, |(name, _)| name).trim() != NAME;
    let left: Vec<&str> = text.split(';').map(str::trim).filter(is_other).collect();
    Some(left.join("; ")).filter(|text| !text.is_empty())
}

/// Where a request comes from, as a browser tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A page of this origin, or nobody's page: the person asked.
    Here,
    /// Another page.
    Elsewhere,
    /// It does not say.
    Unsaid,
}

/// Where a request comes from; `is_secure` if it came by TLS.
pub(super) fn origin(parts: &Parts, is_secure: bool) -> Origin {
    if let Some(site) = parts.headers.get("sec-fetch-site") {
        let here = [b"same-origin".as_slice(), b"none"].contains(&site.as_bytes());
        return if here { Origin::Here } else { Origin::Elsewhere };
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return Origin::Unsaid };
    let origin = origin.to_str().unwrap_or_default();
    // A proxy may take TLS off; nobody puts it on.
    let authority =
        origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://").filter(|_| !is_secure));
    let host = router::request_host(parts);
    let is_here =
        authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(&host));
    if is_here { Origin::Here } else { Origin::Elsewhere }
}

/// Whether a request may use its session: what only reads always, the rest if it comes from here.
pub(super) fn may_use_session(parts: &Parts, is_secure: bool) -> bool {
    let reads = [Method::GET, Method::HEAD].contains(&parts.method);
    reads || origin(parts, is_secure) == Origin::Here
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder().method(method).uri("/").header("host", "pi.local:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_session_is_found_among_other_cookies() {
        for (text, found) in [
            ("picloud_session=abc", Some("abc")),
            ("a=1; picloud_session=abc; b=2", Some("abc")),
            ("picloud_session=", Some("")),
            ("xpicloud_session=abc", None),
            ("picloud_sessions=abc", None),
            ("", None),
        ] {
            assert_eq!(session(&parts("GET", &[("cookie", text)]).headers), found, "{text}");
        }
    }

    #[test]
    fn scripts_do_not_see_a_session() {
        for (text, left) in [
            ("picloud_session=abc", None),
            ("a=1; picloud_session=abc;b=2", Some("a=1; b=2")),
            ("a=picloud_session", Some("a=picloud_session")),
            (" picloud_session = abc; x", Some("x")),
            ("a=1;b=2", Some("a=1;b=2")),
        ] {
            assert_eq!(without_session(text).as_deref(), left, "{text}");
        }
    }

    #[test]
    fn the_cookie_is_kept_from_scripts_of_pages_and_from_other_sites() {
        let text = |secret, is_secure| set(secret, is_secure).unwrap().to_str().unwrap().to_owned();
        let set = "picloud_session=abc; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000";
        assert_eq!(text(Some("abc"), false), set);
        assert_eq!(text(Some("abc"), true), format!("{set}; Secure"));
        assert!(text(None, false).contains("picloud_session=;") && text(None, false).contains("Max-Age=0"));
    }

    #[track_caller]
    fn check(headers: &[(&str, &str)], is_secure: bool, from: Origin) {
        assert_eq!(origin(&parts("POST", headers), is_secure), from, "{headers:?}");
        assert_eq!(may_use_session(&parts("DELETE", headers), is_secure), from == Origin::Here);
        assert!(may_use_session(&parts("GET", headers), is_secure));
    }

    #[test]
    fn what_changes_something_comes_from_this_origin() {
        check(&[], false, Origin::Unsaid);
        check(&[("origin", "http://pi.local:8080")], false, Origin::Here);
        check(&[("origin", "http://PI.local:8080")], false, Origin::Here);
        check(&[("origin", "https://pi.local:8080")], false, Origin::Here);
        check(&[("origin", "https://pi.local:8080")], true, Origin::Here);
        check(&[("origin", "http://pi.local:8080")], true, Origin::Elsewhere);
        for other in
            ["http://pi.local", "http://pi.local:81", "http://evil.example", "null", "", "pi.local:8080"]
        {
            check(&[("origin", other)], false, Origin::Elsewhere);
        }
        check(&[("sec-fetch-site", "same-origin")], false, Origin::Here);
        check(&[("sec-fetch-site", "none")], false, Origin::Here);
        for other in ["same-site", "cross-site", "x"] {
            check(&[("sec-fetch-site", other), ("origin", "http://pi.local:8080")], false, Origin::Elsewhere);
        }
    }
}
