//! What becomes of an attempt that failed: again, and when; or dead, and why. Pure: time and chance are arguments.

use std::time::Duration;

use crate::model::Row;
use crate::script::{Fault, FaultKind};

/// How often and how long a row is tried.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Attempts in all.
    pub attempts_max: u16,
    /// The wait after the first attempt, before jitter.
    pub backoff_base: Duration,
    /// By how much each further wait is longer.
    pub backoff_factor: u32,
    /// No wait is longer, before jitter.
    pub backoff_max: Duration,
    /// A row older than this is not tried again.
    pub age_max: Duration,
    /// A row that took the process down this often is dead.
    pub crashes_max: u16,
    /// Triggers that may lead from one to the next.
    pub depth_max: u16,
}

/// What happens next to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is tried again after this wait.
    Retry(Duration),
    /// It is a dead letter, for this reason.
    Dead(&'static str),
    /// It was no attempt: it is tried again after this wait.
    Requeue(Duration),
    /// The daemon stops: the row stays for the next start.
    Keep,
    /// It ends without a dead letter, because an operator said so.
    Drop,
}

impl Policy {
    /// Decides about `row`, whose attempt number `row.attempt()` failed with `fault` when it was `age` old.
    /// `chance` is uniform in 0..1.
    pub fn after(&self, row: &Row, fault: &Fault, age: Duration, chance: f64) -> Next {
        match fault.kind {
            FaultKind::Drain => return Next::Keep,
            FaultKind::Cancelled => return Next::Drop,
            FaultKind::Overloaded | FaultKind::Conflict => {
                return Next::Requeue(self.jitter(self.backoff_base, chance));
            }
            FaultKind::Gone => return Next::Dead("script_gone"),
            FaultKind::Validation | FaultKind::Operations | FaultKind::Memory => {
                return Next::Dead("permanent");
            }
            FaultKind::Runtime if fault.permanent => {
                return Next::Dead(fault.reason.unwrap_or("permanent"));
            }
            FaultKind::Runtime | FaultKind::Timeout | FaultKind::Panic | FaultKind::Platform => {}
        }
        if row.attempt() >= row.attempts_max.unwrap_or(self.attempts_max) {
            return Next::Dead("attempts");
        }
        let wait = fault.retry_after.unwrap_or_else(|| self.jitter(self.backoff(row.attempts), chance));
        if age.saturating_add(wait) > self.age_max {
            return Next::Dead("age");
        }
        Next::Retry(wait)
    }

    /// Why a row does not run although its turn has come: a chain of triggers that is too long.
    pub fn too_deep(&self, row: &Row) -> Option<Fault> {
        if row.trigger_depth <= self.depth_max {
            return None;
        }
        let message = format!(
            "{} triggers led from one run to the next, and {} may (outbox.trigger_depth_max): does a script set off itself?",
            row.trigger_depth, self.depth_max
        );
        let reason = Some("depth_exceeded");
        Some(Fault { permanent: true, reason, ..Fault::new(FaultKind::Runtime, message) })
    }

    /// The wait after the attempt that followed `attempts` earlier ones, before jitter: 2 s x 4^n, capped.
    pub fn backoff(&self, attempts: u16) -> Duration {
        let factor = self.backoff_factor.saturating_pow(u32::from(attempts));
        self.backoff_base.checked_mul(factor).unwrap_or(self.backoff_max).min(self.backoff_max)
    }

    /// Full jitter: anything from nothing to the whole wait, so that what failed together does not return together.
    fn jitter(&self, wait: Duration, chance: f64) -> Duration {
        wait.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// Whether a row that a crash left may run again: the reason if not.
    pub fn after_crash(&self, row: &Row) -> Option<&'static str> {
        // A sync row runs once more, and its first crash has been counted.
        let crashes_max = if row.is_sync() { 2 } else { self.crashes_max };
        let attempted_out = !row.is_sync() && row.attempts >= row.attempts_max.unwrap_or(self.attempts_max);
        (row.crashes >= crashes_max || attempted_out).then_some("crash")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::InboxId;

    const POLICY: Policy = Policy {
        attempts_max: 6,
        backoff_base: Duration::from_secs(2),
        backoff_factor: 4,
        backoff_max: Duration::from_secs(600),
        age_max: Duration::from_secs(6 * 3600),
        crashes_max: 3,
        depth_max: 8,
    };

    fn row(attempts: u16) -> Row {
        Row { attempts, ..crate::model::testing::row() }
    }

    #[test]
    fn the_schedule_is_the_contracts() {
        // An injected clock walks a row through all its attempts; chance 1 is the whole wait.
        let mut age = Duration::ZERO;
        let mut waits = vec![];
        for attempts in 0.. {
            match POLICY.after(&row(attempts), &Fault::new(FaultKind::Runtime, "x"), age, 1.0) {
                Next::Retry(wait) => {
                    waits.push(wait.as_secs());
                    age += wait;
                }
                next => {
                    assert_eq!(next, Next::Dead("attempts"));
                    break;
                }
            }
        }
        assert_eq!(waits, [2, 8, 32, 128, 512], "2 s x 4^n over 6 attempts");
        assert_eq!(POLICY.backoff(9), Duration::from_secs(600));
    }

    #[test]
    fn each_fault_has_its_fate() {
        let at =
            |kind, age_ms| POLICY.after(&row(0), &Fault::new(kind, "x"), Duration::from_millis(age_ms), 0.5);
        assert_eq!(at(FaultKind::Runtime, 0), Next::Retry(Duration::from_secs(1)));
        assert_eq!(at(FaultKind::Timeout, 0), Next::Retry(Duration::from_secs(1)));
        assert_eq!(at(FaultKind::Validation, 0), Next::Dead("permanent"));
        assert_eq!(at(FaultKind::Operations, 0), Next::Dead("permanent"));
        assert_eq!(at(FaultKind::Memory, 0), Next::Dead("permanent"));
        assert_eq!(at(FaultKind::Gone, 0), Next::Dead("script_gone"));
        assert_eq!(at(FaultKind::Cancelled, 0), Next::Drop);
        assert_eq!(at(FaultKind::Drain, 0), Next::Keep);
        assert_eq!(at(FaultKind::Overloaded, 0), Next::Requeue(Duration::from_secs(1)));
        assert_eq!(at(FaultKind::Runtime, 6 * 3600 * 1000), Next::Dead("age"));
    }

    #[test]
    fn a_script_may_say_when_and_whether() {
        let mut fault = Fault::new(FaultKind::Runtime, "x");
        fault.retry_after = Some(Duration::from_secs(77));
        assert_eq!(POLICY.after(&row(0), &fault, Duration::ZERO, 0.1), Next::Retry(Duration::from_secs(77)));
        fault.permanent = true;
        assert_eq!(POLICY.after(&row(0), &fault, Duration::ZERO, 0.1), Next::Dead("permanent"));
    }

    #[test]
    fn crashes_end_a_row() {
        let crashed = |crashes, sync: bool| {
            let mut row = row(crashes);
            row.crashes = crashes;
            row.reply_to = sync.then_some(InboxId(1));
            POLICY.after_crash(&row)
        };
        assert_eq!((crashed(2, false), crashed(3, false)), (None, Some("crash")));
        assert_eq!((crashed(1, true), crashed(2, true)), (None, Some("crash")));
    }

    proptest! {
        #[test]
        fn jitter_stays_within_the_wait(attempts in 0u16..5, chance in 0.0f64..1.0) {
            let next = POLICY.after(&row(attempts), &Fault::new(FaultKind::Runtime, "x"), Duration::ZERO, chance);
            let Next::Retry(wait) = next else { panic!("{next:?}") };
            prop_assert!(wait <= POLICY.backoff(attempts));
        }
    }
}
