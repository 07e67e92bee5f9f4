//! States and events as a stream of server-sent events.
//!
//! A reader asks for the latest state when it has room for it: who is slow skips states, and nothing is queued for anybody.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::hub::{Hub, NoFrame};
use super::log::news;
use super::readers::Place;

/// How soon a browser comes back after the connection was lost.
const RETRY: Duration = Duration::from_secs(1);
/// A reader is done after so long, and comes back: whoever watches over this router is asked again whether it may read.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What one reader has got so far.
pub(super) struct Reader {
    hub: Arc<Hub>,
    place: Place,
    closed: watch::Receiver<bool>,
    /// The last event that it knows.
    position: Option<u64>,
    sequence: u64,
    turns: u64,
}

impl Reader {
    /// `last_event_id` is what a browser gives that comes back.
    pub(super) fn new(hub: Arc<Hub>, place: Place, last_event_id: Option<&str>) -> Self {
        let known = last_event_id.and_then(|id| {
            let (epoch, position) = id.split_once('-')?;
            // Positions of another process say nothing.
            position.parse().ok().filter(|_| epoch == hub.epoch())
        });
        Self {
            closed: hub.closed.subscribe(),
            position: known,
            hub,
            place,
            sequence: 0,
            turns: 0,
        }
    }

    pub(super) fn into_body(self) -> EventBody {
        EventBody {
            next: Some(Box::pin(self.next())),
        }
    }

    /// The next piece of the stream, or its end.
    async fn next(mut self) -> Option<(Self, Bytes)> {
        let pause = self.hub.interval;
        let mut text = String::new();
        match self.turns {
            0 => text += &format!("retry: {}\n\n", RETRY.as_millis()),
            _ => {
                let closed = self.closed.wait_for(|closed| *closed);
                if timeout(pause, closed).await.is_ok() {
                    return None;
                }
            }
        }
        self.turns += 1;
        let most = LONGEST.as_millis() / pause.as_millis().max(1);
        if !self.place.takes() || *self.closed.borrow() || u128::from(self.turns) > most {
            return None;
        }
        match self.hub.frame().await {
            Ok(frame) if frame.sequence == self.sequence => text += ": nothing new\n\n",
            Ok(frame) => {
                self.sequence = frame.sequence;
                text += &format!("event: state\ndata: {}\n\n", frame.state);
                if let Some((json, last)) = news(&frame.events, self.position) {
                    self.position = Some(last);
                    text += &format!(
                        "event: events\nid: {}-{last}\ndata: {json}\n\n",
                        self.hub.epoch()
                    );
                }
                self.position.get_or_insert(0);
            }
            Err(NoFrame) => {
                text += ": no state\n\n";
                sleep(pause).await;
            }
        }
        Some((self, text.into()))
    }
}

type Next = Pin<Box<dyn Future<Output = Option<(Reader, Bytes)>> + Send>>;

/// The stream of one reader. It makes the next piece when it is asked for one.
pub(super) struct EventBody {
    next: Option<Next>,
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let next = ready!(next.as_mut().poll(cx));
        Poll::Ready(match next {
            Some((reader, bytes)) => {
                self.next = Some(Box::pin(reader.next()));
                Some(Ok(BodyFrame::data(bytes)))
            }
            None => {
                self.next = None;
                None
            }
        })
    }
}
