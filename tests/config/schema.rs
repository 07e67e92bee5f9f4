use std::path::Path;

use serde_json::Value;
use tower_bulwark::config::{Config, json_schema};

use crate::reading::WHOLE;

fn checked_in() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/schema.json")
}

/// `BLESS=1 cargo test --features config --test config schema` writes it anew.
#[test]
fn the_schema_that_is_checked_in_is_that_of_the_code() {
    let made = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(checked_in(), &made).unwrap();
    }
    let stands = std::fs::read_to_string(checked_in()).unwrap();
    assert!(
        made == stands,
        "it is another: see the line above this test"
    );
}

#[test]
fn what_is_right_is_right_by_the_schema_and_what_is_wrong_is_wrong_by_it() {
    let schema = jsonschema::validator_for(&json_schema()).unwrap();
    let whole: Value = toml::from_str(WHOLE).unwrap();
    let wrong: Vec<_> = schema
        .iter_errors(&whole)
        .map(|it| format!("{}: {it}", it.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    for text in [
        "[circuit_breakers.a]\nfailure_rat = 0.5",
        "[circuit_breakers.a]\nrecovery = 30",
        "[circuit_breakers.a.recovery]\nfirst = \"1s\"\nlast = \"2s\"",
        "[circuit_breaker.a]",
        "[defaults.circuit_breakers]",
        "[templates.circuit_breaker.a]",
        "[retries.a]\nmax_retries = -1",
        "[retries.a]\nbackoff = \"fast\"",
        "[rate_limits.a]\nquotas = [{ amount = 3 }]",
        "[stacks.a]\nkind = \"lmm\"",
        "[stacks.a]\nwithout = [\"lok\"]",
        "[stacks.a]\nretry.max_retry = 3",
    ] {
        assert!(Config::from_toml(text).is_err(), "{text}");
        let data: Value = toml::from_str(text).unwrap();
        assert!(!schema.is_valid(&data), "{text}");
    }
}

#[test]
fn every_setting_of_the_schema_says_what_it_is() {
    fn walk(path: &str, schema: &Value, silent: &mut Vec<String>) {
        for (name, it) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            let says = it["description"].as_str().is_some_and(|it| !it.is_empty());
            if !says && it["$ref"].is_null() {
                silent.push(path);
            }
        }
    }
    let schema = json_schema();
    let mut silent = Vec::new();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        walk(name, definition, &mut silent);
    }
    assert!(silent.is_empty(), "{silent:#?}");
}
