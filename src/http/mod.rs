//! What HTTP means to the patterns: bodies that can be sent again, and calls that end with their bodies.

mod recording;
mod replay_body;

pub use replay_body::{ReplayBody, ReplayError};
