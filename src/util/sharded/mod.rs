//! Values in shards: what many threads write or own at once, without one cache line that they all share.

mod counter;
mod spread;
#[cfg(test)]
mod tests;

pub(crate) use counter::{StripedCounter, TaggedStripes};
pub(crate) use spread::{Board, Share, Spread};
