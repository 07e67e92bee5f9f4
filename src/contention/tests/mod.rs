//! The lock against naive models.

mod counts;
mod deadlock;
mod model;
mod queue;
mod waits;
