//! Thousands of requests through whole stacks, over real sockets, against servers that fail by a seeded script.
//!
//! What is checked is what must hold whatever happens: every call ends once; a request that must not be done
//! twice is not; what arrives is what was sent; in the end no permit is out and all counts agree.
//!
//! Which fault meets which attempt of which request is the seed's doing. How the attempts of different requests
//! interleave is not: the checks hold for every interleaving.

#![cfg(all(feature = "http", feature = "hyper", feature = "reqwest"))]

mod axum_server;
#[cfg(feature = "tonic")]
mod grpc;
mod hostile;
mod hyper_client;
mod ledger;
mod network;
mod reqwest_client;
mod script;
mod server;
