//! `picloud sdk`: what scripts can call, to be read in the terminal. Needs no daemon.

use std::io::Write;

use serde_json::json;

use super::backups::Offline;
use super::error::Error;
use super::render::{aligned, clean, indented};
use crate::model::{Chapter, Page};

/// Widest line of a text, in letters; examples stay as they are.
const TEXT_CHARS_MAX: usize = 80;

/// Widest line of the list of functions, in letters.
const LIST_CHARS_MAX: usize = 100;

/// Most names that are proposed for one that is unknown.
const NEAR_MAX: usize = 5;

/// Names that are less alike than this are not proposed; 1 is the same.
const LIKENESS_MIN: f64 = 0.8;

/// What to read.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A namespace like kv, or a function like kv::get [default: a list of all]
    name: Option<String>,
    /// Print the reference as one Markdown page
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// Does it.
pub(super) fn run(args: &Args, as_json: bool, offline: Offline, out: &mut dyn Write) -> Result<(), Error> {
    let all = (offline.reference)();
    let chosen = match &args.name {
        Some(name) => choose(&all, name).ok_or_else(|| unknown(&all, name))?,
        None => all,
    };
    let text = match &args.name {
        _ if args.markdown => (offline.markdown)(&chosen),
        _ if as_json => format!("{:#}\n", json!({ "items": chosen, "next_cursor": null })),
        Some(name) => pages(&chosen, name),
        None => list(&chosen),
    };
    Ok(out.write_all(text.as_bytes())?)
}

/// The namespace of this name, or the one function of its namespace.
fn choose(all: &[Chapter], name: &str) -> Option<Vec<Chapter>> {
    if let Some(chapter) = all.iter().find(|chapter| is_named(chapter, name)) {
        return Some(vec![chapter.clone()]);
    }
    // As it is called is a name too: `kv::get(key)`.
    let function = name.split('(').next().unwrap_or(name);
    all.iter().find_map(|chapter| {
        let page = chapter.pages.iter().find(|page| page.full_name() == function)?;
        Some(vec![Chapter { pages: vec![page.clone()], ..*chapter }])
    })
}

fn is_named(chapter: &Chapter, name: &str) -> bool {
    !chapter.name.is_empty() && chapter.name == name.strip_suffix("::").unwrap_or(name)
}

fn unknown(all: &[Chapter], name: &str) -> Error {
    let near = near(all, name);
    let instead = if near.is_empty() {
        "`picloud sdk` lists all there is".to_owned()
    } else {
        format!("there is {}", near.join(", "))
    };
    Error::Usage(format!("no namespace or function is called {}; {instead}", clean(name)))
}

/// Names that may have been meant: the same function elsewhere, or much the same letters. The likeliest is first.
fn near(all: &[Chapter], name: &str) -> Vec<&'static str> {
    let asked = name.split('(').next().unwrap_or(name).to_lowercase();
    let bare = asked.rsplit("::").next().unwrap_or(&asked);
    let functions = all.iter().flat_map(|chapter| &chapter.pages).map(|page| (page.full_name(), page.name));
    let namespaces =
        all.iter().map(|chapter| (chapter.name, chapter.name)).filter(|(name, _)| !name.is_empty());
    let likeness = |(full, short): (&'static str, &str)| {
        let whole = strsim::jaro_winkler(full, &asked);
        if short == bare { whole.max(LIKENESS_MIN) } else { whole }
    };
    let mut near: Vec<(f64, &str)> =
        namespaces.chain(functions).map(|both| (likeness(both), both.0)).collect();
    near.retain(|(likeness, _)| *likeness >= LIKENESS_MIN);
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    near.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect()
}

/// A line for each function.
fn list(chapters: &[Chapter]) -> String {
    let names = chapters.iter().flat_map(|chapter| &chapter.pages).map(|page| page.full_name().len());
    let width = names.max().unwrap_or_default();
    // Two blanks before each column.
    let room = LIST_CHARS_MAX.saturating_sub(width + 4);
    let mut text = String::new();
    for chapter in chapters {
        let title = if chapter.name.is_empty() { String::new() } else { format!("{}:: ", chapter.name) };
        text.push_str(&wrapped(&format!("{title}{}", chapter.about), LIST_CHARS_MAX));
        let row = |page: &Page| vec![format!("{:<width$}", page.full_name()), shortened(&page.summary, room)];
        let rows: Vec<Vec<String>> = chapter.pages.iter().map(row).collect();
        text.push_str(&format!("\n{}\n\n", indented(&aligned(&rows))));
    }
    text.push_str("`picloud sdk kv` shows a namespace, `picloud sdk kv::get` a function.\n");
    text
}

/// What there is to read about each function, and about the namespace if that is what was asked for.
fn pages(chapters: &[Chapter], name: &str) -> String {
    let mut parts = Vec::new();
    for chapter in chapters {
        if is_named(chapter, name) {
            parts.push(wrapped(&format!("{}:: {}", chapter.name, chapter.about), TEXT_CHARS_MAX));
        }
        parts.extend(chapter.pages.iter().map(page));
    }
    format!("{}\n", parts.join("\n\n"))
}

fn page(page: &Page) -> String {
    let body = format!("{} {}", page.summary, page.text);
    let limits = format!("Limits: {}", page.limits);
    let paragraphs = body.split("\n\n").chain([limits.as_str()]);
    let mut parts: Vec<String> =
        paragraphs.map(|paragraph| indented(&wrapped(paragraph, TEXT_CHARS_MAX - 2))).collect();
    parts.extend(page.examples.iter().map(|example| indented(&indented(&example.source))));
    format!("{}\n\n{}", page.signature, parts.join("\n\n"))
}

/// The text in lines of at most so many letters, but for longer words.
fn wrapped(text: &str, chars_max: usize) -> String {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > chars_max {
            lines.push(String::new());
            length = 0;
        }
        if let Some(line) = lines.last_mut() {
            let blank = if length > 0 { " " } else { "" };
            line.push_str(blank);
            line.push_str(word);
            length += blank.len() + letters;
        }
    }
    lines.join("\n")
}

/// As many whole words as there is room for.
fn shortened(text: &str, chars_max: usize) -> String {
    let wrapped = wrapped(text, chars_max.saturating_sub(2));
    match wrapped.split_once('\n') {
        Some((first, _)) => format!("{first} …"),
        None => wrapped,
    }
}
