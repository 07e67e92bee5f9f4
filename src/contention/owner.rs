//! Whose progress the release of a permit depends on.

use std::thread::ThreadId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody's in particular: it may be released at any time.
    Anybody,
    /// The permit itself: it is released when the future that holds it ends.
    ItsFuture,
    /// A line of work of its holder, which does one thing at a time.
    Line(Line),
}

/// What runs one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Line {
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl Line {
    pub(super) fn current() -> Self {
        match tokio::task::try_id() {
            Some(task) => Self::Task(task),
            None => Self::Thread(std::thread::current().id()),
        }
    }
}

impl Owner {
    pub(super) fn line(self) -> Option<Line> {
        match self {
            Self::Line(line) => Some(line),
            Self::Anybody | Self::ItsFuture => None,
        }
    }
}
