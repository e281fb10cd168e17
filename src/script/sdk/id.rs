//! `id::…`: names that nobody else has.

use std::sync::Arc;

use uuid::Builder;

use super::super::watch::Watch;
use super::rand::random;
use super::{Kit, Raised, offer, time, wrong};

/// Letters of short ids.
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Letters of a short id if nothing else is asked for: 71 bits.
const SHORT_LETTERS: i64 = 12;

/// Most letters of a short id.
const SHORT_LETTERS_MAX: i64 = 64;

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("id", "Names that nobody else has.", watch);
    offer!(
        kit,
        /// A new UUID of version 7 (RFC 9562). Later ones sort behind earlier ones, to the millisecond.
        ///
        /// Limits: none.
        ///
        /// ```rhai
        /// id::uuid().len // => 36
        /// ```
        /// ```rhai
        /// id::uuid() == id::uuid() // => false
        /// ```
        "id::uuid()",
        uuid
    );
    offer!(
        kit,
        /// A new random name of letters and digits, for short links: 12 of them, or as many as asked for. With 7 two
        /// of 10,000 are the same once in 70,000 times; with 12, never.
        ///
        /// Limits: 4 to 64 letters.
        ///
        /// ```rhai
        /// id::short(7).len // => 7
        /// ```
        /// ```rhai
        /// id::short(3) // throws: id::short: takes 4 to 64 letters, not 3
        /// ```
        "id::short([length])",
        || short(SHORT_LETTERS)
    );
    kit.also("short", short);
    kit
}

fn uuid() -> Result<String, Raised> {
    // Not the crate's own generator: what it keeps for its thread would count as memory that the run kept.
    let millis = u64::try_from(time::now().0).unwrap_or(0);
    let id = Builder::from_unix_timestamp_millis(millis, &random("id::uuid")?).into_uuid();
    Ok(id.to_string())
}

fn short(length: i64) -> Result<String, Raised> {
    const NAME: &str = "id::short";
    let wanted = usize::try_from(length).ok().filter(|_| (4..=SHORT_LETTERS_MAX).contains(&length));
    let wanted =
        wanted.ok_or_else(|| wrong(NAME, format!("takes 4 to {SHORT_LETTERS_MAX} letters, not {length}")))?;
    let mut id = String::with_capacity(wanted);
    while id.len() < wanted {
        let bytes: [u8; 16] = random(NAME)?;
        // 62 letters: two of 64 numbers stand for none, so that all letters are equally likely.
        let letters = bytes.iter().filter_map(|byte| LETTERS.get(usize::from(byte & 63)));
        id.extend(letters.take(wanted - id.len()).map(|letter| char::from(*letter)));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn uuids_are_of_version_seven_and_differ() {
        let ids: HashSet<String> = (0..1000).map(|_| uuid().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
        }
    }

    #[test]
    fn short_ids_use_every_letter() {
        let seen: HashSet<char> =
            (0..200).flat_map(|_| short(64).unwrap().chars().collect::<Vec<_>>()).collect();
        assert_eq!(seen.len(), LETTERS.len());
        for bad in [i64::MIN, -1, 0, 3, 65, i64::MAX] {
            assert!(short(bad).unwrap_err().to_string().contains("takes 4 to 64 letters"), "{bad}");
        }
    }
}
