use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use super::super::lease::Fence;
use super::support::{Mode, Node, World, ms};

/// From when to when somebody was in the right to believe that it has a slot.
struct Belief {
    fence: Fence,
    from: Instant,
    to: Instant,
}

async fn work(node: Arc<Node>, seed: u64, beliefs: Arc<Mutex<Vec<Belief>>>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let ends = Instant::now() + ms(30_000);
    for n in 0_u64.. {
        if Instant::now() > ends {
            break;
        }
        let wait = ms(rng.random_range(1..3_000));
        let dropped = ms(rng.random_range(1..3_000));
        let hold = ms(rng.random_range(0..1_500));
        sleep(ms(rng.random_range(0..200))).await;
        // Some go away in the middle.
        let asked = timeout(dropped, node.lock.acquire(n).timeout(wait).into_future());
        let Ok(Ok(guard)) = asked.await else { continue };
        let from = Instant::now();
        // Whoever is told that the lease is lost stops.
        let _ = timeout(hold, guard.lost()).await;
        let to = Instant::now();
        // One of this process alone has none.
        let Some(fence) = guard.fence() else { continue };
        drop(guard);
        beliefs.lock().unwrap().push(Belief { fence, from, to });
    }
}

async fn trouble(node: Arc<Node>, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let ends = Instant::now() + ms(30_000);
    while Instant::now() < ends {
        let mode = match rng.random_range(0..9) {
            0 => Mode::Down,
            1 => Mode::Hang,
            2 => Mode::Swallow,
            3 => Mode::Slow(rng.random_range(2..190)),
            4 => Mode::Late(rng.random_range(2..900)),
            _ => Mode::Up,
        };
        node.faults.set(mode);
        sleep(ms(rng.random_range(10..1_500))).await;
    }
    node.faults.set(Mode::Up);
}

fn run(seed: u64) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async move {
        let world = World::default();
        let beliefs = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        let mut nodes = Vec::new();
        for n in 0..4 {
            let name = format!("n{n}");
            let set = |it: &mut super::super::settings::Settings| {
                it.max_concurrent = 3;
                it.lease = ms(900);
                it.max_waiting = (n == 1).then_some(4);
                it.local = (n == 2).then_some(1);
            };
            let node = Arc::new(match n {
                3 => world.deaf_node(&name, set),
                _ => world.node(&name, set),
            });
            nodes.push(Arc::clone(&node));
            tasks.spawn(trouble(Arc::clone(&node), seed * 100 + n));
            for worker in 0..3 {
                let seed = seed * 1_000 + n * 10 + worker;
                tasks.spawn(work(Arc::clone(&node), seed, Arc::clone(&beliefs)));
            }
        }
        // By the clock of the store, at every poll.
        while !tasks.is_empty() {
            while tasks.try_join_next().is_some_and(|it| {
                it.unwrap();
                true
            }) {}
            let (live, _) = world.count().await;
            assert!(live <= 3, "{live} live in world {seed}");
            sleep(ms(3)).await;
        }
        sleep(Duration::from_secs(6)).await;
        assert_eq!(world.count().await, (0, 0), "world {seed} is not drained");
        nodes.iter().for_each(|it| adds_up(it, seed));
        let beliefs = std::mem::take(&mut *beliefs.lock().unwrap());
        check(&beliefs, seed);
        beliefs.len()
    })
}

/// Every attempt has ended, in one way, and nothing of it is left.
fn adds_up(node: &Node, seed: u64) {
    let seen = node.lock.snapshot();
    let stats = &seen.stats;
    let refused = stats.timeouts + stats.rejected + seen.unavailable;
    let ended = stats.acquisitions + stats.abandoned + refused;
    assert_eq!(stats.attempts, ended, "world {seed}: {seen:?}");
    let waits = stats.acquisitions + stats.abandoned + stats.timeouts;
    assert_eq!(stats.wait.count, waits, "world {seed}: {seen:?}");
    // A permit of this process alone is held as well, and counted by the lock of this process.
    let leased = stats.acquisitions - seen.local;
    assert_eq!(stats.hold.count, leased, "world {seed}: {seen:?}");
    assert_eq!((seen.held_here, seen.waiting_here), (0, 0), "world {seed}");
    assert!(stats.peak_in_use <= 3, "world {seed}: {seen:?}");
}

/// No two believe in one slot at once, and of two the later has the higher token.
fn check(beliefs: &[Belief], seed: u64) {
    for (i, a) in beliefs.iter().enumerate() {
        for b in &beliefs[..i] {
            assert_ne!(a.fence.token, b.fence.token, "world {seed}");
            if a.fence.slot != b.fence.slot {
                continue;
            }
            assert!(
                a.from >= b.to || b.from >= a.to,
                "world {seed}: two in a slot"
            );
            // Two of one moment may be in either order.
            if a.from != b.from {
                let is_later = a.fence.token > b.fence.token;
                assert_eq!(
                    a.from > b.from,
                    is_later,
                    "world {seed}: {:?} {:?}",
                    a.fence,
                    b.fence
                );
            }
        }
    }
}

#[test]
fn in_twenty_worlds_of_trouble_nobody_shares_a_slot_and_everything_is_given_back() {
    let held: usize = (0..20).map(run).sum();
    assert!(held > 1_500, "{held}");
}
