//! The page of a function: its doc comment, taken apart.

use serde::Serialize;

/// One namespace of the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chapter {
    /// What stands before the `::`; empty for functions that are called without one.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// Its functions, in the order they are best read in.
    pub pages: Vec<Page>,
}

/// What is to be read about one function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// As it is called: `kv::get(key)`.
    pub signature: &'static str,
    /// Its name, without namespace and arguments.
    pub name: &'static str,
    /// The first sentence.
    pub summary: String,
    /// The rest, in paragraphs with an empty line between.
    pub text: String,
    /// What it refuses, and how much it takes at most.
    pub limits: String,
    /// How it is used.
    pub examples: Vec<Example>,
}

/// A program that shows the function. The comment at the end of its last line says what comes of it: `// => <JSON>`,
/// `// answers: <status> <body>` or `// throws: <part of the message>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The program, that comment included.
    pub source: String,
    /// What comes of it.
    pub outcome: Outcome,
}

/// What comes of an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The value, as JSON.
    Gives(String),
    /// The status of the response, and the text of its body.
    Answers(String),
    /// It fails, and its message contains this.
    Throws(String),
    /// It does not say; a mistake that a test finds.
    Unsaid,
}

impl Page {
    /// Takes a doc comment apart, whose lines may begin with the space that follows the slashes.
    pub(super) fn parse(namespace: &'static str, signature: &'static str, doc: &str) -> Page {
        let mut page = Page {
            signature,
            name: Page::name_in(namespace, signature),
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
                    page.examples.push(Example::parse(source));
                    code = None;
                }
                Some(source) => {
                    source.push_str(line);
                    source.push('\n');
                }
                None if line.trim_end() == "```rhai" => {
                    page.take(std::mem::take(&mut paragraph));
                    code = Some(String::new());
                }
                None if line.trim().is_empty() => page.take(std::mem::take(&mut paragraph)),
                None => {
                    paragraph.push_str(if paragraph.is_empty() { "" } else { " " });
                    paragraph.push_str(line.trim());
                }
            }
        }
        page.take(paragraph);
        page
    }

    /// `get` of `kv::get(key)`.
    pub(super) fn name_in(namespace: &str, signature: &'static str) -> &'static str {
        let rest = signature.strip_prefix(namespace).unwrap_or(signature).trim_start_matches("::");
        rest.split('(').next().unwrap_or(rest)
    }

    fn take(&mut self, paragraph: String) {
        if paragraph.is_empty() {
            return;
        }
        if let Some(limits) = paragraph.strip_prefix("Limits: ") {
            self.limits = limits.to_owned();
            return;
        }
        if self.summary.is_empty() {
            let end = paragraph.find(". ").map_or(paragraph.len(), |at| at + 1);
            self.summary = paragraph[..end].to_owned();
            self.text = paragraph[end..].trim().to_owned();
            return;
        }
        self.text.push_str(if self.text.is_empty() { "" } else { "\n\n" });
        self.text.push_str(&paragraph);
    }
}

impl Example {
    fn parse(source: &str) -> Example {
        let source = source.trim_end().to_owned();
        let last = source.lines().next_back().unwrap_or_default();
        type Kind = fn(String) -> Outcome;
        let kinds: [(&str, Kind); 3] = [
            ("// => ", Outcome::Gives),
            ("// answers: ", Outcome::Answers),
            ("// throws: ", Outcome::Throws),
        ];
        let said = kinds.iter().find_map(|(mark, kind)| {
            let (_, said) = last.rsplit_once(mark)?;
            Some(kind(said.trim().to_owned()))
        });
        Example { outcome: said.unwrap_or(Outcome::Unsaid), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doc_comment_is_taken_apart() {
        let doc = " Reads a value. Gives `()`\n if there is none.\n\n More\n to say.\n\n Limits: 1 KiB.\n\n ```rhai\n let a = 1;\n a // => 1\n ```\n ```rhai\n x() // throws: no x\n ```\n";
        let page = Page::parse("kv", "kv::get(key)", doc);
        assert_eq!((page.name, &*page.summary), ("get", "Reads a value."));
        assert_eq!(page.text, "Gives `()` if there is none.\n\nMore to say.");
        assert_eq!(page.limits, "1 KiB.");
        let first = Example { source: "let a = 1;\na // => 1".into(), outcome: Outcome::Gives("1".into()) };
        assert_eq!(page.examples[0], first);
        assert_eq!(page.examples[1].outcome, Outcome::Throws("no x".into()));
        assert_eq!(Page::parse("", "fail(why)", "").name, "fail");
        assert_eq!(Page::parse("", "f()", "```rhai\n1\n```").examples[0].outcome, Outcome::Unsaid);
    }
}
