//! What is allowed for each key, in one table: names, types, ranges, and how to say so.
//!
//! The layers check every value against this before anything else looks at it, so the types of
//! `sections` are only ever built from values that fit. A test holds the table against the sections.

use std::fmt;
use std::net::SocketAddr;

use toml::Value;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::sections::networks;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    /// A whole number within these bounds.
    Number(i64, i64),
    /// `true` or `false`.
    Flag,
    /// A path.
    Path,
    /// A path, or nothing.
    MaybePath,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Directives of the log.
    Filter,
    /// Addresses to listen on, at least one.
    Addresses,
    /// Addresses to listen on, or none.
    MaybeAddresses,
    /// Paths, or none.
    Paths,
    /// The name of a host without its domain, or nothing.
    HostName,
    /// An https URL.
    Url,
    /// Mail addresses, or none.
    Mails,
    /// Networks.
    Networks,
    /// A text for scripts.
    Setting,
}

use Rule::{
    Addresses, Filter, Flag, HostName, Mails, MaybeAddresses, MaybePath, Networks, Number, Path, Paths,
    Setting, Url, Word,
};

const MIB: i64 = 1024 * 1024;
const DAY_SECONDS: i64 = 24 * 3600;
const ANY: i64 = i64::MAX;

/// Every key there is.
pub(super) const RULES: &[(&str, Rule)] = &[
    ("server.listen", Addresses),
    ("server.data_dir", Path),
    ("server.connections_max", Number(1, 1_000_000)),
    // hyper refuses to work with a smaller read buffer.
    ("server.header_bytes_max", Number(8192, MIB)),
    ("server.headers_max", Number(1, 10_000)),
    ("server.header_timeout_seconds", Number(1, 3600)),
    ("server.body_timeout_seconds", Number(1, 3600)),
    ("server.bodies_bytes_max", Number(16 * MIB, 64 * 1024 * MIB)),
    ("server.write_timeout_seconds", Number(1, 3600)),
    ("server.drain_grace_seconds", Number(0, 3600)),
    ("server.threads", Number(0, 1024)),
    ("tls.listen", MaybeAddresses),
    ("tls.files", Paths),
    ("tls.host_name", HostName),
    ("tls.redirect", Flag),
    // Two years, which is what browsers' own lists ask for.
    ("tls.hsts_max_age_seconds", Number(0, 2 * 365 * DAY_SECONDS)),
    ("tls.handshake_timeout_seconds", Number(1, 300)),
    ("tls.handshakes_max", Number(1, 100_000)),
    ("acme.directory", Url),
    ("acme.ca_file", MaybePath),
    ("acme.contact", Mails),
    ("acme.eab_key_id", Setting),
    ("acme.eab_key_file", MaybePath),
    ("proxies.trust", Networks),
    ("proxies.header", Word(&["x-forwarded-for", "forwarded", "none"])),
    ("proxies.protocol", Flag),
    ("management.allow", Networks),
    ("management.client_ca_file", MaybePath),
    ("management.page_limit_max", Number(1, 10_000)),
    ("scripts.threads", Number(0, 1024)),
    ("scripts.queue_max", Number(1, 1_000_000)),
    ("scripts.timeout_seconds_sync", Number(1, 300)),
    ("scripts.timeout_seconds_async", Number(1, 300)),
    ("scripts.cache_bytes", Number(0, 1024 * MIB)),
    ("scripts.leaked_bytes_max", Number(1_000_000, 1_000_000_000_000)),
    ("scripts.limits.max_operations", Number(1, ANY)),
    ("scripts.limits.max_memory_bytes", Number(64 * 1024, ANY)),
    ("scripts.limits.max_string_bytes", Number(1, ANY)),
    ("scripts.limits.max_array_items", Number(1, ANY)),
    ("scripts.limits.max_map_entries", Number(1, ANY)),
    ("scripts.limits.max_call_levels", Number(1, 64)),
    ("scripts.ceilings.max_operations", Number(1, ANY)),
    ("scripts.ceilings.max_memory_bytes", Number(64 * 1024, ANY)),
    ("scripts.ceilings.max_string_bytes", Number(1, ANY)),
    ("scripts.ceilings.max_array_items", Number(1, ANY)),
    ("scripts.ceilings.max_map_entries", Number(1, ANY)),
    // A script thread's stack is sized for 64 levels; deeper calls would overflow it and abort the process.
    ("scripts.ceilings.max_call_levels", Number(1, 64)),
    // Each is a thread with buffers of some 300 KiB, besides its bodies.
    ("egress.calls_max", Number(1, 1000)),
    ("egress.answer_bytes_max", Number(1, 64 * MIB)),
    ("egress.connect_timeout_seconds", Number(1, 300)),
    ("egress.ca_file", MaybePath),
    ("apps.concurrency", Number(0, 1024)),
    ("apps.requests_per_second", Number(0, 1_000_000)),
    ("apps.kv_bytes", Number(0, ANY)),
    ("apps.kv_bytes_max", Number(0, ANY)),
    ("apps.queue_rows", Number(0, ANY)),
    ("outbox.rows_max", Number(1, ANY)),
    // A row may carry a body of 10 MiB, and must fit.
    ("outbox.bytes_max", Number(16 * MIB, ANY)),
    ("outbox.attempts_max", Number(1, 1000)),
    ("outbox.backoff_base_ms", Number(1, 3_600_000)),
    ("outbox.backoff_factor", Number(1, 100)),
    ("outbox.backoff_max_seconds", Number(1, DAY_SECONDS)),
    ("outbox.age_max_seconds", Number(1, 365 * DAY_SECONDS)),
    ("outbox.crashes_max", Number(1, 1000)),
    ("outbox.trigger_depth_max", Number(1, 1000)),
    ("cron.clock", Word(&["auto", "synchronised", "trusted"])),
    ("executions.bytes_max", Number(MIB, ANY)),
    ("executions.age_max_days", Number(1, 36_500)),
    ("dead_letters.rows_max", Number(1, ANY)),
    ("dead_letters.bytes_max", Number(16 * MIB, 1024 * 1024 * MIB)),
    ("dead_letters.age_max_days", Number(1, 36_500)),
    ("dead_letters.alert_at", Number(0, ANY)),
    ("versions.bytes_max", Number(MIB, 1024 * 1024 * MIB)),
    ("versions.age_max_days", Number(1, 36_500)),
    ("store.cache_bytes", Number(MIB, 4096 * MIB)),
    // Relaxed writes are promised to be durable within a second.
    ("store.flush_interval_ms", Number(1, 1000)),
    ("store.sync_delay_ms", Number(0, 1000)),
    ("store.space_low_bytes", Number(0, ANY)),
    ("store.inodes_low", Number(0, ANY)),
    ("store.reserve_bytes", Number(0, 1024 * MIB)),
    ("card.endurance_tbw", Number(1, 1_000_000)),
    ("card.write_budget_bytes_per_day", Number(0, ANY)),
    ("backups.directory", MaybePath),
    // A year; the schedule counts in hours because a card wears.
    ("backups.interval_hours", Number(0, 24 * 365)),
    ("backups.start_delay_seconds", Number(0, DAY_SECONDS)),
    ("backups.keep", Number(1, 1000)),
    ("backups.bytes_max", Number(MIB, ANY)),
    ("backups.copy_to", MaybePath),
    ("backups.upload_bytes_max", Number(MIB, ANY)),
    ("device.root", Path),
    ("log.level", Filter),
    ("log.format", Word(&["auto", "text", "json", "journald"])),
    ("log.access", Flag),
    ("log.scripts", Flag),
];

/// The table whose keys are named by whoever writes the file: settings for scripts. They are never read from the
/// environment, which is no business of scripts.
pub(super) const SETTINGS: &str = "env";
/// Settings for scripts.
pub(super) const SETTINGS_MAX: usize = 100;
const SETTING_NAME_BYTES_MAX: usize = 128;
const SETTING_BYTES_MAX: usize = 4096;

/// The rule of a key, if there is such a key.
pub(super) fn rule(key: &str) -> Option<Rule> {
    let known = RULES.iter().find(|(name, _)| *name == key).map(|(_, rule)| *rule);
    known.or_else(|| setting(key).map(|_| Setting))
}

/// The name of a setting for scripts, if the key is one's; see [`is_setting_name`].
pub(super) fn setting(key: &str) -> Option<&str> {
    key.strip_prefix(SETTINGS)?.strip_prefix('.')
}

/// Whether a setting may be called so.
pub(super) fn is_setting_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=SETTING_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

/// The environment variable that sets `key`: `server.listen` is `PICLOUD_SERVER_LISTEN`.
pub fn env_name(key: &str) -> String {
    format!("PICLOUD_{}", key.replace('.', "_").to_ascii_uppercase())
}

impl Rule {
    /// Whether `value` is allowed. A path may not be empty, a word must be known, a list is checked item by item.
    pub(super) fn allows(self, value: &Value) -> bool {
        match self {
            Number(min, max) => value.as_integer().is_some_and(|number| (min..=max).contains(&number)),
            Flag => value.is_bool(),
            Path => value.as_str().is_some_and(|path| !path.is_empty() && !path.contains('\0')),
            MaybePath => value.as_str().is_some_and(|path| !path.contains('\0')),
            Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Filter => value.as_str().is_some_and(is_filter),
            Addresses => {
                is_list(value, |text| text.parse::<SocketAddr>().is_ok()) && value != &Value::Array(vec![])
            }
            MaybeAddresses => is_list(value, |text| text.parse::<SocketAddr>().is_ok()),
            Paths => is_list(value, |path| !path.is_empty() && !path.contains('\0')),
            HostName => value.as_str().is_some_and(is_host_name),
            Url => value.as_str().is_some_and(is_https_url),
            Mails => is_list(value, is_mail),
            Networks => is_list(value, |text| networks::parse(text).is_some()),
            Setting => value.as_str().is_some_and(|text| text.len() <= SETTING_BYTES_MAX),
        }
    }

    /// Reads the text of an environment variable as a value of the key's type; lists are separated by commas.
    /// What cannot be read stays a text, which the rule then refuses.
    pub(super) fn read(self, text: &str) -> Value {
        let as_text = || Value::String(text.to_owned());
        match self {
            Number(..) => text.parse().map_or_else(|_| as_text(), Value::Integer),
            Flag => text.parse().map_or_else(|_| as_text(), Value::Boolean),
            Path | MaybePath | Word(_) | Filter | Setting | HostName | Url => as_text(),
            Addresses | MaybeAddresses | Paths | Mails | Networks => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(Value::from).collect())
            }
        }
    }
}

fn is_list(value: &Value, item: impl Fn(&str) -> bool) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(|value| value.as_str().is_some_and(&item)))
}

/// A label as RFC 1123 2.1 has it, in lower case, or nothing.
fn is_host_name(text: &str) -> bool {
    let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    letters && text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-')
}

/// A host and perhaps more behind the scheme. Whether somebody is there, its first use tells.
fn is_https_url(text: &str) -> bool {
    let host =
        text.strip_prefix("https://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    visible && host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
}

/// Enough to see a slip: RFC 5321 would take more words.
fn is_mail(text: &str) -> bool {
    let visible = text.bytes().all(|b| b.is_ascii_graphic() && !b",;<>\"".contains(&b));
    visible && text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
}

/// A misspelt level would be taken for the name of a module, and would then log nothing at all: so a directive
/// must name a level.
fn is_filter(text: &str) -> bool {
    let names_level = |directive: &str| {
        let level = directive.rsplit(['=', '/']).next().unwrap_or_default().trim();
        !level.is_empty() && level.parse::<LevelFilter>().is_ok()
    };
    text.split(',').all(names_level) && text.parse::<Targets>().is_ok()
}

impl fmt::Display for Rule {
    /// What is allowed, after "must be".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number(min, ANY) => write!(f, "a whole number, at least {min}"),
            Number(min, max) => write!(f, "a whole number from {min} to {max}"),
            Flag => f.write_str("true or false"),
            Path => f.write_str("a path"),
            MaybePath => f.write_str("a path, or empty"),
            Word(words) => write!(f, "one of {}", words.join(", ")),
            Filter => f.write_str(
                "a level (off, error, warn, info, debug, trace), or levels of modules like info,picloud::store=debug",
            ),
            Addresses => f.write_str("a list of addresses with ports, at least one, like [\"127.0.0.1:8080\", \"[::1]:8080\"]"),
            MaybeAddresses => f.write_str("a list of addresses with ports like [\"0.0.0.0:443\", \"[::]:443\"]"),
            Paths => f.write_str("a list of paths"),
            HostName => f.write_str("a name of a-z, 0-9 and - without a domain, at most 63, or empty"),
            Url => f.write_str("a URL that begins with https://"),
            Mails => f.write_str("a list of mail addresses like [\"me@example.org\"]"),
            Setting => write!(f, "a text of at most {SETTING_BYTES_MAX} bytes"),
            Networks => f.write_str("a list of networks like [\"203.0.113.0/24\", \"2001:db8::/32\"]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{Config, layers};
    use super::*;

    #[test]
    fn the_table_has_exactly_the_keys_of_the_sections() {
        let defaults = layers::flatten(&Config::default()).unwrap();
        let keys: BTreeSet<_> = defaults.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, RULES.iter().map(|(key, _)| *key).collect::<BTreeSet<_>>());
        for (key, value) in &defaults {
            assert!(rule(key).unwrap().allows(value), "the default of {key} breaks its own rule");
        }
    }

    #[test]
    fn environment_names_are_distinct() {
        let names: BTreeSet<_> = RULES.iter().map(|(key, _)| env_name(key)).collect();
        assert_eq!(names.len(), RULES.len());
        assert!(names.contains("PICLOUD_SCRIPTS_CEILINGS_MAX_OPERATIONS"));
    }

    #[track_caller]
    fn check(rule: Rule, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(rule.allows(&rule.read(text)), "{text:?} was refused");
        }
        for text in bad {
            assert!(!rule.allows(&rule.read(text)), "{text:?} was accepted");
        }
    }

    #[test]
    fn values() {
        check(Number(1, 9), &["1", "9"], &["0", "10", "-1", "1.0", "x", "", " 1", "99999999999999999999"]);
        check(Flag, &["true", "false"], &["1", "yes", ""]);
        check(Path, &["/x", "."], &["", "a\0b"]);
        check(MaybePath, &["/x", ""], &["a\0b"]);
        check(Word(&["a", "b"]), &["a"], &["A", "", "ab"]);
        check(
            Filter,
            &["info", "WARN", "info,picloud::store=debug", "off"],
            &["", "inof", "info,", "a=b", "info,x"],
        );
        check(Addresses, &["127.0.0.1:80", "0.0.0.0:0, [::1]:8080"], &["", "80", "localhost:80", "1.2.3.4"]);
        check(MaybeAddresses, &["", "0.0.0.0:443"], &["443"]);
        check(Paths, &["", "/x,/y"], &["a\0b"]);
        check(HostName, &["", "pi", "picloud-ab12"], &["Pi", "pi.local", "-a", "a b"]);
        check(
            Url,
            &["https://a/directory", "https://a:14000"],
            &["", "http://a", "https://", "https://u@a", "https://a b"],
        );
        check(Mails, &["", "me@example.org"], &["me", "@x", "a b@c", "<a@b>"]);
        check(Networks, &["", "10.0.0.0/8,::1", "1.2.3.4"], &["10.0.0.0/33", "x"]);
    }
}
