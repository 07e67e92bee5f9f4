//! Settings from data: how they are read, what is said of what is wrong, and what applying them changes and keeps.

mod apply;
mod found;
mod main_job;
mod reading;
mod reload;
mod schema;
mod support;
