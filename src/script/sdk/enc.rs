//! `enc::…`: bytes as text, and back. What decodes to bytes gives a blob; its sister `…_text` gives a text, so that the
//! kind of a value never depends on what was sent.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rhai::{Blob, Dynamic, ImmutableString, Map, NativeCallContext};

use super::super::guards::{check_items, check_string};
use super::super::watch::Watch;
use super::super::{convert, encode};
use super::given::{text_of, with_bytes};
use super::{Kit, Raised, offer, wrong};

/// Everything but the unreserved letters (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Base64 with padding (RFC 4648, section 4); read with or without.
const PADDED: GeneralPurpose = base64_of(&STANDARD, true);

/// Base64 for URLs and file names, without padding (section 5); read with or without.
const URL: GeneralPurpose = base64_of(&URL_SAFE, false);

const fn base64_of(alphabet: &Alphabet, pads: bool) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_encode_padding(pads)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("enc", "Bytes as text and back: base64, hex, URLs and queries.", watch);
    base64(&mut kit);
    base64url(&mut kit);
    hexes(&mut kit);
    urls(&mut kit);
    queries(&mut kit);
    kit
}

fn base64(kit: &mut Kit) {
    offer!(
        kit,
        /// A text or a blob in base64, with padding (RFC 4648, section 4).
        ///
        /// Limits: the result is at most as long as a text may be.
        ///
        /// ```rhai
        /// enc::base64("user:pass?") // => "dXNlcjpwYXNzPw=="
        /// ```
        "enc::base64(data)",
        |ctx: NativeCallContext, data: Dynamic| encoded(&ctx, "enc::base64", &data, &PADDED)
    );
    offer!(
        kit,
        /// The bytes of base64, with or without padding, as a blob.
        ///
        /// Limits: the result is at most as long as a blob may be (`max_array_items`).
        ///
        /// ```rhai
        /// enc::base64_decode("AP8=")[1] // => 255
        /// ```
        /// ```rhai
        /// enc::base64_decode("A*") // throws: enc::base64_decode: Invalid symbol
        /// ```
        "enc::base64_decode(text)",
        |ctx: NativeCallContext, text: &str| blob(&ctx, decoded("enc::base64_decode", text, &PADDED)?)
    );
    offer!(
        kit,
        /// The text of base64, with or without padding.
        ///
        /// Limits: what is decoded must be UTF-8.
        ///
        /// ```rhai
        /// enc::base64_decode_text("dXNlcjpwYXNzPw").split(":")[0] // => "user"
        /// ```
        /// ```rhai
        /// enc::base64_decode_text("AP8=") // throws: enc::base64_decode_text: what is decoded is no UTF-8
        /// ```
        "enc::base64_decode_text(text)",
        |ctx: NativeCallContext, text: &str| {
            const NAME: &str = "enc::base64_decode_text";
            text_of(&ctx, NAME, decoded(NAME, text, &PADDED)?)
        }
    );
}

fn base64url(kit: &mut Kit) {
    offer!(
        kit,
        /// A text or a blob in the base64 for URLs and file names, without padding (RFC 4648, section 5).
        ///
        /// Limits: the result is at most as long as a text may be.
        ///
        /// ```rhai
        /// enc::base64url("user:pass?") // => "dXNlcjpwYXNzPw"
        /// ```
        "enc::base64url(data)",
        |ctx: NativeCallContext, data: Dynamic| encoded(&ctx, "enc::base64url", &data, &URL)
    );
    offer!(
        kit,
        /// The bytes of base64url, with or without padding, as a blob.
        ///
        /// Limits: the result is at most as long as a blob may be (`max_array_items`).
        ///
        /// ```rhai
        /// enc::base64url_decode("_-8").len // => 2
        /// ```
        "enc::base64url_decode(text)",
        |ctx: NativeCallContext, text: &str| blob(&ctx, decoded("enc::base64url_decode", text, &URL)?)
    );
    offer!(
        kit,
        /// The text of base64url, with or without padding.
        ///
        /// Limits: what is decoded must be UTF-8.
        ///
        /// ```rhai
        /// enc::base64url_decode_text("w7w") // => "ü"
        /// ```
        "enc::base64url_decode_text(text)",
        |ctx: NativeCallContext, text: &str| {
            const NAME: &str = "enc::base64url_decode_text";
            text_of(&ctx, NAME, decoded(NAME, text, &URL)?)
        }
    );
}

fn hexes(kit: &mut Kit) {
    offer!(
        kit,
        /// A text or a blob in lower-case hex.
        ///
        /// Limits: the result is at most as long as a text may be.
        ///
        /// ```rhai
        /// enc::hex("ü") // => "c3bc"
        /// ```
        "enc::hex(data)",
        |ctx: NativeCallContext, data: Dynamic| -> Result<String, Raised> {
            with_bytes("enc::hex", &data, |bytes| {
                check_string(&ctx, bytes.len().saturating_mul(2))?;
                Ok(hex(bytes))
            })
        }
    );
    offer!(
        kit,
        /// The bytes of hex, lower-case or upper-case, as a blob.
        ///
        /// Limits: the result is at most as long as a blob may be (`max_array_items`).
        ///
        /// ```rhai
        /// enc::hex_decode("00FF").len // => 2
        /// ```
        /// ```rhai
        /// enc::hex_decode("0") // throws: enc::hex_decode: what is given is no hex
        /// ```
        "enc::hex_decode(text)",
        |ctx: NativeCallContext, text: &str| blob(&ctx, unhex("enc::hex_decode", text)?)
    );
    offer!(
        kit,
        /// The text of hex.
        ///
        /// Limits: what is decoded must be UTF-8.
        ///
        /// ```rhai
        /// enc::hex_decode_text("c3bc") // => "ü"
        /// ```
        "enc::hex_decode_text(text)",
        |ctx: NativeCallContext, text: &str| {
            const NAME: &str = "enc::hex_decode_text";
            text_of(&ctx, NAME, unhex(NAME, text)?)
        }
    );
}

fn urls(kit: &mut Kit) {
    offer!(
        kit,
        /// A text as a part of a URL: every byte but letters, digits, `-`, `.`, `_` and `~` as `%XX` (RFC 3986).
        ///
        /// Limits: the result is at most as long as a text may be.
        ///
        /// ```rhai
        /// "/search/" + enc::url("a/b c&ü") // => "/search/a%2Fb%20c%26%C3%BC"
        /// ```
        "enc::url(text)",
        |ctx: NativeCallContext, text: &str| -> Result<String, Raised> {
            let mut out = String::new();
            push_url(&ctx, &mut out, text)?;
            Ok(out)
        }
    );
    offer!(
        kit,
        /// The text of a part of a URL. A `+` stays a `+`, and a `%` that begins nothing stays too.
        ///
        /// Limits: what is decoded must be UTF-8.
        ///
        /// ```rhai
        /// enc::url_decode("a%2Fb+c%20%C3%BC") // => "a/b+c ü"
        /// ```
        "enc::url_decode(text)",
        |ctx: NativeCallContext, text: &str| {
            text_of(&ctx, "enc::url_decode", percent_decode_str(text).collect())
        }
    );
}

fn queries(kit: &mut Kit) {
    offer!(
        kit,
        /// A map as a query or a form: `a=1&b=x%20y`. Values are texts, numbers or bools; `()` leaves its name out,
        /// and an array repeats it.
        ///
        /// Limits: the result is at most as long as a text may be.
        ///
        /// ```rhai
        /// enc::query(#{ q: "a&b", page: 2, tag: ["x", "y"], none: () }) // => "page=2&q=a%26b&tag=x&tag=y"
        /// ```
        /// ```rhai
        /// enc::query(#{ a: #{} }) // throws: enc::query: a is a map; only texts, numbers and bools have a form
        /// ```
        "enc::query(map)",
        |ctx: NativeCallContext, map: Map| query(&ctx, &map)
    );
    offer!(
        kit,
        /// A query as a map of texts, as `request.query` is: `+` stays, what does not decode is empty, of a repeated
        /// name the last value stands.
        ///
        /// Limits: at most as many entries as a map may have.
        ///
        /// ```rhai
        /// enc::query_decode("a=1&b=x%20y&c") // => {"a":"1","b":"x y","c":""}
        /// ```
        "enc::query_decode(text)",
        convert::pairs
    );
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(function: &str, text: &str) -> Result<Vec<u8>, Raised> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(value(*high)? << 4 | value(*low)?));
    let bytes: Option<Vec<u8>> = if rest.is_empty() { bytes.collect() } else { None };
    bytes.ok_or_else(|| wrong(function, "what is given is no hex"))
}

fn encoded(
    ctx: &NativeCallContext,
    function: &str,
    data: &Dynamic,
    base64: &GeneralPurpose,
) -> Result<String, Raised> {
    with_bytes(function, data, |bytes| {
        check_string(ctx, bytes.len().saturating_add(2) / 3 * 4)?;
        Ok(base64.encode(bytes))
    })
}

fn decoded(function: &str, text: &str, base64: &GeneralPurpose) -> Result<Vec<u8>, Raised> {
    base64.decode(text).map_err(|why| wrong(function, why))
}

fn blob(ctx: &NativeCallContext, bytes: Vec<u8>) -> Result<Blob, Raised> {
    check_items(ctx, bytes.len())?;
    Ok(bytes)
}

fn push_url(ctx: &NativeCallContext, out: &mut String, text: &str) -> Result<(), Raised> {
    for part in utf8_percent_encode(text, RESERVED) {
        out.push_str(part);
        check_string(ctx, out.len())?;
    }
    Ok(())
}

fn query(ctx: &NativeCallContext, map: &Map) -> Result<String, Raised> {
    let mut out = String::new();
    for (name, value) in map {
        let single = std::slice::from_ref(value);
        let array = value.as_array_ref().ok();
        for value in array.as_deref().map_or(single, Vec::as_slice).iter().filter(|value| !value.is_unit()) {
            out.push_str(if out.is_empty() { "" } else { "&" });
            push_url(ctx, &mut out, name)?;
            out.push('=');
            push_url(ctx, &mut out, &scalar(name, value)?)?;
        }
    }
    Ok(out)
}

fn scalar(name: &str, value: &Dynamic) -> Result<ImmutableString, Raised> {
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok(text.clone());
    }
    if value.is_int() || value.is_float() || value.is_bool() || value.is_char() {
        return Ok(value.to_string().into());
    }
    let kind = encode::kind_of(value);
    let name = super::super::logs::cut(name, 100);
    Err(wrong("enc::query", format!("{name} is a {kind}; only texts, numbers and bools have a form")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::FaultKind;
    use super::super::super::testing::{fails, gives};
    use super::*;

    #[test]
    fn known_forms() {
        gives("enc::hex(blob())", "\"\"");
        gives("enc::hex_decode_text(\"C3bC\")", "\"ü\"");
        for bad in ["a", "0g", "ü", "0x", " 00", "+1"] {
            fails(&format!("enc::hex_decode({bad:?})"), FaultKind::Runtime, "no hex");
        }
        for bad in ["A", "A===", "Zg==Zg==", "Z g=", "_-", "ü", "Zh"] {
            fails(&format!("enc::base64_decode({bad:?})"), FaultKind::Runtime, "enc::base64_decode: ");
        }
        gives("enc::base64_decode_text(\"\") + enc::base64url_decode_text(\"\")", "\"\"");
        gives("enc::url(\"\") + enc::url(\"-._~aZ9\")", "\"-._~aZ9\"");
        gives("enc::url_decode(\"%%41%4\")", "\"%A%4\"");
        fails("enc::url_decode(\"%ff\")", FaultKind::Runtime, "no UTF-8");
        gives(
            "enc::query(#{}) + enc::query(#{ \"ä b\": true, c: 'x', d: 1.5 })",
            "\"c=x&d=1.5&%C3%A4%20b=true\"",
        );
        fails("enc::query(#{ a: [[]] })", FaultKind::Runtime, "a is a array");
        fails("enc::base64(1)", FaultKind::Runtime, "takes a text or a blob, not a i64");
    }

    #[test]
    fn what_would_be_too_long_is_refused() {
        let long = "let s = \"ü\"; s.pad(120_000, 'ü');";
        for call in ["enc::url(s)", "enc::hex(s)", "enc::base64(s)", "enc::query(#{ s: s })"] {
            fails(&format!("{long} {call}"), FaultKind::Runtime, "longer than 262144 bytes");
        }
        let long = "let s = \"a\"; s.pad(200_000, 'a');";
        fails(&format!("{long} enc::hex_decode(s)"), FaultKind::Runtime, "more than 10000 items");
        fails(&format!("{long} enc::base64_decode(s)"), FaultKind::Runtime, "more than 10000 items");
        gives(&format!("{long} enc::base64_decode_text(enc::base64(s.sub_string(0, 9))).len"), "9");
    }

    proptest! {
        #[test]
        fn bytes_go_round(bytes: Vec<u8>, noise in "\\PC*") {
            for engine in [&PADDED, &URL] {
                prop_assert_eq!(&decoded("f", &engine.encode(&bytes), engine).unwrap(), &bytes);
                if let Ok(read) = decoded("f", &noise, engine) {
                    let again = engine.encode(read);
                    prop_assert_eq!(again.trim_end_matches('='), noise.trim_end_matches('='));
                }
            }
            prop_assert_eq!(&unhex("f", &hex(&bytes)).unwrap(), &bytes);
            prop_assert_eq!(&unhex("f", &hex(&bytes).to_uppercase()).unwrap(), &bytes);
            if let Ok(read) = unhex("f", &noise) {
                prop_assert_eq!(hex(&read), noise.to_lowercase());
            }
        }

        #[test]
        fn texts_go_round_in_urls(text in "\\PC*") {
            let coded = utf8_percent_encode(&text, RESERVED).to_string();
            prop_assert!(coded.is_ascii());
            prop_assert_eq!(percent_decode_str(&coded).decode_utf8().unwrap(), text);
        }
    }
}
