//! A clock that no time server sets: where UDP port 123 is blocked, web servers tell the time with every answer.
//!
//! Two of them must agree, and nothing is set to before this program was made. What `picloud device clock` did is told in
//! `clock.json`; schedules then take the clock for set. Here is what is decided; asking is the command line's, and the
//! daemon never asks.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};
use serde_json::{Value, json};

use super::Place;
use crate::model::{BUILD_EPOCH, UnixMs};

/// Who is asked when nobody says otherwise: large, old, unrelated, and known to answer in the clear, because a
/// certificate is no help to whoever does not know the date.
const HOSTS: [&str; 4] = [
    "http://www.google.com",
    "http://www.cloudflare.com",
    "http://www.kernel.org",
    "http://www.microsoft.com",
];
/// Answers that are further apart do not agree.
const APART_MAX: Duration = Duration::from_secs(10);
/// A header tells whole seconds, and its way takes some: a clock that is nearer is not moved.
const NEAR: Duration = Duration::from_secs(2);
/// systemd-timesyncd.service(8): it is there once the clock is set.
const SYNCHRONISED: &str = "run/systemd/timesync/synchronized";

/// What a server said, by its header (RFC 9110, 6.6.1).
pub fn parse(date: &str) -> Option<UnixMs> {
    let at = httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(at.as_millis()).ok().map(UnixMs)
}

/// The time that at least two servers agree on: the middle of the largest group that lies within ten seconds.
pub fn agreed(answers: &[UnixMs]) -> Option<UnixMs> {
    let mut answers: Vec<UnixMs> = answers.iter().copied().filter(|at| *at >= BUILD_EPOCH).collect();
    answers.sort();
    let group = |from: usize| {
        let within = answers[from..].iter().take_while(|at| at.since(answers[from]) <= APART_MAX);
        &answers[from..from + within.count()]
    };
    let largest = (0..answers.len()).map(group).max_by_key(|group| group.len())?;
    (largest.len() >= 2).then(|| largest[largest.len() / 2])
}

/// Whether the time servers have set it.
pub fn is_synchronised(place: &Place) -> bool {
    place.path(SYNCHRONISED).exists()
}

/// Whether the time servers or web servers have set it since the boot.
pub fn is_set(place: &Place) -> bool {
    state(place)["synchronised"] == true
}

/// Whom to ask: those of the settings, else the usual ones. An empty list means nobody.
pub fn hosts(place: &Place) -> Vec<String> {
    match fs::read_to_string(place.run().join("time-urls")) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(_) => HOSTS.map(str::to_owned).into(),
    }
}

/// Moves the clock, if it is away from `to`, and tells what was done.
///
/// # Errors
/// If the clock cannot be set, or nothing can be told.
pub fn set(place: &Place, now: UnixMs, to: UnixMs, by: &[String]) -> io::Result<Duration> {
    let away = to.since(now).max(now.since(to));
    if away > NEAR {
        let seconds = to.0.div_euclid(1000);
        clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: 0 })?;
    }
    let told = json!({ "synchronised": true, "by": "http", "servers": by, "at": to, "moved_seconds": away.as_secs() });
    tell(place, &told)?;
    Ok(away)
}

/// Tells that nobody could be asked, or nobody agreed. A clock that was set since the boot stays one that was.
///
/// # Errors
/// If it cannot be told.
pub fn tell_failure(place: &Place, why: &str) -> io::Result<()> {
    if is_set(place) {
        return Ok(());
    }
    tell(place, &json!({ "synchronised": false, "by": null, "why": why, "at": UnixMs::now() }))
}

fn tell(place: &Place, told: &Value) -> io::Result<()> {
    let path = place.run().join("clock.json");
    let new = place.run().join("clock.json.new");
    fs::create_dir_all(place.run())?;
    fs::write(&new, told.to_string())?;
    fs::rename(new, path)
}

/// What is known of the clock, for the status.
pub(super) fn state(place: &Place) -> Value {
    if is_synchronised(place) {
        let set = fs::metadata(place.path(SYNCHRONISED)).and_then(|file| file.modified()).ok();
        let at = set.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let at = at.and_then(|at| i64::try_from(at.as_millis()).ok()).map(UnixMs);
        return json!({ "synchronised": true, "by": "ntp", "at": at });
    }
    let told = fs::read(place.run().join("clock.json")).unwrap_or_default();
    let told: Value = serde_json::from_slice(&told).unwrap_or_default();
    json!({ "synchronised": told["synchronised"] == true, "by": told["by"], "at": told["at"] })
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_790_000_000_000;

    #[track_caller]
    fn check(seconds: &[i64], wanted: Option<i64>) {
        let answers: Vec<UnixMs> = seconds.iter().map(|second| UnixMs(T + second * 1000)).collect();
        assert_eq!(agreed(&answers), wanted.map(|second| UnixMs(T + second * 1000)), "{seconds:?}");
    }

    #[test]
    fn two_servers_must_agree() {
        check(&[], None);
        check(&[0], None);
        check(&[0, 11], None);
        check(&[0, 10], Some(10));
        check(&[5, 0, 1], Some(1));
        // One that lies alone is outvoted, wherever it lies.
        check(&[86_400, 1, 0, 2], Some(1));
        check(&[-86_400, 1, 0, 2], Some(1));
        check(&[0, 100, 200, 300], None);
    }

    #[test]
    fn nobody_sets_a_clock_to_before_this_program() {
        let past = UnixMs(BUILD_EPOCH.0 - 1000);
        assert_eq!(agreed(&[past, past, past]), None);
        assert_eq!(agreed(&[BUILD_EPOCH, BUILD_EPOCH, past]), Some(BUILD_EPOCH));
    }

    #[test]
    fn headers_are_dates() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(UnixMs(784_111_777_000)));
        for bad in ["", "now", "1994-11-06T08:49:37Z"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_status_tells_who_set_it() {
        let dir = crate::device::prepare::testing::TempDir::new();
        let place = Place::below(dir.path());
        assert_eq!(state(&place), json!({ "synchronised": false, "by": null, "at": null }));
        tell_failure(&place, "nobody answers").unwrap();
        assert_eq!(state(&place)["synchronised"], false);
        let now = UnixMs(T);
        let moved = set(&place, now, UnixMs(T + 1000), &["http://a".into()]).unwrap();
        assert_eq!(moved, Duration::from_secs(1));
        let set = json!({ "synchronised": true, "by": "http", "at": UnixMs(T + 1000) });
        assert_eq!(state(&place), set);
        tell_failure(&place, "nobody answers an hour later").unwrap();
        assert_eq!(state(&place), set);
        fs::create_dir_all(place.path("run/systemd/timesync")).unwrap();
        fs::write(place.path(SYNCHRONISED), "").unwrap();
        assert_eq!(state(&place)["by"], "ntp");
    }

    #[test]
    fn settings_say_whom_to_ask() {
        let dir = crate::device::prepare::testing::TempDir::new();
        let place = Place::below(dir.path());
        assert_eq!(hosts(&place).len(), HOSTS.len());
        fs::create_dir_all(place.run()).unwrap();
        fs::write(place.run().join("time-urls"), "http://a\nhttp://b\n").unwrap();
        assert_eq!(hosts(&place), ["http://a", "http://b"]);
        fs::write(place.run().join("time-urls"), "").unwrap();
        assert!(hosts(&place).is_empty());
    }
}
