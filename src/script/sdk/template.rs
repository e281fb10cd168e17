//! `template::…`: text with gaps, in the manner of Mustache, escaped for HTML.
//!
//! The language is small on purpose. It has no variables to set and no partials, so that what a template can hold and
//! print is bounded by the data and by the longest text; engines with assignments double a text at each line. Each
//! part that is printed counts as an operation of the script and is stopped like one.

use std::sync::Arc;

use rhai::{Dynamic, NativeCallContext};

use super::super::encode;
use super::super::guards::check_string;
use super::super::watch::Watch;
use super::given::{shown, step};
use super::{Kit, Raised, offer, wrong};

/// Deepest nesting of sections.
const DEPTH_MAX: usize = 32;

/// Most names that dots join.
const PATH_MAX: usize = 16;

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("template", "Texts and pages with gaps, filled in and escaped for HTML.", watch);
    let watch = kit.watch();
    offer!(
        kit,
        /// Fills a template in. `{{name}}` prints a value of `data`, escaped for HTML text and for attributes in
        /// quotes; `{{a.b}}` one within; `{{{name}}}` prints it as it is. Values are texts, numbers and bools; what is
        /// not there prints as nothing.
        ///
        /// `{{#name}}..{{/name}}` is printed once for each item of an array, once for any other value, and not at all
        /// for `()`, `false`, `""`, an empty array, or nothing; names inside are looked for in the item first, then
        /// outside. `{{^name}}..{{/name}}` is printed in just those other cases. `{{.}}` is the item itself,
        /// `{{! .. }}` a comment.
        ///
        /// Within scripts, styles and attributes without quotes no escaping helps: put no values of strangers there.
        ///
        /// Limits: sections nest 32 deep, names have 16 parts, the result is at most as long as a text may be; each
        /// part printed counts as an operation.
        ///
        /// ```rhai
        /// template::render("Hello {{user.name}}!", #{ user: #{ name: "<Ada>" } }) // => "Hello &lt;Ada&gt;!"
        /// ```
        /// ```rhai
        /// let page = "{{#items}}<li>{{name}}{{#sold}} (sold){{/sold}}</li>{{/items}}{{^items}}none{{/items}}";
        /// template::render(page, #{ items: [#{ name: "A" }, #{ name: "B", sold: true }] }) // => "<li>A</li><li>B (sold)</li>"
        /// ```
        /// ```rhai
        /// template::render("{{#tags}}{{.}} {{/tags}}{{{raw}}}", #{ tags: ["x", 1], raw: "<hr>" }) // => "x 1 <hr>"
        /// ```
        /// ```rhai
        /// template::render("{{#a}}\n{{/b}}", #{}) // throws: template::render: line 2: "b" is closed, and "a" is open
        /// ```
        "template::render(template, data)",
        move |ctx: NativeCallContext, template: &str, data: Dynamic| render(&ctx, &watch, template, &data)
    );
    kit
}

/// A template filled in.
pub(super) fn render(
    ctx: &NativeCallContext,
    watch: &Watch,
    template: &str,
    data: &Dynamic,
) -> Result<String, Raised> {
    watch.check(ctx)?;
    check_string(ctx, template.len())?;
    let parts = Parser { ctx, watch, template, at: 0 }.parse()?;
    let mut printer = Printer { ctx, watch, template, out: String::new() };
    printer.all(&parts, &Scope { value: data, outer: None })?;
    Ok(printer.out)
}

/// A piece of a template.
enum Part<'t> {
    Text(&'t str),
    Value { name: Name<'t>, raw: bool },
    Section { name: Name<'t>, inverted: bool, parts: Vec<Part<'t>> },
}

/// A name, and where in the template it stands.
#[derive(Clone, Copy)]
struct Name<'t> {
    text: &'t str,
    at: usize,
}

/// The error of a place in the template.
fn wrong_at(template: &str, at: usize, why: &str) -> Raised {
    let line = template[..at].matches('\n').count() + 1;
    wrong("template::render", format!("line {line}: {why}"))
}

struct Parser<'t> {
    ctx: &'t NativeCallContext<'t>,
    watch: &'t Watch,
    template: &'t str,
    at: usize,
}

/// A section that is not closed yet.
struct Open<'t> {
    name: Name<'t>,
    inverted: bool,
    before: Vec<Part<'t>>,
}

impl<'t> Parser<'t> {
    fn parse(mut self) -> Result<Vec<Part<'t>>, Raised> {
        let mut parts = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        while let Some(length) = self.template[self.at..].find("{{") {
            step(self.ctx, self.watch)?;
            if length > 0 {
                parts.push(Part::Text(&self.template[self.at..self.at + length]));
            }
            self.at += length;
            let (kind, name) = self.tag()?;
            match kind {
                '!' => {}
                '{' | ' ' => parts.push(Part::Value { name, raw: kind == '{' }),
                '#' | '^' => {
                    if open.len() >= DEPTH_MAX {
                        let why = format!("sections are nested deeper than {DEPTH_MAX}");
                        return Err(wrong_at(self.template, name.at, &why));
                    }
                    open.push(Open { name, inverted: kind == '^', before: std::mem::take(&mut parts) });
                }
                _ => {
                    let closed = self.close(open.pop(), name)?;
                    let inner = std::mem::replace(&mut parts, closed.before);
                    let section =
                        Part::Section { name: closed.name, inverted: closed.inverted, parts: inner };
                    parts.push(section);
                }
            }
        }
        if let Some(open) = open.pop() {
            let why = format!("{} is not closed", shown(open.name.text));
            return Err(wrong_at(self.template, open.name.at, &why));
        }
        parts.push(Part::Text(&self.template[self.at..]));
        Ok(parts)
    }

    /// The tag that begins here: its kind, a blank for a plain value, and its name.
    fn tag(&mut self) -> Result<(char, Name<'t>), Raised> {
        let begin = self.at;
        let inside = &self.template[begin + 2..];
        let first = inside.chars().next().unwrap_or(' ');
        let kind = if matches!(first, '{' | '#' | '^' | '/' | '!') { first } else { ' ' };
        let end = if kind == '{' { "}}}" } else { "}}" };
        let Some(length) = inside.find(end) else {
            return Err(wrong_at(self.template, begin, &format!("there is no {end} for {{{{")));
        };
        self.at = begin + 2 + length + end.len();
        let text = inside[usize::from(kind != ' ')..length].trim();
        let segments = || text.split('.');
        let is_part =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "_-$@".contains(c));
        let is_name = text == "." || (segments().all(is_part) && segments().count() <= PATH_MAX);
        if !is_name && kind != '!' {
            return Err(wrong_at(self.template, begin, &format!("{} is no name", shown(text))));
        }
        Ok((kind, Name { text, at: begin }))
    }

    fn close(&self, open: Option<Open<'t>>, name: Name) -> Result<Open<'t>, Raised> {
        let closed = shown(name.text);
        match open {
            Some(open) if open.name.text == name.text => Ok(open),
            Some(open) => {
                let why = format!("{closed} is closed, and {} is open", shown(open.name.text));
                Err(wrong_at(self.template, name.at, &why))
            }
            None => {
                Err(wrong_at(self.template, name.at, &format!("{closed} is closed, and nothing is open")))
            }
        }
    }
}

/// What names are looked for in: the item of the innermost section, then those around it.
struct Scope<'a> {
    value: &'a Dynamic,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    /// Hands what `name` stands for to `then`. Not returned, because what is shared is locked meanwhile.
    fn with<R>(&self, name: &str, then: &mut dyn FnMut(Option<&Dynamic>) -> R) -> R {
        if name == "." {
            return then(Some(self.value));
        }
        let (first, rest) = name.split_once('.').map_or((name, ""), |(first, rest)| (first, rest));
        let mut scope = self;
        loop {
            if let Ok(map) = scope.value.as_map_ref()
                && let Some(value) = map.get(first)
            {
                return within(value, rest, then);
            }
            match scope.outer {
                Some(outer) => scope = outer,
                None => return then(None),
            }
        }
    }
}

/// Hands what `path` leads to within a value to `then`.
fn within<R>(value: &Dynamic, path: &str, then: &mut dyn FnMut(Option<&Dynamic>) -> R) -> R {
    if path.is_empty() {
        return then(Some(value));
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    if let Ok(map) = value.as_map_ref()
        && let Some(value) = map.get(first)
    {
        return within(value, rest, then);
    }
    then(None)
}

struct Printer<'t> {
    ctx: &'t NativeCallContext<'t>,
    watch: &'t Watch,
    template: &'t str,
    out: String,
}

impl Printer<'_> {
    fn all(&mut self, parts: &[Part], scope: &Scope) -> Result<(), Raised> {
        for part in parts {
            step(self.ctx, self.watch)?;
            match part {
                Part::Text(text) => self.push(text)?,
                Part::Value { name, raw } => {
                    scope.with(name.text, &mut |value| self.value(*name, *raw, value))?;
                }
                Part::Section { name, inverted: true, parts } => {
                    if scope.with(name.text, &mut |value| !value.is_some_and(is_there)) {
                        self.all(parts, scope)?;
                    }
                }
                Part::Section { name, inverted: false, parts } => {
                    scope.with(name.text, &mut |value| self.section(parts, scope, value))?;
                }
            }
        }
        Ok(())
    }

    fn section(&mut self, parts: &[Part], scope: &Scope, value: Option<&Dynamic>) -> Result<(), Raised> {
        let Some(value) = value.filter(|value| is_there(value)) else { return Ok(()) };
        let Ok(items) = value.as_array_ref() else {
            return self.all(parts, &Scope { value, outer: Some(scope) });
        };
        for item in items.iter() {
            step(self.ctx, self.watch)?;
            self.all(parts, &Scope { value: item, outer: Some(scope) })?;
        }
        Ok(())
    }

    fn value(&mut self, name: Name, raw: bool, value: Option<&Dynamic>) -> Result<(), Raised> {
        let Some(value) = value.filter(|value| !value.is_unit()) else { return Ok(()) };
        if let Ok(text) = value.as_immutable_string_ref() {
            return if raw { self.push(&text) } else { self.push_escaped(&text) };
        }
        if value.is_int() || value.is_float() || value.is_bool() || value.is_char() {
            let text = value.to_string();
            return if raw { self.push(&text) } else { self.push_escaped(&text) };
        }
        let (name, at) = (shown(name.text), name.at);
        let kind = encode::kind_of(value);
        let why = format!("{name} is a {kind}; only texts, numbers and bools can be printed");
        Err(wrong_at(self.template, at, &why))
    }

    fn push_escaped(&mut self, text: &str) -> Result<(), Raised> {
        let mut rest = text;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            self.push(&rest[..at])?;
            self.push(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        self.push(rest)
    }

    fn push(&mut self, text: &str) -> Result<(), Raised> {
        check_string(self.ctx, self.out.len() + text.len())?;
        self.out.push_str(text);
        Ok(())
    }
}

/// Whether a section of this value is printed.
fn is_there(value: &Dynamic) -> bool {
    let is_empty = value.is_unit()
        || value.as_bool() == Ok(false)
        || value.as_immutable_string_ref().is_ok_and(|text| text.is_empty())
        || value.as_array_ref().is_ok_and(|items| items.is_empty());
    !is_empty
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::{fails, gives, quoted, row, run, run_with};
    use super::super::super::{FaultKind, Limits};

    #[track_caller]
    fn check(template: &str, data: &str, printed: &str) {
        gives(
            &format!("template::render({}, {data})", quoted(template)),
            &serde_json::to_string(printed).unwrap(),
        );
    }

    #[track_caller]
    fn refused(template: &str, data: &str, why: &str) {
        fails(&format!("template::render({}, {data})", quoted(template)), FaultKind::Runtime, why);
    }

    #[test]
    fn values_and_sections() {
        check("", "()", "");
        check("a } b }} { c", "#{}", "a } b }} { c");
        check("{{ a }}|{{{a}}}|{{b}}|{{a.x}}", "#{ a: `<&>\"'` }", "&lt;&amp;&gt;&quot;&#39;|<&>\"'||");
        check("{{a}}{{b}}{{c}}{{d}}{{e}}", "#{ a: 1, b: 1.5, c: true, d: '<', e: () }", "11.5true&lt;");
        check("{{#a}}{{#b}}{{x}}{{y}}{{/b}}{{/a}}", "#{ x: 1, a: #{ y: 2, b: [#{ x: 3 }, #{}] } }", "3212");
        check("{{#a}}x{{/a}}{{^a}}y{{/a}}", "#{ a: 0 }", "x");
        for empty in ["()", "false", "\"\"", "[]"] {
            check("{{#a}}x{{/a}}{{^a}}y{{/a}}", &format!("#{{ a: {empty} }}"), "y");
        }
        check("{{^a}}y{{/a}}{{! ] no name }}{{.}}", "7", "y7");
        check("{{#.}}{{#.}}{{.}}{{/.}};{{/.}}", "[[1, 2], [3]]", "12;3;");
        check("{{a.b.c}}{{a-b_$}}{{ü}}", "#{ a: #{ b: #{ c: 1 } }, \"a-b_$\": 2, \"ü\": 3 }", "123");
        gives(
            "let n = 1; let f = || n; n += 1; template::render(\"{{n}}{{#o}}{{n}}{{/o}}\", #{ n: n, o: #{} })",
            "\"22\"",
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        refused("\n\n{{", "1", "line 3: there is no }} for {{");
        refused("{{{a}}", "1", "line 1: there is no }}} for {{");
        refused("\n{{#a}}\n", "1", "line 2: \"a\" is not closed");
        refused("{{/a}}", "1", "line 1: \"a\" is closed, and nothing is open");
        for bad in ["", " ", "a b", "a..b", ".a", "> a", "= <% %> =", "& a", "a|b", "a()"] {
            refused(&format!("{{{{{bad}}}}}"), "1", "line 1: ");
        }
        refused("\n{{a}}", "#{ a: #{} }", "line 2: \"a\" is a map; only texts");
        refused("{{{a}}}", "#{ a: || 1 }", "\"a\" is a closure");
        refused(&"{{#a}}".repeat(33), "1", "nested deeper than 32");
        refused(&format!("{{{{{}}}}}", ["a"; 17].join(".")), "1", "is no name");
    }

    #[test]
    fn bombs_end() {
        let rows = "let a = []; a.pad(9_000, 1); ";
        let nested = "template::render(`{{#a}}{{#a}}{{#a}}{{/a}}{{/a}}{{/a}}`, #{ a: a })";
        fails(&format!("{rows}{nested}"), FaultKind::Operations, "5000000 operations");
        let endless = Limits { operations: u64::MAX, ..Limits::default() };
        let late = || {
            let source = format!("{rows}{nested}");
            let outcome = run_with(&source, row(), endless.clone());
            outcome.result.unwrap_err()
        };
        // Three levels of nine thousand take more than the ten seconds there are.
        assert_eq!(late().kind, FaultKind::Timeout);
        fails(
            &format!(
                "{rows} template::render(`{{{{#a}}}}{{{{b}}}}{{{{/a}}}}`, #{{ a: a, b: `<<<<<<<<<<<<<<<<` }})"
            ),
            FaultKind::Runtime,
            "longer than 262144 bytes",
        );
        let tags = "let t = \"x\"; t.pad(200_001, \"{{a}}\"); ";
        gives(&format!("{tags} template::render(t, #{{}}).len"), "1");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn noise_is_printed_or_refused(template in "([{}#/^!.a ]|\\PC){0,40}", text in "\\PC{0,20}") {
            let source = format!("try {{ template::render({}, #{{ a: [{}] }}); }} catch {{ }} 1", quoted(&template), quoted(&text));
            gives(&source, "1");
        }

        #[test]
        fn no_value_opens_a_tag(text in "[<>&\"'a]{0,20}") {
            let printed = run(&format!("template::render(\"{{{{.}}}}\", {})", quoted(&text)));
            let body = printed.result.unwrap().body;
            let printed: String = serde_json::from_slice(&body).unwrap();
            prop_assert!(!printed.contains(['<', '>', '"', '\'']));
            let back = printed.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
            prop_assert_eq!(back.replace("&amp;", "&"), text);
        }
    }
}
