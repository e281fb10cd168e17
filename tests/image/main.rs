//! The card on an emulated Raspberry Pi 3: see `scripts/test-image`, which makes the card and runs this.
//!
//! Everything is the real thing, from the boot loader on: the card as it is flashed, Debian's U-Boot, the kernel, systemd.
//! What is not: the firmware of the board before U-Boot, which nothing emulates, and the hardware watchdog, which resets
//! the emulated board when it is opened. A check that fails is told at the end, and the others are made all the same.

#![allow(clippy::unwrap_used, clippy::as_conversions, missing_docs, unreachable_pub)]

mod build;
mod card;
mod checks;
mod cuts;
mod lan;
mod pi;
mod stick;
mod updates;
mod writes;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use checks::CHECKS;

/// What `scripts/test-image` made.
pub(crate) struct Kit {
    /// The card as it is flashed.
    pub(crate) card: PathBuf,
    /// What updates a card to the same.
    pub(crate) bundle: PathBuf,
    /// The key that bundles are signed with.
    pub(crate) key: PathBuf,
    /// U-Boot and the board's device tree, which the firmware would hand over.
    pub(crate) firmware: PathBuf,
    /// Where files of the tests go.
    pub(crate) work: PathBuf,
}

fn main() -> ExitCode {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let (Some(card), Some(bundle), Some(key), Some(work)) = (
        variable("PICLOUD_CARD"),
        variable("PICLOUD_BUNDLE"),
        variable("PICLOUD_KEY"),
        variable("PICLOUD_WORK"),
    ) else {
        eprintln!("run scripts/test-image: it makes the card that this needs");
        return ExitCode::FAILURE;
    };
    let kit = Kit { firmware: work.join("firmware"), card, bundle, key, work };
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| check(&kit)));
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("{name} ... {word} ({:.1?})", began.elapsed());
        if result.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed:\n  {}", failed.join("\n  "));
        ExitCode::FAILURE
    }
}
