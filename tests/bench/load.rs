//! The load generator: one thread that keeps a fixed number of connections busy, one request at a time on each.
//!
//! It shares the cores with the server, so it must be cheap: requests are bytes made beforehand, an answer is
//! read with one call and only its head is looked at, and each request asks the clock once. That is about what
//! wrk does with one thread.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::Outcome;
use crate::histogram::Histogram;
use crate::numbers::float;

/// How long an answer may keep its connection waiting at the end.
const PATIENCE: Duration = Duration::from_secs(30);
/// More broken connections than this mean that the server is gone.
const BROKEN_MAX: u64 = 1_000;

/// What load to make.
pub(crate) struct Plan<'a> {
    /// The server.
    pub(crate) address: SocketAddr,
    /// One request, from its method to the end of its body.
    pub(crate) request: &'a [u8],
    /// The status of every good answer.
    pub(crate) status: u16,
    /// Connections kept busy.
    pub(crate) connections: usize,
    /// Time of load that is not measured.
    pub(crate) warm_up: Duration,
    /// Time that is.
    pub(crate) measured: Duration,
}

/// What came of it.
pub(crate) struct Load {
    /// Latencies of the good answers in the measured time.
    pub(crate) latencies: Histogram,
    /// Good answers each second of the measured time.
    pub(crate) rate: f64,
    /// Answers of the whole run, good and bad, warm-up included.
    pub(crate) answers: u64,
    /// Everything else than good answers in the whole run, by kind.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// What arrived is not one answer.
struct Nonsense;

struct Connection {
    stream: TcpStream,
    /// When the request was sent that has no answer yet.
    sent_at: Option<Instant>,
    /// What arrived of an answer that did not come whole.
    held: Vec<u8>,
}

struct Generator<'a> {
    plan: &'a Plan<'a>,
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    measure_from: Instant,
    measure_until: Instant,
    busy: usize,
    broken: u64,
    load: Load,
}

/// The bytes of a POST of JSON to this host.
pub(crate) fn post(host: impl Display, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Makes the load and waits for the last answer.
pub(crate) fn run(plan: &Plan<'_>) -> Outcome<Load> {
    let mut generator = Generator::connect(plan)?;
    generator.drive()?;
    Ok(generator.finish())
}

impl<'a> Generator<'a> {
    fn connect(plan: &'a Plan<'a>) -> Outcome<Generator<'a>> {
        let poll = Poll::new()?;
        let connections = (0..plan.connections)
            .map(|index| Connection::open(plan.address, poll.registry(), Token(index)))
            .collect::<io::Result<Vec<_>>>()?;
        let load = Load { latencies: Histogram::new(), rate: 0.0, answers: 0, errors: BTreeMap::new() };
        let measure_from = Instant::now() + plan.warm_up;
        let measure_until = measure_from + plan.measured;
        let buffer = vec![0; 16 * 1024];
        Ok(Generator {
            plan,
            poll,
            connections,
            buffer,
            measure_from,
            measure_until,
            busy: 0,
            broken: 0,
            load,
        })
    }

    fn drive(&mut self) -> Outcome<()> {
        let mut events = Events::with_capacity(1024);
        for index in 0..self.connections.len() {
            self.send(index, Instant::now())?;
        }
        let patience = self.measure_until + PATIENCE;
        while self.busy > 0 {
            let left = patience.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.count_errors("unanswered", u64::try_from(self.busy)?);
                break;
            }
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                self.receive(event.token().0)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Load {
        self.load.rate = float(self.load.latencies.count()) / self.plan.measured.as_secs_f64();
        self.load
    }

    fn send(&mut self, index: usize, now: Instant) -> Outcome<()> {
        let connection = &mut self.connections[index];
        connection.sent_at = Some(now);
        self.busy += 1;
        // An idle connection's buffer is empty: the kernel takes a small request whole.
        match connection.stream.write(self.plan.request) {
            Ok(written) if written == self.plan.request.len() => Ok(()),
            _ => self.reconnect(index),
        }
    }

    /// Reads what arrived; with an answer complete, sends the next request.
    fn receive(&mut self, index: usize) -> Outcome<()> {
        let connection = &mut self.connections[index];
        let read = match connection.stream.read(&mut self.buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => 0,
        };
        let Some(sent_at) = connection.sent_at.filter(|_| read > 0) else {
            return self.reconnect(index);
        };
        // Nearly every answer comes whole, and is looked at where it was read to.
        let whole = if connection.held.is_empty() && read < self.buffer.len() {
            &self.buffer[..read]
        } else {
            connection.hold(&self.buffer[..read])?;
            &connection.held
        };
        match status(whole) {
            Ok(Some(status)) => {
                connection.held.clear();
                self.answered(index, sent_at, status)
            }
            Ok(None) => {
                if connection.held.is_empty() {
                    connection.held.extend_from_slice(&self.buffer[..read]);
                }
                Ok(())
            }
            Err(Nonsense) => self.reconnect(index),
        }
    }

    fn answered(&mut self, index: usize, sent_at: Instant, status: u16) -> Outcome<()> {
        let now = Instant::now();
        self.busy -= 1;
        self.load.answers += 1;
        if status != self.plan.status {
            self.count_errors(&status.to_string(), 1);
        } else if (self.measure_from..self.measure_until).contains(&now) {
            self.load.latencies.record(now.duration_since(sent_at));
        }
        if now < self.measure_until {
            return self.send(index, now);
        }
        self.connections[index].sent_at = None;
        Ok(())
    }

    /// Replaces a connection that broke, and counts that.
    fn reconnect(&mut self, index: usize) -> Outcome<()> {
        let now = Instant::now();
        if self.connections[index].sent_at.take().is_some() {
            self.busy -= 1;
            self.broken += 1;
            self.count_errors("broken", 1);
        }
        if self.broken > BROKEN_MAX {
            return Err("the server breaks its connections".into());
        }
        if now >= self.measure_until {
            return Ok(());
        }
        self.connections[index] = Connection::open(self.plan.address, self.poll.registry(), Token(index))?;
        self.send(index, now)
    }

    fn count_errors(&mut self, kind: &str, count: u64) {
        *self.load.errors.entry(kind.to_owned()).or_default() += count;
    }
}

impl Connection {
    fn open(address: SocketAddr, registry: &Registry, token: Token) -> io::Result<Connection> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Connection { stream, sent_at: None, held: Vec::new() })
    }

    /// Keeps what arrived and all that is there still: readiness is told once, so a full buffer must be followed up.
    fn hold(&mut self, arrived: &[u8]) -> io::Result<()> {
        self.held.extend_from_slice(arrived);
        match self.stream.read_to_end(&mut self.held) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// The status of the answer that these bytes are; `None` if more is to come.
fn status(bytes: &[u8]) -> Result<Option<u16>, Nonsense> {
    let mut headers = [httparse::EMPTY_HEADER; 24];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes).map_err(|_| Nonsense)? else {
        return Ok(None);
    };
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    // Both servers know the length of every body; what does not is no answer of theirs.
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    match bytes.len().cmp(&(head + length.ok_or(Nonsense)?)) {
        Ordering::Less => Ok(None),
        Ordering::Equal => answer.code.map(Some).ok_or(Nonsense),
        Ordering::Greater => Err(Nonsense),
    }
}
