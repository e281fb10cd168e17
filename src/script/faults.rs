//! Why a run failed, in words for the script's author.

use std::time::Duration;

use rhai::{EvalAltResult, Position};

use super::watch::Stop;
use super::{Fault, FaultKind, Limits, encode, logs, text};

/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The fault for an error of the interpreter.
pub(super) fn explain(error: &EvalAltResult, limits: &Limits) -> Fault {
    let inner = error.unwrap_inner();
    let position = if inner.position().is_none() { error.position() } else { inner.position() };
    let message = match inner {
        EvalAltResult::ErrorRuntime(value, _) => {
            placed(&format!("Runtime error: {}", thrown(value)), position)
        }
        EvalAltResult::ErrorDataTooLarge(what, _) => placed(&too_large(what, limits), position),
        EvalAltResult::ErrorStackOverflow(_) => {
            placed(&format!("functions call each other deeper than {} levels", limits.call_levels), position)
        }
        other => logs::cut(&other.to_string(), MESSAGE_BYTES_MAX).to_owned(),
    };
    at(Fault::new(FaultKind::Runtime, message), position)
}

/// The fault for a run that had to end; `error` is what the interpreter made of it.
pub(super) fn stopped(stop: Stop, error: Option<Fault>, limits: &Limits, after: Duration) -> Fault {
    let mut fault = match stop {
        Stop::Failed(message) => Fault { permanent: true, ..Fault::new(FaultKind::Runtime, message) },
        Stop::Full(message) => Fault::new(FaultKind::Memory, message),
        Stop::TooLarge => Fault::new(FaultKind::Runtime, too_large("Length of string", limits)),
        Stop::Fault(kind) => Fault::new(kind, reason(kind, limits, after)),
    };
    if let Some(error) = error {
        (fault.line, fault.column) = (error.line, error.column);
        if let (Some(line), Some(column)) = (fault.line, fault.column) {
            fault.message = format!("{} (line {line}, position {column})", fault.message);
        }
    }
    fault
}

fn reason(kind: FaultKind, limits: &Limits, after: Duration) -> String {
    match kind {
        FaultKind::Timeout => format!("the script was out of time after {} ms", after.as_millis()),
        FaultKind::Operations => format!("the script used up its {} operations", limits.operations),
        FaultKind::Memory => format!("the script used up its {} bytes of memory", limits.memory_bytes),
        FaultKind::Cancelled => "the execution was cancelled".to_owned(),
        FaultKind::Drain => "the device is stopping".to_owned(),
        FaultKind::Validation
        | FaultKind::Runtime
        | FaultKind::Panic
        | FaultKind::Overloaded
        | FaultKind::Conflict
        | FaultKind::Gone
        | FaultKind::Platform => "the script failed".to_owned(),
    }
}

/// The interpreter names what is too large; the author needs the number.
fn too_large(what: &str, limits: &Limits) -> String {
    if what.contains("string") {
        format!("the strings of one value are longer than {} bytes", limits.string_bytes_max())
    } else if what.contains("map") {
        format!("an object map has more than {} entries", limits.map_entries_max())
    } else {
        format!("an array or blob has more than {} items", limits.array_items_max())
    }
}

/// What was thrown: a text as it is, anything else as JSON, and what has no JSON form as it prints.
fn thrown(value: &rhai::Dynamic) -> String {
    match encode::to_json(value, MESSAGE_BYTES_MAX) {
        Ok(json) if !value.is_string() => String::from_utf8_lossy(&json).into_owned(),
        Ok(_) | Err(_) => text::display_cut(value, MESSAGE_BYTES_MAX),
    }
}

fn placed(message: &str, position: Position) -> String {
    match (position.line(), position.position()) {
        (Some(line), Some(column)) => format!("{message} (line {line}, position {column})"),
        (Some(line), None) => format!("{message} (line {line})"),
        (None, _) => message.to_owned(),
    }
}

fn at(fault: Fault, position: Position) -> Fault {
    Fault { line: position.line(), column: position.position(), ..fault }
}
