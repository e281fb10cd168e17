//! A guest from the door to the last answer: who it is, which protocol it speaks, and when it has to go.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{COOKIE, HOST, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::Acceptor;
use rustls::{HandshakeKind, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_io_timeout::TimeoutWriter;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::{Brought, Leftover};
use super::clients::{self, Visitor};
use super::listener::{Closing, Guests, Limits};
use super::pulse::Pulse;
use super::server::Server;
use super::tls::{ALPN_H2, Hello, Seat, Tls};

/// Who was let in just before the house closes may still send the request that it came with.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// Requests of one HTTP/2 connection at once (RFC 9113 6.5.2 recommends no fewer).
const STREAMS_MAX: u32 = 100;
/// Requests that a client took back before they were looked at; one more ends its connection (CVE-2023-44487).
const RESETS_MAX: usize = 20;
/// Requests that we had to reset because they were wrong; one more ends the connection.
const ERRORS_MAX: usize = 100;
/// Bytes of bodies that a client may send before they are read: of one request, and of all of a connection.
const WINDOW: (u32, u32) = (64 * 1024, 256 * 1024);
/// Bytes of an answer that wait to be sent.
const SEND_BUFFER: usize = 64 * 1024;

/// What is answered to a clear request at the door for TLS.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 58\r\nconnection: close\r\n\r\n{\"error\":\"this port speaks HTTPS: ask with https:// here\"}";

/// How connections are served.
#[derive(Clone)]
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// For a request's head, and between two requests.
    head_time_max: Duration,
    write_time_max: Duration,
}

impl Protocols {
    pub(super) fn new(limits: &Limits) -> Protocols {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time_max)
            .max_headers(limits.headers_max)
            .max_buf_size(limits.header_bytes_max.max(8192));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(ERRORS_MAX)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW.0)
            .initial_connection_window_size(WINDOW.1)
            .max_send_buf_size(SEND_BUFFER);
        let (head_time_max, write_time_max) = (limits.header_time_max, limits.write_time_max);
        Protocols { http1, http2, head_time_max, write_time_max }
    }
}

/// A connection that was accepted.
pub(super) struct Guest {
    pub(super) server: Server,
    pub(super) guests: Guests,
    pub(super) peer: SocketAddr,
    pub(super) protocols: Protocols,
    pub(super) leaving: Closing,
}

/// A socket whose other end must take what it is sent.
type Wire = Pin<Box<TimeoutWriter<TcpStream>>>;

impl Guest {
    /// Serves a connection in the clear.
    pub(super) async fn come(self, mut stream: TcpStream, place: OwnedSemaphorePermit) {
        // Answers are small and written whole; waiting to merge them only delays them.
        let _ = stream.set_nodelay(true);
        let introduced = timeout(self.protocols.head_time_max, self.introduce(&mut stream)).await;
        match introduced.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
            Ok(source) => {
                let visitor = self.visitor(source);
                let wire = self.wire(stream);
                self.stay(wire, visitor, false).await;
            }
            Err(error) => tracing::debug!(peer = %self.peer, %error, "a connection was not let in"),
        }
        drop(place);
    }

    /// Serves a connection by TLS, once its handshake is over.
    pub(super) async fn come_by_tls(self, mut stream: TcpStream, tls: Tls, seat: Seat) {
        let _ = stream.set_nodelay(true);
        let deadline = Instant::now() + tls.handshake_time_max();
        let met = async {
            let source = self.introduce(&mut stream).await?;
            if speaks_clear(&mut stream).await? {
                return Err(io::Error::other("it speaks in the clear"));
            }
            let at = stream.local_addr()?.ip();
            let stream = shake(self.wire(stream), at, &tls).await?;
            Ok::<_, io::Error>((source, stream))
        };
        // Whoever shakes hands while the house closes has a moment to be done.
        let mut leaving = self.guests.closing();
        let closed = async {
            leaving.wait().await;
            tokio::time::sleep(FIRST_REQUEST).await;
        };
        let met = tokio::select! {
            met = timeout_at(deadline, met) => met,
            () = closed => return,
        };
        drop(seat);
        let tally = tls.tally();
        let (source, stream) = match met {
            Ok(Ok(met)) => met,
            Ok(Err(error)) => {
                tally.failed.fetch_add(1, Relaxed);
                return tracing::debug!(peer = %self.peer, %error, "a handshake failed");
            }
            Err(_) => {
                tally.timed_out.fetch_add(1, Relaxed);
                return tracing::debug!(peer = %self.peer, "a handshake took too long");
            }
        };
        let connection: &ServerConnection = stream.get_ref().1;
        tally.done.fetch_add(1, Relaxed);
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            tally.resumed.fetch_add(1, Relaxed);
        }
        let is_h2 = connection.alpn_protocol() == Some(ALPN_H2);
        let has_certificate = connection.peer_certificates().is_some();
        let visitor = Visitor { is_secure: true, has_certificate, ..self.visitor(source) };
        // The house may be full; who waits for a place does so in its handshake's time.
        let Ok(Ok(place)) = timeout_at(deadline, self.guests.place()).await else { return };
        self.stay(stream, visitor, is_h2).await;
        drop(place);
    }

    /// Whom a trusted proxy announces, if it does.
    async fn introduce(&self, stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
        if !self.server.announces(self.peer.ip().to_canonical()) {
            return Ok(None);
        }
        clients::read_announcement(stream).await
    }

    fn visitor(&self, source: Option<IpAddr>) -> Visitor {
        let peer = self.peer.ip().to_canonical();
        Visitor { peer, source: source.unwrap_or(peer), is_secure: false, has_certificate: false }
    }

    fn wire(&self, stream: TcpStream) -> Wire {
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.protocols.write_time_max));
        Box::pin(stream)
    }

    /// Serves requests until the guest goes, or has to.
    async fn stay<S>(self, stream: S, visitor: Visitor, is_h2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tally = self.guests.enter();
        let peer = self.peer;
        let ended =
            if is_h2 { self.speak_h2(stream, visitor).await } else { self.speak_h1(stream, visitor).await };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke off");
        }
        drop(tally);
    }

    async fn speak_h1<S>(self, stream: S, visitor: Visitor) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = Arc::new(Notify::new());
        let (asks, server) = (asked.clone(), self.server);
        let service = service_fn(move |request| {
            asks.notify_one();
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.serve(request.map(Brought::given), visitor).await) }
        });
        let connection = pin!(self.protocols.http1.serve_connection(TokioIo::new(stream), service));
        see_off(connection, self.leaving, &asked, http1::Connection::graceful_shutdown).await
    }

    async fn speak_h2<S>(self, stream: S, visitor: Visitor) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (pulse, asked) = (Pulse::new(), Arc::new(Notify::new()));
        let (beats, asks, server) = (pulse.clone(), asked.clone(), self.server);
        let service = service_fn(move |mut request: Request<Incoming>| {
            asks.notify_one();
            let turn = beats.turn();
            let server = server.clone();
            async move {
                as_over_http1(&mut request);
                let (head, body) = request.into_parts();
                let (body, returned) = Brought::lent(body);
                let reply = server.serve(Request::from_parts(head, body), visitor).await;
                let (head, body) = reply.into_parts();
                let answer = turn.answer(body, Leftover::of(returned));
                Ok::<_, Infallible>(Response::from_parts(head, answer))
            }
        });
        let Protocols { http2, head_time_max, write_time_max, .. } = self.protocols;
        let mut connection = pin!(http2.serve_connection(TokioIo::new(stream), service));
        let quiet = pulse.quiet(head_time_max, write_time_max);
        tokio::select! {
            ended = see_off(connection.as_mut(), self.leaving, &asked, http2::Connection::graceful_shutdown) => ended,
            () = quiet => {
                connection.as_mut().graceful_shutdown();
                // Who does not even say goodbye is left standing.
                timeout(write_time_max, connection).await.unwrap_or(Ok(()))
            }
        }
    }
}

/// Serves a connection to its end; when the house closes, to the end of the request that it is in.
async fn see_off<C>(
    mut connection: Pin<&mut C>,
    mut leaving: Closing,
    asked: &Notify,
    shut: impl Fn(Pin<&mut C>),
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = leaving.wait() => {
            let first = timeout(FIRST_REQUEST, asked.notified());
            tokio::select! {
                ended = connection.as_mut() => ended,
                _ = first => {
                    shut(connection.as_mut());
                    connection.await
                }
            }
        }
    }
}

/// Whether an HTTP request comes in the clear, which then has its answer: whoever typed the wrong scheme sees what to do.
async fn speaks_clear(stream: &mut TcpStream) -> io::Result<bool> {
    let mut first = [0];
    // A method begins with a letter, a handshake does not (RFC 8446 5.1).
    if stream.peek(&mut first).await? == 0 || !first[0].is_ascii_uppercase() {
        return Ok(false);
    }
    stream.write_all(SPEAK_TLS).await?;
    Ok(true)
}

/// The handshake: the certificate is chosen by what the client asks for.
async fn shake(wire: Wire, at: IpAddr, tls: &Tls) -> io::Result<TlsStream<Wire>> {
    let started = LazyConfigAcceptor::new(Acceptor::default(), wire).await?;
    let config = {
        let hello = started.client_hello();
        let is_challenge = hello.alpn().is_some_and(Hello::is_challenge);
        let name = hello.server_name().map(str::to_owned);
        tls.choose(Hello { name: name.as_deref(), is_challenge, at }).await
    };
    started.into_stream(config).await
}

/// HTTP/2 sends a request's host apart (RFC 9113 8.3.1) and its cookies in crumbs (8.2.3). Whoever reads the request sees
/// what it would be over HTTP/1.
fn as_over_http1(request: &mut Request<Incoming>) {
    let authority = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let headers = request.headers_mut();
    if let Some(Ok(host)) = authority {
        headers.insert(HOST, host);
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}
