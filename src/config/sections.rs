//! The sections and keys of the configuration, as the daemon's parts take them.
//!
//! Plain values with their defaults. What is allowed in each stands in `rules`, so every `Config` that was
//! loaded is within its ranges. 0 for a number of threads means that the machine decides.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sockets, connections and the place of the data.
    pub server: Server,
    /// TLS: sockets and certificates.
    pub tls: Tls,
    /// The server that certificates for public names come from.
    pub acme: Acme,
    /// Proxies that speak for others.
    pub proxies: Proxies,
    /// Who may reach the management API.
    pub management: Management,
    /// How scripts run.
    pub scripts: Scripts,
    /// What scripts call.
    pub egress: Egress,
    /// What one app may take.
    pub apps: Apps,
    /// Accepted work that has not ended.
    pub outbox: Outbox,
    /// Schedules.
    pub cron: Cron,
    /// The execution log.
    pub executions: Executions,
    /// Work that ended without success.
    pub dead_letters: DeadLetters,
    /// Sources of scripts that are not active any more.
    pub versions: Versions,
    /// The database file.
    pub store: Store,
    /// What the card endures.
    pub card: Card,
    /// Copies of the database.
    pub backups: Backups,
    /// The daemon's own log.
    pub log: Log,
    /// What only the appliance has.
    pub device: super::device::Device,
    /// Plain settings that scripts read, by name.
    pub env: BTreeMap<String, String>,
}

/// Sockets, connections and the place of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Where the database and the admin key are; made if missing. Relative to the working directory.
    pub data_dir: PathBuf,
    /// Open connections; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Bytes of a request's head: request line and headers.
    pub header_bytes_max: usize,
    /// Headers of one request.
    pub headers_max: usize,
    /// Seconds a client may take to send a request's head.
    pub header_timeout_seconds: u64,
    /// Seconds a client may take to send a request's body.
    pub body_timeout_seconds: u64,
    /// Bytes that bodies larger than 64 KiB may have in memory, all together; more wait.
    pub bodies_bytes_max: usize,
    /// Seconds a client may leave an answer unread.
    pub write_timeout_seconds: u64,
    /// Seconds that requests and runs have to end when the daemon stops.
    pub drain_grace_seconds: u64,
    /// Threads that serve connections; 0 = one per core.
    pub threads: usize,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            data_dir: PathBuf::from("./picloud-data"),
            connections_max: 1024,
            header_bytes_max: 32 * 1024,
            headers_max: 100,
            header_timeout_seconds: 10,
            body_timeout_seconds: 30,
            bodies_bytes_max: 64 * 1024 * 1024,
            write_timeout_seconds: 30,
            drain_grace_seconds: 20,
            threads: 0,
        }
    }
}

/// TLS: sockets and certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Addresses to listen on; empty = TLS is off.
    pub listen: Vec<SocketAddr>,
    /// Own certificates: files with chain and key, or directories with fullchain.pem and privkey.pem.
    pub files: Vec<PathBuf>,
    /// What the device calls itself on the network; empty = as the system does.
    pub host_name: String,
    /// Whether clear requests to a domain with a certificate are sent to TLS.
    pub redirect: bool,
    /// Seconds for which browsers then come by TLS only; 0 = they are not told.
    pub hsts_max_age_seconds: u64,
    /// Seconds a handshake may take.
    pub handshake_timeout_seconds: u64,
    /// Handshakes at once; one more makes the longest waiting go.
    pub handshakes_max: usize,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            listen: Vec::new(),
            files: Vec::new(),
            host_name: String::new(),
            redirect: true,
            hsts_max_age_seconds: 0,
            handshake_timeout_seconds: 10,
            handshakes_max: 256,
        }
    }
}

/// The server that certificates for public names come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    /// The URL of its directory (RFC 8555 7.1.1).
    pub directory: String,
    /// A file of certificate authorities, in PEM, that the server itself is checked by; empty = the public ones.
    pub ca_file: PathBuf,
    /// Mail addresses that it may write to.
    pub contact: Vec<String>,
    /// The id of an account that was made elsewhere (RFC 8555 7.3.4); empty = none is needed.
    pub eab_key_id: String,
    /// A file with its key, in base64url.
    pub eab_key_file: PathBuf,
}

impl Default for Acme {
    fn default() -> Acme {
        Acme {
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            ca_file: PathBuf::new(),
            contact: Vec::new(),
            eab_key_id: String::new(),
            eab_key_file: PathBuf::new(),
        }
    }
}

/// Proxies that speak for others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxies {
    /// Where they are.
    #[serde(with = "networks")]
    pub trust: Vec<IpNet>,
    /// Which header they tell the client in.
    pub header: ProxyHeader,
    /// Whether each of their connections begins with the PROXY protocol.
    pub protocol: bool,
}

/// A header in which proxies tell the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// The one that most set.
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
    /// None.
    None,
}

/// Who may reach the management API, and how much it hands out at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Management {
    /// Networks that may manage besides private, link-local and loopback ones.
    #[serde(with = "networks")]
    pub allow: Vec<IpNet>,
    /// Largest page of a list.
    pub page_limit_max: usize,
    /// A file of certificate authorities, in PEM: management takes only clients with a certificate of theirs, by TLS.
    /// Empty = it asks for none.
    pub client_ca_file: PathBuf,
}

impl Default for Management {
    fn default() -> Management {
        Management { allow: Vec::new(), page_limit_max: 500, client_ca_file: PathBuf::new() }
    }
}

/// How scripts run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scripts {
    /// Threads that run scripts; 0 = two per core, at least 4.
    pub threads: usize,
    /// Sync runs that may wait for a thread; one more is answered 503.
    pub queue_max: usize,
    /// Wall-clock seconds of a sync run, where its script says nothing.
    pub timeout_seconds_sync: u16,
    /// Wall-clock seconds of an async run, where its script says nothing.
    pub timeout_seconds_async: u16,
    /// Bytes of compiled scripts kept in memory.
    pub cache_bytes: usize,
    /// Bytes that runs may leave behind, all together, before the daemon drains and ends to be started anew.
    pub leaked_bytes_max: u64,
    /// What one run may use, where its script says nothing.
    pub limits: Limits,
    /// What a script may raise its own limits to.
    pub ceilings: Limits,
}

impl Default for Scripts {
    fn default() -> Scripts {
        Scripts {
            threads: 0,
            queue_max: 1024,
            timeout_seconds_sync: 5,
            timeout_seconds_async: 30,
            cache_bytes: 16 * 1024 * 1024,
            leaked_bytes_max: 64 * 1024 * 1024,
            limits: Limits::default(),
            ceilings: Limits::CEILINGS,
        }
    }
}

/// What one app may take of the device, where it has no limits of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Apps {
    /// Runs at once; 0 = three quarters of the threads, the last of which goes to an app that runs nothing.
    pub concurrency: usize,
    /// Requests a second; 0 = any number.
    pub requests_per_second: u32,
    /// Bytes of keys and values.
    pub kv_bytes: u64,
    /// The most that `kv_bytes` of an app may be set to.
    pub kv_bytes_max: u64,
    /// Async rows that have not ended; 0 = half of `outbox.rows_max`.
    pub queue_rows: u64,
}

impl Default for Apps {
    fn default() -> Apps {
        Apps {
            concurrency: 0,
            requests_per_second: 0,
            kv_bytes: 64 * 1024 * 1024,
            kv_bytes_max: 1024 * 1024 * 1024,
            queue_rows: 0,
        }
    }
}

/// What one run may use. The defaults are those of `[scripts.limits]`; `[scripts.ceilings]` begins at
/// [`Limits::CEILINGS`]. A file that sets some keys of a table keeps the rest of that table's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Operations of the interpreter.
    pub max_operations: u64,
    /// Bytes allocated and not freed at any instant.
    pub max_memory_bytes: u64,
    /// Bytes of one string.
    pub max_string_bytes: u64,
    /// Items of one array, bytes of one blob.
    pub max_array_items: u64,
    /// Entries of one object map.
    pub max_map_entries: u64,
    /// Depth of function calls.
    pub max_call_levels: u64,
}

impl Limits {
    /// The default of `[scripts.ceilings]`.
    pub const CEILINGS: Limits = Limits {
        max_operations: 100_000_000,
        max_memory_bytes: 64 * 1024 * 1024,
        max_string_bytes: 4 * 1024 * 1024,
        max_array_items: 100_000,
        max_map_entries: 50_000,
        max_call_levels: 64,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_operations: 5_000_000,
            max_memory_bytes: 16 * 1024 * 1024,
            max_string_bytes: 256 * 1024,
            max_array_items: 10_000,
            max_map_entries: 5_000,
            max_call_levels: 32,
        }
    }
}

/// What scripts call. Whom they may call is each app's to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Calls under way at once, of all scripts; further ones wait.
    pub calls_max: usize,
    /// Bytes of an answer's body, where the script asks for no other bound.
    pub answer_bytes_max: usize,
    /// Seconds that reaching one server may take, TLS included.
    pub connect_timeout_seconds: u64,
    /// A PEM file of certificate authorities besides the public ones; empty = none.
    pub ca_file: PathBuf,
}

impl Default for Egress {
    fn default() -> Egress {
        Egress {
            calls_max: 16,
            answer_bytes_max: 1024 * 1024,
            connect_timeout_seconds: 10,
            ca_file: PathBuf::new(),
        }
    }
}

/// Accepted work that has not ended, and how it is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    /// Rows; one more is answered 503.
    pub rows_max: u64,
    /// Bytes of all rows.
    pub bytes_max: u64,
    /// Attempts of one row in all.
    pub attempts_max: u16,
    /// Longest wait before the second attempt, in milliseconds; the actual wait is drawn between 0 and it.
    pub backoff_base_ms: u64,
    /// Each later wait is this many times longer.
    pub backoff_factor: u32,
    /// No wait is longer than this many seconds.
    pub backoff_max_seconds: u64,
    /// A row this many seconds old is not tried again.
    pub age_max_seconds: u64,
    /// Crashes of the daemon during one row's runs before it is a dead letter.
    pub crashes_max: u16,
    /// Triggers that may lead from one run to the next; one more is a dead letter.
    pub trigger_depth_max: u16,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox {
            rows_max: 100_000,
            bytes_max: 256 * 1024 * 1024,
            attempts_max: 6,
            backoff_base_ms: 2_000,
            backoff_factor: 4,
            backoff_max_seconds: 600,
            age_max_seconds: 6 * 3600,
            crashes_max: 3,
            trigger_depth_max: 8,
        }
    }
}

/// The execution log: bounded by bytes first, by age second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Executions {
    /// Bytes of all records.
    pub bytes_max: u64,
    /// Days a record is kept.
    pub age_max_days: u32,
}

impl Default for Executions {
    fn default() -> Executions {
        Executions { bytes_max: 64 * 1024 * 1024, age_max_days: 30 }
    }
}

/// Work that ended without success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetters {
    /// Letters kept; the oldest goes first.
    pub rows_max: u64,
    /// Bytes of all letters; the oldest goes first.
    pub bytes_max: u64,
    /// Days a letter is kept.
    pub age_max_days: u32,
    /// From so many letters on somebody should look: a warning and a metric; 0 = never.
    pub alert_at: u64,
}

impl Default for DeadLetters {
    fn default() -> DeadLetters {
        DeadLetters { rows_max: 10_000, bytes_max: 64 * 1024 * 1024, age_max_days: 90, alert_at: 100 }
    }
}

/// Sources of scripts that are not active any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Versions {
    /// Bytes of all versions of all scripts; over it the oldest that is not active goes.
    pub bytes_max: u64,
    /// Days a version that is not active is kept.
    pub age_max_days: u32,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions { bytes_max: 64 * 1024 * 1024, age_max_days: 365 }
    }
}

/// The database file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Bytes of pages kept in memory.
    pub cache_bytes: usize,
    /// Milliseconds until relaxed writes are durable.
    pub flush_interval_ms: u64,
    /// Milliseconds added to each sync of the card, to see how a slower card would do; for measuring only.
    pub sync_delay_ms: u64,
    /// Free bytes of the card below which nothing new is accepted.
    pub space_low_bytes: u64,
    /// Free inodes below which nothing new is accepted, where the file system counts them.
    pub inodes_low: u64,
    /// Bytes set aside for the moment in which a write finds no room; 0 = none.
    pub reserve_bytes: u64,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            cache_bytes: 16 * 1024 * 1024,
            flush_interval_ms: 1_000,
            sync_delay_ms: 0,
            space_low_bytes: 64 * 1024 * 1024,
            inodes_low: 128,
            reserve_bytes: 8 * 1024 * 1024,
        }
    }
}

/// What the card endures, and what it may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Card {
    /// Terabytes that may be written to it in its life, by its maker.
    pub endurance_tbw: u64,
    /// Bytes that may be written each day before the store becomes thrifty; 0 = any.
    pub write_budget_bytes_per_day: u64,
}

impl Default for Card {
    fn default() -> Card {
        Card { endurance_tbw: 20, write_budget_bytes_per_day: 0 }
    }
}

/// Copies of the database: when they are made, where they go, how many stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backups {
    /// Where they are; empty = `backups` in the data directory.
    pub directory: PathBuf,
    /// Hours between scheduled ones; 0 = none.
    pub interval_hours: u32,
    /// Seconds after the start before the first scheduled one.
    pub start_delay_seconds: u64,
    /// So many stay; the oldest goes first.
    pub keep: usize,
    /// Bytes of all of them; the oldest goes first, the newest always stays.
    pub bytes_max: u64,
    /// Where each is copied to, on a mounted medium; empty = nowhere.
    pub copy_to: PathBuf,
    /// Bytes of a backup that is uploaded to be restored.
    pub upload_bytes_max: u64,
}

impl Default for Backups {
    fn default() -> Backups {
        Backups {
            directory: PathBuf::new(),
            interval_hours: 24,
            start_delay_seconds: 600,
            keep: 7,
            bytes_max: 1024 * 1024 * 1024,
            copy_to: PathBuf::new(),
            upload_bytes_max: 1024 * 1024 * 1024,
        }
    }
}

/// Schedules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cron {
    /// What schedules wait for before they strike.
    pub clock: CronClock,
}

/// Which clock schedules strike by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CronClock {
    /// A synchronised one on a board without a battery, else any that is not in the past.
    #[default]
    Auto,
    /// A synchronised one.
    Synchronised,
    /// Any.
    Trusted,
}

/// The daemon's own log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or levels of modules, as `tracing_subscriber::filter::Targets` reads them.
    pub level: String,
    /// How lines are written.
    pub format: LogFormat,
    /// Whether each request is logged.
    pub access: bool,
    /// Whether what scripts write is logged, too.
    pub scripts: bool,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), format: LogFormat::Auto, access: true, scripts: false }
    }
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// To the journal under systemd, else as text.
    #[default]
    Auto,
    /// Lines for people, on standard error.
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// To the systemd journal, with fields.
    Journald,
}

/// Networks as texts: `10.0.0.0/8`, or one address.
pub(super) mod networks {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Reads a network; one address is the network of just it.
    pub(in crate::config) fn parse(text: &str) -> Option<IpNet> {
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    }

    pub(super) fn serialize<S: Serializer>(list: &[IpNet], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(IpNet::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let network = |text: &String| {
            parse(text).ok_or_else(|| de::Error::custom(format!("{text:?} is not a network like 10.0.0.0/8")))
        };
        texts.iter().map(network).collect()
    }
}
