//! Layers of values, each of which remembers where it came from.
//!
//! The defaults lie at the bottom; the file and the environment are laid over them. A value that its key does not
//! allow is refused as it is laid, so the error names the place that it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use toml::{Table, Value};

use super::load::Error;
use super::{Config, rules};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was built in.
    Default,
    /// A line of a file, from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
}

/// The value of every key.
#[derive(Debug)]
pub(super) struct Layers(BTreeMap<String, (Value, Origin)>);

/// Pairs of limits that must keep an order: the first may not exceed the second.
const ORDERED: &[(&str, &str)] = &[
    ("scripts.limits.max_operations", "scripts.ceilings.max_operations"),
    ("scripts.limits.max_memory_bytes", "scripts.ceilings.max_memory_bytes"),
    ("scripts.limits.max_string_bytes", "scripts.ceilings.max_string_bytes"),
    ("scripts.limits.max_array_items", "scripts.ceilings.max_array_items"),
    ("scripts.limits.max_map_entries", "scripts.ceilings.max_map_entries"),
    ("scripts.limits.max_call_levels", "scripts.ceilings.max_call_levels"),
    ("apps.kv_bytes", "apps.kv_bytes_max"),
];

impl Layers {
    /// The defaults alone.
    pub(super) fn new() -> Result<Layers, Error> {
        let values = flatten(&Config::default())?;
        Ok(Layers(values.into_iter().map(|(key, value)| (key, (value, Origin::Default))).collect()))
    }

    /// Lays a value over what is there. The caller has made sure that the key exists.
    pub(super) fn lay(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), Error> {
        self.check_setting(key, &origin)?;
        match rules::rule(key) {
            Some(rule) if !rule.allows(&value) => Err(Error::Value {
                place: origin.to_string(),
                key: key.to_owned(),
                allowed: format!("must be {rule}"),
            }),
            Some(_) => {
                self.0.insert(key.to_owned(), (value, origin));
                Ok(())
            }
            None => {
                Err(Error::UnknownKey { place: origin.to_string(), key: key.to_owned(), hint: String::new() })
            }
        }
    }

    /// Another default, if there is one that is allowed.
    pub(super) fn lay_default(&mut self, key: &str, value: Option<&str>) {
        let value =
            value.map(Value::from).filter(|value| rules::rule(key).is_some_and(|rule| rule.allows(value)));
        if let (Some(value), Some((stands, Origin::Default))) = (value, self.0.get_mut(key)) {
            *stands = value;
        }
    }

    /// Settings for scripts have names of their own, and are so many at the most.
    fn check_setting(&self, key: &str, origin: &Origin) -> Result<(), Error> {
        let Some(name) = rules::setting(key) else { return Ok(()) };
        let refused =
            |allowed: String| Error::Value { place: origin.to_string(), key: key.to_owned(), allowed };
        if !rules::is_setting_name(name) {
            return Err(refused("must be named with 1 to 128 of A-Z, a-z, 0-9 and '_'".into()));
        }
        let others = self.0.keys().filter(|other| rules::setting(other).is_some() && *other != key).count();
        if others >= rules::SETTINGS_MAX {
            return Err(refused(format!("is one too many: [env] holds at most {}", rules::SETTINGS_MAX)));
        }
        Ok(())
    }

    /// The configuration, once everything is laid and the values agree with one another.
    pub(super) fn finish(self) -> Result<Config, Error> {
        for (low, high) in ORDERED {
            self.check_order(low, high)?;
        }
        let mut table = Table::new();
        for (key, (value, _)) in self.0 {
            insert(&mut table, &key, value);
        }
        Config::deserialize(table).map_err(|why| Error::Broken(why.to_string()))
    }

    /// Blames the value that was set: the defaults agree with one another.
    fn check_order(&self, low: &str, high: &str) -> Result<(), Error> {
        let (Some((low_value, low_origin)), Some((high_value, high_origin))) =
            (self.0.get(low), self.0.get(high))
        else {
            return Ok(());
        };
        if low_value.as_integer() <= high_value.as_integer() {
            return Ok(());
        }
        let (place, key, allowed) = match low_origin {
            Origin::Default => (high_origin, high, format!("must be at least {low}, which is {low_value}")),
            _ => (low_origin, low, format!("must be at most {high}, which is {high_value}")),
        };
        Err(Error::Value { place: place.to_string(), key: key.to_owned(), allowed })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

/// A configuration as pairs of dotted keys and values.
pub(super) fn flatten(config: &Config) -> Result<Vec<(String, Value)>, Error> {
    let table = Table::try_from(config).map_err(|why| Error::Broken(why.to_string()))?;
    let mut flat = Vec::new();
    flatten_into("", table, &mut flat);
    Ok(flat)
}

fn flatten_into(prefix: &str, table: Table, flat: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten_into(&key, inner, flat),
            value => flat.push((key, value)),
        }
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
