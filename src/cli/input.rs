//! What verbs read: files, standard input, spans of time, and the place in a source that does not compile.

use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::error::Error;
use super::render::clean;
use crate::model::UnixMs;

/// Most bytes of a file or a line with a key, a password, a code or another secret.
pub(super) const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A script's source and what to call it in messages.
pub(super) struct Source {
    /// The file's name, or `-`.
    pub(super) file: String,
    /// The program.
    pub(super) text: String,
}

/// Reads a script's file, or standard input for `-`.
pub(super) fn source(path: &Path) -> Result<Source, Error> {
    let text = String::from_utf8(bytes(path)?)
        .map_err(|_| Error::File { path: path.to_owned(), why: "a script must be UTF-8".into() })?;
    Ok(Source { file: path.display().to_string(), text })
}

/// Reads a file, or standard input for `-`.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map(|_| ())
    } else {
        fs::read(path).map(|read| bytes = read)
    };
    read.map(|()| bytes).map_err(|why| Error::File { path: path.to_owned(), why: why.to_string() })
}

/// Reads to the end of what must not be longer than `bytes_max`.
pub(super) fn within(bytes_max: u64, from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|count| count <= bytes_max);
    if fits { Ok(bytes) } else { Err(io::Error::other(format!("it has more than {bytes_max} bytes"))) }
}

/// Opens a file that is sent as it is, and tells how long it is.
pub(super) fn file(path: &Path) -> Result<(File, u64), Error> {
    let unreadable = |why: String| Error::File { path: path.to_owned(), why };
    // Opening a pipe would wait for somebody to write.
    let found = fs::metadata(path).map_err(|why| unreadable(why.to_string()))?;
    if !found.is_file() {
        return Err(unreadable("it is no regular file".to_owned()));
    }
    File::open(path).map(|file| (file, found.len())).map_err(|why| unreadable(why.to_string()))
}

/// Asks at the terminal; `None` if there is none.
pub(super) fn confirm(question: &str) -> Result<Option<bool>, Error> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let mut err = io::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
}

/// Whether somebody at a terminal is asked.
pub(super) fn is_asked() -> bool {
    io::stdin().is_terminal()
}

/// A secret: the answer to `question` at the terminal, which does not show it, or the next line of standard input.
pub(super) fn secret_line(question: &str) -> Result<Zeroizing<String>, Error> {
    let mut line = Zeroizing::new(String::new());
    if is_asked() {
        let mut err = io::stderr();
        write!(err, "{question}")?;
        err.flush()?;
        let silence = Silence::begin();
        let read = read_line(&mut line);
        drop(silence);
        read?;
    } else {
        read_line(&mut line)?;
    }
    if line.is_empty() {
        let question = question.trim_end_matches([' ', ':']);
        return Err(Error::Usage(format!("standard input ends where a line was expected: {question}")));
    }
    let length = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(length);
    Ok(line)
}

fn read_line(line: &mut String) -> Result<(), Error> {
    let mut stdin = io::stdin().lock().take(SECRET_BYTES_MAX);
    stdin.read_line(line)?;
    let is_cut = stdin.limit() == 0 && !line.ends_with('\n');
    if is_cut { Err(Error::Usage(format!("a line has more than {SECRET_BYTES_MAX} bytes"))) } else { Ok(()) }
}

/// A terminal that does not show what is typed, until this goes (termios(3)).
struct Silence(Termios);

impl Silence {
    /// `None` if the terminal cannot be told: what is typed shows then.
    fn begin() -> Option<Silence> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).ok()?;
        Some(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// A span like `90s`, `15m`, `2h` or `7d`.
pub(super) fn span(text: &str) -> Option<Duration> {
    let unit_at = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at))?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// An instant: RFC 3339, or a span before `now`.
pub(super) fn since(text: &str, now: UnixMs) -> Result<UnixMs, Error> {
    let before = |span: Duration| now.0.checked_sub(i64::try_from(span.as_millis()).ok()?).map(UnixMs);
    UnixMs::parse(text).or_else(|| span(text).and_then(before)).ok_or_else(|| bad_time("--since", text))
}

/// An instant: RFC 3339, or a span after `now`.
pub(super) fn until(text: &str, now: UnixMs) -> Result<UnixMs, Error> {
    UnixMs::parse(text)
        .or_else(|| span(text).map(|span| now.plus(span)))
        .ok_or_else(|| bad_time("--expires", text))
}

fn bad_time(option: &str, text: &str) -> Error {
    Error::Usage(format!(
        "{option} {text}: must be a span like 90s, 15m, 2h or 7d, or an instant like 2026-01-31T07:00:00Z"
    ))
}

impl Source {
    /// Turns the API's complaint about this source into one that shows the place; other errors pass.
    pub(super) fn explain(&self, why: Error) -> Error {
        let Error::Api { status: 422, message, body } = &why else { return why };
        let number = |name: &str| body[name].as_u64().and_then(|number| usize::try_from(number).ok());
        match number("line") {
            Some(line) => Error::Failed(self.point(line, number("column").unwrap_or_default(), message)),
            None => Error::Failed(format!("{}: {}", self.file, clean(message))),
        }
    }

    /// `file:line:column: message`, the line, and a caret under the column. Lines and columns count from 1, columns
    /// in characters; column 0 is the line as a whole.
    fn point(&self, line: usize, column: usize, message: &str) -> String {
        let at = if column == 0 { format!("{line}") } else { format!("{line}:{column}") };
        let mut said = format!("{}:{at}: {}", self.file, clean(message));
        // What a parser misses at the end of the source may be on a line that is not there.
        let Some(text) = line.checked_sub(1).and_then(|index| self.text.lines().nth(index)) else {
            return said;
        };
        let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        said += &format!("\n{line:>4} | {}", shown.trim_end());
        if let Some(before) = column.checked_sub(1) {
            said += &format!("\n{:>4} | {:before$}^", "", "");
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(text: &str, body: Value, said: &str) {
        let source = Source { file: "a.rhai".into(), text: text.into() };
        let message = body["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(source.explain(Error::Api { status: 422, message, body }).to_string(), said);
    }

    #[test]
    fn a_compile_error_points_at_its_place() {
        check(
            "let x = 1;\n\tlet ü = );\n",
            json!({"error": "unexpected )", "line": 2, "column": 10}),
            "a.rhai:2:10: unexpected )\n   2 |  let ü = );\n     |          ^",
        );
        check("x", json!({"error": "open", "line": 7, "column": 1}), "a.rhai:7:1: open");
        check("x", json!({"error": "odd", "line": 1, "column": null}), "a.rhai:1: odd\n   1 | x");
        check("x", json!({"error": "name is empty"}), "a.rhai: name is empty");
    }

    #[test]
    fn what_is_read_is_bounded() {
        assert_eq!(*within(3, &b"abc"[..]).unwrap(), b"abc");
        let why = within(3, io::repeat(b'a')).unwrap_err().to_string();
        assert_eq!(why, "it has more than 3 bytes");
    }

    #[test]
    fn only_files_are_sent() {
        let why = file(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(why, "cannot read /dev/zero: it is no regular file");
        assert!(file(Path::new("/proc/self/exe")).unwrap().1 > 0);
    }

    #[test]
    fn spans_and_instants() {
        assert_eq!(span("2h"), Some(Duration::from_secs(7200)));
        for bad in ["", "h", "2", "2w", "-1h", "1.5h", "ü", "2 h", "99999999999999999999d"] {
            assert_eq!(span(bad), None, "{bad:?}");
        }
        let now = UnixMs(1_767_225_600_000);
        assert_eq!(since("1d", now).unwrap(), UnixMs(1_767_139_200_000));
        assert_eq!(until("1s", now).unwrap(), UnixMs(1_767_225_601_000));
        assert_eq!(since("2026-01-01T00:00:00Z", UnixMs(0)).unwrap(), now);
        assert!(since("yesterday", now).unwrap_err().to_string().starts_with("--since yesterday: must be"));
    }
}
