//! When a schedule strikes: a cron line, read in a time zone.
//!
//! Lines are Vixie cron's with a field for seconds if one wants it, as croner reads them. Where a zone skips an hour,
//! a line with a fixed time strikes right after the gap, and one with steps or wildcards strikes as if the hour was
//! not there; where an hour comes twice, a fixed time strikes the first time only.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use croner::errors::CronError;
use croner::parser::{CronParser, Year};
use croner::{CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Invalid, UnixMs};

/// Longest cron line, in bytes.
const LINE_BYTES_MAX: usize = 200;
/// Where a search for the first strike begins: what does not strike after it never does, whatever the date.
const SOME_DAY: UnixMs = UnixMs(946_684_800_000);

/// A cron line that strikes some time: five fields, or six with seconds, or a nickname like `@daily`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Schedule(Arc<str>);

/// An IANA time zone, like `Europe/Berlin`. All zones are part of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZoneName(Arc<str>);

/// A schedule in its zone, ready to be asked. Large: it is made when it is needed.
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// The line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ZoneName {
    /// Coordinated universal time.
    pub fn utc() -> ZoneName {
        ZoneName("UTC".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn read_line(line: &str) -> Result<Cron, Invalid> {
    let parser = CronParser::builder().year(Year::Disallowed).build();
    parser
        .parse(line)
        .map_err(|error| Invalid(format!("is no cron line like \"0 7 * * *\" or \"@daily\": {error}")))
}

fn read_zone(name: &str) -> Result<TimeZone, Invalid> {
    TimeZone::get(name).map_err(|_| Invalid(format!("\"{name}\" is no time zone like Europe/Berlin or UTC")))
}

impl FromStr for Schedule {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Schedule, Invalid> {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.len() > LINE_BYTES_MAX {
            return Err(Invalid(format!("must have at most {LINE_BYTES_MAX} bytes")));
        }
        if line.eq_ignore_ascii_case("@reboot") {
            return Err(Invalid("is what a trigger of the kind \"startup\" does".into()));
        }
        let timetable = Timetable { cron: read_line(&line)?, zone: TimeZone::UTC };
        if timetable.next(SOME_DAY).is_none() {
            return Err(Invalid(format!("\"{line}\" never fires: there is no such day")));
        }
        Ok(Schedule(line.into()))
    }
}

impl FromStr for ZoneName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<ZoneName, Invalid> {
        let zone = read_zone(text)?;
        Ok(ZoneName(zone.iana_name().unwrap_or(text).into()))
    }
}

/// Reads a text that people wrote; what the store kept was read when it came, and must not keep a file from being
/// opened if a later release knows fewer zones.
fn read<'de, D: Deserializer<'de>, T: FromStr<Err = Invalid>>(
    deserializer: D,
    kept: impl FnOnce(Arc<str>) -> T,
) -> Result<T, D::Error> {
    let is_people = deserializer.is_human_readable();
    let text = String::deserialize(deserializer)?;
    if is_people { text.parse().map_err(de::Error::custom) } else { Ok(kept(text.into())) }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Schedule, D::Error> {
        read(deserializer, Schedule)
    }
}

impl<'de> Deserialize<'de> for ZoneName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ZoneName, D::Error> {
        read(deserializer, ZoneName)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Timetable {
    /// Of a line in a zone. An error means that an earlier release knew them and this one does not.
    pub fn new(schedule: &Schedule, zone: &ZoneName) -> Result<Timetable, Invalid> {
        Ok(Timetable { cron: read_line(&schedule.0)?, zone: read_zone(&zone.0)? })
    }

    /// The first strike after `after`.
    pub fn next(&self, after: UnixMs) -> Option<UnixMs> {
        let found = self.cron.find_next_occurrence(&self.moment(after)?, false).ok()?;
        Some(found.at())
    }

    /// The last strike at or before `until`.
    pub fn previous(&self, until: UnixMs) -> Option<UnixMs> {
        let found = self.cron.find_previous_occurrence(&self.moment(until)?, true).ok()?;
        Some(found.at())
    }

    /// An instant as RFC 3339 has it, with the zone's offset.
    pub fn print(&self, at: UnixMs) -> String {
        match Timestamp::from_millisecond(at.0) {
            Ok(at) => at.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            Err(_) => at.to_string(),
        }
    }

    /// The second that `at` is in; strikes are whole seconds.
    fn moment(&self, at: UnixMs) -> Option<Moment> {
        let second = Timestamp::from_second(at.0.div_euclid(1000)).ok()?;
        Some(Moment(second.to_zoned_datetime(self.zone.clone())))
    }
}

/// An instant in a zone, as croner searches over it.
#[derive(Clone)]
struct Moment(ZonedDateTime);

impl Moment {
    fn at(&self) -> UnixMs {
        UnixMs(self.0.timestamp().as_millisecond())
    }
}

/// A part of a date or a time, which is never negative.
fn part(value: i8) -> u32 {
    value.unsigned_abs().into()
}

fn civil(of: CivilDateTime) -> Option<DateTime> {
    let part = |value: u32| i8::try_from(value).ok();
    let year = i16::try_from(of.year()).ok()?;
    let (month, day) = (part(of.month())?, part(of.day())?);
    DateTime::new(year, month, day, part(of.hour())?, part(of.minute())?, part(of.second())?, 0).ok()
}

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let now = self.0.datetime();
        let date = CivilDate::from_parts_unchecked(now.year().into(), part(now.month()), part(now.day()));
        let time = CivilTime::from_parts_unchecked(part(now.hour()), part(now.minute()), part(now.second()));
        CivilDateTime::new(date, time)
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(part(self.0.weekday().to_sunday_zero_offset()))
    }

    fn resolve_civil(&self, of: CivilDateTime) -> Result<Resolution<Moment>, CronError> {
        let ambiguous =
            self.0.time_zone().to_ambiguous_zoned_datetime(civil(of).ok_or(CronError::InvalidDate)?);
        let moment =
            |found: Result<ZonedDateTime, jiff::Error>| found.map(Moment).map_err(|_| CronError::InvalidTime);
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(moment(ambiguous.unambiguous())?),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
            AmbiguousOffset::Fold { .. } => {
                Resolution::Ambiguous(moment(ambiguous.clone().earlier())?, moment(ambiguous.later())?)
            }
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Moment> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Moment)
    }

    fn cmp_instant(&self, other: &Moment) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> UnixMs {
        UnixMs::parse(text).unwrap()
    }

    fn timetable(line: &str, zone: &str) -> Timetable {
        Timetable::new(&line.parse().unwrap(), &zone.parse().unwrap()).unwrap()
    }

    /// The strikes after an instant.
    #[track_caller]
    fn check(line: &str, zone: &str, after: &str, strikes: &[&str]) {
        let timetable = timetable(line, zone);
        let mut last = at(after);
        for strike in strikes {
            last = timetable.next(last).unwrap();
            assert_eq!(timetable.print(last), *strike, "{line} in {zone}");
        }
    }

    #[test]
    fn strikes_in_its_zone() {
        check("0 7 * * *", "UTC", "2026-01-31T06:59:59.999Z", &["2026-01-31T07:00:00+00:00"]);
        check("0 7 * * *", "UTC", "2026-01-31T07:00:00Z", &["2026-02-01T07:00:00+00:00"]);
        check(
            "0 7 * * MON-FRI",
            "Europe/Berlin",
            "2026-01-30T06:00:00Z",
            &["2026-02-02T07:00:00+01:00", "2026-02-03T07:00:00+01:00"],
        );
        check("@daily", "Asia/Kolkata", "2026-01-31T00:00:00Z", &["2026-02-01T00:00:00+05:30"]);
        check(
            "*/20 * * * * *",
            "UTC",
            "2026-01-31T00:00:01.5Z",
            &["2026-01-31T00:00:20+00:00", "2026-01-31T00:00:40+00:00"],
        );
        check("0 0 29 2 *", "UTC", "2026-01-31T00:00:00Z", &["2028-02-29T00:00:00+00:00"]);
        check("0 12 L * *", "UTC", "2026-02-01T00:00:00Z", &["2026-02-28T12:00:00+00:00"]);
    }

    #[test]
    fn a_skipped_hour_and_one_that_comes_twice() {
        // Berlin: 2026-03-29 has no 02:30, 2026-10-25 has two.
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
        );
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"],
        );
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
        );
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T02:30:00+01:00"],
        );
    }

    #[test]
    fn lines_that_are_none_are_refused() {
        let long = format!("{} * * * *", "1,".repeat(100));
        for (line, says) in [
            ("", "no cron line"),
            ("* * * *", "no cron line"),
            ("* * * * * * 2026", "no cron line"),
            ("61 * * * *", "no cron line"),
            ("@sometimes", "no cron line"),
            ("every day", "no cron line"),
            ("0 0 30 2 *", "never fires"),
            ("0 0 31 4,6,9,11 *", "never fires"),
            ("@reboot", "startup"),
            (&long, "at most 200"),
        ] {
            let error = line.parse::<Schedule>().expect_err(line);
            assert!(error.0.contains(says), "{line}: {error}");
        }
        for line in ["0 7 * * *", "  0  7 * * * ", "*/5 * * * * *", "@hourly", "0 0 * * SUN#1", "0 0 15W * ?"]
        {
            assert!(line.parse::<Schedule>().is_ok(), "{line}");
        }
    }

    #[test]
    fn zones_have_one_name() {
        assert_eq!("europe/berlin".parse::<ZoneName>().unwrap().as_str(), "Europe/Berlin");
        for name in ["", "Berlin", "CET-1CEST", "../etc/passwd", "+01:00"] {
            assert!(name.parse::<ZoneName>().is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_stored_is_taken_as_it_is() {
        let bytes = postcard::to_allocvec(&("0 0 30 2 *", "Mars/Olympus")).unwrap();
        let (line, zone): (Schedule, ZoneName) = postcard::from_bytes(&bytes).unwrap();
        assert!(Timetable::new(&line, &zone).is_err());
        assert!(serde_json::from_str::<ZoneName>("\"Mars/Olympus\"").is_err());
    }

    proptest! {
        #[test]
        fn backwards_finds_what_forwards_found(
            start in 1_767_225_600_i64..1_830_000_000,
            line in prop::sample::select(vec!["30 2 * * *", "*/7 * * * *", "0 */2 * * *", "15 1-3 * * SUN"]),
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
        ) {
            let timetable = timetable(line, zone);
            let start = UnixMs(start * 1000);
            let strike = timetable.next(start).unwrap();
            prop_assert_eq!(timetable.previous(strike), Some(strike));
            let before = timetable.previous(UnixMs(strike.0 - 1000)).unwrap();
            prop_assert!(before <= start && timetable.next(before) == Some(strike));
        }
    }
}
