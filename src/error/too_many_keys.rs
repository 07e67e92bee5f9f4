use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A map of keys is full, and everything in it is in use or remembers something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooManyKeys {
    /// The name of the map.
    pub name: Arc<str>,
    /// How many keys it may have.
    pub most: usize,
}

impl fmt::Display for TooManyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, most } = self;
        write!(
            f,
            "`{name}` has {most} keys, all of them in use: allow more, or hold fewer handles"
        )
    }
}

impl StdError for TooManyKeys {}
