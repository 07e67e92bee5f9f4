//! What belongs to one call: its deadline, the workflow it is part of, and how it ended.

pub mod deadline;
mod holder;
pub mod outcome;
pub mod workflow;

pub use holder::Holder;
