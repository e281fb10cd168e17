//! The package under a real systemd: see `scripts/test-systemd`, which makes the machines and runs this.
//!
//! Each check leaves the machine as it found it: installed and running. A check that fails is told at the end, and the
//! others are made all the same.

#![allow(clippy::unwrap_used, clippy::as_conversions, missing_docs, unreachable_pub)]

mod checks;
mod machine;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use checks::CHECKS;
use machine::{Image, Machine};

fn main() -> ExitCode {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let (Some(machines), Some(deb)) = (variable("PICLOUD_MACHINES"), variable("PICLOUD_DEB")) else {
        eprintln!("run scripts/test-systemd: it makes the machines that this needs");
        return ExitCode::FAILURE;
    };
    let words: Vec<String> = env::args().skip(1).collect();
    let (suites, wanted): (Vec<_>, Vec<_>) = words.iter().partition(|word| machines.join(word).is_dir());
    let mut failed = Vec::new();
    for suite in suites {
        let began = Instant::now();
        let machine = Machine::boot(&Image { directory: machines.join(suite) });
        println!(
            "{suite}: booted in {:.0?}, {}",
            began.elapsed(),
            machine.sh("systemctl --version | head -1").trim()
        );
        machine.put(&deb, "/root/picloud.deb");
        for (name, check) in CHECKS {
            // The first installs the package.
            let is_wanted = wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
            if !is_wanted && *name != CHECKS[0].0 {
                continue;
            }
            let began = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| check(&machine)));
            let word = if result.is_ok() { "ok" } else { "FAILED" };
            println!("{suite}: {name} ... {word} ({:.1?})", began.elapsed());
            if result.is_err() {
                println!("{}", machine.run("systemctl status picloud picloud.socket picloud-rescue; journalctl -u 'picloud*' -n 40 --no-pager -o short-monotonic").out);
                failed.push(format!("{suite}: {name}"));
                checks::mend(&machine);
            }
        }
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed:\n  {}", failed.join("\n  "));
        ExitCode::FAILURE
    }
}
