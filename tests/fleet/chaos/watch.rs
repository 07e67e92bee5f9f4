//! The server, looked at every few milliseconds by a script that knows nothing of ours: what it says is checked at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{MAX, ms};

/// The time; then for each lease that is live its slot and its record; then a mark, and for each waiter itself and its ticket.
const LOOK: &str = "
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
local out = { now }
for _, slot in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')) do
  out[#out + 1] = slot
  out[#out + 1] = redis.call('HGET', KEYS[1], 's:' .. slot) or ''
end
out[#out + 1] = 'queue'
for _, it in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')) do out[#out + 1] = it end
return out";

/// What was seen at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) now: u64,
    /// Of each slot: the token, and who.
    pub(super) held: BTreeMap<u32, (u64, String)>,
    pub(super) queue: Vec<(String, u64)>,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    pub(super) polls: usize,
    pub(super) most: usize,
    pub(super) last: Seen,
    /// How many were granted a slot from the queue.
    pub(super) from_queue: usize,
    /// What must not be.
    pub(super) wrong: Vec<String>,
    tokens: BTreeMap<u32, (u64, String)>,
    tickets: BTreeMap<String, u64>,
    served: u64,
    /// When this server was first looked at, by its clock. Older leases are of another one, and were only taken over.
    since: Option<u64>,
}

pub(super) struct Watch {
    summary: Arc<Mutex<Summary>>,
    url: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(super) fn over(url: String) -> Self {
        let summary = Arc::<Mutex<Summary>>::default();
        let url = Arc::new(Mutex::new(url));
        let task = tokio::spawn(run(Arc::clone(&summary), Arc::clone(&url)));
        Self { summary, url, task }
    }

    /// From now on another server says what is.
    pub(super) fn turn_to(&self, url: String) {
        let mut current = self.url.lock().unwrap();
        *current = url;
        let mut summary = self.summary.lock().unwrap();
        // It need not know of the others.
        (summary.served, summary.tickets, summary.tokens) = Default::default();
        (summary.since, summary.last) = Default::default();
    }

    /// From now on another server says what is, and it knows all that was.
    pub(super) fn follow(&self, url: String) {
        *self.url.lock().unwrap() = url;
    }

    pub(super) fn so_far(&self) -> Summary {
        self.summary.lock().unwrap().clone()
    }

    /// Ends, and fails if anything was wrong.
    pub(super) fn end(self) -> Summary {
        self.task.abort();
        let summary = self.so_far();
        assert!(summary.wrong.is_empty(), "{:#?}", summary.wrong);
        summary
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ms(200)))
        .set_response_timeout(Some(ms(200)));
    Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// What the server says now.
pub(super) async fn look(connection: &mut MultiplexedConnection) -> redis::RedisResult<Seen> {
    let mut ask = redis::cmd("EVAL");
    ask.arg(LOOK).arg(3);
    for part in ["m", "h", "w"] {
        ask.arg(format!("bulwark:lock:{{gpu}}:{part}"));
    }
    let words: Vec<String> = ask.query_async(connection).await?;
    let mut words = words.into_iter();
    let mut seen = Seen {
        now: words.next().unwrap().parse().unwrap(),
        ..Seen::default()
    };
    while let Some(slot) = words.next().filter(|it| it != "queue") {
        let record = words.next().unwrap();
        let (token, member) = record.split_once('|').unwrap_or(("0", ""));
        let held = (token.parse().unwrap(), member.to_owned());
        seen.held.insert(slot.parse().unwrap(), held);
    }
    while let Some(member) = words.next() {
        let ticket: f64 = words.next().unwrap().parse().unwrap();
        seen.queue.push((member, ticket as u64));
    }
    Ok(seen)
}

async fn run(summary: Arc<Mutex<Summary>>, url: Arc<Mutex<String>>) {
    let mut connected: Option<(String, MultiplexedConnection)> = None;
    loop {
        let asked = url.lock().unwrap().clone();
        if connected.as_ref().is_none_or(|it| it.0 != asked) {
            let new = connect(&asked).await.ok();
            connected = new.map(|it| (asked.clone(), it));
        }
        if let Some((_, connection)) = &mut connected {
            match look(connection).await {
                Ok(seen) => {
                    // What another server has said meanwhile is of no concern any more.
                    let current = url.lock().unwrap();
                    if *current == asked {
                        summary.lock().unwrap().check(seen);
                    }
                }
                // It is frozen, or killed, or busy with something that a test does to it.
                Err(_) => connected = None,
            }
        }
        sleep(ms(3)).await;
    }
}

impl Summary {
    fn check(&mut self, seen: Seen) {
        self.polls += 1;
        self.most = self.most.max(seen.held.len());
        if seen.held.len() > MAX {
            self.wrong.push(format!("too many: {seen:?}"));
        }
        for (slot, held) in &seen.held {
            let before = self.tokens.insert(*slot, held.clone());
            let Some(before) = before.filter(|it| it != held) else {
                continue;
            };
            if before.0 >= held.0 {
                self.wrong.push(format!("{held:?} after {before:?}"));
            }
        }
        self.check_turns(&seen);
        self.last = seen;
    }

    /// Those who wait are served in the order of their tickets, and before those who have none.
    fn check_turns(&mut self, seen: &Seen) {
        for held in seen.held.values().filter(|it| it.0 > self.last.now) {
            let ticket = self.tickets.get(&held.1);
            // Whoever waits now and waited at the last look was there when this was given.
            let waited = self.last.queue.iter().filter(|it| seen.queue.contains(it));
            for (member, before) in waited {
                if self.last.now > 0 && ticket.is_none_or(|it| it > before) {
                    let wrong = format!("{held:?} with {ticket:?} before {member} with {before}");
                    self.wrong.push(wrong);
                }
            }
        }
        for (member, ticket) in &seen.queue {
            self.tickets.insert(member.clone(), *ticket);
        }
        let since = *self.since.get_or_insert(seen.now);
        for (token, member) in seen.held.values() {
            let ticket = self.tickets.remove(member);
            if let Some(ticket) = ticket.filter(|_| *token >= since) {
                self.from_queue += 1;
                self.served = self.served.max(ticket);
            }
        }
        // Who was dead was left out, and is in the queue no more.
        for (member, ticket) in &seen.queue {
            if *ticket < self.served {
                let served = self.served;
                self.wrong
                    .push(format!("{member} with {ticket} was overtaken by {served}"));
            }
        }
    }
}
