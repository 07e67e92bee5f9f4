//! What is shown now: made at most once an interval, however many look, and only while somebody does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep_until};

use super::groups::Groups;
use super::view::{self, Seen};
use super::words::ms;
use crate::registry::Registry;
use crate::util::time::{self, Tick};

pub(super) struct Live {
    registry: Registry,
    title: String,
    groups: Arc<Groups>,
    commands: bool,
    every: Duration,
    most_readers: usize,
    /// Which run of the program this is: a page that sees another begins anew.
    instance: String,
    began: Tick,
    readers: AtomicUsize,
    last: Mutex<Last>,
    told: Mutex<Told>,
}

/// What was shown last, and what it was made of.
#[derive(Default)]
struct Last {
    shown: Option<(Tick, Bytes)>,
    seen: Seen,
}

/// The last commands, for the page.
#[derive(Default)]
struct Told {
    all: u64,
    last: VecDeque<(u64, Tick, String, String)>,
}

const MOST_COMMANDS: usize = 20;

pub(super) struct Settings {
    pub(super) title: String,
    pub(super) groups: Groups,
    pub(super) commands: bool,
    pub(super) every: Duration,
    pub(super) most_readers: usize,
}

impl Live {
    pub(super) fn new(registry: Registry, settings: Settings) -> Self {
        Self {
            registry,
            title: settings.title,
            groups: Arc::new(settings.groups),
            commands: settings.commands,
            every: settings.every,
            most_readers: settings.most_readers,
            instance: format!("{:016x}", rand::rng().next_u64()),
            began: time::now(),
            readers: AtomicUsize::new(0),
            last: Mutex::default(),
            told: Mutex::default(),
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What is shown, at most an interval old.
    pub(super) fn json(&self) -> Bytes {
        let now = time::now();
        // Those who come while it is made want the same.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, json)) = &last.shown
            && now.since(*at) < self.every
        {
            return json.clone();
        }
        let groups = self.groups.rows(now);
        let mut whole = view::view(&self.registry, &groups, &mut last.seen, now);
        let about = json!({
            "title": self.title,
            "instance": self.instance,
            "uptime_ms": ms(now.since(self.began)),
            "every_ms": ms(self.every),
            "commands": self.commands,
            "groups": groups,
            "operators": self.operators(now),
        });
        if let (Value::Object(whole), Value::Object(about)) = (&mut whole, about) {
            whole.extend(about);
        }
        let json = Bytes::from(whole.to_string());
        last.shown = Some((now, json.clone()));
        json
    }

    /// An operator has changed something: what is shown next is made anew.
    pub(super) fn commanded(&self, operator: &str, text: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.all += 1;
        let entry = (told.all, time::now(), operator.to_owned(), text);
        told.last.push_front(entry);
        told.last.truncate(MOST_COMMANDS);
        drop(told);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.shown = None;
    }

    /// The last commands, the newest first.
    fn operators(&self, now: Tick) -> Vec<Value> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = told.last.iter().map(|(number, at, operator, text)| {
            json!({ "number": number, "age_ms": ms(now.since(*at)), "operator": operator, "text": text })
        });
        entries.collect()
    }

    /// A stream of what is shown, for one more reader; `None` if there are too many.
    pub(super) fn stream(self: &Arc<Self>) -> Option<Events> {
        let most = self.most_readers;
        let more = |n: usize| (n < most).then_some(n + 1);
        let counted = self
            .readers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok()?;
        Some(Events {
            live: Arc::clone(self),
            next: Box::pin(sleep_until(time::now().to_instant())),
            begun: false,
        })
    }
}

/// Server-sent events, one a state. Each is made when the connection takes it: a reader that is slow skips states, and nothing
/// piles up for it.
pub(super) struct Events {
    live: Arc<Live>,
    next: Pin<Box<Sleep>>,
    /// Whether something has been sent.
    begun: bool,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        ready!(time::poll_timer(self.next.as_mut(), cx));
        let every = self.live.every;
        let next = time::now().after(every).to_instant();
        self.next.as_mut().reset(next);
        let json = self.live.json();
        let mut event = Vec::with_capacity(json.len() + 32);
        if !std::mem::replace(&mut self.begun, true) {
            event.extend_from_slice(b"retry: 1000\n");
        }
        // There is no line break in it: JSON escapes those of its texts.
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&json);
        event.extend_from_slice(b"\n\n");
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(event)))))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.live.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
