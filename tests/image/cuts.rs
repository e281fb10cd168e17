//! The plug is pulled at every write: qemu logs each write of the card, and any prefix of that log is a card whose power
//! was cut there.
//!
//! Each such card is looked at: the table and the boot partition are as they were, the running slot has not changed by a
//! byte, one copy of the state at least is whole, the data partition is mended by what the initrd runs, and the store of the
//! daemon opens with all that it had accepted by then. Some of them are booted for good.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use crate::Kit;
use crate::card::{Card, run};
use crate::pi::{Pi, SHELL};

/// The magic of dm-log-writes (include/uapi of the kernel has none; drivers/md/dm-log-writes.c).
const MAGIC: u64 = 0x6a73_6677_8072_0002;
/// Cuts that are looked at, spread over all writes.
const LOOKS: usize = 60;
/// Cards that are booted after a cut.
const BOOTS: usize = 2;

/// One write: where on the card and where in the log, in bytes.
struct Entry {
    at: u64,
    bytes: u64,
    data: u64,
}

fn entries(log: &Path) -> Vec<Entry> {
    let mut file = File::open(log).unwrap();
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let mut head = [0; 32];
    file.read_exact(&mut head).unwrap();
    assert_eq!(word(&head, 0), MAGIC, "a log of writes");
    let (count, sector) = (word(&head, 16), u64::from(u32::from_le_bytes(head[24..28].try_into().unwrap())));
    let mut all = Vec::new();
    let mut at = sector;
    for _ in 0..count {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut head).unwrap();
        let (to, sectors, flags) = (word(&head, 0), word(&head, 8), word(&head, 16));
        at += sector;
        // A flush and a discard carry nothing; a mark carries a text.
        let is_discard = flags & 4 != 0;
        if sectors > 0 && !is_discard {
            all.push(Entry { at: to * sector, bytes: sectors * sector, data: at });
            at += sectors * sector;
        }
    }
    all
}

/// Writes that happened until the plug was pulled.
fn replay(log: &Path, card: &Card, entries: &[Entry]) {
    let mut from = File::open(log).unwrap();
    let mut to = OpenOptions::new().write(true).open(&card.path).unwrap();
    for entry in entries {
        let mut data = vec![0; entry.bytes as usize];
        from.seek(SeekFrom::Start(entry.data)).unwrap();
        from.read_exact(&mut data).unwrap();
        to.seek(SeekFrom::Start(entry.at)).unwrap();
        to.write_all(&data).unwrap();
    }
}

/// The partitions that nobody may have touched.
fn digest(card: &Card) -> String {
    [1, 2]
        .map(|number| run("sha256sum", &[card.partition(number).to_str().unwrap()])[..64].to_owned())
        .join(" ")
}

fn copy(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]);
}

pub(crate) fn every_write(kit: &Kit) {
    let card = Card::flash(kit, "cuts", 2, SHELL);
    let log = kit.work.join("cuts.writes");
    let original = kit.work.join("cuts.original.img");
    copy(&card.path, &original);
    File::create(&log).unwrap();
    let drive = format!(
        "if=sd,driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={},log.driver=raw,log.file.driver=file,log.file.filename={}",
        card.path.display(),
        log.display()
    );
    // From the first boot of a fresh card on, over accepted work and a restart.
    let mut pi = Pi::boot_with(kit, &drive, &card.path);
    pi.until_answers("/hello/you");
    let key = pi.key();
    let script = kit.work.join("accept.rhai");
    fs::write(&script, "kv::incr(\"n\")").unwrap();
    pi.manage(&key, &["deploy", script.to_str().unwrap(), "--route", "POST /accept"]);
    // What was answered, and how many writes there were by then.
    let mut promised = Vec::new();
    for _ in 0..20 {
        let output = Command::new("curl")
            .args(["-s", "-m", "30", "-X", "POST", &format!("{}/accept", pi.url())])
            .output()
            .unwrap();
        let count: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        promised.push((entries(&log).len(), count));
    }
    let from = pi.log().len();
    pi.ask("systemctl reboot");
    pi.until_logs("PiCloud: slot", from);
    pi.until_answers("/hello/you");
    pi.pull();

    let all = entries(&log);
    let untouched = digest(&Card { path: original.clone() });
    let replayed = Card { path: kit.work.join("cuts.replayed.img") };
    copy(&original, &replayed.path);
    let (mut done, mut looks) = (0, 0);
    for look in 1..=LOOKS {
        let until = all.len() * look / LOOKS;
        replay(&log, &replayed, &all[done..until]);
        done = until;
        check(
            kit,
            &replayed,
            &untouched,
            promised.iter().rev().find(|(writes, _)| *writes <= until).map(|(_, count)| *count),
        );
        looks += 1;
    }
    println!("    {} writes, {looks} cuts looked at, {} answers promised", all.len(), promised.len());
    for boot in 0..BOOTS {
        let until = all.len() * (2 * boot + 1) / (2 * BOOTS);
        let path = kit.work.join("cuts.boot.img");
        copy(&original, &path);
        let card = Card { path };
        replay(&log, &card, &all[..until]);
        let mut pi = Pi::boot(kit, &card);
        let took = pi.until_answers("/hello/you");
        println!("    cut after {until} writes: it answers after {took:.0?}");
    }
}

fn check(kit: &Kit, card: &Card, untouched: &str, promised: Option<u64>) {
    assert_eq!(digest(card), untouched, "the boot partition and the slot are as they were");
    assert!((0..2).any(|copy| card.state(copy).is_some()), "a copy of the state is whole");
    // As the initrd does it: 1 is «mended».
    let data = card.partition(4);
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let fsck =
        Command::new("e2fsck").args(["-p", data.to_str().unwrap()]).env("PATH", &path).output().unwrap();
    assert!(fsck.status.code().is_some_and(|code| code <= 1), "{}", String::from_utf8_lossy(&fsck.stdout));
    let Some(promised) = promised else { return };
    // The store, with the program of this machine.
    let place = kit.work.join("cuts.data");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    run("debugfs", &["-R", &format!("rdump /picloud {}", place.display()), data.to_str().unwrap()]);
    let held = crate::pi::with_daemon(&place.join("picloud"), |pi| pi("/api/v1/apps/default/kv/n"));
    let held: u64 = serde_json::from_str::<serde_json::Value>(&held).unwrap()["value"].as_u64().unwrap_or(0);
    assert!(held >= promised, "{promised} were answered, {held} are there");
}
