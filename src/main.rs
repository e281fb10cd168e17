//! The one binary: the daemon, and the client of its management API.

use std::process::ExitCode;

fn main() -> ExitCode {
    picloud::cli::run(|config| {
        let device_key = std::env::var("PICLOUD_API_KEY").ok().filter(|key| !key.is_empty());
        picloud::service::serve(&config, device_key)
    })
}
