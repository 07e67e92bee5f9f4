//! What has been read of a body, for those who will read it again: no lock, no waker, no source.

use std::error::Error as StdError;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::kept::{Kept, LetGo};

pub(super) type SharedError = Arc<dyn StdError + Send + Sync>;

/// The frames of one body, as far as they have been read and are kept.
#[derive(Debug)]
pub(super) struct Recording {
    /// Ends with the last byte that was read.
    kept: Kept,
    /// Bytes read so far, kept or not.
    bytes: u64,
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
    bytes: u64,
    has_trailers: bool,
}

impl Cursor {
    pub(super) fn is_at_start(self) -> bool {
        self.bytes == 0 && !self.has_trailers
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

impl Recording {
    /// Of a source that says `rest` of its length, and perhaps that it has no frames at all.
    pub(super) fn new(max_bytes: u64, rest: SizeHint, is_empty: bool) -> Self {
        Self {
            kept: Kept::default(),
            bytes: 0,
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

    /// The next frame of a copy. Nobody else will read what the only copy has read.
    pub(super) fn next(&mut self, cursor: &mut Cursor, is_only_copy: bool) -> (Next, LetGo) {
        let next = self.peek(cursor);
        let mut let_go = LetGo::new();
        if is_only_copy && cursor.bytes > self.kept.begin() {
            self.whole = false;
            let_go = self.kept.cut(cursor.bytes);
        }
        (next, let_go)
    }

    fn peek(&self, cursor: &mut Cursor) -> Next {
        if let End::Failed(error) = &self.end {
            return Next::Failed(Arc::clone(error));
        }
        if cursor.bytes < self.kept.begin() {
            return Next::Gone;
        }
        let chunk = self.kept.from(cursor.bytes);
        if !chunk.is_empty() {
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
        let total = self.kept.len().saturating_add(length);
        let let_go = match self.whole && others_listen && total <= self.max_bytes {
            true => {
                self.kept.push(data);
                LetGo::new()
            }
            false => self.let_go(),
        };
        cursor.bytes = self.bytes;
        let_go
    }

    /// Nobody will read again what is kept.
    pub(super) fn let_go(&mut self) -> LetGo {
        self.whole = self.whole && self.bytes == 0;
        self.kept.clear(self.bytes)
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
        cursor.bytes >= self.kept.begin() && !matches!(self.end, End::Failed(_))
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
        self.kept.len()
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }
}
