//! The workshop: compiles scripts and runs them, each within its budgets, and hands back what came of it.
//!
//! Synchronous. A run gets plain values ([`Input`], [`Limits`], [`Control`]) and gives a plain [`Outcome`]; it never
//! touches the network or a status code but by the messenger of [`egress`]. Whatever a script does ends here as a value: a loop, a bomb of
//! strings, a panic of native code. `rhai` is named in this room only. The executor runs benches on its own threads;
//! the management API compiles what it stores.

pub mod alloc;
#[cfg(test)]
mod bomb_tests;
mod cache;
mod confided;
mod context;
mod convert;
mod egress;
mod encode;
mod engine;
#[cfg(test)]
mod engine_tests;
mod executor;
mod faults;
mod guards;
mod library;
mod limits;
mod logs;
mod places;
mod program;
mod redaction;
mod response;
mod run;
mod sdk;
#[cfg(test)]
mod testing;
mod text;
mod turns;
mod waiting;
mod watch;

pub use cache::{PROGRAM_BYTES_DEFAULT, Programs};
pub use convert::check_json;
pub use egress::{BadRoots, CHAIN_HEADER, ChainKey, Messenger, Settings as EgressSettings};
pub use engine::{Bench, stack_bytes};
pub use executor::{Executor, Finished, Job, Lane, LeakHook, Settings, Tally, Verdict, WAIT_SLACK};
pub use library::Library;
pub use limits::{Ceilings, Limits};
pub use program::{CompileError, Program, compile};
pub use redaction::Redaction;
pub use response::Response;
pub use run::{Cancel, Control, Fault, FaultKind, Input, Outcome, World};
pub use sdk::{markdown, reference};
pub(crate) use turns::{Turns, is_fair};
