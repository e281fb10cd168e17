//! What stands between a guess and the device: the setup code, passwords, and how often either may be tried.
//!
//! Only wrong tries count. Both are slow for whoever guesses, and neither says more than that it was wrong.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::auth::hash_secret;
use super::passwords::Passwords;
use super::reply::Refusal;
use super::tries::{Tries, household};

const HOUR: Duration = Duration::from_secs(3600);
/// Wrong setup codes an hour, from one peer.
const CODES_PER_PEER: u32 = 10;
/// And from all together: a code has 40 bits.
const CODES_IN_ALL: u32 = 50;
/// Wrong passwords in ten minutes, from one peer.
const PASSWORDS_PER_PEER: u32 = 10;
const PEER_SPAN: Duration = Duration::from_secs(600);
/// Wrong passwords an hour, for one user from wherever.
const PASSWORDS_PER_USER: u32 = 30;
/// How long a wrong setup code has to wait for its answer.
pub(super) const WRONG_CODE_TAKES: Duration = Duration::from_millis(500);

/// The code by which the first user is made: only its hash.
#[derive(Clone)]
pub struct SetupCode([u8; 32]);

impl SetupCode {
    /// Of a code as people write it: upper or lower case, with dashes and blanks or without. `None` if it is none.
    pub fn new(text: &str) -> Option<SetupCode> {
        let plain = plain(text);
        let fits = (8..=64).contains(&plain.len()) && plain.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fits.then(|| SetupCode(hash_secret(&plain)))
    }

    fn is(&self, text: &str) -> bool {
        self.0.ct_eq(&hash_secret(&plain(text))).into()
    }
}

fn plain(text: &str) -> zeroize::Zeroizing<String> {
    let kept = text.chars().filter(|c| *c != '-' && !c.is_whitespace());
    zeroize::Zeroizing::new(kept.map(|c| c.to_ascii_uppercase()).collect())
}

/// Who may try, how often, and what is right. Cheap to clone.
#[derive(Clone)]
pub struct Logins {
    code: Option<SetupCode>,
    pub(super) passwords: Passwords,
    codes_by_peer: Tries<IpAddr>,
    codes_in_all: Tries<()>,
    passwords_by_peer: Tries<IpAddr>,
    passwords_by_user: Tries<[u8; 32]>,
}

/// A password that is tried; given back when it was right.
pub(super) struct Attempt<'a> {
    logins: &'a Logins,
    peer: IpAddr,
    user: [u8; 32],
}

impl Logins {
    /// With the setup code, if the device has one.
    pub fn new(code: Option<SetupCode>) -> Logins {
        Logins {
            code,
            passwords: Passwords::default(),
            codes_by_peer: Tries::new(CODES_PER_PEER, HOUR),
            codes_in_all: Tries::new(CODES_IN_ALL, HOUR),
            passwords_by_peer: Tries::new(PASSWORDS_PER_PEER, PEER_SPAN),
            passwords_by_user: Tries::new(PASSWORDS_PER_USER, HOUR),
        }
    }

    /// Whether this is the setup code; 429 if it was tried too often.
    pub(super) fn is_setup_code(&self, text: &str, peer: IpAddr, now: Instant) -> Result<bool, Refusal> {
        let peer = household(peer);
        let too_often = |wait| Refusal::too_many_tries("too many wrong setup codes", wait);
        self.codes_by_peer.take(peer, now).map_err(too_often)?;
        self.codes_in_all.take((), now).map_err(too_often)?;
        let is_right = self.code.as_ref().is_some_and(|code| code.is(text));
        if is_right {
            self.codes_by_peer.give_back(&peer);
            self.codes_in_all.give_back(&());
        }
        Ok(is_right)
    }

    /// Counts a try to log in before it is made; 429 if there were too many. Whether there is such a user makes no
    /// difference.
    pub(super) fn attempt(&self, email: &str, peer: IpAddr, now: Instant) -> Result<Attempt<'_>, Refusal> {
        let (peer, user) = (household(peer), Sha256::digest(email.as_bytes()).into());
        let too_often = |wait| Refusal::too_many_tries("too many wrong passwords", wait);
        self.passwords_by_peer.take(peer, now).map_err(too_often)?;
        self.passwords_by_user.take(user, now).map_err(too_often)?;
        Ok(Attempt { logins: self, peer, user })
    }
}

impl Attempt<'_> {
    /// It was no guess.
    pub(super) fn was_right(self) {
        self.logins.passwords_by_peer.give_back(&self.peer);
        self.logins.passwords_by_user.give_back(&self.user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_write_it() {
        let code = SetupCode::new("ABCD-EFGH").unwrap();
        for same in ["ABCD-EFGH", "abcdefgh", " ab cd-ef gh\n", "A-B-C-D-E-F-G-H"] {
            assert!(code.is(same), "{same}");
        }
        for other in ["", "ABCD-EFG", "ABCD-EFGHI", "ABCD_EFGH", "ABCD-EFGJ"] {
            assert!(!code.is(other), "{other}");
        }
        for bad in ["", "ABCD-EFG", "ÄBCD-EFGH", &"A".repeat(65)] {
            assert!(SetupCode::new(bad).is_none(), "{bad}");
        }
    }

    fn peer(last: u8) -> IpAddr {
        [192, 168, 0, last].into()
    }

    #[test]
    fn codes_are_bounded_by_peer_and_in_all() {
        let (logins, now) = (Logins::new(SetupCode::new("ABCD-EFGH")), Instant::now());
        let tried = |text, from, now| logins.is_setup_code(text, peer(from), now);
        for _ in 0..CODES_PER_PEER {
            assert!(!tried("WRONG-ONE", 1, now).unwrap());
        }
        let refused = tried("ABCD-EFGH", 1, now + HOUR / 4).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.retry_after), (429, Some(HOUR / 4 * 3)));
        for _ in 0..100 {
            assert!(tried("ABCD-EFGH", 2, now).unwrap(), "what is right is not counted");
        }
        for from in 2..6 {
            (0..CODES_PER_PEER).for_each(|_| assert!(!tried("WRONG-ONE", from, now).unwrap()));
        }
        assert!(tried("ABCD-EFGH", 7, now).is_err(), "{CODES_IN_ALL} in all");
        assert!(tried("ABCD-EFGH", 1, now + HOUR).unwrap());
        let none = Logins::new(None);
        assert!(!none.is_setup_code("", peer(1), now).unwrap());
    }

    #[test]
    fn passwords_are_bounded_by_peer_and_by_user() {
        let (logins, now) = (Logins::new(None), Instant::now());
        let tried = |email, from, now| logins.attempt(email, peer(from), now).map(drop);
        for _ in 0..PASSWORDS_PER_PEER {
            tried("a@b", 1, now).unwrap();
        }
        assert_eq!(tried("c@d", 1, now).unwrap_err().retry_after, Some(PEER_SPAN));
        for from in 2..4 {
            (0..PASSWORDS_PER_PEER).for_each(|_| tried("a@b", from, now).unwrap());
        }
        assert_eq!(tried("a@b", 9, now).unwrap_err().retry_after, Some(HOUR), "from anywhere");
        assert!(tried("c@d", 9, now).is_ok());
        for _ in 0..100 {
            logins.attempt("e@f", peer(10), now).unwrap().was_right();
        }
    }
}
