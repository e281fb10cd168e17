//! JSON Web Tokens (RFC 7519) with HS256 only, so that no token can choose how it is checked.
//!
//! Libraries for tokens bring RSA and elliptic curves along; for the one algorithm there is here, a MAC and two
//! encodings do.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::Mac;
use rhai::{Dynamic, Map};
use serde_json::{Value, json};

use super::super::{convert, encode};
use super::crypto::keyed;
use super::options::Options;
use super::{Raised, time, wrong};

const SIGN: &str = "crypto::jwt_sign";
const VERIFY: &str = "crypto::jwt_verify";

/// The only algorithm.
const ALGORITHM: &str = "HS256";

/// Shortest key, in bytes (RFC 7518, section 3.2).
const KEY_BYTES_MIN: usize = 32;

/// Longest claims as JSON, in bytes.
const CLAIMS_BYTES_MAX: usize = 8 * 1024;

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Most seconds that clocks may differ.
const LEEWAY_SECONDS_MAX: i64 = 600;

/// Longest life that `expires_in` gives, in seconds: ten years.
const EXPIRES_SECONDS_MAX: i64 = 315_360_000;

/// Signs claims.
pub(super) fn sign(claims: &Dynamic, key: &[u8], options: &Map) -> Result<String, Raised> {
    let options = Options::of(SIGN, options, &["alg", "expires_in"])?;
    check_algorithm(SIGN, &options)?;
    check_key(SIGN, key)?;
    let Ok(claims) = claims.as_map_ref() else {
        return Err(wrong(SIGN, format!("the claims are a {}, not a map", encode::kind_of(claims))));
    };
    let added = options.int("expires_in", (0, EXPIRES_SECONDS_MAX))?.map(|seconds| {
        let now = now();
        [("iat", now), ("exp", now.saturating_add(seconds))]
    });
    let mut claims = claims.clone();
    claims.extend(added.into_iter().flatten().map(|(name, at)| (name.into(), at.into())));
    let claims = encode::to_json(&Dynamic::from_map(claims), CLAIMS_BYTES_MAX)
        .map_err(|why| wrong(SIGN, format!("the map of claims {why}")))?;
    let head = json!({ "alg": ALGORITHM, "typ": "JWT" }).to_string();
    let signed = format!("{}.{}", coded(head.as_bytes()), coded(&claims));
    let signature = keyed(key).chain_update(&signed).finalize().into_bytes();
    Ok(format!("{signed}.{}", coded(&signature)))
}

/// The claims of a token that is good now.
pub(super) fn verify(token: &str, key: &[u8], options: &Map) -> Result<Dynamic, Raised> {
    let options = Options::of(VERIFY, options, &["alg", "iss", "aud", "leeway"])?;
    check_algorithm(VERIFY, &options)?;
    check_key(VERIFY, key)?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(wrong(VERIFY, format!("the token is longer than {TOKEN_BYTES_MAX} bytes")));
    }
    let payload = payload(token, key).map_err(|why| wrong(VERIFY, why))?;
    let claims: Value =
        serde_json::from_slice(&payload).map_err(|_| wrong(VERIFY, "the claims are no JSON"))?;
    if !claims.is_object() {
        return Err(wrong(VERIFY, "the claims are no map"));
    }
    let leeway = options.int("leeway", (0, LEEWAY_SECONDS_MAX))?.unwrap_or(0);
    check_times(&claims, now(), leeway).map_err(|why| wrong(VERIFY, why))?;
    if options.text("iss")?.is_some_and(|iss| claims["iss"] != iss.as_str()) {
        return Err(wrong(VERIFY, "the token is of another issuer"));
    }
    if options.text("aud")?.is_some_and(|aud| !is_among(&claims["aud"], &aud)) {
        return Err(wrong(VERIFY, "the token is for another audience"));
    }
    convert::from_json(&payload).map_err(|why| wrong(VERIFY, format!("the claims: {why}")))
}

/// What was signed, if it was with this key.
fn payload(token: &str, key: &[u8]) -> Result<Vec<u8>, &'static str> {
    let not_three = "the token does not consist of three parts";
    let (signed, signature) = token.rsplit_once('.').ok_or(not_three)?;
    let (head, payload) = signed.split_once('.').filter(|(_, rest)| !rest.contains('.')).ok_or(not_three)?;
    let signature = decoded(signature).ok_or("the signature is no base64url")?;
    keyed(key)
        .chain_update(signed)
        .verify_slice(&signature)
        .map_err(|_| "the signature is not of this key, or the algorithm not HS256")?;
    // Looked at only now, so that the message for a forged token says no more than that it is one.
    let head = decoded(head).and_then(|head| serde_json::from_slice::<Value>(&head).ok());
    let head = head.ok_or("the header is no JSON")?;
    if head["alg"] != ALGORITHM {
        return Err("the algorithm is not HS256");
    }
    if head.get("crit").is_some() {
        return Err("the header has extensions that must be understood, and are not");
    }
    decoded(payload).ok_or("the claims are no base64url")
}

/// Whether the claims hold at `now`, in seconds (RFC 7519, section 4.1).
fn check_times(claims: &Value, now: i64, leeway: i64) -> Result<(), &'static str> {
    if let Some(exp) = claims.get("exp") {
        let exp = seconds(exp).ok_or("exp is no number")?;
        if exp.saturating_add(leeway) <= now {
            return Err("the token has expired");
        }
    }
    if let Some(nbf) = claims.get("nbf") {
        let nbf = seconds(nbf).ok_or("nbf is no number")?;
        if nbf > now.saturating_add(leeway) {
            return Err("the token does not hold yet");
        }
    }
    Ok(())
}

/// A NumericDate, its fraction cut.
fn seconds(value: &Value) -> Option<i64> {
    // Beyond the calendar a cut float would saturate, which is right for a comparison.
    #[allow(clippy::as_conversions, reason = "saturates, and is no number only where the JSON is none")]
    let cut = |float: f64| float as i64;
    value.as_i64().or_else(|| value.as_f64().map(cut))
}

fn is_among(audience: &Value, wanted: &str) -> bool {
    audience == wanted || audience.as_array().is_some_and(|all| all.iter().any(|one| one == wanted))
}

fn check_algorithm(function: &str, options: &Options) -> Result<(), Raised> {
    match options.text("alg")? {
        Some(other) if other != ALGORITHM => {
            Err(wrong(function, format!("the only algorithm is {ALGORITHM}")))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_key(function: &str, key: &[u8]) -> Result<(), Raised> {
    if key.len() >= KEY_BYTES_MIN {
        return Ok(());
    }
    let why = format!("the key has {} bytes; {ALGORITHM} wants {KEY_BYTES_MIN} or more", key.len());
    Err(wrong(function, why))
}

fn coded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// Seconds since 1970.
fn now() -> i64 {
    time::now().0.div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    /// A token whose signature is right, whatever it says.
    fn token(head: &str, claims: &str) -> String {
        let signed = format!("{}.{}", coded(head.as_bytes()), coded(claims.as_bytes()));
        let signature = keyed(KEY).chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", coded(&signature))
    }

    #[track_caller]
    fn check(token: &str, options: &[(&str, Dynamic)], wanted: Result<&str, &str>) {
        let options = options.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        match (verify(token, KEY, &options), wanted) {
            (Ok(claims), Ok(json)) => assert_eq!(encode::to_json(&claims, 1000).unwrap(), json.as_bytes()),
            (Err(said), Err(why)) => assert!(said.to_string().contains(why), "{said} instead of {why}"),
            (given, wanted) => panic!("{given:?} instead of {wanted:?}"),
        }
    }

    const HEAD: &str = r#"{"alg":"HS256"}"#;

    #[test]
    fn a_token_of_somebody_else() {
        // RFC 7515, appendix A.1.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let said = verify(token, &decoded(key).unwrap(), &Map::new()).unwrap_err();
        assert!(said.to_string().contains("the token has expired"), "{said}");
    }

    #[test]
    fn no_token_chooses_how_it_is_checked() {
        for head in [r#"{"alg":"none"}"#, r#"{"alg":"hs256"}"#, r#"{"alg":"RS256"}"#, "{}", "[]", "7"] {
            check(&token(head, "{}"), &[], Err("the algorithm is not HS256"));
        }
        let unsigned = format!("{}.{}.", coded(br#"{"alg":"none"}"#), coded(b"{}"));
        check(&unsigned, &[], Err("the signature is not of this key"));
        check(&token(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "{}"), &[], Err("extensions"));
        check(&token("{", "{}"), &[], Err("the header is no JSON"));
        check(&token(HEAD, "{}"), &[("alg", "none".into())], Err("the only algorithm is HS256"));
        check(&token(HEAD, "{}"), &[("Alg", "HS256".into())], Err("there is no option \"Alg\""));
        for bad in ["", ".", "..", "a.b", "a.b.c.d", "...."] {
            check(bad, &[], Err("the "));
        }
        let good = token(HEAD, "{}");
        check(&good, &[], Ok("{}"));
        check(&format!("{good}="), &[], Err("the signature is no base64url"));
        check(&format!("x{good}"), &[], Err("the signature is not of this key"));
        assert!(verify(&good, &[b'x'; 32], &Map::new()).is_err());
        assert!(verify(&good, b"", &Map::new()).unwrap_err().to_string().contains("the key has 0 bytes"));
    }

    #[test]
    fn claims_are_held_against_the_clock_and_the_options() {
        let at = |claims: Value, leeway| check_times(&claims, 1000, leeway).err();
        for (claims, leeway, said) in [
            (json!({}), 0, None),
            (json!({"exp": 1001, "nbf": 1000}), 0, None),
            (json!({"exp": 1000}), 0, Some("the token has expired")),
            (json!({"exp": 1000.9}), 0, Some("the token has expired")),
            (json!({"exp": 990}), 10, Some("the token has expired")),
            (json!({"exp": 991}), 10, None),
            (json!({"exp": 1e300}), 0, None),
            (json!({"exp": -1e300}), 600, Some("the token has expired")),
            (json!({"nbf": 1001}), 0, Some("the token does not hold yet")),
            (json!({"nbf": 1010}), 10, None),
            (json!({"exp": "2000"}), 0, Some("exp is no number")),
            (json!({"exp": null}), 0, Some("exp is no number")),
            (json!({"nbf": []}), 0, Some("nbf is no number")),
        ] {
            assert_eq!(at(claims.clone(), leeway), said, "{claims}");
        }
        let both = token(HEAD, r#"{"aud":["a","b"],"iss":"me"}"#);
        let (a, c, me): (Dynamic, Dynamic, Dynamic) = ("a".into(), "c".into(), "me".into());
        check(&both, &[("aud", a.clone()), ("iss", me.clone())], Ok(r#"{"aud":["a","b"],"iss":"me"}"#));
        check(&both, &[("aud", c)], Err("another audience"));
        check(&both, &[("iss", a)], Err("another issuer"));
        check(&token(HEAD, "{}"), &[("iss", me.clone())], Err("another issuer"));
        check(&token(HEAD, "{}"), &[("aud", me)], Err("another audience"));
        check(&both, &[("iss", 7_i64.into())], Err("the option iss must be a text"));
        check(&both, &[("leeway", 601_i64.into())], Err("a whole number from 0 to 600"));
        check(&token(HEAD, "[]"), &[], Err("the claims are no map"));
        check(&token(HEAD, "{"), &[], Err("the claims are no JSON"));
        check(&"x".repeat(20_000), &[], Err("longer than 16384 bytes"));
    }

    #[test]
    fn what_cannot_be_signed() {
        let map = Dynamic::from_map(Map::new());
        assert!(sign(&7_i64.into(), KEY, &Map::new()).is_err());
        assert!(sign(&map, b"short", &Map::new()).is_err());
        let long = Dynamic::from_map([("a".into(), "x".repeat(9000).into())].into_iter().collect());
        let said = sign(&long, KEY, &Map::new()).unwrap_err().to_string();
        assert!(said.contains("longer than 8192 bytes"), "{said}");
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_nothing_panics(claims in "\\PC{0,40}", noise in "[\\PC.]{0,60}") {
            let map: Map = [("c".into(), claims.clone().into())].into_iter().collect();
            let token = sign(&Dynamic::from_map(map), KEY, &Map::new()).unwrap();
            let again = verify(&token, KEY, &Map::new()).unwrap();
            let read = again.as_map_ref().unwrap()["c"].clone().into_string().unwrap();
            prop_assert_eq!(read, claims);
            prop_assert!(verify(&noise, KEY, &Map::new()).is_err());
        }
    }
}
