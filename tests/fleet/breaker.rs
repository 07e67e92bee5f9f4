//! The shared breaker: the pure core against the Lua, step by step, and the handle through the public interface.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::aio::MultiplexedConnection;
use tower_bulwark::fleet::{Fleet, SharedBreaker};
use tower_bulwark::{CircuitBreaker, CircuitState};

use super::support::server::Server;

#[path = "../../src/fleet/breaker/core.rs"]
mod core;

use core::{Breaker, Leased, News, Report, Rules};

const BREAKER: &str = include_str!("../../src/fleet/breaker/lua/breaker.lua");

enum Step {
    Report(Rules, Report),
    Lease(u64, u64),
    Probed(u64, u64),
    Forget,
}

fn news(it: News) -> Vec<u64> {
    vec![u64::from(it.is_open), it.epoch, it.remaining]
}

fn decide(breaker: &mut Breaker, now: u64, node: &str, step: &Step) -> Vec<u64> {
    match step {
        Step::Report(rules, report) => news(breaker.report(now, node, *rules, *report)),
        Step::Lease(seen, length) => {
            let Leased {
                is_mine,
                wait,
                news: it,
            } = breaker.lease(now, node, *seen, *length);
            [vec![u64::from(is_mine), wait], news(it)].concat()
        }
        Step::Probed(seen, failed_for) => news(breaker.probed(now, node, *seen, *failed_for)),
        Step::Forget => {
            *breaker = Breaker::default();
            vec![]
        }
    }
}

fn random_step(rng: &mut StdRng, epoch: u64) -> Step {
    let seen = match rng.random_range(0..20) {
        0 => epoch.saturating_sub(1),
        1 => rng.random_range(0..=epoch + 1),
        _ => epoch,
    };
    let rules = Rules {
        slice: [10_000, 100_000, 70_001][rng.random_range(0..3)],
        minimum_calls: rng.random_range(1..30),
        permille: [500, 800, 1_000][rng.random_range(0..3)],
        min_nodes: rng.random_range(1..4),
        open_for: rng.random_range(1..400_000),
    };
    let some = |rng: &mut StdRng, most| match rng.random_range(0..2) {
        0 => 0,
        _ => rng.random_range(0..most),
    };
    match rng.random_range(0..100) {
        0..60 => {
            let (ok, failed) = (some(rng, 6), some(rng, 6));
            let opened = match rng.random_range(0..20) {
                0 => rng.random_range(1..400_000),
                _ => 0,
            };
            Step::Report(
                rules,
                Report {
                    seen,
                    ok,
                    failed,
                    opened,
                },
            )
        }
        // For no time: the right is given back.
        60..80 => Step::Lease(seen, some(rng, 200_000)),
        80..99 => {
            let failed_for = some(rng, 300_000);
            Step::Probed(seen, failed_for)
        }
        _ => Step::Forget,
    }
}

fn random_time(rng: &mut StdRng, now: u64) -> u64 {
    match rng.random_range(0..100) {
        0..20 => now,
        20 => now - rng.random_range(0..1_500_000),
        21 => now - rng.random_range(0..8_000_000),
        22 => now + rng.random_range(0..20_000_000),
        _ => now + rng.random_range(0..40_000),
    }
}

/// Does the same at the core and at a server, and says where they first differ, or how often the breaker changed.
async fn compare(
    connection: &mut MultiplexedConnection,
    script: &str,
    seed: u64,
    steps: usize,
) -> Result<u64, String> {
    let mut load = redis::cmd("SCRIPT");
    let sha: String = load
        .arg("LOAD")
        .arg(script)
        .query_async(connection)
        .await
        .unwrap();
    let _: () = redis::cmd("FLUSHALL")
        .query_async(connection)
        .await
        .unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut breaker, mut now, mut changes, mut done) =
        (Breaker::default(), 1_795_434_343_123_456, 0, 0);
    while done < steps {
        let (mut pipe, mut expected) = (redis::pipe(), Vec::new());
        for _ in 0..200 {
            now = random_time(&mut rng, now);
            let before = breaker.epoch();
            let step = random_step(&mut rng, before);
            let node = format!("node-{}", rng.random_range(0..4));
            add_command(&mut pipe, &sha, now, &node, &step);
            let said = decide(&mut breaker, now, &node, &step);
            changes += u64::from(breaker.epoch() > before);
            if !said.is_empty() {
                expected.push((now, said));
            }
        }
        // A script that fails is no difference: it is broken.
        let replies: Vec<redis::Value> = pipe.query_async(connection).await.unwrap();
        for (i, (reply, (at, said))) in replies.iter().zip(&expected).enumerate() {
            let numbers = numbers(reply);
            if numbers != *said {
                let step = done + i;
                return Err(format!(
                    "seed {seed}, step {step}, at {at}: the core says {said:?}, the script {numbers:?}"
                ));
            }
        }
        done += expected.len();
    }
    Ok(changes)
}

fn add_command(pipe: &mut redis::Pipeline, sha: &str, now: u64, node: &str, step: &Step) {
    let (operation, numbers) = match step {
        Step::Report(rules, report) => (
            "report",
            vec![
                report.seen,
                report.ok,
                report.failed,
                report.opened,
                rules.slice,
                rules.minimum_calls,
                rules.permille,
                rules.min_nodes,
                rules.open_for,
            ],
        ),
        Step::Lease(seen, length) => ("lease", vec![*seen, *length]),
        Step::Probed(seen, failed_for) => ("probed", vec![*seen, *failed_for]),
        Step::Forget => {
            pipe.cmd("FLUSHALL").ignore();
            return;
        }
    };
    let command = pipe.cmd("EVALSHA").arg(sha).arg(3);
    for key in ["state", "failing", "opened"] {
        command.arg(format!("{{breaker:test}}:{key}"));
    }
    command.arg(now).arg(operation).arg(node).arg("channel");
    for number in numbers {
        command.arg(number);
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
async fn the_script_decides_as_the_core_does() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut connection = server.connect().await.unwrap();
    let mut changes = 0;
    for seed in 0..12 {
        let compared = compare(&mut connection, BREAKER, seed, 10_000).await;
        changes += compared.unwrap_or_else(|difference| panic!("{difference}"));
    }
    // It is not one long opening that was compared.
    assert!(changes > 3_000, "{changes}");
}

/// A suite that cannot fail proves nothing.
#[tokio::test]
async fn broken_scripts_are_found_out() {
    let mutants = [
        (
            "an epoch goes back",
            "if seen > epoch then epoch = is_open and seen + 1 or seen end",
            "",
        ),
        (
            "an opening that some do not hear of",
            "is_open and seen + 1 or seen",
            "seen",
        ),
        (
            "old counts count",
            "if is_open or seen ~= epoch then",
            "if is_open then",
        ),
        (
            "two probe",
            "and now < ptill then busy",
            "and false then busy",
        ),
        (
            "anybody's probe decides",
            "and c[5] == node then change",
            "then change",
        ),
        (
            "one node is enough",
            "call('ZCARD', failing) >= min_nodes",
            "true",
        ),
        (
            "one trip is enough",
            "call('ZCARD', opened) >= min_nodes",
            "true",
        ),
        (
            "the window has no end",
            "n + SLICES > id and n <= id",
            "n <= id",
        ),
        (
            "a clock that steps back",
            "math.min(tonumber(c[3]) or 0, now + length)",
            "tonumber(c[3]) or 0",
        ),
        (
            "what was counted stays",
            "call('DEL', S, failing, opened)",
            "call('DEL', S)",
        ),
    ];
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut connection = server.connect().await.unwrap();
    for (name, ours, broken) in mutants {
        assert!(BREAKER.contains(ours), "{name}: the script has no `{ours}`");
        let script = BREAKER.replacen(ours, broken, 1);
        let mut found = false;
        for seed in 0..12 {
            found = found
                || compare(&mut connection, &script, seed, 10_000)
                    .await
                    .is_err();
        }
        assert!(found, "{name}: nobody notices");
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_is_shared_through_the_public_interface() {
    let fleet = Fleet::in_process();
    let breaker = CircuitBreaker::new("api");
    let settings = SharedBreaker {
        min_nodes: 1,
        minimum_calls: 4,
        ..SharedBreaker::default()
    };
    let share = fleet.share(&breaker, settings).unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    // Not enough for its own rules, and enough for those of the fleet.
    for _ in 0..4 {
        breaker.try_acquire().unwrap().failure();
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    let refused = breaker.try_acquire().unwrap_err();
    assert!(
        refused.to_string().contains("the fleet said so"),
        "{refused}"
    );
    assert!(share.snapshot().fleet_is_open);
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_are_typed_errors() {
    let fleet = Fleet::in_process();
    let breaker = CircuitBreaker::new("api");
    let good = SharedBreaker::default();
    let zero = Duration::ZERO;
    for (settings, name) in [
        (
            SharedBreaker {
                min_nodes: 0,
                ..good
            },
            "min_nodes",
        ),
        (
            SharedBreaker {
                failure_rate: f64::NAN,
                ..good
            },
            "failure_rate",
        ),
        (
            SharedBreaker {
                failure_rate: 1.5,
                ..good
            },
            "failure_rate",
        ),
        (
            SharedBreaker {
                window: zero,
                ..good
            },
            "window",
        ),
        (
            SharedBreaker {
                open_for: Duration::MAX,
                ..good
            },
            "open_for",
        ),
        (
            SharedBreaker {
                store_timeout: zero,
                ..good
            },
            "store_timeout",
        ),
    ] {
        let error = fleet.share(&breaker, settings).unwrap_err();
        assert_eq!(error.setting(), name);
    }
    let outside = std::thread::spawn(move || fleet.share(&breaker, good).unwrap_err());
    assert_eq!(outside.join().unwrap().setting(), "runtime");
}
