//! The one connection that is told things: messages to this process, and to all processes of the namespace.
//!
//! Messages come at most once. Whoever waits for one must also ask, now and then, and at once after a [`News::Gap`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, Value};
use tokio::select;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::super::error::ConnectError;
use super::address::Address;
use super::link::{self, Link, Lives, varied};
use super::open::Opener;
use crate::event::FleetEvent;
use crate::util::time;

/// A connection that brings nothing for this long is asked whether it stands. It costs a command each time.
const IDLE: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(100);

/// How far a reader may be behind.
const ROOM: usize = 1024;

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum News {
    /// To this process.
    Own(Arc<[u8]>),
    /// To every process of the namespace.
    Common(Arc<[u8]>),
    /// Messages may have been lost. Whatever is sent from here on comes through.
    Gap,
}

/// How the inbox stands.
pub(super) struct State {
    news: broadcast::Sender<News>,
    pub(super) up: AtomicBool,
    /// Messages that came.
    pub(super) messages: AtomicU64,
    /// How often messages may have been lost.
    pub(super) gaps: AtomicU64,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            news: broadcast::Sender::new(ROOM),
            up: AtomicBool::new(false),
            messages: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> Inbox {
        Inbox(self.news.subscribe())
    }

    fn tell(&self, news: News) {
        // Nobody listens yet, or nobody does any more.
        let _ = self.news.send(news);
    }
}

/// A reader of the inbox. Each sees all.
pub(in super::super) struct Inbox(broadcast::Receiver<News>);

impl Inbox {
    /// What comes next; `None` once the fleet has ended.
    pub(in super::super) async fn next(&mut self) -> Option<News> {
        match self.0.recv().await {
            Ok(news) => Some(news),
            Err(RecvError::Lagged(_)) => Some(News::Gap),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Listens, and connects anew whenever the connection has ended. `first` is told how the first attempt has ended.
pub(super) async fn listen(
    state: Arc<State>,
    opener: Arc<Opener>,
    link: Arc<Link>,
    first: oneshot::Sender<Result<(), ConnectError>>,
) {
    let mut first = Some(first);
    let mut had_one = false;
    let mut lives = Lives::default();
    for turn in 0.. {
        let (sender, mut pushes) = unbounded_channel();
        let opened = opener.messages(turn, sender).await;
        state.up.store(opened.is_ok(), Relaxed);
        let told = opened.as_ref().map(|_| ()).map_err(Clone::clone);
        if let Some(first) = first.take() {
            let _ = first.send(told);
        }
        match opened {
            Ok(mut connection) => {
                // Not before it listens again: who asks now misses nothing.
                if had_one {
                    state.gaps.fetch_add(1, Relaxed);
                    state.tell(News::Gap);
                }
                had_one = true;
                let began = time::now();
                hand_on(&state, &opener, &link, &mut connection, &mut pushes).await;
                state.up.store(false, Relaxed);
                link.reporter.tell(FleetEvent::MessagesMissed);
                if let Some(pause) = lives.pause(time::now().since(began)) {
                    sleep(pause).await;
                }
            }
            Err(error) => {
                // What was published before the first connection is lost as well.
                had_one = true;
                tracing::debug!(target: "tower_bulwark", %error, "no messages of the shared store");
                sleep(varied(PAUSE)).await;
            }
        }
    }
}

/// Hands messages on until the connection has ended.
async fn hand_on(
    state: &State,
    opener: &Opener,
    link: &Link,
    connection: &mut MultiplexedConnection,
    pushes: &mut UnboundedReceiver<PushInfo>,
) {
    let own = opener.names.own_channel();
    let mut watch = link.watch();
    loop {
        select! {
            push = pushes.recv() => match push {
                Some(push) if push.kind == PushKind::Message => {
                    if let Some(news) = read(push, &own) {
                        state.messages.fetch_add(1, Relaxed);
                        state.tell(news);
                    }
                }
                Some(push) if push.kind != PushKind::Disconnection => {}
                _ => return,
            },
            // What befell the one connection has often befallen the other.
            Ok(()) = watch.changed() => {
                let elsewhere = may_be_elsewhere(opener, &watch.borrow_and_update());
                if elsewhere || !stands(connection, link.patience).await {
                    return;
                }
            },
            () = sleep(IDLE) => if !stands(connection, link.patience).await {
                return;
            },
        }
    }
}

/// Whether commands go to another server now: sentinels name another primary, and the former one may answer for long, and
/// brings nothing.
fn may_be_elsewhere(opener: &Opener, commands: &link::State) -> bool {
    let is_anew = matches!(commands, link::State::Up(up) if up.number > 1);
    is_anew && matches!(opener.address, Address::Sentinel(_))
}

/// Whether the server still answers on this connection, within five times the patience of a call.
async fn stands(connection: &mut MultiplexedConnection, patience: Duration) -> bool {
    let ping = Cmd::new().arg("PING").to_owned();
    let asked = connection.send_packed_command(&ping);
    // An answer that refuses is one, too.
    matches!(timeout(patience.saturating_mul(5), asked).await, Ok(Ok(_)))
}

fn read(push: PushInfo, own: &str) -> Option<News> {
    let mut data = push.data.into_iter();
    let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
        (data.next(), data.next())
    else {
        return None;
    };
    let payload = payload.into();
    Some(if channel == own.as_bytes() {
        News::Own(payload)
    } else {
        News::Common(payload)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_of_a_gap_and_then_sees_the_latest_messages() {
        let state = State::new();
        let mut inbox = state.read();
        for n in 0..ROOM + 2 {
            state.tell(News::Own(n.to_string().into_bytes().into()));
        }
        assert_eq!(inbox.next().await, Some(News::Gap));
        assert_eq!(inbox.next().await, Some(News::Own(b"2"[..].into())));
    }

    #[tokio::test]
    async fn a_reader_is_told_when_the_fleet_has_ended() {
        let state = State::new();
        let mut inbox = state.read();
        state.tell(News::Common(b"last"[..].into()));
        drop(state);
        assert_eq!(inbox.next().await, Some(News::Common(b"last"[..].into())));
        assert_eq!(inbox.next().await, None);
    }
}
