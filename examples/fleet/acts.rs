//! What is done to the fleet, one after the other, and what came of it. Every figure is measured.

use std::time::Duration;

use tokio::time::sleep;
use tower_bulwark::BoxError;
use tower_bulwark::fleet::FleetLock;

use crate::crew::Crew;
use crate::screen::{Screen, ms};
use crate::story::Story;
use crate::support::clock::{self, Stopwatch};
use crate::told::What;
use crate::upstream::Upstream;
use crate::worker::{BURST, FAILURES, LEASE, LIMIT, PERMITS, QUIET};

/// What came of one act.
pub struct Finding {
    pub text: String,
    pub came_true: bool,
}

/// How long the workers are watched before anything happens to them, and how long the upstream is dead.
const WATCHED: Duration = Duration::from_secs(4);
const DEAD: Duration = Duration::from_secs(2);

pub struct Stage {
    pub story: Story,
    pub upstream: Upstream,
    pub lock: FleetLock,
    pub crew: Crew,
    pub screen: Screen,
}

impl Stage {
    pub async fn all_work(&self) -> Result<(), BoxError> {
        let names = self.crew.names();
        let ready = || {
            names
                .iter()
                .all(|it| self.story.node(it).is_some())
                .then_some(())
        };
        until("all workers have begun", 15, ready).await
    }

    /// The upstream counts what it gets from all of them.
    pub async fn rate(&self) -> Finding {
        // The burst is used up by then.
        sleep(Duration::from_secs(1)).await;
        let from = clock::micros();
        sleep(WATCHED).await;
        let until = clock::micros();
        let calls = self.upstream.calls(from, until);
        let seconds = (until - from) as f64 / 1e6;
        let most = LIMIT as f64 * seconds + BURST as f64;
        let rate = calls as f64 / seconds;
        Finding {
            text: format!(
                "rate      the upstream has counted {rate:.0} calls a second for {seconds:.1} s; the limit of the fleet is {LIMIT}"
            ),
            // More would be a limit that is not kept, much less one that is not used.
            came_true: calls as f64 <= most && rate >= LIMIT as f64 / 2.0,
        }
    }

    /// The upstream dies. The busy workers find out; the others are told.
    pub async fn dies(&self) -> Result<Finding, BoxError> {
        let names = self.crew.names();
        self.screen.tell("the upstream dies");
        let died = self.upstream.set_dead(true);
        let opened = || {
            let opened = names
                .iter()
                .map(|it| self.story.came_to(it, "open", died))
                .collect::<Option<Vec<_>>>();
            opened.filter(|it| !it.is_empty())
        };
        let opened = until("all breakers are open", 10, opened).await?;
        let (mut first, mut last) = (u64::MAX, 0);
        for (at, _) in &opened {
            (first, last) = (first.min(*at), last.max(*at));
        }
        let whys = names.iter().zip(&opened);
        let whys: Vec<_> = whys
            .map(|(name, (_, why))| format!("{name}: {why}"))
            .collect();
        let alone = QUIET * FAILURES;
        Ok(Finding {
            text: format!(
                "trip      all {} breakers open {} after the first ({}); alone, a quiet worker takes {alone:.1?}",
                names.len(),
                ms(last - first),
                whys.join(", ")
            ),
            came_true: last - first < 1_000_000,
        })
    }

    /// The upstream comes back, and counts who tries it.
    pub async fn comes_back(&self) -> Result<Finding, BoxError> {
        sleep(DEAD).await;
        let names = self.crew.names();
        self.screen.tell("the upstream comes back");
        let back = self.upstream.set_dead(false);
        let closed = || {
            let closed = names
                .iter()
                .map(|it| self.story.came_to(it, "closed", back));
            let closed = closed.collect::<Option<Vec<_>>>()?;
            let first = closed.iter().map(|(at, _)| *at).min()?;
            let last = closed.iter().map(|(at, _)| *at).max()?;
            Some((first, last))
        };
        let (first, last) = until("all breakers are closed", 10, closed).await?;
        // What comes after the first breaker has closed are calls as ever.
        let probes = self.upstream.calls(back, first);
        Ok(Finding {
            text: format!(
                "probe     the upstream has counted {probes} from its return to the first closed breaker, for {} processes; all closed {} later",
                names.len(),
                ms(last - first)
            ),
            came_true: probes == 1,
        })
    }

    /// A worker that holds a permit is killed.
    pub async fn dies_with_a_permit(&mut self) -> Result<Option<Finding>, BoxError> {
        for _ in 0..3 {
            // The youngest permit: it is still held when the worker is killed.
            let seen = self.lock.fetch().await?;
            let Some(youngest) = seen.holders.last() else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let node = youngest.node.clone();
            let names = self.crew.names();
            let name = names
                .into_iter()
                .find(|it| self.story.node(it).as_ref() == Some(&node))
                .ok_or("a holder that is no worker")?;
            let killed = clock::micros();
            if !self.crew.kill(&name).await? {
                return Ok(None);
            }
            self.screen.tell(&format!("worker {name} is killed"));
            let left = self.lock.fetch().await?;
            let asked = clock::micros();
            let Some(held) = left.holders.iter().rev().find(|it| it.node == node) else {
                continue; // It had given it back.
            };
            let ends = asked + held.expires_in.as_micros() as u64;
            let taken = || {
                self.story.first(killed, |told| match &told.what {
                    What::Took { job, slot, token }
                        if *slot == held.fence.slot && *token > held.fence.token =>
                    {
                        Some((told.at, job.clone()))
                    }
                    _ => None,
                })
            };
            let (at, job) = until("the permit is back", 10, taken).await?;
            let took = at - killed;
            return Ok(Some(Finding {
                text: format!(
                    "kill -9   {} died with a permit; {job} has it {} later, {} of them by the lease of {LEASE:?}",
                    held.holder,
                    ms(took),
                    ms(ends.saturating_sub(killed))
                ),
                // Not before the lease has ended (less what an answer may take), and not long after: one that is handed
                // to the dead worker's other job comes back 2 s later.
                came_true: at + 100_000 >= ends && took < LEASE.as_micros() as u64 + 3_000_000,
            }));
        }
        Err("no worker could be killed while it held a permit".into())
    }

    /// What was seen of the lock all the time.
    pub fn lock(&self) -> Finding {
        let looks = self.story.looks();
        let processes = self.crew.names().len().min(2);
        Finding {
            text: format!(
                "lock      at {} looks at most {} permits of {PERMITS} were held, by up to {} processes at once, and up to {} jobs waited",
                looks.count, looks.most_held, looks.most_nodes, looks.most_waiting
            ),
            came_true: looks.most_held == PERMITS
                && looks.most_nodes >= processes
                && looks.most_waiting > 0,
        }
    }
}

/// Waits until something is so, and not without end.
async fn until<T>(what: &str, seconds: u64, so: impl Fn() -> Option<T>) -> Result<T, BoxError> {
    let watch = Stopwatch::start();
    loop {
        if let Some(it) = so() {
            return Ok(it);
        }
        if watch.elapsed() > Duration::from_secs(seconds) {
            return Err(format!("not within {seconds} s: {what}").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
}
