//! The pure core, against a naive model and rule by rule. Time is a number here.

mod edges;
mod in_flight;

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::CircuitState;
use super::config::{CircuitBreakerConfig, Opening, Recovery, SlowCalls, Window};
use super::state::{Admission, Change, Command, Effects, Ended, State, Ticket};
use crate::call::outcome::Outcome;
use crate::error::OpenReason;
use crate::event::Cause;
use crate::util::time::Tick;

const SECOND: u64 = 1_000_000_000;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ended(outcome: Outcome) -> Ended {
    Ended {
        outcome,
        slow: false,
        overdue: false,
        message: None,
        retry_after: None,
    }
}

impl Effects {
    /// The change that comes last, if anything has changed.
    fn change(self) -> Option<Change> {
        self.changes.into_iter().last()
    }
}

fn opening(reopened: u32) -> Opening {
    Opening {
        reopened,
        failures: 5,
        calls: 0,
    }
}

/// A core with its policy and a clock that is a number.
struct Core {
    policy: CircuitBreakerConfig,
    state: State,
    now: u64,
}

impl Core {
    fn new(policy: CircuitBreakerConfig) -> Self {
        policy.check().unwrap();
        let now = 1_000 * SECOND;
        Self {
            state: State::new(&policy, Tick(now)),
            policy,
            now,
        }
    }

    fn default() -> Self {
        Self::new(CircuitBreakerConfig::default())
    }

    fn wait(&mut self, duration: Duration) {
        self.now += crate::util::time::nanos(duration);
    }

    fn admit(&mut self) -> Result<Ticket, OpenReason> {
        self.admit_with(0.0)
    }

    fn admit_with(&mut self, unit: f64) -> Result<Ticket, OpenReason> {
        let (admission, _) = self.state.admit(&self.policy, Tick(self.now), unit);
        match admission {
            Admission::Go(ticket) => Ok(ticket),
            Admission::GoUncounted(_) => panic!("only of a disabled breaker"),
            Admission::GoAnyway(_) => panic!("only in metrics-only mode"),
            Admission::Refuse(reason, _) => Err(reason),
        }
    }

    fn settle(&mut self, ticket: Ticket, outcome: Outcome) -> Effects {
        self.settle_as(ticket, &ended(outcome))
    }

    fn settle_as(&mut self, ticket: Ticket, ended: &Ended) -> Effects {
        self.state
            .settle(&self.policy, ticket, ended, Tick(self.now), 0.0)
    }

    fn call(&mut self, outcome: Outcome) -> Effects {
        let ticket = self.admit().expect("admitted");
        self.settle(ticket, outcome)
    }

    fn fail(&mut self, times: u32) {
        for _ in 0..times {
            let _ = self.call(Outcome::Failure);
        }
    }

    fn effective(&self) -> CircuitState {
        self.state.effective(Tick(self.now))
    }
}

#[test]
fn five_failures_in_a_row_open_it_and_four_do_not() {
    let mut core = Core::default();
    core.fail(4);
    assert_eq!(core.effective(), CircuitState::Closed);
    let opened = core.call(Outcome::Failure).change().unwrap();
    assert_eq!(opened.cause, Cause::ConsecutiveFailures(5));
    assert_eq!(opened.open_for, Some(secs(60)));
    assert_eq!(core.admit(), Err(OpenReason::Open));
}

#[test]
fn a_success_ends_a_row_and_an_ignored_result_does_not() {
    let mut core = Core::default();
    core.fail(4);
    let _ = core.call(Outcome::Ignored);
    let _ = core.call(Outcome::Cancelled);
    assert_eq!(core.state.consecutive, 4);
    let _ = core.call(Outcome::Success);
    core.fail(4);
    assert_eq!(core.effective(), CircuitState::Closed);
}

#[test]
fn an_overload_neither_ends_a_row_nor_is_part_of_it_unless_asked() {
    let mut core = Core::default();
    core.fail(4);
    for _ in 0..100 {
        assert!(core.call(Outcome::Overload).change().is_none());
    }
    assert!(
        core.call(Outcome::Failure).change().is_some(),
        "still a row"
    );
    assert_eq!(core.state.totals.overloads, 100);

    let mut asked = Core::new(CircuitBreakerConfig {
        overload_is_failure: true,
        ..CircuitBreakerConfig::default()
    });
    for _ in 0..4 {
        assert!(asked.call(Outcome::Overload).change().is_none());
    }
    assert!(asked.call(Outcome::Overload).change().is_some());
}

#[test]
fn to_a_failure_rate_an_overload_is_a_failure_and_a_probe_that_met_one_has_failed() {
    let mut core = Core::new(CircuitBreakerConfig {
        consecutive_failures: None,
        failure_rate: Some(0.5),
        minimum_calls: 4,
        ..CircuitBreakerConfig::default()
    });
    for _ in 0..2 {
        let _ = core.call(Outcome::Success);
        let _ = core.call(Outcome::Ignored);
    }
    assert!(core.call(Outcome::Overload).change().is_none());
    let opened = core.call(Outcome::Overload).change().unwrap();
    let half = Cause::FailureRate {
        failures: 2,
        calls: 4,
    };
    assert_eq!(opened.cause, half);
    core.wait(secs(60));
    let again = core.call(Outcome::Overload).change().unwrap();
    assert_eq!(again.cause, Cause::ProbeFailed);
}

#[test]
fn a_probe_that_met_an_overload_says_nothing_where_only_rows_are_watched() {
    let mut core = Core::default();
    core.fail(5);
    core.wait(secs(60));
    for _ in 0..3 {
        assert!(core.call(Outcome::Overload).change().is_none());
        assert_eq!(core.effective(), CircuitState::HalfOpen);
    }
    let _ = core.call(Outcome::Success);
    assert!(core.call(Outcome::Success).change().is_some(), "closed");
}

#[test]
fn seven_failures_of_a_hundred_reach_a_rate_of_seven_hundredths() {
    let mut core = Core::new(CircuitBreakerConfig {
        consecutive_failures: None,
        failure_rate: Some(0.07),
        minimum_calls: 100,
        ..CircuitBreakerConfig::default()
    });
    for _ in 0..93 {
        let _ = core.call(Outcome::Success);
    }
    for _ in 0..6 {
        assert!(core.call(Outcome::Failure).change().is_none());
    }
    assert!(core.call(Outcome::Failure).change().is_some());
}

#[test]
fn open_for_does_not_end_an_operators_word_nor_say_that_somebody_else_opened_it() {
    let command = |core: &mut Core, command| {
        core.state
            .command(&core.policy, command, Tick(core.now))
            .map(|change| (change.from, change.to))
    };
    let open_for = Command::OpenFor(secs(5));
    for (word, stays) in [
        (Command::ForceOpen, CircuitState::ForcedOpen),
        (Command::Disable, CircuitState::Disabled),
        (Command::MetricsOnly, CircuitState::MetricsOnly),
    ] {
        let mut core = Core::default();
        let _ = command(&mut core, word);
        let _ = command(&mut core, open_for);
        assert_eq!(core.effective(), stays);
        core.wait(secs(6));
        assert_eq!(core.effective(), stays);
    }
    let mut core = Core::default();
    core.fail(5);
    let opened = core.state.opened;
    core.wait(secs(59));
    assert_eq!(command(&mut core, open_for), None);
    core.wait(secs(4));
    assert_eq!(core.effective(), CircuitState::Open, "five more seconds");
    assert_eq!(
        (core.state.opened, core.state.opening.failures),
        (opened, 5)
    );
}

#[tokio::test(start_paused = true)]
async fn successes_counted_after_a_look_read_the_clock_stay_in_the_window() {
    let breaker = super::CircuitBreaker::builder("api")
        .failure_rate(0.5, Window::LastTime(secs(10)))
        .build()
        .unwrap();
    let earlier = crate::util::time::now();
    tokio::time::advance(secs(1)).await;
    breaker.try_acquire().unwrap().success(); // Gives the shard its tag.
    for _ in 0..5 {
        breaker.try_acquire().unwrap().success();
    }
    let counts = breaker.shared.with_core(earlier, |state, _| {
        (state.counts(earlier), Effects::default())
    });
    assert_eq!(counts.calls, 0, "not yet, as of then");
    assert_eq!(breaker.snapshot().window_calls, 6);
}

#[test]
fn an_open_circuit_is_half_open_from_the_very_moment_its_time_is_over() {
    let mut core = Core::default();
    core.fail(5);
    core.wait(secs(60) - Duration::from_nanos(1));
    assert_eq!(core.effective(), CircuitState::Open);
    assert_eq!(core.admit(), Err(OpenReason::Open));
    core.wait(Duration::from_nanos(1));
    assert_eq!(core.effective(), CircuitState::HalfOpen);
    assert!(core.admit().is_ok());
}

#[test]
fn a_thousand_callers_of_a_half_open_circuit_are_one_probe() {
    let mut core = Core::default();
    core.fail(5);
    core.wait(secs(60));
    let admitted = (0..1_000).filter(|_| core.admit().is_ok()).count();
    assert_eq!(admitted, 1);
    assert_eq!(core.admit(), Err(OpenReason::ProbesBusy));
}

#[test]
fn two_good_probes_close_it_and_one_bad_one_opens_it_again() {
    let mut core = Core::default();
    core.fail(5);
    core.wait(secs(60));
    assert!(core.call(Outcome::Success).change().is_none());
    let opened = core.call(Outcome::Failure).change().unwrap();
    assert_eq!(
        (opened.to, opened.cause),
        (CircuitState::Open, Cause::ProbeFailed)
    );
    core.wait(secs(60));
    assert!(core.call(Outcome::Success).change().is_none());
    let closed = core.call(Outcome::Success).change().unwrap();
    assert_eq!(
        (closed.to, closed.cause),
        (CircuitState::Closed, Cause::ProbesSucceeded(2))
    );
    assert_eq!(core.state.consecutive, 0);
    core.fail(4);
    assert_eq!(
        core.effective(),
        CircuitState::Closed,
        "the old row is forgotten"
    );
}

#[test]
fn a_probe_that_is_dropped_or_says_nothing_gives_its_place_back() {
    let mut core = Core::default();
    core.fail(5);
    core.wait(secs(60));
    for outcome in [Outcome::Cancelled, Outcome::Ignored] {
        assert!(core.call(outcome).change().is_none());
        assert_eq!(core.effective(), CircuitState::HalfOpen);
    }
    assert!(core.admit().is_ok());
}

#[test]
fn a_probe_that_hangs_has_failed_when_its_lease_is_over_and_the_open_time_grows() {
    let mut core = Core::new(CircuitBreakerConfig {
        recovery: Recovery::exponential(secs(60), 2.0, secs(600)),
        ..CircuitBreakerConfig::default()
    });
    core.fail(5);
    core.wait(secs(60));
    let hung = core.admit().unwrap();
    core.wait(secs(30) - Duration::from_nanos(1));
    assert_eq!(core.admit(), Err(OpenReason::ProbesBusy));
    core.wait(Duration::from_nanos(1));
    let (admission, effects) = core.state.admit(&core.policy, Tick(core.now), 0.0);
    assert!(matches!(
        admission,
        Admission::Refuse(OpenReason::Open, Some(left)) if left == secs(120)
    ));
    assert_eq!(effects.lost_probes, 1);
    assert_eq!(effects.change().unwrap().cause, Cause::ProbeLost);
    // What the hung one finds out in the end is of an earlier epoch.
    let _ = core.settle(hung, Outcome::Success);
    assert_eq!(core.effective(), CircuitState::Open);
}

#[test]
fn of_three_probes_two_must_succeed_where_it_was_asked_so() {
    let core = || {
        let mut core = Core::new(CircuitBreakerConfig {
            success_threshold: 2,
            success_out_of: Some(3),
            ..CircuitBreakerConfig::default()
        });
        core.fail(5);
        core.wait(secs(60));
        core
    };
    let mut closes = core();
    assert!(closes.call(Outcome::Failure).change().is_none());
    assert!(closes.call(Outcome::Success).change().is_none());
    let change = closes.call(Outcome::Success).change().unwrap();
    assert_eq!(change.to, CircuitState::Closed);

    let mut opens = core();
    assert!(opens.call(Outcome::Failure).change().is_none());
    assert!(opens.call(Outcome::Success).change().is_none());
    let change = opens.call(Outcome::Failure).change().unwrap();
    assert_eq!(change.to, CircuitState::Open);
    assert_eq!(opens.state.opening.failures, 2);
}

#[test]
fn a_refusal_in_half_open_says_when_the_earliest_lease_ends() {
    let mut core = Core::new(CircuitBreakerConfig {
        max_probes: 2,
        ..CircuitBreakerConfig::default()
    });
    core.fail(5);
    core.wait(secs(60));
    let _first = core.admit().unwrap();
    core.wait(secs(10));
    let _second = core.admit().unwrap();
    let (admission, _) = core.state.admit(&core.policy, Tick(core.now), 0.0);
    assert!(matches!(
        admission,
        Admission::Refuse(OpenReason::ProbesBusy, Some(left)) if left == secs(20)
    ));
    let peeked = core.state.peek(&core.policy, Tick(core.now)).unwrap();
    assert_eq!(peeked.retry_after(), Some(secs(20)));
}

#[test]
fn a_lease_stands_still_in_a_wait_and_no_longer_than_its_own_length() {
    let core = || {
        let mut core = Core::default();
        core.fail(5);
        core.wait(secs(60));
        let ticket = core.admit().unwrap();
        core.wait(secs(20));
        core.state.pause(&core.policy, ticket, true, Tick(core.now));
        (core, ticket)
    };
    let (mut goes_on, ticket) = core();
    goes_on.wait(secs(25));
    goes_on
        .state
        .pause(&goes_on.policy, ticket, false, Tick(goes_on.now));
    goes_on.wait(secs(10) - Duration::from_nanos(1));
    assert_eq!(goes_on.admit(), Err(OpenReason::ProbesBusy));
    goes_on.wait(Duration::from_nanos(1));
    assert_eq!(
        goes_on.admit(),
        Err(OpenReason::Open),
        "ten seconds were left"
    );

    let (mut is_lost, _) = core();
    is_lost.wait(secs(40) - Duration::from_nanos(1));
    assert_eq!(is_lost.admit(), Err(OpenReason::ProbesBusy));
    is_lost.wait(Duration::from_nanos(1));
    assert_eq!(is_lost.admit(), Err(OpenReason::Open));
}

#[test]
fn a_look_at_an_open_or_half_open_circuit_takes_no_place() {
    let mut core = Core::default();
    core.fail(5);
    let now = Tick(core.now);
    let refusal = core.state.peek(&core.policy, now).unwrap();
    assert_eq!(refusal.retry_after(), Some(secs(60)));
    core.wait(secs(60));
    for _ in 0..10 {
        assert!(core.state.peek(&core.policy, Tick(core.now)).is_none());
    }
    assert!(core.admit().is_ok());
}

#[test]
fn failures_of_the_last_calls_open_it_before_there_are_as_many_calls() {
    for window in [Window::LastCalls(10), Window::LastTime(secs(60))] {
        let mut core = Core::new(CircuitBreakerConfig {
            consecutive_failures: None,
            failure_count: Some(3),
            window,
            ..CircuitBreakerConfig::default()
        });
        for _ in 0..2 {
            assert!(core.call(Outcome::Failure).change().is_none());
            assert!(core.call(Outcome::Success).change().is_none());
        }
        let cause = core.call(Outcome::Failure).change().unwrap().cause;
        let counted = Cause::FailureCount {
            failures: 3,
            calls: 5,
        };
        assert_eq!(cause, counted);
    }
}

#[test]
fn the_failure_that_opens_it_can_ask_it_to_stay_open_for_longer_within_a_bound() {
    let asks = |seconds| {
        let mut core = Core::default();
        core.fail(4);
        let ticket = core.admit().unwrap();
        let failure = Ended {
            retry_after: Some(secs(seconds)),
            ..ended(Outcome::Failure)
        };
        let change = core.settle_as(ticket, &failure).change().unwrap();
        change.open_for.unwrap().as_secs()
    };
    assert_eq!([asks(1), asks(90), asks(100_000)], [60, 90, 300]);
}

#[test]
fn the_message_is_that_of_the_failure_that_opened_it_also_if_it_had_none() {
    let mut core = Core::default();
    core.fail(3);
    let ticket = core.admit().unwrap();
    let with_message = Ended {
        message: Some("no route to host".into()),
        ..ended(Outcome::Failure)
    };
    let _ = core.settle_as(ticket, &with_message);
    let change = core.call(Outcome::Failure).change().unwrap();
    assert_eq!(change.last_failure, None, "that was an earlier one's");
}

#[test]
fn a_call_that_hangs_is_counted_for_as_long_as_it_hangs_and_as_one_call_when_it_ends() {
    let mut core = Core::new(slow_policy());
    let tickets: Vec<Ticket> = (0..4).map(|_| core.admit().unwrap()).collect();
    let now = Tick(core.now);
    assert!(core.state.add_overdue(&core.policy, 4, now, 0.0).is_none());
    core.state.add_successes(10_000, 0);
    assert_eq!(core.state.overdue, 4, "no number of successes hides it");
    let failed = Ended {
        slow: true,
        overdue: true,
        ..ended(Outcome::Failure)
    };
    for ticket in tickets {
        let _ = core.settle_as(ticket, &failed);
    }
    let counts = core.state.counts(now);
    assert_eq!(
        (core.state.overdue, counts.failures, counts.slow),
        (0, 4, 4)
    );
}

#[test]
fn idle_for_ten_years_and_then_an_outage_it_opens_after_as_many_failures() {
    for window in [Window::LastCalls(20), Window::LastTime(secs(10))] {
        let failures_to_open = |idle: Duration| {
            let mut core = Core::new(CircuitBreakerConfig {
                consecutive_failures: None,
                failure_rate: Some(0.5),
                minimum_calls: 8,
                window,
                ..CircuitBreakerConfig::default()
            });
            let slice = core.now / SECOND;
            core.state.add_successes(100, slice);
            core.wait(secs(11));
            core.wait(idle);
            (1..1_000).find(|_| core.call(Outcome::Failure).change().is_some())
        };
        let at_once = failures_to_open(Duration::ZERO);
        for years in [1, 10] {
            let idle = secs(years * 365 * 86_400);
            assert_eq!(failures_to_open(idle), at_once, "{window:?}");
        }
    }
}

#[test]
fn late_answers_of_an_earlier_epoch_change_nothing() {
    let mut core = Core::default();
    let stragglers: Vec<Ticket> = (0..10).map(|_| core.admit().unwrap()).collect();
    core.fail(5);
    // While open: no success heals it, no failure lengthens it.
    assert!(
        core.settle(stragglers[0], Outcome::Success)
            .change()
            .is_none()
    );
    assert!(
        core.settle(stragglers[1], Outcome::Failure)
            .change()
            .is_none()
    );
    assert_eq!(core.state.opening.failures, 5);
    core.wait(secs(60));
    // While half-open: none closes it, none opens it, none takes or gives a place.
    let probe = core.admit().unwrap();
    for straggler in &stragglers[2..6] {
        assert!(core.settle(*straggler, Outcome::Success).change().is_none());
    }
    assert!(
        core.settle(stragglers[6], Outcome::Failure)
            .change()
            .is_none()
    );
    let _ = core.settle(stragglers[7], Outcome::Ignored);
    assert_eq!(core.admit(), Err(OpenReason::ProbesBusy));
    assert!(core.settle(probe, Outcome::Success).change().is_none());
    assert!(core.call(Outcome::Success).change().is_some());
    // Closed again: a failure from before starts no row.
    let _ = core.settle(stragglers[8], Outcome::Failure);
    assert_eq!(core.state.consecutive, 0);
    // All of them are counted all the same.
    assert_eq!(core.state.totals.failures, 5 + 3);
}

#[test]
fn a_service_that_fails_four_times_in_five_opens_a_failure_rate() {
    let mut core = Core::new(CircuitBreakerConfig {
        consecutive_failures: None,
        failure_rate: Some(0.5),
        ..CircuitBreakerConfig::default()
    });
    let opened = (0..100).find(|i| {
        let outcome = if i % 5 == 0 {
            Outcome::Success
        } else {
            Outcome::Failure
        };
        core.call(outcome).change().is_some()
    });
    assert_eq!(
        opened,
        Some(19),
        "as soon as there are twenty calls to go by"
    );
}

#[test]
fn an_outage_after_a_million_healthy_calls_is_seen_as_fast_as_after_a_hundred() {
    let failures_to_open = |healthy: u64| {
        let mut core = Core::new(CircuitBreakerConfig {
            consecutive_failures: None,
            failure_rate: Some(0.5),
            ..CircuitBreakerConfig::default()
        });
        core.state.add_successes(healthy, 0);
        (1..=1_000).find(|_| core.call(Outcome::Failure).change().is_some())
    };
    assert_eq!(failures_to_open(100), Some(50));
    assert_eq!(failures_to_open(1_000_000), Some(50));
}

#[test]
fn a_success_never_opens_it_even_if_the_rate_is_over_the_threshold() {
    let mut core = Core::new(CircuitBreakerConfig {
        consecutive_failures: None,
        failure_rate: Some(0.5),
        window: Window::LastTime(secs(10)),
        minimum_calls: 4,
        ..CircuitBreakerConfig::default()
    });
    for _ in 0..10 {
        let _ = core.call(Outcome::Success);
    }
    core.wait(secs(9));
    core.fail(4);
    assert_eq!(core.effective(), CircuitState::Closed);
    core.wait(secs(2));
    // The successes have left the window: four failures of five calls.
    assert!(core.call(Outcome::Success).change().is_none());
    assert!(core.call(Outcome::Failure).change().is_some());
}

fn slow_policy() -> CircuitBreakerConfig {
    CircuitBreakerConfig {
        consecutive_failures: None,
        slow_calls: Some(SlowCalls {
            rate: 0.5,
            threshold: secs(1),
        }),
        minimum_calls: 10,
        ..CircuitBreakerConfig::default()
    }
}

#[test]
fn slow_calls_open_it_and_count_once_even_if_they_were_counted_while_they_ran() {
    let mut core = Core::new(slow_policy());
    let tickets: Vec<Ticket> = (0..10).map(|_| core.admit().unwrap()).collect();
    core.state.add_successes(10, 0);
    assert!(
        core.state
            .add_overdue(&core.policy, 9, Tick(core.now), 0.0)
            .is_none()
    );
    let counted = Ended {
        slow: true,
        overdue: true,
        ..ended(Outcome::Success)
    };
    for ticket in &tickets[..9] {
        assert!(core.settle_as(*ticket, &counted).change().is_none());
    }
    assert_eq!(core.state.counts(Tick(core.now)).slow, 9);
    assert_eq!(core.state.overdue, 0);
    let last = Ended {
        overdue: false,
        ..counted
    };
    let cause = core.settle_as(tickets[9], &last).change().unwrap().cause;
    assert_eq!(
        cause,
        Cause::SlowCallRate {
            slow: 10,
            calls: 20
        }
    );
}

#[test]
fn calls_that_hang_open_it_before_one_of_them_returns() {
    let mut core = Core::new(slow_policy());
    let opened = core
        .state
        .add_overdue(&core.policy, 10, Tick(core.now), 0.0)
        .unwrap();
    assert_eq!(
        opened.cause,
        Cause::SlowCallRate {
            slow: 10,
            calls: 10
        }
    );
}

#[test]
fn a_slow_call_that_fails_in_the_end_is_one_call_in_the_window() {
    let mut core = Core::new(slow_policy());
    let ticket = core.admit().unwrap();
    let _ = core.state.add_overdue(&core.policy, 1, Tick(core.now), 0.0);
    let failed = Ended {
        slow: true,
        overdue: true,
        ..ended(Outcome::Failure)
    };
    let _ = core.settle_as(ticket, &failed);
    let counts = core.state.counts(Tick(core.now));
    assert_eq!((counts.calls, counts.failures, counts.slow), (1, 1, 1));
}

#[test]
fn a_probe_slower_than_the_threshold_is_a_failed_probe() {
    let mut core = Core::new(slow_policy());
    let _ = core
        .state
        .command(&core.policy, Command::OpenFor(secs(1)), Tick(core.now));
    core.wait(secs(1));
    let probe = core.admit().unwrap();
    let slow = Ended {
        slow: true,
        ..ended(Outcome::Success)
    };
    let cause = core.settle_as(probe, &slow).change().unwrap().cause;
    assert_eq!(cause, Cause::ProbeFailed);
}

#[test]
fn open_times_grow_until_it_has_stayed_closed_for_as_long_as_it_was_open() {
    let mut core = Core::new(CircuitBreakerConfig {
        recovery: Recovery::exponential(secs(1), 2.0, secs(5)),
        success_threshold: 1,
        ..CircuitBreakerConfig::default()
    });
    let ticket = |core: &mut Core| core.admit().unwrap();
    let mut open_for = Vec::new();
    for _ in 0..4 {
        let opened = core.call(Outcome::Failure).change();
        core.fail(if opened.is_some() || core.state.openings > 0 {
            0
        } else {
            3
        });
        let opened = opened
            .or_else(|| core.call(Outcome::Failure).change())
            .unwrap();
        open_for.push(opened.open_for.unwrap().as_secs());
        core.wait(opened.open_for.unwrap());
    }
    assert_eq!(open_for, [1, 2, 4, 5]);
    let probe = ticket(&mut core);
    assert!(core.settle(probe, Outcome::Success).change().is_some());
    core.wait(secs(5) - Duration::from_nanos(1));
    core.fail(4);
    let flaps = core.call(Outcome::Failure).change().unwrap();
    assert_eq!(
        flaps.open_for,
        Some(secs(5)),
        "a host that flaps rests longer"
    );
    core.wait(secs(5));
    let _ = core.call(Outcome::Success);
    core.wait(secs(5));
    core.fail(4);
    let reopened = core.call(Outcome::Failure).change().unwrap();
    assert_eq!(reopened.open_for, Some(secs(1)));
}

#[test]
fn after_closing_the_traffic_is_let_in_gradually() {
    let mut core = Core::new(CircuitBreakerConfig {
        ramp: Some(secs(90)),
        success_threshold: 1,
        ..CircuitBreakerConfig::default()
    });
    core.fail(5);
    core.wait(secs(60));
    let _ = core.call(Outcome::Success);
    let admitted = |core: &mut Core| {
        (0..1_000)
            .filter(|i| core.admit_with(f64::from(*i) / 1_000.0).is_ok())
            .count()
    };
    assert_eq!(admitted(&mut core), 100, "a tenth at first");
    assert_eq!(core.admit_with(0.5), Err(OpenReason::Ramping));
    core.wait(secs(45));
    assert_eq!(admitted(&mut core), 550);
    core.wait(secs(45));
    assert_eq!(admitted(&mut core), 1_000);
}

#[test]
fn commands_hold_until_they_are_ended() {
    let mut core = Core::default();
    let mut say = |command| {
        let _ = core.state.command(&core.policy, command, Tick(core.now));
        core.now += 1_000 * SECOND;
        core.state.effective(Tick(core.now))
    };
    assert_eq!(say(Command::ForceOpen), CircuitState::ForcedOpen);
    assert_eq!(say(Command::Disable), CircuitState::Disabled);
    assert_eq!(say(Command::MetricsOnly), CircuitState::MetricsOnly);
    assert_eq!(say(Command::ForceClose), CircuitState::Closed);
    assert_eq!(say(Command::OpenFor(secs(2_000))), CircuitState::Open);
    assert_eq!(say(Command::Reset), CircuitState::Closed);
}

#[test]
fn reset_of_a_closed_circuit_forgets_its_failures() {
    let mut core = Core::default();
    core.fail(4);
    let reset = core
        .state
        .command(&core.policy, Command::Reset, Tick(core.now));
    assert!(reset.is_none(), "the state did not change");
    core.fail(4);
    assert_eq!(core.effective(), CircuitState::Closed);
    assert_eq!(core.state.totals.failures, 4);
}

#[test]
fn metrics_only_lets_everything_through_and_counts_what_it_would_have_refused() {
    let mut core = Core::default();
    let _ = core
        .state
        .command(&core.policy, Command::MetricsOnly, Tick(core.now));
    for _ in 0..4 {
        let ticket = core.admit().unwrap();
        assert!(core.settle(ticket, Outcome::Failure).change().is_none());
    }
    let ticket = core.admit().unwrap();
    let opened = core.settle(ticket, Outcome::Failure).change().unwrap();
    assert!(opened.shadow);
    for outcome in [Outcome::Success, Outcome::Success, Outcome::Failure] {
        let (admission, _) = core.state.admit(&core.policy, Tick(core.now), 0.0);
        assert!(matches!(admission, Admission::GoAnyway(_)));
        core.state.settle_anyway(&ended(outcome));
    }
    assert_eq!(core.state.totals.would_reject, 3);
    assert_eq!(core.state.totals.would_reject_succeeded, 2);
    core.wait(secs(60));
    assert!(core.admit().is_ok(), "it goes on as if it were in command");
}

#[test]
fn what_a_disabled_breaker_lets_through_is_marked_as_not_to_be_counted() {
    let mut core = Core::default();
    let _ = core
        .state
        .command(&core.policy, Command::Disable, Tick(core.now));
    let (admission, _) = core.state.admit(&core.policy, Tick(core.now), 0.0);
    assert!(matches!(admission, Admission::GoUncounted(_)));
}

#[test]
fn what_cannot_work_is_refused_with_the_name_of_the_setting() {
    let wrong = |change: &dyn Fn(&mut CircuitBreakerConfig)| {
        let mut policy = CircuitBreakerConfig::default();
        change(&mut policy);
        policy.check().expect_err("accepted").setting()
    };
    assert_eq!(
        wrong(&|p| p.consecutive_failures = Some(0)),
        "consecutive_failures"
    );
    for rate in [
        0.0,
        -0.1,
        1.000_1,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        assert_eq!(wrong(&|p| p.failure_rate = Some(rate)), "failure_rate");
        let slow = SlowCalls {
            rate,
            threshold: secs(1),
        };
        assert_eq!(wrong(&|p| p.slow_calls = Some(slow)), "slow_call_rate");
    }
    let never = SlowCalls {
        rate: 0.5,
        threshold: Duration::ZERO,
    };
    assert_eq!(wrong(&|p| p.slow_calls = Some(never)), "slow_call_rate");
    let rate_with = |minimum, window| {
        wrong(&|p: &mut CircuitBreakerConfig| {
            p.failure_rate = Some(0.5);
            p.minimum_calls = minimum;
            p.window = window;
        })
    };
    assert_eq!(rate_with(0, Window::calls(10)), "minimum_calls");
    assert_eq!(rate_with(11, Window::calls(10)), "minimum_calls");
    assert_eq!(rate_with(1, Window::calls(0)), "window");
    assert_eq!(rate_with(1, Window::calls(usize::MAX)), "window");
    assert_eq!(rate_with(1, Window::time(Duration::ZERO)), "window");
    assert_eq!(rate_with(1, Window::time(Duration::MAX)), "window");
    assert_eq!(
        wrong(&|p| p.recovery = Recovery::fixed(Duration::ZERO)),
        "recovery_timeout"
    );
    for multiplier in [0.0, 0.9, f64::NAN, f64::INFINITY] {
        let recovery = Recovery::exponential(secs(1), multiplier, secs(9));
        assert_eq!(wrong(&|p| p.recovery = recovery.clone()), "recovery");
    }
    assert_eq!(
        wrong(&|p| p.recovery = Recovery::exponential(secs(9), 2.0, secs(1))),
        "recovery"
    );
    assert_eq!(
        wrong(&|p| p.recovery = Recovery::fixed(secs(1)).jitter(f64::NAN)),
        "recovery"
    );
    assert_eq!(
        wrong(&|p| p.recovery = Recovery::fixed(secs(1)).jitter(1.1)),
        "recovery"
    );
    assert_eq!(wrong(&|p| p.max_probes = 0), "max_probes");
    assert_eq!(wrong(&|p| p.max_probes = u32::MAX), "max_probes");
    assert_eq!(wrong(&|p| p.success_threshold = 0), "success_threshold");
    assert_eq!(
        wrong(&|p| p.probe_timeout = Duration::ZERO),
        "probe_timeout"
    );
    assert_eq!(wrong(&|p| p.ramp = Some(Duration::ZERO)), "ramp");
    let limit = Some(Duration::ZERO);
    assert_eq!(
        wrong(&|p| p.cancelled_is_failure_after = limit),
        "cancelled_is_failure_after"
    );
}

proptest! {
    #[test]
    fn an_open_time_is_never_longer_than_its_cap_nor_shorter_than_its_jitter_allows(
        first in 1u64..100_000,
        multiplier in 1.0f64..10.0,
        more in 0u64..1_000_000,
        jitter in 0.0f64..=1.0,
        reopened in prop_oneof![0u32..40, Just(u32::MAX)],
        unit in 0.0f64..1.0,
    ) {
        let (first, max) = (Duration::from_millis(first), Duration::from_millis(first + more));
        let recovery = Recovery::exponential(first, multiplier, max).jitter(jitter);
        let delay = recovery.delay(&opening(reopened), unit);
        prop_assert!(delay <= max);
        prop_assert!(delay.as_secs_f64() >= first.as_secs_f64() * (1.0 - jitter) - 1e-6);
    }
}

// ---- The model --------------------------------------------------------------------------------------

/// What the breaker should do, worked out afresh each time from a list of what happened in this epoch.
struct Model {
    policy: CircuitBreakerConfig,
    epoch: u32,
    phase: Shape,
    /// Calls of this epoch that ended, with the slice they ended in: `None` is neither good nor bad.
    calls: VecDeque<(u64, Outcome)>,
    openings: u32,
    open_time: u64,
    closed: u64,
    may_fail: u32,
}

enum Shape {
    Closed,
    Open {
        until: u64,
    },
    /// Probes on their way with the end of their leases, and how many succeeded and failed.
    HalfOpen {
        probes: Vec<(u64, u64)>,
        succeeded: u32,
        failed: u32,
    },
}

impl Model {
    fn new(policy: CircuitBreakerConfig) -> Self {
        let out_of = policy.success_out_of.unwrap_or(policy.success_threshold);
        Self {
            may_fail: out_of - policy.success_threshold,
            policy,
            epoch: 1,
            phase: Shape::Closed,
            calls: VecDeque::new(),
            openings: 0,
            open_time: 0,
            closed: 0,
        }
    }

    fn enter(&mut self, phase: Shape) {
        self.phase = phase;
        self.epoch += 1;
        self.calls.clear();
    }

    fn open(&mut self, now: u64) {
        if matches!(self.phase, Shape::Closed) && now - self.closed >= self.open_time {
            self.openings = 0;
        }
        let delay = self.policy.recovery.delay(&opening(self.openings), 0.0);
        self.openings += 1;
        self.open_time = crate::util::time::nanos(delay);
        self.enter(Shape::Open {
            until: now + self.open_time,
        });
    }

    fn admits(&mut self, now: u64) -> bool {
        if let Shape::Open { until } = self.phase
            && now >= until
        {
            self.enter(Shape::HalfOpen {
                probes: Vec::new(),
                succeeded: 0,
                failed: 0,
            });
        }
        if let Shape::HalfOpen { probes, failed, .. } = &mut self.phase {
            let before = probes.len();
            probes.retain(|(_, until)| now < *until);
            let lost = (before - probes.len()) as u32;
            *failed += lost;
            if lost > 0 && *failed > self.may_fail {
                self.open(now);
            }
        }
        match &mut self.phase {
            Shape::Closed => true,
            Shape::Open { .. } => false,
            Shape::HalfOpen { probes, .. } => probes.len() < self.policy.max_probes as usize,
        }
    }

    fn admitted(&mut self, ticket: Ticket, now: u64) {
        let lease = crate::util::time::nanos(self.policy.probe_timeout);
        if let Shape::HalfOpen { probes, .. } = &mut self.phase {
            probes.push((ticket.lease, now + lease));
        }
    }

    fn slice(&self, now: u64) -> u64 {
        match self.policy.window {
            Window::LastTime(length) => now / (crate::util::time::nanos(length) / 10),
            Window::LastCalls(_) => 0,
        }
    }

    fn is_bad(&self, now: u64) -> bool {
        let in_row = self.policy.overload_is_failure;
        let row = self
            .calls
            .iter()
            .rev()
            .filter(|(_, outcome)| in_row || *outcome != Outcome::Overload)
            .take_while(|(_, outcome)| *outcome != Outcome::Success)
            .count();
        if self
            .policy
            .consecutive_failures
            .is_some_and(|n| row >= n as usize)
        {
            return true;
        }
        let newest = self.slice(now);
        let inside: Vec<Outcome> = match self.policy.window {
            Window::LastCalls(n) => self.calls.iter().rev().take(n).map(|(_, o)| *o).collect(),
            Window::LastTime(_) => {
                let recent = |(at, o): &(u64, Outcome)| (newest - at < 10).then_some(*o);
                self.calls.iter().filter_map(recent).collect()
            }
        };
        let failures = inside.iter().filter(|o| **o != Outcome::Success).count();
        inside.len() >= self.policy.minimum_calls as usize
            && self
                .policy
                .failure_rate
                .is_some_and(|rate| failures as f64 / inside.len() as f64 >= rate)
    }

    fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: u64) {
        if ticket.epoch != self.epoch {
            return;
        }
        let slice = self.slice(now);
        let needed = self.policy.success_threshold;
        match &mut self.phase {
            Shape::Closed => match outcome {
                Outcome::Success => self.calls.push_back((slice, outcome)),
                Outcome::Failure | Outcome::Overload => {
                    self.calls.push_back((slice, outcome));
                    if self.is_bad(now) {
                        self.open(now);
                    }
                }
                Outcome::Ignored | Outcome::Cancelled => {}
            },
            Shape::Open { .. } => unreachable!("an open circuit gives out no tickets"),
            Shape::HalfOpen {
                probes,
                succeeded,
                failed,
            } => {
                let before = probes.len();
                probes.retain(|(lease, _)| *lease != ticket.lease);
                if probes.len() == before {
                    return; // It was lost, and is counted.
                }
                let fails = match outcome {
                    Outcome::Failure => true,
                    Outcome::Overload => {
                        self.policy.overload_is_failure || self.policy.failure_rate.is_some()
                    }
                    _ => false,
                };
                if fails {
                    *failed += 1;
                    if *failed > self.may_fail {
                        self.open(now);
                    }
                } else if outcome == Outcome::Success {
                    *succeeded += 1;
                    if *succeeded >= needed {
                        self.closed = now;
                        self.enter(Shape::Closed);
                    }
                }
            }
        }
    }

    fn state(&self, now: u64) -> CircuitState {
        match self.phase {
            Shape::Closed => CircuitState::Closed,
            Shape::Open { until } if now < until => CircuitState::Open,
            Shape::Open { .. } | Shape::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    Settle(prop::sample::Index, Outcome),
    Wait(u64),
    Successes(u16),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Success),
        5 => Just(Outcome::Failure),
        1 => Just(Outcome::Overload),
        1 => Just(Outcome::Ignored),
        1 => Just(Outcome::Cancelled),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Admit),
        6 => (any::<prop::sample::Index>(), outcome()).prop_map(|(i, o)| Step::Settle(i, o)),
        2 => (0u64..40).prop_map(Step::Wait),
        1 => (1u16..50).prop_map(Step::Successes),
    ]
}

fn policy() -> impl Strategy<Value = CircuitBreakerConfig> {
    let window = prop_oneof![
        (2usize..30).prop_map(Window::LastCalls),
        (10u64..100).prop_map(|s| Window::LastTime(secs(s))),
    ];
    let trip = (prop::option::of(1u32..6), prop::option::of(0.1f64..=1.0));
    let probes = (1u32..4, 1u32..4, prop::option::of(0u32..3));
    (
        trip,
        window,
        1u32..10,
        probes,
        1u64..40,
        1u64..40,
        any::<bool>(),
    )
        .prop_map(
            |((row, rate), window, minimum, (probes, needed, more), open, lease, overload)| {
                CircuitBreakerConfig {
                    overload_is_failure: overload,
                    consecutive_failures: row.or_else(|| rate.is_none().then_some(3)),
                    failure_rate: rate,
                    window,
                    minimum_calls: match window {
                        Window::LastCalls(size) => minimum.min(size as u32),
                        Window::LastTime(_) => minimum,
                    },
                    max_probes: probes,
                    success_threshold: needed,
                    success_out_of: more.map(|more| needed + more),
                    probe_timeout: secs(lease),
                    recovery: Recovery::exponential(secs(open), 1.5, secs(open * 4)),
                    ..CircuitBreakerConfig::default()
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_core_does_what_a_list_of_everything_that_happened_says(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut core = Core::new(policy.clone());
        let mut model = Model::new(policy);
        let mut out: Vec<Ticket> = Vec::new();
        for step in steps {
            match step {
                Step::Admit => {
                    let admits = model.admits(core.now);
                    let admitted = core.admit();
                    prop_assert_eq!(admitted.is_ok(), admits);
                    if let Ok(ticket) = admitted {
                        model.admitted(ticket, core.now);
                        out.push(ticket);
                    }
                }
                Step::Settle(index, outcome) if !out.is_empty() => {
                    let ticket = out.swap_remove(index.index(out.len()));
                    let _ = core.settle(ticket, outcome);
                    model.settle(ticket, outcome, core.now);
                }
                Step::Settle(..) => {}
                Step::Wait(seconds) => core.wait(secs(seconds)),
                // Many healthy calls, counted at once, as the fast path counts them.
                Step::Successes(n) => {
                    if let (Shape::Closed, CircuitState::Closed) = (&model.phase, core.effective()) {
                        let slice = model.slice(core.now);
                        core.state.add_successes(n.into(), slice);
                        core.state.consecutive = 0;
                        let slice = model.slice(core.now);
                        model.calls.extend((0..n).map(|_| (slice, Outcome::Success)));
                    }
                }
            }
            prop_assert_eq!(core.effective(), model.state(core.now));
            prop_assert_eq!(core.state.epoch, model.epoch);
        }
    }

    #[test]
    fn a_healthy_service_always_closes_the_circuit_whatever_was_left_hanging(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut core = Core::new(policy);
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Admit => out.extend(core.admit().ok()),
                Step::Settle(index, outcome) if !out.is_empty() => {
                    let ticket = out.swap_remove(index.index(out.len()));
                    let _ = core.settle(ticket, outcome);
                }
                Step::Wait(seconds) => core.wait(secs(seconds)),
                Step::Settle(..) | Step::Successes(_) => {}
            }
        }
        // Nothing that is out comes back. The longest open time or lease, and then enough good calls.
        let longest = core.policy.recovery.longest().max(core.policy.probe_timeout);
        core.wait(longest);
        // The first to ask may hear that lost probes have opened it again.
        for _ in 0..=core.policy.success_threshold {
            if core.effective() != CircuitState::Closed {
                match core.admit() {
                    Ok(ticket) => drop(core.settle(ticket, Outcome::Success)),
                    Err(_) => core.wait(longest),
                }
            }
        }
        prop_assert_eq!(core.effective(), CircuitState::Closed);
    }
}
