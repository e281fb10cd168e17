//! Updates, from the bundle to the slot that confirms itself or is taken back.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Kit;
use crate::card::{Card, run};
use crate::checks::{deploy, restart};
use crate::pi::{Pi, SHELL, until};

/// A bundle of this slot under another version; `program` takes the place of the daemon's.
pub(crate) fn bundle(kit: &Kit, name: &str, version: &str, change: impl FnOnce(&Path)) -> PathBuf {
    let card = Card::flash(kit, name, 2, "");
    let slot = card.partition(2);
    let image = kit.work.join(format!("{name}.json"));
    let text = run("debugfs", &["-R", "cat /usr/lib/picloud/image.json", slot.to_str().unwrap()]);
    let mut fields: serde_json::Value = serde_json::from_str(&text).unwrap();
    fields["version"] = version.into();
    fs::write(&image, fields.to_string()).unwrap();
    debugfs(
        &slot,
        &[
            "rm /usr/lib/picloud/image.json",
            &format!("write {} /usr/lib/picloud/image.json", image.display()),
        ],
    );
    change(&slot);
    let out = kit.work.join(format!("{name}.picloud-update"));
    let picloud = env!("CARGO_BIN_EXE_picloud");
    let schema = run(picloud, &["schema"]);
    let words = |path: &Path| path.to_str().unwrap().to_owned();
    let (slot, image, key, to) = (words(&slot), words(&image), words(&kit.key), words(&out));
    run(
        picloud,
        &[
            "device",
            "bundle",
            "--slot",
            &slot,
            "--image",
            &image,
            "--key",
            &key,
            "--schema",
            schema.trim(),
            "-o",
            &to,
        ],
    );
    let _ = fs::remove_file(&card.path);
    out
}

pub(crate) fn debugfs(slot: &Path, lines: &[&str]) {
    for line in lines {
        run("debugfs", &["-w", "-R", line, slot.to_str().unwrap()]);
    }
}

/// A bundle on the boot partition.
pub(crate) const BROUGHT: &str = "brought.upd";

/// Gives it to the daemon, by the command line on the board.
pub(crate) fn bring(pi: &mut Pi) {
    pi.sh(&format!("picloud update /boot/firmware/{BROUGHT} --no-wait"));
}

pub(crate) fn update(kit: &Kit) {
    let newer = bundle(kit, "newer", "99.0.0", |_| {});
    let (card, mut pi) = with_bundle(kit, "update", &newer);
    let key = pi.key();
    // What is not signed by a known key is refused, and nothing is written.
    let stranger = kit.work.join("stranger.pem");
    run("openssl", &["genpkey", "-algorithm", "ed25519", "-out", stranger.to_str().unwrap()]);
    let forged = Kit {
        card: kit.card.clone(),
        bundle: kit.bundle.clone(),
        key: stranger,
        firmware: kit.firmware.clone(),
        work: kit.work.clone(),
    };
    // A small one: what the emulated board is sent by USB takes its time.
    let forged = bundle(&forged, "forged", "99.0.0", |slot| {
        let bytes = fs::metadata(slot).unwrap().len();
        fs::File::create(slot).unwrap().set_len(bytes).unwrap();
    });
    let refused = pi.picloud(&key, &["update", forged.to_str().unwrap(), "--no-wait"]);
    assert!(!refused.status.success());
    println!("    a forged one: {}", String::from_utf8_lossy(&refused.stderr).trim());

    let from = pi.log().len();
    bring(&mut pi);
    pi.until_logs("PiCloud: slot B", from);
    pi.until_answers("/kept");
    until("the confirmation", || (card.state(0)?.contains("slot=B")).then_some(()));
    assert_eq!(card.state(0), card.state(1));
    assert!(!card.state(0).unwrap().contains("pending=B"));
    let key = pi.key();
    let told = pi.manage(&key, &["update", "--status"]);
    assert!(told.contains("99.0.0"), "{told}");
    println!("    {}", told.lines().map(str::trim).collect::<Vec<_>>().join(" | "));
    assert_eq!(pi.sh("systemctl --failed --no-legend --plain"), "");
    // It stays, also when the plug is pulled again and again.
    restart(&mut pi);
    assert!(pi.sh("cat /proc/cmdline").contains("picloud.slot=B"));
}

/// A bundle whose daemon does something else instead of serving.
fn bundle_that(kit: &Kit, name: &str, version: &str, instead: &str) -> PathBuf {
    bundle(kit, name, version, |slot| {
        let (file, kept) = (kit.work.join("instead"), kit.work.join("picloud.kept"));
        let text = format!(
            "#!/bin/sh\ncase $1 in serve) {instead} ;; *) exec /usr/bin/picloud.kept \"$@\" ;; esac\n"
        );
        fs::write(&file, text).unwrap();
        debugfs(
            slot,
            &[
                &format!("dump /usr/bin/picloud {}", kept.display()),
                "rm /usr/bin/picloud",
                &format!("write {} /usr/bin/picloud.kept", kept.display()),
                &format!("write {} /usr/bin/picloud", file.display()),
                "sif /usr/bin/picloud mode 0100755",
                "sif /usr/bin/picloud.kept mode 0100755",
            ],
        );
    })
}

/// A card that is used, and was given a bundle.
fn with_bundle(kit: &Kit, name: &str, bundle: &Path) -> (Card, Pi) {
    let card = Card::flash(kit, name, 2, &format!("{SHELL} picloud.probation=550"));
    card.put(bundle, BROUGHT);
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    let key = pi.key();
    deploy(kit, &mut pi, &key, "kept");
    (card, pi)
}

/// Slot A is back, and tells why.
fn is_told(pi: &mut Pi, words: &[&str]) {
    pi.until_answers("/kept");
    let key = pi.key();
    let told = pi.manage(&key, &["update", "--status"]);
    for word in words {
        assert!(told.contains(word), "{word}: {told}");
    }
    println!("    {}", told.lines().map(str::trim).take(8).collect::<Vec<_>>().join(" | "));
}

pub(crate) fn rollback(kit: &Kit) {
    let broken = bundle_that(kit, "broken", "99.0.1", "echo broken on purpose >&2; exit 1");
    let (_card, mut pi) = with_bundle(kit, "rollback", &broken);
    let mut from = pi.log().len();
    bring(&mut pi);
    // Three boots, each until the daemon was given up.
    for _ in 0..3 {
        from = pi.until_logs("PiCloud: slot B", from);
    }
    from = pi.until_logs("never confirmed", from);
    pi.until_logs("PiCloud: slot A", from);
    is_told(&mut pi, &["99.0.1", "rolled back", "ended again and again"]);
}

/// What shows only when the time for a proof is over. One boot of the three that there are is enough here.
pub(crate) fn gate(kit: &Kit) {
    let hangs = bundle_that(kit, "hangs", "99.0.2", "exec sleep 3600");
    let offline = bundle(kit, "offline", "99.0.3", |slot| {
        debugfs(slot, &["rm /usr/lib/systemd/system/systemd-networkd.service"]);
    });
    // A system that ends in its emergency mode, where nobody decides.
    let emergency = bundle(kit, "emergency", "99.0.4", |slot| {
        let fstab = kit.work.join("fstab");
        let had = run("debugfs", &["-R", "cat /etc/fstab", slot.to_str().unwrap()]);
        fs::write(&fstab, format!("{had}/dev/nowhere /mnt ext4 defaults 0 0\n")).unwrap();
        debugfs(slot, &["rm /etc/fstab", &format!("write {} /etc/fstab", fstab.display())]);
    });
    for (bundle, words) in [
        (emergency, ["99.0.4", "rolled back", "gave no sign of life"]),
        (hangs, ["99.0.2", "rolled back", "PiCloud is not ready"]),
        (offline, ["99.0.3", "rolled back", "in a network before the update"]),
    ] {
        let (card, mut pi) = with_bundle(kit, "gate", &bundle);
        let from = pi.log().len();
        bring(&mut pi);
        pi.until_logs("PiCloud: slot B", from);
        pi.pull();
        card.set_state(&["pending=B", "slot=A", "tries=1"]);
        let mut pi = Pi::boot(kit, &card);
        let from = pi.until_logs("PiCloud: slot B", 0);
        let from = pi.until_logs("never confirmed", from);
        pi.until_logs("PiCloud: slot A", from);
        is_told(&mut pi, &words);
        pi.pull();
    }
}
