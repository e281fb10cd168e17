//! The one binary: the daemon, and the client of its management API.

use std::process::ExitCode;

fn main() -> ExitCode {
    picloud::cli::run(|config| picloud::service::serve(&config, picloud::service::device_key()))
}
