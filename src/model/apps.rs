//! Apps and what belongs to them: domains, scripts with immutable versions, routes; and the keys of the device.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    AppLimits, Egress, HostPattern, Name, PathPattern, RouteMethod, Sandbox, ScriptSource, Slug, TlsSource,
    UnixMs,
};

/// An owner of scripts, routes and domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Never changes.
    pub id: Uuid,
    /// Unique on the device; stands for the id in URLs.
    pub slug: Slug,
    /// For people.
    pub name: Name,
    /// What its scripts may call.
    pub egress: Egress,
    /// What it may take of the device.
    pub limits: AppLimits,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
}

/// A claim of an app on hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    /// Never changes.
    pub id: Uuid,
    /// The app that claims.
    pub app_id: Uuid,
    /// What is claimed; unique on the device.
    pub pattern: HostPattern,
    /// Where its certificate comes from.
    pub tls: TlsSource,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
}

/// Who may call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Everybody.
    #[default]
    Public,
    /// Holders of an api key.
    Key,
}

/// A stored program. Its source lives in its versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// Never changes.
    pub id: Uuid,
    /// The app that owns it.
    pub app_id: Uuid,
    /// Unique within the app.
    pub name: Name,
    /// The version that runs.
    pub active_version: u32,
    /// The newest version there is; the next source becomes this plus one.
    pub latest_version: u32,
    /// Wall-clock limit of one run in seconds; the device's defaults where `None`.
    pub timeout_seconds: Option<u16>,
    /// Overrides of limits.
    pub sandbox: Sandbox,
    /// Who may run it, over any route and directly.
    pub access: Access,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
}

/// One immutable source of a script.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Counts from 1.
    pub version: u32,
    /// The program.
    pub source: ScriptSource,
    /// When it was stored.
    pub created_at: UnixMs,
}

/// Whether the caller waits for the script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DispatchMode {
    /// The caller gets the script's answer.
    #[default]
    Sync,
    /// The caller gets a 202 once the work is durable.
    Async,
}

/// When a sync row is on the card: see section 3 of the contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Relaxed for GET, HEAD and OPTIONS, strict for the rest.
    #[default]
    Auto,
    /// Before the script starts.
    Strict,
    /// With the next flush, at most a second later.
    Relaxed,
}

impl Durability {
    /// Whether a request with this method must be durable before its script starts.
    pub fn is_strict_for(self, method: &str) -> bool {
        match self {
            Durability::Strict => true,
            Durability::Relaxed => false,
            Durability::Auto => !matches!(method, "GET" | "HEAD" | "OPTIONS"),
        }
    }
}

/// How a request's body reaches the script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyMode {
    /// JSON or 400.
    #[default]
    Json,
    /// By its content type: JSON, a form as a map, text as a string, all else as bytes.
    Auto,
    /// Always bytes.
    Raw,
}

/// Binds a method and a path (and perhaps a host) of an app to a script.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Never changes.
    pub id: Uuid,
    /// The app it belongs to.
    pub app_id: Uuid,
    /// The script it runs.
    pub script_id: Uuid,
    /// Only for requests to this host, where given.
    pub host: Option<HostPattern>,
    /// The method, or ANY.
    pub method: RouteMethod,
    /// The path.
    pub path: PathPattern,
    /// Sync or async.
    pub dispatch_mode: DispatchMode,
    /// When its rows are durable.
    pub durability: Durability,
    /// How bodies are read.
    pub body: BodyMode,
    /// Who may call.
    pub access: Access,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
}

/// How the secrets of api keys begin, so that they are recognised where they should not be.
pub const KEY_PREFIX: &str = "pic_";

/// An api key. Only the hash of its secret is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Never changes.
    pub id: Uuid,
    /// What it is for.
    pub name: Name,
    /// SHA-256 of the secret. The secret has 256 random bits, so no slow hash is needed.
    pub hash: [u8; 32],
    /// The secret's first characters, so that a person recognises it in a list.
    pub hint: String,
    /// From then on it opens nothing.
    pub expires_at: Option<UnixMs>,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
}

/// Whom a request's credentials belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The key's id; nil for the key of the daemon's environment; of a session the user's id.
    pub key_id: Uuid,
    /// The key's name, or the user's e-mail.
    pub name: String,
}
