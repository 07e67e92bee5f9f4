//! A connection to Redis or Valkey: bounded in time, and made anew when it is half open or leads to what is no primary.

use std::time::Duration;

use redis::Value;

use super::error::StoreError;

/// A Lua script, run by its hash.
pub(super) struct Script {
    #[allow(dead_code, reason = "the connection is not made yet")]
    pub(super) name: &'static str,
    #[allow(dead_code, reason = "the connection is not made yet")]
    pub(super) code: &'static str,
}

/// A server, or a cluster of them.
pub(super) struct Redis {}

impl Redis {
    /// Runs a script. Every key has the prefix of the fleet already, and all are in one slot.
    pub(super) async fn eval(
        &self,
        _script: &'static Script,
        _keys: &[String],
        _args: &[Vec<u8>],
        _within: Duration,
    ) -> Result<Value, StoreError> {
        Err(StoreError::Unavailable("not made yet".to_owned()))
    }
}
