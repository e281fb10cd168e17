//! `crypto::…`: digests, signatures, passwords and tokens.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use rhai::{Dynamic, Map, NativeCallContext};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::watch::Watch;
use super::enc::hex;
use super::given::with_bytes;
use super::{Kit, Raised, jwt, offer, password};

/// Bytes between two looks at the clock and the control.
const BYTES_PER_LOOK: usize = 256 * 1024;

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("crypto", "Digests, signatures, passwords and signed tokens.", watch);
    digests(&mut kit);
    passwords(&mut kit);
    tokens(&mut kit);
    kit
}

fn digests(kit: &mut Kit) {
    let watch = kit.watch();
    offer!(
        kit,
        /// The SHA-256 digest (FIPS 180-4) of a text or a blob, in lower-case hex.
        ///
        /// Limits: none but those of texts and blobs.
        ///
        /// ```rhai
        /// crypto::sha256("abc") // => "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        /// ```
        "crypto::sha256(data)",
        move |ctx: NativeCallContext, data: Dynamic| -> Result<String, Raised> {
            with_bytes("crypto::sha256", &data, |bytes| {
                let mut digest = Sha256::new();
                for chunk in bytes.chunks(BYTES_PER_LOOK) {
                    watch.check(&ctx)?;
                    digest.update(chunk);
                }
                Ok(hex(&digest.finalize()))
            })
        }
    );
    let watch = kit.watch();
    offer!(
        kit,
        /// The HMAC (RFC 2104) of a text or a blob with SHA-256, in lower-case hex: who knows the key has signed it.
        /// Compare signatures with `crypto::equal`.
        ///
        /// Limits: none but those of texts and blobs.
        ///
        /// ```rhai
        /// let sent = "sha256=773ba44693c7553d6ee20f61ea5d2757a9a4f4a44d2841ae4e95b52e4cd62db4";
        /// crypto::equal(sent, "sha256=" + crypto::hmac_sha256("secret", "what was sent")) // => false
        /// ```
        /// ```rhai
        /// crypto::hmac_sha256("Jefe", "what do ya want for nothing?") // => "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        /// ```
        "crypto::hmac_sha256(key, data)",
        move |ctx: NativeCallContext, key: Dynamic, data: Dynamic| -> Result<String, Raised> {
            const NAME: &str = "crypto::hmac_sha256";
            with_bytes(NAME, &key, |key| {
                with_bytes(NAME, &data, |bytes| {
                    let mut mac = keyed(key);
                    for chunk in bytes.chunks(BYTES_PER_LOOK) {
                        watch.check(&ctx)?;
                        mac.update(chunk);
                    }
                    Ok(hex(&mac.finalize().into_bytes()))
                })
            })
        }
    );
    offer!(
        kit,
        /// Whether two texts or blobs have the same bytes. Takes the same time wherever they differ, so that a secret
        /// cannot be guessed letter by letter; their lengths are no secret.
        ///
        /// Limits: none but those of texts and blobs.
        ///
        /// ```rhai
        /// crypto::equal("token", "token") // => true
        /// ```
        "crypto::equal(a, b)",
        |a: Dynamic, b: Dynamic| -> Result<bool, Raised> {
            const NAME: &str = "crypto::equal";
            with_bytes(NAME, &a, |a| with_bytes(NAME, &b, |b| Ok(a.ct_eq(b).into())))
        }
    );
}

fn passwords(kit: &mut Kit) {
    let watch = kit.watch();
    offer!(
        kit,
        /// A hash of a password, to be kept instead of it: Argon2id with 9 MiB, 4 passes and a fresh salt, as a PHC
        /// string. Takes some ten milliseconds on a desk and some hundred on a Pi: that is its purpose.
        ///
        /// Limits: 1 to 1024 bytes of password; 9 MiB of the run's memory must be free.
        ///
        /// ```rhai
        /// crypto::hash_password("correct horse").starts_with("$argon2id$v=19$m=9216,t=4,p=1$") // => true
        /// ```
        "crypto::hash_password(password)",
        move |ctx: NativeCallContext, secret: &str| password::hash(&ctx, &watch, secret)
    );
    let watch = kit.watch();
    offer!(
        kit,
        /// Whether a password is the one of a hash that `crypto::hash_password`, or other software, made with
        /// Argon2id.
        ///
        /// Limits: 1024 bytes of password; a hash whose memory times passes is over 96 MiB, or whose memory does not
        /// fit into the run's, is refused, for it may be there to keep the device busy.
        ///
        /// ```rhai
        /// let kept = crypto::hash_password("correct horse");
        /// [crypto::verify_password("correct horse", kept), crypto::verify_password("wrong", kept)] // => [true, false]
        /// ```
        /// ```rhai
        /// crypto::verify_password("x", "secret") // throws: crypto::verify_password: the hash is no PHC string of Argon2id
        /// ```
        "crypto::verify_password(password, hash)",
        move |ctx: NativeCallContext, secret: &str, kept: &str| password::verify(&ctx, &watch, secret, kept)
    );
}

fn tokens(kit: &mut Kit) {
    let sign = |watch: Arc<Watch>| {
        move |ctx: NativeCallContext, claims: Dynamic, key: Dynamic, options: Map| {
            watch.check(&ctx)?;
            with_bytes("crypto::jwt_sign", &key, |key| jwt::sign(&claims, key, &options))
        }
    };
    let signing = sign(kit.watch());
    offer!(
        kit,
        /// Signs a map of claims as a JSON Web Token (RFC 7519) with HS256. The option `expires_in`, in seconds, adds
        /// the claims `iat` and `exp`; without an `exp` a token is good for ever. The option `alg` can only be
        /// `"HS256"`.
        ///
        /// Limits: a key of 32 bytes or more (RFC 7518, section 3.2), 8 KiB of claims.
        ///
        /// ```rhai
        /// let key = "0123456789abcdef0123456789abcdef";
        /// let token = crypto::jwt_sign(#{ sub: "ada" }, key, #{ expires_in: 3600 });
        /// crypto::jwt_verify(token, key).sub // => "ada"
        /// ```
        /// ```rhai
        /// crypto::jwt_sign(#{}, "short") // throws: crypto::jwt_sign: the key has 5 bytes; HS256 wants 32 or more
        /// ```
        "crypto::jwt_sign(claims, key[, options])",
        move |ctx: NativeCallContext, claims: Dynamic, key: Dynamic| signing(ctx, claims, key, Map::new())
    );
    kit.also("jwt_sign", sign(kit.watch()));
    let verify = |watch: Arc<Watch>| {
        move |ctx: NativeCallContext, token: &str, key: Dynamic, options: Map| {
            watch.check(&ctx)?;
            with_bytes("crypto::jwt_verify", &key, |key| jwt::verify(token, key, &options))
        }
    };
    let verifying = verify(kit.watch());
    offer!(
        kit,
        /// Gives the claims of a token if they were signed with this key, by HS256 and nothing else, and hold now:
        /// `exp` is not over, `nbf` is reached. Throws otherwise. Options: `iss`, the issuer it must have; `aud`,
        /// what must be among its audience; `leeway`, so many seconds that clocks may differ, 0 if not given.
        ///
        /// Limits: 16 KiB of token, a key of 32 bytes or more, 0 to 600 seconds of leeway.
        ///
        /// ```rhai
        /// let key = "0123456789abcdef0123456789abcdef";
        /// let token = crypto::jwt_sign(#{ sub: "ada", aud: "shop" }, key);
        /// crypto::jwt_verify(token, key, #{ aud: "shop" }) // => {"sub":"ada","aud":"shop"}
        /// ```
        /// ```rhai
        /// let key = "0123456789abcdef0123456789abcdef";
        /// let token = crypto::jwt_sign(#{ exp: 1_000_000_000 }, key);
        /// crypto::jwt_verify(token, key) // throws: crypto::jwt_verify: the token has expired
        /// ```
        "crypto::jwt_verify(token, key[, options])",
        move |ctx: NativeCallContext, token: &str, key: Dynamic| verifying(ctx, token, key, Map::new())
    );
    kit.also("jwt_verify", verify(kit.watch()));
}

/// A MAC that has its key.
pub(super) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a MAC of hashes takes keys of every length")
}

#[cfg(test)]
mod tests {
    use super::super::super::FaultKind;
    use super::super::super::testing::{fails, gives};

    #[test]
    fn digests_take_texts_and_blobs() {
        let empty = "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"";
        gives("crypto::sha256(\"\")", empty);
        gives("crypto::sha256(blob())", empty);
        gives("crypto::sha256(\"ü\") == crypto::sha256(enc::hex_decode(\"c3bc\"))", "true");
        gives("let a = \"x\"; a.pad(200_000, 'y'); crypto::sha256(a).len", "64");
        fails("crypto::sha256(1)", FaultKind::Runtime, "crypto::sha256: takes a text or a blob, not a i64");
        fails("crypto::hmac_sha256(#{}, \"\")", FaultKind::Runtime, "not a map");
        gives("crypto::equal(\"a\", enc::hex_decode(\"61\"))", "true");
        gives("crypto::equal(\"a\", \"ab\") || crypto::equal(\"\", \"b\")", "false");
    }

    #[test]
    fn a_key_may_have_any_length() {
        // RFC 4231, test case 6.
        let key = "aa".repeat(131);
        gives(
            &format!(
                "crypto::hmac_sha256(enc::hex_decode(\"{key}\"), \"Test Using Larger Than Block-Size Key - Hash Key First\")"
            ),
            "\"60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54\"",
        );
        gives("crypto::hmac_sha256(\"\", \"\").len", "64");
    }
}
