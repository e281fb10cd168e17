//! `picloud setup` and `picloud user`.
//!
//! Passwords and the setup code are asked for at the terminal, where they do not show, or read from files or the lines of
//! standard input; never from the arguments.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::Limit;
use super::error::Error;
use super::render::{Column, clean, field, text};
use super::session::Session;
use super::{find, input, secrets};

/// How a new device is taken into use.
#[derive(Debug, clap::Args)]
pub(super) struct SetupArgs {
    /// The e-mail address of its first user
    #[arg(long, value_name = "ADDRESS")]
    email: String,
    /// A file with the setup code that the device shows; else it is asked for, or the last line of standard input
    #[arg(long, value_name = "FILE")]
    setup_code_file: Option<PathBuf>,
    /// Where the password is.
    #[command(flatten)]
    password: PasswordFrom,
    /// Write the new api key to this file, for --key-file, instead of printing it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// Where a password is read from.
#[derive(Debug, clap::Args)]
pub(super) struct PasswordFrom {
    /// A file with the password; else it is asked for, or the first line of standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the users
    #[command(alias = "list")]
    Ls(Limit),
    /// Make a user, who may do everything; the password is asked for
    Add {
        /// The e-mail address
        email: String,
        /// Where the password is.
        #[command(flatten)]
        password: PasswordFrom,
    },
    /// Set another password, which ends the user's sessions
    Passwd {
        /// The e-mail address or id
        user: String,
        /// Where the password is.
        #[command(flatten)]
        password: PasswordFrom,
    },
    /// Remove a user, and end the user's sessions; api keys stay
    #[command(alias = "remove")]
    Rm {
        /// The e-mail address or id
        user: String,
    },
}

const COLUMNS: &[Column] = &[
    Column("EMAIL", |item| field(item, "email")),
    Column("ID", |item| field(item, "id")),
    Column("CREATED", |item| field(item, "created_at")),
    Column("UPDATED", |item| field(item, "updated_at")),
];

/// Does what is done with users.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls(limit) => {
            let list = session.client.list("/api/v1/users", &[], limit.or_all(), "the list of users")?;
            session.table(&list, COLUMNS, "no users yet; make the first with `picloud setup`")
        }
        Verb::Add { email, password } => {
            let body = json!({ "email": email, "password": password.read()?.as_str() });
            let user = session.client.post("/api/v1/users", &body, "the list of users")?;
            session.told(format_args!("added user {}", clean(&email)), &user)
        }
        Verb::Passwd { user, password } => {
            let path = format!("/api/v1/users/{}", find::user(&session.client, &user)?);
            let what = format!("user {}", clean(&user));
            let body = json!({ "password": password.read()?.as_str() });
            let changed = session.client.patch(&path, &body, &what)?;
            session.told(format_args!("{what} has another password"), &changed)
        }
        Verb::Rm { user } => {
            let path = format!("/api/v1/users/{}", find::user(&session.client, &user)?);
            session.remove(&path, &format!("user {}", clean(&user)))
        }
    }
}

/// Takes a new device into use. The key goes to standard output alone, or to a file.
pub(super) fn set_up(session: &mut Session<'_>, args: SetupArgs) -> Result<(), Error> {
    // Made first: a key that then cannot be written would be lost.
    let saved = args.save.map(Saved::begin).transpose()?;
    let password = args.password.read()?;
    let code = match &args.setup_code_file {
        Some(file) => file_secret(file)?,
        None => input::secret_line("setup code of the device: ")?,
    };
    let body = json!({ "email": args.email, "password": password.as_str(), "setup_code": code.trim() });
    let mut answer = session.client.post("/api/v1/setup", &body, "the setup of the device")?;
    let email = clean(&args.email);
    let Some(saved) = saved else {
        if session.json {
            return session.document(&answer);
        }
        session.note(format_args!("the device is set up for {email}; an api key is shown this once:"))?;
        return session.say(text(&answer["api_key"]["secret"]));
    };
    let secret = Zeroizing::new(text(&answer["api_key"]["secret"]));
    let path = saved.end(&secret)?;
    if let Some(key) = answer["api_key"].as_object_mut() {
        key.insert("secret".to_owned(), Value::Null);
    }
    session
        .told(format_args!("the device is set up for {email}; its api key is in {}", path.display()), &answer)
}

impl PasswordFrom {
    /// A new password; at a terminal it is asked for twice.
    fn read(&self) -> Result<Zeroizing<String>, Error> {
        if let Some(file) = &self.password_file {
            return file_secret(file);
        }
        let password = input::secret_line("new password: ")?;
        if input::is_asked() && *password != *input::secret_line("the same again: ")? {
            return Err(Error::Usage("the two passwords differ; nothing was changed".into()));
        }
        Ok(password)
    }
}

fn file_secret(file: &Path) -> Result<Zeroizing<String>, Error> {
    secrets::value(file).map(Zeroizing::new)
}

/// A file for a key, which goes again if there will be none.
struct Saved {
    path: PathBuf,
    file: fs::File,
    is_done: bool,
}

impl Saved {
    fn begin(path: PathBuf) -> Result<Saved, Error> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match made {
            Ok(file) => Ok(Saved { path, file, is_done: false }),
            Err(why) => Err(Error::Failed(format!("cannot make {}: {why}", path.display()))),
        }
    }

    fn end(mut self, secret: &str) -> Result<PathBuf, Error> {
        writeln!(self.file, "{secret}")?;
        self.file.sync_all()?;
        self.is_done = true;
        Ok(self.path.clone())
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if !self.is_done {
            // It is empty.
            let _ = fs::remove_file(&self.path);
        }
    }
}
