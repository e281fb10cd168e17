//! The reference is complete and true: every function has a page, and every example gives what it says.

use std::sync::Arc;

use serde_json::Value;

use super::super::testing;
use super::super::watch::Watch;
use super::{kits, reference};
use crate::model::{Example, ExampleOutcome};

#[test]
fn every_function_has_a_page_and_every_page_a_function() {
    for kit in kits(&Arc::new(Watch::new(None))) {
        let chapter = kit.chapter();
        let (names, registered) = kit.functions();
        assert_eq!(names.len(), registered, "{}: two functions take the same arguments", chapter.name);
        assert!(chapter.about.ends_with('.'), "{}", chapter.name);
        for name in names {
            let pages = chapter.pages.iter().filter(|page| page.name == *name).count();
            assert_eq!(pages, 1, "{}::{name}", chapter.name);
        }
        for page in &chapter.pages {
            let prefix = if chapter.name.is_empty() { String::new() } else { format!("{}::", chapter.name) };
            let head = format!("{prefix}{}(", page.name);
            assert!(page.signature.starts_with(&head) && page.signature.ends_with(')'), "{}", page.signature);
            assert!(names.contains(&page.name), "{} is no function", page.signature);
            assert!(page.summary.ends_with('.'), "{}: {:?}", page.signature, page.summary);
            assert!(!page.limits.is_empty(), "{} says no limits", page.signature);
            assert!(!page.examples.is_empty(), "{} has no example", page.signature);
            let shown = |example: &Example| example.source.contains(&head);
            assert!(page.examples.iter().all(shown), "{}: an example does not use it", page.signature);
        }
    }
}

#[test]
fn every_example_gives_what_it_says() {
    for page in reference().iter().flat_map(|chapter| &chapter.pages) {
        for example in &page.examples {
            check(example);
        }
    }
}

#[track_caller]
fn check(example: &Example) {
    let source = &example.source;
    let outcome = testing::run_example(source);
    assert!(outcome.leaked_bytes <= 0, "{source}: left {} bytes behind", outcome.leaked_bytes);
    match (&example.outcome, outcome.result) {
        (ExampleOutcome::Gives(json), Ok(response)) => {
            let body: Value = serde_json::from_slice(&response.body).expect(source);
            let said: Value = serde_json::from_str(json).unwrap_or_else(|why| panic!("{source}: {why}"));
            assert_eq!((body, response.status), (said, 200), "{source}");
        }
        (ExampleOutcome::Answers(said), Ok(response)) => {
            let body = String::from_utf8_lossy(&response.body);
            assert_eq!(format!("{} {body}", response.status), *said, "{source}");
        }
        (ExampleOutcome::Throws(why), Err(fault)) => {
            assert!(fault.message.contains(why), "{source}: {fault:?}");
        }
        (said, result) => panic!("{source}: says {said:?}, ends with {result:?}"),
    }
}
