//! The section about the appliance.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What only the appliance has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Where its files are: `/`, or a directory in tests.
    pub root: PathBuf,
}

impl Default for Device {
    fn default() -> Device {
        Device { root: "/".into() }
    }
}
