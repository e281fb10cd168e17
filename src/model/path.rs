//! Path patterns of routes: literal segments, `{param}` for one segment, `{*rest}` for all that follow.
//!
//! A request's path and a pattern are compared in one normal form, in which `%c3%a9` and `é` are the same
//! and an encoded slash stays encoded, so that it can never split a segment.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::name::{Invalid, validated};

const PATTERN_BYTES_MAX: usize = 1024;
const SEGMENTS_MAX: usize = 32;

/// A route's path, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(Arc<str>);
validated!(PathPattern);

impl PathPattern {
    /// The pattern in the matcher's normal form.
    pub fn normalised(&self) -> Cow<'_, str> {
        if !self.0.contains('%') {
            return Cow::Borrowed(&self.0);
        }
        let segments = self.0.split('/').map(|segment| match Segment::of(segment) {
            Segment::Literal(text) => Cow::Owned(normalise_segment(text)),
            Segment::Param(_) | Segment::Rest(_) => Cow::Borrowed(segment),
        });
        Cow::Owned(segments.collect::<Vec<_>>().join("/"))
    }

    /// The pattern without its names: two patterns of one shape match the same paths and conflict.
    pub fn shape(&self) -> String {
        let normal = self.normalised();
        let segments = normal.split('/').map(|segment| match Segment::of(segment) {
            Segment::Literal(text) => text,
            Segment::Param(_) => "{}",
            Segment::Rest(_) => "{*}",
        });
        segments.collect::<Vec<_>>().join("/")
    }

    /// The name of the `{*rest}`, if the pattern ends in one.
    pub fn rest_name(&self) -> Option<&str> {
        match Segment::of(self.0.rsplit('/').next().unwrap_or_default()) {
            Segment::Rest(name) => Some(name),
            Segment::Literal(_) | Segment::Param(_) => None,
        }
    }

    /// Whether only the house's own paths could match: everything under `/api` is the platform's.
    pub fn shadows_api(&self) -> bool {
        let normal = self.normalised();
        let mut segments = normal.split('/').skip(1);
        segments.next() == Some("api")
    }
}

enum Segment<'a> {
    Literal(&'a str),
    Param(&'a str),
    Rest(&'a str),
}

impl Segment<'_> {
    fn of(text: &str) -> Segment<'_> {
        let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
            return Segment::Literal(text);
        };
        match inner.strip_prefix('*') {
            Some(name) => Segment::Rest(name),
            None => Segment::Param(inner),
        }
    }
}

impl FromStr for PathPattern {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<PathPattern, Invalid> {
        let Some(below_root) = text.strip_prefix('/') else {
            return Err(Invalid("must begin with '/'".into()));
        };
        if text.len() > PATTERN_BYTES_MAX {
            return Err(Invalid(format!("must be at most {PATTERN_BYTES_MAX} bytes long")));
        }
        let segments: Vec<&str> = below_root.split('/').collect();
        if segments.len() > SEGMENTS_MAX {
            return Err(Invalid(format!("must have at most {SEGMENTS_MAX} segments")));
        }
        let mut names: Vec<&str> = Vec::new();
        for (position, segment) in segments.iter().enumerate() {
            let name = match Segment::of(segment) {
                Segment::Literal(text) => {
                    check_literal(text)?;
                    continue;
                }
                Segment::Param(name) => name,
                Segment::Rest(_) if position + 1 < segments.len() => {
                    return Err(Invalid(format!(
                        "has {segment} before its end; it must be the last segment"
                    )));
                }
                Segment::Rest(name) => name,
            };
            check_param_name(name)?;
            if names.contains(&name) {
                return Err(Invalid(format!("names {{{name}}} twice")));
            }
            names.push(name);
        }
        Ok(PathPattern(text.into()))
    }
}

fn check_literal(text: &str) -> Result<(), Invalid> {
    if let Some(odd) = text.chars().find(|c| matches!(c, '{' | '}')) {
        return Err(Invalid(format!(
            "has '{odd}' inside \"{text}\"; a parameter is a whole segment like {{name}}"
        )));
    }
    if let Some(odd) = text.chars().find(|c| matches!(c, '?' | '#' | ' ' | '\\') || c.is_control()) {
        return Err(Invalid(format!("has {odd:?} inside \"{}\", which no path holds", text.escape_debug())));
    }
    Ok(())
}

fn check_param_name(name: &str) -> Result<(), Invalid> {
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if begins && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(());
    }
    Err(Invalid(format!(
        "has a parameter \"{name}\"; a name is letters, digits and '_', and begins with no digit"
    )))
}

/// Brings a path into the form in which paths and patterns are compared: escapes of UTF-8 text are decoded,
/// except those of `/`, `%` and the braces, which keep their escape (in lower-case hex). Undecodable escapes stay.
pub fn normalise_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    Cow::Owned(path.split('/').map(normalise_segment).collect::<Vec<_>>().join("/"))
}

fn normalise_segment(segment: &str) -> String {
    let Ok(decoded) = percent_decode_str(segment).decode_utf8() else {
        return segment.to_owned();
    };
    let mut normal = String::with_capacity(segment.len());
    for c in decoded.chars() {
        match c {
            '/' => normal.push_str("%2f"),
            '%' => normal.push_str("%25"),
            '{' => normal.push_str("%7b"),
            '}' => normal.push_str("%7d"),
            other => normal.push(other),
        }
    }
    normal
}

/// The value a script sees for a matched segment in normal form.
pub fn decode_param(normal: &str) -> Cow<'_, str> {
    percent_decode_str(normal).decode_utf8().unwrap_or(Cow::Borrowed(normal))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_parse() {
        for good in
            ["/", "/a", "/a/", "/a/{x}", "/{x}/{y}", "/files/{*rest}", "/{*all}", "/é", "/a//b", "/a.b-c~d"]
        {
            assert!(good.parse::<PathPattern>().is_ok(), "{good}");
        }
    }

    #[test]
    fn refusals_say_why() {
        for (bad, why) in [
            ("", "must begin with '/'"),
            ("a", "must begin with '/'"),
            ("/{*rest}/a", "must be the last segment"),
            ("/{x}/{x}", "names {x} twice"),
            ("/a{x}", "a parameter is a whole segment"),
            ("/{}", "a name is letters"),
            ("/{1a}", "a name is letters"),
            ("/{*}", "a name is letters"),
            ("/a?b", "which no path holds"),
            ("/a b", "which no path holds"),
            ("/{x", "a parameter is a whole segment"),
        ] {
            let said = bad.parse::<PathPattern>().expect_err(bad).to_string();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn shapes_forget_names_only() {
        let shape = |text: &str| text.parse::<PathPattern>().unwrap().shape();
        assert_eq!(shape("/a/{x}/{*r}"), shape("/a/{y}/{*rest}"));
        assert_eq!(shape("/caf%C3%A9/{x}"), shape("/café/{y}"));
        assert_ne!(shape("/a/{x}"), shape("/a/x"));
        assert_ne!(shape("/a/{x}"), shape("/a/{*x}"));
    }

    #[test]
    fn only_the_api_prefix_is_reserved() {
        let shadows = |text: &str| text.parse::<PathPattern>().unwrap().shadows_api();
        assert!(shadows("/api") && shadows("/api/x") && shadows("/%61pi/x"));
        assert!(!shadows("/apis") && !shadows("/{*rest}") && !shadows("/x/api"));
    }

    #[test]
    fn escapes_normalise() {
        for (path, normal, value) in [
            ("/caf%C3%A9", "/café", "/café"),
            ("/a%2Fb", "/a%2fb", "/a/b"),
            ("/a%2fb", "/a%2fb", "/a/b"),
            ("/100%25", "/100%25", "/100%"),
            ("/%zz", "/%25zz", "/%zz"),
            ("/%ff", "/%ff", "/%ff"),
            ("/%7Bx%7D", "/%7bx%7d", "/{x}"),
        ] {
            assert_eq!(normalise_path(path), normal);
            assert_eq!(decode_param(&normalise_path(path)), value);
        }
    }

    proptest! {
        #[test]
        fn normalising_is_total_and_keeps_segments(path in "[/%a-f0-9é{}]{0,24}") {
            let normal = normalise_path(&path);
            prop_assert_eq!(normal.matches('/').count(), path.matches('/').count());
        }
    }
}
