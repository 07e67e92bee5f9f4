//! A page of Prometheus' text format, read.

use std::collections::{BTreeMap, BTreeSet};

/// One line with a value.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// As it stands there: of a histogram with `_bucket`, `_sum` or `_count`.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Scrape {
    /// By name, what `# TYPE` says.
    pub(crate) types: BTreeMap<String, String>,
    /// By name, what `# HELP` says.
    pub(crate) helps: BTreeMap<String, String>,
    pub(crate) series: Vec<Series>,
}

impl Scrape {
    pub(crate) fn read(page: &str) -> Self {
        let mut scrape = Self::default();
        for line in page.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                scrape.types.insert(name.to_owned(), kind.to_owned());
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                scrape.helps.insert(name.to_owned(), help.to_owned());
            } else {
                scrape.series.push(series(line));
            }
        }
        scrape
    }

    /// The name of the metric that a series is of.
    pub(crate) fn metric<'a>(&self, series: &'a Series) -> &'a str {
        let suffixes = ["_bucket", "_sum", "_count"];
        let parts = suffixes
            .iter()
            .filter_map(|it| series.name.strip_suffix(it));
        let mut histograms =
            parts.filter(|name| self.types.get(*name).is_some_and(|it| it == "histogram"));
        histograms.next().unwrap_or(&series.name)
    }

    /// The sum of all series of that name with these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series: &&Series| {
            let fits =
                |(key, value): &(&str, &str)| series.labels.get(*key).is_some_and(|it| it == value);
            series.name == name && labels.iter().all(fits)
        };
        let found: Vec<_> = self.series.iter().filter(has).map(|it| it.value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The bounds of the buckets of a histogram, without the last.
    pub(crate) fn bounds(&self, metric: &str) -> Vec<f64> {
        let name = format!("{metric}_bucket");
        let of_metric = self.series.iter().filter(|it| it.name == name);
        let bounds: BTreeSet<String> = of_metric.map(|it| it.labels["le"].clone()).collect();
        let mut bounds: Vec<f64> = bounds
            .iter()
            .filter(|it| *it != "+Inf")
            .map(|it| it.parse().unwrap())
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds
    }
}

fn series(line: &str) -> Series {
    let (left, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = left.split_once('{').unwrap_or((left, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let labels = labels
        .split("\",")
        .filter(|it| !it.is_empty())
        .map(|label| {
            let (key, value) = label.split_once("=\"").unwrap();
            (key.to_owned(), value.trim_end_matches('"').to_owned())
        });
    Series {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().unwrap(),
    }
}
