//! `picloud device`: what systemd runs as root on the appliance. The work is done by the room `device`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::backups::{self, Offline};
use super::client::Client;
use super::error::Error;
use super::prepare;
use super::render::text;
use crate::config::{Config, Server};
use crate::device::{self, Daemon, NotReady, Order, Place, Recovery, Verdict, bundle};

/// Lines of the journal that go into a report, and the most bytes of each.
const JOURNAL_LINES: usize = 200;
const LINE_BYTES_MAX: usize = 1000;

/// How a client of the daemon is made; its address may change until then.
pub(super) type Connect<'a> = &'a dyn Fn() -> Result<Client, Error>;

/// What to do, and where.
#[derive(Debug, clap::Args)]
pub(super) struct DeviceArgs {
    /// Where the files of the device are; only tests have them elsewhere
    #[arg(long, value_name = "DIR", default_value = "/", global = true)]
    root: PathBuf,
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an update bundle of a slot's file system
    Bundle(BundleArgs),
    /// Write an update into the slot that does not run; the next boot tries it
    Install {
        /// Also what is older than what runs, or, where PiCloud does not run, keeps the data in another form
        #[arg(long)]
        force: bool,
        /// The bundle [default: what the daemon left]
        file: Option<PathBuf>,
    },
    /// Early in a boot: write down what became of an update, and put right what it left
    Settle,
    /// On probation: decide whether this slot is well, and let it boot from now on
    Health {
        /// Seconds until it must be
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        wait: u64,
    },
    /// Let this slot boot from now on
    Confirm,
    /// Read the card again and again, and tell systemd as long as it answers
    Watch,
    /// PiCloud was given up: decide whether a restart of the device may help; the exit code is 0 if it may
    Recover {
        /// What PiCloud ended with: systemd's $MONITOR_EXIT_STATUS
        #[arg(long, value_name = "STATUS")]
        ended_with: Option<String>,
    },
    /// Print which slot boots
    State,
    /// Let the next boot forget everything, if the daemon was asked to
    Reset,
    /// Make this boot that of this device: identity, settings, network
    Prepare,
    /// Show the console what there is to show, now that it has changed
    Announce,
    /// Set the clock by web servers, if no time server does
    Clock {
        /// How long time servers are waited for first
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=3600))]
        wait: u64,
        /// How often they are asked until they answer, each time after twice the wait
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
        tries: u32,
    },
}

#[derive(Debug, clap::Args)]
struct BundleArgs {
    /// The file system of the slot
    #[arg(long, value_name = "FILE")]
    slot: PathBuf,
    /// The image.json in it
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The private key, in PEM, as openssl genpkey -algorithm ed25519 makes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The schema that it keeps its data in [default: that of this program]
    #[arg(long, value_name = "N")]
    schema: Option<u32>,
    /// The oldest version that it may follow
    #[arg(long, value_name = "VERSION")]
    min_from: Option<String>,
    /// How hard to pack, as zstd(1) counts
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Option<i32>,
    /// The bundle
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

/// `picloud device`.
pub(super) fn run(
    args: DeviceArgs,
    connect: Connect<'_>,
    offline: Offline,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitCode, Error> {
    let place = Place::below(args.root);
    match args.verb {
        Verb::Bundle(args) => {
            let made = make(args, offline).map_err(failed)?;
            writeln!(out, "{}", serde_json::to_string_pretty(&made).unwrap_or_default())?;
        }
        Verb::Install { force, file } => {
            let order = Order { file, force, schema: offline.schema };
            let update = asking(connect, offline, &mut |daemon| device::install(&place, &order, daemon));
            writeln!(out, "the next boot tries {}", update.map_err(failed)?.name())?;
        }
        Verb::Settle => {
            let go_back = |copy: &Path| (offline.go_back)(&config_of(&place), copy);
            writeln!(out, "{}", device::settle(&place, &go_back, &journal).map_err(failed)?)?;
        }
        Verb::Health { wait } => {
            let time_max = Duration::from_secs(wait);
            let verdict = asking(connect, offline, &mut |daemon| device::health(&place, daemon, time_max));
            match verdict.map_err(failed)? {
                Verdict::NotAsked => writeln!(out, "nothing is on probation")?,
                Verdict::Well => writeln!(out, "the new slot is well, and boots from now on")?,
                Verdict::Unwell(reasons) => {
                    writeln!(err, "picloud: the new slot is not well: {}", reasons.join("; "))?;
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Verb::Confirm => device::confirm(&place).map_err(failed)?,
        Verb::Watch => prepare::watch(&place, offline.alive, out)?,
        Verb::Recover { ended_with } => {
            match device::recover(&place, ended_with.as_deref()).map_err(failed)? {
                Recovery::Restart(count) => {
                    writeln!(out, "PiCloud was given up: the device restarts, time {count} within an hour")?;
                }
                Recovery::Stay(why) => {
                    writeln!(out, "PiCloud was given up, and the device is not restarted: {why}")?;
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Verb::State => {
            let state = device::disk(&place).and_then(|disk| device::State::read(&disk)).map_err(failed)?;
            let state = json!({ "slot": state.slot, "pending": state.pending, "tries": state.tries });
            writeln!(out, "{state}")?;
        }
        Verb::Reset => device::reset(&place).map_err(failed)?,
        Verb::Prepare => prepare::prepare(&place, out, err)?,
        Verb::Announce => device::prepare::announce(&place)?,
        Verb::Clock { wait, tries } => prepare::clock(&place, Duration::from_secs(wait), tries, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(why: device::Error) -> Error {
    Error::Failed(why.to_string())
}

fn make(args: BundleArgs, offline: Offline) -> Result<bundle::Manifest, device::Error> {
    let schema = args.schema.unwrap_or(offline.schema);
    let BundleArgs { slot, image, key, min_from, level, out, .. } = args;
    Ok(bundle::Recipe { slot, image, key, schema, min_from, level, out }.make()?)
}

/// Runs `work` with the running daemon, which is looked for anew for each question: it may not be up yet.
fn asking<T>(connect: Connect<'_>, offline: Offline, work: &mut dyn FnMut(&Daemon<'_>) -> T) -> T {
    let words = |why: Error| why.to_string();
    let ready = || match connect().and_then(|client| client.probe("/api/v1/ready")) {
        Ok((200, _)) => Ok(()),
        Ok((_, said)) if said["reason"] == "cannot_start" => Err(NotReady::Ever(text(&said["error"]))),
        Ok((status, said)) => Err(NotReady::Yet(format!("it answers {status}: {said}"))),
        Err(why) => Err(NotReady::Yet(why.to_string())),
    };
    let vitals = || {
        let said = connect().and_then(|client| client.post("/api/v1/health", &json!({}), "its health"));
        serde_json::from_value(said.map_err(words)?).map_err(|why| why.to_string())
    };
    let export = |file: &Path| {
        let client = connect().map_err(words)?;
        let fetched = backups::fetch(&client, offline, "/api/v1/export", "the export", file);
        fetched.map(|_| ()).map_err(words)
    };
    work(&Daemon { ready: &ready, vitals: &vitals, export: &export })
}

/// Only where the data are matters for the way back; a configuration that cannot be read must not be in it.
fn config_of(place: &Place) -> Config {
    let server = Server { data_dir: place.daemon(), ..Server::default() };
    Config { server, ..Config::default() }
}

/// The last lines of a boot, if the journal has them (journalctl(1)).
fn journal(boot_id: &str) -> Vec<String> {
    let mut journalctl = Command::new("journalctl");
    journalctl.args(["--quiet", "--no-pager", "--output=short-iso", "--lines", &JOURNAL_LINES.to_string()]);
    let read = journalctl.arg(format!("--boot={boot_id}")).output();
    let Ok(read) = read else { return Vec::new() };
    let cut = |line: &str| line.chars().take(LINE_BYTES_MAX).collect();
    String::from_utf8_lossy(&read.stdout).lines().map(cut).take(JOURNAL_LINES).collect()
}
