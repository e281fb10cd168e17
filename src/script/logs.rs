//! What a script writes: `print`, `debug` and `log::…`, bounded in lines and bytes.

use crate::model::LogLine;

use super::Limits;

/// Longest line that is kept, in bytes.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// The log of one run.
#[derive(Debug, Default)]
pub(super) struct Logs {
    lines: Vec<LogLine>,
    bytes: usize,
    dropped: u64,
    lines_max: usize,
    bytes_max: usize,
}

impl Logs {
    /// An empty log with these bounds.
    pub(super) fn new(limits: &Limits) -> Logs {
        Logs { lines_max: limits.log_lines, bytes_max: limits.log_bytes, ..Logs::default() }
    }

    /// Adds a line, or counts it if the log is full. Once full it stays so: a gap in the middle would mislead.
    pub(super) fn push(&mut self, level: &str, text: &str, offset_ms: u32) {
        let kept = cut(text, LINE_BYTES_MAX);
        if self.dropped > 0 || self.lines.len() >= self.lines_max || self.bytes + kept.len() > self.bytes_max
        {
            self.dropped += 1;
            return;
        }
        self.bytes += kept.len();
        self.lines.push(LogLine { level: level.to_owned(), message: kept.to_owned(), offset_ms });
    }

    /// The lines; where some were dropped, a last one says how many.
    pub(super) fn finish(mut self, offset_ms: u32) -> Vec<LogLine> {
        if self.dropped > 0 {
            let message = format!("{} more lines were dropped: the log is full", self.dropped);
            self.lines.push(LogLine { level: "warn".to_owned(), message, offset_ms });
        }
        self.lines.shrink_to_fit();
        self.lines
    }
}

/// The longest prefix of at most `bytes_max` bytes that ends between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(log_lines: usize, log_bytes: usize, texts: &[&str], kept: &[&str]) {
        let mut logs = Logs::new(&Limits { log_lines, log_bytes, ..Limits::default() });
        texts.iter().for_each(|text| logs.push("info", text, 0));
        let lines: Vec<String> = logs.finish(0).into_iter().map(|line| line.message).collect();
        assert_eq!(lines, kept);
    }

    #[test]
    fn bounded_in_lines_and_bytes() {
        check(9, 99, &["a", "b"], &["a", "b"]);
        check(1, 99, &["a", "b", "c"], &["a", "2 more lines were dropped: the log is full"]);
        check(9, 3, &["ab", "cd", "e"], &["ab", "2 more lines were dropped: the log is full"]);
        check(0, 0, &[""], &["1 more lines were dropped: the log is full"]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let long = format!("{}ü", "x".repeat(LINE_BYTES_MAX - 1));
        check(9, 99_999, &[&long], &[&long[..LINE_BYTES_MAX - 1]]);
    }
}
