//! `picloud sdk`, on a reference of three functions.

use std::process::ExitCode;

use super::picloud;
use crate::model::{Chapter, Example, ExampleOutcome, Page};

pub(super) fn reference() -> Vec<Chapter> {
    let page = |signature: &'static str, name, text: &str| Page {
        signature,
        name,
        summary: format!("This is what {name} does."),
        text: text.to_owned(),
        limits: "1 KiB.".to_owned(),
        examples: vec![Example {
            source: "let a = 1;\na // => 1".into(),
            outcome: ExampleOutcome::Gives("1".into()),
        }],
    };
    let long = format!("More.\n\n{}end.", "And more words to say. ".repeat(8));
    let kv = vec![page("kv::get(key)", "get", &long), page("kv::set(key, value)", "set", "")];
    vec![
        Chapter { name: "", about: "Bare.", pages: vec![page("fail(why)", "fail", "")] },
        Chapter { name: "kv", about: "Values.", pages: kv },
    ]
}

#[track_caller]
fn shows(args: &[&str], expected: &str) {
    let ran = picloud(&[&["sdk"], args].concat(), &[]);
    assert_eq!((ran.code, ran.err.as_str()), (ExitCode::SUCCESS, ""), "{args:?}");
    assert_eq!(ran.out, expected, "{args:?}");
}

#[test]
fn the_list_has_a_line_for_each_function() {
    shows(
        &[],
        "Bare.\n  fail     This is what fail does.\n\n\
         kv:: Values.\n  kv::get  This is what get does.\n  kv::set  This is what set does.\n\n\
         `picloud sdk kv` shows a namespace, `picloud sdk kv::get` a function.\n",
    );
}

#[test]
fn a_page_is_wrapped_and_its_examples_are_not() {
    let get = "kv::get(key)\n\n  This is what get does. More.\n\n  \
               And more words to say. And more words to say. And more words to say. And more\n  \
               words to say. And more words to say. And more words to say. And more words to\n  \
               say. And more words to say. end.\n\n  Limits: 1 KiB.\n\n    let a = 1;\n    a // => 1\n";
    let set = "kv::set(key, value)\n\n  This is what set does.\n\n  Limits: 1 KiB.\n\n    let a = 1;\n    a // => 1\n";
    shows(&["kv::get"], get);
    shows(&["kv::set(key, value)"], set);
    shows(&["kv"], &format!("kv:: Values.\n\n{get}\n{set}"));
    shows(&["kv::"], &format!("kv:: Values.\n\n{get}\n{set}"));
    assert!(get.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn programs_read_it_too() {
    shows(&["--markdown"], "2 chapters\n");
    shows(&["kv::get", "--markdown"], "1 chapters\n");
    let ran = picloud(&["sdk", "fail", "--json"], &[]);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document["items"][0]["functions"][0]["examples"][0]["outcome"]["gives"], "1", "{document}");
}

#[test]
fn an_unknown_name_exits_64_and_names_its_neighbours() {
    for (name, says) in [
        ("get", "no namespace or function is called get; there is kv::get"),
        ("http::get", "there is kv::get"),
        ("kv::gte", "there is kv::get"),
        ("KV::SET", "there is kv::set"),
        ("fial(1)", "there is fail"),
        ("xyzzy", "`picloud sdk` lists all there is"),
        ("", "`picloud sdk` lists all there is"),
        ("::", "`picloud sdk` lists all there is"),
        ("\u{1b}[2J", "called \\u{1b}[2J;"),
    ] {
        let ran = picloud(&["sdk", name], &[]);
        assert_eq!((ran.code, ran.out.as_str()), (ExitCode::from(64), ""), "{name}");
        assert!(ran.err.contains(says), "{name}: {}", ran.err);
    }
    assert_eq!(picloud(&["sdk", "--markdown", "--json"], &[]).code, ExitCode::from(64));
}
