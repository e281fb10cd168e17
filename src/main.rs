//! The one binary: the daemon, and the client of its management API.

use std::process::ExitCode;

fn main() -> ExitCode {
    let offline = picloud::cli::Offline {
        check: picloud::service::check_backup,
        restore: picloud::service::restore_offline,
        reference: picloud::script::reference,
        markdown: picloud::script::markdown,
    };
    picloud::cli::run(|config| picloud::service::serve(&config, picloud::service::device_key()), offline)
}
