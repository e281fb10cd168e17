//! What is checked, in order.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Kit;
use crate::build;
use crate::card::{Card, run};
use crate::cuts;
use crate::pi::{Pi, SHELL, until};
use crate::stick;

type Check = fn(&Kit);

/// The serial line has what the initrd says.
const LOUD: &str = "loglevel=6";

pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("scan: the card holds what boards need, and nothing that two devices share", scan),
    ("first boot: it answers, is set up, takes a script, and keeps it over a restart", first_boot),
    ("preseed: a file on the boot partition names the device, a bad one is told", preseed),
    ("slots: whatever is broken of state or slots, the other one boots", slots),
    ("update: a bundle goes to the other slot, which confirms itself", update),
    ("rollback: an update that does not work is taken back, and told why", rollback),
    ("reset: an empty file on the boot partition makes the device a new one", reset),
    ("damage: without a data partition a page tells what to do", damage),
    ("full: a data partition without room answers, and takes deletions", full),
    ("clock: a clock in 1970 or in the future stops nothing", clock),
    ("sizes: the data partition takes all of a card of 2, 4 and 8 GiB", sizes),
    ("stick: backups are copied to a USB stick", stick::backups),
    ("cuts: the plug is pulled at every write", cuts::every_write),
    ("twice: two builds of one commit are the same, byte by byte", build::twice),
    ("watchdog: the hardware restarts a system that is lost", watchdog),
];

/// A script, a route and a call of it, by the key of the device.
fn deploy(kit: &Kit, pi: &mut Pi, key: &str, word: &str) {
    let file = kit.work.join(format!("{word}.rhai"));
    fs::write(&file, format!("kv::incr(\"calls\"); \"{word} \" + kv::get(\"calls\")")).unwrap();
    pi.manage(key, &["deploy", file.to_str().unwrap(), "--route", &format!("GET /{word}")]);
    assert_eq!(pi.get(&format!("/{word}")).unwrap(), format!("\"{word} 1\""));
}

/// Restarts it by itself, and waits until it answers again.
fn restart(pi: &mut Pi) {
    let before = pi.log().len();
    pi.ask("systemctl reboot");
    pi.until_logs("PiCloud: slot", before);
    pi.until_answers("/api/v1/health");
}

fn scan(kit: &Kit) {
    let card = Card::flash(kit, "scan", 2, "");
    let mut table = [0; 512];
    std::io::Read::read_exact(&mut fs::File::open(&kit.card).unwrap(), &mut table).unwrap();
    assert_eq!(&table[510..], b"\x55\xaa");
    let kinds: Vec<_> = (0..4).map(|part| (table[446 + 16 * part], table[450 + 16 * part])).collect();
    assert_eq!(
        kinds,
        [(0x80, 0x0c), (0, 0x83), (0, 0x83), (0, 0x83)],
        "the ROM of a Pi 3 boots an active FAT"
    );
    for name in [
        "bootcode.bin",
        "start.elf",
        "fixup.dat",
        "start4.elf",
        "fixup4.dat",
        "u-boot.bin",
        "boot.scr",
        "uboot.env",
        "README.txt",
        "bcm2837-rpi-3-b.dtb",
        "bcm2837-rpi-3-b-plus.dtb",
        "bcm2837-rpi-zero-2-w.dtb",
        "bcm2711-rpi-4-b.dtb",
        "bcm2712-rpi-5-b.dtb",
        "bcm2712-d-rpi-5-b.dtb",
    ] {
        assert!(card.read(name).is_some_and(|text| !text.is_empty()), "{name} is missing");
    }
    let config = card.read("config.txt").unwrap();
    for line in ["arm_64bit=1", "kernel=u-boot.bin", "upstream_kernel=1"] {
        assert!(config.lines().any(|found| found == line), "config.txt lacks {line}");
    }
    for number in [2, 4] {
        run("e2fsck", &["-fn", card.partition(number).to_str().unwrap()]);
    }
    // Slot B is blank.
    let blank = fs::read(card.partition(3)).unwrap();
    assert!(blank.iter().all(|byte| *byte == 0));

    let tree = kit.work.join("tree");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&tree).unwrap();
    let slot = card.partition(2);
    run("debugfs", &["-R", &format!("rdump / {}", tree.display()), slot.to_str().unwrap()]);
    let tree = tree.to_str().unwrap();
    let find = |words: &[&str]| run("find", &[&[tree], words].concat());
    // Its own library of ssh has the words in it; a key would be a file of text.
    let keys = Command::new("grep").args(["-rlIE", "BEGIN [A-Z ]*PRIVATE KEY", tree]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&keys.stdout), "", "private keys");
    assert_eq!(fs::read_to_string(Path::new(tree).join("etc/machine-id")).unwrap(), "");
    let shadow = fs::read_to_string(Path::new(tree).join("etc/shadow")).unwrap();
    assert!(shadow.lines().all(|line| line.split(':').nth(1).unwrap().starts_with('!')), "{shadow}");
    assert_eq!(find(&["-type", "f", "-perm", "-0002"]), "", "world-writable");
    assert_eq!(find(&["-name", "ssh_host_*"]), "");
    assert_eq!(find(&["-nouser", "-o", "-nogroup", "-path", "/none"]), "");
    let here = std::env::current_dir().unwrap();
    let paths = Command::new("grep").args(["-rlF", here.to_str().unwrap(), tree]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&paths.stdout), "", "paths of the machine it was made on");
    // Whatever names are looked up by is there.
    let lookups = fs::read_to_string(Path::new(tree).join("etc/nsswitch.conf")).unwrap();
    let words = lookups.lines().flat_map(|line| line.split_whitespace().skip(1));
    for module in words.filter(|word| !word.starts_with('[') && !matches!(*word, "files" | "dns")) {
        assert_ne!(find(&["-name", &format!("libnss_{module}.so.2")]), "", "{module} of nsswitch.conf");
    }
    let suid: BTreeSet<_> =
        find(&["-perm", "/6000", "-type", "f", "-printf", "%f\n"]).lines().map(str::to_owned).collect();
    let known: BTreeSet<_> = [
        "chage",
        "chfn",
        "chsh",
        "expiry",
        "gpasswd",
        "mount",
        "newgrp",
        "passwd",
        "su",
        "sudo",
        "umount",
        "unix_chkpwd",
        "ssh-keysign",
        "ssh-agent",
        "dbus-daemon-launch-helper",
    ]
    .map(str::to_owned)
    .into();
    assert!(suid.is_subset(&known), "programs with another one's rights: {suid:?}");
    let data = run("debugfs", &["-R", "ls -p /", card.partition(4).to_str().unwrap()]);
    let names: Vec<_> = data.lines().filter_map(|line| line.split('/').nth(5)).collect();
    assert_eq!(names.iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), [&"lost+found"]);
    let _ = fs::remove_dir_all(tree);
}

fn first_boot(kit: &Kit) {
    let card = Card::flash(kit, "first", 2, SHELL);
    let mut pi = Pi::boot(kit, &card);
    let first = pi.until_answers("/hello/you");
    println!("    the first answer of a fresh card came after {first:.0?}, U-Boot included");
    // What a person without a screen needs is on the console.
    let banner = pi.sh("cat /run/issue.d/*.issue");
    println!(
        "    the console says: {}",
        banner.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join(" | ")
    );
    let code = pi.sh("cat /run/picloud-device/setup-code");
    assert!(banner.contains(code.trim()) && banner.contains(".local"), "{banner}");
    let body = serde_json::json!({ "email": "ada@example.org", "password": "correct horse battery", "setup_code": code.trim() });
    let set_up = Command::new("curl")
        .args(["-sS", "-m", "60", "-d", &body.to_string(), "-H", "content-type: application/json"])
        .arg(format!("{}/api/v1/setup", pi.url()))
        .output()
        .unwrap();
    let set_up: serde_json::Value = serde_json::from_slice(&set_up.stdout).unwrap();
    let key = find_key(&set_up).unwrap_or_else(|| panic!("no key in {set_up}"));
    deploy(kit, &mut pi, &key, "kept");

    // The system is well.
    pi.ask("systemctl is-system-running --wait");
    assert_eq!(pi.sh("systemctl --failed --no-legend --plain"), "", "failed units");
    assert_eq!(pi.sh("journalctl -b --no-pager | grep -ci 'ordering cycle' || true"), "0");
    assert_eq!(pi.sh("cat /proc/sys/kernel/tainted"), "0");
    assert!(pi.sh("grep ' / ' /proc/mounts").contains(" ro,"), "the root is read only");
    assert!(pi.sh("grep ' /boot/firmware ' /proc/mounts").contains(" ro,"));
    let listening = pi.sh("ss -Htuln | awk '{print $5}' 2>/dev/null || ss -Htuln");
    for line in listening.lines() {
        let port = line
            .split_whitespace()
            .find(|word| word.contains(':'))
            .unwrap_or(line)
            .rsplit(':')
            .next()
            .unwrap();
        // HTTP and HTTPS; mDNS; the answers of DHCP.
        assert!(["80", "443", "5353", "68", "546"].contains(&port), "somebody listens: {line}");
    }
    let status = pi.manage(&key, &["status"]);
    println!("    {}", status.lines().take(12).map(str::trim).collect::<Vec<_>>().join(" | "));
    let name = pi.sh("uname -n");
    assert!(name.starts_with("picloud-"), "{name}");
    let machine = pi.sh("cat /etc/machine-id");
    let score = pi.sh("systemd-analyze security --no-pager picloud.service | tail -1");
    println!("    {}", score.trim());

    restart(&mut pi);
    assert_eq!(pi.get("/kept").unwrap(), "\"kept 2\"", "it is still there");
    assert_eq!(pi.sh("cat /etc/machine-id"), machine);
    assert_eq!(pi.sh("uname -n"), name);
    assert!(!pi.sh("cat /run/issue.d/*.issue").contains(code.trim()), "the code goes once it was used");
    // The plug is pulled: what was accepted is there.
    pi.pull();
    let mut pi = Pi::boot(kit, &card);
    let again = pi.until_answers("/kept");
    println!("    after the plug was pulled it answered again in {again:.0?}");
}

/// A secret of a key anywhere in an answer.
fn find_key(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Object(fields) => fields.iter().find_map(|(name, value)| match value.as_str() {
            Some(text) if matches!(name.as_str(), "secret" | "api_key" | "key") => Some(text.to_owned()),
            _ => find_key(value),
        }),
        _ => None,
    }
}

fn preseed(kit: &Kit) {
    let card = Card::flash(kit, "preseed", 2, SHELL);
    card.write(
        "picloud.toml",
        "[device]\r\nhostname = \"boat\"\r\ntimezone = \"Europe/Berlin\"\r\n\r\n[admin]\r\nkey = \"a-key-that-was-brought-along\"\r\n\r\n[wifi]\r\nssid = \"Harbour\"\r\npassword = \"sail\\\"ing 123\"\r\ncountry = \"DE\"\r\n",
    );
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    assert_eq!(pi.sh("uname -n"), "boat");
    assert!(pi.sh("date +%Z").starts_with("CE"), "the time zone");
    pi.manage("a-key-that-was-brought-along", &["app", "ls"]);
    assert!(pi.sh("cat /run/picloud-device/wpa_supplicant-wlan0.conf").contains("country=DE"));
    assert_eq!(pi.sh("systemctl --failed --no-legend --plain"), "");
    pi.sh("sync");
    pi.pull();
    assert!(card.read("picloud.toml").is_none());
    let applied = card.read("picloud.toml.applied").unwrap();
    assert!(
        applied.contains("boat") && !applied.contains("sail") && !applied.contains("brought"),
        "{applied}"
    );

    card.write("picloud.toml", "[device]\nhostnam = \"typo\"\n");
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    assert_eq!(pi.sh("uname -n"), "boat", "a bad file changes nothing");
    pi.sh("sync");
    pi.pull();
    let told = card.read("PROVISION-ERROR.txt").unwrap();
    assert!(told.contains("hostnam") && told.contains('2'), "{told}");
    assert!(card.read("picloud.toml").is_some(), "to be mended");
}

fn slots(kit: &Kit) {
    let card = Card::flash(kit, "slots", 2, LOUD);
    // Slot B is the same system.
    let slot = fs::read(card.partition(2)).unwrap();
    card.overwrite(Card::slot('B'), &slot);
    let booted = |card: &Card, said: &str| {
        // What an earlier boot said is not meant.
        let _ = fs::remove_file(card.path.with_extension("log"));
        let mut pi = Pi::boot(kit, card);
        pi.until_logs(said, 0);
        let kernel = pi.until_logs("initrd: slot ", 0);
        let letter = until("the slot", || pi.log().get(kernel..=kernel).map(str::to_owned));
        pi.pull();
        letter
    };
    // The first copy of the state is torn: the second one holds.
    card.set_state(&["pending=", "slot=B", "tries=0"]);
    card.overwrite(crate::card::STATES[0] << 20, &[0x5a; 700]);
    assert_eq!(booted(&card, "state from the second copy"), "B");
    // Both are.
    card.overwrite(crate::card::STATES[1] << 20, &[0x5a; 700]);
    assert_eq!(booted(&card, "no state, slot A"), "A");
    // Pending and never confirmed: three tries, and back.
    card.set_state(&["pending=B", "slot=A", "tries=1"]);
    assert_eq!(booted(&card, "PiCloud: slot B\r"), "B");
    assert_eq!(card.state(0).unwrap(), "pending=B slot=A tries=0");
    assert_eq!(booted(&card, "never confirmed"), "A");
    for copy in [0, 1] {
        let state = card.state(copy).unwrap();
        assert!(!state.contains("pending=B") && state.contains("slot=A"), "{state}");
    }
    // A kernel that is damaged in the middle; then a slot that is blank.
    card.set_state(&["pending=B", "slot=A", "tries=3"]);
    let blocks = run("debugfs", &["-R", "blocks /boot/Image.gz", card.partition(3).to_str().unwrap()]);
    let middle: u64 = blocks.split_whitespace().nth(1000).unwrap().parse().unwrap();
    card.overwrite(Card::slot('B') + middle * 4096, &[0xaa; 4096]);
    assert_eq!(booted(&card, "slot B does not start"), "A");
    card.overwrite(Card::slot('B'), &vec![0; 1 << 20]);
    assert_eq!(booted(&card, "slot B does not start"), "A");
}

/// A bundle of this slot under another version; `program` takes the place of the daemon's.
fn bundle(kit: &Kit, name: &str, version: &str, change: impl FnOnce(&Path)) -> std::path::PathBuf {
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

fn debugfs(slot: &Path, lines: &[&str]) {
    for line in lines {
        run("debugfs", &["-w", "-R", line, slot.to_str().unwrap()]);
    }
}

/// A bundle on the boot partition.
const BROUGHT: &str = "brought.upd";

/// Gives it to the daemon, by the command line on the board.
fn bring(pi: &mut Pi) {
    pi.sh(&format!("picloud update /boot/firmware/{BROUGHT} --no-wait"));
}

fn update(kit: &Kit) {
    let newer = bundle(kit, "newer", "99.0.0", |_| {});
    let card = Card::flash(kit, "update", 2, SHELL);
    card.put(&newer, BROUGHT);
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    let key = pi.key();
    deploy(kit, &mut pi, &key, "kept");
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

fn rollback(kit: &Kit) {
    // A daemon that ends at once.
    let broken = bundle(kit, "broken", "99.0.1", |slot| {
        let file = kit.work.join("ends");
        fs::write(&file, "#!/bin/sh\ncase $1 in serve) echo broken on purpose >&2; exit 1;; *) exec /usr/bin/picloud.kept \"$@\";; esac\n").unwrap();
        let kept = kit.work.join("picloud.kept");
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
    });
    let card = Card::flash(kit, "rollback", 2, SHELL);
    card.put(&broken, BROUGHT);
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    let key = pi.key();
    deploy(kit, &mut pi, &key, "kept");
    let mut from = pi.log().len();
    bring(&mut pi);
    from = pi.until_logs("PiCloud: slot B", from);
    // Each try waits as long as the gate does.
    for _ in 0..2 {
        from = pi.until_logs("PiCloud: slot B", from);
    }
    from = pi.until_logs("never confirmed", from);
    pi.until_logs("PiCloud: slot A", from);
    pi.until_answers("/kept");
    let key = pi.key();
    let told = pi.manage(&key, &["update", "--status"]);
    assert!(told.contains("99.0.1") && told.contains("rolled back"), "{told}");
    println!("    {}", told.lines().map(str::trim).take(8).collect::<Vec<_>>().join(" | "));
}

fn reset(kit: &Kit) {
    let card = Card::flash(kit, "reset", 2, &format!("{SHELL} {LOUD}"));
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    let key = pi.key();
    deploy(kit, &mut pi, &key, "gone");
    let machine = pi.sh("cat /etc/machine-id");
    pi.sh("sync");
    pi.pull();
    card.write("factory-reset", "");
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    assert_eq!(pi.get("/gone"), None);
    assert_ne!(pi.sh("cat /etc/machine-id"), machine, "another device");
    assert!(card.read("factory-reset").is_none());
    // By the API, then.
    let key = pi.key();
    deploy(kit, &mut pi, &key, "again");
    let from = pi.log().len();
    pi.manage(&key, &["factory-reset", "--yes"]);
    pi.until_logs("factory reset, asked for by the system", from);
    pi.until_answers("/hello/you");
    assert_eq!(pi.get("/again"), None);
}

fn damage(kit: &Kit) {
    let card = Card::flash(kit, "damage", 2, SHELL);
    // All copies of what describes the file system.
    card.overwrite(1152 << 20, &vec![0x33; 60 << 20]);
    let mut pi = Pi::boot(kit, &card);
    let page = until("the page", || {
        pi.ask("true");
        let output =
            Command::new("curl").args(["-s", "-m", "5", &format!("{}/any", pi.url())]).output().unwrap();
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
            .filter(|page| page.contains("data partition"))
    });
    assert!(page.contains("factory-reset"), "{page}");
    pi.pull();
    card.write("factory-reset", "");
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
}

fn full(kit: &Kit) {
    let card = Card::flash(kit, "full", 2, SHELL);
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    let key = pi.key();
    deploy(kit, &mut pi, &key, "kept");
    pi.ask("dd if=/dev/zero of=/data/update/filler bs=1M; sync");
    until("the full card to be told", || pi.get("/api/v1/ready").filter(|told| told.contains("\"full\"")));
    assert!(pi.get("/hello/you").is_some(), "what needs no room works");
    pi.manage(&key, &["route", "rm", "GET /kept"]);
    pi.pull();
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    pi.sh("rm /data/update/filler");
    until("room again", || pi.get("/api/v1/ready").filter(|told| told.contains("\"storage\":\"ok\"")));
}

fn clock(kit: &Kit) {
    let card = Card::flash(kit, "clock", 2, SHELL);
    // The board has no clock: without a network it starts when the image was made, never in 1970.
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    let year: u32 = pi.sh("date +%Y").parse().unwrap();
    assert!(year >= 2026, "{year}");
    // A clock of the far future was kept on the card, and comes back from there.
    pi.sh("date -s '2055-05-05 05:05:05' && touch /var/lib/systemd/timesync/clock && sync");
    assert!(pi.get("/hello/you").is_some());
    let key = pi.key();
    deploy(kit, &mut pi, &key, "future");
    pi.sh("date -s '1970-01-02 00:00:00'");
    assert!(pi.get("/future").is_some());
    let key = pi.key();
    deploy(kit, &mut pi, &key, "past");
    pi.pull();
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/future");
    assert!(pi.get("/past").is_some());
}

fn sizes(kit: &Kit) {
    for gib in [2, 4, 8] {
        let card = Card::flash(kit, "sizes", gib, SHELL);
        let mut pi = Pi::boot(kit, &card);
        pi.until_answers("/hello/you");
        let (start, sectors) = card.span(4);
        assert_eq!((start + sectors) * 512, gib << 30, "the table names all of the card");
        let bytes: u64 = until("the file system to grow", || {
            let bytes: u64 = pi
                .sh("stat -f -c '%b %S' /data")
                .split_whitespace()
                .map(|n| n.parse::<u64>().unwrap())
                .product();
            (bytes > (sectors * 512) / 10 * 9).then_some(bytes)
        });
        println!("    {gib} GiB: /data has {} MiB", bytes >> 20);
    }
}

fn watchdog(kit: &Kit) {
    let card = Card::flash(kit, "watchdog", 2, "");
    let slot = card.partition(2);
    for (from, to) in [("/boot/Image.gz", "Image.gz"), ("/boot/initrd.img", "initrd.img")] {
        run(
            "debugfs",
            &["-R", &format!("dump {from} {}", kit.work.join(to).display()), slot.to_str().unwrap()],
        );
    }
    run("gunzip", &["-kf", kit.work.join("Image.gz").to_str().unwrap()]);
    let path = |name: &str| kit.work.join(name).to_str().unwrap().to_owned();
    let log = kit.work.join("watchdog.log");
    let _ = fs::remove_file(&log);
    let mut qemu = Command::new("qemu-system-aarch64")
        .args(["-M", "virt", "-cpu", "cortex-a72", "-m", "1024", "-smp", "2", "-display", "none", "-monitor", "none"])
        .args(["-kernel", &path("Image"), "-initrd", &path("initrd.img"), "-device", "i6300esb", "-action", "watchdog=reset"])
        .args(["-drive", &format!("if=none,id=card,file={},format=raw", card.path.display())])
        .args(["-device", "virtio-blk-pci,drive=card", "-nic", "none"])
        // The first process faults half a minute after the start, and then feeds no watchdog any more.
        .args(["-append", "console=ttyAMA0 net.ifnames=0 ro panic=10 picloud.slot=A picloud.pending= systemd.run=\"sleep 20; kill -SEGV 1\" systemd.run_success_action=none"])
        .args(["-serial", &format!("file:{}", log.display())])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let boots = || fs::read_to_string(&log).map_or(0, |text| text.matches("initrd: slot A").count());
    until("the first boot", || (boots() >= 1).then_some(()));
    until("the watchdog", || (boots() >= 2).then_some(()));
    thread::sleep(Duration::from_secs(1));
    let _ = qemu.kill();
    let _ = qemu.wait();
}
