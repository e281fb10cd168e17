//! Which slot boots: the state that the device shares with U-Boot.
//!
//! It is a block in the form of `env export -c` (U-Boot, `cmd/nvedit.c` and `include/env_internal.h`): a little-endian
//! CRC-32 of the rest, then `name=value` each with a zero byte behind it, and one more at the end. Two copies lie before
//! the first partition. Whoever reads takes the first if it is sound, else the second, else slot A. Whoever writes
//! never touches the only sound copy, so a cut leaves the old state or the new one. Variables that nobody here knows
//! are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, Place};

/// Where the copies begin on the disk.
pub const COPIES: [u64; 2] = [1024 * 1024, 5 * 1024 * 1024];
/// Bytes of a copy.
pub const COPY_BYTES: usize = 16 * 1024;
const CRC_BYTES: usize = 4;

/// One of the two systems on the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// The second partition.
    A,
    /// The third.
    B,
}

impl Slot {
    /// The slot of a letter.
    pub fn parse(text: &str) -> Option<Slot> {
        match text {
            "A" => Some(Slot::A),
            "B" => Some(Slot::B),
            _ => None,
        }
    }

    /// The one that does not run.
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// The number of its partition.
    pub fn partition(self) -> u32 {
        match self {
            Slot::A => 2,
            Slot::B => 3,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Slot::A => "A",
            Slot::B => "B",
        })
    }
}

/// How this boot came about, from the kernel's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// What was booted.
    pub slot: Slot,
    /// What was on probation when it was.
    pub pending: Option<Slot>,
}

impl Boot {
    /// Of the running system.
    ///
    /// # Errors
    /// If the command line names no slot: then U-Boot did not start it.
    pub fn read(place: &Place) -> Result<Boot, Error> {
        let path = place.path("proc/cmdline");
        let text = std::fs::read_to_string(&path).map_err(|why| Error::io("read", &path, why))?;
        let value = |name: &str| text.split_whitespace().find_map(|word| word.strip_prefix(name));
        let slot = value("picloud.slot=").and_then(Slot::parse).ok_or(Error::NoSlot)?;
        Ok(Boot { slot, pending: value("picloud.pending=").and_then(Slot::parse) })
    }

    /// Whether it is the new slot's, which has not proved itself.
    pub fn is_on_probation(self) -> bool {
        self.pending == Some(self.slot)
    }
}

/// What U-Boot goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The slot that boots.
    pub slot: Slot,
    /// The slot that boots instead, as long as there are tries.
    pub pending: Option<Slot>,
    /// How often it still may.
    pub tries: u32,
    pub(super) others: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Default for State {
    fn default() -> State {
        State { slot: Slot::A, pending: None, tries: 0, others: BTreeMap::new() }
    }
}

impl State {
    /// The state of a disk; that of a fresh card if both copies are damaged.
    ///
    /// # Errors
    /// If neither copy can be read.
    pub fn read(disk: &Path) -> Result<State, Error> {
        let failed = |why| Error::io("read the state on", disk, why);
        let [first, second] = copies(&File::open(disk).map_err(failed)?);
        match (first, second) {
            (Ok(Some(state)), _) | (_, Ok(Some(state))) => Ok(state),
            (Err(why), Err(_)) => Err(failed(why)),
            _ => Ok(State::default()),
        }
    }

    /// Writes both copies, each down to the disk before the other is begun.
    ///
    /// # Errors
    /// If the disk fails, or the variables do not fit.
    pub fn write(&self, disk: &Path) -> Result<(), Error> {
        let failed = |why| Error::io("write the state on", disk, why);
        let block = self.encode().map_err(failed)?;
        let file = OpenOptions::new().read(true).write(true).open(disk).map_err(failed)?;
        let first_is_sound = matches!(copies(&file)[0], Ok(Some(_)));
        for copy in order(first_is_sound) {
            file.write_all_at(&block, COPIES[copy]).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Ok(())
    }

    fn decode(block: &[u8]) -> Option<State> {
        let (crc, data) = block.split_first_chunk::<CRC_BYTES>()?;
        if crc32fast::hash(data) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut state = State::default();
        for entry in data.split(|byte| *byte == 0).take_while(|entry| !entry.is_empty()) {
            let split = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
            let (name, value) = (&entry[..split], entry.get(split + 1..).unwrap_or_default());
            let text = std::str::from_utf8(value).unwrap_or_default();
            match name {
                // As U-Boot's script does it: what is no slot is slot A.
                b"slot" => state.slot = Slot::parse(text).unwrap_or(Slot::A),
                b"pending" => state.pending = Slot::parse(text),
                b"tries" => state.tries = text.parse().unwrap_or_default(),
                _ => {
                    state.others.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Some(state)
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let pending = self.pending.map(|slot| slot.to_string()).unwrap_or_default();
        let mut all = self.others.clone();
        for (name, value) in
            [("slot", self.slot.to_string()), ("pending", pending), ("tries", self.tries.to_string())]
        {
            all.insert(name.into(), value.into());
        }
        let mut block = vec![0; CRC_BYTES];
        for (name, value) in all {
            block.extend([name.as_slice(), b"=", value.as_slice(), b"\0"].concat());
        }
        block.push(0);
        if block.len() > COPY_BYTES {
            return Err(io::Error::other(format!("its variables have more than {COPY_BYTES} bytes")));
        }
        block.resize(COPY_BYTES, 0);
        let crc = crc32fast::hash(&block[CRC_BYTES..]);
        block[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        Ok(block)
    }
}

/// In which order the copies are written: the second first, because the first is read first; but a damaged first one
/// before the second, which is then the only one that is sound.
fn order(first_is_sound: bool) -> [usize; 2] {
    if first_is_sound { [1, 0] } else { [0, 1] }
}

/// The copies of a disk; `None` for one that is damaged.
fn copies(disk: &File) -> [io::Result<Option<State>>; 2] {
    COPIES.map(|at| {
        let mut block = vec![0; COPY_BYTES];
        match disk.read_exact_at(&mut block, at) {
            // There is no such place: what should be there is damaged.
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            read => read.map(|()| State::decode(&block)),
        }
    })
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
