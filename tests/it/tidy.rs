//! The source itself, held against the rules that no compiler checks: who may use whom, and how files begin.

use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of one file.
const LINES_MAX: usize = 600;

/// What each room may use besides itself. What is not listed here is no room.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("store", &["model"]),
    ("script", &["model", "store"]),
    ("dispatch", &["model", "store", "script"]),
    ("device", &["model", "config"]),
    ("http", &["model", "store", "script", "dispatch", "device"]),
    ("service", &["model", "store", "script", "dispatch", "http", "device", "config"]),
    ("cli", &["model", "config", "device"]),
    ("config", &[]),
];

/// Names that only some places may say: a name, and how the paths of those places begin.
const NAMES: &[(&str, &[&str])] = &[
    ("redb", &["src/store/"]),
    ("rhai", &["src/script/"]),
    ("hyper", &["src/http/"]),
    ("hyper_util", &["src/http/"]),
    ("http_body_util", &["src/http/"]),
    ("StatusCode", &["src/http/"]),
    ("rustls", &["src/http/", "src/script/egress/"]),
    ("tokio_rustls", &["src/http/"]),
    ("hyper_rustls", &["src/http/tls/"]),
    ("instant_acme", &["src/http/tls/"]),
    ("rcgen", &["src/http/tls/"]),
    ("x509_parser", &["src/http/tls/"]),
    ("proxy_header", &["src/http/"]),
    ("ureq", &["src/cli/", "src/script/egress/", "src/device/fetch.rs"]),
    ("clap", &["src/cli/"]),
    ("sd_notify", &["src/service/"]),
    ("listenfd", &["src/service/"]),
    ("signal", &["src/service/"]),
    ("RawFd", &["src/service/"]),
    ("AsRawFd", &["src/service/"]),
    ("FromRawFd", &["src/service/"]),
    ("OwnedFd", &["src/service/"]),
    ("BorrowedFd", &["src/service/"]),
    ("var", &["src/service/", "src/main.rs", "src/cli/run.rs"]),
    ("var_os", &["src/service/", "src/main.rs", "src/cli/run.rs"]),
    ("vars", &["src/service/", "src/main.rs", "src/cli/run.rs"]),
    ("vars_os", &["src/service/", "src/main.rs", "src/cli/run.rs"]),
    ("args_os", &["src/service/", "src/main.rs", "src/cli/run.rs"]),
];

/// Functions of `std::env` among [`NAMES`]: they are only meant behind its name.
const OF_ENVIRONMENT: &[&str] = &["var", "var_os", "vars", "vars_os", "args_os"];

/// Everything that is wrong with a file of the crate.
fn complaints(path: &str, source: &str) -> Vec<String> {
    let mut all = shape(path, source);
    let code = blank(source);
    let used = rooms_used(&code);
    let code = if is_test(path) { String::new() } else { without_tests(&code) };
    if let Some(room) = room_of(path) {
        match ROOMS.iter().find(|(name, _)| *name == room) {
            None => all.push(format!("{room} is no room")),
            Some((_, may)) => {
                let wrong = used.iter().filter(|other| *other != room && !may.contains(&other.as_str()));
                all.extend(wrong.map(|other| format!("{room} may not use {other}")));
            }
        }
        let depth = depth(path);
        if code.contains(&"super::".repeat(depth)) {
            all.push(format!("{} of super leave the room", depth));
        }
    }
    for (name, places) in NAMES {
        let said =
            words(&code, name).any(|at| !OF_ENVIRONMENT.contains(name) || code[..at].ends_with("env::"));
        if said && !places.iter().any(|place| path.starts_with(place)) {
            all.push(format!("{name} is not to be named here"));
        }
    }
    for word in ["todo!", "unimplemented!", "dbg!", ".unwrap()"] {
        if code.contains(word) {
            all.push(format!("{word} is left"));
        }
    }
    all
}

fn shape(path: &str, source: &str) -> Vec<String> {
    let mut all = Vec::new();
    let is_page = path == "src/lib.rs" && source.starts_with("#![doc = include_str!(");
    if !is_page && !source.starts_with("//! ") {
        all.push("it does not open with //!".to_owned());
    }
    let lines = source.lines().count();
    if lines > LINES_MAX {
        all.push(format!("it has {lines} lines"));
    }
    all
}

/// `http` of `src/http/reply.rs`; files right below `src` belong to no room.
fn room_of(path: &str) -> Option<&str> {
    path.strip_prefix("src/")?.split_once('/').map(|(room, _)| room)
}

/// How many modules a file is below the crate's root.
fn depth(path: &str) -> usize {
    let parts = path.trim_start_matches("src/").trim_end_matches(".rs").split('/');
    parts.filter(|part| *part != "mod").count()
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("/tests/") || name == "tests.rs" || name == "testing.rs" || name.ends_with("_tests.rs")
}

/// Where `word` stands in `code` as a word of its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let alone = move |at: usize| {
        !part(code[..at].chars().next_back()) && !part(code[at + word.len()..].chars().next())
    };
    code.match_indices(word).map(|(at, _)| at).filter(move |at| alone(*at))
}

/// The rooms that are named behind `crate::`, also in a group.
fn rooms_used(code: &str) -> Vec<String> {
    let ident =
        |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let after = &code[at + prefix.len()..];
        let Some(group) = after.strip_prefix('{') else {
            used.push(ident(after));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, letter) in group.char_indices() {
            match letter {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                letter if begins && !letter.is_whitespace() => {
                    used.push(ident(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    used
}

/// The code with comments, texts and characters blanked out; lines stay lines.
fn blank(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (skip, keep) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), ""),
            '/' if rest.starts_with("/*") => (rest.find("*/").map_or(rest.len(), |end| end + 2), ""),
            '"' => (text_length(rest), "\"\""),
            'r' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') && is_raw(rest) => {
                (raw_length(rest), "\"\"")
            }
            '\'' => (char_length(rest), "'"),
            other => {
                code.push(other);
                rest = &rest[other.len_utf8()..];
                continue;
            }
        };
        code.push_str(keep);
        code.extend(rest[..skip].matches('\n'));
        rest = &rest[skip..];
    }
    code
}

fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_raw(rest: &str) -> bool {
    rest[1..].trim_start_matches('#').starts_with('"')
}

fn raw_length(rest: &str) -> usize {
    let hashes = rest[1..].find('"').unwrap_or_default();
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = 1 + hashes + 1;
    rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
}

/// A character's length, or one for the tick of a lifetime.
fn char_length(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => {
            rest[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 3)
        }
        Some(_) => match letters.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// The code without the items that only tests see. Takes blanked code.
fn without_tests(code: &str) -> String {
    let mut left = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        left.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(['{', ';']).map_or(rest.len(), |end| {
            if rest[end..].starts_with(';') { end + 1 } else { end + block_length(&rest[end..]) }
        });
        rest = &rest[end..];
    }
    left + rest
}

fn block_length(block: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in block.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    block.len()
}

fn files_below(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut said = Vec::new();
    let files = files_below(&root.join("src"), "rs");
    assert!(files.len() > 80, "the source was not found");
    for file in files {
        let path = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let wrong = complaints(&path, &fs::read_to_string(&file).unwrap());
        said.extend(wrong.into_iter().map(|why| format!("{path}: {why}")));
    }
    for file in files_below(&root.join("tests"), "rs") {
        let path = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let wrong = shape(&path, &fs::read_to_string(&file).unwrap());
        said.extend(wrong.into_iter().map(|why| format!("{path}: {why}")));
    }
    assert!(said.is_empty(), "\n{}", said.join("\n"));
}

/// Holds a snippet against the rules.
#[track_caller]
fn check(path: &str, code: &str, wanted: &[&str]) {
    assert_eq!(complaints(path, &format!("//! A file.\n{code}")), wanted, "{path}: {code}");
}

#[test]
fn layers_are_kept_apart() {
    check("src/store/a.rs", "use crate::model::Row;", &[]);
    check("src/store/a.rs", "use crate::dispatch::Inbox;", &["store may not use dispatch"]);
    check("src/store/a.rs", "fn f() { crate::script::compile() }", &["store may not use script"]);
    check("src/model/a.rs", "use crate::{model, store};", &["model may not use store"]);
    check(
        "src/http/a.rs",
        "use crate::{dispatch::{self, service}, config::Config};",
        &["http may not use config"],
    );
    check("src/cli/a.rs", "use crate::store::Store;", &["cli may not use store"]);
    check("src/cli/tests.rs", "use crate::store::Store;", &["cli may not use store"]);
    check("src/store/a.rs", "// use crate::http;\n/* crate::http */ let a = \"crate::http\";", &[]);
    check(
        "src/store/a.rs",
        "let a = r#\"\"crate::http\"#; let b = '\"'; use crate::http;",
        &["store may not use http"],
    );
    check("src/store/mod.rs", "use super::http;", &["1 of super leave the room"]);
    check("src/store/a/b.rs", "use super::super::super::http;", &["3 of super leave the room"]);
    check("src/store/a/b.rs", "use super::super::a;", &[]);
    check("src/cellar/a.rs", "", &["cellar is no room"]);
    check("src/main.rs", "use picloud::cli;", &[]);
}

#[test]
fn names_stay_in_their_rooms() {
    let here = |name: &str| format!("{name} is not to be named here");
    check("src/store/a.rs", "use redb::Database;", &[]);
    check("src/http/a.rs", "use redb::Database;", &[&here("redb")]);
    check("src/dispatch/a.rs", "fn f(s: hyper::StatusCode) {}", &[&here("hyper"), &here("StatusCode")]);
    check("src/dispatch/a.rs", "let hyperbole = my_rhai;", &[]);
    check("src/store/a.rs", "let e: rhai::Engine;", &[&here("rhai")]);
    check("src/http/a.rs", "let home = std::env::var(\"HOME\");", &[&here("var")]);
    check("src/http/a.rs", "let var = vars; let arch = std::env::consts::ARCH;", &[]);
    check("src/cli/run.rs", "let all = env::vars_os();", &[]);
    check("src/cli/logs.rs", "let all = env::vars_os();", &[&here("vars_os")]);
    check("src/http/a.rs", "use tokio::signal::unix;", &[&here("signal")]);
    check("src/http/a.rs", "#[cfg(test)]\nmod tests { use redb::Database; }", &[]);
}

#[test]
fn nothing_is_left_unfinished() {
    check("src/store/a.rs", "fn f() { todo!() }", &["todo! is left"]);
    check("src/store/a.rs", "fn f() { x.unwrap() }", &[".unwrap() is left"]);
    check(
        "src/store/a.rs",
        "#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }\nfn g() { y.unwrap() }",
        &[".unwrap() is left"],
    );
    check("src/store/a.rs", "#[cfg(test)]\nmod tests;\nfn f() { x.unwrap() }", &[".unwrap() is left"]);
    check("src/store/a.rs", "#[cfg(test)]\nmod tests { fn f() { '{'; \"}\"; x.unwrap() } }", &[]);
    check("src/store/a_tests.rs", "fn f() { x.unwrap() }", &[]);
    check("src/store/a.rs", "fn f<'a>(x: &'a str) { x.unwrap_or('\\'') } // .unwrap()", &[]);
    assert_eq!(complaints("src/store/a.rs", "use std::fmt;\n"), ["it does not open with //!"]);
    assert_eq!(complaints("src/lib.rs", "#![doc = include_str!(\"architecture.md\")]\n"), [""; 0]);
    let long = format!("//! A file.\n{}", "\n".repeat(600));
    assert_eq!(complaints("src/store/a.rs", &long), ["it has 601 lines"]);
}
