//! Values in shards: what many threads write or own at once, without one cache line that they all share.
//!
//! Each is one shard at first. Once threads are seen to collide at it, it is one shard for each group of threads.

mod arc;
mod collisions;
mod counter;
mod shards;
#[cfg(test)]
mod tests;

pub(crate) use arc::{ArcShard, ShardValue, ShardedArc, ShardedSlot};
pub(crate) use collisions::Collisions;
pub(crate) use counter::{Added, ShardedCounter, TaggedCounter};
pub(crate) use shards::Sharded;
