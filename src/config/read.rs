//! TOML or JSON text -> tree.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::tree::{Entry, Node, Table, Value};

/// What is wrong with a text, and where.
pub(super) struct Malformed {
    pub(super) at: Option<Range<usize>>,
    pub(super) why: String,
}

/// All that is wrong with the text is found at once.
pub(super) fn toml(text: &str) -> Result<Node, Vec<Malformed>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Node {
            span: Some(table.span()),
            value: toml_table(table.get_ref()),
        });
    }
    let malformed = |error: toml::de::Error| Malformed {
        at: error.span(),
        why: error.message().to_owned(),
    };
    Err(errors.into_iter().map(malformed).collect())
}

fn toml_table(table: &DeTable<'_>) -> Value {
    let entry = |(key, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let entry = Entry {
            key: Some(key.span()),
            node: toml_node(value),
        };
        (key.get_ref().clone().into_owned(), entry)
    };
    Value::Table(table.iter().map(entry).collect())
}

fn toml_node(value: &Spanned<DeValue<'_>>) -> Node {
    Node {
        span: Some(value.span()),
        value: match value.get_ref() {
            DeValue::String(it) => Value::Text(it.clone().into_owned()),
            DeValue::Boolean(it) => Value::Bool(*it),
            DeValue::Integer(it) => match i64::from_str_radix(it.as_str(), it.radix()) {
                Ok(it) => Value::Number(it.into()),
                Err(_) => Value::Other(format!("the number {}, which is too large", it.as_str())),
            },
            DeValue::Float(it) => {
                let number = it.as_str().parse().ok().and_then(Number::from_f64);
                number.map_or_else(|| Value::Other(it.as_str().to_owned()), Value::Number)
            }
            DeValue::Datetime(it) => Value::Other(format!("the date {it}")),
            DeValue::Array(list) => Value::List(list.iter().map(toml_node).collect()),
            DeValue::Table(table) => toml_table(table),
        },
    }
}

/// No setting is nested deeper than this by far. Deeper text is not read: each level takes a part of the stack.
const DEEPEST: usize = 32;

pub(super) fn json(text: &str) -> Result<Node, Vec<Malformed>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| {
        vec![Malformed {
            at: Some(offset_of(text, error.line(), error.column())),
            why: said(&error),
        }]
    })?;
    json_node(text, whole, DEEPEST).map_err(|error| vec![error])
}

/// The message without the place, which would be that in a part of the text.
fn said(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = message.rfind(" at line ").unwrap_or(message.len());
    message[..place].to_owned()
}

fn offset_of(text: &str, line: usize, column: usize) -> Range<usize> {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let at = (before + column.saturating_sub(1)).min(text.len());
    at..at
}

/// Where a part of the text stands in it.
fn span_of(text: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}

fn json_node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, Malformed> {
    let part = raw.get();
    let span = span_of(text, part);
    let Some(depth) = depth.checked_sub(1) else {
        let why = format!("is nested more than {DEEPEST} levels deep, and no setting is");
        let at = Some(span);
        return Err(Malformed { at, why });
    };
    let malformed = |error: serde_json::Error| Malformed {
        at: Some(span.clone()),
        why: said(&error),
    };
    let value = match part.as_bytes().first() {
        Some(b'{') => {
            let fields: Fields<'_> = serde_json::from_str(part).map_err(malformed)?;
            let mut table = Table::new();
            for (key, raw) in fields.0 {
                let node = json_node(text, raw, depth)?;
                let entry = Entry {
                    key: node.span.clone(),
                    node,
                };
                let at = entry.key.clone();
                if table.insert(key.clone(), entry).is_some() {
                    let why = format!("`{key}` is there twice");
                    return Err(Malformed { at, why });
                }
            }
            Value::Table(table)
        }
        Some(b'[') => {
            let list: Vec<&RawValue> = serde_json::from_str(part).map_err(malformed)?;
            let nodes = list.into_iter().map(|raw| json_node(text, raw, depth));
            Value::List(nodes.collect::<Result<_, _>>()?)
        }
        _ => serde_json::from_str::<Node>(part).map_err(malformed)?.value,
    };
    Ok(Node {
        span: Some(span),
        value,
    })
}

/// The fields of an object, in order, also those that are there twice.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = from.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        from.deserialize_map(All)
    }
}
