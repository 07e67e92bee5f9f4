//! Tree -> configs. Whatever is wrong is remembered, and the rest is read all the same: all problems are told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Plain};

use super::error::{ConfigErrors, Place, Problem};
use super::section::{Section, keys_of};
use super::tree::{Entry, Node, Span, Table, Value};

/// The key that names the entry another one starts with.
pub(super) const BASE: &str = "base";

pub(super) struct Reader<'a> {
    file: Option<Arc<Path>>,
    text: &'a str,
    problems: Vec<Problem>,
}

/// Settings of one table, and how the table is called.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) path: &'a str,
    pub(super) table: &'a Table,
    /// Whether it is an entry, which may have a base.
    pub(super) is_entry: bool,
}

/// Whether what is missing is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    /// A part of an entry, such as a template: others may add the rest.
    No,
}

/// Where a setting of an entry comes from.
struct Origin {
    path: String,
    span: Span,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: Option<Arc<Path>>, text: &'a str) -> Self {
        Self {
            file,
            text,
            problems: Vec::new(),
        }
    }

    pub(super) fn place(&self, span: &Span) -> Place {
        let at = span.as_ref().map(|span| {
            let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
            let line = before.iter().filter(|it| **it == b'\n').count() + 1;
            let last = before.rsplit(|it| *it == b'\n').next().unwrap_or_default();
            // Also in the middle of a character.
            (line, String::from_utf8_lossy(last).chars().count() + 1)
        });
        Place {
            file: self.file.clone(),
            at,
        }
    }

    pub(super) fn problem(
        &mut self,
        key: impl Into<String>,
        span: &Span,
        message: impl Into<String>,
    ) {
        self.problem_at(self.place(span), key.into(), message.into());
    }

    pub(super) fn problem_at(&mut self, place: Place, key: String, message: String) {
        let problem = Problem {
            place,
            key,
            message,
        };
        // What is wrong with the defaults is found once for each entry.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(super) fn end(self) -> Result<(), ConfigErrors> {
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(ConfigErrors::new(self.problems)),
        }
    }

    /// The table that `entry` is; a problem if it is something else.
    pub(super) fn table<'t>(&mut self, path: &str, entry: &'t Entry) -> Option<&'t Table> {
        let table = entry.node.table();
        if table.is_none() {
            let message = format!("is {}, and has to be a table of settings", entry.node.value);
            self.problem(path, &entry.key, message);
        }
        table
    }

    /// Finds keys that mean nothing.
    pub(super) fn only<'k>(
        &mut self,
        path: &str,
        table: &Table,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        for (key, entry) in table {
            if !known.contains(&key.as_str()) {
                let key_path = join(path, key);
                self.problem(key_path, &entry.key, unknown(key, &known));
            }
        }
    }

    /// The tables that `entry` starts with, from the farthest to the nearest, and itself last.
    pub(super) fn chain<'t>(
        &mut self,
        (many, section): (&str, &str),
        name: &str,
        entry: &'t Entry,
        sections: [Option<&'t Table>; 2],
    ) -> Vec<(String, &'t Table)> {
        let mut chain = Vec::new();
        let mut seen = BTreeSet::new();
        let own = join(section, name);
        let mut next = Some((own.clone(), entry));
        while let Some((path, entry)) = next.take() {
            let Some(table) = self.table(&path, entry) else {
                break;
            };
            chain.push((path.clone(), table));
            let Some(base) = table.get(BASE) else {
                break;
            };
            let base_path = join(&path, BASE);
            let Value::Text(wanted) = &base.node.value else {
                self.problem(
                    base_path,
                    &base.node.span,
                    "has to be the name of another entry",
                );
                break;
            };
            let found = [("templates.", sections[0]), ("", sections[1])]
                .into_iter()
                .find_map(|(prefix, section_table)| {
                    let entry = section_table?.get(wanted)?;
                    Some((join(&format!("{prefix}{many}"), wanted), entry))
                });
            match found {
                Some((path, _)) if path == own || !seen.insert(path.clone()) => {
                    let message = format!(
                        "`{wanted}` starts with this entry in turn: one of them has to stand by itself"
                    );
                    self.problem(base_path, &base.node.span, message);
                    break;
                }
                Some(found) => next = Some(found),
                None => {
                    let names = sections.into_iter().flatten().flat_map(Table::keys);
                    let names: Vec<&str> =
                        names.map(String::as_str).filter(|it| *it != name).collect();
                    let message = format!(
                        "there is no `{wanted}` in `{many}` or `templates.{many}`{}",
                        hint(wanted, &names)
                    );
                    self.problem(base_path, &base.node.span, message);
                }
            }
        }
        chain.reverse();
        chain
    }

    /// What comes of `start` with these settings over it, the nearest last. `header` is where the entry stands.
    pub(super) fn settings<S: Section>(
        &mut self,
        path: &str,
        header: &Span,
        start: &S::Config,
        layers: &[Layer<'_>],
    ) -> S::Config {
        let (merged, origins) = self.merged::<S>(start, layers);
        self.checked::<S>(path, header, start, merged, origins, Whole::Yes)
    }

    /// The settings of all layers over those of `start`, and where each comes from.
    fn merged<S: Section>(
        &mut self,
        start: &S::Config,
        layers: &[Layer<'_>],
    ) -> (Map<String, Plain>, BTreeMap<String, Origin>) {
        let defaults = fields(start);
        let mut merged = defaults.clone();
        let mut origins = BTreeMap::new();
        for layer in layers {
            let is_base = |key: &String| layer.is_entry && key == BASE;
            for (key, entry) in layer.table.iter().filter(|(key, _)| !is_base(key)) {
                let path = join(layer.path, key);
                if let Some(value) = self.setting::<S>(&path, key, entry, &defaults) {
                    merged.insert(key.clone(), value);
                    let span = entry.key.clone();
                    origins.insert(key.clone(), Origin { path, span });
                }
            }
        }
        (merged, origins)
    }

    /// Looks at each setting by itself.
    pub(super) fn only_settings<S: Section>(&mut self, path: &str, table: &Table, is_entry: bool) {
        let known = fields(&S::Config::default());
        let is_base = |key: &String| is_entry && key == BASE;
        for (key, entry) in table.iter().filter(|(key, _)| !is_base(key)) {
            self.setting::<S>(&join(path, key), key, entry, &known);
        }
        let alone = [Layer {
            path,
            table,
            is_entry,
        }];
        let (merged, origins) = self.merged::<S>(&S::sample(), &alone);
        let whole = Whole::No;
        self.checked::<S>(path, &None, &S::sample(), merged, origins, whole);
    }

    /// One setting by itself.
    fn setting<S: Section>(
        &mut self,
        path: &str,
        key: &str,
        entry: &Entry,
        known: &Map<String, Plain>,
    ) -> Option<Plain> {
        if !known.contains_key(key) {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            self.problem(path, &entry.key, unknown(key, &known));
            return None;
        }
        let value = match entry.node.plain() {
            Ok(value) => value,
            Err(what) => {
                self.problem(path, &entry.node.span, format!("cannot be {what}"));
                return None;
            }
        };
        let alone = Plain::Object(Map::from_iter([(key.to_owned(), value.clone())]));
        let read: Result<S::Config, _> = serde_path_to_error::deserialize(alone);
        match read {
            Ok(_) => Some(value),
            Err(error) => {
                let inner = error.path().iter().skip(1);
                let keys = inner.filter_map(|it| match it {
                    serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                    serde_path_to_error::Segment::Enum { variant } => Some(variant.clone()),
                    serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                    serde_path_to_error::Segment::Unknown => None,
                });
                let (path, span) = deepest(path, entry, keys);
                self.problem(path, &span, error.inner().to_string());
                None
            }
        }
    }

    /// Finds what cannot work. Each time something is found it is left out, so that the next can be.
    fn checked<S: Section>(
        &mut self,
        path: &str,
        header: &Span,
        start: &S::Config,
        mut merged: Map<String, Plain>,
        mut origins: BTreeMap<String, Origin>,
        whole: Whole,
    ) -> S::Config {
        let defaults = fields(start);
        let mut left_out = Vec::new();
        loop {
            let config: S::Config = match serde_json::from_value(Plain::Object(merged.clone())) {
                Ok(config) => config,
                // Each setting has been read by itself.
                Err(error) => {
                    self.problem(path, header, error.to_string());
                    return start.clone();
                }
            };
            let Err(error) = S::check(&config) else {
                return config;
            };
            let mut keys = keys_of(error.setting()).into_iter();
            let found = keys.find_map(|key| Some((key, origins.remove(key)?)));
            let Some((key, origin)) = found else {
                // What is missing now because it was wrong has been told.
                let keys = keys_of(error.setting());
                let is_told = keys.iter().any(|key| left_out.contains(key));
                if whole == Whole::Yes && !is_told {
                    self.problem(path, header, error.to_string());
                }
                return config;
            };
            left_out.push(key);
            self.problem(origin.path, &origin.span, error.to_string());
            match defaults.get(key) {
                Some(default) => merged.insert(key.to_owned(), default.clone()),
                None => merged.remove(key),
            };
        }
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = match !key.is_empty() && key.chars().all(plain) {
        true => key.to_owned(),
        false => format!("{key:?}"),
    };
    match path.is_empty() {
        true => key,
        false => format!("{path}.{key}"),
    }
}

/// The settings of a config, as data.
fn fields<C: serde::Serialize>(config: &C) -> Map<String, Plain> {
    match serde_json::to_value(config) {
        Ok(Plain::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The deepest part of a setting that `keys` lead to.
fn deepest(path: &str, entry: &Entry, keys: impl Iterator<Item = String>) -> (String, Span) {
    let mut path = path.to_owned();
    let (mut span, mut node): (Span, &Node) = (entry.key.clone(), &entry.node);
    for key in keys {
        let inner = match &node.value {
            Value::Table(table) => table.get(&key).map(|it| (&it.key, &it.node)),
            Value::List(list) => key
                .parse::<usize>()
                .ok()
                .and_then(|i| list.get(i))
                .map(|it| (&it.span, it)),
            _ => None,
        };
        let Some((at, inner)) = inner else { break };
        path = join(&path, &key);
        span = at.clone();
        node = inner;
    }
    (path, span)
}

fn unknown(key: &str, known: &[&str]) -> String {
    match closest(key, known) {
        Some(meant) => format!("there is no such key; did you mean `{meant}`?"),
        None => format!("there is no such key; there are: {}", known.join(", ")),
    }
}

fn hint(key: &str, known: &[&str]) -> String {
    match closest(key, known) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => String::new(),
    }
}

fn closest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let rated = known.iter().map(|it| (strsim::jaro_winkler(key, it), *it));
    let best = rated.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(likeness, _)| *likeness > 0.85)
        .map(|(_, it)| it)
}
