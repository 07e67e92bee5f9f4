//! What HTTP means to the patterns: bodies that can be sent again, and calls that end with their bodies.

mod recording;
mod replay;
mod replay_body;

pub use replay::{CopyReplay, ReplayLayer, ReplayService};
pub use replay_body::{ReplayBody, ReplayError};
