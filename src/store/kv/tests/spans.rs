//! Lists as reads: what was inserted into one or deleted from it counts, and nothing else.

use super::bench::Bench;
use super::*;

const HELD: &[&str] = &["a", "user", "user/1", "user/3", "user/5", "user/7", "usual", "z"];

fn bench() -> Bench {
    let mut bench = Bench::new();
    meanwhile(&bench.store, &HELD.iter().map(|key| (*key, Some("1"))).collect::<Vec<_>>());
    bench.flush();
    bench
}

/// Lists, lets another run change something, and commits: whether that was a conflict.
#[track_caller]
fn check(list: (&str, Option<&str>, usize), other: (&str, Option<&str>), conflict: bool) {
    for in_file in [false, true] {
        let mut bench = bench();
        let mut view = bench.store.view(APP, START);
        listed(&mut view, list.0, list.1, list.2);
        put(&mut view, "mine", "1");
        meanwhile(&bench.store, &[other]);
        if in_file {
            bench.flush();
        }
        let accepted = commit(&bench.store, view);
        assert_eq!(is_conflict(&accepted), conflict, "{list:?} {other:?} in file: {in_file}: {accepted:?}");
    }
}

#[test]
fn what_comes_into_a_list_or_leaves_it_is_a_conflict() {
    let all = ("user/", None, 100);
    for name in ["user/", "user/0", "user/4", "user/7/name", "user/9"] {
        check(all, (name, Some("2")), true);
    }
    for name in ["user/1", "user/3", "user/7"] {
        check(all, (name, None), true);
        check(all, (name, Some("2")), true);
    }
    for name in ["user", "user.", "user0", "a", "z", "usual"] {
        check(all, (name, Some("2")), false);
    }
    for name in ["a", "user", "usual", "z"] {
        check(all, (name, None), false);
    }
}

#[test]
fn the_empty_prefix_takes_every_key() {
    for name in ["!", "user/2", "~", "\u{10ffff}"] {
        check(("", None, 100), (name, Some("2")), true);
    }
    check(("", None, 100), ("z", None), true);
}

#[test]
fn a_list_without_anything_in_it_was_read_all_the_same() {
    check(("none/", None, 100), ("none/1", Some("2")), true);
    check(("none/", None, 100), ("none", Some("2")), false);
}

#[test]
fn a_limit_ends_what_was_read() {
    // Each list also makes room for what its own run has changed: here nothing yet.
    let two = ("user/", None, 2);
    for name in ["user/0", "user/2", "user/3"] {
        check(two, (name, Some("2")), true);
    }
    for name in ["user/4", "user/5", "user/9"] {
        check(two, (name, Some("2")), false);
    }
    check(two, ("user/7", None), false);
    // With room for all of them, the end was seen too.
    check(("user/", None, 4), ("user/9", Some("2")), true);
    check(("user/", None, 3), ("user/9", Some("2")), false);
}

#[test]
fn a_cursor_begins_what_was_read() {
    let from = ("user/", Some("user/3"), 2);
    for name in ["user/1", "user/2", "user/3"] {
        check(from, (name, Some("2")), false);
    }
    // These two are all that there is: the end was seen.
    for name in ["user/3/a", "user/4", "user/5", "user/7", "user/9"] {
        check(from, (name, Some("2")), true);
    }
    for (name, conflict) in [("user/4", true), ("user/5", true), ("user/6", false), ("user/7", false)] {
        check(("user/", Some("user/3"), 1), (name, Some("2")), conflict);
    }
    check(from, ("user/3", None), false);
    check(from, ("user/5", None), true);
    // A cursor need not be a key that is there.
    check(("user/", Some("user/4"), 1), ("user/45", Some("2")), true);
    check(("user/", Some("user/4"), 1), ("user/3", Some("2")), false);
}

#[test]
fn a_cursor_from_elsewhere_cuts_only_what_comes_before_it() {
    let held: Vec<_> = HELD.iter().map(|key| (*key, Some("1"))).collect();
    for in_file in [true, false] {
        let mut bench = Bench::new();
        meanwhile(&bench.store, &held);
        if in_file {
            bench.flush();
        }
        let all = ["user/1", "user/3", "user/5", "user/7"];
        for (cursor, wanted) in [
            ("a", &all[..]),
            ("!", &all[..]),
            ("user", &all[..]),
            ("user/", &all[..]),
            ("user/1", &all[1..]),
            ("user/7", &[]),
            ("usual", &[]),
            ("zz", &[]),
        ] {
            let mut view = bench.store.view(APP, START);
            put(&mut view, "b", "2");
            put(&mut view, "user/1", "2");
            let (keys, next) = listed(&mut view, "user/", Some(cursor), 100);
            assert_eq!(keys, wanted, "{cursor}");
            assert_eq!(next, None, "{cursor}");
        }
    }
}

#[test]
fn pages_give_each_key_once_wherever_it_is() {
    let mut bench = bench();
    meanwhile(&bench.store, &[("user/2", Some("2")), ("user/3", None), ("user/5", Some("2"))]);
    for limit in 1..=5 {
        let mut view = bench.store.view(APP, START);
        put(&mut view, "user/6", "3");
        assert!(view.delete(&key("user/7")).unwrap());
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let (keys, next) = listed(&mut view, "user/", cursor.as_deref(), limit);
            assert!(keys.len() <= limit);
            all.extend(keys);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(all, ["user/1", "user/2", "user/5", "user/6"], "{limit}");
    }
    bench.flush();
}

#[test]
fn another_app_is_another_world() {
    let bench = bench();
    let other = Uuid::from_u128(2);
    let mut theirs = bench.store.view(other, START);
    assert!(keys(&mut theirs).is_empty());
    put(&mut theirs, "user/2", "theirs");
    let mut view = bench.store.view(APP, START);
    assert_eq!(keys(&mut view), HELD);
    put(&mut view, "mine", "1");
    commit(&bench.store, theirs).unwrap();
    commit(&bench.store, view).unwrap();
    assert_eq!(keys(&mut bench.store.view(other, START)), ["user/2"]);
}
