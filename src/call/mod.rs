//! What belongs to one call: where it is, its deadline, the workflow it is part of, and how it ended.

pub(crate) mod context;
pub mod deadline;
mod holder;
pub mod outcome;
pub mod workflow;

pub use context::{AtService, at_service};
pub use holder::{Here, Holder};
