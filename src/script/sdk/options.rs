//! The last argument of many functions: a map of options. An option that nobody knows is an error, for it would
//! otherwise be silently without effect.

use std::time::Duration;

use rhai::{Dynamic, ImmutableString, Map};

use super::given::shown;
use super::{Raised, wrong};

/// The options of one call.
pub(super) struct Options<'a> {
    function: &'static str,
    map: &'a Map,
}

impl<'a> Options<'a> {
    /// Reads options that may only have these names.
    pub(super) fn of(function: &'static str, map: &'a Map, known: &[&str]) -> Result<Options<'a>, Raised> {
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(wrong(
                function,
                format!("there is no option {}; there are {}", shown(name), known.join(", ")),
            )),
            None => Ok(Options { function, map }),
        }
    }

    /// What is named, if it was given; unit is as good as nothing. `wanted` says what it must be.
    pub(super) fn read<T>(
        &self,
        name: &str,
        wanted: &str,
        take: impl FnOnce(&Dynamic) -> Option<T>,
    ) -> Result<Option<T>, Raised> {
        let Some(value) = self.map.get(name).filter(|value| !value.is_unit()) else { return Ok(None) };
        match take(value) {
            Some(read) => Ok(Some(read)),
            None => Err(wrong(self.function, format!("the option {name} must be {wanted}"))),
        }
    }

    /// A whole number within bounds.
    pub(super) fn int(&self, name: &str, (least, most): (i64, i64)) -> Result<Option<i64>, Raised> {
        let wanted = format!("a whole number from {least} to {most}");
        self.read(name, &wanted, |value| value.as_int().ok().filter(|number| (least..=most).contains(number)))
    }

    /// A text of any length.
    pub(super) fn text(&self, name: &str) -> Result<Option<ImmutableString>, Raised> {
        self.read(name, "a text", |value| value.as_immutable_string_ref().ok().map(|text| text.clone()))
    }

    /// A text of bounded length in bytes, and not empty.
    pub(super) fn short_text(&self, name: &str, bytes_max: usize) -> Result<Option<String>, Raised> {
        self.read(name, &format!("a text of 1 to {bytes_max} bytes"), |value| {
            let text = value.as_immutable_string_ref().ok()?;
            (1..=bytes_max).contains(&text.len()).then(|| text.to_string())
        })
    }

    /// A truth value.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Raised> {
        self.read(name, "true or false", |value| value.as_bool().ok())
    }

    /// Seconds, whole or not, at most `most`.
    pub(super) fn seconds(&self, name: &str, most: Duration) -> Result<Option<Duration>, Raised> {
        self.read(name, &format!("0 to {} seconds", most.as_secs()), |value| {
            let wish = match value.as_float() {
                Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
                Err(_) => Duration::from_secs(value.as_int().ok()?.try_into().ok()?),
            };
            (wish <= most).then_some(wish)
        })
    }
}
