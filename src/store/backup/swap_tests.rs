//! The steps of a restore, cut after each of them.

use super::*;

const OLD: &str = "old";
const NEW: &str = "new";

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("picloud-swap-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn premises(&self) -> Premises {
        Premises::new(&self.0, 0)
    }

    /// A place where a restore is about to swap.
    fn staged(name: &str) -> Place {
        let place = Place::new(name);
        fs::write(place.premises().store(), OLD).unwrap();
        fs::write(place.premises().new_store(), NEW).unwrap();
        place.premises().begin(Uuid::nil(), UnixMs(0), UnixMs(1)).unwrap();
        place
    }

    #[track_caller]
    fn check(&self, start: Start, store: &str, state: State) {
        assert_eq!(self.premises().settle(UnixMs(2)).unwrap(), start);
        assert_eq!(fs::read_to_string(self.premises().store()).unwrap(), store);
        assert_eq!(self.premises().report().state, state);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_cut_before_the_journal_leaves_the_old_store() {
    let place = Place::new("before");
    fs::write(place.premises().store(), OLD).unwrap();
    fs::write(place.premises().new_store(), "half").unwrap();
    place.check(Start::Ordinary, OLD, State::None);
    assert!(!place.premises().new_store().exists());
}

#[test]
fn a_cut_between_any_two_steps_of_the_swap_goes_on() {
    let place = Place::staged("none");
    place.check(Start::OnTrial, NEW, State::Trial);
    let place = Place::staged("one");
    fs::rename(place.premises().store(), place.premises().old_store()).unwrap();
    place.check(Start::OnTrial, NEW, State::Trial);
    let place = Place::staged("two");
    fs::rename(place.premises().store(), place.premises().old_store()).unwrap();
    fs::rename(place.premises().new_store(), place.premises().store()).unwrap();
    place.check(Start::OnTrial, NEW, State::Trial);
    assert_eq!(fs::read_to_string(place.premises().old_store()).unwrap(), OLD);
}

#[test]
fn a_death_on_trial_goes_back_and_says_so() {
    let place = Place::staged("death");
    place.check(Start::OnTrial, NEW, State::Trial);
    place.check(Start::Ordinary, OLD, State::RolledBack);
    assert!(place.premises().report().why.is_some());
    let place = Place::staged("twice");
    place.check(Start::OnTrial, NEW, State::Trial);
    // Cut after the old one is back, before that is written down.
    fs::rename(place.premises().old_store(), place.premises().store()).unwrap();
    place.check(Start::Ordinary, OLD, State::RolledBack);
    place.check(Start::Ordinary, OLD, State::RolledBack);
}

#[test]
fn an_orderly_end_on_trial_tries_again() {
    let place = Place::staged("orderly");
    place.check(Start::OnTrial, NEW, State::Trial);
    place.premises().postpone(UnixMs(3)).unwrap();
    place.check(Start::OnTrial, NEW, State::Trial);
    place.check(Start::Ordinary, OLD, State::RolledBack);
}

#[test]
fn what_served_stays() {
    let place = Place::staged("served");
    place.check(Start::OnTrial, NEW, State::Trial);
    place.premises().served(UnixMs(3)).unwrap();
    assert!(!place.premises().old_store().exists());
    // Cut before the old one was removed.
    fs::write(place.premises().old_store(), OLD).unwrap();
    place.check(Start::Ordinary, NEW, State::Served);
    assert!(!place.premises().old_store().exists());
}

#[test]
fn without_an_old_store_there_is_no_way_back() {
    let place = Place::new("empty");
    fs::write(place.premises().new_store(), NEW).unwrap();
    place.premises().begin(Uuid::nil(), UnixMs(0), UnixMs(1)).unwrap();
    place.check(Start::OnTrial, NEW, State::Trial);
    place.check(Start::OnTrial, NEW, State::Trial);
}

#[test]
fn a_damaged_journal_is_no_restore() {
    let place = Place::staged("journal");
    fs::write(place.0.join("restore.json"), "{\"state\":").unwrap();
    place.check(Start::Ordinary, OLD, State::None);
}

#[test]
fn no_store_is_lost_with_the_journal() {
    let place = Place::staged("lost");
    fs::rename(place.premises().store(), place.premises().old_store()).unwrap();
    fs::remove_file(place.0.join("restore.json")).unwrap();
    place.check(Start::Ordinary, OLD, State::None);
}

#[test]
fn a_restored_store_that_is_gone_is_not_waited_for() {
    let place = Place::staged("gone");
    fs::remove_file(place.premises().new_store()).unwrap();
    place.check(Start::Ordinary, OLD, State::RolledBack);
}
