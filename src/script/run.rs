//! What goes into a run and what comes out: plain types between the executor and the rest of the house.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::model::{Ended, LogLine, Row};
use crate::store::kv::Effects;
use crate::store::{Sealer, Store};

use super::{Library, Redaction, Response};

/// What to run a program with.
#[derive(Clone, Debug)]
pub struct Input {
    /// The work: request, principal, ids and all else that `ctx` shows.
    pub row: Arc<Row>,
    /// When the run is out of time.
    pub deadline: Instant,
    /// What it reaches beyond itself; `None` where there is nothing.
    pub world: Option<Arc<World>>,
}

/// What runs reach beyond themselves.
pub struct World {
    /// Where their values are.
    pub store: Store,
    /// What opens their secrets.
    pub sealer: Sealer,
    /// Plain settings, by name.
    pub env: BTreeMap<String, String>,
    /// The scripts of the device.
    pub library: Library,
    /// The most that one run may queue for how long, and the like: what is as configured.
    pub timeout_async: Duration,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

/// Why a run is cut from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// An operator asked for it: the run has failed.
    Operator,
    /// The daemon stops: the row will be queued again.
    Drain,
}

/// A handle by which another thread cuts a run. Cheap to clone; the first reason given stands.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<AtomicU8>);

impl Control {
    /// Asks the run to end. It does within milliseconds, or at once if it has not begun.
    pub fn cancel(&self, reason: Cancel) {
        let code = match reason {
            Cancel::Operator => 1,
            Cancel::Drain => 2,
        };
        // A failed exchange means that somebody was faster; either way the run ends.
        let _ = self.0.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The reason, once there is one.
    pub fn cancelled(&self) -> Option<Cancel> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Cancel::Operator),
            _ => Some(Cancel::Drain),
        }
    }
}

/// How a run ended, and what it used.
#[derive(Debug)]
pub struct Outcome {
    /// The script's answer, or why there is none.
    pub result: Result<Response, Fault>,
    /// What it changed, to be committed with its end; `None` also if it failed.
    pub effects: Option<Effects>,
    /// What it wrote, in order.
    pub logs: Vec<LogLine>,
    /// Operations of the interpreter.
    pub operations: u64,
    /// The most bytes held at once.
    pub peak_bytes: u64,
    /// Bytes that are still held although the run is over: closures that hold each other are never freed.
    pub leaked_bytes: i64,
    /// Wall-clock time.
    pub duration: Duration,
    /// What else is kept of the run must not tell; log and error are without it already.
    pub redaction: Redaction,
}

impl Outcome {
    /// The outcome of a run that was not made.
    pub fn refused(fault: Fault) -> Outcome {
        Outcome {
            result: Err(fault),
            effects: None,
            logs: Vec::new(),
            operations: 0,
            peak_bytes: 0,
            leaked_bytes: 0,
            duration: Duration::ZERO,
            redaction: Redaction::default(),
        }
    }

    /// Bytes on the heap that this outcome holds itself.
    pub(super) fn held_bytes(&self) -> i64 {
        let pairs = |headers: &[(String, String)]| {
            headers.iter().map(|(n, v)| n.capacity() + v.capacity()).sum::<usize>()
        };
        let result = match &self.result {
            Ok(answer) => {
                let slots = answer.headers.capacity() * size_of::<(String, String)>();
                slots + pairs(&answer.headers) + answer.body.len()
            }
            Err(fault) => fault.message.capacity(),
        };
        let lines =
            self.logs.iter().map(|line| line.level.capacity() + line.message.capacity()).sum::<usize>();
        let slots = self.logs.capacity() * size_of::<LogLine>();
        i64::try_from(result + lines + slots + self.redaction.held_bytes()).unwrap_or(i64::MAX)
    }
}

/// What kind of failure a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The program does not compile, or what it returned is no response.
    Validation,
    /// It threw, or failed at run time.
    Runtime,
    /// It ran past its deadline.
    Timeout,
    /// It used up its operations.
    Operations,
    /// It used up its memory.
    Memory,
    /// An operator cancelled it.
    Cancelled,
    /// The daemon stops; the row is queued again.
    Drain,
    /// The interpreter or a native function panicked.
    Panic,
    /// It was not run: nothing was free.
    Overloaded,
    /// What it read was changed meanwhile: it is made again at once. Nobody outside of the workshop sees this.
    Conflict,
    /// It was not run: the script, or the wanted version of it, was removed.
    Gone,
    /// A fault of the house, whatever the script did.
    Platform,
}

impl FaultKind {
    /// The word for it in a record.
    pub fn ended(self) -> Ended {
        match self {
            FaultKind::Timeout => Ended::Timeout,
            FaultKind::Operations | FaultKind::Memory => Ended::BudgetExceeded,
            FaultKind::Validation
            | FaultKind::Runtime
            | FaultKind::Cancelled
            | FaultKind::Drain
            | FaultKind::Panic
            | FaultKind::Overloaded
            | FaultKind::Conflict
            | FaultKind::Gone
            | FaultKind::Platform => Ended::Error,
        }
    }

    /// Whether another attempt would end the same way.
    pub fn is_permanent(self) -> bool {
        match self {
            FaultKind::Validation | FaultKind::Operations | FaultKind::Memory | FaultKind::Gone => true,
            FaultKind::Runtime
            | FaultKind::Timeout
            | FaultKind::Cancelled
            | FaultKind::Drain
            | FaultKind::Panic
            | FaultKind::Overloaded
            | FaultKind::Conflict
            | FaultKind::Platform => false,
        }
    }
}

/// Why a run gave no answer. A value: the script's failure is not the house's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// For the script's author; at most a few KiB.
    pub message: String,
    /// Whether it must not be tried again.
    pub permanent: bool,
    /// A word for programs where the kind says too little.
    pub reason: Option<&'static str>,
    /// When the script asked to be tried again, counted from now.
    pub retry_after: Option<Duration>,
    /// Line in the source, from 1, where known.
    pub line: Option<usize>,
    /// Column in that line, from 1, where known.
    pub column: Option<usize>,
}

impl Fault {
    /// A fault without a place in the source.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        let permanent = kind.is_permanent();
        let message = message.into();
        Fault { kind, message, permanent, reason: None, retry_after: None, line: None, column: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands() {
        let control = Control::default();
        assert_eq!(control.cancelled(), None);
        control.clone().cancel(Cancel::Drain);
        control.cancel(Cancel::Operator);
        assert_eq!(control.cancelled(), Some(Cancel::Drain));
    }

    #[test]
    fn budgets_end_as_budget_exceeded() {
        for (kind, ended, permanent) in [
            (FaultKind::Timeout, Ended::Timeout, false),
            (FaultKind::Operations, Ended::BudgetExceeded, true),
            (FaultKind::Memory, Ended::BudgetExceeded, true),
            (FaultKind::Validation, Ended::Error, true),
            (FaultKind::Runtime, Ended::Error, false),
            (FaultKind::Panic, Ended::Error, false),
        ] {
            assert_eq!((kind.ended(), Fault::new(kind, "").permanent), (ended, permanent), "{kind:?}");
        }
    }
}
