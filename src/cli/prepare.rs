//! `picloud device prepare`, `watch` and `clock`: what is said to the journal of a boot, what systemd hears of the card, and
//! what asks the network for the time.
//! The work is done by the room `device`.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::error::Error;
use crate::device::{self, Look, Place, clock};
use crate::model::UnixMs;

/// From one look at what sets the clock to the next.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// From one look at the card to the next.
const CARD_EVERY: Duration = Duration::from_secs(10);
/// Longest that one server is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Succeeds whatever happens: a device with defaults is better than none.
pub(super) fn prepare(place: &Place, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Error> {
    let prepared = device::prepare::prepare(place, &mut random);
    for line in &prepared.errors {
        writeln!(err, "not applied: {line}")?;
    }
    for line in &prepared.complaints {
        writeln!(err, "failed: {line}")?;
    }
    for line in &prepared.notes {
        writeln!(err, "note: {line}")?;
    }
    writeln!(out, "this device is {}", prepared.host_name)?;
    Ok(())
}

fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(bytes).map_err(|why| std::io::Error::other(why.to_string()))
}

/// Watches the card for as long as the system runs.
pub(super) fn watch(place: &Place, alive: fn(bool), out: &mut dyn Write) -> Result<(), Error> {
    alive(true);
    let mut tell = |look| match look {
        Look::Good => alive(false),
        // Whoever reads that may be gone with the card.
        Look::Failed(why) => drop(writeln!(out, "the card does not answer: {why}")),
        Look::FailedAgain => {}
    };
    let mut goes_on = || {
        thread::sleep(CARD_EVERY);
        true
    };
    device::watch(place, &mut random, &mut tell, &mut goes_on).map_err(|why| Error::Failed(why.to_string()))
}

/// Sets the clock by web servers, if within `wait` no time server does. They are asked as often as that until they answer,
/// each time after twice the wait, for a router often starts later than the device.
pub(super) fn clock(place: &Place, mut wait: Duration, tries: u32, out: &mut dyn Write) -> Result<(), Error> {
    for left in (0..tries).rev() {
        let end = Instant::now() + wait;
        while !clock::is_synchronised(place) && Instant::now() < end {
            thread::sleep(LOOK_EVERY.min(end.saturating_duration_since(Instant::now())));
        }
        if clock::is_synchronised(place) {
            writeln!(out, "a time server sets the clock")?;
            return Ok(());
        }
        match by_web_servers(place)? {
            Ok(done) => {
                writeln!(out, "{done}")?;
                return Ok(());
            }
            // A device without the Internet is not a broken one: a unit that fails would say so.
            Err(why) if left == 0 || clock::hosts(place).is_empty() => {
                let standing = if clock::is_set(place) { "stays as it was set" } else { "is not set" };
                writeln!(out, "the clock {standing}: {why}")?;
                return Ok(());
            }
            Err(_) => wait *= 2,
        }
    }
    Ok(())
}

/// Asks all of them once; gives what was done, or why nothing was.
fn by_web_servers(place: &Place) -> Result<Result<String, String>, Error> {
    let hosts = clock::hosts(place);
    // Each answer is carried on to one instant, as if all had come at once.
    let began = Instant::now();
    let answers: Vec<(String, UnixMs)> = hosts
        .iter()
        .filter_map(|url| {
            let at = ask(url)?;
            Some((url.clone(), at, began.elapsed()))
        })
        .map(|(url, at, after)| (url, UnixMs(at.0.saturating_sub(millis(after)))))
        .collect();
    let times: Vec<UnixMs> = answers.iter().map(|(_, at)| *at).collect();
    let Some(agreed) = clock::agreed(&times) else {
        let why = format!("of {} web servers {} told the time, and no two agree", hosts.len(), times.len());
        clock::tell_failure(place, &why)?;
        return Ok(Err(why));
    };
    let names: Vec<String> = answers.into_iter().map(|(url, _)| url).collect();
    let to = agreed.plus(began.elapsed());
    let moved = clock::set(place, UnixMs::now(), to, &names)
        .map_err(|why| Error::Failed(format!("the clock cannot be set: {why}")))?;
    Ok(Ok(format!("the clock was {} s away from that of {}", moved.as_secs(), names.join(", "))))
}

/// The time that a server tells with whatever it answers. By https its certificate is checked, which a clock that is far
/// away makes fail: the usual servers are asked in the clear, and that two must agree is what protects.
fn ask(url: &str) -> Option<UnixMs> {
    let tls = TlsConfig::builder().root_certs(RootCerts::WebPki).build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .tls_config(tls)
        .timeout_global(Some(ANSWER_TIMEOUT))
        .user_agent(concat!("picloud/", env!("CARGO_PKG_VERSION")));
    let answer = config.build().new_agent().head(url).call().ok()?;
    clock::parse(answer.headers().get("date")?.to_str().ok()?)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
