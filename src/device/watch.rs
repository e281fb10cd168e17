//! `picloud device watch`: whether the card still answers.
//!
//! A card that came loose or died leaves a system that seems to live, since what it runs is in memory, but that keeps
//! nothing and can start nothing. So a block somewhere in the running slot is read past the page cache again and again, and
//! systemd hears of each that came. Where it hears nothing for long it restarts the device. One block that cannot be read
//! does not make that: the next one is another.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::prepare::Random;
use super::{Boot, Error, Place, disk};

/// What is read at once, and where it begins: a page, which every disk takes.
const BLOCK_BYTES: usize = 4096;
/// The same.
const STEP: u64 = 4096;

/// What became of a block.
#[derive(Debug)]
pub enum Look {
    /// It came.
    Good,
    /// It did not, and why; the one before came.
    Failed(io::Error),
    /// It did not, as the one before.
    FailedAgain,
}

/// Reads a block, tells what became of it, and does so again as long as `goes_on`, which also waits in between.
///
/// # Errors
/// If nobody knows what the card is.
pub fn watch(
    place: &Place,
    random: Random<'_>,
    tell: &mut dyn FnMut(Look),
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<(), Error> {
    let slot = disk::partition(&disk(place)?, Boot::read(place)?.slot);
    let mut was_good = true;
    loop {
        let look = match read_one(&slot, random) {
            Ok(()) => Look::Good,
            Err(why) if was_good => Look::Failed(why),
            Err(_) => Look::FailedAgain,
        };
        was_good = matches!(look, Look::Good);
        tell(look);
        if !goes_on() {
            return Ok(());
        }
    }
}

/// Reads one block, anywhere. It is opened anew each time, since a card may have been taken out and put in.
fn read_one(slot: &Path, random: Random<'_>) -> io::Result<()> {
    let file = disk::open_direct(slot, false)?;
    let blocks = io::Seek::seek(&mut &file, io::SeekFrom::End(0))? / STEP;
    let mut number = [0; 8];
    random(&mut number)?;
    let number = u64::from_le_bytes(number).checked_rem(blocks).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut memory = vec![0; 2 * BLOCK_BYTES];
    let begin = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
    file.read_exact_at(&mut memory[begin..begin + BLOCK_BYTES], number * STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Folder;

    /// Looks as often as there are steps, each of which changes something before.
    fn looks(folder: &Folder, steps: &mut [&mut dyn FnMut()]) -> String {
        let mut said = String::new();
        let mut next = steps.iter_mut();
        let mut seed = 0_u8;
        let mut random = |bytes: &mut [u8]| {
            seed = seed.wrapping_add(37);
            bytes.fill(seed);
            Ok(())
        };
        let mut tell = |look| {
            said.push(match look {
                Look::Good => '+',
                Look::Failed(_) => '!',
                Look::FailedAgain => '-',
            });
        };
        let mut goes_on = || next.next().map(|step| step()).is_some();
        watch(&folder.place(), &mut random, &mut tell, &mut goes_on).unwrap();
        said
    }

    #[test]
    fn a_card_that_comes_loose_is_told_once_and_may_come_back() {
        let folder = Folder::new();
        folder.file("proc/cmdline", b"ro picloud.slot=B");
        let slot = folder.file("card3", &vec![7; 64 * 1024]);
        folder.file("run/picloud-device/disk", folder.path().join("card").to_str().unwrap().as_bytes());
        let aside = folder.path().join("aside");
        let (mut pull, mut put, mut first, mut then) = (
            || std::fs::rename(&slot, &aside).unwrap(),
            || std::fs::rename(&aside, &slot).unwrap(),
            || (),
            || (),
        );
        assert_eq!(looks(&folder, &mut [&mut first, &mut pull, &mut then, &mut put]), "++!-+");
        // One without anything on it.
        std::fs::File::create(&slot).unwrap();
        assert_eq!(looks(&folder, &mut [&mut first]), "!-");
    }

    #[test]
    fn without_a_card_nothing_is_watched() {
        let folder = Folder::new();
        folder.file("proc/cmdline", b"ro picloud.slot=A");
        let watched = watch(&folder.place(), &mut |_| Ok(()), &mut |_| panic!("a look"), &mut || false);
        assert!(watched.is_err());
    }
}
