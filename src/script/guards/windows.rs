//! Parts of strings, and their characters one by one. The originals collect all characters first, four bytes each; a
//! body that came over the network may be long.

use std::any::TypeId;
use std::ops::{Range, RangeInclusive};

use rhai::{Dynamic, FuncRegistration, ImmutableString, Module, NativeCallContext};

use super::{Raised, check_string};

/// The characters of a string, read in place.
#[derive(Clone, Debug)]
struct Chars {
    text: ImmutableString,
    at: usize,
}

impl Iterator for Chars {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let letter = self.text[self.at..].chars().next()?;
        self.at += letter.len_utf8();
        Some(letter)
    }
}

/// Adds the overrides.
pub(super) fn register(module: &mut Module) {
    cutting(module);
    iterating(module);
}

fn cutting(module: &mut Module) {
    for (name, keeps) in [("sub_string", true), ("crop", false)] {
        let cut = move |ctx: &NativeCallContext, text: &mut ImmutableString, (start, length): (i64, i64)| {
            let part = window(text, start, length);
            check_string(ctx, part.len())?;
            let part = Dynamic::from(ImmutableString::from(part));
            if keeps {
                return Ok(part);
            }
            *text = part.into_immutable_string().unwrap_or_default();
            Ok(Dynamic::UNIT)
        };
        windowed(module, name, keeps, cut);
    }
}

fn iterating(module: &mut Module) {
    module.set_iterator::<Chars>();
    module.set_iter(TypeId::of::<ImmutableString>(), |value| {
        let text = value.into_immutable_string().unwrap_or_default();
        Box::new(Chars { text, at: 0 }.map(Dynamic::from))
    });
    let chars = |ctx: &NativeCallContext, text: &mut ImmutableString, (start, length): (i64, i64)| {
        let part = window(text, start, length);
        // The whole of a string is shared; a part is a copy, and so bounded.
        let text = if part.len() == text.len() {
            text.clone()
        } else {
            check_string(ctx, part.len())?;
            ImmutableString::from(part)
        };
        Ok(Dynamic::from(Chars { text, at: 0 }))
    };
    windowed(module, "chars", true, chars);
    FuncRegistration::new("chars")
        .with_purity(true)
        .set_into_module(module, |text: ImmutableString| Chars { text, at: 0 });
    FuncRegistration::new_getter("chars")
        .with_purity(true)
        .set_into_module(module, |text: &mut ImmutableString| Chars { text: text.clone(), at: 0 });
}

/// Registers `cut` for each way in which a window is given.
fn windowed(
    module: &mut Module,
    name: &str,
    pure: bool,
    cut: impl Fn(&NativeCallContext, &mut ImmutableString, (i64, i64)) -> Result<Dynamic, Raised>
    + Copy
    + Send
    + Sync
    + 'static,
) {
    type Text = ImmutableString;
    let function = || FuncRegistration::new(name).with_purity(pure);
    function().set_into_module(
        module,
        move |ctx: NativeCallContext, text: &mut Text, start: i64, length: i64| {
            cut(&ctx, text, (start, length))
        },
    );
    function().set_into_module(module, move |ctx: NativeCallContext, text: &mut Text, start: i64| {
        cut(&ctx, text, (start, i64::MAX))
    });
    function().set_into_module(module, move |ctx: NativeCallContext, text: &mut Text, range: Range<i64>| {
        let start = range.start.max(0);
        cut(&ctx, text, (start, range.end.max(start) - start))
    });
    function().set_into_module(
        module,
        move |ctx: NativeCallContext, text: &mut Text, range: RangeInclusive<i64>| {
            let start = (*range.start()).max(0);
            cut(&ctx, text, (start, (*range.end()).max(start).min(i64::MAX - 1) - start + 1))
        },
    );
}

/// `length` characters from `start` on, which counts from the end where it is negative.
pub(super) fn window(text: &str, start: i64, length: i64) -> &str {
    let back = usize::try_from(start.unsigned_abs()).unwrap_or(usize::MAX);
    let from = match usize::try_from(start) {
        Ok(start) => text.char_indices().nth(start).map_or(text.len(), |(at, _)| at),
        Err(_) => text.char_indices().rev().nth(back.saturating_sub(1)).map_or(0, |(at, _)| at),
    };
    let rest = &text[from..];
    let length = usize::try_from(length).unwrap_or(0);
    let to = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
    &rest[..to]
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::gives;

    #[test]
    fn windows_count_characters() {
        gives(
            r#"let s = "aübcd"; [s.sub_string(1, 2), s.sub_string(1), s.sub_string(-2), s.sub_string(9, 1)]"#,
            r#"["üb","übcd","cd",""]"#,
        );
        gives(
            r#"let s = "aübcd"; [s.sub_string(1..3), s.sub_string(1..=3), s.sub_string(-9, 2), s.sub_string(1, -1)]"#,
            r#"["üb","übc","aü",""]"#,
        );
        gives(r#"let s = "aübcd"; s.crop(1); s.crop(0..3); s.crop(-2, 9); s"#, r#""bc""#);
    }

    #[test]
    fn characters_come_one_by_one() {
        let all = |of: &str| format!(r#"let s = "aübcd"; let a = []; for c in {of} {{ a.push(c); }} a"#);
        for (of, letters) in [
            ("s", r#"["a","ü","b","c","d"]"#),
            ("s.chars", r#"["a","ü","b","c","d"]"#),
            ("s.chars()", r#"["a","ü","b","c","d"]"#),
            ("s.chars(3)", r#"["c","d"]"#),
            ("s.chars(-2)", r#"["c","d"]"#),
            ("s.chars(1, 2)", r#"["ü","b"]"#),
            ("s.chars(1..3)", r#"["ü","b"]"#),
            ("s.chars(3..=9)", r#"["c","d"]"#),
            ("s.chars(9, 1)", "[]"),
        ] {
            gives(&all(of), letters);
        }
    }
}
