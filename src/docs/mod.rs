//! Longer reading.

#[doc = include_str!("order.md")]
pub mod order {}

#[doc = include_str!("choosing.md")]
pub mod choosing {}

#[doc = include_str!("errors.md")]
pub mod errors {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("library_authors.md")]
pub mod library_authors {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("operations.md")]
pub mod operations {}
