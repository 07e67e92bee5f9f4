//! An entry of `stacks`: the numbers of its kind, and what is written over them.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as TextError;

use super::reader::{BASE, Layer, Reader, join};
use super::section::{
    CircuitBreakers, Hedges, RateLimits, ResourceLocks, Retries, Section, TimeoutsOf, keys_of,
};
use super::tree::{Span, Table, Value};
use crate::stack::{StackBuilder, StackConfig, StackKind};

pub(super) const PARTS: [&str; 6] = [
    "timeouts",
    "retry",
    "hedge",
    "circuit_breaker",
    "rate_limit",
    "lock",
];
const KIND: &str = "kind";
const WITHOUT: &str = "without";

/// The tables that make a stack, the farthest first, and the `defaults` of the parts by themselves.
pub(super) struct Tables<'a> {
    pub(super) defaults: Option<&'a Table>,
    pub(super) layers: Vec<(String, &'a Table)>,
}

pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    [KIND, WITHOUT, BASE].into_iter().chain(PARTS)
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    name: &str,
    header: &Span,
    tables: &Tables<'_>,
) -> StackConfig {
    let path = join("stacks", name);
    for (layer_path, layer) in &tables.layers {
        reader.only(layer_path, layer, keys());
    }
    let kind = kind(reader, tables);
    let start = StackBuilder::new(name.into(), kind).rules();
    let mut start = match start {
        Ok(start) => start,
        Err(error) => {
            reader.problem(&path, header, error.to_string());
            return StackConfig::nothing(kind);
        }
    };
    let mut wanted = [
        true,
        start.retry.is_some(),
        start.hedge.is_some(),
        start.circuit_breaker.is_some(),
        start.rate_limit.is_some(),
        start.lock.is_some(),
    ];
    parts(reader, tables, &mut wanted);
    let [timeouts, retry, hedge, circuit_breaker, rate_limit, lock] = wanted;
    let mut part = Part {
        reader,
        path: &path,
        header,
        tables,
    };
    start.timeouts = part
        .read::<TimeoutsOf>("timeouts", timeouts, Some(start.timeouts))
        .unwrap_or_default();
    start.retry = part.read::<Retries>("retry", retry, start.retry);
    start.hedge = part.read::<Hedges>("hedge", hedge, start.hedge);
    start.circuit_breaker =
        part.read::<CircuitBreakers>("circuit_breaker", circuit_breaker, start.circuit_breaker);
    start.rate_limit = part.read::<RateLimits>("rate_limit", rate_limit, start.rate_limit);
    start.lock = part.read::<ResourceLocks>("lock", lock, start.lock);
    if let Err(error) = start.check() {
        let span = find(tables, error.setting());
        reader.problem(
            &path,
            &span.unwrap_or_else(|| header.clone()),
            error.to_string(),
        );
    }
    start
}

/// Looks at each setting of a template by itself.
pub(super) fn look(reader: &mut Reader<'_>, tables: &Tables<'_>) {
    fn part<S: Section>(reader: &mut Reader<'_>, path: &str, layer: &Table, part: &str) {
        let path = join(path, part);
        let table = layer.get(part).and_then(|it| reader.table(&path, it));
        if let Some(table) = table {
            reader.only_settings::<S>(&path, table, false);
        }
    }
    kind(reader, tables);
    parts(reader, tables, &mut [false; 6]);
    for (path, layer) in &tables.layers {
        reader.only(path, layer, keys());
        part::<TimeoutsOf>(reader, path, layer, "timeouts");
        part::<Retries>(reader, path, layer, "retry");
        part::<Hedges>(reader, path, layer, "hedge");
        part::<CircuitBreakers>(reader, path, layer, "circuit_breaker");
        part::<RateLimits>(reader, path, layer, "rate_limit");
        part::<ResourceLocks>(reader, path, layer, "lock");
    }
}

/// Where a setting stands that some part has, in the nearest table that has it.
fn find(tables: &Tables<'_>, setting: &'static str) -> Option<Span> {
    let keys = keys_of(setting);
    let only = setting.split_once('.').map(|(part, _)| part);
    let parts = |table: &&Table| -> Vec<Table> {
        let parts = PARTS
            .iter()
            .filter(|part| only.is_none_or(|it| it == **part));
        let parts = parts.filter_map(|part| table.get(*part)?.node.table());
        parts.cloned().collect()
    };
    let mut tables = tables
        .layers
        .iter()
        .rev()
        .flat_map(|(_, table)| parts(table));
    tables.find_map(|part| {
        keys.iter()
            .find_map(|key| Some(part.get(*key)?.key.clone()))
    })
}

fn kind(reader: &mut Reader<'_>, tables: &Tables<'_>) -> StackKind {
    let mut kind = StackKind::default();
    for (path, table) in &tables.layers {
        let Some(entry) = table.get(KIND) else {
            continue;
        };
        let read = match &entry.node.value {
            Value::Text(text) => {
                let read: Result<_, TextError> =
                    StackKind::deserialize(text.as_str().into_deserializer());
                read.map_err(|error| error.to_string())
            }
            other => Err(format!(
                "cannot be {other}: give `http`, `llm`, `grpc` or `hedged`"
            )),
        };
        match read {
            Ok(read) => kind = read,
            Err(why) => reader.problem(join(path, KIND), &entry.node.span, why),
        }
    }
    kind
}

/// Which parts there are: those of the kind, less those that the nearest `without` names, and those that have a table there or
/// nearer.
fn parts(reader: &mut Reader<'_>, tables: &Tables<'_>, wanted: &mut [bool; 6]) {
    let nearest = tables
        .layers
        .iter()
        .rposition(|(_, table)| table.contains_key(WITHOUT));
    for (i, (path, table)) in tables.layers.iter().enumerate() {
        let without = left_out(reader, path, table);
        for (part, wanted) in PARTS.iter().zip(wanted.iter_mut()) {
            *wanted |= table.contains_key(*part);
            let Some((_, span)) = without.iter().find(|(it, _)| it == part) else {
                continue;
            };
            if table.contains_key(*part) {
                let message =
                    format!("`{part}` is left out and described at once: remove one of the two");
                reader.problem(join(path, WITHOUT), span, message);
            } else if nearest == Some(i) {
                *wanted = false;
            }
        }
    }
}

/// The parts that a table leaves out, and where it says so.
fn left_out<'t>(reader: &mut Reader<'_>, path: &str, table: &'t Table) -> Vec<(&'t str, &'t Span)> {
    let Some(entry) = table.get(WITHOUT) else {
        return Vec::new();
    };
    let path = join(path, WITHOUT);
    let Value::List(list) = &entry.node.value else {
        let message = format!("cannot be {}: give a list of parts", entry.node.value);
        reader.problem(path, &entry.node.span, message);
        return Vec::new();
    };
    let mut without = Vec::new();
    for node in list {
        match &node.value {
            Value::Text(part) if PARTS.contains(&part.as_str()) => {
                without.push((part.as_str(), &node.span));
            }
            other => {
                let message = format!("there is no part {other}; there are: {}", PARTS.join(", "));
                reader.problem(path.as_str(), &node.span, message);
            }
        }
    }
    without
}

struct Part<'a, 'r, 't> {
    reader: &'r mut Reader<'a>,
    path: &'r str,
    header: &'r Span,
    tables: &'r Tables<'t>,
}

impl Part<'_, '_, '_> {
    /// What is written over the numbers of the kind: first the defaults of all such parts, then, table by table, what is
    /// said of stacks.
    fn read<S: Section>(
        &mut self,
        part: &str,
        wanted: bool,
        start: Option<S::Config>,
    ) -> Option<S::Config> {
        let mut found = Vec::new();
        let defaults = self.tables.defaults.and_then(|it| it.get(S::ONE));
        if let Some(table) = defaults.and_then(|it| it.node.table()) {
            found.push((join("defaults", S::ONE), table));
        }
        for (path, table) in &self.tables.layers {
            if let Some(entry) = table.get(part) {
                let path = join(path, part);
                if let Some(table) = self.reader.table(&path, entry) {
                    found.push((path, table));
                }
            }
        }
        if !wanted {
            return None;
        }
        let layers: Vec<_> = found
            .iter()
            .map(|(path, table)| Layer {
                path,
                table,
                is_entry: false,
            })
            .collect();
        let path = join(self.path, part);
        let start = start.unwrap_or_default();
        Some(
            self.reader
                .settings::<S>(&path, self.header, &start, &layers),
        )
    }
}
