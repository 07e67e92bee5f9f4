//! Which processes there are. Each says so every few seconds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::Value;
use tokio::time::sleep;

use super::error::StoreError;
use super::names::Names;
use super::redis::{Redis, Script};
use super::snapshot::NodesSeen;
use crate::util::time::{self, Tick};

/// Between two reports of a process.
const EVERY: Duration = Duration::from_secs(5);
/// After one that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// After so long a process is forgotten.
const TTL: Duration = Duration::from_secs(15);
/// So many are named.
const NAMED: u32 = 100;

static NODES: Script = Script::new("nodes", include_str!("lua/nodes.lua"));

/// What was last heard.
#[derive(Default)]
pub(super) struct Nodes(Mutex<Option<Heard>>);

struct Heard {
    at: Tick,
    count: u64,
    names: Vec<Arc<str>>,
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, Option<Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> NodesSeen {
        match &*self.lock() {
            None => NodesSeen::default(),
            Some(heard) => NodesSeen {
                count: heard.count,
                names: heard.names.clone(),
                age: Some(time::now().since(heard.at)),
            },
        }
    }
}

/// Tells the store that this process is there, for as long as the fleet is.
pub(super) async fn report(nodes: Weak<Nodes>, redis: Redis, names: Names) {
    loop {
        let told = tell(&redis, &names).await;
        let Some(nodes) = nodes.upgrade() else { return };
        let pause = match told {
            Ok(heard) => {
                *nodes.lock() = Some(heard);
                EVERY
            }
            Err(_) => AGAIN,
        };
        drop(nodes);
        sleep(pause).await;
    }
}

async fn tell(redis: &Redis, names: &Names) -> Result<Heard, StoreError> {
    let keys = [names.key("fleet", "nodes", "seen")];
    let args = [
        Vec::new(),
        names.node.as_bytes().to_vec(),
        TTL.as_micros().to_string().into_bytes(),
        NAMED.to_string().into_bytes(),
    ];
    let answer = redis
        .eval(&NODES, &keys, &args, redis.call_timeout())
        .await?;
    read(&answer).ok_or_else(|| StoreError::Data(format!("no nodes: {answer:?}")))
}

fn read(answer: &Value) -> Option<Heard> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [Value::Int(count), Value::Array(named)] = &parts[..] else {
        return None;
    };
    let name = |it: &Value| match it {
        Value::BulkString(bytes) => Some(Arc::from(String::from_utf8_lossy(bytes).as_ref())),
        _ => None,
    };
    let names = named.iter().map(name).collect::<Option<_>>()?;
    Some(Heard {
        at: time::now(),
        count: u64::try_from(*count).ok()?,
        names,
    })
}
