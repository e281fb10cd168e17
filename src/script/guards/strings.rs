//! Functions on strings: those whose result, or scratch space, is many times their arguments.

use std::sync::Arc;

use rhai::{Array, Dynamic, FuncRegistration, ImmutableString, Module, NativeCallContext};

use super::super::text;
use super::super::watch::{Stop, Watch};
use super::windows::window;
use super::{Raised, check_items, check_string, string_too_long};

/// Adds the overrides.
pub(super) fn register(module: &mut Module, watch: &Arc<Watch>) {
    replacing(module);
    padding(module);
    splitting(module);
    changing(module);
    printing(module, watch);
}

/// A function that leaves its first argument alone, so that constants may be it.
macro_rules! pure {
    ($module:ident, $name:literal, $function:expr) => {
        FuncRegistration::new($name).with_purity(true).set_into_module($module, $function)
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

/// Functions that hold two more copies of a string for a moment: not of one over the limit.
fn changing(module: &mut Module) {
    type Text = ImmutableString;
    type Case = fn(&str) -> String;
    let cases: [(&str, &str, Case); 2] =
        [("to_upper", "make_upper", str::to_uppercase), ("to_lower", "make_lower", str::to_lowercase)];
    for (gives, changes, convert) in cases {
        let function = FuncRegistration::new(gives).with_purity(true);
        function.set_into_module(module, move |ctx: NativeCallContext, text: &str| -> Result<Text, Raised> {
            check_string(&ctx, text.len())?;
            Ok(convert(text).into())
        });
        module.set_native_fn(changes, move |ctx: NativeCallContext, text: &mut Text| {
            check_string(&ctx, text.len())?;
            *text = convert(text).into();
            Ok(())
        });
    }
    module.set_native_fn("pop", |ctx: NativeCallContext, text: &mut Text, letters: i64| {
        check_string(&ctx, text.len())?;
        let letters = usize::try_from(letters).unwrap_or(0);
        let from = match letters {
            0 => text.len(),
            _ => text.char_indices().rev().nth(letters - 1).map_or(0, |(at, _)| at),
        };
        let end = Text::from(&text[from..]);
        *text = Text::from(&text[..from]);
        Ok(end)
    });
    pure!(module, "index_of", |text: &str, find: &str, start: i64| index_from(text, find, start));
    pure!(module, "index_of", |text: &str, find: char, start: i64| {
        index_from(text, find.encode_utf8(&mut [0; 4]), start)
    });
}

/// Where `find` first is at or after character `start`, which counts from the end where it is negative; else -1.
fn index_from(text: &str, find: &str, start: i64) -> i64 {
    let tail = window(text, start, i64::MAX);
    if tail.is_empty() {
        return -1;
    }
    let skipped = text.len() - tail.len();
    let letters = tail.find(find).map(|at| text[..skipped + at].chars().count());
    letters.and_then(|count| i64::try_from(count).ok()).unwrap_or(-1)
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
    fn changes_behave_as_the_originals() {
        gives(r#"let s = "aüB"; s.make_upper(); [s, s.to_lower(), 'ü'.to_upper()]"#, r#"["AÜB","aüb","Ü"]"#);
        gives(
            r#"let s = "aübc"; [s.pop(2), s, s.pop(0), s.pop(9), s, s.pop(1)]"#,
            r#"["bc","aü","","aü","",""]"#,
        );
        gives(
            r#"let s = "aüba"; [s.index_of("a", 1), s.index_of('a', -4), s.index_of("x", 0), s.index_of('a', 4)]"#,
            "[3,0,-1,-1]",
        );
        gives(
            r#"let s = "aüba"; [s.index_of("ba", -2), s.index_of('a', -1), s.index_of("a", 0)]"#,
            "[2,3,0]",
        );
    }

    #[test]
    fn text_of_values() {
        gives(
            r#"let a = [1, "x", #{k: ()}]; `${a}|${1.5}|${'c'}|${()}|` + a"#,
            r#""[1, \"x\", #{\"k\": ()}]|1.5|c||[1, \"x\", #{\"k\": ()}]""#,
        );
        gives(r#"fn f() {} Fn("f").to_string() + (|x| x).to_string().len()"#, r#""Fn(f)25""#);
        gives(
            r#""a".to_debug() + [].to_string() + #{}.to_debug() + true.to_debug() + (0..3)"#,
            r#""\"a\"[]#{}true0..3""#,
        );
    }
}
