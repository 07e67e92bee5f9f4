//! The shared rate limit: the pure core against the Lua, step by step, and the handle through the public interface.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::fleet::{Fleet, FleetRateLimit};
use tower_bulwark::rate_limit::{Quota, RateLimitReason};
use tower_bulwark::{CircuitBreaker, Error};

use super::support::server::Server;

#[expect(dead_code, reason = "the very file of the crate, which has more in it")]
#[path = "../../src/fleet/rate_limit/core.rs"]
mod core;

use core::{Ask, Change, Level, Nodes, Pace, Pause, Taken};

const TAKE: &str = include_str!("../../src/fleet/rate_limit/lua/take.lua");
const SETTLE: &str = include_str!("../../src/fleet/rate_limit/lua/settle.lua");
const BEAT: &str = include_str!("../../src/fleet/rate_limit/lua/beat.lua");

const fn pace(amount: u64, period: u64, burst: u64) -> Pace {
    Pace {
        amount,
        period,
        burst,
    }
}

/// Slow and fast ones, some that do not divide, and one that is as large as may be counted.
const PACES: [Pace; 8] = [
    pace(1, 1_000, 100),
    pace(3, 1_000_000, 5),
    pace(7, 13, 1_000),
    pace(1, 1, 50),
    pace(1, 120_000, 500),
    pace(999_983, 1_000_003, 17),
    pace(1, 1_000_000, 1),
    pace(3, 2_251_799_813, 1_000_000),
];

/// One step, and how the core decides it.
enum Step {
    Take(u64, Vec<Ask>),
    /// A pause of so long, and changes.
    Settle(u64, Vec<Change>),
    Beat(String),
    Forget,
}

#[derive(Default)]
struct Model {
    levels: [Option<Level>; 3],
    pause: Option<Pause>,
    nodes: Nodes,
}

const TTL: u64 = 15_000_000;

impl Model {
    fn step(&mut self, now: u64, step: &Step) -> Vec<u64> {
        match step {
            Step::Take(max_wait, asks) => {
                let mut levels: Vec<_> = self.levels.iter_mut().take(asks.len()).collect();
                let answered = core::take(self.pause, &mut levels, now, *max_wait, asks);
                let paused = answered.paused;
                match answered.taken {
                    Taken::Granted { wait, got, left } => {
                        [vec![1, paused, wait], got, left].concat()
                    }
                    Taken::Refused { quota, wait } => {
                        vec![0, paused, quota.unwrap_or(asks.len()) as u64, wait]
                    }
                    Taken::Never { quota } => vec![2, paused, quota as u64],
                }
            }
            Step::Settle(pause, changes) => {
                let mut levels: Vec<_> = self.levels.iter_mut().collect();
                let settled = core::settle(&mut self.pause, &mut levels, now, *pause, changes);
                [vec![u64::from(settled.begins)], settled.left].concat()
            }
            Step::Beat(node) => {
                let nodes = self.nodes.beat(now, node, TTL);
                vec![nodes, Pause::left(self.pause, now)]
            }
            Step::Forget => {
                *self = Self::default();
                vec![]
            }
        }
    }
}

fn random_step(rng: &mut StdRng, paces: &[Pace; 3]) -> Step {
    let quotas = rng.random_range(1..=3_usize);
    match rng.random_range(0..100) {
        0..70 => {
            let ask = |pace: &Pace| {
                let need = match rng.random_range(0..10) {
                    0 => 0,
                    1 => rng.random_range(0..=pace.burst + 1),
                    _ => rng.random_range(0..=pace.burst.min(3)),
                };
                let want = need.max(rng.random_range(0..=pace.burst));
                Ask {
                    pace: *pace,
                    need,
                    want,
                }
            };
            let asks: Vec<_> = paces[..quotas].iter().map(ask).collect();
            let max_wait = match rng.random_range(0..4) {
                0 => rng.random_range(0..5_000_000),
                1 => 1 << rng.random_range(0..53),
                _ => 0,
            };
            Step::Take(max_wait, asks)
        }
        70..90 => {
            let pause = match rng.random_range(0..20) {
                0 => rng.random_range(0..100_000),
                1 => rng.random_range(0..30_000_000),
                _ => 0,
            };
            let settles = pause == 0 || rng.random_bool(0.5);
            let quotas = if settles { quotas } else { 0 };
            let changes = paces[..quotas].iter().map(|pace| random_change(rng, *pace));
            Step::Settle(pause, changes.collect())
        }
        90..99 => Step::Beat(format!("node-{}", rng.random_range(0..5))),
        _ => Step::Forget,
    }
}

fn random_change(rng: &mut StdRng, pace: Pace) -> Change {
    let nothing = Change::nothing(pace);
    let back = rng.random_range(0..=pace.burst);
    let more = rng.random_range(0..=2 * pace.burst);
    match rng.random_range(0..6) {
        0 => Change { more, ..nothing },
        1 => Change { back, ..nothing },
        3 => Change {
            back,
            more,
            ..nothing
        },
        2 => {
            let most = rng.random_range(0..=pace.burst + 1);
            Change { most, ..nothing }
        }
        _ => Change {
            back: back.min(2),
            ..nothing
        },
    }
}

fn random_time(rng: &mut StdRng, now: u64) -> u64 {
    match rng.random_range(0..20) {
        0..4 => now,
        4 => now - rng.random_range(0..1_500_000),
        5 => now - rng.random_range(0..8_000_000),
        6 => now + rng.random_range(0..20_000_000),
        7 => now + rng.random_range(0..4_000_000_000),
        _ => now + rng.random_range(0..30_000),
    }
}

struct Scripts {
    take: String,
    settle: String,
    beat: String,
}

impl Scripts {
    fn ours() -> Self {
        Self {
            take: TAKE.to_owned(),
            settle: SETTLE.to_owned(),
            beat: BEAT.to_owned(),
        }
    }
}

async fn load(connection: &mut MultiplexedConnection, code: &str) -> String {
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(code);
    load.query_async(connection).await.unwrap()
}

/// Does the same at the core and at a server, and says where they first differ.
async fn compare(
    connection: &mut MultiplexedConnection,
    scripts: &Scripts,
    seed: u64,
    steps: usize,
) -> Result<(), String> {
    let shas = [
        load(connection, &scripts.take).await,
        load(connection, &scripts.settle).await,
        load(connection, &scripts.beat).await,
    ];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut paces = [0; 3].map(|_| PACES[rng.random_range(0..PACES.len())]);
    let mut now = 1_795_434_343_123_456;
    let _: () = redis::cmd("FLUSHALL")
        .query_async(connection)
        .await
        .unwrap();
    let mut done = 0;
    while done < steps {
        let (mut pipe, mut expected) = (redis::pipe(), Vec::new());
        for _ in 0..200 {
            now = random_time(&mut rng, now);
            if rng.random_ratio(1, 300) {
                // A deploy: this quota is another one from here on.
                paces[rng.random_range(0..3)] = PACES[rng.random_range(0..PACES.len())];
            }
            let step = random_step(&mut rng, &paces);
            add_command(&mut pipe, &shas, now, &step);
            let said = model.step(now, &step);
            if !said.is_empty() {
                expected.push((now, said));
            }
        }
        // A script that fails is no difference: it is broken.
        let replies: Vec<redis::Value> = pipe.query_async(connection).await.unwrap();
        for (i, (reply, (at, said))) in replies.iter().zip(&expected).enumerate() {
            let numbers = numbers(reply);
            if numbers != *said {
                return Err(format!(
                    "seed {seed}, step {}, at {at}: the core says {said:?}, the script {numbers:?}",
                    done + i
                ));
            }
        }
        done += expected.len();
    }
    Ok(())
}

fn add_command(pipe: &mut redis::Pipeline, shas: &[String; 3], now: u64, step: &Step) {
    let sha = match step {
        Step::Take(..) => &shas[0],
        Step::Settle(..) => &shas[1],
        Step::Beat(..) => &shas[2],
        Step::Forget => {
            pipe.cmd("FLUSHALL").ignore();
            return;
        }
    };
    let command = pipe.cmd("EVALSHA").arg(sha);
    let pause = "{rate:test}:pause".to_owned();
    let keys = |n: usize| {
        let levels = (0..n).map(|i| format!("{{rate:test}}:{i}"));
        levels.chain([pause.clone()])
    };
    match step {
        Step::Take(max_wait, asks) => {
            command.arg(asks.len() + 1);
            keys(asks.len()).for_each(|key| {
                command.arg(key);
            });
            command.arg(now).arg(*max_wait);
            for Ask { pace, need, want } in asks {
                for number in [pace.amount, pace.period, pace.burst, *need, *want] {
                    command.arg(number);
                }
            }
        }
        Step::Settle(pause, changes) => {
            command.arg(changes.len() + 1);
            keys(changes.len()).for_each(|key| {
                command.arg(key);
            });
            command.arg(now).arg(*pause).arg("channel").arg("node");
            for it in changes {
                let pace = it.pace;
                for number in [pace.amount, pace.period, pace.burst] {
                    command.arg(number);
                }
                command.arg(it.back).arg(it.more).arg(it.most);
            }
        }
        Step::Beat(node) => {
            command
                .arg(2)
                .arg("{rate:test}:nodes")
                .arg(pause)
                .arg(now)
                .arg(node)
                .arg(TTL);
        }
        Step::Forget => {}
    }
}

fn numbers(reply: &redis::Value) -> Vec<u64> {
    match reply {
        redis::Value::Array(items) => items.iter().flat_map(numbers).collect(),
        redis::Value::Int(n) => vec![u64::try_from(*n).unwrap_or(u64::MAX)],
        _ => vec![u64::MAX],
    }
}

#[tokio::test]
async fn the_scripts_decide_as_the_core_does() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut connection = server.connect().await.unwrap();
    for seed in 0..12 {
        let compared = compare(&mut connection, &Scripts::ours(), seed, 10_000).await;
        compared.unwrap_or_else(|difference| panic!("{difference}"));
    }
}

/// A suite that cannot fail proves nothing.
#[tokio::test]
async fn broken_scripts_are_found_out() {
    type Part = fn(&mut Scripts) -> &mut String;
    let take: Part = |it| &mut it.take;
    let settle: Part = |it| &mut it.settle;
    let beat: Part = |it| &mut it.beat;
    let mutants: [(&str, Part, &str, &str); 15] = [
        (
            "a longer wait than allowed",
            take,
            "wait > max_wait or",
            "false or",
        ),
        (
            "who waits takes all",
            take,
            "if wait == 0 then\n",
            "if true then\n",
        ),
        ("rounds down", take, "(r > 0 and 1 or 0)", "0"),
        (
            "loses digits",
            take,
            "F('%.0f|%.0f|%.0f', it.missing, it.at, it.period)",
            "F('%.0f|%.0f|%.0f', it.missing, it.at - math.fmod(it.at, 100), it.period)",
        ),
        (
            "units of another pace",
            take,
            "if p ~= period then",
            "if false then",
        ),
        (
            "a clock that steps back",
            take,
            "if at - first > STEP_BACK then at = first end",
            "at = first",
        ),
        (
            "takes from some",
            take,
            "if this > wait then wait",
            "if i == 1 then wait",
        ),
        (
            "gives back one too many",
            settle,
            "math.max(missing - math.min(back, burst) * period, 0)",
            "math.max(missing - (math.min(back, burst) + 1) * period, 0)",
        ),
        ("counts the dead", beat, "now - ttl", "0"),
        (
            "turns in a pause",
            take,
            "local first = pause_end(KEYS[n + 1])",
            "local first = now",
        ),
        (
            "a pause that a clock makes longer",
            take,
            "math.min(tonumber(till), now + tonumber(length))",
            "tonumber(till)",
        ),
        (
            "a shorter pause ends a longer one",
            settle,
            "if length > before - now then",
            "if length > 0 then",
        ),
        (
            "a longer pause that nobody is told of",
            settle,
            "first, begins = now + length, 1",
            "first, begins = now + length, before == now and 1 or 0",
        ),
        (
            "earns in a pause",
            settle,
            "at = math.max(at, first)",
            "at = math.max(at, before)",
        ),
        (
            "more is left than the service says",
            settle,
            "math.max(missing, (burst - math.min(most, burst)) * period)",
            "missing",
        ),
    ];
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut connection = server.connect().await.unwrap();
    for (name, part, ours, broken) in mutants {
        let mut scripts = Scripts::ours();
        let code = part(&mut scripts);
        assert!(code.contains(ours), "{name}: the script has no `{ours}`");
        *code = code.replacen(ours, broken, 1);
        let mut found = false;
        for seed in 0..12 {
            found = found
                || compare(&mut connection, &scripts, seed, 10_000)
                    .await
                    .is_err();
        }
        assert!(found, "{name}: nobody notices");
    }
}

/// When so many units may be used. In no stretch of time are there more than the burst, what that time earns, and `more`.
fn in_each_window(
    mut passed: Vec<(u64, u64)>,
    pace: Pace,
    more: impl Fn(u64, u64) -> u64,
    what: std::fmt::Arguments<'_>,
) {
    passed.sort_unstable();
    for (i, (from, _)) in passed.iter().enumerate() {
        let mut units = 0;
        for (to, n) in &passed[i..] {
            units += n;
            let more = more(*from, *to);
            let earned = u128::from(to - from) * u128::from(pace.amount);
            let most = u128::from(pace.burst + more) * u128::from(pace.period) + earned;
            let used = u128::from(units) * u128::from(pace.period);
            let length = to - from;
            assert!(
                used <= most,
                "{what}: {units} in {length} us, {more} more are allowed"
            );
        }
    }
}

fn random_ask(rng: &mut StdRng, pace: Pace) -> (Ask, u64) {
    let need = rng.random_range(1..=pace.burst.min(4));
    let want = need + rng.random_range(0..3);
    let max_wait = [0, 5 * pace.period][rng.random_range(0..2)];
    (Ask { pace, need, want }, max_wait)
}

/// Every unit that was promised, and when it may be used.
#[test]
fn no_window_holds_more_than_the_burst_and_what_it_earns() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let pace = PACES[rng.random_range(0..PACES.len() - 1)];
        let (mut stored, mut pause, mut now) = (None, None, 1_000_000_000_000);
        let mut passed: Vec<(u64, u64)> = Vec::new();
        for _ in 0..400 {
            now += rng.random_range(0..=4 * pace.period / pace.amount);
            let (ask, max_wait) = random_ask(&mut rng, pace);
            if rng.random_ratio(1, 30) {
                let length = rng.random_range(0..=20 * pace.period / pace.amount);
                let change = Change::nothing(pace);
                core::settle(&mut pause, &mut [&mut stored], now, length, &[change]);
            }
            let answered = core::take(pause, &mut [&mut stored], now, max_wait, &[ask]);
            if let Taken::Granted { wait, got, .. } = answered.taken {
                passed.push((now + wait, got[0]));
            }
        }
        in_each_window(
            passed,
            pace,
            |_, _| 0,
            format_args!("seed {seed}, {pace:?}"),
        );
    }
}

/// The time of the callers goes on, that of the server steps, or it loses what it knew.
#[test]
fn a_loss_or_a_step_forward_lets_a_burst_more_pass_beside_the_turns_given_and_a_step_back_nothing()
{
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let pace = PACES[rng.random_range(0..PACES.len() - 1)];
        let one = pace.period / pace.amount;
        let (mut stored, mut now, mut offset) = (None, 0, 1_000_000_000_000_u64);
        let mut passed: Vec<(u64, u64)> = Vec::new();
        // When, and the turns that were given and not yet used.
        let mut steps: Vec<(u64, u64)> = Vec::new();
        for _ in 0..400 {
            now += rng.random_range(0..=4 * one);
            if rng.random_ratio(1, 80) {
                let far = 1 << rng.random_range(0..36);
                let step = rng.random_range(0..3);
                match step {
                    0 => stored = None,
                    1 => offset += far,
                    _ => offset -= far,
                }
                let given = passed.iter().filter(|(due, _)| *due > now);
                if step < 2 {
                    steps.push((now, given.map(|(_, units)| units).sum()));
                }
            }
            let (ask, max_wait) = random_ask(&mut rng, pace);
            let at = now + offset;
            let answered = core::take(None, &mut [&mut stored], at, max_wait, &[ask]);
            if let Taken::Granted { wait, got, .. } = answered.taken {
                passed.push((now + wait, got[0]));
            }
        }
        let of_steps = |from: u64, to: u64| {
            let before = steps.iter().filter(|(at, _)| *at <= to);
            let burst = |at: u64| if at >= from { pace.burst } else { 0 };
            before.map(|(at, given)| given + burst(*at)).sum()
        };
        in_each_window(
            passed,
            pace,
            of_steps,
            format_args!("seed {seed}, {pace:?}"),
        );
    }
}

/// As during a deploy: each process goes by its own quota, on the same count.
#[test]
fn no_window_holds_more_than_the_largest_of_different_quotas_allows() {
    // So many a second, and the burst.
    let quotas = [(1_000, 100), (100, 10), (5, 3), (500, 400), (40, 40)];
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut some = || quotas[rng.random_range(0..quotas.len())];
        let mixed = [some(), some()];
        let rate = mixed.iter().map(|it| it.0).max().unwrap();
        let burst = mixed.iter().map(|it| it.1).max().unwrap();
        let (mut stored, mut now) = (None, 1_000_000_000_000);
        let mut passed: Vec<(u64, u64)> = Vec::new();
        for _ in 0..600 {
            now += rng.random_range(0..=20_000);
            let (amount, burst) = mixed[rng.random_range(0..2)];
            let pace = pace(1, 1_000_000 / amount, burst);
            let want = rng.random_range(1..=burst);
            let need = 1;
            let asks = [Ask { pace, need, want }];
            let answered = core::take(None, &mut [&mut stored], now, 0, &asks);
            if let Taken::Granted { got, .. } = answered.taken {
                passed.push((now, got[0]));
            }
        }
        let largest = pace(rate, 1_000_000, burst);
        in_each_window(
            passed,
            largest,
            |_, _| 0,
            format_args!("seed {seed}, {mixed:?}"),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_quota_and_when_to_come_back() {
    let limit = Fleet::in_process()
        .rate_limit("openai")
        .quota("requests", Quota::per_minute(60).burst(10))
        .quota("tokens", Quota::per_minute(600).burst(100))
        .build()
        .unwrap();
    limit.try_acquire([1, 95]).await.unwrap();
    let refused = limit.try_acquire([1, 10]).await.unwrap_err();
    assert_eq!(refused.name(), "openai");
    assert_eq!(refused.quota(), Some("tokens"));
    assert_eq!(refused.reason(), RateLimitReason::Exhausted);
    assert_eq!(refused.retry_after(), Some(Duration::from_millis(500)));
    // Nothing of the other quota was taken for it.
    for _ in 0..9 {
        limit.try_acquire([1, 0]).await.unwrap();
    }
    assert!(limit.try_acquire([1, 0]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_used_can_be_used_by_others_of_the_fleet() {
    let fleet = Fleet::in_process();
    let limit = |name: &str| {
        let tokens = Quota::per_hour(100);
        fleet
            .rate_limit(name)
            .quota("tokens", tokens)
            .build()
            .unwrap()
    };
    let (one, two) = (limit("api"), limit("api"));
    let reserved = one.acquire(90).await.unwrap();
    assert!(two.try_acquire(50).await.is_err());
    reserved.settle(40);
    tokio::task::yield_now().await;
    // Another one, which has not been refused: it asks.
    limit("api").try_acquire(60).await.unwrap();
    assert!(limit("api").try_acquire(1).await.is_err());
    limit("another").try_acquire(100).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_layer_makes_calls_wait_and_gives_back_what_a_refusal_below_has_not_used() {
    let limit = Fleet::in_process()
        .rate_limit("api")
        .quota("calls", Quota::per_second(10).burst(2))
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("api");
    let mut service = ServiceBuilder::new()
        .layer(limit.layer())
        .layer(breaker.layer())
        .service(service_fn(|()| async { Ok::<_, std::io::Error>(()) }));
    let begin = Instant::now();
    let mut call = async || service.ready().await.unwrap().call(()).await;
    for _ in 0..4 {
        call().await.unwrap();
    }
    let took = Instant::now() - begin;
    assert!((200..210).contains(&took.as_millis()), "{took:?}");
    breaker.force_open();
    for _ in 0..5 {
        // One takes its turn, and gives it back to the next.
        assert!(matches!(call().await, Err(Error::CircuitOpen(_))));
        tokio::task::yield_now().await;
    }
    let took = Instant::now() - begin;
    assert!((300..320).contains(&took.as_millis()), "{took:?}");
}

/// What a service answers: the units that it has used, those that are left, and for how long nobody is to come.
#[derive(Clone, Copy, Default)]
struct Said {
    used: Option<u64>,
    left: Option<u64>,
    pause: Option<Duration>,
}

/// A process of the fleet that calls a service, which says the request.
fn says(
    fleet: &Fleet,
) -> (
    FleetRateLimit,
    impl Service<Said, Response = Said, Error = Error<std::io::Error>>,
) {
    let limit = fleet.rate_limit("api").quota("units", Quota::per_hour(100));
    let limit = limit.build().unwrap();
    let layer = limit.layer().cost(|_: &Said| 10);
    let layer = layer
        .settle(|said: &Said| said.used)
        .pause_with(|result: Result<&Said, &std::io::Error>| result.ok()?.pause)
        .left_by(|said: &Said| said.left.map(|left| ("units", left)));
    let answers = service_fn(|said: Said| async move { Ok::<_, std::io::Error>(said) });
    (limit, layer.layer(answers))
}

#[tokio::test(start_paused = true)]
async fn what_a_response_says_that_it_has_used_is_counted_in_the_whole_fleet() {
    let fleet = Fleet::in_process();
    let ((_, mut service), (other, _)) = (says(&fleet), says(&fleet));
    for (used, left) in [(Some(3), 97), (Some(12), 85), (None, 75), (Some(0), 75)] {
        let said = Said {
            used,
            ..Said::default()
        };
        service.ready().await.unwrap().call(said).await.unwrap();
        tokio::task::yield_now().await;
        // It takes all there is, and gives it back.
        other.try_acquire(left + 1).await.unwrap_err();
        let again = fleet.rate_limit("api").quota("units", Quota::per_hour(100));
        let again = again.build().unwrap();
        again.try_acquire(left).await.unwrap().cancel();
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_response_says_is_left_and_the_pause_that_it_asks_for_are_for_the_whole_fleet() {
    let fleet = Fleet::in_process();
    let ((_, mut service), (other, _)) = (says(&fleet), says(&fleet));
    let said = Said {
        left: Some(20),
        pause: Some(Duration::from_secs(7)),
        ..Said::default()
    };
    service.ready().await.unwrap().call(said).await.unwrap();
    tokio::task::yield_now().await;
    let begin = Instant::now();
    let refused = other.try_acquire(1).await.unwrap_err();
    assert_eq!(refused.quota(), None);
    other.acquire(20).await.unwrap();
    let took = Instant::now() - begin;
    assert!((7_000..7_010).contains(&took.as_millis()), "{took:?}");
    other.try_acquire(1).await.unwrap_err();
}

/// As a refusal by a layer below, or a `429` of an API.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_response_over_http_pauses_the_fleet_and_is_settled_when_its_body_has_been_read() {
    use tower_bulwark::http::{HttpClassify, Unsettled};
    let fleet = Fleet::in_process();
    let ((limit, _), (other, _)) = (says(&fleet), says(&fleet));
    let answers = service_fn(|status: u16| async move {
        let response = http::Response::builder().status(status);
        let response = response.header("retry-after", "3").body(()).unwrap();
        Ok::<_, std::io::Error>(response)
    });
    let layer = limit.layer().cost(|_: &u16| 60).settle_later();
    let mut service = layer.pause_by(HttpClassify::new()).layer(answers);
    let response = service.ready().await.unwrap().call(200).await.unwrap();
    tokio::task::yield_now().await;
    other.try_acquire(50).await.unwrap_err();
    Unsettled::of(response.extensions()).settle(10);
    tokio::task::yield_now().await;
    let again = says(&fleet).0;
    again.try_acquire(90).await.unwrap().cancel();
    tokio::task::yield_now().await;

    service.ready().await.unwrap().call(429).await.unwrap();
    tokio::task::yield_now().await;
    let refused = again.try_acquire(1).await.unwrap_err();
    let after = refused.retry_after().unwrap();
    assert!((2_990..=3_001).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_are_typed_errors() {
    let fleet = Fleet::in_process();
    let error = fleet.rate_limit("api").build().unwrap_err();
    assert_eq!(error.setting(), "quotas");
    let long = Quota::per(999_983, Duration::from_secs(86_400 * 365)).burst(1_000_000);
    let error = fleet
        .rate_limit("api")
        .quota("calls", long)
        .build()
        .unwrap_err();
    assert_eq!(error.setting(), "period");
    let builder = fleet.rate_limit("api").quota("calls", Quota::per_second(1));
    let outside = std::thread::spawn(move || builder.build().unwrap_err());
    assert_eq!(outside.join().unwrap().setting(), "runtime");
}
