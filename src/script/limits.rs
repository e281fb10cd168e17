//! What one run may use: the device's defaults, a script's overrides, and the ceiling of those.
//!
//! Pure numbers. The executor sets them before each run; the management API checks overrides when a script is stored.

use serde::{Deserialize, Serialize};

use crate::model::{Invalid, Sandbox};

/// What one run may use. The defaults are the device's unless its configuration says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Operations of the interpreter, callbacks included.
    pub operations: u64,
    /// Bytes allocated and not freed at any instant. No single value gets more than a fraction of it:
    /// see [`Limits::string_bytes_max`] and its neighbours.
    pub memory_bytes: u64,
    /// Bytes of one string; also of all strings within one array or map.
    pub string_bytes: usize,
    /// Items of one array, nested ones included; bytes of one blob.
    pub array_items: usize,
    /// Entries of one object map, nested ones included.
    pub map_entries: usize,
    /// Depth of function calls.
    pub call_levels: usize,
    /// Lines of the run's log.
    pub log_lines: usize,
    /// Bytes of the run's log.
    pub log_bytes: usize,
    /// Bytes of the encoded response body.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            operations: 5_000_000,
            memory_bytes: 16 * 1024 * 1024,
            string_bytes: 256 * 1024,
            array_items: 10_000,
            map_entries: 5_000,
            call_levels: 32,
            log_lines: 1000,
            log_bytes: 64 * 1024,
            response_bytes: 10 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// These limits with a script's overrides in place.
    pub fn with(&self, sandbox: &Sandbox) -> Limits {
        let count = |wished: Option<u64>, ours: usize| {
            wished.map_or(ours, |wished| usize::try_from(wished).unwrap_or(usize::MAX))
        };
        Limits {
            operations: sandbox.max_operations.unwrap_or(self.operations),
            memory_bytes: sandbox.max_memory_bytes.unwrap_or(self.memory_bytes),
            string_bytes: count(sandbox.max_string_bytes, self.string_bytes),
            array_items: count(sandbox.max_array_items, self.array_items),
            map_entries: count(sandbox.max_map_entries, self.map_entries),
            call_levels: count(sandbox.max_call_levels, self.call_levels),
            ..self.clone()
        }
    }

    /// Longest string that is in force: a native function may need several times a string's size for a moment, so
    /// that one string never gets more than a sixteenth of the memory. At least one byte: zero means "unlimited" to
    /// the interpreter.
    pub fn string_bytes_max(&self) -> usize {
        self.string_bytes.min(self.share_of_memory(16)).max(1)
    }

    /// Most array items that are in force: sixteen bytes each, for at most a tenth of the memory.
    pub fn array_items_max(&self) -> usize {
        self.array_items.min(self.share_of_memory(160)).max(1)
    }

    /// Most map entries that are in force: about sixty-four bytes each, for at most a fifth of the memory.
    pub fn map_entries_max(&self) -> usize {
        self.map_entries.min(self.share_of_memory(320)).max(1)
    }

    fn share_of_memory(&self, divisor: u64) -> usize {
        usize::try_from(self.memory_bytes / divisor).unwrap_or(usize::MAX)
    }
}

/// How far a script's overrides may go on this device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ceilings {
    /// Of `max_operations`.
    pub operations: u64,
    /// Of `max_memory_bytes`.
    pub memory_bytes: u64,
    /// Of `max_string_bytes`.
    pub string_bytes: u64,
    /// Of `max_array_items`.
    pub array_items: u64,
    /// Of `max_map_entries`.
    pub map_entries: u64,
    /// Of `max_call_levels`; the stack of a bench is made for the default.
    pub call_levels: u64,
}

impl Default for Ceilings {
    fn default() -> Ceilings {
        Ceilings {
            operations: 100_000_000,
            memory_bytes: 64 * 1024 * 1024,
            string_bytes: 4 * 1024 * 1024,
            array_items: 100_000,
            map_entries: 50_000,
            call_levels: 64,
        }
    }
}

impl Ceilings {
    /// Refuses an override that is zero or above its ceiling, by name.
    pub fn check(&self, sandbox: &Sandbox) -> Result<(), Invalid> {
        let rows = [
            ("max_operations", sandbox.max_operations, self.operations),
            ("max_memory_bytes", sandbox.max_memory_bytes, self.memory_bytes),
            ("max_string_bytes", sandbox.max_string_bytes, self.string_bytes),
            ("max_array_items", sandbox.max_array_items, self.array_items),
            ("max_map_entries", sandbox.max_map_entries, self.map_entries),
            ("max_call_levels", sandbox.max_call_levels, self.call_levels),
        ];
        for (field, wished, ceiling) in rows {
            let Some(wished) = wished else { continue };
            if wished == 0 || wished > ceiling {
                return Err(Invalid(format!(
                    "sandbox.{field} is {wished}; this device allows 1 to {ceiling}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sandbox: Sandbox, refused: Option<&str>) {
        let said = Ceilings::default().check(&sandbox).err().map(|invalid| invalid.0);
        assert_eq!(said.as_deref(), refused);
    }

    #[test]
    fn ceilings_name_the_field() {
        let sandbox = Sandbox::default;
        check(sandbox(), None);
        check(Sandbox { max_operations: Some(100_000_000), max_call_levels: Some(1), ..sandbox() }, None);
        let said = "sandbox.max_operations is 999999999; this device allows 1 to 100000000";
        check(Sandbox { max_operations: Some(999_999_999), ..sandbox() }, Some(said));
        let said = "sandbox.max_memory_bytes is 0; this device allows 1 to 67108864";
        check(Sandbox { max_memory_bytes: Some(0), ..sandbox() }, Some(said));
        let said = "sandbox.max_call_levels is 65; this device allows 1 to 64";
        check(Sandbox { max_call_levels: Some(65), ..sandbox() }, Some(said));
    }

    #[test]
    fn overrides_replace_only_what_they_name() {
        let limits = Limits::default();
        assert_eq!(limits.with(&Sandbox::default()), limits);
        let raised = limits.with(&Sandbox { max_string_bytes: Some(7), ..Sandbox::default() });
        assert_eq!(raised, Limits { string_bytes: 7, ..limits });
    }

    #[test]
    fn one_value_gets_a_fraction_of_the_memory() {
        let limits = Limits::default();
        assert_eq!(
            (limits.string_bytes_max(), limits.array_items_max(), limits.map_entries_max()),
            (limits.string_bytes, limits.array_items, limits.map_entries)
        );
        let small = Limits { memory_bytes: 1024 * 1024, ..limits };
        assert_eq!(
            (small.string_bytes_max(), small.array_items_max(), small.map_entries_max()),
            (65_536, 6553, 3276)
        );
        assert_eq!(Limits { memory_bytes: 0, ..small }.string_bytes_max(), 1);
    }

    #[test]
    fn configuration_names_unknown_keys() {
        let said = toml::from_str::<Ceilings>("operatoins = 5").unwrap_err().to_string();
        assert!(said.contains("operatoins"), "{said}");
        assert_eq!(
            toml::from_str::<Limits>("operations = 5").unwrap(),
            Limits { operations: 5, ..Limits::default() }
        );
    }
}
