//! Hashes of users' passwords: Argon2id (RFC 9106), one at a time, so that logins cannot exhaust a small board.
//!
//! One hash holds 19 MiB for two passes, the first setting of OWASP's password storage sheet. Few wait for their turn;
//! who comes beyond them is told to come again.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::reply::Refusal;
use crate::model::{PASSWORD_BYTES_MAX, Password, PasswordHash};

/// Memory of a hash, in KiB.
const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over it.
const PASSES: u32 = 2;
/// Hashes that wait or are made.
const WAITING_MAX: usize = 8;
/// Of no password: checked where there is no user, so that this takes as long as where there is one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5J3Mgc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Makes and checks hashes, cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Passwords {
    bench: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Passwords {
        Passwords { bench: Arc::new(Semaphore::new(1)), queue: Arc::new(Semaphore::new(WAITING_MAX)) }
    }
}

impl Passwords {
    /// The hash of a password, with a fresh salt.
    pub(super) async fn hash(&self, password: Password) -> Result<PasswordHash, Refusal> {
        let hashed = self.in_turn(move || hash(&password)).await?;
        hashed.map_err(|why| {
            tracing::error!(why, "a password could not be hashed");
            Refusal::internal()
        })
    }

    /// Whether a password is the one of this hash; without one it is none, after the same time.
    pub(super) async fn verify(
        &self,
        password: Zeroizing<String>,
        hash: Option<PasswordHash>,
    ) -> Result<bool, Refusal> {
        self.in_turn(move || verify(&password, hash.as_ref())).await
    }

    /// Works off the event loop, one after the other. Who leaves meanwhile does not make room for another one.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let busy = || Refusal::overloaded("too many logins at once; try again", "logins_busy");
        let place = self.queue.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = self.bench.clone().acquire_owned().await.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((turn, place));
            done
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "a password could not be looked at");
            Refusal::internal()
        })
    }
}

fn hash(password: &Password) -> Result<PasswordHash, String> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(|error| error.to_string())?;
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|error| error.to_string())?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = hasher.hash_password_with_salt(password.expose().as_bytes(), &salt);
    hash.map(|hash| PasswordHash(hash.to_string())).map_err(|error| error.to_string())
}

fn verify(password: &str, hash: Option<&PasswordHash>) -> bool {
    // What is too long was never hashed; it must not take longer for it.
    let (text, fits) = if password.len() <= PASSWORD_BYTES_MAX { (password, true) } else { ("", false) };
    let kept = hash.map_or(NOBODY, |hash| hash.0.as_str());
    let is_right =
        Phc::new(kept).is_ok_and(|kept| Argon2::default().verify_password(text.as_bytes(), &kept).is_ok());
    is_right && fits && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_its_own_hash_only() {
        let password = |text: &str| Password::try_from(text.to_owned()).unwrap();
        let (first, second) =
            (hash(&password("correct horse")).unwrap(), hash(&password("correct horse")).unwrap());
        assert_ne!(first, second, "the salt is the same");
        assert!(verify("correct horse", Some(&first)) && verify("correct horse", Some(&second)));
        for wrong in ["", "correct hors", "Correct horse", &"x".repeat(10_000)] {
            assert!(!verify(wrong, Some(&first)), "{wrong}");
        }
    }

    /// Else the time would tell who is a user.
    #[test]
    fn nobody_costs_as_much_as_somebody() {
        let nobody = Phc::new(NOBODY).unwrap();
        let params = Params::try_from(&nobody).unwrap();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (MEMORY_KIB, PASSES, 1));
        assert!(!verify("", None) && !verify("correct horse", None));
    }

    #[test]
    fn few_wait_for_their_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let passwords = Passwords::default();
            let (go, gate) = std::sync::mpsc::channel::<()>();
            let first = passwords.clone();
            let slow = tokio::spawn(async move { first.in_turn(move || gate.recv().is_ok()).await });
            tokio::task::yield_now().await;
            let waiting: Vec<_> = (1..WAITING_MAX)
                .map(|_| {
                    let passwords = passwords.clone();
                    tokio::spawn(async move { passwords.in_turn(|| true).await })
                })
                .collect();
            tokio::task::yield_now().await;
            assert_eq!(passwords.in_turn(|| true).await.unwrap_err().status, 503);
            go.send(()).unwrap();
            assert!(slow.await.unwrap().unwrap());
            for one in waiting {
                assert!(one.await.unwrap().unwrap());
            }
            assert!(passwords.in_turn(|| true).await.unwrap());
        });
    }
}
