//! The grammar of the command line: the global options, the verbs, and arguments that several verbs share.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    apps, backups, call, certs, dead_letters, deploy, device, domains, executions, keys, kv, logs, man,
    outbox, routes, scripts, sdk, secrets, serve, support, triggers, updates, users,
};

/// Your own code at home: scripts bound to routes, on one Raspberry Pi.
///
/// `picloud serve` runs the device; every other verb asks a running one.
#[derive(Debug, Parser)]
#[command(name = "picloud", version, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Cli {
    /// The running PiCloud [env: PICLOUD_URL] [default: the one of this machine, http://127.0.0.1:8080 if it does not say]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// A file that holds the api key; else PICLOUD_API_KEY, else the admin key of a daemon on this machine
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// A file of certificate authorities, in PEM, that an https URL is checked by; else the public ones, and for a
    /// daemon on this machine its own [env: PICLOUD_CA_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// A file with a client certificate and its key, in PEM, for a daemon that asks for one [env: PICLOUD_CLIENT_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) client_cert: Option<PathBuf>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon
    Serve(serve::Args),
    /// Deploy a script file and its routes: creates or updates, and changes nothing that is already so
    Deploy(deploy::Args),
    /// Check a script file without storing it
    Validate {
        /// The file, or - for standard input
        file: PathBuf,
    },
    /// Call a route or a script, and print the answer
    Call(call::Args),
    /// Apps: owners of scripts, routes and domains
    App {
        /// What to do.
        #[command(subcommand)]
        verb: apps::Verb,
    },
    /// Domains: the hosts that an app answers
    Domain {
        /// What to do.
        #[command(subcommand)]
        verb: domains::Verb,
    },
    /// Certificates for HTTPS, and the device's own authority
    Cert {
        /// What to do.
        #[command(subcommand)]
        verb: certs::Verb,
    },
    /// Scripts and their versions
    Script {
        /// What to do.
        #[command(subcommand)]
        verb: scripts::Verb,
    },
    /// Routes: which script answers which method and path
    Route {
        /// What to do.
        #[command(subcommand)]
        verb: routes::Verb,
    },
    /// Triggers: run a script by the clock, or when something happens
    Trigger {
        /// What to do.
        #[command(subcommand)]
        verb: triggers::Verb,
    },
    /// Values that scripts of an app keep
    Kv {
        /// What to do.
        #[command(subcommand)]
        verb: kv::Verb,
    },
    /// Secrets of an app: passwords and tokens that its scripts use
    Secret {
        /// What to do.
        #[command(subcommand)]
        verb: secrets::Verb,
    },
    /// API keys
    Key {
        /// What to do.
        #[command(subcommand)]
        verb: keys::Verb,
    },
    /// Take a new device into use: its first user, by the setup code that it shows
    Setup(users::SetupArgs),
    /// Users: people who log in with a password
    User {
        /// What to do.
        #[command(subcommand)]
        verb: users::Verb,
    },
    /// Executions: what ran and what came of it; lists them if no verb is given
    Executions(executions::Args),
    /// What scripts logged
    Logs(logs::Args),
    /// Work that ended without success
    DeadLetters {
        /// What to do.
        #[command(subcommand)]
        verb: dead_letters::Verb,
    },
    /// Work that was accepted and has not ended
    Outbox(outbox::Args),
    /// Back up the device; its verbs list, download and remove backups
    Backup(backups::BackupArgs),
    /// Replace everything on the device by a backup, after checking all of it
    Restore(backups::RestoreArgs),
    /// What scripts can call: all functions, a namespace or one function; needs no daemon
    Sdk(sdk::Args),
    /// Whether the device is well, and how long its card lasts
    Status,
    /// Update the appliance by a file or from a URL, and wait until the new version has proved itself
    Update(updates::UpdateArgs),
    /// Make the appliance forget everything, as if its card were written anew
    FactoryReset(updates::ResetArgs),
    /// What systemd runs as root on the appliance
    #[command(hide = true)]
    Device(device::DeviceArgs),
    /// End safe mode: let scripts run again
    Resume,
    /// Gather what helps to find out what is wrong with the device into one file, without secrets
    SupportBundle(support::Args),
    /// Serve a page that tells why the daemon does not start, on the sockets that systemd hands over
    #[command(hide = true)]
    Rescue,
    /// Print the number of the schema that this program's data have
    #[command(hide = true)]
    Schema,
    /// Print a manual page
    #[command(hide = true)]
    Man {
        /// The page
        page: man::Page,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The shells we write completions for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> clap_complete::Shell {
        match shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        }
    }
}

/// How much of a list.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Limit {
    /// At most so many; 0 = all
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
}

impl Limit {
    /// The number asked for, or `default`; `None` is all.
    pub(super) fn or(self, default: usize) -> Option<usize> {
        Some(self.limit.unwrap_or(default)).filter(|limit| *limit > 0)
    }

    /// The number asked for, or all.
    pub(super) fn or_all(self) -> Option<usize> {
        self.or(0)
    }
}

/// The app a verb is about.
#[derive(Clone, Debug, Args)]
pub(super) struct InApp {
    /// The app, by slug or id
    #[arg(long, value_name = "APP", default_value = "default")]
    pub(super) app: String,
}

/// Narrows a list to an app or a script.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Filter {
    /// Only this app, by slug or id
    #[arg(long, value_name = "APP")]
    pub(super) app: Option<String>,
    /// Only this script, by name or id
    #[arg(long, value_name = "SCRIPT")]
    pub(super) script: Option<String>,
}

/// Who may call, as the API says it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Access {
    /// Everybody
    Public,
    /// Holders of an api key
    Key,
}

/// When sync work is durable, as the API says it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Durability {
    /// Relaxed for GET, HEAD and OPTIONS, strict for the rest
    Auto,
    /// Before the script starts
    Strict,
    /// At most a second later
    Relaxed,
}

/// How bodies reach the script, as the API says it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum BodyMode {
    /// JSON or 400
    Json,
    /// By content type
    Auto,
    /// Always bytes
    Raw,
}

/// Where the certificate of a domain comes from, as the API says it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum TlsSource {
    /// Your own if one covers the name, else an ACME server for public names, else the device
    Auto,
    /// An ACME server, like Let's Encrypt
    Acme,
    /// The device's own authority, for the local network
    Local,
    /// One that you bring
    Pem,
    /// None: the domain is served in the clear
    None,
}

/// The word of a choice, which is also the API's word for it.
pub(super) fn word(choice: impl ValueEnum) -> Option<String> {
    choice.to_possible_value().map(|value| value.get_name().to_owned())
}
