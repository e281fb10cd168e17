//! Why a verb failed, said so that the person at the keyboard knows what to do next.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use super::render::clean;
use crate::config;

/// Why a verb failed. Messages are a line or two.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The daemon's configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Nobody is listening.
    #[error(
        "no PiCloud answers at {url}; is it running? start it with `picloud serve`, or name another with --url"
    )]
    Refused {
        /// Where.
        url: String,
    },
    /// The request did not get through.
    #[error("cannot reach PiCloud at {url}: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// Somebody answers, but not like PiCloud.
    #[error("what answers at {url} is no PiCloud, or not this version: {why}; name another with --url")]
    Foreign {
        /// Where.
        url: String,
        /// What was strange.
        why: String,
    },
    /// 401.
    #[error("{url} refuses {key}; give another with PICLOUD_API_KEY or --key-file")]
    Unauthorised {
        /// Where.
        url: String,
        /// Which key was sent, by its origin.
        key: String,
    },
    /// 403.
    #[error("{url} does not let you do this: {}", clean(.message))]
    Forbidden {
        /// Where.
        url: String,
        /// What the API said.
        message: String,
    },
    /// 404.
    #[error("{what} is not there: {}", clean(.message))]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the API said.
        message: String,
    },
    /// Any other refusal.
    #[error("{}{}", clean(.message), status_note(*.status))]
    Api {
        /// The status.
        status: u16,
        /// What the API said.
        message: String,
        /// All that it said.
        body: Value,
    },
    /// A file of the user cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Our output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Anything else, already in words.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The exit code that the contract gives to this kind.
    pub(super) fn exit_code(&self) -> ExitCode {
        // 64 and 78 are EX_USAGE and EX_CONFIG of sysexits.h.
        ExitCode::from(match self {
            Error::Usage(_) => 64,
            Error::Config(_) => 78,
            Error::Refused { .. } | Error::Unreachable { .. } | Error::Foreign { .. } => 1,
            Error::Unauthorised { .. } | Error::Forbidden { .. } | Error::NotFound { .. } => 1,
            Error::Api { .. } | Error::File { .. } | Error::Output(_) | Error::Failed(_) => 1,
        })
    }
}

/// A conflict or an invalid request speaks for itself; anything else is worth its number.
fn status_note(status: u16) -> String {
    if matches!(status, 400 | 409 | 422) { String::new() } else { format!(" (status {status})") }
}
