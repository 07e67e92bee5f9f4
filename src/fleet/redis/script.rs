//! Lua scripts, run by their hash.

use std::sync::OnceLock;

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value};

use super::connection::Connection;

/// A Lua script, run by its hash.
#[derive(Debug)]
pub(in super::super) struct Script {
    /// How errors name it.
    pub(in super::super) name: &'static str,
    pub(in super::super) code: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(in super::super) const fn new(name: &'static str, code: &'static str) -> Self {
        Self {
            name,
            code,
            hash: OnceLock::new(),
        }
    }

    fn hash(&self) -> &str {
        self.hash
            .get_or_init(|| redis::Script::new(self.code).get_hash().to_owned())
    }
}

/// Runs a script. A server that does not know it, because it is new or has been restarted, is sent the code: that is
/// another node of a cluster for every name, so the code goes with the keys.
pub(super) async fn run(
    connection: &mut Connection,
    script: &Script,
    keys: &[String],
    args: &[Vec<u8>],
) -> RedisResult<Value> {
    let asked = connection
        .send(&command("EVALSHA", script.hash(), keys, args))
        .await;
    match asked {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connection
                .send(&command("EVAL", script.code, keys, args))
                .await
        }
        answer => answer,
    }
}

fn command(name: &str, script: &str, keys: &[String], args: &[Vec<u8>]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(name).arg(script).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    for arg in args {
        command.arg(arg.as_slice());
    }
    command
}
