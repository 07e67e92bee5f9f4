use std::fmt;

/// Why the shared store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no connection.
    Unavailable(String),
    /// It has not answered in time. What was asked may have been done, or may be done yet.
    Deadline,
    /// It takes no writes: it is no primary any more.
    ReadOnly,
    /// It refuses: a password, a permission, no memory.
    Denied(String),
    /// A key has another type, or keys are in different slots.
    Misused(String),
    /// An answer that makes no sense.
    Data(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the shared store cannot be reached: {why}"),
            Self::Deadline => f.write_str("the shared store has not answered in time"),
            Self::ReadOnly => {
                f.write_str("the shared store takes no writes: it is no primary any more")
            }
            Self::Denied(why) => write!(f, "the shared store refuses: {why}"),
            Self::Misused(why) => write!(f, "the shared store is used for something else: {why}"),
            Self::Data(why) => write!(f, "the shared store has answered something else: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}
