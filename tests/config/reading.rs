use std::time::Duration;

use tower_bulwark::circuit_breaker::{CircuitBreakerConfig, Recovery, Window};
use tower_bulwark::config::Config;
use tower_bulwark::contention::{Adaptive, Queue};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::retry::{Backoff, Jitter};
use tower_bulwark::stack::StackKind;
use tower_bulwark::{CircuitBreaker, Registry, Stack};

use crate::support::{problems, read};

const SECOND: Duration = Duration::from_secs(1);

/// Every section, and every setting that is more than a number.
pub(crate) const WHOLE: &str = r#"
[circuit_breakers.openai]
consecutive_failures = "none"
failure_rate = 0.5
window = { time = "30s" }
minimum_calls = 10
slow_calls = { rate = 0.8, threshold = "5s" }
recovery = { first = "5s", multiplier = 2.0, max = "1m", jitter = 0.1 }
ramp = "10s"

[circuit_breakers.plain]
window.calls = 50
recovery = "1m30s"

[resource_locks.gpu]
max_concurrent = 4
timeout = "none"
hold_threshold = "9s"
queue = { codel = { target = "5ms", interval = "100ms" } }
adaptive = { algorithm = { aimd = { timeout = "2s" } }, min = 1, max = 8 }
on_deadlock = "report"

[retries.calls]
max_retries = 5
backoff = { exponential = { base = "200ms", multiplier = 2.0 } }
jitter = "full"
total_timeout = "1m"
budget = { ratio = 0.1 }

[retries.steady]
backoff = { fixed = { delay = "1s" } }
jitter = { proportional = 0.25 }
budget = "none"

[rate_limits.openai]
quotas = [
    { name = "requests", amount = 500, period = "1m" },
    { name = "tokens", amount = 90_000, period = "1m", burst = 10_000 },
]
max_waiting = 100

[timeouts.openai]
head = "20s"
end_at_deadline = true

[hedges.reads]
percentile = 0.99
at_least = "20ms"

[throttles.search]
k = 1.5

[chaos.drill]
latency = 0.1
latency_range = ["50ms", "500ms"]

[stacks.model]
kind = "llm"
without = ["lock"]
timeouts.total = "2m"
retry.max_retries = 1
rate_limit.quotas = [{ name = "requests", amount = 5, period = "1s" }]
"#;

#[test]
fn every_setting_says_what_it_says_on_the_builder() {
    let config = read(WHOLE);
    let breaker = CircuitBreaker::builder("openai")
        .consecutive_failures(None)
        .failure_rate(0.5, Window::time(30 * SECOND))
        .minimum_calls(10)
        .slow_call_rate(0.8, 5 * SECOND)
        .recovery(Recovery::exponential(5 * SECOND, 2.0, 60 * SECOND).jitter(0.1))
        .ramp(10 * SECOND)
        .build()
        .unwrap();
    assert_eq!(config.circuit_breakers()["openai"], *breaker.config());
    let plain = &config.circuit_breakers()["plain"];
    assert_eq!(plain.window, Window::calls(50));
    assert_eq!(plain.recovery, Recovery::fixed(90 * SECOND));

    let gpu = &config.resource_locks()["gpu"];
    assert_eq!((gpu.max_concurrent, gpu.timeout), (4, None));
    let ms = Duration::from_millis;
    assert_eq!(gpu.queue, Queue::codel(ms(5), ms(100)));
    let adaptive = gpu.adaptive.as_ref().unwrap();
    assert_eq!((adaptive.min, adaptive.max), (1, 8));
    assert_eq!(adaptive.algorithm, Adaptive::aimd(2 * SECOND));

    let calls = &config.retries()["calls"];
    assert_eq!(calls.max_retries(), 5);
    assert_eq!(*calls.backoff(), Backoff::exponential(ms(200), 2.0));
    assert_eq!(calls.jitter(), Jitter::Full);
    assert!(calls.has_budget());
    let steady = &config.retries()["steady"];
    assert_eq!(steady.jitter(), Jitter::Proportional(0.25));
    assert!(!steady.has_budget());

    let quotas = &config.rate_limits()["openai"].quotas;
    assert_eq!(quotas[0], ("requests".into(), Quota::per_minute(500)));
    assert_eq!(
        quotas[1],
        ("tokens".into(), Quota::per_minute(90_000).burst(10_000))
    );
    assert_eq!(config.timeouts()["openai"].head, Some(20 * SECOND));
    assert_eq!(config.hedges()["reads"].percentile, Some(0.99));
    assert_eq!(config.throttles()["search"].k, 1.5);
    assert_eq!(config.chaos()["drill"].latency_range, ms(50)..=ms(500));
}

#[test]
fn a_stack_starts_with_the_numbers_of_its_kind() {
    let config = read(WHOLE);
    let by_hand = Stack::llm("model")
        .without(tower_bulwark::Part::Lock)
        .total_timeout(120 * SECOND)
        .retry(|it| it.max_retries(1))
        .quota("requests", Quota::per_second(5))
        .build()
        .unwrap();
    assert_eq!(config.stacks()["model"], by_hand.config());
    let built = config.stack("model").unwrap().build().unwrap();
    assert_eq!(built.config(), by_hand.config());
    assert_eq!(built.config().kind, StackKind::Llm);
    let missing = config.stack("modle").unwrap_err().to_string();
    assert!(missing.contains("there are: model"), "{missing}");
}

#[test]
fn json_says_the_same_as_toml() {
    let toml: serde_json::Value = toml::from_str(WHOLE).unwrap();
    let text = serde_json::to_string_pretty(&toml).unwrap();
    let json = Config::from_json(&text).unwrap();
    assert_eq!(format!("{json:?}"), format!("{:?}", read(WHOLE)));
    // And so does any other format of serde.
    let data: Config = serde_json::from_value(toml).unwrap();
    assert_eq!(format!("{data:?}"), format!("{json:?}"));
}

#[test]
fn what_is_written_goes_before_what_is_not_and_the_nearer_before_the_farther() {
    let config = read(
        r#"
        [defaults.circuit_breaker]
        minimum_calls = 3
        max_probes = 4
        [templates.circuit_breakers.careful]
        max_probes = 2
        success_threshold = 7
        [circuit_breakers.a]
        base = "careful"
        success_threshold = 1
        [circuit_breakers.b]
        base = "a"
        probe_timeout = "5s"
        [circuit_breakers.c]
        [stacks.s]
        circuit_breaker.success_threshold = 9
        [defaults.stack]
        circuit_breaker.max_probes = 5
        "#,
    );
    let numbers =
        |it: &CircuitBreakerConfig| (it.minimum_calls, it.max_probes, it.success_threshold);
    let of = |name: &str| numbers(&config.circuit_breakers()[name]);
    assert_eq!(of("a"), (3, 2, 1));
    assert_eq!(of("b"), (3, 2, 1));
    assert_eq!(config.circuit_breakers()["b"].probe_timeout, 5 * SECOND);
    assert_eq!(of("c"), (3, 4, 2));
    let stack = config.stacks()["s"].circuit_breaker.as_ref().unwrap();
    assert_eq!(numbers(stack), (3, 5, 9));
    assert_eq!(stack.window, Window::time(30 * SECOND), "the kind's");
    assert!(
        !config.circuit_breakers().contains_key("careful"),
        "a template is no entry"
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_line_and_key() {
    let found = problems(
        r#"
[circuit_breakers.openai]
failure_rat = 0.5
failure_rate = 1.5
success_threshold = 0
recovery = { first = "5 parsecs" }
window = 30
probe_timeout = 30

[resource_lock.gpu]

[retries.calls]
backoff = { exponential = { base = "1s", multiplier = nan } }
max_retries = -1
base = "cals"

[rate_limits.openai]
quotas = [{ name = "requests", amount = 0, period = "1m" }]

[timeouts.empty]

[stacks.model]
kind = "lmm"
without = ["lok", "retry"]
retry.max_retries = 2
timeouts.head = "10m"
"#,
    );
    let begins = [
        "line 3, column 1: circuit_breakers.openai.failure_rat: there is no such key; did you mean `failure_rate`?",
        "line 4, column 1: circuit_breakers.openai.failure_rate: `failure_rate` cannot be 1.5",
        "line 5, column 1: circuit_breakers.openai.success_threshold: `success_threshold` cannot be 0",
        "line 6, column 14: circuit_breakers.openai.recovery.first: `5 parsecs` is no duration",
        "line 7, column 1: circuit_breakers.openai.window: ",
        "line 8, column 1: circuit_breakers.openai.probe_timeout: invalid type: integer `30`, expected a duration with its unit",
        "line 10, column 2: resource_lock: there is no such key; did you mean `resource_locks`?",
        "line 13, column 11: retries.calls.backoff: cannot be nan",
        "line 14, column 1: retries.calls.max_retries: invalid value: integer `-1`",
        "line 15, column 8: retries.calls.base: there is no `cals` in `retries` or `templates.retries`",
        "line 18, column 1: rate_limits.openai.quotas: `amount` cannot be 0",
        "line 20, column 11: timeouts.empty: `phases` cannot be",
        "line 23, column 8: stacks.model.kind: unknown variant `lmm`",
        "line 24, column 12: stacks.model.without: there is no part \"lok\"; there are: ",
        "line 24, column 19: stacks.model.without: `retry` is left out and described at once",
        "line 26, column 10: stacks.model: `attempt_timeout` cannot be 600s",
    ];
    assert_eq!(found.len(), begins.len(), "{found:#?}");
    for (found, begin) in found.iter().zip(begins) {
        assert!(
            found.starts_with(begin),
            "{found}\nbegins not with\n{begin}"
        );
    }
}

#[test]
fn what_is_wrong_with_the_defaults_is_told_once_and_also_if_nothing_uses_them() {
    let text = "[defaults.retry]\nmax_retry = 3\n[templates.hedges.x]\nafter = 3\n";
    let alone = problems(text);
    assert_eq!(alone.len(), 2, "{alone:#?}");
    let used = problems(&format!(
        "{text}[retries.a]\n[retries.b]\n[hedges.y]\nbase = \"x\"\n"
    ));
    assert_eq!(used, alone);
}

#[test]
fn a_circle_of_bases_and_a_name_that_stands_twice_are_problems() {
    let found = problems("[retries.a]\nbase = \"b\"\n[retries.b]\nbase = \"a\"\n");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("starts with this entry in turn"),
        "{found:#?}"
    );
    let found = problems("[retries.a]\nbase = \"a\"\n");
    assert_eq!(found.len(), 1, "{found:#?}");
    let found = problems("[stacks.openai]\n[circuit_breakers.openai]\n");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("line 2"), "{found:#?}");
}

#[test]
fn a_text_that_is_no_toml_or_no_json_says_where() {
    let found = problems("[retries.a]\nmax_retries = = 3\n\n[retries.b\n");
    assert!(found.len() >= 2, "{found:#?}");
    assert!(found[0].starts_with("line 2"), "{found:#?}");
    let error = Config::from_json("{\n  \"retries\": {\n    \"a\": }\n}").unwrap_err();
    assert_eq!(error.problems()[0].line(), Some(3), "{error}");
    let error = Config::from_json("{\n \"retries\": {\"a\": {}, \"a\": {}} }").unwrap_err();
    assert_eq!(
        (error.problems()[0].line(), error.problems().len()),
        (Some(2), 1),
        "{error}"
    );
    let error =
        Config::from_json("{\n \"retries\": {\n\"a\": {\"max_retries\": \"ü\"}} }").unwrap_err();
    assert_eq!(error.problems()[0].line(), Some(3), "{error}");
    assert!(Config::from_json("[]").is_err());
    assert!(Config::from_toml("").unwrap().stacks().is_empty());
}

#[test]
fn a_file_is_named_in_what_is_wrong_with_it() {
    let folder = std::env::temp_dir().join(format!("bulwark-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("wrong.json");
    let missing = Config::from_file(&path).unwrap_err().to_string();
    assert!(missing.contains("wrong.json: cannot be read"), "{missing}");
    std::fs::write(&path, "{\"retries\": {\"a\": {\"retries\": 3}}}").unwrap();
    let error = Config::from_file(&path).unwrap_err();
    assert!(error.to_string().contains("wrong.json:1:"), "{error}");
    assert_eq!(error.problems()[0].file().as_deref(), Some(&*path));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_name_may_be_anything() {
    let registry = Registry::new();
    let config = read("[circuit_breakers.\"a.b <c>\\n\"]\nmax_probes = 2\n");
    registry.apply(&config).unwrap();
    assert_eq!(registry.circuit_breakers()[0].name(), "a.b <c>\n");
    let found = problems("[circuit_breakers.\"a.b\"]\nmax_probs = 2\n");
    assert!(
        found[0].contains("circuit_breakers.\"a.b\".max_probs"),
        "{found:#?}"
    );
}
