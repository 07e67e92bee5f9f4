//! What all readers share: one look at the registry for all of them, and only while somebody reads.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::authorize::Authorize;
use super::groups::{Named, PAUSE};
use super::history::History;
use super::log::{Events, Log, Said, news, unix_millis};
use super::readers::Readers;
use super::table::Level;
use super::view::{Look, RowSettings, View, headline, problems};
use crate::registry::Registry;
use crate::util::time::{self, RealClock, Tick};

/// So long the first reader waits for a group to be looked through; a large one is shown when it has been.
const FIRST_LOOK: Duration = Duration::from_millis(200);

pub(super) struct Hub {
    pub(super) registry: Registry,
    pub(super) title: String,
    pub(super) groups: Vec<Arc<Named>>,
    pub(super) rows: usize,
    pub(super) interval: Duration,
    pub(super) authorize: Option<Box<dyn Authorize>>,
    pub(super) readers: Readers,
    /// `true` when the dashboard is closed.
    pub(super) closed: watch::Sender<bool>,
    started: Tick,
    epoch: String,
    latest: tokio::sync::Mutex<Option<Arc<Frame>>>,
    memory: Mutex<Memory>,
}

/// What is remembered from look to look.
#[derive(Default)]
struct Memory {
    sequence: u64,
    /// How long the last state took to make.
    took: Duration,
    history: History,
    log: Log,
    settings: Arc<str>,
    settings_version: String,
}

/// One state, as every reader gets it.
#[derive(Debug)]
pub(super) struct Frame {
    at: Tick,
    /// How long it took to make.
    took: Duration,
    pub(super) sequence: u64,
    pub(super) state: String,
    pub(super) events: Events,
}

/// There is no state: looking at a handle has panicked, or the runtime shuts down.
#[derive(Debug)]
pub(super) struct NoFrame;

/// What a hub is made of.
pub(super) struct Parts {
    pub(super) registry: Registry,
    pub(super) title: String,
    pub(super) groups: Vec<Arc<Named>>,
    pub(super) rows: usize,
    pub(super) readers: usize,
    pub(super) interval: Duration,
    pub(super) authorize: Option<Box<dyn Authorize>>,
}

impl Hub {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            registry: parts.registry,
            title: parts.title,
            groups: parts.groups,
            rows: parts.rows,
            interval: parts.interval,
            authorize: parts.authorize,
            readers: Readers::new(parts.readers),
            closed: watch::Sender::new(false),
            started: time::now(),
            // Two keys of random numbers: unlike those of any other process.
            epoch: format!(
                "{:016x}",
                RandomState::new().hash_one(unix_millis(time::wall_clock()))
            ),
            latest: tokio::sync::Mutex::new(None),
            memory: Mutex::default(),
        }
    }

    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, no older than the interval, or than nine times what it takes to make it.
    pub(super) async fn frame(self: &Arc<Self>) -> Result<Arc<Frame>, NoFrame> {
        // One makes it, the others wait for it here. Who goes away meanwhile leaves the work to the next.
        let mut latest = self.latest.lock().await;
        if let Some(frame) = &*latest {
            let fresh_for = self.interval.max(frame.took * PAUSE);
            if time::now().since(frame.at) < fresh_for {
                return Ok(Arc::clone(frame));
            }
        }
        self.look_at_groups().await;
        let hub = Arc::clone(self);
        let frame = spawn_blocking(move || hub.make());
        let frame = Arc::new(frame.await.map_err(|_| NoFrame)?);
        *latest = Some(Arc::clone(&frame));
        Ok(frame)
    }

    /// Has the groups looked through that were not for a while, each on a thread for what blocks. Small ones are done before
    /// it returns.
    async fn look_at_groups(&self) {
        let mut looks = Vec::new();
        for group in &self.groups {
            if group.wants_a_look(self.interval) {
                let (group, rows) = (Arc::clone(group), self.rows);
                looks.push(spawn_blocking(move || group.look(rows)));
            }
        }
        let all = async {
            for look in looks {
                // A look that panicked shows what was seen before.
                let _ = look.await;
            }
        };
        let _ = tokio::time::timeout(FIRST_LOOK, all).await;
    }

    /// Remembers a command. Waits while a state is made: for threads that may block.
    pub(super) fn say(&self, said: Said) {
        self.memory().log.say(said);
    }

    /// The next state is a new one: something was changed.
    pub(super) async fn forget_frame(&self) {
        *self.latest.lock().await = None;
    }

    fn make(&self) -> Frame {
        let clock = RealClock::from_now();
        let start = clock.now();
        let now = time::now();
        let mut memory = self.memory();
        let memory = &mut *memory;
        memory.log.follow(self.registry.feed());
        let look = Look::begin(&mut memory.history, now, self.rows);
        let seen = look.at(&self.registry, &self.groups);
        if let Some(settings) = &seen.settings {
            memory.settings = json(settings).into();
            memory.settings_version = version(settings);
        }
        memory.sequence += 1;
        let (problems, more_problems) = problems(&seen);
        let view = View {
            epoch: &self.epoch,
            sequence: memory.sequence,
            sample: memory.history.number(),
            at: unix_millis(time::wall_clock()),
            title: &self.title,
            next_seconds: self.interval.max(memory.took * PAUSE).as_secs_f64(),
            up_seconds: now.since(self.started).as_secs_f64(),
            commands: self.authorize.is_some(),
            settings_version: memory.settings_version.clone(),
            headline: headline(&problems, more_problems, &seen.tables),
            level: problems.first().map_or(Level::Ok, |it| it.level),
            problems,
            more_problems,
            tables: seen.tables,
            graph: seen.graph,
            said: memory.log.commands(),
            dropped_events: self.registry.feed().dropped(),
        };
        let state = json(&view);
        memory.took = clock.now().since(start);
        Frame {
            sequence: memory.sequence,
            state,
            events: memory.log.events(),
            at: now,
            took: memory.took,
        }
    }

    /// A whole document: the state, the settings of all rows, the curves, and the events.
    pub(super) async fn document(self: &Arc<Self>) -> Result<String, NoFrame> {
        let frame = self.frame().await?;
        let hub = Arc::clone(self);
        // The next state may be in the making, and this waits for it.
        let document = spawn_blocking(move || hub.document_of(&frame));
        document.await.map_err(|_| NoFrame)
    }

    fn document_of(&self, frame: &Frame) -> String {
        let memory = self.memory();
        let settings = Arc::clone(&memory.settings);
        let history = json(&memory.history.points());
        drop(memory);
        let events = news(&frame.events, None);
        let events = events.map_or_else(|| r#"{"missed":0,"entries":[]}"#.into(), |it| it.0);
        let settings = if settings.is_empty() {
            "[]"
        } else {
            &*settings
        };
        let state = &frame.state;
        format!(
            r#"{{"state":{state},"settings":{settings},"history":{history},"events":{events}}}"#
        )
    }
}

/// Plain data: there is nothing in it that has no JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

fn version(settings: &[RowSettings]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    settings.hash(&mut hasher);
    format!("{:x}", hasher.finish())
}
