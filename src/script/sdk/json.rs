//! `json::…`: JSON in and out.

use std::sync::Arc;

use rhai::{Dynamic, ImmutableString, NativeCallContext};

use super::super::FaultKind;
use super::super::convert::{self, ConvertError};
use super::super::encode::{self, EncodeError};
use super::super::guards::check_string;
use super::super::watch::{Stop, Watch};
use super::{Kit, Raised, offer, wrong};

/// Most spaces of a level.
const INDENT_MAX: i64 = 8;

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("json", "Values as JSON text, and back.", watch);
    let watch = kit.watch();
    offer!(
        kit,
        /// Reads a JSON text (RFC 8259). Whole numbers beyond 64 bits become floats; of a repeated key the last value
        /// stands.
        ///
        /// Limits: 128 levels; what it makes must fit into the memory of the run.
        ///
        /// ```rhai
        /// json::parse(`{"a":[1,null]}`).a[0] // => 1
        /// ```
        /// ```rhai
        /// json::parse("[1,") // throws: json::parse: EOF while parsing a value at line 1 column 3
        /// ```
        "json::parse(text)",
        move |ctx: NativeCallContext, text: &str| parse(&ctx, &watch, text)
    );
    let (compact, indented) = (kit.watch(), kit.watch());
    offer!(
        kit,
        /// Writes a value as JSON, on one line or indented by so many spaces. `()` is `null`, a blob is text in
        /// base64, a number that is not finite is `null`.
        ///
        /// Limits: 64 levels, 0 to 8 spaces, and as long as a text may be; closures have no JSON form.
        ///
        /// ```rhai
        /// json::stringify(#{ b: [1, ()], a: "x" }) // => "{\"a\":\"x\",\"b\":[1,null]}"
        /// ```
        /// ```rhai
        /// json::stringify([1, []], 2) // => "[\n  1,\n  []\n]"
        /// ```
        /// ```rhai
        /// json::stringify(|| 1) // throws: json::stringify: the value holds a closure, which has no JSON form
        /// ```
        "json::stringify(value[, indent])",
        move |ctx: NativeCallContext, value: Dynamic| stringify(&ctx, &compact, &value)
    );
    kit.also("stringify", move |ctx: NativeCallContext, value: Dynamic, spaces: i64| {
        let Some(spaces) = usize::try_from(spaces).ok().filter(|_| spaces <= INDENT_MAX) else {
            let why = format!("takes 0 to {INDENT_MAX} spaces, not {spaces}");
            return Err(wrong("json::stringify", why));
        };
        let json = stringify(&ctx, &indented, &value)?;
        if spaces == 0 { Ok(json) } else { indent(&ctx, &json, spaces) }
    });
    kit
}

fn parse(ctx: &NativeCallContext, watch: &Watch, text: &str) -> Result<Dynamic, Raised> {
    watch.check(ctx)?;
    convert::from_json(text.as_bytes()).map_err(|why| match why {
        ConvertError::Memory => watch.stop(ctx, Stop::Fault(FaultKind::Memory)),
        ConvertError::Json(why) => wrong("json::parse", why),
    })
}

fn stringify(ctx: &NativeCallContext, watch: &Watch, value: &Dynamic) -> Result<ImmutableString, Raised> {
    watch.check(ctx)?;
    let json = encode::to_json(value, ctx.engine().max_string_size()).map_err(|why| match why {
        EncodeError::Memory => watch.stop(ctx, Stop::Fault(FaultKind::Memory)),
        EncodeError::Depth | EncodeError::Kind(_) | EncodeError::Size(_) => {
            wrong("json::stringify", format!("the value {why}"))
        }
    })?;
    // The encoder copies valid strings and adds ASCII; the lossy way costs nothing then.
    Ok(String::from_utf8_lossy(&json).into_owned().into())
}

/// Compact JSON with line breaks and spaces between its parts.
fn indent(ctx: &NativeCallContext, json: &str, spaces: usize) -> Result<ImmutableString, Raised> {
    let mut out = String::new();
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut before = '\0';
    for letter in json.chars() {
        let is_closing = !quoted && matches!(letter, ']' | '}');
        depth -= usize::from(is_closing);
        // Empty containers stay on their line.
        let opens = matches!(before, '[' | '{');
        if !quoted && if is_closing { !opens } else { opens || before == ',' } {
            check_string(ctx, out.len() + depth * spaces)?;
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth * spaces));
        }
        out.push(letter);
        if quoted {
            // What stands in a string separates nothing.
            (quoted, escaped) = (escaped || letter != '"', !escaped && letter == '\\');
            before = 'x';
            continue;
        }
        quoted = letter == '"';
        depth += usize::from(matches!(letter, '[' | '{'));
        if letter == ':' {
            out.push(' ');
        }
        before = letter;
    }
    check_string(ctx, out.len())?;
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{fails, gives};
    use super::*;

    #[test]
    fn indented_json_is_the_same_json() {
        for json in [
            r#"{"a":[{},[],{"b":"}],{[\"\\"},[[1]]],"c\n":-1.5,"":null}"#,
            "[]",
            "\"{\\\"\"",
            "null",
            "[\"\\\\\",[[[]]]]",
        ] {
            let compact: serde_json::Value = serde_json::from_str(json).unwrap();
            let wanted = serde_json::to_string_pretty(&compact).unwrap();
            let source = format!("json::stringify(json::parse({json:?}), 2)");
            gives(&source, &serde_json::to_string(&wanted).unwrap());
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let caught = "let why = (); try { json::stringify(1, 9); } catch (e) { why = e; } why";
        gives(caught, "\"json::stringify: takes 0 to 8 spaces, not 9\"");
        let fault = fails("\n json::parse(\"\")", FaultKind::Runtime, "(line 2, position 8)");
        assert_eq!((fault.line, fault.column), (Some(2), Some(8)));
        let long = "let s = \"\\n\"; s.pad(200_000, '\\n');";
        fails(&format!("{long} json::stringify(s)"), FaultKind::Runtime, "JSON form longer than 262144");
        let wide = "let a = []; a.pad(1_500, [[[[1]]]]); ";
        fails(&format!("{wide} json::stringify(a, 8)"), FaultKind::Runtime, "longer than 262144 bytes");
        let deep = "let a = []; for i in 0..65 { a = [a]; }";
        fails(&format!("{deep} json::stringify(a)"), FaultKind::Runtime, "nested deeper than 64 levels");
    }
}
