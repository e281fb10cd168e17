//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), as far as a log needs them:
//! the data of each event; comments, names and ids are passed over.

use std::io::{self, BufRead, Read};

/// Longer lines are an error: whoever sends them is no PiCloud.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The data of the events of a stream.
pub(super) struct Events<R>(R);

impl<R: BufRead> Events<R> {
    /// Reads events from `stream`.
    pub(super) fn new(stream: R) -> Events<R> {
        Events(stream)
    }

    /// The next event's data, its lines joined; `None` when the stream ends. An event that the end cuts off is lost.
    fn event(&mut self) -> io::Result<Option<String>> {
        let mut data: Option<String> = None;
        while let Some(line) = self.line()? {
            if line.is_empty() {
                if data.is_some() {
                    return Ok(data);
                }
            } else if let Some(value) = data_of(&line) {
                data = Some(data.map_or_else(|| value.to_owned(), |data| format!("{data}\n{value}")));
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        if (&mut self.0).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        if bytes.pop_if(|byte| *byte == b'\n').is_none()
            && u64::try_from(bytes.len()).is_ok_and(|n| n >= LINE_BYTES_MAX)
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an event's line is too long"));
        }
        bytes.pop_if(|byte| *byte == b'\r');
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// The value of a `data` line; one blank after the colon belongs to the format.
fn data_of(line: &str) -> Option<&str> {
    let value = line.strip_prefix("data")?;
    if value.is_empty() {
        return Some(value);
    }
    let value = value.strip_prefix(':')?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

impl<R: BufRead> Iterator for Events<R> {
    type Item = io::Result<String>;
    fn next(&mut self) -> Option<io::Result<String>> {
        self.event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stream: &[u8], data: &[&str]) {
        assert_eq!(Events::new(stream).map(Result::unwrap).collect::<Vec<_>>(), data);
    }

    #[test]
    fn events_are_their_data() {
        check(b"data: {\"a\":1}\n\ndata:x\r\n\r\n", &["{\"a\":1}", "x"]);
        check(b": keep-alive\n\nid: 7\nevent: log\ndata: a\ndata:  b\nretry: 5\n\n", &["a\n b"]);
        check(b"data\n\ndatabase: no\n\n", &[""]);
        check(b"data: cut off", &[]);
        check(b"", &[]);
    }

    #[test]
    fn endless_lines_are_refused() {
        let stream = io::BufReader::new(io::repeat(b'x'));
        assert!(Events::new(stream).next().unwrap().is_err());
    }
}
