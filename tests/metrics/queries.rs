//! The page, the dashboard and the alert rules ask for what there is.

#[path = "grafana.rs"]
mod grafana;
#[path = "promql.rs"]
mod promql;

use std::collections::BTreeSet;

use tower_bulwark::observe::{LabelInfo, MetricKind, Metrics};

use super::{PAGE, files};

/// What is wrong with a query: names, labels or values that there are not.
fn wrong_with(query: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let groups = promql::groups(query);
    let selectors = promql::selectors(query);
    assert!(!selectors.is_empty(), "{query} names no metric");
    for selector in selectors {
        let name = selector.name.trim_end_matches("_bucket");
        let Some(info) = Metrics::list().iter().find(|it| it.name == name) else {
            wrong.push(format!("there is no {name}"));
            continue;
        };
        if (info.kind == MetricKind::Histogram) != selector.name.ends_with("_bucket") {
            wrong.push(format!("{} is no series", selector.name));
        }
        let label = |name: &str| info.labels.iter().find(|it| it.name == name);
        for group in groups
            .iter()
            .filter(|it| *it != "le" && label(it).is_none())
        {
            wrong.push(format!("{name} has no label {group}"));
        }
        let value = |label| selector.matchers.iter().find(|(of, ..)| of == label);
        let patterns = match value("pattern") {
            Some((.., pattern)) => vec![pattern.as_str()],
            None => info.patterns.to_vec(),
        };
        for (of, operator, value) in &selector.matchers {
            let known = |label: &LabelInfo| {
                let mut by_pattern = patterns.iter().map(|it| label.values_of(it));
                by_pattern.any(|values| values.is_none_or(|it| it.contains(&value.as_str())))
            };
            if operator == "=" && !label(of).is_some_and(known) {
                wrong.push(format!("{name} has never {of}={value}"));
            }
        }
    }
    wrong
}

#[test]
fn the_dashboard_is_made_from_the_list_and_shows_each_metric() {
    let text = grafana::dashboard(Metrics::list());
    files::is_json("examples/grafana/dashboard.json", &text);
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|it| it["targets"].as_array());
    let queries: Vec<_> = targets
        .flatten()
        .map(|it| it["expr"].as_str().unwrap())
        .collect();
    for query in &queries {
        assert_eq!(wrong_with(query), [""; 0], "{query}");
    }
    for info in Metrics::list() {
        let shown = queries.iter().flat_map(|it| promql::selectors(it));
        let mut names = shown.map(|it| it.name.trim_end_matches("_bucket").to_owned());
        assert!(
            names.any(|it| it == info.name),
            "{} is not shown",
            info.name
        );
    }
    let ids: BTreeSet<_> = panels.iter().map(|it| it["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "an id stands for two panels");
}

#[test]
fn each_alert_asks_for_series_that_there_are() {
    files::is("examples/grafana/alerts.yaml", &grafana::rules());
    for alert in grafana::ALERTS {
        assert_eq!(wrong_with(alert.expr), [""; 0], "{}", alert.name);
    }
}

#[test]
fn the_page_names_only_metrics_labels_and_values_that_there_are() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(path).unwrap();
    let named = promql::selectors(&page);
    assert!(named.len() > 80, "{}", named.len());
    for selector in named {
        let name = &selector.name;
        let info = Metrics::list().iter().find(|it| it.name == name);
        let info = info.unwrap_or_else(|| panic!("there is no {name}"));
        for (of, _, value) in &selector.matchers {
            let label = info.labels.iter().find(|it| it.name == of);
            let label = label.unwrap_or_else(|| panic!("{name} has no {of}"));
            let known = |pattern: &&str| label.values_of(pattern).unwrap().contains(&&**value);
            assert!(
                info.patterns.iter().any(known),
                "{name} has never {of}={value}"
            );
        }
    }
}

#[test]
fn a_query_for_what_there_is_not_is_found_out() {
    for query in [
        "bulwark_nothing_total",
        "rate(bulwark_wait_seconds[5m])",
        "bulwark_circuit_state{state=\"half-open\"}",
        "bulwark_calls_total{pattern=\"retry\",outcome=\"refused\"}",
        "sum by (pattern) (bulwark_circuit_state)",
        "bulwark_resource_in_use{kind=\"busy\"}",
    ] {
        assert_eq!(
            wrong_with(query).len(),
            1,
            "{query}: {:?}",
            wrong_with(query)
        );
    }
}
