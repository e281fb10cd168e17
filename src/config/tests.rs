//! What the configuration promises: precedence, and an answer to every mistake.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::layers::{self, Layers};
use super::load::assemble;
use super::{Config, Error, LogFormat, Overrides, REFERENCE, file, rules};

/// Loads a file's text and an environment, without touching the machine's own.
fn load(text: &str, environment: &[(&str, &str)], flags: Overrides) -> Result<Config, Error> {
    let mut layers = Layers::new()?;
    file::lay_text(&mut layers, Path::new("picloud.toml"), text)?;
    assemble(layers, environment.iter().map(|(name, value)| (name.into(), value.into())), flags)
}

#[track_caller]
fn check(text: &str, environment: &[(&str, &str)], message: &str) {
    let error = load(text, environment, Overrides::default()).expect_err("was accepted").to_string();
    assert!(error.contains(message), "{error:?} does not say {message:?}");
    assert!(!error.contains('\n'), "{error:?} has several lines");
}

#[test]
fn nothing_said_is_the_defaults() {
    let config =
        load("", &[("HOME", "/root"), ("PICLOUD_URL", "x"), ("PICLOUD_API_KEY", "y")], Overrides::default());
    assert_eq!(config.unwrap(), Config::default());
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_default() {
    let file = "[server]\nlisten = ['1.1.1.1:1']\ndata_dir = 'file'\nthreads = 3\n[log]\nlevel = 'warn'\nformat = 'json'";
    let environment = [
        ("PICLOUD_SERVER_LISTEN", "2.2.2.2:2, [::1]:2"),
        ("PICLOUD_SERVER_DATA_DIR", "env"),
        ("PICLOUD_LOG_LEVEL", "debug"),
    ];
    let flags = Overrides { listen: vec!["3.3.3.3:3".parse().unwrap()], ..Overrides::default() };
    let config = load(file, &environment, flags).unwrap();
    assert_eq!(config.server.listen, ["3.3.3.3:3".parse().unwrap()]);
    assert_eq!(config.server.data_dir, Path::new("env"));
    assert_eq!(config.server.threads, 3);
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.log.access);

    let config =
        load(file, &environment, Overrides { data_dir: Some("flag".into()), ..Overrides::default() })
            .unwrap();
    assert_eq!(config.server.data_dir, Path::new("flag"));
    assert_eq!(config.server.listen.len(), 2);
}

#[test]
fn the_directory_that_systemd_gives_is_the_default() {
    let data_dir = |text: &str, state: &str, flags: Overrides| {
        let config = load(text, &[("STATE_DIRECTORY", state)], flags).unwrap();
        config.server.data_dir.to_str().unwrap().to_owned()
    };
    assert_eq!(data_dir("", "/var/lib/picloud", Overrides::default()), "/var/lib/picloud");
    assert_eq!(data_dir("[server]\ndata_dir = \"/x\"", "/var/lib/picloud", Overrides::default()), "/x");
    assert_eq!(data_dir("", "/a:/b", Overrides::default()), "./picloud-data", "there are two: neither");
    let flags = Overrides { data_dir: Some("/y".into()), ..Overrides::default() };
    assert_eq!(data_dir("", "/var/lib/picloud", flags), "/y");
}

#[test]
fn every_type_is_read_from_the_environment() {
    let environment = [
        ("PICLOUD_MANAGEMENT_ALLOW", "203.0.113.0/24,2001:db8::1"),
        ("PICLOUD_LOG_ACCESS", "false"),
        ("PICLOUD_LOG_FORMAT", "journald"),
        ("PICLOUD_SCRIPTS_LIMITS_MAX_OPERATIONS", "7"),
        ("PICLOUD_DEAD_LETTERS_ROWS_MAX", "9"),
    ];
    let config = load("", &environment, Overrides::default()).unwrap();
    assert_eq!(config.management.allow.len(), 2);
    assert!(!config.log.access);
    assert_eq!(config.log.format, LogFormat::Journald);
    assert_eq!((config.scripts.limits.max_operations, config.dead_letters.rows_max), (7, 9));
}

#[test]
fn a_table_set_in_part_keeps_its_own_defaults() {
    let config = load("[scripts.ceilings]\nmax_operations = 9000000", &[], Overrides::default()).unwrap();
    assert_eq!(config.scripts.ceilings.max_operations, 9_000_000);
    assert_eq!(config.scripts.ceilings.max_memory_bytes, Config::default().scripts.ceilings.max_memory_bytes);
}

#[test]
fn dotted_and_inline_tables_are_the_same_keys() {
    let config =
        load("server.threads = 2\nscripts = { limits = { max_operations = 5 } }", &[], Overrides::default());
    let config = config.unwrap();
    assert_eq!((config.server.threads, config.scripts.limits.max_operations), (2, 5));
}

#[test]
fn unknown_keys_name_themselves_and_their_line() {
    check(
        "[server]\nlisten = ['1.1.1.1:1']\nlisen = []",
        &[],
        "picloud.toml:3: unknown key server.lisen; server has listen",
    );
    check(
        "\n[sever]\nx = 1",
        &[],
        "picloud.toml:2: unknown key sever; the file has server, tls, acme, proxies, management",
    );
    check("threads = 1", &[], "picloud.toml:1: unknown key threads");
    check("[scripts.limits]\n\nmax_ops = 1", &[], "picloud.toml:3: unknown key scripts.limits.max_ops");
    check("", &[("PICLOUD_SERVER_LISEN", "x")], "environment PICLOUD_SERVER_LISEN: unknown variable");
    check("", &[("PICLOUD_DEAD_LETTERS_X", "x")], "PICLOUD_DEAD_LETTERS_X");
}

#[test]
fn wrong_values_name_place_key_and_what_is_allowed() {
    check(
        "[server]\nthreads = 'x'",
        &[],
        "picloud.toml:2: server.threads must be a whole number from 0 to 1024",
    );
    check("[server]\nlisten = 'x'", &[], "server.listen must be a list of addresses");
    check("[server]\nlisten = []", &[], "at least one");
    check("[server]\nlisten = ['localhost']", &[], "server.listen must be");
    check("[server]\nthreads.x = 1", &[], "server.threads must be a whole number");
    check("[server.threads]\nx = 1", &[], "picloud.toml:1: server.threads must be a whole number");
    check("server = 1", &[], "server is a table: write it as [server]");
    check("[[server]]\nthreads = 1", &[], "server is a table");
    check("[log]\nlevel = 'inof'", &[], "log.level must be a level");
    check("[log]\nformat = 'xml'", &[], "log.format must be one of auto, text, json, journald");
    check("[log]\naccess = 1", &[], "log.access must be true or false");
    check("[outbox]\nattempts_max = 0", &[], "outbox.attempts_max must be a whole number from 1");
    check("[outbox]\nrows_max = -1", &[], "outbox.rows_max must be a whole number, at least 1");
    check(
        "",
        &[("PICLOUD_OUTBOX_ROWS_MAX", "many")],
        "environment PICLOUD_OUTBOX_ROWS_MAX: outbox.rows_max must be",
    );
    check("", &[("PICLOUD_SERVER_LISTEN", "")], "environment PICLOUD_SERVER_LISTEN");
}

#[test]
fn limits_stay_under_their_ceilings() {
    let low = "[scripts.limits]\nmax_call_levels = 40\n[scripts.ceilings]\nmax_call_levels = 35";
    check(
        low,
        &[],
        "picloud.toml:2: scripts.limits.max_call_levels must be at most scripts.ceilings.max_call_levels, which is 35",
    );
    let lowered = [("PICLOUD_SCRIPTS_CEILINGS_MAX_OPERATIONS", "10")];
    check(
        "",
        &lowered,
        "PICLOUD_SCRIPTS_CEILINGS_MAX_OPERATIONS: scripts.ceilings.max_operations must be at least scripts.limits",
    );
}

#[test]
fn what_is_no_toml_names_its_line() {
    check("[server]\nthreads = ", &[], "picloud.toml:2: ");
    check("[server]\nthreads = 1\nthreads = 2", &[], "picloud.toml:3: duplicate key");
    check("[server\n", &[], "picloud.toml:1: ");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing =
        Config::load(Some(Path::new("/nowhere/p.toml")), [], Overrides::default()).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /nowhere/p.toml: "), "{missing}");

    let path = env::temp_dir().join(format!("picloud-config-{}.toml", std::process::id()));
    fs::write(&path, b"[log]\n# M\xfcller\n").unwrap();
    let latin = Config::load(Some(&path), [], Overrides::default()).unwrap_err().to_string();
    fs::write(&path, "[store]\nflush_interval_ms = 500\n").unwrap();
    let read = Config::load(Some(&path), [], Overrides::default()).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(latin.contains("line 2 is not UTF-8"), "{latin}");
    assert_eq!(read.store.flush_interval_ms, 500);
}

#[test]
fn a_variable_that_is_not_utf_8_is_named() {
    let variable = ("PICLOUD_LOG_LEVEL".into(), OsString::from_vec(vec![0xff]));
    let error = assemble(Layers::new().unwrap(), [variable], Overrides::default()).unwrap_err().to_string();
    assert_eq!(error, "environment PICLOUD_LOG_LEVEL: log.level must be UTF-8");
}

/// A line of the reference that is a key: `#name = value`, without a blank after the mark.
fn is_key(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[test]
fn the_reference_file_is_the_defaults() {
    let uncomment =
        |line: &str| line.strip_prefix('#').filter(|_| is_key(line)).unwrap_or(line).to_owned() + "\n";
    let text: String = REFERENCE.lines().map(uncomment).collect();
    assert_eq!(load(&text, &[], Overrides::default()).unwrap(), Config::default());
    assert_eq!(load(REFERENCE, &[], Overrides::default()).unwrap(), Config::default());

    let mut layers_of_file = 0;
    let table: toml::Table = text.parse().unwrap();
    for (key, value) in layers::flatten(&Config::default()).unwrap() {
        let found =
            key.split('.').try_fold(&toml::Value::Table(table.clone()), |at, part| at.get(part)).cloned();
        assert_eq!(found, Some(value), "{key}");
        assert!(REFERENCE.contains(&rules::env_name(&key)), "{key} is without its environment name");
        layers_of_file += 1;
    }
    assert_eq!(layers_of_file, REFERENCE.lines().filter(|line| is_key(line)).count());
}

#[test]
fn settings_for_scripts_have_names_of_their_own() {
    let config =
        load("[env]\nsite = 'The boat'\nA_1 = ''", &[("PICLOUD_ENV_SITE", "x")], Overrides::default());
    let env = config.unwrap().env;
    assert_eq!(
        env.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>(),
        ["A_1=", "site=The boat"]
    );
    assert!(load("env = { a = 'b' }", &[], Overrides::default()).unwrap().env.contains_key("a"));
    let long = format!("[env]\nx = '{}'", "y".repeat(4097));
    let many = |count: usize| {
        format!("[env]\n{}", (0..count).map(|n| format!("n{n} = ''\n")).collect::<Vec<_>>().concat())
    };
    assert_eq!(load(&many(100), &[], Overrides::default()).unwrap().env.len(), 100);
    for (text, message) in [
        ("[env]\nsite = 1", "picloud.toml:2: env.site must be a text of at most 4096 bytes"),
        ("[env]\n\nsite-name = 'x'", "picloud.toml:3: env.site-name must be named with"),
        ("[env]\n'' = 'x'", "must be named with"),
        ("[env]\n'a.b' = 'x'", "env.a.b must be named with"),
        ("[env.site]\nx = 'y'", "env.site must be a text"),
        ("env = 1", "env is a table: write it as [env]"),
        (&long, "picloud.toml:2: env.x must be a text"),
        (&many(101), "picloud.toml:101: env.n99 is one too many"),
    ] {
        check(text, &[], message);
    }
}
