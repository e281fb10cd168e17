//! Lines of waiting items, one an app, and a turn for each app whose line is not empty.
//!
//! Within an app the first to come is the first to go; between apps it goes round. Who has many waiting delays
//! itself, and others by one turn. Used by the executor for runs and by the dispatcher for rows.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

/// With more lines than this an empty one is given up; fewer keep their memory for the next item.
const LINES_KEPT: usize = 64;

/// The lines and the round.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    lines: HashMap<Uuid, VecDeque<T>>,
    /// Apps whose lines are not empty; the first has the next turn.
    round: VecDeque<Uuid>,
    waiting: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { lines: HashMap::new(), round: VecDeque::new(), waiting: 0 }
    }
}

impl<T> Turns<T> {
    /// Puts an item at the end of its app's line.
    pub(crate) fn push(&mut self, app: Uuid, item: T) {
        let line = self.lines.entry(app).or_default();
        if line.is_empty() {
            self.round.push_back(app);
        }
        line.push_back(item);
        self.waiting += 1;
    }

    /// The first item of the first app that `may` have a turn. The others keep their place in the round.
    pub(crate) fn pop(&mut self, may: impl FnMut(&Uuid) -> bool) -> Option<(Uuid, T)> {
        let app = self.round.iter().position(may).and_then(|at| self.round.remove(at))?;
        let line = self.lines.get_mut(&app)?;
        let item = line.pop_front()?;
        if !line.is_empty() {
            self.round.push_back(app);
        }
        self.emptied(app);
        self.waiting -= 1;
        Some((app, item))
    }

    /// What [`Turns::pop`] would give.
    pub(crate) fn peek(&self, mut may: impl FnMut(&Uuid) -> bool) -> Option<&T> {
        let app = self.round.iter().find(|app| may(app))?;
        self.lines.get(app)?.front()
    }

    /// Takes out one item, wherever it waits. Looks at all of them.
    pub(crate) fn remove(&mut self, is: impl Fn(&T) -> bool) -> Option<T> {
        let found = self.lines.iter().find_map(|(app, line)| Some((*app, line.iter().position(&is)?)));
        let (app, at) = found?;
        let line = self.lines.get_mut(&app)?;
        let item = line.remove(at)?;
        if line.is_empty() {
            self.round.retain(|other| *other != app);
        }
        self.emptied(app);
        self.waiting -= 1;
        Some(item)
    }

    /// Takes out everything.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.round.clear();
        self.waiting = 0;
        self.lines.drain().flat_map(|(_, line)| line).collect()
    }

    /// Items in all lines.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Items in the line of one app.
    pub(crate) fn len_of(&self, app: Uuid) -> usize {
        self.lines.get(&app).map_or(0, VecDeque::len)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn emptied(&mut self, app: Uuid) {
        if self.lines.len() > LINES_KEPT && self.len_of(app) == 0 {
            self.lines.remove(&app);
        }
    }
}

/// Whether an app that holds `has` of `all` places may have one more: at most three times as many as are left. One app
/// alone gets three quarters, and however many there are, one that has none finds a place.
pub(crate) fn is_fair(has: usize, taken: usize, all: usize) -> bool {
    taken < all && has <= (all - taken).saturating_mul(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(number: u8) -> Uuid {
        Uuid::from_u128(number.into())
    }

    /// Items are named after their apps: `a1` is the first of app `a`.
    #[track_caller]
    fn check(came: &[&str], barred: &[u8], went: &[&str]) {
        let mut turns = Turns::default();
        for name in came {
            turns.push(app(name.as_bytes()[0]), *name);
        }
        assert_eq!(turns.len(), came.len());
        let may = |id: &Uuid| !barred.iter().any(|other| app(*other) == *id);
        let mut seen = Vec::new();
        while let Some(next) = turns.peek(may).copied() {
            let (owner, item) = turns.pop(may).unwrap();
            assert_eq!((next, owner), (item, app(item.as_bytes()[0])));
            seen.push(item);
        }
        assert_eq!(seen, went);
        assert_eq!(turns.len(), came.len() - went.len());
    }

    #[test]
    fn apps_take_turns() {
        check(&[], &[], &[]);
        check(&["a1", "a2", "a3"], &[], &["a1", "a2", "a3"]);
        check(&["a1", "a2", "a3", "b1"], &[], &["a1", "b1", "a2", "a3"]);
        check(&["a1", "a2", "a3", "b1", "b2", "c1"], &[], &["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn who_may_not_lets_the_others_pass() {
        check(&["a1", "a2", "b1", "b2"], b"a", &["b1", "b2"]);
        check(&["a1", "b1", "c1", "a2", "c2"], b"b", &["a1", "c1", "a2", "c2"]);
        check(&["a1", "b1"], b"ab", &[]);
    }

    #[test]
    fn who_was_barred_is_next() {
        let mut turns = Turns::default();
        for name in ["a1", "b1", "b2"] {
            turns.push(app(name.as_bytes()[0]), name);
        }
        assert_eq!(turns.pop(|id| *id == app(b'b')).unwrap().1, "b1");
        assert_eq!(turns.pop(|_| true).unwrap().1, "a1");
        assert_eq!(turns.pop(|_| true).unwrap().1, "b2");
        assert!(turns.is_empty() && turns.pop(|_| true).is_none());
    }

    #[test]
    fn one_can_be_taken_out() {
        let mut turns = Turns::default();
        for name in ["a1", "a2", "b1"] {
            turns.push(app(name.as_bytes()[0]), name);
        }
        assert_eq!(turns.remove(|name| *name == "b1"), Some("b1"));
        assert_eq!(turns.remove(|name| *name == "b1"), None);
        assert_eq!(turns.remove(|name| *name == "a2"), Some("a2"));
        turns.push(app(b'b'), "b2");
        assert_eq!((turns.len_of(app(b'a')), turns.len_of(app(b'b')), turns.len()), (1, 1, 2));
        let mut left = turns.drain();
        left.sort_unstable();
        assert_eq!(left, ["a1", "b2"]);
        assert!(turns.is_empty() && turns.peek(|_| true).is_none());
        turns.push(app(b'a'), "a3");
        assert_eq!(turns.pop(|_| true).unwrap().1, "a3");
    }

    #[test]
    fn many_apps_leave_no_lines_behind() {
        let mut turns = Turns::default();
        for number in 0..200 {
            turns.push(app(number), number);
        }
        while turns.pop(|_| true).is_some() {}
        assert!(turns.lines.len() <= LINES_KEPT);
    }

    #[test]
    fn shares_leave_room_for_others() {
        let alone = |all: usize| (0..all).take_while(|has| is_fair(*has, *has, all)).count();
        assert_eq!([1, 2, 4, 256].map(alone), [1, 2, 4, 193]);
        // Apps that come one after the other and take all that they can.
        let mut taken = 0;
        for _ in 0..4 {
            let mut has = 0;
            while is_fair(has, taken, 256) {
                (has, taken) = (has + 1, taken + 1);
            }
            assert!(has > 0, "a newcomer finds a place while there are any");
        }
        assert!(!is_fair(0, 256, 256));
    }
}
