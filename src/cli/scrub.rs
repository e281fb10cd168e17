//! Takes secrets out of texts that leave the device: those that are known, wherever they stand, and whatever stands where
//! secrets do.
//!
//! It is for logs and settings, where too much taken out does little harm. What apps keep is not gathered in the first
//! place.

use serde_json::Value;

use crate::model::{KEY_PREFIX, SESSION_COOKIE};

/// What stands instead.
pub(super) const REMOVED: &str = "(removed)";
/// Shorter ones would be found in every other word.
const KNOWN_BYTES_MIN: usize = 6;
/// Words that names of secrets have in them; compared in lower case, with `-` and blanks as `_`.
const NAMES: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "psk",
    "secret",
    "token",
    "api_key",
    "apikey",
    "admin_key",
    "private_key",
    "eab_key",
    "setup_code",
    "credential",
    "authorization",
    "cookie",
    SESSION_COOKIE,
    "signature",
];
/// Words that begin like this are secrets: keys of PiCloud and of its appliance, hashes of crypt(5) and of argon2.
const BEGINNINGS: [&str; 7] = [KEY_PREFIX, "pc_", "$6$", "$5$", "$y$", "$7$", "$argon2"];
/// Fewer letters after such a beginning are something else.
const TAIL_MIN: usize = 8;

/// What is known to be secret.
#[derive(Default)]
pub(super) struct Scrub(Vec<String>);

impl Scrub {
    /// From now on this is secret.
    pub(super) fn learn(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.len() >= KNOWN_BYTES_MIN {
            self.0.push(secret.to_owned());
            // The longest goes first, so that no rest of it stays.
            self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        }
    }

    /// The text without secrets; its lines stay lines.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret.as_str(), REMOVED);
        }
        let mut in_private_key = false;
        let lines = text.lines().map(|line| {
            let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
            in_private_key |= begins;
            let hidden = in_private_key;
            in_private_key &= !line.contains("-----END");
            if hidden { REMOVED.to_owned() } else { by_beginning(&by_url(&by_name(line))) }
        });
        let mut all: String = lines.collect::<Vec<_>>().join("\n");
        if text.ends_with('\n') {
            all.push('\n');
        }
        all
    }

    /// The document without secrets: whole values by the names of their keys, and all texts as [`Scrub::text`] does.
    pub(super) fn value(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| {
                if is_secret(name) && value.is_string() {
                    *value = Value::from(REMOVED);
                } else {
                    self.value(value);
                }
            }),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::String(text) => *text = self.text(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Whether a name is that of a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = plain(name);
    NAMES.iter().any(|word| name.contains(word))
}

/// ASCII letters keep their places, so that what is found in one is there in the other.
fn plain(text: &str) -> String {
    let letter = |letter: char| match letter {
        '-' | ' ' => '_',
        letter => letter.to_ascii_lowercase(),
    };
    text.chars().map(letter).collect()
}

/// Takes out the values behind names: `password = "x"`, `"token": "x"`, `?secret=x&`, `Authorization: Bearer x`.
fn by_name(line: &str) -> String {
    let names = plain(line);
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for name in NAMES {
        for (at, _) in names.match_indices(name) {
            cuts.extend(value_after(line, at + name.len(), matches!(name, "authorization" | "cookie")));
        }
    }
    for word in ["bearer ", "basic "] {
        let lower = line.to_ascii_lowercase();
        cuts.extend(lower.match_indices(word).filter_map(|(at, _)| {
            let from = at + word.len();
            let length = line[from..].find(|letter: char| !is_of_key(letter)).unwrap_or(line.len() - from);
            (length >= TAIL_MIN).then_some((from, from + length))
        }));
    }
    cut(line, cuts)
}

/// Where the value of a name is that ends at `at`, if a value follows at all. `whole` takes the rest of the line.
fn value_after(line: &str, at: usize, whole: bool) -> Option<(usize, usize)> {
    let rest = &line[at..];
    // The name may go on, and end with a quote, also with one that is escaped.
    let sign = rest.find(|letter: char| !(letter.is_alphanumeric() || "_-\"'\\ ".contains(letter)))?;
    if !rest[sign..].starts_with([':', '=']) {
        return None;
    }
    let after = &rest[sign + 1..];
    let lead = after.len() - after.trim_start_matches([' ', '\t', '\\']).len();
    let (from, value) = (at + sign + 1 + lead, &after[lead..]);
    let length = match value.chars().next()? {
        quote @ ('"' | '\'') => {
            let closing = closing_quote(&value[1..], quote);
            return Some((from + 1, from + 1 + closing.unwrap_or(value.len() - 1)));
        }
        _ if whole => value.len(),
        _ => value.find([' ', '\t', ',', '&', ';', '}', ']', '"']).unwrap_or(value.len()),
    };
    (length > 0).then_some((from, from + length))
}

fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            letter if letter == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// Takes out who asks, with the password, of `scheme://user:password@host` (RFC 3986 3.2.1).
fn by_url(line: &str) -> String {
    let cuts = line.match_indices("://").filter_map(|(at, mark)| {
        let from = at + mark.len();
        let ends = |letter: char| letter.is_whitespace() || "/?#\"'<>\\".contains(letter);
        let authority = line[from..].split(ends).next()?;
        Some((from, from + authority.rfind('@')?))
    });
    cut(line, cuts.collect())
}

/// Takes out words that look like secrets wherever they are.
fn by_beginning(line: &str) -> String {
    let mut cuts = Vec::new();
    for beginning in BEGINNINGS {
        for (at, _) in line.match_indices(beginning) {
            let tail = at + beginning.len();
            let length = line[tail..].find(|letter: char| !is_of_key(letter)).unwrap_or(line.len() - tail);
            let alone = !line[..at].ends_with(|letter: char| letter.is_alphanumeric());
            if alone && length >= TAIL_MIN {
                cuts.push((at, tail + length));
            }
        }
    }
    cut(line, cuts)
}

fn is_of_key(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_-./$=+,~:".contains(letter)
}

/// The line with these ranges taken out, which may overlap.
fn cut(line: &str, mut cuts: Vec<(usize, usize)>) -> String {
    cuts.sort_unstable();
    let mut left = String::new();
    let mut at = 0;
    for (from, to) in cuts.into_iter().filter(|(from, to)| from < to) {
        if from >= at {
            left.push_str(&line[at..from]);
            left.push_str(REMOVED);
        }
        at = at.max(to);
    }
    left + &line[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, wanted: &str) {
        assert_eq!(Scrub::default().text(line), wanted.replace('@', REMOVED));
    }

    #[test]
    fn values_of_secret_names_go() {
        check("password = \"it is \\\"me\\\"\" # mine", "password = \"@\" # mine");
        check("wifi.psk='a b'", "wifi.psk='@'");
        check("GET /login?token=abc&user=me 200", "GET /login?token=@&user=me 200");
        check("{\"api_key\":\"abc\",\"n\":1}", "{\"api_key\":\"@\",\"n\":1}");
        check("{\"msg\":\"{\\\"secret\\\":\\\"abc\\\"}\"}", "{\"msg\":\"{\\\"secret\\\":\\\"@\"}");
        check("Authorization: Basic dXNlcjpwYXNz", "Authorization: @");
        check("it sent Bearer abcdefgh12345 twice", "it sent Bearer @ twice");
        check("set-cookie: session=1; HttpOnly", "set-cookie: @");
        check("Setup code: ABCD-EFGH", "Setup code: @");
        check("PASSWORD=x PATH=/bin", "PASSWORD=@ PATH=/bin");
        check("it sent picloud_session=0123abcd; and more", "it sent picloud_session=@; and more");
        check("Größe passwort, password: ü!", "Größe passwort, password: @");
    }

    #[test]
    fn words_that_look_like_secrets_go() {
        check("key pc_0123456789abcdef was used", "key @ was used");
        check(&format!("key {KEY_PREFIX}0123456789abcdef was used"), "key @ was used");
        check("admin:$6$salt$hashhash:20000:", "admin:@");
        check("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA", "@");
        check("a\n-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\nb\n", "a\n@\n@\n@\nb\n");
    }

    #[test]
    fn who_asks_goes_from_urls() {
        let said = Scrub::default().text("GET https://me:it%20is@host:8443/a@b?c=1 200");
        assert_eq!(said, format!("GET https://{REMOVED}@host:8443/a@b?c=1 200"));
    }

    #[test]
    fn other_words_stay() {
        for line in [
            "",
            "the password was wrong",
            "spc_device is up",
            "pc_1 is a name",
            "no token here, nor there",
            "a bearer of news",
            "http://host/a/b and me at home",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        ] {
            check(line, line);
        }
    }

    #[test]
    fn known_secrets_go_wherever_they_are() {
        let mut scrub = Scrub::default();
        scrub.learn("abcdef\n");
        scrub.learn("abcdefgh");
        scrub.learn("the");
        assert_eq!(scrub.text("xabcdefghx the abcdef"), format!("x{REMOVED}x the {REMOVED}"));
        let mut value = serde_json::json!({ "a": ["abcdef"], "token": "x", "secrets": 3, "password": null });
        scrub.value(&mut value);
        let wanted = serde_json::json!({ "a": [REMOVED], "token": REMOVED, "secrets": 3, "password": null });
        assert_eq!(value, wanted);
    }
}
