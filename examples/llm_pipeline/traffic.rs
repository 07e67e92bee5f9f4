//! The prompts, sent by as many workers as there may be prompts on their way, and what became of each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tower::{Service, ServiceExt};
use tower_bulwark::Error;

use crate::client::{Endpoint, Prompt, Reply};
use crate::support::clock::Stopwatch;

/// All prompts of one run.
#[derive(Debug)]
pub struct Traffic {
    pub endpoint: Arc<Endpoint>,
    pub prompts: u64,
    next: AtomicU64,
    tally: Mutex<Tally>,
}

/// What became of the prompts so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub at_fault: u64,
    pub lost: BTreeMap<Loss, u64>,
    /// The first answers, by prompt.
    pub answers: Vec<(u64, String)>,
    /// The first that were not answered, and why.
    pub losses: Vec<(u64, String)>,
}

/// Why a prompt was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    Throttled,
    ServerError,
    Connection,
    TimedOut,
    Refused,
    WrongAnswer,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throttled => "throttled (429)",
            Self::ServerError => "server error (5xx)",
            Self::Connection => "connection broken",
            Self::TimedOut => "timed out",
            Self::Refused => "refused by a layer",
            Self::WrongAnswer => "wrong answer",
        })
    }
}

enum End {
    Answered(String),
    /// The request itself is at fault.
    AtFault(String),
    Lost(Loss, String),
}

impl Tally {
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    pub fn ended(&self) -> u64 {
        self.answered + self.at_fault + self.lost()
    }

    fn count(&mut self, prompt: u64, end: End) {
        const SAMPLES: usize = 8;
        let (samples, words) = match end {
            End::Answered(words) => {
                self.answered += 1;
                (&mut self.answers, words)
            }
            End::AtFault(words) => {
                self.at_fault += 1;
                (&mut self.losses, words)
            }
            End::Lost(loss, words) => {
                *self.lost.entry(loss).or_default() += 1;
                (&mut self.losses, words)
            }
        };
        if samples.len() < SAMPLES {
            samples.push((prompt, words));
        }
    }
}

impl Traffic {
    pub fn new(endpoint: Endpoint, prompts: u64) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            prompts,
            next: AtomicU64::new(0),
            tally: Mutex::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tally(&self) -> Tally {
        self.counts().clone()
    }

    fn end_of(&self, prompt: u64, result: Result<Reply, Error<reqwest::Error>>) -> End {
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => return End::Lost(loss(&error), crate::report::chain(&error)),
        };
        let status = reply.status;
        if status.is_success() {
            return match self.endpoint.answer(prompt, &reply) {
                Some(answer) => End::Answered(answer),
                None => End::Lost(Loss::WrongAnswer, "not an answer to this prompt".into()),
            };
        }
        if reply.is_throttled() {
            End::Lost(Loss::Throttled, status.to_string())
        } else if status.is_server_error() {
            End::Lost(Loss::ServerError, status.to_string())
        } else {
            End::AtFault(status.to_string())
        }
    }
}

fn loss(error: &Error<reqwest::Error>) -> Loss {
    match error.as_inner() {
        _ if error.is_rejection() => Loss::Refused,
        Some(inner) if !inner.is_timeout() => Loss::Connection,
        // An attempt that took too long has no error of its own.
        Some(_) | None => Loss::TimedOut,
    }
}

/// Sends all prompts, so many at once; how long it took.
pub async fn send_all<S>(
    traffic: &Arc<Traffic>,
    service: S,
    concurrency: u16,
) -> Result<Duration, JoinError>
where
    S: Service<Prompt, Response = Reply, Error = Error<reqwest::Error>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let watch = Stopwatch::start();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        workers.spawn(work(Arc::clone(traffic), service.clone()));
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    Ok(watch.elapsed())
}

async fn work<S>(traffic: Arc<Traffic>, service: S)
where
    S: Service<Prompt, Response = Reply, Error = Error<reqwest::Error>> + Clone,
{
    loop {
        let prompt = traffic.next.fetch_add(1, Ordering::Relaxed);
        if prompt >= traffic.prompts {
            return;
        }
        let asked = Prompt(prompt);
        let result = asked.named(service.clone().oneshot(asked)).await;
        let end = traffic.end_of(prompt, result);
        traffic.counts().count(prompt, end);
    }
}
