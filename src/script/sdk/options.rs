//! The last argument of many functions: a map of options. An option that nobody knows is an error, for it would
//! otherwise be silently without effect.

use std::time::Duration;

use rhai::{Dynamic, Map};

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
                format!("there is no option {}; there is {}", shown(name), known.join(", ")),
            )),
            None => Ok(Options { function, map }),
        }
    }

    /// An option that is there and not unit.
    fn find(&self, name: &str) -> Option<&'a Dynamic> {
        self.map.get(name).filter(|value| !value.is_unit())
    }

    fn bad(&self, name: &str, wanted: &str) -> Raised {
        wrong(self.function, format!("{name} must be {wanted}"))
    }

    /// A whole number within bounds.
    pub(super) fn int(&self, name: &str, (least, most): (i64, i64)) -> Result<Option<i64>, Raised> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let number = value.as_int().ok().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| self.bad(name, &format!("a whole number from {least} to {most}")))
    }

    /// A text of bounded length in bytes.
    pub(super) fn text(&self, name: &str, bytes_max: usize) -> Result<Option<String>, Raised> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let text = value.as_immutable_string_ref().ok().filter(|text| (1..=bytes_max).contains(&text.len()));
        let text = text.map(|text| text.to_string());
        text.map(Some).ok_or_else(|| self.bad(name, &format!("a text of 1 to {bytes_max} bytes")))
    }

    /// A truth value.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Raised> {
        let Some(value) = self.find(name) else { return Ok(None) };
        value.as_bool().map(Some).map_err(|_| self.bad(name, "true or false"))
    }

    /// Seconds, whole or not, more than none and at most `most`.
    pub(super) fn seconds(&self, name: &str, most: Duration) -> Result<Option<Duration>, Raised> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let seconds = value.as_float().ok().or_else(|| {
            let whole = value.as_int().ok()?;
            // Beyond 32 bits it is too long anyway.
            Some(u32::try_from(whole).map_or(if whole < 0 { -1.0 } else { f64::MAX }, f64::from))
        });
        let wish =
            seconds.filter(|seconds| *seconds >= 0.0).and_then(|wish| Duration::try_from_secs_f64(wish).ok());
        let wish = wish.filter(|wish| *wish <= most);
        wish.map(Some).ok_or_else(|| self.bad(name, &format!("0 to {} seconds", most.as_secs())))
    }
}
