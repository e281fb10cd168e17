//! `rand::…`: random numbers, all from the system's own generator, so that they may be secrets.

use std::sync::Arc;

use rhai::{Blob, NativeCallContext};

use super::super::guards::check_items;
use super::super::watch::Watch;
use super::{Kit, Raised, offer, wrong};

/// Most bytes at once.
const BYTES_MAX: i64 = 64 * 1024;

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Random numbers from the system's generator, good enough for secrets.";
    let mut kit = Kit::new("rand", about, watch);
    offer!(
        kit,
        /// A whole number from `min` to `max`, both included, each as likely as the other.
        ///
        /// Limits: `min` must not be larger than `max`.
        ///
        /// ```rhai
        /// let dice = rand::int(1, 6);
        /// dice >= 1 && dice <= 6 // => true
        /// ```
        /// ```rhai
        /// rand::int(2, 1) // throws: rand::int: there is no number from 2 to 1
        /// ```
        "rand::int(min, max)",
        |min: i64, max: i64| int(min, max, || random("rand::int").map(u64::from_le_bytes))
    );
    offer!(
        kit,
        /// A number from 0 up to, but not, 1.
        ///
        /// Limits: none.
        ///
        /// ```rhai
        /// let part = rand::float();
        /// part >= 0.0 && part < 1.0 // => true
        /// ```
        "rand::float()",
        || random("rand::float").map(|bytes| float(u64::from_le_bytes(bytes)))
    );
    offer!(
        kit,
        /// So many random bytes, as a blob.
        ///
        /// Limits: 0 to 65536 bytes, and no more than a blob may have.
        ///
        /// ```rhai
        /// enc::hex(rand::bytes(16)).len // => 32
        /// ```
        /// ```rhai
        /// rand::bytes(-1) // throws: rand::bytes: takes 0 to 65536 bytes, not -1
        /// ```
        "rand::bytes(count)",
        bytes
    );
    kit
}

/// So many bytes of the system's generator.
pub(super) fn random<const N: usize>(function: &str) -> Result<[u8; N], Raised> {
    let mut bytes = [0; N];
    fill(function, &mut bytes)?;
    Ok(bytes)
}

fn fill(function: &str, bytes: &mut [u8]) -> Result<(), Raised> {
    getrandom::fill(bytes).map_err(|why| wrong(function, format!("the system has no random numbers: {why}")))
}

fn bytes(ctx: NativeCallContext, count: i64) -> Result<Blob, Raised> {
    const NAME: &str = "rand::bytes";
    let wanted = usize::try_from(count).ok().filter(|_| count <= BYTES_MAX);
    let wanted = wanted.ok_or_else(|| wrong(NAME, format!("takes 0 to {BYTES_MAX} bytes, not {count}")))?;
    check_items(&ctx, wanted)?;
    let mut bytes = vec![0; wanted];
    fill(NAME, &mut bytes)?;
    Ok(bytes)
}

/// A number from `min` to `max` out of draws of 64 bits.
fn int(min: i64, max: i64, mut draw: impl FnMut() -> Result<u64, Raised>) -> Result<i64, Raised> {
    if min > max {
        return Err(wrong("rand::int", format!("there is no number from {min} to {max}")));
    }
    let Some(choices) = max.abs_diff(min).checked_add(1) else {
        return Ok(i64::from_le_bytes(draw()?.to_le_bytes()));
    };
    // Of the 2^64 draws the last few are drawn again: without them the choices divide the rest.
    let unfair = (u64::MAX % choices + 1) % choices;
    loop {
        let drawn = draw()?;
        if drawn <= u64::MAX - unfair {
            return Ok(min.wrapping_add_unsigned(drawn % choices));
        }
    }
}

/// The upper 53 bits, as many as a float has, as a part of one.
fn float(bits: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits & 0xffff_ffff).unwrap_or(0));
    let bits = bits >> 11;
    (half(bits >> 32) * 4_294_967_296.0 + half(bits)) / 9_007_199_254_740_992.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(min: i64, max: i64, draws: &[u64], wanted: i64) {
        let mut draws = draws.iter();
        let given = int(min, max, || Ok(*draws.next().expect("too many draws"))).unwrap();
        assert_eq!((given, draws.len()), (wanted, 0), "{min}..={max}");
    }

    #[test]
    fn whole_numbers_are_fair() {
        check(1, 6, &[0], 1);
        check(1, 6, &[11], 6);
        check(5, 5, &[u64::MAX], 5);
        check(-3, 3, &[7], -3);
        check(0, 255, &[u64::MAX], 255);
        // 2^64 is 4 more than a multiple of 6: the last four draws would favour the first four numbers.
        check(0, 5, &[u64::MAX, u64::MAX - 3, u64::MAX - 4], 5);
        check(i64::MIN, i64::MAX, &[u64::MAX], -1);
        check(i64::MIN, i64::MAX - 1, &[u64::MAX, u64::MAX - 1], i64::MAX - 1);
    }

    #[test]
    fn floats_are_below_one() {
        assert_eq!(float(0), 0.0);
        assert_eq!(float(1 << 63), 0.5);
        assert!(float(u64::MAX) < 1.0 && float(u64::MAX) > 0.999_999_999_999_999);
    }
}
