use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::task::yield_now;

use super::super::handle::FleetLock;
use super::super::op::{Op, Reply};
use super::super::settings::Settings;
use super::super::shared::Place;
use super::super::store::{Asked, Ear, InProcess, InProcessStore, LockStore};
use crate::fleet::StoreError;
use crate::fleet::reporter::Reporter;

/// What a store does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Up,
    /// It says no at once.
    Down,
    /// It does nothing, and does not answer.
    Hang,
    /// It does what is asked, and does not answer.
    Swallow,
    /// It does not answer, and does what was asked so many milliseconds later.
    Late(u64),
    /// It answers after so many milliseconds, half of them before it is done.
    Slow(u64),
}

#[derive(Clone)]
pub(super) struct Faults(Arc<Mutex<(Mode, bool)>>);

impl Faults {
    pub(super) fn set(&self, mode: Mode) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = mode;
    }

    fn get(&self) -> (Mode, bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Faulty {
    inner: InProcessStore,
    faults: Faults,
}

impl LockStore for Faulty {
    fn ask<'a>(&'a self, op: &'a Op, within: Duration) -> Asked<'a> {
        Box::pin(async move {
            yield_now().await;
            let answer = match self.faults.get().0 {
                Mode::Up => self.inner.ask(op, within).await,
                Mode::Down => Err(StoreError::Unavailable("it is down".to_owned())),
                Mode::Hang => std::future::pending().await,
                Mode::Swallow => {
                    let _ = self.inner.ask(op, within).await;
                    std::future::pending().await
                }
                Mode::Late(ms) => {
                    let (inner, op) = (self.inner.clone(), op.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        inner.ask(&op, within).await
                    });
                    std::future::pending().await
                }
                Mode::Slow(ms) => {
                    let half = Duration::from_millis(ms) / 2;
                    tokio::time::sleep(half).await;
                    let answer = self.inner.ask(op, within).await;
                    tokio::time::sleep(half).await;
                    answer
                }
            };
            yield_now().await;
            answer
        })
    }

    fn ear(&self) -> Ear {
        if self.faults.get().1 {
            // Nobody sends here, and nothing ends.
            let (sender, receiver) = unbounded_channel();
            std::mem::forget(sender);
            return Ear::InProcess(receiver);
        }
        self.inner.ear()
    }
}

/// A process of its own, for the lock: its own node, agent and connection.
pub(super) struct Node {
    pub(super) lock: FleetLock,
    pub(super) faults: Faults,
}

impl Node {
    /// Nothing of it runs any more, and nothing is said.
    pub(super) async fn die(&self) {
        let nothing = tokio::spawn(std::future::pending());
        let agent = &self.lock.owner.0.agent;
        let agent = agent.lock().unwrap().replace(nothing);
        agent.unwrap().abort();
        settle().await;
    }
}

/// Many processes, one store.
#[derive(Clone, Default)]
pub(super) struct World {
    locks: InProcess,
}

impl World {
    pub(super) fn node(&self, node: &str, set: impl FnOnce(&mut Settings)) -> Node {
        self.with(node, false, set)
    }

    /// No message reaches it.
    pub(super) fn deaf_node(&self, node: &str, set: impl FnOnce(&mut Settings)) -> Node {
        self.with(node, true, set)
    }

    /// Its calls wait so long for their answers.
    pub(super) fn patient_node(
        &self,
        node: &str,
        call_timeout: Duration,
        set: impl FnOnce(&mut Settings),
    ) -> Node {
        self.over(node, false, call_timeout, set)
    }

    fn with(&self, node: &str, is_deaf: bool, set: impl FnOnce(&mut Settings)) -> Node {
        self.over(node, is_deaf, Duration::from_millis(100), set)
    }

    fn over(
        &self,
        node: &str,
        is_deaf: bool,
        call_timeout: Duration,
        set: impl FnOnce(&mut Settings),
    ) -> Node {
        let mut settings = Settings::default();
        set(&mut settings);
        settings.check().unwrap();
        let faults = Faults(Arc::new(Mutex::new((Mode::Up, is_deaf))));
        let store = Faulty {
            inner: self.store(node),
            faults: faults.clone(),
        };
        let place = Place {
            reporter: Reporter::of_a_test(),
            name: "gpu".into(),
            node: node.into(),
            inbox: node.into(),
            call_timeout,
        };
        let lock = FleetLock::over(place, settings, Box::new(store), None).unwrap();
        Node { lock, faults }
    }

    pub(super) fn store(&self, node: &str) -> InProcessStore {
        InProcessStore {
            locks: self.locks.clone(),
            name: "gpu".into(),
            inbox: node.into(),
        }
    }

    /// How many hold and wait, by the store.
    pub(super) async fn count(&self) -> (usize, usize) {
        let answer = self.store("nobody").ask(&Op::List, Duration::ZERO).await;
        match answer.unwrap().reply {
            Reply::Listed(listed) => (listed.held.len(), usize::try_from(listed.waiting).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// Lets every task do what it can do now.
pub(super) async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
