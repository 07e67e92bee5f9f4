//! The handle, its agent and its guards, over a store of this process that can be made to fail, on a paused clock.

#![allow(
    clippy::disallowed_methods,
    reason = "tests measure how long something took"
)]

mod away;
mod cancel;
mod chaos;
mod layer;
mod leases;
mod regressions;
mod release;
mod slow;
mod stores;
mod support;
mod waits;
