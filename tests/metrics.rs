//! The metrics: the page, the list, a live scrape, the dashboard and the alert rules say the same.

#[path = "metrics/files.rs"]
mod files;
#[path = "metrics/page.rs"]
mod page;
#[path = "metrics/queries.rs"]
mod queries;
#[path = "metrics/scrape.rs"]
mod scrape;
#[path = "metrics/traffic.rs"]
mod traffic;

use std::collections::BTreeSet;
use std::future::ready;
use std::time::Duration;

use files::Block;
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use scrape::Scrape;
use tower_bulwark::config::Config;
use tower_bulwark::observe::{MetricInfo, MetricKind, Metrics, RegistryMetrics};
use tower_bulwark::rate_limit::{Quota, RateLimit};
use tower_bulwark::{Backoff, CircuitBreaker, Registry, ResourceLock, RetryPolicy};

const PAGE: &str = "src/docs/metrics.md";
const TABLES: Block = Block {
    begin: "<!-- The tables are made from the list: BLESS=1 cargo test --all-features --test metrics -->",
    end: "<!-- The end of the tables. -->",
};

fn recorder() -> PrometheusRecorder {
    let histograms = Metrics::list()
        .iter()
        .filter(|it| it.kind == MetricKind::Histogram);
    let with_buckets = histograms.fold(PrometheusBuilder::new(), |builder, it| {
        let matcher = Matcher::Full(it.name.to_owned());
        builder.set_buckets_for_metric(matcher, it.buckets).unwrap()
    });
    with_buckets.build_recorder()
}

fn scrape(metrics: &RegistryMetrics, page: &PrometheusHandle) -> Scrape {
    metrics.record();
    Scrape::read(&page.render())
}

fn info(name: &str) -> &'static MetricInfo {
    Metrics::list().iter().find(|it| it.name == name).unwrap()
}

fn is_snake_case(word: &str) -> bool {
    let is_fit = |c: char| c.is_ascii_lowercase() || c == '_';
    !word.is_empty() && word.chars().all(is_fit)
}

/// What of a scrape is not as the list says.
fn differences(scrape: &Scrape) -> Vec<String> {
    let mut wrong = Vec::new();
    for info in Metrics::list() {
        let kind = scrape.types.get(info.name).map(String::as_str);
        if kind != Some(&*info.kind.to_string()) {
            wrong.push(format!("{} is {kind:?}", info.name));
        }
        if scrape.helps.get(info.name).map(String::as_str) != Some(info.help) {
            wrong.push(format!("{} is described otherwise", info.name));
        }
        if scrape.bounds(info.name) != info.buckets {
            wrong.push(format!("{} has other buckets", info.name));
        }
    }
    for series in &scrape.series {
        let name = scrape.metric(series);
        let Some(info) = Metrics::list().iter().find(|it| it.name == name) else {
            wrong.push(format!("{name} is not in the list"));
            continue;
        };
        let labels = series.labels.keys().map(String::as_str);
        let labels: BTreeSet<_> = labels.filter(|it| *it != "le").collect();
        if labels != info.labels.iter().map(|it| it.name).collect() {
            wrong.push(format!("{name} has the labels {labels:?}"));
        }
        let pattern = series.labels.get("pattern").map(String::as_str);
        let pattern = pattern.unwrap_or(info.patterns[0]);
        for label in info.labels {
            let value = &series.labels[label.name];
            let known = label.values_of(pattern);
            if known.is_some_and(|it| !it.contains(&&**value) || !is_snake_case(value)) {
                wrong.push(format!("{name} has {}={value}", label.name));
            }
        }
    }
    wrong
}

/// A config that is applied, and one that is refused.
fn configs(registry: &Registry) {
    let quota = |name: &str| {
        let text = format!(
            "[rate_limits.other]\nquotas = [{{ name = \"{name}\", amount = 1, period = \"1s\" }}]"
        );
        Config::from_toml(&text).unwrap()
    };
    registry.apply(&quota("calls")).unwrap();
    registry.apply(&quota("tokens")).unwrap_err();
}

/// The series that the list promises of the handle `api` of a pattern, with the labels that have words of their own. The
/// config of a registry is called `config`, and a fleet has the name of its namespace.
fn promised(info: &MetricInfo, pattern: &str) -> Vec<Vec<(&'static str, &'static str)>> {
    let name = match pattern {
        "config" => "config",
        "fleet" => "bulwark",
        _ => "api",
    };
    let mut series = vec![vec![("name", name)]];
    for label in info.labels {
        let Some(values) = label.values_of(pattern) else {
            continue;
        };
        let with = |value: &'static str| {
            let extend = move |labels: &Vec<_>| [&labels[..], &[(label.name, value)]].concat();
            series.iter().map(extend).collect::<Vec<_>>()
        };
        series = values.iter().flat_map(|value| with(value)).collect();
    }
    series
}

#[tokio::test(start_paused = true)]
async fn page_and_list_and_scrape_say_the_same() {
    files::holds(PAGE, &TABLES, &page::tables(Metrics::list()));
    let recorder = recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let metrics = Metrics::of(&registry);
    let handles = traffic::handles(&registry);
    traffic::everything(&handles).await;
    configs(&registry);
    let _shared = traffic::shared(&registry, &handles.breaker);
    let scrape = scrape(&metrics, &recorder.handle());
    assert_eq!(differences(&scrape), [""; 0]);
    let kinds = info("bulwark_events_total");
    let mut silent = Vec::new();
    // What happens to a fleet takes a server: `tests/fleet/seen.rs`.
    let patterns = kinds.patterns.iter().filter(|it| **it != "fleet");
    for pattern in patterns {
        for labels in promised(kinds, pattern) {
            if scrape.sum(kinds.name, &labels).is_none_or(|it| it == 0.0) {
                silent.push(labels);
            }
        }
    }
    assert!(silent.is_empty(), "nothing has caused {silent:#?}");
}

#[tokio::test(start_paused = true)]
async fn every_series_of_a_handle_is_there_in_the_first_scrape_after_it_was_made() {
    let recorder = recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let metrics = Metrics::of(&registry);
    let handles = traffic::handles(&registry);
    let _shared = traffic::shared(&registry, &handles.breaker);
    let scrape = scrape(&metrics, &recorder.handle());
    assert_eq!(differences(&scrape), [""; 0]);
    for info in Metrics::list() {
        let name = match info.kind {
            MetricKind::Histogram => format!("{}_count", info.name),
            _ => info.name.to_owned(),
        };
        for pattern in info.patterns {
            for labels in promised(info, pattern) {
                let value = scrape.sum(&name, &labels);
                assert!(value.is_some(), "{name}{labels:?} is missing");
                if info.kind != MetricKind::Gauge {
                    assert_eq!(value, Some(0.0), "{name}{labels:?}");
                }
            }
        }
    }
    let gauge = |name, labels: &[_]| scrape.sum(name, labels).unwrap();
    assert_eq!(gauge("bulwark_resource_capacity", &[]), 1.0);
    assert_eq!(
        gauge("bulwark_rate_limit_available", &[("quota", "requests")]),
        1.0
    );
    assert_eq!(gauge("bulwark_circuit_state", &[("state", "closed")]), 1.0);
    assert_eq!(gauge("bulwark_circuit_state", &[]), 1.0);
    assert!(gauge("bulwark_retry_budget", &[]) > 0.0);
}

#[tokio::test(start_paused = true)]
async fn retries_are_counted_by_cause_and_calls_by_attempts_and_looking_twice_counts_nothing_twice()
{
    let recorder = recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let metrics = Metrics::of(&registry);
    let handles = traffic::handles(&registry);
    traffic::everything(&handles).await;
    let page = recorder.handle();
    // Looking twice counts nothing twice.
    let _ = scrape(&metrics, &page);
    let scrape = scrape(&metrics, &page);
    let value = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels).unwrap();
    let calls = |pattern, outcome| {
        value(
            "bulwark_calls_total",
            &[("pattern", pattern), ("outcome", outcome)],
        )
    };
    let outcomes = ["success", "success_after_retry", "failure"].map(|it| calls("retry", it));
    assert_eq!(outcomes, [1.0, 1.0, 1.0]);
    assert_eq!(value("bulwark_retry_attempts_total", &[]), 6.0);
    let attempts = |bound| value("bulwark_retry_call_attempts_bucket", &[("le", bound)]);
    assert_eq!(["1", "2", "3", "+Inf"].map(attempts), [1.0, 2.0, 3.0, 3.0]);
    assert_eq!(value("bulwark_retry_call_attempts_sum", &[]), 6.0);
    assert_eq!(
        value("bulwark_retry_retries_total", &[("cause", "error")]),
        3.0
    );
    assert_eq!(
        value("bulwark_retry_gave_up_total", &[("reason", "max_retries")]),
        1.0
    );
    assert_eq!(value("bulwark_retry_delay_seconds_sum", &[]), 3.0);
}

#[tokio::test(start_paused = true)]
async fn calls_and_refusals_of_each_pattern_are_those_of_the_traffic() {
    let recorder = recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let metrics = Metrics::of(&registry);
    let handles = traffic::handles(&registry);
    traffic::everything(&handles).await;
    let page = recorder.handle();
    let scrape = scrape(&metrics, &page);
    let value = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels).unwrap();
    let calls = |pattern, outcome| {
        value(
            "bulwark_calls_total",
            &[("pattern", pattern), ("outcome", outcome)],
        )
    };
    let refusals = |pattern, reason| {
        value(
            "bulwark_refusals_total",
            &[("pattern", pattern), ("reason", reason)],
        )
    };
    // The breaker has forgotten those before its reset; their reasons are counted as they come.
    assert_eq!(handles.breaker.snapshot().totals.rejected, 1);
    assert_eq!(calls("circuit_breaker", "refused"), 1.0);
    assert_eq!(refusals("circuit_breaker", "open"), 2.0);
    assert_eq!(refusals("circuit_breaker", "forced_open"), 1.0);

    assert_eq!(refusals("contention", "timed_out"), 1.0);
    assert_eq!(refusals("contention", "queue_full"), 1.0);
    assert_eq!(refusals("contention", "shed"), 1.0);
    assert_eq!(refusals("contention", "deadlock"), 1.0);
    let holds = value("bulwark_resource_hold_seconds_count", &[]);
    assert_eq!(holds, calls("contention", "passed"));
    let held = value("bulwark_resource_hold_seconds_sum", &[]);
    let really = handles.lock.snapshot().stats.hold;
    let really = really.mean.as_secs_f64() * really.count as f64;
    assert!(
        (held - really).abs() <= really / 16.0,
        "{held} for {really}"
    );

    assert_eq!(calls("timeout", "in_time"), 1.0);
    assert_eq!(refusals("timeout", "not_ready"), 1.0);
    assert_eq!(refusals("rate_limit", "exceeds_burst"), 1.0);
    let throttled = handles.throttle.snapshot().totals.refused as f64;
    assert_eq!(refusals("throttle", "throttled"), throttled);
}

#[tokio::test(start_paused = true)]
async fn calls_at_shared_locks_and_limits_are_counted_once_also_if_two_handles_have_one_name() {
    let recorder = recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let metrics = Metrics::of(&registry);
    let shared = traffic::shared(&registry, &registry.circuit_breaker("api"));
    let page = recorder.handle();
    let calls = |part: &str, outcome| {
        let name = format!("bulwark_fleet_{part}_calls_total");
        let scrape = scrape(&metrics, &page);
        scrape.sum(&name, &[("part_name", "api"), ("outcome", outcome)])
    };
    let gauge = |name| scrape(&metrics, &page).sum(name, &[("part_name", "api")]);
    let guard = shared.lock.acquire("a").await.unwrap();
    assert!(shared.lock.try_acquire("b").await.is_err());
    assert_eq!(gauge("bulwark_fleet_lock_leases"), Some(1.0));
    let other = registry.fleets()[0].lock("api").build().unwrap();
    assert!(other.try_acquire("c").await.is_err());
    assert_eq!(calls("lock", "passed"), Some(1.0));
    assert_eq!(calls("lock", "refused"), Some(2.0));
    assert_eq!(gauge("bulwark_fleet_lock_capacity"), Some(1.0));
    // One of them ends. What it has counted stays, and what it holds does not.
    drop((guard, shared.lock));
    tokio::time::advance(traffic::SECOND).await;
    assert_eq!(calls("lock", "refused"), Some(2.0));
    assert_eq!(gauge("bulwark_fleet_lock_leases"), Some(0.0));

    shared.limit.try_acquire(1).await.unwrap();
    assert!(shared.limit.try_acquire(1).await.is_err());
    assert_eq!(calls("limit", "passed"), Some(1.0));
    assert_eq!(calls("limit", "refused"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_timed_call_is_in_the_histogram_whether_it_was_in_time_or_not() {
    let recorder = recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let metrics = Metrics::of(&registry);
    let timeouts = traffic::handles(&registry).timeouts;
    let takes = async |seconds: u32| {
        let call = || async move {
            tokio::time::sleep(seconds * traffic::SECOND).await;
            Ok::<_, traffic::Down>(())
        };
        drop(timeouts.run(call).await);
    };
    takes(1).await;
    takes(9).await; // `head` ends it after three.
    let scrape = scrape(&metrics, &recorder.handle());
    let until = |bound| scrape.sum("bulwark_timeout_call_seconds_bucket", &[("le", bound)]);
    let until = ["0.5", "2.5", "5", "+Inf"].map(|it| until(it).unwrap());
    assert_eq!(until, [0.0, 1.0, 2.0, 2.0]);
    let recent = timeouts.snapshot().recent_calls;
    assert_eq!((recent.count, recent.max), (2, 3 * traffic::SECOND));

    // Without a `total` nobody looks at the clock when a call begins.
    let untimed = tower_bulwark::Timeouts::builder("untimed");
    let untimed = untimed.head(traffic::SECOND).build_in(&registry).unwrap();
    untimed
        .run(|| ready(Ok::<_, traffic::Down>(())))
        .await
        .unwrap();
    assert_eq!(untimed.snapshot().recent_calls.count, 0);
}

#[test]
fn counters_go_on_where_they_were_when_a_handle_is_reset_or_made_anew() {
    let recorder = recorder();
    let registry = Registry::new();
    metrics::with_local_recorder(&recorder, || {
        let metrics = Metrics::of(&registry);
        let page = recorder.handle();
        let succeed = |breaker: &CircuitBreaker, calls| {
            (0..calls).for_each(|_| breaker.try_acquire().unwrap().success());
        };
        let successes = || {
            let labels = [("pattern", "circuit_breaker"), ("outcome", "success")];
            scrape(&metrics, &page).sum("bulwark_calls_total", &labels)
        };
        let breaker = registry.circuit_breaker("api");
        succeed(&breaker, 10);
        assert_eq!(successes(), Some(10.0));
        breaker.reset();
        succeed(&breaker, 4);
        assert_eq!(successes(), Some(14.0));
        registry.remove_circuit_breaker("api");
        // As many as the old one had: only the handle is another.
        succeed(&registry.circuit_breaker("api"), 4);
        assert_eq!(successes(), Some(18.0));
        assert_eq!(successes(), Some(18.0));
    });
}

#[test]
fn the_gauges_of_a_removed_handle_are_zero_and_those_of_the_others_are_not() {
    let recorder = recorder();
    let registry = Registry::new();
    metrics::with_local_recorder(&recorder, || {
        let metrics = Metrics::of(&registry);
        let page = recorder.handle();
        registry.circuit_breaker("gone").force_open();
        registry.circuit_breaker("stays").force_open();
        let open = |scrape: &Scrape, name| {
            scrape.sum(
                "bulwark_circuit_state",
                &[("name", name), ("state", "forced_open")],
            )
        };
        let before = scrape(&metrics, &page);
        assert_eq!(
            ["gone", "stays"].map(|it| open(&before, it)),
            [Some(1.0); 2]
        );
        registry.remove_circuit_breaker("gone");
        let after = scrape(&metrics, &page);
        assert_eq!(open(&after, "gone"), Some(0.0));
        assert_eq!(open(&after, "stays"), Some(1.0));
    });
}

#[test]
fn a_quota_that_only_an_earlier_limit_of_the_name_had_is_zero() {
    let recorder = recorder();
    let registry = Registry::new();
    metrics::with_local_recorder(&recorder, || {
        let metrics = Metrics::of(&registry);
        let page = recorder.handle();
        let limit = |quota: &str| {
            let limit = RateLimit::builder("api").quota(quota, Quota::per_second(5));
            limit.build_in(&registry).unwrap()
        };
        let left = |quota| {
            scrape(&metrics, &page).sum("bulwark_rate_limit_available", &[("quota", quota)])
        };
        limit("requests");
        assert_eq!(left("requests"), Some(5.0));
        registry.remove_rate_limit("api");
        limit("tokens");
        assert_eq!(["requests", "tokens"].map(left), [Some(0.0), Some(5.0)]);
    });
}

#[test]
fn no_count_is_lost_or_counted_twice_while_calls_end_during_a_scrape() {
    const CALLS: u64 = 20_000;
    let recorder = recorder();
    let registry = Registry::new();
    let policy = RetryPolicy::builder().name("api").max_retries(1);
    let policy = policy.backoff(Backoff::fixed(Duration::ZERO)).no_budget();
    let policy = policy.build_in(&registry).unwrap();
    let policy = &policy;
    let scrape = metrics::with_local_recorder(&recorder, || {
        let metrics = Metrics::of(&registry);
        let page = recorder.handle();
        let calls = |recovers: bool| {
            for _ in 0..CALLS {
                let mut attempts = 0;
                let call = || {
                    attempts += 1;
                    let good = recovers && attempts == 2;
                    if good { Ok(()) } else { Err(traffic::Down) }
                };
                assert_eq!(policy.run_blocking(call).is_ok(), recovers);
            }
        };
        std::thread::scope(|threads| {
            let both = [true, false].map(|recovers| threads.spawn(move || calls(recovers)));
            while !both.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                metrics.record();
            }
        });
        scrape(&metrics, &page)
    });
    let value = |name, labels: &[_]| scrape.sum(name, labels).unwrap() as u64;
    let calls = |outcome| value("bulwark_calls_total", &[("outcome", outcome)]);
    let outcomes = ["success", "success_after_retry", "failure"].map(calls);
    assert_eq!(outcomes, [0, CALLS, CALLS]);
    assert_eq!(value("bulwark_retry_attempts_total", &[]), 4 * CALLS);
    assert_eq!(value("bulwark_retry_call_attempts_count", &[]), 2 * CALLS);
}

#[test]
fn a_handle_that_is_in_no_registry_has_what_comes_from_its_events() {
    let recorder = recorder();
    metrics::with_local_recorder(&recorder, || {
        let lock = ResourceLock::builder("db")
            .observer(Metrics)
            .build()
            .unwrap();
        let _held = lock.try_acquire("a").unwrap();
        lock.try_acquire("b").map(drop).unwrap_err();
        let scrape = Scrape::read(&recorder.handle().render());
        assert_eq!(
            scrape.sum("bulwark_events_total", &[("kind", "busy")]),
            Some(1.0)
        );
        assert_eq!(scrape.sum("bulwark_resource_in_use", &[]), None);
    });
}

#[test]
fn names_have_the_suffixes_of_prometheus() {
    for info in Metrics::list() {
        assert!(is_snake_case(info.name), "{}", info.name);
        let is_counter = info.kind == MetricKind::Counter;
        assert_eq!(info.name.ends_with("_total"), is_counter, "{}", info.name);
        let ends_in = |suffix| info.name.ends_with(suffix);
        assert_eq!(ends_in("_seconds"), info.unit == "seconds", "{}", info.name);
        assert_eq!(ends_in("_ratio"), info.unit == "ratio", "{}", info.name);
        let is_histogram = info.kind == MetricKind::Histogram;
        assert_eq!(!info.buckets.is_empty(), is_histogram, "{}", info.name);
        assert!(info.buckets.is_sorted_by(|a, b| a < b), "{}", info.name);
    }
}
