use std::cell::Cell;
use std::fmt;
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
    /// Nobody said; the number tells one call from another.
    Anonymous(u64),
}

impl Holder {
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

#[cfg(feature = "serde")]
impl serde::Serialize for Holder {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
