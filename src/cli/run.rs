//! From the process's arguments to its exit code.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::args::{Cli, Command};
use super::backups::Offline;
use super::client::Client;
use super::error::Error;
use super::key::Key;
use super::serve::Order;
use super::session::Session;
use super::trust::Trust;
use super::{
    apps, backups, call, certs, dead_letters, deploy, device, domains, executions, keys, kv, logs, man,
    outbox, routes, scripts, sdk, secrets, serve, status, support, triggers, updates, users,
};

/// Where the daemon is when nobody says otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Where a daemon that systemd started says where it is.
const URL_FILE: &str = "/run/picloud/url";

/// Does what the process's arguments say. `daemon` runs the daemon to its end; only `picloud serve` calls it.
/// `offline` is what other verbs do without one.
///
/// The exit code is 0, 1 if something is broken, 64 if the arguments are wrong, 78 if the configuration is.
pub fn run(daemon: impl FnOnce(Order) -> ExitCode, offline: Offline) -> ExitCode {
    let world = World { args: env::args_os().collect(), environment: env::vars_os().collect() };
    // Not locked: the daemon's threads print too, and would wait for ever.
    run_in(world, &mut io::stdout(), &mut io::stderr(), daemon, offline)
}

/// What the process was given.
pub(super) struct World {
    /// The program's name and its arguments.
    pub(super) args: Vec<OsString>,
    /// The environment.
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl World {
    /// A variable of the environment, if it is UTF-8 and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let (_, value) = self.environment.iter().find(|(key, _)| key == name)?;
        value.to_str().filter(|value| !value.is_empty()).map(str::to_owned)
    }
}

/// [`run`] in a given world, so that tests need no process.
pub(super) fn run_in(
    world: World,
    out: &mut dyn Write,
    err: &mut dyn Write,
    daemon: impl FnOnce(Order) -> ExitCode,
    offline: Offline,
) -> ExitCode {
    let cli = match Cli::try_parse_from(&world.args) {
        Ok(cli) => cli,
        Err(why) => return refuse(&why, out, err),
    };
    match dispatch(cli, world, out, err, daemon, offline)
        .and_then(|code| out.flush().map(|()| code).map_err(Error::from))
    {
        Ok(code) => code,
        // Whoever read our output has seen enough, as in `picloud logs | head`.
        Err(Error::Output(why)) if why.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(why) => {
            // If even standard error is gone, the exit code has to do.
            let _ = writeln!(err, "picloud: {why}");
            why.exit_code()
        }
    }
}

/// Help and version are answers; everything else that the parser returns is a usage error.
fn refuse(why: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    if why.use_stderr() {
        let _ = write!(err, "{}", why.render());
        Error::Usage(String::new()).exit_code()
    } else {
        let _ = write!(out, "{}", why.render());
        ExitCode::SUCCESS
    }
}

fn dispatch(
    cli: Cli,
    world: World,
    out: &mut dyn Write,
    err: &mut dyn Write,
    daemon: impl FnOnce(Order) -> ExitCode,
    offline: Offline,
) -> Result<ExitCode, Error> {
    if let Command::Restore(args) = &cli.command
        && let Some(done) = backups::restore_offline(args, offline, &world.environment)
    {
        let (line, value) = done?;
        if cli.json {
            writeln!(out, "{value:#}")?
        } else {
            writeln!(out, "{line}")?
        }
        return Ok(ExitCode::SUCCESS);
    }
    match cli.command {
        Command::Serve(args) => {
            return serve::run(args, world.environment, out, daemon, offline.cannot_start);
        }
        Command::Man { page } => {
            man::write(page, out)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Schema => {
            writeln!(out, "{}", offline.schema)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Rescue => return Ok((offline.rescue)()),
        Command::Completions { shell } => {
            // Rendered first: the generator panics if its writer fails, as a closed pipe does.
            let mut script = Vec::new();
            clap_complete::generate(
                clap_complete::Shell::from(shell),
                &mut Cli::command(),
                "picloud",
                &mut script,
            );
            out.write_all(&script)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Sdk(args) => {
            sdk::run(&args, cli.json, offline, out)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let Cli { url, key_file, ca_file, client_cert, json, command } = cli;
    let trust = Trust {
        ca_file: ca_file.or_else(|| world.variable("PICLOUD_CA_FILE").map(Into::into)),
        client_cert: client_cert.or_else(|| world.variable("PICLOUD_CLIENT_CERT").map(Into::into)),
    };
    let url = url.or_else(|| world.variable("PICLOUD_URL"));
    let connect = || {
        let url = super::client::parse_url(&url.clone().unwrap_or_else(usual_url))?;
        let key = Key::find(key_file.as_deref(), world.variable("PICLOUD_API_KEY"), &url)?;
        let tls = trust.config(&url)?;
        Ok(Client::new(url, key, tls))
    };
    if let Command::Device(args) = command {
        return device::run(args, &connect, offline, out, err);
    }
    let mut session = Session { client: connect()?, json, offline, out, err };
    ask(&mut session, command)
}

/// The daemon of this machine.
fn usual_url() -> String {
    let told = fs::read_to_string(URL_FILE).map(|text| text.trim().to_owned());
    told.ok().filter(|url| !url.is_empty()).unwrap_or_else(|| DEFAULT_URL.to_owned())
}

/// The verbs that are clients.
fn ask(session: &mut Session<'_>, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::SupportBundle(args) => support::run(session, &args),
        Command::Serve(_) | Command::Rescue | Command::Man { .. } | Command::Schema => Ok(()),
        Command::Completions { .. } | Command::Sdk(_) | Command::Device(_) => Ok(()),
        Command::Resume => status::resume(session),
        Command::App { verb } => apps::run(session, verb),
        Command::Domain { verb } => domains::run(session, verb),
        Command::Cert { verb } => certs::run(session, verb),
        Command::Script { verb } => scripts::run(session, verb),
        Command::Route { verb } => routes::run(session, verb),
        Command::Trigger { verb } => triggers::run(session, verb),
        Command::Kv { verb } => kv::run(session, verb),
        Command::Secret { verb } => secrets::run(session, verb),
        Command::Key { verb } => keys::run(session, verb),
        Command::Setup(args) => users::set_up(session, args),
        Command::User { verb } => users::run(session, verb),
        Command::Deploy(args) => deploy::run(session, args),
        Command::Validate { file } => scripts::validate(session, &file),
        Command::Call(args) => return call::run(session, args),
        Command::Executions(args) => executions::run(session, args),
        Command::Logs(args) => logs::run(session, args),
        Command::DeadLetters { verb } => dead_letters::run(session, verb),
        Command::Outbox(args) => outbox::run(session, args),
        Command::Backup(args) => backups::back_up(session, args),
        Command::Restore(args) => return backups::restore(session, &args),
        Command::Update(args) => return updates::update(session, &args),
        Command::FactoryReset(args) => updates::factory_reset(session, &args),
        Command::Status => return status::run(session),
    }
    .map(|()| ExitCode::SUCCESS)
}
