//! What a schedule has come to: which of its ticks are run, which were missed. Pure: the clock is an argument.

use crate::model::{CatchUp, Timetable, UnixMs};
use crate::store::CronRun;

/// Missed ticks that are counted; there may be more.
const MISSED_COUNTED_MAX: usize = 1000;
/// Missed ticks that are run, the latest of them, where each is.
const CAUGHT_UP_MAX: usize = 100;

/// What is to be done at an instant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Ticks that are run, in their order.
    pub(super) runs: Vec<CronRun>,
    /// Ticks that passed unseen, whether one of the runs makes up for them or none.
    pub(super) missed: u64,
    /// Missed ticks that no run makes up for.
    pub(super) lost: u64,
    /// All ticks up to here are dealt with.
    pub(super) through: UnixMs,
    /// When to ask again.
    pub(super) next: Option<UnixMs>,
}

/// Reckons the ticks after `through` and up to `now`. The last of them is on time if it is not before
/// `on_time_since`; all others were missed, and `catch_up` says what becomes of them.
pub(super) fn plan(
    timetable: &Timetable,
    through: UnixMs,
    now: UnixMs,
    on_time_since: UnixMs,
    catch_up: CatchUp,
) -> Plan {
    let mut passed = passed(timetable, through, now);
    let on_time = passed.pop_if(|last| *last >= on_time_since);
    let missed = u64::try_from(passed.len()).unwrap_or(u64::MAX);
    let mut runs = Vec::new();
    let mut lost = 0;
    match (catch_up, on_time) {
        (CatchUp::Skip, _) => lost = missed,
        (CatchUp::Once, None) => runs.extend(passed.last().map(|last| CronRun { at: *last, missed })),
        (CatchUp::Once, Some(_)) => {}
        (CatchUp::All, _) => {
            let caught_up = &passed[passed.len().saturating_sub(CAUGHT_UP_MAX)..];
            runs.extend(caught_up.iter().map(|at| CronRun { at: *at, missed: 1 }));
            lost = missed - u64::try_from(runs.len()).unwrap_or(missed);
        }
    }
    let stands_for = if catch_up == CatchUp::Once { missed } else { 0 };
    runs.extend(on_time.map(|at| CronRun { at, missed: stands_for }));
    let through = through.max(now);
    Plan { runs, missed, lost, through, next: timetable.next(through) }
}

/// The latest ticks after `through` and up to `now`, the earliest first.
fn passed(timetable: &Timetable, through: UnixMs, now: UnixMs) -> Vec<UnixMs> {
    let mut ticks = Vec::new();
    let mut until = now;
    while let Some(tick) = timetable.previous(until).filter(|tick| *tick > through) {
        ticks.push(tick);
        until = UnixMs(tick.0 - 1000);
        if ticks.len() > MISSED_COUNTED_MAX {
            break;
        }
    }
    ticks.reverse();
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMs {
        UnixMs::parse(&format!("2026-05-{text}Z")).unwrap()
    }

    /// Ticks at seven each morning: runs as day and missed, then what was missed and lost.
    #[track_caller]
    fn check(
        catch_up: CatchUp,
        through: &str,
        now: &str,
        since: &str,
        runs: &[(&str, u64)],
        rest: (u64, u64),
    ) {
        let timetable = Timetable::new(&"0 7 * * *".parse().unwrap(), &"UTC".parse().unwrap()).unwrap();
        let plan = plan(&timetable, at(through), at(now), at(since), catch_up);
        let told: Vec<(UnixMs, u64)> = plan.runs.iter().map(|run| (run.at, run.missed)).collect();
        let wanted: Vec<(UnixMs, u64)> =
            runs.iter().map(|(day, missed)| (at(&format!("{day}T07:00:00")), *missed)).collect();
        assert_eq!(told, wanted, "{catch_up:?} at {now}");
        assert_eq!((plan.missed, plan.lost), rest, "{catch_up:?} at {now}");
        assert!(plan.through >= at(now) && plan.next.unwrap() > plan.through);
    }

    #[test]
    fn a_tick_in_time_is_run_once() {
        for catch_up in [CatchUp::Skip, CatchUp::Once, CatchUp::All] {
            check(catch_up, "01T07:00:00", "02T06:59:59", "02T06:58:59", &[], (0, 0));
            check(catch_up, "01T07:00:00", "02T07:00:00", "02T06:59:00", &[("02", 0)], (0, 0));
            check(catch_up, "01T07:00:00", "02T07:00:10", "02T06:59:10", &[("02", 0)], (0, 0));
            check(catch_up, "02T07:00:00", "02T07:00:00", "02T06:59:00", &[], (0, 0));
            // The clock went back: what was dealt with is not run again.
            check(catch_up, "03T07:00:00", "02T07:00:00", "02T06:59:00", &[], (0, 0));
        }
    }

    #[test]
    fn missed_ticks_are_skipped_run_once_or_all_run() {
        let (through, now, since) = ("01T07:00:00", "04T12:00:00", "04T12:00:00");
        check(CatchUp::Skip, through, now, since, &[], (3, 3));
        check(CatchUp::Once, through, now, since, &[("04", 3)], (3, 0));
        check(CatchUp::All, through, now, since, &[("02", 1), ("03", 1), ("04", 1)], (3, 0));
        let (now, since) = ("04T07:00:01", "04T06:59:01");
        check(CatchUp::Skip, through, now, since, &[("04", 0)], (2, 2));
        check(CatchUp::Once, through, now, since, &[("04", 2)], (2, 0));
        check(CatchUp::All, through, now, since, &[("02", 1), ("03", 1), ("04", 0)], (2, 0));
    }

    #[test]
    fn a_large_step_is_no_endless_backlog() {
        let timetable = Timetable::new(&"* * * * * *".parse().unwrap(), &"UTC".parse().unwrap()).unwrap();
        let (then, now) = (UnixMs(0), at("04T12:00:00"));
        let plan = plan(&timetable, then, now, now, CatchUp::All);
        assert_eq!((plan.runs.len(), plan.missed, plan.lost), (101, 1000, 900));
        assert_eq!(plan.runs[0].at, at("04T11:58:20"));
        assert_eq!(plan.next, Some(at("04T12:00:01")));
    }
}
