//! What came over the wire as a script's values: JSON, forms, text and bytes.
//!
//! A body may be ten times larger in memory than on the wire, so building one stops as soon as the run's memory
//! budget is gone.

use std::cell::Cell;
use std::fmt;

use rhai::{Dynamic, ImmutableString, Map};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::Body;

use super::alloc;

/// Why a value could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConvertError {
    /// The run's memory budget is gone.
    #[error("it does not fit into the memory of this run")]
    Memory,
    /// The text is no JSON, or nests deeper than 128 levels.
    #[error("{0}")]
    Json(serde_json::Error),
}

/// Whether `bytes` are JSON of bounded depth; builds nothing. Called by whoever makes a [`Body::Json`].
pub fn check_json(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    reader.deserialize_any(Shape)?;
    reader.end()
}

/// A request's body as the script sees it.
pub(super) fn body(body: &Body) -> Result<Dynamic, ConvertError> {
    match body {
        Body::Empty => Ok(Dynamic::UNIT),
        Body::Json(bytes) => from_json(bytes),
        Body::Form(bytes) => {
            // A form differs from a query only in that `+` stands for a space (WHATWG URL, section 5.1).
            let text = String::from_utf8_lossy(bytes).replace('+', " ");
            Ok(pairs(&text).into())
        }
        Body::Text(bytes) => fits(bytes.len()).map(|()| String::from_utf8_lossy(bytes).into_owned().into()),
        Body::Raw(bytes) => fits(bytes.len()).map(|()| Dynamic::from_blob(bytes.to_vec())),
    }
}

/// JSON as a value. Integers that do not fit become floats, and a repeated key keeps its last value.
pub(super) fn from_json(bytes: &[u8]) -> Result<Dynamic, ConvertError> {
    let full = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Value { full: &full }.deserialize(&mut reader);
    match read.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(_) if full.get() => Err(ConvertError::Memory),
        Err(why) => Err(ConvertError::Json(why)),
    }
}

/// `a=1&b=2` as a map: percent-decoded, `+` stays, what does not decode is empty, the last of a repeated key stands.
pub(super) fn pairs(text: &str) -> Map {
    let decoded = |part: &str| {
        percent_encoding::percent_decode_str(part).decode_utf8().unwrap_or_default().into_owned()
    };
    let mut map = Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.insert(decoded(name).into(), decoded(value).into());
        if alloc::is_over_budget() {
            break;
        }
    }
    map
}

fn fits(bytes: usize) -> Result<(), ConvertError> {
    if bytes > alloc::room() { Err(ConvertError::Memory) } else { Ok(()) }
}

/// Reads one JSON value; `full` says afterwards whether a failure was for want of memory.
#[derive(Clone, Copy)]
struct Value<'a> {
    full: &'a Cell<bool>,
}

impl Value<'_> {
    fn check_room<E: serde::de::Error>(self) -> Result<(), E> {
        if alloc::is_over_budget() {
            self.full.set(true);
            return Err(E::custom("out of memory"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Dynamic;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Dynamic, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Dynamic;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Dynamic, E> {
        Ok(Dynamic::UNIT)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Dynamic, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Dynamic, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Dynamic, E> {
        // The nearest float is what JSON's other readers make of a number this large.
        #[allow(clippy::as_conversions)]
        let nearest = value as f64;
        Ok(i64::try_from(value).map_or_else(|_| nearest.into(), Dynamic::from))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Dynamic, E> {
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Dynamic, E> {
        if value.len() > alloc::room() {
            self.full.set(true);
            return Err(E::custom("out of memory"));
        }
        Ok(ImmutableString::from(value).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Dynamic, A::Error> {
        let mut array = rhai::Array::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
            self.check_room()?;
        }
        Ok(Dynamic::from_array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Dynamic, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<std::borrow::Cow<'_, str>>()? {
            let value = entries.next_value_seed(self)?;
            map.insert(key.as_ref().into(), value);
            self.check_room()?;
        }
        Ok(Dynamic::from_map(map))
    }
}

/// Reads any JSON value and keeps nothing. `IgnoredAny` alone would do without serde_json's depth limit.
struct Shape;

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Shape)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_key::<IgnoredAny>()?.is_some() {
            entries.next_value_seed(Shape)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;

    #[track_caller]
    fn check(json: &str, again: &str) {
        assert!(check_json(json.as_bytes()).is_ok(), "{json} was refused");
        let value = from_json(json.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(encode::to_json(&value, 100_000).unwrap()).unwrap(), again);
    }

    #[track_caller]
    fn refused(json: &[u8]) {
        assert!(check_json(json).is_err() && from_json(json).is_err(), "{}", String::from_utf8_lossy(json));
    }

    #[test]
    fn json_goes_round() {
        check(" null ", "null");
        check("[1,-2,3.5,true,\"a\\u00fc\\n\"]", "[1,-2,3.5,true,\"aü\\n\"]");
        check("{\"a\":{\"b\":[]},\"a\":2}", "{\"a\":2}");
        check("9223372036854775807", "9223372036854775807");
        check("9223372036854775808", "9.223372036854776e+18");
        check("1e3", "1000.0");
        check("{\"\\u0061\\n\":1}", "{\"a\\n\":1}");
        let deepest = format!("{}{}", "[".repeat(60), "]".repeat(60));
        check(&deepest, &deepest);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in ["", " ", "{", "[1,]", "nul", "1 2", "{a:1}", "'x'", "\"\\ud800\"", "NaN", "01", "[1]]"] {
            refused(bad.as_bytes());
        }
        refused(b"\"\xff\"");
        refused("[".repeat(1_000_000).as_bytes());
        refused(format!("{}{}", "[".repeat(129), "]".repeat(129)).as_bytes());
        refused("{\"a\":".repeat(500_000).as_bytes());
    }

    #[test]
    fn building_stops_when_the_memory_is_gone() {
        let bomb = format!("[{}[]]", "[],".repeat(3_000_000));
        assert!(check_json(bomb.as_bytes()).is_ok());
        for json in [
            bomb,
            format!("\"{}\"", "x".repeat(5_000_000)),
            format!("[{}{{}}]", "{\"a\":0},".repeat(999_999)),
        ] {
            let meter = alloc::Meter::begin();
            meter.set_budget(1_000_000);
            assert!(matches!(from_json(json.as_bytes()), Err(ConvertError::Memory)));
            assert_eq!(meter.net_bytes(), 0);
            assert!(meter.peak_bytes() < 2_000_000, "{}", meter.peak_bytes());
        }
    }

    #[test]
    fn queries() {
        for (query, json) in [
            ("", "{}"),
            ("&&", "{}"),
            ("a=1&b=2&a=3", r#"{"a":"3","b":"2"}"#),
            ("a=b=c&d", r#"{"a":"b=c","d":""}"#),
            ("a+b=c+d&%61=%C3%BC", r#"{"a":"ü","a+b":"c+d"}"#),
            ("a=%ff&b=%zz", r#"{"a":"","b":"%zz"}"#),
            ("=x", r#"{"":"x"}"#),
        ] {
            assert_eq!(encode::to_json(&pairs(query).into(), 1000).unwrap(), json.as_bytes(), "{query}");
        }
    }

    #[test]
    fn bodies() {
        for (given, json) in [
            (Body::Empty, "null"),
            (Body::Json("[1]".into()), "[1]"),
            (Body::Form("a+b=c%20d".into()), r#"{"a b":"c d"}"#),
            (Body::Text("hi".into()), "\"hi\""),
            (Body::Raw("foo".into()), "\"Zm9v\""),
        ] {
            assert_eq!(encode::to_json(&body(&given).unwrap(), 1000).unwrap(), json.as_bytes());
        }
    }
}
