//! The state that the device shares with U-Boot: what is read of it, also after a cut at any byte.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::device::testing::Folder;

const BYTES: usize = 6 * 1024 * 1024;

fn state(slot: Slot, pending: Option<Slot>, tries: u32) -> State {
    State { slot, pending, tries, ..State::default() }
}

/// A disk with these bytes where the copies are.
fn disk_of(folder: &Folder, copies: [&[u8]; 2]) -> std::path::PathBuf {
    let mut bytes = vec![0; BYTES];
    for (copy, at) in copies.into_iter().zip(COPIES) {
        let at = usize::try_from(at).unwrap();
        bytes[at..at + copy.len()].copy_from_slice(copy);
    }
    folder.file("disk", &bytes)
}

#[test]
fn a_block_is_as_u_boot_writes_it() {
    let block = state(Slot::B, Some(Slot::A), 3).encode().unwrap();
    let text = b"pending=A\0slot=B\0tries=3\0\0";
    assert_eq!((block.len(), &block[4..4 + text.len()]), (COPY_BYTES, text.as_slice()));
    // The CRC of `zlib.crc32` over the 16380 bytes that follow.
    assert_eq!(block[..4], crc32fast::hash(&block[4..]).to_le_bytes());
    let empty = state(Slot::A, None, 0).encode().unwrap();
    assert!(
        empty[4..].starts_with(b"pending=\0slot=A\0tries=0\0\0"),
        "an empty value is written, which unsets it"
    );
}

#[test]
fn what_is_strange_is_slot_a_and_unknown_variables_stay() {
    let folder = Folder::new();
    let mut block = b"....boot_id=7\0slot=C\0tries=many\0word\0x=a=b\0\0".to_vec();
    block.resize(COPY_BYTES, 0);
    let crc = crc32fast::hash(&block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    let disk = disk_of(&folder, [&block, &[]]);
    let mut found = State::read(&disk).unwrap();
    assert_eq!((found.slot, found.pending, found.tries), (Slot::A, None, 0));
    found.pending = Some(Slot::B);
    found.write(&disk).unwrap();
    assert_eq!(State::read(&disk).unwrap(), found);
    for (name, value) in [("boot_id", "7"), ("x", "a=b"), ("word", "")] {
        assert_eq!(found.others.get(name.as_bytes()).unwrap(), value.as_bytes(), "{name}");
    }
}

#[test]
fn the_first_sound_copy_counts() {
    let (folder, bad) = (Folder::new(), vec![7; COPY_BYTES]);
    let a = state(Slot::B, None, 0).encode().unwrap();
    let b = state(Slot::B, Some(Slot::A), 1).encode().unwrap();
    for (copies, slot, tries) in [
        ([&a, &b], Slot::B, 0),
        ([&bad, &b], Slot::B, 1),
        ([&a, &bad], Slot::B, 0),
        ([&bad, &bad], Slot::A, 0),
    ] {
        let found = State::read(&disk_of(&folder, [copies[0], copies[1]])).unwrap();
        assert_eq!((found.slot, found.tries), (slot, tries));
    }
    let short = folder.file("short", b"nothing");
    assert_eq!(State::read(&short).unwrap(), State::default());
    assert!(State::read(Path::new("/nowhere/disk")).is_err());
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let folder = Folder::new();
    let mut large = state(Slot::B, None, 0);
    large.others.insert(b"x".to_vec(), vec![b'y'; COPY_BYTES]);
    let disk = disk_of(&folder, [&[], &[]]);
    assert!(large.write(&disk).unwrap_err().to_string().contains("16384 bytes"));
    assert_eq!(fs::read(&disk).unwrap(), vec![0; BYTES]);
}

/// Whatever the copies were, a write that is cut after any byte leaves the old state or the new one.
#[test]
fn a_torn_write_leaves_the_old_state_or_the_new() {
    let (old, new) = (state(Slot::A, None, 0), state(Slot::A, Some(Slot::B), 3));
    let (old_block, new_block) = (old.encode().unwrap(), new.encode().unwrap());
    let bad = vec![0xA5; COPY_BYTES];
    let read = |copies: &[Vec<u8>; 2]| copies.iter().find_map(|copy| State::decode(copy)).unwrap_or_default();
    for before in [[&old_block, &old_block], [&old_block, &bad], [&bad, &old_block]] {
        let mut copies = before.map(Vec::clone);
        let first_is_sound = State::decode(&copies[0]).is_some();
        let mut is_new = false;
        for copy in order(first_is_sound) {
            for cut in 0..COPY_BYTES {
                let was = std::mem::replace(&mut copies[copy][cut], new_block[cut]);
                // Without a change there is nothing new to see.
                if was != new_block[cut] {
                    let found = read(&copies);
                    assert!(found == old || found == new, "copy {copy} was cut at {cut}");
                    assert!(!is_new || found == new, "it went back at {cut} of copy {copy}");
                    is_new = found == new;
                }
            }
        }
        assert!(is_new, "a whole write is the new state");
    }
}

proptest! {
    #[test]
    fn any_state_is_read_as_it_was_written(
        slot: bool,
        pending in prop::option::of(any::<bool>()),
        tries: u32,
        others in prop::collection::btree_map("[a-z_]{4,12}x", "[ -~]{0,60}", 0..40),
    ) {
        let of = |b: bool| if b { Slot::B } else { Slot::A };
        let others = others.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
        let written = State { slot: of(slot), pending: pending.map(of), tries, others };
        prop_assert_eq!(State::decode(&written.encode().unwrap()), Some(written));
    }

    #[test]
    fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..600), sound: bool) {
        if sound && bytes.len() >= 4 {
            let crc = crc32fast::hash(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
        }
        prop_assert_eq!(State::decode(&bytes).is_some(), bytes.len() >= 4 && crc32fast::hash(&bytes[4..]).to_le_bytes() == bytes[..4]);
    }
}
