use std::time::Duration;

use super::error::StoreError;
use super::{Backend, Fleet};

/// How the connection to the shared store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Health {
    /// Whether there is a connection. While there is none, calls are told so at once.
    pub connected: bool,
    /// For how long it has been so.
    pub since: Duration,
    /// Why there is no connection.
    pub why: Option<StoreError>,
    /// What the server is, such as `Redis 7.0.15` or `Valkey 9.1.2`. `None` in one process, and while there is no connection.
    pub server: Option<String>,
    /// Calls in a row that were not answered. At five the connection is made anew.
    pub unanswered: u32,
    /// How many connections for commands have been made. One, if none ever ended.
    pub connections: u64,
    /// Whether messages of other processes come through. While they do not, news takes as long as the next question.
    pub inbox_connected: bool,
    /// Messages that came.
    pub messages: u64,
    /// How often messages may have been lost, because the connection for them was made anew.
    pub gaps: u64,
}

impl Fleet {
    /// How the connection to the shared store stands. Reads what is known, and asks nobody.
    #[must_use]
    pub fn health(&self) -> Health {
        match &self.shared.backend {
            Backend::Redis(redis) => redis.health(),
            Backend::InProcess(in_process) => Health {
                connected: true,
                since: in_process.age(),
                inbox_connected: true,
                ..Health::default()
            },
        }
    }
}
