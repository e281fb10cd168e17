//! The build itself: done again, elsewhere, it makes the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Kit;
use crate::card::{Card, run};

/// Builds everything in an empty folder; gives the hash of each file that it made.
fn build(kit: &Kit, program: &Path, name: &str) -> BTreeMap<String, String> {
    let tree = kit.work.join(name);
    let _ = fs::remove_dir_all(&tree);
    let made = tree.join("target/image");
    fs::create_dir_all(&made).unwrap();
    let here = std::env::current_dir().unwrap();
    let files = run("git", &["ls-files"]);
    run(
        "cp",
        &[&["--parents"], files.lines().collect::<Vec<_>>().as_slice(), &[tree.to_str().unwrap()]].concat(),
    );
    // The packages were fetched already, and both are signed by one key.
    let beside = kit.card.parent().unwrap();
    run("cp", &["-rl", beside.join("debs").to_str().unwrap(), made.to_str().unwrap()]);
    fs::copy(&kit.key, made.join("development.key")).unwrap();
    let output = Command::new("scripts/build-image")
        .arg("--drift")
        .current_dir(&tree)
        .env("GIT_DIR", here.join(".git"))
        .env("PICLOUD_PROGRAM", program)
        .env("PICLOUD_HERE", env!("CARGO_BIN_EXE_picloud"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = fs::read_dir(&made).unwrap().map(|entry| entry.unwrap());
    files
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            println!("    {name}: {} bytes", entry.metadata().unwrap().len());
            (name, run("sha256sum", &[entry.path().to_str().unwrap()])[..64].to_owned())
        })
        .collect()
}

/// What Raspberry Pi Imager reads (its schema of an `os_list`): all that it requires, and true.
fn manifest(made: &Path, hashes: &BTreeMap<String, String>) {
    let name = |end: &str| hashes.keys().find(|name| name.ends_with(end)).unwrap();
    let text = fs::read_to_string(made.join(name("rpi-imager-manifest"))).unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entry = &list["os_list"][0];
    for key in ["name", "description", "icon", "url", "release_date", "init_format", "architecture"] {
        assert!(entry[key].is_string(), "{key} of {text}");
    }
    assert_eq!(entry["url"], name("img.xz").as_str());
    assert_eq!(entry["init_format"], "rpi-preseed");
    assert!(entry["devices"].as_array().is_some_and(|devices| !devices.is_empty()), "{text}");
    for (file, bytes, hash) in [
        (name(".img"), "extract_size", "extract_sha256"),
        (name("img.xz"), "image_download_size", "image_download_sha256"),
    ] {
        assert_eq!(entry[bytes], fs::metadata(made.join(file)).unwrap().len(), "{bytes}");
        assert_eq!(entry[hash], hashes[file].as_str(), "{hash}");
    }
    let sums = made.join(name(".sha256"));
    let check = format!("cd {} && sha256sum --quiet -c {}", made.display(), sums.display());
    run("sh", &["-c", &check]);
}

pub(crate) fn twice(kit: &Kit) {
    let card = Card::flash(kit, "twice", 2, "");
    let program = kit.work.join("twice.picloud");
    let dump = format!("dump /usr/bin/picloud {}", program.display());
    run("debugfs", &["-R", &dump, card.partition(2).to_str().unwrap()]);
    let (first, second) = (build(kit, &program, "built-once"), build(kit, &program, "built-again"));
    assert_eq!(first, second);
    let name = kit.card.file_name().unwrap().to_str().unwrap();
    let card = run("sha256sum", &[kit.card.to_str().unwrap()]);
    assert_eq!(first[name], card[..64], "it is the card that the other checks have");
    for made in ["img.xz", "picloud-update", "spdx.json", "rpi-imager-manifest", "sha256"] {
        assert!(first.keys().any(|name| name.ends_with(made)), "{made} is missing");
    }
    manifest(&kit.work.join("built-once/target/image"), &first);
    println!(
        "    the same twice: {}",
        first.iter().map(|(name, hash)| format!("{name} {hash}")).collect::<Vec<_>>().join(", ")
    );
    for tree in ["built-once", "built-again"] {
        fs::remove_dir_all(kit.work.join(tree)).unwrap();
    }
}
