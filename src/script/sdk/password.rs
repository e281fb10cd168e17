//! Hashes of passwords: Argon2id (RFC 9106), at a cost that a small device bears on all its benches at once.
//!
//! One hash holds 9 MiB for four passes, one of the settings that OWASP's password storage sheet calls equally strong.
//! It must fit beside the script into the memory of a run.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use rhai::NativeCallContext;

use super::super::alloc;
use super::super::watch::{Stop, Watch};
use super::rand::random;
use super::{Raised, wrong};

/// Memory of our hashes, in KiB.
const MEMORY_KIB: u32 = 9 * 1024;

/// Passes over it.
const PASSES: u32 = 4;

/// Most memory times passes of a hash that is checked, in KiB. A pass over 1 MiB takes about a millisecond on a desk
/// and four on a Pi, and nothing can end it before it is through.
const WORK_KIB_MAX: u64 = 96 * 1024;

/// Longest password, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Longest hash, in bytes.
const HASH_BYTES_MAX: usize = 512;

/// A PHC string for a password, with a fresh salt.
pub(super) fn hash(ctx: &NativeCallContext, watch: &Watch, secret: &str) -> Result<String, Raised> {
    const NAME: &str = "crypto::hash_password";
    if secret.is_empty() || secret.len() > PASSWORD_BYTES_MAX {
        let why = format!("takes a password of 1 to {PASSWORD_BYTES_MAX} bytes, not {}", secret.len());
        return Err(wrong(NAME, why));
    }
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|why| wrong(NAME, why))?;
    check_room(ctx, watch, NAME, &params)?;
    let salt: [u8; 16] = random(NAME)?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = hasher.hash_password_with_salt(secret.as_bytes(), &salt).map_err(|why| wrong(NAME, why))?;
    watch.check(ctx)?;
    Ok(hash.to_string())
}

/// Whether a password is the one of a PHC string.
pub(super) fn verify(
    ctx: &NativeCallContext,
    watch: &Watch,
    secret: &str,
    kept: &str,
) -> Result<bool, Raised> {
    const NAME: &str = "crypto::verify_password";
    if secret.len() > PASSWORD_BYTES_MAX {
        // No hash was made of it; to say so in an instant tells nobody anything.
        return Ok(false);
    }
    let no_hash = || wrong(NAME, "the hash is no PHC string of Argon2id");
    if kept.len() > HASH_BYTES_MAX {
        return Err(no_hash());
    }
    let hash = PasswordHash::new(kept).map_err(|_| no_hash())?;
    if hash.algorithm != Algorithm::Argon2id.ident() || hash.hash.is_none() || hash.salt.is_none() {
        return Err(no_hash());
    }
    let params = Params::try_from(&hash).map_err(|_| no_hash())?;
    if u64::from(params.m_cost()) * u64::from(params.t_cost()) > WORK_KIB_MAX {
        let (memory, passes) = (params.m_cost(), params.t_cost());
        let why = format!(
            "the hash wants {passes} passes over {memory} KiB; all in all {WORK_KIB_MAX} KiB are allowed"
        );
        return Err(wrong(NAME, why));
    }
    check_room(ctx, watch, NAME, &params)?;
    let is_right = Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok();
    watch.check(ctx)?;
    Ok(is_right)
}

/// Ends the run if it has no memory left for a hash, or is over already.
fn check_room(ctx: &NativeCallContext, watch: &Watch, function: &str, params: &Params) -> Result<(), Raised> {
    watch.check(ctx)?;
    let wanted = params.block_count().saturating_mul(1024);
    if wanted <= alloc::room() {
        return Ok(());
    }
    let why = format!("{function} needs {wanted} bytes of the run's memory, and fewer are left");
    Err(watch.stop(ctx, Stop::Full(why)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{fails, gives, row, run_with};
    use super::super::super::{FaultKind, Limits};

    #[track_caller]
    fn refused(password: &str, hash: &str, why: &str) {
        let source = format!("crypto::verify_password({password:?}, {hash:?})");
        fails(&source, FaultKind::Runtime, why);
    }

    #[test]
    fn hashes_of_others_are_checked() {
        // Of the tests of the reference implementation.
        let hash = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        gives(&format!("crypto::verify_password(\"password\", {hash:?})"), "true");
        gives(&format!("crypto::verify_password(\"Password\", {hash:?})"), "false");
    }

    #[test]
    fn costly_and_foreign_hashes_are_refused() {
        let tail = "c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        refused("x", &format!("$argon2id$v=19$m=4194304,t=1,p=1${tail}"), "1 passes over 4194304 KiB");
        refused("x", &format!("$argon2id$v=19$m=1024,t=4294967295,p=1${tail}"), "all in all 98304 KiB");
        for bad in [
            "",
            "$",
            "$2b$12$abcdefghijklmnopqrstuuKtjP/dR.kP4mRZVoFTDKKDVJG9A2QkC",
            &format!("$argon2i$v=19$m=1024,t=1,p=1${tail}"),
            &format!("$argon2id$v=19$m=1,t=1,p=1${tail}"),
            &format!("$argon2id$v=19$m=1024,t=0,p=1${tail}"),
            &format!("$argon2id$v=19$m=1024,t=1,p=99999999${tail}"),
            "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHRzb21l",
            &"$argon2id".repeat(1000),
        ] {
            refused("x", bad, "the hash is no PHC string of Argon2id");
        }
        gives(&format!("crypto::verify_password(\"x\", \"$argon2id$v=19$m=1024,t=1,p=1${tail}\")"), "false");
    }

    #[test]
    fn passwords_have_a_length() {
        fails("crypto::hash_password(\"\")", FaultKind::Runtime, "1 to 1024 bytes, not 0");
        let long = "let p = \"p\"; p.pad(1025, 'p');";
        fails(&format!("{long} crypto::hash_password(p)"), FaultKind::Runtime, "1 to 1024 bytes, not 1025");
        gives(&format!("{long} crypto::verify_password(p, \"\")"), "false");
    }

    #[test]
    fn a_run_without_the_memory_is_ended() {
        let limits = Limits { memory_bytes: 8 * 1024 * 1024, ..Limits::default() };
        let outcome = run_with("try { crypto::hash_password(\"p\") } catch { } 1", row(), limits);
        let fault = outcome.result.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Memory);
        assert!(fault.message.contains("crypto::hash_password needs 9437184 bytes"), "{fault:?}");
        assert!(outcome.peak_bytes < 8 * 1024 * 1024);
    }
}
