//! The porch: accepts connections, counts them, and lets go of those that only hold on.
//!
//! A guest gets so long for its headers (RFC 9112 has no bound; a slow one would hold a place for ever), so long
//! to take its answer, and waits outside when the house is full. A handshake takes no place: a bad one stays outside.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};

use super::guest::{Guest, Protocols};
use super::server::Server;
use super::tls::Tls;

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
    /// Places that there are, or will be once some who leave have left.
    places: AtomicUsize,
}

/// Waits for the end of the day.
pub(super) struct Closing(watch::Receiver<bool>);

impl Closing {
    pub(super) async fn wait(&mut self) {
        // The sender lives as long as any guest; without it the day is over too.
        let _ = self.0.wait_for(|leaving| *leaving).await;
    }
}

/// How those who come to a socket speak.
#[derive(Clone)]
pub enum Door {
    /// In the clear.
    Clear,
    /// By TLS.
    Tls(Tls),
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
        let tally = Tally { places: AtomicUsize::new(limits.connections_max), ..Tally::default() };
        Guests { places, tally: Arc::new(tally), leave: watch::Sender::new(false) }
    }

    /// There are so many places from now on; if more are taken, those who leave give theirs up. Needs the event loop.
    pub fn resize(&self, places: usize) {
        let before = self.tally.places.swap(places, Relaxed);
        self.places.add_permits(places.saturating_sub(before));
        let surplus = before.saturating_sub(places);
        let taken = surplus - self.places.forget_permits(surplus);
        let (all, taken) = (self.places.clone(), u32::try_from(taken).unwrap_or(u32::MAX));
        tokio::spawn(async move {
            // Fails only if nobody is let in any more.
            if let Ok(given_up) = all.acquire_many_owned(taken).await {
                given_up.forget();
            }
        });
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

    /// A place in the house, once there is one.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.places.clone().acquire_owned().await
    }

    /// Counts a guest until this goes.
    pub(super) fn enter(&self) -> Counted {
        self.tally.open.fetch_add(1, Relaxed);
        self.tally.accepted.fetch_add(1, Relaxed);
        Counted(self.tally.clone())
    }
}

/// A guest who is counted.
pub(super) struct Counted(Arc<Tally>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Listener {
    /// Takes a socket that is bound already.
    pub fn adopt(socket: std::net::TcpListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Listener { socket, address })
    }

    /// Binds `address`. Needs the event loop.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Listener { socket: socket.into_std()?, address })
    }

    /// Another handle on the same socket: it stays bound when one of them is gone.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener { socket: self.socket.try_clone()?, address: self.address })
    }

    /// The socket, to be kept by others.
    pub fn socket(&self) -> &std::net::TcpListener {
        &self.socket
    }

    /// The socket, for others.
    pub fn into_socket(self) -> std::net::TcpListener {
        self.socket
    }

    /// What it is bound to; the port is known now.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the guests are asked to leave; may be dropped at any time. Never fails: what cannot be accepted now is tried again.
    pub async fn run(self, door: Door, server: Server, guests: Guests, limits: Limits) {
        let mut leaving = guests.closing();
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            // Only an event loop without room for one more descriptor refuses it.
            Err(error) => return tracing::error!(%error, address = %self.address, "nobody listens"),
        };
        let protocols = Protocols::new(&limits);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&socket, &guests) => accepted,
                () = leaving.wait() => return,
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    let (server, protocols, leaving) = (server.clone(), protocols.clone(), guests.closing());
                    let guest = Guest { server, guests: guests.clone(), peer, protocols, leaving };
                    let_in(&door, guest, stream, place);
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

fn let_in(door: &Door, guest: Guest, stream: TcpStream, place: OwnedSemaphorePermit) {
    match door {
        Door::Clear => drop(tokio::spawn(guest.come(stream, place))),
        Door::Tls(tls) => {
            // Whoever passes the anteroom asks for a place of its own.
            drop(place);
            let guest_tls = tls.clone();
            tls.anteroom()
                .enter(|seat| tokio::spawn(guest.come_by_tls(stream, guest_tls, seat)).abort_handle());
        }
    }
}

async fn accept(
    socket: &TcpListener,
    guests: &Guests,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = guests.place().await.map_err(io::Error::other)?;
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
