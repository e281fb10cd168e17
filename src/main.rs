//! The one binary: the daemon, and the client of its management API.

use std::process::ExitCode;

fn main() -> ExitCode {
    let offline = picloud::cli::Offline {
        check: picloud::service::check_backup,
        restore: picloud::service::restore_offline,
        go_back: picloud::service::go_back,
        reference: picloud::script::reference,
        markdown: picloud::script::markdown,
        schema: picloud::store::SCHEMA,
        rescue: picloud::service::rescue,
        cannot_start: |why| picloud::service::cannot_start(why, None),
        alive: picloud::service::alive,
    };
    let daemon = |(config, source, safe_mode)| {
        let device_key = picloud::service::device_key();
        picloud::service::serve(picloud::service::Startup { config, source, safe_mode, device_key })
    };
    picloud::cli::run(daemon, offline)
}
