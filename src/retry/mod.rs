//! Calls again when a call failed.
mod event;

pub use event::RetryEvent;
