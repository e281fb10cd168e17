//! What one app may take of the device, so that the others have their share.

use serde::{Deserialize, Serialize};

/// Most requests a second that an app can be limited to.
pub const REQUESTS_PER_SECOND_MAX: u32 = 1_000_000;

/// Limits of one app; a missing field is the device's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppLimits {
    /// Runs at once, at least 1.
    pub concurrency: Option<u16>,
    /// Requests a second over its routes and directly; 0: any number.
    pub requests_per_second: Option<u32>,
    /// Bytes of its keys and values.
    pub kv_bytes: Option<u64>,
    /// Async rows that were accepted and have not ended.
    pub queue_rows: Option<u64>,
}

/// The most that the limits of an app may be set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppCeilings {
    /// Bytes of keys and values.
    pub kv_bytes: u64,
    /// Async rows that have not ended.
    pub queue_rows: u64,
}

impl AppLimits {
    /// Whether each is within what is possible; else its name and what is allowed.
    pub fn check(&self, ceilings: &AppCeilings) -> Result<(), (&'static str, String)> {
        let at_most = |name, value: Option<u64>, most: u64| match value {
            Some(value) if value > most => Err((name, format!("may be at most {most}"))),
            Some(_) | None => Ok(()),
        };
        if self.concurrency == Some(0) {
            return Err(("limits.concurrency", "must be at least 1".into()));
        }
        let rate = self.requests_per_second.map(u64::from);
        at_most("limits.requests_per_second", rate, REQUESTS_PER_SECOND_MAX.into())?;
        at_most("limits.kv_bytes", self.kv_bytes, ceilings.kv_bytes)?;
        at_most("limits.queue_rows", self.queue_rows, ceilings.queue_rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, wrong: Option<&str>) {
        let limits: AppLimits = serde_json::from_str(json).unwrap();
        let checked = limits.check(&AppCeilings { kv_bytes: 100, queue_rows: 10 });
        assert_eq!(checked.err().map(|(field, _)| field), wrong, "{json}");
    }

    #[test]
    fn limits_stay_within_the_possible() {
        check("{}", None);
        check(r#"{"concurrency":1,"requests_per_second":0,"kv_bytes":0,"queue_rows":0}"#, None);
        check(r#"{"requests_per_second":1000000,"kv_bytes":100,"queue_rows":10}"#, None);
        check(r#"{"concurrency":0}"#, Some("limits.concurrency"));
        check(r#"{"requests_per_second":1000001}"#, Some("limits.requests_per_second"));
        check(r#"{"kv_bytes":101}"#, Some("limits.kv_bytes"));
        check(r#"{"queue_rows":11}"#, Some("limits.queue_rows"));
    }

    #[test]
    fn an_unknown_limit_is_an_error() {
        for json in [r#"{"rows":1}"#, r#"{"concurrency":65536}"#, r#"{"queue_rows":-1}"#] {
            assert!(serde_json::from_str::<AppLimits>(json).is_err(), "{json}");
        }
    }
}
