//! The reference as one Markdown page, for a website or an editor.

use std::fmt::Write;

use crate::model::{Chapter, Page};

/// Heading of the chapter whose functions have no namespace.
const BARE: &str = "Without a namespace";

/// Writes these chapters as one page: all of them under a title with a list of contents, a single one alone.
pub fn markdown(chapters: &[Chapter]) -> String {
    let mut text = String::new();
    if chapters.len() > 1 {
        text.push_str("# What scripts can call\n\n");
        text.push_str(
            "Beyond the language, [Rhai](https://rhai.rs/book), scripts on PiCloud have these functions. ",
        );
        text.push_str("The comment at the end of an example says what comes of it: `=>` its value as JSON, ");
        text.push_str("`answers:` the response, `throws:` a part of the error.\n\n");
        chapters.iter().for_each(|chapter| contents(&mut text, chapter));
    }
    for chapter in chapters {
        if !text.is_empty() {
            text.push('\n');
        }
        let about = chapter.about;
        // Writing to a string does not fail.
        let _ = write!(text, "## {}\n\n{about}\n", heading(chapter));
        chapter.pages.iter().for_each(|page| function(&mut text, page));
    }
    text
}

fn heading(chapter: &Chapter) -> &str {
    if chapter.name.is_empty() { BARE } else { chapter.name }
}

fn contents(text: &mut String, chapter: &Chapter) {
    let heading = heading(chapter);
    let anchor = heading.to_lowercase().replace(' ', "-");
    let names: Vec<String> = chapter.pages.iter().map(|page| format!("`{}`", page.full_name())).collect();
    let _ = writeln!(text, "* [{heading}](#{anchor}): {}", names.join(", "));
}

fn function(text: &mut String, page: &Page) {
    let _ = write!(text, "\n### `{}`\n\n{}", page.signature, page.summary);
    // The summary is the beginning of the first paragraph.
    let _ = writeln!(text, "{}{}", if page.text.is_empty() { "" } else { " " }, page.text);
    if !page.limits.is_empty() {
        let _ = writeln!(text, "\n**Limits:** {}", page.limits);
    }
    for example in &page.examples {
        let _ = writeln!(text, "\n```rhai\n{}\n```", example.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Example, ExampleOutcome};

    fn chapter(name: &'static str, signature: &'static str) -> Chapter {
        let outcome = ExampleOutcome::Gives("1".into());
        let page = Page {
            signature,
            name: "get",
            summary: "Reads.".into(),
            text: "More.\n\nAnd more.".into(),
            limits: "1 KiB.".into(),
            examples: vec![Example { source: "a // => 1".into(), outcome }],
        };
        Chapter { name, about: "Values.", pages: vec![page] }
    }

    #[test]
    fn one_chapter_stands_alone_and_many_have_contents() {
        let page = "Values.\n\n### `kv::get(key)`\n\nReads. More.\n\nAnd more.\n\n**Limits:** 1 KiB.\n\n```rhai\na // => 1\n```\n";
        let kv = chapter("kv", "kv::get(key)");
        assert_eq!(markdown(std::slice::from_ref(&kv)), format!("## kv\n\n{page}"));
        let all = markdown(&[kv, chapter("", "get(key)")]);
        assert!(all.starts_with("# What scripts can call\n\n"), "{all}");
        assert!(
            all.contains(
                "* [kv](#kv): `kv::get`\n* [Without a namespace](#without-a-namespace): `get`\n\n## kv\n\n"
            ),
            "{all}"
        );
        assert!(all.contains("```\n\n## Without a namespace\n"), "{all}");
    }

    #[test]
    fn the_page_of_everything_has_everything() {
        let chapters = super::super::reference();
        let all = markdown(&chapters);
        for page in chapters.iter().flat_map(|chapter| &chapter.pages) {
            assert!(all.contains(&format!("### `{}`\n", page.signature)), "{}", page.signature);
        }
        // Each fence that opens is closed, and no example ends one early.
        let fences: Vec<&str> = all.lines().filter(|line| line.trim_start().starts_with("```")).collect();
        assert!(fences.chunks(2).all(|two| two == ["```rhai", "```"]), "{fences:?}");
    }
}
