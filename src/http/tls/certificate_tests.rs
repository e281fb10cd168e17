//! Certificates that people bring, and bytes that are none.

use proptest::prelude::*;

use super::*;

fn facts(names: &[&str]) -> Facts {
    Facts {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        not_before: UnixMs(0),
        not_after: UnixMs(1),
        issuer: String::new(),
        serial: String::new(),
        fingerprint: String::new(),
    }
}

fn made(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_name_covers_what_a_client_would_accept() {
    let facts = facts(&["pi.example.org", "*.boat.example.org", "10.0.0.7"]);
    for (host, covered) in [
        ("pi.example.org", true),
        ("a.boat.example.org", true),
        ("boat.example.org", false),
        ("a.b.boat.example.org", false),
        ("10.0.0.7", true),
        ("0.0.7", false),
        ("example.org", false),
    ] {
        assert_eq!(facts.covers(host), covered, "{host}");
    }
    for (claim, touched) in [
        ("*", true),
        ("pi.example.org", true),
        ("*.boat.example.org", true),
        ("x.boat.example.org", true),
        ("*.example.org", true),
        ("10.0.0.7", true),
        ("other.example.org", false),
        ("*.example.com", false),
    ] {
        assert_eq!(facts.touches(&claim.parse().unwrap()), touched, "{claim}");
    }
}

#[test]
fn names_are_read_as_hosts_are_claimed() {
    let (chain, key) = made(&["Pi.Example.ORG", "*.boat.example.org", "192.168.1.7", "::1"]);
    let pair = Pair::read(format!("{key}{chain}").as_bytes()).unwrap();
    let facts = pair.check(Some(UnixMs::now())).unwrap();
    assert_eq!(facts.names, ["*.boat.example.org", "192.168.1.7", "::1", "pi.example.org"]);
    assert_eq!((facts.fingerprint.len(), Facts::of(&pair.chain).unwrap()), (64, facts));
}

#[test]
fn times_count_only_by_a_clock_to_trust() {
    let (chain, key) = made(&["a"]);
    let pair = Pair::read(format!("{chain}{key}").as_bytes()).unwrap();
    let facts = pair.check(None).unwrap();
    let before = UnixMs(facts.not_before.0 - 1);
    assert_eq!(pair.check(Some(before)).unwrap_err(), Unfit::TooEarly(facts.not_before));
    let after = UnixMs(facts.not_after.0 + 1);
    assert_eq!(pair.check(Some(after)).unwrap_err(), Unfit::Expired(facts.not_after));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_repeat_a_key(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Pair::read(&bytes).and_then(|pair| pair.check(None));
    }

    #[test]
    fn a_damaged_pair_is_refused_or_still_one(
        at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>(), is_cut: bool,
    ) {
        let (chain, key) = made(&["pi.example.org"]);
        let mut text = format!("{chain}{key}").into_bytes();
        let secret: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        if is_cut { text.truncate(cut.index(text.len())) } else { let at = at.index(text.len()); text[at] = with }
        if let Err(error) = Pair::read(&text).and_then(|pair| pair.check(None)) {
            prop_assert!(!error.to_string().contains(&secret[..20]), "{}", error);
        }
    }
}
