//! The porch: accepts connections, counts them, and lets go of those that only hold on.
//!
//! A guest gets so long for its headers (RFC 9112 has no bound; a slow one would hold a place for ever), so long
//! to take its answer, and waits outside when the house is full.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_io_timeout::TimeoutWriter;

use super::server::Server;

/// Who was let in just before the house closes may still send the request that it came with.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Bounds of connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the kernel.
    pub connections_max: usize,
    /// Bytes of a request's line and headers.
    pub header_bytes_max: usize,
    /// Headers of a request.
    pub headers_max: usize,
    /// Time for a request's headers, and for idling between requests.
    pub header_time_max: Duration,
    /// Time in which a client must take some of its answer.
    pub write_time_max: Duration,
}

/// Who is in the house.
#[derive(Clone)]
pub struct Guests {
    places: Arc<Semaphore>,
    tally: Arc<Tally>,
    leave: watch::Sender<bool>,
}

#[derive(Default)]
struct Tally {
    open: AtomicUsize,
    accepted: AtomicU64,
}

/// Waits for the end of the day.
pub(super) struct Closing(watch::Receiver<bool>);

impl Closing {
    pub(super) async fn wait(&mut self) {
        // The sender lives as long as any guest; without it the day is over too.
        let _ = self.0.wait_for(|leaving| *leaving).await;
    }
}

/// A bound socket. While nobody runs it, those who come wait in the kernel.
pub struct Listener {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl Guests {
    /// An empty house with this many places.
    pub fn new(limits: &Limits) -> Guests {
        let places = Arc::new(Semaphore::new(limits.connections_max));
        Guests { places, tally: Arc::default(), leave: watch::Sender::new(false) }
    }

    /// Connections open now, and accepted since the start.
    pub fn count(&self) -> (usize, u64) {
        (self.tally.open.load(Relaxed), self.tally.accepted.load(Relaxed))
    }

    /// Something that ends when the guests are asked to leave, for answers that never end by themselves.
    pub(super) fn closing(&self) -> Closing {
        Closing(self.leave.subscribe())
    }

    /// Asks everyone to leave after the request they are in, and lets nobody in.
    pub fn ask_to_leave(&self) {
        self.leave.send_replace(true);
    }

    /// Resolves once everybody left.
    pub async fn gone(&self) {
        // Each open connection holds a receiver.
        self.leave.closed().await;
    }
}

impl Listener {
    /// Binds `address`.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Listener { socket: socket.into_std()?, address })
    }

    /// Another handle on the same socket: it stays bound when one of them is gone.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener { socket: self.socket.try_clone()?, address: self.address })
    }

    /// What it is bound to; the port is known now.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the guests are asked to leave. Never fails: what cannot be accepted now is tried again.
    pub async fn run(self, server: Server, guests: Guests, limits: Limits) {
        let mut leaving = guests.closing();
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            // Only an event loop without room for one more descriptor refuses it.
            Err(error) => return tracing::error!(%error, address = %self.address, "nobody listens"),
        };
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time_max)
            .max_headers(limits.headers_max)
            .max_buf_size(limits.header_bytes_max.max(8192));
        loop {
            let accepted = tokio::select! {
                accepted = accept(&socket, &guests) => accepted,
                () = leaving.wait() => return,
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    let guest = Guest { server: server.clone(), guests: guests.clone(), peer };
                    let (protocol, write_time_max) = (protocol.clone(), limits.write_time_max);
                    tokio::spawn(async move {
                        guest.stay(stream, protocol, write_time_max).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors or memory: those who are here go first, then there is room again.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn accept(
    socket: &TcpListener,
    guests: &Guests,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = guests.places.clone().acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => return Ok((stream, peer, place)),
            // The client was gone before we looked (accept(2)).
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

struct Guest {
    server: Server,
    guests: Guests,
    peer: SocketAddr,
}

impl Guest {
    async fn stay(self, stream: TcpStream, protocol: http1::Builder, write_time_max: Duration) {
        self.guests.tally.open.fetch_add(1, Relaxed);
        self.guests.tally.accepted.fetch_add(1, Relaxed);
        // Answers are small and written whole; waiting to merge them only delays them.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(write_time_max));
        let (server, peer) = (self.server, self.peer);
        let asked = Arc::new(Notify::new());
        let asks = asked.clone();
        let service = service_fn(move |request| {
            asks.notify_one();
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.serve(request, peer).await) }
        });
        let mut connection = pin!(protocol.serve_connection(TokioIo::new(Box::pin(stream)), service));
        let mut leaving = Closing(self.guests.leave.subscribe());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = leaving.wait() => {
                let first = tokio::time::timeout(FIRST_REQUEST, asked.notified());
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    _ = first => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke off");
        }
        self.guests.tally.open.fetch_sub(1, Relaxed);
    }
}
