use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who holds, or waits for, a permit: a workflow id, a request id, a tenant.
///
/// Made from a string or a number. An id given as `Arc<str>` or as a number costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Holder {
    /// A name.
    Name(Arc<str>),
    /// A number.
    Number(u64),
    /// Nobody said; the number distinguishes calls.
    Anonymous(u64),
    /// Nobody said; the place in the source, and the task if there was one.
    Here(Here),
}

/// A place in the source, and the task that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Here {
    location: &'static Location<'static>,
    task: Option<tokio::task::Id>,
}

impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = self.task {
            write!(f, "task {task} at ")?;
        }
        write!(f, "{}:{}", self.location.file(), self.location.line())
    }
}

impl Holder {
    /// The caller's place in the source, and the number of its task.
    #[must_use]
    #[track_caller]
    pub fn here() -> Self {
        Self::Here(Here {
            location: Location::caller(),
            task: tokio::task::try_id(),
        })
    }

    /// A holder that nobody else is.
    #[must_use]
    pub fn anonymous() -> Self {
        // A thread takes numbers by the block, so that not every call of every thread writes one word.
        const BLOCK: u64 = 1024;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        thread_local! {
            static LAST: Cell<u64> = const { Cell::new(0) };
        }
        let last = LAST.get();
        let number = match last % BLOCK {
            0 => NEXT.fetch_add(BLOCK, Ordering::Relaxed) + 1,
            _ => last + 1,
        };
        LAST.set(number);
        Self::Anonymous(number)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
            Self::Anonymous(number) => write!(f, "call-{number}"),
            Self::Here(here) => here.fmt(f),
        }
    }
}

impl From<&str> for Holder {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

impl From<String> for Holder {
    fn from(name: String) -> Self {
        Self::Name(name.into())
    }
}

impl From<Arc<str>> for Holder {
    fn from(name: Arc<str>) -> Self {
        Self::Name(name)
    }
}

impl From<&Arc<str>> for Holder {
    fn from(name: &Arc<str>) -> Self {
        Self::Name(Arc::clone(name))
    }
}

impl From<u64> for Holder {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&Self> for Holder {
    fn from(holder: &Self) -> Self {
        holder.clone()
    }
}

/// [`workflow::current()`](crate::workflow::current) may be none: then it is nobody in particular.
impl From<Option<Self>> for Holder {
    fn from(holder: Option<Self>) -> Self {
        holder.unwrap_or_else(Self::anonymous)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Holder {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
