//! Where a shared limit is decided: in this process, or by a server.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use tokio::sync::watch;

use super::core::{self, Answered, Ask, Change, Level, Nodes, Pause, Taken};
use super::listener::Listener;
use crate::fleet::names::Names;
use crate::fleet::redis::Script;
use crate::fleet::unused::Unused;
use crate::fleet::{Backend, Shared, StoreError};
use crate::util::time;

/// What a store does in one step each.
pub(super) trait RateStore: Send + Sync {
    fn take<'a>(&'a self, limit: &'a Limit, max_wait: u64, asks: &'a [Ask])
    -> Answer<'a, Answered>;

    /// Changes all quotas, and begins a pause of so many microseconds. What is left of each.
    fn settle<'a>(
        &'a self,
        limit: &'a Limit,
        pause: u64,
        changes: &'a [Change],
    ) -> Answer<'a, Vec<u64>>;

    /// This process is there. How many are, and how long a pause lasts.
    fn beat<'a>(&'a self, limit: &'a Limit) -> Answer<'a, (u64, u64)>;

    /// From here on.
    fn listen(&self, limit: &Limit) -> Listener;
}

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a store knows a limit by.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// A level for each quota, and the pause.
    pub(super) keys: Vec<String>,
    /// The processes, and the pause.
    pub(super) nodes: [String; 2],
    /// This handle of this process: each has a share.
    pub(super) node: String,
    /// Where pauses are published.
    pub(super) channel: String,
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
        let pause = names.key("rate", name, "pause");
        let levels = quotas.map(|quota| names.key("rate", name, &format!("level:{quota}")));
        Self {
            keys: levels.chain([pause.clone()]).collect(),
            nodes: [names.key("rate", name, "nodes"), pause],
            node: format!("{}/{}", names.node, MADE.fetch_add(1, Ordering::Relaxed)),
            channel: names.common_channel(),
            within,
        }
    }
}

/// How many handles this process has made.
static MADE: AtomicU64 = AtomicU64::new(0);

/// How long a process is counted after it was last heard of.
pub(super) const NODE_TTL: Duration = Duration::from_secs(15);

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The shared state of one process.
#[derive(Default)]
pub(in crate::fleet) struct InProcess(Mutex<Table>);

#[derive(Default)]
struct Table {
    levels: HashMap<String, Option<Level>>,
    pauses: HashMap<String, Paused>,
    nodes: HashMap<String, Nodes>,
    unused: Unused,
}

#[derive(Default)]
struct Paused {
    pause: Option<Pause>,
    /// By whom the last one was begun.
    begun: watch::Sender<String>,
}

impl InProcess {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, limit: &Limit, max_wait: u64, asks: &[Ask]) -> Answered {
        let (mut table, now) = (self.table(), now());
        let mut copies = table.levels(limit, now);
        let mut levels: Vec<_> = copies.iter_mut().collect();
        let answered = core::take(table.pause(limit), &mut levels, now, max_wait, asks);
        for (key, level) in limit.levels().iter().zip(copies) {
            table.levels.insert(key.clone(), level);
        }
        answered
    }

    pub(super) fn settle(&self, limit: &Limit, pause: u64, changes: &[Change]) -> Vec<u64> {
        let (mut table, now) = (self.table(), now());
        let mut stored = table.pause(limit);
        let mut copies = table.levels(limit, now);
        let mut levels: Vec<_> = copies.iter_mut().collect();
        let settled = core::settle(&mut stored, &mut levels, now, pause, changes);
        if settled.begins {
            let paused = table.paused(limit);
            paused.pause = stored;
            paused.begun.send_replace(limit.node.clone());
        }
        for (key, level) in limit.levels().iter().zip(copies) {
            table.levels.insert(key.clone(), level);
        }
        settled.left
    }

    pub(super) fn beat(&self, limit: &Limit) -> (u64, u64) {
        let (mut table, now) = (self.table(), now());
        let paused = Pause::left(table.pause(limit), now);
        let nodes = table.nodes.entry(limit.nodes[0].clone()).or_default();
        (nodes.beat(now, &limit.node, micros(NODE_TTL)), paused)
    }

    fn begun(&self, limit: &Limit) -> watch::Receiver<String> {
        self.table().paused(limit).begun.subscribe()
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> usize {
        self.table().names()
    }
}

impl Limit {
    /// What begins the messages about this limit.
    pub(super) fn mark(&self) -> String {
        format!("rate|{}|", self.nodes[1])
    }

    fn levels(&self) -> &[String] {
        &self.keys[..self.keys.len() - 1]
    }
}

impl Table {
    fn names(&self) -> usize {
        self.levels.len() + self.pauses.len() + self.nodes.len()
    }

    /// What is as if it had never been used.
    fn forget_unused(&mut self, now: u64) {
        if !self.unused.is_due(self.names()) {
            return;
        }
        let has_missing = |it: &Option<Level>| it.is_some_and(|it| !it.is_full(now));
        self.levels.retain(|_, it| has_missing(it));
        let is_used = |it: &Paused| it.begun.receiver_count() > 0 || Pause::left(it.pause, now) > 0;
        self.pauses.retain(|_, it| is_used(it));
        self.nodes.retain(|_, it| it.is_any(now, micros(NODE_TTL)));
        self.unused.has_looked(self.names());
    }

    fn levels(&mut self, limit: &Limit, now: u64) -> Vec<Option<Level>> {
        let keys = limit.levels();
        if keys.iter().any(|it| !self.levels.contains_key(it)) {
            self.forget_unused(now);
        }
        let level = |key: &String| self.levels.get(key).copied().flatten();
        keys.iter().map(level).collect()
    }

    fn pause(&self, limit: &Limit) -> Option<Pause> {
        self.pauses.get(&limit.nodes[1])?.pause
    }

    fn paused(&mut self, limit: &Limit) -> &mut Paused {
        self.pauses.entry(limit.nodes[1].clone()).or_default()
    }
}

fn now() -> u64 {
    time::now().0 / 1_000
}

impl RateStore for Shared {
    fn take<'a>(
        &'a self,
        limit: &'a Limit,
        max_wait: u64,
        asks: &'a [Ask],
    ) -> Answer<'a, Answered> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.rate_limits.take(limit, max_wait, asks)),
                Backend::Redis(redis) => {
                    let args = take_args(max_wait, asks);
                    let reply = redis.eval(&TAKE, &limit.keys, &args, limit.within).await?;
                    taken(&reply, asks.len())
                }
            }
        })
    }

    fn settle<'a>(
        &'a self,
        limit: &'a Limit,
        pause: u64,
        changes: &'a [Change],
    ) -> Answer<'a, Vec<u64>> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.rate_limits.settle(limit, pause, changes)),
                Backend::Redis(redis) => {
                    let args = settle_args(limit, pause, changes);
                    let asked = redis.eval(&SETTLE, &limit.keys, &args, limit.within);
                    settled(&asked.await?, changes.len())
                }
            }
        })
    }

    fn beat<'a>(&'a self, limit: &'a Limit) -> Answer<'a, (u64, u64)> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.rate_limits.beat(limit)),
                Backend::Redis(redis) => {
                    let args = beat_args(&limit.node);
                    let reply = redis.eval(&BEAT, &limit.nodes, &args, limit.within).await?;
                    beaten(&reply)
                }
            }
        })
    }

    fn listen(&self, limit: &Limit) -> Listener {
        match &self.backend {
            Backend::InProcess(it) => {
                Listener::in_process(it.rate_limits.begun(limit), &limit.node)
            }
            Backend::Redis(redis) => Listener::on_server(redis.inbox(), limit.mark(), &limit.node),
        }
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

pub(super) fn settle_args(limit: &Limit, pause: u64, changes: &[Change]) -> Vec<Vec<u8>> {
    let names = [&limit.channel, &limit.node].map(|it| it.as_bytes().to_vec());
    let mut args = vec![Vec::new(), text(pause)];
    args.extend(names);
    for it in changes {
        let pace = it.pace;
        let numbers = [
            pace.amount,
            pace.period,
            pace.burst,
            it.back,
            it.more,
            it.most,
        ];
        args.extend(numbers.map(|it| text(it.min(core::HIGHEST))));
    }
    args
}

pub(super) fn beat_args(node: &str) -> Vec<Vec<u8>> {
    vec![Vec::new(), node.as_bytes().to_vec(), text(micros(NODE_TTL))]
}

fn number(reply: &Value) -> Result<u64, StoreError> {
    match reply {
        Value::Int(n) => {
            u64::try_from(*n).map_err(|_| StoreError::Data(format!("a number below zero: {n}")))
        }
        other => Err(StoreError::Data(format!("no number: {other:?}"))),
    }
}

fn numbers(reply: &Value) -> Result<Vec<u64>, StoreError> {
    match reply {
        Value::Array(items) => items.iter().map(number).collect(),
        other => Err(StoreError::Data(format!("no list: {other:?}"))),
    }
}

pub(super) fn beaten(reply: &Value) -> Result<(u64, u64), StoreError> {
    match numbers(reply)?[..] {
        [nodes, paused] => Ok((nodes, paused)),
        ref other => Err(StoreError::Data(format!("{other:?} for two numbers"))),
    }
}

pub(super) fn settled(reply: &Value, quotas: usize) -> Result<Vec<u64>, StoreError> {
    match numbers(reply)?[..] {
        [0 | 1, ref left @ ..] if left.len() == quotas => Ok(left.to_vec()),
        ref other => Err(StoreError::Data(format!("{other:?} for {quotas} quotas"))),
    }
}

pub(super) fn taken(reply: &Value, quotas: usize) -> Result<Answered, StoreError> {
    let numbers = numbers(reply)?;
    let quota = |n: u64| usize::try_from(n).ok().filter(|n| *n < quotas);
    let read = match numbers[..] {
        [1, paused, wait, ref rest @ ..] if rest.len() == 2 * quotas => {
            let (got, left) = (rest[..quotas].to_vec(), rest[quotas..].to_vec());
            Some((paused, Taken::Granted { wait, got, left }))
        }
        [0, paused, n, wait] if n <= quotas as u64 => {
            let quota = quota(n);
            Some((paused, Taken::Refused { quota, wait }))
        }
        [2, paused, n] => quota(n).map(|quota| (paused, Taken::Never { quota })),
        _ => None,
    };
    let read = read.map(|(paused, taken)| Answered { taken, paused });
    read.ok_or_else(|| StoreError::Data(format!("{numbers:?} for {quotas} quotas")))
}
