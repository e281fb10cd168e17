//! Which source the domain of a host has, as the set-up says it.

use std::collections::HashMap;

use crate::model::{Domain, TlsSource};

/// The domains of one state of the set-up, in the precedence of the route table.
#[derive(Default)]
pub(super) struct Claims {
    exact: HashMap<Box<str>, TlsSource>,
    wildcard: HashMap<Box<str>, TlsSource>,
    any: Option<TlsSource>,
}

/// How a host is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// By its name.
    Exact(TlsSource),
    /// By a wildcard.
    Wildcard(TlsSource),
    /// By `*`.
    Any(TlsSource),
    /// By nobody.
    Nobody,
}

impl Claim {
    pub(super) fn source(self) -> TlsSource {
        match self {
            Claim::Exact(source) | Claim::Wildcard(source) | Claim::Any(source) => source,
            Claim::Nobody => TlsSource::Auto,
        }
    }
}

impl Claims {
    pub(super) fn of<'a>(domains: impl IntoIterator<Item = &'a Domain>) -> Claims {
        let mut claims = Claims::default();
        for domain in domains {
            let pattern = &domain.pattern;
            if pattern.is_catch_all() {
                claims.any = Some(domain.tls);
            } else if let Some(suffix) = pattern.suffix() {
                claims.wildcard.insert(suffix.into(), domain.tls);
            } else {
                claims.exact.insert(pattern.as_str().into(), domain.tls);
            }
        }
        claims
    }

    /// How `host`, in lower case, is claimed.
    pub(super) fn claim(&self, host: &str) -> Claim {
        if let Some(source) = self.exact.get(host) {
            return Claim::Exact(*source);
        }
        let dots = host.char_indices().skip(1).filter(|(_, letter)| *letter == '.');
        let longest = dots.map(|(at, _)| &host[at..]).find_map(|suffix| self.wildcard.get(suffix));
        match (longest, self.any) {
            (Some(source), _) => Claim::Wildcard(*source),
            (None, Some(source)) => Claim::Any(source),
            (None, None) => Claim::Nobody,
        }
    }

    /// Hosts that are claimed by their names.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&str, TlsSource)> {
        self.exact.iter().map(|(host, source)| (&**host, *source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnixMs;

    #[test]
    fn the_closest_claim_decides() {
        let domain = |pattern: &str, tls| {
            let (id, at) = (uuid::Uuid::nil(), UnixMs(0));
            Domain { id, app_id: id, pattern: pattern.parse().unwrap(), tls, created_at: at, updated_at: at }
        };
        let domains = [
            domain("*.example.org", TlsSource::Acme),
            domain("*.a.example.org", TlsSource::None),
            domain("x.a.example.org", TlsSource::Pem),
        ];
        let claims = Claims::of(&domains);
        for (host, claim) in [
            ("x.a.example.org", Claim::Exact(TlsSource::Pem)),
            ("y.a.example.org", Claim::Wildcard(TlsSource::None)),
            ("a.example.org", Claim::Wildcard(TlsSource::Acme)),
            ("example.org", Claim::Nobody),
            (".example.org", Claim::Nobody),
        ] {
            assert_eq!(claims.claim(host), claim, "{host}");
        }
        let all = Claims::of(&[domain("*", TlsSource::Local)]);
        assert_eq!(all.claim("any.host"), Claim::Any(TlsSource::Local));
    }
}
