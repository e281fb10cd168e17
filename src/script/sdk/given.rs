//! What functions are given: bytes of texts and blobs, maps of options, and how wrong ones are refused.

use std::fmt::Display;

use rhai::{Dynamic, EvalAltResult, ImmutableString, Map, NativeCallContext};

use super::super::guards::check_string;
use super::super::watch::Watch;
use super::super::{encode, logs};
use super::Raised;

/// Longest part of what was given that a message repeats, in bytes.
const SHOWN_BYTES_MAX: usize = 100;

/// An error that scripts can catch: which function, and what is wrong with what it was given.
pub(super) fn wrong(function: &str, why: impl Display) -> Raised {
    EvalAltResult::from(format!("{function}: {why}")).into()
}

/// A text as a message repeats it: in quotes, and not all of a long one.
pub(super) fn shown(text: &str) -> String {
    let kept = logs::cut(text, SHOWN_BYTES_MAX);
    format!("{kept:?}{}", if kept.len() < text.len() { "…" } else { "" })
}

/// Works on the bytes of a text or of a blob, without a copy.
pub(super) fn with_bytes<T>(
    function: &str,
    value: &Dynamic,
    work: impl FnOnce(&[u8]) -> Result<T, Raised>,
) -> Result<T, Raised> {
    if let Ok(text) = value.as_immutable_string_ref() {
        return work(text.as_bytes());
    }
    if let Ok(blob) = value.as_blob_ref() {
        return work(&blob);
    }
    Err(wrong(function, format!("takes a text or a blob, not a {}", encode::kind_of(value))))
}

/// Bytes as a text, if they are UTF-8 and no longer than a text may be.
pub(super) fn text_of(
    ctx: &NativeCallContext,
    function: &str,
    bytes: Vec<u8>,
) -> Result<ImmutableString, Raised> {
    check_string(ctx, bytes.len())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(function, "what is decoded is no UTF-8"))?;
    Ok(text.into())
}

/// Counts a step of a native function as an operation of the script: an error if the run must end.
pub(super) fn step(ctx: &NativeCallContext, watch: &Watch) -> Result<(), Raised> {
    if watch.tick() { watch.check(ctx) } else { Ok(()) }
}

/// Named options of a function.
pub(super) struct Options<'a> {
    function: &'static str,
    map: &'a Map,
}

impl<'a> Options<'a> {
    /// Refuses options that are none of `known`.
    pub(super) fn of(function: &'static str, map: &'a Map, known: &[&str]) -> Result<Options<'a>, Raised> {
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(Options { function, map }),
            Some(name) => {
                let why = format!("there is no option {}; there are {}", shown(name), known.join(", "));
                Err(wrong(function, why))
            }
        }
    }

    /// A text, if it was given.
    pub(super) fn text(&self, name: &str) -> Result<Option<ImmutableString>, Raised> {
        self.read(name, "a text", |value| value.as_immutable_string_ref().ok().map(|text| text.clone()))
    }

    /// A yes or no, if it was given.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Raised> {
        self.read(name, "true or false", |value| value.as_bool().ok())
    }

    /// A number from 0 to `most`, if it was given.
    pub(super) fn count(&self, name: &str, most: i64) -> Result<Option<i64>, Raised> {
        let wanted = format!("a whole number from 0 to {most}");
        self.read(name, &wanted, |value| value.as_int().ok().filter(|count| (0..=most).contains(count)))
    }

    /// What is named, if it was given; unit is as good as nothing.
    pub(super) fn read<T>(
        &self,
        name: &str,
        wanted: &str,
        take: impl FnOnce(&Dynamic) -> Option<T>,
    ) -> Result<Option<T>, Raised> {
        let Some(value) = self.map.get(name).filter(|value| !value.is_unit()) else { return Ok(None) };
        match take(value) {
            Some(read) => Ok(Some(read)),
            None => Err(wrong(self.function, format!("the option {name} must be {wanted}"))),
        }
    }
}
