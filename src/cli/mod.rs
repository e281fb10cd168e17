//! The command line: `picloud serve` starts the daemon, every other verb is a client of its management API.
//!
//! Each verb has a file with its arguments and what it does; [`run()`] parses, dispatches and turns errors into exit
//! codes. The verbs talk HTTP only: none opens the store; what works on files without a daemon, and the reference of what
//! scripts can call, are handed in by `main`, as the daemon is. No secret is ever an argument, because arguments are
//! visible to every user of the machine, and none is printed but that of a new key, once.
//! Only `main` calls this room.

mod apps;
mod args;
mod backups;
mod call;
mod certs;
mod client;
mod dead_letters;
mod deploy;
mod device;
mod domains;
mod error;
mod executions;
mod find;
mod input;
mod key;
mod keys;
mod kv;
mod logs;
mod man;
mod outbox;
mod prepare;
mod render;
mod routes;
mod run;
mod scripts;
mod scrub;
mod sdk;
mod secrets;
mod serve;
mod session;
mod sse;
mod status;
mod support;
#[cfg(test)]
mod tests;
mod triggers;
mod trust;
mod units;
mod updates;
mod users;

pub use self::backups::Offline;
pub use self::run::run;
pub use self::serve::Order;
