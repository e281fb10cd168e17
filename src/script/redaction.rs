//! What a run was told in confidence: the secrets it obtained are taken out of what is kept of it.
//!
//! Whole values are found as they are and as they stand in JSON, and their beginnings where a text was cut. A script that
//! encodes or splits a secret before it logs it is not stopped: this guards against accidents, not against the script.
//! Costs nothing where no secret was read.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

/// Shorter values would be found in texts that have nothing to do with them.
const VALUE_BYTES_MIN: usize = 8;
/// Beginnings of a value that are looked at from the end of a text: one is usual, and many are made to take long.
const HEADS_MAX: usize = 64;
/// What stands in the place of a value.
const INSTEAD: &str = "[secret]";

/// The values to be taken out, the longest first: one may hold another.
#[derive(Default)]
pub struct Redaction {
    values: Vec<Zeroizing<String>>,
    noted: usize,
}

impl Redaction {
    /// Remembers a value that the run obtains. False if it was obtained of `most` others before.
    pub(super) fn note(&mut self, value: &str, most: usize) -> bool {
        if value.len() < VALUE_BYTES_MIN || self.values.iter().any(|other| other.as_str() == value) {
            return true;
        }
        if self.noted == most {
            return false;
        }
        self.noted += 1;
        // What is quoted in JSON differs where it has quotes or line breaks.
        let quoted = Zeroizing::new(serde_json::Value::from(value).to_string());
        let escaped = quoted.get(1..quoted.len() - 1).filter(|escaped| *escaped != value);
        for text in escaped.into_iter().chain([value]) {
            let at = self.values.partition_point(|other| other.len() > text.len());
            self.values.insert(at, Zeroizing::new(text.to_owned()));
        }
        true
    }

    /// `text` without the values.
    pub fn apply<'a>(&self, mut text: Cow<'a, str>) -> Cow<'a, str> {
        for value in &self.values {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), INSTEAD).into();
            }
        }
        match self.values.iter().filter_map(|value| cut_value_at(&text, value)).min() {
            Some(at) => format!("{}{INSTEAD}", &text[..at]).into(),
            None => text,
        }
    }

    /// The same for an error's message, to which a place in the source is added after it is cut.
    pub(super) fn apply_to_error(&self, message: &mut String) {
        if self.values.is_empty() {
            return;
        }
        let place_at = message.rfind(" (line ").unwrap_or(message.len());
        let (said, place) = message.split_at(place_at);
        *message = format!("{}{}", self.apply(said.into()), self.apply(place.into()));
        message.shrink_to_fit();
    }

    /// Bytes on the heap.
    pub(super) fn held_bytes(&self) -> usize {
        let slots = self.values.capacity() * size_of::<Zeroizing<String>>();
        slots + self.values.iter().map(|value| value.capacity()).sum::<usize>()
    }
}

/// Where the text ends in the beginning of `value`, as it does where it was cut.
fn cut_value_at(text: &str, value: &str) -> Option<usize> {
    let head = value.get(..value.ceil_char_boundary(VALUE_BYTES_MIN))?;
    let places = text.rmatch_indices(head).map(|(at, _)| at).take(HEADS_MAX);
    places.filter(|at| value.starts_with(&text[*at..])).min()
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redaction")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[&str], text: &str, left: &str) {
        let mut redaction = Redaction::default();
        values.iter().for_each(|value| assert!(redaction.note(value, 9)));
        assert_eq!(redaction.apply(text.into()), left);
    }

    #[test]
    fn values_are_taken_out_wherever_they_stand() {
        check(&[], "nothing is secret", "nothing is secret");
        check(&["hunter22"], "hunter22, \"hunter22\"!", "[secret], \"[secret]\"!");
        check(&["short"], "short", "short");
        check(&["password", "password-long"], "password-long password", "[secret] [secret]");
        check(&["password-long", "password", "password"], "password-long password", "[secret] [secret]");
        check(&["a \"quoted\" one"], r#"{"x":"a \"quoted\" one"}"#, r#"{"x":"[secret]"}"#);
        check(&["two\nlines"], "two\nlines two\\nlines", "[secret] [secret]");
        check(&["пароль22"], "мой пароль22", "мой [secret]");
    }

    #[test]
    fn so_many_and_no_more() {
        let mut redaction = Redaction::default();
        for (value, fits) in [
            ("password1", true),
            ("pass\"word2", true),
            ("password3", false),
            ("password1", true),
            ("pass\"word2", true),
            ("short", true),
        ] {
            assert_eq!(redaction.note(value, 2), fits, "{value}");
        }
    }

    #[test]
    fn what_a_cut_left_of_a_value_goes_too() {
        check(&["0123456789"], "x 012345678", "x [secret]");
        check(&["0123456789"], "x 01234567", "x [secret]");
        check(&["0123456789"], "x 0123456", "x 0123456");
        check(&["0123456789"], "01234567x 01234567", "01234567x [secret]");
        check(&["паролище"], "x парол", "x [secret]");
        let mut redaction = Redaction::default();
        redaction.note("0123456789", 9);
        for (message, left) in [
            ("no 012345678 (line 1, position 2)", "no [secret] (line 1, position 2)"),
            ("no 0123456789", "no [secret]"),
            ("fine (line 0123456789)", "fine (line [secret])"),
        ] {
            let mut message = message.to_owned();
            redaction.apply_to_error(&mut message);
            assert_eq!(message, left);
        }
    }
}
