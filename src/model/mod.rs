//! The nouns of the house: apps, scripts, routes, rows, records, and the patterns they carry.
//!
//! Plain values. Nothing here reads a clock, a file or the network; a pattern, a slug or a source can
//! only be built valid. Every other room uses this one, and it uses none of them.

mod apps;
mod egress;
mod host;
mod kv;
mod limits;
mod name;
mod path;
mod record;
mod reference;
mod request;
mod row;
mod sandbox;
mod schedule;
mod secret;
#[cfg(test)]
pub(crate) mod testing;
mod time;
mod tls;
mod trigger;
mod user;

pub use apps::{
    Access, App, BodyMode, DispatchMode, Domain, Durability, KEY_PREFIX, Key, Principal, Route, Script,
    Version,
};
pub use egress::{Egress, HostRule, Network};
pub use host::{Host, HostPattern};
pub use kv::{KV_KEY_BYTES_MAX, KV_TTL_MAX, KV_VALUE_BYTES_MAX, KvKey, KvPrefix};
pub use limits::{AppCeilings, AppLimits, REQUESTS_PER_SECOND_MAX};
pub use name::{Invalid, Name, RouteMethod, SOURCE_BYTES_MAX, ScriptSource, Slug};
pub use path::{PathPattern, decode_param, normalise_path};
pub use record::{Attempt, DeadLetter, Delivery, Ended, ExecutionRecord, LogLine};
pub use reference::{Chapter, Example, ExampleOutcome, Page};
pub use request::{BODY_BYTES_MAX, Body, Request};
pub use row::{Chain, InboxId, Kind, Row};
pub use sandbox::{Sandbox, TIMEOUT_SECONDS_MAX};
pub use schedule::{Schedule, Timetable, ZoneName};
pub use secret::{SECRET_BYTES_MAX, SECRET_NAME_BYTES_MAX, Secret, SecretName, SecretText};
pub use time::{BUILD_EPOCH, UnixMs};
pub use tls::{LAN_SUFFIXES, TlsSource, is_lan_name, is_private, is_public_name};
pub use trigger::{CatchUp, Overlap, Tick, Trigger, TriggerOn};
pub use user::{
    Email, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, Password, PasswordHash, SESSION_AGE_MAX, SESSION_COOKIE,
    Session, User,
};
