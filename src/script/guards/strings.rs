//! Functions on strings: those whose result, or scratch space, is many times their arguments.

use std::sync::Arc;

use rhai::{Array, Dynamic, FuncRegistration, ImmutableString, Module, NativeCallContext};

use super::super::text;
use super::super::watch::{Stop, Watch};
use super::{Raised, check_items, check_string, string_too_long};

/// Adds the overrides.
pub(super) fn register(module: &mut Module, watch: &Arc<Watch>) {
    replacing(module);
    padding(module);
    splitting(module);
    cutting(module);
    printing(module, watch);
}

/// A function that leaves its first argument alone, so that constants may be it.
macro_rules! pure {
    ($module:ident, $name:literal, $function:expr) => {
        FuncRegistration::new($name).with_purity(true).set_into_module($module, $function)
    };
}

/// A function that changes its first argument and cannot fail.
macro_rules! method {
    ($module:ident, $name:literal, $function:expr) => {
        FuncRegistration::new($name).set_into_module($module, $function)
    };
}

fn replacing(module: &mut Module) {
    fn replace(
        ctx: &NativeCallContext,
        text: &mut ImmutableString,
        find: &str,
        with: &str,
    ) -> Result<(), Raised> {
        check_string(ctx, text.len())?;
        if with.len() > find.len() {
            let grown = text.matches(find).count().saturating_mul(with.len() - find.len());
            check_string(ctx, text.len().saturating_add(grown))?;
        }
        *text = text.replace(find, with).into();
        Ok(())
    }
    type Text = ImmutableString;
    module.set_native_fn("replace", |ctx: NativeCallContext, text: &mut Text, find: &str, with: &str| {
        replace(&ctx, text, find, with)
    });
    module.set_native_fn("replace", |ctx: NativeCallContext, text: &mut Text, find: &str, with: char| {
        replace(&ctx, text, find, with.encode_utf8(&mut [0; 4]))
    });
    module.set_native_fn("replace", |ctx: NativeCallContext, text: &mut Text, find: char, with: &str| {
        replace(&ctx, text, find.encode_utf8(&mut [0; 4]), with)
    });
    module.set_native_fn("replace", |ctx: NativeCallContext, text: &mut Text, find: char, with: char| {
        replace(&ctx, text, find.encode_utf8(&mut [0; 4]), with.encode_utf8(&mut [0; 4]))
    });
}

fn padding(module: &mut Module) {
    fn pad(
        ctx: &NativeCallContext,
        text: &mut ImmutableString,
        length: i64,
        with: &str,
    ) -> Result<(), Raised> {
        let missing = length.saturating_sub(i64::try_from(text.chars().count()).unwrap_or(i64::MAX));
        let Ok(missing) = usize::try_from(missing) else { return Ok(()) };
        if missing == 0 || with.is_empty() {
            return Ok(());
        }
        // Every character takes a byte at least, and the longest of this padding at most four.
        check_string(ctx, text.len().saturating_add(missing))?;
        let mut grown = String::with_capacity(text.len() + missing);
        grown.push_str(text);
        grown.extend(with.chars().cycle().take(missing));
        *text = grown.into();
        check_string(ctx, text.len())
    }
    type Text = ImmutableString;
    module.set_native_fn("pad", |ctx: NativeCallContext, text: &mut Text, length: i64, with: &str| {
        pad(&ctx, text, length, with)
    });
    module.set_native_fn("pad", |ctx: NativeCallContext, text: &mut Text, length: i64, with: char| {
        pad(&ctx, text, length, with.encode_utf8(&mut [0; 4]))
    });
}

fn splitting(module: &mut Module) {
    fn pieces<'a>(ctx: &NativeCallContext, parts: impl Iterator<Item = &'a str>) -> Result<Array, Raised> {
        let mut array = Array::new();
        for part in parts {
            array.push(Dynamic::from(ImmutableString::from(part)));
            check_items(ctx, array.len())?;
        }
        Ok(array)
    }
    fn split(ctx: &NativeCallContext, text: &str, by: &str, most: i64, back: bool) -> Result<Array, Raised> {
        check_string(ctx, text.len())?;
        let most = usize::try_from(most).unwrap_or(0).max(1);
        // An empty string, or a count of one, gives the string itself, as in the original.
        let most = if text.is_empty() { 1 } else { most };
        if back { pieces(ctx, text.rsplitn(most, by)) } else { pieces(ctx, text.splitn(most, by)) }
    }
    for (name, back) in [("split", false), ("split_rev", true)] {
        let function = FuncRegistration::new(name).with_purity(true);
        function.set_into_module(module, move |ctx: NativeCallContext, text: &str, by: &str| {
            split(&ctx, text, by, i64::MAX, back)
        });
        let function = FuncRegistration::new(name).with_purity(true);
        function.set_into_module(module, move |ctx: NativeCallContext, text: &str, by: char| {
            split(&ctx, text, by.encode_utf8(&mut [0; 4]), i64::MAX, back)
        });
        let function = FuncRegistration::new(name).with_purity(true);
        function.set_into_module(module, move |ctx: NativeCallContext, text: &str, by: &str, most: i64| {
            split(&ctx, text, by, most, back)
        });
        let function = FuncRegistration::new(name).with_purity(true);
        function.set_into_module(module, move |ctx: NativeCallContext, text: &str, by: char, most: i64| {
            split(&ctx, text, by.encode_utf8(&mut [0; 4]), most, back)
        });
    }
    pure!(module, "split", |ctx: NativeCallContext, text: &str| -> Result<Array, Raised> {
        if text.is_empty() { Ok(vec![text.into()]) } else { pieces(&ctx, text.split_whitespace()) }
    });
    pure!(module, "to_chars", |ctx: NativeCallContext, text: &str| -> Result<Array, Raised> {
        check_items(&ctx, text.chars().count())?;
        Ok(text.chars().map(Dynamic::from).collect())
    });
}

/// The originals collect all characters first, four bytes each; a body of the network may be long.
fn cutting(module: &mut Module) {
    fn window(text: &str, start: i64, length: i64) -> &str {
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
    fn exclusive(range: &std::ops::Range<i64>) -> (i64, i64) {
        let start = range.start.max(0);
        (start, range.end.max(start) - start)
    }
    fn inclusive(range: &std::ops::RangeInclusive<i64>) -> (i64, i64) {
        let start = (*range.start()).max(0);
        (start, (*range.end()).max(start).min(i64::MAX - 1) - start + 1)
    }
    type Text = ImmutableString;
    pure!(module, "sub_string", |text: &str, start: i64, length: i64| Text::from(window(
        text, start, length
    )));
    pure!(module, "sub_string", |text: &str, start: i64| Text::from(window(text, start, i64::MAX)));
    pure!(module, "sub_string", |text: &str, range: std::ops::Range<i64>| {
        let (start, length) = exclusive(&range);
        Text::from(window(text, start, length))
    });
    pure!(module, "sub_string", |text: &str, range: std::ops::RangeInclusive<i64>| {
        let (start, length) = inclusive(&range);
        Text::from(window(text, start, length))
    });
    method!(module, "crop", |text: &mut Text, start: i64, length: i64| {
        *text = window(text, start, length).into();
    });
    method!(module, "crop", |text: &mut Text, start: i64| *text = window(text, start, i64::MAX).into());
    method!(module, "crop", |text: &mut Text, range: std::ops::Range<i64>| {
        let (start, length) = exclusive(&range);
        *text = window(text, start, length).into();
    });
    method!(module, "crop", |text: &mut Text, range: std::ops::RangeInclusive<i64>| {
        let (start, length) = inclusive(&range);
        *text = window(text, start, length).into();
    });
}

/// How a value of any kind is turned into text, by whichever name.
fn printing(module: &mut Module, watch: &Arc<Watch>) {
    type Printer = fn(&Dynamic, usize) -> Result<String, text::TooLong>;
    let names: [(&str, Printer); 4] = [
        ("print", text::display),
        ("to_string", text::display),
        ("debug", text::debug),
        ("to_debug", text::debug),
    ];
    for (name, printer) in names {
        let watch = watch.clone();
        let print = move |ctx: &NativeCallContext, value: &mut Dynamic| -> ImmutableString {
            let printed = printer(value, ctx.engine().max_string_size());
            printed.map_or_else(
                |_| {
                    // An error would not do: the interpreter would then print the value itself, without bounds. It
                    // does so too if it finds the value too large afterwards; the run is over, so let it find none.
                    watch.halt(Stop::TooLarge);
                    *value = Dynamic::UNIT;
                    ImmutableString::new()
                },
                ImmutableString::from,
            )
        };
        any_kind(module, name, print);
    }
}

/// Registers `print` for each kind of value that has an original of its own, or whose form has no bound.
fn any_kind(
    module: &mut Module,
    name: &'static str,
    print: impl Fn(&NativeCallContext, &mut Dynamic) -> ImmutableString + Clone + Send + Sync + 'static,
) {
    use std::any::TypeId;
    let kinds = [
        TypeId::of::<Dynamic>(),
        TypeId::of::<Array>(),
        TypeId::of::<rhai::Map>(),
        TypeId::of::<rhai::Blob>(),
        TypeId::of::<rhai::FnPtr>(),
    ];
    for kind in kinds.into_iter().chain((name.contains("debug")).then(TypeId::of::<ImmutableString>)) {
        let print = print.clone();
        let raw = rhai::plugin::RhaiFunc::Pure {
            func: Arc::new(move |ctx: Option<NativeCallContext>, args: &mut [&mut Dynamic]| {
                let ctx = ctx.ok_or_else(string_too_long)?;
                Ok(print(&ctx, args[0]).into())
            }),
            has_context: true,
            is_pure: true,
            is_volatile: false,
        };
        FuncRegistration::new(name).set_into_module_raw(module, [kind], raw);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::gives;

    #[test]
    fn behave_as_the_originals() {
        gives(r#"let s = "banana"; s.replace("an", "AN"); s"#, r#""bANANa""#);
        gives(r#"let s = "banana"; s.replace('a', "--"); s"#, r#""b--n--n--""#);
        gives(r#"let s = "banana"; s.replace("na", 'x'); s.replace('x', 'y'); s"#, r#""bayy""#);
        gives(r#"let s = "ab"; s.replace("", "-"); s"#, r#""-a-b-""#);
        gives(r#"let s = "ü"; s.pad(4, "xy"); s"#, r#""üxyx""#);
        gives(r#"let s = "ab"; s.pad(4, '!'); s.pad(1, '?'); s.pad(-1, "?"); s"#, r#""ab!!""#);
        gives(r#""a,b,c".split(",")"#, r#"["a","b","c"]"#);
        gives(r#""a,b,c".split(',', 2)"#, r#"["a","b,c"]"#);
        gives(r#""a,b,c".split_rev(",", 2)"#, r#"["c","a,b"]"#);
        gives(r#""abc".split("")"#, r#"["","a","b","c",""]"#);
        gives(r#""".split(",") + "".split()"#, r#"["",""]"#);
        gives(r#"" a  b ".split()"#, r#"["a","b"]"#);
        gives(r#"const S = "abc"; S.split(1) + S.split(-1)"#, r#"["a","bc","ab","c"]"#);
        gives(r#""aü".to_chars()"#, r#"["a","ü"]"#);
    }

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
    fn text_of_values() {
        gives(
            r#"let a = [1, "x", #{k: ()}]; `${a}|${1.5}|${'c'}|${()}|` + a"#,
            r#""[1, \"x\", #{\"k\": ()}]|1.5|c||[1, \"x\", #{\"k\": ()}]""#,
        );
        gives(r#"fn f() {} Fn("f").to_string() + (|x| x).to_string().len()"#, r#""Fn(f)25""#);
        gives(
            r#""a".to_debug() + [].to_string() + #{}.to_debug() + true.to_debug() + 0..3"#,
            r#""\"a\"[]#{}true0..3""#,
        );
    }
}
