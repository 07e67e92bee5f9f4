//! Where a shared limit is decided: in this process, or by a server.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;

use super::core::{self, Ask, Level, Nodes, Pace, Taken};
use crate::fleet::names::Names;
use crate::fleet::redis::Script;
use crate::fleet::{Backend, Shared, StoreError};
use crate::util::time;

/// What a store does in one step each.
pub(super) trait RateStore: Send + Sync {
    fn take<'a>(&'a self, limit: &'a Limit, max_wait: u64, asks: &'a [Ask]) -> Answer<'a, Taken>;

    /// Gives back, or takes more: so many of each.
    fn settle<'a>(&'a self, limit: &'a Limit, changes: &'a [(Pace, u64, u64)]) -> Answer<'a, ()>;

    /// This process is there. How many are.
    fn beat<'a>(&'a self, limit: &'a Limit) -> Answer<'a, u64>;
}

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a store knows a limit by.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// One for each quota.
    pub(super) levels: Vec<String>,
    pub(super) nodes: String,
    /// This process.
    pub(super) node: Arc<str>,
    /// How long an answer may take.
    pub(super) within: Duration,
}

impl Limit {
    pub(super) fn new<'a>(
        names: &Names,
        name: &str,
        quotas: impl Iterator<Item = &'a str>,
        within: Duration,
    ) -> Self {
        Self {
            levels: quotas
                .map(|quota| names.key("rate", name, &format!("level:{quota}")))
                .collect(),
            nodes: names.key("rate", name, "nodes"),
            node: Arc::clone(&names.node),
            within,
        }
    }
}

/// How long a process is counted after it was last heard of.
pub(super) const NODE_TTL: Duration = Duration::from_secs(15);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The shared state of one process.
#[derive(Default)]
pub(in crate::fleet) struct InProcess(Mutex<Table>);

#[derive(Default)]
struct Table {
    levels: HashMap<String, Option<Level>>,
    nodes: HashMap<String, Nodes>,
}

impl InProcess {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, limit: &Limit, max_wait: u64, asks: &[Ask]) -> Taken {
        let (mut table, now) = (self.table(), now());
        let mut copies: Vec<_> = limit.levels.iter().map(|key| table.level(key)).collect();
        let mut levels: Vec<_> = copies.iter_mut().collect();
        let taken = core::take(&mut levels, now, max_wait, asks);
        for (key, level) in limit.levels.iter().zip(copies) {
            table.levels.insert(key.clone(), level);
        }
        taken
    }

    pub(super) fn settle(&self, limit: &Limit, changes: &[(Pace, u64, u64)]) {
        let (mut table, now) = (self.table(), now());
        for (key, (pace, back, more)) in limit.levels.iter().zip(changes) {
            let level = table.levels.entry(key.clone()).or_default();
            core::settle(level, now, *pace, *back, *more);
        }
    }

    pub(super) fn beat(&self, limit: &Limit) -> u64 {
        let nodes = &mut self.table().nodes;
        let nodes = nodes.entry(limit.nodes.clone()).or_default();
        nodes.beat(now(), &limit.node, micros(NODE_TTL))
    }
}

impl Table {
    fn level(&self, key: &str) -> Option<Level> {
        self.levels.get(key).copied().flatten()
    }
}

fn now() -> u64 {
    time::now().0 / 1_000
}

impl RateStore for Shared {
    fn take<'a>(&'a self, limit: &'a Limit, max_wait: u64, asks: &'a [Ask]) -> Answer<'a, Taken> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.rate_limits.take(limit, max_wait, asks)),
                Backend::Redis(redis) => {
                    let args = take_args(max_wait, asks);
                    let reply = redis
                        .eval(&TAKE, &limit.levels, &args, limit.within)
                        .await?;
                    taken(&reply, asks.len())
                }
            }
        })
    }

    fn settle<'a>(&'a self, limit: &'a Limit, changes: &'a [(Pace, u64, u64)]) -> Answer<'a, ()> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => it.rate_limits.settle(limit, changes),
                Backend::Redis(redis) => {
                    let args = settle_args(changes);
                    redis
                        .eval(&SETTLE, &limit.levels, &args, limit.within)
                        .await?;
                }
            }
            Ok(())
        })
    }

    fn beat<'a>(&'a self, limit: &'a Limit) -> Answer<'a, u64> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.rate_limits.beat(limit)),
                Backend::Redis(redis) => {
                    let keys = std::slice::from_ref(&limit.nodes);
                    let reply = redis
                        .eval(&BEAT, keys, &beat_args(&limit.node), limit.within)
                        .await?;
                    number(&reply)
                }
            }
        })
    }
}

pub(super) static TAKE: Script = Script::new("rate_limit.take", include_str!("lua/take.lua"));
pub(super) static SETTLE: Script = Script::new("rate_limit.settle", include_str!("lua/settle.lua"));
pub(super) static BEAT: Script = Script::new("rate_limit.beat", include_str!("lua/beat.lua"));

fn text(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

pub(super) fn take_args(max_wait: u64, asks: &[Ask]) -> Vec<Vec<u8>> {
    // The server's own time, and no longer a wait than it counts exactly.
    let mut args = vec![Vec::new(), text(max_wait.min(core::HIGHEST))];
    for Ask { pace, need, want } in asks {
        let numbers = [pace.amount, pace.period, pace.burst, *need, *want];
        args.extend(numbers.map(|it| text(it.min(core::HIGHEST))));
    }
    args
}

pub(super) fn settle_args(changes: &[(Pace, u64, u64)]) -> Vec<Vec<u8>> {
    let mut args = vec![Vec::new()];
    for (pace, back, more) in changes {
        let numbers = [pace.amount, pace.period, pace.burst, *back, *more];
        args.extend(numbers.map(|it| text(it.min(core::HIGHEST))));
    }
    args
}

pub(super) fn beat_args(node: &str) -> Vec<Vec<u8>> {
    vec![Vec::new(), node.as_bytes().to_vec(), text(micros(NODE_TTL))]
}

pub(super) fn number(reply: &Value) -> Result<u64, StoreError> {
    match reply {
        Value::Int(n) => {
            u64::try_from(*n).map_err(|_| StoreError::Data(format!("a number below zero: {n}")))
        }
        other => Err(StoreError::Data(format!("no number: {other:?}"))),
    }
}

pub(super) fn taken(reply: &Value, quotas: usize) -> Result<Taken, StoreError> {
    let Value::Array(items) = reply else {
        return Err(StoreError::Data(format!("no list: {reply:?}")));
    };
    let numbers: Vec<u64> = items.iter().map(number).collect::<Result<_, _>>()?;
    let quota = |n: u64| usize::try_from(n).ok().filter(|n| *n < quotas);
    let read = match numbers[..] {
        [1, wait, ref rest @ ..] if rest.len() == 2 * quotas => Some(Taken::Granted {
            wait,
            got: rest[..quotas].to_vec(),
            left: rest[quotas..].to_vec(),
        }),
        [0, n, wait] => quota(n).map(|quota| Taken::Refused { quota, wait }),
        [2, n] => quota(n).map(|quota| Taken::Never { quota }),
        _ => None,
    };
    read.ok_or_else(|| StoreError::Data(format!("{numbers:?} for {quotas} quotas")))
}
