//! What is checked, in order.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Kit;
use crate::build;
use crate::card::{Card, run};
use crate::cuts;
use crate::lan;
use crate::pi::{PASSWORD, Pi, SHELL, until};
use crate::stick;
use crate::updates;

type Check = fn(&Kit);

/// The serial line has what the initrd says.
const LOUD: &str = "loglevel=6";

pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("scan: the card holds what boards need, and nothing that two devices share", scan),
    ("first boot: it answers, is set up, takes a script, and keeps it over a restart", first_boot),
    ("preseed: a file on the boot partition names the device, a bad one is told", preseed),
    ("found: its name, what it serves and who it is are told on the network", lan::found),
    ("slots: whatever is broken of state or slots, the other one boots", slots),
    ("update: a bundle goes to the other slot, which confirms itself", updates::update),
    ("rollback: an update that does not work is taken back, and told why", updates::rollback),
    ("gate: one that hangs or has no network is, too", updates::gate),
    ("recover: a PiCloud that was given up restarts the device, but in no loop", recover),
    ("loose: a card that does not answer restarts the device", loose),
    ("reset: an empty file on the boot partition makes the device a new one", reset),
    ("damage: without a data partition a page tells what to do", damage),
    ("full: a data partition without room answers, and takes deletions", full),
    ("clock: a clock in 1970 or in the future stops nothing", clock),
    ("sizes: the data partition takes all of a card of 2, 4, 8 and 128 GiB", sizes),
    ("stick: backups are copied to a USB stick", stick::backups),
    ("cuts: the plug is pulled at every write of a first start", cuts::first_start),
    ("pulled: the plug is pulled at every write of an update", cuts::update),
    ("twice: two builds of one commit are the same, byte by byte", build::twice),
    ("watchdog: the hardware restarts a system that is lost", watchdog),
];

/// A script, a route and a call of it, by the key of the device.
pub(crate) fn deploy(kit: &Kit, pi: &mut Pi, key: &str, word: &str) {
    let file = kit.work.join(format!("{word}.rhai"));
    fs::write(&file, format!("kv::incr(\"{word}\"); \"{word} \" + kv::get(\"{word}\")")).unwrap();
    pi.manage(key, &["deploy", file.to_str().unwrap(), "--route", &format!("GET /{word}")]);
    assert_eq!(pi.get(&format!("/{word}")).unwrap(), format!("\"{word} 1\""));
}

/// Restarts it by itself, and waits until it answers again.
pub(crate) fn restart(pi: &mut Pi) {
    let before = pi.log().len();
    pi.ask("systemctl reboot");
    pi.until_logs("PiCloud: slot", before);
    pi.until_answers("/api/v1/health");
}

fn scan(kit: &Kit) {
    let card = Card::flash(kit, "scan", 2, "");
    let mut table = [0; 512];
    io::Read::read_exact(&mut fs::File::open(&kit.card).unwrap(), &mut table).unwrap();
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
    // Whoever something belongs to is known there.
    for (what, file) in [("%U", "etc/passwd"), ("%G", "etc/group")] {
        let known = fs::read_to_string(Path::new(tree).join(file)).unwrap();
        let known: BTreeSet<_> = known.lines().filter_map(|line| line.split(':').nth(2)).collect();
        let owners = find(&["-printf", &format!("{what}\\n")]);
        let strangers: BTreeSet<_> = owners.lines().filter(|number| !known.contains(number)).collect();
        assert!(strangers.is_empty(), "nobody in {file} has {strangers:?}");
    }
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
    let key = pi.set_up(&code).unwrap_or_else(|answer| panic!("no key in {answer}"));
    deploy(kit, &mut pi, &key, "kept");

    // The system is well, and the card will be watched.
    pi.ask("systemctl is-system-running --wait");
    pi.sh("systemctl is-active picloud-card.timer");
    assert_eq!(pi.sh("systemctl --failed --no-legend --plain"), "", "failed units");
    assert_eq!(pi.sh("journalctl -b --no-pager | grep -ci 'ordering cycle' || true"), "0");
    assert_eq!(pi.sh("cat /proc/sys/kernel/tainted"), "0");
    let (ignored, _) =
        pi.ask("journalctl -q --no-pager -b -o cat -g 'Failed to parse|Unknown (key|section)'");
    assert_eq!(ignored, "", "settings that nobody takes");
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
    // What helps somebody else.
    pi.sh(&format!("PICLOUD_API_KEY={key} picloud support-bundle -o /data/update/support.tar.zst && sync"));
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
    look_at_support_bundle(kit, &card, &[&key, code.trim(), PASSWORD]);
    let mut pi = Pi::boot(kit, &card);
    let again = pi.until_answers("/kept");
    println!("    after the plug was pulled it answered again in {again:.0?}");
}

/// It tells about the device, and has no secret in it.
fn look_at_support_bundle(kit: &Kit, card: &Card, secrets: &[&str]) {
    let file = kit.work.join("support.tar.zst");
    let dump = format!("dump /update/support.tar.zst {}", file.display());
    run("debugfs", &["-R", &dump, card.partition(4).to_str().unwrap()]);
    let held = zstd::decode_all(fs::File::open(file).unwrap()).unwrap();
    let has = |word: &str| held.windows(word.len()).any(|bytes| bytes == word.as_bytes());
    for part in ["status.json", "journal.txt", "kernel.txt", "boot.json", "os-release", "Raspberry Pi 3"] {
        assert!(has(part), "{part} is missing");
    }
    for secret in secrets {
        assert!(!has(secret), "a secret is in it");
    }
}

fn preseed(kit: &Kit) {
    let card = Card::flash(kit, "preseed", 2, SHELL);
    card.write(
        "picloud.toml",
        "[device]\r\nhostname = \"boat\"\r\ntimezone = \"Europe/Berlin\"\r\nkeymap = \"de\"\r\njournal = \"volatile\"\r\n\r\n[admin]\r\nkey = \"a-key-that-was-brought-along\"\r\n\r\n[wifi]\r\nssid = \"Harbour\"\r\npassword = \"sail\\\"ing 123\"\r\ncountry = \"DE\"\r\n",
    );
    // Its program shows which keys the console has; and whoever has firmware for a radio brings it in a folder.
    let busybox = kit.work.join("busybox");
    let packages = kit.card.parent().unwrap().join("debs");
    let unpack = format!(
        "dpkg-deb --fsys-tarfile {}/busybox-static_*.deb | tar -xO ./usr/bin/busybox >{}",
        packages.display(),
        busybox.display()
    );
    run("sh", &["-c", &unpack]);
    card.put(&busybox, "busybox");
    card.make_folder("firmware");
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    assert_eq!(pi.sh("cat /sys/module/firmware_class/parameters/path"), "/boot/firmware/firmware");
    // The key at the place of Y (code 21; the tables begin after 263 bytes) gives a Z.
    let key = pi.sh("/boot/firmware/busybox dumpkmap </dev/tty1 | od -An -tx1 -j305 -N2");
    assert_eq!(key.split_whitespace().collect::<Vec<_>>(), ["7a", "0b"], "a German keyboard");
    assert_eq!(pi.sh("uname -n"), "boat");
    assert!(pi.sh("date +%Z").starts_with("CE"), "the time zone");
    pi.sh("test -e /run/log/journal/*/system.journal");
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
    pi.sh("test -e /run/log/journal/*/system.journal && ! test -e /run/systemd/journal/flushed");
    pi.sh("journalctl -q --no-pager -b -u picloud -g 'ready on'");
    let boot = pi.sh("tr -d - </proc/sys/kernel/random/boot_id");
    assert_eq!(pi.sh(&format!("journalctl -q --no-pager -n 1 -D /var/log/journal _BOOT_ID={boot}")), "");
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
        let at = pi.until_logs(said, 0);
        let kernel = pi.until_logs("initrd: slot ", at);
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
    // A system whose first process ends: the kernel panics, and restarts by itself.
    let (ends, panics) = (kit.work.join("first-process"), card.partition(3));
    fs::write(&ends, "#!/bin/sh\nexit 1\n").unwrap();
    updates::debugfs(
        &panics,
        &[
            "rm /usr/lib/systemd/systemd",
            &format!("write {} /usr/lib/systemd/systemd", ends.display()),
            "sif /usr/lib/systemd/systemd mode 0100755",
        ],
    );
    card.overwrite(Card::slot('B'), &fs::read(&panics).unwrap());
    card.set_state(&["pending=B", "slot=A", "tries=2"]);
    assert_eq!(booted(&card, "never confirmed"), "A");
    // A kernel that is damaged in the middle; then a slot that is blank.
    card.set_state(&["pending=B", "slot=A", "tries=3"]);
    let blocks = run("debugfs", &["-R", "blocks /boot/Image.gz", card.partition(3).to_str().unwrap()]);
    let middle: u64 = blocks.split_whitespace().nth(1000).unwrap().parse().unwrap();
    card.overwrite(Card::slot('B') + middle * 4096, &[0xaa; 4096]);
    assert_eq!(booted(&card, "slot B does not start"), "A");
    card.overwrite(Card::slot('B'), &vec![0; 1 << 20]);
    assert_eq!(booted(&card, "slot B does not start"), "A");
}

fn recover(kit: &Kit) {
    let card = Card::flash(kit, "recover", 2, SHELL);
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    // As if it had been up for an hour.
    let give_up = |pi: &mut Pi, uptime: &str, ends: &str| {
        pi.sh(&format!("echo {uptime} >/run/uptime && mount --bind /run/uptime /proc/uptime"));
        pi.sh("mkdir -p /run/systemd/system/picloud.service.d");
        let instead = "/run/systemd/system/picloud.service.d/99-instead.conf";
        pi.sh(&format!(
            "printf '[Service]\\nExecStart=\\nExecStart=sh -c \"exit {ends}\"\\nRestart=no\\n' >{instead}"
        ));
        pi.sh("systemctl daemon-reload");
        pi.ask("systemctl restart picloud.service");
    };
    let decided = |pi: &mut Pi, boot: &str, words: &str| {
        until(words, || {
            let (said, _) = pi.ask(&format!(
                "journalctl -q -b {boot} -u picloud-recover.service -o cat | grep -c '{words}'"
            ));
            (said != "0").then_some(())
        });
    };
    // A wrong configuration is not mended by that.
    give_up(&mut pi, "3700.00 1.00", "78");
    decided(&mut pi, "0", "have to be mended");
    pi.until_says("/any", "cannot start");
    let from = pi.log().len();
    give_up(&mut pi, "3700.00 1.00", "1");
    pi.until_logs("PiCloud: slot", from);
    pi.until_answers("/hello/you");
    decided(&mut pi, "-1", "the device restarts, time 1 within an hour");
    assert_eq!(pi.sh("systemctl --failed --no-legend --plain"), "");
    // The next time it is too early for another one: the page stays.
    give_up(&mut pi, "90.00 1.00", "1");
    decided(&mut pi, "0", "started less than 10 minutes ago");
    pi.until_says("/any", "cannot start");
}

fn loose(kit: &Kit) {
    let card = Card::flash(kit, "loose", 2, SHELL);
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    // Sooner than it is for slow cards.
    let sooner = "/run/systemd/system/picloud-card.service.d";
    pi.sh(&format!("mkdir -p {sooner} && printf '[Service]\\nWatchdogSec=25s\\n' >{sooner}/sooner.conf"));
    pi.sh("systemctl daemon-reload && systemctl restart picloud-card.service");
    let from = pi.log().len();
    pi.ask("(sleep 1; echo 3f202000.mmc >/sys/bus/platform/drivers/sdhost-bcm2835/unbind) & true");
    pi.until_logs("PiCloud: slot", from);
    pi.until_answers("/hello/you");
}

fn reset(kit: &Kit) {
    let card = Card::flash(kit, "reset", 2, &format!("{SHELL} {LOUD}"));
    // What cannot be taken away again like a file would delete the data at each start.
    card.make_folder("factory-reset");
    card.write("picloud.toml", "[device]\nhostname = \"boat\"\n");
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    let key = pi.key();
    deploy(kit, &mut pi, &key, "gone");
    let from = pi.log().len();
    restart(&mut pi);
    pi.until_logs("this is a folder", from);
    assert_eq!(pi.get("/gone").unwrap(), "\"gone 2\"");
    let machine = pi.sh("cat /etc/machine-id");
    pi.sh("sync");
    pi.pull();
    card.remove_folder("factory-reset");
    card.write("factory-reset", "");
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    assert_eq!(pi.get("/gone"), None);
    assert_ne!(pi.sh("uname -n"), "boat");
    assert_ne!(pi.sh("cat /etc/machine-id"), machine, "another device");
    for gone in ["factory-reset", "picloud.toml.applied"] {
        assert!(card.read(gone).is_none(), "{gone} is still there");
    }
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
    let page = pi.until_says("/any", "data partition");
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
    // Most of it without writing, which takes an emulated card its time.
    pi.sh("fallocate -l $(($(stat -f -c '%f * %S' /data) - 16777216)) /data/update/filler");
    pi.ask("dd if=/dev/zero of=/data/update/rest bs=1M; sync");
    until("the full card to be told", || pi.get("/api/v1/ready").filter(|told| told.contains("\"full\"")));
    assert!(pi.get("/hello/you").is_some(), "what needs no room works");
    pi.manage(&key, &["route", "rm", "GET /kept"]);
    pi.pull();
    let mut pi = Pi::boot(kit, &card);
    pi.until_answers("/hello/you");
    pi.sh("rm /data/update/filler /data/update/rest");
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
    let year: u32 = pi.sh("date +%Y").parse().unwrap();
    assert!(year >= 2055, "the clock goes on from where it was known to be, not from {year}");
}

fn sizes(kit: &Kit) {
    for gib in [2, 4, 8, 128] {
        let card = Card::flash(kit, "sizes", gib, SHELL);
        let mut pi = Pi::boot(kit, &card);
        pi.until_answers("/hello/you");
        let (start, sectors) = card.span(4);
        assert_eq!((start + sectors) * 512, gib << 30, "the table names all of the card");
        // It grows by itself while it is used; the service is active when that has ended.
        until("the file system to grow", || {
            (pi.ask("systemctl is-active picloud-grow.service").1 == 0).then_some(())
        });
        let size = pi.sh("stat -f -c '%b %S' /data");
        let bytes: u64 = size.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product();
        assert!(bytes > sectors * 512 / 100 * 95, "{bytes} of {} bytes", sectors * 512);
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
    let (log, socket) = (card.path.with_extension("log"), card.path.with_extension("tty"));
    let _ = fs::remove_file(&socket);
    let tty = format!("socket,id=tty,path={},server=on,wait=off,logfile={}", socket.display(), log.display());
    let mut qemu = Command::new("qemu-system-aarch64")
        .args(["-M", "virt", "-cpu", "cortex-a72", "-m", "1024", "-smp", "2", "-display", "none", "-monitor", "none"])
        .args(["-kernel", &path("Image"), "-initrd", &path("initrd.img"), "-device", "i6300esb", "-action", "watchdog=reset"])
        .args(["-drive", &format!("if=none,id=card,file={},format=raw", card.path.display())])
        .args(["-device", "virtio-blk-pci,drive=card", "-nic", "none"])
        .args(["-append", "console=ttyAMA0 net.ifnames=0 ro panic=10 picloud.slot=A picloud.pending= systemd.debug_shell=1 systemd.default_debug_tty=ttyAMA0 systemd.mask=serial-getty@ttyAMA0.service"])
        .args(["-chardev", &tty, "-serial", "chardev:tty"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut console = until("the serial line", || UnixStream::connect(&socket).ok());
    let mut said = console.try_clone().unwrap();
    thread::spawn(move || io::copy(&mut said, &mut io::sink()));
    let logged = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let boots = || logged().matches("initrd: slot A").count();
    until("the watchdog to be fed", || {
        let _ = writeln!(console, "wdctl | grep -c i6300ESB; systemctl show -p RuntimeWatchdogUSec");
        thread::sleep(Duration::from_secs(5));
        logged().contains("RuntimeWatchdogUSec=14s").then_some(())
    });
    assert_eq!(boots(), 1);
    // The first process faults, and then feeds no watchdog any more. Nobody else restarts the machine.
    writeln!(console, "kill -SEGV 1").unwrap();
    until("the watchdog", || {
        assert!(qemu.try_wait().unwrap().is_none(), "the machine went off: {}", log.display());
        (boots() == 2).then_some(())
    });
    assert!(logged().contains("Freezing execution"), "the first process was lost: {}", log.display());
    let _ = qemu.kill();
    let _ = qemu.wait();
}
