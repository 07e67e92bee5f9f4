//! The last events and commands, ready to be sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::words::{clipped, clipped_at};
use crate::event::Feed;

/// So many transitions, and so many single calls.
const IMPORTANT: usize = 200;
const FREQUENT: usize = 200;
/// The longest text of a transition: a config that is refused says what is wrong with it, setting by setting.
const LONGEST_TEXT: usize = 2_000;
/// So many commands.
const COMMANDS: usize = 50;

/// One event as JSON: made once, sent to every reader.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) position: u64,
    pub(super) json: String,
}

/// A list of events that nobody changes any more.
pub(super) type Events = Arc<[Arc<Logged>]>;

#[derive(Debug, Default)]
pub(super) struct Log {
    important: VecDeque<Arc<Logged>>,
    frequent: VecDeque<Arc<Logged>>,
    last: u64,
    events: Events,
    commands: VecDeque<Said>,
}

/// A command, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Said {
    /// Milliseconds since 1970.
    pub(super) at: u64,
    pub(super) who: String,
    pub(super) pattern: &'static str,
    pub(super) name: String,
    pub(super) group: Option<String>,
    pub(super) command: &'static str,
    pub(super) from: String,
    pub(super) to: String,
}

#[derive(Serialize)]
struct Line {
    position: u64,
    number: u64,
    at: u64,
    name: String,
    pattern: &'static str,
    kind: &'static str,
    important: bool,
    text: String,
}

/// Milliseconds since 1970.
pub(super) fn unix_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, what: T) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(what);
}

impl Log {
    /// Takes what has happened since the last time.
    pub(super) fn follow(&mut self, feed: &Feed) {
        let new = feed.since(self.last);
        if new.is_empty() {
            return;
        }
        for entry in &new {
            self.last = entry.position;
            let important = !entry.event.is_frequent();
            let line = Line {
                position: entry.position,
                number: entry.number,
                at: unix_millis(entry.at),
                name: clipped(&entry.name),
                pattern: entry.event.pattern(),
                kind: entry.event.kind(),
                important,
                text: clipped_at(LONGEST_TEXT, &entry.event.to_string()),
            };
            let logged = Arc::new(Logged {
                position: entry.position,
                json: serde_json::to_string(&line).unwrap_or_default(),
            });
            match important {
                true => push(&mut self.important, IMPORTANT, logged),
                false => push(&mut self.frequent, FREQUENT, logged),
            }
        }
        let mut all: Vec<_> = self
            .important
            .iter()
            .chain(&self.frequent)
            .cloned()
            .collect();
        all.sort_by_key(|it| it.position);
        self.events = all.into();
    }

    /// All that are kept, oldest first.
    pub(super) fn events(&self) -> Events {
        Arc::clone(&self.events)
    }

    pub(super) fn say(&mut self, said: Said) {
        push(&mut self.commands, COMMANDS, said);
    }

    /// The last commands, the newest first.
    pub(super) fn commands(&self) -> Vec<Said> {
        self.commands.iter().rev().cloned().collect()
    }
}

/// The events after a position, and how many there were in between that are not kept any more. Of somebody who has seen
/// none yet nothing is missed.
pub(super) fn news(events: &Events, position: Option<u64>) -> Option<(String, u64)> {
    let seen = position.unwrap_or(0);
    let new = &events[events.partition_point(|it| it.position <= seen)..];
    let last = new.last()?.position;
    let missed = match position {
        Some(seen) => last - seen - new.len() as u64,
        None => 0,
    };
    let lines: Vec<&str> = new.iter().map(|it| &*it.json).collect();
    let json = format!(r#"{{"missed":{missed},"entries":[{}]}}"#, lines.join(","));
    Some((json, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CircuitBreakerEvent, Event, Observer, RetryEvent};

    #[test]
    fn who_reads_late_is_told_how_many_events_it_has_missed() {
        let (feed, mut log) = (Feed::new(512), Log::default());
        let event = |attempts| Event::Retry(RetryEvent::Recovered { attempts });
        feed.observe("api", &event(1));
        log.follow(&feed);
        let (json, at) = news(&log.events(), None).unwrap();
        assert!(
            json.starts_with(r#"{"missed":0,"entries":[{"position":1"#),
            "{json}"
        );
        assert!(news(&log.events(), Some(at)).is_none());
        feed.observe("api", &Event::CircuitBreaker(CircuitBreakerEvent::Reset));
        for attempts in 0..1_000 {
            feed.observe("api", &event(attempts));
            log.follow(&feed);
        }
        let (json, last) = news(&log.events(), Some(at)).unwrap();
        assert_eq!(last, 1_002);
        // One transition and 200 others are left of 1,001.
        assert!(json.starts_with(r#"{"missed":800,"#), "{json}");
        assert!(json.contains(r#""kind":"reset""#));
    }
}
