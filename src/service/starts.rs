//! Starts that did not end well: after several in a short time, the next one runs no scripts.
//!
//! They are noted in the directory that systemd gives to a service for the time until the next boot (systemd.exec(5),
//! RuntimeDirectory=), so they wear no card, and a power cut is none of them. Without systemd nobody restarts the daemon
//! over and over, and nothing is noted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// So many starts ended badly, and the next one runs no scripts. More than the crashes that a single row is let cause,
/// so that a row which takes the daemon down is a dead letter before.
const BAD_MAX: usize = 5;
/// Those of the last so many seconds count.
const WINDOW: Duration = Duration::from_secs(600);

/// The file in systemd's directory.
const FILE: &str = "starts";

/// What is known of the starts since the boot.
#[derive(Debug)]
pub(super) struct Starts {
    file: Option<PathBuf>,
    /// How many of the last ones ended badly.
    bad: usize,
}

impl Starts {
    /// Notes that the daemon starts, and looks at the starts before.
    pub(super) fn note(directory: Option<PathBuf>) -> Starts {
        Starts::note_at(directory.map(|directory| directory.join(FILE)), seconds_since_boot())
    }

    fn note_at(file: Option<PathBuf>, now: u64) -> Starts {
        let Some(path) = &file else { return Starts { file, bad: 0 } };
        let text = fs::read_to_string(path).unwrap_or_default();
        let recent = |then: &u64| *then <= now && now - then < WINDOW.as_secs();
        let mut starts: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).filter(recent).collect();
        let bad = starts.len();
        starts.push(now);
        let lines: String = starts.iter().map(|then| format!("{then}\n")).collect();
        if let Err(error) = fs::write(path, lines) {
            tracing::warn!(%error, "that PiCloud starts could not be noted in {}", path.display());
        }
        Starts { file, bad }
    }

    /// Whether so many ended badly that this one should run no scripts.
    pub(super) fn are_bad(&self) -> bool {
        self.bad >= BAD_MAX
    }

    /// How many ended badly.
    pub(super) fn bad(&self) -> usize {
        self.bad
    }

    /// This start ends before anything was done, for a reason that is no crash: it was none.
    pub(super) fn take_back(&mut self) {
        let Some(path) = &self.file else { return };
        let text = fs::read_to_string(path).unwrap_or_default();
        let kept = text.trim_end().rsplit_once('\n').map_or("", |(kept, _)| kept);
        // One that stays makes a later start a careful one at the worst.
        let _ = if kept.is_empty() { fs::remove_file(path) } else { fs::write(path, format!("{kept}\n")) };
    }

    /// This start ends well, or an operator has looked after it: none of them counts any more.
    pub(super) fn forgive(&mut self) {
        self.bad = 0;
        if let Some(path) = &self.file {
            // One that stays makes the next start a careful one at the worst.
            let _ = fs::remove_file(path);
        }
    }
}

/// Seconds since the boot, also while the machine slept: no clock that somebody sets.
fn seconds_since_boot() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Option<PathBuf> {
        let path = std::env::temp_dir().join(format!("picloud-starts-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        Some(path)
    }

    #[test]
    fn five_bad_starts_in_ten_minutes() {
        let file = file("five");
        for number in 0..5 {
            assert!(!Starts::note_at(file.clone(), 100 + 60 * number).are_bad(), "{number}");
        }
        let mut sixth = Starts::note_at(file.clone(), 400);
        assert!(sixth.are_bad() && sixth.bad() == 5);
        assert!(Starts::note_at(file.clone(), 410).are_bad(), "also the one after");
        sixth.take_back();
        Starts::note_at(file.clone(), 410).take_back();
        assert_eq!(Starts::note_at(file.clone(), 410).bad(), 6, "what found its port taken was no crash");
        sixth.forgive();
        assert!(!Starts::note_at(file, 420).are_bad());
    }

    #[test]
    fn old_starts_do_not_count_nor_does_nonsense() {
        let file = file("old");
        fs::write(file.as_ref().unwrap(), "0\n1\n2\n3\n4\nx\n\n99999\n").unwrap();
        assert_eq!(Starts::note_at(file.clone(), 602).bad(), 2);
        let _ = fs::remove_file(file.unwrap());
    }

    #[test]
    fn without_systemd_nothing_counts() {
        (0..9).for_each(|now| assert!(!Starts::note_at(None, now).are_bad()));
    }
}
