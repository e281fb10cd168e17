//! The reference of what scripts can call, as plain data: chapters of pages with examples.

use serde::Serialize;

/// One namespace of the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chapter {
    /// What stands before the `::`; empty for functions that are called without one.
    pub name: &'static str,
    /// What it is for, in a sentence or two.
    pub about: &'static str,
    /// Its functions, in the order they are best read in.
    #[serde(rename = "functions")]
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

impl Page {
    /// As it is called, without the arguments: `kv::get`.
    pub fn full_name(&self) -> &'static str {
        self.signature.split('(').next().unwrap_or(self.signature)
    }
}

/// A program that shows the function. The comment at the end of its last line says what comes of it: `// => <JSON>`,
/// `// answers: <status> <body>` or `// throws: <part of the message>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The program, that comment included.
    pub source: String,
    /// What comes of it.
    pub outcome: ExampleOutcome,
}

/// What comes of an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExampleOutcome {
    /// The value, as JSON.
    Gives(String),
    /// The status of the response, and the text of its body.
    Answers(String),
    /// It fails, and its message contains this.
    Throws(String),
    /// It does not say; a mistake that a test finds.
    Unsaid,
}
