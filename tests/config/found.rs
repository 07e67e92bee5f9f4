//! What a hard review found.

use tower_bulwark::Registry;
use tower_bulwark::config::Config;

use crate::support::{problems, read};

#[test]
fn text_that_is_nested_without_end_is_a_problem_and_takes_no_stack() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let error = Config::from_json(&deep(20_000)).unwrap_err().to_string();
    assert!(error.contains("levels deep"), "{error}");
    let inner = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    let text = format!("{{\"circuit_breakers\": {{\"a\": {{\"window\": {inner}}}}}}}");
    assert!(Config::from_json(&text).is_err());
    assert!(Config::from_toml(&format!("a = {}", deep(20_000))).is_err());
    assert!(Config::from_toml(&format!("{}a = 1", "a.".repeat(20_000))).is_err());
}

#[test]
fn a_problem_in_json_has_its_line_also_behind_other_letters_than_those_of_english() {
    for (text, line) in [
        ("{\n\"é\": 1,\n\"a\": é\n\n\n}", 3),
        ("{\n\"a\": 1 é\n\n\n}", 2),
        ("{\n\"a\": tré \n\n\n}", 2),
        ("{\n\"a\": \"abc\n}", 2),
    ] {
        let error = Config::from_json(text).unwrap_err();
        assert_eq!(error.problems()[0].line(), Some(line), "{text}: {error}");
    }
    assert!(
        Config::from_json("\u{feff}{}").is_ok(),
        "a mark of the byte order is no text"
    );
}

#[test]
fn parts_that_do_not_fit_are_told_at_the_part_that_is_named() {
    let found = problems(
        "[stacks.x]\ntimeouts.total='60s'\ntimeouts.head = '5s'\nretry.attempt_timeout = '10s'\n",
    );
    assert!(found[0].starts_with("line 4"), "{found:#?}");
}

#[test]
fn the_nearest_without_counts_and_a_template_of_a_stack_need_not_be_whole() {
    let config = read(
        "[defaults.stack]\nwithout=['lock']\n[stacks.x]\nwithout=['retry']\n[stacks.y]\n[stacks.z]\nwithout=[]\n",
    );
    let parts = |name: &str| {
        let stack = &config.stacks()[name];
        (stack.retry.is_some(), stack.lock.is_some())
    };
    assert_eq!(parts("x"), (false, true));
    assert_eq!(parts("y"), (true, false));
    assert_eq!(parts("z"), (true, true));
    let quotas = "quotas=[{name='r', amount=1, period='1s'}]";
    read(&format!(
        "[templates.stacks.limited]\nrate_limit.max_wait = '1s'\n[stacks.x]\nbase='limited'\nrate_limit.{quotas}\n"
    ));
    read(&format!(
        "[templates.rate_limits.limited]\nmax_wait = '1s'\n[rate_limits.x]\nbase='limited'\n{quotas}\n"
    ));
}

#[test]
fn a_number_that_cannot_work_is_told_also_where_nothing_uses_it_yet() {
    for section in ["defaults.circuit_breaker", "templates.circuit_breakers.a"] {
        let found = problems(&format!("[{section}]\nfailure_rate = 7.0\n"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("line 2"), "{found:#?}");
    }
}

#[test]
fn only_an_entry_has_a_base() {
    for text in [
        "[defaults.circuit_breaker]\nbase = 'x'\n[circuit_breakers.x]\n",
        "[circuit_breakers.x]\n[stacks.a]\ncircuit_breaker.base = 'x'\n",
    ] {
        let found = problems(text);
        assert!(found[0].contains("there is no such key"), "{found:#?}");
    }
}

#[test]
fn what_was_reserved_can_be_given_back_after_the_same_config_was_applied_again() {
    let config = read("[rate_limits.api]\nquotas=[{name='r', amount=10, period='1h'}]\n");
    let registry = Registry::new();
    registry.apply(&config).unwrap();
    let limit = registry.get_rate_limit("api").unwrap();
    let reserved = limit.try_acquire(5).unwrap();
    assert!(registry.apply(&config).unwrap().is_empty());
    reserved.cancel();
    assert_eq!(limit.snapshot().quotas[0].available, 10);
}
