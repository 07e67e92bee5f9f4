//! Configs as lines to read.

use serde::Serialize;
use serde_json::Value;

use super::words::clipped;

/// One setting that a handle goes by now, whoever gave it: a builder, a file, an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Setting {
    pub(super) setting: String,
    pub(super) value: String,
    /// What it would be if nobody had said anything, if that is something else.
    pub(super) default: Option<String>,
    /// The same as JSON: what a command may give.
    pub(super) json: String,
}

/// One setting of a config, in words and as JSON.
struct Line {
    setting: String,
    value: Value,
    words: String,
}

/// Each setting of a config, beside its default.
pub(super) fn settings<C: Serialize>(config: &C, default: &C) -> Vec<Setting> {
    let default = lines(default);
    let setting = |it: Line| {
        let default = default.iter().find(|other| other.setting == it.setting);
        let default = default.map(|it| it.words.clone());
        Setting {
            default: default.filter(|default| *default != it.words),
            json: it.value.to_string(),
            setting: it.setting,
            value: it.words,
        }
    };
    lines(config).into_iter().map(setting).collect()
}

/// The settings that differ, in words: `max_concurrent 4`, and `max_concurrent 2`.
pub(super) fn differences<C: Serialize>(from: &C, to: &C) -> Vec<[String; 2]> {
    let (from, to) = (lines(from), lines(to));
    let pairs = from.iter().filter_map(|from| {
        let to = to.iter().find(|to| to.setting == from.setting)?;
        let words = |it: &Line| format!("{} {}", it.setting, it.words);
        (from.value != to.value).then(|| [words(from), words(to)])
    });
    pairs.collect()
}

fn lines<C: Serialize>(config: &C) -> Vec<Line> {
    let Ok(Value::Object(settings)) = serde_json::to_value(config) else {
        return Vec::new();
    };
    let lines = settings.into_iter().map(|(setting, value)| Line {
        setting,
        words: clipped(&words(&value)),
        value,
    });
    lines.collect()
}

/// As people write it: configs have their times as `250ms`, and `none` for what is off.
fn words(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join("; "),
        Value::Object(map) => {
            let parts = map.iter().map(|(key, it)| format!("{key} {}", words(it)));
            parts.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::circuit_breaker::{CircuitBreakerConfig, Recovery, Window};

    #[test]
    fn a_setting_is_words_and_says_what_it_is_by_default() {
        let config = CircuitBreakerConfig {
            consecutive_failures: Some(3),
            window: Window::LastTime(Duration::from_secs(90)),
            recovery: Recovery::fixed(Duration::from_millis(500)),
            ..CircuitBreakerConfig::default()
        };
        let default = CircuitBreakerConfig::default();
        let all = settings(&config, &default);
        let of = |name: &str| all.iter().find(|it| it.setting == name).unwrap();
        assert_eq!(of("consecutive_failures").value, "3");
        assert_eq!(of("consecutive_failures").default.as_deref(), Some("5"));
        assert_eq!(of("window").value, "time 1m30s");
        assert_eq!(of("window").json, r#"{"time":"1m30s"}"#);
        assert_eq!(of("recovery").value, "500ms");
        assert_eq!(of("recovery").json, r#""500ms""#);
        assert_eq!(of("max_probes").default, None);
        assert_eq!(of("ramp").value, "none");
        let changed = differences(&config, &default);
        assert_eq!(changed.len(), 3);
        assert!(
            changed.contains(&["recovery 500ms".into(), "recovery 1m".into()]),
            "{changed:?}"
        );
    }
}
