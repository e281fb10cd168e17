//! A card in the hand of the tests: a copy of the image, looked at and changed by the tools that a person would use.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Kit;

const MIB: u64 = 1 << 20;
/// Where the two copies of the state are, in MiB.
pub(crate) const STATES: [u64; 2] = [1, 5];
/// Bytes of a copy.
const STATE_BYTES: usize = 0x4000;
/// Where the partitions begin, in MiB, by their numbers.
const STARTS: [u64; 4] = [8, 128, 640, 1152];

/// What a place on the card belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The table of the partitions, and what is written along with it.
    Table,
    /// One of the two copies of the state.
    State,
    Boot,
    SlotA,
    SlotB,
    Data,
    /// Nobody's.
    Gap,
}

impl Part {
    /// Of a byte.
    pub(crate) fn of(at: u64) -> Part {
        let is_state =
            STATES.iter().any(|start| (start * MIB..start * MIB + STATE_BYTES as u64).contains(&at));
        match at / MIB {
            _ if at < 4096 => Part::Table,
            _ if is_state => Part::State,
            0..8 => Part::Gap,
            8..128 => Part::Boot,
            128..640 => Part::SlotA,
            640..1152 => Part::SlotB,
            _ => Part::Data,
        }
    }
}

/// A card; its file stays for whoever wants to look at a failure.
pub(crate) struct Card {
    pub(crate) path: PathBuf,
}

/// Runs a program that must succeed; gives what it said.
#[track_caller]
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(args).env("PATH", path).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{out}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    out
}

impl Card {
    /// A fresh one of this size, as it comes out of the flashing tool; `extra` goes onto the kernel's command line.
    pub(crate) fn flash(kit: &Kit, name: &str, gib: u64, extra: &str) -> Card {
        let path = kit.work.join(format!("{name}.img"));
        run("cp", &["--sparse=always", kit.card.to_str().unwrap(), path.to_str().unwrap()]);
        let _ = fs::remove_file(path.with_extension("log"));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(gib << 30).unwrap();
        let card = Card { path };
        // The emulated board is reset by whoever opens its watchdog.
        let extra = format!("extra=systemd.watchdog_sec=0 {extra}");
        let boot = "bootcmd=load mmc 0:1 0x02400000 /boot.scr && source 0x02400000; reset";
        let environment = kit.work.join(format!("{name}.env"));
        let words = ["image/card.py", "environment", environment.to_str().unwrap(), "0x4000"];
        run("python3", &[&words[..], &["bootdelay=-2", "preboot=", &extra, boot]].concat());
        card.put(&environment, "uboot.env");
        card
    }

    fn boot(&self) -> String {
        format!("{}@@{}", self.path.display(), STARTS[0] * MIB)
    }

    /// Puts a file onto the boot partition.
    pub(crate) fn put(&self, file: &Path, name: &str) {
        run("mcopy", &["-o", "-i", &self.boot(), file.to_str().unwrap(), &format!("::{name}")]);
    }

    /// Makes a folder on the boot partition.
    pub(crate) fn make_folder(&self, name: &str) {
        run("mmd", &["-i", &self.boot(), &format!("::{name}")]);
    }

    /// Removes an empty folder from it.
    pub(crate) fn remove_folder(&self, name: &str) {
        run("mrd", &["-i", &self.boot(), &format!("::{name}")]);
    }

    /// Writes a text onto the boot partition.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let file = self.path.with_extension("text");
        fs::write(&file, text).unwrap();
        self.put(&file, name);
    }

    /// A file of the boot partition, if it is there.
    pub(crate) fn read(&self, name: &str) -> Option<String> {
        let output = Command::new("mtype").args(["-i", &self.boot(), &format!("::{name}")]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The variables of one copy of the state, if it is whole.
    pub(crate) fn state(&self, copy: usize) -> Option<String> {
        let mut file = File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(STATES[copy] * MIB)).unwrap();
        let mut bytes = vec![0; STATE_BYTES];
        file.read_exact(&mut bytes).unwrap();
        let told = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let text = bytes[4..].split(|byte| *byte == 0).take_while(|word| !word.is_empty());
        let text: Vec<_> = text.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        (crc32(&bytes[4..]) == told).then(|| text.join(" "))
    }

    /// Writes both copies of the state.
    pub(crate) fn set_state(&self, words: &[&str]) {
        let file = self.path.with_extension("state");
        run(
            "python3",
            &[&["image/card.py", "environment", file.to_str().unwrap(), "0x4000"], words].concat(),
        );
        let bytes = fs::read(&file).unwrap();
        STATES.iter().for_each(|at| self.overwrite(at * MIB, &bytes));
    }

    /// Writes bytes somewhere.
    pub(crate) fn overwrite(&self, at: u64, bytes: &[u8]) {
        let mut file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// A partition as a file of its own, by its number.
    pub(crate) fn partition(&self, number: usize) -> PathBuf {
        let to = self.path.with_extension(format!("p{number}"));
        let (start, sectors) = self.span(number);
        let words = [
            format!("if={}", self.path.display()),
            format!("of={}", to.display()),
            "bs=1M".to_owned(),
            format!("skip={}", start / 2048),
            format!("count={}", sectors.div_ceil(2048)),
            "conv=sparse".to_owned(),
        ];
        run("dd", &words.iter().map(String::as_str).collect::<Vec<_>>());
        to
    }

    /// First sector and sectors of a partition, as the table has them.
    pub(crate) fn span(&self, number: usize) -> (u64, u64) {
        let mut sector = [0; 512];
        File::open(&self.path).unwrap().read_exact(&mut sector).unwrap();
        let entry = &sector[446 + 16 * (number - 1)..][..16];
        let word = |at: usize| u64::from(u32::from_le_bytes(entry[at..at + 4].try_into().unwrap()));
        (word(8), word(12))
    }

    /// Where a slot begins, in bytes.
    pub(crate) fn slot(letter: char) -> u64 {
        STARTS[if letter == 'A' { 1 } else { 2 }] * MIB
    }
}

/// CRC-32 as zlib has it.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}
