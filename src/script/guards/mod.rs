//! Native functions of the interpreter's standard library that take, or give, out of proportion, done over.
//!
//! The interpreter checks sizes after a native function has returned, and looks at the clock only between operations.
//! So a short script could make one call hold a gigabyte, or sleep for a year. What is here has the name and the
//! arguments of the original, and hides it. Everything else in the library needs at most a small multiple of its
//! arguments, and those are bounded (see [`Limits`](super::Limits)).

mod strings;
mod values;
mod windows;

use std::sync::Arc;

use rhai::{EvalAltResult, Module, NativeCallContext, Position};

use super::watch::Watch;

/// An error of a native function, as the interpreter wants it.
type Raised = Box<EvalAltResult>;

/// All overrides, for one bench.
pub(super) fn module(watch: &Arc<Watch>) -> Module {
    let mut module = Module::new();
    strings::register(&mut module, watch);
    values::register(&mut module, watch);
    windows::register(&mut module);
    module
}

/// The interpreter's own error for a string over its limit; scripts cannot catch it.
fn string_too_long() -> Raised {
    EvalAltResult::ErrorDataTooLarge("Length of string".to_owned(), Position::NONE).into()
}

/// The interpreter's own error for an array over its limit; scripts cannot catch it.
fn array_too_long() -> Raised {
    EvalAltResult::ErrorDataTooLarge("Size of array/BLOB".to_owned(), Position::NONE).into()
}

/// Refuses a string over the limit, before it is made.
pub(super) fn check_string(ctx: &NativeCallContext, bytes: usize) -> Result<(), Raised> {
    if bytes > ctx.engine().max_string_size() { Err(string_too_long()) } else { Ok(()) }
}

/// Refuses an array or a blob over the limit, before it is made.
pub(super) fn check_items(ctx: &NativeCallContext, items: usize) -> Result<(), Raised> {
    if items > ctx.engine().max_array_size() { Err(array_too_long()) } else { Ok(()) }
}
