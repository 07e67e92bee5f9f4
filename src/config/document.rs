use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserializer;
use serde::de::{Deserialize, Error as _};

use super::error::{ConfigErrors, Place, Problem};
use super::read::{self, Malformed};
use super::reader::{BASE, Layer, Reader, join};
use super::section::{
    CircuitBreakers, Drills, Hedges, RateLimits, ResourceLocks, Retries, Section, Throttles,
    TimeoutsOf,
};
use super::stacks;
use super::tree::{Entry, Node, Table};
use crate::chaos::ChaosConfig;
use crate::circuit_breaker::CircuitBreakerConfig;
use crate::contention::ContentionConfig;
use crate::hedge::HedgeConfig;
use crate::rate_limit::RateLimitConfig;
use crate::retry::RetryConfig;
use crate::stack::{StackBuilder, StackConfig};
use crate::throttle::ThrottleConfig;
use crate::timeout::TimeoutConfig;

/// Entries of one section, by name.
pub(super) type Entries<C> = BTreeMap<Arc<str>, C>;

/// The settings of handles and stacks, by name, read from a file or from data. All of them are checked: one that cannot
/// work is an error when the config is read. See [the page](super) for how it is written.
#[derive(Clone, Default)]
pub struct Config {
    pub(super) circuit_breakers: Entries<CircuitBreakerConfig>,
    pub(super) resource_locks: Entries<ContentionConfig>,
    pub(super) retries: Entries<RetryConfig>,
    pub(super) rate_limits: Entries<RateLimitConfig>,
    pub(super) timeouts: Entries<TimeoutConfig>,
    pub(super) hedges: Entries<HedgeConfig>,
    pub(super) throttles: Entries<ThrottleConfig>,
    pub(super) chaos: Entries<ChaosConfig>,
    pub(super) stacks: Entries<StackConfig>,
    /// Where the entries stand: section, name.
    places: BTreeMap<(&'static str, Arc<str>), Place>,
}

const STACKS: &str = "stacks";
const DEFAULTS: &str = "defaults";
const TEMPLATES: &str = "templates";
const SECTIONS: [&str; 9] = [
    CircuitBreakers::MANY,
    ResourceLocks::MANY,
    Retries::MANY,
    RateLimits::MANY,
    TimeoutsOf::MANY,
    Hedges::MANY,
    Throttles::MANY,
    Drills::MANY,
    STACKS,
];
const SINGULARS: [&str; 9] = [
    CircuitBreakers::ONE,
    ResourceLocks::ONE,
    Retries::ONE,
    RateLimits::ONE,
    TimeoutsOf::ONE,
    Hedges::ONE,
    Throttles::ONE,
    Drills::ONE,
    "stack",
];

impl Config {
    /// Reads a file: one whose name ends in `.json` as JSON, any other as TOML.
    ///
    /// # Errors
    ///
    /// [`ConfigErrors`] if the file cannot be read, and for all that is wrong in it at once.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ConfigErrors::unreadable(path, &error))?;
        Self::from_text(path, &text)
    }

    /// The text of a file.
    pub(super) fn from_text(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let is_json = path
            .extension()
            .is_some_and(|it| it.eq_ignore_ascii_case("json"));
        let tree = if is_json {
            read::json(text)
        } else {
            read::toml(text)
        };
        Self::from_tree(Some(path.into()), text, tree)
    }

    /// Reads TOML.
    ///
    /// # Errors
    ///
    /// [`ConfigErrors`] for all that is wrong in it at once, with line and column.
    pub fn from_toml(text: &str) -> Result<Self, ConfigErrors> {
        Self::from_tree(None, text, read::toml(text))
    }

    /// Reads JSON, with the same keys.
    ///
    /// # Errors
    ///
    /// [`ConfigErrors`] for all that is wrong in it at once, with line and column. Where the text is no JSON, only the first
    /// place is known.
    pub fn from_json(text: &str) -> Result<Self, ConfigErrors> {
        Self::from_tree(None, text, read::json(text))
    }

    fn from_tree(
        file: Option<Arc<Path>>,
        text: &str,
        tree: Result<Node, Vec<Malformed>>,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(file, text);
        let config = match tree {
            Ok(root) => Self::read(&mut reader, &root),
            Err(malformed) => {
                for it in malformed {
                    reader.problem("", &it.at, it.why);
                }
                Self::default()
            }
        };
        reader.end()?;
        Ok(config)
    }

    fn read(reader: &mut Reader<'_>, root: &Node) -> Self {
        let whole = Entry {
            key: root.span.clone(),
            node: root.clone(),
        };
        let Some(root) = reader.table("", &whole) else {
            return Self::default();
        };
        reader.only("", root, SECTIONS.into_iter().chain([DEFAULTS, TEMPLATES]));
        let named = |reader: &mut Reader<'_>, key, known: [&'static str; 9]| {
            let table = root.get(key).and_then(|it| reader.table(key, it));
            if let Some(table) = table {
                reader.only(key, table, known);
            }
            table
        };
        let defaults = named(reader, DEFAULTS, SINGULARS);
        let templates = named(reader, TEMPLATES, SECTIONS);
        let mut of = Tables {
            reader,
            root,
            defaults,
            templates,
            places: BTreeMap::new(),
        };
        let mut config = Self {
            circuit_breakers: of.section::<CircuitBreakers>(),
            resource_locks: of.section::<ResourceLocks>(),
            retries: of.section::<Retries>(),
            rate_limits: of.section::<RateLimits>(),
            timeouts: of.section::<TimeoutsOf>(),
            hedges: of.section::<Hedges>(),
            throttles: of.section::<Throttles>(),
            chaos: of.section::<Drills>(),
            stacks: of.stacks(),
            places: BTreeMap::new(),
        };
        config.places = std::mem::take(&mut of.places);
        config.each_name_once(of.reader);
        config
    }

    /// The parts of a stack have its name: no other entry may have it too.
    fn each_name_once(&self, reader: &mut Reader<'_>) {
        for (name, stack) in &self.stacks {
            let parts = [
                (
                    CircuitBreakers::MANY,
                    stack.circuit_breaker.is_some() && self.circuit_breakers.contains_key(name),
                ),
                (
                    ResourceLocks::MANY,
                    stack.lock.is_some() && self.resource_locks.contains_key(name),
                ),
                (
                    Retries::MANY,
                    stack.retry.is_some() && self.retries.contains_key(name),
                ),
                (
                    RateLimits::MANY,
                    stack.rate_limit.is_some() && self.rate_limits.contains_key(name),
                ),
                (
                    TimeoutsOf::MANY,
                    stack.timeouts != TimeoutConfig::default() && self.timeouts.contains_key(name),
                ),
                (
                    Hedges::MANY,
                    stack.hedge.is_some() && self.hedges.contains_key(name),
                ),
            ];
            for (section, _) in parts.into_iter().filter(|(_, is_both)| *is_both) {
                let message = format!(
                    "is a part of the stack `{name}` too, which has one of its own: give it another name, or describe it under `{}`",
                    join(STACKS, name)
                );
                let place = self.place(section, name);
                reader.problem_at(place, join(section, name), message);
            }
        }
    }

    /// Where an entry stands.
    pub(super) fn place(&self, section: &'static str, name: &Arc<str>) -> Place {
        let place = self.places.get(&(section, Arc::clone(name)));
        let place = place.or_else(|| self.places.get(&(STACKS, Arc::clone(name))));
        place.cloned().unwrap_or_default()
    }

    /// A stack, to be built: `config.stack("openai")?.build_in(&registry)?`. What only code can give is added before: a
    /// callback, or a budget that is shared.
    ///
    /// # Errors
    ///
    /// [`ConfigErrors`] if there is none of that name.
    pub fn stack(&self, name: &str) -> Result<StackBuilder, ConfigErrors> {
        match self.stacks.get_key_value(name) {
            Some((name, config)) => {
                Ok(StackBuilder::new(Arc::clone(name), config.kind).config(config.clone()))
            }
            None => {
                let names: Vec<&str> = self.stacks.keys().map(|it| &**it).collect();
                let there_are = match names.is_empty() {
                    true => "there are no stacks".to_owned(),
                    false => format!("there are: {}", names.join(", ")),
                };
                Err(ConfigErrors::new(vec![Problem {
                    place: self
                        .places
                        .values()
                        .next()
                        .cloned()
                        .map_or_else(Place::default, |it| Place { at: None, ..it }),
                    key: join(STACKS, name),
                    message: format!("there is no stack of that name; {there_are}"),
                }]))
            }
        }
    }

    /// The stacks, by name.
    #[must_use]
    pub fn stacks(&self) -> &BTreeMap<Arc<str>, StackConfig> {
        &self.stacks
    }
}

macro_rules! entries {
    ($($section:ident: $config:ty, $what:literal;)*) => {
        impl Config {
            $(
                #[doc = concat!("The ", $what, ", by name. Those of stacks are not among them.")]
                #[must_use]
                pub fn $section(&self) -> &BTreeMap<Arc<str>, $config> {
                    &self.$section
                }
            )*
        }
    };
}

entries! {
    circuit_breakers: CircuitBreakerConfig, "circuit breakers";
    resource_locks: ContentionConfig, "resource locks";
    retries: RetryConfig, "retry policies";
    rate_limits: RateLimitConfig, "rate limits";
    timeouts: TimeoutConfig, "timeouts";
    hedges: HedgeConfig, "hedges";
    throttles: ThrottleConfig, "throttles";
    chaos: ChaosConfig, "drills";
}

/// The tables of a document.
struct Tables<'a, 'r, 't> {
    reader: &'r mut Reader<'a>,
    root: &'t Table,
    defaults: Option<&'t Table>,
    templates: Option<&'t Table>,
    places: BTreeMap<(&'static str, Arc<str>), Place>,
}

impl<'t> Tables<'_, '_, 't> {
    /// The tables of that section: what is described, and the templates.
    fn of(&mut self, many: &'static str) -> (Option<&'t Table>, Option<&'t Table>) {
        let root = self.root.get(many);
        let templates = self.templates.and_then(|it| it.get(many));
        (
            root.and_then(|it| self.reader.table(many, it)),
            templates.and_then(|it| self.reader.table(&join(TEMPLATES, many), it)),
        )
    }

    /// Each entry with the tables that it starts with; those of templates too, to be looked at and forgotten.
    fn each(
        &mut self,
        many: &'static str,
        mut read: impl FnMut(&mut Self, &str, &Entry, Vec<(String, &'t Table)>, bool),
    ) {
        let (entries, templates) = self.of(many);
        for (table, is_template) in [(templates, true), (entries, false)] {
            let section = match is_template {
                true => join(TEMPLATES, many),
                false => many.to_owned(),
            };
            for (name, entry) in table.into_iter().flatten() {
                let chain = self
                    .reader
                    .chain((many, &section), name, entry, [templates, entries]);
                read(self, name, entry, chain, is_template);
            }
        }
    }

    fn section<S: Section>(&mut self) -> Entries<S::Config> {
        let mut found = Entries::new();
        let defaults = self.defaults.and_then(|it| it.get(S::ONE));
        let default_path = join(DEFAULTS, S::ONE);
        let defaults = defaults.and_then(|it| self.reader.table(&default_path, it));
        if let Some(table) = defaults {
            self.reader.only_settings::<S>(&default_path, table, false);
        }
        self.each(S::MANY, |of, name, entry, chain, is_template| {
            let mut layers = Vec::new();
            layers.extend(defaults.map(|table| Layer {
                path: &default_path,
                table,
                is_entry: false,
            }));
            layers.extend(chain.iter().map(|(path, table)| Layer {
                path,
                table,
                is_entry: true,
            }));
            let path = join(S::MANY, name);
            let start = S::Config::default();
            if is_template {
                // A template need not be whole: only what is written in it is looked at.
                for (path, table) in &chain {
                    of.reader.only_settings::<S>(path, table, true);
                }
                return;
            }
            let config = of.reader.settings::<S>(&path, &entry.key, &start, &layers);
            of.found(S::MANY, name, entry);
            found.insert(name.into(), config);
        });
        found
    }

    fn found(&mut self, section: &'static str, name: &str, entry: &Entry) {
        let place = self.reader.place(&entry.key);
        self.places.insert((section, name.into()), place);
    }

    fn stacks(&mut self) -> Entries<StackConfig> {
        let mut found = Entries::new();
        let path = join(DEFAULTS, "stack");
        let default = self.defaults.and_then(|it| it.get("stack"));
        let default = default.and_then(|it| self.reader.table(&path, it));
        if let Some(table) = default {
            let keys = stacks::keys().filter(|it| *it != BASE);
            self.reader.only(&path, table, keys);
        }
        self.each(STACKS, |of, name, entry, chain, is_template| {
            let mut layers = Vec::new();
            layers.extend(default.map(|table| (path.clone(), table)));
            layers.extend(chain);
            let tables = stacks::Tables {
                defaults: of.defaults,
                layers,
            };
            if is_template {
                // It need not be whole: only what is written in it is looked at.
                stacks::look(of.reader, &tables);
                return;
            }
            let stack = stacks::read(of.reader, name, &entry.key, &tables);
            of.found(STACKS, name, entry);
            found.insert(name.into(), stack);
        });
        found
    }
}

/// From data of any other format of serde, such as YAML: `serde_yaml::from_str::<Config>(text)`. The problems have keys then,
/// and no lines.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let tree = Node::deserialize(from)?;
        Self::from_tree(None, "", Ok(tree)).map_err(D::Error::custom)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("circuit_breakers", &self.circuit_breakers)
            .field("resource_locks", &self.resource_locks)
            .field("retries", &self.retries)
            .field("rate_limits", &self.rate_limits)
            .field("timeouts", &self.timeouts)
            .field("hedges", &self.hedges)
            .field("throttles", &self.throttles)
            .field("chaos", &self.chaos)
            .field("stacks", &self.stacks)
            .finish_non_exhaustive()
    }
}
