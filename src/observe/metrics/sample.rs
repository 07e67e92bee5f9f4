//! What a handle shows at one moment, as values of series.

use std::sync::Arc;

use metrics::Key;

use super::info::MetricInfo;
use super::series::key;

/// Everything that one handle shows.
pub(super) struct Sample {
    pub(super) pattern: &'static str,
    /// Of the handle itself, and not a copy: handles are known apart by where their names are.
    pub(super) name: Arc<str>,
    /// Of a part of a fleet: its own name, by whose address it is known. One name may stand for several.
    pub(super) part: Option<Arc<str>>,
    pub(super) counts: Vec<Count>,
    pub(super) gauges: Vec<(Key, f64)>,
    pub(super) histograms: Vec<(Key, Cells)>,
}

/// How often each value was seen since the handle was made.
pub(super) type Cells = Vec<(f64, u64)>;

pub(super) struct Count {
    pub(super) key: Key,
    pub(super) value: u64,
    /// Whether it is counted as it is, and not computed from counts that are read one after the other: then it never
    /// shrinks, unless the handle begins anew.
    pub(super) exact: bool,
}

impl Sample {
    pub(super) fn new(pattern: &'static str, name: &Arc<str>) -> Self {
        Self {
            pattern,
            name: Arc::clone(name),
            part: None,
            counts: Vec::new(),
            gauges: Vec::new(),
            histograms: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> &Arc<str> {
        self.part.as_ref().unwrap_or(&self.name)
    }

    pub(super) fn count(&mut self, info: &MetricInfo, values: &[&str], value: u64) {
        self.add_count(info, values, value, true);
    }

    /// One that is the difference of others, and may be ahead of itself while calls are on their way.
    pub(super) fn computed(&mut self, info: &MetricInfo, values: &[&str], value: u64) {
        self.add_count(info, values, value, false);
    }

    fn add_count(&mut self, info: &MetricInfo, values: &[&str], value: u64, exact: bool) {
        let key = key(info, self.pattern, &self.name, values);
        self.counts.push(Count { key, value, exact });
    }

    pub(super) fn gauge(&mut self, info: &MetricInfo, values: &[&str], value: f64) {
        let key = key(info, self.pattern, &self.name, values);
        self.gauges.push((key, value));
    }

    pub(super) fn histogram(&mut self, info: &MetricInfo, cells: Cells) {
        let key = key(info, self.pattern, &self.name, &[]);
        self.histograms.push((key, cells));
    }
}
