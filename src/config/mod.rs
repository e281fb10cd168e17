//! The one configuration: what it holds, where it is read from, what is allowed in it.
//!
//! A value comes from a flag, else from the environment (`PICLOUD_<SECTION>_<KEY>`), else from the file, else it
//! is the default. A key that nobody knows and a value that cannot work are errors that name the place, never
//! warnings. This room reads the file and nothing else: the environment and the flags are handed in.
//! The command line loads it, the service takes it apart for the other rooms.

mod device;
mod file;
mod layers;
mod load;
mod rules;
mod sections;
#[cfg(test)]
mod tests;

pub use device::Device;
pub use file::sections;
pub use load::{DEFAULT_PATH, Error, Overrides, Source, complaints, find};
pub use rules::env_name;
pub use sections::{
    Acme, Apps, Backups, Config, Cron, CronClock, DeadLetters, Executions, Limits, Log, LogFormat,
    Management, Outbox, Proxies, ProxyHeader, Scripts, Server, Store, Tls,
};

/// The commented reference file: every key with its default, unit and environment name.
pub const REFERENCE: &str = include_str!("picloud.toml");
