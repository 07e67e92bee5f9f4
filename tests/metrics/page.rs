//! The tables of the page.

use std::fmt::Write;

use tower_bulwark::observe::{LabelInfo, MetricInfo, MetricKind, MetricSource};

fn code(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|it| format!("`{it}`")).collect();
    words.join(", ")
}

/// Every metric, the values of its labels, the buckets, and how many series a handle has.
pub(crate) fn tables(list: &[MetricInfo]) -> String {
    let mut page = String::new();
    metrics(&mut page, list);
    values(&mut page, list);
    buckets(&mut page, list);
    sizes(&mut page, list);
    page
}

fn metrics(page: &mut String, list: &[MetricInfo]) {
    page.push_str("| name | type | unit | labels | from | meaning |\n|---|---|---|---|---|---|\n");
    for info in list {
        let labels: Vec<_> = info.labels.iter().map(|it| it.name).collect();
        let from = match info.source {
            MetricSource::Events => "events",
            MetricSource::Handle => "handle",
            _ => "both",
        };
        let (name, kind, unit, help) = (info.name, info.kind, info.unit, info.help);
        let labels = code(&labels);
        writeln!(
            page,
            "| `{name}` | {kind} | {unit} | {labels} | {from} | {help} |"
        )
        .unwrap();
    }
}

/// The label whose values depend on the pattern, if there is one.
fn told_apart_by(info: &MetricInfo) -> Option<&'static LabelInfo> {
    let fixed = |label: &&LabelInfo| label.name != "pattern" && !label.values.is_empty();
    info.labels.iter().find(fixed)
}

fn values(page: &mut String, list: &[MetricInfo]) {
    page.push_str(
        "\nThe values of the labels:\n\n| metric | pattern | label | values |\n|---|---|---|---|\n",
    );
    for info in list {
        let Some(label) = told_apart_by(info) else {
            continue;
        };
        for pattern in info.patterns {
            let values = code(label.values_of(pattern).unwrap());
            let (name, label) = (info.name, label.name);
            writeln!(page, "| `{name}` | `{pattern}` | `{label}` | {values} |").unwrap();
        }
    }
}

fn buckets(page: &mut String, list: &[MetricInfo]) {
    page.push_str("\nThe upper bounds of the buckets:\n\n| metric | bounds |\n|---|---|\n");
    for info in list.iter().filter(|it| it.kind == MetricKind::Histogram) {
        let bounds: Vec<_> = info.buckets.iter().map(f64::to_string).collect();
        writeln!(page, "| `{}` | {} |", info.name, bounds.join(", ")).unwrap();
    }
}

fn sizes(page: &mut String, list: &[MetricInfo]) {
    page.push_str("\nThe series of one handle:\n\n| pattern | series |\n|---|---|\n");
    let patterns = list
        .iter()
        .find(|it| it.name == "bulwark_events_total")
        .unwrap()
        .patterns;
    for pattern in patterns {
        let of_pattern = list.iter().filter(|info| info.patterns.contains(pattern));
        let sizes = of_pattern.map(|info| {
            let label = told_apart_by(info);
            let values = label.map_or(1, |it| it.values_of(pattern).unwrap().len());
            let each = match info.kind {
                MetricKind::Histogram => info.buckets.len() + 3,
                _ => 1,
            };
            values * each
        });
        writeln!(page, "| `{pattern}` | {} |", sizes.sum::<usize>()).unwrap();
    }
}
