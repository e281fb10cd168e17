//! What qemu logs of a card: each write, in the format of dm-log-writes. Any prefix of the log is a card whose power was cut
//! there, since the emulated card has no cache that would change the order.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::PathBuf;

use crate::Kit;
use crate::card::{Card, Part, run};

/// The magic of dm-log-writes (include/uapi of the kernel has none; drivers/md/dm-log-writes.c).
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// Of an entry: it is a discard, and carries nothing.
const DISCARD: u64 = 4;

/// One write: where on the card and where in the log, in bytes.
pub(crate) struct Write {
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    data: u64,
}

impl Write {
    /// What it goes to.
    pub(crate) fn part(&self) -> Part {
        let part = Part::of(self.at);
        assert_eq!(part, Part::of(self.at + self.bytes - 1), "a write over a border");
        part
    }
}

/// The log of a card, and the card as it was before.
pub(crate) struct Log {
    path: PathBuf,
    original: PathBuf,
}

impl Log {
    /// From here on the card's writes can be logged.
    pub(crate) fn begin(kit: &Kit, card: &Card) -> Log {
        let path = card.path.with_extension("writes");
        File::create(&path).unwrap();
        let original = kit.work.join("original.img");
        copy(&card.path, &original);
        Log { path, original }
    }

    /// The card as a drive of qemu that logs.
    pub(crate) fn drive(&self, card: &Card) -> String {
        format!(
            "if=sd,driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={},log-super-update-interval=1,log.driver=raw,log.file.driver=file,log.file.filename={}",
            card.path.display(),
            self.path.display()
        )
    }

    /// What was written by now.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let mut file = File::open(&self.path).unwrap();
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let mut head = [0; 32];
        file.read_exact(&mut head).unwrap();
        assert_eq!(word(&head, 0), MAGIC, "a log of writes");
        let (count, sector) =
            (word(&head, 16), u64::from(u32::from_le_bytes(head[24..28].try_into().unwrap())));
        let mut all = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut head).unwrap();
            let (to, sectors, flags) = (word(&head, 0), word(&head, 8), word(&head, 16));
            at += sector;
            // A flush has no sectors.
            if sectors > 0 && flags & DISCARD == 0 {
                all.push(Write { at: to * sector, bytes: sectors * sector, data: at });
                at += sectors * sector;
            }
        }
        all
    }

    /// A card on which nothing of the log has happened yet.
    pub(crate) fn replay<'a>(&self, kit: &Kit, name: &str, writes: &'a [Write]) -> Replay<'a> {
        let card = Card { path: kit.work.join(format!("{name}.img")) };
        let _ = fs::remove_file(card.path.with_extension("log"));
        copy(&self.original, &card.path);
        let to = OpenOptions::new().write(true).open(&card.path).unwrap();
        Replay { card, writes, done: 0, from: File::open(&self.path).unwrap(), to }
    }
}

/// A card on which the log happens again, as far as one wants.
pub(crate) struct Replay<'a> {
    pub(crate) card: Card,
    writes: &'a [Write],
    done: usize,
    from: File,
    to: File,
}

impl Replay<'_> {
    /// Goes on to the state after so many writes.
    pub(crate) fn until(&mut self, count: usize) {
        for write in &self.writes[self.done..count] {
            let mut data = vec![0; usize::try_from(write.bytes).unwrap()];
            self.from.seek(SeekFrom::Start(write.data)).unwrap();
            self.from.read_exact(&mut data).unwrap();
            self.to.seek(SeekFrom::Start(write.at)).unwrap();
            self.to.write_all(&data).unwrap();
        }
        self.done = count;
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    run("cp", &["--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]);
}
