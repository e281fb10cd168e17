//! `picloud device prepare`: what makes a freshly booted slot this very device, before anything else starts.
//!
//! Identity is made once and lies in the data partition, settings come from files that people put on the boot partition,
//! and everything that programs of the image read is made anew below `/run` at each boot. It never fails a boot: what does
//! not work is told, on the console and in `prepare.json`, and defaults go on. Run twice, it changes nothing the second
//! time. What touches the running kernel is in `machine`.
//! Root's helper calls it, and calls [`announce`] again when the first user exists.

#[cfg(test)]
mod access_tests;
mod banner;
mod files;
mod identity;
mod machine;
mod network;
mod ours;
mod preseed;
mod provision;
mod reader;
mod render;
mod settings;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
mod values;

use std::io;

pub use self::identity::Random;
use self::settings::Settings;
use super::Place;
use banner::Told;

/// What came of it, for the journal.
#[derive(Debug)]
pub struct Prepared {
    /// The name of the device.
    pub host_name: String,
    /// What is wrong with the files that people wrote.
    pub errors: Vec<String>,
    /// What did not work.
    pub complaints: Vec<String>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// Prepares the device for this boot.
pub fn prepare(place: &Place, random: Random<'_>) -> Prepared {
    let mut complaints = Vec::new();
    let mut tell = |what: &str, done: io::Result<()>| {
        if let Err(why) = done {
            complaints.push(format!("{what}: {why}"));
        }
    };
    tell("/run/picloud-device cannot be made", files::directory(&place.run(), 0o755));
    tell("the identity has no place", files::directory(&place.identity(), 0o700));
    tell("the keys of the host have no place", files::directory(&place.identity().join("ssh"), 0o700));
    tell(
        "what was booted cannot be told",
        write(place, "boot.json", &identity::boot(place).to_string(), 0o644),
    );

    let settings = Settings::load(place).unwrap_or_else(|why| {
        complaints.push(why);
        Settings::default()
    });
    let base = render::base(place).unwrap_or_else(|why| {
        complaints.push(why);
        String::new()
    });
    // What is written into the memory that stands for a missing data partition is gone at the next boot.
    let keeps = !place.run().join("no-data").exists();
    let outcome = if provision::is_there(&place.boot()) {
        provision::apply(place, settings, &base, keeps, &|work| machine::with_boot_unlocked(place, work))
    } else {
        complaints.push("the boot partition is not there: no settings are taken from it".to_owned());
        provision::Outcome { settings, ..provision::Outcome::default() }
    };
    complaints.extend(outcome.complaints);
    let settings = outcome.settings;

    let host_name = identity::host_name(place, &settings).unwrap_or_else(|(name, why)| {
        complaints.push(format!("the name of the device cannot be kept: {why}"));
        name
    });
    let named = machine::set_host_name(place, &host_name);
    complaints.extend(named.err().map(|why| format!("the name of the device cannot be set: {why}")));
    let key = identity::admin_key(place, &settings, random)
        .and_then(|key| write(place, "api-key", &format!("{key}\n"), 0o600));
    complaints.extend(key.err().map(|why| format!("helpers have no api key: {why}")));
    let code = identity::setup_code(place, &settings, random)
        .and_then(|code| write(place, "setup-code", &format!("{code}\n"), 0o600));
    complaints.extend(code.err().map(|why| format!("there is no setup code: {why}")));
    complaints.extend(render::all(place, &settings, &host_name, &base));

    let told = Told { host_name, errors: outcome.errors, complaints, notes: outcome.notes };
    let kept = serde_json::to_string(&told)
        .map_err(io::Error::other)
        .and_then(|text| write(place, "prepare.json", &text, 0o644));
    let shown = show(place, &told);
    let mut complaints = told.complaints;
    complaints.extend(kept.and(shown).err().map(|why| format!("the console cannot be told: {why}")));
    Prepared { host_name: told.host_name, errors: told.errors, complaints, notes: told.notes }
}

/// Writes the banner of the console anew: once a user exists, the setup code goes from it.
///
/// # Errors
/// If it cannot be written, or this boot was not prepared.
pub fn announce(place: &Place) -> io::Result<()> {
    let kept = files::read(&place.run().join("prepare.json"), 256 * 1024)?;
    let told: Told = serde_json::from_slice(&kept).map_err(io::Error::other)?;
    show(place, &told)
}

fn show(place: &Place, told: &Told) -> io::Result<()> {
    let code = if identity::is_set_up(place) {
        None
    } else {
        let bytes = files::read(&place.run().join("setup-code"), 256).unwrap_or_default();
        Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|code| !code.is_empty())
    };
    let directory = place.path("run/issue.d");
    files::directory(&directory, 0o755)?;
    // It is on every console anyway, but not for every process.
    files::write(
        &directory.join("picloud.issue"),
        banner::text(place, told, code.as_deref()).as_bytes(),
        0o600,
    )
}

fn write(place: &Place, name: &str, text: &str, mode: u32) -> io::Result<()> {
    files::write(&place.run().join(name), text.as_bytes(), mode)
}
