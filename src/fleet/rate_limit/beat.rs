//! The task of a limit: it tells the store that this process is there, hears of the pauses of others, and finds out when the
//! store is back.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::core::Change;
use super::listener::Listener;
use super::shared::{RECHECK, Shared};
use super::store::micros;
use crate::util::random::Random;
use crate::util::time::{self, Tick};

const EVERY: Duration = Duration::from_secs(5);

impl Shared {
    /// Starts the task of this limit, unless it runs: the runtime that it ran on may be gone.
    pub(super) fn keep_beating(self: &Arc<Self>) {
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = beats.as_ref().is_some_and(|it| !it.is_finished());
        if let Ok(runtime) = Handle::try_current()
            && !runs
        {
            let task = run(Arc::downgrade(self), Arc::clone(&self.kick));
            *beats = Some(runtime.spawn(task).abort_handle());
        }
    }
}

async fn run(limit: Weak<Shared>, kick: Arc<Notify>) {
    let listener = limit.upgrade().map(|it| it.store.listen(&it.limit));
    let Some(mut news) = listener else { return };
    loop {
        let Some(shared) = limit.upgrade() else {
            return;
        };
        let asked = time::now();
        match shared.store.beat(&shared.limit).await {
            Ok((nodes, paused)) => {
                shared.hears_of_pause(paused, asked);
                tell(&shared, nodes).await;
            }
            Err(error) => shared.degrade(&error),
        }
        // Not all at the same moment.
        let pause = match shared.is_degraded() {
            true => RECHECK,
            false => EVERY.mul_f64(0.9 + 0.2 * Random::System.unit()),
        };
        drop(shared);
        wait(&kick, &mut news, asked, pause).await;
    }
}

/// Until the store is to be asked once more: when it is time, a little after it went away, or when somebody has begun a pause.
async fn wait(kick: &Notify, news: &mut Listener, asked: Tick, pause: Duration) {
    let mut due = time::now().after(pause);
    loop {
        select! {
            biased;
            // It went away this very moment.
            () = kick.notified() => due = time::now().after(RECHECK),
            () = news.next() => due = due.min(asked.after(RECHECK)),
            () = sleep_until(due.to_instant()) => return,
        }
    }
}

/// The store is there. If it was away, it hears first what has passed meanwhile; and later of what was decided as it came back.
async fn tell(shared: &Shared, nodes: u64) {
    let untold = shared.take_untold();
    let pause = match shared.is_degraded() {
        true => shared.paused_for(),
        false => Duration::ZERO,
    };
    if untold.iter().any(|it| *it > 0) || !pause.is_zero() {
        let changes = shared.paces.iter().zip(untold).map(|(pace, more)| Change {
            more,
            ..Change::nothing(*pace)
        });
        let changes: Vec<_> = changes.collect();
        if let Err(error) = shared.settle(micros(pause), &changes).await {
            if !error.may_have_been_done() {
                shared.add_untold(untold);
            }
            return shared.degrade(&error);
        }
    }
    shared.heard(nodes);
}
