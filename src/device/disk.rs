//! Writing a slot past the page cache, so that what is read back comes from the card.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};
use sha2::{Digest, Sha256};

use super::{Error, Place, Slot};

/// What is written at once: the erase block of a card.
const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// What a transfer past the page cache begins at (open(2), `O_DIRECT`): the largest logical block of a disk.
const ALIGNMENT: usize = 4096;

/// The disk that this system runs from, as the initrd wrote it down.
///
/// # Errors
/// If it did not.
pub fn disk(place: &Place) -> Result<PathBuf, Error> {
    let path = place.run().join("disk");
    let text = std::fs::read_to_string(&path).map_err(|why| Error::io("read", &path, why))?;
    Ok(PathBuf::from(text.trim()))
}

/// The partition of a slot: `/dev/mmcblk0p2` of `/dev/mmcblk0`, and `/dev/vda2` of `/dev/vda`.
pub(super) fn partition(disk: &Path, slot: Slot) -> PathBuf {
    let mut name = disk.as_os_str().to_owned();
    let ends_with_digit = disk.to_string_lossy().ends_with(|last: char| last.is_ascii_digit());
    name.push(if ends_with_digit { "p" } else { "" });
    name.push(slot.partition().to_string());
    PathBuf::from(name)
}

/// Memory that begins where the disk wants it to.
struct Block {
    memory: Vec<u8>,
    begin: usize,
}

impl Block {
    fn new() -> Block {
        let memory = vec![0; BLOCK_BYTES + ALIGNMENT];
        let begin = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Block { memory, begin }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + BLOCK_BYTES]
    }
}

/// A partition that is written from its beginning. What comes in is written in whole blocks.
pub(super) struct Target<'a> {
    path: PathBuf,
    file: File,
    block: Block,
    there: Block,
    filled: usize,
    at: u64,
    told: &'a mut dyn FnMut(u64),
}

fn open(path: &Path, direct: bool, write: bool) -> io::Result<File> {
    // Of a block device, EXCL refuses one that is mounted (open(2)).
    let exclusive = if write { OFlags::EXCL } else { OFlags::empty() };
    let flags = if direct { OFlags::DIRECT | exclusive } else { exclusive };
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)
}

/// Past the page cache, where the file system can do that.
pub(super) fn open_direct(path: &Path, write: bool) -> io::Result<File> {
    match open(path, true, write) {
        Err(why) if why.kind() == io::ErrorKind::InvalidInput => open(path, false, write),
        opened => opened,
    }
}

impl<'a> Target<'a> {
    /// Opens a partition that has room for so many bytes. `told` hears how many were dealt with.
    pub(super) fn open(path: &Path, needed: u64, told: &'a mut dyn FnMut(u64)) -> Result<Target<'a>, Error> {
        let mut file = open_direct(path, true).map_err(|why| Error::io("open", path, why))?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(|why| Error::io("look at", path, why))?;
        if bytes < needed {
            return Err(Error::SlotTooSmall { path: path.to_owned(), bytes, needed });
        }
        let (block, there) = (Block::new(), Block::new());
        Ok(Target { path: path.to_owned(), file, block, there, filled: 0, at: 0, told })
    }

    /// Puts down what is left, and all of it on the card.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let done = self.put().and_then(|()| self.file.sync_data());
        done.map_err(|why| Error::io("write", &self.path, why))
    }

    /// Writes what was gathered. Zeros that are there already do not wear the card again.
    fn put(&mut self) -> io::Result<()> {
        let bytes = &self.block.bytes()[..self.filled];
        if bytes.is_empty() {
            return Ok(());
        }
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let stands = is_zero(bytes) && {
            let there = &mut self.there.bytes()[..self.filled];
            self.file.read_exact_at(there, self.at)?;
            is_zero(there)
        };
        if !stands {
            self.file.write_all_at(bytes, self.at)?;
        }
        self.at += u64::try_from(self.filled).unwrap_or(u64::MAX);
        self.filled = 0;
        (self.told)(self.at);
        Ok(())
    }
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK_BYTES - self.filled);
        self.block.bytes()[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        if self.filled == BLOCK_BYTES {
            self.put()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// SHA-256 of the first bytes of a partition, read from the card; in hexadecimal.
pub(super) fn hash(path: &Path, bytes: u64, told: &mut dyn FnMut(u64)) -> Result<String, Error> {
    let failed = |why| Error::io("read back", path, why);
    let mut file = open_direct(path, false).map_err(failed)?;
    // Where there is no way past the page cache, what was written is put out of it.
    fadvise(&file, 0, None, Advice::DontNeed).map_err(|why| failed(why.into()))?;
    let (mut hash, mut block, mut at) = (Sha256::new(), Block::new(), 0);
    while at < bytes {
        let left = usize::try_from(bytes - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let part = &mut block.bytes()[..left];
        file.read_exact(part).map_err(failed)?;
        hash.update(&*part);
        at += u64::try_from(left).unwrap_or(u64::MAX);
        told(at);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::device::testing::Folder;

    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        for (disk, a, b) in [
            ("/dev/mmcblk0", "/dev/mmcblk0p2", "/dev/mmcblk0p3"),
            ("/dev/nvme0n1", "/dev/nvme0n1p2", "/dev/nvme0n1p3"),
            ("/dev/vda", "/dev/vda2", "/dev/vda3"),
        ] {
            let found = [Slot::A, Slot::B].map(|slot| partition(Path::new(disk), slot));
            assert_eq!(found, [PathBuf::from(a), PathBuf::from(b)]);
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_the_rest_stays() {
        let folder = Folder::new();
        // Zeros over something, something over zeros, zeros over zeros, and an end inside of a block.
        let mut wanted = vec![0; 3 * BLOCK_BYTES + 8192];
        wanted[BLOCK_BYTES..BLOCK_BYTES + 3].copy_from_slice(b"new");
        wanted[3 * BLOCK_BYTES + 8191] = 9;
        let mut before = vec![0; 3 * BLOCK_BYTES + 16384];
        before[5] = 1;
        before[3 * BLOCK_BYTES + 8192] = 7;
        let path = folder.file("disk3", &before);
        let mut told = Vec::new();
        let mut tell = |at| told.push(at);
        let mut target = Target::open(&path, u64::try_from(wanted.len()).unwrap(), &mut tell).unwrap();
        for part in wanted.chunks(100_000) {
            target.write_all(part).unwrap();
        }
        target.finish().unwrap();
        let found = fs::read(&path).unwrap();
        assert!(found[..wanted.len()] == wanted, "it is not what was written");
        assert_eq!(found[wanted.len()], 7, "what lies behind it is left alone");
        assert_eq!((told.len(), told.last()), (4, Some(&u64::try_from(wanted.len()).unwrap())));
        let bytes = u64::try_from(wanted.len()).unwrap();
        let own: String = Sha256::digest(&wanted).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash(&path, bytes, &mut |_| ()).unwrap(), own);
    }

    #[test]
    fn a_slot_that_is_too_small_is_refused_before_anything_is_written() {
        let folder = Folder::new();
        let path = folder.file("disk2", b"old");
        let refused = Target::open(&path, 4096, &mut |_| ()).err().unwrap().to_string();
        assert!(refused.contains("3 bytes") && refused.contains("4096"), "{refused}");
    }
}
