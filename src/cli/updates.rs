//! `picloud update` and `picloud factory-reset`: the appliance as a whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::Error;
use super::input;
use super::render::{clean, text};
use super::session::Session;

/// Checking, writing, three boots that are restarted by the initrd after twenty minutes, and the way back: so long at most.
const UPDATE_TIME_MAX: Duration = Duration::from_secs(90 * 60);
/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const PATH: &str = "/api/v1/updates";

/// What to update by.
#[derive(Debug, clap::Args)]
pub(super) struct UpdateArgs {
    /// A file *.picloud-update on this machine, or a URL that the device fetches it from
    #[arg(value_name = "FILE|URL", required_unless_present_any = ["status", "cancel"])]
    from: Option<String>,
    /// Also go back to an older version, or install the same again
    #[arg(long)]
    force: bool,
    /// Return once the device has it, instead of waiting until the new version has proved itself
    #[arg(long)]
    no_wait: bool,
    /// Only say what runs and how the last updates ended
    #[arg(long, conflicts_with_all = ["from", "force", "no_wait"])]
    status: bool,
    /// Cancel an update that is not installed yet
    #[arg(long, conflicts_with_all = ["from", "force", "no_wait", "status"])]
    cancel: bool,
}

/// How to reset.
#[derive(Debug, clap::Args)]
pub(super) struct ResetArgs {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// `picloud update`.
pub(super) fn update(session: &mut Session<'_>, args: &UpdateArgs) -> Result<ExitCode, Error> {
    if args.cancel {
        session.remove(PATH, "the update")?;
        return Ok(ExitCode::SUCCESS);
    }
    let before = look(session)?;
    let Some(from) = args.from.as_deref().filter(|_| !args.status) else {
        show(session, &before)?;
        return Ok(ExitCode::SUCCESS);
    };
    let accepted = if from.starts_with("http://") || from.starts_with("https://") {
        session.client.post(PATH, &json!({ "url": from, "force": args.force }), "the update")?
    } else {
        upload(session, from, args.force)?
    };
    if args.no_wait {
        session.told("the device has the update; `picloud update --status` says how it goes", &accepted)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = wait(session, &before["reports"][0]["id"])?;
    session.told(clean(&text(&report["message"])), &report)?;
    Ok(if report["outcome"] == "done" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look(session: &Session<'_>) -> Result<Value, Error> {
    session.client.get(PATH, "updates")
}

/// What runs, and how the last updates ended.
fn show(session: &mut Session<'_>, standing: &Value) -> Result<(), Error> {
    if session.json {
        return session.document(standing);
    }
    let slot = standing["slot"].as_str().map(|slot| format!(" in slot {slot}")).unwrap_or_default();
    session.say(format_args!("{} ({}) runs{slot}", text(&standing["version"]), text(&standing["build"])))?;
    session.say(in_words(standing))?;
    for report in standing["reports"].as_array().into_iter().flatten() {
        session.say(format_args!("{}  {}", text(&report["at"]), clean(&text(&report["message"]))))?;
        if !report["store"].is_null() {
            session.say(format_args!("  {}", clean(&text(&report["store"]))))?;
        }
    }
    Ok(())
}

fn in_words(standing: &Value) -> String {
    let (done, all) =
        (standing["bytes"].as_u64().unwrap_or(0), standing["bytes_total"].as_u64().unwrap_or(0));
    let percent = done.saturating_mul(100).checked_div(all).map(|percent| format!(", {percent} %"));
    let percent = percent.unwrap_or_default();
    match standing["phase"].as_str().unwrap_or_default() {
        "idle" => "no update is under way".to_owned(),
        "receiving" => format!("the device receives an update{percent}"),
        "downloading" => format!("the device fetches an update{percent}"),
        "checking" => format!("the device checks the update{percent}"),
        "waiting" => "the update waits to be installed".to_owned(),
        "writing" => format!("the other slot is written{percent}"),
        "verifying" => format!("the other slot is read back{percent}"),
        "saving" => "a copy of the data is made".to_owned(),
        "rebooting" => "the device restarts".to_owned(),
        "probation" => "the new version runs, and has to prove itself".to_owned(),
        "done" => "the last update is done".to_owned(),
        "rolled_back" => "the last update was rolled back".to_owned(),
        "failed" => format!("the last update was not installed: {}", clean(&text(&standing["error"]))),
        other => format!("an update is in the phase {}", clean(other)),
    }
}

fn upload(session: &mut Session<'_>, path: &str, force: bool) -> Result<Value, Error> {
    let (file, bytes) = input::file(Path::new(path))?;
    let to = if force { "/api/v1/updates?force=true" } else { PATH };
    let mut sent = Sent { file, bytes, done: 0, told: 0, err: &mut *session.err };
    session.client.upload(to, ("application/octet-stream", bytes), &mut sent, "the update")
}

/// A file that says how much of it was read.
struct Sent<'a> {
    file: File,
    bytes: u64,
    done: u64,
    told: u64,
    err: &'a mut dyn io::Write,
}

impl Read for Sent<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.done = self.done.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let tenths = self.done.saturating_mul(10).checked_div(self.bytes).unwrap_or_default();
        if tenths > self.told {
            self.told = tenths;
            writeln!(self.err, "sent {} % of {} bytes", tenths * 10, self.bytes)?;
        }
        Ok(count)
    }
}

/// Looks at the device, over its restart, until it has another newest report. Says what it does meanwhile.
fn wait(session: &mut Session<'_>, known: &Value) -> Result<Value, Error> {
    let until = Instant::now() + UPDATE_TIME_MAX;
    let mut told = String::new();
    loop {
        let phase = match look(session) {
            Ok(standing) => {
                let newest = &standing["reports"][0];
                if !newest.is_null() && newest["id"] != *known {
                    return Ok(newest.clone());
                }
                match standing["phase"].as_str().unwrap_or_default() {
                    "failed" => return Err(Error::Failed(in_words(&standing))),
                    // Nobody is at it, and it did not end.
                    "idle" | "done" | "rolled_back" => {
                        return Err(Error::Failed("the update was cancelled".to_owned()));
                    }
                    _ => in_words(&standing),
                }
            }
            Err(Error::Refused { .. } | Error::Unreachable { .. }) => "the device restarts".to_owned(),
            Err(why) => return Err(why),
        };
        let words = phase.split(',').next().unwrap_or_default();
        if words != told {
            session.note(words)?;
            told = words.to_owned();
        }
        if Instant::now() > until {
            let why =
                "the update does not end; look at the device's screen, or at `picloud update --status` later";
            return Err(Error::Failed(why.to_owned()));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// `picloud factory-reset`.
pub(super) fn factory_reset(session: &mut Session<'_>, args: &ResetArgs) -> Result<(), Error> {
    let path = "/api/v1/factory-reset";
    let found = session.client.get(path, "the factory reset")?;
    let name = clean(&text(&found["confirm"]));
    let what = format!("apps, data, users, keys, settings and backups on {name}");
    match if args.yes { Some(true) } else { input::confirm(&format!("forget all {what}?"))? } {
        Some(true) => {}
        Some(false) => return Err(Error::Failed("nothing was reset".to_owned())),
        None => return Err(Error::Usage(format!("this removes all {what}; add --yes"))),
    }
    let done = session.client.post(path, &json!({ "confirm": found["confirm"] }), "the factory reset")?;
    session.told(format_args!("{name} restarts and is set up anew"), &done)
}
