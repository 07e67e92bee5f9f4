//! Rules that only show at an edge: the moment an open time is over, updates that change nothing, the counts.

use super::*;

#[test]
fn an_ordinary_call_takes_no_probes_place() {
    let mut core = Core::default();
    assert_eq!(core.admit().unwrap().lease, 0);
    let mut ramping = Core::new(CircuitBreakerConfig {
        ramp: Some(secs(10)),
        ..CircuitBreakerConfig::default()
    });
    ramping.fail(5);
    ramping.wait(secs(60));
    let probe = ramping.admit().unwrap();
    assert_ne!(probe.lease, 0);
    let _ = ramping.settle(probe, Outcome::Ignored);
    let _ = ramping.call(Outcome::Success);
    let _ = ramping.call(Outcome::Success);
    assert_eq!(ramping.effective(), CircuitState::Closed);
    assert_eq!(ramping.admit().unwrap().lease, 0);
}

#[test]
fn each_outcome_is_in_its_own_total_as_often_as_it_came() {
    let mut core = Core::new(CircuitBreakerConfig {
        consecutive_failures: Some(100),
        ..CircuitBreakerConfig::default()
    });
    for (outcome, times) in [
        (Outcome::Success, 2),
        (Outcome::Failure, 3),
        (Outcome::Overload, 4),
        (Outcome::Ignored, 5),
        (Outcome::Cancelled, 6),
    ] {
        for _ in 0..times {
            let ticket = core.admit().unwrap();
            let slow = outcome == Outcome::Failure;
            let _ = core.settle_as(
                ticket,
                &Ended {
                    slow,
                    ..ended(outcome)
                },
            );
        }
    }
    let totals = core.state.totals;
    assert_eq!(
        (
            totals.successes,
            totals.failures,
            totals.overloads,
            totals.ignored,
            totals.cancelled
        ),
        (2, 3, 4, 5, 6)
    );
    assert_eq!(totals.slow, 3);
}

#[test]
fn a_call_given_up_for_being_slow_was_slow() {
    let given_up = |slow| Ended {
        slow,
        ..ended(Outcome::Cancelled)
    };
    let mut core = Core::new(slow_policy());
    let minimum = core.policy.minimum_calls;
    for _ in 0..10 * minimum {
        let ticket = core.admit().unwrap();
        let _ = core.settle_as(ticket, &given_up(false));
    }
    assert_eq!(core.state.counts(Tick(core.now)).calls, 0);
    for _ in 0..minimum - 1 {
        let ticket = core.admit().unwrap();
        assert!(core.settle_as(ticket, &given_up(true)).change().is_none());
    }
    let ticket = core.admit().unwrap();
    let opened = core.settle_as(ticket, &given_up(true)).change().unwrap();
    assert!(matches!(opened.cause, Cause::SlowCallRate { .. }));
}

#[test]
fn a_fast_probe_is_a_good_one_where_slow_calls_are_watched() {
    let mut core = Core::new(slow_policy());
    let opened = core
        .state
        .add_overdue(&core.policy, 1_000, Tick(core.now), 0.0);
    assert_eq!(opened.unwrap().to, CircuitState::Open);
    core.wait(core.policy.recovery.longest());
    for _ in 0..core.policy.success_threshold {
        let _ = core.call(Outcome::Success);
    }
    assert_eq!(core.effective(), CircuitState::Closed);
}

#[test]
fn no_overdue_calls_are_no_news() {
    let mut core = Core::new(CircuitBreakerConfig {
        consecutive_failures: None,
        failure_rate: Some(0.6),
        window: Window::LastCalls(5),
        minimum_calls: 5,
        ..slow_policy()
    });
    // It is a success that makes the calls enough to look at the rate, and that opens nothing.
    for outcome in [1, 1, 1, 0, 0].map(|n| [Outcome::Success, Outcome::Failure][n]) {
        assert!(core.call(outcome).change().is_none());
    }
    assert_eq!(core.state.counts(Tick(core.now)).failures, 3);
    assert!(
        core.state
            .add_overdue(&core.policy, 0, Tick(core.now), 0.0)
            .is_none()
    );
    assert_eq!(core.effective(), CircuitState::Closed);
}

#[test]
fn calls_still_running_when_it_opened_do_not_open_it_again() {
    let mut core = Core::new(slow_policy());
    let opens = |core: &mut Core| {
        let now = Tick(core.now);
        core.state.add_overdue(&core.policy, 1_000, now, 0.0)
    };
    assert!(opens(&mut core).is_some());
    let epoch = core.state.epoch;
    assert!(opens(&mut core).is_none());
    core.wait(core.policy.recovery.longest());
    let _probe = core.admit().unwrap();
    assert!(opens(&mut core).is_none());
    assert_eq!(core.effective(), CircuitState::HalfOpen);
    assert_eq!(core.state.epoch, epoch + 1);
}

#[test]
fn an_open_circuit_counts_as_half_open_since_its_time_was_over() {
    let mut core = Core::default();
    let since = |core: &Core| core.now - core.state.since(Tick(core.now)).0;
    core.wait(secs(7));
    assert_eq!(since(&core), 7 * SECOND);
    core.fail(5);
    core.wait(secs(59));
    assert_eq!(since(&core), 59 * SECOND);
    core.wait(secs(1));
    assert_eq!(since(&core), 0, "from the very moment");
    core.wait(secs(3));
    assert_eq!(since(&core), 3 * SECOND);
    // An operator's word hides what would have been.
    let now = Tick(core.now);
    let _ = core.state.command(&core.policy, Command::ForceOpen, now);
    core.wait(secs(100));
    assert_eq!(since(&core), 100 * SECOND);
}

#[test]
fn in_metrics_only_mode_the_shadow_has_no_moment_of_its_own() {
    let mut core = Core::default();
    let now = Tick(core.now);
    let _ = core.state.command(&core.policy, Command::MetricsOnly, now);
    let _ = core
        .state
        .command(&core.policy, Command::OpenFor(secs(5)), now);
    core.wait(secs(9));
    let since = core.state.since(Tick(core.now));
    assert_eq!(since, now, "it has been watching all the time");
}

#[test]
fn opened_again_by_its_service_when_its_time_is_over_it_comes_from_half_open() {
    for early in [1, 0] {
        let mut core = Core::default();
        core.fail(5);
        core.wait(secs(60) - Duration::from_nanos(early));
        let now = Tick(core.now);
        let command = Command::OpenFor(secs(5));
        let change = core.state.command(&core.policy, command, now);
        match change {
            // Open already: it stays so, and longer.
            None => assert_eq!(early, 1),
            Some(change) => {
                assert_eq!(early, 0);
                assert_eq!(
                    (change.from, change.to),
                    (CircuitState::HalfOpen, CircuitState::Open)
                );
                assert_eq!(change.open_for, Some(secs(5)));
            }
        }
        core.wait(secs(5) - Duration::from_nanos(1));
        assert_eq!(core.effective(), CircuitState::Open);
        core.wait(Duration::from_nanos(1));
        assert_eq!(core.effective(), CircuitState::HalfOpen);
    }
}
