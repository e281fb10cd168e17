//! A script's value as people read it in logs and strings, bounded in depth and size.
//!
//! Looks as the interpreter's own form does. That one is unbounded: an array of ten thousand references to one long
//! string prints to gigabytes, and a closure that holds itself prints for ever.

use std::fmt::{self, Write};

use rhai::Dynamic;

/// Deepest nesting that is printed; what is below shows as `…`.
const DEPTH_MAX: usize = 64;

/// The text grew over its bound.
#[derive(Debug)]
pub(super) struct TooLong;

/// `value` as `print` shows it; fails if that takes more than `bytes_max`.
pub(super) fn display(value: &Dynamic, bytes_max: usize) -> Result<String, TooLong> {
    let mut text = Bounded { text: String::new(), bytes_max };
    write(&mut text, value, false, 0).map_err(|_| TooLong)?;
    Ok(text.text)
}

/// `value` as `debug` shows it: strings in quotes.
pub(super) fn debug(value: &Dynamic, bytes_max: usize) -> Result<String, TooLong> {
    let mut text = Bounded { text: String::new(), bytes_max };
    write(&mut text, value, true, 0).map_err(|_| TooLong)?;
    Ok(text.text)
}

/// `value` as `print` shows it, cut where it gets longer than `bytes_max`.
pub(super) fn display_cut(value: &Dynamic, bytes_max: usize) -> String {
    let mut text = Bounded { text: String::new(), bytes_max };
    // What was written up to the bound is the answer.
    let _ = write(&mut text, value, false, 0);
    text.text
}

/// A string that refuses to grow over its bound; it keeps what still fits.
struct Bounded {
    text: String,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let fits = super::logs::cut(more, self.bytes_max - self.text.len());
        self.text.push_str(fits);
        if fits.len() == more.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

fn write(out: &mut Bounded, value: &Dynamic, quoted: bool, depth: usize) -> fmt::Result {
    if depth > DEPTH_MAX {
        return out.write_str("…");
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return if quoted { write!(out, "{:?}", text.as_str()) } else { out.write_str(&text) };
    }
    if let Ok(array) = value.as_array_ref() {
        out.write_str("[")?;
        for (index, item) in array.iter().enumerate() {
            out.write_str(if index > 0 { ", " } else { "" })?;
            write(out, item, true, depth + 1)?;
        }
        return out.write_str("]");
    }
    if let Ok(map) = value.as_map_ref() {
        out.write_str("#{")?;
        for (index, (key, item)) in map.iter().enumerate() {
            write!(out, "{}{:?}: ", if index > 0 { ", " } else { "" }, key.as_str())?;
            write(out, item, true, depth + 1)?;
        }
        return out.write_str("}");
    }
    if let Some(pointer) = value.read_lock::<rhai::FnPtr>() {
        return write!(out, "Fn({})", pointer.fn_name());
    }
    if value.is_unit() && !quoted {
        return Ok(());
    }
    if quoted { write!(out, "{value:?}") } else { write!(out, "{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: impl Into<Dynamic>, printed: &str, debugged: &str) {
        let value = value.into();
        assert_eq!(display(&value, 1000).unwrap(), printed);
        assert_eq!(debug(&value, 1000).unwrap(), debugged);
    }

    #[test]
    fn looks_as_the_interpreter_prints() {
        check("a\"b", "a\"b", "\"a\\\"b\"");
        check((), "", "()");
        check(1.5, "1.5", "1.5");
        check(7_i64, "7", "7");
        let items =
            vec!["x".into(), ().into(), Dynamic::from_map([("k".into(), 1.into())].into_iter().collect())];
        check(Dynamic::from_array(items), r#"["x", (), #{"k": 1}]"#, r#"["x", (), #{"k": 1}]"#);
        check(Dynamic::from(rhai::FnPtr::new("f").unwrap()), "Fn(f)", "Fn(f)");
    }

    #[test]
    fn bounded() {
        let many = Dynamic::from_array(vec!["ü".repeat(100).into(); 1000]);
        assert!(display(&many, 1000).is_err());
        assert_eq!(display_cut(&many, 5), "[\"ü");
        let deep = (0..1000).fold(Dynamic::UNIT, |inner, _| Dynamic::from_array(vec![inner]));
        assert!(display(&deep, 1000).unwrap().contains('…'));
    }
}
