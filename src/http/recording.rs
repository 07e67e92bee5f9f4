//! What has been read of a body, for those who will read it again: no lock, no waker, no source.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

pub(super) type SharedError = Arc<dyn StdError + Send + Sync>;

/// The frames of one body, as far as they have been read and are kept.
#[derive(Debug)]
pub(super) struct Recording {
    kept: VecDeque<Bytes>,
    /// How many chunks were read and are not kept: those before the first kept one.
    gone: u64,
    /// Bytes read so far, kept or not.
    bytes: u64,
    kept_bytes: u64,
    max_bytes: u64,
    /// Whether everything from the first byte on is kept.
    whole: bool,
    end: End,
    /// What the source says is still to come.
    rest: SizeHint,
}

#[derive(Debug)]
enum End {
    NotYet,
    Clean(Option<HeaderMap>),
    Failed(SharedError),
}

/// How far one copy of the body has got.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    chunks: u64,
    bytes: u64,
    has_trailers: bool,
}

impl Cursor {
    pub(super) fn is_at_start(self) -> bool {
        self.chunks == 0 && !self.has_trailers
    }
}

/// What comes next for a copy.
#[must_use]
#[derive(Debug)]
pub(super) enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// It has everything that is known: the source has to be asked.
    AskSource,
    Failed(SharedError),
    /// What it needs was not kept.
    Gone,
}

/// Chunks that are kept no longer. To be dropped where no lock is held: a chunk may be anybody's.
pub(super) type LetGo = VecDeque<Bytes>;

impl Recording {
    /// Of a source that says `rest` of its length, and perhaps that it has no frames at all.
    pub(super) fn new(max_bytes: u64, rest: SizeHint, is_empty: bool) -> Self {
        Self {
            kept: VecDeque::new(),
            gone: 0,
            bytes: 0,
            kept_bytes: 0,
            max_bytes,
            whole: true,
            end: match is_empty {
                true => End::Clean(None),
                false => End::NotYet,
            },
            rest,
        }
    }

    /// Of a source that is read once.
    pub(super) fn off(rest: SizeHint, is_empty: bool) -> Self {
        Self {
            whole: false,
            ..Self::new(0, rest, is_empty)
        }
    }

    /// The next frame of a copy. The only copy takes what it reads along.
    pub(super) fn next(&mut self, cursor: &mut Cursor, is_only_copy: bool) -> Next {
        if let End::Failed(error) = &self.end {
            return Next::Failed(Arc::clone(error));
        }
        let Some(at) = cursor.chunks.checked_sub(self.gone) else {
            return Next::Gone;
        };
        let chunk = match is_only_copy {
            true => self.take(at),
            false => self.kept.get(at as usize).cloned(),
        };
        if let Some(chunk) = chunk {
            cursor.chunks += 1;
            cursor.bytes += chunk.len() as u64;
            return Next::Data(chunk);
        }
        match &self.end {
            End::Clean(Some(trailers)) if !cursor.has_trailers => {
                cursor.has_trailers = true;
                Next::Trailers(trailers.clone())
            }
            End::Clean(_) => Next::End,
            End::NotYet | End::Failed(_) => Next::AskSource,
        }
    }

    /// Chunk `at` of the kept ones, for the only copy; the ones before it have been read.
    fn take(&mut self, at: u64) -> Option<Bytes> {
        let mut taken = None;
        for _ in 0..=at {
            taken = self.kept.pop_front();
            if let Some(chunk) = &taken {
                self.gone += 1;
                self.kept_bytes -= chunk.len() as u64;
                self.whole = false;
            }
        }
        taken
    }

    /// The copy at `cursor` has read another frame from the source; `ended` says that it was the last.
    pub(super) fn take_down(
        &mut self,
        cursor: &mut Cursor,
        frame: &Frame<Bytes>,
        others_listen: bool,
        ended: bool,
    ) -> LetGo {
        let let_go = match frame.data_ref() {
            Some(data) => self.add(cursor, data, others_listen),
            None => LetGo::new(),
        };
        if ended {
            self.end(cursor, frame.trailers_ref().cloned());
        }
        let_go
    }

    fn add(&mut self, cursor: &mut Cursor, data: &Bytes, others_listen: bool) -> LetGo {
        // An empty chunk says nothing, and a stream of them must not fill the memory.
        if data.is_empty() {
            return LetGo::new();
        }
        let length = data.len() as u64;
        self.bytes = self.bytes.saturating_add(length);
        let mut let_go = LetGo::new();
        let total = self.kept_bytes.saturating_add(length);
        if self.whole && others_listen && total <= self.max_bytes {
            self.kept.push_back(data.clone());
            self.kept_bytes = total;
        } else {
            let_go = self.let_go();
            self.gone += 1;
        }
        self.catch_up(cursor);
        let_go
    }

    /// Everything that is known has been read by the copy at `cursor`.
    fn catch_up(&self, cursor: &mut Cursor) {
        cursor.chunks = self.gone + self.kept.len() as u64;
        cursor.bytes = self.bytes;
    }

    /// Nobody will read again what is kept.
    pub(super) fn let_go(&mut self) -> LetGo {
        self.whole = self.whole && self.bytes == 0;
        self.kept_bytes = 0;
        self.gone += self.kept.len() as u64;
        mem::take(&mut self.kept)
    }

    pub(super) fn set_rest(&mut self, rest: SizeHint) {
        self.rest = rest;
    }

    /// The source has ended, as the copy at `cursor` has seen.
    pub(super) fn end(&mut self, cursor: &mut Cursor, trailers: Option<HeaderMap>) {
        cursor.has_trailers = true;
        self.end = End::Clean(trailers);
    }

    pub(super) fn fail(&mut self, error: SharedError) -> LetGo {
        self.end = End::Failed(error);
        self.let_go()
    }

    /// Whether another copy could start from the first byte.
    pub(super) fn is_whole(&self) -> bool {
        self.whole && !matches!(self.end, End::Failed(_))
    }

    /// Whether the copy at `cursor` can still get everything that it has not read.
    pub(super) fn serves(&self, cursor: Cursor) -> bool {
        cursor.chunks >= self.gone && !matches!(self.end, End::Failed(_))
    }

    /// Whether nothing more will come from the source.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(self.end, End::NotYet)
    }

    /// Whether the copy at `cursor` has read everything.
    pub(super) fn is_read(&self, cursor: Cursor) -> bool {
        match &self.end {
            End::Clean(trailers) => {
                cursor.bytes == self.bytes && (cursor.has_trailers || trailers.is_none())
            }
            End::NotYet | End::Failed(_) => false,
        }
    }

    /// How many bytes are to come for the copy at `cursor`.
    pub(super) fn remaining(&self, cursor: Cursor) -> SizeHint {
        let mut hint = SizeHint::new();
        if !self.serves(cursor) {
            return hint;
        }
        let known = self.bytes.saturating_sub(cursor.bytes);
        let (lower, upper) = match self.end {
            End::NotYet => (self.rest.lower(), self.rest.upper()),
            End::Clean(_) | End::Failed(_) => (0, Some(0)),
        };
        // The upper bound first: it is never less than the lower one.
        if let Some(upper) = upper.and_then(|upper| upper.checked_add(known)) {
            hint.set_upper(upper);
        }
        let lower = lower.saturating_add(known);
        hint.set_lower(lower.min(hint.upper().unwrap_or(lower)));
        hint
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }
}
