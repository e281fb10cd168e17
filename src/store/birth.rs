//! A file whose making was cut short.
//!
//! redb writes its magic number last. If the power goes before that, the file has a length and no number, and redb
//! takes it for something that is not its own, for ever. Such a file holds nothing but zeros behind its header: it is
//! emptied, and made anew. A file with anything in it is left alone, whatever it is.

use std::io;
use std::ops::Bound::Unbounded;

use redb::StorageBackend;

/// What a file of redb begins with: see its `docs/design.md`.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Up to here redb writes before the magic number; nothing else is.
const HEADER_BYTES: u64 = 4 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// Empties `card` if it was never finished and nobody else is at it.
pub(crate) fn clear_unfinished(card: &impl StorageBackend) -> io::Result<()> {
    if card.len()? == 0 || has_magic(card)? {
        return Ok(());
    }
    // Another process may be making it right now. Where there are no locks, there is no other process.
    let lock = card.try_lock_range(Unbounded, Unbounded);
    if let Ok(false) = lock {
        return Ok(());
    }
    if !has_magic(card)? && is_empty(card)? {
        card.set_len(0)?;
    }
    match lock {
        Ok(_) => card.unlock_range(Unbounded, Unbounded).map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

fn has_magic(card: &impl StorageBackend) -> io::Result<bool> {
    let mut head = [0; MAGIC.len()];
    if card.len()? < 9 {
        return Ok(false);
    }
    card.read(0, &mut head)?;
    Ok(head == MAGIC)
}

/// Whether the number is none or begun, and nothing follows the header.
fn is_empty(card: &impl StorageBackend) -> io::Result<bool> {
    let length = card.len()?;
    let mut head = vec![0; MAGIC.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
    card.read(0, &mut head)?;
    let begun = head.iter().zip(MAGIC).take_while(|(byte, wanted)| **byte == *wanted).count();
    if head[begun..].iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = HEADER_BYTES;
    while at < length {
        let some = usize::try_from(length - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        card.read(at, &mut chunk[..some])?;
        if chunk[..some].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += u64::try_from(some).unwrap_or(u64::MAX);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    /// Whether a card with these bytes is emptied.
    #[track_caller]
    fn check(length: u64, bytes: &[(u64, &[u8])], emptied: bool) {
        let card = InMemoryBackend::new();
        card.set_len(length).unwrap();
        bytes.iter().for_each(|(at, bytes)| card.write(*at, bytes).unwrap());
        clear_unfinished(&card).unwrap();
        assert_eq!(card.len().unwrap(), if emptied { 0 } else { length }, "{bytes:?}");
    }

    #[test]
    fn only_a_file_that_never_held_anything_is_emptied() {
        check(1, &[], true);
        check(100_000, &[], true);
        check(100_000, &[(9, &[3; 300])], true);
        check(100_000, &[(0, b"redb"), (9, &[3; 300])], true);
        check(100_000, &[(0, &MAGIC)], false);
        check(100_000, &[(0, b"rodb")], false);
        check(100_000, &[(99_999, &[1])], false);
        check(100_000, &[(4_096, &[1])], false);
        check(9, b"not redb!".chunks(9).map(|all| (0, all)).collect::<Vec<_>>().as_slice(), false);
    }
}
