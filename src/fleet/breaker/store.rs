//! Where a shared breaker is decided: in this process, or by a server.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::Value;
use tokio::sync::watch;

use super::core::{Breaker, Leased, News, Report, Rules};
use crate::fleet::names::Names;
use crate::fleet::redis::{self, Inbox, Script};
use crate::fleet::unused::Unused;
use crate::fleet::{Backend, Shared, StoreError};
use crate::util::time;

/// What a store does in one step each.
pub(super) trait BreakerStore: Send + Sync {
    fn report<'a>(&'a self, key: &'a Key, rules: Rules, report: Report) -> Answer<'a, News>;

    /// Asks to probe for `length` microseconds.
    fn lease<'a>(&'a self, key: &'a Key, seen: u64, length: u64) -> Answer<'a, Leased>;

    /// The probe ended: well, or the breaker has opened for so many microseconds.
    fn probed<'a>(&'a self, key: &'a Key, seen: u64, failed_for: u64) -> Answer<'a, News>;

    /// From here on.
    fn listen(&self, key: &Key) -> Listener;
}

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a store knows a breaker by.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) keys: [String; 3],
    /// Where changes are published.
    pub(super) channel: String,
    /// This process.
    pub(super) node: Arc<str>,
    /// How long an answer may take.
    pub(super) within: Duration,
}

impl Key {
    pub(super) fn new(names: &Names, name: &str, within: Duration) -> Self {
        Self {
            keys: ["state", "failing", "opened"].map(|part| names.key("breaker", name, part)),
            channel: names.common_channel(),
            node: Arc::clone(&names.node),
            within,
        }
    }

    /// What begins the messages about this breaker.
    fn mark(&self) -> String {
        format!("breaker|{}|", self.keys[0])
    }
}

/// Hears what has changed. News may be lost: each report brings them too.
pub(super) enum Listener {
    InProcess(watch::Receiver<News>),
    Inbox(Inbox, String),
    #[cfg(test)]
    Deaf,
}

#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    Change(News),
    /// It was lost, or is not understood.
    Perhaps,
}

impl Listener {
    /// Returns when there are news of later epochs than `known`. Dropped before, it loses none.
    pub(super) async fn next(&mut self, known: u64) -> Heard {
        match self {
            Self::InProcess(changed) => loop {
                if changed.changed().await.is_err() {
                    // The fleet has ended.
                    pending::<()>().await;
                }
                let news = *changed.borrow_and_update();
                if news.epoch > known {
                    return Heard::Change(news);
                }
            },
            Self::Inbox(inbox, mark) => loop {
                let heard = match inbox.next().await {
                    Some(redis::News::Common(text)) => {
                        text.strip_prefix(mark.as_bytes()).map(heard)
                    }
                    Some(redis::News::Gap) => Some(Heard::Perhaps),
                    Some(redis::News::Own(_)) => None,
                    None => pending().await,
                };
                if let Some(heard) = heard.and_then(|it| it.since(known)) {
                    return heard;
                }
            },
            #[cfg(test)]
            Self::Deaf => pending().await,
        }
    }
}

impl Heard {
    /// What is new in it for one who knows this epoch. Epochs go back if the store has lost its data: those who know no better
    /// count anew, and it has to be told.
    pub(super) fn since(self, known: u64) -> Option<Self> {
        match self {
            Self::Change(news) if news.epoch > known => Some(self),
            Self::Change(news) => (news.is_open && news.epoch < known).then_some(Self::Perhaps),
            Self::Perhaps => Some(self),
        }
    }
}

/// What a message tells, after its mark: `open|epoch|length`.
pub(super) fn heard(text: &[u8]) -> Heard {
    let fields = std::str::from_utf8(text).unwrap_or_default().split('|');
    let numbers: Result<Vec<u64>, _> = fields.map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[is_open @ (0 | 1), epoch, remaining]) => Heard::Change(News {
            is_open: is_open == 1,
            epoch,
            remaining,
        }),
        _ => Heard::Perhaps,
    }
}

/// The shared state of one process.
#[derive(Default)]
pub(in crate::fleet) struct InProcess(Mutex<Table>);

#[derive(Default)]
struct Table {
    all: HashMap<String, Entry>,
    unused: Unused,
}

#[derive(Default)]
struct Entry {
    breaker: Breaker,
    news: watch::Sender<News>,
}

impl InProcess {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> usize {
        self.table().all.len()
    }

    pub(super) fn step<T>(
        &self,
        key: &Key,
        step: impl FnOnce(&mut Breaker, u64) -> (T, News),
    ) -> T {
        let mut table = self.table();
        let entry = table.all.entry(key.keys[0].clone()).or_default();
        let before = entry.breaker.epoch();
        let (answer, news) = step(&mut entry.breaker, time::now().0 / 1_000);
        if news.epoch != before {
            entry.news.send_replace(news);
        }
        answer
    }

    pub(super) fn news(&self, key: &Key) -> watch::Receiver<News> {
        let mut table = self.table();
        table.forget_unused(time::now().0 / 1_000);
        let entry = table.all.entry(key.keys[0].clone()).or_default();
        entry.news.subscribe()
    }
}

impl Table {
    /// What nobody shares, and is not open.
    fn forget_unused(&mut self, now: u64) {
        if !self.unused.is_due(self.all.len()) {
            return;
        }
        let is_used = |it: &Entry| it.news.receiver_count() > 0 || it.breaker.is_kept_open(now);
        self.all.retain(|_, it| is_used(it));
        self.unused.has_looked(self.all.len());
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
                    let args = report_args(key, rules, report);
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
                    let args = args("lease", key, &[seen, length]);
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
                    let args = args("probed", key, &[seen, failed_for]);
                    let reply = redis.eval(&BREAKER, &key.keys, &args, key.within).await?;
                    news(&reply)
                }
            }
        })
    }

    fn listen(&self, key: &Key) -> Listener {
        match &self.backend {
            Backend::InProcess(it) => Listener::InProcess(it.breakers.news(key)),
            Backend::Redis(redis) => Listener::Inbox(redis.inbox(), key.mark()),
        }
    }
}

pub(super) static BREAKER: Script = Script::new("breaker", include_str!("lua/breaker.lua"));

pub(super) fn report_args(key: &Key, rules: Rules, report: Report) -> Vec<Vec<u8>> {
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
    args("report", key, &numbers)
}

pub(super) fn args(operation: &str, key: &Key, numbers: &[u64]) -> Vec<Vec<u8>> {
    // The server's own time.
    let words = ["", operation, &key.node, &key.channel];
    let words = words.map(|it| it.as_bytes().to_vec());
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
