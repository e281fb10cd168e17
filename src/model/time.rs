//! Instants as milliseconds since the Unix epoch: a number in the store, RFC 3339 on the wire.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A wall-clock instant in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub i64);

/// 2026-01-01: this program is younger, so an earlier clock is wrong, and what it makes may be dated back to here.
pub const BUILD_EPOCH: UnixMs = UnixMs(1_767_225_600_000);

impl UnixMs {
    /// The present, by the system's clock. Instants before 1970 read as 1970.
    pub fn now() -> UnixMs {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// This instant moved forward; saturates at the end of time.
    pub fn plus(self, by: Duration) -> UnixMs {
        UnixMs(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: UnixMs) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads an RFC 3339 instant.
    pub fn parse(text: &str) -> Option<UnixMs> {
        text.parse::<jiff::Timestamp>().ok().map(|at| UnixMs(at.as_millisecond()))
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl Serialize for UnixMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for UnixMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnixMs, D::Error> {
        if !deserializer.is_human_readable() {
            return i64::deserialize(deserializer).map(UnixMs);
        }
        let text = String::deserialize(deserializer)?;
        UnixMs::parse(&text).ok_or_else(|| {
            de::Error::custom(format!("\"{text}\" is not an RFC 3339 instant like 2026-01-31T07:00:00Z"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_rfc_3339() {
        let at = UnixMs(1_767_225_600_123);
        assert_eq!(at.to_string(), "2026-01-01T00:00:00.123Z");
        assert_eq!(UnixMs::parse("2026-01-01T00:00:00.123Z"), Some(at));
        assert_eq!(UnixMs::parse("2026-01-01T01:00:00.123+01:00"), Some(at));
        assert_eq!(UnixMs::parse("yesterday"), None);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(UnixMs(i64::MAX).plus(Duration::from_secs(1)), UnixMs(i64::MAX));
        assert_eq!(UnixMs(5).since(UnixMs(9)), Duration::ZERO);
    }
}
