//! What the processes tell the one that shows it: a line of JSON for each.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::support::clock;

/// Something that has happened in a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// When, by the clock of the machine: the same for all processes. In microseconds.
    pub at: u64,
    pub worker: String,
    pub what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum What {
    /// It has joined the fleet, and begins.
    Ready { node: String },
    /// Its breaker has changed.
    Breaker { state: String, why: String },
    /// A job has a permit.
    Took { job: String, slot: u32, token: u64 },
    /// It has lost it.
    Lost { job: String, why: String },
    /// It gives it back.
    Gave { job: String },
    /// It was killed.
    Killed,
}

/// Tells it.
pub type Tell = Arc<dyn Fn(What) + Send + Sync>;

/// Stamps what is told, and hands it on.
pub fn teller(worker: &str, hand_on: impl Fn(Told) + Send + Sync + 'static) -> Tell {
    let worker = worker.to_owned();
    Arc::new(move |what| {
        hand_on(Told {
            at: clock::micros(),
            worker: worker.clone(),
            what,
        });
    })
}
