//! `picloud backup` and `picloud restore`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};

use super::args::Limit;
use super::client::{Client, segment};
use super::error::Error;
use super::render::{Column, clean, field, text};
use super::session::Session;
use super::{find, input};
use crate::config::{Config, Overrides};
use crate::model::Chapter;

/// A daemon that restores lets requests end first and then opens the new store: so long at the most.
const RESTORE_TIME_MAX: Duration = Duration::from_secs(600);
/// From one look at a restore to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is done without a running daemon; the process's `main` knows how.
#[derive(Clone, Copy, Debug)]
pub struct Offline {
    /// Checks a backup and tells what it is.
    pub check: fn(&Path) -> Result<Value, String>,
    /// Makes a backup the store of the next start.
    pub restore: fn(&Config, &Path) -> Result<Value, String>,
    /// Brings data back to this program's schema, with a backup if need be.
    pub go_back: fn(&Config, &Path) -> Result<Option<String>, String>,
    /// What scripts can call.
    pub reference: fn() -> Vec<Chapter>,
    /// The same as a Markdown page.
    pub markdown: fn(&[Chapter]) -> String,
    /// The number of the schema that is written.
    pub schema: u32,
    /// Serves the page that tells why there is no daemon.
    pub rescue: fn() -> ExitCode,
    /// Told why the daemon was not started.
    pub cannot_start: fn(&str),
    /// Tells systemd that a program which it watches is ready (`true`), and later that it still lives.
    pub alive: fn(bool),
}

/// How to back up.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BackupArgs {
    /// Write a fresh backup to a file on this machine, and check it, instead of keeping one on the device
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Let the backup carry the key of the secrets, so that they open on whatever device it is restored on; keep the
    /// file as safe as them
    #[arg(long)]
    with_secrets: bool,
    /// What to do.
    #[command(subcommand)]
    verb: Option<BackupVerb>,
}

#[derive(Debug, Subcommand)]
enum BackupVerb {
    /// List the backups on the device, newest first
    Ls(Limit),
    /// Show a backup: what is in it, and where its copy is
    Show {
        /// Its id
        id: String,
    },
    /// Bring a backup to this machine, and check it
    Download {
        /// Its id
        id: String,
        /// Where to [default: its own name, in this directory]
        file: Option<PathBuf>,
    },
    /// Delete a backup from the device
    Rm {
        /// Its id
        id: String,
    },
}

/// How to restore.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The id of a backup on the device, or a file on this machine
    #[arg(value_name = "ID|FILE")]
    from: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Only check a file; needs no running PiCloud
    #[arg(long, conflicts_with_all = ["yes", "data_dir"])]
    check: bool,
    /// Restore the file into a data directory that no PiCloud has open; for one that does not start any more
    #[arg(long, value_name = "DIR", conflicts_with = "yes")]
    data_dir: Option<PathBuf>,
}

const COLUMNS: &[Column] = &[
    Column("ID", |item| field(item, "id")),
    Column("CREATED", |item| field(item, "created_at")),
    Column("BYTES", |item| field(item, "bytes")),
    Column("SCHEMA", |item| field(item, "schema")),
    Column("VERSION", |item| field(item, "version")),
    Column("COPY", |item| copy_in_words(&item["copy"])),
];
const FIRST: &[&str] = &["id", "created_at", "file", "bytes", "sha256", "version", "schema"];

/// `picloud backup`.
pub(super) fn back_up(session: &mut Session<'_>, args: BackupArgs) -> Result<(), Error> {
    match (args.verb, args.to) {
        (None, None) => make(session, args.with_secrets),
        (None, Some(file)) => {
            let from = if args.with_secrets { "/api/v1/export?secrets=true" } else { "/api/v1/export" };
            let found = fetch(&session.client, session.offline, from, "the export", &file)?;
            session.told(format_args!("wrote {}: sound, {}", file.display(), in_words(&found)), &found)
        }
        (Some(BackupVerb::Ls(limit)), _) => {
            let list = session.client.list("/api/v1/backups", &[], limit.or_all(), "the backups")?;
            session.table(&list, COLUMNS, "no backups yet; make one with `picloud backup`")
        }
        (Some(BackupVerb::Show { id }), _) => {
            let value = session.client.get(&path(&id), &named(&id))?;
            session.object(&value, FIRST)
        }
        (Some(BackupVerb::Download { id, file }), _) => download(session, &id, file),
        (Some(BackupVerb::Rm { id }), _) => session.remove(&path(&id), &named(&id)),
    }
}

fn make(session: &mut Session<'_>, secrets: bool) -> Result<(), Error> {
    let body = if secrets { json!({ "secrets": true }) } else { json!({}) };
    let made = session.client.post_patiently("/api/v1/backups", &body, "the backup")?;
    let id = text(&made["id"]);
    session.told(format_args!("backup {id}: {} bytes in {}", made["bytes"], text(&made["file"])), &made)?;
    if made["copy"]["ok"] == false {
        session.note(format_args!("it was not copied: {}", text(&made["copy"]["error"])))?;
    }
    Ok(())
}

fn download(session: &mut Session<'_>, id: &str, file: Option<PathBuf>) -> Result<(), Error> {
    let kept = session.client.get(&path(id), &named(id))?;
    // The name comes from the device: only its last part is a name here.
    let own = kept["file"].as_str().and_then(|name| Path::new(name).file_name()).map(PathBuf::from);
    let file = file.or(own).ok_or_else(|| Error::Failed(format!("{} has no name", named(id))))?;
    let found =
        fetch(&session.client, session.offline, &format!("{}/download", path(id)), &named(id), &file)?;
    session.told(format_args!("wrote {}: sound, {}", file.display(), in_words(&found)), &found)
}

/// Streams a backup into a file, which gets its name when it was checked. Tells what it is.
pub(super) fn fetch(
    client: &Client,
    offline: Offline,
    from: &str,
    what: &str,
    file: &Path,
) -> Result<Value, Error> {
    let mut partial = file.to_owned().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let unwritten = |why: io::Error| Error::Failed(format!("cannot write {}: {why}", partial.display()));
    let mut stream = client.download(from, what)?;
    let written = create(&partial).and_then(|mut out| {
        io::copy(&mut stream, &mut out)?;
        out.sync_all()
    });
    let checked = written
        .map_err(unwritten)
        .and_then(|()| (offline.check)(&partial).map_err(|why| unsound(file, &why)))
        .and_then(|found| fs::rename(&partial, file).map(|()| found).map_err(unwritten));
    if checked.is_err() {
        // It may not have been made.
        let _ = fs::remove_file(&partial);
    }
    checked
}

/// A backup holds what only its owner may read.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What `picloud restore` does without a daemon, if that is what was asked for.
pub(super) fn restore_offline(
    args: &RestoreArgs,
    offline: Offline,
    environment: &[(OsString, OsString)],
) -> Option<Result<(String, Value), Error>> {
    let file = Path::new(&args.from);
    if args.check {
        let found = (offline.check)(file).map_err(|why| unsound(file, &why));
        return Some(found.map(|found| (format!("{}: sound, {}", file.display(), in_words(&found)), found)));
    }
    let data_dir = args.data_dir.clone()?;
    let config = Config::load(
        None,
        environment.to_vec(),
        Overrides { data_dir: Some(data_dir), ..Overrides::default() },
    );
    let restored = config.map_err(Error::from).and_then(|config| {
        (offline.restore)(&config, file).map_err(|why| Error::Failed(format!("{}: {why}", file.display())))
    });
    Some(restored.map(|report| {
        let line = "it is checked and ready: the next `picloud serve` on this directory opens it, and goes back to the store that is there if it does not serve";
        (line.to_owned(), report)
    }))
}

/// `picloud restore`, by a running daemon.
pub(super) fn restore(session: &mut Session<'_>, args: &RestoreArgs) -> Result<ExitCode, Error> {
    let what = format!("everything on {} by backup {}", session.client.url(), clean(&args.from));
    match if args.yes { Some(true) } else { input::confirm(&format!("replace {what}?"))? } {
        Some(true) => {}
        Some(false) => return Err(Error::Failed("nothing was restored".to_owned())),
        None => return Err(Error::Usage(format!("this replaces {what}; add --yes"))),
    }
    let accepted = match find::id(&args.from) {
        Some(id) => {
            let body = json!({ "backup_id": id });
            session.client.post_patiently("/api/v1/restore", &body, &named(&id))?
        }
        None => {
            let (mut file, bytes) = input::file(Path::new(&args.from))?;
            let kind = ("application/zstd", bytes);
            session.client.upload("/api/v1/restore", kind, &mut file, "the backup")?
        }
    };
    session.note("the backup is sound; PiCloud reopens with it")?;
    let report = wait(session, &accepted)?;
    session.object(&report, &["state", "backup", "at"])?;
    Ok(if report["state"] == "served" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at the restore until it has served, or was taken back.
fn wait(session: &mut Session<'_>, accepted: &Value) -> Result<Value, Error> {
    let until = Instant::now() + RESTORE_TIME_MAX;
    loop {
        let looked = session.client.get("/api/v1/restore", "the restore");
        match looked {
            Ok(report) if report["state"] == "restoring" || report["state"] == "trial" => {}
            Ok(report) => return Ok(report),
            // The house is between two stores.
            Err(Error::Refused { .. } | Error::Unreachable { .. }) => {}
            Err(Error::Unauthorised { url, key }) => {
                session.note(
                    "the restored store does not know this key: use one that it had, or that in admin.key",
                )?;
                return Err(Error::Unauthorised { url, key });
            }
            Err(why) => return Err(why),
        }
        if Instant::now() > until {
            return Err(Error::Failed(format!(
                "the restore of {} does not end; look at the daemon's log",
                accepted["backup"]
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn unsound(file: &Path, why: &str) -> Error {
    Error::Failed(format!("{}: {}", file.display(), clean(why)))
}

fn in_words(manifest: &Value) -> String {
    let rows = manifest["tables"].as_object().into_iter().flatten().filter_map(|(_, rows)| rows.as_u64());
    let (made, version) = (field(manifest, "created_at"), text(&manifest["version"]));
    format!("{} rows of {made}, by PiCloud {version}", rows.sum::<u64>())
}

fn copy_in_words(copy: &Value) -> String {
    match copy["ok"].as_bool() {
        Some(true) => text(&copy["path"]),
        Some(false) => format!("failed: {}", text(&copy["error"])),
        None => "-".to_owned(),
    }
}

fn path(id: &str) -> String {
    format!("/api/v1/backups/{}", segment(id))
}

fn named(id: &str) -> String {
    format!("backup {}", clean(id))
}
