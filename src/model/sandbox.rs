//! What a script may use, where it differs from the device's defaults.

use serde::{Deserialize, Serialize};

/// Longest `timeout_seconds` of a script.
pub const TIMEOUT_SECONDS_MAX: u16 = 300;

/// Overrides of the device's limits for one script; a missing field keeps the default.
/// The executor's own [`Limits`](crate::script::Limits) say what each bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// Operations of the interpreter in one run.
    pub max_operations: Option<u64>,
    /// Bytes allocated and not freed at any instant of one run.
    pub max_memory_bytes: Option<u64>,
    /// Bytes of one string.
    pub max_string_bytes: Option<u64>,
    /// Items of one array, bytes of one blob.
    pub max_array_items: Option<u64>,
    /// Entries of one object map.
    pub max_map_entries: Option<u64>,
    /// Depth of function calls.
    pub max_call_levels: Option<u64>,
}
