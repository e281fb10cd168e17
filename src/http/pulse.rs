//! Whether anything goes on at an HTTP/2 connection, which may be idle, or busy with a request that takes long, or held
//! open by a client that does not take its answers. Over HTTP/1 the library sees the first, and the socket the last.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::body::Leftover;
use super::reply::ReplyBody;

/// The pulse of one connection.
pub(super) struct Pulse(Mutex<Beat>);

#[derive(Clone, Copy)]
struct Beat {
    /// Requests that wait for this house.
    ours: usize,
    /// Answers that wait for the client.
    theirs: usize,
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Theirs,
}

/// A request from its head to the end of its answer.
pub(super) struct Turn {
    pulse: Arc<Pulse>,
    whose: Whose,
}

/// An answer that tells whom it waits for.
pub(super) struct Answer {
    body: ReplyBody,
    turn: Turn,
    _leftover: Leftover,
}

impl Pulse {
    /// That of a connection which begins now.
    pub(super) fn new() -> Arc<Pulse> {
        Arc::new(Pulse(Mutex::new(Beat { ours: 0, theirs: 0, since: Instant::now() })))
    }

    /// A request came.
    pub(super) fn turn(self: &Arc<Pulse>) -> Turn {
        self.change(|beat| beat.ours += 1);
        Turn { pulse: self.clone(), whose: Whose::Ours }
    }

    fn change(&self, change: impl FnOnce(&mut Beat)) {
        let mut beat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut beat);
        beat.since = Instant::now();
    }

    /// Resolves when no request came for `idle`, or none of an answer was taken for `stall`.
    pub(super) async fn quiet(&self, idle: Duration, stall: Duration) {
        loop {
            let beat = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = if beat.theirs > 0 { stall } else { idle };
            let over = beat.since + limit;
            if beat.ours > 0 {
                tokio::time::sleep(limit).await;
            } else if over <= Instant::now() {
                return;
            } else {
                tokio::time::sleep_until(over).await;
            }
        }
    }
}

impl Turn {
    /// The answer goes out; what is left of the request's body stays as long.
    pub(super) fn answer(mut self, body: ReplyBody, leftover: Leftover) -> Answer {
        self.pass(Whose::Theirs);
        Answer { body, turn: self, _leftover: leftover }
    }

    fn pass(&mut self, to: Whose) {
        let from = std::mem::replace(&mut self.whose, to);
        self.pulse.change(|beat| {
            *count(beat, from) -= 1;
            *count(beat, to) += 1;
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pulse.change(|beat| *count(beat, self.whose) -= 1);
    }
}

fn count(beat: &mut Beat, whose: Whose) -> &mut usize {
    match whose {
        Whose::Ours => &mut beat.ours,
        Whose::Theirs => &mut beat.theirs,
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Answer { body, turn, .. } = self.get_mut();
        let polled = Pin::new(body).poll_frame(context);
        turn.pass(if polled.is_pending() { Whose::Ours } else { Whose::Theirs });
        polled.map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Either, Full};

    use super::*;

    #[test]
    fn a_connection_is_quiet_when_nobody_is_waited_for_but_the_client() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let seconds = Duration::from_secs;
            let pulse = Pulse::new();
            let began = Instant::now();
            pulse.quiet(seconds(10), seconds(30)).await;
            assert_eq!(began.elapsed(), seconds(10), "nothing came");
            let turn = pulse.turn();
            let waited = tokio::time::timeout(seconds(500), pulse.quiet(seconds(10), seconds(30))).await;
            assert!(waited.is_err(), "a script may run for long");
            let answer = turn.answer(Either::Left(Full::new(Bytes::from_static(b"x"))), Leftover::none());
            let began = Instant::now();
            pulse.quiet(seconds(10), seconds(30)).await;
            assert_eq!(began.elapsed(), seconds(30), "an answer that nobody takes");
            drop(answer);
            let began = Instant::now();
            pulse.quiet(seconds(10), seconds(30)).await;
            assert_eq!(began.elapsed(), seconds(10));
        });
    }
}
