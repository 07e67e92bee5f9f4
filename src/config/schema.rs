//! What a config may be, as a JSON schema: for editors that complete and check as one writes.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::reader::BASE;
use super::section::{
    CircuitBreakers, Drills, Hedges, RateLimits, ResourceLocks, Retries, Section, Throttles,
    TimeoutsOf,
};
use super::stacks::PARTS;
use crate::stack::StackKind;

/// The JSON schema (draft 2020-12) of a config: the same for TOML, JSON and what else serde reads.
///
/// It stands in `src/config/schema.json`. An editor finds it by a line at the top of a TOML file, such as
/// `#:schema path/to/schema.json`, or by the key that the editor has for it.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = Sections {
        generator: SchemaSettings::draft2020_12().into_generator(),
        defaults: Map::new(),
        sections: Map::new(),
    };
    schema.section::<CircuitBreakers>();
    schema.section::<ResourceLocks>();
    schema.section::<Retries>();
    schema.section::<RateLimits>();
    schema.section::<TimeoutsOf>();
    schema.section::<Hedges>();
    schema.section::<Throttles>();
    schema.section::<Drills>();
    schema.whole()
}

struct Sections {
    generator: SchemaGenerator,
    defaults: Map<String, Value>,
    sections: Map<String, Value>,
}

impl Sections {
    fn section<S: Section>(&mut self)
    where
        S::Config: JsonSchema,
    {
        let settings = self.generator.subschema_for::<S::Config>().to_value();
        let entry = json!({ "$ref": format!("#/$defs/{}", entry_name(S::ONE)) });
        self.defaults.insert(S::ONE.to_owned(), settings);
        self.sections.insert(
            S::MANY.to_owned(),
            json!({
                "description": format!("Each {} by its name.", S::KIND),
                "type": "object",
                "additionalProperties": entry,
            }),
        );
    }

    fn whole(mut self) -> Value {
        let kind = self.generator.subschema_for::<StackKind>().to_value();
        let mut defs = self.generator.take_definitions(true);
        for (one, settings) in &self.defaults {
            let name = settings["$ref"]
                .as_str()
                .and_then(|it| it.rsplit('/').next());
            let mut entry = name.map_or(Value::Null, |it| defs[it].clone());
            entry["properties"][BASE] = base();
            defs.insert(entry_name(one), entry);
        }
        let mut parts = Map::from_iter([
            ("kind".to_owned(), kind),
            (
                "without".to_owned(),
                json!({
                    "description": "The parts of the kind that are left out.",
                    "type": "array",
                    "items": { "enum": PARTS },
                }),
            ),
        ]);
        for part in PARTS {
            let one = if part == "lock" {
                ResourceLocks::ONE
            } else {
                part
            };
            parts.insert(part.to_owned(), self.defaults[one].clone());
        }
        let stack = |parts: Map<String, Value>| json!({ "type": "object", "properties": parts, "additionalProperties": false });
        self.defaults
            .insert("stack".to_owned(), stack(parts.clone()));
        parts.insert(BASE.to_owned(), base());
        defs.insert("StackEntry".to_owned(), stack(parts));
        self.sections.insert(
            "stacks".to_owned(),
            json!({
                "description": "Each stack by its name.",
                "type": "object",
                "additionalProperties": { "$ref": "#/$defs/StackEntry" },
            }),
        );
        let mut properties = self.sections.clone();
        let inner = |what: &str, properties| json!({ "description": what, "type": "object", "properties": properties, "additionalProperties": false });
        let defaults = "What entries of a section start with, where they say nothing else.";
        properties.insert("defaults".to_owned(), inner(defaults, self.defaults));
        let templates = "Entries that others start with, by `base`, and that nothing is made of.";
        properties.insert("templates".to_owned(), inner(templates, self.sections));
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "A config of tower-bulwark",
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
            "$defs": defs,
        })
    }
}

fn base() -> Value {
    json!({
        "description": "The entry of the same section, or of `templates`, that this one starts with.",
        "type": "string",
    })
}

/// `CircuitBreakerEntry`.
fn entry_name(one: &str) -> String {
    let words = one.split('_').map(|word| {
        let (first, rest) = word.split_at(1.min(word.len()));
        first.to_uppercase() + rest
    });
    words.collect::<String>() + "Entry"
}
