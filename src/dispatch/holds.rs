//! Rows that are due and must not run yet: their trigger is paused, or lets only one of its rows run at a time.
//!
//! Rows of other triggers pass without a look at any of this, and so do rows of none. What is paused and what is
//! serial is said anew after each start, by whoever knows the triggers; nothing of it is kept here.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

/// What holds the rows of triggers back, and the rows that are held.
#[derive(Debug)]
pub(super) struct Holds<T> {
    triggers: HashMap<Uuid, Hold<T>>,
    /// Rows of serial triggers whose turn it is, and of which trigger.
    under_way: HashMap<Uuid, Uuid>,
}

#[derive(Debug)]
struct Hold<T> {
    paused: bool,
    serial: bool,
    busy: bool,
    held: VecDeque<(Uuid, T)>,
}

impl<T> Default for Holds<T> {
    fn default() -> Holds<T> {
        Holds { triggers: HashMap::new(), under_way: HashMap::new() }
    }
}

impl<T> Holds<T> {
    /// Lets row `id` of this trigger pass, or keeps it.
    pub(super) fn admit(&mut self, trigger: Option<Uuid>, id: Uuid, row: T) -> Option<T> {
        let Some(trigger) = trigger else { return Some(row) };
        let Some(hold) = self.triggers.get_mut(&trigger) else { return Some(row) };
        let is_next = self.under_way.contains_key(&id);
        if hold.paused || (hold.serial && hold.busy && !is_next) {
            hold.held.push_back((id, row));
            return None;
        }
        if hold.serial && !is_next {
            hold.busy = true;
            self.under_way.insert(id, trigger);
        }
        Some(row)
    }

    /// Whether the rows of this trigger are held.
    pub(super) fn is_paused(&self, trigger: Option<Uuid>) -> bool {
        trigger.and_then(|trigger| self.triggers.get(&trigger)).is_some_and(|hold| hold.paused)
    }

    /// A row is over: the next one of its trigger that was held for it. It is its turn, whoever came later
    /// and is asked for first.
    pub(super) fn ended(&mut self, id: Uuid) -> Option<T> {
        let trigger = self.under_way.remove(&id)?;
        let hold = self.triggers.get_mut(&trigger)?;
        let next = if hold.paused { None } else { hold.held.pop_front() };
        hold.busy = next.is_some();
        let (id, row) = next?;
        self.under_way.insert(id, trigger);
        Some(row)
    }

    /// Rows of this trigger that come from now on are kept until it goes on.
    pub(super) fn pause(&mut self, trigger: Uuid) {
        self.hold(trigger).paused = true;
    }

    /// The trigger goes on: the rows that were held, to be let in again.
    pub(super) fn resume(&mut self, trigger: Uuid) -> Vec<T> {
        self.release(trigger, |hold| hold.paused = false)
    }

    /// Whether only one row of this trigger runs at a time; gives the rows that were held for it and no longer are.
    pub(super) fn set_serial(&mut self, trigger: Uuid, serial: bool) -> Vec<T> {
        if serial {
            self.hold(trigger).serial = true;
            return Vec::new();
        }
        self.under_way.retain(|_, other| *other != trigger);
        self.release(trigger, |hold| (hold.serial, hold.busy) = (false, false))
    }

    /// Takes out one row that is held.
    pub(super) fn remove(&mut self, is: impl Fn(&T) -> bool) -> Option<T> {
        let found = self
            .triggers
            .iter()
            .find_map(|(id, hold)| Some((*id, hold.held.iter().position(|(_, row)| is(row))?)));
        let (trigger, at) = found?;
        self.triggers.get_mut(&trigger)?.held.remove(at).map(|(_, row)| row)
    }

    /// Rows that are held.
    pub(super) fn len(&self) -> usize {
        self.triggers.values().map(|hold| hold.held.len()).sum()
    }

    fn hold(&mut self, trigger: Uuid) -> &mut Hold<T> {
        let none = || Hold { paused: false, serial: false, busy: false, held: VecDeque::new() };
        self.triggers.entry(trigger).or_insert_with(none)
    }

    /// Changes a hold. While it is paused its rows stay; else all of them try again, in their order. A trigger that
    /// holds nothing back any more needs no entry.
    fn release(&mut self, trigger: Uuid, change: impl FnOnce(&mut Hold<T>)) -> Vec<T> {
        let Some(hold) = self.triggers.get_mut(&trigger) else { return Vec::new() };
        change(hold);
        if hold.paused {
            return Vec::new();
        }
        let released = std::mem::take(&mut hold.held);
        if !hold.serial {
            self.triggers.remove(&trigger);
        }
        released.into_iter().map(|(_, row)| row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIGGER: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn admit(holds: &mut Holds<u128>, trigger: Option<Uuid>, number: u128) -> bool {
        holds.admit(trigger, Uuid::from_u128(number), number).is_some()
    }

    #[test]
    fn a_paused_trigger_keeps_its_rows_in_order() {
        let mut holds = Holds::default();
        holds.pause(TRIGGER);
        assert!(!admit(&mut holds, Some(TRIGGER), 1) && !admit(&mut holds, Some(TRIGGER), 2));
        assert!(admit(&mut holds, Some(OTHER), 3) && admit(&mut holds, None, 4));
        assert!(!admit(&mut holds, Some(TRIGGER), 5));
        assert_eq!((holds.remove(|row| *row == 2), holds.remove(|row| *row == 2)), (Some(2), None));
        assert_eq!((holds.len(), holds.resume(OTHER).len()), (2, 0));
        assert_eq!(holds.resume(TRIGGER), [1, 5]);
        assert!(admit(&mut holds, Some(TRIGGER), 6) && holds.triggers.is_empty());
    }

    #[test]
    fn rows_of_a_serial_trigger_run_one_at_a_time() {
        let mut holds = Holds::default();
        assert!(holds.set_serial(TRIGGER, true).is_empty());
        assert!(admit(&mut holds, Some(TRIGGER), 1));
        assert!(!admit(&mut holds, Some(TRIGGER), 2) && !admit(&mut holds, Some(TRIGGER), 3));
        assert_eq!(holds.ended(Uuid::from_u128(9)), None, "it is none of them");
        assert_eq!(holds.ended(Uuid::from_u128(1)), Some(2));
        assert!(!admit(&mut holds, Some(TRIGGER), 4), "whoever came later waits");
        assert!(admit(&mut holds, Some(TRIGGER), 2));
        assert_eq!(holds.ended(Uuid::from_u128(2)), Some(3));
        assert!(admit(&mut holds, Some(TRIGGER), 3));
        assert_eq!(holds.ended(Uuid::from_u128(3)), Some(4), "also if it was cancelled before it ran");
        assert_eq!(holds.ended(Uuid::from_u128(4)), None);
        assert!(holds.len() == 0 && holds.under_way.is_empty());
    }

    #[test]
    fn paused_and_serial_at_once() {
        let mut holds = Holds::default();
        holds.set_serial(TRIGGER, true);
        assert!(admit(&mut holds, Some(TRIGGER), 1) && !admit(&mut holds, Some(TRIGGER), 2));
        holds.pause(TRIGGER);
        assert_eq!(holds.ended(Uuid::from_u128(1)), None, "it is paused");
        assert_eq!(holds.resume(TRIGGER), [2]);
        assert!(admit(&mut holds, Some(TRIGGER), 2) && !admit(&mut holds, Some(TRIGGER), 3));
        holds.pause(TRIGGER);
        assert!(holds.set_serial(TRIGGER, false).is_empty());
        assert_eq!(holds.resume(TRIGGER), [3]);
        assert!(holds.ended(Uuid::from_u128(2)).is_none() && holds.triggers.is_empty());
    }
}
