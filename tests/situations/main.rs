//! Situations that were reported against other libraries, or found in review, told again with this crate.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

#[path = "../../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code)]
mod completion;

mod breaker;
mod breaker_edges;
mod common;
mod contention;
mod contention_edges;
mod grpc;
mod http2;
mod http_edges;
mod http_paused;
mod more;
mod reqwest_client;
mod retry_edges;
mod server;
mod stack;
