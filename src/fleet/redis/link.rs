//! The one connection for commands: whether it stands, and who notices when it does not.
//!
//! A call never makes a connection. It takes the one that stands, or is told at once that there is none; a task makes the
//! next one. Only while the first attempt after a connection was closed is under way do calls wait for it, because servers
//! and proxies close connections that are idle.
//!
//! The client library keeps a connection that answers nothing (a host that lost power, a proxy that forgot it), and one
//! to a primary that has become a replica, or is cut off from its own. So five calls in a row without an answer, or one
//! answer `READONLY`, `NOREPLICAS` or `MASTERDOWN`, end it. A call that had less time than others does not count: the task
//! asks then.
//!
//! A cluster is many connections, of which one may be lost. The library replaces those that were closed. After five calls in
//! a row without an answer, for keys that are counted together, all of them are made anew: at most once a second, and calls
//! wait for it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use redis::{Cmd, PushInfo, PushKind, RedisResult, Value};
use tokio::select;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, timeout_at};

use super::super::error::{ConnectError, StoreError};
use super::super::reporter::Reporter;
use super::checks::Server;
use super::connection::Connection;
use super::failure;
use super::open::Opener;
use crate::event::FleetEvent;
use crate::util::time::{self, Tick};

/// So many calls in a row without an answer end a connection.
const UNANSWERED: u32 = 5;

/// Calls to a cluster are counted by their key, in so many counters: answers of one node say nothing of another.
const LANES: usize = 16;

/// The connections to a cluster are not made anew more often than this.
const CLUSTER_PAUSE: Duration = Duration::from_secs(1);

/// A connection that nobody used for this long is asked whether it stands.
const IDLE: Duration = Duration::from_secs(2);

/// Between attempts to connect, growing from the first to the last, and varied by half to keep processes apart.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// A connection that ends before this did not last.
const LASTS: Duration = Duration::from_millis(250);

/// So many that do not last are followed by another at once.
const FORGIVEN: u32 = 5;

pub(super) struct Link {
    state: watch::Sender<State>,
    unanswered: [AtomicU32; LANES],
    /// Answers, of whatever kind: how the task sees that the connection is in use.
    answers: AtomicU64,
    /// Tells the task that a call was not answered.
    suspicion: Notify,
    /// For questions of the task itself.
    pub(super) patience: Duration,
    pub(super) reporter: Arc<Reporter>,
}

#[derive(Clone)]
pub(super) enum State {
    Up(Up),
    Down(Down),
}

#[derive(Clone)]
pub(super) struct Up {
    connection: Connection,
    /// Which connection this is. What is said of an earlier one is not held against it.
    pub(super) number: u64,
    pub(super) server: Server,
    pub(super) since: Tick,
}

#[derive(Clone)]
pub(super) struct Down {
    pub(super) since: Tick,
    pub(super) why: StoreError,
    /// The next connection is being made, and nothing speaks against it yet: worth waiting for.
    promising: bool,
    /// The number of the last connection.
    pub(super) number: u64,
}

impl Link {
    pub(super) fn new(patience: Duration, reporter: Arc<Reporter>) -> Self {
        let down = Down {
            since: time::now(),
            why: StoreError::Unavailable("no connection has been made yet".to_owned()),
            promising: true,
            number: 0,
        };
        Self {
            state: watch::Sender::new(State::Down(down)),
            unanswered: Default::default(),
            answers: AtomicU64::new(0),
            suspicion: Notify::new(),
            patience,
            reporter,
        }
    }

    /// How it stands, and how that changes.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn unanswered(&self) -> u32 {
        let lanes = self.unanswered.iter().map(|it| it.load(Relaxed));
        lanes.max().unwrap_or(0)
    }

    /// Asks the server that has this key, and never waits longer than `within`.
    pub(super) async fn ask<F>(
        &self,
        what: &str,
        key: &str,
        within: Duration,
        question: impl FnOnce(Connection) -> F,
    ) -> Result<Value, StoreError>
    where
        F: Future<Output = RedisResult<Value>>,
    {
        let deadline = time::now().after(within).to_instant();
        let up = match timeout_at(deadline, self.connection()).await {
            Ok(up) => up?,
            Err(_) => return Err(self.why_down()),
        };
        let cluster = up.connection.is_cluster();
        let lane = if cluster { lane(key) } else { 0 };
        let Ok(answer) = timeout_at(deadline, question(up.connection)).await else {
            if cluster || within >= self.patience {
                self.was_not_answered(up.number, lane);
            } else {
                // It had hardly any time: that says nothing. The task asks.
                self.suspicion.notify_one();
            }
            return Err(StoreError::Deadline);
        };
        let Err(error) = answer else {
            self.was_answered(lane);
            return answer.map_err(|error| failure::of_call(&error, what));
        };
        let failed = match cluster {
            true => failure::of_cluster_call(&error, what),
            false => failure::of_call(&error, what),
        };
        match &failed {
            // The library reconnects to the node by itself; if that goes on failing, all connections are made anew.
            StoreError::Disconnected(_) | StoreError::Deadline if cluster => {
                self.was_not_answered(up.number, lane);
            }
            // It asks where the keys are now by itself, too.
            StoreError::ReadOnly if cluster => self.was_not_answered(up.number, lane),
            StoreError::Disconnected(_) => self.end(up.number, &failed, true),
            StoreError::ReadOnly => self.end(up.number, &failed, false),
            // The sentinels may know another primary by now, or will.
            _ if !cluster && failure::is_cut_off(&error) => self.end(up.number, &failed, false),
            _ if error.is_unrecoverable_error() => self.end(up.number, &failed, true),
            _ => self.was_answered(lane),
        }
        Err(failed)
    }

    /// The connection that stands, or the reason why there is none.
    async fn connection(&self) -> Result<Up, StoreError> {
        match &*self.state.borrow() {
            State::Up(up) => return Ok(up.clone()),
            State::Down(down) if !down.promising => return Err(down.unavailable()),
            State::Down(_) => {}
        }
        let mut watch = self.watch();
        let decided = |state: &State| !matches!(state, State::Down(down) if down.promising);
        match watch.wait_for(decided).await.as_deref() {
            Ok(State::Up(up)) => Ok(up.clone()),
            Ok(State::Down(down)) => Err(down.unavailable()),
            // The sender is in `self`.
            Err(_) => Err(self.why_down()),
        }
    }

    fn why_down(&self) -> StoreError {
        match self.state() {
            State::Down(down) => down.unavailable(),
            State::Up(_) => StoreError::Unavailable("it has just come back".to_owned()),
        }
    }

    fn was_answered(&self, lane: usize) {
        self.answers.fetch_add(1, Relaxed);
        if self.unanswered[lane].load(Relaxed) != 0 {
            self.unanswered[lane].store(0, Relaxed);
        }
    }

    fn was_not_answered(&self, number: u64, lane: usize) {
        let (cluster, since) = match &*self.state.borrow() {
            State::Up(up) if up.number == number => (up.connection.is_cluster(), up.since),
            _ => return,
        };
        if self.unanswered[lane].fetch_add(1, Relaxed) + 1 < UNANSWERED {
            self.suspicion.notify_one();
        } else if !cluster || time::now().since(since) >= CLUSTER_PAUSE {
            let why = format!("{UNANSWERED} calls in a row have not been answered");
            self.end(number, &StoreError::Unavailable(why), cluster);
        }
    }

    /// Gives the connection of this number up.
    fn end(&self, number: u64, why: &StoreError, promising: bool) {
        let ended = self.state.send_if_modified(|state| match state {
            State::Up(up) if up.number == number => {
                *state = State::Down(Down {
                    since: time::now(),
                    why: why.clone(),
                    promising,
                    number,
                });
                true
            }
            _ => false,
        });
        if ended {
            let reason = why.to_string();
            self.reporter.tell(FleetEvent::Disconnected { reason });
        }
    }

    fn has_begun(&self, connection: Connection, server: Server) -> u64 {
        let (mut number, mut after) = (0, Duration::ZERO);
        let version = server.version.clone();
        for lane in &self.unanswered {
            lane.store(0, Relaxed);
        }
        self.state.send_modify(|state| {
            let since = time::now();
            number = 1 + match state {
                State::Up(up) => up.number,
                State::Down(down) => {
                    after = since.since(down.since);
                    down.number
                }
            };
            *state = State::Up(Up {
                connection,
                number,
                server,
                since,
            });
        });
        let server = version;
        self.reporter.tell(FleetEvent::Connected { server, after });
        number
    }

    /// The next connection is not being made yet.
    fn is_not_worth_waiting_for(&self) {
        self.state.send_if_modified(|state| match state {
            State::Down(down) => std::mem::replace(&mut down.promising, false),
            State::Up(_) => false,
        });
    }

    fn could_not_begin(&self, error: ConnectError) {
        let why = StoreError::from(error);
        self.state.send_modify(|state| {
            if let State::Down(down) = state {
                down.promising = false;
                down.why = why;
            }
        });
    }
}

impl Down {
    /// What a call is told that was not sent: nothing has been done.
    fn unavailable(&self) -> StoreError {
        match &self.why {
            StoreError::Disconnected(why) => StoreError::Unavailable(why.clone()),
            why if why.may_have_been_done() => StoreError::Unavailable(why.to_string()),
            why => why.clone(),
        }
    }
}

/// Makes the connection, and makes it anew whenever it has ended. `first` is told how the first attempt has ended.
pub(super) async fn keep(
    link: Arc<Link>,
    opener: Arc<Opener>,
    first: oneshot::Sender<Result<(), ConnectError>>,
) {
    let mut first = Some(first);
    let mut lives = Lives::default();
    loop {
        let (number, pushes) = make(&link, &opener, &mut first).await;
        let began = time::now();
        tend(&link, number, pushes).await;
        if let Some(pause) = lives.pause(time::now().since(began)) {
            link.is_not_worth_waiting_for();
            sleep(pause).await;
        }
    }
}

/// How many connections in a row did not last.
#[derive(Default)]
pub(super) struct Lives {
    short: u32,
}

impl Lives {
    /// How long to wait before the next one is made. By itself it is made at once; but where they end as soon as they stand,
    /// every process of a fleet would make hundreds a second.
    pub(super) fn pause(&mut self, lived: Duration) -> Option<Duration> {
        if lived >= LASTS {
            self.short = 0;
            return None;
        }
        self.short = self.short.saturating_add(1);
        let doublings = self.short.checked_sub(FORGIVEN)?.min(3);
        Some(varied((PAUSE.0 * 2_u32.pow(doublings)).min(PAUSE.1)))
    }
}

/// Tries until a connection stands.
async fn make(
    link: &Link,
    opener: &Opener,
    first: &mut Option<oneshot::Sender<Result<(), ConnectError>>>,
) -> (u64, UnboundedReceiver<PushInfo>) {
    let mut pause = PAUSE.0;
    loop {
        let (sender, pushes) = unbounded_channel();
        let (made, told) = match opener.commands(sender).await {
            Ok((connection, server)) => (Some(link.has_begun(connection, server)), Ok(())),
            Err(error) => {
                tracing::debug!(target: "tower_bulwark", %error, "the shared store could not be connected");
                link.could_not_begin(error.clone());
                (None, Err(error))
            }
        };
        if let Some(first) = first.take() {
            // Nobody waits for it if the fleet connects in the background.
            let _ = first.send(told);
        }
        if let Some(number) = made {
            return (number, pushes);
        }
        sleep(varied(pause)).await;
        pause = (pause * 3 / 2).min(PAUSE.1);
    }
}

/// Between half and one and a half of it.
pub(super) fn varied(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>())
}

/// Looks after a connection until it has ended.
async fn tend(link: &Link, number: u64, mut pushes: UnboundedReceiver<PushInfo>) {
    let mut watch = link.watch();
    let ended = |state: &State| !matches!(state, State::Up(up) if up.number == number);
    let closed = StoreError::Disconnected("the server has closed it".to_owned());
    // A cluster pushes nothing, and that one node answers says nothing of the others: there, only calls find out.
    let mut pushing = true;
    loop {
        let seen = link.answers.load(Relaxed);
        select! {
            () = async { drop(watch.wait_for(ended).await) } => return,
            push = pushes.recv(), if pushing => match push {
                Some(push) if push.kind == PushKind::Disconnection => link.end(number, &closed, true),
                Some(_) => {}
                None => pushing = false,
            },
            () = link.suspicion.notified(), if pushing => probe(link).await,
            () = sleep(IDLE), if pushing => if link.answers.load(Relaxed) == seen {
                probe(link).await;
            },
        }
    }
}

/// Which counter a key is counted in.
fn lane(key: &str) -> usize {
    let hash = key.bytes().fold(0_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    hash as usize % LANES
}

/// Asks whether the server is there. What comes of it is noted as for any call, so that a process with few calls finds
/// out as soon as one with many.
async fn probe(link: &Link) {
    let asked = link.ask("PING", "", link.patience, |mut connection| async move {
        connection.send(&Cmd::new().arg("PING").to_owned()).await
    });
    let _: Result<_, StoreError> = asked.await;
}
