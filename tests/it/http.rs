//! A small HTTP/1.1 client on a bare socket, so that a test can also say what no decent client would.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::harness::PATIENCE;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first value of a header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {self}"))
    }

    /// The message of a refusal.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error in {self}")).to_owned()
    }

    #[track_caller]
    pub(crate) fn execution_id(&self) -> String {
        self.header("x-execution-id").unwrap_or_else(|| panic!("no x-execution-id in {self}")).to_owned()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

/// A request to be sent on a connection of its own.
pub(crate) struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(address: SocketAddr, method: &str, target: &str) -> Request {
        let headers = vec![("host".to_owned(), address.to_string())];
        Request { address, method: method.into(), target: target.into(), headers, body: None }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Request {
        self.headers[0].1 = host.to_owned();
        self
    }

    pub(crate) fn key(self, secret: &str) -> Request {
        self.header("authorization", &format!("Bearer {secret}"))
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Request {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// The request as it goes over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it on a new connection, and does not wait for the answer.
    pub(crate) fn begin(&self) -> Connection {
        let mut connection = Connection::open(self.address);
        connection.send(self.bytes());
        connection
    }

    /// Sends it to a daemon that may be killed meanwhile: `None` unless a whole answer came.
    pub(crate) fn send_to_mortal(&self) -> Option<Answer> {
        let stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        (&stream).write_all(&self.bytes()).ok()?;
        (&stream).read_to_end(&mut bytes).ok()?;
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let body = bytes.split_off(head);
        let mut answer = Connection { stream, read: bytes }.head()?;
        let whole = answer.header("content-length").is_some_and(|length| length == body.len().to_string());
        answer.body = body;
        whole.then_some(answer)
    }

    #[track_caller]
    pub(crate) fn send(&self) -> Answer {
        let mut connection = self.begin();
        let answer = if self.method == "HEAD" { connection.head() } else { connection.answer() };
        answer.unwrap_or_else(|| panic!("no answer to {} {}", self.method, self.target))
    }
}

/// A connection, byte by byte.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, read: Vec::new() }
    }

    /// Sends bytes. That the other side does not want them any more shows in its answer.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.stream.write_all(bytes.as_ref()) {
            let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(gone.contains(&error.kind()), "{error}");
        }
    }

    /// The next answer; `None` if the connection ends before one.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        answer.body =
            match (answer.status, answer.header("content-length"), answer.header("transfer-encoding")) {
                (204 | 304, _, _) => Vec::new(),
                (_, Some(length), _) => self.take(length.parse().unwrap()),
                (_, None, Some("chunked")) => self.chunks(),
                (_, None, _) => {
                    while self.fill() {}
                    std::mem::take(&mut self.read)
                }
            };
        Some(answer)
    }

    /// The next answer's status and headers.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Option<Answer> {
        let mut lines = Vec::new();
        loop {
            match self.line()? {
                line if line.is_empty() => break,
                line => lines.push(line),
            }
        }
        let status = lines[0].split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {lines:?}"));
        let pair = |line: &String| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Some(Answer { status, headers: lines[1..].iter().map(pair).collect(), body: Vec::new() })
    }

    /// Whether the other side closes, with nothing more to say.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.fill()
    }

    /// The next line; `None` at the end of the connection.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.take(end + 1);
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    #[track_caller]
    fn take(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.fill(), "cut off after {} of {count} bytes", self.read.len());
        }
        self.read.drain(..count).collect()
    }

    #[track_caller]
    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line().unwrap(), 16).unwrap();
            body.extend(self.take(size));
            self.take(2);
            if size == 0 {
                return body;
            }
        }
    }

    /// Reads more; false at the end.
    #[track_caller]
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(count) => {
                    self.read.extend_from_slice(&buffer[..count]);
                    return count > 0;
                }
                // With a time limit set, a process that is stopped and goes on hears of it here, signal(7).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }
}
