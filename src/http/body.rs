//! Reading bodies, within bounds of size and time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::model::{Body, BodyMode};
use crate::script;

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    /// It is larger than allowed.
    #[error("length limit exceeded: {0} bytes are allowed")]
    TooLarge(usize),
    /// It did not come in time.
    #[error("it took longer than {} seconds", .0.as_secs())]
    TooSlow(Duration),
    /// Other large bodies fill the memory that there is for them.
    #[error("too many large bodies are being read")]
    NoRoom,
    /// The connection or its framing broke off.
    #[error("{0}")]
    Broken(String),
}

/// Bodies up to this size are read without asking.
const SMALL: usize = 64 * 1024;

/// What is still read of a body that was refused, and for how long.
const LEFTOVER_BYTES_MAX: usize = 256 * 1024;
const LEFTOVER_TIME_MAX: Duration = Duration::from_secs(1);

/// The body of a request. One that was lent goes back unless it was read to its end.
pub(super) struct Brought {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl Brought {
    /// One whose rest nobody wants.
    pub(super) fn given(body: Incoming) -> Brought {
        Brought { body: Some(body), back: None }
    }

    /// One that goes back to whom this tells.
    pub(super) fn lent(body: Incoming) -> (Brought, oneshot::Receiver<Incoming>) {
        let (back, returned) = oneshot::channel();
        (Brought { body: Some(body), back: Some(back) }, returned)
    }
}

impl hyper::body::Body for Brought {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), hyper::body::Body::size_hint)
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Whoever lent it may have left.
            let _ = back.send(body);
        }
    }
}

/// What came back of a body. It is still read for a moment once it is let go, which is when the answer has gone out:
/// HTTP/2 resets a request that nobody reads (RFC 9113 8.1), and clients that still send take that for the answer.
pub(super) struct Leftover(Option<Incoming>);

impl Leftover {
    /// Of a body that was lent, after the answer was found.
    pub(super) fn of(mut returned: oneshot::Receiver<Incoming>) -> Leftover {
        Leftover(returned.try_recv().ok())
    }

    /// Of none.
    #[cfg(test)]
    pub(super) fn none() -> Leftover {
        Leftover(None)
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if let (Some(body), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(LEFTOVER_TIME_MAX, read_out(body)));
        }
    }
}

async fn read_out(mut body: Incoming) {
    let mut seen = 0;
    while seen < LEFTOVER_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        seen += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// What large bodies share, so that many at once do not fill the memory.
#[derive(Clone)]
pub(super) struct Larder {
    kib: Arc<Semaphore>,
    most: u32,
}

/// A place in the larder, held while the body is in memory.
pub(super) type Shelf = Option<OwnedSemaphorePermit>;

impl Larder {
    /// A larder for this many bytes of large bodies.
    pub(super) fn new(bytes: usize) -> Larder {
        let most = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        Larder { kib: Arc::new(Semaphore::new(bytes / 1024)), most }
    }

    /// A place for a body that turned out to be large. Who does not tell its size is taken to be as large as may be.
    async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Unread> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.most);
        // Waits for others to leave, as long as the body may take.
        self.kib.clone().acquire_many_owned(kib).await.map_err(|_| Unread::NoRoom)
    }
}

/// Reads a whole body of at most `bytes_max` within `time_max`, with a place in `larder` if it is large.
pub(super) async fn read(
    body: Brought,
    bytes_max: usize,
    time_max: Duration,
    larder: Option<&Larder>,
) -> Result<(Bytes, Shelf), Unread> {
    let hint = body.size_hint();
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    if hint.lower() > most {
        return Err(Unread::TooLarge(bytes_max));
    }
    if hint.exact() == Some(0) {
        return Ok((Bytes::new(), None));
    }
    let size = hint.upper().unwrap_or(most).min(most);
    let collected = collect(body, bytes_max, size, larder);
    tokio::time::timeout(time_max, collected).await.unwrap_or(Err(Unread::TooSlow(time_max)))
}

async fn collect(
    mut body: Brought,
    bytes_max: usize,
    size: u64,
    larder: Option<&Larder>,
) -> Result<(Bytes, Shelf), Unread> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut shelf = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unread::Broken(describe(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        let total = first.len() + more.len() + data.len();
        if total > bytes_max {
            return Err(Unread::TooLarge(bytes_max));
        }
        if total > SMALL
            && shelf.is_none()
            && let Some(larder) = larder
        {
            shelf = Some(larder.reserve(size).await?);
        }
        if first.is_empty() {
            first = data;
        } else {
            more.extend_from_slice(&data);
        }
    }
    if more.is_empty() {
        return Ok((first, shelf));
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    Ok((whole.freeze(), shelf))
}

/// A body that is too large for the memory, part by part.
pub(super) struct Stream {
    body: Brought,
    bytes_max: u64,
    seen: u64,
    idle_max: Duration,
}

impl Stream {
    /// Of at most `bytes_max`; some of it must come every `idle_max`.
    pub(super) fn new(body: Brought, bytes_max: u64, idle_max: Duration) -> Result<Stream, Unread> {
        let stream = Stream { body, bytes_max, seen: 0, idle_max };
        if stream.bytes_at_least() > bytes_max { Err(stream.too_large()) } else { Ok(stream) }
    }

    /// So many bytes will come, or more if the client did not say.
    pub(super) fn bytes_at_least(&self) -> u64 {
        self.body.size_hint().lower()
    }

    /// The next part; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Unread> {
        loop {
            let frame = tokio::time::timeout(self.idle_max, self.body.frame()).await;
            let Some(frame) = frame.map_err(|_| Unread::TooSlow(self.idle_max))? else { return Ok(None) };
            let frame = frame.map_err(|error| Unread::Broken(describe(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            self.seen = self.seen.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            return if self.seen > self.bytes_max { Err(self.too_large()) } else { Ok(Some(data)) };
        }
    }

    fn too_large(&self) -> Unread {
        Unread::TooLarge(usize::try_from(self.bytes_max).unwrap_or(usize::MAX))
    }
}

fn describe(error: &hyper::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Checks a body for what its route says it is. The error is the reason for a 400.
pub(super) fn check(bytes: Bytes, mode: BodyMode, headers: &HeaderMap) -> Result<Body, String> {
    if bytes.is_empty() {
        return Ok(Body::Empty);
    }
    match mode {
        BodyMode::Json => json(bytes),
        BodyMode::Raw => Ok(Body::Raw(bytes)),
        BodyMode::Auto => by_type(bytes, headers),
    }
}

fn json(bytes: Bytes) -> Result<Body, String> {
    script::check_json(&bytes).map_err(|error| format!("invalid JSON body: {error}"))?;
    Ok(Body::Json(bytes))
}

fn by_type(bytes: Bytes, headers: &HeaderMap) -> Result<Body, String> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => json(bytes),
        json_like if json_like.ends_with("+json") => json(bytes),
        "application/x-www-form-urlencoded" => Ok(Body::Form(bytes)),
        text if text.starts_with("text/") => match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Body::Text(bytes)),
            Err(error) => Err(format!("invalid text body: {error}")),
        },
        _ => Ok(Body::Raw(bytes)),
    }
}
