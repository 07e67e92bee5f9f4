//! Where the slots are kept: in this process, or on a server. Every operation is one step of it.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::error::StoreError;
use super::super::redis::{Inbox, News, Redis, Script};
use super::super::unused::Unused;
use super::core::{Clock, SemCore};
use super::op::{Answer, Handoff, Micros, Op};
use super::{scripts, wire};
use crate::util::time;

pub(super) type Asked<'a> = Pin<Box<dyn Future<Output = Result<Answer, StoreError>> + Send + 'a>>;

/// The store of one lock. What has timed out or was dropped may still be done.
pub(super) trait LockStore: Send + Sync + 'static {
    fn ask<'a>(&'a self, op: &'a Op, within: Duration) -> Asked<'a>;

    /// The messages to this process from here on.
    fn ear(&self) -> Ear;
}

/// Messages of hand-offs. Nothing depends on them but speed.
pub(super) enum Ear {
    InProcess(UnboundedReceiver<Handoff>),
    Redis(Inbox),
}

pub(super) enum Heard {
    Handoff(Handoff),
    /// Some may have been lost.
    Gap,
}

impl Ear {
    /// Cancel-safe. Pending for ever once there is nothing more to come.
    pub(super) async fn next(&mut self) -> Heard {
        match self {
            Self::InProcess(messages) => match messages.recv().await {
                Some(handoff) => Heard::Handoff(handoff),
                None => pending().await,
            },
            Self::Redis(inbox) => loop {
                match inbox.next().await {
                    Some(News::Own(message)) => {
                        let text = std::str::from_utf8(&message).unwrap_or_default();
                        if let Some(handoff) = wire::handoff("", text) {
                            return Heard::Handoff(handoff);
                        }
                    }
                    Some(News::Common(_)) => {}
                    Some(News::Gap) => return Heard::Gap,
                    None => return pending().await,
                }
            },
        }
    }
}

/// The locks of one process: a cheap clone of what all share.
#[derive(Clone, Default)]
pub(in super::super) struct InProcess(Arc<Mutex<Names>>);

#[derive(Default)]
struct Names {
    all: HashMap<Arc<str>, Named>,
    unused: Unused,
}

impl Names {
    fn forget_unused(&mut self) {
        if !self.unused.is_due(self.all.len()) {
            return;
        }
        let now = micros_now();
        self.all.retain(|_, it| {
            it.ears.retain(|ear| !ear.1.is_closed());
            !it.ears.is_empty() || !it.core.says_nothing(now)
        });
        self.unused.has_looked(self.all.len());
    }
}

fn micros_now() -> Micros {
    Micros::try_from(time::now().0 / 1_000).unwrap_or(Micros::MAX)
}

struct Named {
    core: SemCore,
    ears: Vec<(Arc<str>, UnboundedSender<Handoff>)>,
}

impl InProcess {
    #[cfg(test)]
    pub(in super::super) fn names(&self) -> usize {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.all.len()
    }

    fn named<T>(&self, name: &Arc<str>, f: impl FnOnce(&mut Named) -> T) -> T {
        let mut names: MutexGuard<'_, _> = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.all.contains_key(name) {
            names.forget_unused();
        }
        let named = names.all.entry(Arc::clone(name)).or_insert_with(|| Named {
            core: SemCore::new(),
            ears: Vec::new(),
        });
        f(named)
    }
}

/// One lock of this process, for one node.
#[derive(Clone)]
pub(super) struct InProcessStore {
    pub(super) locks: InProcess,
    pub(super) name: Arc<str>,
    pub(super) inbox: Arc<str>,
}

impl LockStore for InProcessStore {
    fn ask<'a>(&'a self, op: &'a Op, _within: Duration) -> Asked<'a> {
        Box::pin(async move {
            let clock = Clock {
                now: micros_now(),
                history: 0,
            };
            Ok(self.locks.named(&self.name, |named| {
                let answer = named.core.apply(op, clock);
                named.ears.retain(|it| !it.1.is_closed());
                for handoff in named.core.take_handoffs() {
                    for (inbox, ear) in &named.ears {
                        if **inbox == *handoff.inbox {
                            let _ = ear.send(handoff.clone());
                        }
                    }
                }
                answer
            }))
        })
    }

    fn ear(&self) -> Ear {
        let (sender, receiver) = unbounded_channel();
        let inbox = Arc::clone(&self.inbox);
        self.locks
            .named(&self.name, |named| named.ears.push((inbox, sender)));
        Ear::InProcess(receiver)
    }
}

/// One lock on a server.
pub(super) struct RedisStore {
    pub(super) redis: Redis,
    pub(super) name: Arc<str>,
    pub(super) keys: [String; 4],
}

macro_rules! statics {
    ($op:expr, $($pattern:pat => $source:ident),+ $(,)?) => {
        match $op {
            $($pattern => {
                static SCRIPT: Script = Script::new(scripts::$source.0, scripts::$source.1);
                &SCRIPT
            })+
        }
    };
}

fn script(op: &Op) -> &'static Script {
    statics!(op,
        Op::Acquire { .. } => ACQUIRE,
        Op::Release(_) => RELEASE,
        Op::Cancel(_) => CANCEL,
        Op::Renew(_) => RENEW,
        Op::Beat(_) => BEAT,
        Op::Resize { .. } => RESIZE,
        Op::List => LIST,
    )
}

impl LockStore for RedisStore {
    fn ask<'a>(&'a self, op: &'a Op, within: Duration) -> Asked<'a> {
        Box::pin(async move {
            let args = wire::args(op, "", &self.name);
            let value: Value = self
                .redis
                .eval(script(op), &self.keys, &args, within)
                .await?;
            wire::answer(op, value).map_err(StoreError::Data)
        })
    }

    fn ear(&self) -> Ear {
        Ear::Redis(self.redis.inbox())
    }
}
