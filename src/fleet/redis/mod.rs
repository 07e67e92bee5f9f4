//! A server, or a cluster of them: two connections, each looked after by a task, and calls that end in time.

mod address;
mod checks;
mod connection;
mod failure;
mod inbox;
mod link;
mod open;
mod script;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::Value;
use tokio::sync::oneshot;

use super::error::{ConnectError, StoreError};
use super::health::Health;
use super::names::Names;
use super::reporter::Reporter;
use super::tasks::Tasks;
use crate::util::time;
pub(super) use address::Certificates;
pub(super) use inbox::Inbox;
pub(super) use inbox::News;
pub(super) use script::Script;

/// What a connection needs to know.
pub(super) struct Settings {
    pub(super) certificates: Certificates,
    pub(super) allow_eviction: bool,
    /// To make a connection.
    pub(super) connect_timeout: Duration,
    /// To answer.
    pub(super) call_timeout: Duration,
}

/// A server, or a cluster of them. A cheap clone, which keeps no task alive.
#[derive(Clone)]
pub(super) struct Redis {
    link: Arc<link::Link>,
    inbox: Arc<inbox::State>,
    names: Names,
}

impl Redis {
    /// Begins to connect, with tasks that go on doing so. The future is ready when the first attempt has ended.
    pub(super) fn start(
        url: &str,
        names: Names,
        settings: Settings,
        reporter: &Arc<Reporter>,
        tasks: &Tasks,
    ) -> Result<(Self, impl Future<Output = Result<(), ConnectError>> + use<>), ConnectError> {
        let opener = Arc::new(open::Opener {
            address: address::Address::parse(url, settings.certificates)?,
            names: names.clone(),
            lenience: checks::Lenience {
                eviction: settings.allow_eviction,
            },
            within: settings.connect_timeout,
            turn: AtomicUsize::new(0),
        });
        let redis = Self {
            link: Arc::new(link::Link::new(settings.call_timeout, Arc::clone(reporter))),
            inbox: Arc::new(inbox::State::new()),
            names,
        };
        let (first_commands, commands) = oneshot::channel();
        tasks.spawn(link::keep(
            Arc::clone(&redis.link),
            Arc::clone(&opener),
            first_commands,
        ))?;
        let (first_messages, messages) = oneshot::channel();
        tasks.spawn(inbox::listen(
            Arc::clone(&redis.inbox),
            opener,
            Arc::clone(&redis.link),
            first_messages,
        ))?;
        let ended = || Err(ConnectError::NoRuntime);
        let first = async move {
            commands.await.unwrap_or_else(|_| ended())?;
            messages.await.unwrap_or_else(|_| ended())
        };
        Ok((redis, first))
    }

    /// Runs a script, and never waits longer than `within`. Every key has the prefix of the fleet already, and all are in
    /// one slot.
    ///
    /// A call that is dropped or has timed out may still be done by the server.
    pub(super) async fn eval(
        &self,
        script: &'static Script,
        keys: &[String],
        args: &[Vec<u8>],
        within: Duration,
    ) -> Result<Value, StoreError> {
        let run =
            |mut connection| async move { script::run(&mut connection, script, keys, args).await };
        let key = keys.first().map_or("", String::as_str);
        self.link.ask(script.name, key, within, run).await
    }

    /// Does what every script does, and leaves nothing.
    pub(super) async fn ping(&self, within: Duration) -> Result<(), StoreError> {
        let (keys, args) = checks::ping(&self.names);
        self.eval(&checks::PING, &keys, &args, within).await?;
        Ok(())
    }

    /// Messages from here on.
    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.read()
    }

    /// How long a call waits if nothing else is said.
    pub(super) fn call_timeout(&self) -> Duration {
        self.link.patience
    }

    pub(super) fn health(&self) -> Health {
        let now = time::now();
        let mut health = Health {
            inbox_connected: self.inbox.up.load(Relaxed),
            messages: self.inbox.messages.load(Relaxed),
            gaps: self.inbox.gaps.load(Relaxed),
            unanswered: self.link.unanswered(),
            ..Health::default()
        };
        match self.link.state() {
            link::State::Up(up) => {
                health.connected = true;
                health.since = now.since(up.since);
                health.connections = up.number;
                health.server = Some(up.server.version);
            }
            link::State::Down(down) => {
                health.since = now.since(down.since);
                health.connections = down.number;
                health.why = Some(down.why);
            }
        }
        health
    }
}
