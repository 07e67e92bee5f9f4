//! A streaming body that can be sent again.

use std::error::Error as StdError;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::kept::LetGo;
use super::recording::{Cursor, Next, Recording, SharedError};
use crate::error::BoxError;
use crate::retry::Beside;

/// A request body that may be sent more than once, although its source can be read only once.
///
/// Nothing is read ahead. The copy that is sent first streams at full speed, and what it reads is kept for
/// the others, up to a limit; a later copy replays that, and goes on reading where the first one stopped.
/// Once more than the limit has been read, the copy that reads goes on to its end, and the others are no
/// good any more. With no other copy left nothing is kept.
///
/// One copy at a time reads the source. Another that gets as far meanwhile fails with
/// [`ReplayError::InUse`], and may be polled again later; a copy that is told to [`take_over`](Self::take_over)
/// takes the source away from the one that has it, which then ends with [`ReplayError::TakenOver`].
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full};
/// use tower_bulwark::http::ReplayBody;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let first = ReplayBody::new(Full::new(Bytes::from("hello")));
/// let again = first.try_clone().ok_or("nothing has been read yet")?;
/// assert_eq!(first.collect().await?.to_bytes(), "hello");
/// assert_eq!(again.collect().await?.to_bytes(), "hello");
/// # Ok(())
/// # }
/// ```
pub struct ReplayBody<B> {
    shared: Arc<Mutex<State<B>>>,
    id: u64,
    cursor: Cursor,
    /// Whether this copy has read from the source.
    has_read: bool,
    is_done: bool,
}

struct State<B> {
    recording: Recording,
    source: Source<B>,
    /// The copy that reads the source, or alone may do so, until it is dropped.
    reader: Option<u64>,
    /// Whether that copy has read everything that is kept.
    reader_is_ahead: bool,
    /// The task of the reader, while it waits for the source.
    reader_waits: Option<Waker>,
    /// The task of a copy that has taken over while the source was being polled.
    successor_waits: Option<Waker>,
    copies: usize,
    next_id: u64,
}

enum Source<B> {
    Here(Pin<Box<B>>),
    /// Taken out, so that no lock is held while foreign code runs.
    BeingPolled,
    Ended,
}

impl<B> ReplayBody<B> {
    /// How much is kept at most, unless it is said otherwise: 64 KiB. Larger than nearly every message of
    /// an API, and small enough that a thousand calls on their way are no matter.
    pub const DEFAULT_MAX_BYTES: u64 = 64 * 1024;
}

impl<B: Body> ReplayBody<B> {
    /// A body of which up to [`DEFAULT_MAX_BYTES`](Self::DEFAULT_MAX_BYTES) are kept.
    #[must_use]
    pub fn new(body: B) -> Self {
        Self::with_max_bytes(body, Self::DEFAULT_MAX_BYTES)
    }

    /// A body of which up to `max_bytes` are kept. One that says itself that it is larger is
    /// sent [once](Self::once).
    #[must_use]
    pub fn with_max_bytes(body: B, max_bytes: u64) -> Self {
        Self::try_new(body, max_bytes).unwrap_or_else(Self::once)
    }

    /// A body of which up to `max_bytes` are kept.
    ///
    /// # Errors
    ///
    /// The body itself, if it says that it is larger.
    pub fn try_new(body: B, max_bytes: u64) -> Result<Self, B> {
        let rest = body.size_hint();
        if rest.lower() > max_bytes {
            return Err(body);
        }
        let recording = Recording::new(max_bytes, rest, body.is_end_stream());
        Ok(Self::from_parts(body, recording))
    }

    /// A body that is sent once: it has the same type, and nothing of it is kept.
    #[must_use]
    pub fn once(body: B) -> Self {
        let recording = Recording::off(body.size_hint(), body.is_end_stream());
        Self::from_parts(body, recording)
    }

    fn from_parts(body: B, recording: Recording) -> Self {
        let state = State {
            recording,
            source: Source::Here(Box::pin(body)),
            reader: None,
            reader_is_ahead: false,
            reader_waits: None,
            successor_waits: None,
            copies: 1,
            next_id: 1,
        };
        Self {
            shared: Arc::new(Mutex::new(state)),
            id: 0,
            cursor: Cursor::default(),
            has_read: false,
            is_done: false,
        }
    }
}

impl<B> ReplayBody<B> {
    fn state(&self) -> MutexGuard<'_, State<B>> {
        lock(&self.shared)
    }

    /// A copy that starts from the first byte. `None` if that is not kept: because the body is too large, is
    /// sent once, has failed, or was read while there was no other copy.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        let mut state = self.state();
        if !state.recording.is_whole() {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        state.copies += 1;
        drop(state);
        Some(Self {
            shared: Arc::clone(&self.shared),
            id,
            cursor: Cursor::default(),
            has_read: false,
            is_done: false,
        })
    }

    /// Makes this the copy that counts, if it [can](Self::is_replayable) be sent but for another copy that
    /// reads the source: that one ends with [`ReplayError::TakenOver`] (so that the transport gives its
    /// request up), and this one goes on. `false` if it cannot be sent anyway.
    ///
    /// For the next attempt after one that was answered, or given up, while its body was still being sent:
    /// a transport may hold the old body for as long as it likes.
    #[must_use]
    pub fn take_over(&self) -> bool {
        let mut leftovers = Leftovers::<B>::default();
        let mut state = self.state();
        if !state.recording.serves(self.cursor) {
            return false;
        }
        if !state.recording.has_ended() && state.reader != Some(self.id) {
            state.reader = Some(self.id);
            state.reader_is_ahead = false;
            leftovers.wake = state.reader_waits.take();
        }
        drop(state);
        leftovers.clear();
        true
    }

    /// Whether this copy can be sent to its end: `false` if something that it needs was not kept, if the
    /// source has failed, and as long as another copy reads the source.
    ///
    /// It can become `false` later: when another copy reads more than is kept.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        let state = self.state();
        let is_free = state.reader.is_none_or(|reader| reader == self.id);
        (is_free || state.recording.has_ended()) && state.recording.serves(self.cursor)
    }

    /// Whether this copy can be sent while another is: once the source has been read to its end, if all of it is kept.
    pub(super) fn beside(&self) -> Beside {
        let recording = &self.state().recording;
        match (recording.serves(self.cursor), recording.has_ended()) {
            (false, _) => Beside::Never,
            (true, false) => Beside::NotYet,
            (true, true) => Beside::Yes,
        }
    }

    /// How many bytes are kept right now.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.state().recording.kept_bytes()
    }

    /// How many copies there are of this body, this one included.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.state().copies
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = ReplayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError>>> {
        let this = self.get_mut();
        if this.is_done {
            return Poll::Ready(None);
        }
        let source = match this.take_source(cx) {
            Took::Source(source) => source,
            Took::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
            Took::End => return Poll::Ready(None),
            Took::Error(error) => return Poll::Ready(Some(Err(this.ends_with(error)))),
            Took::Nothing => return Poll::Pending,
        };
        // From here on the source comes back, or counts as failed, also if it panics.
        let mut taken = Taken {
            shared: &this.shared,
            source: Some(source),
        };
        let polled = taken.poll(cx);
        let result = taken.give_back(this.id, &mut this.cursor, polled, cx.waker());
        drop(taken);
        match result {
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.ends_with(error)))),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state().recording.is_read(self.cursor)
    }

    fn size_hint(&self) -> SizeHint {
        self.state().recording.remaining(self.cursor)
    }
}

/// What a copy that is polled can have at once.
enum Took<B> {
    Source(Pin<Box<B>>),
    Frame(Frame<Bytes>),
    End,
    Error(ReplayError),
    /// The source is being polled by the copy that it was taken from.
    Nothing,
}

impl<B> ReplayBody<B> {
    fn take_source(&mut self, cx: &Context<'_>) -> Took<B> {
        let mut leftovers = Leftovers::<B>::default();
        let mut state = lock(&self.shared);
        if !self.has_read
            && self.cursor.is_at_start()
            && state.reader.is_some_and(|reader| reader != self.id)
            && !state.recording.has_ended()
        {
            // Not even what is known: a request that is begun should not stop half-way.
            return Took::Error(ReplayError::InUse);
        }
        let is_only_copy = state.copies == 1;
        let (next, let_go) = state.recording.next(&mut self.cursor, is_only_copy);
        leftovers.chunks = let_go;
        match next {
            Next::Data(data) => return Took::Frame(Frame::data(data)),
            Next::Trailers(trailers) => return Took::Frame(Frame::trailers(trailers)),
            Next::End => return Took::End,
            Next::Failed(error) => return Took::Error(ReplayError::Source(error)),
            Next::Gone => {
                let max_bytes = state.recording.max_bytes();
                return Took::Error(ReplayError::TooLarge { max_bytes });
            }
            Next::AskSource => {}
        }
        match state.reader {
            Some(reader) if reader == self.id => {}
            None => state.reader = Some(self.id),
            Some(_) if self.has_read => return Took::Error(ReplayError::TakenOver),
            Some(_) => return Took::Error(ReplayError::InUse),
        }
        state.reader_is_ahead = true;
        self.has_read = true;
        let took = match mem::replace(&mut state.source, Source::BeingPolled) {
            Source::Here(source) => Took::Source(source),
            Source::BeingPolled => {
                leftovers.waker = state.successor_waits.replace(cx.waker().clone());
                Took::Nothing
            }
            Source::Ended => {
                state.source = Source::Ended;
                Took::End
            }
        };
        drop(state);
        leftovers.clear();
        took
    }

    /// An error is the last that comes, unless it only says "not now".
    fn ends_with(&mut self, error: ReplayError) -> ReplayError {
        self.is_done = !matches!(error, ReplayError::InUse);
        error
    }
}

/// What is to be woken and dropped when the lock is gone: both may run foreign code, even code that drops
/// another copy of the body.
struct Leftovers<B> {
    wake: Option<Waker>,
    waker: Option<Waker>,
    chunks: LetGo,
    source: Option<Pin<Box<B>>>,
}

impl<B> Default for Leftovers<B> {
    fn default() -> Self {
        Self {
            wake: None,
            waker: None,
            chunks: LetGo::new(),
            source: None,
        }
    }
}

impl<B> Leftovers<B> {
    fn clear(self) {
        if let Some(waker) = self.wake {
            waker.wake();
        }
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        let mut leftovers = Leftovers::<B>::default();
        let mut state = self.state();
        state.copies -= 1;
        if state.reader == Some(self.id) {
            state.reader = None;
            leftovers.waker = state.reader_waits.take();
        }
        if state.copies == 1 && state.reader.is_some() && state.reader_is_ahead {
            leftovers.chunks = state.recording.let_go();
        }
        drop(state);
        leftovers.clear();
    }
}

type Polled<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

/// The source, while a copy polls it.
struct Taken<'a, B> {
    shared: &'a Mutex<State<B>>,
    source: Option<Pin<Box<B>>>,
}

impl<B: Body> Taken<'_, B>
where
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Polled<SharedError> {
        let Some(source) = &mut self.source else {
            return Poll::Ready(None);
        };
        source.as_mut().poll_frame(cx).map(|frame| {
            frame.map(|frame| match frame {
                Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
                Err(error) => Err(SharedError::from(error.into())),
            })
        })
    }

    /// Takes down what the source has given to copy `id`, and puts the source back unless it has ended.
    fn give_back(
        &mut self,
        id: u64,
        cursor: &mut Cursor,
        polled: Polled<SharedError>,
        waker: &Waker,
    ) -> Polled<ReplayError> {
        let (rest, mut ended) = match &self.source {
            Some(source) => (source.size_hint(), source.is_end_stream()),
            None => (SizeHint::new(), true),
        };
        let mut leftovers = Leftovers::default();
        let mut state = lock(self.shared);
        let others_listen = state.copies > 1;
        let is_reader = state.reader == Some(id);
        if is_reader {
            leftovers.waker = state.reader_waits.take();
        }
        state.recording.set_rest(rest);
        let result = match polled {
            Poll::Pending => {
                ended = false;
                if others_listen && is_reader {
                    state.reader_waits = Some(waker.clone());
                }
                Poll::Pending
            }
            Poll::Ready(None) => {
                ended = true;
                state.recording.end(cursor, None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                ended = true;
                leftovers.chunks = state.recording.fail(Arc::clone(&error));
                Poll::Ready(Some(Err(ReplayError::Source(error))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                ended = ended || frame.trailers_ref().is_some();
                leftovers.chunks = state
                    .recording
                    .take_down(cursor, &frame, others_listen, ended);
                Poll::Ready(Some(Ok(frame)))
            }
        };
        match (ended, self.source.take()) {
            (false, Some(source)) => state.source = Source::Here(source),
            (_, source) => {
                state.source = Source::Ended;
                leftovers.source = source;
            }
        }
        leftovers.wake = state.successor_waits.take();
        drop(state);
        leftovers.clear();
        match is_reader {
            true => result,
            false => Poll::Ready(Some(Err(ReplayError::TakenOver))),
        }
    }
}

impl<B> Drop for Taken<'_, B> {
    fn drop(&mut self) {
        if self.source.is_none() {
            return;
        }
        // It was not given back, so it panicked.
        let error = SharedError::from(BoxError::from("the source of the body panicked"));
        let mut leftovers = Leftovers::<B>::default();
        let mut state = lock(self.shared);
        leftovers.chunks = state.recording.fail(error);
        state.source = Source::Ended;
        leftovers.wake = state.successor_waits.take();
        drop(state);
        leftovers.clear();
    }
}

fn lock<B>(shared: &Mutex<State<B>>) -> MutexGuard<'_, State<B>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("ReplayBody")
            .field("copies", &state.copies)
            .field("kept_bytes", &state.recording.kept_bytes())
            .field("has_ended", &state.recording.has_ended())
            .finish_non_exhaustive()
    }
}

/// Why a [`ReplayBody`] cannot go on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// The body's own error. Every copy ends with it, the ones that come later too: what was read before it
    /// is not the whole body, and must not be taken for one.
    Source(Arc<dyn StdError + Send + Sync>),
    /// More was read than is kept.
    TooLarge {
        /// How much is kept at most.
        max_bytes: u64,
    },
    /// Another copy reads the source. This is the only error after which the copy may be polled again.
    InUse,
    /// A later copy reads the source now.
    TakenOver,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(_) => f.write_str("the request body failed"),
            Self::TooLarge { max_bytes } => {
                write!(
                    f,
                    "the request body cannot be sent again: more than {max_bytes} bytes were sent"
                )
            }
            Self::InUse => f.write_str("another attempt is still sending the request body"),
            Self::TakenOver => f.write_str("a later attempt has taken the request body over"),
        }
    }
}

impl StdError for ReplayError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Source(error) => Some(&**error),
            Self::TooLarge { .. } | Self::InUse | Self::TakenOver => None,
        }
    }
}
