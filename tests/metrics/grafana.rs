//! The dashboard and the alert rules, made from the list.

use std::fmt::Write;

use serde_json::{Value, json};
use tower_bulwark::observe::{MetricInfo, MetricKind};

const SOURCE: &str = "${datasource}";

/// What a panel shows of a metric.
fn queries(info: &MetricInfo) -> Vec<(String, String)> {
    let of_name = |suffix: &str| format!(r#"{}{suffix}{{name=~"$name"}}"#, info.name);
    let labels: Vec<_> = info.labels.iter().map(|it| it.name).collect();
    let legend: Vec<_> = labels.iter().map(|it| format!("{{{{{it}}}}}")).collect();
    let (by, legend) = (labels.join(", "), legend.join(" "));
    match info.kind {
        MetricKind::Counter => {
            let rate = format!("sum by ({by}) (rate({}[$__rate_interval]))", of_name(""));
            vec![(rate, legend)]
        }
        MetricKind::Histogram => {
            let rate = format!("rate({}[$__rate_interval])", of_name("_bucket"));
            let quantile = |(share, name)| {
                let query = format!("histogram_quantile({share}, sum by ({by}, le) ({rate}))");
                (query, format!("{legend} {name}"))
            };
            [("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99")]
                .map(quantile)
                .into()
        }
        // Capacities and waiters of several instances add up; a ratio is looked at where it is worst.
        _ => {
            let how = match info.unit {
                "ratio" | "seconds" | "0 or 1" => "max",
                _ => "sum",
            };
            vec![(format!("{how} by ({by}) ({})", of_name("")), legend)]
        }
    }
}

fn unit(info: &MetricInfo) -> &'static str {
    match (info.kind, info.unit) {
        (_, "seconds") => "s",
        (_, "ratio") => "percentunit",
        (MetricKind::Counter, _) => "cps",
        _ => "short",
    }
}

fn panel(id: usize, (x, y): (usize, usize), info: &MetricInfo) -> Value {
    let targets = queries(info)
        .into_iter()
        .zip('A'..)
        .map(|((query, legend), reference)| {
            json!({
                "datasource": {"type": "prometheus", "uid": SOURCE},
                "expr": query,
                "legendFormat": legend,
                "refId": reference,
            })
        });
    json!({
        "datasource": {"type": "prometheus", "uid": SOURCE},
        "description": info.help,
        "fieldConfig": {"defaults": {"min": 0, "unit": unit(info)}, "overrides": []},
        "gridPos": {"h": 8, "w": 8, "x": x, "y": y},
        "id": id,
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "showLegend": true},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets.collect::<Vec<_>>(),
        "title": info.name.trim_start_matches("bulwark_").replace('_', " "),
        "type": "timeseries",
    })
}

/// A row for the metrics of all patterns, and one for each pattern that has metrics of its own.
fn rows(list: &'static [MetricInfo]) -> Vec<(&'static str, Vec<&'static MetricInfo>)> {
    let mut rows: Vec<(&str, Vec<&MetricInfo>)> = Vec::new();
    for info in list {
        let row = match info.patterns {
            [one] => one,
            _ => "all patterns",
        };
        match rows.iter_mut().find(|(title, _)| *title == row) {
            Some((_, metrics)) => metrics.push(info),
            None => rows.push((row, vec![info])),
        }
    }
    rows
}

fn variable(name: &str, kind: &str, query: &str) -> Value {
    let is_query = kind == "query";
    let mut variable = json!({"name": name, "type": kind, "query": query, "label": name});
    if is_query {
        variable["datasource"] = json!({"type": "prometheus", "uid": SOURCE});
        variable["includeAll"] = json!(true);
        variable["allValue"] = json!(".*");
        variable["multi"] = json!(true);
        variable["current"] = json!({"text": "All", "value": "$__all"});
        variable["refresh"] = json!(2);
    }
    variable
}

pub(crate) fn dashboard(list: &'static [MetricInfo]) -> String {
    let (mut panels, mut y) = (Vec::new(), 0);
    for (title, metrics) in rows(list) {
        panels.push(json!({
            "collapsed": false,
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
            "id": panels.len() + 1,
            "panels": [],
            "title": title.replace('_', " "),
            "type": "row",
        }));
        y += 1;
        for (nth, info) in metrics.iter().enumerate() {
            let at = (nth % 3 * 8, y + nth / 3 * 8);
            panels.push(panel(panels.len() + 1, at, info));
        }
        y += metrics.len().div_ceil(3) * 8;
    }
    let dashboard = json!({
        "description": "Every metric of tower-bulwark. Made from its list of metrics.",
        "editable": true,
        "panels": panels,
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["tower-bulwark"],
        "templating": {"list": [
            variable("datasource", "datasource", "prometheus"),
            variable("name", "query", "label_values(bulwark_events_total, name)"),
        ]},
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": "tower-bulwark",
        "uid": "tower-bulwark",
        "version": 1,
    });
    format!("{dashboard:#}\n")
}

/// What somebody is told or woken for.
pub(crate) struct Alert {
    pub(crate) name: &'static str,
    pub(crate) expr: &'static str,
    wait: &'static str,
    severity: &'static str,
    summary: &'static str,
    description: &'static str,
}

pub(crate) const ALERTS: &[Alert] = &[
    Alert {
        name: "BulwarkCircuitOpen",
        expr: r#"max by (name) (max_over_time(bulwark_circuit_state{state="open"}[1m])) == 1"#,
        wait: "2m",
        severity: "page",
        summary: "The circuit `{{ $labels.name }}` has been open for two minutes",
        description: "Its service fails, and calls to it are refused. What it failed with last is in the log: `circuit opened`.",
    },
    Alert {
        name: "BulwarkCircuitForcedOpen",
        expr: r#"max by (name) (bulwark_circuit_state{state="forced_open"}) == 1"#,
        wait: "30m",
        severity: "ticket",
        summary: "An operator has opened the circuit `{{ $labels.name }}`, half an hour ago",
        description: "It stays open until somebody closes it.",
    },
    Alert {
        name: "BulwarkDeadlock",
        expr: r#"sum by (name) (increase(bulwark_events_total{pattern="contention",kind="deadlock"}[5m])) > 0"#,
        wait: "0m",
        severity: "page",
        summary: "Waiters of `{{ $labels.name }}` wait for each other",
        description: "The log names the cycle: `deadlock`. Take the locks in one order everywhere.",
    },
    Alert {
        name: "BulwarkResourceHeldForLong",
        expr: "max by (name) (bulwark_resource_longest_hold_seconds) > 300 and on (name) sum by (name) (bulwark_resource_waiting) > 0",
        wait: "1m",
        severity: "page",
        summary: "A permit of `{{ $labels.name }}` has been held for more than five minutes, and others wait for it",
        description: "The snapshot of the lock names the holder.",
    },
    Alert {
        name: "BulwarkFleetStoreAway",
        expr: "max by (name, part, part_name) (bulwark_fleet_store_away) == 1",
        wait: "1m",
        severity: "page",
        summary: "The shared store of the {{ $labels.part }} `{{ $labels.part_name }}` has been away for a minute",
        description: "Breakers decide alone, rate limits go by their share, and locks admit nobody. Why is in the log: `the shared store is away`.",
    },
    Alert {
        name: "BulwarkFleetLeasesLost",
        expr: "sum by (name, part_name) (increase(bulwark_fleet_lock_leases_lost_total[5m])) > 0",
        wait: "0m",
        severity: "page",
        summary: "Holders of the shared lock `{{ $labels.part_name }}` have lost their leases",
        description: "Somebody else may have their permits. What they write is refused only by a resource that checks the fence.",
    },
    Alert {
        name: "BulwarkRefusals",
        expr: r#"sum by (pattern, name) (rate(bulwark_calls_total{outcome="refused"}[5m])) / sum by (pattern, name) (rate(bulwark_calls_total[5m])) > 0.1"#,
        wait: "10m",
        severity: "ticket",
        summary: "`{{ $labels.name }}` ({{ $labels.pattern }}) refuses {{ $value | humanizePercentage }} of the calls",
        description: "`bulwark_refusals_total` says why.",
    },
    Alert {
        name: "BulwarkRetriesMultiply",
        expr: "sum by (name) (rate(bulwark_retry_retries_total[5m])) / sum by (name) (rate(bulwark_calls_total{pattern=\"retry\"}[5m])) > 0.5",
        wait: "10m",
        severity: "ticket",
        summary: "`{{ $labels.name }}` makes {{ $value | humanize }} retries for each call",
        description: "The service is asked half as often again as there are calls. `bulwark_retry_retries_total` says what the attempts end with.",
    },
    Alert {
        name: "BulwarkRetryBudgetExhausted",
        expr: r#"sum by (name) (increase(bulwark_retry_gave_up_total{reason="budget_exhausted"}[5m])) > 0"#,
        wait: "5m",
        severity: "ticket",
        summary: "The retry budget of `{{ $labels.name }}` is used up",
        description: "Too many calls fail to try all of them again.",
    },
    Alert {
        name: "BulwarkCallsTimeOut",
        expr: r#"sum by (name) (rate(bulwark_calls_total{pattern="timeout",outcome="timed_out"}[5m])) / sum by (name) (rate(bulwark_calls_total{pattern="timeout"}[5m])) > 0.05"#,
        wait: "5m",
        severity: "page",
        summary: "{{ $value | humanizePercentage }} of the calls of `{{ $labels.name }}` take too long",
        description: "`bulwark_timeout_timed_out_total` says which part of them.",
    },
    Alert {
        name: "BulwarkNoTargetAnswers",
        expr: r#"sum by (name) (rate(bulwark_calls_total{pattern="fallback",outcome="all_failed"}[5m])) > 0"#,
        wait: "5m",
        severity: "page",
        summary: "No target of the fallback `{{ $labels.name }}` answers",
        description: "Not even the last resort works.",
    },
    Alert {
        name: "BulwarkFaultsOnPurpose",
        expr: "max by (name) (bulwark_chaos_armed) == 1",
        wait: "1h",
        severity: "ticket",
        summary: "The drill `{{ $labels.name }}` has been armed for an hour",
        description: "Calls meet faults on purpose. Disarm it if nobody watches.",
    },
];

/// A double-quoted scalar of YAML is a string of JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

pub(crate) fn rules() -> String {
    let mut text = String::from(
        "# Made from the list of metrics: BLESS=1 cargo test --all-features --test metrics\n\
         groups:\n  - name: tower-bulwark\n    rules:\n",
    );
    for alert in ALERTS {
        writeln!(text, "      - alert: {}", alert.name).unwrap();
        writeln!(text, "        expr: {}", quoted(alert.expr)).unwrap();
        writeln!(text, "        for: {}", alert.wait).unwrap();
        writeln!(
            text,
            "        labels:\n          severity: {}",
            alert.severity
        )
        .unwrap();
        writeln!(text, "        annotations:").unwrap();
        writeln!(text, "          summary: {}", quoted(alert.summary)).unwrap();
        writeln!(text, "          description: {}", quoted(alert.description)).unwrap();
    }
    text
}
