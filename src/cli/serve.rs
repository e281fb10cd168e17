//! `picloud serve`: the configuration, and then the daemon.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::error::Error;
use crate::config::{self, Config};

/// How to serve. Flags beat the environment, which beats the file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration [default: /etc/picloud/picloud.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the data is; made if missing
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// An address with a port to listen on, like 127.0.0.1:8080; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// An address with a port to listen on with TLS, like 127.0.0.1:8443; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    listen_tls: Vec<SocketAddr>,
    /// Run no scripts until `picloud resume`
    #[arg(long)]
    safe_mode: bool,
    /// Only say whether the configuration is valid
    #[arg(long)]
    check_config: bool,
}

/// What the daemon is told: its configuration, where that is read again, and whether it is to run no scripts.
pub type Order = (Config, config::Source, bool);

/// Loads the configuration and hands it to `daemon`, or only checks it.
pub(super) fn run(
    args: Args,
    environment: Vec<(OsString, OsString)>,
    out: &mut dyn Write,
    daemon: impl FnOnce(Order) -> ExitCode,
    cannot_start: fn(&str),
) -> Result<ExitCode, Error> {
    let file = config::find(args.config.as_deref());
    let flags =
        config::Overrides { data_dir: args.data_dir, listen: args.listen, listen_tls: args.listen_tls };
    let source = config::Source { path: args.config, environment, flags };
    let config = source.load();
    if args.check_config {
        config?;
    } else {
        return match config {
            Ok(config) => Ok(daemon((config, source, args.safe_mode))),
            Err(error) => {
                cannot_start(&error.to_string());
                Err(error.into())
            }
        };
    }
    match file {
        Some(file) => writeln!(out, "configuration is valid (read from {})", file.display())?,
        None => writeln!(out, "configuration is valid (no file; {} does not exist)", config::DEFAULT_PATH)?,
    }
    Ok(ExitCode::SUCCESS)
}
