//! The page of a function: its doc comment, taken apart.

use crate::model::{Example, ExampleOutcome, Page};

/// Takes a doc comment apart, whose lines may begin with the space that follows the slashes.
pub(super) fn parse(namespace: &'static str, signature: &'static str, doc: &str) -> Page {
    let mut page = Page {
        signature,
        name: name_in(namespace, signature),
        summary: String::new(),
        text: String::new(),
        limits: String::new(),
        examples: Vec::new(),
    };
    let mut paragraph = String::new();
    let mut code: Option<String> = None;
    for line in doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line)) {
        match &mut code {
            Some(source) if line.trim_end() == "```" => {
                page.examples.push(example(source));
                code = None;
            }
            Some(source) => {
                source.push_str(line);
                source.push('\n');
            }
            None if line.trim_end() == "```rhai" => {
                take(&mut page, std::mem::take(&mut paragraph));
                code = Some(String::new());
            }
            None if line.trim().is_empty() => take(&mut page, std::mem::take(&mut paragraph)),
            None => {
                paragraph.push_str(if paragraph.is_empty() { "" } else { " " });
                paragraph.push_str(line.trim());
            }
        }
    }
    take(&mut page, paragraph);
    page
}

/// `get` of `kv::get(key)`.
pub(super) fn name_in(namespace: &str, signature: &'static str) -> &'static str {
    let rest = signature.strip_prefix(namespace).unwrap_or(signature).trim_start_matches("::");
    rest.split('(').next().unwrap_or(rest)
}

fn take(page: &mut Page, paragraph: String) {
    if paragraph.is_empty() {
        return;
    }
    if let Some(limits) = paragraph.strip_prefix("Limits: ") {
        page.limits = limits.to_owned();
        return;
    }
    if page.summary.is_empty() {
        let end = paragraph.find(". ").map_or(paragraph.len(), |at| at + 1);
        page.summary = paragraph[..end].to_owned();
        page.text = paragraph[end..].trim().to_owned();
        return;
    }
    page.text.push_str(if page.text.is_empty() { "" } else { "\n\n" });
    page.text.push_str(&paragraph);
}

fn example(source: &str) -> Example {
    let source = source.trim_end().to_owned();
    let last = source.lines().next_back().unwrap_or_default();
    type Kind = fn(String) -> ExampleOutcome;
    let kinds: [(&str, Kind); 3] = [
        ("// => ", ExampleOutcome::Gives),
        ("// answers: ", ExampleOutcome::Answers),
        ("// throws: ", ExampleOutcome::Throws),
    ];
    let said = kinds.iter().find_map(|(mark, kind)| {
        let (_, said) = last.rsplit_once(mark)?;
        Some(kind(said.trim().to_owned()))
    });
    Example { outcome: said.unwrap_or(ExampleOutcome::Unsaid), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doc_comment_is_taken_apart() {
        let doc = " Reads a value. Gives `()`\n if there is none.\n\n More\n to say.\n\n Limits: 1 KiB.\n\n ```rhai\n let a = 1;\n a // => 1\n ```\n ```rhai\n x() // throws: no x\n ```\n";
        let page = parse("kv", "kv::get(key)", doc);
        assert_eq!((page.name, &*page.summary), ("get", "Reads a value."));
        assert_eq!(page.text, "Gives `()` if there is none.\n\nMore to say.");
        assert_eq!(page.limits, "1 KiB.");
        let first =
            Example { source: "let a = 1;\na // => 1".into(), outcome: ExampleOutcome::Gives("1".into()) };
        assert_eq!(page.examples[0], first);
        assert_eq!(page.examples[1].outcome, ExampleOutcome::Throws("no x".into()));
        assert_eq!(parse("", "fail(why)", "").name, "fail");
        assert_eq!(parse("", "f()", "```rhai\n1\n```").examples[0].outcome, ExampleOutcome::Unsaid);
    }
}
