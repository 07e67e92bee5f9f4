//! What all other modules use, and nobody outside sees: time, random numbers, windows, histograms, and
//! values in shards.

pub(crate) mod accessors;
pub(crate) mod bounded_map;
pub(crate) mod either;
pub(crate) mod histogram;
#[cfg(feature = "serde")]
pub(crate) mod humane;
pub(crate) mod kit;
pub(crate) mod random;
pub(crate) mod recent;
pub(crate) mod sharded;
pub(crate) mod sync;
pub(crate) mod time;
pub(crate) mod window;
