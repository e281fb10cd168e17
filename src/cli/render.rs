//! Answers in words: aligned columns, absolute times, and nothing that could steer a terminal.

use serde_json::Value;

use crate::model::UnixMs;

/// A column of a table: its heading and how an item fills it.
pub(super) struct Column(pub(super) &'static str, pub(super) fn(&Value) -> String);

/// Wider cells are cut; an id has 36 characters.
const CELL_CHARS_MAX: usize = 60;

/// A table with a heading; columns are two blanks apart and no line ends in blanks.
pub(super) fn table(items: &[Value], columns: &[Column]) -> String {
    let mut rows = vec![columns.iter().map(|column| column.0.to_owned()).collect::<Vec<_>>()];
    rows.extend(items.iter().map(|item| columns.iter().map(|column| cut(&(column.1)(item))).collect()));
    aligned(&rows)
}

/// One object, a field a line: those of `first` in their order, then the others by name.
pub(super) fn object(value: &Value, first: &[&str]) -> String {
    let Some(fields) = value.as_object() else { return text(value) };
    let others = fields.keys().map(String::as_str).filter(|name| !first.contains(name));
    let names = first.iter().copied().filter(|name| fields.contains_key(*name)).chain(others);
    aligned(&names.map(|name| vec![name.to_owned(), field(value, name)]).collect::<Vec<_>>())
}

/// Rows of cells, each column as wide as its widest cell.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A field of an item in words; instants and durations by the ends of their names.
pub(super) fn field(item: &Value, name: &str) -> String {
    let value = &item[name];
    if name.ends_with("_at") || name == "at" {
        time(value)
    } else if name.ends_with("_ms") {
        value.as_f64().map_or_else(|| text(value), milliseconds)
    } else {
        text(value)
    }
}

/// A value in words: nothing is `-`, a text is itself, a structure is JSON on one line.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// An RFC 3339 instant in UTC to the second.
pub(super) fn time(value: &Value) -> String {
    instant(value, 19)
}

/// An RFC 3339 instant in UTC to the millisecond.
pub(super) fn time_ms(value: &Value) -> String {
    instant(value, 23)
}

fn instant(value: &Value, length: usize) -> String {
    let Some(at) = value.as_str().and_then(UnixMs::parse) else { return text(value) };
    let full = at.to_string();
    full.get(..length).map_or_else(|| full.clone(), |head| format!("{}Z", head.replace('T', " ")))
}

/// A duration: `0.3 ms`, `12 ms`, `1.5 s`.
fn milliseconds(ms: f64) -> String {
    if ms >= 1000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if ms >= 10.0 || ms == 0.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{ms:.1} ms")
    }
}

/// A text without control characters: what scripts write could otherwise move the cursor or retitle the window.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// [`clean`], but lines and tabs stay, for texts that are shown on lines of their own.
pub(super) fn clean_lines(text: &str) -> String {
    text.lines()
        .map(|line| line.split('\t').map(clean).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Headers under a title; they come as a map, or as pairs.
pub(super) fn pairs(title: &str, value: &Value) -> String {
    let of_pair = |pair: &Value| vec![text(&pair[0]) + ":", text(&pair[1])];
    let rows: Vec<Vec<String>> = match value {
        Value::Object(map) => map.iter().map(|(name, value)| vec![clean(name) + ":", text(value)]).collect(),
        other => other.as_array().into_iter().flatten().map(of_pair).collect(),
    };
    let rows = if rows.is_empty() { "none".to_owned() } else { aligned(&rows) };
    format!("\n{title}:\n{}", indented(&rows))
}

/// A body under a title.
pub(super) fn block(title: &str, value: &Value) -> String {
    let shown = match value {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => clean_lines(text),
        Value::Null => "none".to_owned(),
        value => text(value),
    };
    format!("\n{title}:\n{}", indented(&shown))
}

/// Each line two blanks to the right.
pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn cut(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_align_and_cut() {
        let items = [
            json!({"a": "x", "b": 1}),
            json!({"a": "länger", "b": null}),
            json!({"a": "y".repeat(70), "b": 2}),
        ];
        let table =
            table(&items[..2], &[Column("A", |item| field(item, "a")), Column("B", |item| field(item, "b"))]);
        assert_eq!(table, "A       B\nx       1\nlänger  -");
        assert_eq!(cut(&"y".repeat(70)).chars().count(), CELL_CHARS_MAX);
    }

    #[test]
    fn objects_put_named_fields_first() {
        let value = json!({"z": true, "id": "1", "created_at": "2026-01-31T08:00:00.5+01:00"});
        assert_eq!(
            object(&value, &["id", "gone"]),
            "id          1\ncreated_at  2026-01-31 07:00:00Z\nz           true"
        );
    }

    #[test]
    fn values_in_words() {
        for (name, value, words) in [
            ("created_at", json!("2026-01-31T07:00:00.123Z"), "2026-01-31 07:00:00Z"),
            ("created_at", json!(null), "-"),
            ("created_at", json!("soon"), "soon"),
            ("duration_ms", json!(0.25), "0.2 ms"),
            ("duration_ms", json!(0), "0 ms"),
            ("duration_ms", json!(12.3), "12 ms"),
            ("duration_ms", json!(1500), "1.5 s"),
            ("sandbox", json!({"a": 1}), "{\"a\":1}"),
            ("name", json!("\u{1b}[2Jx\n"), "\\u{1b}[2Jx\\n"),
        ] {
            assert_eq!(field(&json!({ name: value }), name), words);
        }
        assert_eq!(time_ms(&json!("2026-01-31T07:00:00.123Z")), "2026-01-31 07:00:00.123Z");
        assert_eq!(clean_lines("a\tb\n\u{7}c"), "a\tb\n\\u{7}c");
    }
}
