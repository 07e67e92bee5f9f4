//! Where a shared breaker is decided: in this process, or by a server.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use tokio::sync::Notify;

use super::core::{Breaker, Leased, News, Report, Rules};
use crate::fleet::redis::Script;
use crate::fleet::{Backend, Shared, StoreError};
use crate::util::time;

/// What a store does in one step each.
pub(super) trait BreakerStore: Send + Sync {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News>;

    /// Asks to probe for `length` microseconds.
    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased>;

    /// The probe ended: well, or the breaker has opened for so many microseconds.
    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News>;

    /// Is notified when there are news. They may be lost: each report brings them too.
    fn news(&self, key: &Key) -> Arc<Notify>;
}

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a store knows a breaker by.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) keys: [String; 3],
    /// This process.
    pub(super) node: Arc<str>,
    /// How long an answer may take.
    pub(super) within: Duration,
}

impl Key {
    pub(super) fn new(name: &str, node: Arc<str>, within: Duration) -> Self {
        // All keys of a breaker are in one slot of a cluster.
        let key = |part: &str| format!("{{breaker:{name}}}:{part}");
        Self {
            keys: [key("state"), key("failing"), key("opened")],
            node,
            within,
        }
    }
}

/// The shared state of one process.
#[derive(Default)]
pub(in crate::fleet) struct InProcess(Mutex<HashMap<String, Entry>>);

#[derive(Default)]
struct Entry {
    breaker: Breaker,
    /// Of each process that listens.
    news: HashMap<Arc<str>, Arc<Notify>>,
}

impl InProcess {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn step<T>(
        &self,
        key: &Key,
        step: impl FnOnce(&mut Breaker, u64) -> (T, News),
    ) -> T {
        let mut table = self.table();
        let entry = table.entry(key.keys[0].clone()).or_default();
        let before = entry.breaker.epoch();
        let (answer, news) = step(&mut entry.breaker, time::now().0 / 1_000);
        if news.epoch != before {
            entry.news.values().for_each(|it| it.notify_one());
        }
        answer
    }

    pub(super) fn news(&self, key: &Key) -> Arc<Notify> {
        let mut table = self.table();
        let entry = table.entry(key.keys[0].clone()).or_default();
        Arc::clone(entry.news.entry(Arc::clone(&key.node)).or_default())
    }
}

impl BreakerStore for Shared {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.breakers.step(key, |breaker, now| {
                    let news = breaker.report(now, &key.node, rules, report);
                    (news, news)
                })),
                Backend::Redis(redis) => {
                    let args = report_args(&key.node, rules, report);
                    let reply = redis.eval(&BREAKER, &key.keys, &args, key.within).await?;
                    news(&reply)
                }
            }
        })
    }

    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.breakers.step(key, |breaker, now| {
                    let leased = breaker.lease(now, &key.node, seen, length);
                    (leased, leased.news)
                })),
                Backend::Redis(redis) => {
                    let args = args("lease", &key.node, &[seen, length]);
                    let reply = redis.eval(&BREAKER, &key.keys, &args, key.within).await?;
                    leased(&reply)
                }
            }
        })
    }

    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News> {
        Box::pin(async move {
            match &self.backend {
                Backend::InProcess(it) => Ok(it.breakers.step(key, |breaker, now| {
                    let news = breaker.probed(now, &key.node, seen, failed_for);
                    (news, news)
                })),
                Backend::Redis(redis) => {
                    let args = args("probed", &key.node, &[seen, failed_for]);
                    let reply = redis.eval(&BREAKER, &key.keys, &args, key.within).await?;
                    news(&reply)
                }
            }
        })
    }

    fn news(&self, key: &Key) -> Arc<Notify> {
        match &self.backend {
            Backend::InProcess(it) => it.breakers.news(key),
            // The script publishes; until somebody subscribes, reports bring the news.
            Backend::Redis(_) => Arc::default(),
        }
    }
}

pub(super) static BREAKER: Script = Script {
    name: "breaker",
    code: include_str!("lua/breaker.lua"),
};

pub(super) fn report_args(node: &str, rules: Rules, report: Report) -> Vec<Vec<u8>> {
    let numbers = [
        report.seen,
        report.ok,
        report.failed,
        report.opened,
        rules.slice,
        rules.minimum_calls,
        rules.permille,
        rules.min_nodes,
        rules.open_for,
    ];
    args("report", node, &numbers)
}

pub(super) fn args(operation: &str, node: &str, numbers: &[u64]) -> Vec<Vec<u8>> {
    // The server's own time.
    let words = [
        Vec::new(),
        operation.as_bytes().to_vec(),
        node.as_bytes().to_vec(),
    ];
    let numbers = numbers.iter().map(|it| it.to_string().into_bytes());
    words.into_iter().chain(numbers).collect()
}

pub(super) fn numbers<const N: usize>(reply: &Value) -> Result<[u64; N], StoreError> {
    let wrong = || StoreError::Data(format!("no {N} numbers: {reply:?}"));
    let Value::Array(items) = reply else {
        return Err(wrong());
    };
    let number = |it: &Value| match it {
        Value::Int(n) => u64::try_from(*n).map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    let numbers: Vec<u64> = items.iter().map(number).collect::<Result<_, _>>()?;
    numbers.try_into().map_err(|_| wrong())
}

pub(super) fn news(reply: &Value) -> Result<News, StoreError> {
    let [is_open, epoch, remaining] = numbers(reply)?;
    Ok(News {
        is_open: is_open == 1,
        epoch,
        remaining,
    })
}

pub(super) fn leased(reply: &Value) -> Result<Leased, StoreError> {
    let [is_mine, wait, is_open, epoch, remaining] = numbers(reply)?;
    Ok(Leased {
        is_mine: is_mine == 1,
        wait,
        news: News {
            is_open: is_open == 1,
            epoch,
            remaining,
        },
    })
}
