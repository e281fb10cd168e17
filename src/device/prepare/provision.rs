//! The files that people put on the boot partition before the first boot, or at any later time.
//!
//! Each step leaves a state from which the next boot goes on: the settings are kept first, then the file without its
//! secrets is written beside, and only then the file goes. A boot in between applies the same file once more. A file with
//! errors changes nothing, and stays.

use std::io;
use std::path::Path;

use super::files;
use super::reader::Reader;
use super::settings::Settings;
use super::{ours, preseed};
use crate::device::Place;

/// The files, in the order in which they are applied.
const NAMES: [&str; 2] = ["picloud.toml", "rpi-preseed.toml"];
/// Where people read what was wrong, on the computer that they put the card into.
const ERRORS: &str = "PROVISION-ERROR.txt";
const BYTES_MAX: u64 = 64 * 1024;

/// What came of them.
#[derive(Default)]
pub(super) struct Outcome {
    /// The settings that hold from now on.
    pub(super) settings: Settings,
    /// What is wrong with the files.
    pub(super) errors: Vec<String>,
    /// What did not work with the card.
    pub(super) complaints: Vec<String>,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

/// A file that is right.
struct Good {
    settings: Settings,
    redacted: String,
    notes: Vec<String>,
}

/// Lets the boot partition be written to, does it, and forbids it again.
pub(super) type Unlocked<'a> = &'a dyn Fn(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;

/// Applies what is there over `settings`. `base` is the daemon's configuration of the image; `keeps` is whether what is
/// set now outlives the boot.
pub(super) fn apply(
    place: &Place,
    settings: Settings,
    base: &str,
    keeps: bool,
    unlocked: Unlocked<'_>,
) -> Outcome {
    let mut outcome = Outcome { settings, ..Outcome::default() };
    for name in NAMES {
        let bytes = match files::read(&place.boot().join(name), BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                finish_wiping(place, name, unlocked, &mut outcome);
                // Windows hides known endings, and its editor adds this one.
                if place.boot().join(format!("{name}.txt")).exists() {
                    outcome
                        .errors
                        .push(format!("{name}.txt is not read: call it {name}, without .txt at its end"));
                }
                continue;
            }
            Err(why) => {
                outcome.errors.push(format!("{name} cannot be read: {why}"));
                continue;
            }
        };
        match read(name, &bytes, &outcome.settings, base) {
            Ok(good) => keep(place, name, good, keeps, unlocked, &mut outcome),
            Err(errors) => outcome.errors.extend(errors),
        }
    }
    tell_errors(place, unlocked, &mut outcome);
    outcome
}

/// Reads one file.
fn read(name: &str, bytes: &[u8], before: &Settings, base: &str) -> Result<Good, Vec<String>> {
    let text = std::str::from_utf8(bytes).map_err(|why| {
        let line = bytes[..why.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        vec![format!(
            "{name}, line {line}: this is not UTF-8; save the file as UTF-8, and give a network's name that is no text by \
             ssid_hex"
        )]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(vec![format!("{name} is empty: write it again, or delete it")]);
    }
    let mut reader = Reader::new(name, text);
    let mut notes = Vec::new();
    let settings = if name == NAMES[0] {
        ours::read(&mut reader, text, before, base)
    } else {
        preseed::read(&mut reader, before, &mut notes)
    };
    if !reader.is_good() {
        return Err(reader.into_errors());
    }
    Ok(Good { settings, redacted: reader.redacted(), notes })
}

/// Keeps the settings, and then takes the file away.
fn keep(place: &Place, name: &str, good: Good, keeps: bool, unlocked: Unlocked<'_>, outcome: &mut Outcome) {
    outcome.notes.extend(good.notes.iter().cloned());
    outcome.settings = good.settings;
    if !keeps {
        outcome.notes.push(format!("{name} holds for this boot only and stays where it is"));
        return;
    }
    if let Err(why) = outcome.settings.store(place) {
        outcome.complaints.push(format!("{name} holds for this boot only: it cannot be kept: {why}"));
        return;
    }
    let notes: String = good.notes.iter().map(|note| format!("# Note: {note}\n")).collect();
    let line_end = if good.redacted.ends_with('\n') { "" } else { "\n" };
    let text = format!("{}{line_end}{notes}", good.redacted);
    let boot = place.boot();
    let (file, applied, old) =
        (boot.join(name), boot.join(format!("{name}.applied")), boot.join(format!("{name}.wiping")));
    let taken = unlocked(&mut || {
        files::write_on_fat(&applied, text.as_bytes())?;
        files::rename(&file, &old)?;
        files::wipe(&old)
    });
    if let Err(why) = taken {
        outcome.complaints.push(format!("{name} was applied, but stays on the boot partition: {why}"));
    }
}

/// A file whose secrets a power cut left.
fn finish_wiping(place: &Place, name: &str, unlocked: Unlocked<'_>, outcome: &mut Outcome) {
    let old = place.boot().join(format!("{name}.wiping"));
    if old.exists()
        && let Err(why) = unlocked(&mut || files::wipe(&old))
    {
        outcome.complaints.push(format!("{name}.wiping stays on the boot partition: {why}"));
    }
}

/// Writes down what is wrong, beside the file, or takes away what was.
fn tell_errors(place: &Place, unlocked: Unlocked<'_>, outcome: &mut Outcome) {
    let path = place.boot().join(ERRORS);
    let told = if outcome.errors.is_empty() {
        if path.exists() { unlocked(&mut || files::remove(&path)) } else { Ok(()) }
    } else {
        let text = in_words(&outcome.errors);
        let stands = files::read(&path, BYTES_MAX).is_ok_and(|stands| stands == text.as_bytes());
        // Each boot finds the same errors, and a card wears.
        if stands { Ok(()) } else { unlocked(&mut || files::write_on_fat(&path, text.as_bytes())) }
    };
    if let Err(why) = told {
        outcome.complaints.push(format!("{ERRORS} on the boot partition cannot be changed: {why}"));
    }
}

/// For whoever opens it on any computer.
fn in_words(errors: &[String]) -> String {
    let mut text = String::from(
        "PiCloud did not take over the settings on this card. Nothing of a file with errors was applied; the device went \
         on with what it had.\r\n\r\n",
    );
    for error in errors {
        text += &format!("- {error}\r\n");
    }
    text + "\r\nCorrect the file, put the card back and start the device. This file then goes away.\r\n"
}

/// Whether the boot partition is there at all.
pub(super) fn is_there(boot: &Path) -> bool {
    boot.is_dir()
}
