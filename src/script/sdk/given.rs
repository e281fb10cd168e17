//! What functions are given: bytes of texts and blobs, and how wrong ones are refused.

use std::fmt::Display;

use rhai::{Dynamic, EvalAltResult, ImmutableString, NativeCallContext};

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
