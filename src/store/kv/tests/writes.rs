//! What a run wrote lies over what it reads, in every order, and can be taken back.

use super::bench::Bench;
use super::*;
use crate::store::kv::{CHANGED_BYTES_MAX, CHANGES_MAX};

/// With `a` to `e`: the first three in the file, the others only accepted.
fn bench() -> Bench {
    let mut bench = Bench::new();
    meanwhile(&bench.store, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]);
    bench.flush();
    meanwhile(&bench.store, &[("d", Some("1")), ("e", Some("1"))]);
    bench
}

#[test]
fn own_writes_lie_over_reads() {
    let bench = bench();
    let mut view = bench.store.view(APP, START);
    for name in ["b", "d", "new"] {
        put(&mut view, name, "2");
        let found = view.get(&key(name)).unwrap().unwrap();
        assert_eq!((found.version, text(Some(found))), (None, Some("2".into())), "{name}");
        assert!(view.delete(&key(name)).unwrap());
        assert_eq!(get(&mut view, name), None);
        assert!(!view.delete(&key(name)).unwrap(), "{name} is gone already");
        put(&mut view, name, "3");
        assert_eq!(get(&mut view, name).as_deref(), Some("3"));
    }
    assert!(!view.delete(&key("nobody")).unwrap());
    commit(&bench.store, view).unwrap();
    let mut after = bench.store.view(APP, START);
    assert_eq!(keys(&mut after), ["a", "b", "c", "d", "e", "new"]);
    assert_eq!(get(&mut after, "d").as_deref(), Some("3"));
}

#[test]
fn own_writes_lie_over_lists() {
    let bench = bench();
    let mut view = bench.store.view(APP, START);
    for gone in ["a", "d"] {
        assert!(view.delete(&key(gone)).unwrap());
    }
    for new in ["0", "aa", "dd", "f"] {
        put(&mut view, new, "2");
    }
    let all = ["0", "aa", "b", "c", "dd", "e", "f"];
    assert_eq!(keys(&mut view), all);
    for limit in 1..=all.len() {
        let (keys, next) = listed(&mut view, "", None, limit);
        assert_eq!(keys, all[..limit]);
        assert_eq!(next.is_none(), limit == all.len(), "{limit}: {next:?}");
        let (rest, _) = listed(&mut view, "", Some(all[limit - 1]), 100);
        assert_eq!(rest, all[limit..]);
    }
    assert_eq!(listed(&mut view, "d", None, 100).0, ["dd"]);
}

#[test]
fn a_list_gives_what_is_kept() {
    let bench = bench();
    let mut view = bench.store.view(APP, START);
    put(&mut view, "b", "2");
    let items = view.list(&prefix(""), None, 100).unwrap().items;
    let found: Vec<_> =
        items.into_iter().map(|(_, found)| (found.version, text(Some(found)).unwrap())).collect();
    let versions = [Some(1), None, Some(1), Some(2), Some(2)];
    let values = ["1", "2", "1", "1", "1"];
    assert_eq!(found, versions.into_iter().zip(values.map(str::to_owned)).collect::<Vec<_>>());
}

#[test]
fn what_was_written_since_a_mark_can_be_taken_back() {
    let bench = bench();
    let mut view = bench.store.view(APP, START);
    put(&mut view, "a", "2");
    let outer = view.mark();
    put(&mut view, "a", "3");
    assert!(view.delete(&key("b")).unwrap());
    let inner = view.mark();
    put(&mut view, "b", "4");
    put(&mut view, "f", "4");
    view.go_back(inner);
    assert_eq!(
        (get(&mut view, "a").as_deref(), get(&mut view, "b"), get(&mut view, "f")),
        (Some("3"), None, None)
    );
    view.go_back(outer);
    assert_eq!((get(&mut view, "a").as_deref(), get(&mut view, "b").as_deref()), (Some("2"), Some("1")));
    commit(&bench.store, view).unwrap();
    let mut view = bench.store.view(APP, START);
    assert_eq!((get(&mut view, "a").as_deref(), get(&mut view, "b").as_deref()), (Some("2"), Some("1")));
    assert_eq!(keys(&mut view).len(), 5);
    put(&mut view, "a", "5");
    view.clear();
    assert!(view.into_effects(None).is_none());
}

#[test]
fn reads_that_were_taken_back_were_made_all_the_same() {
    let bench = bench();
    let mut view = bench.store.view(APP, START);
    let mark = view.mark();
    get(&mut view, "a");
    view.go_back(mark);
    put(&mut view, "mine", "1");
    meanwhile(&bench.store, &[("a", Some("2"))]);
    assert!(is_conflict(&commit(&bench.store, view)));
}

#[test]
fn a_version_is_that_of_the_commit_or_0_for_none() {
    let mut bench = Bench::new();
    let first = meanwhile(&bench.store, &[("a", Some("1"))]);
    let is = |bench: &Bench, name: &str, version: u64| {
        bench.store.view(APP, START).is_version(&key(name), version).unwrap()
    };
    assert!(is(&bench, "a", first) && !is(&bench, "a", 0) && !is(&bench, "a", first + 1));
    assert!(is(&bench, "b", 0) && !is(&bench, "b", first));
    bench.flush();
    assert!(is(&bench, "a", first) && !is(&bench, "a", 0) && is(&bench, "b", 0));
    let second = meanwhile(&bench.store, &[("a", None)]);
    assert!(is(&bench, "a", 0) && !is(&bench, "a", second));
    let third = meanwhile(&bench.store, &[("a", Some("1"))]);
    assert!(first < second && second < third && is(&bench, "a", third) && !is(&bench, "a", first));
    let mut view = bench.store.view(APP, START);
    put(&mut view, "a", "2");
    assert!(!view.is_version(&key("a"), third).unwrap() && !view.is_version(&key("a"), 0).unwrap());
    assert!(view.delete(&key("a")).unwrap());
    assert!(view.is_version(&key("a"), 0).unwrap());
}

#[test]
fn a_version_that_was_looked_at_was_read() {
    for version in [0, 1, 7] {
        let bench = bench();
        let mut view = bench.store.view(APP, START);
        view.is_version(&key("a"), version).unwrap();
        put(&mut view, "mine", "1");
        meanwhile(&bench.store, &[("a", Some("2"))]);
        assert!(is_conflict(&commit(&bench.store, view)), "{version}");
    }
}

#[test]
fn blind_writes_never_conflict_and_the_last_stands() {
    let mut bench = bench();
    let (mut one, mut two) = (bench.store.view(APP, START), bench.store.view(APP, START));
    put(&mut one, "a", "one");
    put(&mut two, "a", "two");
    commit(&bench.store, two).unwrap();
    commit(&bench.store, one).unwrap();
    bench.flush();
    assert_eq!(get(&mut bench.store.view(APP, START), "a").as_deref(), Some("one"));
}

#[test]
fn one_run_changes_so_much_and_no_more() {
    let bench = Bench::new();
    let mut view = bench.store.view(APP, START);
    let limit = |put: Result<(), ViewError>| matches!(put, Err(ViewError::Limit(_)));
    for n in 0..CHANGES_MAX {
        put(&mut view, &n.to_string(), "1");
    }
    let one = |name: &str, value: Vec<u8>| Put { key: key(name), value: value.into(), expires_at: None };
    assert!(limit(view.put(one("more", b"1".to_vec()))));
    put(&mut view, "7", "2");
    view.clear();
    let mib = vec![b'1'; 1024 * 1024 - 1];
    for name in ["a", "b", "c"] {
        view.put(one(name, mib.clone())).unwrap();
    }
    view.put(one("c", mib.clone())).unwrap();
    let left = CHANGED_BYTES_MAX - 3 * 1024 * 1024;
    assert!(limit(view.put(one("d", vec![b'1'; left]))));
    view.put(one("d", vec![b'1'; left - 1])).unwrap();
    assert!(limit(view.put(one("e", vec![b'1'; 1]))));
    commit(&bench.store, view).unwrap();
}
