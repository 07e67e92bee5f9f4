//! What a process of the chaos does: it holds, asks, calls and is called off, and says all of it in lines.

use std::fmt;
use std::io::{Write as _, stdin, stdout};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::fleet::breaker::BreakerShare;
use tower_bulwark::fleet::{Fleet, FleetLock, FleetRateLimit};
use tower_bulwark::{CircuitBreaker, CircuitState};

use super::super::support::rng::Rng;
use super::{LATE, LONG, SHARED, clock, ms};

/// The deadline of a call of a limit.
const WITHIN: Duration = ms(250);
pub(super) const URL: &str = "FLEET_CHAOS_URL";
/// Which of `lock`, `breaker`, `limits`, and how the lock is: with `grace`, with a `long` lease.
pub(super) const PARTS: &str = "FLEET_CHAOS_PARTS";
/// For how long a permit is held at most, in milliseconds.
pub(super) const HOLD: &str = "FLEET_CHAOS_HOLD";
/// So often it is looked whether the process stood still.
const LOOK: Duration = ms(1);

/// A line for the parent. Who has no parent any more ends.
pub(super) fn say(what: fmt::Arguments<'_>) {
    if writeln!(stdout().lock(), "\n@ {what}").is_err() {
        std::process::exit(0);
    }
}

/// What the parent says.
#[derive(Default)]
struct Orders {
    is_bad: AtomicBool,
    trip: AtomicBool,
    quit: Notify,
}

/// In an ordinary run it has nothing to do.
#[tokio::test]
async fn a_process_of_the_chaos_does_as_it_is_told() {
    let Ok(url) = std::env::var(URL) else { return };
    let parts = std::env::var(PARTS).unwrap();
    let orders = Arc::new(Orders::default());
    thread::spawn({
        let orders = Arc::clone(&orders);
        move || hear(&orders)
    });
    let fleet = loop {
        match Fleet::connect(url.clone()).await {
            Ok(fleet) => break fleet,
            // The server may be away when this begins.
            Err(_) => sleep(ms(20)).await,
        }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(tell_of_gaps());
    let seed = clock() ^ u64::from(std::process::id());
    let mut share = None;
    for part in parts.split(',') {
        match part {
            "lock" => {
                let lock = super::lock(&fleet, parts.contains("grace"));
                let is_long = parts.contains("long");
                let lock = if is_long { lock.lease(LONG) } else { lock };
                let lock = lock.build().unwrap();
                for n in 0..2 {
                    tasks.spawn(hold(lock.clone(), is_long, Rng::new(seed + n)));
                }
            }
            "limits" => {
                tasks.spawn(pass("exact", super::exact(&fleet), ms(4)));
                tasks.spawn(pass("leased", super::leased(&fleet), ms(3)));
            }
            "breaker" => {
                let breaker = super::breaker();
                share = Some(fleet.share(&breaker, SHARED).unwrap());
                tasks.spawn(call(breaker, Arc::clone(&orders)));
            }
            _ => {}
        }
    }
    if let Some(share) = share {
        tasks.spawn(count(share));
    }
    say(format_args!("ready"));
    orders.quit.notified().await;
}

fn hear(orders: &Orders) {
    for order in stdin().lines().map_while(Result::ok) {
        match order.as_str() {
            "bad" => orders.is_bad.store(true, Relaxed),
            "good" => orders.is_bad.store(false, Relaxed),
            "trip" => orders.trip.store(true, Relaxed),
            "quit" => orders.quit.notify_one(),
            _ => panic!("{order}"),
        }
    }
    // The parent has gone.
    std::process::exit(0);
}

/// Nothing that this process does can be in time while it stands still, or its one thread does.
async fn tell_of_gaps() {
    let mut last = clock();
    loop {
        sleep(LOOK).await;
        let now = clock();
        if now - last > 3_000 {
            say(format_args!("gap {last} {now}"));
        }
        last = now;
    }
}

/// Awaits a call that has to end within a time, beside a plain timer of the same task that is set to it.
async fn in_time<T>(what: &str, within: Duration, call: impl IntoFuture<Output = T>) -> T {
    let mut timer = pin!(sleep(within));
    let mut call = pin!(call.into_future());
    let mut woken = None;
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut call => break answer,
            () = &mut timer, if woken.is_none() => woken = Some(clock()),
        }
    };
    let now = clock();
    if let Some(woken) = woken.filter(|&it| now - it > LATE) {
        say(format_args!("late {what} {woken} {now}"));
    }
    answer
}

async fn hold(lock: FleetLock, is_long: bool, mut rng: Rng) {
    let longest = std::env::var(HOLD).map_or(200, |it| it.parse().unwrap());
    loop {
        let wait = ms(rng.below(1_500) as u64);
        // Who does not wait in the queue waits for the answer.
        let within = if wait.is_zero() { ms(100) } else { wait };
        let asked = in_time("lock", within, lock.acquire("worker").timeout(wait));
        // Some lose patience before that, wherever the call is by then.
        let patience = if rng.one_in(4) {
            wait.mul_f64(0.3)
        } else {
            wait * 2
        };
        let Ok(Ok(guard)) = timeout(patience.max(ms(1)), asked).await else {
            say(format_args!("refused"));
            sleep(ms(1)).await;
            continue;
        };
        let fence = guard.fence().unwrap();
        // Those with long leases keep them for all of that time.
        let steps = if is_long {
            longest / 5
        } else {
            rng.below(longest / 5)
        };
        for _ in 0..=steps {
            // In this order: what is said is never more than what it believes.
            let now = clock();
            let valid = guard.valid_for().unwrap().as_micros();
            if valid == 0 {
                break;
            }
            say(format_args!(
                "hold {} {} {now} {valid}",
                fence.slot, fence.token
            ));
            sleep(ms(5)).await;
        }
        say(format_args!("drop {} {}", fence.token, clock()));
        drop(guard);
    }
}

async fn pass(name: &str, limit: FleetRateLimit, pause: Duration) {
    loop {
        let asked = clock();
        // The store may take 100 ms to answer, and one call may ask it more than once: its deadline ends that.
        let until = Deadline::after(WITHIN);
        let call = deadline::scope(until, limit.try_acquire(1).into_future());
        let passed = in_time(name, WITHIN, call).await;
        if let Ok(reserved) = passed {
            let by = if reserved.is_local() {
                "local"
            } else {
                "fleet"
            };
            say(format_args!("pass {name} {by} {asked} {}", clock()));
        }
        sleep(pause).await;
    }
}

async fn call(breaker: CircuitBreaker, orders: Arc<Orders>) {
    loop {
        if orders.trip.swap(false, Relaxed) {
            for _ in 0..5 {
                if let Ok(permit) = breaker.try_acquire() {
                    permit.failure();
                }
            }
        }
        // One thread: nothing happens between these two.
        let before = breaker.state();
        if let Ok(permit) = breaker.try_acquire() {
            let is_probe = before != CircuitState::Closed;
            if is_probe {
                say(format_args!("probe {}", clock()));
                // So that others would be seen beside it.
                sleep(ms(30)).await;
            }
            match orders.is_bad.load(Relaxed) {
                true => permit.failure(),
                false => permit.success(),
            }
        }
        sleep(ms(2)).await;
    }
}

/// How often it has asked about its breaker.
async fn count(share: BreakerShare) {
    loop {
        let from = clock();
        let commands = share.snapshot().commands;
        say(format_args!("asked {commands} {from} {}", clock()));
        sleep(ms(100)).await;
    }
}
