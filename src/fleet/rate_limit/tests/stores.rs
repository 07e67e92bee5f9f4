//! The stores that the tests run over: in this process, and the scripts on a real server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::fleet::rate_limit::core::{Answered, Ask, Change};
use crate::fleet::rate_limit::listener::Listener;
use crate::fleet::rate_limit::store::{
    Answer, BEAT, Limit, RateStore, SETTLE, TAKE, beat_args, beaten, settle_args, settled,
    take_args, taken,
};
use crate::fleet::redis::Script;
use crate::fleet::{Fleet, StoreError, real_server};
use crate::util::time;

/// The scripts on a real server, at the virtual time. It blocks the thread: a paused clock runs ahead of whoever awaits.
struct OnServer {
    connection: Mutex<redis::Connection>,
    /// What the channel of the fleet brings, and who has begun the last pause of a limit by that.
    messages: Mutex<mpsc::Receiver<Vec<u8>>>,
    begun: Mutex<HashMap<String, watch::Sender<String>>>,
    _server: real_server::Server,
}

impl OnServer {
    fn new(server: real_server::Server) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        let mut subscriber = client.get_connection().unwrap();
        let (sender, messages) = mpsc::channel();
        let (subscribed, is_subscribed) = mpsc::channel();
        thread::spawn(move || {
            let mut channel = subscriber.as_pubsub();
            channel.subscribe("test:events").unwrap();
            subscribed.send(()).unwrap();
            // Until the server or the test has ended.
            while let Ok(message) = channel.get_message()
                && sender.send(message.get_payload().unwrap()).is_ok()
            {}
        });
        is_subscribed.recv().unwrap();
        Self {
            connection: Mutex::new(client.get_connection().unwrap()),
            messages: Mutex::new(messages),
            begun: Mutex::default(),
            _server: server,
        }
    }

    /// A pause was begun: hands on what the channel brings of it.
    fn hear(&self, limit: &Limit) {
        let patience = Duration::from_secs(5);
        // If one does not come, nobody waits for another: who has the lock panics.
        let messages = self.messages.lock().expect("all messages have come");
        let message = messages.recv_timeout(patience).expect("it is told");
        drop(messages);
        let message = String::from_utf8(message).unwrap();
        let node = message.strip_prefix(&limit.mark()).unwrap();
        let mut begun = self.begun.lock().unwrap();
        let begun = begun.entry(limit.nodes[1].clone()).or_default();
        begun.send_replace(node.to_owned());
    }

    fn eval(&self, script: &Script, keys: &[String], mut args: Vec<Vec<u8>>) -> redis::Value {
        args[0] = (time::now().0 / 1_000).to_string().into_bytes();
        let mut command = redis::cmd("EVAL");
        command.arg(script.code).arg(keys.len()).arg(keys).arg(args);
        command.query(&mut self.connection.lock().unwrap()).unwrap()
    }
}

impl RateStore for OnServer {
    fn take<'a>(
        &'a self,
        limit: &'a Limit,
        max_wait: u64,
        asks: &'a [Ask],
    ) -> Answer<'a, Answered> {
        let reply = self.eval(&TAKE, &limit.keys, take_args(max_wait, asks));
        Box::pin(async move { taken(&reply, asks.len()) })
    }

    fn settle<'a>(
        &'a self,
        limit: &'a Limit,
        pause: u64,
        changes: &'a [Change],
    ) -> Answer<'a, Vec<u64>> {
        let args = settle_args(limit, pause, changes);
        let reply = self.eval(&SETTLE, &limit.keys, args);
        let numbers: Vec<u64> = redis::from_redis_value(reply.clone()).unwrap();
        if numbers[0] == 1 {
            self.hear(limit);
        }
        Box::pin(async move { settled(&reply, changes.len()) })
    }

    fn beat<'a>(&'a self, limit: &'a Limit) -> Answer<'a, (u64, u64)> {
        let reply = self.eval(&BEAT, &limit.nodes, beat_args(&limit.node));
        Box::pin(async move { beaten(&reply) })
    }

    fn listen(&self, limit: &Limit) -> Listener {
        let mut begun = self.begun.lock().unwrap();
        let begun = begun.entry(limit.nodes[1].clone()).or_default();
        Listener::in_process(begun.subscribe(), &limit.node)
    }
}

/// A store that takes some time, that can be away, and that counts what it is asked.
pub(super) struct Counting {
    inner: Arc<dyn RateStore>,
    pub(super) takes: AtomicU64,
    at_once: AtomicU64,
    pub(super) most_at_once: AtomicU64,
    pub(super) settles: AtomicU64,
    pub(super) is_away: AtomicBool,
    pub(super) hangs: AtomicBool,
    /// All messages are lost to those who begin to listen.
    pub(super) loses_messages: AtomicBool,
    pub(super) beats: AtomicU64,
    pub(super) trip: Duration,
    /// So many milliseconds go by between what a call gets and the answer to it.
    pub(super) takes_answer_after: AtomicU64,
}

impl Counting {
    pub(super) fn around(inner: Arc<dyn RateStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            takes: AtomicU64::new(0),
            at_once: AtomicU64::new(0),
            most_at_once: AtomicU64::new(0),
            settles: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            loses_messages: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            trip: Duration::from_millis(1),
            takes_answer_after: AtomicU64::new(0),
        })
    }

    async fn travel(&self, limit: &Limit) -> Result<(), StoreError> {
        if self.hangs.load(Ordering::Relaxed) {
            sleep(limit.within).await;
            return Err(StoreError::Deadline);
        }
        sleep(self.trip).await;
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("a test says so".to_owned())),
            false => Ok(()),
        }
    }

    pub(super) fn takes(&self) -> u64 {
        self.takes.load(Ordering::Relaxed)
    }
}

impl RateStore for Counting {
    fn take<'a>(
        &'a self,
        limit: &'a Limit,
        max_wait: u64,
        asks: &'a [Ask],
    ) -> Answer<'a, Answered> {
        Box::pin(async move {
            self.takes.fetch_add(1, Ordering::Relaxed);
            let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_at_once.fetch_max(now, Ordering::Relaxed);
            let arrived = self.travel(limit).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            arrived?;
            let answer = self.inner.take(limit, max_wait, asks).await;
            let late = self.takes_answer_after.load(Ordering::Relaxed);
            if late > 0 {
                sleep(Duration::from_millis(late)).await;
            }
            answer
        })
    }

    fn settle<'a>(
        &'a self,
        limit: &'a Limit,
        pause: u64,
        changes: &'a [Change],
    ) -> Answer<'a, Vec<u64>> {
        Box::pin(async move {
            self.settles.fetch_add(1, Ordering::Relaxed);
            self.travel(limit).await?;
            self.inner.settle(limit, pause, changes).await
        })
    }

    fn beat<'a>(&'a self, limit: &'a Limit) -> Answer<'a, (u64, u64)> {
        Box::pin(async move {
            self.beats.fetch_add(1, Ordering::Relaxed);
            self.travel(limit).await?;
            self.inner.beat(limit).await
        })
    }

    fn listen(&self, limit: &Limit) -> Listener {
        match self.loses_messages.load(Ordering::Relaxed) {
            true => Listener::deaf(),
            false => self.inner.listen(limit),
        }
    }
}

/// Both stores, or one if there is no server.
pub(super) fn stores() -> Vec<Arc<Counting>> {
    let in_process: Arc<dyn RateStore> = Fleet::in_process().shared;
    let on_server = real_server::Server::start_blocking(&[]).map(|server| {
        let store: Arc<dyn RateStore> = Arc::new(OnServer::new(server));
        store
    });
    let all = [in_process].into_iter().chain(on_server);
    all.map(Counting::around).collect()
}
