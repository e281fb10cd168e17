//! A row of the outbox: work that was accepted and has not ended.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Attempt, Principal, Request, UnixMs};

/// Names a waiter in the inbox of this process; means nothing to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InboxId(pub u64);

/// Where a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request over a user's route or directly.
    Http,
    /// An operator's re-drive of a dead letter keeps its kind; this is work begun over the management API.
    Admin,
    /// A change of a KV value.
    Kv,
    /// A tick of a schedule.
    Cron,
    /// A message of a queue, or a run that a script began.
    Queue,
    /// Another row's death.
    DeadLetter,
    /// The start of the daemon.
    Startup,
}

impl Kind {
    /// The word for it in `ctx.invocation` and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::Admin => "admin",
            Kind::Kv => "kv",
            Kind::Cron => "cron",
            Kind::Queue => "queue",
            Kind::DeadLetter => "dead_letter",
            Kind::Startup => "startup",
        }
    }
}

/// One unit of accepted work. Name and timeout are as of the enqueue; the source is the active version at the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Stable over all attempts.
    pub execution_id: Uuid,
    /// Names the request in logs; a client may have sent it.
    pub request_id: String,
    /// Where it came from.
    pub kind: Kind,
    /// The app whose work this is.
    pub app_id: Uuid,
    /// The route it came over, if any.
    pub route_id: Option<Uuid>,
    /// What to run.
    pub script_id: Uuid,
    /// Its name at the enqueue.
    pub script_name: String,
    /// Its wall-clock limit at the enqueue, in milliseconds.
    pub timeout_ms: u32,
    /// Who waits in this process's inbox: a sync row, tried once.
    pub reply_to: Option<InboxId>,
    /// The payload.
    pub request: Request,
    /// Whose credentials came with it.
    pub principal: Option<Principal>,
    /// How many triggers led here; 0 for HTTP.
    pub trigger_depth: u16,
    /// The execution that began the chain; itself for HTTP.
    pub root_execution_id: Uuid,
    /// Attempts that ended, or that a crash of the process ended.
    pub attempts: u16,
    /// Crashes of the process while this ran.
    pub crashes: u16,
    /// Not before this instant.
    pub due_at: UnixMs,
    /// When it was accepted.
    pub accepted_at: UnixMs,
    /// This version instead of the active one: a re-drive of the original.
    pub pinned_version: Option<u32>,
    /// What earlier attempts ended with.
    pub history: Vec<Attempt>,
    /// The dead letter this was re-driven from.
    pub redriven_from: Option<Uuid>,
    /// How old it will be when it is due, in milliseconds: as the monotonic clock saw it, and its waits. The time
    /// in which the device was off is not its fault and does not count.
    pub age_ms: u64,
    /// How long it was to wait when this was written, in milliseconds. No clock makes it wait longer than that.
    pub wait_ms: u64,
    /// The trigger that made it, if one did.
    pub trigger_id: Option<Uuid>,
    /// What happened, as a JSON object: `ctx.event`. The payload of a message is the request's body.
    pub event: Option<Bytes>,
    /// Attempts in all, where it says so itself.
    pub attempts_max: Option<u16>,
    /// While it is not over, no other row of the app has the same.
    pub unique: Option<String>,
    /// The address that a request came from: the peer's, or what a trusted proxy says.
    pub client: Option<IpAddr>,
}

/// Where work stands in a chain of triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// How many triggers led here.
    pub depth: u16,
    /// The execution that began it.
    pub root: Uuid,
}

impl Row {
    /// Its place in its chain.
    pub fn chain(&self) -> Chain {
        Chain { depth: self.trigger_depth, root: self.root_execution_id }
    }

    /// Whether a waiter was promised an answer: tried once, never dead-lettered.
    pub fn is_sync(&self) -> bool {
        self.reply_to.is_some()
    }

    /// The number of the attempt that runs next, from 1.
    pub fn attempt(&self) -> u16 {
        self.attempts.saturating_add(1)
    }

    /// About how many bytes this holds.
    pub fn weight(&self) -> usize {
        let history = self.history.iter().map(|attempt| attempt.error.len() + 64).sum::<usize>();
        let event = self.event.as_ref().map_or(0, Bytes::len);
        256 + self.script_name.len() + history + event + self.request.weight()
    }
}
