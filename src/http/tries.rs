//! How often somebody may guess: so many tries in a span of time, by whom they come from or whom they are about.
//!
//! Kept in memory: whoever can restart the device has it in hand. A span begins with the first try. When more are known
//! than can be, those with the fewest tries are forgotten first, so that nobody is forgotten by a flood of others.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Known at once.
const KEPT_MAX: usize = 2_000;

/// Counts tries by a key, cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Tries<K> {
    max: u32,
    span: Duration,
    kept: Arc<Mutex<HashMap<K, Count>>>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    tries: u32,
}

impl<K: Eq + Hash + Clone> Tries<K> {
    /// At most `max` in `span`.
    pub(super) fn new(max: u32, span: Duration) -> Tries<K> {
        Tries { max, span, kept: Arc::default() }
    }

    /// Counts a try, or says when the next one may be made.
    pub(super) fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |count: &Count| now.saturating_duration_since(count.since) >= self.span;
        if kept.len() >= KEPT_MAX && !kept.contains_key(&key) {
            kept.retain(|_, count| !is_over(count));
            let least = kept.iter().min_by_key(|(_, count)| (count.tries, count.since));
            if let Some(least) = least.filter(|_| kept.len() >= KEPT_MAX).map(|(key, _)| key.clone()) {
                kept.remove(&least);
            }
        }
        let count = kept.entry(key).or_insert(Count { since: now, tries: 0 });
        if is_over(count) {
            *count = Count { since: now, tries: 0 };
        }
        if count.tries >= self.max {
            return Err((count.since + self.span).saturating_duration_since(now));
        }
        count.tries += 1;
        Ok(())
    }

    /// Takes a try back: it was no guess.
    pub(super) fn give_back(&self, key: &K) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = kept.get_mut(key) {
            count.tries = count.tries.saturating_sub(1);
        }
    }
}

/// Whom an address stands for: one computer has as many of IPv6 as it likes within its network of 64 bits.
pub(super) fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn so_many_tries_pass_in_a_span() {
        let (tries, start) = (Tries::new(3, SECOND * 60), Instant::now());
        for second in 0..3 {
            assert_eq!(tries.take("a", start + SECOND * second), Ok(()));
        }
        assert_eq!(tries.take("a", start + SECOND * 10), Err(SECOND * 50));
        assert_eq!(tries.take("b", start + SECOND * 10), Ok(()), "another one is not concerned");
        tries.give_back(&"a");
        assert_eq!(tries.take("a", start + SECOND * 11), Ok(()));
        assert!(tries.take("a", start + SECOND * 59).is_err());
        assert_eq!(tries.take("a", start + SECOND * 60), Ok(()));
    }

    #[test]
    fn a_flood_of_others_makes_nobody_forgotten() {
        let (tries, now) = (Tries::new(3, SECOND * 60), Instant::now());
        for _ in 0..3 {
            tries.take(0, now).unwrap();
        }
        for other in 1..10_000 {
            tries.take(other, now).unwrap();
        }
        assert!(tries.take(0, now).is_err());
        assert!(tries.kept.lock().unwrap().len() <= KEPT_MAX);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let of = |text: &str| household(text.parse().unwrap());
        assert_eq!(of("fd00:1:2:3::1"), of("fd00:1:2:3:ffff::9"));
        assert_ne!(of("fd00:1:2:3::1"), of("fd00:1:2:4::1"));
        assert_ne!(of("192.168.0.1"), of("192.168.0.2"));
        assert_eq!(of("::ffff:192.168.0.1"), of("192.168.0.1"));
    }
}
